//! How the API server reaches kubelets: commands and logs.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::super::{
    cluster::Cluster,
    control::{Who, look::micro_time},
    core::text,
    kubelet::{ExecAsk, ExecEnd, Kubelets, LogAsk},
    model::Exec,
    net::Place,
    store::Key,
};
use crate::net::Stream;

/// The kubelets of a cluster.
pub(in crate::sandbox) struct Reach {
    pub(in crate::sandbox) cluster: Arc<Cluster>,
    pub(in crate::sandbox) clock: crate::clock::Clock,
}

fn identity(pod: &Value) -> (Key, String) {
    let key = Key(text(pod, "/metadata/namespace").to_owned(), text(pod, "/metadata/name").to_owned());
    (key, text(pod, "/metadata/uid").to_owned())
}

impl Kubelets for Reach {
    fn reachable(&self, node: &str) -> bool {
        self.cluster.lock().nodes.reachable(node)
    }

    fn exec(&self, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        let now = self.clock.now().wall_us;
        let (key, uid) = identity(&ask.pod);
        let container = ask.container.clone();
        let mut inner = self.cluster.lock();
        let Some((run, machine)) = inner.nodes.run_mut(&key, &uid) else {
            return std::future::ready(ExecEnd::Failed(format!("container not found (\"{container}\")"))).boxed();
        };
        if let Some(hosted) = run.hosted(&container) {
            let command = hosted.command(ask);
            drop(inner);
            // Its container has ended, and it with it.
            return command.unwrap_or_else(|| std::future::ready(ExecEnd::Exit(137)).boxed());
        }
        let answer = run.exec(&container, &ask.command, machine.disk_full, now);
        drop(inner);
        self.cluster.poke([(Who::Kubelet, key)]);
        async move {
            let ExecAsk { mut stdout, mut stderr, .. } = ask;
            match answer {
                None => ExecEnd::Failed(format!("container not found (\"{container}\")")),
                Some(Exec::NotRehearsable(why)) => ExecEnd::Failed(why),
                Some(Exec::Done { stdout: out, stderr: err, code }) => {
                    // A client that does not read its output does not change how the command ended.
                    let _ = stdout.write_all(&out).await;
                    let _ = stderr.write_all(&err).await;
                    ExecEnd::Exit(code)
                }
            }
        }
        .boxed()
    }

    fn forward(&self, pod: &Value, port: u16) -> BoxFuture<'static, Result<Stream, String>> {
        let (key, uid) = identity(pod);
        let found = {
            let mut inner = self.cluster.lock();
            let hosting = inner.nodes.hosting.clone();
            inner.nodes.run_mut(&key, &uid).map(|(run, _)| (run.node.clone(), run.address.clone())).zip(hosting)
        };
        async move {
            let ((node, address), hosting) = found.ok_or_else(|| format!("pod {} does not run", key.1))?;
            // From its own node: what a lost network cuts off is the way to that.
            let dialer = hosting.net.dialer(Place::node(&key.0, &node));
            dialer.connect(&address, port).await.map_err(|error| format!("failed to connect to localhost:{port} inside namespace: {error}"))
        }
        .boxed()
    }

    fn log(&self, pod: &Value, ask: &LogAsk) -> Result<String, String> {
        let now = self.clock.now().wall_us;
        let (key, uid) = identity(pod);
        let mut inner = self.cluster.lock();
        let missing = || format!("container {:?} in pod {:?} is not available", ask.container, key.1);
        let (run, _) = inner.nodes.run_mut(&key, &uid).ok_or_else(missing)?;
        let log = run.log(&ask.container, ask.previous)?;
        let since = ask
            .since_seconds
            .and_then(|secs| i64::try_from(secs).ok())
            .map_or(i64::MIN, |secs| now.saturating_sub(secs.saturating_mul(1_000_000)));
        let lines: Vec<&(i64, String)> = log.lines.iter().filter(|(at, _)| *at >= since).collect();
        let skip = ask.tail_lines.and_then(|n| usize::try_from(n).ok()).map_or(0, |n| lines.len().saturating_sub(n));
        let line = |(at, line): &(i64, String)| {
            if ask.timestamps { format!("{} {line}\n", micro_time(*at)) } else { format!("{line}\n") }
        };
        Ok(lines.into_iter().skip(skip).map(line).collect())
    }
}
