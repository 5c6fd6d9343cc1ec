//! The in-cluster record: a ConfigMap that holds what resume and revert need, from any machine; and the inbox beside
//! it, in which other commands leave word for the runner.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};

use super::{Event, JournalError, Record, Tail};
use crate::{cluster, labels, plan::Plan, scenario::types::Dur};

/// How long one call for the record may take.
const CALL_LIMIT: Dur = Dur::from_secs(10);
/// etcd refuses objects over 1.5 MiB and the API server ConfigMaps over 1 MiB.
const LARGEST_BYTES: usize = 1_000_000;

const STARTED: &str = "started.json";
const EVENTS: &str = "events.jsonl";
const HEAD: &str = "head";
const SCENARIO: &str = "scenario.yaml";

/// The record being written by the drill's runner.
#[derive(Debug)]
pub struct RecordStore {
    api: Api<ConfigMap>,
    drill: String,
    namespace: String,
    /// What the ConfigMap was when this runner last wrote it: writing against anything else fails, which is what fences
    /// a runner off that has been taken over from.
    resource_version: Option<String>,
    started: String,
    scenario: String,
    events: String,
    dirty: bool,
}

/// A record found in the cluster.
#[derive(Debug, Clone)]
pub struct StoredRecord {
    /// The drill.
    pub drill: String,
    /// Lines of the journal, in order, without those that are not recorded.
    pub lines: Vec<String>,
    /// The hash of the journal's last line when it was written.
    pub head: String,
    /// The scenario's text.
    pub scenario: String,
    resource_version: Option<String>,
}

impl StoredRecord {
    /// Its records, and the plan that the first of them holds.
    ///
    /// # Errors
    /// It is not what a drill writes.
    pub fn read(&self) -> Result<(Vec<Record>, Plan), JournalError> {
        let unreadable = |detail: String| JournalError::Record { doing: "read", name: self.drill.clone(), detail };
        let records: Result<Vec<Record>, _> = self.lines.iter().map(|line| serde_json::from_str(line)).collect();
        let records = records.map_err(|e| unreadable(e.to_string()))?;
        match records.first().map(|first| &first.event) {
            Some(Event::Started { plan, .. }) => {
                let plan = (**plan).clone();
                Ok((records, plan))
            }
            _ => Err(unreadable("it does not begin with the plan".to_owned())),
        }
    }
}

fn name_of(drill: &str) -> String {
    format!("firedrill-{drill}")
}

fn inbox_name(drill: &str) -> String {
    format!("firedrill-{drill}-inbox")
}

fn meta(drill: &str, name: String, role: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some(BTreeMap::from([
            (labels::DRILL.to_owned(), drill.to_owned()),
            (labels::ROLE.to_owned(), role.to_owned()),
            (labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned()),
        ])),
        ..ObjectMeta::default()
    }
}

pub(super) async fn limited<T>(
    doing: &'static str,
    name: &str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<Result<T, kube::Error>, JournalError> {
    tokio::time::timeout(CALL_LIMIT.0, call).await.map_err(|_| JournalError::Record {
        doing,
        name: name.to_owned(),
        detail: format!("no answer within {CALL_LIMIT}"),
    })
}

pub(super) fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

impl RecordStore {
    /// A record to be written for the first time.
    pub fn new(client: Client, namespace: &str, drill: &str, scenario: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            drill: drill.to_owned(),
            namespace: namespace.to_owned(),
            resource_version: None,
            started: String::new(),
            scenario: scenario.to_owned(),
            events: String::new(),
            dirty: false,
        }
    }

    /// Goes on with a record; the next write fails if anybody else has written since it was read.
    pub fn adopt(client: Client, namespace: &str, stored: &StoredRecord) -> Self {
        let mut lines = stored.lines.iter();
        let started = lines.next().cloned().unwrap_or_default();
        let events = lines.fold(String::new(), |all, line| all + line + "\n");
        Self {
            started,
            events,
            resource_version: stored.resource_version.clone(),
            ..Self::new(client, namespace, &stored.drill, &stored.scenario)
        }
    }

    /// Adds lines that the journal's file has and the record lacks, without writing them yet.
    pub fn push(&mut self, line: String) {
        if self.started.is_empty() {
            self.started = line;
        } else {
            self.events.push_str(&line);
            self.events.push('\n');
        }
        self.dirty = true;
    }

    fn called(&self) -> String {
        format!("{}/{}", self.namespace, name_of(&self.drill))
    }

    /// Writes what was pushed.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when somebody else has written in between; otherwise why the API server did not.
    pub async fn flush(&mut self, tail: &Tail) -> Result<(), JournalError> {
        if !self.dirty {
            return Ok(());
        }
        let called = self.called();
        let failed = |detail: String| JournalError::Record { doing: "write", name: called.clone(), detail };
        if self.started.len() + self.events.len() + self.scenario.len() > LARGEST_BYTES {
            return Err(failed("it has grown beyond what a ConfigMap can hold (1 MB)".to_owned()));
        }
        let answer = match &self.resource_version {
            None => {
                let map = ConfigMap {
                    metadata: meta(&self.drill, name_of(&self.drill), "record"),
                    data: Some(BTreeMap::from([
                        (STARTED.to_owned(), self.started.clone()),
                        (EVENTS.to_owned(), self.events.clone()),
                        (HEAD.to_owned(), format!("{} {}", tail.next_seq, tail.head)),
                        (SCENARIO.to_owned(), self.scenario.clone()),
                    ])),
                    ..ConfigMap::default()
                };
                limited("write", &called, self.api.create(&PostParams::default(), &map)).await?
            }
            Some(version) => {
                // Only what has changed goes over the wire; the plan, which is most of it, was written once.
                let patch = serde_json::json!({
                    "metadata": {"resourceVersion": version},
                    "data": {EVENTS: self.events, HEAD: format!("{} {}", tail.next_seq, tail.head)},
                });
                let params = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
                limited("write", &called, self.api.patch_metadata(&name_of(&self.drill), &params, &Patch::Merge(&patch)))
                    .await?
                    .map(|meta| ConfigMap { metadata: meta.metadata, ..ConfigMap::default() })
            }
        };
        match answer {
            Ok(map) => {
                self.resource_version = map.resource_version();
                self.dirty = false;
                Ok(())
            }
            // 409: written by somebody else; 404: somebody else has ended the drill and deleted it.
            Err(error) if matches!(status_code(&error), Some(404 | 409)) && self.resource_version.is_some() => {
                // Our own write may have been applied though its answer was lost: then the head is ours.
                self.reconcile(tail).await
            }
            Err(error) => Err(failed(cluster::why(&error))),
        }
    }

    /// After a refused write: ours after all (its answer was lost), or really somebody else's?
    async fn reconcile(&mut self, tail: &Tail) -> Result<(), JournalError> {
        let called = self.called();
        let found = limited("read", &called, self.api.get_opt(&name_of(&self.drill))).await?.map_err(|e| JournalError::Record {
            doing: "read",
            name: called.clone(),
            detail: e.to_string(),
        })?;
        if let Some(map) = found {
            let version = map.resource_version();
            let data = map.data.unwrap_or_default();
            let theirs = data.get(EVENTS).map_or("", String::as_str);
            if self.events.starts_with(theirs) && data.get(STARTED) == Some(&self.started) {
                self.resource_version = version;
                if self.events == theirs {
                    self.dirty = false;
                    return Ok(());
                }
                return Box::pin(self.flush(tail)).await;
            }
        }
        Err(JournalError::Fenced { drill: self.drill.clone() })
    }

    /// Deletes the inbox and the record, if the record is still this runner's.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when somebody else has written to it; otherwise why the API server does not do it.
    pub async fn delete(&mut self) -> Result<(), JournalError> {
        let record = name_of(&self.drill);
        let failed = |detail: String| JournalError::Record { doing: "delete", name: record.clone(), detail };
        let found = limited("read", &record, self.api.get_opt(&record)).await?.map_err(|e| failed(e.to_string()))?;
        let version = match found {
            None => None,
            Some(map) => {
                let data = map.data.as_ref();
                let theirs = data.and_then(|data| data.get(EVENTS)).map_or("", String::as_str);
                if !self.events.starts_with(theirs) || data.and_then(|data| data.get(STARTED)) != Some(&self.started) {
                    return Err(JournalError::Fenced { drill: self.drill.clone() });
                }
                map.resource_version()
            }
        };
        for (name, version) in [(inbox_name(&self.drill), None), (record.clone(), version)] {
            let preconditions = version.map(|version| Preconditions { uid: None, resource_version: Some(version) });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            match limited("delete", &name, self.api.delete(&name, &params)).await? {
                Ok(_) => {}
                Err(error) if status_code(&error) == Some(404) => {}
                Err(error) => return Err(JournalError::Record { doing: "delete", name, detail: cluster::why(&error) }),
            }
        }
        Ok(())
    }
}

/// All records in firedrill's own namespace: drills that are running, or that were left behind.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn find_records(client: &Client, namespace: &str) -> Result<Vec<StoredRecord>, JournalError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(&format!("{}=record", labels::ROLE));
    let found = limited("list", namespace, api.list(&params)).await?.map_err(|e| JournalError::Record {
        doing: "list",
        name: namespace.to_owned(),
        detail: e.to_string(),
    })?;
    Ok(found.items.into_iter().filter_map(stored).collect())
}

fn stored(map: ConfigMap) -> Option<StoredRecord> {
    let drill = map.labels().get(labels::DRILL)?.clone();
    let resource_version = map.resource_version();
    let mut data = map.data?;
    let mut lines = vec![data.remove(STARTED)?];
    lines.extend(data.remove(EVENTS).unwrap_or_default().lines().map(str::to_owned));
    let head = data.remove(HEAD).unwrap_or_default();
    let scenario = data.remove(SCENARIO).unwrap_or_default();
    Some(StoredRecord { drill, lines, head, scenario, resource_version })
}

/// The record of one drill; none when there is none: the drill has ended clean.
///
/// # Errors
/// The API server does not answer or refuses, or what is there is no record.
pub async fn find_record(client: &Client, namespace: &str, drill: &str) -> Result<Option<StoredRecord>, JournalError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let name = name_of(drill);
    let failed = |detail: String| JournalError::Record { doing: "read", name: format!("{namespace}/{name}"), detail };
    match limited("read", &name, api.get_opt(&name)).await?.map_err(|e| failed(e.to_string()))? {
        None => Ok(None),
        Some(map) => stored(map).map(Some).ok_or_else(|| failed("it is no record of a drill".to_owned())),
    }
}

/// Whether a drill's record is there, without reading what is in it.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn record_exists(client: &Client, namespace: &str, drill: &str) -> Result<bool, JournalError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let name = name_of(drill);
    let found = limited("read", &name, api.get_metadata_opt(&name)).await?;
    let found = found.map_err(|e| JournalError::Record { doing: "read", name, detail: e.to_string() })?;
    Ok(found.is_some())
}

/// The name of the ConfigMap that is a drill's record.
pub fn record_name(drill: &str) -> String {
    name_of(drill)
}

/// The inbox of a drill: a second ConfigMap, so that those who leave word do not disturb the record.
#[derive(Debug, Clone)]
pub struct Inbox {
    api: Api<ConfigMap>,
    drill: String,
}

/// Word left for the runner.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InboxItem {
    /// Who.
    pub by: String,
    /// For an acknowledgement: `done`, `refused`, `retry` or `skip`. For an abort: `abort`.
    pub action: String,
    /// A remark or reason.
    pub remark: String,
}

impl Inbox {
    /// The inbox of a drill.
    pub fn new(client: Client, namespace: &str, drill: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), drill: drill.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> String {
        inbox_name(&self.drill)
    }

    /// Makes it, empty, unless it is there.
    ///
    /// # Errors
    /// The API server does not do it.
    pub async fn create(&self) -> Result<(), JournalError> {
        let name = inbox_name(&self.drill);
        let map = ConfigMap { metadata: meta(&self.drill, name.clone(), "inbox"), ..ConfigMap::default() };
        match limited("write", &name, self.api.create(&PostParams::default(), &map)).await? {
            Ok(_) => Ok(()),
            Err(error) if status_code(&error) == Some(409) => Ok(()),
            Err(error) => Err(JournalError::Record { doing: "write", name, detail: cluster::why(&error) }),
        }
    }

    /// All that was left, by key: `abort`, `ack.<step>`.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn read(&self) -> Result<BTreeMap<String, InboxItem>, JournalError> {
        let name = inbox_name(&self.drill);
        let map = limited("read", &name, self.api.get_opt(&name)).await?.map_err(|e| JournalError::Record {
            doing: "read",
            name,
            detail: e.to_string(),
        })?;
        Ok(map
            .and_then(|m| m.data)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(key, value)| Some((key, serde_json::from_str(&value).ok()?)))
            .collect())
    }

    /// Leaves word. The drill must be running: its inbox must exist.
    ///
    /// # Errors
    /// There is no such drill, or the API server does not do it.
    pub async fn leave(&self, key: &str, item: &InboxItem) -> Result<(), JournalError> {
        let name = inbox_name(&self.drill);
        let failed = |detail: String| JournalError::Record { doing: "write", name: name.clone(), detail };
        let value = serde_json::to_string(item).map_err(|e| failed(e.to_string()))?;
        let patch = serde_json::json!({"data": {key: value}});
        match limited("write", &name, self.api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await? {
            Ok(_) => Ok(()),
            Err(error) if status_code(&error) == Some(404) => Err(failed("no such drill is running".to_owned())),
            Err(error) => Err(failed(cluster::why(&error))),
        }
    }

    /// Takes a read item away, so that the same key can be used again (a second try of a runbook's step).
    ///
    /// # Errors
    /// The API server does not do it.
    pub async fn take(&self, key: &str) -> Result<(), JournalError> {
        let name = inbox_name(&self.drill);
        let patch = serde_json::json!({"data": {key: null}});
        limited("write", &name, self.api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)))
            .await?
            .map(|_| ())
            .map_err(|e| JournalError::Record { doing: "write", name: name.clone(), detail: e.to_string() })
    }
}
