//! A shell for the containers of the sandbox: enough of POSIX's for runbooks and hooks, over a table of commands that the model of
//! the container answers.
//!
//! What the shell does not understand, and a command that nobody answers, is *not rehearsable*: it ends all that runs, whatever `||
//! true` stands behind it, and the exec fails as one that could not be run. So it is never taken for success, and for no exit code of
//! the script either.
//!
//! Otherwise than in a real shell: the commands of a pipeline run one after the other; what runs in the background ends with the
//! script; a subshell has its parent's number and traps; files have no owners, modes and times; the whole script is parsed before its
//! first command runs.

mod builtins;
mod command;
mod expand;
mod files;
mod io;
mod parse;
mod print;
mod process;
mod redirect;
mod run;
mod state;
mod sum;
mod syntax;
mod test;
#[cfg(test)]
mod tests;
mod tools;
mod words;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(in crate::sandbox) use files::{Files, Mount, Tree};
pub(in crate::sandbox) use process::Space;

use super::{
    control::look,
    core::text,
    kubelet::{ExecAsk, ExecEnd},
    model,
    program::{Env, Hosting},
    quantity::Quantity,
};
use crate::clock::Clock;
use io::{Fd, Input, Output};
use state::{Host, Shell, Stop};

/// How many commands may run in the background of one exec.
const JOBS: usize = 64;
/// How large a volume is that says nothing of its size.
pub(in crate::sandbox) const SIZE: u64 = 100 << 30;

/// A command that a model is to run.
pub(in crate::sandbox) struct Ran<'a> {
    /// Its name and its arguments.
    pub(in crate::sandbox) argv: &'a [String],
    /// Its environment.
    pub(in crate::sandbox) vars: &'a BTreeMap<String, String>,
    /// What is piped to it or redirected from a file; not what comes over the exec's own stream.
    pub(in crate::sandbox) stdin: Vec<u8>,
    pub(in crate::sandbox) stdout: &'a mut Vec<u8>,
    pub(in crate::sandbox) stderr: &'a mut Vec<u8>,
    /// The files that its container sees.
    pub(in crate::sandbox) files: &'a Files,
}

/// What a model answers to commands.
pub(in crate::sandbox) trait Commands: Send + Sync {
    /// Runs a program by its name, `argv[0]`, and gives its exit code. `None`: the model has no such program, or no answer to these
    /// arguments, and it is not rehearsable if no small tool of the shell's bears that name.
    fn run<'a>(&'a self, ran: Ran<'a>) -> BoxFuture<'a, Option<i32>>;
}

/// No commands but the shell's own.
pub(in crate::sandbox) struct NoCommands;

impl Commands for NoCommands {
    fn run<'a>(&'a self, _: Ran<'a>) -> BoxFuture<'a, Option<i32>> {
        Box::pin(std::future::ready(None))
    }
}

/// The processes and files of a container, from its start to its end.
pub(in crate::sandbox) fn space(env: &Env) -> Arc<Space> {
    // Where nothing is mounted a volume is the container's own.
    env.volume("(shell)").get_or_init("space", || Space::new(mounts(env)))
}

/// The files that a container sees, for models that read and write them.
pub(in crate::sandbox) fn files(env: &Env) -> Files {
    space(env).files(env.disk_full())
}

fn mounts(env: &Env) -> Vec<Mount> {
    let pod = env.pod();
    let mount = |mount: &Value| {
        let at = text(mount, "/mountPath");
        let volume = look::items(pod, "/spec/volumes").iter().find(|volume| text(volume, "/name") == text(mount, "/name"))?;
        let path = files::clean(at);
        let read_only = look::flag(mount, "/readOnly");
        let content = [("/secret/secretName", "secrets"), ("/configMap/name", "configmaps")]
            .into_iter()
            .find_map(|(field, plural)| Some((plural, text(volume, field))).filter(|(_, name)| !name.is_empty()));
        if let Some((plural, name)) = content {
            let tree = Tree::default();
            let content =
                Files::new(Tree::default(), vec![Mount { path: "/x".to_owned(), tree: tree.clone(), read_only: false, size: SIZE }], false);
            let stored = env.stored(plural, name);
            for (key, value) in stored.as_ref().and_then(|s| s.get("data")).and_then(Value::as_object).into_iter().flatten() {
                let value = value.as_str().unwrap_or_default();
                let value = if plural == "secrets" { model::unbase64(value).unwrap_or_default() } else { value.to_owned() };
                // A key that is no file's name is refused where the object is made.
                let _ = content.write(&format!("/x/{key}"), value.as_bytes(), false);
            }
            return Some(Mount { path, tree, read_only: true, size: SIZE });
        }
        let size = volume_size(env.hosting(), pod, text(mount, "/name"));
        let tree = env.volume(at).get_or_init("files", Tree::default);
        Some(Mount { path, tree: (*tree).clone(), read_only, size: size.unwrap_or(SIZE) })
    };
    look::items(env.spec(), "/volumeMounts").iter().filter_map(mount).collect()
}

/// Whether the volume that is mounted at a path is full.
pub(in crate::sandbox) fn is_full(env: &Env, mount_path: &str) -> bool {
    let mount = |m: &&Value| text(m, "/mountPath").trim_end_matches('/') == mount_path.trim_end_matches('/');
    let Some(mount) = look::items(env.spec(), "/volumeMounts").iter().find(mount) else { return false };
    let Some(size) = volume_size(env.hosting(), env.pod(), text(mount, "/name")) else { return false };
    env.volume(mount_path).get::<Tree>("files").is_some_and(|tree| tree.room() >= size)
}

/// The size of a pod's volume: none for one that has none of its own.
pub(in crate::sandbox) fn volume_size(hosting: &Hosting, pod: &Value, volume: &str) -> Option<u64> {
    let claim = hosting.claim_of(pod, volume)?;
    let size = Quantity::read(text(&claim.value, "/spec/resources/requests/storage"))?;
    u64::try_from(size.nano() / 1_000_000_000).ok()
}

/// Answers an exec with the shell and these commands: `sh` and `bash` with a script, a command of the model's, a small tool.
pub(in crate::sandbox) async fn exec(env: &Env, commands: &dyn Commands, ask: ExecAsk) -> ExecEnd {
    let mut variables = env.vars();
    variables.entry("HOSTNAME".to_owned()).or_insert_with(|| env.name().to_owned());
    variables.entry("PATH".to_owned()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".to_owned());
    let full = || env.disk_full();
    let place = Placed { commands, space: space(env), clock: env.clock(), full: &full, variables: &variables };
    let ExecAsk { command, stdin, stdout, stderr, .. } = ask;
    let fds =
        BTreeMap::from([(0, Fd::In(Input::stream(stdin))), (1, Fd::Out(Output::stream(stdout))), (2, Fd::Out(Output::stream(stderr)))]);
    run(place, fds, &command, None).await
}

/// A container's own process: its command, run by the shell; what it says is the container's log. Without a command it waits until it is
/// told to end. Gives its exit code; 126 if it cannot be rehearsed, which its log says.
///
/// As number 1 of its container it is ended by a SIGTERM only if it has a trap for it.
pub(in crate::sandbox) async fn main(env: &Env, commands: &dyn Commands) -> i32 {
    let words = ["/command", "/args"].iter().flat_map(|at| look::items(env.spec(), at)).filter_map(Value::as_str);
    let argv: Vec<String> = words.map(str::to_owned).collect();
    if argv.is_empty() {
        env.terminated().cancelled().await;
        return 0;
    }
    let mut variables = env.vars();
    variables.entry("HOSTNAME".to_owned()).or_insert_with(|| env.name().to_owned());
    let full = || env.disk_full();
    let terminated = env.terminated();
    let place = Placed { commands, space: space(env), clock: env.clock(), full: &full, variables: &variables };
    let log = Output::log(env.clone());
    let fds = BTreeMap::from([(0, Fd::In(Input::bytes(Vec::new()))), (1, Fd::Out(log.clone())), (2, Fd::Out(log))]);
    match run(place, fds, &argv, Some(&terminated)).await {
        ExecEnd::Exit(code) => code,
        ExecEnd::Failed(why) => {
            env.say(&why);
            126
        }
    }
}

/// Where a command runs.
struct Placed<'a> {
    commands: &'a dyn Commands,
    space: Arc<Space>,
    clock: &'a Clock,
    full: &'a (dyn Fn() -> bool + Sync),
    variables: &'a BTreeMap<String, String>,
}

/// Runs a command in a process group of its own. `terminated`: it is the container's first process, and that is its SIGTERM.
async fn run(place: Placed<'_>, fds: BTreeMap<u32, Fd>, argv: &[String], terminated: Option<&CancellationToken>) -> ExecEnd {
    let Placed { commands, space, clock, full, variables } = place;
    let Some(running) = space.start(None) else { return ExecEnd::Failed("too many processes in the container".to_owned()) };
    let (jobs, mut new) = mpsc::channel::<BoxFuture<'_, ()>>(JOBS);
    let refused = Arc::new(OnceLock::new());
    let host = Host { commands, space: Arc::clone(&space), clock, full, jobs, refused: Arc::clone(&refused) };
    let mut shell = Shell::new(host, Arc::clone(&running.process), variables, fds);
    let mut background = FuturesUnordered::new();
    let mut main = Box::pin(async move {
        let ran = shell.command(argv).await;
        shell.leave(ran).await
    });
    let mut told = false;
    loop {
        let term = async {
            match terminated {
                Some(terminated) if !told => terminated.cancelled().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = term => {
                told = true;
                running.process.terminate_first();
            }
            code = running.process.ended() => return ExecEnd::Exit(code),
            ended = &mut main => return match ended {
                Ok(code) => ExecEnd::Exit(code),
                Err(Stop::Refused(why)) => ExecEnd::Failed(why),
                Err(other) => ExecEnd::Failed(format!("the shell ended without an exit code: {other:?}")),
            },
            Some(job) = new.recv() => {
                if background.len() >= JOBS {
                    return ExecEnd::Failed(format!("not rehearsable: more than {JOBS} commands in the background"));
                }
                background.push(job);
            }
            Some(()) = background.next(), if !background.is_empty() => {
                if let Some(why) = refused.get() {
                    return ExecEnd::Failed(why.clone());
                }
            }
        }
    }
}
