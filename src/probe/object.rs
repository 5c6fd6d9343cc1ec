//! `object`: a CEL expression over any Kubernetes object. Read at every tick and whenever a watch sees a change, as
//! [`super::pods`] does and for the same reason.

use std::sync::Arc;

use cel::{Context, Program, Value};
use futures::FutureExt as _;
use kube::{
    Api,
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
    let program = Arc::new(compile(&probe.cel)?);
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
        let (reads, name, program, watch) = (reads.clone(), name.clone(), program.clone(), watch.clone());
        async move {
            let outcome = match reads.get_opt(&name).await {
                Ok(Some(object)) => judge(&program, &object),
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
}
