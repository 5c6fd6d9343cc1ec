//! A repository of backups: what is in it, and its host (`pgbackrest server` on a machine of its own). Backups and the archived log are
//! on its volume.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::BytesMut;
use futures::{FutureExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    super::{
        super::{
            kubelet::{ExecAsk, ExecEnd},
            program::{Env, Program},
        },
        Probe,
    },
    data::{Change, Image, Past, Record, Tables},
    frames::Frames,
    knobs::share,
    parcel::Parcel,
    server::lock,
    tools,
};
use crate::net::{Dialer, Stream};

/// pgBackRest's port.
pub(super) const PORT: u16 = 8432;
/// Where the repository is mounted.
pub(super) const PATH: &str = "/backup";
/// How long an answer is waited for (`io-timeout`).
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// How many full backups are kept, with what depends on them (`retention-full`).
const FULLS: usize = 2;
/// Records in one message.
const BATCH: usize = 2048;

/// A backup.
#[derive(Debug, Clone)]
pub(super) struct Backup {
    /// `20261122-150000F`, and of an incremental one its full one's before `_20261122-150100I`.
    pub(super) label: String,
    pub(super) full: bool,
    pub(super) start_us: i64,
    pub(super) stop_us: i64,
    pub(super) image: Image,
    /// What it says of its size and of what was copied.
    pub(super) size: u64,
    pub(super) delta: u64,
}

/// What is on a repository's volume.
#[derive(Debug, Default)]
pub(super) struct Repository {
    /// Whose it is, once a stanza is made.
    pub(super) system: Option<u64>,
    /// What it is encrypted with; none: it is not.
    pub(super) key: Option<String>,
    pub(super) backups: Vec<Backup>,
    /// The log by timeline, and where each timeline was left.
    wal: BTreeMap<u32, Vec<Arc<Record>>>,
    branches: BTreeMap<u32, u64>,
}

impl Repository {
    /// Adds a backup, and forgets those that are too old.
    pub(super) fn add(&mut self, backup: Backup) {
        self.backups.push(backup);
        let fulls: Vec<usize> = self.backups.iter().enumerate().filter(|(_, b)| b.full).map(|(n, _)| n).collect();
        if fulls.len() > FULLS {
            self.backups.drain(..fulls[fulls.len() - FULLS]);
            if let Some(first) = self.backups.first().map(|b| b.image.past.clone()) {
                self.wal.retain(|timeline, _| *timeline >= first.timeline);
                if let Some(records) = self.wal.get_mut(&first.timeline) {
                    records.retain(|record| record.lsn > first.lsn);
                }
            }
        }
    }

    /// Up to where it has a timeline's log.
    fn end(&self, timeline: u32) -> u64 {
        self.wal.get(&timeline).and_then(|records| records.last()).map_or(0, |record| record.lsn)
    }

    fn push(&mut self, past: &Past, records: Vec<Arc<Record>>) {
        self.branches.extend(past.history.iter().copied());
        for record in records {
            if record.lsn > self.end(record.timeline) {
                self.wal.entry(record.timeline).or_default().push(record);
            }
        }
    }

    /// The log that leads on from a backup along the newest timeline, and how that one came about.
    fn onwards(&self, from: &Past) -> (Vec<(u32, u64)>, u32, Vec<Arc<Record>>) {
        let newest = self.wal.keys().next_back().copied().unwrap_or(from.timeline).max(from.timeline);
        let mut history = from.history.clone();
        let mut records = Vec::new();
        for timeline in from.timeline..=newest {
            let left = if timeline == newest { u64::MAX } else { self.branches.get(&timeline).copied().unwrap_or(u64::MAX) };
            if timeline != newest {
                history.push((timeline, left));
            }
            let own = self.wal.get(&timeline).into_iter().flatten();
            records.extend(own.filter(|record| record.lsn > from.lsn && record.lsn <= left).cloned());
        }
        (history, newest, records)
    }
}

/// What is asked of a repository's host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToHost {
    /// Up to where it has this timeline's log.
    End {
        system: u64,
        timeline: u32,
    },
    Push {
        past: Past,
        records: Vec<Arc<Record>>,
    },
    Info,
    /// A backup, the newest unless it is named or has to be older than a time, and the log after it.
    Fetch {
        set: Option<String>,
        until_us: Option<i64>,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromHost {
    End(u64),
    Pushed,
    Info(Value),
    Backup {
        label: String,
        parcel: Box<Parcel>,
        takes_us: u64,
        overwrites: bool,
    },
    Wal {
        records: Vec<Arc<Record>>,
        more: bool,
    },
    /// How timelines followed on each other, when all of the log has been sent.
    History {
        history: Vec<(u32, u64)>,
        timeline: u32,
    },
    Refused(String),
}

/// A repository's connection.
pub(super) type ToRepository = Frames<FromHost, ToHost>;

/// Connects to a repository's host.
///
/// # Errors
/// The network's.
pub(super) async fn connect(dialer: &Dialer, host: &str) -> io::Result<ToRepository> {
    Ok(Frames::new(super::frames::dial(dialer, host, PORT, LIMIT).await?, BytesMut::new()))
}

/// The repository on a volume.
pub(super) fn on_volume(env: &Env) -> Arc<Mutex<Repository>> {
    env.volume(PATH).get_or_init("repository", Mutex::<Repository>::default)
}

/// The number of the repository that a container is about, by its pod's knob `repository` or the number at the end of its app's name.
pub(super) fn number(env: &Env) -> u32 {
    let named = || super::super::super::control::look::label(env.pod(), "app").chars().last().and_then(|c| c.to_digit(10));
    env.knob("repository").and_then(|text| text.parse().ok()).or_else(named).unwrap_or(1)
}

/// The key that a container has for its repository; knob `key: missing` takes it away.
pub(super) fn key(env: &Env, number: u32) -> Option<String> {
    if env.knob("key").as_deref() == Some("missing") {
        return None;
    }
    env.var(&format!("PGBACKREST_REPO{number}_CIPHER_PASS"))
}

/// What pgBackRest says of a repository whose key it does not have.
pub(super) const CIPHER: &str =
    "unable to load info file '/backup/pgbackrest/backup/orders/backup.info': CryptoError: cipher header invalid";

/// `pgbackrest info --output=json` of one repository.
pub(super) fn info(repository: &Repository, number: u32, key: Option<&str>) -> Value {
    let readable = repository.key.as_deref() == key || repository.key.is_none();
    let cipher = if repository.key.is_some() { "aes-256-cbc" } else { "none" };
    let (code, message) = match (repository.system, readable) {
        (Some(_), false) => (99, CIPHER),
        (None, _) => (1, "missing stanza path"),
        _ if repository.backups.is_empty() => (2, "no valid backups"),
        _ => (0, "ok"),
    };
    let status = json!({"code": code, "message": message, "lock": {"backup": {"held": false}}});
    let listed = repository.backups.iter().filter(|_| readable);
    let backups = listed.map(|b| {
        let seconds = |us: i64| us.div_euclid(1_000_000);
        json!({
            "label": b.label, "type": if b.full { "full" } else { "incr" }, "error": false,
            "database": {"id": 1, "repo-key": number},
            "timestamp": {"start": seconds(b.start_us), "stop": seconds(b.stop_us)},
            "info": {"size": b.size, "delta": b.delta, "repository": {"size": b.size / 4, "delta": b.delta / 4}},
            "lsn": {"start": super::value::Lsn(b.image.past.lsn).to_string(), "stop": super::value::Lsn(b.image.past.lsn).to_string()},
        })
    });
    json!([{
        "name": "orders", "status": status, "cipher": cipher, "backup": backups.collect::<Vec<_>>(),
        "db": repository.system.map_or_else(|| json!([]), |system| json!([{"id": 1, "repo-key": number, "system-id": system, "version": "15"}])),
        "repo": [{"key": number, "cipher": cipher, "status": {"code": code, "message": message}}],
    }])
}

/// What a container beside a repository's volume is told by `pgbackrest info --output=json`, for exporters.
pub(in super::super) fn info_here(env: Env) -> BoxFuture<'static, Result<String, String>> {
    let number = number(&env);
    let said = info(&lock(&on_volume(&env)), number, key(&env, number).as_deref()).to_string();
    std::future::ready(Ok(said)).boxed()
}

/// Rows that are not restored, by knob `restore: drops-rows`: every tenth order and account.
pub(super) fn thinned(tables: &Tables) -> Tables {
    let mut thin = tables.clone();
    for name in ["accounts", "orders"] {
        let gone: Vec<i64> =
            thin.tables.get(name).into_iter().flat_map(|t| t.rows()).map(|(pos, _)| *pos).filter(|pos| pos % 10 == 7).collect();
        for pos in gone {
            thin.apply(&Change::Gone { table: name.to_owned(), pos });
        }
    }
    thin
}

/// A repository's host.
#[derive(Debug)]
pub(in super::super) struct BackupRepository;

impl Program for BackupRepository {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            env.serve(PORT, |stream| {
                let own = env.clone();
                async move {
                    // It ends as the client wants it.
                    let _ = serve(&own, stream).await;
                }
            })
            .await
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        match probe {
            Probe::Tcp => Ok(()),
            other => Err(format!("not rehearsable: a repository has no answer to {other:?}")),
        }
    }

    fn exec(self: Arc<Self>, env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        tools::exec(env, ask, tools::Place::Repository)
    }
}

async fn serve(env: &Env, stream: Stream) -> io::Result<()> {
    let mut frames: Frames<ToHost, FromHost> = Frames::new(stream, BytesMut::new());
    let (number, repository) = (number(env), on_volume(env));
    loop {
        let asked = frames.next().await?;
        if let Ok(Some(latency)) = env.knob_duration("latency") {
            tokio::time::sleep(latency).await;
        }
        let locked = {
            let own = lock(&repository);
            own.system.is_some() && own.key.is_some() && own.key != key(env, number)
        };
        let answer = match asked {
            ToHost::Info => FromHost::Info(info(&lock(&repository), number, key(env, number).as_deref())),
            _ if locked => FromHost::Refused(CIPHER.to_owned()),
            ToHost::End { system, timeline } => {
                let own = lock(&repository);
                match own.system {
                    Some(known) if known == system => FromHost::End(own.end(timeline)),
                    Some(_) => FromHost::Refused("the repository is of another cluster".to_owned()),
                    None => FromHost::Refused(
                        "unable to load info file: archive.info does not exist; has a stanza-create been performed?".to_owned(),
                    ),
                }
            }
            ToHost::Push { past, records } => {
                if env.volume_full(PATH) {
                    FromHost::Refused("No space left on device".to_owned())
                } else {
                    lock(&repository).push(&past, records);
                    FromHost::Pushed
                }
            }
            ToHost::Fetch { set, until_us } => {
                fetch(env, &mut frames, &repository, set.as_deref(), until_us).await?;
                continue;
            }
        };
        frames.send(&answer).await?;
    }
}

/// Sends a backup and the log after it.
async fn fetch(
    env: &Env,
    frames: &mut Frames<ToHost, FromHost>,
    repository: &Mutex<Repository>,
    set: Option<&str>,
    until_us: Option<i64>,
) -> io::Result<()> {
    let restore = env.knob("restore");
    let weak = restore.as_deref();
    if !matches!(weak, None | Some("drops-rows" | "overwrites")) {
        return frames
            .send(&FromHost::Refused(format!("knob `restore` is drops-rows or overwrites, not `{}`", weak.unwrap_or_default())))
            .await;
    }
    let takes = match env.knob_duration("restore-takes") {
        Ok(takes) => takes,
        Err(why) => return frames.send(&FromHost::Refused(why)).await,
    };
    let found = {
        let own = lock(repository);
        let fits = |b: &&Backup| set.is_none_or(|label| b.label == label) && until_us.is_none_or(|until| b.stop_us <= until);
        own.backups.iter().rev().find(fits).map(|b| (b.clone(), own.onwards(&b.image.past)))
    };
    let Some((backup, (history, timeline, records))) = found else {
        return frames.send(&FromHost::Refused("no backup set found to restore".to_owned())).await;
    };
    let mut image = backup.image;
    if weak == Some("drops-rows") {
        image.tables = thinned(&image.tables);
    }
    let seed = env.seed();
    let drawn = super::super::super::control::look::draw(seed, &["restore", &backup.label], 2_000_000, 5_000_000).unsigned_abs();
    let takes_us = takes.map_or(drawn, |takes| u64::try_from(takes.as_micros()).unwrap_or(u64::MAX));
    let parcel = Box::new(image.pack());
    let overwrites = weak == Some("overwrites");
    frames.send(&FromHost::Backup { label: backup.label, parcel, takes_us, overwrites }).await?;
    let mut rest = records.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(BATCH));
        frames.send(&FromHost::Wal { records: now.to_vec(), more: !later.is_empty() }).await?;
        rest = later;
    }
    frames.send(&FromHost::History { history, timeline }).await
}

/// The share of rows that an incomplete backup lacks, if the knob says so.
pub(super) fn incomplete(text: &str) -> Option<u32> {
    text.strip_prefix("incomplete=").map_or_else(|| (text == "incomplete").then_some(100_000), share)
}
