//! Looking at nodes by a helper on each, which is removed again.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{Area, Finding, Verdict, facts};
use crate::{
    agent::{
        self,
        host::Host,
        node::NodeReq,
        pods::{AgentKind, PodSpec, place, remove},
    },
    clock::Clock,
    cluster::{Cluster, Leave},
    scenario::types::OwnPlace,
};

/// How long a helper's pod may take to run: its image may have to be pulled.
const PLACE_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take to answer, and to be removed.
const LIMIT: Duration = Duration::from_secs(30);
/// On how many nodes at a time.
const AT_ONCE: usize = 4;

/// What a helper on each of these nodes says. Ends early, and removes what it has placed, when told to stop.
pub(super) async fn probe(cluster: &Cluster, own: &OwnPlace, clock: &Clock, nodes: &[String], stop: &CancellationToken) -> Vec<Finding> {
    let drill = format!("doctor-{:08x}", rand::random::<u32>());
    let of = |node: &String| {
        let (node, drill) = (node.clone(), drill.clone());
        async move { one(cluster, own, clock, &node, &drill, stop).await }
    };
    let found: Vec<Vec<Finding>> = stream::iter(nodes.iter().map(of)).buffered(AT_ONCE).collect().await;
    found.concat()
}

async fn one(cluster: &Cluster, own: &OwnPlace, clock: &Clock, node: &str, drill: &str, stop: &CancellationToken) -> Vec<Finding> {
    let of = |verdict, found: String| Finding::new(Area::Nodes, format!("{node}, looked at"), verdict, found);
    if stop.is_cancelled() {
        return vec![of(Verdict::Warning, "not looked at: told to stop".to_owned())];
    }
    let spec = PodSpec {
        kind: AgentKind::NodeHelper { node: node.to_owned(), may_lose: false, critical: false },
        drill: drill.to_owned(),
        token: format!("{:032x}", rand::random::<u128>()),
        runner: agent::link::runner(),
        place: own.clone(),
        ttl: LIMIT,
        deadline: PLACE_LIMIT + LIMIT,
    };
    let asked = async {
        let (link, _events, _pod) = place(cluster, &spec, &Leave::always(), clock, PLACE_LIMIT).await?;
        let host: Host = link.call("look at the node", &NodeReq::Host, LIMIT).await?;
        let ahead = link.clock_link();
        // It has nothing to undo, and is deleted in any case.
        let _ = link.bye(LIMIT).await;
        Ok::<_, crate::agent::LinkError>((host, ahead))
    };
    let answer = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        answer = asked => Some(answer),
    };
    let mut found = match answer {
        Some(Ok((host, ahead))) => facts::host(node, &host, ahead.as_ref()),
        Some(Err(error)) => {
            let change = format!("see whether node {node} can pull {} and run privileged pods", own.image);
            vec![of(Verdict::No, error.to_string()).change(change)]
        }
        None => vec![of(Verdict::Warning, "not looked at: told to stop".to_owned())],
    };
    let name = spec.kind.pod_name(drill);
    if let Err(why) = remove(cluster, &own.namespace, &name, LIMIT).await {
        let left = of(Verdict::Warning, format!("pod {}/{name} could not be removed: {why}", own.namespace));
        found.push(left.change(format!("`kubectl delete pod -n {} {name}`", own.namespace)));
    }
    found
}
