//! One command in a container, for faults of the user's own: run as a runbook's block is, and ended when its time is over.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use super::{
    control::end_of,
    mask::{Masks, Tail},
    parse::Shell,
    place,
    shell::{self, Ended, Place},
};
use crate::{cluster::Cluster, plan::Plan, scenario::types::Dur};

/// How much of a failed command's output is shown.
const SHOWN: usize = 2 << 10;

/// A command and where it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Command<'a> {
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// The container in it.
    pub(crate) container: &'a str,
    /// A script for `sh -eu`.
    pub(crate) script: &'a str,
    /// What its shell is called: how others find it in the container's list of processes while it runs.
    pub(crate) name: &'a str,
    /// Its time; then its whole process group is ended.
    pub(crate) within: Duration,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code.
    pub(crate) code: i32,
    tail: Tail,
}

/// A command line as a line of a script. Never the script's last thing: a shell would become the command, and lose its name.
pub(crate) fn quoted(argv: &[String]) -> String {
    let words: Vec<String> = argv.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    format!("{}\nexit 0\n", words.join(" "))
}

/// Runs it to its end.
///
/// # Errors
/// It could not be run, it is not known how it ended, or its time was over.
pub(crate) async fn command(cluster: &Cluster, command: Command<'_>) -> Result<Ran, String> {
    let Command { pod, container, script, name, within } = command;
    let api = Api::namespaced(cluster.streams.clone(), &pod.namespace().unwrap_or_default());
    let place = Place::Pod { api, name: pod.name_any(), container: Some(container.to_owned()) };
    let mut tail = Tail::default();
    // It has no cancel of its own: what is broken half-way is worse than what is waited for.
    match shell::run(&place, Shell::Sh, script, name, within, &CancellationToken::new(), &mut tail).await {
        Ended::Code(code) => Ok(Ran { code, tail }),
        Ended::TimedOut(how) => Err(format!("it did not end within {}: {how}", Dur(within))),
        Ended::Cancelled(how) | Ended::Lost(how) => Err(how),
    }
}

impl Ran {
    /// How it ended, for people: its exit code and the end of its output, in which no Secret that its pod or the plan names is
    /// shown. Where those cannot be read, nothing of the output is.
    pub(crate) async fn told(&self, cluster: &Cluster, plan: &Plan, pod: &Pod) -> String {
        let mut secrets = place::secrets_of(&pod.namespace().unwrap_or_default(), pod.spec.as_ref());
        secrets.extend(place::secrets_named(plan));
        let (masks, unreadable) = place::masks(cluster, &secrets).await;
        let output = match unreadable.first() {
            Some(why) => format!("(output not shown, because it could not be masked: {why})"),
            None => end_of(self.tail.show(&masks).trim_end(), SHOWN),
        };
        let output = if output.is_empty() { "without a word".to_owned() } else { output };
        format!("exit code {}: {output}", self.code)
    }

    /// The output of a command of firedrill's own.
    pub(crate) fn output(&self) -> String {
        self.tail.show(&Masks::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_as_they_are() {
        let argv: Vec<String> = ["sh", "-c", "echo 'it'\"s\" $x"].map(str::to_owned).into();
        let script = quoted(&argv);
        assert_eq!(script, "'sh' '-c' 'echo '\\''it'\\''\"s\" $x'\nexit 0\n");
    }
}
