//! `firedrill run`, and what `resume` and `revert` share with it: perform a drill, show it, write its evidence.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    sync::Arc,
};

use tokio::{io::AsyncBufReadExt as _, sync::mpsc};

use super::{
    common::{self, CliError, DrillArgs, Prepared, Staged},
    live::{Live, Mode},
    out,
    pace::Pace,
    stop::refuse_when_stopped,
};
use crate::{
    clock::{Clock, Stamp},
    cluster::Cluster,
    drill::{Ack, AckAction, Drill, DrillOptions, LEAST_LEASE, Takeover},
    exit::Exit,
    plan::{
        Permission, Plan,
        may::{self, Missing},
        others,
    },
    rehearse::{Participants, Stage},
    report,
    scenario::types::Dur,
    verdict,
};

/// Runs a drill: shows the plan, asks, breaks things, watches, reverts, and gives a verdict.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    drill: DrillArgs,
    /// Agree to the plan without being asked.
    #[arg(long)]
    yes: bool,
    /// An approved plan (`firedrill plan -o json`); the drill is refused if the cluster or the scenario has drifted from it.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    sandbox: SandboxArgs,
    #[command(flatten)]
    how: How,
}

/// Where there is no cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct SandboxArgs {
    /// Run it in a cluster within this process, which needs nothing else. Its reports say SANDBOX and are no evidence.
    #[arg(long, conflicts_with_all = ["plan", "context"])]
    pub(crate) sandbox: bool,
    /// How fast the sandbox's time goes: `max`, `realtime`, or so many times as fast, as `10x`. Default 10x on a terminal, else max.
    #[arg(long, requires = "sandbox")]
    pub(crate) pace: Option<Pace>,
    /// The manifests of what is in the sandbox: a file, or a folder of them. Default: `world` or `world.yaml` beside the
    /// scenario or beside its folder.
    #[arg(long, value_name = "PATH", requires = "sandbox")]
    pub(crate) world: Option<PathBuf>,
}

/// How a drill is performed and shown.
#[derive(Debug, clap::Args)]
pub(crate) struct How {
    /// Where the evidence goes, a folder a drill.
    #[arg(long, value_name = "DIR", default_value = "evidence")]
    pub out: PathBuf,
    /// Take manual steps as done, for CI; recorded as a deviation.
    #[arg(long)]
    pub auto_ack: bool,
    /// How long the drill's Leases live without renewal: how soon another runner may revert after this one died. At least 2s.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = lease)]
    pub lease: Dur,
    /// Print nothing but the report.
    #[arg(long, short)]
    pub quiet: bool,
    /// `text`, or `json` for one JSON line a journal record.
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,
}

/// How long Leases may live: a runner must be able to renew them in time.
fn lease(text: &str) -> Result<Dur, String> {
    let lease: Dur = text.parse().map_err(|error: crate::scenario::types::ParseDurError| error.to_string())?;
    if lease < LEAST_LEASE {
        return Err(format!("Leases that live for {lease} cannot be renewed in time: {LEAST_LEASE} is the least"));
    }
    Ok(lease)
}

impl Args {
    pub(crate) fn is_json(&self) -> bool {
        self.how.is_json()
    }

    /// Whether the drill's time is the sandbox's.
    pub(crate) const fn in_sandbox(&self) -> bool {
        self.sandbox.sandbox
    }
}

impl How {
    /// Whether what is shown is for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.log_format == "json"
    }

    /// The options of the drill.
    pub(crate) fn options(&self, confirmed_by: Option<String>) -> DrillOptions {
        DrillOptions {
            by: whoami(),
            confirmed_by,
            auto_ack: self.auto_ack,
            lease: self.lease,
            out: self.out.clone(),
            disk: crate::journal::Disk::default(),
            seed: None,
            sandbox: None,
            takeover: Takeover::default(),
        }
    }

    fn mode(&self) -> Mode {
        if self.quiet {
            Mode::Quiet
        } else if self.log_format == "json" {
            Mode::Json
        } else if std::io::stderr().is_terminal() {
            Mode::Terminal
        } else {
            Mode::Plain
        }
    }
}

/// `user@host`, as far as the environment says.
pub(crate) fn whoami() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok().filter(|user| !user.is_empty());
    let uid = rustix::process::getuid().as_raw();
    let user = user.unwrap_or_else(|| if uid == 0 { "root".to_owned() } else { format!("uid{uid}") });
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{host}")
}

/// The drill's name: scenario, date, and a part from the seed. Fits a label and the names made from it.
pub(crate) fn drill_name(plan: &Plan, now: &Stamp) -> String {
    let date = jiff::Timestamp::from_microsecond(now.wall_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let date = date.strftime("%Y%m%d-%H%M%S");
    let short: String = plan.name.chars().take(30).collect();
    let mark = (plan.seed ^ now.wall_us.unsigned_abs()) & 0xffff;
    format!("{}-{date}-{mark:04x}", short.trim_end_matches('-'))
}

/// Runs the command.
pub(crate) async fn run(args: Args) -> Exit {
    match perform(args).await {
        Ok(exit) => exit,
        Err(error) => common::report_error(&error),
    }
}

/// In a cluster within this process. The runtime's clock must be paused.
async fn perform_in_sandbox(args: &Args) -> Result<Exit, CliError> {
    let seed = args.drill.seed.unwrap_or_else(common::new_seed);
    let staged = common::stage(&args.drill, args.sandbox.world.as_deref(), seed, Clock::host().now().wall_us).await?;
    common::show_warnings(&staged.prepared.loaded.warnings);
    let pace = args.sandbox.pace.unwrap_or_else(|| if args.how.mode() == Mode::Terminal { Pace::Times(10.0) } else { Pace::Max });
    let pacer = pace.keep();
    let exit = perform_staged(args, &staged).await;
    drop(pacer);
    staged.stage.close().await;
    exit
}

async fn perform_staged(args: &Args, staged: &Staged) -> Result<Exit, CliError> {
    let Staged { stage, prepared } = staged;
    let plan = &prepared.plan;
    if !args.how.quiet && args.how.log_format == "text" {
        crate::cli::out::note!("{}", crate::plan::render(plan, common::width()));
    }
    let options = DrillOptions {
        seed: Some(plan.seed),
        sandbox: Some(stage.dialer.clone()),
        ..args.how.options(Some("nobody: it is a sandbox".to_owned()))
    };
    let drill = begin(prepared, stage.clock.clone(), options).await?;
    let participants = (!args.how.auto_ack).then(|| Participants::of(&drill));
    let exit = finish(drill, &args.how, Some(stage)).await;
    drop(participants);
    Ok(exit)
}

/// Starts a drill and puts its inputs beside its journal.
async fn begin(prepared: &Prepared, clock: Clock, options: DrillOptions) -> Result<Arc<Drill>, CliError> {
    let plan = &prepared.plan;
    let plan_json = to_json(plan)?;
    let name = drill_name(plan, &clock.now());
    let refused = |why: String| CliError::Refused(why);
    crate::agent::pods::ensure_namespace(&prepared.cluster, &plan.place.firedrill.namespace).await.map_err(|e| refused(e.to_string()))?;
    let drill = Drill::start(prepared.cluster.clone(), clock, plan.clone(), &name, &prepared.loaded.text, options)
        .await
        .map_err(|e| refused(e.to_string()))?;
    keep(&drill, "scenario.yaml", &prepared.loaded.text).await;
    keep(&drill, "environment.yaml", &prepared.environment_text).await;
    keep(&drill, "plan.json", &plan_json).await;
    Ok(drill)
}

async fn perform(args: Args) -> Result<Exit, CliError> {
    common::check_out(&args.how.out)?;
    if args.in_sandbox() {
        return perform_in_sandbox(&args).await;
    }
    let prepared = match &args.plan {
        Some(approved) => common::prepare_approved(&args.drill, approved).await?,
        None => common::prepare(&args.drill).await?,
    };
    common::show_warnings(&prepared.loaded.warnings);
    let plan = &prepared.plan;
    if !args.how.quiet && args.how.log_format == "text" {
        crate::cli::out::note!("{}", crate::plan::render(plan, common::width()));
    }
    refuse_when_not_allowed(&prepared.cluster, plan).await?;
    refuse_when_stopped(&prepared.cluster, &plan.place.firedrill.namespace).await?;
    let Some(confirmed) = confirm(plan, args.yes).await? else {
        return Err(CliError::Refused("nobody agreed to the plan; nothing was changed".to_owned()));
    };
    let drill = begin(&prepared, Clock::host(), args.how.options(Some(confirmed))).await?;
    Ok(finish(drill, &args.how, None).await)
}

/// A drill that lacks a permission would stop half-way, and could perhaps not be undone.
async fn refuse_when_not_allowed(cluster: &Cluster, plan: &Plan) -> Result<(), CliError> {
    // The plan has warned of what is optional.
    let needed: Vec<Permission> = plan.rbac.iter().filter(|permission| !others::is_optional(permission)).cloned().collect();
    let Missing { denied, unknown } = may::missing(cluster, &needed).await;
    if let Some(first) = unknown.first() {
        tracing::warn!("it is not known whether this user may do all that the drill needs: {first}");
    }
    if denied.is_empty() {
        return Ok(());
    }
    let more = if denied.len() > 8 { format!(" and {} more", denied.len() - 8) } else { String::new() };
    let some = denied.into_iter().take(8).collect::<Vec<_>>().join(", ");
    Err(CliError::Refused(format!(
        "this user may not {some}{more}; nothing was changed. An owner allows what the drill needs with what `firedrill plan FILE --rbac` prints"
    )))
}

fn to_json(value: &impl serde::Serialize) -> Result<String, CliError> {
    serde_json::to_string_pretty(value).map_err(|e| CliError::Refused(format!("failed to write JSON: {e}")))
}

/// Puts a file into the evidence. A drill whose evidence cannot be kept is aborted before its first step; it has begun, so it must be
/// brought to its end.
pub(crate) async fn keep(drill: &Drill, name: &str, text: &str) {
    let path = drill.evidence().dir.join(name);
    if let Err(error) = std::fs::write(&path, text) {
        drill.request_abort("firedrill", &format!("the evidence cannot be written: {}: {error}", path.display())).await;
    }
}

/// On a terminal the cluster's name is typed; elsewhere `--yes` is needed.
async fn confirm(plan: &Plan, yes: bool) -> Result<Option<String>, CliError> {
    if yes {
        return Ok(Some(format!("{} with --yes", whoami())));
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(CliError::Refused("the plan must be agreed to: add --yes where there is no terminal to ask at".to_owned()));
    }
    crate::cli::out::prompt!("This breaks things on cluster `{}`. Type its name to go on: ", plan.cluster_name);
    std::io::stderr().flush().map_err(|e| CliError::Refused(e.to_string()))?;
    let mut line = String::new();
    let mut stdin = tokio::io::BufReader::new(tokio::io::stdin());
    stdin.read_line(&mut line).await.map_err(|e| CliError::Refused(e.to_string()))?;
    Ok((line.trim() == plan.cluster_name).then(|| format!("{} typed the cluster's name", whoami())))
}

/// Performs a drill to its end, shows it, writes its reports, and gives the exit code.
/// On a stage nobody types answers: reading them would hold its time up.
pub(crate) async fn finish(drill: Arc<Drill>, how: &How, stage: Option<&Stage>) -> Exit {
    let live = Live::start(
        Arc::clone(drill.plan()),
        drill.name(),
        drill.journal().subscribe(),
        drill.board(),
        drill.acks.asked(),
        how.mode(),
        stage.is_some(),
    );
    let prompt = (std::io::stdin().is_terminal() && !how.auto_ack && stage.is_none())
        .then(|| tokio::spawn(prompt(Arc::clone(&drill), live.typed())));
    let end = drill.run().await;
    if let Some(prompt) = prompt {
        prompt.abort();
        // It was told to end just above.
        let _ = prompt.await;
    }
    live.finish().await;
    let dir = drill.evidence().dir.clone();
    let mut stays = Vec::new();
    let mut exit = match crate::journal::read(&drill.evidence().journal()) {
        Ok(mut records) => {
            let whole = end.unwritten.is_empty();
            records.extend(end.unwritten);
            let verdict = verdict::judge(&records);
            let exit = report::exit(&verdict);
            stays = verdict.stays;
            if how.log_format == "text" {
                out::line(report::terminal(&records, common::width(), common::color_stdout()));
                out::line(beside("evidence:", &dir.display().to_string()));
                out::line(beside("journal head:", &end.head));
            }
            match report::write(&dir, &records) {
                Ok(()) if whole => exit,
                Ok(()) => incomplete(&drill, exit, stage.is_some()),
                Err(error) => {
                    say(format_args!(
                        "the reports could not be written: {error}; make them again with: firedrill report {}",
                        dir.display()
                    ));
                    if whole { at_most_inconclusive(exit) } else { incomplete(&drill, exit, stage.is_some()) }
                }
            }
        }
        Err(error) => {
            say(format_args!("there is no verdict: {error}"));
            Exit::Refused
        }
    };
    if let Some(trouble) = &end.trouble {
        say(format_args!("trouble: {trouble}"));
        // A drill that ended before it changed anything was refused; one that could not go on never passed.
        exit = match exit {
            Exit::Passed | Exit::Inconclusive => Exit::Refused,
            other => other,
        };
    }
    let state = drill.state();
    let unsettled = state.faults.values().any(|fault| !fault.is_settled());
    if state.ended_elsewhere {
        say(format_args!("whoever took drill {} over has reverted it and ended it clean", drill.name()));
    } else if state.lease_lost.is_some() && (unsettled || !state.faults.is_empty()) {
        let (status, revert) = (drill.command("status"), drill.command("revert"));
        say(format_args!(
            "NOT CLEAN as far as this runner knows: the drill is in other hands; see `{status}`. If those are gone too: {revert}"
        ));
        exit = Exit::NotClean;
    } else if !end.clean && (unsettled || state.ended.is_some()) {
        if stage.is_some() {
            say(format_args!("NOT CLEAN: in a cluster, something of this drill would be left; the sandbox has ended with it"));
        } else {
            say(format_args!("NOT CLEAN: something of this drill is left; undo it with: {}", drill.command("revert")));
        }
        exit = Exit::NotClean;
    }
    for what in stays {
        say(format_args!("stays, declared irreversible: {what}"));
    }
    exit
}

/// A word that must be copied whole: beside its name, or below it where there is no room.
fn beside(name: &str, word: &str) -> String {
    let fits = textwrap::core::display_width(name) + 1 + textwrap::core::display_width(word) <= common::width();
    format!("{name}{}{word}", if fits { ' ' } else { '\n' })
}

/// On standard error. A terminal that was closed must not end what still has something to revert or to write.
fn say(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

const fn at_most_inconclusive(exit: Exit) -> Exit {
    if matches!(exit, Exit::Passed) { Exit::Inconclusive } else { exit }
}

/// The journal's file lacks the drill's end: where that is, and how to get it. A sandbox has ended with all that was in it.
fn incomplete(drill: &Drill, exit: Exit, in_sandbox: bool) -> Exit {
    if in_sandbox {
        let journal = drill.evidence().journal();
        say(format_args!(
            "the end of the journal {} could not be written: free some space, or name another folder with --out, and run the drill again; in a \
             sandbox nothing is left to revert",
            journal.display()
        ));
        return at_most_inconclusive(exit);
    }
    say(format_args!(
        "the end of the journal {} could not be written and is kept in the cluster, in this drill's record: free some space, then get it \
         with: {}",
        drill.evidence().journal().display(),
        drill.command("revert")
    ));
    at_most_inconclusive(exit)
}

/// Answers typed at the terminal go to the question asked first: `done`, `no`, `retry`, `skip`, with a remark behind.
async fn prompt(drill: Arc<Drill>, typed: mpsc::Sender<Option<String>>) {
    let asked = drill.acks.asked();
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let (answer, remark) = match asked.borrow().first() {
            Some(question) => match read_answer(&line, question.failed_step) {
                Ok(said) => (said.map(|(action, remark)| (question.step.clone(), action, remark)), None),
                Err(how) => (None, Some(how.to_owned())),
            },
            None => (None, (!line.trim().is_empty()).then(|| "nobody is asked anything now; Ctrl-C aborts and reverts".to_owned())),
        };
        // When it is full the view has enough to say already.
        let _ = typed.try_send(remark);
        if let Some((step, action, remark)) = answer {
            drill.acks.say(&step, Ack { by: whoami(), action, remark }).await;
        }
    }
}

/// What a typed line answers, with the remark behind it; nothing for an empty line; or what to type instead.
fn read_answer(line: &str, failed_step: bool) -> Result<Option<(AckAction, String)>, &'static str> {
    let (word, remark) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let remark = remark.trim().to_owned();
    Ok(Some(match word.to_lowercase().as_str() {
        "" => return Ok(None),
        "done" | "yes" | "y" | "ok" if !failed_step => (AckAction::Done, remark),
        "no" | "n" | "refused" | "refuse" => (AckAction::Refused, remark),
        "retry" if failed_step => (AckAction::Retry, remark),
        "skip" if failed_step && remark.is_empty() => return Err("`skip` needs a reason behind it: it is a deviation"),
        "skip" if failed_step => (AckAction::Skip, remark),
        _ if failed_step => return Err("type `retry`, `skip` and a reason, or `no`"),
        _ => return Err("type `done` or `no`, and a remark behind it if there is one"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_an_answer_or_explained() {
        let said = |line, failed| read_answer(line, failed).map(|a| a.map(|(action, remark)| (action.as_str(), remark)));
        assert_eq!(said(" Done  they know ", false), Ok(Some(("done", "they know".to_owned()))));
        assert_eq!(said("no", false), Ok(Some(("refused", String::new()))));
        assert_eq!(said("", false), Ok(None));
        assert_eq!(said("retry", true), Ok(Some(("retry", String::new()))));
        assert_eq!(said("skip by hand", true), Ok(Some(("skip", "by hand".to_owned()))));
        for (line, failed, how) in
            [("what", false, "`done` or `no`"), ("skip", true, "reason"), ("retry", false, "`done`"), ("done", true, "`retry`")]
        {
            assert!(said(line, failed).unwrap_err().contains(how), "{line}");
        }
    }

    #[test]
    fn leases_live_long_enough_to_be_renewed() {
        assert_eq!(lease("2s"), Ok(LEAST_LEASE));
        for text in ["0", "0s", "1ms", "1999ms"] {
            assert!(lease(text).unwrap_err().contains("2s is the least"), "{text}");
        }
        assert!(lease("soon").is_err());
    }
}
