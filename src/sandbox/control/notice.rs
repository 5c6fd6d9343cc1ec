//! Whom a change concerns: what informers and their handlers do in the real controllers.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Control, EVENT_US, Item, Who, ephemeral,
    look::{self, controller_of, deleting, items, selects},
    node_matters, who_controls,
};
use crate::sandbox::{
    core::{State, text},
    node::Nodes,
    store::{Change, Key},
};

impl Control {
    /// Reads what has changed, and puts everybody whom it concerns into the queue.
    pub(super) fn notice(&mut self, state: &State, nodes: &Nodes) {
        let version = state.store.version();
        if self.cursor == Some(version) {
            return;
        }
        let mut concerned = Vec::new();
        match self.cursor.and_then(|cursor| state.store.since(cursor)) {
            Some(changes) => {
                for logged in changes {
                    self.concerns(state, nodes, &logged.open(), &mut concerned);
                }
            }
            // The first time, or the past is forgotten: everything that is there.
            None => {
                self.owned.clear();
                // What was deleted meanwhile is in nobody's list: kubelets go through their own.
                concerned.extend(nodes.pods().map(|key| (Who::Kubelet, key.clone())));
                for (shelf, key, stored) in state.store.everything() {
                    let change = Change {
                        version,
                        at_us: state.now_us,
                        shelf: Arc::clone(shelf),
                        key: key.clone(),
                        before: None,
                        after: Arc::clone(stored),
                        deleted: false,
                    };
                    self.concerns(state, nodes, &change, &mut concerned);
                }
            }
        }
        self.cursor = Some(version);
        for (who, key) in concerned {
            let at = state.now_us + who.reacts_after();
            self.queue.add((who, key), at);
        }
    }

    fn concerns(&mut self, state: &State, nodes: &Nodes, change: &Change, into: &mut Vec<Item>) {
        let after = &change.after.value;
        let before = change.before.as_ref().map(|stored| &stored.value);
        let key = change.key.clone();
        // By far the most frequent change, which concerns nobody at once.
        if *change.shelf == *"coordination.k8s.io/leases" && key.0 == "kube-node-lease" {
            return;
        }
        self.ownership(change, into);
        if change.deleted
            && let Some(namespace) = state.peek("", "namespaces", "", &key.0)
            && deleting(&namespace.value)
        {
            into.push((Who::Namespace, Key(String::new(), key.0.clone())));
        }
        match &*change.shelf {
            "/pods" => pod(state, nodes, change, into),
            "/nodes" => {
                if !node_matters(before, after) && !change.deleted {
                    return;
                }
                // Whether a silent node's pods are driven away depends on how many others are silent.
                if change.deleted || before.is_some_and(|before| look::holds(before, "Ready") != look::holds(after, "Ready")) {
                    all(state, "/nodes", Who::NodeLife, into);
                }
                into.push((Who::NodeLife, key.clone()));
                if nodes.has(&key.1) {
                    into.push((Who::Heart, key.clone()));
                }
                retry_pending(into);
                all(state, "apps/daemonsets", Who::DaemonSet, into);
                let taints = |value: Option<&Value>| value.and_then(|v| v.pointer("/spec/taints")).cloned();
                if change.deleted || taints(before) != taints(Some(after)) {
                    let here = |pod: &Value| text(pod, "/spec/nodeName") == key.1;
                    let pods = state.store.list("/pods", "").filter(|(_, pod)| here(&pod.value));
                    into.extend(pods.map(|(key, _)| (Who::Evict, key.clone())));
                }
            }
            "/services" | "/endpoints" => into.push((Who::Endpoints, key)),
            "discovery.k8s.io/endpointslices" => {
                let service = look::label(after, "kubernetes.io/service-name");
                into.push((Who::Endpoints, Key(key.0, service.to_owned())));
            }
            "/persistentvolumeclaims" => {
                let volume = text(after, "/spec/volumeName");
                if change.deleted && !volume.is_empty() {
                    into.push((Who::Volumes, Key(String::new(), volume.to_owned())));
                }
                into.push((Who::Volumes, key));
                retry_pending(into);
            }
            "/persistentvolumes" => {
                into.push((Who::Volumes, key));
                let claim = after.pointer("/spec/claimRef").unwrap_or(&Value::Null);
                if claim.is_object() {
                    into.push((Who::Volumes, Key(text(claim, "/namespace").to_owned(), text(claim, "/name").to_owned())));
                } else {
                    all(state, "/persistentvolumeclaims", Who::Volumes, into);
                }
            }
            "storage.k8s.io/storageclasses" => all(state, "/persistentvolumeclaims", Who::Volumes, into),
            "policy/poddisruptionbudgets" => into.push((Who::Budget, key)),
            "/namespaces" => into.push((Who::Namespace, key)),
            "/serviceaccounts" | "/configmaps" if change.deleted => into.push((Who::Namespace, Key(String::new(), key.0))),
            "/events" => {
                if change.deleted {
                    self.events.remove(&key);
                } else {
                    self.events.insert(key.clone(), state.now_us);
                    self.queue.add((Who::EventEnd, key), state.now_us + EVENT_US);
                }
            }
            "apps/replicasets" | "apps/deployments" | "apps/statefulsets" | "apps/daemonsets" | "batch/jobs" | "batch/cronjobs" => {
                let who = match &*change.shelf {
                    "apps/replicasets" => Who::ReplicaSet,
                    "apps/deployments" => Who::Deployment,
                    "apps/statefulsets" => Who::StatefulSet,
                    "apps/daemonsets" => Who::DaemonSet,
                    "batch/jobs" => Who::Job,
                    _ => Who::CronJob,
                };
                into.push((who, key.clone()));
                for owned in [Some(after), before].into_iter().flatten() {
                    if let Some((kind, name, _)) = controller_of(owned)
                        && let Some(who) = who_controls(kind)
                    {
                        into.push((who, Key(key.0.clone(), name.to_owned())));
                    }
                }
                let scale = |value: Option<&Value>| value.and_then(|v| v.pointer("/spec/replicas")).cloned();
                if change.deleted || scale(before) != scale(Some(after)) {
                    within(state, "policy/poddisruptionbudgets", &key.0, Who::Budget, into);
                }
            }
            _ => {}
        }
    }

    /// Keeps the index of owners, and calls the collector.
    fn ownership(&mut self, change: &Change, into: &mut Vec<Item>) {
        let after = &change.after.value;
        let uids = |value: &Value| -> Vec<String> {
            items(value, "/metadata/ownerReferences").iter().map(|o| text(o, "/uid").to_owned()).collect()
        };
        let me = (Arc::clone(&change.shelf), change.key.clone());
        let old = change.before.as_ref().map(|stored| uids(&stored.value)).unwrap_or_default();
        let new = if change.deleted { Vec::new() } else { uids(after) };
        for gone in old.iter().filter(|uid| !new.contains(uid)) {
            if let Some(owned) = self.owned.get_mut(gone) {
                owned.remove(&me);
                if owned.is_empty() {
                    self.owned.remove(gone);
                }
            }
            // An owner that waits for its dependents may have been waiting for this one.
            into.push((Who::Garbage, Key(String::new(), gone.clone())));
        }
        for uid in &new {
            self.owned.entry(uid.clone()).or_default().insert(me.clone());
        }
        let held = deleting(after) && !items(after, "/metadata/finalizers").is_empty();
        if !change.deleted && (held || !new.is_empty() && old != new) {
            let name = format!("{}/{}", change.key.0, change.key.1);
            into.push((Who::Garbage, Key(change.shelf.to_string(), name)));
        }
        if change.deleted {
            let uid = text(after, "/metadata/uid");
            if self.owned.contains_key(uid) {
                into.push((Who::Garbage, Key(String::new(), uid.to_owned())));
            }
        }
    }
}

fn pod(state: &State, nodes: &Nodes, change: &Change, into: &mut Vec<Item>) {
    let after = &change.after.value;
    let before = change.before.as_ref().map(|stored| &stored.value);
    let key = &change.key;
    for pod in [Some(after), before].into_iter().flatten() {
        if let Some((kind, name, _)) = controller_of(pod)
            && let Some(who) = who_controls(kind)
        {
            into.push((who, Key(key.0.clone(), name.to_owned())));
            // `Recreate` waits for the end of the last pod, of which no set's status tells (`deletePod` of the deployment controller).
            if change.deleted
                && let Some(set) = state.peek("apps", "replicasets", &key.0, name)
                && let Some(("Deployment", deployment, _)) = controller_of(&set.value)
            {
                into.push((Who::Deployment, Key(key.0.clone(), deployment.to_owned())));
            }
        }
    }
    // Orphans may be adopted.
    if controller_of(after).is_none() && !change.deleted {
        for (shelf, who) in
            [("apps/replicasets", Who::ReplicaSet), ("apps/statefulsets", Who::StatefulSet), ("apps/daemonsets", Who::DaemonSet)]
        {
            for (owner, stored) in state.store.list(shelf, &key.0) {
                if look::selector(&stored.value, "/spec/selector").is_some_and(|s| selects(&s, after)) {
                    into.push((who, owner.clone()));
                }
            }
        }
    }
    for (service, stored) in state.store.list("/services", &key.0) {
        let chosen = look::strings_at(&stored.value, "/spec/selector");
        let hit = |pod: &Value| !chosen.is_empty() && chosen.iter().all(|(k, v)| look::label(pod, k) == v);
        if hit(after) || before.is_some_and(hit) {
            into.push((Who::Endpoints, service.clone()));
        }
    }
    within(state, "policy/poddisruptionbudgets", &key.0, Who::Budget, into);
    if !change.deleted && before.is_none() && ephemeral::has_any(after) {
        into.push((Who::Ephemeral, key.clone()));
    }
    let node = text(after, "/spec/nodeName");
    if node.is_empty() {
        if !change.deleted {
            into.push((Who::Scheduler, key.clone()));
        }
    } else {
        if nodes.has(node) {
            into.push((Who::Kubelet, key.clone()));
        }
        if before.is_none_or(|before| text(before, "/spec/nodeName").is_empty()) {
            into.push((Who::Evict, key.clone()));
        }
        // Room, ports and neighbours may be free again.
        let gone = |pod: &Value| look::ended(pod);
        let labels = |pod: &Value| pod.pointer("/metadata/labels").cloned();
        if change.deleted || gone(after) && !before.is_some_and(gone) || before.is_some_and(|b| labels(b) != labels(after)) {
            retry_pending(into);
        }
    }
    // A claim that is to go waits for its last user.
    if change.deleted || look::ended(after) {
        for volume in items(after, "/spec/volumes") {
            let claim = text(volume, "/persistentVolumeClaim/claimName");
            if !claim.is_empty() {
                into.push((Who::Volumes, Key(key.0.clone(), claim.to_owned())));
            }
        }
    }
}

/// Pods without a node are looked at again.
fn retry_pending(into: &mut Vec<Item>) {
    into.push((Who::Scheduler, Key(String::new(), String::new())));
}

fn all(state: &State, shelf: &str, who: Who, into: &mut Vec<Item>) {
    within(state, shelf, "", who, into);
}

fn within(state: &State, shelf: &str, namespace: &str, who: Who, into: &mut Vec<Item>) {
    into.extend(state.store.list(shelf, namespace).map(|(key, _)| (who, key.clone())));
}
