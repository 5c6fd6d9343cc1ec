//! What node helpers did to processes: within the plan, after a durable intent, by the drill that holds the Lease, undone at the end, and
//! undone by themselves when no runner is left to renew their time to live.

use std::collections::{BTreeMap, BTreeSet};

use firedrill::plan::Plan;
use serde_json::Value;

use super::{durable, planned};
use crate::history::{End, History, OWN, Runner, Sent, Violation, done, text, violation};

const PLANNED: &str = "no write outside the plan";
const DURABLE: &str = "no inject before a durable intent";
const SCOPE: &str = "never two drills in one scope";
const GONE: &str = "every fault is gone at the end or reported as not clean";
const FREE: &str = "what is frozen goes on by itself when nobody renews";

/// How long a helper lives without a renewal (`HELPER_TTL` of the engine), and how much later its undo may be seen.
const TTL_US: i64 = 30_000_000;
const LATE_US: i64 = 2_000_000;

pub(super) fn check(history: &History) -> Vec<Violation> {
    let pods = history.pods();
    let mut found = Vec::new();
    // A pod that is held down is hit again and again; the first time says it all.
    let mut hit = BTreeSet::new();
    for sent in history.signals.iter().filter(|sent| sent.breaks() && hit.insert((&sent.by, &sent.uid, &sent.signal))) {
        let Some(runner) = of(history, sent) else {
            found.push(violation(PLANNED, format!("no drill has such a helper: {sent:?}")));
            continue;
        };
        if !aims_at(&runner.plan, pods.get(&sent.uid)) {
            found.push(violation(PLANNED, format!("no fault of the plan stops or kills a process of that pod: {sent:?}")));
        }
        found.extend(intended(history, sent, &runner.drill));
        found.extend(leased(history, sent, &runner.drill));
    }
    found.extend(left(history));
    found.extend(held_for_nobody(history));
    found
}

/// A runner of the drill that a signal was sent for.
fn of<'a>(history: &'a History, sent: &Sent) -> Option<&'a Runner> {
    history.runners.iter().find(|runner| sent.is_of(&runner.drill))
}

fn aims_at(plan: &Plan, pod: Option<&Value>) -> bool {
    let Some(pod) = pod else { return false };
    plan.leaf_steps().into_iter().filter_map(|step| planned::fault_of(plan, step)).any(|(fault, target)| {
        let by_processes = fault.freeze.is_some() || fault.crash.is_some();
        by_processes && target.namespace.as_deref() == pod["metadata"]["namespace"].as_str() && planned::selects(target, pod)
    })
}

/// The intent is in the record in the cluster, and in what was synced of a runner's journal, before the process is touched.
fn intended(history: &History, sent: &Sent, drill: &str) -> Vec<Violation> {
    let number = history.audit.iter().take_while(|entry| entry.at_us <= sent.at_us).count();
    let mut found = Vec::new();
    let mut own = history.runners.iter().filter(|runner| runner.drill == drill);
    if !own.any(|runner| durable::synced(runner, number).contains(&sent.uid)) {
        found.push(violation(DURABLE, format!("no intent in what was synced of the journal: {sent:?}")));
    }
    let records = history.written().filter(|(n, entry, runner)| *n < number && runner.drill == drill && durable::is_record(entry));
    let recorded = records.map(|(_, entry, _)| durable::recorded(entry)).filter(|known| !known.is_empty()).last();
    if !recorded.is_some_and(|known| known.contains(&sent.uid)) {
        found.push(violation(DURABLE, format!("no intent in the record in the cluster: {sent:?}")));
    }
    found
}

/// Nobody else's drill holds the namespace's Lease.
fn leased(history: &History, sent: &Sent, drill: &str) -> Option<Violation> {
    let mut holder: Option<String> = None;
    let leases = history.audit.iter().filter(|e| e.at_us <= sent.at_us && done(e) && e.resource == "leases" && e.namespace == OWN);
    for entry in leases {
        let sent = entry.request_object().unwrap_or_default();
        holder = (entry.verb != "delete").then(|| text(&sent["spec"]["holderIdentity"]).split('/').next().unwrap_or_default().to_owned());
    }
    let other = holder.filter(|holder| holder != drill)?;
    Some(violation(SCOPE, format!("its Lease is held by {other}: {sent:?}")))
}

/// A process and the signals that it got, in order.
fn by_process(history: &History) -> BTreeMap<(&str, i64), Vec<&Sent>> {
    let mut all: BTreeMap<(&str, i64), Vec<&Sent>> = BTreeMap::new();
    for sent in &history.signals {
        all.entry((sent.uid.as_str(), sent.pid)).or_default().push(sent);
    }
    all
}

/// Processes of pods that are still there, stopped, though the last runner called it clean.
fn left(history: &History) -> Vec<Violation> {
    let there: BTreeSet<&str> =
        history.after.iter().filter(|o| o["kind"] == "Pod").filter_map(|pod| pod["metadata"]["uid"].as_str()).collect();
    let stopped = by_process(history).into_values().filter_map(|all| all.last().copied().filter(|last| last.signal == "STOP"));
    let mut found = Vec::new();
    for sent in stopped.filter(|sent| there.contains(sent.uid.as_str())) {
        let own = history.runners.iter().filter(|runner| sent.is_of(&runner.drill));
        let mut said = own.filter_map(|runner| match &runner.end {
            End::Over { clean, .. } => Some(*clean),
            End::Refused(_) | End::Died | End::Circles => None,
        });
        if said.next_back() != Some(false) {
            found.push(violation(GONE, format!("a process is still stopped: {sent:?}")));
        }
    }
    found
}

/// Processes that stayed stopped for longer than a helper lives, while no runner of the drill was awake.
fn held_for_nobody(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for all in by_process(history).into_values() {
        let mut since: Option<&Sent> = None;
        for sent in all {
            if sent.signal == "STOP" {
                since.get_or_insert(sent);
                continue;
            }
            if let Some(stop) = since.take() {
                let alone_us = alone(history, stop, sent.at_us);
                if alone_us > TTL_US + LATE_US {
                    found.push(violation(
                        FREE,
                        format!("for {alone_us} us nobody was there, and it went on only at {}: {stop:?}", sent.at_us),
                    ));
                }
            }
        }
    }
    found
}

/// The longest time within which no runner of a signal's drill was awake.
fn alone(history: &History, stop: &Sent, until_us: i64) -> i64 {
    let own = history.runners.iter().filter(|runner| stop.is_of(&runner.drill));
    let mut awake: Vec<(i64, i64)> = own.flat_map(|runner| runner.lived.iter().copied()).collect();
    awake.sort_unstable();
    let (mut longest, mut reached) = (0, stop.at_us);
    for (from, to) in awake.into_iter().filter(|(from, to)| *to > stop.at_us && *from < until_us) {
        longest = longest.max(from - reached);
        reached = reached.max(to);
    }
    longest.max(until_us - reached)
}

mod tests {
    use firedrill::{
        plan::PlannedStep,
        scenario::types::{FaultSpec, OnTarget, Step},
    };

    use super::{
        super::tests::{SECOND, T0, changed, finds, finds_nothing, good, intent, lease, record},
        super::truth,
        *,
    };

    fn sent(at_s: i64, uid: &str, signal: &str) -> Sent {
        let (by, uid, signal) = ("node-helper-d-n0".to_owned(), uid.to_owned(), signal.to_owned());
        Sent { at_us: T0 + at_s * SECOND, by, uid, pid: 7, signal }
    }

    /// A drill that also freezes `api-0` from 4 to 8 s.
    fn frozen() -> History {
        changed(|h| {
            let written = h.runners[0].journal.clone() + &intent(6, 2, "api-0");
            h.runners[0].syncs[0].bytes = written.len();
            h.runners[0].journal.clone_from(&written);
            h.audit[1] = record(SECOND, "runner-0", &written);
            let freeze = FaultSpec { freeze: Some(OnTarget { target: "api".to_owned() }), ..FaultSpec::default() };
            h.runners[0].plan.steps.push(PlannedStep {
                path: "3".to_owned(),
                title: "freeze".to_owned(),
                spec: Step { inject: Some(freeze), ..Step::default() },
                fault: Some(2),
                undo: None,
                evicts: Vec::new(),
                manifest: None,
                volume: None,
                touches: Vec::new(),
                runbook_text: None,
                children: Vec::new(),
            });
            h.signals = vec![sent(4, "api-0", "STOP"), sent(8, "api-0", "CONT")];
        })
    }

    fn with(change: impl FnOnce(&mut History)) -> History {
        let mut history = frozen();
        change(&mut history);
        history
    }

    #[test]
    fn a_freeze_as_it_should_be_is_let_pass() {
        assert_eq!(super::super::all(&frozen()), Vec::new());
    }

    #[test]
    fn processes_that_the_plan_does_not_mean_are_found() {
        finds(check, &with(|h| h.signals[0].uid = "web-0".to_owned()), "no fault of the plan stops or kills");
        finds(check, &with(|h| h.signals[0].uid = "nobody".to_owned()), "no fault of the plan stops or kills");
        finds(check, &with(|h| h.signals[0].by = "node-helper-e-n0".to_owned()), "no drill has such a helper");
        finds(check, &with(|h| drop(h.runners[0].plan.steps.pop())), "no fault of the plan stops or kills");
        // Two scaled away, and two that were hit.
        let both = with(|h| h.signals.insert(1, sent(5, "api-1", "KILL")));
        finds(planned::limits, &both, "4 pods broken, and limits.pods is 3");
        finds_nothing(planned::limits, &frozen());
    }

    #[test]
    fn processes_touched_before_a_durable_intent_are_found() {
        finds(check, &with(|h| h.signals[0].at_us = T0), "no intent in the record in the cluster");
        finds(check, &with(|h| h.audit[1].code = 500), "no intent in the record in the cluster");
        finds(check, &with(|h| h.runners[0].syncs[0].bytes -= 1), "no intent in what was synced");
        finds(check, &with(|h| h.runners[0].syncs[0].moment = 5), "no intent in what was synced");
    }

    #[test]
    fn processes_touched_while_another_drill_has_the_lease_are_found() {
        finds(check, &with(|h| h.audit.insert(4, lease(3 * SECOND, "runner-9", "update", "e"))), "its Lease is held by e");
    }

    #[test]
    fn processes_that_stay_stopped_are_found() {
        let left = with(|h| drop(h.signals.pop()));
        finds(check, &left, "still stopped");
        // Its pod is gone, or it was said.
        finds_nothing(check, &with(|h| (h.after.retain(|o| o["metadata"]["uid"] != "api-0"), drop(h.signals.pop())).1));
        finds_nothing(
            check,
            &with(|h| {
                h.runners[0].end = End::Over { clean: false, trouble: None };
                h.signals.pop();
            }),
        );
    }

    #[test]
    fn what_a_later_drill_freezes_is_another_fault() {
        let later = |signal: &str, at_s: i64| Sent { by: "node-helper-e-n0".to_owned(), ..sent(at_s, "api-0", signal) };
        let signals = [sent(4, "api-0", "STOP"), sent(8, "api-0", "CONT"), later("STOP", 20), later("CONT", 30)];
        let thawed = |drill: &str, since_s: i64| truth::thawed(&signals, drill, &["api-0".to_owned()], T0 + since_s * SECOND);
        assert_eq!(thawed("d", 4), Some(T0 + 8 * SECOND));
        assert_eq!(thawed("e", 20), Some(T0 + 30 * SECOND));
        assert_eq!((thawed("d", 9), thawed("f", 0)), (None, None));
    }

    #[test]
    fn what_stays_frozen_without_a_runner_is_found() {
        let dead = |dies_s: i64, thaws_s: i64| {
            with(|h| {
                h.runners[0].lived = vec![(T0, T0 + dies_s * SECOND)];
                h.signals[1].at_us = T0 + thaws_s * SECOND;
            })
        };
        finds_nothing(check, &dead(6, 35));
        finds(check, &dead(6, 40), "for 34000000 us nobody was there");
        // One that sleeps renews nothing, and one that comes later renews again.
        finds(
            check,
            &with(|h| {
                h.runners[0].lived = vec![(T0, T0 + 5 * SECOND), (T0 + 50 * SECOND, T0 + 90 * SECOND)];
                h.signals[1].at_us = T0 + 60 * SECOND;
            }),
            "for 45000000 us nobody was there",
        );
        finds_nothing(
            check,
            &with(|h| {
                h.runners[0].lived = vec![(T0, T0 + 5 * SECOND), (T0 + 30 * SECOND, T0 + 90 * SECOND)];
                h.signals[1].at_us = T0 + 80 * SECOND;
            }),
        );
        assert!(good().signals.is_empty());
    }
}
