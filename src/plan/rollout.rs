//! What a rollout of a workload takes away, and when there would be none: as planning and the fault look at it.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::PodSpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

/// A workload that changes pod by pod when its template changes.
pub trait Rolls {
    /// The replicas wanted.
    fn replicas(&self) -> i32;
    /// The pod of its template.
    fn pod(&self) -> Option<&PodSpec>;
    /// Why a change of its template would change no pod, if so.
    fn unfit(&self) -> Option<String>;
    /// How many of its pods a rollout that never gets ready takes away.
    fn takes(&self) -> u32;
    /// Pods in all, pods of the newest template, and whether the controller has seen the newest spec.
    fn rolled(&self) -> (i32, i32, bool);
    /// How many pods are ready.
    fn ready(&self) -> i32;
}

/// The containers of a workload's pods, by name.
pub fn containers(workload: &impl Rolls) -> Vec<String> {
    workload.pod().iter().flat_map(|pod| &pod.containers).map(|container| container.name.clone()).collect()
}

/// Whether all its pods are of the newest template; else how far it is.
pub fn settled(workload: &impl Rolls) -> Result<(), String> {
    let (all, updated, seen) = workload.rolled();
    let wanted = workload.replicas();
    match (seen, all == wanted && updated == wanted) {
        (false, _) => Err("its controller has not seen the newest spec".to_owned()),
        (true, false) => Err(format!("{updated} of {wanted} pods are of the newest template, {all} in all")),
        (true, true) => Ok(()),
    }
}

/// Why it cannot be said which container's image is meant, if so.
pub fn which(has: &[String], chosen: &[String]) -> Option<String> {
    let all = has.join(", ");
    if let Some(missing) = chosen.iter().find(|c| !has.contains(c)) {
        return Some(format!("it has no container `{missing}`; it has {all}"));
    }
    (chosen.is_empty() && has.len() > 1)
        .then(|| format!("it has containers {all}: say which, with the target's `containers: [{}]`", has[0]))
}

fn none_wanted(replicas: i32) -> Option<String> {
    (replicas <= 0).then(|| "it has 0 replicas: nothing would change".to_owned())
}

impl Rolls for Deployment {
    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn pod(&self) -> Option<&PodSpec> {
        self.spec.as_ref()?.template.spec.as_ref()
    }

    fn unfit(&self) -> Option<String> {
        let paused = self.spec.as_ref().is_some_and(|s| s.paused == Some(true));
        none_wanted(self.replicas()).or_else(|| paused.then(|| "its rollouts are paused: nothing would change".to_owned()))
    }

    fn takes(&self) -> u32 {
        let replicas = u32::try_from(self.replicas()).unwrap_or(0);
        let strategy = self.spec.as_ref().and_then(|s| s.strategy.as_ref());
        if strategy.is_some_and(|s| s.type_.as_deref() == Some("Recreate")) {
            return replicas;
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        // Of percents, what may be missing is rounded down and what may be too many is rounded up. Both 0 cannot be: then it is one.
        let missing = of(rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter), replicas, false);
        let more = of(rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter), replicas, true);
        if missing == 0 && more == 0 { replicas.min(1) } else { missing.min(replicas) }
    }

    fn rolled(&self) -> (i32, i32, bool) {
        let Some(status) = &self.status else { return (0, 0, false) };
        let seen = status.observed_generation >= self.metadata.generation;
        (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0), seen)
    }

    fn ready(&self) -> i32 {
        self.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
    }
}

impl Rolls for StatefulSet {
    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn pod(&self) -> Option<&PodSpec> {
        self.spec.as_ref()?.template.spec.as_ref()
    }

    fn unfit(&self) -> Option<String> {
        let strategy = self.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        let on_delete = strategy.is_some_and(|s| s.type_.as_deref() == Some("OnDelete"));
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition).unwrap_or(0);
        none_wanted(self.replicas())
            .or_else(|| on_delete.then(|| "its update strategy is OnDelete: nothing would change".to_owned()))
            // A part of it would keep the old template, and "all of the newest template" would be true of none.
            .or_else(|| {
                (partition > 0).then(|| format!("its rollouts stop at partition {partition}: what is rolled back would stay in parts"))
            })
    }

    fn takes(&self) -> u32 {
        let strategy = self.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        let most = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref());
        let replicas = u32::try_from(self.replicas()).unwrap_or(0);
        most.map_or(1, |most| of(most, replicas, true)).max(1).min(replicas)
    }

    fn rolled(&self) -> (i32, i32, bool) {
        let Some(status) = &self.status else { return (0, 0, false) };
        (status.replicas, status.updated_replicas.unwrap_or(0), status.observed_generation >= self.metadata.generation)
    }

    fn ready(&self) -> i32 {
        self.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
    }
}

/// A number, or a share of all.
fn of(value: &IntOrString, all: u32, up: bool) -> u32 {
    match value {
        IntOrString::Int(n) => u32::try_from(*n).unwrap_or(0),
        IntOrString::String(text) => {
            let percent: u32 = text.strip_suffix('%').and_then(|n| n.parse().ok()).unwrap_or(0);
            let parts = all.saturating_mul(percent);
            if up { parts.div_ceil(100) } else { parts / 100 }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(replicas: i32, strategy: Value) -> Deployment {
        let spec = json!({"replicas": replicas, "selector": {}, "template": {}, "strategy": strategy});
        serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_rollout_takes_away_what_its_strategy_lets_it() {
        let rolling =
            |missing: Value, more: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": missing, "maxSurge": more}});
        for (replicas, strategy, takes) in [
            (3, json!({"type": "RollingUpdate"}), 0),
            (4, json!({"type": "RollingUpdate"}), 1),
            (4, json!({"type": "Recreate"}), 4),
            (10, rolling(json!(20), json!(0)), 10),
            (10, rolling(json!("35%"), json!(0)), 3),
            (2, rolling(json!("25%"), json!(0)), 1),
        ] {
            assert_eq!(deployment(replicas, strategy.clone()).takes(), takes, "{replicas} {strategy}");
        }
    }

    #[test]
    fn what_would_not_roll_is_unfit() {
        assert!(deployment(0, json!({})).unfit().unwrap().contains("0 replicas"));
        assert_eq!(deployment(1, json!({})).unfit(), None);
        let set = |strategy: Value| -> StatefulSet {
            serde_json::from_value(json!({"metadata": {}, "spec": {"selector": {}, "template": {}, "updateStrategy": strategy}})).unwrap()
        };
        assert!(set(json!({"type": "OnDelete"})).unfit().unwrap().contains("OnDelete"));
        assert!(set(json!({"rollingUpdate": {"partition": 1}})).unfit().unwrap().contains("partition 1"));
        assert_eq!((set(json!({})).unfit(), set(json!({})).takes()), (None, 1));
    }

    #[test]
    fn which_container_is_meant_must_be_clear() {
        let has: Vec<String> = ["main".to_owned(), "sidecar".to_owned()].into();
        assert!(which(&has, &[]).unwrap().contains("say which"));
        assert!(which(&has, &["other".to_owned()]).unwrap().contains("no container `other`; it has main, sidecar"));
        assert_eq!(which(&has, &["sidecar".to_owned()]), None);
        assert_eq!(which(&has[..1], &[]), None);
    }
}
