//! Running one shell block in a container, within a limit, and ending it when the limit is over.
//!
//! A kube exec has no signal of its own, and closing its stream ends nothing. So a few lines of `sh` go first: they read
//! the block from standard input up to a marker (a block does not fit a URL, and must not be eaten by its own commands),
//! say their process id, and become the block's shell. The runtime made that process the leader of its own group, so a
//! second exec can end the whole group: SIGTERM, and SIGKILL [`GRACE`] later. Output and errors go into one stream, so that
//! they stay in the order in which they were written.

use std::{pin::Pin, time::Duration};

use futures::future::BoxFuture;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{Api, api::AttachParams};
use rand::RngExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::{mask::Tail, parse::Shell};

/// How long a process group has to end after SIGTERM.
pub(super) const GRACE: Duration = Duration::from_secs(3);
/// How long starting a command, or learning how it ended once it was killed, may take.
const SETUP: Duration = Duration::from_secs(20);

/// `$1` marker, `$2` shell, `$3` its options.
const WRAPPER: &str = r#"m=$1 s= l=
while IFS= read -r l; do [ "$l" = "$m" ] && break; s="$s$l
"; done
[ "$l" = "$m" ] || { echo "the block was cut off on its way"; exit 125; }
printf '%s %s\n' "$m" "$$"
exec "$2" "$3" -c "$s" "$4" 2>&1 </dev/null"#;

/// `$1` process group.
const KILLER: &str = r#"kill -TERM "-$1" 2>/dev/null || { echo gone; exit 0; }
i=0
while [ $i -lt 15 ]; do sleep 0.2 2>/dev/null || { sleep 1; i=$((i+4)); }; kill -0 "-$1" 2>/dev/null || { echo SIGTERM; exit 0; }; i=$((i+1)); done
kill -KILL "-$1" 2>/dev/null; echo SIGKILL"#;

/// Where blocks run.
#[derive(Clone)]
#[cfg_attr(test, expect(clippy::large_enum_variant, reason = "the other variant is only there in tests"))]
pub(super) enum Place {
    /// A container of a pod.
    Pod {
        /// Pods of its namespace, by a client without a read limit: a block may be silent for long.
        api: Api<Pod>,
        /// The pod.
        name: String,
        /// The container; default the first.
        container: Option<String>,
    },
    /// A process of the test's own.
    #[cfg(test)]
    Here,
}

/// How a block ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, with this exit code.
    Code(i32),
    /// Its time was over; how it was ended.
    TimedOut(String),
    /// The drill is aborted; how it was ended.
    Cancelled(String),
    /// It could not be started, or how it ended cannot be known.
    Lost(String),
}

struct Running {
    stdin: Pin<Box<dyn AsyncWrite + Send>>,
    stdout: Pin<Box<dyn AsyncRead + Send>>,
    end: BoxFuture<'static, Result<i32, String>>,
}

/// Runs a block until it ends, its time is over, or the drill is aborted. What it writes goes to `tail`.
pub(super) async fn run(
    place: &Place,
    shell: Shell,
    script: &str,
    name: &str,
    within: Duration,
    cancel: &CancellationToken,
    tail: &mut Tail,
) -> Ended {
    let marker = format!("firedrill-{:032x}", rand::rng().random::<u128>());
    let (program, options) = match shell {
        Shell::Sh => ("sh", "-eu"),
        Shell::Bash => ("bash", "-euo"),
    };
    let deadline = tokio::time::Instant::now() + within;
    let mut argv = vec!["sh", "-c", WRAPPER, "sh", &marker, program, options];
    let wrapper;
    if shell == Shell::Bash {
        // `-o` takes its name as an argument of its own.
        wrapper = WRAPPER.replace(r#""$3" -c"#, r#""$3" pipefail -c"#);
        argv[2] = &wrapper;
    }
    argv.push(name);
    let mut running = tokio::select! {
        biased;
        () = cancel.cancelled() => return Ended::Cancelled("before it was started".to_owned()),
        started = tokio::time::timeout(SETUP.min(within), place.start(&argv)) => match started {
            Ok(Ok(running)) => running,
            Ok(Err(why)) => return Ended::Lost(why),
            Err(_) => return Ended::Lost("the command could not be started in time".to_owned()),
        },
    };
    let mut input = Vec::with_capacity(script.len() + marker.len() + 2);
    input.extend_from_slice(script.as_bytes());
    if !script.ends_with('\n') {
        input.push(b'\n');
    }
    input.extend_from_slice(marker.as_bytes());
    input.push(b'\n');
    let mut output = Output { marker, head: Some(Vec::new()), group: None };
    let followed = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        followed = tokio::time::timeout_at(deadline, follow(&mut running, &input, &mut output, tail)) => Some(followed),
    };
    match followed {
        Some(Ok(Ok(code))) => Ended::Code(code),
        Some(Ok(Err(why))) => Ended::Lost(why),
        Some(Err(_)) => Ended::TimedOut(end(place, running, output, tail).await),
        None => Ended::Cancelled(end(place, running, output, tail).await),
    }
}

async fn follow(running: &mut Running, input: &[u8], output: &mut Output, tail: &mut Tail) -> Result<i32, String> {
    let Running { stdin, stdout, end } = running;
    let write = async {
        let sent = async {
            stdin.write_all(input).await?;
            stdin.flush().await
        };
        sent.await.map_err(|e| format!("the block could not be sent: {e}"))
    };
    let read = async {
        let mut buffer = vec![0; 8 << 10];
        loop {
            match stdout.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(n) => output.push(&buffer[..n], tail),
                Err(e) => return Err(format!("its output was cut off: {e}")),
            }
        }
    };
    // A shell that is not there ends at once and reads nothing: then how it ended says more than that sending failed.
    let (sent, read): (Result<(), String>, Result<(), String>) = futures::join!(write, read);
    let code = end.await?;
    if output.group.is_none() && code == 0 {
        return Err(sent.err().unwrap_or_else(|| "it ended before it was started".to_owned()));
    }
    read.map(|()| code)
}

/// Ends the block's processes; says how.
async fn end(place: &Place, mut running: Running, mut output: Output, tail: &mut Tail) -> String {
    let Some(group) = output.group.clone() else {
        return "it had not started; its stream was closed".to_owned();
    };
    let how = match tokio::time::timeout(GRACE + SETUP, quietly(place, &["sh", "-c", KILLER, "sh", &group])).await {
        Ok(Ok(text)) => match text.trim() {
            "gone" => "it had just ended".to_owned(),
            signal => format!("ended by {signal}"),
        },
        Ok(Err(why)) => format!("could not be ended: {why}"),
        Err(_) => "could not be ended: no answer from the container".to_owned(),
    };
    // What it still said, and the proof that the shell is gone: its stream ends.
    match tokio::time::timeout(SETUP, follow(&mut running, &[], &mut output, tail)).await {
        Ok(_) => how,
        Err(_) => format!("{how}, but its stream is still open"),
    }
}

/// Runs a short command and gives its output.
async fn quietly(place: &Place, argv: &[&str]) -> Result<String, String> {
    let mut running = place.start(argv).await?;
    let mut text = String::new();
    let mut stdout = running.stdout.take(4096);
    stdout.read_to_string(&mut text).await.map_err(|e| e.to_string())?;
    drop(running.stdin);
    let _ = running.end.as_mut().await;
    Ok(text)
}

/// Takes the wrapper's first line out of the output.
struct Output {
    marker: String,
    /// What came before the first line was complete.
    head: Option<Vec<u8>>,
    /// The process group's id.
    group: Option<String>,
}

impl Output {
    fn push(&mut self, bytes: &[u8], tail: &mut Tail) {
        let Some(head) = &mut self.head else { return tail.push(bytes) };
        head.extend_from_slice(bytes);
        let Some(end) = head.iter().position(|b| *b == b'\n') else {
            if head.len() > 4096 {
                tail.push(&self.head.take().unwrap_or_default());
            }
            return;
        };
        let head = self.head.take().unwrap_or_default();
        let line = String::from_utf8_lossy(&head[..end]);
        let pid = line.strip_prefix(self.marker.as_str()).map(str::trim).filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
        match pid {
            Some(pid) => {
                self.group = Some(pid.to_owned());
                tail.push(&head[end + 1..]);
            }
            None => tail.push(&head),
        }
    }
}

impl Place {
    async fn start(&self, argv: &[&str]) -> Result<Running, String> {
        match self {
            Self::Pod { api, name, container } => {
                let params = AttachParams {
                    container: container.clone(),
                    stdin: true,
                    stdout: true,
                    // The wrapper joins the streams; what comes here is the runtime's own, or the wrapper's before it has begun.
                    stderr: true,
                    tty: false,
                    max_stdin_buf_size: None,
                    max_stdout_buf_size: Some(64 << 10),
                    max_stderr_buf_size: Some(4 << 10),
                };
                let argv: Vec<String> = argv.iter().map(|a| (*a).to_owned()).collect();
                let mut process = api
                    .exec(name, argv, &params)
                    .await
                    .map_err(|e| format!("failed to exec in pod {name}: {}", crate::cluster::why(&e)))?;
                let (Some(stdin), Some(stdout), Some(stderr), Some(status)) =
                    (process.stdin(), process.stdout(), process.stderr(), process.take_status())
                else {
                    return Err(format!("the exec in pod {name} gave no streams"));
                };
                let pod = name.clone();
                let end = Box::pin(async move {
                    // Its drop would abort the stream.
                    let _process = process;
                    let mut errors = Tail::default();
                    let mut stderr = stderr;
                    let drain = async {
                        let mut buffer = [0; 1024];
                        while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
                            errors.push(&buffer[..n]);
                        }
                    };
                    let ((), status) = futures::join!(drain, status);
                    let status =
                        status.ok_or_else(|| format!("the connection to pod {pod} broke; what became of the command is not known"))?;
                    code(&status).ok_or_else(|| {
                        let said = errors.show(&super::mask::Masks::default());
                        let message = status.message.unwrap_or_default();
                        format!("the command could not be run in pod {pod}: {message} {said}").trim_end().to_owned()
                    })
                });
                Ok(Running { stdin: Box::pin(stdin), stdout: Box::pin(stdout), end })
            }
            #[cfg(test)]
            Self::Here => {
                use std::process::Stdio;
                let mut child = tokio::process::Command::new(argv[0])
                    .args(&argv[1..])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .process_group(0)
                    .spawn()
                    .map_err(|e| e.to_string())?;
                let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
                // Reaped at once, as a container's runtime does.
                let reaped = tokio::spawn(async move { child.wait().await });
                let end = Box::pin(async move {
                    let status = reaped.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
                    Ok(status.code().unwrap_or(137))
                });
                Ok(Running { stdin: Box::pin(stdin), stdout: Box::pin(stdout), end })
            }
        }
    }
}

/// The exit code in an exec's status; none if the command was not run.
fn code(status: &Status) -> Option<i32> {
    if status.status.as_deref() == Some("Success") {
        return Some(0);
    }
    let causes = status.details.as_ref()?.causes.as_ref()?;
    causes.iter().find(|c| c.reason.as_deref() == Some("ExitCode"))?.message.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runbook::mask::Masks;

    async fn here(shell: Shell, script: &str, within_ms: u64) -> (Ended, String) {
        let mut tail = Tail::default();
        let ended =
            run(&Place::Here, shell, script, "a block", Duration::from_millis(within_ms), &CancellationToken::new(), &mut tail).await;
        (ended, tail.show(&Masks::default()))
    }

    #[tokio::test]
    async fn output_and_errors_come_in_order_and_the_exit_code_with_them() {
        let (ended, output) = here(Shell::Sh, "echo one; echo two >&2\necho three\nexit 7", 10_000).await;
        assert_eq!((ended, output.as_str()), (Ended::Code(7), "one\ntwo\nthree\n"));
    }

    #[tokio::test]
    async fn the_first_failing_command_ends_the_block() {
        assert_eq!(here(Shell::Sh, "echo a\nfalse\necho b\n", 10_000).await, (Ended::Code(1), "a\n".to_owned()));
        assert!(matches!(here(Shell::Sh, "echo $not_set", 10_000).await.0, Ended::Code(c) if c != 0));
        assert_eq!(here(Shell::Sh, "false | true", 10_000).await.0, Ended::Code(0));
        assert_eq!(here(Shell::Bash, "false | true", 10_000).await.0, Ended::Code(1));
        assert_eq!(here(Shell::Bash, "echo \"$0\"", 10_000).await, (Ended::Code(0), "a block\n".to_owned()));
    }

    #[tokio::test]
    async fn a_command_that_reads_does_not_eat_the_block() {
        assert_eq!(here(Shell::Sh, "cat\nread x || true\necho after", 10_000).await, (Ended::Code(0), "after\n".to_owned()));
    }

    #[tokio::test]
    async fn backslashes_quotes_and_here_documents_arrive_as_they_are() {
        let script = "cat <<'E'\n  a\\n \"$x\" 'b' %s \\\nE\nprintf '%s' 'ü'";
        assert_eq!(here(Shell::Sh, script, 10_000).await, (Ended::Code(0), "  a\\n \"$x\" 'b' %s \\\nü".to_owned()));
    }

    #[tokio::test]
    async fn when_the_time_is_over_the_whole_group_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let script = format!("sleep 61 & echo $! > {0}; echo $$ >> {0}; echo begun; sleep 62", file.display());
        let (ended, output) = here(Shell::Sh, &script, 700).await;
        assert_eq!((ended, output.as_str()), (Ended::TimedOut("ended by SIGTERM".to_owned()), "begun\n"));
        for pid in std::fs::read_to_string(&file).unwrap().lines() {
            // A zombie that nobody has reaped yet is dead too.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
        }
    }

    #[tokio::test]
    async fn what_ignores_sigterm_is_killed() {
        let (ended, _) = here(Shell::Sh, "trap '' TERM; sleep 63; sleep 63; sleep 63; sleep 63", 500).await;
        assert_eq!(ended, Ended::TimedOut("ended by SIGKILL".to_owned()));
    }

    #[tokio::test]
    async fn an_abort_ends_it_too() {
        let (mut tail, cancel) = (Tail::default(), CancellationToken::new());
        let stop = cancel.clone();
        let run = run(&Place::Here, Shell::Sh, "sleep 64", "a block", Duration::from_secs(60), &cancel, &mut tail);
        let (ended, ()) = futures::join!(run, async move {
            tokio::time::sleep(Duration::from_millis(400)).await;
            stop.cancel();
        });
        assert_eq!(ended, Ended::Cancelled("ended by SIGTERM".to_owned()));
    }

    #[tokio::test]
    async fn much_output_and_a_long_block_pass() {
        let (ended, output) = here(Shell::Sh, "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done", 30_000).await;
        assert_eq!(ended, Ended::Code(0));
        assert!(output.ends_with("line 19999\n") && output.starts_with("… "), "{output:.200}");
        let long = format!(": {}\necho done", "x".repeat(60_000));
        assert_eq!(here(Shell::Sh, &long, 30_000).await, (Ended::Code(0), "done\n".to_owned()));
    }

    #[tokio::test]
    async fn a_shell_that_is_not_there_is_said() {
        let (ended, output) = here(Shell::Sh, "no-such-command-here", 10_000).await;
        assert_eq!(ended, Ended::Code(127));
        assert!(output.contains("no-such-command-here"), "{output}");
    }

    /// The same wrapper and killer in a pod of the sandbox, over the API server.
    struct Pods(crate::sandbox::Sandbox);

    impl Pods {
        async fn new() -> Self {
            use crate::sandbox::{Sandbox, SandboxOptions};
            let sandbox = Sandbox::new(SandboxOptions { seed: 1, wall_us: 1_767_225_600_000_000 });
            sandbox.add_node("n0", "a");
            let pod = serde_json::json!({
                "metadata": {"name": "tools", "annotations": {"sandbox.firedrill.dev/model": "shell"}},
                "spec": {"nodeName": "n0", "containers": [{
                    "name": "main", "image": "tools:1",
                    // As the runbook's own pods wait.
                    "command": ["sh", "-c", "echo begun; trap 'exit 0' TERM INT; while :; do sleep 5 & wait $!; done"],
                }]},
            });
            let api = Api::<Pod>::namespaced(sandbox.client("admin"), "default");
            api.create(&kube::api::PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
            for _ in 0..600 {
                let phase = api.get("tools").await.unwrap().status.and_then(|s| s.phase);
                if phase.as_deref() == Some("Running") {
                    return Self(sandbox);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("the pod does not run");
        }

        fn api(&self) -> Api<Pod> {
            Api::namespaced(self.0.client("admin"), "default")
        }

        async fn run(&self, shell: Shell, script: &str, within: Duration, cancel: &CancellationToken) -> (Ended, String) {
            let place = Place::Pod { api: self.api(), name: "tools".to_owned(), container: None };
            let mut tail = Tail::default();
            let ended = run(&place, shell, script, "a block", within, cancel, &mut tail).await;
            (ended, tail.show(&Masks::default()))
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn in_the_sandbox_blocks_end_as_they_do_in_a_real_pod() {
        let pods = Pods::new().await;
        let never = CancellationToken::new();
        for (shell, script, ended, output) in [
            (Shell::Sh, "echo one; echo two >&2\necho three\nexit 7", Ended::Code(7), "one\ntwo\nthree\n"),
            (Shell::Sh, "echo a\nfalse\necho b\n", Ended::Code(1), "a\n"),
            (Shell::Sh, "false | true", Ended::Code(0), ""),
            (Shell::Bash, "false | true", Ended::Code(1), ""),
            (Shell::Bash, "echo \"$0\"", Ended::Code(0), "a block\n"),
            (Shell::Sh, "cat\nread x || true\necho after", Ended::Code(0), "after\n"),
            (Shell::Sh, "cat <<'E'\n  a\\n \"$x\" 'b' %s \\\nE\nprintf '%s' 'ü'", Ended::Code(0), "  a\\n \"$x\" 'b' %s \\\nü"),
            (Shell::Sh, "sleep 30; echo rested", Ended::Code(0), "rested\n"),
        ] {
            assert_eq!(pods.run(shell, script, MINUTE, &never).await, (ended, output.to_owned()), "{script}");
        }
        let long = format!(": {}\necho done", "x".repeat(60_000));
        assert_eq!(pods.run(Shell::Sh, &long, MINUTE, &never).await, (Ended::Code(0), "done\n".to_owned()));
        // Never success, and said.
        let (ended, output) = pods.run(Shell::Sh, "echo a; no-such-command-here || true; echo b", MINUTE, &never).await;
        assert!(matches!(&ended, Ended::Lost(why) if why.contains("not rehearsable")), "{ended:?}");
        assert_eq!(output, "a\nnot rehearsable: there is no answer to [\"no-such-command-here\"]\n");
        pods.0.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_sandbox_the_whole_group_is_ended_too() {
        let pods = Pods::new().await;
        let never = CancellationToken::new();
        let limit = Duration::from_millis(700);
        let began = tokio::time::Instant::now();
        let (ended, output) = pods.run(Shell::Sh, "sleep 61 & echo begun; sleep 62", limit, &never).await;
        assert_eq!((ended, output.as_str()), (Ended::TimedOut("ended by SIGTERM".to_owned()), "begun\n"));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let (ended, _) = pods.run(Shell::Sh, "trap '' TERM; sleep 63; sleep 63", limit, &never).await;
        assert_eq!(ended, Ended::TimedOut("ended by SIGKILL".to_owned()));
        let (ended, output) = pods.run(Shell::Sh, "trap 'echo bye; exit 3' TERM; sleep 64", limit, &never).await;
        assert_eq!((ended, output.as_str()), (Ended::TimedOut("ended by SIGTERM".to_owned()), "bye\n"));
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let (ended, ()) = futures::join!(pods.run(Shell::Sh, "sleep 64", MINUTE, &cancel), async move {
            tokio::time::sleep(Duration::from_millis(400)).await;
            stop.cancel();
        });
        assert_eq!(ended.0, Ended::Cancelled("ended by SIGTERM".to_owned()));
        // The pod's own process has a trap, and so ends at once when it is told to.
        pods.api().delete("tools", &kube::api::DeleteParams::default()).await.unwrap();
        let began = tokio::time::Instant::now();
        while pods.api().get_opt("tools").await.unwrap().is_some() {
            assert!(began.elapsed() < Duration::from_secs(5), "it needs no SIGKILL");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        pods.0.stop().await;
    }
}
