//! Looking. Reads, asks, and tries with `dryRun`; changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use hyper::{Request, header::DATE};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Node},
};
use kube::{
    ResourceExt as _,
    api::{ListParams, PostParams},
    client::Body,
};

use tokio_util::sync::CancellationToken;

use super::{Area, Finding, Verdict, facts, place, pods};
use crate::{
    agent::pods::{AgentKind, PodSpec},
    clock::Clock,
    cluster::{Cluster, Fresh},
    hint,
    journal::{Stop, find_records},
    labels,
    plan::{
        self, NoPlan, Plan, PlannedStep, kinds, may,
        others::{self, Tool},
        rbac,
    },
    scenario::{
        Loaded,
        diag::counted,
        types::{Dur, Environment, OwnPlace, Vantage},
    },
};

/// The oldest API server that has all that is asked for (ephemeral containers, server-side apply, PodDisruptionBudgets v1).
const OLDEST: (u32, u32) = (1, 25);
/// The version this is built against.
const BUILT_FOR: (u32, u32) = (1, 34);
/// On how many nodes a helper is tried; more of them are counted.
const NODES: usize = 20;
/// How many questions are asked at a time, each of which may be several.
const AT_ONCE: usize = 4;
/// What is said of which cluster it is.
const IDENTITY: &str = "identity";
/// The drill that pods are tried for.
const DRILL: &str = "doctor";

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The environment.
    pub environment: &'a Environment,
    /// The scenario with its runbooks' and manifests' texts; none: any.
    pub drill: Option<(&'a Loaded, &'a BTreeMap<String, String>)>,
    /// This machine's clock.
    pub clock: &'a Clock,
    /// Whether that is the cluster's, too.
    pub one_clock: bool,
    /// Look at nodes by a helper on each, which is removed again; told to stop by this. None: change nothing.
    pub probe: Option<&'a CancellationToken>,
}

/// Everything that can be known without a change. It does not fail: what cannot be known is a finding.
pub async fn look(asked: Asked<'_>) -> Vec<Finding> {
    let Asked { cluster, environment, drill, clock, one_clock, probe } = asked;
    let own = &environment.spec.firedrill;
    let mut found = vec![version(cluster).await, identity(cluster, environment)];
    if !one_clock {
        found.push(clocks(cluster, clock).await);
    }
    // Of a cluster that is not the environment's nothing is read, and nothing is tried in it.
    if found.iter().any(|finding| finding.what == IDENTITY && finding.verdict == Verdict::No) {
        return found;
    }
    let (there, place) = own_place(cluster, own).await;
    found.push(place);
    found.push(stopped(cluster, &own.namespace).await);
    let plan = match drill {
        Some((loaded, files)) => match plan::plan_on(cluster, loaded, environment, files, 0).await {
            Ok(plan) => Some(plan),
            Err(NoPlan::Refused(refused)) => {
                found.extend(refused.reasons.into_iter().map(|why| Finding::new(Area::Drill, "plan", Verdict::No, why)));
                None
            }
            Err(NoPlan::Cluster(error)) => {
                let unseen = Finding::new(Area::Drill, "plan", Verdict::No, error.to_string());
                let change = if error.is_forbidden() { "have this user allowed to read it" } else { "see why, and ask again" };
                found.push(unseen.change(change));
                None
            }
        },
        None => None,
    };
    found.extend(left_behind(cluster, &own.namespace, plan.as_ref()).await);
    found.push(other_tools(cluster, plan.as_ref()).await);
    let mut denied = Vec::new();
    if let Some(plan) = &plan {
        found.push(planned(plan));
        let rights = rights(cluster, plan).await;
        found.push(rights.0);
        denied = rights.1;
    }
    found.extend(pods::watchdog(cluster, own, plan.as_ref()).await);
    found.extend(pods::within(cluster, plan.as_ref()).await);
    let nodes = match &plan {
        Some(plan) => Some(of_plan(plan)),
        // Any helper, on any node.
        None if drill.is_none() => None,
        None => return found,
    };
    let (findings, blocked, names) = nodes_of(cluster, own, nodes).await;
    found.extend(findings);
    match probe {
        Some(stop) if there && own.node_helpers => found.extend(place::probe(cluster, own, clock, &names, stop).await),
        Some(_) => {
            let why = if there {
                "the environment says `nodeHelpers: false`".to_owned()
            } else {
                format!("there is no namespace {} to place a pod in", own.namespace)
            };
            found.push(Finding::new(Area::Nodes, "a look at them", Verdict::Warning, format!("not taken: {why}")));
        }
        None => {}
    }
    if there {
        let (findings, more) = trials(cluster, environment, plan.as_ref(), &blocked).await;
        found.extend(findings);
        found.extend(faults(environment, plan.as_ref(), &denied, &more));
    } else {
        found.extend(faults(environment, plan.as_ref(), &denied, &blocked));
    }
    found
}

async fn version(cluster: &Cluster) -> Finding {
    let of = |verdict, found: String| Finding::new(Area::Cluster, "API server", verdict, found);
    match cluster.call("ask the API server for its version", cluster.client.apiserver_version()).await {
        Ok(info) => {
            let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
            let found = format!("Kubernetes {}; this firedrill is built for {}.{}", info.git_version, BUILT_FOR.0, BUILT_FOR.1);
            match number(&info.major).zip(number(&info.minor)) {
                Some(version) if version < OLDEST => {
                    of(Verdict::No, found).change(format!("Kubernetes {}.{} or later is needed", OLDEST.0, OLDEST.1))
                }
                Some(_) => of(Verdict::Ok, found),
                None => of(Verdict::Warning, found).change("that is no version that can be read"),
            }
        }
        Err(error) => of(Verdict::Warning, error.to_string()),
    }
}

fn identity(cluster: &Cluster, environment: &Environment) -> Finding {
    let of = |verdict, found: String| Finding::new(Area::Cluster, IDENTITY, verdict, found);
    let Some((name, wanted)) = environment.spec.clusters.first() else {
        return of(Verdict::No, "the environment names no cluster".to_owned())
            .change(format!("`clusters: {{main: {{uid: {}}}}}`", cluster.uid));
    };
    match cluster.expect_uid(name, &wanted.uid) {
        Ok(()) => of(Verdict::Ok, format!("{} is the environment's cluster `{name}` (uid {})", cluster.name, cluster.uid)),
        Err(error) => of(Verdict::No, error.to_string()),
    }
}

async fn clocks(cluster: &Cluster, clock: &Clock) -> Finding {
    let unknown =
        |why: String| Finding::new(Area::Cluster, "clocks", Verdict::Warning, format!("the API server's clock is not known: {why}"));
    let request = match Request::get("/version").body(Body::empty()) {
        Ok(request) => request,
        Err(error) => return unknown(error.to_string()),
    };
    let sent = clock.now().wall_us;
    let answer = cluster.call("ask the API server for the time", cluster.client.send(request)).await;
    let received = clock.now().wall_us;
    match answer {
        Ok(answer) => {
            let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
            match date.and_then(|date| facts::offset(date, sent, received)) {
                Some(offset) => offset.finding(),
                None => unknown("its answers have no date".to_owned()),
            }
        }
        Err(error) => unknown(error.to_string()),
    }
}

/// Whether firedrill's namespace is there, and what it is.
async fn own_place(cluster: &Cluster, own: &OwnPlace) -> (bool, Finding) {
    let name = own.namespace.as_str();
    let of = |verdict, found: String| Finding::new(Area::Place, format!("namespace {name}"), verdict, found);
    match cluster.get_cluster_opt::<Namespace>(name).await {
        Ok(Some(namespace)) => {
            let level = namespace.labels().get(labels::POD_SECURITY).map_or("none said for it", String::as_str);
            let found = of(Verdict::Ok, format!("there; Pod Security: {level}"));
            if namespace.metadata.deletion_timestamp.is_some() {
                return (false, of(Verdict::No, "it is being deleted".to_owned()).change("wait until it is gone"));
            }
            (true, found)
        }
        Ok(None) => {
            let found =
                of(Verdict::Warning, "not there: the first drill makes it, and what is placed in it cannot be tried before".to_owned());
            (false, found.change(format!("`kubectl create namespace {name}` and `kubectl label namespace {name} pod-security.kubernetes.io/enforce=privileged`, then look again")))
        }
        Err(error) => (false, of(Verdict::Warning, error.to_string())),
    }
}

async fn stopped(cluster: &Cluster, namespace: &str) -> Finding {
    let of = |verdict, found: String| Finding::new(Area::Place, "stop switch", verdict, found);
    match Stop::read(&cluster.client, namespace).await {
        Ok(None) => of(Verdict::Ok, "off: drills may run".to_owned()),
        Ok(Some(stop)) => of(Verdict::No, stop.to_string()).change(format!("`{}`", hint::command("stop --lift", namespace))),
        Err(error) => of(Verdict::No, format!("it is not known, and then no drill begins: {error}"))
            .change("have this user allowed to read ConfigMaps there"),
    }
}

/// Drills that run or were left behind, and Leases that are in the way.
async fn left_behind(cluster: &Cluster, namespace: &str, plan: Option<&Plan>) -> Vec<Finding> {
    let of = |what: &str, verdict, found: String| Finding::new(Area::Place, what, verdict, found);
    let mut found = Vec::new();
    let way_out = |drill: &str| {
        format!(
            "`{}`; if its runner is gone: `{}`",
            hint::command(&format!("status {drill}"), namespace),
            hint::command(&format!("revert {drill}"), namespace)
        )
    };
    match find_records(&cluster.client, namespace).await {
        Ok(records) if records.is_empty() => {
            found.push(of("other drills", Verdict::Ok, "none runs here, and none was left behind".to_owned()))
        }
        Ok(records) => found.extend(records.iter().map(|record| {
            of("other drills", Verdict::Warning, format!("drill {} runs or was left behind", record.drill)).change(way_out(&record.drill))
        })),
        Err(error) => found.push(of("other drills", Verdict::Warning, error.to_string())),
    }
    let leases = cluster.list_all(&cluster.api::<Lease>(namespace), None, &format!("list Leases in namespace {namespace}")).await;
    match leases {
        Ok(leases) => {
            let ours = leases.iter().filter(|lease| lease.labels().contains_key(labels::DRILL));
            let in_the_way = ours.filter(|lease| plan.is_some_and(|plan| plan.leases.contains(&lease.name_any())));
            found.extend(in_the_way.map(|lease| {
                let drill = lease.labels().get(labels::DRILL).map_or("", String::as_str);
                let name = lease.name_any();
                let place =
                    name.strip_prefix("ns-").map(|n| format!("namespace {n}")).or(name.strip_prefix("node-").map(|n| format!("node {n}")));
                let place = place.unwrap_or_else(|| name.clone());
                of("Leases", Verdict::No, format!("drill {drill} has {place}, which this one needs")).change(way_out(drill))
            }));
        }
        Err(error) => found.push(of("Leases", Verdict::Warning, error.to_string())),
    }
    found
}

async fn other_tools(cluster: &Cluster, plan: Option<&Plan>) -> Finding {
    let of = |verdict, found: String| Finding::new(Area::Drill, "other chaos tools", verdict, found);
    let namespaces: BTreeSet<String> = plan.map(|plan| plan.scope.namespaces.iter().cloned().collect()).unwrap_or_default();
    let others = match others::look(cluster, &namespaces, Fresh::Now).await {
        Ok(others) => others,
        Err(error) => return of(Verdict::No, error.to_string()).change("no fault is injected while this is not known"),
    };
    if let Some(unseen) = others.unseen.first() {
        return of(Verdict::Warning, unseen.clone());
    }
    let there: Vec<&str> = [Tool::ChaosMesh, Tool::Litmus]
        .into_iter()
        .filter(|tool| others.kinds.iter().any(|(group, _)| group == tool.group()))
        .map(Tool::name)
        .collect();
    match (there.is_empty(), others.experiments.len()) {
        (true, _) => of(Verdict::Ok, "neither Chaos Mesh nor Litmus is here".to_owned()),
        (false, 0) => of(Verdict::Ok, format!("{}: no experiment is live", there.join(", "))),
        // One in scope keeps the plan from being made, and is told there.
        (false, n) => {
            of(Verdict::Warning, format!("{}: {n} not at rest in the cluster, none of them live where this drill acts", there.join(", ")))
        }
    }
}

fn planned(plan: &Plan) -> Finding {
    let faults = plan.leaf_steps().iter().filter(|step| step.fault.is_some()).count();
    let blast = plan.scope.blast;
    let parts = [("pod", blast.pods), ("node", blast.nodes), ("volume", blast.volumes), ("object", blast.objects)];
    let on: Vec<String> = parts.into_iter().filter(|(_, n)| *n > 0).map(|(what, n)| counted(n, what)).collect();
    let on = if on.is_empty() { "nothing".to_owned() } else { on.join(", ") };
    let found = format!("can be made: {} on {on}", counted(faults, "fault"));
    let of = |verdict, found| Finding::new(Area::Drill, "plan", verdict, found);
    match plan.warnings.len() {
        0 => of(Verdict::Ok, found),
        n => of(Verdict::Ok, format!("{found}; `firedrill plan` has {} under \"Look at this\"", counted(n, "remark"))),
    }
}

/// Whether this user has the permissions; and what is denied.
async fn rights(cluster: &Cluster, plan: &Plan) -> (Finding, Vec<String>) {
    let asked =
        plan.rbac.iter().map(|permission| async move { (permission, may::missing(cluster, std::slice::from_ref(permission)).await) });
    let answers: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    let (mut denied, mut optional, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for (permission, missing) in answers {
        let into = if others::is_optional(permission) { &mut optional } else { &mut denied };
        into.extend(missing.denied);
        unknown.extend(missing.unknown);
    }
    let of = |verdict, found: String| Finding::new(Area::Drill, "permissions", verdict, found);
    let some = |all: &[String]| {
        let more = if all.len() > 8 { format!(" and {} more", all.len() - 8) } else { String::new() };
        all.iter().take(8).cloned().collect::<Vec<_>>().join(", ") + &more
    };
    let grant = "`firedrill plan FILE --rbac` prints what an owner has to apply";
    let finding = if !denied.is_empty() {
        of(Verdict::No, format!("this user may not {}", some(&denied))).change(grant)
    } else if let Some(first) = unknown.first() {
        of(Verdict::Warning, format!("it is not known of all: {first}"))
    } else if !optional.is_empty() {
        of(Verdict::Warning, format!("all that are needed; but not {}", some(&optional))).change(grant)
    } else {
        of(Verdict::Ok, format!("this user has all {} that the plan needs", plan.rbac.len()))
    };
    (finding, denied)
}

/// Which nodes helpers of a plan work on, and what they need there.
struct Nodes {
    names: BTreeSet<String>,
    volumes: bool,
    partitions: bool,
}

fn of_plan(plan: &Plan) -> Nodes {
    let mut nodes = Nodes { names: BTreeSet::new(), volumes: false, partitions: false };
    for step in helpers(plan) {
        nodes.names.extend(on(plan, step));
        nodes.volumes |= needs_volumes(step);
        nodes.partitions |= step.spec.inject.as_ref().is_some_and(|fault| fault.partition.is_some());
    }
    nodes
}

fn needs_volumes(step: &PlannedStep) -> bool {
    step.spec.inject.as_ref().is_some_and(|fault| fault.fill_disk.is_some() || fault.corrupt_file.is_some() || fault.delete_files.is_some())
}

/// The steps whose faults need a helper on a node.
fn helpers(plan: &Plan) -> impl Iterator<Item = &PlannedStep> {
    let on_nodes = |step: &&PlannedStep| step.spec.inject.as_ref().and_then(kinds::fault).is_some_and(|view| view.helper);
    plan.leaf_steps().into_iter().filter(on_nodes).filter(move |step| !pods::is_inside(plan, step))
}

/// The nodes on which a step's helpers work, as far as the plan knows: a claim is on whichever node has it when it is needed.
fn on(plan: &Plan, step: &PlannedStep) -> BTreeSet<String> {
    let target = step.spec.inject.as_ref().and_then(kinds::fault).and_then(|view| plan.targets.get(view.target?));
    let chosen = target.into_iter().flat_map(|target| target.chosen());
    chosen
        .map(|object| if object.kind == "Node" { object.name.clone() } else { object.node.clone() })
        .filter(|node| !node.is_empty())
        .collect()
}

/// Findings of nodes; those on which no helper can do its work, with why; and the others.
type OfNodes = (Vec<Finding>, BTreeMap<String, String>, Vec<String>);

async fn nodes_of(cluster: &Cluster, own: &OwnPlace, wanted: Option<Nodes>) -> OfNodes {
    let unread = |error: &dyn std::fmt::Display| {
        Finding::new(Area::Nodes, "nodes", Verdict::Warning, format!("their kernels are not known: {error}"))
    };
    let (nodes, volumes, partitions) = match wanted {
        Some(wanted) => {
            let mut nodes = Vec::new();
            for name in wanted.names.iter().take(NODES) {
                match cluster.get_cluster_opt::<Node>(name).await {
                    Ok(node) => nodes.extend(node),
                    Err(error) => return (vec![unread(&error)], BTreeMap::new(), wanted.names.into_iter().take(NODES).collect()),
                }
            }
            (nodes, wanted.volumes, wanted.partitions)
        }
        None => match cluster.call("list nodes", cluster.cluster_api::<Node>().list(&ListParams::default().limit(500))).await {
            Ok(nodes) => (nodes.items.into_iter().take(NODES).collect(), true, true),
            Err(error) => return (vec![unread(&error)], BTreeMap::new(), Vec::new()),
        },
    };
    let mut blocked = BTreeMap::new();
    let (mut found, mut fit) = (Vec::new(), Vec::new());
    for node in &nodes {
        let name = node.name_any();
        let finding = facts::node(node, &name, &own.image, volumes, partitions);
        if finding.verdict == Verdict::No {
            blocked.insert(name, format!("{}: {}", finding.found, finding.change.clone().unwrap_or_default()));
        } else {
            fit.push(name);
        }
        found.push(finding);
    }
    (found, blocked, fit)
}

/// Tries the pods that the drill would place; what keeps one off a node is added to what is known of it. The empty node stands for all.
async fn trials(
    cluster: &Cluster,
    environment: &Environment,
    plan: Option<&Plan>,
    blocked: &BTreeMap<String, String>,
) -> (Vec<Finding>, BTreeMap<String, String>) {
    let own = &environment.spec.firedrill;
    let mut blocked = blocked.clone();
    let mut kinds: Vec<(String, AgentKind)> = Vec::new();
    let avoid_nodes = plan.map(|plan| plan.scope.nodes.clone()).unwrap_or_default();
    if plan.is_none_or(|plan| plan.probes.values().any(|probe| probe.from == Vantage::Cluster)) {
        kinds.push(("observer".to_owned(), AgentKind::Observer { avoid_nodes: avoid_nodes.clone() }));
    }
    let watchdog = plan.map_or(own.guard(), Plan::guarded_by);
    if let Some(watchdog) = watchdog {
        let (service_account, lease) = (watchdog.service_account.clone(), Dur::from_secs(15));
        kinds.push(("watchdog".to_owned(), AgentKind::Watchdog { avoid_nodes, service_account, lease }));
    }
    let nodes: BTreeSet<String> = match plan {
        Some(plan) => helpers(plan).flat_map(|step| on(plan, step)).collect(),
        // No node of this name is asked for: admission does not look.
        None => BTreeSet::from(["any".to_owned()]),
    };
    if own.node_helpers {
        let all = nodes.iter().take(NODES);
        kinds.extend(all.map(|node| {
            (format!("node helper on {node}"), AgentKind::NodeHelper { node: node.clone(), may_lose: false, critical: false })
        }));
    }
    let mut found = Vec::new();
    if !own.node_helpers && !nodes.is_empty() {
        let said = Finding::new(Area::Place, "node helpers", Verdict::Warning, "the environment says `nodeHelpers: false`");
        found.push(said.change("faults on processes and volumes are made from within pods where that works, others that need a node are refused: allow it, or use faults that are made through the API server"));
    }
    for (what, kind) in kinds {
        let node = if let AgentKind::NodeHelper { node, .. } = &kind { Some(node.clone()) } else { None };
        let spec = PodSpec {
            kind,
            drill: DRILL.to_owned(),
            token: DRILL.to_owned(),
            runner: String::new(),
            place: own.clone(),
            ttl: Duration::from_secs(30),
            deadline: Duration::from_secs(60),
        };
        let trial = match spec.manifest() {
            Ok(pod) => {
                let params = PostParams { dry_run: true, field_manager: Some(labels::MANAGER.to_owned()) };
                let name = pod.name_any();
                let tried =
                    cluster.call(format!("try pod {}/{name}", own.namespace), cluster.api(&own.namespace).create(&params, &pod)).await;
                facts::trial(&what, &own.namespace, tried.map(drop))
            }
            Err(error) => Finding::new(Area::Place, &what, Verdict::No, error.to_string()),
        };
        if let (Verdict::No, Some(node)) = (trial.verdict, node) {
            blocked.entry(node).or_insert_with(|| trial.found.clone());
        }
        found.push(trial);
    }
    (found, blocked)
}

/// Which faults can work, by what was found before.
fn faults(environment: &Environment, plan: Option<&Plan>, denied: &[String], blocked: &BTreeMap<String, String>) -> Vec<Finding> {
    let of = |what: String, verdict, found: String| Finding::new(Area::Faults, what, verdict, found);
    let Some(plan) = plan else {
        let helper = match (environment.spec.firedrill.node_helpers, blocked.get("any")) {
            (false, _) => of("by node helpers".to_owned(), Verdict::No, "the environment says `nodeHelpers: false`".to_owned()),
            (true, Some(why)) => of("by node helpers".to_owned(), Verdict::No, format!("no helper would be taken: {why}")),
            (true, None) => of(
                "by node helpers".to_owned(),
                Verdict::Ok,
                "freeze, crash, signal, partition, fillDisk, corruptFile, deleteFiles, loseNode, loseZone, fillNodeDisk, on nodes that are ok above".to_owned(),
            ),
        };
        return vec![
            of("by the API server".to_owned(), Verdict::Ok, "podKill, scale, cutBackupJob, drainNode, cordonNode, detachService, hideSecret, loseVolume, badImage, manifest, custom, sql: with the permissions of a scenario".to_owned()),
            helper,
            of("within pods".to_owned(), Verdict::Ok, "fillDisk, corruptFile, deleteFiles, signal, and with `shareProcessNamespace: true` freeze and crash: with `placement: pod`, or where there are no node helpers".to_owned()),
        ];
    };
    let steps = plan.leaf_steps().into_iter().filter_map(|step| Some((step, step.spec.inject.as_ref().and_then(kinds::fault)?)));
    let findings = steps.map(|(step, view)| {
        let what = format!("{} ({})", view.kind, step.title);
        let missing = may::lacking(&rbac::of_one(plan, step), denied);
        if !missing.is_empty() {
            return of(what, Verdict::No, format!("this user may not {}", missing.join(", ")));
        }
        if !view.helper {
            return of(what, Verdict::Ok, "through the API server".to_owned());
        }
        if pods::is_inside(plan, step) {
            return of(what, Verdict::Ok, "by an agent within the target's pods".to_owned());
        }
        let nodes = on(plan, step);
        match nodes.iter().find_map(|node| Some((node, blocked.get(node)?))) {
            Some((node, why)) => of(what, Verdict::No, format!("no helper can do it on {node}: {why}")),
            None if nodes.is_empty() => {
                of(what, Verdict::Warning, "by a helper on the node that has the volume mounted by then, which is not known now".to_owned())
            }
            None => of(what, Verdict::Ok, format!("by a helper on {}", nodes.into_iter().collect::<Vec<_>>().join(", "))),
        }
    });
    findings.collect()
}
