//! Claims of pods' own ephemeral volumes (`pkg/controller/volume/ephemeral`): made for the pod, owned by it, gone with it.

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    look::{self, controller_of, deleting, items, owner_reference},
};
use crate::sandbox::{
    core::{State, meta, text},
    store::Key,
};

const BY: By<'_> = controller!("ephemeral-volume-controller");

/// Whether a pod has such volumes.
pub(super) fn has_any(pod: &Value) -> bool {
    items(pod, "/spec/volumes").iter().any(|volume| volume.get("ephemeral").is_some())
}

/// Of one pod.
pub(super) fn reconcile(state: &mut State, key: &Key) -> Again {
    let Some(pod) = state.peek("", "pods", &key.0, &key.1).cloned() else { return Ok(None) };
    if deleting(&pod.value) || look::ended(&pod.value) {
        return Ok(None);
    }
    let uid = text(&pod.value, "/metadata/uid");
    for volume in items(&pod.value, "/spec/volumes") {
        let Some(template) = volume.pointer("/ephemeral/volumeClaimTemplate") else { continue };
        let name = format!("{}-{}", key.1, text(volume, "/name"));
        if let Some(found) = state.peek("", "persistentvolumeclaims", &key.0, &name).cloned() {
            if controller_of(&found.value).is_none_or(|(.., of)| of != uid) {
                let message = format!("PVC {}/{name} was not created for pod {}/{} (pod is not owner)", key.0, key.0, key.1);
                state.tell(BY, ("v1", "Pod", &pod.value), "Warning", "FailedBinding", &message);
            }
            continue;
        }
        let mut claim = json!({"metadata": {"name": name, "namespace": key.0}, "spec": template["spec"]});
        for field in ["labels", "annotations"] {
            if let Some(found) = template.pointer(&format!("/metadata/{field}")) {
                meta(&mut claim).insert(field.to_owned(), found.clone());
            }
        }
        meta(&mut claim).insert("ownerReferences".to_owned(), json!([owner_reference("v1", "Pod", &pod.value)]));
        state.make(BY, At::new("", "persistentvolumeclaims", &key.0, ""), claim)?;
    }
    Ok(None)
}
