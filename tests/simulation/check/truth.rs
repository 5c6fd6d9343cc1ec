//! Every `met` is true, and every bracket contains the truth: when a Deployment really had its pods and a CronJob was really to run is told
//! from what the cluster's own controllers, and people, have written.

use firedrill::{
    clock::Stamp,
    fault::{ProcessFault, Undo},
    journal::{Event, Record},
    plan::Plan,
    scenario::types::{Availability, Check, ProbeState, RecoveryTime},
    verdict::{self, Bracket, ObjectiveVerdict, Outcome},
};

use super::{Change, change_of, intents, uids};
use crate::history::{History, Runner, Sent, Violation, done, text, violation};

const PROMISE: &str = "every bracket contains the truth";
const MET: &str = "every `met` is true";

/// When something was good, as changes: from this time on, good or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Series(pub(super) Vec<(i64, bool)>);

impl Series {
    /// Whether it was good at a time.
    pub(super) fn at(&self, at_us: i64) -> bool {
        self.0.iter().rfind(|(from, _)| *from <= at_us).is_some_and(|(_, good)| *good)
    }

    /// When it next was in a state, from a time on.
    fn next(&self, from_us: i64, wanted: bool) -> Option<i64> {
        if self.at(from_us) == wanted {
            return Some(from_us);
        }
        self.0.iter().find(|(at, good)| *at > from_us && *good == wanted).map(|(at, _)| *at)
    }

    /// How long after a fault it was good again, for good (`stable_us`): 0 if it was never bad, nothing if it never was. An outage that only
    /// begins at `until_us` is another one.
    pub(super) fn recovery(&self, fault_us: i64, stable_us: i64, until_us: i64) -> Option<i64> {
        let Some(mut bad) = self.next(fault_us, false) else { return Some(0) };
        loop {
            let good = self.next(bad, true)?;
            match self.next(good, false) {
                Some(again) if again - good < stable_us && again < until_us => bad = again,
                _ => return Some(good - fault_us),
            }
        }
    }

    /// How long it was good within a window.
    pub(super) fn good_within(&self, from_us: i64, to_us: i64) -> i64 {
        let mut edges: Vec<i64> = self.0.iter().map(|(at, _)| *at).filter(|at| (from_us..to_us).contains(at)).collect();
        edges.insert(0, from_us);
        edges.push(to_us);
        edges.windows(2).filter(|edge| self.at(edge[0])).map(|edge| edge[1] - edge[0]).sum()
    }
}

/// What a probe of these scenarios would have said at each time.
fn truth_of(history: &History, plan: &Plan, probe: &str) -> Option<Series> {
    let object = plan.probes.get(probe)?.spec.object.as_ref()?;
    let mut series = Series::default();
    let mut note = |at_us: i64, good: bool| {
        if series.0.last().is_none_or(|(_, last)| *last != good) {
            series.0.push((at_us, good));
        }
    };
    let before = history.before.iter().find(|o| o["kind"] == object.kind.as_str() && text(&o["metadata"]["name"]) == object.name)?;
    match object.kind.as_str() {
        "Deployment" => {
            let wanted = object.cel.rsplit(' ').next()?.parse::<i64>().ok()?;
            note(i64::MIN, before["status"]["readyReplicas"].as_i64() == Some(wanted));
            let of_it = history.audit.iter().filter(|e| done(e) && e.resource == "deployments" && e.name == object.name);
            for entry in of_it.filter(|e| e.subresource == "status") {
                note(entry.at_us, entry.request_object()?["status"]["readyReplicas"].as_i64() == Some(wanted));
            }
        }
        "CronJob" => {
            note(i64::MIN, before["spec"]["suspend"].as_bool() != Some(true));
            for entry in history.audit.iter().filter(|e| done(e) && e.resource == "cronjobs" && e.name == object.name) {
                if let Some(suspend) = entry.request_object().and_then(|sent| sent["spec"]["suspend"].as_bool()) {
                    note(entry.at_us, !suspend);
                }
            }
        }
        _ => return None,
    }
    Some(series)
}

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for runner in &history.runners {
        let records = runner.records();
        if records.is_empty() {
            continue;
        }
        let verdict = verdict::judge(&records);
        for (objective, planned) in verdict.objectives.iter().zip(&runner.plan.objectives) {
            let spec = &planned.spec;
            let case = Case { history, runner, records: &records, objective };
            if let Some(spec) = &spec.recovery_time {
                found.extend(case.recovery(spec));
            } else if let Some(spec) = &spec.availability {
                found.extend(case.availability(spec));
            } else if let Some(spec) = &spec.check {
                found.extend(case.state(spec));
            } else if objective.outcome == Outcome::Met {
                found.push(violation(MET, format!("{}: there is nothing here to hold a `{}` against", objective.name, objective.kind)));
            }
        }
    }
    found
}

/// One objective's verdict in one runner's journal.
struct Case<'a> {
    history: &'a History,
    runner: &'a Runner,
    records: &'a [Record],
    objective: &'a ObjectiveVerdict,
}

impl Case<'_> {
    fn wrong(&self, promise: &'static str, why: &str) -> Violation {
        let ObjectiveVerdict { name, outcome, measured, reason, .. } = self.objective;
        let (user, drill) = (&self.runner.user, &self.runner.drill);
        violation(promise, format!("{user}, {drill}, `{name}`: {why}; the verdict is {outcome}, measured {measured:?}: {reason}"))
    }

    /// What a stamp was on the sandbox's wall clock.
    fn when(&self, stamp: &Stamp) -> Option<i64> {
        let of_it = self.history.runners.iter().find(|runner| runner.clock == *stamp.clock.0)?;
        Some(stamp.mono_us - of_it.clock_us)
    }

    /// The number of the fault of a step.
    fn fault(&self, after: Option<&str>) -> Option<u32> {
        match after {
            Some(after) => self.runner.plan.step_named(after)?.fault,
            None => intents(self.records).map(|(_, fault, ..)| fault).next(),
        }
    }

    /// When a fault really came: its first change that was carried out.
    fn struck(&self, fault: u32) -> Option<i64> {
        let (record, _, _, undo) = intents(self.records).find(|(_, id, ..)| *id == fault)?;
        let meant = uids(&record.event);
        let written = self.history.written().filter(|(_, _, runner)| runner.drill == self.runner.drill);
        let changed = written
            .filter(|(_, entry, _)| match change_of(entry) {
                Change::Break { uid } | Change::Delete { uid } => meant.contains(&uid),
                Change::Undo | Change::Own => false,
            })
            .map(|(_, entry, _)| entry.at_us);
        // A fault of processes is no request. Which it is of two faults on one pod is told by the signal, and by the time: not before the
        // intent.
        let Undo::Processes { how, .. } = undo else { return changed.min() };
        let signal = if *how == ProcessFault::Freeze { "STOP" } else { "KILL" };
        let intended = self.when(&record.at).unwrap_or(i64::MAX);
        let signals = self.history.signals.iter().filter(|sent| sent.signal == signal && sent.is_of(&self.runner.drill));
        signals.filter(|sent| sent.at_us >= intended && meant.contains(&sent.uid)).map(|sent| sent.at_us).min()
    }

    fn steps_ended(&self) -> Option<i64> {
        self.records.iter().rev().find_map(|record| match &record.event {
            Event::StepsEnded { at } => self.when(at),
            _ => None,
        })
    }

    /// Whether a fault kills, and leaves nothing to undo.
    fn is_over_at_once(&self, fault: u32) -> bool {
        let step = self.runner.plan.leaf_steps().into_iter().find(|step| step.fault == Some(fault));
        let spec = step.and_then(|step| step.spec.inject.as_ref());
        spec.is_some_and(|spec| spec.pod_kill.is_some() || spec.crash.as_ref().is_some_and(|crash| !crash.hold))
    }

    /// When a fault that came at this time was really over: at once, or with the first signal after which its processes were no longer stopped.
    fn over(&self, fault: u32, struck: i64) -> Option<i64> {
        if self.is_over_at_once(fault) {
            return Some(struck);
        }
        let (record, _, _, undo) = intents(self.records).find(|(_, id, ..)| *id == fault)?;
        if !matches!(undo, Undo::Processes { how: ProcessFault::Freeze, .. }) {
            return None;
        }
        thawed(&self.history.signals, &self.runner.drill, &uids(&record.event), struck)
    }

    /// When the next fault really came after one that came at this time.
    fn next_strike(&self, fault: u32, struck: i64) -> Option<i64> {
        // One that came before this one was even proven is none that came later.
        let proven = self.records.iter().find_map(|record| match &record.event {
            Event::Effective { fault: id, at, .. } if *id == fault => self.when(at),
            _ => None,
        });
        let others = intents(self.records).map(|(_, id, ..)| id).filter(|id| *id != fault);
        others.filter_map(|id| self.struck(id)).filter(|at| *at > proven.unwrap_or(struck).max(struck)).min()
    }

    fn injected(&self, fault: u32) -> Option<i64> {
        self.records.iter().find_map(|record| match &record.event {
            Event::Injected { fault: id, start, .. } | Event::InjectFailed { fault: id, start, .. } if *id == fault => self.when(start),
            _ => None,
        })
    }

    fn recovery(&self, spec: &RecoveryTime) -> Option<Violation> {
        let decided = self.objective.outcome != Outcome::Inconclusive;
        // Where nothing bad was seen and too little was watched, no claim is made about what came after.
        let claims = |m: &Bracket| m.upper.is_some() && m.lower.is_some_and(|lower| lower > 0);
        let measured = self.objective.measured.filter(|m| decided || claims(m))?;
        let truth = truth_of(self.history, &self.runner.plan, &spec.probe)?;
        let struck = self.fault(spec.after.as_deref()).and_then(|fault| self.struck(fault));
        let Some(struck) = struck else {
            return (self.objective.outcome == Outcome::Met).then(|| self.wrong(MET, "nothing was broken"));
        };
        let (stable, within) = (micros(spec.stable_for), micros(spec.within));
        let probe = self.runner.plan.probes.get(&spec.probe)?;
        let blur = micros(probe.every) + micros(probe.timeout);
        let mut real = vec![truth.recovery(struck, stable, i64::MAX)];
        // What only began once the steps had ended is not what the fault did; nor, if the fault was over by then, what only began
        // after the next one.
        let bad = truth.next(struck, false);
        let fault = self.fault(spec.after.as_deref());
        let over = fault.and_then(|fault| self.over(fault, struck));
        let next = fault.and_then(|fault| self.next_strike(fault, struck));
        let next = next.filter(|_| over.zip(bad).is_some_and(|(over, bad)| over <= bad + blur));
        if let Some(until) = [self.steps_ended(), next].into_iter().flatten().min()
            && let Some(bad) = bad
        {
            let is_another = bad >= until && over.is_none_or(|over| over <= bad || self.steps_ended() == Some(until));
            // Between two samples nobody can tell on which side of that it began, nor whether it was bad and good again: then either is right.
            if is_another && bad - until > blur {
                real = vec![Some(0)];
            } else if bad >= until {
                real.push(Some(0));
            } else if measured.lower == Some(0) {
                real.push(truth.recovery(struck, stable, until));
            }
        }
        let wrong = |real: Option<i64>| match (self.objective.outcome, real) {
            (Outcome::Met, None) => Some(self.wrong(MET, "it never recovered")),
            (Outcome::Met, Some(real)) if real > within => Some(self.wrong(MET, &format!("it took {real} us"))),
            (Outcome::Missed, Some(real)) if real <= within => Some(self.wrong(PROMISE, &format!("it took only {real} us"))),
            (_, Some(real)) if !measured.contains(real) => Some(self.wrong(PROMISE, &format!("it took {real} us"))),
            (_, None) if measured.upper.is_some() => Some(self.wrong(PROMISE, "it never recovered")),
            _ => None,
        };
        let wrong: Option<Vec<Violation>> = real.into_iter().map(wrong).collect();
        wrong?.into_iter().next()
    }

    fn availability(&self, spec: &Availability) -> Option<Violation> {
        let measured: Bracket = self.objective.measured?;
        let truth = truth_of(self.history, &self.runner.plan, &spec.probe)?;
        let from = self.fault(spec.after.as_deref()).and_then(|fault| self.injected(fault))?;
        let window = micros(spec.window?);
        let good = truth.good_within(from, from + window);
        let share = |us: i64| us.saturating_mul(1_000_000) / window;
        // The share is rounded outwards by up to one part in a million.
        let inside = measured.lower.is_none_or(|l| l <= share(good) + 1) && measured.upper.is_none_or(|u| u + 1 >= share(good));
        let target = self.objective.target_value.unwrap_or(0);
        let why = format!("it was good for {good} of {window} us");
        if self.objective.outcome == Outcome::Met && share(good) + 1 < target {
            return Some(self.wrong(MET, &why));
        }
        (!inside).then(|| self.wrong(PROMISE, &why))
    }

    /// A state at the end of the steps: as of the last sample, which is no older than a hole would be.
    fn state(&self, spec: &Check) -> Option<Violation> {
        if self.objective.outcome != Outcome::Met {
            return None;
        }
        let truth = truth_of(self.history, &self.runner.plan, &spec.probe)?;
        let over = self.steps_ended()?;
        let probe = self.runner.plan.probes.get(&spec.probe)?;
        let since = over - 3 * micros(probe.every) - 2 * micros(probe.timeout);
        let wanted = spec.state == ProbeState::Good;
        truth.next(since, wanted).is_none_or(|at| at > over).then(|| self.wrong(MET, "it was not so when the steps ended"))
    }
}

/// When pods that a drill has frozen since then no longer were: with the first signal of another kind after the drill's last one to stop them.
/// A later drill may well stop them again.
pub(super) fn thawed(signals: &[Sent], drill: &str, pods: &[String], since_us: i64) -> Option<i64> {
    let of_them = signals.iter().filter(|sent| sent.at_us >= since_us && pods.contains(&sent.uid));
    let stops = of_them.clone().filter(|sent| sent.signal == "STOP" && sent.is_of(drill));
    let last = stops.map(|sent| sent.at_us).max()?;
    of_them.filter(|sent| sent.at_us >= last && sent.signal != "STOP").map(|sent| sent.at_us).min()
}

fn micros(time: firedrill::scenario::types::Dur) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
