//! EndpointSlices as both controllers that make them write them.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    api::{At, By},
    look::{deleting, label, set_label},
};
use crate::sandbox::{
    core::{State, meta, text},
    refusal::Answer,
    store::{Key, Stored},
};

const MANAGED: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE: &str = "kubernetes.io/service-name";

/// What all slices of one Service have in common.
pub(super) struct Slices<'a> {
    pub(super) by: By<'a>,
    /// Who manages them, as their label says it.
    pub(super) manager: &'a str,
    /// The Service.
    pub(super) key: &'a Key,
    /// Labels besides those of every slice.
    pub(super) labels: BTreeMap<String, String>,
    /// Reference to what they are made for; none: only what surplus there is goes.
    pub(super) owner: Option<Value>,
}

/// The slices of a Service that somebody manages and that stay.
fn managed(state: &State, key: &Key, manager: &str) -> Vec<Arc<Stored>> {
    let mine = |slice: &Value| label(slice, SERVICE) == key.1 && label(slice, MANAGED) == manager;
    state
        .store
        .list("discovery.k8s.io/endpointslices", &key.0)
        .filter(|(_, slice)| mine(&slice.value) && !deleting(&slice.value))
        .map(|(_, slice)| Arc::clone(slice))
        .collect()
}

impl Slices<'_> {
    /// Makes them what is wanted, each with its ports and its endpoints: the first there are are changed, more are made, the rest goes.
    pub(super) fn write(&self, state: &mut State, wanted: &[(Value, Vec<Value>)]) -> Answer<()> {
        let key = self.key;
        let slices = managed(state, key, self.manager);
        for (n, (ports, endpoints)) in wanted.iter().enumerate() {
            let mut value = slices.get(n).map_or_else(|| json!({"metadata": {}}), |slice| slice.value.clone());
            value["addressType"] = Value::from("IPv4");
            value["endpoints"] = Value::Array(endpoints.clone());
            value["ports"] = ports.clone();
            for (name, content) in &self.labels {
                set_label(&mut value, name, content);
            }
            set_label(&mut value, SERVICE, &key.1);
            set_label(&mut value, MANAGED, self.manager);
            match slices.get(n) {
                Some(slice) => {
                    let same = |field: &str| {
                        let bare = |value: &Value| value.get(field).filter(|v| !v.is_null()).cloned().unwrap_or_else(|| json!([]));
                        bare(&slice.value) == bare(&value)
                    };
                    let labels = slice.value.pointer("/metadata/labels") == value.pointer("/metadata/labels");
                    if !(same("endpoints") && same("ports") && labels) {
                        let at = At::new("discovery.k8s.io", "endpointslices", &key.0, text(&slice.value, "/metadata/name"));
                        state.change(self.by, at, "", value)?;
                    }
                }
                None => {
                    let metadata = meta(&mut value);
                    metadata.insert("generateName".to_owned(), Value::from(format!("{}-", key.1)));
                    metadata.insert("namespace".to_owned(), Value::from(key.0.as_str()));
                    metadata.insert("ownerReferences".to_owned(), self.owner.iter().cloned().collect());
                    state.make(self.by, At::new("discovery.k8s.io", "endpointslices", &key.0, ""), value)?;
                }
            }
        }
        for surplus in slices.iter().skip(wanted.len()) {
            let at = At::new("discovery.k8s.io", "endpointslices", &key.0, text(&surplus.value, "/metadata/name"));
            state.remove(self.by, at, &json!({}))?;
        }
        Ok(())
    }
}
