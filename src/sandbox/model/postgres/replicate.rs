//! Streaming replication: the log on its way from the primary to a replica, over the cluster's network, at the database's own port.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use pgwire::messages::{Message as _, startup::Startup};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt as _, sync::watch};

use super::{
    PORT,
    data::{Data, Past, Record},
    eval::Follower,
    frames::{Frames, dial},
    parcel::Parcel,
    server::{Files, Server, lock},
    wire::Walreceiver,
};
use crate::net::Dialer;

/// How long one side hears nothing of the other until it gives up (`wal_sender_timeout`, `wal_receiver_timeout`).
const SILENCE: Duration = Duration::from_secs(5);
/// How often each says something when there is nothing to say.
const ALIVE: Duration = Duration::from_secs(2);
/// Records in one message.
const BATCH: usize = 512;

/// What a replica says.
#[derive(Debug, Serialize, Deserialize)]
enum FromReplica {
    /// Where it stands; none: it wants a copy of everything.
    Begin { from: Option<Past> },
    /// What it has, and what it has replayed.
    Have { flushed: u64, replayed: u64 },
}

/// What the primary says.
#[derive(Debug, Serialize, Deserialize)]
enum FromPrimary {
    /// It is none.
    NotPrimary,
    /// The replica has a log that does not lead on to this one's, or is too far behind: it needs a copy.
    Diverged,
    /// It may go on from where it stands; these are the timelines.
    Follow(Past),
    /// A copy of everything.
    Copy(Box<Parcel>),
    Records(Vec<Arc<Record>>),
    Alive,
}

/// Sends the log to a replica until one of both goes. `delay`: how long records take on their way, asked anew each time.
pub(super) async fn send(to: Walreceiver, server: &Arc<Server>, delay: impl Fn() -> Duration) {
    let (name, address) = (to.name, to.address);
    let mut frames: Frames<FromReplica, FromPrimary> = Frames::new(to.stream, to.rest);
    // Whatever ends it: the replica connects again.
    let _ = tokio::select! {
        biased;
        () = server.down.cancelled() => Ok(()),
        ended = stream(&mut frames, server, Follower { name, address, sent: 0, flushed: 0, replayed: 0, sync: false }, delay) => ended,
    };
}

/// Takes a replica off the list when it is dropped.
struct Joined<'a>(&'a Server, u64);

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

async fn stream(
    frames: &mut Frames<FromReplica, FromPrimary>,
    server: &Server,
    mut follower: Follower,
    delay: impl Fn() -> Duration,
) -> io::Result<()> {
    let FromReplica::Begin { from } = frames.next_within(SILENCE).await? else { return Ok(()) };
    let (answer, mut sent) = {
        let files = lock(&server.files);
        match from {
            _ if files.standby || files.recovery.is_some() => (FromPrimary::NotPrimary, None),
            None => {
                let image = files.image();
                (FromPrimary::Copy(Box::new(image.pack())), Some(image.past.lsn))
            }
            Some(from) if files.past.leads_on(&from) && files.since(from.lsn, 0).is_some() => {
                (FromPrimary::Follow(files.past.clone()), Some(from.lsn))
            }
            Some(_) => (FromPrimary::Diverged, None),
        }
    };
    frames.send(&answer).await?;
    let Some(position) = sent.as_mut() else { return Ok(()) };
    (follower.sent, follower.flushed, follower.replayed) = (*position, *position, *position);
    let joined = Joined(server, server.join(follower));
    let mut changes = server.changes();
    let mut heard = tokio::time::Instant::now();
    let mut alive = heard + ALIVE;
    loop {
        changes.mark_unchanged();
        let delay_us = i64::try_from(delay().as_micros()).unwrap_or(i64::MAX);
        let now_us = server.now_us();
        let mut records = lock(&server.files).since(*position, BATCH).ok_or(io::ErrorKind::NotFound)?;
        let later = records.iter().position(|record| record.at_us.saturating_add(delay_us) > now_us);
        let wait_us = later.map(|n| records[n].at_us.saturating_add(delay_us) - now_us);
        records.truncate(later.unwrap_or(records.len()));
        if let Some(last) = records.last() {
            *position = last.lsn;
            frames.send(&FromPrimary::Records(records)).await?;
            alive = tokio::time::Instant::now() + ALIVE;
            continue;
        }
        let due = wait_us.map(|us| tokio::time::Instant::now() + Duration::from_micros(us.unsigned_abs()));
        tokio::select! {
            biased;
            said = frames.next() => match said? {
                FromReplica::Have { flushed, replayed } => {
                    heard = tokio::time::Instant::now();
                    server.progress(joined.1, flushed, replayed);
                }
                FromReplica::Begin { .. } => return Ok(()),
            },
            () = tokio::time::sleep_until(due.unwrap_or(alive)), if due.is_some_and(|due| due < alive) => {}
            changed = changes.changed(), if due.is_none() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            () = tokio::time::sleep_until(alive) => {
                if heard.elapsed() >= SILENCE {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                frames.send(&FromPrimary::Alive).await?;
                alive = tokio::time::Instant::now() + ALIVE;
            }
        }
    }
}

/// How a replica's connection to the primary ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By the network or the other side: try again.
    Lost,
    /// What is here does not lead on to what is there: a copy is needed.
    Diverged,
}

/// Connects to the primary.
async fn connect(dialer: &Dialer, host: &str, name: &str, address: &str) -> io::Result<Frames<FromPrimary, FromReplica>> {
    let mut stream = dial(dialer, host, PORT, SILENCE).await?;
    let mut startup = Startup::new();
    for (key, value) in [("user", "standby"), ("replication", "true"), ("application_name", name), ("address", address)] {
        startup.parameters.insert(key.to_owned(), value.to_owned());
    }
    let mut bytes = BytesMut::new();
    startup.encode(&mut bytes).map_err(io::Error::other)?;
    stream.write_all_buf(&mut bytes).await?;
    stream.flush().await?;
    Ok(Frames::new(stream, BytesMut::new()))
}

/// Copies a running primary (`pg_basebackup`, `pg_rewind`).
///
/// # Errors
/// It is none, or it cannot be reached.
pub(super) async fn copy(dialer: &Dialer, host: &str, name: &str, address: &str) -> io::Result<Data> {
    let mut frames = connect(dialer, host, name, address).await?;
    frames.send(&FromReplica::Begin { from: None }).await?;
    match frames.next_within(SILENCE).await? {
        FromPrimary::Copy(parcel) => Ok(Data::from_image(parcel.unpack(), true, None)),
        other => Err(io::Error::other(format!("no copy: {other:?}"))),
    }
}

/// Follows the primary until the connection ends. `received` is told of all that comes.
pub(super) async fn follow(
    dialer: &Dialer,
    host: &str,
    name: &str,
    address: &str,
    files: &Files,
    received: &watch::Sender<u64>,
    mut replayed: watch::Receiver<u64>,
) -> Ended {
    let followed = async {
        let mut frames = connect(dialer, host, name, address).await?;
        let from = lock(files).past.clone();
        frames.send(&FromReplica::Begin { from: Some(from) }).await?;
        match frames.next_within(SILENCE).await? {
            FromPrimary::Follow(past) => lock(files).follow(&past),
            FromPrimary::Diverged => return Ok(Ended::Diverged),
            _ => return Ok(Ended::Lost),
        }
        let mut heard = tokio::time::Instant::now();
        loop {
            let have = {
                let files = lock(files);
                FromReplica::Have { flushed: files.past.lsn, replayed: files.replayed }
            };
            frames.send(&have).await?;
            tokio::select! {
                biased;
                said = frames.next() => match said? {
                    FromPrimary::Records(records) => {
                        heard = tokio::time::Instant::now();
                        let fits = {
                            let mut own = lock(files);
                            records.into_iter().all(|record| own.receive(record))
                        };
                        received.send_modify(|n| *n = n.wrapping_add(1));
                        if !fits {
                            return Ok(Ended::Lost);
                        }
                        // Replayed at once, unless it is to lag.
                        tokio::task::yield_now().await;
                    }
                    FromPrimary::Alive => heard = tokio::time::Instant::now(),
                    _ => return Ok(Ended::Lost),
                },
                changed = replayed.changed() => {
                    if changed.is_err() {
                        return Ok(Ended::Lost);
                    }
                }
                () = tokio::time::sleep_until(heard + SILENCE) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            }
        }
    };
    let ended: io::Result<Ended> = followed.await;
    ended.unwrap_or(Ended::Lost)
}
