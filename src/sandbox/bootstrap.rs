//! What a fresh cluster has: its namespaces, and the roles that let people ask what there is and what they may do
//! (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`).

use serde_json::{Value, json};

use super::{
    core::{State, meta},
    rbac::GROUP,
    store::Key,
};

/// Fills an empty store.
pub(super) fn fill(state: &mut State) {
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        let namespace = json!({
            "metadata": {"labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        put(state, "/namespaces", "", name, namespace);
    }
    let everything = json!([
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["*"], "nonResourceURLs": ["*"]},
    ]);
    role(state, "cluster-admin", everything, "system:masters");
    let pages = ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"];
    role(state, "system:discovery", json!([{"verbs": ["get"], "nonResourceURLs": pages}]), "system:authenticated");
    let public = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"]}]);
    role(state, "system:public-info-viewer", public, "system:authenticated");
    let basic = json!([
        {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]},
        {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
    ]);
    role(state, "system:basic-user", basic, "system:authenticated");
    // Nobody has seen the cluster's beginning: to ask for it is to ask for what is long gone.
    state.store.compact();
}

/// What a cluster has besides, once it has nodes: a class of volumes that are made where they are first used.
pub(super) fn cluster(state: &mut State) {
    let class = json!({
        "metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": super::control::PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    });
    put(state, "storage.k8s.io/storageclasses", "", "standard", class);
}

fn role(state: &mut State, name: &str, rules: Value, group: &str) {
    let labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    put(state, &format!("{GROUP}/clusterroles"), "", name, json!({"metadata": {"labels": labels}, "rules": rules}));
    let binding = json!({
        "metadata": {"labels": labels},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "Group", "apiGroup": GROUP, "name": group}],
    });
    put(state, &format!("{GROUP}/clusterrolebindings"), "", name, binding);
}

fn put(state: &mut State, shelf: &str, namespace: &str, name: &str, mut value: Value) {
    let (uid, now) = (state.store.uid(), state.now());
    let metadata = meta(&mut value);
    metadata.insert("name".to_owned(), Value::from(name));
    metadata.insert("uid".to_owned(), Value::from(uid));
    metadata.insert("creationTimestamp".to_owned(), Value::from(now));
    let key = Key(namespace.to_owned(), name.to_owned());
    state.store.put(shelf, &key, value);
}
