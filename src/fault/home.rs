//! Where the helper of a pod is: on its node, or within the pod itself.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;

use super::{FaultCx, PodOnNode};
use crate::{
    agent::inside::{self, Work},
    plan::kinds,
    scenario::types::{FaultSpec, Placement},
};

/// The place of a helper.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Home {
    /// A node.
    Node(String),
    /// A pod, as an ephemeral container.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// What for.
        work: Work,
        /// The one container that is meant, if it is one.
        container: Option<String>,
    },
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "on {node}"),
            Self::Pod { namespace, name, .. } => write!(f, "in pod {namespace}/{name}"),
        }
    }
}

impl Home {
    /// Where the helper of a pod is for some work.
    pub(super) fn of(pod: &PodOnNode, work: Work) -> Self {
        match pod.placement {
            Placement::Node => Self::Node(pod.node.clone()),
            Placement::Pod => Self::Pod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                work,
                container: if let [one] = pod.containers.as_slice() { Some(one.clone()) } else { None },
            },
        }
    }

    /// A node's helper.
    pub(super) fn node(node: &str) -> Self {
        Self::Node(node.to_owned())
    }
}

/// Where a fault's helpers are.
pub(super) fn placement(cx: &FaultCx, spec: &FaultSpec) -> Placement {
    kinds::placement(spec, &cx.plan.place.firedrill)
}

/// What is to be done to processes from within their pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    /// Every process of the containers is stopped or killed.
    All,
    /// One gets a signal.
    One,
}

/// The containers whose processes are meant from within a pod, or why that cannot be had in this one.
pub(super) fn reach(pod: &Pod, chosen: &[String], on: On) -> Result<Vec<String>, String> {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_pid == Some(true)) {
        return Err("it sees its node's processes (`hostPID`), and an agent in it would, too: use `placement: node`".to_owned());
    }
    if inside::shares_processes(pod) {
        return Ok(chosen.to_vec());
    }
    if on == On::All {
        return Err(kinds::NOT_SHARED.to_owned());
    }
    let all = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    match (chosen, all) {
        ([one], _) => Ok(vec![one.clone()]),
        ([], [one]) => Ok(vec![one.name.clone()]),
        _ => Err("it has several containers that do not see each other's processes, and an agent sees those of one: name it in the target's `containers`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap()
    }

    #[test]
    fn what_can_be_reached_within_a_pod() {
        let (one, two) = (json!([{"name": "a"}]), json!([{"name": "a"}, {"name": "b"}]));
        let shared = pod(json!({"containers": two, "shareProcessNamespace": true}));
        assert_eq!(reach(&shared, &[], On::All), Ok(Vec::new()));
        assert_eq!(reach(&shared, &["b".to_owned()], On::All), Ok(vec!["b".to_owned()]));
        let (single, several) = (pod(json!({"containers": one})), pod(json!({"containers": two})));
        assert_eq!(reach(&single, &[], On::One), Ok(vec!["a".to_owned()]));
        assert_eq!(reach(&several, &["b".to_owned()], On::One), Ok(vec!["b".to_owned()]));
        for (pod, on, why) in [
            (&single, On::All, "shareProcessNamespace"),
            (&several, On::One, "`containers`"),
            (&pod(json!({"containers": one, "hostPID": true})), On::One, "hostPID"),
        ] {
            let error = reach(pod, &[], on).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
