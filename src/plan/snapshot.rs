//! Reading what a plan is made of. The only I/O of planning, and it only reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{Namespace, Node, PersistentVolumeClaim, Pod, Secret, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, ResourceExt as _,
    api::ListParams,
    core::{GroupVersion, GroupVersionKind, Selector},
};

pub use super::seen::*;
use super::{
    claims,
    make::{Inputs, Refused, make},
    manifest, others, resolve,
    rollout::{self, Rolls},
    types::Plan,
    wants::{PodWants, Wants},
};
use crate::{
    cluster::{Cluster, ClusterError, Fresh},
    labels,
    scenario::{
        Loaded,
        types::{Environment, Scenario},
    },
};

/// How many reads are under way at once.
const AT_ONCE: usize = 8;
/// How long reading everything may take.
const IN_ALL: Duration = Duration::from_secs(60);

/// Reads what a scenario in an environment needs to be planned.
///
/// # Errors
/// The first read that failed, named; that something does not exist is not an error but absent from the snapshot.
pub async fn take(cluster: &Cluster, scenario: &Scenario, environment: &Environment) -> Result<Snapshot, ClusterError> {
    read(cluster, &Wants::of(scenario, environment), Fresh::Now).await
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum NoPlan {
    /// The cluster could not be looked at.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The drill may not be run there.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Looks at a cluster and makes the plan of a scenario there; `runbooks` are its runbooks' and manifests' texts by file.
///
/// # Errors
/// As in [`NoPlan`].
pub async fn plan_on(
    cluster: &Cluster,
    loaded: &Loaded,
    environment: &Environment,
    runbooks: &BTreeMap<String, String>,
    seed: u64,
) -> Result<Plan, NoPlan> {
    let mut wants = Wants::of(&loaded.scenario, environment);
    for object in manifest::all(loaded, runbooks) {
        wants.kinds.insert((object.api_version, object.kind));
        wants.namespaces.insert(object.namespace);
    }
    let (snapshot, others) = tokio::join!(read(cluster, &wants, Fresh::Now), others::look(cluster, &wants.namespaces, Fresh::Now));
    let snapshot = Snapshot { others: others?, ..snapshot? };
    Ok(make(&Inputs {
        scenario: &loaded.scenario,
        scenario_sha256: &loaded.sha256,
        parameters: &loaded.parameters,
        environment,
        snapshot: &snapshot,
        seed,
        runbooks,
    })?)
}

/// Reads what is wanted, lists as new as is asked for; what is read by its name is never older than the request.
///
/// # Errors
/// As [`take`].
pub async fn read(cluster: &Cluster, wants: &Wants, fresh: Fresh) -> Result<Snapshot, ClusterError> {
    let what = "read the cluster for the plan";
    tokio::time::timeout(IN_ALL, read_all(cluster, wants, fresh))
        .await
        .unwrap_or_else(|_| Err(ClusterError::TimedOut { what: what.to_owned(), after: IN_ALL }))
}

/// One thing to read.
enum Want<'a> {
    Namespace(&'a str),
    Object(&'a ObjectKey),
    MaybeService(&'a str, &'a str),
    Kind(&'a str, &'a str),
    Budgets(&'a str),
    Pods(&'a str, Option<String>),
    Nodes,
    OwnNodes,
    OnNode(&'a str),
}

/// What was read.
enum Found {
    Namespace(String, NamespaceSeen),
    Object(ObjectKey, ObjectSeen),
    Kind(String, String, KindSeen),
    Budgets(String, Vec<BudgetSeen>),
    /// With whether firedrill's own were among them.
    Pods(String, Vec<(String, PodSeen)>, bool),
    Nodes(Vec<(String, NodeSeen)>),
    OwnNodes(Vec<String>),
    OnNode(String, Vec<OnNode>),
    Unreadable(String),
    Nothing,
}

async fn read_all(cluster: &Cluster, wants: &Wants, fresh: Fresh) -> Result<Snapshot, ClusterError> {
    let mut snapshot = Snapshot { cluster_uid: cluster.uid.clone(), cluster_name: cluster.name.clone(), ..Snapshot::default() };
    let mut list: Vec<Want<'_>> = wants.namespaces.iter().map(|n| Want::Namespace(n)).collect();
    list.extend(wants.objects.iter().map(Want::Object));
    list.extend(wants.maybe_services.iter().map(|(namespace, name)| Want::MaybeService(namespace, name)));
    list.extend(wants.kinds.iter().map(|(version, kind)| Want::Kind(version, kind)));
    list.extend(wants.budgets.iter().map(|n| Want::Budgets(n)));
    for (namespace, pods) in &wants.pods {
        match pods {
            PodWants::All => list.push(Want::Pods(namespace, None)),
            PodWants::Selected(selectors) => list.extend(selectors.iter().map(|s| Want::Pods(namespace, Some(s.clone())))),
        }
    }
    if wants.nodes {
        list.extend([Want::Nodes, Want::OwnNodes]);
    }
    gather(cluster, wants, fresh, list, &mut snapshot).await?;

    // The pods of workloads, whose selectors are known only now.
    let mut more = Vec::new();
    for (key, object) in &snapshot.objects {
        if let Some(selector) = &object.selector
            && !matches!(wants.pods.get(&key.namespace), Some(PodWants::All))
        {
            more.push((key.namespace.clone(), selector.to_string()));
        }
    }
    // What is on the nodes that are to be drained, which are known only now, too.
    let nodes: BTreeSet<String> = wants.drained.iter().flat_map(|target| resolve::node_names(target, &snapshot)).collect();
    let more = more.iter().map(|(namespace, selector)| Want::Pods(namespace, Some(selector.clone())));
    let more = more.chain(nodes.iter().map(|node| Want::OnNode(node))).collect();
    gather(cluster, wants, fresh, more, &mut snapshot).await?;
    let all: BTreeSet<String> = snapshot.on_nodes.values().flatten().map(|on| on.namespace.clone()).collect();
    let more = all.iter().filter(|n| !snapshot.namespaces.contains_key(*n)).map(|n| Want::Namespace(n)).collect();
    gather(cluster, wants, fresh, more, &mut snapshot).await?;
    Ok(snapshot)
}

async fn gather(cluster: &Cluster, wants: &Wants, fresh: Fresh, list: Vec<Want<'_>>, into: &mut Snapshot) -> Result<(), ClusterError> {
    let mut reads = stream::iter(list.into_iter().map(|want| one(cluster, wants, fresh, want))).buffer_unordered(AT_ONCE);
    while let Some(found) = reads.next().await {
        match found? {
            Found::Namespace(name, seen) => drop(into.namespaces.insert(name, seen)),
            Found::Object(key, seen) => drop(into.objects.insert(key, seen)),
            Found::Kind(version, kind, seen) => drop(into.kinds.insert((version, kind), seen)),
            Found::Budgets(namespace, seen) => drop(into.budgets.insert(namespace, seen)),
            Found::Pods(namespace, pods, own) => {
                into.own_pods.extend(own.then(|| namespace.clone()));
                into.pods.entry(namespace).or_default().extend(pods);
            }
            Found::Nodes(nodes) => into.nodes.extend(nodes),
            Found::OwnNodes(nodes) => into.own_nodes.extend(nodes.into_iter().filter(|n| !n.is_empty())),
            Found::OnNode(node, pods) => drop(into.on_nodes.insert(node, pods)),
            Found::Unreadable(what) => into.unreadable.push(what),
            Found::Nothing => {}
        }
    }
    into.unreadable.sort();
    Ok(())
}

async fn one(cluster: &Cluster, wants: &Wants, fresh: Fresh, want: Want<'_>) -> Result<Found, ClusterError> {
    match want {
        Want::Namespace(name) => {
            let seen = cluster.get_cluster_opt::<Namespace>(name).await?;
            Ok(seen.map_or(Found::Nothing, |n| Found::Namespace(name.to_owned(), NamespaceSeen::of(&n))))
        }
        Want::Object(key) => Ok(object(cluster, key).await?.map_or(Found::Nothing, |seen| Found::Object(key.clone(), seen))),
        Want::MaybeService(namespace, name) => {
            let key = ObjectKey::new(NamedKind::Service, namespace, name);
            match object(cluster, &key).await {
                Ok(seen) => Ok(seen.map_or(Found::Nothing, |seen| Found::Object(key, seen))),
                Err(error) if error.is_forbidden() && wants.namespaces.contains(namespace) => {
                    Ok(Found::Unreadable(format!("{key} may not be read, so a probe of {name}.{namespace} is taken to be from the runner")))
                }
                Err(error) if error.is_forbidden() => Ok(Found::Nothing),
                Err(error) => Err(error),
            }
        }
        Want::Kind(version, kind) => discover(cluster, version, kind).await,
        Want::Budgets(namespace) => {
            let what = format!("list PodDisruptionBudgets in namespace {namespace}");
            let keep = |budget: PodDisruptionBudget| Some(BudgetSeen::of(&budget));
            Ok(Found::Budgets(namespace.to_owned(), cluster.list_map(&cluster.api(namespace), None, &what, fresh, keep).await?))
        }
        Want::Pods(namespace, selector) => {
            let what = match &selector {
                Some(selector) => format!("list pods {selector} in namespace {namespace}"),
                None => format!("list pods in namespace {namespace}"),
            };
            let mut own = false;
            let keep = |pod: Pod| {
                let seen = PodSeen::of(&pod);
                own |= seen.is_none();
                seen.map(|seen| (pod.name_any(), seen))
            };
            let pods = cluster.list_map(&cluster.api(namespace), selector.as_deref(), &what, fresh, keep).await?;
            Ok(Found::Pods(namespace.to_owned(), pods, own))
        }
        Want::Nodes => {
            let keep = |node: Node| Some((node.name_any(), NodeSeen::of(&node)));
            Ok(Found::Nodes(cluster.list_map(&cluster.cluster_api(), None, "list nodes", fresh, keep).await?))
        }
        Want::OnNode(node) => {
            let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
            let pods = Api::<Pod>::all(cluster.client.clone());
            let pods = cluster.call(format!("list the pods on node {node}"), pods.list(&params)).await?;
            let on = |pod: &Pod| OnNode { namespace: pod.namespace().unwrap_or_default(), name: pod.name_any(), pod: PodSeen::of(pod) };
            Ok(Found::OnNode(node.to_owned(), pods.iter().filter(|pod| evictable(pod)).map(on).collect()))
        }
        Want::OwnNodes => {
            let own = &wants.own_namespace;
            let label = format!("{}={}", labels::MANAGED_BY, labels::MANAGER);
            // A helper is on the node that it is to break.
            let helper = |pod: &Pod| pod.labels().get(labels::ROLE).is_some_and(|role| role == "node-helper");
            let keep = |pod: Pod| if helper(&pod) { None } else { pod.spec.and_then(|s| s.node_name) };
            let what = format!("list firedrill's own pods in namespace {own}");
            let mut nodes = cluster.list_map(&cluster.api(own), Some(&label), &what, fresh, keep).await?;
            nodes.extend(std::env::var("NODE_NAME"));
            Ok(Found::OwnNodes(nodes))
        }
    }
}

async fn object(cluster: &Cluster, key: &ObjectKey) -> Result<Option<ObjectSeen>, ClusterError> {
    let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
    let plain = |uid: Option<String>| ObjectSeen { uid: uid.unwrap_or_default(), ..ObjectSeen::default() };
    let workload = |uid: Option<String>, replicas: Option<i32>, selector: Option<LabelSelector>| ObjectSeen {
        uid: uid.unwrap_or_default(),
        // The API's default for both kinds is 1.
        replicas: Some(u32::try_from(replicas.unwrap_or(1)).unwrap_or(0)),
        selector: selector.and_then(|s| Selector::try_from(s).ok()).filter(|s| !s.selects_all()),
        ..ObjectSeen::default()
    };
    Ok(match key.kind {
        NamedKind::Deployment => cluster.get_opt::<Deployment>(namespace, name).await?.map(|d| {
            let (uid, rolls) = (d.uid(), rolls(&d));
            let (replicas, selector) = d.spec.map_or((None, None), |s| (s.replicas, Some(s.selector)));
            ObjectSeen { unfit: rolls.0, takes: rolls.1, containers: rolls.2, ..workload(uid, replicas, selector) }
        }),
        NamedKind::StatefulSet => cluster.get_opt::<StatefulSet>(namespace, name).await?.map(|s| {
            let (uid, rolls) = (s.uid(), rolls(&s));
            let (replicas, selector) = s.spec.map_or((None, None), |s| (s.replicas, Some(s.selector)));
            ObjectSeen { unfit: rolls.0, takes: rolls.1, containers: rolls.2, ..workload(uid, replicas, selector) }
        }),
        NamedKind::CronJob => cluster
            .get_opt::<CronJob>(namespace, name)
            .await?
            .map(|c| ObjectSeen { suspended: c.spec.as_ref().is_some_and(|s| s.suspend == Some(true)), ..plain(c.uid()) }),
        NamedKind::Job => cluster.get_opt::<Job>(namespace, name).await?.map(|j| plain(j.uid())),
        NamedKind::PersistentVolumeClaim => cluster.get_opt::<PersistentVolumeClaim>(namespace, name).await?.map(|c| {
            let volume = c.spec.as_ref().and_then(|s| s.volume_name.clone()).unwrap_or_default();
            ObjectSeen { volume, unfit: claims::unfit(&c), ..plain(c.uid()) }
        }),
        NamedKind::Service => cluster.get_opt::<Service>(namespace, name).await?.map(|s| {
            let unfit = not_detachable(&s).map(str::to_owned);
            ObjectSeen { unfit, ..plain(s.uid()) }
        }),
        // Its metadata alone: planning has no business with what is in it.
        NamedKind::Secret => {
            let api = cluster.api::<Secret>(namespace);
            cluster.call(format!("read the metadata of {key}"), api.get_metadata_opt(name)).await?.map(|s| plain(s.uid()))
        }
    })
}

fn rolls(workload: &impl Rolls) -> (Option<String>, u32, Vec<String>) {
    (workload.unfit(), workload.takes(), rollout::containers(workload))
}

async fn discover(cluster: &Cluster, version: &str, kind: &str) -> Result<Found, ClusterError> {
    let Ok(group_version) = version.parse::<GroupVersion>() else { return Ok(Found::Nothing) };
    let gvk = GroupVersionKind::gvk(&group_version.group, &group_version.version, kind);
    let what = format!("ask the API server for the kind {version} {kind}");
    match cluster.call(what, kube::discovery::pinned_kind(&cluster.client, &gvk)).await {
        Ok((resource, capabilities)) => {
            let namespaced = capabilities.scope == kube::discovery::Scope::Namespaced;
            Ok(Found::Kind(version.to_owned(), kind.to_owned(), KindSeen { group: resource.group, plural: resource.plural, namespaced }))
        }
        Err(error) if error.is_not_found() || error.is_missing_kind() => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}
