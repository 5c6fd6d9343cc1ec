//! The sandbox's replicated database and its backups, in virtual time and as clients see them: over its Service, by its protocol,
//! through the API server.

#[path = "sandbox_database/backups.rs"]
mod backups;
#[path = "sandbox_database/world.rs"]
mod world;

use std::{sync::Arc, time::Duration};

use firedrill::{
    clock::Clock,
    cluster::Cluster,
    fault::{self, FaultCx},
    plan::{Plan, ResolvedObject, ResolvedTarget},
    sandbox::{NodeState, Signal},
    scenario::types::Target,
};
use k8s_openapi::{api::core::v1::Namespace, serde_json::Value};
use kube::{Api, ResourceExt as _, api::DeleteParams};
use world::{World, Writer, knob};

const MEMBERS: (&str, &str) = ("StatefulSet", "orders");

fn of_members<'a>(name: &'a str, value: &'a str) -> impl Fn(&mut Value) + 'a {
    knob(MEMBERS.0, MEMBERS.1, name, value)
}

#[tokio::test(start_paused = true)]
async fn three_members_come_up_and_one_leads() {
    let world = World::up(7, &[]).await;
    let leader = world.leader().await;
    let roles = world.roles().await;
    assert_eq!(roles.values().filter(|role| *role == "master").count(), 1, "{roles:?}");
    assert_eq!(roles[&leader], "master");
    world.until("a replica is synchronous", 10, async || !world.synchronous().await.is_empty()).await;
    assert_ne!(world.synchronous().await, leader);
    let one = async |host: &str, sql: &str| world.ask(host, sql).await.unwrap().unwrap();
    assert_eq!(one("orders-db", "select pg_is_in_recovery()").await, "f");
    assert_eq!(one("orders-replica", "select pg_is_in_recovery()").await, "t");
    let monitor = world.target("orders-db", "monitor", "orders-monitor");
    let pg = firedrill::probe::Pg::connect(&world.dialer(), &monitor).await.unwrap();
    assert_eq!(pg.simple("SELECT count(*) FROM accounts").await.unwrap().as_deref(), Some("5000"));
    assert_eq!(pg.simple("SELECT count(*) FROM orders").await.unwrap().as_deref(), Some("20000"));
    let wrong = firedrill::probe::PgTarget { password: firedrill::probe::Secret::new("no".to_owned()), ..monitor };
    let refused = firedrill::probe::Pg::connect(&world.dialer(), &wrong).await.unwrap_err();
    assert_eq!((refused.code.as_deref(), refused.fatal), (Some("28P01"), true));
    let unknown = pg.simple("SELECT pg_sleep(1)").await.unwrap_err();
    assert_eq!(unknown.code.as_deref(), Some("0A000"), "{unknown}");
    assert!(unknown.detail.contains("not rehearsable"), "{unknown}");
    world.sandbox.stop().await;
}

/// The heart of it: a hung primary, as in scenarios/lose-database-primary.
#[tokio::test(start_paused = true)]
async fn a_frozen_leader_is_succeeded_and_rejoins_without_a_lost_write() {
    let world = World::up(7, &[]).await;
    world.until("a replica is synchronous", 10, async || !world.synchronous().await.is_empty()).await;
    let (old, heir) = (world.leader().await, world.synchronous().await);
    let mut writer = Writer::new(&world).await;
    writer.write_for(Duration::from_secs(5)).await;
    assert!(writer.acknowledged.len() > 100 && writer.unsure == 0, "{} {}", writer.acknowledged.len(), writer.unsure);
    world.sandbox.signal("shop", &old, "postgres", Signal::Stop).unwrap();
    let outage = writer.write_until_acknowledged(60).await;
    // The lock is renewed every 2 s and lasts 20 s; who wants it looks every 2 s, asks the others for 2 s, and takes a moment to promote.
    assert!((16.0..28.0).contains(&outage.as_secs_f64()), "{outage:?}");
    assert_eq!(world.leader().await, heir, "only the synchronous replica may lead");
    writer.write_for(Duration::from_secs(5)).await;
    world.sandbox.signal("shop", &old, "postgres", Signal::Continue).unwrap();
    let back = world.until("both others stream", 30, async || world.streaming().await == 2).await;
    assert!(back < Duration::from_secs(20), "{back:?}");
    assert_eq!(world.roles().await[&old], "replica");
    writer.write_for(Duration::from_secs(2)).await;
    for host in ["orders-db".to_owned(), format!("{old}.orders"), format!("{heir}.orders")] {
        assert_eq!(writer.lost(&host).await, Vec::<u64>::new(), "at {host}");
    }
    world.sandbox.stop().await;
}

/// Freezes the leader under load and gives what a failover cost: acknowledged writes that the new leader does not have.
async fn failover_costs(changes: &[world::Change<'_>]) -> (Vec<u64>, Vec<Value>) {
    let world = World::up(7, changes).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let old = world.leader().await;
    let mut writer = Writer::new(&world).await;
    writer.write_for(Duration::from_secs(3)).await;
    world.sandbox.signal("shop", &old, "postgres", Signal::Stop).unwrap();
    writer.write_until_acknowledged(60).await;
    let lost = writer.lost("orders-db").await;
    world.sandbox.signal("shop", &old, "postgres", Signal::Continue).unwrap();
    world.until("both others stream", 40, async || world.streaming().await == 2).await;
    let rewound = world.sandbox.truth().into_iter().filter(|truth| truth.what == "rewound").map(|truth| truth.fact).collect();
    world.sandbox.stop().await;
    (lost, rewound)
}

#[tokio::test(start_paused = true)]
async fn an_asynchronous_failover_loses_what_was_acknowledged_and_a_lying_one_does_too() {
    // What hung in the middle of its commit may be gone: nobody was told that it was done.
    assert_eq!(failover_costs(&[]).await.0, Vec::<u64>::new());
    for mode in ["off", "lying"] {
        let knob = of_members("synchronous", mode);
        let (lost, rewound) = failover_costs(&[&knob]).await;
        assert!((5..40).contains(&lost.len()), "{mode}: {lost:?}");
        // The ground truth names the same rows: table, position, number.
        let rows: Vec<u64> = rewound
            .iter()
            .flat_map(|fact| fact["rows"].as_array().unwrap())
            .filter(|row| row["table"] == "firedrill.t")
            .map(|row| row["row"][1].as_str().unwrap().parse().unwrap())
            .collect();
        assert!(lost.iter().all(|n| rows.contains(n)), "{mode}: lost {lost:?}, truth {rows:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_crashes_comes_back_as_leader_with_every_write() {
    let world = World::up(7, &[]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let leader = world.leader().await;
    let mut writer = Writer::new(&world).await;
    writer.write_for(Duration::from_secs(2)).await;
    world.sandbox.signal("shop", &leader, "postgres", Signal::Kill).unwrap();
    let outage = writer.write_until_acknowledged(60).await;
    assert!((0.5..12.0).contains(&outage.as_secs_f64()), "{outage:?}");
    assert_eq!(world.leader().await, leader, "its lock had not run out");
    world.until("two replicas stream", 30, async || world.streaming().await == 2).await;
    for pod in ["orders-0", "orders-1", "orders-2"] {
        assert_eq!(writer.lost(&format!("{pod}.orders")).await, Vec::<u64>::new(), "{pod}");
    }
    assert_eq!(world.ask("orders-db", "select pg_is_in_recovery()").await.unwrap().as_deref(), Some("f"));
    world.sandbox.stop().await;
}

/// A disk that runs full: what is there can be read, nothing is written, and nothing that was acknowledged is lost.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_volume_is_full_takes_no_write_until_it_is_freed() {
    let world = World::up(7, &[]).await;
    let leader = world.leader().await;
    let mut writer = Writer::new(&world).await;
    assert!(writer.write().await);
    let uid = Api::<Namespace>::all(world.client.clone()).get("kube-system").await.unwrap().uid().unwrap();
    let cluster = Cluster::from_client(world.client.clone(), "sandbox", uid);
    let clock = Clock::virtual_at("runner", world.sandbox.now_us());
    let target = ResolvedTarget { spec: Target::default(), objects: Vec::new(), matched: 0 };
    let plan = Arc::new(Plan { targets: [("t".to_owned(), target)].into(), ..Plan::empty("t") });
    let cx = FaultCx::new(cluster, clock, plan, "drill-1");
    let spec = serde_json::from_value(serde_json::json!({"fillDisk": {"target": "t", "path": "/data", "to": "100%"}})).unwrap();
    let pod = world.pods().get(&leader).await.unwrap();
    let object = ResolvedObject {
        kind: "Pod".to_owned(),
        namespace: "shop".to_owned(),
        name: leader.clone(),
        uid: pod.uid().unwrap(),
        node: String::new(),
        owner: String::new(),
        ready: true,
        chosen: true,
    };
    let prepared = fault::prepare(&cx, &spec, &[object]).await.unwrap();
    fault::arm(&cx, &spec, &prepared.undo).await.unwrap();
    fault::inject(&cx, &spec, &prepared.undo).await.unwrap();
    fault::effective(&cx, &spec, &prepared.undo, Duration::from_secs(30)).await.unwrap();
    let error = world.ask("orders-db", "INSERT INTO firedrill.t (n) VALUES (0)").await.unwrap_err();
    assert_eq!(error.code.as_deref(), Some("53100"), "{error}");
    assert_eq!(world.ask("orders-db", "SELECT count(*) FROM firedrill.t").await.unwrap().as_deref(), Some("1"));
    fault::revert(&cx, &prepared.undo).await.unwrap();
    fault::gone(&cx, &prepared.undo, Duration::from_secs(30)).await.unwrap();
    writer.write_until_acknowledged(5).await;
    assert_eq!(writer.lost("orders-db").await, Vec::<u64>::new());
    assert_eq!(cx.helpers.remove_all(Duration::from_secs(60)).await, Vec::<String>::new());
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_deleted_hands_the_lock_over() {
    let world = World::up(7, &[]).await;
    world.until("a replica is synchronous", 10, async || !world.synchronous().await.is_empty()).await;
    let (leader, heir) = (world.leader().await, world.synchronous().await);
    let mut writer = Writer::new(&world).await;
    writer.write_for(Duration::from_secs(2)).await;
    world.pods().delete(&leader, &DeleteParams::default()).await.unwrap();
    // No lock has to run out.
    world.until("another has the lock", 10, async || !["", leader.as_str()].contains(&world.leader().await.as_str())).await;
    assert_eq!(world.leader().await, heir);
    let outage = writer.write_until_acknowledged(60).await;
    assert!(outage < Duration::from_secs(5), "{outage:?}");
    world.until("three members are ready again", 90, async || world.ready().await == 3 && world.streaming().await == 2).await;
    for pod in ["orders-0", "orders-1", "orders-2"] {
        assert_eq!(writer.lost(&format!("{pod}.orders")).await, Vec::<u64>::new(), "{pod}");
    }
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_node_is_cut_off_steps_down_by_itself() {
    let world = World::up(7, &[]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let old = world.leader().await;
    let node = world.pods().get(&old).await.unwrap().spec.unwrap().node_name.unwrap();
    let mut writer = Writer::new(&world).await;
    writer.write_for(Duration::from_secs(2)).await;
    assert!(world.sandbox.set_node(&node, NodeState::CutOff));
    let outage = writer.write_until_acknowledged(60).await;
    assert!((15.0..35.0).contains(&outage.as_secs_f64()), "{outage:?}");
    assert_ne!(world.leader().await, old);
    let demoted = world.sandbox.truth().into_iter().find(|truth| truth.what == "demoted").expect("it stepped down");
    assert_eq!(demoted.pod, format!("shop/{old}"));
    assert!(world.sandbox.set_node(&node, NodeState::Up));
    world.until("three members are ready again", 120, async || world.ready().await == 3 && world.streaming().await == 2).await;
    assert_eq!(writer.lost("orders-db").await, Vec::<u64>::new());
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_prepared_statements_of_the_shop_work_and_transactions_do_what_they_say() {
    let world = World::up(7, &[]).await;
    let app = world.target("orders-db", "checkout", "orders-app");
    let pg = firedrill::probe::Pg::connect(&world.dialer(), &app).await.unwrap();
    let client = pg.client();
    let write = "INSERT INTO health (name, beat, at) VALUES ($1, $2, now()) \
                 ON CONFLICT (name) DO UPDATE SET beat = greatest(health.beat, excluded.beat), at = now() RETURNING beat";
    for (beat, kept) in [(4i64, 4i64), (9, 9), (7, 9)] {
        let row = client.query_one(write, &[&"checkout-a", &beat]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), kept);
        assert_eq!(client.query_one("SELECT beat FROM health WHERE name = $1", &[&"checkout-a"]).await.unwrap().get::<_, i64>(0), kept);
    }
    let paid = "SELECT plan = 'paid' FROM accounts WHERE name = $1";
    assert!(client.query_opt(paid, &[&"paid"]).await.unwrap().unwrap().get::<_, bool>(0));
    assert!(client.query_opt(paid, &[&"nobody"]).await.unwrap().is_none());
    let names = client.query("SELECT name FROM accounts WHERE plan = 'paid' ORDER BY id LIMIT $1", &[&3i64]).await.unwrap();
    assert_eq!(names.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["paid", "player-00003", "player-00006"]);
    let order = "INSERT INTO orders (account, amount_cents) VALUES ($1, $2) RETURNING id";
    let id: i64 = client.query_one(order, &[&1i64, &500i64]).await.unwrap().get(0);
    let refused = client.query_one("DELETE FROM orders WHERE id = $1 RETURNING id", &[&id]).await;
    assert!(refused.is_err(), "a statement that is not in the table");

    let count = async || pg.simple("SELECT count(*) FROM orders").await.unwrap().unwrap();
    let before = count().await;
    pg.simple("BEGIN").await.unwrap();
    pg.simple("INSERT INTO orders (account, amount_cents) VALUES (1, 1)").await.unwrap();
    assert_ne!(count().await, before, "a transaction sees its own rows");
    pg.simple("ROLLBACK").await.unwrap();
    assert_eq!(count().await, before);
    pg.simple("BEGIN READ ONLY").await.unwrap();
    let refused = pg.simple("INSERT INTO orders (account, amount_cents) VALUES (1, 1)").await.unwrap_err();
    assert_eq!((refused.code.as_deref(), refused.fatal), (Some("25006"), false));
    let aborted = pg.simple("SELECT 1").await.unwrap_err();
    assert_eq!(aborted.code.as_deref(), Some("25P02"));
    pg.simple("ROLLBACK").await.unwrap();
    let refused = pg.simple("DELETE FROM orders").await.unwrap_err();
    assert_eq!(refused.code.as_deref(), Some("42501"));
    // A message is one transaction: what came before the mistake is undone with it.
    let mixed = pg.simple("INSERT INTO orders (account, amount_cents) VALUES (1, 1); SELECT nothing").await;
    assert!(mixed.is_err());
    assert_eq!(count().await, before);
    let replica = firedrill::probe::Pg::connect(&world.dialer(), &world.target("orders-replica", "checkout", "orders-app")).await.unwrap();
    let refused = replica.simple("INSERT INTO orders (account, amount_cents) VALUES (1, 1)").await.unwrap_err();
    assert_eq!(refused.code.as_deref(), Some("25006"));
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_for_its_replica_and_says_so_when_it_does_not() {
    let world = World::up(7, &[]).await;
    world.until("a replica is synchronous", 10, async || !world.synchronous().await.is_empty()).await;
    let standby = world.synchronous().await;
    let app = world.target("orders-db", "checkout", "orders-app");
    let pg = firedrill::probe::Pg::connect(&world.dialer(), &app).await.unwrap();
    pg.simple("SET statement_timeout = 1000").await.unwrap();
    world.sandbox.signal("shop", &standby, "postgres", Signal::Stop).unwrap();
    let start = tokio::time::Instant::now();
    pg.simple("INSERT INTO orders (account, amount_cents) VALUES (1, 1)").await.unwrap();
    assert!((950..1500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let warning = pg.take_warning().expect("a warning");
    assert!(warning.starts_with("01000: canceling wait for synchronous replication"), "{warning}");
    // When it has been silent for too long another one is chosen, and commits are quick again.
    world.until("another is synchronous", 30, async || world.synchronous().await != standby).await;
    let start = tokio::time::Instant::now();
    pg.simple("INSERT INTO orders (account, amount_cents) VALUES (1, 1)").await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(100) && pg.take_warning().is_none(), "{:?}", start.elapsed());
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn members_can_be_down_slow_lossy_behind_and_unwilling() {
    let world = World::up(7, &[]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let leader = world.leader().await;
    let replica = world.roles().await.into_keys().find(|name| *name != leader).unwrap();
    // Behind: what it has, it has not replayed.
    world.turn(&replica, "lag", "10s").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut writer = Writer::new(&world).await;
    writer.write_for(Duration::from_secs(1)).await;
    let host = format!("{replica}.orders");
    let missing = world.ask(&host, "SELECT count(*) FROM firedrill.t").await;
    assert_eq!(missing.unwrap_err().code.as_deref(), Some("42P01"), "the table is not there yet");
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(writer.lost(&host).await, Vec::<u64>::new());
    // Slow.
    world.turn(&leader, "latency", "700ms").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let start = tokio::time::Instant::now();
    world.ask("orders-db", "SELECT 1").await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(700), "{:?}", start.elapsed());
    world.turn(&leader, "latency", "0s").await;
    // Lossy.
    world.turn(&leader, "loss", "50%").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut broken = 0;
    for _ in 0..40 {
        broken += u32::from(world.ask("orders-db", "SELECT 1").await.is_err());
    }
    assert!((8..32).contains(&broken), "{broken} of 40");
    world.turn(&leader, "loss", "0%").await;
    // Unwilling, and then down.
    for name in world.roles().await.into_keys() {
        world.turn(&name, "failover", "never").await;
    }
    world.turn(&leader, "down", "true").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.leader().await, leader, "nobody took over");
    assert!(world.ask("orders-db", "SELECT 1").await.is_err());
    for name in world.roles().await.into_keys() {
        world.turn(&name, "failover", "automatic").await;
    }
    world.until("another leads", 10, async || world.leader().await != leader).await;
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_history() {
    let history = async |seed: u64| {
        let world = World::up(seed, &[]).await;
        let leader = world.leader().await;
        world.sandbox.signal("shop", &leader, "postgres", Signal::Stop).unwrap();
        tokio::time::sleep(Duration::from_secs(40)).await;
        let truth: Vec<String> = world.sandbox.truth().iter().map(|t| format!("{t:?}")).collect();
        let audit: Vec<String> = world.sandbox.audit().iter().map(|entry| format!("{entry:?}")).collect();
        world.sandbox.stop().await;
        (truth, audit)
    };
    let (one, other) = (history(3).await, history(3).await);
    assert!(one.0.len() >= 2, "{:?}", one.0);
    assert_eq!(one.0, other.0);
    assert_eq!(one.1.len(), other.1.len());
    assert!(one.1 == other.1, "the audit logs differ");
    assert_ne!(history(4).await.0, one.0, "another seed is another history");
}
