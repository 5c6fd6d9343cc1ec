//! `backup`: the age and size of the newest complete backup, by the backup tool's own word, asked in a pod.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::AttachParams};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{
    ProbeCx,
    pods::{Matching, is_ready},
    sample::Outcome,
    sampler::Take,
};
use crate::{
    clock::{Clock, utc},
    cluster::{Cluster, why},
    journal::Reading,
    lean::LeanPod,
    scenario::types::{BackupProbe, Dur},
};

/// The most that a tool may say.
const LARGEST: u64 = 8 << 20;
/// The most of its complaints that is kept.
const LARGEST_COMPLAINT: u64 = 4 << 10;

/// Asks a backup tool.
pub(super) struct Backup {
    cluster: Cluster,
    clock: Clock,
    matching: Matching,
    namespace: String,
    container: Option<String>,
    command: Vec<String>,
    reads: Reads,
    max_age: Dur,
    min_size: Option<u64>,
}

/// How the answer is read.
enum Reads {
    PgBackRest { stanza: String },
    Plain,
}

/// A complete backup.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    id: String,
    finished_wall_us: i64,
    bytes: u64,
    detail: String,
}

impl Backup {
    pub(super) fn new(cx: &ProbeCx, probe: &BackupProbe) -> Result<Self, String> {
        let (target, container, command, reads) = match (&probe.pgbackrest, &probe.command) {
            (Some(asked), _) => {
                let mut command: Vec<String> =
                    ["pgbackrest", "info", "--output=json", &format!("--stanza={}", asked.stanza)].map(str::to_owned).to_vec();
                command.extend(asked.repo.map(|repo| format!("--repo={repo}")));
                (&asked.target, &asked.container, command, Reads::PgBackRest { stanza: asked.stanza.clone() })
            }
            (None, Some(asked)) => (&asked.target, &asked.container, asked.command.clone(), Reads::Plain),
            (None, None) => return Err("say `pgbackrest` or `command`".to_owned()),
        };
        let spec = &cx.plan.targets.get(target).ok_or_else(|| format!("there is no target `{target}`"))?.spec;
        Ok(Self {
            cluster: cx.cluster.clone(),
            clock: cx.clock.clone(),
            matching: Matching::of(spec, target)?,
            namespace: spec.namespace.clone().ok_or_else(|| format!("target `{target}` has no namespace"))?,
            container: container.clone(),
            command,
            reads,
            max_age: probe.max_age,
            min_size: probe.min_size.map(|size| size.0),
        })
    }

    /// The samples. A tool that cannot be asked is no bad backup.
    pub(super) fn take(self: &Arc<Self>) -> Take {
        let this = self.clone();
        Box::new(move || {
            let this = this.clone();
            async move {
                match this.ask().await {
                    Ok(found) => this.judge(found.as_ref()),
                    Err(Asked::NotAsked(why)) => Outcome::unknown(why),
                    Err(Asked::Complained(why)) => Outcome::bad(why),
                }
            }
            .boxed()
        })
    }

    /// The reading for the journal.
    pub(super) async fn reading(&self, limit: Duration) -> Reading {
        match tokio::time::timeout(limit, self.ask()).await {
            Ok(Ok(Some(Found { id, finished_wall_us, bytes, detail }))) => Reading::Backup { id, finished_wall_us, bytes, detail },
            Ok(Ok(None)) => {
                Reading::Backup { id: String::new(), finished_wall_us: 0, bytes: 0, detail: "there is no complete backup".to_owned() }
            }
            Ok(Err(Asked::NotAsked(detail) | Asked::Complained(detail))) => Reading::Failed { detail },
            Err(_) => Reading::Failed { detail: format!("the backup tool did not answer within {}", Dur(limit)) },
        }
    }

    fn judge(&self, found: Option<&Found>) -> Outcome {
        let Some(found) = found else { return Outcome::bad("there is no complete backup") };
        let age_us = u64::try_from(self.clock.now().wall_us - found.finished_wall_us).unwrap_or(0);
        let age = Dur(Duration::from_secs(age_us / 1_000_000));
        let said = format!("{} of {}, {age} old, {} bytes", found.id, utc(found.finished_wall_us), found.bytes);
        match self.min_size {
            _ if age_us > self.max_age.as_micros() => Outcome::bad(format!("too old: {said}")),
            Some(least) if found.bytes < least => Outcome::bad(format!("less than {least} bytes: {said}")),
            _ => Outcome::good(said),
        }
    }

    async fn ask(&self) -> Result<Option<Found>, Asked> {
        let api: Api<LeanPod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let pods = api.list(&self.matching.params()).await;
        let pods = pods.map_err(|error| Asked::NotAsked(format!("failed to list pods: {}", why(&error))))?.items;
        let pods: Vec<Pod> = pods.into_iter().map(Pod::from).collect();
        let mut ready: Vec<String> = pods.iter().filter(|pod| self.matching.owns(pod) && is_ready(pod)).map(Pod::name_any).collect();
        ready.sort_unstable();
        let pod = ready.first().ok_or_else(|| Asked::NotAsked("no pod of the target is ready".to_owned()))?;
        let said = self.exec(pod).await?;
        match &self.reads {
            Reads::PgBackRest { stanza } => pgbackrest(&said, stanza),
            Reads::Plain => plain(&said),
        }
    }

    async fn exec(&self, pod: &str) -> Result<Vec<u8>, Asked> {
        let api: Api<Pod> = Api::namespaced(self.cluster.streams.clone(), &self.namespace);
        let mut params = AttachParams::default().stdin(false).stdout(true).stderr(true);
        params.container.clone_from(&self.container);
        let not_asked =
            |why: String| Asked::NotAsked(format!("failed to run {} in pod {pod}: {why}", self.command.first().map_or("", String::as_str)));
        let mut process = api.exec(pod, self.command.clone(), &params).await.map_err(|error| not_asked(why(&error)))?;
        let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
        let (said, complained) = futures::join!(read(stdout, LARGEST), read(stderr, LARGEST_COMPLAINT));
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let status = status.ok_or_else(|| not_asked("the connection ended before the command did".to_owned()))?;
        if status.status.as_deref() == Some("Success") {
            return said.map_err(|error| not_asked(error.to_string()));
        }
        let complaint = String::from_utf8_lossy(&complained.unwrap_or_default()).trim().to_owned();
        let message = status.message.unwrap_or_default();
        let why = if complaint.is_empty() { message } else { format!("{message}: {complaint}") };
        // A command that ran and failed is the tool's word; one that could not be run is not.
        if status.reason.as_deref() == Some("NonZeroExitCode") { Err(Asked::Complained(why)) } else { Err(not_asked(why)) }
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// The tool could not be asked.
    NotAsked(String),
    /// The tool says that something is wrong.
    Complained(String),
}

async fn read(stream: Option<impl AsyncRead + Unpin>, most: u64) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    if let Some(mut stream) = stream {
        (&mut stream).take(most).read_to_end(&mut all).await?;
        // The rest is not kept, but a command must not hang because nobody reads what it says.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    }
    Ok(all)
}

#[derive(Deserialize)]
struct Stanza {
    name: String,
    #[serde(default)]
    status: Status,
    #[serde(default)]
    backup: Vec<Listed>,
}

#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Listed {
    label: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    error: Option<bool>,
    timestamp: Span,
    #[serde(default)]
    info: Info,
    #[serde(default)]
    database: Database,
}

#[derive(Deserialize)]
struct Span {
    stop: i64,
}

#[derive(Deserialize, Default)]
struct Info {
    #[serde(default)]
    size: u64,
}

#[derive(Deserialize, Default)]
struct Database {
    #[serde(default, rename = "repo-key")]
    repo_key: u32,
}

/// `pgbackrest info --output=json`: the newest backup of the stanza without an error.
///
/// It is not always JSON: a repository that cannot be read (another one's key) is reported with raw bytes of the file in
/// the message, which may be no text and no characters a JSON string may hold. Those are replaced; nothing that is read
/// here can hold them.
fn pgbackrest(said: &[u8], stanza: &str) -> Result<Option<Found>, Asked> {
    let clean: String = String::from_utf8_lossy(said).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let stanzas: Vec<Stanza> = serde_json::from_str(&clean)
        .map_err(|error| Asked::NotAsked(format!("pgbackrest said something that is not understood: {error}")))?;
    let found = stanzas.into_iter().find(|s| s.name == stanza);
    let found = found.ok_or_else(|| Asked::Complained(format!("pgbackrest knows no stanza `{stanza}`")))?;
    // 2 is "no valid backups": there is none, and nothing is broken. Else some backups may be there, but not all is well.
    if found.backup.is_empty() && found.status.code != 0 && found.status.code != 2 {
        return Err(Asked::Complained(format!("pgbackrest: {}", found.status.message)));
    }
    let good = found.backup.into_iter().filter(|backup| backup.error != Some(true));
    Ok(good.max_by_key(|backup| backup.timestamp.stop).map(|backup| Found {
        id: backup.label,
        finished_wall_us: backup.timestamp.stop.saturating_mul(1_000_000),
        bytes: backup.info.size,
        detail: format!("{} backup in repository {}", backup.kind, backup.database.repo_key),
    }))
}

#[derive(Deserialize)]
struct Plain {
    backups: Vec<PlainBackup>,
}

#[derive(Deserialize)]
struct PlainBackup {
    id: String,
    finished: jiff::Timestamp,
    bytes: u64,
    ok: bool,
}

/// What any other tool's command prints.
fn plain(said: &[u8]) -> Result<Option<Found>, Asked> {
    let all: Plain = serde_json::from_slice(said).map_err(|error| {
        let form = r#"{"backups":[{"id":…,"finished":RFC3339,"bytes":…,"ok":true}]}"#;
        Asked::NotAsked(format!("the command did not print {form}: {error}"))
    })?;
    let good = all.backups.into_iter().filter(|backup| backup.ok);
    Ok(good.max_by_key(|backup| backup.finished).map(|backup| Found {
        id: backup.id,
        finished_wall_us: backup.finished.as_microsecond(),
        bytes: backup.bytes,
        detail: String::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = r#"[{"name":"orders","status":{"code":0,"message":"ok"},"backup":[
        {"label":"20261122-150000F","type":"full","error":false,"timestamp":{"start":1,"stop":100},"info":{"size":5000},"database":{"id":1,"repo-key":1}},
        {"label":"20261122-151000F","type":"full","error":true,"timestamp":{"start":1,"stop":300},"info":{"size":1},"database":{"id":1,"repo-key":1}},
        {"label":"20261122-150500F","type":"diff","error":null,"timestamp":{"start":1,"stop":200},"info":{"size":7000},"database":{"id":1,"repo-key":2}}]}]"#;

    #[test]
    fn the_newest_backup_without_an_error_counts() {
        let found = pgbackrest(INFO.as_bytes(), "orders").unwrap().unwrap();
        assert_eq!((found.id.as_str(), found.finished_wall_us, found.bytes), ("20261122-150500F", 200_000_000, 7000));
        assert_eq!(found.detail, "diff backup in repository 2");
    }

    #[test]
    fn no_backup_a_broken_stanza_and_nonsense_are_told_apart() {
        let status = |code: i64| format!(r#"[{{"name":"orders","status":{{"code":{code},"message":"missing stanza path"}},"backup":[]}}]"#);
        assert_eq!(pgbackrest(status(2).as_bytes(), "orders"), Ok(None));
        assert!(matches!(pgbackrest(status(1).as_bytes(), "orders"), Err(Asked::Complained(why)) if why.contains("missing stanza path")));
        assert!(matches!(pgbackrest(b"[]", "orders"), Err(Asked::Complained(_))));
        assert!(matches!(pgbackrest(b"ERROR", "orders"), Err(Asked::NotAsked(_))));
    }

    #[test]
    fn raw_bytes_of_a_repository_that_cannot_be_read_do_not_hide_the_backups_of_another() {
        let mut said = INFO.strip_suffix("}]").unwrap().as_bytes().to_vec();
        // As version 2.45 says it of an encrypted repository without its key.
        said.extend(b",\"repo\":[{\"key\":2,\"status\":{\"code\":99,\"message\":\"FormatError: Salted__&!4n\xc5\xcf_7\x11\xd0\x89u\x7f\x15\\r\x00\"}}]}]");
        assert_eq!(pgbackrest(&said, "orders").unwrap().map(|found| found.bytes), Some(7000));
    }

    #[test]
    fn any_tool_can_print_its_backups() {
        let said = br#"{"backups":[{"id":"a","finished":"2026-01-01T00:00:00Z","bytes":5,"ok":true},{"id":"b","finished":"2026-01-02T00:00:00Z","bytes":5,"ok":false}]}"#;
        assert_eq!(plain(said).unwrap().map(|found| found.id).as_deref(), Some("a"));
        assert!(plain(b"{}").is_err());
    }
}
