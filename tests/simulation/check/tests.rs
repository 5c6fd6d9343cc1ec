//! Each checker is seen to find its violation in a history made by hand, and to find none where there is none.

use firedrill::{
    clock::{ClockId, Stamp},
    fault::Undo,
    journal::{Event, NO_HASH, ProbeRun, Record, RunEnd, StepOutcome, Synced, TouchedObject},
    plan::{Plan, PlannedObjective, PlannedProbe, PlannedStep, ResolvedTarget},
    sandbox::AuditEntry,
    scenario::types::{
        Availability, Dur, FaultSpec, Limits, Mode, ObjectProbe, Objective, Percent, PodKill, Probe, ProbeState, RecoveryTime, Scale,
        Selector, Step, Target, Vantage,
    },
};
use serde_json::{Value, json};

use super::{durable, fenced, left, planned, same, scope, truth};
use crate::history::{End, History, Runner, Violation};

pub(super) const T0: i64 = 1_767_225_600_000_000;
pub(super) const SECOND: i64 = 1_000_000;
const DEPLOYMENT: &str = "uid-web";

fn stamp(us: i64) -> Stamp {
    Stamp { clock: ClockId("machine-0".into()), mono_us: us, wall_us: T0 + us }
}

/// Scales `web` from 3 to 1, then kills one pod of `app=api`; up to 3 pods and 1 object may be broken.
fn plan() -> Plan {
    let mut plan = Plan::empty("d");
    plan.leases = vec!["ns-shop".to_owned()];
    plan.limits = Limits { pods: 3, objects: 1, ..Limits::default() };
    let mut target =
        |name: &str, spec: Target| drop(plan.targets.insert(name.to_owned(), ResolvedTarget { spec, matched: 1, objects: Vec::new() }));
    let shop = || Some("shop".to_owned());
    target("web", Target { namespace: shop(), deployment: Some("web".to_owned()), ..Target::default() });
    target("api", Target { namespace: shop(), pods: Some(Selector("app=api".to_owned())), mode: Mode::One, ..Target::default() });
    let scale = FaultSpec { scale: Some(Scale { target: "web".to_owned(), replicas: 1 }), ..FaultSpec::default() };
    let kill = FaultSpec { pod_kill: Some(PodKill { target: "api".to_owned(), grace: None }), ..FaultSpec::default() };
    for (n, (title, fault)) in [("shrink", scale), ("kill", kill)].into_iter().enumerate() {
        plan.steps.push(PlannedStep {
            path: (n + 1).to_string(),
            title: title.to_owned(),
            spec: Step { inject: Some(fault), ..Step::default() },
            fault: u32::try_from(n).ok(),
            undo: None,
            touches: Vec::new(),
            evicts: Vec::new(),
            manifest: None,
            volume: None,
            runbook_text: None,
            children: Vec::new(),
        });
    }
    let cel = "has(object.status.readyReplicas) && object.status.readyReplicas == 3".to_owned();
    let object =
        ObjectProbe { api_version: "apps/v1".into(), kind: "Deployment".into(), namespace: Some("shop".into()), name: "web".into(), cel };
    let spec = Probe { object: Some(object), ..Probe::default() };
    let (every, timeout) = (Dur::from_millis(500), Dur::from_secs(1));
    plan.probes.insert("web".to_owned(), PlannedProbe { spec, every, timeout, from: Vantage::Runner });
    plan
}

fn runner(n: usize, drill: &str) -> Runner {
    Runner {
        user: format!("runner-{n}"),
        drill: drill.to_owned(),
        plan: plan(),
        lease_us: 8 * SECOND,
        clock: "machine-0".to_owned(),
        clock_us: -T0,
        journal: String::new(),
        syncs: Vec::new(),
        lived: vec![(T0, T0 + 100 * SECOND)],
        end: End::Over { clean: true, trouble: None },
    }
}

fn entry(
    at_us: i64,
    user: &str,
    verb: &str,
    (group, resource, sub): (&str, &str, &str),
    (namespace, name): (&str, &str),
    sent: Value,
) -> AuditEntry {
    AuditEntry {
        at_us: T0 + at_us,
        user: user.to_owned(),
        verb: verb.to_owned(),
        uri: String::new(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: sub.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        patch_type: String::new(),
        dry_run: false,
        code: 200,
        trouble: "",
        request: sent.to_string().into(),
    }
}

pub(super) fn lease(at_us: i64, user: &str, verb: &str, drill: &str) -> AuditEntry {
    let sent = json!({"metadata": {"name": "ns-shop"}, "spec": {"holderIdentity": format!("{drill}/{user}"), "leaseDurationSeconds": 8}});
    entry(at_us, user, verb, ("coordination.k8s.io", "leases", ""), ("firedrill", if verb == "create" { "" } else { "ns-shop" }), sent)
}

pub(super) fn record(at_us: i64, user: &str, lines: &str) -> AuditEntry {
    entry(at_us, user, "patch", ("", "configmaps", ""), ("firedrill", "firedrill-d"), json!({"data": {"events.jsonl": lines}}))
}

/// A patch of `web` that marks it with a drill, or takes the mark away.
fn scale(at_us: i64, user: &str, mark: Option<&str>, replicas: u32) -> AuditEntry {
    let sent = json!({"metadata": {"resourceVersion": "7", "uid": DEPLOYMENT, "labels": {"firedrill.dev/fault": mark}}, "spec": {"replicas": replicas}});
    entry(at_us, user, "patch", ("apps", "deployments", ""), ("shop", "web"), sent)
}

fn kill(at_us: i64, user: &str, uid: &str) -> AuditEntry {
    entry(at_us, user, "delete", ("", "pods", ""), ("shop", uid), json!({"preconditions": {"uid": uid}}))
}

fn pod(uid: &str, app: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"name": uid, "uid": uid, "namespace": "shop", "labels": {"app": app}}})
}

fn web(replicas: u32, mark: Option<&str>) -> Value {
    let labels = mark.map_or_else(|| json!({}), |mark| json!({"firedrill.dev/fault": mark}));
    json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "shop", "uid": DEPLOYMENT, "labels": labels},
           "spec": {"replicas": replicas}, "status": {"readyReplicas": replicas}})
}

fn line(seq: u64, at_us: i64, event: Event) -> String {
    serde_json::to_string(&Record { seq, prev: NO_HASH.to_owned(), at: stamp(at_us), event }).unwrap() + "\n"
}

pub(super) fn intent(seq: u64, fault: u32, uid: &str) -> String {
    let objects = vec![TouchedObject { kind: "Deployment".into(), namespace: "shop".into(), name: "web".into(), uid: uid.to_owned() }];
    let undo = Box::new(Undo::Deleted { pods: Vec::new(), owners: Vec::new() });
    line(seq, 0, Event::Intent { fault, step: (fault + 1).to_string(), undo, objects })
}

/// A drill as it should be: Lease, intent, fault, revert, Lease given back.
pub(super) fn good() -> History {
    let written = intent(5, 0, DEPLOYMENT);
    let mut one = runner(0, "d");
    one.syncs = vec![Synced { moment: 2, bytes: written.len() }];
    one.journal = written.clone();
    let audit = vec![
        lease(0, "runner-0", "create", "d"),
        record(SECOND, "runner-0", &written),
        scale(2 * SECOND, "runner-0", Some("d"), 1),
        lease(3 * SECOND, "runner-0", "update", "d"),
        scale(9 * SECOND, "runner-0", None, 3),
        lease(10 * SECOND, "runner-0", "delete", "d"),
    ];
    let all = vec![web(3, None), pod("api-0", "api"), pod("api-1", "api"), pod("web-0", "web")];
    History { audit, before: all.clone(), after: all, runners: vec![one], refused: None, signals: Vec::new() }
}

pub(super) fn changed(change: impl FnOnce(&mut History)) -> History {
    let mut history = good();
    change(&mut history);
    history
}

#[track_caller]
pub(super) fn finds(check: fn(&History) -> Vec<Violation>, history: &History, what: &str) {
    let found = check(history);
    assert!(found.iter().any(|v| v.evidence.contains(what)), "nothing about `{what}` in {found:#?}");
}

#[track_caller]
pub(super) fn finds_nothing(check: fn(&History) -> Vec<Violation>, history: &History) {
    assert_eq!(check(history), Vec::new());
}

#[test]
fn a_drill_as_it_should_be_is_let_pass() {
    assert_eq!(super::all(&good()), Vec::new());
}

#[test]
fn writes_outside_the_plan_are_found() {
    let with = |entry: AuditEntry| changed(|h| h.audit.insert(3, entry));
    finds(planned::check, &with(kill(SECOND, "runner-0", "web-0")), "no fault of the plan is about it");
    finds(planned::check, &with(kill(SECOND, "runner-0", "nobody")), "there never was");
    finds_nothing(planned::check, &with(kill(SECOND, "runner-0", "api-1")));
    let other = |entry: AuditEntry, name: &str| with(AuditEntry { name: name.to_owned(), ..entry });
    finds(planned::check, &other(scale(SECOND, "runner-0", Some("d"), 1), "api"), "no fault of the plan is about it");
    finds(planned::check, &other(lease(SECOND, "runner-0", "update", "d"), "ns-bank"), "Lease ns-bank is not in the plan");
    finds(planned::check, &other(record(SECOND, "runner-0", ""), "firedrill-e"), "not its drill's");
    let more = json!({"metadata": {"resourceVersion": "7", "labels": {"firedrill.dev/fault": "d", "team": "x"}}, "spec": {"replicas": 1, "paused": true}});
    let patch = entry(SECOND, "runner-0", "patch", ("apps", "deployments", ""), ("shop", "web"), more);
    finds(planned::check, &with(patch), "changes also team, paused");
    let blind = entry(SECOND, "runner-0", "patch", ("apps", "deployments", ""), ("shop", "web"), json!({"spec": {"replicas": 1}}));
    finds(planned::check, &with(blind), "no version");
    let secret = entry(SECOND, "runner-0", "create", ("", "secrets", ""), ("firedrill", ""), json!({"metadata": {"name": "x"}}));
    finds(planned::check, &with(secret), "none of its business");
    // What was refused or was a trial changed nothing, and others may do what they like.
    finds_nothing(planned::check, &with(AuditEntry { code: 409, ..kill(SECOND, "runner-0", "web-0") }));
    finds_nothing(planned::check, &with(AuditEntry { dry_run: true, ..kill(SECOND, "runner-0", "web-0") }));
    finds_nothing(planned::check, &with(kill(SECOND, "somebody", "web-0")));
    // Carried out, though its answer was lost.
    finds(planned::check, &with(AuditEntry { trouble: "lost", ..kill(SECOND, "runner-0", "web-0") }), "no fault");
}

#[test]
fn limits_that_are_exceeded_are_found() {
    finds_nothing(planned::limits, &good());
    let one = changed(|h| h.audit.insert(4, kill(4 * SECOND, "runner-0", "api-0")));
    finds_nothing(planned::limits, &one);
    let mut two = one.clone();
    two.audit.insert(5, kill(4 * SECOND, "runner-0", "api-1"));
    finds(planned::limits, &two, "4 pods broken, and limits.pods is 3");
    let loose = |mut history: History| {
        history.runners[0].plan.limits.pods = 9;
        history
    };
    finds(planned::limits, &loose(two), "2 pods killed where one was meant");
    let more = changed(|h| {
        let cron = json!({"metadata": {"resourceVersion": "7", "uid": "uid-cron", "labels": {"firedrill.dev/fault": "d"}}, "spec": {"suspend": true}});
        h.audit.insert(4, entry(4 * SECOND, "runner-0", "patch", ("batch", "cronjobs", ""), ("shop", "backup"), cron));
    });
    finds(planned::limits, &more, "2 objects broken");
    // Somebody has scaled it up since the plan was made: more pods go.
    let up = changed(|h| h.audit.insert(2, scale(SECOND, "somebody", None, 5)));
    finds(planned::limits, &up, "4 pods broken");
}

#[test]
fn a_fault_before_its_intent_is_found() {
    finds_nothing(durable::check, &good());
    finds(durable::check, &changed(|h| h.audit.swap(1, 2)), "in the record in the cluster");
    finds(durable::check, &changed(|h| h.audit[1].code = 500), "in the record in the cluster");
    finds(durable::check, &changed(|h| h.runners[0].syncs[0].moment = 3), "in what was synced");
    finds(durable::check, &changed(|h| h.runners[0].syncs[0].bytes -= 1), "in what was synced");
    finds(durable::check, &changed(|h| h.runners[0].syncs.clear()), "in what was synced");
    finds(durable::check, &changed(|h| h.audit.insert(3, kill(3 * SECOND, "runner-0", "api-0"))), "uid api-0");
}

#[test]
fn what_is_left_and_not_reported_is_found() {
    let left_over = |after: Value| changed(|h| h.after[0] = after);
    finds(left::check, &left_over(web(3, Some("d"))), "is marked d");
    finds(left::check, &left_over(web(1, None)), "\"replicas\":1");
    finds(left::check, &changed(|h| drop(h.after.remove(0))), "Deployment web is gone");
    let in_own =
        |name: &str| json!({"kind": "Lease", "metadata": {"name": name, "namespace": "firedrill", "labels": {"firedrill.dev/drill": "d"}}});
    let lease = changed(|h| h.after.push(in_own("ns-shop")));
    finds(left::check, &lease, "Lease firedrill/ns-shop is left");
    let unready =
        json!({"kind": "Deployment", "metadata": web(3, None)["metadata"], "spec": {"replicas": 3}, "status": {"readyReplicas": 2}});
    finds(left::check, &left_over(unready), "has 2 ready and had 3");
    // Reported, it is no broken promise; by one who said nothing of the cluster, it is not reported.
    let said = |mut history: History, end: End| {
        history.runners[0].end = end;
        history
    };
    let marked = || left_over(web(1, Some("d")));
    finds_nothing(left::check, &said(marked(), End::Over { clean: false, trouble: None }));
    finds(left::check, &said(marked(), End::Died), "is marked d");
    finds(left::check, &said(good(), End::Circles), "goes round in circles");
    // The last word counts.
    let mut twice = said(marked(), End::Over { clean: false, trouble: None });
    twice.runners.push(runner(1, "d"));
    finds(left::check, &twice, "is marked d");
    // What people have set is theirs.
    let theirs = changed(|h| {
        h.audit.push(scale(11 * SECOND, "somebody", None, 5));
        h.after[0] = web(5, None);
    });
    finds_nothing(left::check, &theirs);
}

#[test]
fn two_drills_in_one_scope_are_found() {
    finds_nothing(scope::check, &good());
    finds(scope::check, &changed(|h| drop(h.audit.remove(0))), "Lease ns-shop");
    finds(scope::check, &changed(|h| h.audit.swap(4, 5)), "nobody holds Lease ns-shop");
    let second = |at: i64| {
        changed(|h| {
            h.runners.push(runner(1, "e"));
            h.audit.insert(4, lease(at, "runner-1", "update", "e"));
        })
    };
    finds(scope::check, &second(8 * SECOND), "is taken from d/runner-0, renewed 5000000 us before");
    // Once it has run out it may be taken; but then the first one may not revert.
    finds(scope::check, &second(11 * SECOND), "Lease ns-shop is held by e/runner-1");
    let stolen = changed(|h| {
        h.runners.push(runner(1, "e"));
        h.audit.truncate(3);
        h.audit.push(lease(20 * SECOND, "runner-1", "update", "e"));
        h.audit.push(scale(21 * SECOND, "runner-1", Some("e"), 1));
    });
    finds(scope::check, &stolen, "it is marked by d");
    let deleted = changed(|h| {
        h.runners.push(runner(1, "e"));
        h.audit[5] = lease(10 * SECOND, "runner-1", "delete", "e");
    });
    finds(scope::check, &deleted, "that another runner holds is deleted");
}

#[test]
fn a_runner_that_writes_after_fencing_is_found() {
    finds_nothing(fenced::check, &good());
    let taken_over = |entry: AuditEntry| {
        changed(|h| {
            h.runners.push(runner(1, "d"));
            h.audit.truncate(4);
            h.audit.push(lease(12 * SECOND, "runner-1", "update", "d"));
            h.audit.push(entry);
        })
    };
    finds(fenced::check, &taken_over(scale(13 * SECOND, "runner-0", None, 3)), "taken over from at request 4");
    finds(fenced::check, &taken_over(record(13 * SECOND, "runner-0", "")), "taken over from at request 4");
    finds_nothing(fenced::check, &taken_over(scale(13 * SECOND, "runner-1", None, 3)));
    finds_nothing(fenced::check, &taken_over(AuditEntry { code: 409, ..record(13 * SECOND, "runner-0", "") }));
    // Expired by its own clock, though nobody has taken it.
    finds(fenced::check, &changed(|h| h.audit[4].at_us = T0 + 11 * SECOND + 1), "was last renewed 8000001 us before");
    finds(fenced::check, &changed(|h| drop(h.audit.remove(0))), "");
    let lost = changed(|h| h.audit[3].code = 500);
    finds(fenced::check, &lost, "was last renewed 9000000 us before");
}

/// `web` was really bad from 2 s to `back_s`, and the journal says that it was seen bad until `seen_s`.
fn measured(back_s: i64, seen_s: i64, objective: Objective) -> History {
    let mut history = good();
    let status = |at_us, ready: u32| {
        entry(
            at_us,
            "system:controller",
            "update",
            ("apps", "deployments", "status"),
            ("shop", "web"),
            json!({"status": {"readyReplicas": ready}}),
        )
    };
    history.audit.insert(3, status(2 * SECOND, 1));
    history.audit.push(status(back_s * SECOND, 3));
    let runner = &mut history.runners[0];
    runner.plan.objectives = vec![PlannedObjective { name: "o".to_owned(), spec: objective }];
    let run = |state, from: i64, to: i64| {
        let (first, last) = (from * SECOND, to * SECOND);
        Event::Run(ProbeRun {
            probe: "web".to_owned(),
            state,
            first_send: stamp(first),
            first_complete: stamp(first),
            last_send: stamp(last),
            last_complete: stamp(last),
            count: 2 * (to - from).unsigned_abs() + 1,
            slowest_us: 0,
            widest_us: 500_000,
            detail: String::new(),
            ended: RunEnd::Change,
        })
    };
    let started = Event::Started {
        drill: "d".to_owned(),
        plan: Box::new(runner.plan.clone()),
        by: String::new(),
        version: String::new(),
        sandbox: true,
    };
    let half = |state, from: i64, to_ms: i64| match run(state, from, from) {
        Event::Run(run) => Event::Run(ProbeRun { last_send: stamp(to_ms * 1000), last_complete: stamp(to_ms * 1000), count: 9, ..run }),
        other => other,
    };
    let events = [started, half(ProbeState::Good, 0, 2_000), Event::StepStarted { step: "1".to_owned(), start: stamp(2 * SECOND) }];
    let mut lines: Vec<String> = events.into_iter().enumerate().map(|(n, event)| line(n as u64, 0, event)).collect();
    lines.push(intent(3, 0, DEPLOYMENT));
    let bad_from = Event::Run(match run(ProbeState::Bad, 2, seen_s) {
        Event::Run(run) => ProbeRun { first_send: stamp(2_500_000), first_complete: stamp(2_500_000), ..run },
        _ => unreachable!("it is a run"),
    });
    let rest = [
        Event::Injected { fault: 0, start: stamp(2 * SECOND), end: stamp(2 * SECOND) },
        Event::Effective { fault: 0, at: stamp(2 * SECOND), proof: String::new() },
        Event::StepEnded { step: "1".to_owned(), outcome: StepOutcome::Succeeded, detail: String::new(), end: stamp(2 * SECOND) },
        bad_from,
        Event::Run(match run(ProbeState::Good, seen_s, seen_s + 8) {
            Event::Run(run) => {
                ProbeRun { first_send: stamp(seen_s * SECOND + 500_000), first_complete: stamp(seen_s * SECOND + 500_000), ..run }
            }
            _ => unreachable!("it is a run"),
        }),
        Event::StepsEnded { at: stamp((seen_s + 8) * SECOND) },
    ];
    lines.extend(rest.into_iter().enumerate().map(|(n, event)| line(n as u64 + 4, 0, event)));
    runner.journal = lines.concat();
    history
}

fn recovery(within_s: u64) -> Objective {
    let recovery = RecoveryTime {
        probe: "web".to_owned(),
        after: Some("shrink".to_owned()),
        within: Dur::from_secs(within_s),
        stable_for: Dur::from_secs(1),
        from: firedrill::scenario::types::From::Fault,
        alert: None,
    };
    Objective { recovery_time: Some(recovery), ..Objective::default() }
}

#[test]
fn verdicts_that_are_not_so_are_found() {
    // Seen bad until 5 s, good from 5.5 s on: 3 s to 3.5 s.
    finds_nothing(truth::check, &measured(5, 5, recovery(10)));
    finds(truth::check, &measured(9, 5, recovery(10)), "it took 7000000 us; the verdict is met");
    finds(truth::check, &measured(30, 5, recovery(10)), "it took 28000000 us; the verdict is met");
    finds(truth::check, &measured(3, 5, recovery(2)), "it took only 1000000 us; the verdict is missed");
    finds_nothing(truth::check, &measured(5, 5, recovery(2)));
    let share = |at_least| {
        let availability = Availability {
            probe: "web".to_owned(),
            after: Some("shrink".to_owned()),
            window: Some(Dur::from_secs(10)),
            at_least: Percent(at_least),
        };
        Objective { availability: Some(availability), ..Objective::default() }
    };
    finds_nothing(truth::check, &measured(5, 5, share(60.0)));
    finds(truth::check, &measured(11, 5, share(60.0)), "it was good for 1000000 of 10000000 us; the verdict is met");
}

#[test]
fn the_truth_is_read_as_it_is() {
    let series = truth::Series(vec![(i64::MIN, true), (10, false), (20, true), (22, false), (40, true)]);
    assert_eq!((series.at(9), series.at(10), series.at(20), series.at(100)), (true, false, true, true));
    let recovery = |fault, stable| series.recovery(fault, stable, i64::MAX);
    assert_eq!(recovery(5, 2), Some(15));
    // Good for too short a time is no recovery, unless what ended it is another outage.
    assert_eq!(recovery(5, 3), Some(35));
    assert_eq!((series.recovery(5, 3, 23), series.recovery(5, 3, 22)), (Some(35), Some(15)));
    assert_eq!(recovery(41, 3), Some(0));
    assert_eq!(truth::Series(vec![(i64::MIN, true), (10, false)]).recovery(5, 1, i64::MAX), None);
    assert_eq!(series.good_within(0, 50), 10 + 2 + 10);
}

#[test]
fn two_runs_that_differ_are_found() {
    assert_eq!(same(&good(), &good()), Vec::new());
    let other = changed(|h| h.runners[0].journal.push_str("x\n"));
    assert!(same(&good(), &other)[0].evidence.contains("line 2 is nothing and x"));
    let later = changed(|h| h.audit[3].at_us += 1);
    assert!(same(&good(), &later)[0].evidence.contains("request 3"));
    assert!(!same(&good(), &changed(|h| drop(h.audit.pop()))).is_empty());
    assert!(!same(&good(), &changed(|h| h.runners.clear())).is_empty());
    // Up to the first exec, and no further.
    let exec = entry(5 * SECOND, "runner-0", "create", ("", "pods", "exec"), ("firedrill", "helper"), json!({}));
    let with = |change: fn(&mut History)| {
        changed(|h| {
            h.audit.insert(4, exec.clone());
            change(h);
        })
    };
    assert_eq!(same(&with(|_| {}), &with(|h| h.audit[5].at_us += 1)), Vec::new());
    assert!(same(&with(|_| {}), &with(|h| h.audit[3].at_us += 1))[0].evidence.contains("request 3"));
    let later = |h: &mut History| h.runners[0].journal.push_str(&line(6, 6 * SECOND, Event::Note { text: "x".to_owned() }));
    assert_eq!(same(&with(|_| {}), &with(later)), Vec::new());
    let early = |h: &mut History| h.runners[0].journal.push_str(&line(6, 4 * SECOND, Event::Note { text: "x".to_owned() }));
    assert!(same(&with(|_| {}), &with(early))[0].evidence.contains("line 2"));
}
