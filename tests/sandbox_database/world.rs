//! The database of the sandbox's shop, from its manifests, and how tests talk to it.

use std::{collections::BTreeMap, time::Duration};

use firedrill::{
    net::Dialer,
    probe::{Pg, PgError, PgTarget, Secret},
    sandbox::{ClusterOptions, Sandbox, SandboxOptions},
};
use k8s_openapi::{
    api::core::v1::{Endpoints, Pod},
    serde_json::{Value, json},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{AttachParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use tokio::{io::AsyncReadExt as _, time::Instant};

/// Not on the hour: backups are incremental then, after the first.
const WALL_US: i64 = 1_767_225_960_000_000;
const MANIFESTS: &str = include_str!("../../scenarios/world/10-database.yaml");
/// What other models do in this world is not of this test.
const OTHERS: [&str; 2] = ["postgres-exporter", "backup-exporter"];

/// The world.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) client: Client,
}

/// Changes a manifest before it is applied.
pub(crate) type Change<'a> = &'a dyn Fn(&mut Value);

/// Sets a knob of the members, of a repository or of a job, wherever the object of that kind and name has its pods' template.
pub(crate) fn knob<'a>(kind: &'a str, name: &'a str, knob: &'a str, value: &'a str) -> impl Fn(&mut Value) + 'a {
    move |object| {
        if object["kind"] == kind && object["metadata"]["name"] == name {
            let template =
                if kind == "CronJob" { &mut object["spec"]["jobTemplate"]["spec"]["template"] } else { &mut object["spec"]["template"] };
            template["metadata"]["annotations"][format!("sandbox.firedrill.dev/{knob}")] = Value::from(value);
        }
    }
}

fn plural(kind: &str) -> String {
    match kind {
        "StorageClass" => "storageclasses".to_owned(),
        "PodDisruptionBudget" => "poddisruptionbudgets".to_owned(),
        other => format!("{}s", other.to_lowercase()),
    }
}

impl World {
    /// The manifests with changes, on three nodes in three zones; nothing has started yet.
    pub(crate) async fn new(seed: u64, changes: &[Change<'_>]) -> Self {
        let sandbox = Sandbox::new(SandboxOptions { seed, wall_us: WALL_US });
        sandbox.start_cluster(ClusterOptions::default());
        for n in 0..3 {
            sandbox.add_node(&format!("n{n}"), &format!("zone-{n}"));
        }
        let client = sandbox.client("admin");
        let world = Self { sandbox, client };
        world.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})).await;
        let mut text = MANIFESTS.to_owned();
        for other in OTHERS {
            text = text.replace(other, "idle");
        }
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        assert!(objects.len() > 25, "{}", objects.len());
        // Not the first backups: what these tests are about begins without any.
        for mut object in objects.into_iter().filter(|object| object["kind"] != "Job") {
            changes.iter().for_each(|change| change(&mut object));
            world.apply(object).await;
        }
        world
    }

    /// One with a leader, two replicas, one of them synchronous unless that is changed.
    pub(crate) async fn up(seed: u64, changes: &[Change<'_>]) -> Self {
        let world = Self::new(seed, changes).await;
        world.until("three members are ready", 60, async || world.ready().await == 3).await;
        world.until("two replicas stream", 30, async || world.streaming().await == 2).await;
        world
    }

    async fn apply(&self, object: Value) {
        let (version, kind) = (object["apiVersion"].as_str().unwrap().to_owned(), object["kind"].as_str().unwrap().to_owned());
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, &kind), &plural(&kind));
        let made: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        api.create(&PostParams::default(), &made).await.unwrap_or_else(|error| panic!("{kind} {}: {error}", object["metadata"]["name"]));
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "shop")
    }

    pub(crate) async fn members(&self) -> Vec<Pod> {
        self.pods().list(&ListParams::default().labels("cluster=orders")).await.unwrap().items
    }

    pub(crate) async fn ready(&self) -> usize {
        let ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
            pod.metadata.deletion_timestamp.is_none()
                && conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        };
        self.members().await.iter().filter(|pod| ready(pod)).count()
    }

    /// Who has the lock.
    pub(crate) async fn leader(&self) -> String {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), "shop");
        let lock = api.get_opt("orders-db").await.unwrap();
        lock.and_then(|lock| lock.annotations().get("leader").cloned()).unwrap_or_default()
    }

    pub(crate) async fn synchronous(&self) -> String {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), "shop");
        let found = api.get_opt("orders-db-sync").await.unwrap();
        found.and_then(|found| found.annotations().get("sync_standby").cloned()).unwrap_or_default()
    }

    /// Pods by the role that their members say.
    pub(crate) async fn roles(&self) -> BTreeMap<String, String> {
        self.members().await.iter().map(|pod| (pod.name_any(), pod.labels().get("role").cloned().unwrap_or_default())).collect()
    }

    pub(crate) fn dialer(&self) -> Dialer {
        self.sandbox.dialer(Some("shop"))
    }

    pub(crate) fn target(&self, host: &str, user: &str, secret: &str) -> PgTarget {
        PgTarget {
            host: host.to_owned(),
            port: 5432,
            database: "orders".to_owned(),
            user: user.to_owned(),
            password: Secret::new(format!("sandbox-{secret}")),
        }
    }

    /// A connection as the ledger's role, given up after a second.
    pub(crate) async fn connect(&self, host: &str) -> Result<Pg, PgError> {
        let target = self.target(host, "firedrill_ledger", "orders-ledger");
        let dialer = self.dialer();
        match tokio::time::timeout(Duration::from_secs(1), Pg::connect(&dialer, &target)).await {
            Ok(connected) => connected,
            Err(_) => Err(firedrill::net::NetError::peer("no answer").into()),
        }
    }

    /// One value of one statement on a connection of its own.
    pub(crate) async fn ask(&self, host: &str, sql: &str) -> Result<Option<String>, PgError> {
        let pg = self.connect(host).await?;
        match tokio::time::timeout(Duration::from_secs(2), pg.simple(sql)).await {
            Ok(answer) => answer,
            Err(_) => Err(firedrill::net::NetError::peer("no answer").into()),
        }
    }

    /// How many replicas stream, as the leader says.
    pub(crate) async fn streaming(&self) -> usize {
        let count = self.ask("orders-db", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").await;
        count.ok().flatten().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    pub(crate) async fn until(&self, what: &str, secs: u64, mut so: impl AsyncFnMut() -> bool) -> Duration {
        let start = Instant::now();
        while !so().await {
            if start.elapsed() >= Duration::from_secs(secs) {
                for pod in self.members().await {
                    println!("{} {:?} {:?}", pod.name_any(), pod.spec.as_ref().and_then(|s| s.node_name.clone()), pod.status);
                }
                panic!(
                    "not within {secs} s: {what}; lock: {}, roles: {:?}\n{}",
                    self.leader().await,
                    self.roles().await,
                    self.logs().await
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        start.elapsed()
    }

    /// The members' logs.
    pub(crate) async fn logs(&self) -> String {
        let mut text = String::new();
        for pod in self.members().await {
            let params = kube::api::LogParams { container: Some("postgres".to_owned()), ..kube::api::LogParams::default() };
            let log = self.pods().logs(&pod.name_any(), &params).await.unwrap_or_else(|error| error.to_string());
            text.push_str(&format!("== {}\n{log}", pod.name_any()));
        }
        text
    }

    /// Exit status, output, and complaints of a command in a container.
    pub(crate) async fn exec(&self, pod: &str, container: &str, command: &[&str]) -> (i32, String, String) {
        let params = AttachParams::default().container(container).stdout(true).stderr(true);
        let mut session = self.pods().exec(pod, command.to_vec(), &params).await.unwrap();
        let status = session.take_status().unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        let (mut stdout, mut stderr) = (session.stdout().unwrap(), session.stderr().unwrap());
        let (a, b) = futures::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        a.and(b).unwrap();
        let status = status.await.unwrap();
        session.join().await.unwrap();
        let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
        let code = causes.iter().find(|c| c.reason.as_deref() == Some("ExitCode")).and_then(|c| c.message.as_ref()?.parse().ok());
        let code = if status.status.as_deref() == Some("Success") { 0 } else { code.unwrap_or(-1) };
        (code, out, format!("{err}{}", status.message.unwrap_or_default()))
    }

    /// Sets a knob of pods that run.
    pub(crate) async fn turn(&self, pod: &str, knob: &str, value: &str) {
        let patch = json!({"metadata": {"annotations": {format!("sandbox.firedrill.dev/{knob}"): value}}});
        self.pods().patch(pod, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) async fn create(&self, object: Value) {
        self.apply(object).await;
    }
}

/// Writes numbers one after the other, as a ledger does, and knows which were acknowledged.
pub(crate) struct Writer<'a> {
    world: &'a World,
    pg: Option<Pg>,
    next: u64,
    pub(crate) acknowledged: Vec<u64>,
    pub(crate) unsure: u64,
}

impl<'a> Writer<'a> {
    /// With its table made.
    pub(crate) async fn new(world: &'a World) -> Self {
        let make = "BEGIN; CREATE TABLE firedrill.t (pos bigint GENERATED ALWAYS AS IDENTITY, n bigint NOT NULL); \
                    COMMENT ON TABLE firedrill.t IS 'me'; COMMIT";
        world.ask("orders-db", make).await.unwrap();
        Self { world, pg: None, next: 1, acknowledged: Vec::new(), unsure: 0 }
    }

    /// One write, or one attempt to connect. True: it was acknowledged.
    pub(crate) async fn write(&mut self) -> bool {
        if self.pg.as_ref().is_none_or(Pg::is_closed) {
            self.pg = None;
            let Ok(pg) = self.world.connect("orders-db").await else { return false };
            let writable =
                tokio::time::timeout(Duration::from_secs(1), pg.simple("SELECT pg_catalog.current_setting('transaction_read_only')")).await;
            if !matches!(writable, Ok(Ok(Some(off))) if off == "off") {
                return false;
            }
            self.pg = Some(pg);
        }
        let Some(pg) = &self.pg else { return false };
        let n = self.next;
        self.next += 1;
        drop(pg.take_warning());
        let written = tokio::time::timeout(Duration::from_secs(2), pg.simple(&format!("INSERT INTO firedrill.t (n) VALUES ({n})"))).await;
        let sure = matches!(written, Ok(Ok(_))) && pg.take_warning().is_none();
        if sure {
            self.acknowledged.push(n);
        } else {
            self.unsure += 1;
            self.pg = None;
        }
        sure
    }

    /// Writes every 20 ms for a time.
    pub(crate) async fn write_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.write().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes until a write is acknowledged again: how long that took.
    pub(crate) async fn write_until_acknowledged(&mut self, secs: u64) -> Duration {
        let start = Instant::now();
        while !self.write().await {
            assert!(start.elapsed() < Duration::from_secs(secs), "no write was acknowledged within {secs} s\n{}", self.world.logs().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        start.elapsed()
    }

    /// Acknowledged writes that a member does not have.
    pub(crate) async fn lost(&self, host: &str) -> Vec<u64> {
        let pg = self.world.connect(host).await.unwrap();
        let rows = pg.client().query("SELECT n FROM firedrill.t ORDER BY pos", &[]).await.unwrap();
        let there: std::collections::BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        self.acknowledged.iter().copied().filter(|n| !there.contains(&i64::try_from(*n).unwrap())).collect()
    }
}
