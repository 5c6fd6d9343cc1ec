//! A small shop on an API server without kubelets, drills on it with the real command, and the question whether anything is left.

use std::{
    collections::BTreeMap,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Pod, Secret},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    sync::{RwLock, RwLockReadGuard},
};

use crate::support::{World, eventually};

/// How long a Lease lives in these tests: a second runner waits that long for a dead one's.
pub(crate) const LEASE: Duration = Duration::from_secs(4);
/// No drill here takes longer, on however slow a machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Held for reading by every test that needs the API server to answer, and for writing by the one that stops it.
pub(crate) static ANSWERS: RwLock<()> = RwLock::const_new(());

/// A namespace with two Deployments and a CronJob, and one for firedrill's own things.
pub(crate) struct Shop {
    pub(crate) world: World,
    pub(crate) own: String,
    kubelet: tokio::task::JoinHandle<()>,
}

/// A shop, or none where there is no API server; then it is said.
pub(crate) async fn shop(test: &str) -> Option<(Shop, RwLockReadGuard<'static, ()>)> {
    let answers = ANSWERS.read().await;
    Some((bare_shop(test, Duration::from_millis(50)).await?, answers))
}

/// A shop whose pods are ready after this time. The caller holds [`ANSWERS`].
pub(crate) async fn bare_shop(test: &str, ready_after: Duration) -> Option<Shop> {
    let world = crate::support::world(test).await?;
    let own = format!("{}-own", world.namespace);
    let kubelet = tokio::spawn(kubelet(world.api(), ready_after));
    let shop = Shop { world, own, kubelet };
    let pod = |app: &str| json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": "none"}]}});
    for (name, replicas) in [("web", 3), ("api", 2)] {
        let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pod(name)});
        shop.world.create::<Deployment>(json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    let mut job = pod("backup");
    job["spec"]["restartPolicy"] = json!("Never");
    let spec = json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": job}}});
    shop.world.create::<CronJob>(json!({"metadata": {"name": "backup"}, "spec": spec})).await;
    shop.as_it_was().await;
    Some(shop)
}

/// There is no kubelet: makes every pod running and ready some time after it was made.
async fn kubelet(api: Api<Pod>, after: Duration) {
    let mut seen: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let pending = api.list(&ListParams::default().fields("status.phase=Pending")).await;
        for pod in pending.map(|l| l.items).unwrap_or_default() {
            if seen.entry(pod.uid().unwrap_or_default()).or_insert_with(Instant::now).elapsed() < after {
                continue;
            }
            let conditions: Vec<Value> =
                ["Ready", "ContainersReady", "Initialized", "PodScheduled"].iter().map(|c| json!({"type": c, "status": "True"})).collect();
            let status = json!({"status": {"phase": "Running", "conditions": conditions}});
            // The pod may have gone in the meantime.
            let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await;
        }
    }
}

/// The probes, targets and limits that the drills here share; `spec` brings steps and objectives.
pub(crate) fn scenario(shop: &Shop, name: &str, mut spec: Value) -> PathBuf {
    let ns = &shop.world.namespace;
    let common = json!({
        "summary": "A drill on an API server without kubelets.",
        "targets": {
            "web": {"namespace": ns, "deployment": "web"},
            "one-api": {"namespace": ns, "pods": "app=api", "mode": "one"},
            "all-web": {"namespace": ns, "pods": "app=web", "mode": "all"},
            "backup": {"namespace": ns, "cronJob": "backup"},
        },
        "limits": {"pods": 8, "objects": 3, "duration": "2m"},
        "probes": {
            "web": {"object": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": ns, "name": "web",
                               "cel": "has(object.status.readyReplicas) && object.status.readyReplicas == 3"}, "every": "100ms", "timeout": "1s"},
            "api": {"object": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": ns, "name": "api",
                               "cel": "has(object.status.readyReplicas) && object.status.readyReplicas == 2"}, "every": "100ms", "timeout": "1s"},
            "job": {"object": {"apiVersion": "batch/v1", "kind": "CronJob", "namespace": ns, "name": "backup",
                               "cel": "!(has(object.spec.suspend) && object.spec.suspend)"}, "every": "100ms", "timeout": "1s"},
        },
        "steadyState": {"good": ["web", "api", "job"], "for": "200ms", "timeout": "30s"},
    });
    for (key, value) in common.as_object().unwrap() {
        spec.as_object_mut().unwrap().entry(key).or_insert_with(|| value.clone());
    }
    let file = json!({"apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": name}, "spec": spec});
    shop.world.file(&format!("{name}.yaml"), &file.to_string())
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) said: String,
}

/// A command under way, its output in a file (a pipe that is not read would hold it up).
pub(crate) struct Running {
    child: Child,
    output: PathBuf,
    /// The folder its evidence is made in.
    pub(crate) out: PathBuf,
}

/// Without anybody who looks on.
const QUIETLY: [&str; 2] = ["--auto-ack", "--quiet"];

impl Running {
    /// Starts it, its output in a file beside its evidence.
    fn logged(mut command: Command, out: &Path) -> Self {
        let output = out.with_extension("log");
        let file = std::fs::File::create(&output).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, output, out: out.to_owned() }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it has ended already").to_string();
        let sent = std::process::Command::new("kill").args([format!("-{signal}"), pid]).status().unwrap();
        assert!(sent.success(), "kill -{signal}");
    }

    /// From now on nobody reads what it writes, and every write fails.
    pub(crate) fn hang_up(&mut self) {
        drop((self.child.stdout.take(), self.child.stderr.take()));
    }

    /// Waits for its end.
    pub(crate) async fn end(self) -> Ended {
        self.end_within(LIMIT).await
    }

    /// Waits for its end, this long at most.
    pub(crate) async fn end_within(mut self, limit: Duration) -> Ended {
        let status = tokio::time::timeout(limit, self.child.wait()).await;
        let said = std::fs::read_to_string(&self.output).unwrap_or_default();
        let Ok(status) = status else { panic!("not over within {limit:?}: {}\n{said}", told(&self.out)) };
        let status = status.unwrap();
        Ended { code: status.code(), signal: status.signal(), said }
    }

    /// The journal's records, as far as they are written.
    pub(crate) fn records(&self) -> Vec<Value> {
        records(&self.out)
    }

    /// Waits until the journal has a record, and returns how many there are then.
    pub(crate) async fn reached(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> usize {
        let deadline = Instant::now() + LIMIT;
        loop {
            let records = self.records();
            if records.iter().any(&is) {
                return records.len();
            }
            let said = || std::fs::read_to_string(&self.output).unwrap_or_default();
            assert!(Instant::now() < deadline, "no record of {what}:\n{}", said());
            assert!(self.child.try_wait().unwrap().is_none(), "it ended before {what}:\n{}", said());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The only folder in a folder, if there is one.
fn only_folder(out: &Path) -> Option<PathBuf> {
    std::fs::read_dir(out).ok()?.flatten().map(|e| e.path()).find(|p| p.is_dir())
}

fn journal(out: &Path) -> String {
    only_folder(out).and_then(|dir| std::fs::read_to_string(dir.join("journal.jsonl")).ok()).unwrap_or_default()
}

/// The records without those of what probes saw, whose number is another one each time.
pub(crate) fn steady(records: &[Value]) -> Vec<&Value> {
    records.iter().filter(|record| kind(record) != "run").collect()
}

/// The drill whose evidence is in a folder.
pub(crate) fn drill_in(out: &Path) -> Option<String> {
    only_folder(out).map(|dir| dir.file_name().unwrap().to_string_lossy().into_owned())
}

/// The whole lines of the journal in an evidence folder.
pub(crate) fn records(out: &Path) -> Vec<Value> {
    let text = journal(out);
    text.split_inclusive('\n').filter(|l| l.ends_with('\n')).map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// `report.json` of the drill in a folder.
pub(crate) fn report(out: &Path) -> Value {
    let dir = only_folder(out).unwrap_or_else(|| panic!("no evidence in {}", out.display()));
    serde_json::from_str(&std::fs::read_to_string(dir.join("report.json")).unwrap()).unwrap()
}

/// The journal in a folder in one line, without what probes saw.
pub(crate) fn told(out: &Path) -> String {
    steady(&records(out)).iter().enumerate().map(|(n, r)| format!("{n}:{} ", kind(r))).collect()
}

/// What happened: `intent`, `stepStarted` …
pub(crate) fn kind(record: &Value) -> &str {
    record["event"].as_object().and_then(|e| e.keys().next()).map_or_else(|| record["event"].as_str().unwrap_or("?"), String::as_str)
}

/// Whether a record is of this kind; for more, look into `event`.
pub(crate) fn is(wanted: &'static str) -> impl Fn(&Value) -> bool {
    move |record| kind(record) == wanted
}

/// Whether a record is the beginning of this step.
pub(crate) fn step_begun(step: &'static str) -> impl Fn(&Value) -> bool {
    move |record| record["event"]["stepStarted"]["step"] == json!(step)
}

impl Shop {
    /// Starts a command of firedrill that makes evidence, in a folder of its own where nothing but the kubeconfig is known.
    pub(crate) fn start(&self, args: &[&str], more: &[&str], out: &Path, lease: Duration) -> Running {
        let more: Vec<&str> = QUIETLY.iter().chain(more).copied().collect();
        Running::logged(self.command(args, &more, out, lease), out)
    }

    /// Starts a drill that asks people, on a terminal (as far as it writes) that can go: [`Running::hang_up`].
    pub(crate) fn run_asking(&self, scenario: &Path, out: &Path, lease: Duration) -> Running {
        let child = self.drill(scenario, &[], out, lease).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running { child, output: out.with_extension("log"), out: out.to_owned() }
    }

    /// What performs a drill.
    fn drill(&self, scenario: &Path, more: &[&str], out: &Path, lease: Duration) -> Command {
        let environment = self.world.environment(&self.own);
        let args = ["run", scenario.to_str().unwrap(), "-e", environment.to_str().unwrap(), "--yes", "--seed", "7"];
        self.command(&args, more, out, lease)
    }

    fn command(&self, args: &[&str], more: &[&str], out: &Path, lease: Duration) -> Command {
        std::fs::create_dir_all(out).unwrap();
        let lease = format!("{}ms", lease.as_millis());
        // Whatever started the tests (`nohup`), the runner does not ignore SIGHUP.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=HUP")
            .arg(binary())
            .args(args)
            .args(["--lease", &lease, "--out"])
            .arg(out)
            .args(more)
            .env("KUBECONFIG", &self.world.kubeconfig)
            .env_remove("FIREDRILL_ENVIRONMENT")
            .env("NO_COLOR", "1")
            .current_dir(out)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts a drill.
    pub(crate) fn run(&self, scenario: &Path, out: &Path, lease: Duration) -> Running {
        Running::logged(self.drill(scenario, &QUIETLY, out, lease), out)
    }

    /// Starts a drill whose runner dies by SIGKILL at a record of its journal, `intent:1:written`: see `src/journal/doomed.rs`.
    pub(crate) fn run_doomed(&self, scenario: &Path, out: &Path, lease: Duration, at: &str) -> Running {
        let mut command = self.drill(scenario, &QUIETLY, out, lease);
        command.env("FIREDRILL_TEST_KILL_AT", at);
        Running::logged(command, out)
    }

    /// Takes a drill over: `resume` or `revert`.
    pub(crate) fn take_over(&self, how: &str, drill: &str, out: &Path, lease: Duration) -> Running {
        self.start(&[how, drill, "--namespace", &self.own], &[], out, lease)
    }

    /// Whether a drill's record is in the cluster.
    pub(crate) async fn has_record(&self, drill: &str) -> bool {
        let maps = Api::<ConfigMap>::namespaced(self.world.client.clone(), &self.own);
        maps.get_opt(&format!("firedrill-{drill}")).await.unwrap().is_some()
    }

    /// Waits until the workloads are as they were made.
    pub(crate) async fn as_it_was(&self) {
        let deployments = self.world.api::<Deployment>();
        for (name, replicas) in [("web", 3), ("api", 2)] {
            eventually(&format!("{name} has its {replicas} pods"), async || {
                let now = deployments.get(name).await.unwrap();
                let status = now.status.unwrap_or_default();
                let spec = now.spec.unwrap();
                spec.replicas == Some(replicas) && status.ready_replicas == Some(replicas) && status.replicas == Some(replicas)
            })
            .await;
        }
    }

    /// All that a drill may have left, at once and without waiting: no revert may need a second look.
    pub(crate) async fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (name, replicas) in [("web", 3), ("api", 2)] {
            let now = self.world.api::<Deployment>().get(name).await.unwrap().spec.unwrap().replicas;
            if now != Some(replicas) {
                left.push(format!("{name} has {now:?} replicas instead of {replicas}"));
            }
        }
        if self.world.api::<CronJob>().get("backup").await.unwrap().spec.unwrap().suspend == Some(true) {
            left.push("the CronJob is suspended".to_owned());
        }
        let all = &mut left;
        self.marked::<Deployment>(all).await;
        self.marked::<StatefulSet>(all).await;
        self.marked::<ReplicaSet>(all).await;
        self.marked::<CronJob>(all).await;
        self.marked::<Job>(all).await;
        self.marked::<Pod>(all).await;
        self.marked::<ConfigMap>(all).await;
        self.marked::<Secret>(all).await;
        let client = &self.world.client;
        for map in Api::<ConfigMap>::namespaced(client.clone(), &self.own).list(&ListParams::default()).await.unwrap() {
            if map.name_any() != "kube-root-ca.crt" {
                left.push(format!("ConfigMap {}", map.name_any()));
            }
        }
        for lease in Api::<Lease>::namespaced(client.clone(), &self.own).list(&ListParams::default()).await.unwrap() {
            left.push(format!("Lease {}", lease.name_any()));
        }
        for pod in Api::<Pod>::namespaced(client.clone(), &self.own).list(&ListParams::default()).await.unwrap() {
            left.push(format!("Pod {}", pod.name_any()));
        }
        left
    }

    /// Objects in the shop that carry a label or an annotation of firedrill's.
    async fn marked<K>(&self, left: &mut Vec<String>)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        for object in self.world.api::<K>().list(&ListParams::default()).await.unwrap() {
            let keys: Vec<&String> =
                object.labels().keys().chain(object.annotations().keys()).filter(|key| key.contains("firedrill.dev/")).collect();
            if !keys.is_empty() {
                left.push(format!("{} {} carries {keys:?}", K::kind(&()), object.name_any()));
            }
        }
    }

    /// The version of everything a drill could change.
    pub(crate) async fn versions(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        macro_rules! of {
            ($kind:ty, $namespace:expr) => {
                for object in Api::<$kind>::namespaced(self.world.client.clone(), $namespace).list(&ListParams::default()).await.unwrap() {
                    let name = format!("{} {}", <$kind as kube::Resource>::kind(&()), object.name_any());
                    all.insert(name, object.resource_version().unwrap_or_default());
                }
            };
        }
        of!(Deployment, &self.world.namespace);
        of!(CronJob, &self.world.namespace);
        of!(Pod, &self.world.namespace);
        of!(ConfigMap, &self.own);
        of!(Lease, &self.own);
        all
    }

    pub(crate) async fn end(self) {
        self.kubelet.abort();
        let namespaces = Api::<Namespace>::all(self.world.client.clone());
        // It may never have been made.
        let _ = namespaces.delete(&self.own, &DeleteParams::default()).await;
        self.world.end().await;
    }
}

/// Past the test harness, which shows nothing of a test that passes.
pub(crate) fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// The command that is tested; `FIREDRILL_TEST_BINARY` names another build of it, for benchmarks.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("FIREDRILL_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_firedrill").into(), PathBuf::from)
}

/// Whether the long version was asked for.
pub(crate) fn full() -> bool {
    std::env::var_os("FIREDRILL_TEST_FULL").is_some_and(|v| !v.is_empty())
}
