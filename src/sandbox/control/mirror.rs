//! EndpointSlices of Services without a selector: what somebody else wrote into their Endpoints
//! (`pkg/controller/endpointslicemirroring`). So a Service leads to whom Patroni says.

use serde_json::{Value, json};

use super::{
    Again,
    api::{By, controller},
    look::{self, deleting, items, owner_reference},
    slices::Slices,
};
use crate::sandbox::{
    core::{State, text},
    store::Key,
};

const BY: By<'_> = controller!("endpointslicemirroring-controller");
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";

/// Of one Service, which has no selector or is not there.
pub(super) fn reconcile(state: &mut State, key: &Key, service: Option<&Value>) -> Again {
    let source = state.peek("", "endpoints", &key.0, &key.1).cloned();
    let source = source.filter(|source| service.is_some() && !deleting(&source.value));
    let subsets = source.iter().flat_map(|source| items(&source.value, "/subsets"));
    let wanted: Vec<(Value, Vec<Value>)> =
        subsets.map(|subset| (items(subset, "/ports").iter().map(port).collect(), endpoints(subset))).collect();
    let labels = source.as_ref().map(|source| look::strings_at(&source.value, "/metadata/labels")).unwrap_or_default();
    let owner = source.as_ref().map(|source| owner_reference("v1", "Endpoints", &source.value));
    Slices { by: BY, manager: MANAGER, key, labels, owner }.write(state, &wanted)?;
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
