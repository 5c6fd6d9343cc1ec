//! The log on its way into the repositories (`archive_command`, every `archive_timeout`), and the member's end of a backup
//! (`pgbackrest server` beside the database).

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use futures::{FutureExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{
    super::{
        super::{
            kubelet::{ExecAsk, ExecEnd},
            program::{Env, Program},
        },
        Probe,
    },
    DATA,
    data::SEGMENT,
    frames::Frames,
    member::{Member, files},
    parcel::Parcel,
    repository::{self, FromHost, LIMIT, ToHost, ToRepository},
    server::lock,
    tools,
};

/// `archive_timeout`
const EVERY: Duration = Duration::from_secs(10);
/// How long a repository that failed is left alone.
const PAUSE: Duration = Duration::from_secs(2);
/// Records in one message.
const BATCH: usize = 2048;

/// What the containers of a member's pod share on its volume besides the files.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Servers that run.
    pub(super) running: AtomicUsize,
    /// The archiver is wanted now.
    pub(super) wanted: Notify,
}

/// Of a member's volume.
pub(super) fn shared(env: &Env) -> Arc<Shared> {
    env.volume(DATA).get_or_init("shared", Shared::default)
}

/// A server runs as long as this is not dropped.
pub(super) struct Running(Arc<Shared>);

impl Running {
    pub(super) fn new(env: &Env) -> Self {
        let shared = shared(env);
        shared.running.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The repositories' hosts by their numbers: knob `repositories`, else the shop's.
pub(super) fn hosts(env: &Env) -> BTreeMap<u32, String> {
    let named = env.knob("repositories").unwrap_or_else(|| "1=backup-repo1 2=backup-repo2".to_owned());
    named
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(n, host)| Some((n.parse().ok()?, host.to_owned())))
        .collect()
}

/// Archives for as long as the member runs. Each repository has its own task: one that is gone does not hold up the other.
pub(super) async fn run(member: Arc<Member>) {
    for host in hosts(&member.env).into_values() {
        let own = Arc::clone(&member);
        member.env.spawn(async move { archive(&own, &host).await });
    }
}

async fn archive(member: &Member, host: &str) {
    let shared = shared(&member.env);
    let mut last_try = None::<Instant>;
    let mut connection: Option<ToRepository> = None;
    loop {
        let wanted = tokio::select! {
            biased;
            () = shared.wanted.notified() => true,
            () = sleep(PAUSE) => false,
        };
        if !member.leads() || member.knobs().no_archive {
            connection = None;
            continue;
        }
        if !wanted && last_try.is_some_and(|at| at.elapsed() < EVERY) && !behind(member) {
            continue;
        }
        last_try = Some(Instant::now());
        let pushed = async {
            let mut to = match connection.take() {
                Some(to) => to,
                None => repository::connect(member.env.dialer(), host).await?,
            };
            push(member, &mut to).await?;
            io::Result::Ok(to)
        };
        match tokio::time::timeout(LIMIT, pushed).await {
            Ok(Ok(to)) => connection = Some(to),
            Ok(Err(why)) => member.env.say(&format!("archive-push to {host} failed: {why}")),
            Err(_) => member.env.say(&format!("archive-push to {host} failed: no answer within {LIMIT:?}")),
        }
    }
}

/// Whether a whole segment waits.
fn behind(member: &Member) -> bool {
    let shown = member.shown();
    member.files().is_some_and(|files| lock(&files).since(shown.lsn.saturating_sub(SEGMENT), 1).is_none_or(|some| some.is_empty()))
}

async fn push(member: &Member, to: &mut ToRepository) -> io::Result<()> {
    let refused = |answer: FromHost| match answer {
        FromHost::Refused(why) => io::Error::other(why),
        other => io::Error::other(format!("an answer to something else: {other:?}")),
    };
    let Some(files) = member.files() else { return Ok(()) };
    let past = lock(&files).past.clone();
    // The timeline before may have been left before all of it was archived.
    let timelines: Vec<u32> = past.history.last().map(|(timeline, _)| *timeline).into_iter().chain([past.timeline]).collect();
    for timeline in timelines {
        to.send(&ToHost::End { system: past.system, timeline }).await?;
        let mut end = match to.next_within(LIMIT).await? {
            FromHost::End(end) => end,
            other => return Err(refused(other)),
        };
        loop {
            let (past, records) = {
                let files = lock(&files);
                // What is not kept any more cannot be archived: the archive has a gap, and goes on behind it.
                let records = files.since(end, usize::MAX).or_else(|| files.since(files.kept_from(), usize::MAX)).unwrap_or_default();
                (files.past.clone(), records.into_iter().filter(|r| r.timeline == timeline).take(BATCH).collect::<Vec<_>>())
            };
            let Some(last) = records.last() else { break };
            end = last.lsn;
            to.send(&ToHost::Push { past, records }).await?;
            match to.next_within(LIMIT).await? {
                FromHost::Pushed => {}
                other => return Err(refused(other)),
            }
        }
    }
    Ok(())
}

/// What a repository's host asks of a member.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToMember {
    /// Of which cluster it is, if it is the primary.
    Who,
    /// Everything as it is now.
    Copy,
}

/// What a member answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromMember {
    Primary { system: u64 },
    Replica,
    Copy(Box<Parcel>),
}

/// pgBackRest's server in a member's pod.
#[derive(Debug)]
pub(in super::super) struct PgBackRest;

impl Program for PgBackRest {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            env.serve(repository::PORT, |stream| {
                let own = env.clone();
                async move {
                    // It ends as the client wants it.
                    let _ = serve(&own, Frames::new(stream, BytesMut::new())).await;
                }
            })
            .await
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        match probe {
            Probe::Tcp => Ok(()),
            other => Err(format!("not rehearsable: pgbackrest has no answer to {other:?}")),
        }
    }

    fn exec(self: Arc<Self>, env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        tools::exec(env, ask, tools::Place::Member)
    }
}

async fn serve(env: &Env, mut frames: Frames<ToMember, FromMember>) -> io::Result<()> {
    let shared = shared(env);
    loop {
        let asked = frames.next().await?;
        let primary = files(env, DATA).filter(|files| shared.running.load(Ordering::Relaxed) > 0 && !lock(files).standby);
        let answer = match (asked, primary) {
            (_, None) => FromMember::Replica,
            (ToMember::Who, Some(files)) => FromMember::Primary { system: lock(&files).past.system },
            (ToMember::Copy, Some(files)) => {
                // What is copied has to be in the archive, too.
                let mut files = lock(&files);
                files.switch(env.now_us());
                let image = files.image();
                drop(files);
                shared.wanted.notify_waiters();
                FromMember::Copy(Box::new(image.pack()))
            }
        };
        frames.send(&answer).await?;
    }
}
