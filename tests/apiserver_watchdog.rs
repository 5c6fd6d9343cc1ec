//! The watchdog against a real API server: what it does when the runner is killed, sleeps, or lives. The test stands in for the
//! kubelet: it runs the command that the watchdog's pod was made with, as that pod's ServiceAccount.

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Namespace, Pod, ServiceAccount},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use support::{
    World,
    cli::{firedrill, stderr},
    eventually, stdout, world,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// How long the drill's Leases live.
const LEASE: Duration = Duration::from_secs(4);
/// For how long the Leases may be silent: as long as they live and at least 5 s.
const SILENCE: Duration = Duration::from_secs(9);

/// A web shop and its backup job, and firedrill's own place with a watchdog's account.
struct Shop {
    world: World,
    own: String,
    files: (PathBuf, PathBuf),
    out: PathBuf,
    roles: Vec<(Api<DynamicObject>, String)>,
}

/// A process that does not outlive its test.
struct Process(Child, PathBuf);

impl Process {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its exit code, once it has ended by itself.
    async fn code(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < Duration::from_secs(60), "it does not end:\n{}", std::fs::read_to_string(&self.1).unwrap());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Shop {
    /// `may` says whether the owner has bound the watchdog's account to what `plan --rbac` prints.
    async fn new(test: &str, steps: Value, may: bool) -> Option<Self> {
        let world = world(test).await?;
        let namespace = world.namespace.clone();
        let own = format!("{namespace}-own");
        let object = json!({"metadata": {"name": own}});
        Api::<Namespace>::all(world.client.clone()).create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        let template = |labels: Value| json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}});
        let web = json!({"metadata": {"name": "web"}, "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template(json!({"app": "web"}))
        }});
        world.create::<Deployment>(web).await;
        let mut job = template(json!({}));
        job["spec"]["restartPolicy"] = json!("Never");
        let backup = json!({"metadata": {"name": "backup"}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": job}}}});
        world.create::<CronJob>(backup).await;
        world.create::<ConfigMap>(json!({"metadata": {"name": "open"}})).await;
        let scenario = json!({
            "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "lose-runner"},
            "spec": {
                "summary": "The runner of a drill is lost.",
                "targets": {"web": {"namespace": namespace, "deployment": "web"}, "backup": {"namespace": namespace, "cronJob": "backup"}},
                "limits": {"pods": 2, "objects": 2, "duration": "20m"},
                "probes": {"open": {"object": {"apiVersion": "v1", "kind": "ConfigMap", "namespace": namespace, "name": "open", "cel": "object.metadata.name == 'open'"}}},
                "steadyState": {"good": ["open"], "for": "1s", "timeout": "30s"},
                "steps": steps,
                "objectives": [{"check": {"probe": "open", "state": "good"}}]
            }
        });
        let environment = world.environment(&own);
        let mut text: Value = serde_saphyr::from_str(&std::fs::read_to_string(&environment).unwrap()).unwrap();
        text["spec"]["firedrill"]["watchdog"] = json!({"serviceAccount": "watchdog"});
        let files = (world.file("scenario.yaml", &scenario.to_string()), world.file("environment.yaml", &text.to_string()));
        let out = world.dir.path().join("evidence");
        let mut shop = Self { world, own, files, out, roles: Vec::new() };
        if may {
            shop.bind().await;
        }
        let web = shop.world.api::<Deployment>();
        eventually("the web's pods", async || {
            web.get("web").await.unwrap().status.is_some_and(|s| s.replicas == Some(2) && s.observed_generation == Some(1))
        })
        .await;
        Some(shop)
    }

    /// What an owner does: applies what `plan --rbac` prints of the watchdog.
    async fn bind(&mut self) {
        let args = ["plan", self.files.0.to_str().unwrap(), "-e", self.files.1.to_str().unwrap(), "--rbac"];
        let printed = firedrill(&self.world.kubeconfig, &args);
        assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
        let text = stdout(&printed);
        let of_watchdog = text.split_once("# The watchdog").expect("nothing of the watchdog").1;
        // The line cut in two is a comment.
        for document in format!("#{of_watchdog}").split("---\n") {
            let document = document.replace("firedrill-lose-runner", &format!("firedrill-{}", self.world.namespace));
            let object: DynamicObject = serde_saphyr::from_str(&document).unwrap();
            let types = object.types.clone().unwrap();
            let gvk = GroupVersionKind::try_from(&types).unwrap();
            let (resource, _) = kube::discovery::pinned_kind(&self.world.client, &gvk).await.unwrap();
            let client = self.world.client.clone();
            let api: Api<DynamicObject> = match object.namespace() {
                Some(namespace) => Api::namespaced_with(client, &namespace, &resource),
                None => Api::all_with(client, &resource),
            };
            let name = object.name_any();
            api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{} {name}: {error}", types.kind));
            self.roles.push((api, name));
        }
        let accounts: Api<ServiceAccount> = self.ours();
        eventually("the watchdog's account", async || accounts.get_opt("watchdog").await.unwrap().is_some()).await;
    }

    /// Objects in firedrill's own namespace.
    fn ours<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.world.client.clone(), &self.own)
    }

    fn run(&self) -> Process {
        self.run_with(&self.world.kubeconfig)
    }

    fn run_with(&self, kubeconfig: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firedrill"));
        let lease = format!("{}s", LEASE.as_secs());
        command.args(["run", self.files.0.to_str().unwrap(), "-e", self.files.1.to_str().unwrap(), "--yes", "--lease", &lease, "--out"]);
        command.arg(&self.out).env("KUBECONFIG", kubeconfig).env("NO_COLOR", "1").env_remove("FIREDRILL_ENVIRONMENT");
        self.spawn(command, "runner")
    }

    /// What a kubelet does with the watchdog's pod: runs its command with its environment.
    async fn watchdog(&self) -> (Process, Pod) {
        let pods: Api<Pod> = self.ours();
        let params = ListParams::default().labels("firedrill.dev/role=watchdog");
        let mut found = None;
        eventually("the watchdog's pod", async || {
            found = pods.list(&params).await.unwrap().items.pop();
            found.is_some()
        })
        .await;
        let pod = found.unwrap();
        let spec = pod.spec.clone().unwrap();
        assert_eq!(spec.service_account_name.as_deref(), Some("watchdog"));
        let container = &spec.containers[0];
        let words = container.command.clone().unwrap();
        assert_eq!(words[0], "/firedrill");
        let mut command = Command::new(env!("CARGO_BIN_EXE_firedrill"));
        command.args(&words[1..]).arg("--scratch").arg(self.world.dir.path().join("scratch"));
        for variable in container.env.clone().unwrap() {
            let value = match (&variable.value, variable.value_from.and_then(|from| from.field_ref)) {
                (Some(value), _) => value.clone(),
                (None, Some(field)) if field.field_path == "metadata.uid" => pod.uid().unwrap(),
                (None, _) => pod.name_any(),
            };
            command.env(&variable.name, value);
        }
        let account = format!("system:serviceaccount:{}:watchdog", self.own);
        // A KUBECONFIG is a list with colons between, and the account's name has some.
        let kubeconfig = self.world.dir.path().join("kubeconfig-watchdog");
        std::fs::rename(self.world.kubeconfig_as(&account), &kubeconfig).unwrap();
        command.env("KUBECONFIG", kubeconfig);
        (self.spawn(command, "watchdog"), pod)
    }

    fn spawn(&self, mut command: Command, name: &str) -> Process {
        let path = self.world.dir.path().join(format!("{name}.log"));
        let log = std::fs::File::create(&path).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Process(command.spawn().unwrap(), path)
    }

    fn log(&self, of: &str) -> String {
        std::fs::read_to_string(self.world.dir.path().join(format!("{of}.log"))).unwrap()
    }

    /// Replicas wanted and whether the backup is suspended.
    async fn is(&self) -> (i32, bool) {
        let web = self.world.api::<Deployment>().get("web").await.unwrap();
        let backup = self.world.api::<CronJob>().get("backup").await.unwrap();
        (web.spec.unwrap().replicas.unwrap(), backup.spec.unwrap().suspend.unwrap_or(false))
    }

    async fn until_it_is(&self, wanted: (i32, bool)) {
        let began = Instant::now();
        while self.is().await != wanted {
            assert!(began.elapsed() < Duration::from_secs(60), "not {wanted:?}:\n{}\n{}", self.log("runner"), self.log("watchdog"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Everything that carries a drill's label.
    async fn left(&self) -> Vec<String> {
        async fn of<K>(api: Api<K>, left: &mut Vec<String>)
        where
            K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
            K::DynamicType: Default,
        {
            for object in api.list(&ListParams::default().labels("firedrill.dev/drill")).await.unwrap() {
                left.push(format!("{} {}", K::kind(&K::DynamicType::default()), object.name_any()));
            }
        }
        let mut left = Vec::new();
        of::<Pod>(self.ours(), &mut left).await;
        of::<ConfigMap>(self.ours(), &mut left).await;
        of::<Lease>(self.ours(), &mut left).await;
        of::<Pod>(self.world.api(), &mut left).await;
        of::<Job>(self.world.api(), &mut left).await;
        for object in [self.world.api::<Deployment>().get("web").await.unwrap().annotations().clone()].into_iter().chain([self
            .world
            .api::<CronJob>()
            .get("backup")
            .await
            .unwrap()
            .annotations()
            .clone()])
        {
            left.extend(object.into_keys().filter(|key| key.starts_with("firedrill.dev/")));
        }
        left
    }

    /// The reasons of the Events that the watchdog made, sorted.
    async fn told(&self) -> Vec<String> {
        let events = self.ours::<Event>().list(&ListParams::default()).await.unwrap();
        let ours = events.into_iter().filter(|e| e.reporting_component.as_deref() == Some("firedrill.dev/watchdog"));
        let mut reasons: Vec<String> = ours.filter_map(|e| e.reason).collect();
        reasons.sort();
        reasons
    }

    /// The verdict of the journal beside the runner, and the exit code of `firedrill report`.
    fn report(&self) -> (Value, Option<i32>) {
        let dir = std::fs::read_dir(&self.out).unwrap().next().unwrap().unwrap().path();
        let code = firedrill(&self.world.kubeconfig, &["report", dir.to_str().unwrap()]).status.code();
        (serde_json::from_str(&std::fs::read_to_string(dir.join("report.json")).unwrap()).unwrap(), code)
    }

    async fn end(self) {
        for (api, name) in &self.roles {
            // Those in a namespace go with it as well.
            let _ = api.delete(name, &DeleteParams::default()).await;
        }
        let own = Api::<Namespace>::all(self.world.client.clone()).delete(&self.own, &DeleteParams::default()).await;
        assert!(own.is_ok(), "{own:?}");
        self.world.end().await;
    }
}

fn break_both_and_hold() -> Value {
    json!([
        {"name": "no web", "inject": {"scale": {"target": "web", "replicas": 0}}},
        {"name": "no backup", "inject": {"cutBackupJob": {"target": "backup"}}},
        {"hold": "15m"}
    ])
}

#[tokio::test]
async fn a_killed_runners_drill_is_reverted_and_nothing_is_left() {
    let Some(shop) = Shop::new("a_killed_runners_drill_is_reverted_and_nothing_is_left", break_both_and_hold(), true).await else { return };
    let mut runner = shop.run();
    let (mut watchdog, _) = shop.watchdog().await;
    shop.until_it_is((0, true)).await;
    shop.world.pod("bystander", &[]).await;
    runner.0.kill().unwrap();
    let killed = Instant::now();
    runner.0.wait().unwrap();
    shop.until_it_is((2, false)).await;
    let took = killed.elapsed();
    println!("reverted {:.1} s after the kill, Leases of {} s", took.as_secs_f64(), LEASE.as_secs());
    assert!(took >= LEASE, "a runner whose Leases still live may be alive: {took:?}");
    assert!(took <= SILENCE + Duration::from_secs(5), "{took:?}\n{}", shop.log("watchdog"));
    assert_eq!(watchdog.code().await, Some(0), "{}", shop.log("watchdog"));
    let mut left = Vec::new();
    eventually("nothing left", async || {
        left = shop.left().await;
        left.is_empty()
    })
    .await;
    assert_eq!(shop.told().await, ["Reverted", "RunnerLost"]);
    assert!(shop.world.api::<Pod>().get_opt("bystander").await.unwrap().is_some());
    let (report, code) = shop.report();
    assert_ne!(code, Some(0));
    assert_ne!(report["verdict"]["drill"], "passed", "{report:#}");
    shop.end().await;
}

#[tokio::test]
async fn a_runner_that_wakes_up_after_the_revert_changes_nothing_and_says_so() {
    let test = "a_runner_that_wakes_up_after_the_revert_changes_nothing_and_says_so";
    let Some(shop) = Shop::new(test, break_both_and_hold(), true).await else { return };
    let mut runner = shop.run();
    let (mut watchdog, _) = shop.watchdog().await;
    shop.until_it_is((0, true)).await;
    runner.signal(rustix::process::Signal::STOP);
    shop.until_it_is((2, false)).await;
    assert_eq!(watchdog.code().await, Some(0), "{}", shop.log("watchdog"));
    let versions = async || {
        let web = shop.world.api::<Deployment>().get("web").await.unwrap().metadata.generation;
        (web, shop.world.api::<CronJob>().get("backup").await.unwrap().resource_version())
    };
    let before = versions().await;
    runner.signal(rustix::process::Signal::CONT);
    let code = runner.code().await;
    let said = shop.log("runner");
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("was deleted") && said.contains("has reverted it and ended it clean"), "{said}");
    assert_eq!(versions().await, before, "it changed something");
    assert_eq!(shop.left().await, Vec::<String>::new());
    let (report, code) = shop.report();
    assert_eq!((&report["verdict"]["drill"], &report["verdict"]["clean"], code), (&json!("aborted"), &json!(true), Some(4)), "{report:#}");
    shop.end().await;
}

#[tokio::test]
async fn while_the_runner_lives_the_watchdog_does_nothing() {
    let steps = json!([
        {"name": "no web", "inject": {"scale": {"target": "web", "replicas": 0}}},
        {"hold": "20s"}
    ]);
    let Some(shop) = Shop::new("while_the_runner_lives_the_watchdog_does_nothing", steps, true).await else { return };
    let began = Instant::now();
    let mut runner = shop.run();
    let (mut watchdog, _) = shop.watchdog().await;
    shop.until_it_is((0, false)).await;
    let code = runner.code().await;
    assert_eq!(code, Some(0), "{}", shop.log("runner"));
    assert!(began.elapsed() > SILENCE * 2);
    assert_eq!((shop.is().await, shop.left().await), ((2, false), Vec::<String>::new()));
    assert_eq!(watchdog.code().await, Some(0), "{}", shop.log("watchdog"));
    assert_eq!(shop.told().await, Vec::<String>::new());
    assert!(!shop.log("watchdog").contains("lost"), "{}", shop.log("watchdog"));
    let (report, _) = shop.report();
    assert_eq!(report["verdict"]["drill"], "passed", "{report:#}");
    shop.end().await;
}

#[tokio::test]
async fn a_drill_whose_watchdog_could_not_revert_it_is_refused_before_anything_is_changed() {
    let test = "a_drill_whose_watchdog_could_not_revert_it_is_refused_before_anything_is_changed";
    let Some(shop) = Shop::new(test, break_both_and_hold(), false).await else { return };
    let generation = async || shop.world.api::<Deployment>().get("web").await.unwrap().metadata.generation;
    let before = generation().await;
    // No account at all: the API server refuses the pod.
    let mut runner = shop.run();
    let code = runner.code().await;
    let said = shop.log("runner");
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("failed to place the watchdog") && said.contains("firedrill plan --rbac"), "{said}");
    // An account that may do next to nothing.
    let account = json!({"metadata": {"name": "watchdog"}});
    shop.ours::<ServiceAccount>().create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    let rules = json!([
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]}, {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch"]}
    ]);
    let name = format!("firedrill-{}", shop.world.namespace);
    let subject = json!({"kind": "ServiceAccount", "name": "watchdog", "namespace": shop.own});
    let client = shop.world.client.clone();
    let role = json!({"metadata": {"name": name}, "rules": rules});
    let roles = Api::<k8s_openapi::api::rbac::v1::ClusterRole>::all(client.clone());
    roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
    let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
    let binding = json!({"metadata": {"name": name}, "roleRef": role_ref, "subjects": [subject]});
    let bindings = Api::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>::all(client);
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    let mut runner = shop.run();
    let (_watchdog, _) = shop.watchdog().await;
    let code = runner.code().await;
    let said = shop.log("runner");
    assert_eq!(code, Some(4), "{said}\n{}", shop.log("watchdog"));
    for part in [
        "it could not revert this drill: it may not",
        &format!("patch deployments.apps {}/web", shop.world.namespace),
        &format!("patch cronjobs.batch {}/backup", shop.world.namespace),
        "firedrill plan --rbac",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert_eq!((generation().await, shop.is().await, shop.left().await), (before, (2, false), Vec::<String>::new()));
    roles.delete(&name, &DeleteParams::default()).await.unwrap();
    bindings.delete(&name, &DeleteParams::default()).await.unwrap();
    shop.end().await;
}

#[tokio::test]
async fn a_drill_that_loses_its_watchdog_breaks_nothing_more() {
    let steps = json!([
        {"name": "no web", "inject": {"scale": {"target": "web", "replicas": 0}}},
        {"hold": "5s"},
        {"name": "no backup", "inject": {"cutBackupJob": {"target": "backup"}}},
        {"hold": "15m"}
    ]);
    let Some(shop) = Shop::new("a_drill_that_loses_its_watchdog_breaks_nothing_more", steps, true).await else { return };
    let generation = async || shop.world.api::<CronJob>().get("backup").await.unwrap().metadata.generation;
    let before = generation().await;
    let mut runner = shop.run();
    let (mut watchdog, pod) = shop.watchdog().await;
    shop.until_it_is((0, false)).await;
    watchdog.0.kill().unwrap();
    watchdog.0.wait().unwrap();
    shop.ours::<Pod>().delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();
    let code = runner.code().await;
    let said = shop.log("runner");
    assert!(
        said.contains(&format!("refused, nothing was changed: the watchdog is lost: pod {}/{} was deleted", shop.own, pod.name_any())),
        "{said}"
    );
    // Nothing was missed: an objective of a drill that was not carried out is not decided.
    assert_eq!(code, Some(3), "{said}");
    assert_eq!((shop.is().await, generation().await, shop.left().await), ((2, false), before, Vec::<String>::new()), "{said}");
    shop.end().await;
}

#[tokio::test]
async fn a_revert_that_fails_is_told_and_tried_again() {
    let test = "a_revert_that_fails_is_told_and_tried_again";
    if std::env::var_os("FIREDRILL_TEST_FULL").is_none() {
        println!("{test}: NOT RUN, it takes minutes: FIREDRILL_TEST_FULL=1");
        return;
    }
    let Some(shop) = Shop::new(test, break_both_and_hold(), true).await else { return };
    let mut runner = shop.run();
    let (mut watchdog, _) = shop.watchdog().await;
    shop.until_it_is((0, true)).await;
    // What it may do in the shop is taken from it, and given back later.
    let mut taken = Vec::new();
    for (api, name) in
        shop.roles.iter().filter(|(api, _)| api.namespace() == Some(&shop.world.namespace) && api.resource_url().ends_with("/rolebindings"))
    {
        let mut binding = api.get(name).await.unwrap();
        binding.metadata.resource_version = None;
        binding.metadata.uid = None;
        api.delete(name, &DeleteParams::default()).await.unwrap();
        taken.push((api.clone(), binding));
    }
    assert!(!taken.is_empty());
    runner.0.kill().unwrap();
    runner.0.wait().unwrap();
    let began = Instant::now();
    while !shop.told().await.contains(&"NotClean".to_owned()) {
        // Each of the two reverts is tried for ten seconds.
        assert!(began.elapsed() < Duration::from_secs(60), "{}", shop.log("watchdog"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let said = shop.log("watchdog");
    assert!(said.contains("NOT CLEAN: ") && said.contains("is NOT undone") && said.contains("undo it with `firedrill revert"), "{said}");
    assert_eq!(shop.is().await, (0, true));
    for (api, binding) in taken {
        api.create(&PostParams::default(), &binding).await.unwrap();
    }
    while shop.is().await != (2, false) {
        assert!(began.elapsed() < Duration::from_secs(200), "{}", shop.log("watchdog"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let began = Instant::now();
    while watchdog.0.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(120), "{}", shop.log("watchdog"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(shop.left().await, Vec::<String>::new(), "{}", shop.log("watchdog"));
    assert!(shop.told().await.contains(&"Reverted".to_owned()));
    shop.end().await;
}

/// A way to the API server on which answers take 100 ms, and none at all while it is held up. Gives its port.
async fn slow_way(server: String, held: watch::Receiver<bool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(&server).await.unwrap();
            let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut near_in, &mut far_out).await });
            let mut held = held.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                loop {
                    let count = far_in.read(&mut bytes).await.unwrap_or(0);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let (began, was_held) = (Instant::now(), *held.borrow());
                    if held.wait_for(|held| !held).await.is_err() || count == 0 {
                        return;
                    }
                    // What has waited longest, the intent's answer, comes first: not a renewal that was sent a moment ago.
                    if was_held && began.elapsed() < LEASE {
                        tokio::time::sleep(Duration::from_secs(2)).await;
                    }
                    if near_out.write_all(&bytes[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn leases_that_lapse_while_an_intent_is_written_abort_the_drill_and_revert_what_was_broken() {
    let test = "leases_that_lapse_while_an_intent_is_written_abort_the_drill_and_revert_what_was_broken";
    let Some(shop) = Shop::new(test, break_both_and_hold(), false).await else { return };
    // Without a watchdog.
    shop.world.environment(&shop.own);
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&shop.world.kubeconfig).unwrap()).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap().trim_start_matches("https://").to_owned();
    let (hold, held) = watch::channel(false);
    config["clusters"][0]["cluster"]["server"] = json!(format!("https://127.0.0.1:{}", slow_way(server, held).await));
    let mut runner = shop.run_with(&shop.world.file("kubeconfig-slow", &config.to_string()));
    // Of the spec: a revert of what was never injected leaves a new version behind, so that an inject under way is refused.
    let generation = async || shop.world.api::<CronJob>().get("backup").await.unwrap().metadata.generation;
    let before = generation().await;
    assert!(before.is_some());
    let records: Api<ConfigMap> = shop.ours();
    let params = ListParams::default().labels("firedrill.dev/role=record");
    let began = Instant::now();
    // The second intent is in the record; that it is has not yet come back to the runner.
    loop {
        let found = records.list(&params).await.unwrap().items.pop().and_then(|map| map.data?.remove("events.jsonl"));
        if found.is_some_and(|events| events.matches(r#"{"intent":{"#).count() == 2) {
            hold.send_replace(true);
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no second intent:\n{}", shop.log("runner"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(LEASE + Duration::from_secs(2)).await;
    hold.send_replace(false);
    let code = runner.code().await;
    let said = shop.log("runner");
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("the Leases had run out: this runner was asleep or cut off"), "{said}");
    let backup = generation().await;
    assert_eq!((shop.is().await, shop.left().await, backup), ((2, false), Vec::<String>::new(), before));
    shop.end().await;
}
