//! The contract of `sql` in the sandbox, on its replicated database: through every case, by the way that a runner goes.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;
#[expect(dead_code, reason = "shared with the suite of the database")]
#[path = "sandbox_database/world.rs"]
mod world;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fault_kit::{LIMIT, Table, bite, ensure, unique};
use firedrill::{
    clock::Clock,
    cluster::{Cluster, Leave},
    fault::{self, FaultCx, Undo},
    journal::RevertResult,
    plan::{Plan, ResolvedTarget},
    probe::Pg,
    scenario::types::{FaultSpec, Target},
};
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use world::World;

const LOSE: &str = "update accounts set plan = 'lost' where id <= 50";
/// Those that had paid are told from the others by their number: a shop's own rows are not all alike.
const BACK: &str = "update accounts set plan = case when id = 1 then 'paid' else 'free' end where plan = 'lost'";
const PASSWORD: &str = "sandbox-orders-app";

/// The way to the database: its Service, or the pod that leads.
const WAYS: [&str; 2] = ["service", "target"];

struct Case {
    w: World,
    cx: FaultCx,
    spec: FaultSpec,
}

fn database(way: &str) -> Value {
    let mut at = json!({"database": "orders", "secret": "shop/orders-app"});
    at[way] = json!(if way == "service" { "shop/orders-db" } else { "primary" });
    at
}

fn sql(way: &str, most: u64) -> Value {
    json!({"sql": {"postgres": database(way), "statement": LOSE, "maxRows": most, "revert": BACK}})
}

async fn cx_of(w: &World, user: &str, drill: &str) -> FaultCx {
    let client = w.sandbox.client(user);
    let uid = Api::<Namespace>::all(client.clone()).get("kube-system").await.unwrap().uid().unwrap();
    let cluster = Cluster::from_client(client, "sandbox", uid);
    let primary = json!({"namespace": "shop", "pods": "cluster=orders,role=master"});
    let spec: Target = serde_json::from_value(primary).unwrap();
    let targets = [("primary".to_owned(), ResolvedTarget { spec, objects: Vec::new(), matched: 0 })];
    let plan = Arc::new(Plan { targets: targets.into(), ..Plan::empty("contract") });
    FaultCx::new(cluster, Clock::virtual_at("runner", w.sandbox.now_us()), plan, drill)
}

impl Case {
    async fn new(way: &str) -> Self {
        let w = World::up(7, &[]).await;
        let cx = cx_of(&w, "admin", &unique("drill")).await;
        let spec = fault_kit::spec(sql(way, 50));
        let case = Self { w, cx, spec };
        // Alike, so that one statement undoes it.
        case.ask("update accounts set plan = 'free' where id > 1 and id <= 50").await;
        case
    }

    async fn connect(&self, host: &str, role: &str, secret: &str) -> Pg {
        Pg::connect(&self.w.dialer(), &self.w.target(host, role, secret)).await.unwrap()
    }

    async fn ask(&self, statement: &str) -> Option<String> {
        self.connect("orders-db", "postgres", "orders-superuser").await.simple(statement).await.unwrap()
    }

    /// How many accounts are lost.
    async fn lost(&self) -> usize {
        self.ask("select count(*) from accounts where plan = 'lost'").await.unwrap().parse().unwrap()
    }

    /// How many marks there are.
    async fn marks(&self) -> usize {
        self.ask("select count(*) from pg_description").await.unwrap().parse().unwrap()
    }

    async fn is_whole(&self) -> Result<(), String> {
        let (lost, marks) = (self.lost().await, self.marks().await);
        ensure(lost == 0 && marks == 0, format!("{lost} rows are lost, {marks} marks are left"))?;
        let paid = self.ask("select count(*) from accounts where plan = 'paid' and id = 1").await;
        ensure(paid.as_deref() == Some("1"), "it is not as before")
    }

    async fn bite(&self) -> Result<Undo, String> {
        bite(&self.cx, &self.spec, &[]).await
    }

    async fn revert(&self, undo: &Undo) -> Result<(RevertResult, String), String> {
        fault::revert(&self.cx, undo).await.map_err(|e| format!("revert: {e}"))
    }

    async fn gone(&self, undo: &Undo) -> Result<String, String> {
        fault::gone(&self.cx, undo, LIMIT).await.map(|(_, proof)| proof).map_err(|e| format!("gone: {e}"))
    }

    async fn holds(&self, undo: &Undo) -> Result<Option<String>, String> {
        fault::holds(&self.cx, &self.spec, undo).await.map_err(|e| format!("holds: {e}"))
    }

    async fn undone(&self, undo: &Undo) -> Result<String, String> {
        let (result, said) = self.revert(undo).await?;
        ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
        self.gone(undo).await?;
        self.is_whole().await?;
        Ok(said)
    }

    /// Why it is not injected.
    async fn refused(&self) -> Result<(Undo, String), String> {
        let prepared = fault::prepare(&self.cx, &self.spec, &[]).await.map_err(|e| format!("prepare: {e}"))?;
        let error = fault::inject(&self.cx, &self.spec, &prepared.undo).await.err().ok_or("it was injected")?;
        Ok((prepared.undo, error.to_string()))
    }
}

async fn whole(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    ensure((c.lost().await, c.marks().await) == (50, 1), format!("{} rows are lost", c.lost().await))?;
    ensure(c.holds(&undo).await?.is_none(), "it does not hold")?;
    c.undone(&undo).await
}

async fn inject_twice(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    // Somebody has got his account back: the second injection must not lose it again.
    c.ask("update accounts set plan = 'free' where id = 2").await;
    fault::inject(&c.cx, &c.spec, &undo).await.map_err(|e| format!("second inject: {e}"))?;
    ensure(c.lost().await == 49, format!("the second inject made it {}", c.lost().await))?;
    let (_, proof) = fault::effective(&c.cx, &c.spec, &undo, LIMIT).await.map_err(|e| e.to_string())?;
    c.ask("update accounts set plan = 'lost' where id = 2").await;
    c.undone(&undo).await?;
    Ok(proof)
}

async fn revert_twice(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    c.undone(&undo).await?;
    // Rows that others lose afterwards are none of the fault's.
    c.ask("update accounts set plan = 'lost' where id = 2").await;
    let (second, said) = c.revert(&undo).await?;
    ensure(second == RevertResult::Nothing && c.lost().await == 1, format!("{second:?}: {said}"))?;
    c.ask("update accounts set plan = 'free' where id = 2").await;
    c.gone(&undo).await?;
    Ok(said)
}

async fn revert_without_inject(c: &Case) -> Result<String, String> {
    let prepared = fault::prepare(&c.cx, &c.spec, &[]).await.map_err(|e| e.to_string())?;
    let (result, said) = c.revert(&prepared.undo).await?;
    ensure(result == RevertResult::Nothing, format!("{result:?}: {said}"))?;
    c.gone(&prepared.undo).await?;
    c.is_whole().await?;
    Ok(said)
}

async fn another_machine(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    let cx = cx_of(&c.w, "admin:elsewhere", &c.cx.drill).await;
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    c.is_whole().await?;
    Ok(said)
}

/// Others have mended some rows: the undo would touch fewer, and writes nothing; once they are as they were it can be undone.
async fn value_changed(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    c.ask("update accounts set plan = 'trial' where id > 1 and id <= 11").await;
    for _ in 0..2 {
        let (result, said) = c.revert(&undo).await?;
        ensure(result == RevertResult::Superseded && said.contains("touched 50 rows and `revert` would touch 40"), said)?;
        ensure(c.lost().await == 40, "it was written to all the same")?;
    }
    c.ask("update accounts set plan = 'lost' where plan = 'trial'").await;
    c.undone(&undo).await
}

async fn another_drill(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    let other = cx_of(&c.w, "admin", &unique("other")).await;
    let error = fault::prepare(&other, &c.spec, &[]).await.err().ok_or("two drills may change one database")?.to_string();
    ensure(error.contains(&format!("drill {} has changed 50 rows in it", c.cx.drill)), error.clone())?;
    let (result, said) = fault::revert(&other, &undo).await.map_err(|e| e.to_string())?;
    ensure(result == RevertResult::Nothing && c.lost().await == 50, format!("another drill's revert: {result:?}: {said}"))?;
    c.undone(&undo).await?;
    Ok(error)
}

async fn without_effect(mut c: Case) -> Result<String, String> {
    c.spec.sql.as_mut().unwrap().statement = "update accounts set plan = 'lost' where id > 9999".to_owned();
    let (undo, error) = c.refused().await?;
    ensure(error.contains("it touches no row: rolled back"), error.clone())?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Nothing, "there was something to undo")?;
    c.is_whole().await?;
    c.w.sandbox.stop().await;
    Ok(error)
}

async fn over_the_limit(mut c: Case) -> Result<String, String> {
    c.spec.sql.as_mut().unwrap().max_rows = 49;
    let (undo, error) = c.refused().await?;
    ensure(error.contains("it touches 50 rows, and `maxRows` is 49: rolled back"), error.clone())?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Nothing, "there was something to undo")?;
    c.is_whole().await?;
    c.w.sandbox.stop().await;
    Ok(error)
}

async fn undo_that_does_not_fit(mut c: Case) -> Result<String, String> {
    c.spec.sql.as_mut().unwrap().revert = Some("update accounts set plan = 'free' where id = 2".to_owned());
    let (_, error) = c.refused().await?;
    ensure(error.contains("it touches 50 rows and its `revert` 1"), error.clone())?;
    c.is_whole().await?;
    c.w.sandbox.stop().await;
    Ok(error)
}

/// The runbook puts the rows back; a revert says so, and the mark goes when the drill leaves them to it.
async fn left_to_the_runbook(mut c: Case) -> Result<String, String> {
    c.spec.sql.as_mut().unwrap().revert = None;
    let undo = c.bite().await?;
    let (result, said) = c.revert(&undo).await?;
    ensure(
        result == RevertResult::NotOurs && said.contains("50 rows") && said.contains("left to the runbook"),
        format!("{result:?}: {said}"),
    )?;
    ensure(c.lost().await == 50, "something was written")?;
    c.ask(BACK).await;
    fault::let_go(&c.cx, &undo, true).await.map_err(|e| e.to_string())?;
    c.gone(&undo).await?;
    c.is_whole().await?;
    c.w.sandbox.stop().await;
    Ok(said)
}

async fn target_gone(c: Case) -> Result<String, String> {
    let undo = c.bite().await?;
    Api::<Service>::namespaced(c.w.client.clone(), "shop")
        .delete("orders-db", &DeleteParams::default())
        .await
        .map_err(|e| e.to_string())?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::TargetGone && said.contains("there is no Service shop/orders-db"), format!("{result:?}: {said}"))?;
    c.gone(&undo).await?;
    let error = fault::prepare(&c.cx, &c.spec, &[]).await.err().ok_or("what is gone could be prepared again")?;
    c.w.sandbox.stop().await;
    Ok(format!("{said} / {error}"))
}

/// A runner that is killed after so many writes, and another one that finishes the revert.
async fn killed(way: &str, in_revert: bool) -> Result<String, String> {
    for writes in 0..5 {
        let c = Case::new(way).await;
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let leave = Leave::new(move || if count.fetch_add(1, Ordering::SeqCst) < writes { Ok(()) } else { Err("killed here".to_owned()) });
        let dying = FaultCx { leave, ..c.cx.clone() };
        let undo = if in_revert {
            let undo = c.bite().await?;
            let _ = fault::revert(&dying, &undo).await;
            undo
        } else {
            let prepared = fault::prepare(&dying, &c.spec, &[]).await.map_err(|e| e.to_string())?;
            ensure(asked.load(Ordering::SeqCst) == 0, "it wrote before it was injected")?;
            let _ = fault::inject(&dying, &c.spec, &prepared.undo).await;
            prepared.undo
        };
        let cx = cx_of(&c.w, "admin:elsewhere", &c.cx.drill).await;
        let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("killed after {writes}: {e}"))?;
        let all = asked.load(Ordering::SeqCst) <= writes;
        let untouched = if in_revert { all } else { writes == 0 };
        ensure((result == RevertResult::Nothing) == untouched, format!("killed after {writes}: {result:?}: {said}"))?;
        fault::gone(&cx, &undo, LIMIT).await.map_err(|e| e.to_string())?;
        c.is_whole().await?;
        c.w.sandbox.stop().await;
        if all {
            ensure(writes == 1, format!("{writes} writes"))?;
            return Ok("killed before its commit, and after it".to_owned());
        }
    }
    Err("it never comes to its end".to_owned())
}

/// A runner that is gone in the middle, at every instant at which it waits: whatever it had come to, the revert of another one undoes it.
async fn lost_anywhere(c: &Case) -> Result<String, String> {
    let (mut cut, mut committed) = (0, 0);
    for polls in 1..400 {
        let prepared = fault::prepare(&c.cx, &c.spec, &[]).await.map_err(|e| e.to_string())?;
        let mut injecting = Box::pin(fault::inject(&c.cx, &c.spec, &prepared.undo));
        let mut left = polls;
        let ended = std::future::poll_fn(|task| {
            left -= 1;
            match injecting.as_mut().poll(task) {
                std::task::Poll::Pending if left > 0 => std::task::Poll::Pending,
                std::task::Poll::Pending => std::task::Poll::Ready(false),
                std::task::Poll::Ready(done) => std::task::Poll::Ready(done.is_ok()),
            }
        })
        .await;
        drop(injecting);
        let cx = cx_of(&c.w, "admin:elsewhere", &c.cx.drill).await;
        let (result, said) = fault::revert(&cx, &prepared.undo).await.map_err(|e| format!("lost after {polls} polls: {e}"))?;
        committed += usize::from(result == RevertResult::Reverted);
        ensure(matches!(result, RevertResult::Reverted | RevertResult::Nothing), format!("lost after {polls} polls: {result:?}: {said}"))?;
        fault::gone(&cx, &prepared.undo, LIMIT).await.map_err(|e| e.to_string())?;
        c.is_whole().await.map_err(|e| format!("lost after {polls} polls: {e}"))?;
        if ended {
            ensure(cut > 5 && committed >= 1, format!("{cut} cuts, {committed} commits"))?;
            return Ok(format!("lost at {cut} instants, in {committed} of them with the commit made"));
        }
        cut += 1;
    }
    Err("it never comes to its end".to_owned())
}

#[tokio::test(start_paused = true)]
async fn sql_keeps_its_contract() {
    let mut table = Table::of("sandbox");
    for way in WAYS {
        macro_rules! case {
            ($title:literal, $test:ident) => {{
                let c = Case::new(way).await;
                let outcome = Box::pin($test(&c)).await.map(|said| format!("{way}: {said}"));
                c.w.sandbox.stop().await;
                table.add("sql", $title, outcome);
            }};
        }
        case!("inject, proof, revert, proof", whole);
        case!("inject twice", inject_twice);
        case!("revert twice", revert_twice);
        case!("revert without inject", revert_without_inject);
        case!("revert on another machine", another_machine);
        case!("value changed by others", value_changed);
        case!("under another drill's fault", another_drill);
        table.add("sql", "runner killed in inject", Box::pin(killed(way, false)).await);
        table.add("sql", "runner killed in revert", Box::pin(killed(way, true)).await);
    }
    macro_rules! case {
        ($title:literal, $test:ident) => {
            table.add("sql", $title, Box::pin($test(Case::new(WAYS[0]).await)).await)
        };
    }
    case!("without effect", without_effect);
    case!("rows over the limit", over_the_limit);
    case!("an undo of other rows", undo_that_does_not_fit);
    case!("left to the runbook", left_to_the_runbook);
    case!("target gone", target_gone);
    let c = Case::new(WAYS[0]).await;
    table.add("sql", "runner lost at any instant", Box::pin(lost_anywhere(&c)).await);
    c.w.sandbox.stop().await;
    table.end();
}

/// What the Secret holds is in no undo and in no message.
#[tokio::test(start_paused = true)]
async fn the_role_s_password_is_told_to_nobody() {
    let c = Case::new(WAYS[0]).await;
    let prepared = fault::prepare(&c.cx, &c.spec, &[]).await.unwrap();
    let undo = c.bite().await.unwrap();
    let said = c.undone(&undo).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(c.w.client.clone(), "shop");
    let mut wrong = secrets.get("orders-app").await.unwrap();
    secrets.delete("orders-app", &DeleteParams::default()).await.unwrap();
    let without = fault::prepare(&c.cx, &c.spec, &[]).await.unwrap_err().to_string();
    assert!(without.contains("there is no Secret shop/orders-app"), "{without}");
    (wrong.metadata.resource_version, wrong.metadata.uid) = (None, None);
    let data = wrong.data.as_mut().unwrap();
    data.insert("password".to_owned(), k8s_openapi::ByteString(format!("{PASSWORD}-old").into_bytes()));
    secrets.create(&PostParams::default(), &wrong).await.unwrap();
    let refused = fault::prepare(&c.cx, &c.spec, &[]).await.unwrap_err().to_string();
    assert!(refused.contains("password authentication failed for user \"checkout\""), "{refused}");
    for text in [format!("{prepared:?} {undo:?}"), serde_json::to_string(&undo).unwrap(), said, without, refused] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    c.w.sandbox.stop().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
}
