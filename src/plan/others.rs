//! Experiments of other chaos tools (Chaos Mesh, Litmus) that are live where a drill acts. Two tools at once measure each other, and
//! neither's undo knows of the other's change, so a drill is refused while one is: when the plan is made, and again at each inject.
//!
//! An experiment acts where it lies and where its selectors say, which may be another namespace. A drill that breaks nodes meets
//! whatever runs on them, so that any experiment is in its scope.

use std::collections::BTreeSet;

use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::Value;

use super::{guard::Findings, types::Permission, types::Scope};
use crate::{
    cluster::{Cluster, ClusterError, Fresh, named},
    labels,
};

/// On an object of Chaos Mesh: it is not to act.
const PAUSE: &str = "experiment.chaos-mesh.org/pause";
/// On what a Workflow of Chaos Mesh makes: the Workflow's name.
const WORKFLOW: &str = "chaos-mesh.org/workflow";
/// What Chaos Mesh's own daemons keep for each pod; they are no experiments.
const PER_POD: [&str; 3] = ["PodHttpChaos", "PodIOChaos", "PodNetworkChaos"];
/// Actions that happen once and have nothing to recover. Their objects stay as they were injected.
const ONCE: [&str; 6] = ["pod-kill", "container-kill", "ec2-restart", "node-reset", "vm-restart", "host-stop"];
/// Fields deeper than this are not looked at.
const DEEPEST: usize = 32;

/// Another tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `chaos-mesh.org`.
    ChaosMesh,
    /// `litmuschaos.io`.
    Litmus,
}

impl Tool {
    const ALL: [Self; 2] = [Self::ChaosMesh, Self::Litmus];

    /// Its API group.
    pub const fn group(self) -> &'static str {
        match self {
            Self::ChaosMesh => "chaos-mesh.org",
            Self::Litmus => "litmuschaos.io",
        }
    }

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChaosMesh => "Chaos Mesh",
            Self::Litmus => "Litmus",
        }
    }

    /// Whether objects of a kind of its group break something, or have others made that do.
    fn experiments(self, kind: &str) -> bool {
        match self {
            Self::ChaosMesh => kind.ends_with("Chaos") && !PER_POD.contains(&kind) || matches!(kind, "Workflow" | "Schedule"),
            Self::Litmus => matches!(kind, "ChaosEngine" | "ChaosSchedule"),
        }
    }
}

/// How far an experiment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It acts, or may at any instant.
    Live,
    /// It acts by itself at times of its own.
    Scheduled,
    /// It is paused, or has done what it was for and recovered.
    AtRest,
}

/// What was seen of the other tools in a cluster.
#[derive(Debug, Clone, Default)]
pub struct Others {
    /// The kinds of experiments that the cluster knows: group and resource.
    pub kinds: Vec<(String, String)>,
    /// Those that are not at rest.
    pub experiments: Vec<Experiment>,
    /// What could not be looked at for want of permission, a sentence each.
    pub unseen: Vec<String>,
}

/// An experiment that is not at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experiment {
    /// Whose.
    pub tool: Tool,
    /// Kind.
    pub kind: String,
    /// Resource.
    pub plural: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// uid.
    pub uid: String,
    /// The namespaces it acts on, its own among them.
    pub acts_on: BTreeSet<String>,
    /// How far it is; never at rest.
    pub phase: Phase,
    /// The drill whose fault made it, if one did.
    pub drill: Option<String>,
    /// uids of what it was made by.
    owners: BTreeSet<String>,
    /// The Workflow it was made by.
    workflow: Option<String>,
}

/// Asks a cluster for the experiments of other tools. One request where there is no such tool. Where they may not be listed in the whole
/// cluster, they are in these namespaces, and it is said that others were not seen.
///
/// # Errors
/// The first question that was not answered, but for want of permission.
pub async fn look(cluster: &Cluster, namespaces: &BTreeSet<String>, fresh: Fresh) -> Result<Others, ClusterError> {
    let mut others = Others::default();
    let groups = match cluster.call("ask the API server which groups of kinds it has", cluster.client.list_api_groups()).await {
        Ok(groups) => groups.groups,
        Err(error) if error.is_forbidden() => {
            others.unseen.push(format!("whether another tool's experiment is live is not known: {error}"));
            return Ok(others);
        }
        Err(error) => return Err(error),
    };
    for tool in Tool::ALL {
        let Some(group) = groups.iter().find(|group| group.name == tool.group()) else { continue };
        let Some(version) = group.preferred_version.as_ref().or(group.versions.first()) else { continue };
        let what = format!("ask the API server for the kinds of {}", version.group_version);
        let kinds = match cluster.call(what, cluster.client.list_api_group_resources(&version.group_version)).await {
            Ok(kinds) => kinds.resources,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        let kinds = kinds.into_iter().filter(|kind| kind.namespaced && !kind.name.contains('/') && tool.experiments(&kind.kind));
        let lists = kinds.map(|kind| {
            let resource =
                ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(tool.group(), &version.version, &kind.kind), &kind.name);
            async move { (list(cluster, tool, &resource, namespaces, fresh).await, resource.plural) }
        });
        for (listed, plural) in futures::future::join_all(lists).await {
            let (experiments, unseen) = listed?;
            others.kinds.push((tool.group().to_owned(), plural));
            others.experiments.extend(experiments);
            others.unseen.extend(unseen);
        }
    }
    others.experiments.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
    Ok(others)
}

/// Those of one kind, and what was not seen.
async fn list(
    cluster: &Cluster,
    tool: Tool,
    resource: &ApiResource,
    namespaces: &BTreeSet<String>,
    fresh: Fresh,
) -> Result<(Vec<Experiment>, Option<String>), ClusterError> {
    let of = async |api: Api<DynamicObject>, place: &str| {
        let what = format!("list {}.{} {place}", resource.plural, resource.group);
        match cluster.list_map(&api, None, &what, fresh, |object| Experiment::of(tool, resource, &object)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(Some(Vec::new())),
            Err(error) if error.is_forbidden() => Ok(None),
            Err(error) => Err(error),
        }
    };
    if let Some(found) = of(Api::all_with(cluster.client.clone(), resource), "in all namespaces").await? {
        return Ok((found, None));
    }
    let (mut all, mut blind) = (Vec::new(), Vec::new());
    for namespace in namespaces {
        match of(Api::namespaced_with(cluster.client.clone(), namespace, resource), &format!("in namespace {namespace}")).await? {
            Some(found) => all.extend(found),
            None => blind.push(namespace.as_str()),
        }
    }
    let (kind, name) = (format!("{}.{}", resource.plural, resource.group), tool.name());
    let unseen = if blind.is_empty() {
        format!("{kind} may be listed in the drill's namespaces only: one of {name} elsewhere that acts on them is not seen")
    } else {
        format!("{kind} may not be listed in {}: whether one of {name} is live there is not known", blind.join(", "))
    };
    Ok((all, Some(unseen + "; `firedrill plan --rbac` prints the permission")))
}

impl Experiment {
    /// From the API's object; none for one that is at rest.
    fn of(tool: Tool, resource: &ApiResource, object: &DynamicObject) -> Option<Self> {
        let phase = phase(tool, &resource.kind, object);
        if phase == Phase::AtRest {
            return None;
        }
        let namespace = object.namespace().unwrap_or_default();
        let mut acts_on = BTreeSet::from([namespace.clone()]);
        selected(&object.data["spec"], DEEPEST, &mut acts_on);
        Some(Self {
            tool,
            kind: resource.kind.clone(),
            plural: resource.plural.clone(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            namespace,
            acts_on,
            phase,
            drill: object.labels().get(labels::FAULT).cloned(),
            owners: object.owner_references().iter().map(|owner| owner.uid.clone()).collect(),
            workflow: object.labels().get(WORKFLOW).cloned(),
        })
    }

    fn called(&self) -> String {
        format!("{} of {}", named(&self.kind, &self.namespace, &self.name), self.tool.name())
    }

    /// How a person ends it.
    fn way_out(&self) -> String {
        let Self { plural, namespace, name, kind, .. } = self;
        if let Some(drill) = &self.drill {
            return format!("it is of drill {drill}: wait for its end, or `firedrill revert {drill}`");
        }
        let pause = match (self.tool, kind.as_str()) {
            // It cannot be paused: its parts can.
            (Tool::ChaosMesh, "Workflow") => {
                return format!("wait for its end, or `kubectl delete -n {namespace} {plural}.{} {name}`", self.tool.group());
            }
            (Tool::ChaosMesh, _) => format!("`kubectl annotate -n {namespace} {plural}.{} {name} {PAUSE}=true`", self.tool.group()),
            (Tool::Litmus, "ChaosSchedule") => {
                format!("`kubectl patch -n {namespace} chaosschedule {name} --type merge -p '{{\"spec\":{{\"scheduleState\":\"halt\"}}}}'`")
            }
            (Tool::Litmus, _) => {
                format!("`kubectl patch -n {namespace} chaosengine {name} --type merge -p '{{\"spec\":{{\"engineState\":\"stop\"}}}}'`")
            }
        };
        format!("wait for its end, or {pause}")
    }

    /// Why it is in scope, if it is.
    fn meets(&self, scope: &Scope) -> Option<String> {
        let of = |namespaces: &[String]| namespaces.iter().find(|n| self.acts_on.contains(*n)).cloned();
        match of(&scope.namespaces) {
            Some(namespace) if namespace == self.namespace => Some(String::new()),
            Some(namespace) => Some(format!(", and acts on namespace {namespace}")),
            None => (!scope.nodes.is_empty()).then(|| ", and the drill breaks nodes, which may run what it acts on".to_owned()),
        }
    }
}

impl Others {
    /// What they mean for a drill of this scope. Experiments that a `manifest` fault of the drill itself has made, and what came of
    /// those, are none of another's.
    pub fn findings(&self, scope: &Scope, drill: Option<&str>) -> Findings {
        let mut found = Findings { refusals: Vec::new(), warnings: self.unseen.clone() };
        let ours: Vec<&Experiment> = self.experiments.iter().filter(|e| drill.is_some() && e.drill.as_deref() == drill).collect();
        let of_ours = |e: &Experiment| {
            ours.iter().any(|our| {
                e.uid == our.uid
                    || e.owners.contains(&our.uid)
                    || our.kind == "Workflow" && e.namespace == our.namespace && e.workflow.as_ref() == Some(&our.name)
            })
        };
        for experiment in self.experiments.iter().filter(|e| !of_ours(e)) {
            let Some(why) = experiment.meets(scope) else { continue };
            let (called, out) = (experiment.called(), experiment.way_out());
            match experiment.phase {
                Phase::Live => found.refusals.push(format!("{called} is live{why}: two tools at once measure each other; {out}")),
                Phase::Scheduled => found.warnings.push(format!("{called} may begin an experiment during the drill{why}; {out}")),
                Phase::AtRest => {}
            }
        }
        found
    }

    /// The permissions to see them.
    pub fn permissions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.kinds.iter().map(|(group, plural)| (group.as_str(), plural.as_str()))
    }
}

/// Whether a permission is only for looking after other tools: without it the plan warns, and the drill may be run.
pub fn is_optional(permission: &Permission) -> bool {
    permission.namespace.is_none() && permission.verbs == ["list"] && Tool::ALL.iter().any(|tool| tool.group() == permission.group)
}

fn phase(tool: Tool, kind: &str, object: &DynamicObject) -> Phase {
    let text = |at: &str| object.data.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let condition = |wanted: &str| {
        let all = object.data.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        all.into_iter().any(|c| c["type"] == wanted && c["status"] == "True")
    };
    let paused = object.annotations().get(PAUSE).is_some_and(|value| value == "true");
    let rest = |yes: bool, otherwise: Phase| if yes { Phase::AtRest } else { otherwise };
    match (tool, kind) {
        (Tool::Litmus, "ChaosSchedule") => rest(matches!(text("/status/schedule/status"), "completed" | "halted"), Phase::Scheduled),
        (Tool::Litmus, _) => rest(matches!(text("/status/engineStatus"), "completed" | "stopped"), Phase::Live),
        (Tool::ChaosMesh, "Schedule") => rest(paused, Phase::Scheduled),
        (Tool::ChaosMesh, "Workflow") => rest(condition("Accomplished"), Phase::Live),
        // Chaos Mesh does not pause these.
        (Tool::ChaosMesh, _) if ONCE.contains(&text("/spec/action")) => rest(condition("AllInjected"), Phase::Live),
        (Tool::ChaosMesh, _) => {
            // Before it has begun everything is recovered, too: only one that is to stop is at rest.
            let stopped = paused || text("/status/experiment/desiredPhase") == "Stop";
            let begun = object.data.pointer("/status/conditions").and_then(Value::as_array).is_some_and(|c| !c.is_empty());
            rest(stopped && (condition("AllRecovered") || paused && !begun), Phase::Live)
        }
    }
}

/// The namespaces that selectors anywhere in a spec name: `namespaces: [shop]`, `pods: {shop: [web-0]}`, `appns: shop`.
fn selected(value: &Value, depth: usize, into: &mut BTreeSet<String>) {
    match value {
        _ if depth == 0 => {}
        Value::Array(all) => all.iter().for_each(|item| selected(item, depth - 1, into)),
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("namespaces", Value::Array(all)) => into.extend(all.iter().filter_map(Value::as_str).map(str::to_owned)),
                    ("pods", Value::Object(all)) => into.extend(all.keys().cloned()),
                    ("appns" | "namespace", Value::String(name)) => drop(into.insert(name.clone())),
                    _ => {}
                }
                selected(value, depth - 1, into);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn experiment(tool: Tool, kind: &str, object: Value) -> Option<Experiment> {
        let mut object = object;
        object["metadata"]["name"] = json!("slow");
        object["metadata"]["uid"] = json!("u1");
        if object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!("chaos");
        }
        let plural = kind.to_lowercase();
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(tool.group(), "v1alpha1", kind), &plural);
        Experiment::of(tool, &resource, &serde_json::from_value(object).unwrap())
    }

    fn conditions(all: &[&str], phase: &str) -> Value {
        let all: Vec<Value> = all.iter().map(|c| json!({"type": c, "status": "True"})).collect();
        json!({"conditions": all, "experiment": {"desiredPhase": phase}})
    }

    #[test]
    fn what_is_paused_or_finished_is_at_rest() {
        let paused = json!({"annotations": {PAUSE: "true"}});
        for (case, kind, object, live) in [
            ("just made", "NetworkChaos", json!({}), true),
            ("about to begin", "NetworkChaos", json!({"status": conditions(&["Selected", "AllRecovered"], "Run")}), true),
            ("at work", "NetworkChaos", json!({"status": conditions(&["Selected", "AllInjected"], "Run")}), true),
            ("recovering", "NetworkChaos", json!({"status": conditions(&["Selected"], "Stop")}), true),
            ("finished", "NetworkChaos", json!({"status": conditions(&["AllRecovered"], "Stop")}), false),
            ("paused before it began", "IOChaos", json!({"metadata": paused}), false),
            ("paused, not recovered", "IOChaos", json!({"metadata": paused, "status": conditions(&["Paused"], "Stop")}), true),
            ("paused", "IOChaos", json!({"metadata": paused, "status": conditions(&["AllRecovered"], "Stop")}), false),
            ("a kill that is to come", "PodChaos", json!({"spec": {"action": "pod-kill"}, "metadata": paused}), true),
            ("a kill that was", "PodChaos", json!({"spec": {"action": "pod-kill"}, "status": conditions(&["AllInjected"], "Run")}), false),
            (
                "pods that are made to fail",
                "PodChaos",
                json!({"spec": {"action": "pod-failure"}, "status": conditions(&["AllInjected"], "Run")}),
                true,
            ),
            ("a workflow at work", "Workflow", json!({"status": conditions(&["Scheduled"], "")}), true),
            ("a workflow at its end", "Workflow", json!({"status": conditions(&["Accomplished"], "")}), false),
        ] {
            let found = experiment(Tool::ChaosMesh, kind, object);
            assert_eq!(found.is_some_and(|e| e.phase == Phase::Live), live, "{case}");
        }
        for (status, live) in [("", true), ("initialized", true), ("completed", false), ("stopped", false)] {
            let found = experiment(Tool::Litmus, "ChaosEngine", json!({"status": {"engineStatus": status}}));
            assert_eq!(found.is_some(), live, "{status}");
        }
    }

    #[test]
    fn kinds_that_are_no_experiments_are_not_asked_for() {
        let of =
            |tool: Tool, kinds: &[&str]| kinds.iter().filter(|kind| tool.experiments(kind)).map(|k| (*k).to_owned()).collect::<Vec<_>>();
        let kinds = [
            "NetworkChaos",
            "PodChaos",
            "PodNetworkChaos",
            "PodIOChaos",
            "PodHttpChaos",
            "RemoteCluster",
            "Schedule",
            "Workflow",
            "WorkflowNode",
        ];
        assert_eq!(of(Tool::ChaosMesh, &kinds), ["NetworkChaos", "PodChaos", "Schedule", "Workflow"]);
        assert_eq!(of(Tool::Litmus, &["ChaosEngine", "ChaosExperiment", "ChaosResult", "ChaosSchedule"]), ["ChaosEngine", "ChaosSchedule"]);
    }

    #[test]
    fn an_experiment_is_in_scope_where_it_acts() {
        let scope = |namespaces: &[&str], nodes: &[&str]| Scope {
            namespaces: namespaces.iter().map(|n| (*n).to_owned()).collect(),
            nodes: nodes.iter().map(|n| (*n).to_owned()).collect(),
            ..Scope::default()
        };
        let elsewhere = json!({"spec": {"selector": {"namespaces": ["shop"]}, "target": {"selector": {"pods": {"bank": ["a"]}}}}});
        let all = |e: Option<Experiment>| Others { experiments: e.into_iter().collect(), ..Others::default() };
        let mesh = all(experiment(Tool::ChaosMesh, "NetworkChaos", elsewhere));
        let litmus = all(experiment(Tool::Litmus, "ChaosEngine", json!({"spec": {"appinfo": {"appns": "shop"}}})));
        for others in [&mesh, &litmus] {
            assert_eq!(others.findings(&scope(&["other"], &[]), None), Findings::default());
            for (scope, part) in [
                (scope(&["shop"], &[]), "chaos/slow of "),
                (scope(&["chaos"], &[]), " is live: two tools at once measure each other; wait for its end, or `kubectl "),
                (scope(&["shop"], &[]), "is live, and acts on namespace shop: "),
                (scope(&[], &["node1"]), "is live, and the drill breaks nodes"),
            ] {
                let found = others.findings(&scope, None);
                assert!(found.refusals.len() == 1 && found.refusals[0].contains(part), "no `{part}` in {found:?}");
            }
        }
        assert_eq!(mesh.findings(&scope(&["bank"], &[]), None).refusals.len(), 1);
        let schedule =
            all(experiment(Tool::ChaosMesh, "Schedule", json!({"spec": {"networkChaos": {"selector": {"namespaces": ["shop"]}}}})));
        let found = schedule.findings(&scope(&["shop"], &[]), None);
        assert!(found.refusals.is_empty() && found.warnings[0].contains("Schedule chaos/slow of Chaos Mesh may begin"), "{found:?}");
    }

    #[test]
    fn what_the_drill_made_itself_is_no_others() {
        let scope = Scope { namespaces: vec!["chaos".to_owned()], ..Scope::default() };
        let mut ours = experiment(Tool::ChaosMesh, "Workflow", json!({"metadata": {"labels": {labels::FAULT: "drill-1"}}})).unwrap();
        ours.uid = "u0".to_owned();
        let part = experiment(Tool::ChaosMesh, "NetworkChaos", json!({"metadata": {"labels": {WORKFLOW: "slow"}}})).unwrap();
        let others = Others { experiments: vec![ours, part], ..Others::default() };
        assert_eq!(others.findings(&scope, Some("drill-1")), Findings::default());
        let refusals = others.findings(&scope, Some("drill-2")).refusals;
        assert_eq!(refusals.len(), 2, "{refusals:?}");
        assert!(refusals[0].contains("it is of drill drill-1: wait for its end, or `firedrill revert drill-1`"), "{refusals:?}");
        // Before there is a drill nothing is its own.
        assert_eq!(others.findings(&scope, None).refusals.len(), 2);
    }

    #[test]
    fn only_the_look_at_other_tools_is_optional() {
        let of = |namespace: Option<&str>, group: &str, verbs: &[&str]| Permission {
            namespace: namespace.map(str::to_owned),
            group: group.to_owned(),
            resource: "networkchaos".to_owned(),
            verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
            names: Vec::new(),
            because: String::new(),
        };
        assert!(is_optional(&of(None, "chaos-mesh.org", &["list"])));
        assert!(!is_optional(&of(Some("shop"), "chaos-mesh.org", &["create"])));
        assert!(!is_optional(&of(None, "", &["list"])));
    }
}
