//! One seed, played: a sandbox, a drill by the engine's own functions, and what befalls it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use firedrill::{
    clock::Clock,
    drill::{Drill, DrillError, DrillOptions, Takeover as Known},
    gate::Gate,
    journal::{Disk, Inbox, InboxItem, MemoryDisk, ResumeIntent, Stop, find_record, find_records},
    plan::Plan,
    sandbox::{NodeState, Weather},
    scenario::types::Dur,
};
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::CronJob};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    draw::{Nuisance, Script, Takeover, Trouble, When},
    history::{End, History, OWN, RUNNER, Runner, Sent},
    world::{RUNNERS, World},
};

/// After this time the weather is fair, and what was broken must come to rights.
const STORM: Duration = Duration::from_secs(120);
/// No simulation takes longer, in virtual time.
const LIMIT: Duration = Duration::from_secs(3 * 3600);
/// No runner is polled more often: one that is goes round in circles, and time does not pass.
const MOST_POLLS: u64 = 100_000;
/// How often somebody takes a drill over that does not end.
const TAKEOVERS: usize = 5;

/// A machine that runners run on: its disk survives them.
#[derive(Clone)]
struct Machine {
    disk: MemoryDisk,
    clock: Clock,
    skew_us: i64,
    out: PathBuf,
}

/// A runner under way.
struct Process {
    runner: Runner,
    gate: Gate,
    machine: Machine,
    end: Arc<Mutex<Option<End>>>,
    /// When it was not run.
    slept: Arc<Mutex<Vec<(i64, i64)>>>,
    task: JoinHandle<()>,
}

/// The parts of a life in which somebody was awake.
fn lived(began_us: i64, ended_us: i64, slept: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut spans = Vec::new();
    let mut from = began_us;
    for (asleep, awake) in slept {
        spans.push((from, (*asleep).min(ended_us)));
        from = *awake;
    }
    if from < ended_us {
        spans.push((from, ended_us));
    }
    spans
}

/// The place where a seed is played.
struct Stage<'a> {
    script: &'a Script,
    world: World,
    dir: tempfile::TempDir,
    /// What the clocks of all machines count from.
    clock: Clock,
    /// The sandbox's wall clock when they began.
    began_us: i64,
    runners: Mutex<Vec<Option<Runner>>>,
}

/// Plays a seed to its end.
///
/// # Errors
/// It did not come to an end, or the world could not be made: in either case something is wrong.
pub(crate) fn simulate(script: &Script) -> Result<History, String> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true);
    // What libraries pick by chance among things of the same instant comes of the seed, too.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&script.seed.to_le_bytes()));
    let runtime = builder.build().map_err(|e| format!("there is no runtime: {e}"))?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        timeout(LIMIT, play(script)).await.unwrap_or_else(|_| Err(format!("it did not end within {LIMIT:?} of virtual time")))
    })
}

/// Raw samples are written to a disk; to one in memory where there is one.
fn scratch() -> std::io::Result<tempfile::TempDir> {
    let shm = std::path::Path::new("/dev/shm");
    let made = tempfile::Builder::new().prefix("firedrill-sim-").tempdir_in(shm);
    if shm.is_dir() && made.is_ok() { made } else { tempfile::tempdir() }
}

async fn play(script: &Script) -> Result<History, String> {
    let world = World::new(script.seed).await?;
    let before = world.objects().await.map_err(|e| e.to_string())?;
    let began_us = world.sandbox.now_us();
    let clock = Clock::virtual_at("machine-0", began_us);
    let dir = scratch().map_err(|e| e.to_string())?;
    let stage = Stage { script, world, dir, clock, began_us, runners: Mutex::default() };
    let mut history = History { before, ..History::default() };
    // A plan that is refused is a drill that never was.
    let planned = stage.world.plan(&script.scenario, script.seed).await;
    history.refused = planned.as_ref().err().cloned();
    if let Ok((plan, text)) = planned {
        let storm = async {
            sleep(script.rain_after).await;
            stage.weather(script.weather.clone());
            sleep(STORM).await;
            stage.weather(Weather::default());
        };
        let (drills, ()) = tokio::join!(stage.drills(plan, &text), storm);
        drills?;
        stage.settle().await?;
    }
    history.after = stage.world.objects().await.map_err(|e| e.to_string())?;
    history.audit = stage.world.sandbox.audit();
    history.signals = Sent::all(&stage.world.sandbox.truth());
    history.runners = stage.take_runners()?;
    stage.world.sandbox.stop().await;
    Ok(history)
}

impl Stage<'_> {
    fn weather(&self, weather: Weather) {
        let users = (0..RUNNERS).map(|n| format!("{RUNNER}{n}")).collect();
        self.world.sandbox.set_weather(Weather { users, ..weather });
    }

    fn machine(&self, number: usize, skew_us: i64) -> Machine {
        let sandbox = self.world.sandbox.clone();
        let disk = MemoryDisk::numbered(Arc::new(move || sandbox.asked()));
        // A machine's clock goes on from when it was made here, so all are made from the same.
        let clock = if number == 0 { self.clock.clone() } else { self.clock.clone().named(&format!("machine-{number}")).skewed(skew_us) };
        Machine { disk, clock, skew_us, out: self.dir.path().join(format!("machine-{number}")) }
    }

    /// Begins a process that does `work`; whatever it says is how it ended.
    fn begin<F>(&self, machine: &Machine, plan: &Plan, drill: &str, work: impl FnOnce(String, DrillOptions) -> F) -> Result<Process, String>
    where
        F: Future<Output = Result<Arc<Drill>, DrillError>> + 'static,
    {
        let number = {
            let mut runners = self.runners.lock().unwrap_or_else(PoisonError::into_inner);
            runners.push(None);
            runners.len() - 1
        };
        if number >= RUNNERS {
            return Err("more runners than there are users for".to_owned());
        }
        let user = format!("{RUNNER}{number}");
        let options = DrillOptions {
            by: user.clone(),
            confirmed_by: Some("simulation".to_owned()),
            auto_ack: true,
            lease: Dur(self.script.lease),
            out: machine.out.clone(),
            disk: Disk::Memory(machine.disk.clone()),
            seed: Some(self.script.seed.wrapping_mul(31).wrapping_add(number as u64 + 1)),
            sandbox: Some(self.world.sandbox.dialer(Some(OWN))),
            takeover: Known::default(),
        };
        let runner = Runner {
            user: user.clone(),
            drill: drill.to_owned(),
            plan: plan.clone(),
            lease_us: i64::try_from(self.script.lease.as_micros()).unwrap_or(i64::MAX),
            clock: machine.clock.id().0.to_string(),
            clock_us: machine.skew_us - self.began_us,
            journal: String::new(),
            syncs: Vec::new(),
            lived: vec![(self.world.sandbox.now_us(), i64::MAX)],
            end: End::Died,
        };
        let (gate, end) = (Gate::new(), Arc::<Mutex<Option<End>>>::default());
        gate.kill_at(MOST_POLLS);
        let (begun, told) = (work(user, options), Arc::clone(&end));
        let task = tokio::task::spawn_local(gate.hold(async move {
            let how = match begun.await {
                Err(error) => End::Refused(error.to_string()),
                Ok(drill) => {
                    let end = drill.run().await;
                    End::Over { clean: end.clean, trouble: end.trouble }
                }
            };
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
        }));
        Ok(Process { runner, gate, machine: machine.clone(), end, slept: Arc::default(), task })
    }

    fn start(&self, machine: &Machine, plan: &Plan, text: &str, drill: &str) -> Result<Process, String> {
        self.begin(machine, plan, drill, |user, options| {
            let (cluster, clock) = (self.world.cluster(&user), machine.clock.clone());
            let (plan, text, drill) = (plan.clone(), text.to_owned(), drill.to_owned());
            async move { Drill::start(cluster, clock, plan, &drill, &text, options).await }
        })
    }

    /// Somebody takes a drill over; none: it is over.
    async fn take_over(&self, machine: &Machine, plan: &Plan, drill: &str, intent: ResumeIntent) -> Result<Option<Process>, String> {
        let found = find_record(&self.world.admin, OWN, drill).await.map_err(|e| e.to_string())?;
        let Some(stored) = found else { return Ok(None) };
        self.begin(machine, plan, drill, |user, options| {
            let (cluster, clock) = (self.world.cluster(&user), machine.clock.clone());
            async move { Drill::take_over(cluster, clock, stored, intent, options).await }
        })
        .map(Some)
    }

    /// Waits for a process's end and keeps what is known of it.
    async fn end(&self, process: Process) -> End {
        let Process { mut runner, gate, machine, end, slept, task } = process;
        tokio::select! {
            biased;
            () = gate.dead() => {}
            _ = task => {}
        }
        if gate.polls() >= MOST_POLLS {
            runner.end = End::Circles;
        }
        // What belonged to it goes with it.
        gate.kill();
        let began_us = runner.lived.first().map_or(i64::MIN, |(from, _)| *from);
        let slept = slept.lock().unwrap_or_else(PoisonError::into_inner);
        runner.lived = lived(began_us, self.world.sandbox.now_us(), &slept);
        drop(slept);
        let path = machine.out.join(&runner.drill).join("journal.jsonl");
        runner.journal = String::from_utf8(machine.disk.bytes(&path).unwrap_or_default()).unwrap_or_default();
        runner.syncs = machine.disk.syncs(&path);
        if let Some(how) = end.lock().unwrap_or_else(PoisonError::into_inner).take() {
            runner.end = how;
        }
        let (how, number) = (runner.end.clone(), runner.user.trim_start_matches(RUNNER).parse::<usize>().unwrap_or_default());
        if let Some(slot) = self.runners.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
            *slot = Some(runner);
        }
        how
    }

    fn take_runners(&self) -> Result<Vec<Runner>, String> {
        let runners = std::mem::take(&mut *self.runners.lock().unwrap_or_else(PoisonError::into_inner));
        runners.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| "a runner has not ended".to_owned())
    }

    /// The drill, with its trouble.
    async fn drills(&self, plan: Plan, text: &str) -> Result<(), String> {
        let first = self.machine(0, 0);
        let drill = format!("sim-{}", self.script.seed);
        let process = self.start(&first, &plan, text, &drill)?;
        let (troubled, ()) = tokio::join!(self.trouble(process, &first, &plan, &drill), self.nuisance(&drill));
        troubled
    }

    async fn trouble(&self, process: Process, first: &Machine, plan: &Plan, drill: &str) -> Result<(), String> {
        let elsewhere = |takeover: &Takeover| if takeover.same_machine { first.clone() } else { self.machine(1, takeover.skew_us) };
        match self.script.trouble {
            Trouble::None => drop(self.end(process).await),
            Trouble::WallJump { at, by_us } => {
                let clock = first.clock.clone();
                let jump = async {
                    sleep(at).await;
                    clock.set_wall(by_us);
                };
                tokio::join!(self.end(process), jump);
            }
            Trouble::Crash { when, power, takeover } => {
                let gate = process.gate.clone();
                let kill = async {
                    match when {
                        When::Poll(poll) => gate.kill_at(poll),
                        When::After(time) => {
                            sleep(time).await;
                            gate.kill();
                        }
                    }
                };
                let (how, ()) = tokio::join!(self.end(process), kill);
                if how == End::Died && power {
                    first.disk.lose_power();
                }
                if how == End::Died {
                    sleep(takeover.after).await;
                    if let Some(next) = self.take_over(&elsewhere(&takeover), plan, drill, takeover.intent).await? {
                        self.end(next).await;
                    }
                }
            }
            Trouble::Sleep { at, long, takeover } => {
                let (gate, spans) = (process.gate.clone(), Arc::clone(&process.slept));
                let slept = async {
                    sleep(at).await;
                    let from_us = self.world.sandbox.now_us();
                    spans.lock().unwrap_or_else(PoisonError::into_inner).push((from_us, i64::MAX));
                    gate.stop();
                    sleep(long).await;
                    *spans.lock().unwrap_or_else(PoisonError::into_inner) = vec![(from_us, self.world.sandbox.now_us())];
                    gate.go_on();
                };
                let other = async {
                    let Some(takeover) = takeover else { return Ok(()) };
                    sleep(at + takeover.after).await;
                    if let Some(next) = self.take_over(&elsewhere(&takeover), plan, drill, takeover.intent).await? {
                        self.end(next).await;
                    }
                    Ok::<_, String>(())
                };
                tokio::join!(self.end(process), slept, other).2?;
            }
            Trouble::Hasty { at, takeover } => {
                let other = async {
                    sleep(at).await;
                    if let Some(next) = self.take_over(&elsewhere(&takeover), plan, drill, takeover.intent).await? {
                        self.end(next).await;
                    }
                    Ok::<_, String>(())
                };
                tokio::join!(self.end(process), other).1?;
            }
            Trouble::CutOff { node, at, long } => {
                let cut = async {
                    sleep(at).await;
                    self.world.sandbox.set_node(&format!("n{node}"), NodeState::CutOff);
                    sleep(long).await;
                    self.world.sandbox.set_node(&format!("n{node}"), NodeState::Up);
                };
                tokio::join!(self.end(process), cut);
            }
            Trouble::Second { at } => {
                let other = async {
                    sleep(at).await;
                    let Ok((plan, text)) = self.world.plan(&self.script.second, self.script.seed ^ 1).await else { return Ok(()) };
                    let second = self.start(&self.machine(2, 0), &plan, &text, &format!("other-{}", self.script.seed))?;
                    self.end(second).await;
                    Ok::<_, String>(())
                };
                tokio::join!(self.end(process), other).1?;
            }
        }
        Ok(())
    }

    async fn nuisance(&self, drill: &str) {
        let merge = |patch: serde_json::Value| Patch::Merge(patch);
        let params = PatchParams { field_manager: Some("somebody".to_owned()), ..PatchParams::default() };
        // What cannot be done (the drill is over already) is no nuisance.
        match self.script.nuisance {
            Nuisance::None => {}
            Nuisance::Abort(at) => {
                sleep(at).await;
                let item = InboxItem { by: "somebody".to_owned(), action: "abort".to_owned(), remark: String::new() };
                let _ = Inbox::new(self.world.admin.clone(), OWN, drill).leave("abort", &item).await;
            }
            Nuisance::Stop(at) => {
                sleep(at).await;
                let _ = Stop { by: "somebody".to_owned(), reason: String::new() }.set(&self.world.admin, OWN).await;
                sleep(Duration::from_secs(60)).await;
                let _ = Stop::lift(&self.world.admin, OWN).await;
            }
            Nuisance::Scale(at, replicas) => {
                sleep(at).await;
                let patch = json!({"spec": {"replicas": replicas}});
                let _ = self.world.api::<Deployment>("shop").patch("web", &params, &merge(patch)).await;
            }
            Nuisance::Resume(at) => {
                sleep(at).await;
                let _ = self.world.api::<CronJob>("shop").patch("backup", &params, &merge(json!({"spec": {"suspend": false}}))).await;
            }
            Nuisance::Compact(at) => {
                sleep(at).await;
                self.world.sandbox.compact();
            }
        }
    }

    /// In fair weather, somebody reverts what is left, from another machine, until nothing is or it does not help.
    async fn settle(&self) -> Result<(), String> {
        let plans: std::collections::BTreeMap<String, Plan> = {
            let runners = self.runners.lock().unwrap_or_else(PoisonError::into_inner);
            runners.iter().flatten().map(|r| (r.drill.clone(), r.plan.clone())).collect()
        };
        for round in 0..TAKEOVERS {
            let left = find_records(&self.world.admin, OWN).await.map_err(|e| e.to_string())?;
            if left.is_empty() {
                break;
            }
            for stored in left {
                let plan = plans.get(&stored.drill).ok_or_else(|| format!("a record of {}, which no runner ran", stored.drill))?;
                let machine = self.machine(10 + round, 0);
                if let Some(next) = self.take_over(&machine, plan, &stored.drill, ResumeIntent::Revert).await? {
                    self.end(next).await;
                }
            }
        }
        Ok(())
    }
}
