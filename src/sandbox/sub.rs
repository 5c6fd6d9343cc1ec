//! Subresources with an answer of their own: `scale`, `eviction`, `binding`, `ephemeralcontainers`, `finalize`.

use std::sync::Arc;

use kube::core::SelectorExt as _;
use serde_json::{Value, json};

use super::{
    core::{State, as_map, key, map_at, meta, pairs, strings, text},
    decode,
    delete::Options,
    kinds::Kind,
    patch,
    refusal::{Answer, FieldError, Refusal, success},
    request::{Ask, Place},
    store::{Key, Stored},
    strategy, validate,
    write::{Done, Said, writer},
};

impl State {
    /// `…/scale` of a workload, as `autoscaling/v1` Scale.
    ///
    /// # Errors
    /// 404, 409, 422; 405 for other verbs than get, update and patch.
    pub(super) fn scale(&mut self, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<Done> {
        let old = self.found(kind, place)?;
        let scale = scale_of(kind, &old.value);
        let new = match ask.verb {
            "get" => return Ok((200, Said::Raw(scale))),
            "update" => decode::body(ask)?,
            "patch" => {
                let format = patch::format(ask, kind)?;
                if format == patch::Format::Apply {
                    return Err(Refusal::new(415, "UnsupportedMediaType", "the sandbox does not apply a Scale: use a patch"));
                }
                patch::patched(kind, &scale, &patch::body(ask, format)?, format)?
            }
            _ => return Err(Refusal::method_not_allowed()),
        };
        let replicas = match new.pointer("/spec/replicas") {
            None | Some(Value::Null) => 0,
            Some(Value::Number(n)) if n.is_i64() => n.as_i64().unwrap_or(0),
            Some(other) => {
                let why = format!("json: cannot unmarshal {other} into Go struct field ScaleSpec.spec.replicas of type int32");
                // A patch is told what it would have made.
                return Err(if ask.verb == "patch" {
                    patch::unfit(&new.to_string(), &why)
                } else {
                    Refusal::bad_request(format!("Scale in version \"v1\" cannot be handled as a Scale: {why}"))
                });
            }
        };
        if replicas < 0 {
            let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
            return Err(Refusal::invalid_as("autoscaling", "Scale", &place.name, &[error]));
        }
        let uid = text(&new, "/metadata/uid");
        if !uid.is_empty() && uid != text(&old.value, "/metadata/uid") {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", text(&old.value, "/metadata/uid"));
            return Err(Refusal::conflict(kind, &place.name, &why));
        }
        let version = text(&new, "/metadata/resourceVersion");
        if !version.is_empty() && version != old.version.to_string() {
            return Err(Refusal::stale(kind, &place.name));
        }
        let mut value = old.value.clone();
        set(&mut value, &kind.scale_paths[0], Value::from(replicas));
        let place_of_object = Place { subresource: String::new(), ..place.clone() };
        let stored = self.update_value(ask, kind, &place_of_object, &old, value, &writer(ask, place, false), ask.dry_run()?)?;
        Ok((200, Said::Raw(scale_of(kind, &stored.value))))
    }

    /// `…/eviction`: a deletion that the pod's disruption budget has to allow (`pkg/registry/core/pod/storage/eviction.go`).
    ///
    /// # Errors
    /// 404; 429: the budget does not allow it; 500: more than one budget.
    pub(super) fn evict(&mut self, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<Done> {
        let body = decode::body(ask)?;
        let named = text(&body, "/metadata/name");
        if !named.is_empty() && named != place.name {
            return Err(Refusal::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut options = Options::from_value(body.get("deleteOptions").unwrap_or(&Value::Null))?;
        options.dry |= ask.dry_run()?;
        let pod = self.found(kind, place)?;
        let done = (201, Said::Raw(success(None, Some(201))));
        let phase = text(&pod.value, "/status/phase");
        let deleting = pod.value.pointer("/metadata/deletionTimestamp").is_some();
        if matches!(phase, "Succeeded" | "Failed" | "Pending") || deleting {
            self.delete_key(kind, &key(kind, place), &options)?;
            return Ok(done);
        }
        let budgets = self.budgets(&place.namespace, &pod.value);
        match budgets.as_slice() {
            [] => {}
            [budget] => self.charge(budget, &pod.value, options.dry)?,
            _ => {
                let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Refusal::new(500, "", why));
            }
        }
        if !options.dry {
            let marked = self.mark_evicted(kind, place, &pod);
            options.follow(pod.version, marked.version);
        }
        self.delete_key(kind, &key(kind, place), &options)?;
        Ok(done)
    }

    /// The condition that tells an eviction from other deletions (KEP-3329).
    fn mark_evicted(&mut self, kind: &Kind, place: &Place, pod: &Stored) -> Arc<Stored> {
        let mut value = pod.value.clone();
        let now = self.now();
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            "lastProbeTime": null, "lastTransitionTime": now,
        });
        let conditions = map_at(as_map(&mut value), "status").entry("conditions").or_insert_with(|| json!([]));
        if let Value::Array(conditions) = conditions {
            conditions.retain(|c| text(c, "/type") != "DisruptionTarget");
            conditions.push(condition);
        }
        self.commit(kind, &key(kind, place), value, false)
    }

    fn budgets(&self, namespace: &str, pod: &Value) -> Vec<Arc<Stored>> {
        let labels = pairs(pod, "/metadata/labels").into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let matches = |budget: &Value| {
            let selector = budget.pointer("/spec/selector").cloned();
            let selector =
                selector.and_then(|s| serde_json::from_value::<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>(s).ok());
            selector.and_then(|s| kube::core::Selector::try_from(s).ok()).is_some_and(|s| s.matches(&labels))
        };
        let budgets = self.store.list("policy/poddisruptionbudgets", namespace);
        budgets.filter(|(_, budget)| matches(&budget.value)).map(|(_, budget)| Arc::clone(budget)).collect()
    }

    /// Takes one disruption from a budget.
    fn charge(&mut self, budget: &Arc<Stored>, pod: &Value, dry: bool) -> Answer<()> {
        const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
        let refuse = || Refusal::new(429, "TooManyRequests", REFUSED);
        let number = |pointer: &str| budget.value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let name = text(&budget.value, "/metadata/name");
        let (healthy, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        let ready = conditions.is_some_and(|all| all.iter().any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True"));
        let always = text(&budget.value, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow";
        if !ready && (always || healthy >= desired && desired > 0) {
            return Ok(());
        }
        if number("/status/observedGeneration") < number("/metadata/generation") {
            let why = format!("The disruption budget {name} is still being processed by the server.");
            return Err(refuse().retry_after(10).cause("DisruptionBudget", &why, ""));
        }
        let allowed = number("/status/disruptionsAllowed");
        if allowed < 0 {
            return Err(Refusal::forbidden("policy", "poddisruptionbudget", name, "pdb disruptions allowed is negative"));
        }
        if allowed == 0 {
            let why = format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
            return Err(refuse().cause("DisruptionBudget", &why, ""));
        }
        if dry {
            return Ok(());
        }
        let mut value = budget.value.clone();
        let now = self.now();
        let status = map_at(as_map(&mut value), "status");
        status.insert("disruptionsAllowed".to_owned(), Value::from(allowed - 1));
        map_at(status, "disruptedPods").insert(text(pod, "/metadata/name").to_owned(), Value::from(now));
        let key = Key(text(&budget.value, "/metadata/namespace").to_owned(), name.to_owned());
        self.store.put("policy/poddisruptionbudgets", &key, value);
        Ok(())
    }

    /// `…/binding`: a pod gets its node.
    ///
    /// # Errors
    /// 404; 409: it has one.
    pub(super) fn bind(&mut self, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<Done> {
        let body = decode::body(ask)?;
        let dry = ask.dry_run()?;
        let (node, target) = (text(&body, "/target/name"), text(&body, "/target/kind"));
        let mut errors = Vec::new();
        if !matches!(target, "" | "Node") {
            errors.push(FieldError::not_supported("target.kind", target, &["Node", "<empty>"]));
        }
        if node.is_empty() {
            errors.push(FieldError::required("target.name", ""));
        }
        if !errors.is_empty() {
            return Err(Refusal::invalid_as("", "Binding", &place.name, &errors));
        }
        let old = self.found(kind, place)?;
        let refuse = |why: String| {
            let message = format!("Operation cannot be fulfilled on pods/binding \"{}\": {why}", place.name);
            Refusal::new(409, "Conflict", message).with_details(super::refusal::details("", "pods/binding", &place.name))
        };
        if old.value.pointer("/metadata/deletionTimestamp").is_some() {
            return Err(refuse(format!("pod {} is being deleted, cannot be assigned to a host", place.name)));
        }
        let has = text(&old.value, "/spec/nodeName");
        if !has.is_empty() {
            return Err(refuse(format!("pod {} is already assigned to node \"{has}\"", place.name)));
        }
        let mut value = old.value.clone();
        let now = self.now();
        map_at(as_map(&mut value), "spec").insert("nodeName".to_owned(), Value::from(node));
        let status = map_at(as_map(&mut value), "status");
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if let Value::Array(conditions) = conditions {
            conditions.retain(|c| text(c, "/type") != "PodScheduled");
            conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}));
        }
        for (name, annotation) in pairs(&body, "/metadata/annotations") {
            map_at(meta(&mut value), "annotations").insert(name.to_owned(), Value::from(annotation));
        }
        strategy::bump_generation(kind, &old.value, &mut value);
        self.commit(kind, &key(kind, place), value, dry);
        Ok((201, Said::Raw(success(None, Some(201)))))
    }

    /// `…/ephemeralcontainers`: containers can be added to a pod, and never be changed or taken away.
    ///
    /// # Errors
    /// 404, 409, 422.
    pub(super) fn ephemeral(&mut self, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<Done> {
        let old = self.found(kind, place)?;
        let dry = ask.dry_run()?;
        let new = match ask.verb {
            "get" => return Ok((200, Said::Object(old))),
            "update" => decode::object(ask, kind, &mut self.warnings)?,
            "patch" => {
                let format = patch::format(ask, kind)?;
                let whole = decode::with_kind(kind, old.value.clone());
                let value = patch::patched(kind, &whole, &patch::body(ask, format)?, format)?;
                decode::typed(kind, value, None).map_err(|misfit| patch::unfit("", &misfit.strict()))?
            }
            _ => return Err(Refusal::method_not_allowed()),
        };
        let version = text(&new, "/metadata/resourceVersion");
        if !version.is_empty() && version != old.version.to_string() {
            return Err(Refusal::stale(kind, &place.name));
        }
        let mut value = old.value.clone();
        let containers = new.pointer("/spec/ephemeralContainers").cloned().unwrap_or_else(|| json!([]));
        let spec = map_at(as_map(&mut value), "spec");
        if containers.as_array().is_none_or(Vec::is_empty) {
            spec.shift_remove("ephemeralContainers");
        } else {
            spec.insert("ephemeralContainers".to_owned(), containers);
        }
        super::defaults::apply(kind, &mut value);
        let errors = validate::ephemeral(&old.value, &value);
        if !errors.is_empty() {
            return Err(Refusal::invalid(kind, &place.name, &errors));
        }
        self.admit_secure(kind, "ephemeralcontainers", Some(&old.value), &value)?;
        if value == old.value {
            return Ok((200, Said::Object(old)));
        }
        let now = self.now();
        super::managed::updated(kind, &old.value, &mut value, &writer(ask, place, false), &now);
        strategy::bump_generation(kind, &old.value, &mut value);
        Ok((200, Said::Object(self.commit(kind, &key(kind, place), value, dry))))
    }

    /// `…/finalize` of a namespace: how its controller takes the finalizer away.
    ///
    /// # Errors
    /// 404, 409.
    pub(super) fn finalize(&mut self, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<Done> {
        let new = decode::object(ask, kind, &mut self.warnings)?;
        let old = self.found(kind, place)?;
        let version = text(&new, "/metadata/resourceVersion");
        if !version.is_empty() && version != old.version.to_string() {
            return Err(Refusal::stale(kind, &place.name));
        }
        let mut value = old.value.clone();
        let finalizers = strings(&new, "/spec/finalizers");
        let spec = map_at(as_map(&mut value), "spec");
        if finalizers.is_empty() {
            spec.shift_remove("finalizers");
        } else {
            spec.insert("finalizers".to_owned(), json!(finalizers));
        }
        let dry = ask.dry_run()?;
        let key = key(kind, place);
        if strategy::ends_with_update(kind, &old.value, &value) && !dry {
            let gone = self.erase(kind, &key, Some(value)).unwrap_or(old);
            return Ok((200, Said::Object(gone)));
        }
        if value == old.value {
            return Ok((200, Said::Object(old)));
        }
        Ok((200, Said::Object(self.commit(kind, &key, value, dry))))
    }
}

/// Sets what is at a JSON pointer of fields; maps on the way are made.
fn set(value: &mut Value, pointer: &str, new: Value) {
    let mut at = value;
    for name in pointer.split('/').filter(|name| !name.is_empty()) {
        at = as_map(at).entry(name).or_insert(Value::Null);
    }
    *at = new;
}

/// A workload as Scale.
fn scale_of(kind: &Kind, value: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(found) = value["metadata"].get(field) {
            metadata[field] = found.clone();
        }
    }
    let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {},
        "status": {"replicas": number(&kind.scale_paths[1])},
    });
    let wanted = number(&kind.scale_paths[0]);
    if wanted != 0 {
        scale["spec"]["replicas"] = Value::from(wanted);
    }
    let selector = match kind.scale_paths[2].as_str() {
        "" if kind.custom() => String::new(),
        "" => selector_text(value.pointer("/spec/selector").unwrap_or(&Value::Null)),
        path => text(value, path).to_owned(),
    };
    if !selector.is_empty() {
        scale["status"]["selector"] = Value::from(selector);
    }
    scale
}

/// A label selector in kubectl's syntax, in order of keys.
fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> =
        pairs(selector, "/matchLabels").into_iter().map(|(key, value)| (key.to_owned(), format!("{key}={value}"))).collect();
    for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let (key, mut values) = (text(expression, "/key").to_owned(), strings(expression, "/values"));
        values.sort_unstable();
        let text = match text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        };
        parts.push((key, text));
    }
    parts.sort();
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}
