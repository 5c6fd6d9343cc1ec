//! Models: what the containers of the sandbox run in place of programs.
//!
//! A pod chooses by annotation, for all its containers or for one:
//! ```yaml
//! sandbox.firedrill.dev/model: batch
//! sandbox.firedrill.dev/model.exporter: idle
//! sandbox.firedrill.dev/runs-for: 30s        # a knob of that model
//! ```
//! A model answers a declared table of commands. Anything else is "not rehearsable", never success.
//!
//! **Adding one:** a file here with its struct, and a line in [`make`].

mod agent;
mod alertmanager;
mod batch;
mod echo;
mod exporter;
mod http;
mod idle;
mod label;
mod postgres;
mod prometheus;
mod receiver;
mod shell;
mod sql;
mod web;

use std::{collections::VecDeque, sync::Arc};

use serde_json::Value;

use super::{
    control::look,
    core::text,
    program::{Hosted, Hosting, Program},
};
use crate::{agent::inside, gate::Gate};

/// The prefix of the annotations that choose and tune models.
const PREFIX: &str = "sandbox.firedrill.dev/";
/// How many lines of a container's log are kept.
const LOG_LINES: usize = 10_000;

/// What a process does from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It runs. It wants a turn at this time (microseconds since the Unix epoch), or only when something is asked of it.
    Runs(Option<i64>),
    /// It has ended with this code.
    Ended(i32),
}

/// A probe, as the container's manifest has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Probe {
    Http {
        path: String,
    },
    Tcp,
    Exec(Vec<String>),
    /// Of a kind that no model answers (gRPC).
    Other(&'static str),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exec {
    /// It ran.
    Done { stdout: Vec<u8>, stderr: Vec<u8>, code: i32 },
    /// The model has no answer to it.
    NotRehearsable(String),
}

/// A signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ends it politely: it may take its time.
    Term,
    /// Ends it at once.
    Kill,
    /// Holds it, as a hang does.
    Stop,
    /// Lets it go on.
    Continue,
}

/// A container's log.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    /// When, and what.
    pub(super) lines: VecDeque<(i64, String)>,
}

impl Log {
    pub(super) fn add(&mut self, at_us: i64, line: String) {
        self.lines.push_back((at_us, line));
        if self.lines.len() > LOG_LINES {
            self.lines.pop_front();
        }
    }
}

/// What a model sees when it is its turn.
pub(super) struct Turn<'a> {
    /// Now, in microseconds since the Unix epoch.
    pub(super) now_us: i64,
    pub(super) pod: &'a Value,
    pub(super) container: &'a str,
    /// Nothing can be written to the node's disk.
    #[expect(dead_code, reason = "for models that write; the two that are here do not")]
    pub(super) disk_full: bool,
    pub(super) log: &'a mut Log,
}

impl Turn<'_> {
    /// Writes a line to the container's log.
    pub(super) fn say(&mut self, line: &str) {
        self.log.add(self.now_us, line.to_owned());
    }

    /// A knob: the container's own, or that of the pod.
    pub(super) fn knob(&self, name: &str) -> Option<&str> {
        knob(self.pod, self.container, name)
    }

    /// A knob that is a duration, in microseconds.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn duration(&self, name: &str) -> Result<Option<i64>, String> {
        self.knob(name).map(|text| parse_duration(name, text)).transpose()
    }
}

/// A knob's duration in microseconds.
///
/// # Errors
/// It is none.
pub(super) fn parse_duration(name: &str, text: &str) -> Result<i64, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|d| i64::try_from(d.as_micros()).ok()).filter(|us| *us >= 0);
    parsed.ok_or_else(|| format!("annotation {PREFIX}{name}: `{text}` is no duration such as 30s"))
}

/// What a Secret's field holds, if that is text.
pub(super) fn unbase64(content: &str) -> Option<String> {
    use base64::Engine as _;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(content).ok()?).ok()
}

/// A knob of a pod: the container's own, or that of all its containers.
pub(super) fn knob<'a>(pod: &'a Value, container: &str, name: &str) -> Option<&'a str> {
    let own = look::annotation(pod, &format!("{PREFIX}{name}.{container}"));
    let found = if own.is_empty() { look::annotation(pod, &format!("{PREFIX}{name}")) } else { own };
    (!found.is_empty()).then_some(found)
}

/// A process's program. It is called with the cluster's state locked and must not wait: what takes time is a later turn.
pub(super) trait Model: Send {
    /// It begins.
    ///
    /// # Errors
    /// Why it cannot: a knob is wrong.
    fn start(&mut self, turn: &mut Turn<'_>) -> Result<Next, String>;
    /// The time it asked for has come.
    fn turn(&mut self, turn: &mut Turn<'_>) -> Next;
    /// SIGTERM.
    fn stop(&mut self, turn: &mut Turn<'_>) -> Next;
    /// A probe.
    ///
    /// # Errors
    /// It fails, with the kubelet's words.
    fn probe(&mut self, turn: &mut Turn<'_>, probe: &Probe) -> Result<(), String>;
    /// A command that somebody runs in the container.
    fn exec(&mut self, turn: &mut Turn<'_>, command: &[String]) -> Exec;
    /// Before it begins it learns its node and its pod's address.
    fn place(&mut self, _node: &str, _address: &str) {}
    /// It wants a turn now though it has not asked for one.
    fn due(&self) -> bool {
        false
    }
    /// Moves what it has written meanwhile into the log.
    fn drain(&mut self, _log: &mut Log) {}
    /// What holds it, if something of it moves outside of its turns.
    fn gate(&self) -> Option<&Gate> {
        None
    }
    /// The program, if it is one.
    fn hosted(&self) -> Option<&Hosted> {
        None
    }
}

/// The model that a container runs: as the annotations of its pod say, else as those of its namespace say for its image
/// (`sandbox.firedrill.dev/images: "postgres-ha=postgres-tools web=web"`, by the last part of the image's path without tag), else `agent` for
/// firedrill's own agents, else `idle`.
///
/// # Errors
/// There is none of that name.
pub(super) fn make(pod: &Value, container: &Value, images: &str, hosting: Option<&Arc<Hosting>>) -> Result<Box<dyn Model>, String> {
    let name = text(container, "/name");
    // What annotations say of a pod is not said of an agent that is added to it.
    let own = inside::is_own(name).then(|| of_command(container));
    let chosen = own
        .or_else(|| knob(pod, name, "model"))
        .or_else(|| of_image(text(container, "/image"), images))
        .unwrap_or_else(|| of_command(container));
    let program = match chosen {
        "idle" => return Ok(Box::new(idle::Idle::default())),
        "batch" => return Ok(Box::new(batch::Batch::default())),
        other => program(other).ok_or_else(|| format!("not rehearsable: there is no model `{other}`"))?,
    };
    let hosting = hosting.ok_or_else(|| format!("model `{chosen}` needs a cluster around it"))?;
    Ok(Box::new(Hosted::new(program, Arc::clone(hosting))))
}

/// The programs.
fn program(name: &str) -> Option<Arc<dyn Program>> {
    Some(match name {
        "agent" => Arc::new(agent::Agent::default()),
        "echo" => Arc::new(echo::Echo),
        "shell" => Arc::new(shell::Shell),
        "alertmanager" => Arc::new(alertmanager::Alertmanager::default()),
        "backup-exporter" => Arc::new(exporter::Exporter::backups(postgres::info_here)),
        "object-metrics" => Arc::new(exporter::Exporter::objects()),
        "postgres-exporter" => Arc::new(exporter::Exporter::postgres()),
        "prometheus" => Arc::new(prometheus::Prometheus::default()),
        "receiver" => Arc::new(receiver::Receiver::default()),
        "web" => Arc::new(web::Web::default()),
        "postgres" => Arc::new(postgres::Postgres::default()),
        "postgres-tools" => Arc::new(postgres::PostgresTools::default()),
        "pgbackrest" => Arc::new(postgres::PgBackRest),
        "backup-repository" => Arc::new(postgres::BackupRepository),
        "backup-job" => Arc::new(postgres::BackupJob),
        _ => return None,
    })
}

/// The model of a container of which nobody says anything: firedrill's own agents are known by their command.
fn of_command(container: &Value) -> &'static str {
    let words = ["/command", "/args"].iter().flat_map(|at| look::items(container, at)).filter_map(Value::as_str);
    let words: Vec<&str> = words.take(2).collect();
    match words.as_slice() {
        [program, "agent"] if program.rsplit('/').next() == Some("firedrill") => "agent",
        _ => "idle",
    }
}

/// What a namespace says about an image.
fn of_image<'a>(image: &str, images: &'a str) -> Option<&'a str> {
    let last = image.rsplit('/').next().unwrap_or_default();
    let last = last.split(['@', ':']).next().unwrap_or_default();
    images.split_whitespace().filter_map(|pair| pair.split_once('=')).find(|(of, _)| *of == last).map(|(_, model)| model)
}

/// The annotation of a namespace that chooses models by image.
pub(super) const IMAGES: &str = "sandbox.firedrill.dev/images";

/// Commands that every model's container has.
pub(super) fn common(command: &[String]) -> Exec {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let done = |stdout: String, code| Exec::Done { stdout: stdout.into_bytes(), stderr: Vec::new(), code };
    match words.as_slice() {
        ["true" | "/bin/true"] => done(String::new(), 0),
        ["false" | "/bin/false"] => done(String::new(), 1),
        ["echo", rest @ ..] => done(format!("{}\n", rest.join(" ")), 0),
        _ => Exec::NotRehearsable(format!("not rehearsable: the model has no answer to {words:?}")),
    }
}

/// What an `exec` probe comes to.
pub(super) fn probed(exec: Exec) -> Result<(), String> {
    match exec {
        Exec::Done { code: 0, .. } => Ok(()),
        Exec::Done { stdout, stderr, .. } => {
            Err([stdout, stderr].iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect::<Vec<_>>().concat())
        }
        Exec::NotRehearsable(why) => Err(why),
    }
}
