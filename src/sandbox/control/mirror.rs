//! EndpointSlices of Services without a selector: what somebody else wrote into their Endpoints
//! (`pkg/controller/endpointslicemirroring`). So a Service leads to whom Patroni says.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    look::{self, deleting, items, label, owner_reference, set_label},
};
use crate::sandbox::{
    core::{State, meta, text},
    store::{Key, Stored},
};

const BY: By<'_> = controller!("endpointslicemirroring-controller");
const MANAGED: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";

/// Of one Service, which has no selector or is not there.
pub(super) fn reconcile(state: &mut State, key: &Key, service: Option<&Value>) -> Again {
    let mine = |slice: &Value| label(slice, "kubernetes.io/service-name") == key.1 && label(slice, MANAGED) == MANAGER;
    let slices: Vec<Arc<Stored>> = state
        .store
        .list("discovery.k8s.io/endpointslices", &key.0)
        .filter(|(_, slice)| mine(&slice.value) && !deleting(&slice.value))
        .map(|(_, slice)| Arc::clone(slice))
        .collect();
    let source = state.peek("", "endpoints", &key.0, &key.1).cloned();
    let source = source.filter(|source| service.is_some() && !deleting(&source.value));
    let subsets: Vec<Value> = source.iter().flat_map(|source| items(&source.value, "/subsets")).cloned().collect();
    for (n, subset) in subsets.iter().enumerate() {
        let Some(source) = &source else { break };
        let mut value = slices.get(n).map_or_else(|| json!({"metadata": {}}), |slice| slice.value.clone());
        value["addressType"] = Value::from("IPv4");
        value["endpoints"] = Value::Array(endpoints(subset));
        value["ports"] = Value::Array(items(subset, "/ports").iter().map(port).collect());
        for (name, content) in look::strings_at(&source.value, "/metadata/labels") {
            set_label(&mut value, &name, &content);
        }
        set_label(&mut value, "kubernetes.io/service-name", &key.1);
        set_label(&mut value, MANAGED, MANAGER);
        match slices.get(n) {
            Some(slice) => {
                let same = ["/endpoints", "/ports", "/metadata/labels"].iter().all(|at| slice.value.pointer(at) == value.pointer(at));
                if !same {
                    let at = At::new("discovery.k8s.io", "endpointslices", &key.0, text(&slice.value, "/metadata/name"));
                    state.change(BY, at, "", value)?;
                }
            }
            None => {
                let metadata = meta(&mut value);
                metadata.insert("generateName".to_owned(), Value::from(format!("{}-", key.1)));
                metadata.insert("namespace".to_owned(), Value::from(key.0.as_str()));
                metadata.insert("ownerReferences".to_owned(), json!([owner_reference("v1", "Endpoints", &source.value)]));
                state.make(BY, At::new("discovery.k8s.io", "endpointslices", &key.0, ""), value)?;
            }
        }
    }
    for surplus in slices.iter().skip(subsets.len()) {
        let at = At::new("discovery.k8s.io", "endpointslices", &key.0, text(&surplus.value, "/metadata/name"));
        state.remove(BY, at, &json!({}))?;
    }
    Ok(None)
}

fn port(port: &Value) -> Value {
    let protocol = text(port, "/protocol");
    json!({"name": text(port, "/name"), "port": port["port"], "protocol": if protocol.is_empty() { "TCP" } else { protocol }})
}

fn endpoints(subset: &Value) -> Vec<Value> {
    let some = |list: &str, ready: bool| {
        let addresses = items(subset, list).iter();
        addresses.map(move |address| {
            let mut endpoint = json!({"addresses": [text(address, "/ip")], "conditions": {"ready": ready}});
            for field in ["hostname", "nodeName", "targetRef"] {
                if let Some(content) = address.get(field).filter(|content| !content.is_null()) {
                    endpoint[field] = content.clone();
                }
            }
            endpoint
        })
    };
    some("/addresses", true).chain(some("/notReadyAddresses", false)).collect()
}
