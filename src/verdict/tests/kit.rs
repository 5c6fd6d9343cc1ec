//! A small builder of journals: times in milliseconds after the drill's first record.

use crate::{
    clock::{ClockId, Stamp},
    fault::Undo,
    journal::*,
    plan::{Plan, PlannedObjective, PlannedProbe, PlannedStep},
    scenario::types::*,
    verdict::{ObjectiveVerdict, Verdict, judge},
};
use indexmap::IndexMap;

/// 2026-01-28T23:42:00Z.
const WALL: i64 = 1_769_643_720_000_000;
/// What the runner's monotonic clock said then.
const MONO: i64 = 77_000_000_000;

/// A stamp of the runner's clock.
pub(crate) fn at(ms: i64) -> Stamp {
    on("runner", ms * 1_000)
}

/// A stamp of another clock which is not offset, in microseconds.
pub(crate) fn on(clock: &str, us: i64) -> Stamp {
    Stamp { clock: ClockId(clock.into()), mono_us: MONO + us, wall_us: WALL + us }
}

/// A journal being built.
#[derive(Debug, Clone)]
pub(crate) struct Tape {
    pub(crate) plan: Plan,
    pub(crate) events: Vec<(Stamp, Event)>,
    /// What the intents say: by default of a fault that lasts until it is undone.
    pub(crate) undo: Undo,
}

/// Of a fault that does all that it does at once.
pub(crate) fn momentary() -> Undo {
    Undo::Deleted { pods: Vec::new(), owners: Vec::new() }
}

impl Tape {
    /// A plan with a probe `web` every 100 ms, one fault `break it`, a `hold`, and a steady state.
    pub(crate) fn new() -> Self {
        let (namespace, kind, name, uid) = ("shop".into(), "StatefulSet".into(), "orders-db".into(), "s0".into());
        let undo = Undo::Scale { namespace, kind, name, uid, before: 3, set: 2, ready: 3 };
        let mut journal = Self { plan: bare_plan(), events: Vec::new(), undo };
        journal.probe("web", 100, |p| p.http = Some(HttpProbe::default()));
        let inject = FaultSpec { freeze: Some(OnTarget { target: "primary".into() }), ..FaultSpec::default() };
        journal.step("break it", |s| s.inject = Some(inject));
        journal.step("watch", |s| s.hold = Some(Dur::from_secs(60)));
        journal
    }

    pub(crate) fn probe(&mut self, name: &str, every_ms: u64, set: impl FnOnce(&mut Probe)) {
        let mut spec = Probe::default();
        set(&mut spec);
        let (every, timeout) = (Dur::from_millis(every_ms), Dur::from_millis(2 * every_ms));
        self.plan.probes.insert(name.into(), PlannedProbe { spec, every, timeout, from: Vantage::Runner });
    }

    pub(crate) fn step(&mut self, title: &str, set: impl FnOnce(&mut Step)) {
        let mut spec = Step::default();
        set(&mut spec);
        let faults = self.plan.leaf_steps().iter().filter(|s| s.fault.is_some()).count();
        let fault = spec.inject.is_some().then_some(u32::try_from(faults).unwrap());
        let path = (self.plan.steps.len() + 1).to_string();
        self.plan.steps.push(PlannedStep {
            path,
            title: title.into(),
            spec,
            fault,
            undo: None,
            evicts: Vec::new(),
            volume: None,
            manifest: None,
            touches: Vec::new(),
            runbook_text: None,
            children: Vec::new(),
        });
    }

    pub(crate) fn objective(&mut self, name: &str, set: impl FnOnce(&mut Objective)) {
        let mut spec = Objective::default();
        set(&mut spec);
        self.plan.objectives.push(PlannedObjective { name: name.into(), spec });
    }

    /// `recoveryTime: {probe: web, after: break it, within, stableFor}`.
    pub(crate) fn rto(&mut self, within_ms: u64, stable_ms: u64) {
        self.objective("rto", |o| {
            o.recovery_time = Some(RecoveryTime {
                probe: "web".into(),
                after: Some("break it".into()),
                within: Dur::from_millis(within_ms),
                stable_for: Dur::from_millis(stable_ms),
                from: From::Fault,
                alert: None,
            });
        });
    }

    pub(crate) fn push(&mut self, ms: i64, event: Event) {
        self.events.push((at(ms), event));
    }

    /// The fault `break it`, from its step's start to the proof that it bit.
    pub(crate) fn break_it(&mut self, start_ms: i64, effective_ms: i64) {
        self.intent(0, "1", start_ms);
        self.push(start_ms, Event::Injected { fault: 0, start: at(start_ms), end: at(start_ms + 3) });
        let proof = "all 11 processes are stopped".into();
        self.push(effective_ms, Event::Effective { fault: 0, at: at(effective_ms), proof });
        self.push(
            effective_ms,
            Event::StepEnded { step: "1".into(), outcome: StepOutcome::Succeeded, detail: String::new(), end: at(effective_ms) },
        );
    }

    pub(crate) fn intent(&mut self, fault: FaultId, step: &str, ms: i64) {
        self.push(ms - 5, Event::StepStarted { step: step.into(), start: at(ms - 5) });
        let object = TouchedObject { kind: "Pod".into(), namespace: "shop".into(), name: "orders-db-0".into(), uid: "u0".into() };
        let undo = Box::new(self.undo.clone());
        self.push(ms - 1, Event::Intent { fault, step: step.into(), undo, objects: vec![object] });
    }

    pub(crate) fn revert(&mut self, ms: i64, result: RevertResult) {
        self.push(ms, Event::RevertIntent { fault: 0, because: "end of drill".into() });
        self.push(ms + 20, Event::Reverted { fault: 0, result, detail: "processes continued".into(), end: at(ms + 20) });
        self.push(ms + 40, Event::Gone { fault: 0, at: at(ms + 40), proof: "no process is stopped".into() });
    }

    /// Steady state after, readings done, disarmed, ended.
    pub(crate) fn end(&mut self, ms: i64) {
        self.push(ms, Event::SteadyState { phase: SteadyPhase::After, held: true, detail: "held for 5s".into() });
        self.push(ms, Event::Disarmed { left: Vec::new() });
        self.push(ms, Event::Ended { clean: true, at: at(ms) });
    }

    pub(crate) fn steps_ended(&mut self, ms: i64) {
        self.push(ms, Event::StepsEnded { at: at(ms) });
    }

    /// The end of the steps, and the revert before or after it.
    pub(crate) fn steps_ended_and_revert(&mut self, steps_ms: i64, revert_ms: i64, result: RevertResult) {
        if revert_ms < steps_ms {
            self.revert(revert_ms, result);
            self.steps_ended(steps_ms);
        } else {
            self.steps_ended(steps_ms);
            self.revert(revert_ms, result);
        }
    }

    /// A run of samples of `probe` every 100 ms from `from` to `to` (sends, inclusive), each taking 10 ms.
    pub(crate) fn run(&mut self, probe: &str, state: ProbeState, from_ms: i64, to_ms: i64, ended: RunEnd) {
        self.events.push((at(to_ms + 10), Event::Run(run(probe, state, from_ms, to_ms, ended))));
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        let plan = Box::new(self.plan.clone());
        let (drill, by, version) = ("lose-primary-20260128-x7".to_owned(), "ann@laptop".to_owned(), "0.1.0".to_owned());
        let first = (at(0), Event::Started { drill, plan, by, version, sandbox: false });
        let steady = (at(0), Event::SteadyState { phase: SteadyPhase::Before, held: true, detail: "held for 5s".into() });
        let all = [first, steady].into_iter().chain(self.events.iter().cloned());
        all.zip(0..).map(|((at, event), seq)| Record { seq, prev: format!("{seq:064}"), at, event }).collect()
    }

    pub(crate) fn judge(&self) -> Verdict {
        judge(&self.records())
    }

    /// The verdict on the only objective.
    pub(crate) fn only(&self) -> ObjectiveVerdict {
        let verdict = self.judge();
        assert_eq!(verdict.objectives.len(), 1);
        verdict.objectives.into_iter().next().unwrap()
    }
}

pub(crate) fn run(probe: &str, state: ProbeState, from_ms: i64, to_ms: i64, ended: RunEnd) -> ProbeRun {
    let count = u64::try_from((to_ms - from_ms) / 100 + 1).unwrap();
    ProbeRun {
        probe: probe.into(),
        state,
        first_send: at(from_ms),
        first_complete: at(from_ms + 10),
        last_send: at(to_ms),
        last_complete: at(to_ms + 10),
        count,
        slowest_us: 10_000,
        widest_us: if count > 1 { 110_000 } else { 0 },
        detail: if state == ProbeState::Good { "200 OK".into() } else { "connection refused".into() },
        ended,
    }
}

fn bare_plan() -> Plan {
    Plan {
        summary: "The primary is lost; a replica must take over.".into(),
        scenario_sha256: "0".repeat(64),
        parameters: IndexMap::from([("rto".to_owned(), "60s".to_owned())]),
        environment: "staging".into(),
        cluster_uid: "5d1f0c2e".into(),
        cluster_name: "staging-eu".into(),
        seed: 42,
        steady_state: Some(SteadyState {
            good: vec!["web".into()],
            quiet: Vec::new(),
            hold: Dur::from_secs(5),
            timeout: Dur::from_secs(60),
        }),
        expected: (Dur::from_secs(60), Dur::from_secs(600)),
        ..Plan::empty("lose-primary")
    }
}
