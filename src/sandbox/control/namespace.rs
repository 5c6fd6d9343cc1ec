//! Namespaces (`pkg/controller/namespace`, `pkg/controller/serviceaccount`): a service account in each, and an end that
//! takes everything in it along.

use std::sync::Arc;

use serde_json::json;

use super::{
    Again,
    api::{At, By, controller},
    look::deleting,
};
use crate::sandbox::{core::State, kinds::Kind, store::Key};

const BY: By<'_> = controller!("namespace-controller");
const PUBLISHER: By<'_> = controller!("root-ca-cert-publisher");
const ROOT: &str = "kube-root-ca.crt";
const ACCOUNTS: By<'_> = controller!("service-account-controller");

/// Of one namespace.
pub(super) fn reconcile(state: &mut State, key: &Key, _now: i64) -> Again {
    let name = &key.1;
    let Some(namespace) = state.peek("", "namespaces", "", name).cloned() else { return Ok(None) };
    if !deleting(&namespace.value) {
        if state.peek("", "serviceaccounts", name, "default").is_none() {
            let account = json!({"metadata": {"name": "default", "namespace": name}});
            state.make(ACCOUNTS, At::new("", "serviceaccounts", name, ""), account)?;
        }
        // Every pod mounts it beside its token.
        if state.peek("", "configmaps", name, ROOT).is_none() {
            let about = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
                         internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
                         clusters.";
            let map = json!({
                "metadata": {"name": ROOT, "namespace": name, "annotations": {"kubernetes.io/description": about}},
                "data": {"ca.crt": "the sandbox has no certificates\n"},
            });
            state.make(PUBLISHER, At::new("", "configmaps", name, ""), map)?;
        }
        return Ok(None);
    }
    let mut left = false;
    for kind in namespaced(state) {
        let objects: Vec<(Key, bool)> =
            state.store.list(kind.shelf(), name).map(|(key, stored)| (key.clone(), deleting(&stored.value))).collect();
        for (key, going) in objects {
            if !going {
                let at = At::new(&kind.group, &kind.plural, &key.0, &key.1);
                state.remove_of(BY, &kind, at, &json!({"propagationPolicy": "Background"}))?;
            }
            left |= state.store.get(kind.shelf(), &key).is_some();
        }
    }
    if !left {
        state.finalize_namespace(BY, name)?;
    }
    // It is looked at again whenever something in it is gone.
    Ok(None)
}

fn namespaced(state: &State) -> Vec<Arc<Kind>> {
    let mut all: Vec<Arc<Kind>> = Vec::new();
    for (group, versions) in state.kinds.groups() {
        for version in versions {
            for kind in state.kinds.of(group, version).into_iter().flatten() {
                let known = all.iter().any(|k| k.shelf() == kind.shelf());
                if kind.namespaced && !kind.review && !known {
                    all.push(Arc::clone(kind));
                }
            }
        }
    }
    all
}
