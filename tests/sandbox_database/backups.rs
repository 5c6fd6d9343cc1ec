//! Backups: taken by the CronJob, known to the tool, restored by the shipped runbook; and each way in which they can be worth nothing.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::Pod,
    serde_json::{self, Value, json},
};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};

use super::world::{self, World, Writer, knob};
use firedrill::sandbox::Signal;

const RESTORE: &str = include_str!("../../scenarios/restore-from-backup/runbooks/restore-orders.md");
const REJOIN: &str = include_str!("../../scenarios/lose-database-primary/runbooks/rejoin-old-primary.md");
const JOB: &str = "orders-backup";

/// The shell blocks of a runbook.
fn blocks(runbook: &str) -> Vec<&str> {
    runbook.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// What the tool says in a member's pod of one repository.
async fn info(world: &World, repository: u32) -> Value {
    let member = world.leader().await;
    let repo = format!("--repo={repository}");
    let (code, out, err) = world.exec(&member, "pgbackrest", &["pgbackrest", "info", "--output=json", "--stanza=orders", &repo]).await;
    assert_eq!(code, 0, "{err}");
    serde_json::from_str::<Value>(&out).unwrap()[0].clone()
}

async fn backups(world: &World, repository: u32) -> Vec<Value> {
    info(world, repository).await["backup"].as_array().unwrap().clone()
}

async fn until_backups(world: &World, repository: u32, count: usize) {
    let secs = 100 * count as u64 + 700 * u64::from(repository - 1);
    world.until("backups are there", secs, async || backups(world, repository).await.len() >= count).await;
}

/// A pod for a runbook: an empty volume, the client certificate, the database's programs.
async fn tools(world: &World, repository: u32) {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "restore", "namespace": "shop"},
        "spec": {"storageClassName": "fixed", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "512Mi"}}},
    });
    world.create(claim).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "restore", "namespace": "shop", "annotations": {"sandbox.firedrill.dev/model": "postgres-tools"}},
        "spec": {
            "containers": [{
                "name": "runbook", "image": "localhost/postgres-ha:1",
                "env": [{"name": "REPOSITORY", "value": format!("repo{repository}")}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tls", "mountPath": "/etc/pgbackrest-tls"}],
            }],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "restore"}},
                {"name": "tls", "secret": {"secretName": format!("restore-repo{repository}-tls")}},
            ],
        },
    });
    world.create(pod).await;
    let running = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    world.until("the runbook's pod runs", 30, async || running(&world.pods().get("restore").await.unwrap())).await;
}

async fn block(world: &World, script: &str) -> (i32, String, String) {
    world.exec("restore", "runbook", &["sh", "-eu", "-c", script]).await
}

/// Runs all blocks of the shipped runbook: the first that fails, if one does.
async fn restore(world: &World, repository: u32) -> Result<(), (usize, String)> {
    tools(world, repository).await;
    for (n, script) in blocks(RESTORE).into_iter().enumerate() {
        let (code, out, err) = block(world, script).await;
        if code != 0 {
            return Err((n, format!("{code}: {out}{err}")));
        }
    }
    Ok(())
}

/// Rows of a query, on the restored server or on the one that runs.
async fn rows(world: &World, restored: bool, query: &str) -> Vec<String> {
    let host = if restored { world.pods().get("restore").await.unwrap().status.unwrap().pod_ip.unwrap() } else { "orders-db".to_owned() };
    let target = world.target(&host, "monitor", "orders-monitor");
    let pg = firedrill::probe::Pg::connect(&world.dialer(), &target).await.unwrap();
    let messages = pg.client().simple_query(query).await.unwrap();
    let row = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|n| row.get(n).unwrap_or("NULL").to_owned()).collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

const ACCOUNTS: &str = "select * from accounts order by id";
const ORDERS: &str = "select * from orders where id <= 20000 order by id";

#[tokio::test(start_paused = true)]
async fn backups_are_taken_each_minute_and_the_tool_tells_of_them() {
    let world = World::up(7, &[]).await;
    let none = info(&world, 1).await;
    assert_eq!((none["status"]["code"].as_i64(), none["backup"].as_array().unwrap().len()), (Some(1), 0), "no stanza yet");
    until_backups(&world, 1, 3).await;
    let all = backups(&world, 1).await;
    let kinds: Vec<&str> = all.iter().map(|b| b["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["full", "incr", "incr"]);
    let stops: Vec<i64> = all.iter().map(|b| b["timestamp"]["stop"].as_i64().unwrap()).collect();
    assert!((50..70).contains(&(stops[1] - stops[0])) && (50..70).contains(&(stops[2] - stops[1])), "{stops:?}");
    let age = world.sandbox.now_us() / 1_000_000 - stops[2];
    assert!((0..20).contains(&age), "{age} s old");
    assert!(all[0]["label"].as_str().unwrap().ends_with('F') && all[1]["label"].as_str().unwrap().ends_with('I'));
    assert!(all.iter().all(|b| b["info"]["size"].as_i64().unwrap() > 1 << 20));
    // Every container that has the tool knows the same; a repository that is away is told of.
    until_backups(&world, 2, 1).await;
    let member = world.leader().await;
    let (_, out, _) = world.exec(&member, "postgres", &["pgbackrest", "info", "--output=json"]).await;
    let both: Value = serde_json::from_str(&out).unwrap();
    let of = |n: i64| both[0]["backup"].as_array().unwrap().iter().filter(|b| b["database"]["repo-key"] == n).count();
    assert!(of(1) >= 3 && of(2) == 1, "{both}");
    let api: Api<k8s_openapi::api::apps::v1::Deployment> = Api::namespaced(world.client.clone(), "shop");
    let gone = Patch::Merge(json!({"spec": {"replicas": 0}}));
    api.patch("backup-repo1", &PatchParams::default(), &gone).await.unwrap();
    world.until("the repository is away", 30, async || info(&world, 1).await["status"]["code"] == 99).await;
    assert!(backups(&world, 1).await.is_empty());
    let (code, _, why) = world.exec(&member, "postgres", &["pgbackrest", "expire"]).await;
    assert!(code != 0 && why.contains("not rehearsable"), "{code} {why}");
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_shipped_runbook_restores_equal_rows_into_an_empty_volume() {
    let world = World::up(7, &[]).await;
    let mut writer = Writer::new(&world).await;
    until_backups(&world, 1, 1).await;
    writer.write_for(Duration::from_secs(2)).await;
    // Archived every 10 s: what was written after the backup comes by the log.
    tokio::time::sleep(Duration::from_secs(25)).await;
    restore(&world, 1).await.unwrap();
    for (query, count) in [(ACCOUNTS, 5000), (ORDERS, 20_000)] {
        let (source, copy) = (rows(&world, false, query).await, rows(&world, true, query).await);
        assert_eq!(source.len(), count);
        assert!(source == copy, "{query}");
    }
    let ip = world.pods().get("restore").await.unwrap().status.unwrap().pod_ip.unwrap();
    assert_eq!(writer.lost(&ip).await, Vec::<u64>::new(), "the log after the backup was replayed");
    assert_eq!(world.ask(&ip, "select pg_is_in_recovery()").await.unwrap().as_deref(), Some("f"));
    let (code, _, why) = block(&world, "pgbackrest --config=/tmp/pgbackrest.conf --stanza=orders --repo=1 restore").await;
    assert!(code == 40 && why.contains("contains files"), "never over something: {code} {why}");
    let (code, out, _) = block(&world, "psql -h /tmp -d orders -AtX -c 'select count(*) from accounts'").await;
    assert_eq!((code, out.as_str()), (0, "5000\n"));
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_to_a_point_in_time_ends_there() {
    let world = World::up(7, &[]).await;
    let mut writer = Writer::new(&world).await;
    until_backups(&world, 1, 1).await;
    writer.write_for(Duration::from_secs(2)).await;
    let first = writer.acknowledged.len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let point = jiff_time(world.sandbox.now_us());
    tokio::time::sleep(Duration::from_secs(1)).await;
    writer.write_for(Duration::from_secs(2)).await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    tools(&world, 1).await;
    let scripts = blocks(RESTORE);
    let (code, _, why) = block(&world, scripts[1]).await;
    assert_eq!(code, 0, "{why}");
    let fetch = format!(
        "pgbackrest --config=/tmp/pgbackrest.conf --stanza=orders --repo=1 --archive-mode=off --type=time --target='{point}' restore"
    );
    for script in [fetch.as_str(), scripts[3]] {
        let (code, out, why) = block(&world, script).await;
        assert_eq!(code, 0, "{script}: {out}{why}");
    }
    let ip = world.pods().get("restore").await.unwrap().status.unwrap().pod_ip.unwrap();
    let lost = writer.lost(&ip).await;
    assert_eq!(lost, writer.acknowledged[first..], "what came before is there, what came after is not");
    world.sandbox.stop().await;
}

fn jiff_time(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).unwrap().to_string()
}

/// How many accounts and orders come back, or which block of the runbook failed, in a world with a weakness.
async fn comes_back(change: world::Change<'_>, backups: usize) -> Result<(usize, usize), (usize, String)> {
    let world = World::up(7, &[change]).await;
    until_backups(&world, 1, backups).await;
    let restored = restore(&world, 1).await;
    let counts = match restored {
        Ok(()) => Ok((rows(&world, true, ACCOUNTS).await.len(), rows(&world, true, ORDERS).await.len())),
        Err(failed) => Err(failed),
    };
    world.sandbox.stop().await;
    counts
}

#[tokio::test(start_paused = true)]
async fn backups_that_hold_too_little_come_back_with_too_little() {
    assert_eq!(comes_back(&|_| {}, 1).await, Ok((5000, 20_000)));
    assert_eq!(comes_back(&knob("CronJob", JOB, "backup", "hollow"), 1).await, Ok((0, 0)));
    let (accounts, orders) = comes_back(&knob("CronJob", JOB, "backup", "incomplete=20%"), 1).await.unwrap();
    assert!((3700..4300).contains(&accounts) && (15_000..17_000).contains(&orders), "{accounts} {orders}");
    let dropped = comes_back(&knob("Deployment", "backup-repo1", "restore", "drops-rows"), 1).await.unwrap();
    assert_eq!(dropped, (4500, 18_000));
}

#[tokio::test(start_paused = true)]
async fn an_empty_backup_is_small_and_a_job_that_does_nothing_leaves_the_old_one() {
    let world = World::up(7, &[&knob("CronJob", JOB, "backup", "empty")]).await;
    until_backups(&world, 1, 1).await;
    assert_eq!(backups(&world, 1).await[0]["info"]["size"], 1024);
    world.sandbox.stop().await;

    let world = World::up(7, &[]).await;
    until_backups(&world, 1, 1).await;
    let job = ApiResource::from_gvk(&GroupVersionKind::gvk("batch", "v1", "CronJob"));
    let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), "shop", &job);
    let set = async |how: &str| {
        let annotations = json!({"sandbox.firedrill.dev/backup": how});
        let patch = json!({"spec": {"jobTemplate": {"spec": {"template": {"metadata": {"annotations": annotations}}}}}});
        api.patch(JOB, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    set("stale").await;
    tokio::time::sleep(Duration::from_secs(150)).await;
    assert_eq!(backups(&world, 1).await.len(), 1, "the jobs succeed and do nothing");
    let jobs: Api<k8s_openapi::api::batch::v1::Job> = Api::namespaced(world.client.clone(), "shop");
    let jobs = jobs.list(&kube::api::ListParams::default()).await.unwrap().items;
    assert!(jobs.iter().all(|job| job.status.as_ref().is_none_or(|s| s.failed.is_none())), "{jobs:?}");
    // An old one that is said to be new: its rows are old ones. The log cannot mend it: it is switched off.
    for pod in world.members().await {
        world.turn(pod.metadata.name.as_deref().unwrap(), "archive", "off").await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let app = world.target("orders-db", "checkout", "orders-app");
    let pg = firedrill::probe::Pg::connect(&world.dialer(), &app).await.unwrap();
    pg.simple("INSERT INTO accounts (name, plan) VALUES ('new', 'paid')").await.unwrap();
    set("relabelled").await;
    until_backups(&world, 1, 2).await;
    restore(&world, 1).await.unwrap();
    assert_eq!((rows(&world, false, ACCOUNTS).await.len(), rows(&world, true, ACCOUNTS).await.len()), (5001, 5000));
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_can_fail_for_a_missing_key_take_long_and_overwrite() {
    let world = World::up(7, &[&knob("Deployment", "backup-repo2", "key", "missing")]).await;
    until_backups(&world, 1, 1).await;
    world
        .until("a backup in the second repository", 700, async || {
            world.sandbox.truth().iter().any(|t| t.what == "backup" && t.fact["repository"] == 2)
        })
        .await;
    let (failed, why) = restore(&world, 2).await.unwrap_err();
    assert!(failed == 2 && why.contains("CryptoError"), "{failed} {why}");
    assert_eq!(info(&world, 2).await["status"]["code"], 99);
    world.sandbox.stop().await;

    // Takes long; and one that overwrites puts an old copy over newer rows.
    let (slow, over) =
        (knob("Deployment", "backup-repo1", "restore-takes", "90s"), knob("Deployment", "backup-repo1", "restore", "overwrites"));
    let world = World::up(7, &[&slow, &over]).await;
    until_backups(&world, 1, 1).await;
    let start = tokio::time::Instant::now();
    tools(&world, 1).await;
    let scripts = blocks(RESTORE);
    for script in &scripts[..4] {
        let (code, out, why) = block(&world, script).await;
        assert_eq!(code, 0, "{out}{why}");
    }
    assert!(start.elapsed() >= Duration::from_secs(90), "{:?}", start.elapsed());
    let newer = "psql -h /tmp -d orders -X -c \"insert into accounts (name, plan) values ('newer', 'paid')\"";
    assert_eq!(block(&world, newer).await.0, 0);
    assert_eq!(rows(&world, true, ACCOUNTS).await.len(), 5001);
    assert_eq!(block(&world, "pg_ctl -D /data/pg stop").await.0, 0);
    for script in &scripts[2..4] {
        let (code, out, why) = block(&world, script).await;
        assert_eq!(code, 0, "{out}{why}");
    }
    assert_eq!(rows(&world, true, ACCOUNTS).await.len(), 5000, "the newer row is gone");
    let (code, out, why) = block(&world, scripts[4]).await;
    assert!(code != 0 && out.contains("it went over what was there"), "the runbook sees that: {code} {out}{why}");
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_shipped_runbook_sees_the_old_primary_rejoin() {
    let world = World::up(7, &[]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let old = world.leader().await;
    world.sandbox.signal("shop", &old, "postgres", Signal::Stop).unwrap();
    world.until("another leads", 40, async || world.leader().await != old).await;
    world
        .until("it takes writes", 20, async || {
            world.ask("orders-db", "select pg_is_in_recovery()").await.ok().flatten().as_deref() == Some("f")
        })
        .await;
    let place = world.leader().await;
    let scripts = blocks(REJOIN);
    assert_eq!(scripts.len(), 2);
    let run = async |script: &str| world.exec(&place, "postgres", &["sh", "-eu", "-c", script]).await;
    let (code, out, why) = run(scripts[0]).await;
    assert_eq!(code, 0, "one leader: {out}{why}");
    let early = tokio::time::timeout(Duration::from_secs(30), run(scripts[1])).await;
    assert!(early.is_err(), "while it is frozen only one replica keeps up: {early:?}");
    world.sandbox.signal("shop", &old, "postgres", Signal::Continue).unwrap();
    let (code, out, why) = tokio::time::timeout(Duration::from_secs(60), run(scripts[1])).await.unwrap();
    assert_eq!(code, 0, "{out}{why}");
    assert!(out.trim_end().ends_with("replicas that keep up: 2"), "{out}");
    world.sandbox.stop().await;
}
