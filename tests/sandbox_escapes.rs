//! Attempts to have a drill break what it may not, in the sandbox: each is refused with words that name the thing and the way out, and
//! by the API server's own log nothing was written but firedrill's Leases and its record.
//!
//! Links that are swapped below a path, which the sandbox's volumes do not have: `tests/node_volumes.rs`
//! (`no_path_leads_out_of_a_volume`, `what_others_do_to_the_file_is_seen_and_nothing_else_is_touched`).

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/things.rs"]
mod things;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fault_kit::{World, from};
use firedrill::{
    cluster::Cluster,
    drill::{Drill, DrillEnd, DrillOptions, Takeover},
    journal::{self, Disk, Event, MemoryDisk, StepOutcome},
    plan::{self, NoPlan, Plan},
    scenario::{Diagnostic, Loaded, Problems, types::Dur},
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Namespace, Pod, Service},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// Who runs the drills: an administrator, so that nothing but firedrill itself refuses.
const RUNNER: &str = "admin:runner";

fn pods(name: &str, pods: Value) -> Value {
    let labels = json!({"app": name});
    let mut template = json!({"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "main", "image": format!("{name}:1"), "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
    ], "volumes": [{"name": "data", "emptyDir": {}}]}});
    template["metadata"]["annotations"] = json!({"sandbox.firedrill.dev/model": "shell"});
    template["spec"]["containers"][0]["command"] = json!(["sh", "-c", "while :; do sleep 5; done"]);
    json!({"metadata": {"name": name}, "spec": {"replicas": pods, "selector": {"matchLabels": labels}, "template": template}})
}

/// A shop of a Deployment of two.
async fn shop() -> World {
    let w = World::in_sandbox().await;
    w.create::<Deployment>(pods("web", json!(2))).await;
    w.create::<Service>(json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})).await;
    things::ready_pods(&w, "web", 2).await;
    w
}

fn client(w: &World, user: &str) -> Cluster {
    Cluster::from_client(w.sandbox.as_ref().unwrap().client(user), "sandbox", w.cluster.uid.clone())
}

/// A drill that waits ten seconds, breaks its one target, and looks at nothing that matters.
fn scenario(target: &Value, fault: &Value) -> Loaded {
    parse(target, fault).unwrap()
}

fn parse(target: &Value, fault: &Value) -> Result<Loaded, Problems> {
    let scenario = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "escape"},
        "spec": {
            "summary": "It tries.",
            "targets": {"t": target},
            "limits": {"pods": 2, "volumes": 2, "objects": 1, "duration": "10m"},
            "probes": {"open": {"object": {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "cel": "object.metadata.name == 'web'"}}},
            "steps": [{"hold": "10s"}, {"name": "break", "inject": fault}],
            "objectives": [{"check": {"probe": "open", "state": "good"}}],
        },
    });
    firedrill::scenario::parse_scenario("escape.yaml", &scenario.to_string(), &[])
}

fn kill() -> Value {
    json!({"podKill": {"target": "t", "grace": "0s"}})
}

fn web() -> Value {
    json!({"namespace": "shop", "pods": "app=web"})
}

async fn plan_as(w: &World, user: &str, uid: &str, scenario: &Loaded) -> Result<Plan, String> {
    let environment = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "sandbox"},
        "spec": {"clusters": {"main": {"uid": uid}}, "firedrill": {"watchdog": {"enabled": false}}},
    });
    let environment = firedrill::scenario::parse_environment("environment.yaml", &environment.to_string()).unwrap();
    match plan::plan_on(&client(w, user), scenario, &environment, &files(), 1).await {
        Ok(plan) => Ok(plan),
        Err(NoPlan::Refused(refused)) => Err(refused.to_string()),
        Err(NoPlan::Cluster(error)) => panic!("the cluster could not be read: {error}"),
    }
}

fn files() -> BTreeMap<String, String> {
    let slow = "apiVersion: chaos-mesh.org/v1alpha1\nkind: NetworkChaos\nmetadata: {name: ours, namespace: shop}\nspec: {action: delay}\n";
    BTreeMap::from([("slow.yaml".to_owned(), slow.to_owned())])
}

async fn plan(w: &World, scenario: &Loaded) -> Result<Plan, String> {
    plan_as(w, RUNNER, &w.cluster.uid, scenario).await
}

/// What the runner has written, but for Leases and the record in firedrill's own namespace, and questions about its rights.
fn writes(w: &World) -> Vec<String> {
    let audit = w.sandbox.as_ref().unwrap().audit();
    let own = |e: &&firedrill::sandbox::AuditEntry| {
        e.namespace == "firedrill" && ["leases", "configmaps"].contains(&e.resource.as_str()) || e.resource == "selfsubjectaccessreviews"
    };
    let of_runner = audit.iter().filter(|e| e.user.starts_with("admin:runner") || e.user == "bob");
    let written = of_runner.filter(|e| e.is_write() && !e.dry_run && !own(e));
    written.map(|e| format!("{} {} {}/{} {}", e.verb, e.resource, e.namespace, e.name, e.code)).collect()
}

/// It is not even planned.
async fn refused(w: &World, scenario: &Loaded, parts: &[&str]) {
    let why = plan(w, scenario).await.expect_err("it was planned");
    for part in parts {
        assert!(why.contains(part), "no `{part}` in {why}");
    }
    assert_eq!(writes(w), Vec::<String>::new(), "{why}");
}

/// What became of a drill.
struct Attempt {
    /// How the step `break` ended, if it came to that.
    step: Option<(StepOutcome, String)>,
    /// The whole journal.
    said: String,
    end: DrillEnd,
}

/// Runs a drill while somebody does something.
async fn attempt(w: &World, plan: Plan, text: &str, meddle: impl Future<Output = ()>) -> Attempt {
    let disk = MemoryDisk::default();
    let options = DrillOptions {
        by: "test".to_owned(),
        confirmed_by: Some("test".to_owned()),
        auto_ack: true,
        lease: Dur(Duration::from_secs(15)),
        out: tempfile::tempdir().unwrap().keep(),
        disk: Disk::Memory(disk.clone()),
        seed: Some(1),
        sandbox: Some(w.sandbox.as_ref().unwrap().dialer(None)),
        takeover: Takeover::default(),
    };
    let drill: Arc<Drill> = Box::pin(Drill::start(client(w, RUNNER), w.clock(), plan, "drill-1", text, options)).await.unwrap();
    let (end, ()) = tokio::join!(Box::pin(drill.run()), async {
        // In the hold, long before the fault.
        tokio::time::sleep(Duration::from_secs(3)).await;
        meddle.await;
    });
    let records = journal::read_on(&Disk::Memory(disk), &drill.evidence().journal()).unwrap();
    let said = serde_json::to_string(&records).unwrap();
    let step = records.into_iter().find_map(|record| match record.event {
        Event::StepEnded { step, outcome, detail, .. } if step == "2" => Some((outcome, detail)),
        _ => None,
    });
    Attempt { step, said, end }
}

/// It is planned, and refused at the instant of the inject.
async fn refused_late(w: &World, scenario: &Loaded, meddle: impl Future<Output = ()>, parts: &[&str]) {
    let plan = plan(w, scenario).await.unwrap();
    let Attempt { step, said, end } = attempt(w, plan, &scenario.text, meddle).await;
    let (outcome, detail) = step.unwrap_or_else(|| panic!("the step never ended: {end:?} {said}"));
    assert_eq!(outcome, StepOutcome::Failed, "{detail}");
    for part in parts.iter().chain(&["nothing was changed"]) {
        assert!(detail.contains(part), "no `{part}` in {detail}");
    }
    assert!(end.clean && end.trouble.is_none(), "{end:?}");
    assert_eq!(writes(w), Vec::<String>::new(), "{detail}");
}

/// Runs it in paused time, on a stack that holds a whole drill of an unoptimised build.
fn on_a_large_stack<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(test());
    };
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(run).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

async fn label(w: &World, namespace: &str, value: Option<&str>) {
    let patch = Patch::Merge(json!({"metadata": {"labels": {"firedrill.dev/drills": value}}}));
    w.cluster.cluster_api::<Namespace>().patch(namespace, &PatchParams::default(), &patch).await.unwrap();
}

/// What is allowed is done, and this suite sees it: else none of the others would mean anything.
#[test]
fn what_is_allowed_is_written_and_seen() {
    on_a_large_stack(async || {
        let w = shop().await;
        let scenario = scenario(&web(), &kill());
        let plan = plan(&w, &scenario).await.unwrap();
        let Attempt { step, end, .. } = attempt(&w, plan, &scenario.text, async {}).await;
        assert!(matches!(step, Some((StepOutcome::Succeeded, _))) && end.clean, "{step:?}: {end:?}");
        assert_eq!(writes(&w).iter().filter(|line| line.starts_with("delete pods shop/web-")).count(), 2, "{:?}", writes(&w));
        w.end().await;
    });
}

#[test]
fn a_namespace_without_the_label() {
    on_a_large_stack(async || {
        let w = shop().await;
        label(&w, "shop", None).await;
        let way_out = "`kubectl label namespace shop firedrill.dev/drills=allowed`";
        refused(&w, &scenario(&web(), &kill()), &["namespace shop does not allow drills", way_out]).await;
        label(&w, "shop", Some("yes")).await;
        refused(&w, &scenario(&web(), &kill()), &["namespace shop does not allow drills", way_out]).await;
        w.end().await;
    });
}

#[test]
fn a_label_removed_between_the_plan_and_the_inject() {
    on_a_large_stack(async || {
        let w = shop().await;
        let parts = ["namespace shop does not allow drills", "`kubectl label namespace shop firedrill.dev/drills=allowed`"];
        refused_late(&w, &scenario(&web(), &kill()), label(&w, "shop", None), &parts).await;
        w.end().await;
    });
}

#[test]
fn more_pods_than_the_limit_after_the_plan() {
    on_a_large_stack(async || {
        let w = shop().await;
        let grow = async {
            let patch = Patch::Merge(json!({"spec": {"replicas": 3}}));
            w.cluster.api::<Deployment>("shop").patch("web", &PatchParams::default(), &patch).await.unwrap();
            things::ready_pods(&w, "web", 3).await;
        };
        refused_late(&w, &scenario(&web(), &kill()), grow, &["step `break`: with it the drill breaks 3 pods, and `limits.pods` is 2"])
            .await;
        w.end().await;
    });
}

#[test]
fn a_namespace_of_the_control_plane_whatever_its_labels() {
    on_a_large_stack(async || {
        let w = shop().await;
        for namespace in ["kube-system", "kube-public", "kube-node-lease", "firedrill"] {
            label(&w, namespace, Some("allowed")).await;
            let pod =
                json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}});
            w.cluster.api::<Pod>(namespace).create(&PostParams::default(), &from(pod)).await.unwrap();
            let target = json!({"namespace": namespace, "pods": "app=web"});
            if namespace != "firedrill" {
                let text = scenario(&web(), &kill())
                    .text
                    .replace("\"namespace\":\"shop\",\"pods\"", &format!("\"namespace\":\"{namespace}\",\"pods\""));
                let problems = firedrill::scenario::parse_scenario("escape.yaml", &text, &[]).unwrap_err();
                let said = format!("no drill may touch the system namespace `{namespace}`");
                assert!(problems.list.iter().any(|p| p.message == said), "{problems:?}");
            }
            // And if that had let it pass: the plan looks for itself.
            let mut loaded = scenario(&web(), &kill());
            loaded.scenario.spec.targets["t"] = from(target);
            let said =
                if namespace == "firedrill" { "is firedrill's own; a drill may not break what runs it" } else { "is a system namespace" };
            refused(&w, &loaded, &[&format!("namespace {namespace} {said}")]).await;
        }
        w.end().await;
    });
}

#[test]
fn a_selector_that_matches_firedrills_own_pods() {
    on_a_large_stack(async || {
        let w = shop().await;
        // A runbook's pod lies in the namespace of what it repairs, and a label of its own may be anything.
        let labels = json!({"app": "web", "app.kubernetes.io/managed-by": "firedrill", "firedrill.dev/role": "runbook"});
        w.create::<Pod>(
            json!({"metadata": {"name": "runbook-1", "labels": labels}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}),
        )
        .await;
        let own = json!({"namespace": "shop", "pods": "app.kubernetes.io/managed-by=firedrill"});
        let parts = [
            "target `t` (pods app.kubernetes.io/managed-by=firedrill in shop) matches nothing but pods of firedrill's own",
            "select others by their labels",
        ];
        refused(&w, &scenario(&own, &kill()), &parts).await;
        refused(&w, &scenario(&json!({"namespace": "shop", "name": "runbook-1"}), &kill()), &["firedrill's own"]).await;
        // Among others it is left out.
        let scenario = scenario(&web(), &kill());
        let plan = plan(&w, &scenario).await.unwrap();
        let Attempt { step, .. } = attempt(&w, plan, &scenario.text, async {}).await;
        assert!(matches!(step, Some((StepOutcome::Succeeded, _))), "{step:?}");
        assert_eq!(writes(&w).iter().filter(|line| line.starts_with("delete pods shop/")).count(), 2, "{:?}", writes(&w));
        assert!(w.cluster.get_opt::<Pod>("shop", "runbook-1").await.unwrap().unwrap().metadata.deletion_timestamp.is_none());
        w.end().await;
    });
}

#[test]
fn a_path_outside_the_volume() {
    on_a_large_stack(async || {
        let w = shop().await;
        for fault in [
            json!({"fillDisk": {"target": "t", "path": "/data/../etc", "leave": "0"}}),
            json!({"corruptFile": {"target": "t", "path": "/data/d/../../etc/passwd"}}),
            json!({"deleteFiles": {"target": "t", "path": "/data/.."}}),
        ] {
            let problems = parse(&web(), &fault).unwrap_err();
            let told = |d: &Diagnostic| d.message.contains("may lead out of the volume");
            assert!(problems.list.iter().any(told), "{problems:?}");
        }
        let at = |path: &str| scenario(&web(), &json!({"corruptFile": {"target": "t", "path": path}}));
        refused(&w, &at("/etc/passwd"), &["no volume is mounted at or above /etc/passwd", "/data"]).await;
        // A plan that somebody has changed: a helper is placed before the steps begin, and what it would act on is looked at before that.
        let loaded = at("/data/d/a");
        let mut plan = plan(&w, &loaded).await.unwrap();
        plan.steps[1].spec.inject.as_mut().and_then(|fault| fault.corrupt_file.as_mut()).unwrap().path = "/etc/passwd".to_owned();
        let Attempt { step, said, end } = attempt(&w, plan, &loaded.text, async {}).await;
        let part = "no volume is mounted at or above /etc/passwd; a container's own file system is not touched. Volumes are at: /data";
        assert!(step.is_none() && said.contains(part), "{step:?} {said}");
        assert!(end.clean, "{end:?}");
        assert_eq!(writes(&w), Vec::<String>::new());
        w.end().await;
    });
}

#[test]
fn a_cluster_with_another_uid() {
    on_a_large_stack(async || {
        let w = shop().await;
        let other = "5d1f0c2e-0000-4000-8000-000000000001";
        let why = plan_as(&w, RUNNER, other, &scenario(&web(), &kill())).await.unwrap_err();
        let wanted = format!(
            "is the cluster with uid {}, but the environment's cluster `main` has uid {other}: choose the right context",
            w.cluster.uid
        );
        assert!(why.contains(&wanted), "{why}");
        // The commands ask this before they read anything at all.
        let error = client(&w, RUNNER).expect_uid("main", other).unwrap_err().to_string();
        assert!(error.contains(&wanted) && error.contains("correct `clusters.main.uid`"), "{error}");
        assert_eq!(writes(&w), Vec::<String>::new());
        w.end().await;
    });
}

/// The kinds of Chaos Mesh and Litmus that matter, as far as their definitions matter.
async fn install_chaos(w: &World) {
    for (group, plural, kind) in [
        ("chaos-mesh.org", "networkchaos", "NetworkChaos"),
        ("chaos-mesh.org", "podnetworkchaos", "PodNetworkChaos"),
        ("chaos-mesh.org", "schedules", "Schedule"),
        ("litmuschaos.io", "chaosengines", "ChaosEngine"),
        ("litmuschaos.io", "chaosresults", "ChaosResult"),
    ] {
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = json!({
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind, "singular": kind.to_lowercase()}, "versions": [
                {"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": open}},
            ]},
        });
        let definitions: Api<CustomResourceDefinition> = w.cluster.cluster_api();
        definitions.create(&PostParams::default(), &from(definition)).await.unwrap();
    }
}

/// An experiment, or its next state.
async fn experiment(w: &World, kind: &str, object: Value) {
    let (group, plural) =
        if kind == "ChaosEngine" { ("litmuschaos.io", "chaosengines".to_owned()) } else { ("chaos-mesh.org", kind.to_lowercase()) };
    let plural = if kind == "Schedule" { "schedules".to_owned() } else { plural };
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1alpha1", kind), &plural);
    let mut object = object;
    object["apiVersion"] = json!(format!("{group}/v1alpha1"));
    object["kind"] = json!(kind);
    let object: DynamicObject = from(object);
    let api: Api<DynamicObject> = Api::namespaced_with(w.cluster.client.clone(), &object.namespace().unwrap(), &resource);
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&object)).await.unwrap();
        }
        made => drop(made.unwrap()),
    }
}

fn network(phase: &str, conditions: &[&str]) -> Value {
    let conditions: Vec<Value> = conditions.iter().map(|c| json!({"type": c, "status": "True"})).collect();
    json!({"metadata": {"name": "slow", "namespace": "chaos"}, "spec": {"selector": {"namespaces": ["shop"]}},
           "status": {"conditions": conditions, "experiment": {"desiredPhase": phase}}})
}

async fn with_chaos() -> World {
    let w = shop().await;
    install_chaos(&w).await;
    let namespace = json!({"metadata": {"name": "chaos"}});
    w.cluster.cluster_api::<Namespace>().create(&PostParams::default(), &from(namespace)).await.unwrap();
    w
}

#[test]
fn an_experiment_of_another_tool_in_the_plan() {
    on_a_large_stack(async || {
        let w = with_chaos().await;
        let drill = scenario(&web(), &kill());
        plan(&w, &drill).await.unwrap();
        experiment(&w, "NetworkChaos", network("Run", &["AllInjected"])).await;
        let parts = [
            "NetworkChaos chaos/slow of Chaos Mesh is live, and acts on namespace shop",
            "`kubectl annotate -n chaos networkchaos.chaos-mesh.org slow experiment.chaos-mesh.org/pause=true`",
        ];
        refused(&w, &drill, &parts).await;
        experiment(&w, "NetworkChaos", network("Stop", &["AllRecovered"])).await;
        plan(&w, &drill).await.unwrap();
        let engine = |status: &str| json!({"metadata": {"name": "kill", "namespace": "shop"}, "status": {"engineStatus": status}});
        experiment(&w, "ChaosEngine", engine("initialized")).await;
        refused(&w, &drill, &["ChaosEngine shop/kill of Litmus is live", "`kubectl patch -n shop chaosengine kill "]).await;
        experiment(&w, "ChaosEngine", engine("completed")).await;
        experiment(&w, "Schedule", json!({"metadata": {"name": "nightly", "namespace": "shop"}, "spec": {"type": "NetworkChaos"}})).await;
        let planned = plan(&w, &drill).await.unwrap();
        assert!(
            planned.warnings.iter().any(|line| line.contains("Schedule shop/nightly of Chaos Mesh may begin an experiment")),
            "{:?}",
            planned.warnings
        );
        let rules: Vec<&str> = planned.rbac.iter().filter(|p| p.group.contains("chaos")).map(|p| p.resource.as_str()).collect();
        assert_eq!(rules, ["networkchaos", "schedules", "chaosengines"]);
        w.end().await;
    });
}

#[test]
fn an_experiment_of_another_tool_that_begins_after_the_plan() {
    on_a_large_stack(async || {
        let w = with_chaos().await;
        let begins = experiment(&w, "NetworkChaos", network("Run", &["AllInjected"]));
        let parts = ["NetworkChaos chaos/slow of Chaos Mesh is live, and acts on namespace shop", "wait for its end, or `kubectl annotate"];
        refused_late(&w, &scenario(&web(), &kill()), begins, &parts).await;
        w.end().await;
    });
}

/// A tool that is installed while the drill runs.
#[test]
fn another_tool_that_comes_after_the_plan() {
    on_a_large_stack(async || {
        let w = shop().await;
        let namespace = json!({"metadata": {"name": "chaos"}});
        w.cluster.cluster_api::<Namespace>().create(&PostParams::default(), &from(namespace)).await.unwrap();
        let begins = async {
            install_chaos(&w).await;
            experiment(&w, "NetworkChaos", network("Run", &["AllInjected"])).await;
        };
        refused_late(&w, &scenario(&web(), &kill()), begins, &["NetworkChaos chaos/slow of Chaos Mesh is live"]).await;
        w.end().await;
    });
}

/// The drill's own `manifest` fault is an experiment of the other tool, and another fault follows it.
#[test]
fn an_experiment_that_is_the_drills_own_fault_is_no_other_tools() {
    on_a_large_stack(async || {
        let w = with_chaos().await;
        let mut own = scenario(&web(), &kill());
        let fault = json!({"name": "slow", "inject": {"manifest": {"file": "slow.yaml", "effective": "object.spec.action == 'delay'"}}});
        let mut text: Value = serde_json::from_str(&own.text).unwrap();
        text["spec"]["steps"][0] = fault;
        own = firedrill::scenario::parse_scenario("escape.yaml", &text.to_string(), &[]).unwrap();
        let planned = plan(&w, &own).await.unwrap();
        let Attempt { step, end, .. } = attempt(&w, planned, &own.text, async {}).await;
        assert!(matches!(step, Some((StepOutcome::Succeeded, _))) && end.clean, "{step:?}: {end:?}");
        assert!(writes(&w).iter().any(|line| line.starts_with("create networkchaos shop/")), "{:?}", writes(&w));
        w.end().await;
    });
}

/// Who may not list them is told so, and the plan's permissions name it.
#[test]
fn experiments_that_may_not_be_listed_are_said() {
    on_a_large_stack(async || {
        let w = with_chaos().await;
        experiment(&w, "NetworkChaos", network("Run", &["AllInjected"])).await;
        let rules = json!([{"apiGroups": ["", "policy"], "resources": ["*"], "verbs": ["get", "list"]}]);
        let role: ClusterRole = from(json!({"metadata": {"name": "reader"}, "rules": rules}));
        w.cluster.cluster_api().create(&PostParams::default(), &role).await.unwrap();
        let binding = json!({"metadata": {"name": "bob"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
                             "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
        w.cluster.cluster_api::<ClusterRoleBinding>().create(&PostParams::default(), &from(binding)).await.unwrap();
        let planned = plan_as(&w, "bob", &w.cluster.uid, &scenario(&web(), &kill())).await.unwrap();
        let said = "networkchaos.chaos-mesh.org may not be listed in firedrill, shop: whether one of Chaos Mesh is live there is not known";
        assert!(planned.warnings.iter().any(|line| line.contains(said)), "{:#?}", planned.warnings);
        let listed = planned.rbac.iter().any(|p| p.group == "chaos-mesh.org" && p.resource == "networkchaos" && p.verbs == ["list"]);
        assert!(listed, "{:#?}", planned.rbac);
        assert_eq!(writes(&w), Vec::<String>::new());
        w.end().await;
    });
}
