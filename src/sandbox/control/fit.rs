//! Whether a pod fits on a node: what the scheduler asks (`pkg/scheduler/framework/plugins`), and the DaemonSet controller, too.

use std::{collections::BTreeMap, sync::Arc};

use kube::core::Selector;
use serde_json::Value;

use super::look::{self, active, ended, items, label, number, selects, strings_at};
use crate::sandbox::{
    core::{State, strings, text},
    quantity::Quantity,
    store::Stored,
};

/// The taint that a toleration has to match.
pub(in crate::sandbox) fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let effect = text(toleration, "/effect");
    if !effect.is_empty() && effect != text(taint, "/effect") {
        return false;
    }
    let key = text(toleration, "/key");
    if !key.is_empty() && key != text(taint, "/key") {
        return false;
    }
    match text(toleration, "/operator") {
        "Exists" => true,
        _ => !key.is_empty() && text(toleration, "/value") == text(taint, "/value"),
    }
}

/// The first taint with one of these effects that the pod does not tolerate.
pub(in crate::sandbox) fn untolerated<'a>(pod: &Value, node: &'a Value, effects: &[&str]) -> Option<&'a Value> {
    let tolerations = items(pod, "/spec/tolerations");
    let mut taints = items(node, "/spec/taints").iter().filter(|taint| effects.contains(&text(taint, "/effect")));
    taints.find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// The pod's node selector and required node affinity.
pub(super) fn likes_node(pod: &Value, node: &Value) -> bool {
    let chosen = strings_at(pod, "/spec/nodeSelector");
    if !chosen.iter().all(|(key, value)| label(node, key) == value) {
        return false;
    }
    match pod.pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution") {
        Some(required) => terms(required, node),
        None => true,
    }
}

/// A node selector: one of its terms holds.
pub(super) fn terms(selector: &Value, node: &Value) -> bool {
    items(selector, "/nodeSelectorTerms").iter().any(|term| {
        let (labels, fields) = (items(term, "/matchExpressions"), items(term, "/matchFields"));
        // An empty term matches nothing.
        (!labels.is_empty() || !fields.is_empty())
            && labels.iter().all(|e| expression(e, strings_at(node, "/metadata/labels").get(text(e, "/key")).map(String::as_str)))
            && fields.iter().all(|e| text(e, "/key") == "metadata.name" && expression(e, Some(text(node, "/metadata/name"))))
    })
}

pub(super) fn expression(expression: &Value, value: Option<&str>) -> bool {
    let values = strings(expression, "/values");
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    match text(expression, "/operator") {
        "In" => value.is_some_and(|value| values.contains(&value)),
        "NotIn" => value.is_none_or(|value| !values.contains(&value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(number(values.first().copied())).is_some_and(|(a, b)| a > b),
        "Lt" => number(value).zip(number(values.first().copied())).is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

/// A quantity as a number that can be added and compared. None: it is none.
pub(in crate::sandbox) fn amount(quantity: &Value) -> Option<i128> {
    match quantity {
        Value::String(text) => Quantity::read(text),
        Value::Number(number) => Quantity::read(&number.to_string()),
        _ => None,
    }
    .map(Quantity::nano)
}

/// What a pod asks for: its containers together, or one init container if that asks for more.
fn asks(pod: &Value) -> BTreeMap<&str, i128> {
    let of =
        |container: &Value, what: &str| container.pointer("/resources/requests").and_then(|r| r.get(what)).and_then(amount).unwrap_or(0);
    let mut all = BTreeMap::new();
    for what in ["cpu", "memory", "ephemeral-storage"] {
        let sidecar = |c: &&Value| text(c, "/restartPolicy") == "Always";
        let init = items(pod, "/spec/initContainers");
        let main: i128 = items(pod, "/spec/containers").iter().chain(init.iter().filter(sidecar)).map(|c| of(c, what)).sum();
        let first = init.iter().filter(|c| !sidecar(c)).map(|c| of(c, what)).max().unwrap_or(0);
        all.insert(what, main.max(first));
    }
    all
}

/// All nodes with what runs on them, as the scheduler sees them.
pub(super) struct Sight {
    pub(super) nodes: Vec<Arc<Stored>>,
    /// Pods that count, by node.
    pub(super) pods: BTreeMap<String, Vec<Arc<Stored>>>,
}

impl Sight {
    pub(super) fn of(state: &State) -> Self {
        Self::without(state, "")
    }

    /// As if the pod of this uid were not there.
    pub(super) fn without(state: &State, uid: &str) -> Self {
        let nodes = state.store.list("/nodes", "").map(|(_, node)| Arc::clone(node)).collect();
        let mut pods: BTreeMap<String, Vec<Arc<Stored>>> = BTreeMap::new();
        for (_, pod) in state.store.list("/pods", "").filter(|(_, pod)| !ended(&pod.value)) {
            if text(&pod.value, "/metadata/uid") == uid {
                continue;
            }
            let node = text(&pod.value, "/spec/nodeName");
            let node = if node.is_empty() { assumed(state, &pod.value).unwrap_or_default() } else { node.to_owned() };
            if !node.is_empty() {
                pods.entry(node).or_default().push(Arc::clone(pod));
            }
        }
        Self { nodes, pods }
    }

    pub(super) fn on(&self, node: &Value) -> &[Arc<Stored>] {
        self.pods.get(text(node, "/metadata/name")).map(Vec::as_slice).unwrap_or_default()
    }

    /// Pods on the nodes that have this value of a topology key.
    fn within<'a>(&'a self, key: &'a str, value: &'a str) -> impl Iterator<Item = &'a Arc<Stored>> {
        self.nodes.iter().filter(move |node| label(&node.value, key) == value).flat_map(|node| self.on(&node.value))
    }
}

/// The node where a pod's volumes are, or are being made, while it has none: it is as good as there (`assume` of the real scheduler).
pub(super) fn assumed(state: &State, pod: &Value) -> Option<String> {
    if !text(pod, "/spec/nodeName").is_empty() {
        return None;
    }
    let namespace = text(pod, "/metadata/namespace");
    claims(pod).into_iter().find_map(|claim| {
        let claim = state.peek("", "persistentvolumeclaims", namespace, &claim)?;
        Some(look::annotation(&claim.value, super::scheduler::SELECTED)).filter(|node| !node.is_empty()).map(str::to_owned)
    })
}

/// Why a node is not for a pod, in the scheduler's words; none: it is. Filters are asked in the real one's order.
pub(super) fn refuses(state: &State, sight: &Sight, pod: &Value, node: &Value) -> Option<String> {
    let unschedulable = serde_json::json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    if look::flag(node, "/spec/unschedulable") && !items(pod, "/spec/tolerations").iter().any(|t| tolerates(t, &unschedulable)) {
        return Some("node(s) were unschedulable".to_owned());
    }
    if let Some(taint) = untolerated(pod, node, &["NoSchedule", "NoExecute"]) {
        return Some(format!("node(s) had untolerated taint {{{}: {}}}", text(taint, "/key"), text(taint, "/value")));
    }
    if !likes_node(pod, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    if let Some(why) = no_room(sight, pod, node) {
        return Some(why);
    }
    if !volumes_reach(state, pod, node) {
        return Some("node(s) didn't match PersistentVolume's node affinity".to_owned());
    }
    if skewed(sight, pod, node) {
        return Some("node(s) didn't match pod topology spread constraints".to_owned());
    }
    neighbours(sight, pod, node)
}

fn no_room(sight: &Sight, pod: &Value, node: &Value) -> Option<String> {
    let room = |what: &str| node.pointer("/status/allocatable").and_then(|all| all.get(what)).and_then(amount);
    let here = sight.on(node);
    let pods = amount(&Value::from(here.len() + 1));
    if room("pods").zip(pods).is_some_and(|(most, pods)| pods > most) {
        return Some("Too many pods".to_owned());
    }
    let others: Vec<_> = here.iter().map(|pod| asks(&pod.value)).collect();
    for (what, asked) in asks(pod).into_iter().filter(|(_, asked)| *asked > 0) {
        let used: i128 = others.iter().filter_map(|other| other.get(what)).sum();
        if room(what).is_some_and(|room| used + asked > room) {
            return Some(format!("Insufficient {what}"));
        }
    }
    let ports = |pod: &Value| -> Vec<(i64, String)> {
        let all = items(pod, "/spec/containers").iter().flat_map(|c| items(c, "/ports").iter());
        all.filter_map(|p| Some((number(p, "/hostPort").filter(|n| *n > 0)?, text(p, "/protocol").to_owned()))).collect()
    };
    let wanted = ports(pod);
    let taken = here.iter().any(|other| ports(&other.value).iter().any(|port| wanted.contains(port)));
    taken.then(|| "node(s) didn't have free ports for the requested pod ports".to_owned())
}

/// The claims' volumes can be used on the node.
fn volumes_reach(state: &State, pod: &Value, node: &Value) -> bool {
    claims(pod).all(|claim| {
        let claim = state.peek("", "persistentvolumeclaims", text(pod, "/metadata/namespace"), &claim);
        let volume = claim.map(|claim| text(&claim.value, "/spec/volumeName")).filter(|name| !name.is_empty());
        let volume = volume.and_then(|name| state.peek("", "persistentvolumes", "", name));
        volume.and_then(|volume| volume.value.pointer("/spec/nodeAffinity/required")).is_none_or(|required| terms(required, node))
    })
}

/// The names of the claims that a pod uses.
pub(super) fn claims(pod: &Value) -> impl Iterator<Item = String> {
    let name = text(pod, "/metadata/name");
    items(pod, "/spec/volumes").iter().filter_map(move |volume| {
        if volume.get("ephemeral").is_some() {
            return Some(format!("{name}-{}", text(volume, "/name")));
        }
        let claim = text(volume, "/persistentVolumeClaim/claimName");
        (!claim.is_empty()).then(|| claim.to_owned())
    })
}

/// `PodTopologySpread`: with the pod, the node's domain would have too many more than the emptiest.
fn skewed(sight: &Sight, pod: &Value, node: &Value) -> bool {
    let constraints = items(pod, "/spec/topologySpreadConstraints").iter();
    let namespace = text(pod, "/metadata/namespace");
    constraints.filter(|c| text(c, "/whenUnsatisfiable") == "DoNotSchedule").any(|constraint| {
        let key = text(constraint, "/topologyKey");
        let here = label(node, key);
        if here.is_empty() {
            return true;
        }
        let Some(selector) = look::selector(constraint, "/labelSelector") else { return false };
        let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
        for other in sight.nodes.iter().filter(|n| !label(&n.value, key).is_empty() && likes_node(pod, &n.value)) {
            let same =
                |p: &&Arc<Stored>| text(&p.value, "/metadata/namespace") == namespace && active(&p.value) && selects(&selector, &p.value);
            let count = sight.on(&other.value).iter().filter(same).count();
            *domains.entry(label(&other.value, key)).or_default() += i64::try_from(count).unwrap_or(0);
        }
        let least = domains.values().min().copied().unwrap_or(0);
        let own = i64::from(selects(&selector, pod));
        domains.get(here).copied().unwrap_or(0) + own - least > number(constraint, "/maxSkew").unwrap_or(1)
    })
}

struct Term<'a> {
    key: &'a str,
    namespaces: Vec<&'a str>,
    selector: Option<Selector>,
}

fn affinity_terms<'a>(pod: &'a Value, which: &str) -> Vec<Term<'a>> {
    let pointer = format!("/spec/affinity/{which}/requiredDuringSchedulingIgnoredDuringExecution");
    items(pod, &pointer)
        .iter()
        .map(|term| {
            let named = strings(term, "/namespaces");
            let namespaces = if named.is_empty() { vec![text(pod, "/metadata/namespace")] } else { named };
            Term { key: text(term, "/topologyKey"), namespaces, selector: look::selector(term, "/labelSelector") }
        })
        .collect()
}

impl Term<'_> {
    fn means(&self, pod: &Value) -> bool {
        self.namespaces.contains(&text(pod, "/metadata/namespace")) && self.selector.as_ref().is_some_and(|s| selects(s, pod))
    }
}

/// `InterPodAffinity`, in the order in which the real one asks: what the pod wants near it, what it does not, and who does not want it.
fn neighbours(sight: &Sight, pod: &Value, node: &Value) -> Option<String> {
    for term in affinity_terms(pod, "podAffinity") {
        let here = label(node, term.key);
        let near = !here.is_empty() && sight.within(term.key, here).any(|other| term.means(&other.value));
        // The first pod of a group that wants to be together may go anywhere.
        let first = || !here.is_empty() && term.means(pod) && !sight.pods.values().flatten().any(|other| term.means(&other.value));
        if !near && !first() {
            return Some("node(s) didn't match pod affinity rules".to_owned());
        }
    }
    for term in affinity_terms(pod, "podAntiAffinity") {
        let here = label(node, term.key);
        if !here.is_empty() && sight.within(term.key, here).any(|other| term.means(&other.value)) {
            return Some("node(s) didn't match pod anti-affinity rules".to_owned());
        }
    }
    for (home, other) in sight.pods.iter().flat_map(|(home, all)| all.iter().map(move |other| (home, other))) {
        for term in affinity_terms(&other.value, "podAntiAffinity").iter().filter(|term| term.means(pod)) {
            let home = sight.nodes.iter().find(|n| text(&n.value, "/metadata/name") == home);
            let there = home.map_or("", |home| label(&home.value, term.key));
            if !there.is_empty() && there == label(node, term.key) {
                return Some("node(s) didn't satisfy existing pods anti-affinity rules".to_owned());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_match_taints() {
        let taint = json!({"key": "a", "value": "b", "effect": "NoExecute"});
        for (toleration, wanted) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "a", "operator": "Exists"}), true),
            (json!({"key": "a", "value": "b"}), true),
            (json!({"key": "a", "value": "c"}), false),
            (json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "c", "operator": "Exists"}), false),
        ] {
            assert_eq!(tolerates(&toleration, &taint), wanted, "{toleration}");
        }
    }

    #[test]
    fn node_selectors() {
        let node = json!({"metadata": {"name": "n1", "labels": {"zone": "a", "size": "5"}}});
        let pod = |e: Value| {
            let required = json!({"nodeSelectorTerms": [e]});
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}})
        };
        let by = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        assert!(likes_node(&pod(by("zone", "In", &["a", "b"])), &node) && !likes_node(&pod(by("zone", "NotIn", &["a"])), &node));
        assert!(likes_node(&pod(by("size", "Gt", &["4"])), &node) && !likes_node(&pod(by("size", "Lt", &["4"])), &node));
        assert!(likes_node(&pod(by("x", "DoesNotExist", &[])), &node) && !likes_node(&pod(by("x", "Exists", &[])), &node));
        assert!(!likes_node(&pod(json!({})), &node), "an empty term matches nothing");
        assert!(likes_node(&pod(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})), &node));
        assert!(!likes_node(&json!({"spec": {"nodeSelector": {"zone": "b"}}}), &node));
    }
}
