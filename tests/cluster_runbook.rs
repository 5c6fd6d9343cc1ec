//! Runbooks on a real cluster with nodes: blocks in a pod made for them, their end when the time is over, secrets, Jobs,
//! digests of a database that a runbook started, and that nothing stays behind.

#[expect(dead_code, reason = "this suite needs less of it than others")]
mod support;

use std::{
    collections::BTreeSet,
    io::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use firedrill::{
    clock::Clock,
    journal::{DigestWhich, Event, Reading, RunbookState, RunbookStep, StepOutcome},
    plan::{Plan, PlannedStep},
    probe::digest,
    runbook::{self, Answer, Choice, RunbookCx},
    scenario::types::{Dur, Limits},
};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::{Node, PersistentVolumeClaim, Pod, Secret},
};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use support::{World, eventually, world};
use tokio_util::sync::CancellationToken;

/// An image with bash, coreutils and PostgreSQL that the testbed has on every node.
const IMAGE: &str = "localhost/postgres-ha:1";
const DRILL: &str = "a-drill-20261122-1200";

/// A world on a cluster that can run pods.
async fn nodes(test: &str) -> Option<World> {
    let world = world(test).await?;
    if Api::<Node>::all(world.client.clone()).list(&ListParams::default()).await.unwrap().items.is_empty() {
        let _ =
            writeln!(std::io::stderr(), "{test}: NOT RUN, the cluster of FIREDRILL_TEST_KUBECONFIG has no nodes: tests/testbed/testbed up");
        world.end().await;
        return None;
    }
    Some(world)
}

fn step(spec: &Value, text: Option<&str>) -> PlannedStep {
    let value = json!({"path": "2", "title": "restore", "spec": spec, "fault": null, "undo": null, "touches": [], "runbookText": text, "children": []});
    serde_json::from_value(value).unwrap()
}

fn plan(step: &PlannedStep, targets: &Value) -> Plan {
    let limits = Limits { duration: Dur::from_secs(600), ..Limits::default() };
    Plan { limits, targets: serde_json::from_value(targets.clone()).unwrap(), steps: vec![step.clone()], ..Plan::empty("t") }
}

struct Run {
    cx: RunbookCx,
    step: PlannedStep,
    events: Arc<Mutex<Vec<Event>>>,
}

fn prepare(world: &World, spec: &Value, text: Option<&str>, targets: &Value) -> Run {
    let events = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&events);
    let step = step(spec, text);
    let cx = RunbookCx {
        cluster: world.cluster.clone(),
        clock: Clock::host(),
        plan: Arc::new(plan(&step, targets)),
        drill: DRILL.to_owned(),
        emit: Arc::new(move |event| {
            to.lock().unwrap().push(event);
            Box::pin(async { Ok(()) })
        }),
        ask: Arc::new(|_| Box::pin(async { Answer { by: "ann".to_owned(), remark: String::new(), choice: Choice::No } })),
        auto_ack: false,
        cancel: CancellationToken::new(),
        done: BTreeSet::new(),
    };
    Run { cx, step, events }
}

impl Run {
    async fn follow(&self) -> (StepOutcome, String) {
        runbook::run(&self.cx, &self.step).await
    }

    fn steps(&self) -> Vec<RunbookStep> {
        let events = self.events.lock().unwrap();
        events.iter().filter_map(|e| if let Event::RunbookStep(s) = e { Some(s.clone()) } else { None }).collect()
    }
}

/// Removes what the drill made and looks that nothing of it is left, the claims of its new volumes included.
async fn clean(world: &World) {
    let left = runbook::cleanup(&world.cluster, DRILL, std::slice::from_ref(&world.namespace)).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    let list = ListParams::default().labels(&format!("firedrill.dev/drill={DRILL}"));
    assert!(world.api::<Pod>().list(&list).await.unwrap().items.is_empty());
    assert!(world.api::<Job>().list(&list).await.unwrap().items.is_empty());
    eventually("the new volume's claim is gone", async || world.api::<PersistentVolumeClaim>().list(&list).await.unwrap().items.is_empty())
        .await;
}

#[tokio::test]
async fn blocks_run_in_a_pod_of_their_own_and_end_with_their_time() {
    let Some(world) = nodes("blocks_run_in_a_pod_of_their_own_and_end_with_their_time").await else { return };
    world.create::<Secret>(json!({"metadata": {"name": "db"}, "stringData": {"password": "very-secret-word"}})).await;
    let job = json!({
        "namespace": world.namespace, "image": IMAGE, "runAsUser": 999, "fsGroup": 999, "env": {"WHAT": "restore"},
        "newVolumes": [{"path": "/data", "size": "16Mi", "storageClass": "fixed"}], "mounts": ["secret/db:/keys"], "envFromSecrets": ["db"]
    });
    let text = "# Use the volume\n```sh\necho \"$WHAT $FIREDRILL_DRILL\"; date > /data/file; df /data | tail -n 1; cat /keys/password; echo; printf %s \"$password\" | base64\n```\n\
                # See it again\n```bash\ncat /data/file; echo to-stderr >&2\n```\n\
                # Take too long\n<!-- within: 3s -->\n```sh\necho begun; sleep 4242 & sleep 4243\n```\n# Never\n```sh\ntrue\n```\n";
    let run = prepare(&world, &json!({"runbook": {"file": "r.md", "runIn": {"job": job}}}), Some(text), &json!({}));
    let (outcome, detail) = run.follow().await;
    let steps = run.steps();
    let states: Vec<_> = steps.iter().map(|s| (s.title.as_str(), s.state)).collect();
    let (started, succeeded) = (RunbookState::Started, RunbookState::Succeeded);
    assert_eq!(
        states,
        [
            ("Use the volume", started),
            ("Use the volume", succeeded),
            ("See it again", started),
            ("See it again", succeeded),
            ("Take too long", started),
            ("Take too long", RunbookState::TimedOut)
        ],
        "{detail} {steps:?}"
    );
    assert_eq!(outcome, StepOutcome::TimedOut);
    assert!(steps[1].detail.contains(&format!("restore {DRILL}\n")), "{}", steps[1].detail);
    assert!(steps[1].detail.contains("***") && !steps[1].detail.contains("very-secret-word"), "{}", steps[1].detail);
    assert!(!steps[1].detail.contains("dmVyeS1zZWNyZXQtd29yZA"), "{}", steps[1].detail);
    assert!(steps[3].detail.contains("to-stderr"), "{}", steps[3].detail);
    assert!(steps[5].detail.contains("ended by SIGTERM") && steps[5].detail.contains("begun"), "{}", steps[5].detail);
    // Seen from inside the container: no process of the block is left.
    let look = "# Look\n```sh\nfor f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f 2>/dev/null; echo; done | grep -c '^sleep 424[23]' && exit 1 || true\n```\n";
    let look = prepare(&world, &json!({"runbook": {"file": "r.md", "runIn": {"job": job}}}), Some(look), &json!({}));
    let (outcome, detail) = look.follow().await;
    assert_eq!(outcome, StepOutcome::Succeeded, "{detail} {:?}", look.steps());
    clean(&world).await;
    world.end().await;
}

#[tokio::test]
async fn an_abort_ends_what_runs_in_an_existing_pod() {
    let Some(world) = nodes("an_abort_ends_what_runs_in_an_existing_pod").await else { return };
    let containers = json!([{"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "600"]}]);
    let object = json!({"metadata": {"name": "web-0", "labels": {"app": "web"}}, "spec": {"containers": containers, "terminationGracePeriodSeconds": 0}});
    world.create::<Pod>(object).await;
    let targets = json!({"web": {"spec": {"namespace": world.namespace, "pods": "app=web"}, "objects": [], "matched": 0}});
    let spec = json!({"runbook": {"file": "r.md", "runIn": {"target": "web"}}});
    let text = "# Wait\n```sh\ntouch /tmp/begun; exec sleep 4244\n```\n";
    let run = prepare(&world, &spec, Some(text), &targets);
    eventually("the pod is ready", async || runbook::in_target(&world.cluster, &run.cx.plan, "web").await.is_ok()).await;
    let cancel = run.cx.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        cancel.cancel();
    });
    let (outcome, detail) = run.follow().await;
    assert_eq!(outcome, StepOutcome::Aborted, "{detail}");
    assert!(detail.contains("ended by SIGTERM"), "{detail} {:?}", run.steps());
    world.end().await;
}

#[tokio::test]
async fn a_job_is_started_from_its_template_followed_and_removed() {
    let Some(world) = nodes("a_job_is_started_from_its_template_followed_and_removed").await else { return };
    for (name, script) in
        [("good", "echo copied everything"), ("bad", "echo no space left; exit 3"), ("slow", "echo begun; exec sleep 600")]
    {
        let container = json!({"name": "b", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]});
        let pod = json!({"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}});
        let template = json!({"spec": {"backoffLimit": 0, "template": pod}});
        world.create::<CronJob>(json!({"metadata": {"name": name}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": template}})).await;
    }
    let follow = async |name: &str| {
        let spec = json!({"runbook": {"cronJob": format!("{}/{name}", world.namespace), "stepWithin": "8s"}});
        let mut run = prepare(&world, &spec, None, &json!({}));
        run.step.path = format!("2-{name}");
        let ended = run.follow().await;
        (ended, run.steps())
    };
    let ((outcome, detail), steps) = follow("good").await;
    assert_eq!(outcome, StepOutcome::Succeeded, "{detail}");
    assert!(steps[1].detail.contains("copied everything"), "{steps:?}");
    let ((outcome, detail), steps) = follow("bad").await;
    assert_eq!(outcome, StepOutcome::Failed, "{detail}");
    assert!(steps[1].detail.contains("no space left") && detail.contains("BackoffLimitExceeded"), "{detail} {steps:?}");
    let ((outcome, detail), steps) = follow("slow").await;
    assert_eq!(outcome, StepOutcome::TimedOut, "{detail}");
    assert!(steps[1].detail.contains("was deleted with its pods"), "{steps:?}");
    let ((outcome, detail), _) = follow("absent").await;
    assert_eq!(outcome, StepOutcome::Failed);
    assert!(detail.contains("neither a CronJob nor a Job"), "{detail}");
    clean(&world).await;
    world.end().await;
}

/// Two databases in one server that the runbook makes: equal rows in another order, then one row changed, missing, doubled.
#[tokio::test]
async fn digests_are_equal_exactly_when_the_rows_are() {
    let Some(world) = nodes("digests_are_equal_exactly_when_the_rows_are").await else { return };
    world
        .create::<Secret>(json!({"metadata": {"name": "db"}, "stringData": {"username": "postgres", "password": "very-secret-word"}}))
        .await;
    let job = json!({"namespace": world.namespace, "image": IMAGE, "runAsUser": 999, "fsGroup": 999, "envFromSecrets": ["db"]});
    let sql =
        |database: &str, statement: &str| format!("psql -h /tmp -U postgres -d {database} -qX -v ON_ERROR_STOP=1 -c \"{statement}\"\n");
    let rows = |order: &str| {
        format!(
            "create table t as select i as id, i * 1.5 as n, 'row ' || i as name, now() - now() as zero from generate_series(1, 20000) i order by i {order}"
        )
    };
    let mut text = "# Start\n```sh\nprintf %s \"$password\" >/tmp/pw; initdb -D /tmp/pg -U postgres --pwfile /tmp/pw -A scram-sha-256 --auth-local trust >/dev/null\n\
                    pg_ctl -D /tmp/pg -l /tmp/log -w -o '-c unix_socket_directories=/tmp -c listen_addresses=*' start >/dev/null\n"
        .to_owned();
    for database in ["source", "same", "changed", "missing", "doubled", "nothing"] {
        text.push_str(&format!("createdb -h /tmp -U postgres {database}\n"));
        text.push_str(&sql(database, &rows(if database == "source" { "asc" } else { "desc" })));
    }
    text.push_str(&sql("changed", "update t set n = n + 0.001 where id = 4711"));
    text.push_str(&sql("missing", "delete from t where id = 4711"));
    text.push_str(&sql("doubled", "delete from t where id = 4711; insert into t select * from t where id = 4712"));
    text.push_str(&sql("nothing", "truncate t"));
    text.push_str("```\n");
    let run = prepare(&world, &json!({"runbook": {"file": "r.md", "runIn": {"job": job}}}), Some(&text), &json!({}));
    let (outcome, detail) = run.follow().await;
    assert_eq!(outcome, StepOutcome::Succeeded, "{detail} {:?}", run.steps());
    let read = async |database: &str, query: &str| {
        let secret = format!("{}/db", world.namespace);
        let side = serde_json::from_value(json!({"postgres": {"runbook": "restore", "database": database, "secret": secret}})).unwrap();
        digest::read(&world.cluster, &run.cx.plan, DRILL, &side, query, DigestWhich::Restored, Duration::from_secs(30)).await
    };
    let query = "select * from t order by id -- all";
    let digest_of = async |database: &str| match read(database, query).await {
        Reading::Digest { digest, rows, .. } => (digest, rows),
        other => panic!("{other:?}"),
    };
    let source = digest_of("source").await;
    assert_eq!((source.1, source.0.len()), (20_000, 32));
    assert_eq!(digest_of("same").await, source, "the order of rows on disk must not matter");
    for (database, rows) in [("changed", 20_000), ("missing", 19_999), ("doubled", 20_000), ("nothing", 0)] {
        let other = digest_of(database).await;
        assert_eq!(other.1, rows, "{database}");
        assert_ne!(other.0, source.0, "{database}");
    }
    let failed = |reading: Reading| if let Reading::Failed { detail } = reading { detail } else { panic!("{reading:?}") };
    assert!(failed(read("source", "select * from nowhere").await).contains("42P01"));
    // Read-only: nothing a query says can change the database.
    assert!(failed(read("source", "delete from t returning *").await).contains("SQLSTATE"));
    assert!(failed(read("absent", query).await).contains("does not exist"));
    assert_eq!(digest_of("source").await, source);
    clean(&world).await;
    assert!(failed(read("source", query).await).contains("failed to connect"));
    world.end().await;
}
