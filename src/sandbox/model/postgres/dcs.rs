//! Where members agree on who leads: annotations of Endpoints in the API server, as Patroni has them on Kubernetes
//! (`patroni.dcs.kubernetes`), written as the pod's service account.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Endpoints, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::PORT;
use crate::lean::LeanPod;

/// How long one request may take (`retry_timeout` of Patroni in the shop).
pub(super) const LIMIT: Duration = Duration::from_secs(3);

/// A member, as its pod says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) address: String,
    /// What it said of itself last.
    pub(super) state: String,
    pub(super) timeline: Option<u32>,
    pub(super) lsn: Option<u64>,
    role: String,
}

/// What all know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// The one who has the lock; empty: nobody.
    pub(super) leader: String,
    /// When it was renewed last, by its own word.
    pub(super) renewed: String,
    acquired: String,
    transitions: u64,
    /// Of the object with the lock; none: it is not there.
    version: Option<String>,
    /// The synchronous replica; none: there is none.
    pub(super) synchronous: Option<String>,
    sync_leader: String,
    sync_version: Option<String>,
    /// The cluster was made once, and this is its number.
    pub(super) system: Option<u64>,
    pub(super) members: Vec<Member>,
}

impl View {
    /// A member.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Whether a member may lead: in synchronous mode the leader before, and its synchronous replica.
    pub(super) fn may_lead(&self, name: &str) -> bool {
        self.sync_version.is_none() || self.sync_leader.is_empty() || self.sync_leader == name || self.synchronous.as_deref() == Some(name)
    }
}

/// Why something was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// Somebody else was faster.
    Conflict,
    /// The API server gave no good answer.
    Away(String),
}

/// The members' common place.
#[derive(Clone)]
pub(super) struct Dcs {
    client: Client,
    namespace: String,
    /// The name of the objects, and of the Service that leads to the leader.
    scope: String,
    /// Of all objects and pods: `cluster=orders`.
    label: (String, String),
    /// Whether the way to the API server is open.
    online: Arc<dyn Fn() -> bool + Send + Sync>,
}

type Written<T> = Result<T, Failed>;

fn failed(error: kube::Error) -> Failed {
    match error {
        kube::Error::Api(status) if status.code == 409 => Failed::Conflict,
        other => Failed::Away(other.to_string()),
    }
}

impl Dcs {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        scope: &str,
        label: (&str, &str),
        online: Arc<dyn Fn() -> bool + Send + Sync>,
    ) -> Self {
        let label = (label.0.to_owned(), label.1.to_owned());
        Self { client, namespace: namespace.to_owned(), scope: scope.to_owned(), label, online }
    }

    async fn within<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Written<T> {
        let call = async {
            if !(self.online)() {
                std::future::pending::<()>().await;
            }
            call.await
        };
        match timeout(LIMIT, call).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(Failed::Away(format!("no answer within {LIMIT:?}"))),
        }
    }

    pub(super) fn scope(&self) -> &str {
        &self.scope
    }

    fn endpoints(&self) -> Api<Endpoints> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn selected(&self) -> ListParams {
        ListParams::default().labels(&format!("{}={}", self.label.0, self.label.1))
    }

    fn labels(&self) -> Value {
        let mut labels = json!({"cluster-name": self.scope});
        labels[&self.label.0] = Value::from(self.label.1.as_str());
        labels
    }

    /// Reads all.
    ///
    /// # Errors
    /// No good answer.
    pub(super) async fn load(&self) -> Written<View> {
        let objects = self.within(self.endpoints().list(&self.selected())).await?.items;
        let pods: Api<LeanPod> = Api::namespaced(self.client.clone(), &self.namespace);
        let pods = self.within(pods.list(&self.selected())).await?.items;
        let mut view = View::default();
        let note = |object: &Endpoints, name: &str| object.annotations().get(name).cloned().unwrap_or_default();
        for object in &objects {
            let name = object.name_any();
            let version = object.resource_version();
            if name == self.scope {
                view.leader = note(object, "leader");
                view.renewed = note(object, "renewTime");
                view.acquired = note(object, "acquireTime");
                view.transitions = note(object, "transitions").parse().unwrap_or(0);
                view.version = version;
            } else if name == format!("{}-sync", self.scope) {
                view.synchronous = Some(note(object, "sync_standby")).filter(|name| !name.is_empty());
                view.sync_leader = note(object, "leader");
                view.sync_version = version;
            } else if name == format!("{}-config", self.scope) {
                view.system = note(object, "initialize").parse().ok();
            }
        }
        view.members = pods.into_iter().map(Pod::from).filter_map(|pod| member(&pod)).collect();
        view.members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(view)
    }

    /// Calls whenever nobody has the lock any more, for as long as it is polled: those who wait for it need not wait for their turn.
    pub(super) async fn watch(&self, freed: impl Fn()) {
        let params = WatchParams::default().fields(&format!("metadata.name={}", self.scope));
        let mut held = false;
        loop {
            // Ends with the API server's time, or an error; what is missed meanwhile the next turn sees.
            if let Ok(events) = self.endpoints().watch(&params, "0").await {
                let mut events = std::pin::pin!(events);
                while let Some(Ok(event)) = events.next().await {
                    let (WatchEvent::Added(lock) | WatchEvent::Modified(lock)) = event else { continue };
                    let leader = lock.annotations().get("leader").is_some_and(|leader| !leader.is_empty());
                    if held && !leader && (self.online)() {
                        freed();
                    }
                    held = leader;
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Claims the making of the cluster.
    ///
    /// # Errors
    /// Somebody else has, or no good answer.
    pub(super) async fn initialize(&self, system: u64) -> Written<()> {
        let name = format!("{}-config", self.scope);
        let annotations = json!({"initialize": system.to_string()});
        self.write(&name, None, annotations, None).await
    }

    /// Takes the lock or renews it. Whoever has it is where the Service leads to.
    ///
    /// # Errors
    /// Somebody else was faster, or no good answer.
    pub(super) async fn hold(&self, view: &View, me: &Member, lsn: u64, now: &str, ttl: Duration) -> Written<()> {
        let own = view.leader == me.name;
        let (acquired, transitions) = if own { (view.acquired.as_str(), view.transitions) } else { (now, view.transitions + 1) };
        let annotations = json!({
            "leader": me.name, "renewTime": now, "acquireTime": acquired, "transitions": transitions.to_string(),
            "ttl": ttl.as_secs().to_string(), "optime": lsn.to_string(),
        });
        let target = json!({"kind": "Pod", "namespace": self.namespace, "name": me.name});
        let subsets = json!([{
            "addresses": [{"ip": me.address, "hostname": me.name, "targetRef": target}],
            "ports": [{"name": "postgresql", "port": PORT, "protocol": "TCP"}],
        }]);
        self.write(&self.scope, view.version.as_deref(), annotations, Some(subsets)).await
    }

    /// Gives the lock back: another may take it at once.
    ///
    /// # Errors
    /// Somebody else has changed it, or no good answer.
    pub(super) async fn release(&self, view: &View, lsn: u64, ttl: Duration) -> Written<()> {
        let annotations = json!({
            "leader": "", "renewTime": view.renewed, "acquireTime": view.acquired, "transitions": view.transitions.to_string(),
            "ttl": ttl.as_secs().to_string(), "optime": lsn.to_string(),
        });
        self.write(&self.scope, view.version.as_deref(), annotations, Some(json!([]))).await
    }

    /// Says which replica is the synchronous one: with the leader the only one that may lead next.
    ///
    /// # Errors
    /// Somebody else was faster, or no good answer.
    pub(super) async fn set_synchronous(&self, view: &View, leader: &str, standby: Option<&str>) -> Written<()> {
        if view.sync_version.is_some() && view.sync_leader == leader && view.synchronous.as_deref() == standby {
            return Ok(());
        }
        let annotations = json!({"leader": leader, "sync_standby": standby.unwrap_or_default()});
        self.write(&format!("{}-sync", self.scope), view.sync_version.as_deref(), annotations, None).await
    }

    async fn write(&self, name: &str, version: Option<&str>, annotations: Value, subsets: Option<Value>) -> Written<()> {
        let mut object =
            json!({"metadata": {"name": name, "namespace": self.namespace, "labels": self.labels(), "annotations": annotations}});
        if let Some(subsets) = subsets {
            object["subsets"] = subsets;
        }
        if let Some(version) = version {
            object["metadata"]["resourceVersion"] = Value::from(version);
        }
        let object: Endpoints = serde_json::from_value(object).map_err(|error| Failed::Away(error.to_string()))?;
        let api = self.endpoints();
        let params = PostParams { field_manager: Some("patroni".to_owned()), ..PostParams::default() };
        match version {
            Some(_) => self.within(api.replace(name, &params, &object)).await.map(drop),
            None => self.within(api.create(&params, &object)).await.map(drop),
        }
    }

    /// Says of a pod what its member is: its role as a label, the rest as an annotation.
    ///
    /// # Errors
    /// No good answer.
    pub(super) async fn tell(&self, pod: &str, role: &str, status: &Value) -> Written<()> {
        let patch = json!({"metadata": {"labels": {"role": role}, "annotations": {"status": status.to_string()}}});
        let params = PatchParams { field_manager: Some("patroni".to_owned()), ..PatchParams::default() };
        self.within(self.pods().patch(pod, &params, &Patch::Merge(patch))).await.map(drop)
    }
}

fn member(pod: &Pod) -> Option<Member> {
    let address = pod.status.as_ref()?.pod_ip.clone().filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    let status: Value = pod.annotations().get("status").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Some(Member {
        name: pod.name_any(),
        address,
        state: status["state"].as_str().unwrap_or_default().to_owned(),
        timeline: status["timeline"].as_u64().and_then(|n| u32::try_from(n).ok()),
        lsn: status["xlog_location"].as_u64(),
        role: status["role"].as_str().unwrap_or_default().to_owned(),
    })
}

impl Member {
    /// This one, of which nothing has to be read.
    pub(super) fn own(name: &str, address: &str) -> Self {
        let (name, address) = (name.to_owned(), address.to_owned());
        Self { name, address, state: String::new(), timeline: None, lsn: None, role: String::new() }
    }
}

/// The members as `patronictl list` shows them: member, host, role, state, timeline, lag in megabytes.
pub(super) fn listed(view: &View) -> Vec<BTreeMap<&'static str, Value>> {
    let top = view.member(&view.leader).and_then(|leader| leader.lsn);
    let rows = view.members.iter().filter(|member| !member.state.is_empty()).map(|member| {
        let leads = member.name == view.leader;
        let role = match (leads, view.synchronous.as_deref() == Some(&member.name)) {
            (true, _) => "Leader",
            (_, true) => "Sync Standby",
            _ => "Replica",
        };
        let lag = match (top, member.lsn) {
            _ if leads => Value::from(""),
            (Some(top), Some(lsn)) => Value::from(top.saturating_sub(lsn).div_ceil(1 << 20).saturating_sub(1)),
            _ => Value::from("unknown"),
        };
        let timeline = member.timeline.map_or_else(|| Value::from(""), Value::from);
        let texts = [("Member", &member.name), ("Host", &member.address), ("State", &member.state)];
        let mut row: BTreeMap<&'static str, Value> = texts.into_iter().map(|(key, text)| (key, Value::from(text.as_str()))).collect();
        row.extend([("Role", Value::from(role)), ("TL", timeline), ("Lag in MB", lag)]);
        row
    });
    rows.collect()
}
