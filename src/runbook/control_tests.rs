//! Runbooks followed with a real shell and scripted people.

use std::{sync::Mutex, time::Duration};

use super::*;
use crate::scenario::types::{RunIn, Step};

/// Time enough for a shell to start.
const SOON: Duration = Duration::from_millis(300);

/// A plan of nothing: what a runbook reads of a plan is its limits.
fn plan() -> Plan {
    serde_json::from_value(serde_json::json!({
        "version": 1, "name": "t", "summary": "", "scenarioSha256": "", "parameters": {}, "environment": "e",
        "place": {"clusters": {"c": {"uid": "u"}}}, "clusterUid": "u", "clusterName": "c", "seed": 1,
        "limits": {"duration": "30s"}, "targets": {}, "probes": {}, "steadyState": null, "steps": [], "objectives": [],
        "abortIf": [], "leases": [], "scope": {"namespaces": [], "nodes": []}, "warnings": [], "rbac": [], "expected": ["0s", "0s"]
    }))
    .unwrap()
}

struct Said {
    events: Mutex<Vec<Event>>,
    asked: Mutex<Vec<Question>>,
}

/// Follows a runbook. Answers are given in order; when they run out nobody answers.
async fn follow(text: &str, answers: Vec<(Choice, &str)>, change: impl FnOnce(&mut RunbookCx)) -> ((StepOutcome, String), Arc<Said>) {
    follow_masked(text, answers, change, (Masks::default(), Vec::new())).await
}

async fn follow_masked(
    text: &str,
    answers: Vec<(Choice, &str)>,
    change: impl FnOnce(&mut RunbookCx),
    (masks, unreadable): (Masks, Vec<String>),
) -> ((StepOutcome, String), Arc<Said>) {
    let said = Arc::new(Said { events: Mutex::default(), asked: Mutex::default() });
    let (to_events, to_asked) = (said.clone(), said.clone());
    let answers: Mutex<std::collections::VecDeque<Answer>> = Mutex::new(
        answers.into_iter().map(|(choice, remark)| Answer { by: "ann".to_owned(), remark: remark.to_owned(), choice }).collect(),
    );
    let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let mut cx = RunbookCx {
        cluster: Cluster::from_client(client, "c", "u"),
        clock: Clock::host(),
        plan: Arc::new(plan()),
        drill: "d".to_owned(),
        emit: Arc::new(move |event| {
            to_events.events.lock().unwrap().push(event);
            Box::pin(async { Ok(()) })
        }),
        ask: Arc::new(move |question| {
            to_asked.asked.lock().unwrap().push(question);
            let answer = answers.lock().unwrap().pop_front();
            Box::pin(async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            })
        }),
        auto_ack: false,
        cancel: CancellationToken::new(),
        done: BTreeSet::new(),
    };
    change(&mut cx);
    let runbook = Runbook { run_in: Some(RunIn::default()), ..Runbook::default() };
    let step = PlannedStep {
        path: "3".to_owned(),
        title: "restore".to_owned(),
        spec: Step { runbook: Some(runbook.clone()), ..Step::default() },
        fault: None,
        undo: None,
        evicts: Vec::new(),
        volume: None,
        manifest: None,
        touches: Vec::new(),
        runbook_text: Some(text.to_owned()),
        children: Vec::new(),
    };
    let follow = Follow {
        cx: &cx,
        step: &step,
        runbook: &runbook,
        deadline: Instant::now() + Duration::from_secs(20),
        place: Some((Place::Here, masks, unreadable)),
        manual: 0,
    };
    let ended = follow.all(Work::Markdown(parse::parse(text).unwrap())).await.unwrap();
    (ended, said)
}

impl Said {
    /// `Started A 1`, `Acknowledged 3#1 ann`, `Deviation …`
    fn short(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let line = |event: &Event| match event {
            Event::RunbookStep(s) => format!("{:?} {} {}", s.state, s.title, s.attempt),
            Event::Acknowledged { step, by, refused, .. } => format!("Acknowledged {step} {by}{}", if *refused { " refused" } else { "" }),
            Event::Deviation { detail } => format!("Deviation {detail}"),
            other => format!("{other:?}"),
        };
        events.iter().map(line).collect()
    }

    fn details(&self) -> String {
        format!("{:?} {:?}", self.events.lock().unwrap(), self.asked.lock().unwrap())
    }
}

#[tokio::test]
async fn steps_run_in_order_and_people_are_waited_for() {
    let text = "# A\n```sh\necho one\n```\n- [ ] look at it\n# B\n- [ ] tell them\n```sh\necho two\n```\n";
    let ((outcome, detail), said) = follow(text, vec![(Choice::Done, ""), (Choice::Done, "told")], |_| {}).await;
    assert_eq!(outcome, StepOutcome::Succeeded, "{detail}");
    assert!(detail.starts_with("2 steps in "), "{detail}");
    assert_eq!(
        said.short(),
        ["Started A 1", "Acknowledged 3#1 ann", "Succeeded A 1", "Started B 1", "Acknowledged 3#2 ann", "Succeeded B 1"]
    );
    let asked: Vec<_> = said.asked.lock().unwrap().iter().map(|q| (q.step.clone(), q.text.clone(), q.failed)).collect();
    assert_eq!(asked, [("3#1".to_owned(), "look at it".to_owned(), false), ("3#2".to_owned(), "tell them".to_owned(), false)]);
    assert!(said.details().contains("exit code 0") && said.details().contains("one\\n"));
}

#[tokio::test]
async fn what_fails_stops_the_runbook() {
    let text = "# A\n```sh\necho before; exit 3\n```\n# B\n```sh\ntrue\n```\n";
    let ((outcome, detail), said) = follow(text, vec![(Choice::No, "")], |_| {}).await;
    assert_eq!(outcome, StepOutcome::Failed);
    assert!(detail.starts_with("step `A` (1 of 2): block at line 2: exit code 3 after "), "{detail}");
    assert_eq!(said.short(), ["Started A 1", "Failed A 1"]);
    assert_eq!(said.asked.lock().unwrap()[0].step, "3#step1");
}

#[tokio::test]
async fn a_retry_is_a_second_attempt_and_a_deviation() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("# A\n```sh\ncd {}\nif [ -e x ]; then exit 0; fi\ntouch x\nfalse\n```\n", dir.path().display());
    let ((outcome, _), said) = follow(&text, vec![(Choice::Retry, "a flaky disk")], |_| {}).await;
    assert_eq!(outcome, StepOutcome::Succeeded);
    let deviation = "Deviation runbook step `A` was tried again by ann after attempt 1: a flaky disk";
    assert_eq!(said.short(), ["Started A 1", "Failed A 1", deviation, "Started A 2", "Succeeded A 2"]);
}

#[tokio::test]
async fn a_skip_needs_a_reason() {
    let text = "# A\n```sh\nfalse\n```\n# B\n```sh\ntrue\n```\n";
    let ((outcome, detail), said) = follow(text, vec![(Choice::Skip, " "), (Choice::Skip, "done by hand")], |_| {}).await;
    assert_eq!((outcome, detail.contains("1 skipped")), (StepOutcome::Succeeded, true), "{detail}");
    let deviation = "Deviation runbook step `A` was skipped by ann: done by hand";
    assert_eq!(said.short(), ["Started A 1", "Failed A 1", "Skipped A 1", deviation, "Started B 1", "Succeeded B 1"]);
    assert!(said.asked.lock().unwrap()[1].text.contains("needs a reason"));
}

#[tokio::test]
async fn skipping_without_a_reason_again_and_again_gives_up() {
    let ((outcome, _), said) = follow("# A\n```sh\nfalse\n```\n", vec![(Choice::Skip, ""); 9], |_| {}).await;
    assert_eq!((outcome, said.asked.lock().unwrap().len()), (StepOutcome::Failed, 5));
}

#[tokio::test]
async fn auto_ack_is_a_deviation_and_forgives_no_failure() {
    let text = "# A\n- [ ] look\n# B\n```sh\nfalse\n```\n# C\n```sh\ntrue\n```\n";
    let ((outcome, detail), said) = follow(text, Vec::new(), |cx| cx.auto_ack = true).await;
    assert_eq!(outcome, StepOutcome::Failed, "{detail}");
    let deviation = "Deviation step 3#1: `look` was taken as done by --auto-ack; nobody did it";
    assert_eq!(said.short(), ["Started A 1", deviation, "Acknowledged 3#1 --auto-ack", "Succeeded A 1", "Started B 1", "Failed B 1"]);
    assert!(said.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_block_that_takes_too_long_is_ended() {
    let text = "# A\n<!-- within: 500ms -->\n```sh\necho begun\nsleep 65\n```\n";
    let ((outcome, detail), said) = follow(text, Vec::new(), |cx| cx.auto_ack = true).await;
    assert_eq!(outcome, StepOutcome::TimedOut);
    assert!(detail.contains("its time was over after 0.5") || detail.contains("its time was over after"), "{detail}");
    assert!(detail.contains("ended by SIGTERM"), "{detail}");
    assert_eq!(said.short(), ["Started A 1", "TimedOut A 1"]);
    assert!(said.details().contains("begun"));
}

#[tokio::test]
async fn a_person_who_does_not_answer_is_not_waited_for_for_ever() {
    let text = format!("# A\n<!-- within: {}ms -->\n- [ ] look\n", SOON.as_millis());
    let ((outcome, detail), said) = follow(&text, vec![], |cx| {
        // Nobody answers the question about the failure either: the whole runbook's time ends that.
        let ask = cx.ask.clone();
        cx.ask = Arc::new(move |q| {
            let failed = q.failed;
            let pending = ask(q);
            Box::pin(async move {
                if failed { Answer { by: "ann".to_owned(), remark: String::new(), choice: Choice::No } } else { pending.await }
            })
        });
    })
    .await;
    assert_eq!(outcome, StepOutcome::TimedOut);
    assert!(detail.contains("nobody said in time that `look` is done"), "{detail}");
    assert_eq!(said.short(), ["Started A 1", "TimedOut A 1"]);
}

#[tokio::test]
async fn a_person_may_say_no() {
    let ((outcome, detail), said) = follow("# A\n- [ ] look\n", vec![(Choice::No, "the disk is gone"), (Choice::No, "")], |_| {}).await;
    assert_eq!(outcome, StepOutcome::Failed);
    assert!(detail.contains("`look` could not be done, says ann: the disk is gone"), "{detail}");
    assert_eq!(said.short(), ["Started A 1", "Acknowledged 3#1 ann refused", "Failed A 1"]);
}

#[tokio::test]
async fn an_abort_ends_the_block_and_the_runbook() {
    let text = "# A\n```sh\nsleep 66\n```\n# B\n```sh\ntrue\n```\n";
    let ((outcome, detail), said) = follow(text, Vec::new(), |cx| {
        let cancel = cx.cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SOON).await;
            cancel.cancel();
        });
    })
    .await;
    assert_eq!(outcome, StepOutcome::Aborted, "{detail}");
    assert_eq!(said.short(), ["Started A 1", "Failed A 1"]);
}

#[tokio::test]
async fn a_resumed_runbook_goes_on_where_it_was() {
    let text = "# A\n```sh\nfalse\n```\n# B\n```sh\ntrue\n```\n";
    let ((outcome, _), said) = follow(text, Vec::new(), |cx| cx.done = BTreeSet::from([0])).await;
    assert_eq!(outcome, StepOutcome::Succeeded);
    assert_eq!(said.short(), ["Started B 1", "Succeeded B 1"]);
}

#[tokio::test]
async fn secrets_do_not_get_into_events_or_questions() {
    let mut masks = Masks::default();
    masks.add("password", b"hunter22");
    let text = "# A\n```sh\necho password is hunter22; printf hunter22 | base64 >&2; false\n```\n";
    let ((_, detail), said) = follow_masked(text, vec![(Choice::No, "")], |_| {}, (masks, Vec::new())).await;
    let all = format!("{detail} {}", said.details());
    assert!(all.contains("password is ***") && !all.contains("hunter22") && !all.contains("aHVudGVyMjI"), "{all}");
}

#[tokio::test]
async fn what_cannot_be_masked_is_not_kept() {
    let unreadable = vec!["failed to read Secret shop/db: forbidden".to_owned()];
    let ((outcome, _), said) = follow_masked("# A\n```sh\necho visible\n```\n", Vec::new(), |_| {}, (Masks::default(), unreadable)).await;
    assert_eq!(outcome, StepOutcome::Succeeded);
    assert!(said.details().contains("Secret shop/db: forbidden") && !said.details().contains("visible"));
}

#[test]
fn the_end_of_a_long_detail_is_kept_with_its_first_line() {
    let text = format!("exit code 1\n{}last", "ü".repeat(9000));
    let kept = end_of(&text, KEEP);
    assert!(kept.starts_with("exit code 1\n… ") && kept.ends_with("last") && kept.len() < KEEP + 400, "{}", kept.len());
}
