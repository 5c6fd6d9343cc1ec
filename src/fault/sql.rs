//! `sql`: one statement, with a role that the scenario names.
//!
//! Its rows are counted in its transaction and held against `maxRows` before the commit; `revert` is tried in the same transaction
//! and rolled back there. A mark that is committed with the rows tells any runner later whether they were changed
//! ([`transaction`]). The undo names the database, the Secret and the statement that undoes it, never what the Secret holds.
//!
//! The database is reached as digests reach it, by a port-forward through the API server.

pub mod transaction;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};

use self::transaction::{Mark, NotDone, Undone, Wanted};
use super::{FaultCx, FaultError, Prepared, Undo, change::until};
use crate::{
    clock::{Clock, Stamp},
    cluster::{Cluster, Leave},
    journal::{RevertResult, TouchedObject},
    plan::{DATABASE, Plan},
    probe::forward::{self, Database, Unreached},
    scenario::types::{Dur, Postgres, SqlFault},
};

/// How long all of a transaction may take, the way there included.
const LIMIT: Duration = Duration::from_secs(180);
/// How long a look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks for a proof.
const AGAIN: Duration = Duration::from_millis(400);
/// How often it is looked whether a commit whose answer was lost was carried out.
const LOOKS: u32 = 5;

/// An undo taken apart.
struct Sql<'a> {
    postgres: &'a Postgres,
    revert: Option<&'a str>,
    mark: Mark,
}

fn parts<'a>(cx: &FaultCx, undo: &'a Undo) -> Result<Sql<'a>, FaultError> {
    match undo {
        Undo::Sql { postgres, revert, id, oid } => {
            let mark = Mark { drill: cx.drill.clone(), id: id.clone(), oid: *oid };
            Ok(Sql { postgres, revert: revert.as_deref(), mark })
        }
        _ => Err(FaultError::NotBuilt),
    }
}

/// What is called a database: by what leads to it.
fn called(at: &Postgres) -> String {
    let by = at.service.as_ref().map(|service| format!("Service {service}"));
    let by = by.or_else(|| at.target.as_ref().map(|target| format!("target `{target}`"))).unwrap_or_default();
    format!("database {} behind {by}", at.database)
}

/// All that work on a database needs, its own: so that the future of it borrows nothing and can go to another thread.
#[derive(Clone)]
struct Way {
    cluster: Cluster,
    plan: Arc<Plan>,
    drill: String,
    at: Postgres,
    tries: u32,
    limit: Duration,
}

/// Why a database did not do what it should.
enum Failed {
    /// What leads there is no more.
    Gone(String),
    Not(NotDone),
}

impl Way {
    fn new(cx: &FaultCx, at: &Postgres, limit: Duration) -> Self {
        let (cluster, plan, drill) = (cx.cluster.clone(), Arc::clone(&cx.plan), cx.drill.clone());
        Self { cluster, plan, drill, at: at.clone(), tries: forward::TRIES, limit }
    }

    /// Connects and does something there, within the limit.
    fn go<T: Send + 'static>(
        self,
        act: impl FnOnce(Database) -> BoxFuture<'static, Result<T, NotDone>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Failed>> {
        async move {
            let limit = self.limit;
            let all = async move {
                match self.connect().await {
                    Ok(database) => {
                        let name = database.name.clone();
                        act(database).await.map_err(|error| {
                            Failed::Not(match error {
                                NotDone::No(why) => NotDone::No(format!("{name}: {why}")),
                                NotDone::Unknown(why) => NotDone::Unknown(format!("{name}: {why}")),
                            })
                        })
                    }
                    Err(Unreached::Gone(why)) => Err(Failed::Gone(why)),
                    Err(Unreached::Failed(why)) => Err(Failed::Not(NotDone::No(why))),
                }
            };
            match tokio::time::timeout(limit, all).await {
                Ok(done) => done,
                Err(_) => Err(Failed::Not(NotDone::Unknown(format!("no answer within {}", Dur(limit))))),
            }
        }
        .boxed()
    }

    fn connect(self) -> BoxFuture<'static, Result<Database, Unreached>> {
        async move { forward::database(&self.cluster, &self.plan, &self.drill, &self.at, self.tries).await }.boxed()
    }
}

fn failed(what: &str, error: Failed) -> FaultError {
    match error {
        Failed::Gone(why) => FaultError::failed(what, why),
        Failed::Not(error) => FaultError::failed(what, error.to_string()),
    }
}

fn wanted(spec: &SqlFault) -> Wanted {
    Wanted { statement: spec.statement.clone(), revert: spec.revert.clone(), most: spec.max_rows }
}

pub(super) async fn prepare(cx: &FaultCx, spec: &SqlFault) -> Result<Prepared, FaultError> {
    let what = format!("change rows of {}", called(&spec.postgres));
    // The instant tells it from the same statement in another step.
    let text = serde_json::to_string(spec).map_err(|error| FaultError::failed(&what, error.to_string()))?;
    let mark = Mark::new(&cx.drill, &format!("{}\n{text}", cx.clock.now().mono_us));
    let (there, wanted) = (mark.clone(), wanted(spec));
    let way = Way::new(cx, &spec.postgres, LOOK_LIMIT);
    let looked = way.go(move |database| async move { transaction::prepare(database.client(), &there, &wanted).await }.boxed()).await;
    looked.map_err(|error| failed(&what, error))?;
    let namespace = namespace(cx, &spec.postgres);
    let name = spec.postgres.database.clone();
    let object = TouchedObject { kind: DATABASE.to_owned(), namespace, name, uid: String::new() };
    let undo = Undo::Sql { postgres: spec.postgres.clone(), revert: spec.revert.clone(), id: mark.id, oid: mark.oid };
    Ok(Prepared { undo, objects: vec![object] })
}

fn namespace(cx: &FaultCx, at: &Postgres) -> String {
    let target = at.target.as_ref().and_then(|target| cx.plan.targets.get(target)).and_then(|target| target.spec.namespace.clone());
    at.service.as_ref().map(|service| service.namespace.clone()).or(target).unwrap_or_default()
}

pub(super) async fn inject(cx: &FaultCx, spec: &SqlFault, undo: &Undo) -> Result<(Stamp, Stamp), FaultError> {
    let Sql { postgres, mark, .. } = parts(cx, undo)?;
    let what = format!("change rows of {}", called(postgres));
    let act = transact(cx.clock.clone(), cx.leave.clone(), mark.clone(), wanted(spec));
    let before = cx.clock.now();
    match Way::new(cx, postgres, LIMIT).go(act).await {
        Ok(start) => Ok((start, cx.clock.now())),
        // Whether it was committed is told by the mark alone.
        Err(Failed::Not(NotDone::Unknown(why))) => match settled(cx, postgres, &mark).await? {
            Some(_) => Ok((before, cx.clock.now())),
            None => Err(FaultError::failed(what, format!("it was not committed: {why}"))),
        },
        Err(error) => Err(failed(&what, error)),
    }
}

type Act<T> = Box<dyn FnOnce(Database) -> BoxFuture<'static, Result<T, NotDone>> + Send>;

/// The injection. The first instant is that before the statement: its locks may be felt before its rows are.
fn transact(clock: Clock, leave: Leave, mark: Mark, wanted: Wanted) -> Act<Stamp> {
    Box::new(move |database| {
        async move {
            let start = clock.now();
            transaction::inject(database.client(), &mark, &wanted, &leave).await?;
            Ok(start)
        }
        .boxed()
    })
}

/// The rows that are changed, once no transaction of the fault is open any more.
async fn settled(cx: &FaultCx, at: &Postgres, mark: &Mark) -> Result<Option<u64>, FaultError> {
    let mut tried = 0;
    loop {
        tried += 1;
        let there = mark.clone();
        let way = Way::new(cx, at, LOOK_LIMIT);
        match way.go(move |database| async move { transaction::settled(database.client(), &there).await }.boxed()).await {
            Ok(rows) => return Ok(rows),
            Err(error) if tried >= LOOKS || matches!(error, Failed::Gone(_)) => {
                return Err(failed(&format!("see what was changed in {}", called(at)), error));
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

pub(super) async fn effective(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let Sql { postgres, mark, .. } = parts(cx, undo)?;
    until(cx, "that the rows are changed", limit, || async {
        Ok(match look(cx, postgres, &mark).await {
            Ok(Some(rows)) => Ok(format!("{rows} rows of {} are changed, by the server's count", called(postgres))),
            Ok(None) => Err("nothing is committed".to_owned()),
            Err(error) => {
                tokio::time::sleep(AGAIN).await;
                Err(failed("look for it", error).to_string())
            }
        })
    })
    .await
}

/// The rows that are changed now.
async fn look(cx: &FaultCx, at: &Postgres, mark: &Mark) -> Result<Option<u64>, Failed> {
    let there = mark.clone();
    let way = Way { tries: 1, ..Way::new(cx, at, LOOK_LIMIT) };
    way.go(move |database| async move { transaction::look(database.client(), &there).await }.boxed()).await
}

pub(super) async fn holds(cx: &FaultCx, undo: &Undo) -> Result<Option<String>, FaultError> {
    let Sql { postgres, mark, .. } = parts(cx, undo)?;
    match look(cx, postgres, &mark).await {
        Ok(Some(_)) => Ok(None),
        Ok(None) => {
            Ok(Some("its mark is gone: this is a copy of the database without the change, or somebody removed the mark".to_owned()))
        }
        Err(Failed::Gone(why)) => Ok(Some(why)),
        Err(error) => Err(failed(&format!("look at {}", called(postgres)), error)),
    }
}

pub(super) async fn revert(cx: &FaultCx, undo: &Undo) -> Result<(RevertResult, String), FaultError> {
    let Sql { postgres, revert, mark } = parts(cx, undo)?;
    let what = format!("undo the change of {}", called(postgres));
    let (there, leave, statement) = (mark.clone(), cx.leave.clone(), revert.map(str::to_owned));
    let act =
        move |database: Database| async move { transaction::revert(database.client(), &there, statement.as_deref(), &leave).await }.boxed();
    let outcome = match Way::new(cx, postgres, LIMIT).go(act).await {
        Ok(outcome) => outcome,
        Err(Failed::Gone(why)) => return Ok((RevertResult::TargetGone, why)),
        Err(Failed::Not(NotDone::Unknown(why))) => match settled(cx, postgres, &mark).await? {
            None => return Ok((RevertResult::Reverted, "the mark of it is gone, and its rows with it".to_owned())),
            Some(_) => return Err(FaultError::failed(what, format!("it was not committed: {why}"))),
        },
        Err(error) => return Err(failed(&what, error)),
    };
    let Mark { oid, .. } = mark;
    Ok(match outcome {
        Undone::Nothing => (RevertResult::Nothing, "nothing of it is committed, or it is undone already".to_owned()),
        Undone::Reverted(rows) => (RevertResult::Reverted, format!("`revert` touched {rows} rows, as many as the fault")),
        Undone::Superseded { rows, undo } => (
            RevertResult::Superseded,
            format!(
                "the fault touched {rows} rows and `revert` would touch {undo}: others have changed them, and nothing was written. See which rows \
                 are still wrong, then remove the mark: select lo_unlink({oid})"
            ),
        ),
        Undone::NoStatement(rows) => (
            RevertResult::NotOurs,
            format!(
                "{rows} rows of {} are left to the runbook; once they are right, remove the mark: select lo_unlink({oid})",
                called(postgres)
            ),
        ),
    })
}

pub(super) async fn gone(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let Sql { postgres, mark, .. } = parts(cx, undo)?;
    until(cx, "that nothing of the change is left", limit, || async {
        let there = mark.clone();
        let way = Way::new(cx, postgres, LOOK_LIMIT);
        let looked = way.go(move |database| async move { transaction::settled(database.client(), &there).await }.boxed()).await;
        Ok(match looked {
            Ok(None) => Ok(format!("{} has no mark of it, and no transaction of it is open", called(postgres))),
            Ok(Some(rows)) => Err(format!("{rows} rows are changed")),
            Err(Failed::Gone(why)) => Ok(why),
            Err(error) => {
                tokio::time::sleep(AGAIN).await;
                Err(failed("look for it", error).to_string())
            }
        })
    })
    .await
}

/// Removes the mark of what is left as it is, by its undo policy: rows are left to others.
pub(super) async fn let_go(cx: &FaultCx, undo: &Undo) -> Result<(), FaultError> {
    let Sql { postgres, mark, .. } = parts(cx, undo)?;
    let (there, leave) = (mark.clone(), cx.leave.clone());
    let act = move |database: Database| async move { transaction::forget(database.client(), &there, &leave).await }.boxed();
    match Way::new(cx, postgres, LOOK_LIMIT).go(act).await {
        Ok(_) | Err(Failed::Gone(_)) => Ok(()),
        Err(error) => {
            let what = format!("remove the mark of the change of {} (select lo_unlink({}))", called(postgres), mark.oid);
            Err(failed(&what, error))
        }
    }
}
