//! What the faults of a drill touched: objects of the cluster, and what no request to its API shows, such as processes, files, traffic
//! and rows.

use std::collections::BTreeMap;

use crate::{
    fault::{CronJobChange, OnVolume, PodOnNode, PodRef, ProcessFault, Undo, VolumeAct},
    journal::{Event, FaultId, Record},
    plan::Plan,
};

/// What one fault touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// A line each.
    pub(crate) lines: Vec<String>,
    /// Whether all of it was written through the API server.
    pub(crate) by_api: bool,
}

/// By fault. One that has an intent and was not seen to be injected may have touched it, or a part of it.
pub(crate) fn of(records: &[Record], plan: &Plan) -> BTreeMap<FaultId, Touched> {
    let mut all: BTreeMap<FaultId, Touched> = BTreeMap::new();
    let mut injected = Vec::new();
    for record in records {
        match &record.event {
            Event::Intent { fault, undo, .. } => drop(all.insert(*fault, one(undo, statement(plan, *fault)))),
            Event::Injected { fault, .. } => injected.push(*fault),
            _ => {}
        }
    }
    for (_, touched) in all.iter_mut().filter(|(fault, _)| !injected.contains(fault)) {
        touched.lines.iter_mut().for_each(|line| line.push_str(" (perhaps, or in part: it was not seen to be injected)"));
    }
    all
}

/// What faults touched that no write to the API server shows.
pub(crate) fn beyond_api(records: &[Record]) -> Vec<String> {
    let Some(Event::Started { plan, .. }) = records.first().map(|r| &r.event) else { return Vec::new() };
    of(records, plan).into_values().filter(|touched| !touched.by_api).flat_map(|touched| touched.lines).collect()
}

/// The statement of a fault on rows.
fn statement(plan: &Plan, fault: FaultId) -> Option<&str> {
    let step = plan.leaf_steps().into_iter().find(|step| step.fault == Some(fault))?;
    Some(step.spec.inject.as_ref()?.sql.as_ref()?.statement.as_str())
}

fn one(undo: &Undo, statement: Option<&str>) -> Touched {
    let (by_api, lines) = match undo {
        Undo::Deleted { pods, .. } => (true, pods.iter().map(|pod| format!("{}: deleted", pod_ref(pod))).collect()),
        Undo::Scale { namespace, kind, name, before, set, .. } => {
            (true, vec![format!("{kind} {namespace}/{name}: replicas, from {before} to {set}")])
        }
        Undo::CronJob { namespace, name, change, .. } => {
            let line = match change {
                CronJobChange::Suspended { .. } => format!("CronJob {namespace}/{name}: suspended"),
                CronJobChange::JobKilled { job, .. } => format!("Job {namespace}/{job}: deleted"),
                CronJobChange::Emptied { .. } => format!("CronJob {namespace}/{name}: its containers' commands"),
            };
            (true, vec![line])
        }
        Undo::Cordon { nodes } => (true, nodes.iter().map(|node| format!("Node {}: cordoned", node.name)).collect()),
        Undo::Drain { nodes, pods, .. } => {
            let cordoned = nodes.iter().map(|node| format!("Node {}: cordoned", node.name));
            (true, cordoned.chain(pods.iter().map(|pod| format!("{}: evicted", pod_ref(pod)))).collect())
        }
        Undo::Service { namespace, name, .. } => (true, vec![format!("Service {namespace}/{name}: its selector")]),
        Undo::Image { namespace, kind, name, images, .. } => {
            let of = images.iter().map(|image| image.container.as_str()).collect::<Vec<_>>().join(", ");
            (true, vec![format!("{kind} {namespace}/{name}: image of {of}")])
        }
        Undo::Secret { namespace, name, .. } => (true, vec![format!("Secret {namespace}/{name}: taken away")]),
        Undo::Manifest { kind, namespace, name, .. } => (true, vec![format!("{kind} {namespace}/{name}: made")]),
        Undo::Claim(lost) => {
            let fate = if lost.set_aside { "set aside" } else { "left to its reclaim policy" };
            let claim = format!("Claim {}/{}: made anew, its volume {} {fate}", lost.namespace, lost.name, lost.volume);
            (true, std::iter::once(claim).chain(lost.pods.iter().map(|pod| format!("{}: deleted", pod_ref(pod)))).collect())
        }
        Undo::NodeLoss { nodes, .. } => {
            let what = "kubelet, runtime and the processes of all pods stopped, network cut";
            (false, nodes.iter().map(|node| format!("Node {}: {what}", node.name)).collect())
        }
        Undo::NodeDisk { at, name } => {
            (false, at.iter().map(|disk| format!("Node {}: file {name} on the kubelet's disk", disk.node.name)).collect())
        }
        Undo::Processes { pods, how } => {
            let what = match how {
                ProcessFault::Freeze => "processes stopped",
                ProcessFault::Crash => "processes killed",
                ProcessFault::CrashHold => "processes killed, again and again",
            };
            (false, pods.iter().map(|pod| format!("{}: {what}", on_node(pod))).collect())
        }
        Undo::Signal { to, signal, .. } => {
            (false, to.iter().map(|to| format!("{}: {signal} to process `{}`", on_node(&to.pod), to.process)).collect())
        }
        Undo::Partition { pods, .. } => (false, pods.iter().map(|pod| format!("{}: traffic cut", on_node(pod))).collect()),
        Undo::Volumes { at, name } => (false, at.iter().map(|on| volume(on, name)).collect()),
        Undo::Custom { at, .. } => {
            let what = "whatever the scenario's own commands change there";
            (false, at.iter().map(|at| format!("{}, {}: {what}", pod_ref(&at.pod), at.containers.join(", "))).collect())
        }
        Undo::Job(custom) => {
            let what = "run once for each of the scenario's own commands, which change whatever they change";
            (false, vec![format!("Job {}/{}-…: {what}", custom.namespace, custom.name)])
        }
        Undo::Sql { postgres, .. } => {
            let place = postgres.service.as_ref().map_or_else(String::new, |service| format!(" of Service {service}"));
            let by = statement.map_or_else(String::new, |text| format!(", by {}", serde_json::Value::from(text)));
            (false, vec![format!("Database {}{place}: rows{by}", postgres.database)])
        }
    };
    Touched { lines, by_api }
}

fn pod_ref(pod: &PodRef) -> String {
    format!("Pod {}/{}", pod.namespace, pod.name)
}

fn on_node(pod: &PodOnNode) -> String {
    let only = if pod.containers.is_empty() { String::new() } else { format!(", {}", pod.containers.join(", ")) };
    format!("Pod {}/{}{only}", pod.namespace, pod.name)
}

fn volume(on: &OnVolume, name: &str) -> String {
    let OnVolume { pod, mount, claim, act, .. } = on;
    let place = match claim {
        Some(claim) => format!("Claim {}/{claim}", pod.namespace),
        None => format!("Volume at {mount} of Pod {}/{}", pod.namespace, pod.name),
    };
    match act {
        VolumeAct::Fill { .. } => format!("{place}: file {name}, which takes its room"),
        VolumeAct::Corrupt { path, range, .. } => {
            let length = range.as_ref().map_or_else(|| "bytes".to_owned(), |range| format!("{} bytes", range.length));
            format!("{place}: {length} of file {path}")
        }
        VolumeAct::Delete { path } => format!("{place}: files {path}, set aside in {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fault::{FillGoal, NodeRef, VolumeId},
        scenario::types::{Percent, Placement},
        verdict::tests::kit::{Tape, at},
    };

    fn pod(name: &str) -> PodOnNode {
        PodOnNode {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            node: "n1".to_owned(),
            containers: Vec::new(),
            owner: None,
            placement: Placement::Node,
        }
    }

    fn lines(undo: Undo, injected: bool) -> Vec<String> {
        let mut tape = Tape::new();
        tape.push(10, Event::Intent { fault: 0, step: "1".to_owned(), undo: Box::new(undo), objects: Vec::new() });
        if injected {
            tape.push(20, Event::Injected { fault: 0, start: at(10), end: at(20) });
        }
        beyond_api(&tape.records())
    }

    #[test]
    fn what_no_api_server_sees_is_named() {
        let freeze = Undo::Processes { pods: vec![pod("a"), pod("b")], how: ProcessFault::Freeze };
        assert_eq!(lines(freeze.clone(), true), ["Pod shop/a: processes stopped", "Pod shop/b: processes stopped"]);
        assert!(lines(freeze, false)[0].contains("(perhaps"));
        let node = |name: &str| NodeRef { name: name.to_owned(), uid: name.to_owned() };
        let lost = lines(Undo::NodeLoss { nodes: vec![node("n1"), node("n2")], name: "x".to_owned() }, true);
        assert!(lost.len() == 2 && lost[0].starts_with("Node n1: ") && lost[1].starts_with("Node n2: "), "{lost:?}");
        let on = |claim: Option<&str>| OnVolume {
            pod: pod("a"),
            container: "main".to_owned(),
            mount: "/data".to_owned(),
            sub_path: None,
            claim: claim.map(str::to_owned),
            id: VolumeId { device: String::new(), root: String::new() },
            act: VolumeAct::Fill { goal: FillGoal::Share(Percent(90.0)), over: None },
            declared: None,
        };
        let filled = lines(Undo::Volumes { at: vec![on(Some("data-a")), on(None)], name: ".firedrill-x".to_owned() }, true);
        assert_eq!(filled[0], "Claim shop/data-a: file .firedrill-x, which takes its room");
        assert!(filled[1].starts_with("Volume at /data of Pod shop/a: "), "{filled:?}");
        // The API server's log has these.
        assert!(lines(Undo::Cordon { nodes: vec![node("n1")] }, true).is_empty());
    }
}
