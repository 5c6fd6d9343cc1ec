//! The permissions a drill needs: those of reading the plan's facts again, of firedrill's own objects, of each fault,
//! probe and runbook, and no more.

mod api;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    kinds,
    seen::{NamedKind, Snapshot},
    types::{Permission, Plan, PlannedStep},
};
use crate::labels;
use crate::scenario::types::{CutHow, FaultSpec, Postgres, Runbook, Target, Vantage};

const READ: &[&str] = &["get", "list", "watch"];
/// kube opens exec by GET, kubectl by POST, and API servers differ in which verb they ask for.
const EXEC: &[&str] = &["create", "get"];

/// Place, group, resource and name: what a rule is about.
type About = (Option<String>, String, String, Option<String>);
/// Rules with the same of these come together: place, group, resource, verbs, and whether it is by name.
type Alike = (Option<String>, String, String, BTreeSet<String>, bool);

/// The rules as they come together, each with its verbs and reasons.
#[derive(Default)]
struct Rules(BTreeMap<About, (BTreeSet<String>, BTreeSet<String>)>);

impl Rules {
    fn add(&mut self, namespace: Option<&str>, group: &str, resource: &str, name: Option<&str>, verbs: &[&str], because: &str) {
        let key = (namespace.map(str::to_owned), group.to_owned(), resource.to_owned(), name.map(str::to_owned));
        let (has, why) = self.0.entry(key).or_default();
        has.extend(verbs.iter().map(|v| (*v).to_owned()));
        why.insert(because.to_owned());
    }

    /// In a namespace, for all names.
    fn all(&mut self, namespace: &str, group: &str, resource: &str, verbs: &[&str], because: &str) {
        self.add(Some(namespace), group, resource, None, verbs, because);
    }

    /// In a namespace, for one name.
    fn named(&mut self, namespace: &str, group: &str, resource: &str, name: &str, verbs: &[&str], because: &str) {
        self.add(Some(namespace), group, resource, Some(name), verbs, because);
    }

    /// Names with the same verbs in one rule, and nothing by name that is granted for all names already.
    fn into_permissions(self) -> Vec<Permission> {
        let mut merged: BTreeMap<Alike, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
        for ((namespace, group, resource, name), (verbs, why)) in &self.0 {
            let mut verbs = verbs.clone();
            if name.is_some()
                && let Some((general, _)) = self.0.get(&(namespace.clone(), group.clone(), resource.clone(), None))
            {
                verbs.retain(|verb| !general.contains(verb));
            }
            if verbs.is_empty() {
                continue;
            }
            let key = (namespace.clone(), group.clone(), resource.clone(), verbs, name.is_some());
            let (names, reasons) = merged.entry(key).or_default();
            names.extend(name.clone());
            reasons.extend(why.iter().cloned());
        }
        merged
            .into_iter()
            .map(|((namespace, group, resource, verbs, _), (names, why))| Permission {
                namespace,
                group,
                resource,
                verbs: verbs.into_iter().collect(),
                names: names.into_iter().collect(),
                because: why.into_iter().collect::<Vec<_>>().join("; "),
            })
            .collect()
    }
}

/// The permissions that a drill by this plan needs, planning included.
pub fn needed(plan: &Plan, snapshot: &Snapshot) -> Vec<Permission> {
    let mut rules = Rules::default();
    own_place(plan, snapshot, &mut rules);
    for (name, target) in &plan.targets {
        of_target(&target.spec, &format!("target {name}"), &mut rules);
        if target.spec.nodes.is_some() || target.spec.zone.is_some() {
            rules.all(&plan.place.firedrill.namespace, "", "pods", &["list"], "nodes that carry firedrill itself are refused");
        }
    }
    for step in plan.leaf_steps() {
        of_step(plan, step, &mut rules);
    }
    nothing_left(plan, &mut rules);
    of_probes(plan, snapshot, &mut rules);
    for (group, plural) in snapshot.others.permissions() {
        // An experiment lies in a namespace and acts on others.
        rules.add(None, group, plural, None, &["list"], "no drill beside a live experiment of another tool");
    }
    rules.into_permissions()
}

/// The permissions that one step of a plan needs by itself.
pub fn of_one(plan: &Plan, step: &PlannedStep) -> Vec<Permission> {
    let mut rules = Rules::default();
    of_step(plan, step, &mut rules);
    rules.into_permissions()
}

fn nothing_left(plan: &Plan, rules: &mut Rules) {
    // One that runs in a pod that is there makes nothing.
    let makes = |r: &Runbook| r.cron_job.is_some() || r.run_in.as_ref().is_some_and(|place| place.job.is_some());
    let custom = |step: &PlannedStep| step.spec.inject.as_ref().is_some_and(api::runs_jobs);
    let runbook = plan.leaf_steps().iter().any(|step| step.spec.runbook.as_ref().is_some_and(makes) || custom(step));
    for namespace in &plan.scope.namespaces {
        // Looked for at the end wherever the drill may have made something, and removed where a runbook, or a fault's own commands, may have.
        let verbs: &[&str] = if runbook { &["delete", "list"] } else { &["list"] };
        for (group, resource) in [("batch", "jobs"), ("", "pods")] {
            rules.all(namespace, group, resource, verbs, "nothing of the drill is left");
        }
    }
}

fn own_place(plan: &Plan, snapshot: &Snapshot, rules: &mut Rules) {
    let own = plan.place.firedrill.namespace.as_str();
    rules.add(None, "", "namespaces", Some("kube-system"), &["get"], "its uid is the cluster's identity");
    rules.add(None, "", "namespaces", Some(own), &["get"], "firedrill's own place");
    for namespace in plan.scope.namespaces.iter().chain(plan.targets.values().filter_map(|t| t.spec.namespace.as_ref())) {
        rules.add(None, "", "namespaces", Some(namespace), &["get"], "whether drills are allowed");
    }
    if !snapshot.namespaces.contains_key(own) {
        rules.add(None, "", "namespaces", None, &["create"], "firedrill's own place does not exist yet");
    }
    let record = &["create", "delete", "get", "list", "patch", "update", "watch"];
    rules.all(own, "", "configmaps", record, "the drill's record and its inbox");
    rules.all(
        own,
        "coordination.k8s.io",
        "leases",
        &["create", "delete", "get", "list", "patch", "update"],
        "one Lease a namespace and node",
    );
    rules.all(own, "", "pods", &["list"], "nothing of the drill is left");
    let helper = needs_helper(plan);
    let observer = plan.probes.values().any(|p| p.from == Vantage::Cluster);
    for (needed, who) in [(observer, "the observer"), (plan.guarded_by().is_some(), "the watchdog")] {
        if needed {
            rules.add(None, "", "nodes", None, &["list"], &format!("{who} is kept off the nodes that a fault hits"));
        }
    }
    if plan.guarded_by().is_some() {
        rules.all(own, "", "pods", &["create", "delete", "get", "list"], "the watchdog");
    }
    for (needed, why) in [(observer, "the observer"), (helper, "node helpers")] {
        if needed {
            rules.all(own, "", "pods", &["create", "delete", "get", "list", "watch"], why);
            rules.all(own, "", "pods/exec", EXEC, why);
            rules.all(own, "", "pods/log", &["get"], why);
        }
    }
}

fn needs_helper(plan: &Plan) -> bool {
    let own = &plan.place.firedrill;
    let on_node = |fault: &FaultSpec| kinds::fault(fault).is_some_and(|v| v.helper) && !kinds::is_inside(fault, own);
    plan.leaf_steps().iter().any(|s| s.spec.inject.as_ref().is_some_and(on_node))
}

/// The permissions that the drill's watchdog needs: to take the drill over out of its record, to revert every fault of it and
/// prove that it is gone, and to remove what is left of it.
pub fn of_watchdog(plan: &Plan) -> Vec<Permission> {
    let mut rules = Rules::default();
    let own = plan.place.firedrill.namespace.as_str();
    rules.add(None, "", "namespaces", Some("kube-system"), &["get"], "its uid is the cluster's identity");
    rules.all(own, "", "configmaps", &["create", "delete", "get", "patch"], "the drill's record and its inbox");
    rules.all(own, "coordination.k8s.io", "leases", &["create", "delete", "get", "list", "update"], "the drill's Leases");
    rules.all(own, "", "pods", &["delete", "get", "list"], "nothing of the drill is left");
    rules.all(own, "", "events", &["create"], "it says what it did");
    if needs_helper(plan) {
        rules.add(None, "", "namespaces", Some(own), &["get"], "node helpers");
        rules.all(own, "", "pods", &["create", "watch"], "node helpers");
        rules.all(own, "", "pods/exec", EXEC, "node helpers");
    }
    for step in plan.leaf_steps() {
        if let Some(fault) = &step.spec.inject {
            of_revert(plan, step, fault, &format!("step {} ({})", step.path, step.title), &mut rules);
        }
    }
    nothing_left(plan, &mut rules);
    rules.into_permissions()
}

/// The permissions that helpers need which lose their nodes: of these nodes' Leases, and nothing else.
pub fn of_node_helper(plan: &Plan) -> Vec<Permission> {
    let mut rules = Rules::default();
    for step in plan.leaf_steps() {
        let Some(fault) = step.spec.inject.as_ref().filter(|fault| api::loses_nodes(fault)) else { continue };
        let Some(target) = kinds::fault(fault).and_then(|v| v.target).and_then(|t| plan.targets.get(t)) else { continue };
        for node in target.chosen() {
            let (own, lease) = (plan.place.firedrill.namespace.as_str(), labels::loss_lease(&node.name));
            rules.named(own, "coordination.k8s.io", "leases", &lease, &["get", "patch"], &format!("step {} ({})", step.path, step.title));
        }
    }
    rules.into_permissions()
}

/// What reverting a fault and proving that it is gone need.
fn of_revert(plan: &Plan, step: &PlannedStep, fault: &FaultSpec, why: &str, rules: &mut Rules) {
    let Some(view) = kinds::fault(fault) else { return };
    api::of_manifest_revert(step, fault, why, rules);
    if let Some(database) = kinds::fault_database(fault) {
        database_rules(plan, database, why, rules);
        if let Some(namespace) = database.target.as_ref().and_then(|t| plan.targets.get(t)).and_then(|t| t.spec.namespace.as_ref()) {
            // Which pod of the target it is by then.
            rules.all(namespace, "", "pods", &["list"], why);
        }
    }
    let Some(target) = view.target.and_then(|t| plan.targets.get(t)) else { return };
    for object in target.chosen() {
        let namespace = object.namespace.as_str();
        api::of_revert(&plan.place.firedrill.namespace, step, fault, object, why, rules);
        if view.breaks == kinds::Breaks::Pods {
            rules.all(namespace, "", "pods", &["get", "list"], why);
            owner_rules(namespace, &object.owner, why, rules);
        }
        volume_rules(namespace, &object.owner, view, why, rules);
        inside_rules(plan, fault, namespace, why, rules);
        if fault.scale.is_some() {
            rules.named(namespace, "apps", workloads(&object.kind), &object.name, &["get", "patch"], why);
        }
        if let Some(cut) = &fault.cut_backup_job {
            rules.named(namespace, "batch", "cronjobs", &object.name, &["get", "patch"], why);
            if cut.how == CutHow::KillRunning {
                rules.all(namespace, "batch", "jobs", &["get"], why);
            }
        }
    }
}

fn workloads(kind: &str) -> &'static str {
    if kind == "Deployment" { "deployments" } else { "statefulsets" }
}

fn of_target(target: &Target, why: &str, rules: &mut Rules) {
    if target.nodes.is_some() || target.zone.is_some() {
        return rules.add(None, "", "nodes", None, READ, why);
    }
    let Some(namespace) = target.namespace.as_deref() else { return };
    if target.pods.is_some() || target.name.is_some() || target.owner.is_some() {
        rules.all(namespace, "", "pods", READ, why);
    }
    for (group, resource, name) in [
        ("", "persistentvolumeclaims", &target.pvc),
        ("", "services", &target.service),
        ("batch", "cronjobs", &target.cron_job),
        ("apps", "deployments", &target.deployment),
        ("apps", "statefulsets", &target.stateful_set),
        ("", "secrets", &target.secret),
    ] {
        if let Some(name) = name {
            rules.named(namespace, group, resource, name, &["get"], why);
            if group == "apps" {
                rules.all(namespace, "", "pods", READ, why);
            }
        }
    }
}

fn of_step(plan: &Plan, step: &PlannedStep, rules: &mut Rules) {
    let why = format!("step {} ({})", step.path, step.title);
    if let Some(fault) = &step.spec.inject {
        of_fault(plan, step, fault, &why, rules);
    }
    if let Some(runbook) = &step.spec.runbook {
        of_runbook(plan, runbook, &why, rules);
    }
}

fn of_fault(plan: &Plan, step: &PlannedStep, fault: &FaultSpec, why: &str, rules: &mut Rules) {
    let Some(view) = kinds::fault(fault) else { return };
    api::of_manifest(step, fault, why, rules);
    if let Some(database) = kinds::fault_database(fault) {
        database_rules(plan, database, why, rules);
    }
    let Some(target) = view.target.and_then(|t| plan.targets.get(t)) else { return };
    for object in target.chosen() {
        let namespace = object.namespace.as_str();
        api::of_fault(plan, step, fault, object, why, rules);
        if view.asks_budgets() {
            rules.all(namespace, "policy", "poddisruptionbudgets", &["list"], why);
        }
        if view.breaks == kinds::Breaks::Pods {
            owner_rules(namespace, &object.owner, why, rules);
        }
        volume_rules(namespace, &object.owner, view, why, rules);
        inside_rules(plan, fault, namespace, why, rules);
        for peer in fault.partition.iter().flat_map(|p| &p.peers).filter_map(|peer| plan.targets.get(peer)) {
            if let (Some(_), Some(namespace)) = (&peer.spec.service, &peer.spec.namespace) {
                rules.all(namespace, "discovery.k8s.io", "endpointslices", &["list"], why);
            }
        }
        if fault.pod_kill.is_some() {
            // Names of pods change with every restart, so that a list of them would be out of date at once.
            rules.all(namespace, "", "pods", &["delete"], why);
        }
        if fault.scale.is_some() {
            rules.named(namespace, "apps", workloads(&object.kind), &object.name, &["get", "patch"], why);
        }
        if let Some(cut) = &fault.cut_backup_job {
            rules.named(namespace, "batch", "cronjobs", &object.name, &["get", "patch"], why);
            if cut.how == CutHow::KillRunning {
                rules.all(namespace, "batch", "jobs", &["delete", "get", "list", "watch"], why);
                rules.all(namespace, "", "pods", &["delete", "get", "list", "watch"], why);
            } else {
                rules.all(namespace, "batch", "jobs", &["get", "list"], why);
            }
        }
    }
}

/// An agent within a pod is added to it, talked to by exec, and seen in its status; what it may be is said by the namespace.
fn inside_rules(plan: &Plan, fault: &FaultSpec, namespace: &str, why: &str, rules: &mut Rules) {
    if kinds::is_inside(fault, &plan.place.firedrill) {
        rules.all(namespace, "", "pods", READ, why);
        rules.all(namespace, "", "pods/ephemeralcontainers", &["patch"], why);
        rules.all(namespace, "", "pods/exec", EXEC, why);
        rules.add(None, "", "namespaces", Some(namespace), &["get"], why);
    }
}

/// A claim outlives its pod, and is reached through whichever pod has it then.
fn volume_rules(namespace: &str, owner: &str, view: kinds::FaultView<'_>, why: &str, rules: &mut Rules) {
    if view.breaks == kinds::Breaks::Volumes && view.helper {
        rules.all(namespace, "", "pods", &["get", "list"], why);
        rules.all(namespace, "", "persistentvolumeclaims", &["get"], why);
        owner_rules(namespace, owner, why, rules);
    }
}

/// Gone is proven by the owner's having as many ready pods as it wants.
fn owner_rules(namespace: &str, owner: &str, why: &str, rules: &mut Rules) {
    let Some((kind, name)) = owner.split_once('/') else { return };
    let (group, resource) = match kind {
        "StatefulSet" => ("apps", "statefulsets"),
        "Deployment" => ("apps", "deployments"),
        "DaemonSet" => ("apps", "daemonsets"),
        "ReplicaSet" => ("apps", "replicasets"),
        "Job" => ("batch", "jobs"),
        _ => return,
    };
    rules.named(namespace, group, resource, name, &["get"], why);
    if kind == "Deployment" {
        // The pod's controller is one of the Deployment's ReplicaSets, and its name changes with every rollout.
        rules.all(namespace, "apps", "replicasets", &["get"], why);
    }
}

fn of_runbook(plan: &Plan, runbook: &Runbook, why: &str, rules: &mut Rules) {
    let job = |namespace: &str, rules: &mut Rules| {
        rules.all(namespace, "batch", "jobs", &["create", "delete", "get", "list", "watch"], why);
        rules.all(namespace, "", "pods", READ, why);
        rules.all(namespace, "", "pods/log", &["get"], why);
    };
    if let Some(run_in) = &runbook.run_in {
        if let Some(namespace) = run_in.target.as_ref().and_then(|t| plan.targets.get(t)).and_then(|t| t.spec.namespace.as_deref()) {
            rules.all(namespace, "", "pods/exec", EXEC, why);
        }
        if let Some(run) = &run_in.job {
            rules.all(&run.namespace, "", "pods", &["create", "delete", "get", "list", "watch"], why);
            rules.all(&run.namespace, "", "pods/exec", EXEC, why);
            // A restored database in the runbook's pod is read through it.
            rules.all(&run.namespace, "", "pods/portforward", EXEC, why);
            let mounted = run.mounts.iter().filter_map(|m| m.strip_prefix("secret/")?.split(':').next()).map(str::to_owned);
            for secret in &run.env_from_secrets.iter().cloned().chain(mounted).collect::<BTreeSet<_>>() {
                rules.named(&run.namespace, "", "secrets", secret, &["get"], &format!("{why}: its values are masked in output"));
            }
        }
    }
    if let Some((namespace, name)) = runbook.cron_job.as_deref().and_then(|c| c.split_once('/')) {
        rules.named(namespace, "batch", "cronjobs", name, &["get"], why);
        job(namespace, rules);
    }
}

fn of_probes(plan: &Plan, snapshot: &Snapshot, rules: &mut Rules) {
    for (name, probe) in &plan.probes {
        let why = format!("probe {name}");
        let view = kinds::probe(&probe.spec);
        for service in &view.services {
            rules.named(&service.namespace, "", "services", &service.name, &["get"], &why);
            rules.add(None, "", "namespaces", Some(&service.namespace), &["get"], "whether drills are allowed");
        }
        if let Some((service, namespace, _)) = view.host.as_deref().and_then(kinds::service_of_host)
            && snapshot.object(NamedKind::Service, namespace, service).is_some()
        {
            rules.named(namespace, "", "services", service, &["get"], &why);
        }
        for secret in &view.secrets {
            rules.named(&secret.namespace, "", "secrets", &secret.name, &["get"], &why);
        }
        for target in view.execs.iter().filter_map(|t| plan.targets.get(*t)) {
            if let Some(namespace) = &target.spec.namespace {
                rules.all(namespace, "", "pods/exec", EXEC, &why);
            }
        }
        if let Some(object) = &probe.spec.object
            && let Some(kind) = snapshot.kinds.get(&(object.api_version.clone(), object.kind.clone()))
        {
            rules.add(object.namespace.as_deref(), &kind.group, &kind.plural, Some(&object.name), READ, &why);
        }
    }
    if kinds::needs_monitoring(plan.probes.values().map(|p| &p.spec)) {
        for service in kinds::endpoints(&plan.place).filter_map(|e| e.service.as_ref()) {
            rules.named(&service.namespace, "", "services", &service.name, &["get"], "the environment's monitoring");
        }
    }
    for objective in &plan.objectives {
        for database in kinds::objective_databases(&objective.spec) {
            // Digests are asked for in the database.
            database_rules(plan, database, &format!("objective {}", objective.name), rules);
        }
    }
}

/// The way to a database through a pod of it, as the role of its Secret.
fn database_rules(plan: &Plan, database: &Postgres, why: &str, rules: &mut Rules) {
    rules.named(&database.secret.namespace, "", "secrets", &database.secret.name, &["get"], why);
    if let Some(service) = &database.service {
        rules.named(&service.namespace, "", "services", &service.name, &["get"], why);
        rules.all(&service.namespace, "discovery.k8s.io", "endpointslices", &["list"], why);
        rules.all(&service.namespace, "", "pods", READ, why);
        rules.all(&service.namespace, "", "pods/portforward", EXEC, why);
    }
    let target = database.target.as_ref().and_then(|t| plan.targets.get(t));
    if let Some(namespace) = target.and_then(|t| t.spec.namespace.as_ref()) {
        rules.all(namespace, "", "pods/portforward", EXEC, why);
    }
}

/// Who gets the permissions, written `ServiceAccount:namespace/name`, `User:name` or `Group:name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `ServiceAccount`, `User` or `Group`.
    pub kind: String,
    /// Namespace of a ServiceAccount.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl Subject {
    /// A ServiceAccount.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self { kind: "ServiceAccount".to_owned(), namespace: Some(namespace.to_owned()), name: name.to_owned() }
    }
}

impl std::str::FromStr for Subject {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a subject: write `ServiceAccount:namespace/name`, `User:name` or `Group:name`");
        let (kind, name) = text.split_once(':').filter(|(_, name)| !name.is_empty()).ok_or_else(wrong)?;
        let (namespace, name) = match kind {
            "ServiceAccount" => {
                let (namespace, name) = name.split_once('/').filter(|(a, b)| !a.is_empty() && !b.is_empty()).ok_or_else(wrong)?;
                (Some(namespace.to_owned()), name)
            }
            "User" | "Group" => (None, name),
            _ => return Err(wrong()),
        };
        Ok(Self { kind: kind.to_owned(), namespace, name: name.to_owned() })
    }
}

/// The Roles, the ClusterRole and their bindings as YAML, to be applied by an administrator. firedrill's own namespace comes
/// first when it does not exist, and then nobody else needs the permission to create namespaces.
pub fn yaml(plan: &Plan, subject: &Subject) -> String {
    let name = format!("firedrill-{}", plan.name);
    let own = plan.place.firedrill.namespace.as_str();
    let creates = |p: &&Permission| p.resource == "namespaces" && p.verbs.iter().any(|v| v == "create");
    let mut out = format!("# What drill {} needs on cluster {} (uid {}), and no more.\n", plan.name, plan.cluster_name, plan.cluster_uid);
    if plan.rbac.iter().any(|p| creates(&p)) {
        // Node helpers are privileged; Pod Security would refuse them elsewhere.
        out += &format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {own}\n  labels:\n    app.kubernetes.io/managed-by: firedrill\n    \
             pod-security.kubernetes.io/enforce: privileged\n---\n"
        );
    }
    out += &roles(&name, plan.rbac.iter().filter(|p| !creates(p)), subject);
    let helper = of_node_helper(plan);
    if !helper.is_empty() {
        let account = labels::LOSS_ACCOUNT;
        out += &format!(
            "---\n# Node helpers that lose their node: their account, with which each reads the Lease that keeps its node lost, and says how it \
             is.\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {}\n  namespace: {own}\n---\n",
            quoted(account)
        );
        out += &roles(&format!("{name}-node-helper"), helper.iter(), &Subject::service_account(own, account));
    }
    if let Some(watchdog) = &plan.watchdog {
        let account = watchdog.service_account.as_str();
        out += &format!(
            "---\n# The watchdog, which reverts when the runner is lost: its account, and what that needs.\napiVersion: v1\n\
             kind: ServiceAccount\nmetadata:\n  name: {}\n  namespace: {own}\n---\n",
            quoted(account)
        );
        out += &roles(&format!("{name}-watchdog"), watchdog.rbac.iter(), &Subject::service_account(own, account));
    }
    out
}

/// A Role or ClusterRole for each place, with its binding.
fn roles<'a>(name: &str, permissions: impl Iterator<Item = &'a Permission>, subject: &Subject) -> String {
    let mut places: BTreeMap<Option<&str>, Vec<&Permission>> = BTreeMap::new();
    for permission in permissions {
        places.entry(permission.namespace.as_deref()).or_default().push(permission);
    }
    let documents =
        places.iter().map(|(namespace, permissions)| role(name, *namespace, permissions) + "---\n" + &binding(name, *namespace, subject));
    documents.collect::<Vec<_>>().join("---\n")
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    format!("[{}]", items.into_iter().map(|i| quoted(i)).collect::<Vec<_>>().join(", "))
}

fn head(kind: &str, name: &str, namespace: Option<&str>) -> String {
    let kind = if namespace.is_some() { kind.to_owned() } else { format!("Cluster{kind}") };
    let namespace = namespace.map(|n| format!("\n  namespace: {n}")).unwrap_or_default();
    format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {name}{namespace}\n")
}

fn role(name: &str, namespace: Option<&str>, permissions: &[&Permission]) -> String {
    let mut out = head("Role", name, namespace) + "rules:\n";
    for permission in permissions {
        let because = permission.because.replace(['\n', '\r'], " ");
        out +=
            &format!("  # {because}\n  - apiGroups: [{}]\n    resources: [{}]\n", quoted(&permission.group), quoted(&permission.resource));
        if !permission.names.is_empty() {
            out += &format!("    resourceNames: {}\n", list(&permission.names));
        }
        out += &format!("    verbs: {}\n", list(&permission.verbs));
    }
    out
}

fn binding(name: &str, namespace: Option<&str>, subject: &Subject) -> String {
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let mut out = head("RoleBinding", name, namespace);
    out += &format!("roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: {kind}\n  name: {name}\nsubjects:\n");
    out += &match &subject.namespace {
        Some(namespace) => {
            format!("  - kind: {}\n    name: {}\n    namespace: {}\n", subject.kind, quoted(&subject.name), quoted(namespace))
        }
        None => format!("  - apiGroup: rbac.authorization.k8s.io\n    kind: {}\n    name: {}\n", subject.kind, quoted(&subject.name)),
    };
    out
}
