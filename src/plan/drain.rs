//! What a drain takes away, what is lost with a node, and when a node may not be cordoned or drained.

use std::collections::BTreeSet;

use super::{
    claims,
    guard::{self, FaultOn, Findings, Touched},
    seen::{OnNode, Snapshot},
    types::{ResolvedObject, ResolvedTarget},
};
use crate::scenario::types::{EnvironmentSpec, FaultSpec, UndoPolicy};

/// The pods that a drain evicts, or that go with a volume, by name; of other faults none.
pub(super) fn evicted(spec: &FaultSpec, target: &ResolvedTarget, snapshot: &Snapshot) -> Vec<ResolvedObject> {
    if spec.drain_node.is_none() {
        return claims::users(spec, target, snapshot);
    }
    let mut pods: Vec<ResolvedObject> = on(spec, target, snapshot).filter_map(|(_, on)| resolved(on)).collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    pods
}

/// Whether the pods on the chosen nodes go with it.
pub(super) const fn takes_pods(spec: &FaultSpec) -> bool {
    spec.drain_node.is_some() || spec.lose_node.is_some() || spec.lose_zone.is_some()
}

/// What is on the chosen nodes, with the node's name.
fn on<'a>(spec: &FaultSpec, target: &'a ResolvedTarget, snapshot: &'a Snapshot) -> impl Iterator<Item = (&'a str, &'a OnNode)> {
    let drained = takes_pods(spec);
    let nodes = target.chosen().filter(move |o| drained && o.kind == "Node").map(|o| o.name.as_str());
    nodes.flat_map(|node| snapshot.on_nodes.get(node).into_iter().flatten().map(move |on| (node, on)))
}

fn resolved(on: &OnNode) -> Option<ResolvedObject> {
    // What is ending goes without the drain.
    let pod = on.pod.as_ref().filter(|pod| !pod.ending)?;
    Some(ResolvedObject {
        kind: "Pod".to_owned(),
        namespace: on.namespace.clone(),
        name: on.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
        owner: pod.owner.clone(),
        ready: pod.ready,
        chosen: true,
    })
}

/// Refuses nodes that are cordoned already, and drains that would evict what no drill may touch; counts the pods that go.
pub(super) fn check(place: &EnvironmentSpec, fault: FaultOn<'_>, snapshot: &Snapshot, touched: &mut Touched, found: &mut Findings) {
    let FaultOn { step, spec, target, .. } = fault;
    if spec.lose_node.is_some() || spec.lose_zone.is_some() {
        touched.pods.extend(on(spec, target, snapshot).filter_map(|(_, on)| resolved(on)).map(|pod| pod.uid));
    }
    if spec.cordon_node.is_none() && spec.drain_node.is_none() {
        return;
    }
    for node in target.chosen().filter(|o| snapshot.nodes.get(&o.name).is_some_and(|node| node.cordoned)) {
        let name = &node.name;
        found.refusals.push(format!("step `{step}`: node {name} is cordoned already: nothing would change, and it would stay cordoned"));
    }
    if spec.drain_node.is_none() {
        return;
    }
    for (node, on) in on(spec, target, snapshot) {
        let OnNode { namespace, name, pod } = on;
        let Some(pod) = pod else {
            let way_out = "let it end first, or choose other nodes";
            found
                .refusals
                .push(format!("step `{step}`: draining node {node} would evict firedrill's own pod {namespace}/{name}: {way_out}"));
            continue;
        };
        if pod.owner.is_empty() && !pod.ending && spec.undo != Some(UndoPolicy::None) {
            found.refusals.push(format!(
                "step `{step}`: draining node {node} would evict pod {namespace}/{name}, and nothing would bring it back: it has no \
                 controller (`undo: none` accepts that)"
            ));
        }
    }
    let pods = evicted(spec, target, snapshot);
    if pods.is_empty() && target.matched > 0 {
        found
            .refusals
            .push(format!("step `{step}`: no pod on the chosen nodes can be evicted: nothing would break (`cordonNode` only cordons)"));
    }
    let namespaces: BTreeSet<&str> = pods.iter().map(|pod| pod.namespace.as_str()).collect();
    for namespace in namespaces {
        let who = format!("step `{step}` evicts pods there");
        found.refusals.extend(guard::namespace_refusal(&who, namespace, place, snapshot));
    }
    for pod in &pods {
        touched.pods.insert(pod.uid.clone());
    }
}
