//! `doctor`: in the sandbox, as a library against worlds that are made for it, and as a command; what it says, what it ends with, and that
//! it changes nothing.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/things.rs"]
mod things;

use std::{collections::BTreeMap, process::Command};

use fault_kit::{World, from};
use firedrill::{
    cluster::Cluster,
    doctor::{self, Area, Asked, Finding, Report, Verdict},
    exit::Exit,
    scenario::{Loaded, types::Environment},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Who asks: an administrator, told apart from the one who makes the world.
const DOCTOR: &str = "admin:doctor";

/// A shop of two on nodes with firedrill's image.
async fn shop() -> World {
    let w = World::in_sandbox().await;
    let labels = json!({"app": "web"});
    let mut spec = json!({"containers": [{"name": "main", "image": "web:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]});
    spec["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": spec}}});
    w.create::<Deployment>(web).await;
    w.create::<Service>(json!({"metadata": {"name": "web"}, "spec": {"selector": labels, "ports": [{"port": 80}]}})).await;
    things::ready_pods(&w, "web", 2).await;
    for node in ["n0", "n1", "n2"] {
        with_image(&w, node, Some("firedrill:1")).await;
    }
    w
}

async fn with_image(w: &World, node: &str, image: Option<&str>) {
    let images: Vec<Value> = image.iter().map(|image| json!({"names": [image], "sizeBytes": 1})).collect();
    let patch = Patch::Merge(json!({"status": {"images": images}}));
    w.cluster.cluster_api::<Node>().patch_status(node, &PatchParams::default(), &patch).await.unwrap();
}

fn scenario() -> Loaded {
    let scenario = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "ailing"},
        "spec": {
            "summary": "It may work.",
            "targets": {"web": {"namespace": "shop", "pods": "app=web"}, "all": {"namespace": "shop", "deployment": "web"}},
            "limits": {"pods": 9, "volumes": 9, "objects": 9, "duration": "10m"},
            "probes": {"open": {"object": {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "cel": "object.metadata.name == 'web'"}}},
            "steadyState": {"good": ["open"], "for": "1s", "timeout": "30s"},
            "steps": [
                {"name": "hang", "inject": {"freeze": {"target": "web"}}},
                {"name": "fill", "inject": {"fillDisk": {"target": "web", "path": "/data", "leave": "0"}}},
                {"name": "none", "inject": {"scale": {"target": "all", "replicas": 0}}},
            ],
            "objectives": [{"check": {"probe": "open", "state": "good"}}],
        },
    });
    firedrill::scenario::parse_scenario("ailing.yaml", &scenario.to_string(), &[]).unwrap()
}

fn environment(w: &World, own: Value) -> Environment {
    let mut own = own;
    own["image"] = json!("firedrill:1");
    if own.get("watchdog").is_none() {
        own["watchdog"] = json!({"enabled": false});
    }
    let environment = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "here"},
        "spec": {"clusters": {"main": {"uid": w.cluster.uid}}, "firedrill": own},
    });
    firedrill::scenario::parse_environment("environment.yaml", &environment.to_string()).unwrap()
}

async fn look_as(w: &World, user: &str, environment: &Environment, scenario: Option<&Loaded>) -> Report {
    let sandbox = w.sandbox.as_ref().unwrap();
    let cluster = Cluster::from_client(sandbox.client(user), "sandbox", w.cluster.uid.clone());
    let files = BTreeMap::new();
    let clock = w.clock();
    let drill = scenario.map(|scenario| (scenario, &files));
    let asked = Asked { cluster: &cluster, environment, drill, clock: &clock, one_clock: true, probe: None };
    let report = Report::new("here", "sandbox", None, doctor::look(asked).await);
    let asks = |resource: &str| ["selfsubjectaccessreviews", "subjectaccessreviews"].contains(&resource);
    let written = sandbox.audit().into_iter().filter(|e| e.user == user && e.is_write() && !e.dry_run && !asks(&e.resource));
    assert_eq!(written.map(|e| format!("{} {}", e.verb, e.uri)).collect::<Vec<_>>(), Vec::<String>::new());
    report
}

async fn look(w: &World, own: Value) -> Report {
    look_as(w, DOCTOR, &environment(w, own), Some(&scenario())).await
}

/// The finding of a name; the report is shown if there is none.
#[track_caller]
fn of<'a>(report: &'a Report, what: &str) -> &'a Finding {
    report.findings.iter().find(|finding| finding.what == what).unwrap_or_else(|| panic!("no `{what}` in {report:#?}"))
}

/// A finding has this verdict, and says so.
#[track_caller]
fn says(report: &Report, what: &str, verdict: Verdict, parts: &[&str]) {
    let finding = of(report, what);
    let text = format!("{} → {}", finding.found, finding.change.as_deref().unwrap_or_default());
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
}

#[track_caller]
fn nothing_else_is_wrong(report: &Report, but: &[&str]) {
    let wrong: Vec<&Finding> = report.findings.iter().filter(|f| f.verdict != Verdict::Ok && !but.contains(&f.what.as_str())).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(start_paused = true)]
async fn where_all_is_well_it_says_so() {
    let w = shop().await;
    let report = look(&w, json!({})).await;
    nothing_else_is_wrong(&report, &[]);
    assert_eq!(report.exit(), Exit::Passed);
    says(&report, "API server", Verdict::Ok, &["v1.34"]);
    says(&report, "freeze (hang)", Verdict::Ok, &["by a helper on n"]);
    says(&report, "scale (none)", Verdict::Ok, &["through the API server"]);
    says(&report, "permissions", Verdict::Ok, &["this user has all"]);
    says(&report, "plan", Verdict::Ok, &["can be made: 3 faults on 4 pods, 2 volumes, 1 object"]);
    says(&report, "other chaos tools", Verdict::Ok, &["neither Chaos Mesh nor Litmus"]);
    let areas: Vec<Area> = report.findings.iter().map(|finding| finding.area).collect();
    assert!(areas.is_sorted() && areas.contains(&Area::Nodes), "{areas:?}");
    // A trial was asked for on each node that has a target.
    let audit = w.sandbox.as_ref().unwrap().audit();
    let tried =
        audit.iter().filter(|e| e.user == DOCTOR && e.verb == "create" && e.resource == "pods" && e.dry_run && e.code == 201).count();
    assert_eq!(tried, report.findings.iter().filter(|f| f.what.starts_with("node helper on ")).count());
    assert!(tried > 0);
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_too_old_or_without_the_image_are_named() {
    let w = shop().await;
    let info = json!({"operatingSystem": "linux", "kernelVersion": "5.4.0-100-generic", "architecture": "amd64", "containerRuntimeVersion": "containerd://1.7.0",
                      "kubeletVersion": "v1.34.4", "bootID": "", "machineID": "", "systemUUID": "", "osImage": "", "kubeProxyVersion": ""});
    let pods = things::ready_pods(&w, "web", 2).await;
    let node = pods[0].spec.as_ref().unwrap().node_name.clone().unwrap();
    let patch = Patch::Merge(json!({"status": {"nodeInfo": info}}));
    w.cluster.cluster_api::<Node>().patch_status(&node, &PatchParams::default(), &patch).await.unwrap();
    let report = look(&w, json!({})).await;
    says(&report, &node, Verdict::No, &["5.4.0-100-generic", "Linux 5.8 or later: faults on volumes need `openat2` and `statx`"]);
    says(&report, "fillDisk (fill)", Verdict::No, &[&format!("no helper can do it on {node}")]);
    assert_eq!(report.exit(), Exit::Refused);
    let patch = Patch::Merge(json!({"status": {"nodeInfo": {"kernelVersion": "6.1.0"}}}));
    w.cluster.cluster_api::<Node>().patch_status(&node, &PatchParams::default(), &patch).await.unwrap();
    with_image(&w, &node, None).await;
    let report = look(&w, json!({})).await;
    says(&report, &node, Verdict::Warning, &["has not said that it has firedrill's image"]);
    assert_eq!(report.exit(), Exit::Passed);
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_user_may_not_do_stands_in_the_way_of_its_faults() {
    let w = shop().await;
    // Everything but scaling and helpers' pods.
    let rules = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["configmaps", "pods/exec"], "verbs": ["*"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
    ]);
    let role: ClusterRole = from(json!({"metadata": {"name": "half"}, "rules": rules}));
    w.cluster.cluster_api().create(&PostParams::default(), &role).await.unwrap();
    let binding = json!({"metadata": {"name": "bob"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "half"},
                         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    w.cluster.cluster_api::<ClusterRoleBinding>().create(&PostParams::default(), &from(binding)).await.unwrap();
    let report = look_as(&w, "bob", &environment(&w, json!({})), Some(&scenario())).await;
    says(
        &report,
        "permissions",
        Verdict::No,
        &["create pods in firedrill", "patch deployments.apps shop/web", "`firedrill plan FILE --rbac`"],
    );
    says(&report, "scale (none)", Verdict::No, &["this user may not patch deployments.apps shop/web"]);
    let helper = report.findings.iter().find(|f| f.what.starts_with("node helper on ")).unwrap();
    assert!(helper.verdict == Verdict::No && helper.change.as_ref().is_some_and(|c| c.contains("have it allowed")), "{helper:?}");
    says(&report, "freeze (hang)", Verdict::No, &["no helper can do it on n"]);
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_other_drills_and_people_have_left_is_said() {
    let w = shop().await;
    let own = w.cluster.api::<ConfigMap>("firedrill");
    let stop = json!({"metadata": {"name": "firedrill-stop"}, "data": {"by": "ann", "reason": "release"}});
    own.create(&PostParams::default(), &from(stop)).await.unwrap();
    let record = json!({"metadata": {"name": "firedrill-old-1", "labels": {"firedrill.dev/role": "record", "firedrill.dev/drill": "old-1"}}, "data": {"started.json": "{}"}});
    own.create(&PostParams::default(), &from(record)).await.unwrap();
    let labels = json!({"firedrill.dev/role": "lease", "firedrill.dev/drill": "old-1"});
    let leases = w.cluster.api::<Lease>("firedrill");
    for name in ["ns-shop", "ns-bank"] {
        leases.create(&PostParams::default(), &from(json!({"metadata": {"name": name, "labels": labels}}))).await.unwrap();
    }
    let report = look(&w, json!({})).await;
    says(&report, "stop switch", Verdict::No, &["stopped by ann: release", "`firedrill stop --lift`"]);
    says(&report, "other drills", Verdict::Warning, &["drill old-1", "`firedrill revert old-1`"]);
    says(&report, "Leases", Verdict::No, &["drill old-1 has namespace shop, which this one needs"]);
    assert_eq!(report.findings.iter().filter(|finding| finding.what == "Leases").count(), 1, "namespace bank is not this drill's");
    assert_eq!(report.exit(), Exit::Refused);
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_plan_refuses_is_told_with_its_way_out() {
    let w = shop().await;
    let patch = Patch::Merge(json!({"metadata": {"labels": {"firedrill.dev/drills": null}}}));
    w.cluster.cluster_api::<Namespace>().patch("shop", &PatchParams::default(), &patch).await.unwrap();
    let report = look(&w, json!({"nodeHelpers": false})).await;
    let reasons: Vec<&str> =
        report.findings.iter().filter(|f| f.what == "plan" && f.verdict == Verdict::No).map(|f| f.found.as_str()).collect();
    for part in ["kubectl label namespace shop firedrill.dev/drills=allowed", "step `hang`: `freeze` cannot be made in Pod shop/web-"] {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "no `{part}` in {reasons:#?}");
    }
    assert_eq!(report.exit(), Exit::Refused);
    // A wrong cluster is named, and nothing in it is looked at.
    let mut wrong = environment(&w, json!({}));
    wrong.spec.clusters[0].uid = "5d1f0c2e-0000-4000-8000-000000000001".to_owned();
    let report = look_as(&w, "admin:stranger", &wrong, Some(&scenario())).await;
    says(&report, "identity", Verdict::No, &["but the environment's cluster `main` has uid 5d1f0c2e"]);
    assert!(report.findings.iter().all(|finding| finding.area == Area::Cluster), "{report:#?}");
    let audit = w.sandbox.as_ref().unwrap().audit();
    let asked: Vec<&str> = audit.iter().filter(|e| e.user == "admin:stranger").map(|e| e.uri.as_str()).collect();
    assert_eq!(asked, ["/version"]);
    w.end().await;
}

/// A scenario of one fault on the shop's pods.
fn filling(placement: &str) -> Loaded {
    let scenario = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "filling"},
        "spec": {
            "summary": "A volume fills up.",
            "targets": {"web": {"namespace": "shop", "pods": "app=web"}},
            "limits": {"volumes": 9, "duration": "10m"},
            "probes": {"open": {"object": {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "cel": "object.metadata.name == 'web'"}}},
            "steadyState": {"good": ["open"], "for": "1s", "timeout": "30s"},
            "steps": [{"name": "fill", "inject": {"fillDisk": {"target": "web", "path": "/data", "leave": "0"}, "placement": placement}}],
            "objectives": [{"check": {"probe": "open", "state": "good"}}],
        },
    });
    firedrill::scenario::parse_scenario("filling.yaml", &scenario.to_string(), &[]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_agents_in_pods_would_find_is_said() {
    let w = shop().await;
    let label = Patch::Merge(json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}));
    w.cluster.cluster_api::<Namespace>().patch("shop", &PatchParams::default(), &label).await.unwrap();
    let report = look_as(&w, DOCTOR, &environment(&w, json!({"nodeHelpers": false})), Some(&filling("pod"))).await;
    nothing_else_is_wrong(&report, &[]);
    says(&report, "ephemeral containers", Verdict::Ok, &["this API server has pods/ephemeralcontainers", "this user may use them in shop"]);
    says(&report, "Pod Security of shop", Verdict::Ok, &["enforces *baseline*", "user 0 with DAC_OVERRIDE"]);
    says(&report, "fillDisk (fill)", Verdict::Ok, &["by an agent within the target's pods"]);
    assert!(!report.findings.iter().any(|f| f.what.starts_with("node helper")), "{report:#?}");
    // Who may only read, and a drill that needs it or does not.
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]);
    w.cluster
        .cluster_api()
        .create(&PostParams::default(), &from::<ClusterRole>(json!({"metadata": {"name": "reader"}, "rules": rules})))
        .await
        .unwrap();
    let binding = json!({"metadata": {"name": "eve"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
                         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}]});
    w.cluster.cluster_api::<ClusterRoleBinding>().create(&PostParams::default(), &from(binding)).await.unwrap();
    for (placement, verdict) in [("pod", Verdict::No), ("node", Verdict::Ok)] {
        let report = look_as(&w, "eve", &environment(&w, json!({})), Some(&filling(placement))).await;
        says(&report, "ephemeral containers", verdict, &["this user may not patch pods/ephemeralcontainers in shop"]);
    }
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_watchdogs_account_is_asked_about() {
    let w = shop().await;
    // It is on unless it is turned off.
    let report = look_as(&w, DOCTOR, &environment(&w, json!({"watchdog": {}})), Some(&scenario())).await;
    says(&report, "watchdog's account", Verdict::No, &["there is no ServiceAccount firedrill/firedrill-watchdog"]);
    let own = environment(&w, json!({"watchdog": {"serviceAccount": "watchdog"}}));
    let report = look_as(&w, DOCTOR, &own, Some(&scenario())).await;
    says(&report, "watchdog's account", Verdict::No, &["there is no ServiceAccount firedrill/watchdog", "--rbac | kubectl apply"]);
    let account = from::<ServiceAccount>(json!({"metadata": {"name": "watchdog"}}));
    w.cluster.api::<ServiceAccount>("firedrill").create(&PostParams::default(), &account).await.unwrap();
    let report = look_as(&w, DOCTOR, &own, Some(&scenario())).await;
    says(&report, "watchdog's account", Verdict::No, &["firedrill/watchdog may not", "and", "more"]);
    let binding = json!({"metadata": {"name": "watchdog"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                         "subjects": [{"kind": "ServiceAccount", "name": "watchdog", "namespace": "firedrill"}]});
    w.cluster.cluster_api::<ClusterRoleBinding>().create(&PostParams::default(), &from(binding)).await.unwrap();
    let report = look_as(&w, DOCTOR, &own, Some(&scenario())).await;
    says(&report, "watchdog's account", Verdict::Ok, &["has all", "permissions to revert the drill"]);
    let report = look_as(&w, DOCTOR, &own, None).await;
    says(&report, "watchdog's account", Verdict::Ok, &["what it needs is known with a scenario"]);
    w.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_scenario_it_says_what_holds_for_any() {
    let w = shop().await;
    let report = look_as(&w, DOCTOR, &environment(&w, json!({})), None).await;
    nothing_else_is_wrong(&report, &[]);
    says(&report, "by node helpers", Verdict::Ok, &["freeze, crash"]);
    says(&report, "by the API server", Verdict::Ok, &["podKill"]);
    assert_eq!(report.findings.iter().filter(|finding| finding.area == Area::Nodes).count(), 3);
    let report = look_as(&w, DOCTOR, &environment(&w, json!({"nodeHelpers": false})), None).await;
    says(&report, "by node helpers", Verdict::No, &["`nodeHelpers: false`"]);
    // Before firedrill's place is made nothing can be tried in it.
    w.cluster.cluster_api::<Namespace>().delete("firedrill", &DeleteParams::default()).await.unwrap();
    fault_kit::until("it is gone", || async { w.cluster.get_cluster_opt::<Namespace>("firedrill").await.unwrap().is_none() }).await;
    let report = look_as(&w, DOCTOR, &environment(&w, json!({})), None).await;
    says(&report, "namespace firedrill", Verdict::Warning, &["the first drill makes it", "kubectl label namespace firedrill pod-security"]);
    w.end().await;
}

/// Helpers are placed, answer, and are gone again; also when it is told to stop.
#[tokio::test(start_paused = true)]
async fn nodes_are_looked_at_by_pods_that_are_removed() {
    let w = shop().await;
    let (environment, scenario, files, clock) = (environment(&w, json!({})), scenario(), BTreeMap::new(), w.clock());
    let stop = CancellationToken::new();
    let asked = Asked {
        cluster: &w.cluster,
        environment: &environment,
        drill: Some((&scenario, &files)),
        clock: &clock,
        one_clock: true,
        probe: Some(&stop),
    };
    let report = Report::new("here", "sandbox", None, doctor::look(asked).await);
    let nodes =
        report.findings.iter().filter(|f| f.area == Area::Nodes && f.what.ends_with(", helper") && f.verdict == Verdict::Ok).count();
    assert_eq!(nodes, report.findings.iter().filter(|f| f.what.starts_with("node helper on ")).count(), "{report:#?}");
    assert!(nodes > 0 && report.findings.iter().any(|f| f.found.contains("cgroup v2 with a freezer")), "{report:#?}");
    let own = w.cluster.api::<Pod>("firedrill");
    let left = || async { own.list(&ListParams::default()).await.unwrap().items.len() };
    assert_eq!(left().await, 0);
    let audit = w.sandbox.as_ref().unwrap().audit();
    let made =
        audit.iter().filter(|e| e.verb == "create" && e.resource == "pods" && e.namespace == "firedrill" && !e.dry_run && e.code == 201);
    assert_eq!(made.count(), nodes);
    let look = doctor::look(asked);
    let stopper = async {
        fault_kit::until("a helper is placed", || async { left().await > 0 }).await;
        stop.cancel();
    };
    let (findings, ()) = tokio::join!(look, stopper);
    assert!(findings.iter().any(|f| f.found.contains("told to stop")), "{findings:#?}");
    assert_eq!(left().await, 0);
    w.end().await;
}

/// The command itself.
fn firedrill(args: &[&str]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_firedrill"));
    command.args(args).env("KUBECONFIG", dir.path().join("config")).env_remove("FIREDRILL_ENVIRONMENT").env("NO_COLOR", "1");
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_looks_at_a_scenarios_world() {
    let file = "scenarios/lose-database-primary/scenario.yaml";
    let (code, text, said) = firedrill(&["doctor", file, "--sandbox"]);
    assert_eq!(code, Some(0), "{text}{said}");
    for part in ["Cluster\n", "The drill\n", "Faults\n", "freeze (", "stands in the way"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    let (code, text, said) = firedrill(&["doctor", file, "--sandbox", "-o", "json"]);
    assert_eq!(code, Some(0), "{text}{said}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().any(|f| f["area"] == "faults" && f["verdict"] == "ok"), "{report:#}");
    // Nobody has a cluster there to change with kubectl: it is the world that has to change.
    let changes: Vec<&str> = findings.iter().filter_map(|f| f["change"].as_str()).filter(|change| change.contains("kubectl")).collect();
    assert!(changes.iter().all(|c| c.starts_with("change the manifests in scenarios/")), "{changes:?}");
    // A world alone is enough.
    let (code, text, said) = firedrill(&["doctor", "--sandbox", "--world", "scenarios/world"]);
    assert!(code == Some(0) && text.contains("any drill"), "{code:?} {text}{said}");
}

#[test]
fn wrong_usage_is_no_finding() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scenario.yaml");
    std::fs::write(&file, "kind: Scenario\n").unwrap();
    let (code, text, said) = firedrill(&["doctor", file.to_str().unwrap(), "--sandbox"]);
    assert!(code == Some(2) && text.is_empty(), "{code:?} {text} {said}");
    let (code, _, said) = firedrill(&["doctor", "--sandbox"]);
    assert!(code == Some(2) && said.contains("name a scenario that has one beside it, or the world itself with --world PATH"), "{said}");
    let missing = dir.path().join("environment.yaml");
    let (code, _, said) = firedrill(&["doctor", "-e", missing.to_str().unwrap()]);
    assert!(code == Some(2) && said.contains("no environment says where to look"), "{said}");
}

#[test]
fn a_cluster_that_cannot_be_reached_is_a_finding() {
    let dir = tempfile::tempdir().unwrap();
    let environment = json!({"apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "e"},
                             "spec": {"clusters": {"main": {"uid": "5d1f0c2e-0000-4000-8000-000000000001"}}}});
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "staging",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{port}")}}], "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "staging", "context": {"cluster": "c", "user": "u"}}]
    });
    std::fs::write(dir.path().join("environment.yaml"), environment.to_string()).unwrap();
    std::fs::write(dir.path().join("config"), config.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_firedrill"));
    command.args(["doctor"]).env("KUBECONFIG", dir.path().join("config")).env_remove("FIREDRILL_ENVIRONMENT").env("NO_COLOR", "1");
    let output = command.current_dir(dir.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(4), "{text}");
    // Lines are broken to the terminal's width.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("failed to reach the API server") && text.contains("One thing stands in the way"), "{text}");
}
