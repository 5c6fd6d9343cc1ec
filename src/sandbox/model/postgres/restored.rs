//! A server that a runbook starts on restored files: it fetches the log from the repository, replays it, and takes writes on a timeline of
//! its own. Nobody follows it.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    super::super::{control::look::draw, program::Env, shell::Ran},
    DATA, PORT,
    data::{Past, Recovery},
    member::files,
    repository::{self, FromHost, LIMIT, ToHost},
    server::{Files, Server, lock},
    wire::{self, Ask, Manners},
};

/// How long a start takes, in microseconds.
const START_US: (i64, i64) = (500_000, 1_500_000);

/// `pg_ctl start | stop | status`. None: not rehearsable.
pub(super) async fn pg_ctl(env: &Env, slot: &Arc<Mutex<Option<Arc<Server>>>>, ran: Ran<'_>) -> Option<i32> {
    let mut action = None;
    let (mut log, mut timeout) = (None, 60);
    let mut words = ran.argv.iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-D" | "--pgdata" => {
                if words.next()? != &format!("{DATA}/pg") {
                    return None;
                }
            }
            "-l" | "--log" => log = Some(words.next()?.clone()),
            "-t" | "--timeout" => timeout = words.next()?.parse().ok()?,
            "-o" | "--options" | "-m" | "--mode" => drop(words.next()?),
            "-w" | "--wait" | "-s" | "--silent" => {}
            "start" | "stop" | "status" => action = Some(word.as_str()),
            _ => return None,
        }
    }
    let mut say = |text: &str| ran.stdout.extend_from_slice(format!("{text}\n").as_bytes());
    match action? {
        "status" => {
            let up = lock(slot).is_some();
            say(if up { "pg_ctl: server is running (PID: 1)" } else { "pg_ctl: no server running" });
            Some(if up { 0 } else { 3 })
        }
        "stop" => {
            let Some(server) = lock(slot).take() else {
                say("pg_ctl: PID file \"/data/pg/postmaster.pid\" does not exist");
                return Some(1);
            };
            server.stop.cancel();
            server.down.cancel();
            say("server stopped");
            Some(0)
        }
        _ => {
            let note = |text: &str| {
                if let Some(log) = &log {
                    // A log that cannot be written does not keep the server from starting.
                    let _ = ran.files.write(log, format!("{text}\n").as_bytes(), true);
                }
            };
            let Some(found) = files(env, DATA) else {
                say(&format!("pg_ctl: directory \"{DATA}/pg\" is not a database cluster directory"));
                return Some(1);
            };
            let started = tokio::time::timeout(Duration::from_secs(timeout), start(env, slot, &found));
            match started.await {
                Ok(Ok(text)) => {
                    note(&text);
                    note("LOG:  database system is ready to accept connections");
                    say("server started");
                    Some(0)
                }
                Ok(Err(why)) => {
                    note(&format!("FATAL:  {why}"));
                    say("pg_ctl: could not start server\nExamine the log output.");
                    Some(1)
                }
                Err(_) => {
                    note("LOG:  still in recovery");
                    say("pg_ctl: server did not start in time");
                    Some(1)
                }
            }
        }
    }
}

async fn start(env: &Env, slot: &Arc<Mutex<Option<Arc<Server>>>>, files: &Files) -> io::Result<String> {
    if lock(slot).is_some() {
        return Err(io::Error::other("another server might be running"));
    }
    let takes = draw(env.seed(), &["pg_ctl", &env.now_us().to_string()], START_US.0, START_US.1);
    sleep(Duration::from_micros(takes.unsigned_abs())).await;
    let recovery = lock(files).recovery.clone();
    let said = match recovery {
        Some(recovery) => recover(env, files, &recovery).await?,
        None => "LOG:  database system was shut down".to_owned(),
    };
    let server = Server::new(Arc::clone(files), env.clock(), env.ip());
    *lock(slot) = Some(Arc::clone(&server));
    let mut listener = env.listen(PORT);
    let own = env.clone();
    env.spawn(async move {
        let ask: Ask = Arc::new(Manners::default);
        loop {
            tokio::select! {
                biased;
                () = server.stop.cancelled() => return,
                stream = listener.accept() => {
                    let Some(stream) = stream else { return };
                    let (server, ask) = (Arc::clone(&server), Arc::clone(&ask));
                    // Who wants its log does not get it.
                    own.spawn(async move { drop(wire::serve(stream, &server, &ask).await) });
                }
            }
        }
    });
    Ok(said)
}

/// Fetches the log (`restore_command`) and replays it.
async fn recover(env: &Env, files: &Files, recovery: &Recovery) -> io::Result<String> {
    let mut to = repository::connect(env.dialer(), &recovery.host).await?;
    to.send(&ToHost::Fetch { set: Some(recovery.label.clone()), until_us: None }).await?;
    let mut records = Vec::new();
    let (history, timeline) = loop {
        match to.next_within(LIMIT).await? {
            // That is here already.
            FromHost::Backup { .. } => {}
            FromHost::Wal { records: some, .. } => records.extend(some),
            FromHost::History { history, timeline } => break (history, timeline),
            FromHost::Refused(why) => return Err(io::Error::other(why)),
            other => return Err(io::Error::other(format!("an answer to something else: {other:?}"))),
        }
    };
    let mut files = lock(files);
    for record in records {
        files.receive(record);
    }
    let known = files.past.clone();
    files.past = Past { history, timeline, ..known };
    files.replay(u64::MAX, recovery.until_us.unwrap_or(i64::MAX));
    let at = super::value::Lsn(files.replayed);
    files.branch(env.now_us());
    let timeline = files.past.timeline;
    Ok(format!("LOG:  redo done at {at}\nLOG:  selected new timeline ID: {timeline}\nLOG:  archive recovery complete"))
}
