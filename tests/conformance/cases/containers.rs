//! What scheduler, kubelets and volumes do with pods.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    Case,
    answer::{names, version},
    bench::{Bench, MERGE},
    case,
    nodes::{holds, name, number, of, pod, script, staying, template, workload},
};

pub(crate) const CASES: &[Case] = &[
    case!(nodes init_containers_in_order, "init containers run one after the other before the others, and a sidecar goes on"),
    case!(nodes crashes_are_followed_by_pauses, "a container that ends is started again, at once and then after a pause"),
    case!(nodes liveness_restarts, "a container whose liveness probe fails is started again"),
    case!(nodes claim_is_bound_and_protected, "a claim is bound for its first pod, and stays until that is gone"),
    case!(nodes kept_volume_waits_for_its_claim, "a volume that is kept for a claim's name is given to the next claim of that name, though no pod asks for it"),
    case!(nodes cordoned_node_takes_nobody, "a pod waits for a node that is cordoned, and gets it afterwards"),
    case!(nodes pods_keep_apart, "pods that must not share a node do not, and one too many waits"),
];

fn status<'a>(pod: &'a Value, list: &str, container: &str) -> &'a Value {
    let all = pod["status"][list].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|status| status["name"] == container).unwrap_or(&Value::Null)
}

async fn init_containers_in_order(b: &Bench) {
    b.account().await;
    let mut side = script("side", "while :; do sleep 1; done");
    side["restartPolicy"] = json!("Always");
    let mut app = template("app", json!([script("main", "while :; do sleep 1; done")]));
    app["metadata"]["name"] = json!("app");
    app["spec"]["initContainers"] = json!([script("first", "sleep 1"), side, script("last", "sleep 1")]);
    b.make("pods", app).await;
    let pod = b.settled("pods/app", |pod| holds(pod, "Ready")).await;
    let (init, ended) = ("initContainerStatuses", "terminated");
    for container in ["first", "last"] {
        let end = &status(&pod, init, container)["state"][ended];
        assert_eq!((&end["exitCode"], &end["reason"]), (&json!(0), &json!("Completed")), "{pod}");
    }
    assert_eq!(status(&pod, init, "side")["started"], true, "{pod}");
    let at = |list: &str, container: &str, state: &str, what: &str| {
        let found = status(&pod, list, container)["state"][state][what].as_str();
        found.unwrap_or_else(|| panic!("no {what} of {container}: {pod}")).to_owned()
    };
    let times = [
        at(init, "first", ended, "startedAt"),
        at(init, "first", ended, "finishedAt"),
        at(init, "side", "running", "startedAt"),
        at(init, "last", ended, "startedAt"),
        at(init, "last", ended, "finishedAt"),
        at("containerStatuses", "main", "running", "startedAt"),
    ];
    assert!(times.is_sorted(), "{times:?}");
    assert!(holds(&pod, "Initialized"), "{pod}");
}

async fn crashes_are_followed_by_pauses(b: &Bench) {
    b.account().await;
    let mut crash = template("crash", json!([script("main", "sleep 2; exit 7")]));
    crash["metadata"]["name"] = json!("crash");
    let made = b.make("pods", crash).await;
    let mut watch = b.watch(&format!("pods?fieldSelector=metadata.name%3Dcrash&resourceVersion={}", version(&made))).await;
    // Each run by its end, which are seconds apart: when it began.
    let mut runs: BTreeMap<jiff::Timestamp, jiff::Timestamp> = BTreeMap::new();
    while runs.len() < 3 {
        let (_, pod) = watch.event().await;
        let main = status(&pod, "containerStatuses", "main");
        for run in [&main["state"]["terminated"], &main["lastState"]["terminated"]].into_iter().filter(|run| run.is_object()) {
            assert_eq!((&run["exitCode"], &run["reason"]), (&json!(7), &json!("Error")), "{pod}");
            let time = |what: &str| run[what].as_str().and_then(|time| time.parse().ok()).unwrap_or_else(|| panic!("no {what}: {pod}"));
            runs.insert(time("finishedAt"), time("startedAt"));
        }
    }
    let runs: Vec<(i64, i64)> = runs.into_iter().map(|(ended, began)| (began.as_second(), ended.as_second())).collect();
    let pauses = [runs[1].0 - runs[0].1, runs[2].0 - runs[1].1];
    // Whole seconds, and a kubelet that has much to do.
    assert!((0..9).contains(&pauses[0]) && (9..30).contains(&pauses[1]), "{pauses:?}");
}

async fn liveness_restarts(b: &Bench) {
    b.account().await;
    let mut app = pod("app");
    app["spec"]["containers"][0]["livenessProbe"] = json!({"exec": {"command": ["healthy"]}, "periodSeconds": 1, "failureThreshold": 3});
    b.make("pods", app).await;
    let before = b.settled("pods/app", |pod| holds(pod, "Ready")).await;
    let restarts = |pod: &Value| number(pod, "/status/containerStatuses/0/restartCount");
    assert_eq!(restarts(&before), 0, "{before}");
    b.probes("app", "healthy", false).await;
    b.settled("pods/app", |pod| restarts(pod) > 0).await;
    b.probes("app", "healthy", true).await;
    let after = b.settled("pods/app", |pod| restarts(pod) > 0 && holds(pod, "Ready")).await;
    let ids = [&before, &after].map(|pod| pod["status"]["containerStatuses"][0]["containerID"].clone());
    assert_ne!(ids[0], ids[1], "{after}");
    assert_eq!(
        (&after["metadata"]["uid"], &after["spec"]["nodeName"]),
        (&before["metadata"]["uid"], &before["spec"]["nodeName"]),
        "{after}"
    );
    assert!(after["status"]["containerStatuses"][0]["lastState"]["terminated"].is_object(), "{after}");
}

async fn claim_is_bound_and_protected(b: &Bench) {
    b.account().await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}});
    b.make("persistentvolumeclaims", json!({"metadata": {"name": "data"}, "spec": spec})).await;
    let mut app = pod("app");
    app["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    app["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    // Nobody is there for whom it would be bound.
    let waiting = b.get("persistentvolumeclaims/data").await.is(200);
    assert_eq!((&waiting["status"]["phase"], waiting["spec"].get("volumeName")), (&json!("Pending"), None), "{waiting}");
    b.make("pods", app).await;
    let running = b.settled("pods/app", |pod| holds(pod, "Ready")).await;
    let claim = b.get("persistentvolumeclaims/data").await.is(200);
    assert_eq!(claim["status"]["phase"], "Bound", "{claim}");
    assert_eq!(claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], running["spec"]["nodeName"], "{claim}");
    let at = format!("persistentvolumes/{}", claim["spec"]["volumeName"].as_str().unwrap_or_default());
    let volume = b.get(&at).await.is(200);
    assert_eq!((&volume["status"]["phase"], &volume["spec"]["claimRef"]["uid"]), (&json!("Bound"), &claim["metadata"]["uid"]), "{volume}");

    let marked = b.delete("persistentvolumeclaims/data", json!({})).await.is(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]), "{marked}");
    // It is still there when another pod has come up, and goes with the one that has it.
    b.make("pods", pod("other")).await;
    b.settled("pods/other", |pod| holds(pod, "Ready")).await;
    let still = b.get("persistentvolumeclaims/data").await.is(200);
    assert!(still["metadata"]["deletionTimestamp"].is_string(), "{still}");
    b.delete("pods/app", json!({})).await.is(200);
    b.gone("persistentvolumeclaims/data").await;
    b.get("pods/app").await.is(404);
    b.gone(&at).await;
}

async fn kept_volume_waits_for_its_claim(b: &Bench) {
    b.account().await;
    let claim = || {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}});
        json!({"metadata": {"name": "data"}, "spec": spec})
    };
    b.make("persistentvolumeclaims", claim()).await;
    let mut app = template("app", json!([script("main", "exit 0")]));
    app["metadata"]["name"] = json!("app");
    app["spec"]["restartPolicy"] = json!("Never");
    app["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    app["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    b.make("pods", app).await;
    b.settled("pods/app", |pod| pod["status"]["phase"] == "Succeeded").await;
    let first = b.get("persistentvolumeclaims/data").await.is(200);
    let at = format!("persistentvolumes/{}", first["spec"]["volumeName"].as_str().unwrap_or_default());
    b.patch(&at, MERGE, json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})).await.is(200);

    // A pod that has ended holds a claim up as well, as long as it is there.
    b.delete("persistentvolumeclaims/data", json!({})).await.is(200);
    b.make("pods", pod("other")).await;
    b.settled("pods/other", |pod| holds(pod, "Ready")).await;
    let still = b.get("persistentvolumeclaims/data").await.is(200);
    assert!(still["metadata"]["deletionTimestamp"].is_string(), "{still}");
    b.delete("pods/app", json!({})).await.is(200);
    b.gone("persistentvolumeclaims/data").await;
    b.settled(&at, |volume| volume["status"]["phase"] == "Released").await;

    b.patch(&at, MERGE, json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})).await.is(200);
    b.settled(&at, |volume| volume["status"]["phase"] == "Available").await;
    b.make("persistentvolumeclaims", claim()).await;
    let second = b.settled("persistentvolumeclaims/data", |claim| claim["status"]["phase"] == "Bound").await;
    assert_eq!(second["spec"]["volumeName"], first["spec"]["volumeName"], "{second}");
    let annotations = &second["metadata"]["annotations"];
    assert_eq!(
        (&annotations["pv.kubernetes.io/bind-completed"], &annotations["pv.kubernetes.io/bound-by-controller"]),
        (&json!("yes"), &json!("yes")),
        "{second}"
    );
    let volume = b.settled(&at, |volume| volume["status"]["phase"] == "Bound").await;
    assert_eq!(volume["spec"]["claimRef"]["uid"], second["metadata"]["uid"], "{volume}");
    assert_eq!(volume["metadata"]["annotations"].get("pv.kubernetes.io/bound-by-controller"), None, "{volume}");

    // One that names its volume is bound to it, and says that nobody chose it.
    b.delete("persistentvolumeclaims/data", json!({})).await.is(200);
    b.gone("persistentvolumeclaims/data").await;
    b.settled(&at, |volume| volume["status"]["phase"] == "Released").await;
    b.patch(&at, MERGE, json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})).await.is(200);
    let mut named = claim();
    named["spec"]["volumeName"] = first["spec"]["volumeName"].clone();
    b.make("persistentvolumeclaims", named).await;
    let third = b.settled("persistentvolumeclaims/data", |claim| claim["status"]["phase"] == "Bound").await;
    assert_eq!(third["metadata"]["annotations"].get("pv.kubernetes.io/bound-by-controller"), None, "{third}");

    // One that was bound is not bound a second time when its volume forgets its uid, until somebody writes that back.
    b.patch(&at, MERGE, json!({"spec": {"claimRef": {"uid": null}}})).await.is(200);
    let lost = b.settled("persistentvolumeclaims/data", |claim| claim["status"]["phase"] == "Lost").await;
    assert_eq!(lost["metadata"]["uid"], third["metadata"]["uid"], "{lost}");
    b.patch(&at, MERGE, json!({"spec": {"claimRef": {"uid": third["metadata"]["uid"]}}})).await.is(200);
    b.settled("persistentvolumeclaims/data", |claim| claim["status"]["phase"] == "Bound").await;

    // Nobody claims it any more, and by its own policy it goes.
    b.patch(&at, MERGE, json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}})).await.is(200);
    b.delete("persistentvolumeclaims/data", json!({})).await.is(200);
    b.gone(&at).await;
}

/// What the scheduler says of a pod that it has no node for.
fn unschedulable(pod: &Value) -> Option<&str> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let found =
        conditions.iter().find(|one| one["type"] == "PodScheduled" && one["status"] == "False" && one["reason"] == "Unschedulable")?;
    found["message"].as_str()
}

async fn cordoned_node_takes_nobody(b: &Bench) {
    b.account().await;
    let usable = |node: &&Value| holds(node, "Ready") && node["spec"].get("taints").is_none();
    let nodes = b.settled("nodes", |nodes| nodes["items"].as_array().is_some_and(|all| all.iter().any(|node| usable(&node)))).await;
    let node = nodes["items"].as_array().unwrap().iter().rfind(usable).map(name).unwrap_or_else(|| panic!("no node: {nodes}")).to_owned();
    let at = format!("nodes/{node}");
    b.undo(&at, json!({"spec": {"unschedulable": null}}));
    b.patch(&at, MERGE, json!({"spec": {"unschedulable": true}})).await.is(200);
    let taint = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    let has = |node: &Value| {
        let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
        taints.iter().any(|one| one["key"] == taint["key"] && one["effect"] == taint["effect"])
    };
    b.settled(&at, has).await;
    let mut picky = pod("picky");
    picky["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    b.make("pods", picky).await;
    let waits = b.settled("pods/picky", |pod| unschedulable(pod).is_some()).await;
    let why = unschedulable(&waits).unwrap_or_default();
    assert!(why.contains(" nodes are available: ") && why.contains("1 node(s) were unschedulable"), "{why}");
    assert_eq!((&waits["status"]["phase"], waits["spec"].get("nodeName")), (&json!("Pending"), None), "{waits}");
    b.patch(&at, MERGE, json!({"spec": {"unschedulable": null}})).await.is(200);
    let runs = b.settled("pods/picky", |pod| holds(pod, "Ready")).await;
    assert_eq!(runs["spec"]["nodeName"], node.as_str(), "{runs}");
    b.settled(&at, |node| !has(node)).await;
}

async fn pods_keep_apart(b: &Bench) {
    b.account().await;
    let nodes = names(&b.get("nodes").await.is(200));
    // On two nodes, of three that ask to be alone.
    let here = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": nodes[..2]}]}]);
    let mut apart = workload("apart", 3);
    apart["spec"]["template"]["spec"]["tolerations"] = json!([{"operator": "Exists", "key": "node.kubernetes.io/unschedulable"}]);
    apart["spec"]["template"]["spec"]["affinity"] = json!({
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": here}},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "apart"}}},
        ]},
    });
    b.make("deployments", apart).await;
    let split = |pods: &Value| {
        let pods = staying(pods);
        pods.iter().filter(|pod| holds(pod, "Ready")).count() == 2 && pods.iter().any(|pod| unschedulable(pod).is_some())
    };
    let pods = b.settled(&of("pods", "apart"), split).await;
    let mut on: Vec<&str> = staying(&pods).into_iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    on.sort_unstable();
    assert_eq!(on, nodes[..2]);
    let why = staying(&pods).into_iter().find_map(unschedulable).unwrap_or_default();
    assert!(why.contains("2 node(s) didn't match pod anti-affinity rules"), "{why}");
}
