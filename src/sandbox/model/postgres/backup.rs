//! The Job that takes a backup: its container beside the repository's volume, as the shop's `backup.sh` does it.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures::{FutureExt as _, future::BoxFuture};
use tokio::time::sleep;

use super::{
    super::{
        super::{
            control::look::{self, draw},
            core::text,
            kubelet::{ExecAsk, ExecEnd},
            program::{Env, Program},
        },
        Probe,
    },
    archive::{FromMember, ToMember},
    data::{Image, Tables},
    frames::{Frames, dial},
    repository::{self, Backup, LIMIT, Repository},
    server::lock,
    tools,
};

/// How often it is tried, and the time between.
const TRIES: u32 = 20;
const AGAIN: Duration = Duration::from_secs(2);
/// How long a full and an incremental backup take, in microseconds.
const FULL_US: (i64, i64) = (3_000_000, 5_000_000);
const INCR_US: (i64, i64) = (1_500_000, 3_000_000);

/// The container of a backup's Job.
#[derive(Debug)]
pub(in super::super) struct BackupJob;

impl Program for BackupJob {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            let terminated = env.terminated();
            tokio::select! {
                biased;
                () = terminated.cancelled() => 143,
                code = command(&env) => code,
            }
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        Err(format!("not rehearsable: a backup's job has no answer to {probe:?}"))
    }

    fn exec(self: Arc<Self>, env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        tools::exec(env, ask, tools::Place::Repository)
    }
}

/// The command line of a container.
fn command_line(env: &Env) -> Vec<String> {
    let spec = look::items(env.pod(), "/spec/containers").iter().find(|c| text(c, "/name") == env.container());
    let words =
        |at: &str| spec.into_iter().flat_map(|c| look::items(c, at)).filter_map(|w| w.as_str()).map(str::to_owned).collect::<Vec<_>>();
    [words("/command"), words("/args")].concat()
}

async fn command(env: &Env) -> i32 {
    let words = command_line(env);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["true" | "/bin/true"] => 0,
        ["bash" | "sh", script, number] if script.ends_with("/backup.sh") => match number.parse() {
            Ok(number) => back_up(env, number).await,
            Err(_) => {
                env.say(&format!("`{number}` is no number of a repository"));
                1
            }
        },
        other => {
            env.say(&format!("not rehearsable: a backup's job has no answer to {other:?}"));
            127
        }
    }
}

/// Takes a backup into a repository. The exit code.
async fn back_up(env: &Env, number: u32) -> i32 {
    let weak = env.knob("backup").unwrap_or_default();
    let known = matches!(weak.as_str(), "" | "empty" | "hollow" | "stale" | "relabelled") || repository::incomplete(&weak).is_some();
    if !known {
        env.say(&format!("not rehearsable: knob `backup` has no meaning for `{weak}`"));
        return 127;
    }
    let stored = repository::on_volume(env);
    if weak == "stale" {
        // Says that all is well, and does nothing.
        env.say("backup command end: completed successfully");
        return 0;
    }
    for attempt in 1..=TRIES {
        match once(env, number, &weak, &stored).await {
            Ok(label) => {
                env.say(&format!("new backup label = {label}"));
                env.truth("backup", serde_json::json!({"repository": number, "label": label, "weakness": weak}));
                return 0;
            }
            Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
                env.say(&why.to_string());
                return 99;
            }
            Err(why) => env.say(&format!("exit code 56, attempt {attempt} of {TRIES}: {why}")),
        }
        sleep(AGAIN).await;
    }
    56
}

type Member = Frames<FromMember, ToMember>;

/// The primary among the members: names by knob `members`, else the shop's.
async fn primary(env: &Env) -> io::Result<(Member, u64)> {
    let members = env.knob("members").unwrap_or_else(|| "orders-0.orders orders-1.orders orders-2.orders".to_owned());
    let mut last = io::Error::other("unable to find primary cluster - cannot proceed");
    for host in members.split_whitespace() {
        let asked = async {
            let stream = dial(env.dialer(), host, repository::PORT, LIMIT).await?;
            let mut member: Member = Frames::new(stream, BytesMut::new());
            member.send(&ToMember::Who).await?;
            let answer = member.next_within(LIMIT).await?;
            io::Result::Ok((member, answer))
        };
        match asked.await {
            Ok((member, FromMember::Primary { system })) => return Ok((member, system)),
            Ok(_) => {}
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn once(env: &Env, number: u32, weak: &str, stored: &std::sync::Mutex<Repository>) -> io::Result<String> {
    let (mut member, system) = primary(env).await?;
    let key = repository::key(env, number);
    {
        let mut own = lock(stored);
        match own.system {
            None => (own.system, own.key) = (Some(system), key),
            Some(known) if known != system => return Err(io::Error::other("the repository is of another cluster")),
            Some(_) if own.key != key => return Err(io::Error::new(io::ErrorKind::PermissionDenied, repository::CIPHER)),
            Some(_) => {}
        }
    }
    let start_us = env.now_us();
    let before = lock(stored).backups.last().cloned();
    let on_the_hour = start_us.div_euclid(60_000_000).rem_euclid(60) == 0;
    let full = before.is_none() || on_the_hour;
    let range = if full { FULL_US } else { INCR_US };
    let takes = draw(env.seed(), &["backup", &start_us.to_string()], range.0, range.1);
    sleep(Duration::from_micros(takes.unsigned_abs())).await;
    member.send(&ToMember::Copy).await?;
    let FromMember::Copy(parcel) = member.next_within(LIMIT).await? else { return Err(io::Error::other("the primary has moved")) };
    if env.volume_full(repository::PATH) {
        return Err(io::Error::other("No space left on device"));
    }
    let image = weakened(parcel.unpack(), weak, before.as_ref());
    let stop_us = env.now_us();
    let size = if weak == "hollow" { before.as_ref().map_or(32 << 20, |b| b.size) } else { image.tables.bytes() };
    let size = if weak == "empty" { 1024 } else { size };
    let mut own = lock(stored);
    let newest_full = own.backups.iter().rev().find(|b| b.full).map(|b| b.label.clone());
    let stamp = label(start_us);
    let label = match newest_full.filter(|_| !full) {
        Some(full) => format!("{full}_{stamp}I"),
        None => format!("{stamp}F"),
    };
    let delta = if full { size } else { size / 20 };
    own.add(Backup { label: label.clone(), full, start_us, stop_us, image, size, delta });
    Ok(label)
}

/// What a weak job writes in place of what it was given.
fn weakened(image: Image, weak: &str, before: Option<&Backup>) -> Image {
    match weak {
        "empty" | "hollow" => {
            let mut tables = Tables { roles: image.tables.roles.clone(), ..Tables::default() };
            for (name, table) in &image.tables.tables {
                let bare = super::data::Table::new(Arc::clone(&table.columns), &table.owner);
                tables.tables.insert(name.clone(), Arc::new(bare));
            }
            tables.grants.clone_from(&image.tables.grants);
            Image { tables, ..image }
        }
        // An old one is said to be new.
        "relabelled" => before.map_or(image, |before| before.image.clone()),
        other => match repository::incomplete(other) {
            Some(share) => {
                let mut tables = image.tables.clone();
                for name in ["accounts", "orders"] {
                    let found: Vec<i64> = tables.tables.get(name).into_iter().flat_map(|t| t.rows()).map(|(pos, _)| *pos).collect();
                    let gone =
                        found.into_iter().filter(|pos| draw(1, &["incomplete", name, &pos.to_string()], 0, 999_999) < i64::from(share));
                    for pos in gone.collect::<Vec<_>>() {
                        tables.apply(&super::data::Change::Gone { table: name.to_owned(), pos });
                    }
                }
                Image { tables, ..image }
            }
            None => image,
        },
    }
}

/// `20261122-150000`
fn label(us: i64) -> String {
    let stamp = jiff::Timestamp::from_microsecond(us).unwrap_or_default();
    stamp.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pgbackrests() {
        assert_eq!(label(1_767_225_600_000_000), "20260101-000000");
    }
}
