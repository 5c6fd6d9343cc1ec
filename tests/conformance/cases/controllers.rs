//! What the controllers of workloads do, on nodes that run what they make.

use serde_json::{Value, json};

use crate::{
    Case,
    answer::{names, version},
    bench::{Bench, MERGE, STRATEGIC},
    case,
    nodes::{holds, name, number, of, pod, staying, workload},
};

pub(crate) const CASES: &[Case] = &[
    case!(nodes deployment_rolls_out, "a Deployment comes up by a ReplicaSet, and rolls over to another one within its bounds"),
    case!(nodes deployment_shrinks_by_what_is_not_ready, "of a Deployment that shrinks the pod goes first that is not ready"),
    case!(nodes deployment_recreates, "under Recreate no new pod is made while an old one runs"),
    case!(nodes stateful_set_in_order, "a StatefulSet comes up from the first pod on and goes down from the last, one at a time"),
    case!(nodes stateful_set_in_parallel, "a parallel StatefulSet does not wait for its pods, an ordered one does"),
    case!(nodes daemon_set_on_each_node, "a DaemonSet has a pod on every node that will have it"),
    case!(nodes endpoints_follow_readiness, "an EndpointSlice has a Service's pods, and says which of them are ready"),
    case!(nodes budget_holds_evictions, "a disruption budget refuses an eviction until there is a pod to spare"),
    case!(nodes owner_goes_in_the_background, "in the background an owner goes first and its dependents after it"),
    case!(nodes owner_goes_last, "in the foreground an owner goes when its dependents are gone"),
    case!(nodes owner_leaves_orphans, "orphans stay, without their owner"),
    case!(nodes namespace_takes_all_along, "a namespace that is deleted takes what runs in it along"),
];

fn rolled(deployment: &Value, replicas: i64) -> bool {
    let status = |field: &str| number(deployment, &format!("/status/{field}"));
    status("observedGeneration") == number(deployment, "/metadata/generation")
        && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| status(field) == replicas)
}

/// Makes a Deployment and waits until all of it is available.
async fn up(b: &Bench, deployment: Value) -> Value {
    b.account().await;
    let (at, replicas) = (format!("deployments/{}", name(&deployment)), number(&deployment, "/spec/replicas"));
    b.make("deployments", deployment).await;
    b.settled(&at, |now| rolled(now, replicas)).await
}

fn step(value: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "env": [{"name": "STEP", "value": value}]}]}}}})
}

async fn deployment_rolls_out(b: &Bench) {
    let mut web = workload("web", 2);
    web["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    let before = up(b, web).await;
    let sets = b.get(&of("replicasets", "web")).await.is(200);
    let hash = sets["items"][0]["metadata"]["labels"]["pod-template-hash"].as_str().unwrap_or_default();
    assert_eq!(names(&sets), [format!("web-{hash}")]);
    let owner = &sets["items"][0]["metadata"]["ownerReferences"][0];
    let wanted = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": before["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true});
    assert_eq!(*owner, wanted);

    let mut watch = b.watch(&format!("deployments?fieldSelector=metadata.name%3Dweb&resourceVersion={}", version(&before))).await;
    b.patch("deployments/web", STRATEGIC, step("two")).await.is(200);
    loop {
        let (_, now) = watch.event().await;
        assert!(number(&now, "/status/availableReplicas") >= 2, "fewer than wanted: {now}");
        // What it asks for; how many there are is told by a status that may count one that is going.
        let sets = b.get(&of("replicasets", "web")).await.is(200);
        let asked: i64 = sets["items"].as_array().unwrap().iter().map(|set| number(set, "/spec/replicas")).sum();
        assert!(asked <= 3, "more than wanted and the surge: {sets}");
        if rolled(&now, 2) && number(&now, "/metadata/generation") > number(&before, "/metadata/generation") {
            break;
        }
    }
    let complete = |now: &Value| {
        let conditions = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "Progressing" && one["status"] == "True" && one["reason"] == "NewReplicaSetAvailable")
    };
    let done = b.settled("deployments/web", complete).await;
    assert_eq!(done["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    // The old set is kept, empty.
    let sets = b.settled(&of("replicasets", "web"), |sets| sets["items"].as_array().is_some_and(|all| all.len() == 2)).await;
    let mut found: Vec<(String, i64, i64)> = Vec::new();
    for set in sets["items"].as_array().unwrap() {
        let revision = set["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap_or_default().to_owned();
        found.push((revision, number(set, "/spec/replicas"), number(set, "/status/replicas")));
    }
    found.sort();
    assert_eq!(found, [("1".to_owned(), 0, 0), ("2".to_owned(), 2, 2)]);
}

async fn deployment_shrinks_by_what_is_not_ready(b: &Bench) {
    up(b, workload("web", 3)).await;
    let pods = names(&b.get(&of("pods", "web")).await.is(200));
    b.probes(&pods[1], "ready", false).await;
    b.settled("deployments/web", |now| number(now, "/status/readyReplicas") == 2).await;
    b.patch("deployments/web/scale", MERGE, json!({"spec": {"replicas": 2}})).await.is(200);
    let left = b.settled(&of("pods", "web"), |pods| staying(pods).len() == 2).await;
    let left: Vec<&str> = staying(&left).into_iter().map(name).collect();
    assert_eq!(left, [&pods[0], &pods[2]]);
    let after = b.settled("deployments/web", |now| rolled(now, 2)).await;
    assert!(holds(&after, "Available"), "{after}");
}

async fn deployment_recreates(b: &Bench) {
    let mut web = workload("web", 1);
    web["spec"]["strategy"] = json!({"type": "Recreate"});
    up(b, web).await;
    let before = b.get(&of("pods", "web")).await.is(200);
    let old = name(&before["items"][0]).to_owned();
    let mut watch = b.watch(&format!("{}&resourceVersion={}", of("pods", "web"), version(&before))).await;
    b.patch("deployments/web", STRATEGIC, step("two")).await.is(200);
    let mut runs = true;
    loop {
        let (event, pod) = watch.event().await;
        if name(&pod) == old {
            runs = !event.starts_with("DELETED") && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        } else {
            assert!(!runs, "{event} while {old} runs");
            break;
        }
    }
    b.settled("deployments/web", |now| rolled(now, 1)).await;
}

async fn stateful_set_in_order(b: &Bench) {
    b.account().await;
    let start = version(&b.get("pods").await.is(200));
    let mut watch = b.watch(&format!("{}&resourceVersion={start}", of("pods", "db"))).await;
    let mut db = workload("db", 3);
    db["spec"]["serviceName"] = json!("db");
    b.make("statefulsets", db).await;
    let (mut made, mut ready) = (Vec::new(), Vec::new());
    while ready.len() < 3 {
        let (event, pod) = watch.event().await;
        if event.starts_with("ADDED") {
            assert_eq!(ready, made, "{event} before the one before it is ready");
            made.push(name(&pod).to_owned());
        }
        if holds(&pod, "Ready") && !ready.iter().any(|other| other == name(&pod)) {
            ready.push(name(&pod).to_owned());
        }
    }
    assert_eq!(made, ["db-0", "db-1", "db-2"]);
    let last = b.get("pods/db-2").await.is(200);
    assert_eq!(last["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "2", "{last}");
    assert_eq!(last["spec"]["hostname"], "db-2", "{last}");
    b.settled("statefulsets/db", |now| number(now, "/status/readyReplicas") == 3 && number(now, "/status/availableReplicas") == 3).await;

    b.patch("statefulsets/db/scale", MERGE, json!({"spec": {"replicas": 0}})).await.is(200);
    let mut ends: Vec<String> = Vec::new();
    while ends.len() < 6 {
        let (event, pod) = watch.event().await;
        let end = match event.split_once(' ') {
            Some(("DELETED", name)) => format!("{name} is gone"),
            Some((_, name)) if pod.pointer("/metadata/deletionTimestamp").is_some() => format!("{name} is going"),
            _ => continue,
        };
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    let wanted: Vec<String> = [2, 1, 0].iter().flat_map(|n| [format!("db-{n} is going"), format!("db-{n} is gone")]).collect();
    assert_eq!(ends, wanted);
}

async fn stateful_set_in_parallel(b: &Bench) {
    b.account().await;
    for (name, policy) in [("slow", "OrderedReady"), ("quick", "Parallel")] {
        let mut set = workload(name, 2);
        set["spec"]["serviceName"] = json!(name);
        set["spec"]["podManagementPolicy"] = json!(policy);
        // It never comes: the pods run and are not ready.
        set["spec"]["template"]["spec"]["readinessGates"] = json!([{"conditionType": "none.test/never"}]);
        b.make("statefulsets", set).await;
    }
    let running = |pods: &Value, count: usize| {
        let all = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.len() == count && all.iter().all(|pod| holds(pod, "ContainersReady") && !holds(pod, "Ready"))
    };
    let quick = b.settled(&of("pods", "quick"), |pods| running(pods, 2)).await;
    assert_eq!(names(&quick), ["quick-0", "quick-1"]);
    let slow = b.settled(&of("pods", "slow"), |pods| running(pods, 1)).await;
    assert_eq!(names(&slow), ["slow-0"]);
    let status = b.settled("statefulsets/quick", |now| number(now, "/status/replicas") == 2).await;
    assert_eq!(number(&status, "/status/readyReplicas"), 0, "{status}");
}

async fn daemon_set_on_each_node(b: &Bench) {
    b.account().await;
    let mut agent = workload("agent", 0);
    agent["spec"].as_object_mut().unwrap().remove("replicas");
    b.make("daemonsets", agent).await;
    let ready = |now: &Value| {
        let status = |field: &str| number(now, &format!("/status/{field}"));
        let wanted = status("desiredNumberScheduled");
        wanted > 1
            && ["numberReady", "numberAvailable", "updatedNumberScheduled", "currentNumberScheduled"].iter().all(|f| status(f) == wanted)
    };
    let set = b.settled("daemonsets/agent", ready).await;
    let pods = b.get(&of("pods", "agent")).await.is(200);
    let mut on: Vec<&str> = staying(&pods).into_iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap_or_default()).collect();
    on.sort_unstable();
    // A node that is cordoned gets one, one with another taint does not.
    let nodes = b.get("nodes").await.is(200);
    let takes = |node: &&Value| {
        let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
        taints.iter().all(|taint| taint["key"] == "node.kubernetes.io/unschedulable")
    };
    let mut wanted: Vec<&str> = nodes["items"].as_array().unwrap().iter().filter(takes).map(name).collect();
    wanted.sort_unstable();
    assert_eq!(on, wanted);
    assert_eq!(number(&set, "/status/desiredNumberScheduled"), i64::try_from(wanted.len()).unwrap());
}

async fn endpoints_follow_readiness(b: &Bench) {
    up(b, workload("web", 2)).await;
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    b.make("services", json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}})).await;
    // Of each pod: whether it is ready, and whether it serves.
    let told = |slices: &Value| -> Vec<(String, bool, bool)> {
        let endpoints =
            slices["items"].as_array().into_iter().flatten().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let mut all: Vec<(String, bool, bool)> = endpoints
            .map(|endpoint| {
                let is = |condition: &str| endpoint["conditions"][condition] == true;
                (endpoint["targetRef"]["name"].as_str().unwrap_or_default().to_owned(), is("ready"), is("serving"))
            })
            .collect();
        all.sort();
        all
    };
    let pods = names(&b.get(&of("pods", "web")).await.is(200));
    let all = |first: bool| vec![(pods[0].clone(), first, first), (pods[1].clone(), true, true)];
    let at = "endpointslices?labelSelector=kubernetes.io/service-name%3Dweb";
    let slices = b.settled(at, |slices| told(slices) == all(true)).await;
    let slice = &slices["items"][0];
    assert_eq!(
        (&slice["addressType"], &slice["ports"][0]["port"], &slice["ports"][0]["name"]),
        (&json!("IPv4"), &json!(8080), &json!("http"))
    );
    for ready in [false, true] {
        b.probes(&pods[0], "ready", ready).await;
        b.settled(at, |slices| told(slices) == all(ready)).await;
        let pod = b.get(&format!("pods/{}", pods[0])).await.is(200);
        assert_eq!((holds(&pod, "Ready"), holds(&pod, "ContainersReady")), (ready, ready), "{pod}");
        assert_eq!(number(&pod, "/status/containerStatuses/0/restartCount"), 0, "{pod}");
    }
}

async fn budget_holds_evictions(b: &Bench) {
    up(b, workload("web", 2)).await;
    let budget = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    b.make("poddisruptionbudgets", budget).await;
    let counted = |healthy: i64, desired: i64| {
        move |now: &Value| {
            let status = |field: &str| number(now, &format!("/status/{field}"));
            status("observedGeneration") == number(now, "/metadata/generation")
                && (status("currentHealthy"), status("desiredHealthy"), status("expectedPods")) == (healthy, desired, 2)
        }
    };
    let at = "poddisruptionbudgets/web";
    let tight = b.settled(at, counted(2, 2)).await;
    assert_eq!(number(&tight, "/status/disruptionsAllowed"), 0, "{tight}");
    assert!(!holds(&tight, "DisruptionAllowed"), "{tight}");
    let pods = names(&b.get(&of("pods", "web")).await.is(200));
    let evict = async |pod: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "@ns@"}});
        b.post(&format!("pods/{pod}/eviction"), eviction).await
    };
    let refused = "Cannot evict pod as it would violate the pod's disruption budget.";
    let body = evict(&pods[0]).await.refused(429, "TooManyRequests", refused);
    let cause = json!({"reason": "DisruptionBudget", "message": "The disruption budget web needs 2 healthy pods and has 2 currently"});
    assert_eq!(body["details"]["causes"], json!([cause]), "{body}");
    b.patch(at, MERGE, json!({"spec": {"minAvailable": 1}})).await.is(200);
    let spare = b.settled(at, counted(2, 1)).await;
    assert_eq!(number(&spare, "/status/disruptionsAllowed"), 1, "{spare}");
    evict(&pods[0]).await.is(201);
    evict(&pods[1]).await.refused(429, "TooManyRequests", refused);
    // Its successor makes up for it.
    b.settled("deployments/web", |now| rolled(now, 2)).await;
    let again = b.settled(at, |now| counted(2, 1)(now) && number(now, "/status/disruptionsAllowed") == 1).await;
    assert!(holds(&again, "DisruptionAllowed"), "{again}");
    b.gone(&format!("pods/{}", pods[0])).await;
}

/// A Deployment with a ReplicaSet and a pod, deleted under a policy.
async fn deleted(b: &Bench, policy: &str) -> Value {
    b.account().await;
    b.make("deployments", workload("own", 1)).await;
    b.settled(&of("pods", "own"), |pods| staying(pods).len() == 1).await;
    b.delete("deployments/own", json!({"propagationPolicy": policy})).await.is(200)
}

async fn owner_goes_in_the_background(b: &Bench) {
    let answer = deleted(b, "Background").await;
    assert_eq!(answer["kind"], "Status", "{answer}");
    b.get("deployments/own").await.is(404);
    for resource in ["replicasets", "pods"] {
        b.settled(&of(resource, "own"), |list| list["items"] == json!([])).await;
    }
}

async fn owner_goes_last(b: &Bench) {
    let answer = deleted(b, "Foreground").await;
    assert_eq!((&answer["kind"], &answer["metadata"]["finalizers"]), (&json!("Deployment"), &json!(["foregroundDeletion"])), "{answer}");
    b.gone("deployments/own").await;
    for resource in ["replicasets", "pods"] {
        let left = b.get(&of(resource, "own")).await.is(200);
        assert_eq!(names(&left), [""; 0], "{resource}");
    }
}

async fn owner_leaves_orphans(b: &Bench) {
    let answer = deleted(b, "Orphan").await;
    assert_eq!((&answer["kind"], &answer["metadata"]["finalizers"]), (&json!("Deployment"), &json!(["orphan"])), "{answer}");
    b.gone("deployments/own").await;
    let sets = b.get(&of("replicasets", "own")).await.is(200);
    assert_eq!((staying(&sets).len(), sets["items"][0]["metadata"].get("ownerReferences")), (1, None), "{sets}");
    // The pods are the set's, which is left, and which keeps them.
    let pods =
        b.settled(&of("pods", "own"), |pods| pods["items"].as_array().is_some_and(|all| all.iter().all(|pod| holds(pod, "Ready")))).await;
    assert_eq!(staying(&pods).len(), 1, "{pods}");
    assert_eq!(pods["items"][0]["metadata"]["ownerReferences"][0]["uid"], sets["items"][0]["metadata"]["uid"], "{pods}");
}

async fn namespace_takes_all_along(b: &Bench) {
    let (at, within) = ("namespaces/@ns@-two", "/api/v1/namespaces/@ns@-two");
    b.later(at);
    b.make("namespaces", json!({"metadata": {"name": "@ns@-two"}})).await;
    b.settled(&format!("{within}/serviceaccounts/default"), |_| true).await;
    b.settled(&format!("{within}/configmaps/kube-root-ca.crt"), |_| true).await;
    b.post(&format!("{within}/pods"), pod("app")).await.is(201);
    b.settled(&format!("{within}/pods/app"), |pod| holds(pod, "Ready")).await;
    let marked = b.delete(at, json!({})).await.is(200);
    assert_eq!((&marked["kind"], &marked["status"]["phase"]), (&json!("Namespace"), &json!("Terminating")), "{marked}");
    let answer = b.post(&format!("{within}/configmaps"), json!({"metadata": {"name": "late"}})).await;
    assert_eq!((answer.code, &answer.body["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")), "{}", answer.body);
    b.gone(at).await;
    b.get(&format!("{within}/pods/app")).await.is(404);
}
