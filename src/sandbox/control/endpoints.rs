//! EndpointSlices (`pkg/controller/endpointslice`): which pods stand behind a Service, and whether they are ready.

use serde_json::{Map, Value, json};

use super::{
    Again,
    api::{By, controller},
    look::{self, deleting, flag, items, label, number, owner_reference},
    mirror,
    slices::Slices,
};
use crate::sandbox::{
    core::{State, text},
    store::Key,
};

const BY: By<'_> = controller!("endpointslice-controller");
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// At most so many endpoints in one slice (`--max-endpoints-per-slice`).
const MOST: usize = 100;

/// Of one Service.
pub(super) fn reconcile(state: &mut State, key: &Key, _now: i64) -> Again {
    let service = state.peek("", "services", &key.0, &key.1).cloned();
    let Some(service) = service.filter(|service| !deleting(&service.value)) else { return mirror::reconcile(state, key, None) };
    let chosen = look::strings_at(&service.value, "/spec/selector");
    if text(&service.value, "/spec/type") == "ExternalName" {
        return Ok(None);
    }
    if chosen.is_empty() {
        return mirror::reconcile(state, key, Some(&service.value));
    }
    // Pods may call a named port by different numbers: one slice for each answer.
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (_, pod) in state.store.list("/pods", &key.0) {
        let pod = &pod.value;
        let hit = chosen.iter().all(|(name, value)| label(pod, name) == value);
        let address = text(pod, "/status/podIP");
        if !hit || address.is_empty() || look::ended(pod) {
            continue;
        }
        let ports = ports(&service.value, pod);
        let endpoint = endpoint(state, &service.value, pod);
        match groups.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => groups.push((ports, vec![endpoint])),
        }
    }
    if groups.is_empty() {
        groups.push((Value::Null, Vec::new()));
    }
    let mut wanted: Vec<(Value, Vec<Value>)> = Vec::new();
    for (ports, endpoints) in groups {
        if endpoints.is_empty() {
            wanted.push((ports, endpoints));
        } else {
            wanted.extend(endpoints.chunks(MOST).map(|part| (ports.clone(), part.to_vec())));
        }
    }
    let mut labels = look::strings_at(&service.value, "/metadata/labels");
    if text(&service.value, "/spec/clusterIP") == "None" {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    let owner = Some(owner_reference("v1", "Service", &service.value));
    Slices { by: BY, manager: MANAGER, key, labels, owner }.write(state, &wanted)?;
    Ok(None)
}

/// The Service's ports as this pod has them.
fn ports(service: &Value, pod: &Value) -> Value {
    let mut ports = Vec::new();
    for port in items(service, "/spec/ports") {
        let protocol = text(port, "/protocol");
        let target = match port.get("targetPort") {
            Some(Value::String(name)) => {
                let all = items(pod, "/spec/containers").iter().flat_map(|c| items(c, "/ports").iter());
                let mut named = all.filter(|p| text(p, "/name") == name && text(p, "/protocol") == protocol);
                named.next().and_then(|p| number(p, "/containerPort"))
            }
            Some(Value::Number(number)) => number.as_i64(),
            _ => number(port, "/port"),
        };
        // A port that the pod does not have is left out.
        let Some(target) = target else { continue };
        let mut made = Map::new();
        made.insert("name".to_owned(), Value::from(text(port, "/name")));
        made.insert("port".to_owned(), Value::from(target));
        made.insert("protocol".to_owned(), Value::from(if protocol.is_empty() { "TCP" } else { protocol }));
        if let Some(application) = port.get("appProtocol").filter(|a| !a.is_null()) {
            made.insert("appProtocol".to_owned(), application.clone());
        }
        ports.push(Value::Object(made));
    }
    Value::Array(ports)
}

fn endpoint(state: &State, service: &Value, pod: &Value) -> Value {
    let serving = look::ready(pod);
    let terminating = deleting(pod);
    let ready = flag(service, "/spec/publishNotReadyAddresses") || serving && !terminating;
    let node = text(pod, "/spec/nodeName");
    let mut endpoint = json!({
        "addresses": [text(pod, "/status/podIP")],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
    });
    let (hostname, subdomain) = (text(pod, "/spec/hostname"), text(pod, "/spec/subdomain"));
    if !hostname.is_empty() && subdomain == text(service, "/metadata/name") {
        endpoint["hostname"] = Value::from(hostname);
    }
    endpoint["nodeName"] = Value::from(node);
    endpoint["targetRef"] = json!({
        "kind": "Pod", "name": text(pod, "/metadata/name"), "namespace": text(pod, "/metadata/namespace"), "uid": text(pod, "/metadata/uid"),
    });
    let zone = state.peek("", "nodes", "", node).map_or("", |node| label(&node.value, "topology.kubernetes.io/zone"));
    if !zone.is_empty() {
        endpoint["zone"] = Value::from(zone);
    }
    endpoint
}
