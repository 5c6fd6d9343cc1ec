//! `object`: a CEL expression over any Kubernetes object. Read at every tick and whenever a watch sees a change, as
//! [`super::pods`] does and for the same reason.

use std::sync::{Arc, Mutex, PoisonError};

use cel::{Context, Program, Value};
use futures::FutureExt as _;
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, GroupVersionKind},
    discovery::{self, Scope},
    runtime::watcher,
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{ProbeCx, pods::follow, sample::Outcome, sampler::Take};
use crate::{
    cluster::{CALL_LIMIT, WATCH_SECS, limit, why},
    scenario::types::ObjectProbe,
};

/// The samples of an `object` probe.
pub(super) async fn take(cx: &ProbeCx, probe: &ObjectProbe) -> Result<(Take, Option<mpsc::Receiver<()>>), String> {
    let judge = Arc::new(Judge::new(compile(&probe.cel)?, &probe.cel));
    let (group, version) = probe.api_version.split_once('/').unwrap_or(("", &probe.api_version));
    let gvk = GroupVersionKind::gvk(group, version, &probe.kind);
    let what = format!("find kind {} of {}", probe.kind, probe.api_version);
    let found = limit(discovery::pinned_kind(&cx.cluster.client, &gvk), CALL_LIMIT, what).await;
    let (resource, capabilities) = found.map_err(|error| error.to_string())?;
    let api = |client: &kube::Client| match (&capabilities.scope, &probe.namespace) {
        (Scope::Cluster, _) => Ok(Api::<DynamicObject>::all_with(client.clone(), &resource)),
        (Scope::Namespaced, Some(namespace)) => Ok(Api::namespaced_with(client.clone(), namespace, &resource)),
        (Scope::Namespaced, None) => Err(format!("a {} has a namespace: say which", probe.kind)),
    };
    let (reads, watches) = (api(&cx.cluster.client)?, api(&cx.cluster.streams)?);
    let (nudge, nudges) = mpsc::channel(1);
    let config = watcher::Config::default().timeout(WATCH_SECS).fields(&format!("metadata.name={}", probe.name));
    let events = watcher::watcher(watches, config);
    let watch = Arc::new(AbortOnDropHandle::new(tokio::spawn(crate::gate::own(follow(events, nudge)))));
    let name = probe.name.clone();
    let take: Take = Box::new(move || {
        let (reads, name, judge, watch) = (reads.clone(), name.clone(), judge.clone(), watch.clone());
        async move {
            let outcome = match reads.get_opt(&name).await {
                Ok(Some(object)) => judge.of(object),
                Ok(None) => Outcome::bad("does not exist"),
                Err(error) => Outcome::unknown(format!("failed to read it: {}", why(&error))),
            };
            drop(watch);
            outcome
        }
        .boxed()
    });
    Ok((take, Some(nudges)))
}

fn compile(expression: &str) -> Result<Program, String> {
    Program::compile(expression).map_err(|error| format!("`{expression}` is not CEL: {error}"))
}

/// What an expression says of an object: good if it is true.
pub(crate) fn cel(expression: &str, object: &impl serde::Serialize) -> Outcome {
    match compile(expression) {
        Ok(program) => judge(&program, object),
        Err(why) => Outcome::unknown(why),
    }
}

/// An expression, and what it gave last: the same version of an object gives the same, and most looks find the version they found before.
struct Judge {
    program: Program,
    /// It asks for who manages which field: more than half of many an object, and otherwise left out.
    managed: bool,
    last: Mutex<Option<(String, Outcome)>>,
}

impl Judge {
    fn new(program: Program, text: &str) -> Self {
        Self { program, managed: text.contains("managedFields"), last: Mutex::default() }
    }

    fn of(&self, mut object: DynamicObject) -> Outcome {
        let version = object.uid().zip(object.resource_version()).map(|(uid, version)| format!("{uid}/{version}"));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(version), Some((seen, outcome))) = (&version, &*last)
            && version == seen
        {
            return outcome.clone();
        }
        if !self.managed {
            object.metadata.managed_fields = None;
        }
        let outcome = judge(&self.program, &object);
        *last = version.map(|version| (version, outcome.clone()));
        outcome
    }
}

fn judge(program: &Program, object: &impl serde::Serialize) -> Outcome {
    let mut context = Context::default();
    if let Err(error) = context.add_variable("object", object) {
        return Outcome::unknown(format!("the object cannot be given to CEL: {error}"));
    }
    match program.execute(&context) {
        Ok(Value::Bool(true)) => Outcome::good("true"),
        Ok(Value::Bool(false)) => Outcome::bad("false"),
        Ok(other) => Outcome::unknown(format!("the expression gives {other:?}, not true or false")),
        // A field that is not there yet (a status nobody has written) is not as it should be.
        Err(error) => Outcome::bad(format!("{error}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scenario::types::ProbeState;

    #[test]
    fn an_expression_decides_and_a_missing_field_is_bad() {
        let object = json!({"status": {"ready": 2, "conditions": [{"type": "Available", "status": "True"}]}});
        let state = |cel: &str| judge(&compile(cel).unwrap(), &object).state;
        assert_eq!(state("object.status.ready >= 2"), ProbeState::Good);
        assert_eq!(state("object.status.ready >= 3"), ProbeState::Bad);
        assert_eq!(state("object.status.conditions.exists(c, c.type == 'Available' && c.status == 'True')"), ProbeState::Good);
        assert_eq!(state("object.status.missing == 1"), ProbeState::Bad);
        assert_eq!(state("object.status.ready"), ProbeState::Unknown);
        assert!(compile("object.status ==").is_err());
    }

    #[test]
    fn a_version_that_was_judged_is_not_judged_again_and_another_one_is() {
        let object = |uid: &str, version: &str, ready: u32| -> DynamicObject {
            let metadata = json!({"name": "web", "uid": uid, "resourceVersion": version, "managedFields": [{"manager": "kubectl"}]});
            serde_json::from_value(json!({"metadata": metadata, "status": {"ready": ready}})).unwrap()
        };
        let of = |cel: &str| Judge::new(compile(cel).unwrap(), cel);
        let judge = of("object.status.ready >= 2");
        assert_eq!(judge.of(object("a", "1", 2)).state, ProbeState::Good);
        // The same version says the same, which is how it is seen here that it was not judged again.
        assert_eq!(judge.of(object("a", "1", 1)).state, ProbeState::Good);
        assert_eq!(judge.of(object("a", "2", 1)).state, ProbeState::Bad);
        assert_eq!(judge.of(object("b", "2", 2)).state, ProbeState::Good, "made anew");
        let unversioned = of("object.status.ready >= 2");
        assert_eq!(
            unversioned.of(serde_json::from_value(json!({"metadata": {}, "status": {"ready": 2}})).unwrap()).state,
            ProbeState::Good
        );
        assert_eq!(unversioned.of(serde_json::from_value(json!({"metadata": {}, "status": {"ready": 1}})).unwrap()).state, ProbeState::Bad);
        assert_eq!(of("object.metadata.managedFields[0].manager == 'kubectl'").of(object("a", "1", 2)).state, ProbeState::Good);
        assert_eq!(of("size(object.metadata) == 3").of(object("a", "1", 2)).state, ProbeState::Good, "name, uid and version");
    }
}
