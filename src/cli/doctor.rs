//! `firedrill doctor [FILE]`: what stands in the way of drills on a cluster, and what to change; changes nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use super::{
    common::{self, CliError, DrillArgs, Output},
    out,
    rehearse::WALL_US,
};
use crate::{
    clock::Clock,
    cluster::{self, ClusterError},
    doctor::{self, Asked, Finding, Report},
    exit::Exit,
    plan,
    rehearse::Stage,
    scenario::{self, Loaded, types::Environment},
    signals::Signals,
};

/// Say which faults can work on a cluster, what stands in their way, and what to change; changes nothing but with --probe-nodes.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// The scenario; without one, what holds for any.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where drills run: a file with an Environment. Default: as for `run`.
    #[arg(short, long, value_name = "FILE")]
    environment: Option<PathBuf>,
    /// The kubeconfig's context; default the environment's, else the current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// A new value for a parameter of the scenario.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = super::set::parse)]
    sets: Vec<(String, String)>,
    /// Look at a world in a cluster within this process: that of the scenario, or the one of --world.
    #[arg(long, conflicts_with = "context")]
    sandbox: bool,
    /// The manifests of what is in the sandbox, as for `run`.
    #[arg(long, value_name = "PATH", requires = "sandbox")]
    world: Option<PathBuf>,
    /// Look at the nodes themselves, by a privileged pod of firedrill's on each that is removed again: whether it runs there, what the
    /// kernel has, and what would start a hanging kubelet anew.
    #[arg(long)]
    probe_nodes: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The environment where a scenario does not say one.
const ENVIRONMENT_FILE: &str = "environment.yaml";

impl DoctorArgs {
    /// Whether the time is the sandbox's.
    pub(crate) const fn in_sandbox(&self) -> bool {
        self.sandbox
    }

    fn drill(&self, file: &Path) -> DrillArgs {
        DrillArgs {
            file: file.to_owned(),
            environment: self.environment.clone(),
            context: self.context.clone(),
            sets: self.sets.clone(),
            seed: Some(0),
        }
    }
}

/// Runs the command.
pub(crate) async fn run(args: &DoctorArgs) -> Exit {
    let looked = if args.sandbox { in_sandbox(args).await } else { on_cluster(args).await };
    match looked.and_then(|report| show(args, &report).map(|()| report.exit())) {
        Ok(exit) => exit,
        Err(error) => common::report_error(&error),
    }
}

/// The scenario and its files, if one was named.
type Drill = Option<(Loaded, BTreeMap<String, String>)>;

fn drill(args: &DoctorArgs) -> Result<Drill, CliError> {
    let Some(file) = &args.file else { return Ok(None) };
    let loaded = common::load(file, &args.sets)?;
    common::show_warnings(&loaded.warnings);
    let files = common::runbooks(&loaded)?;
    Ok(Some((loaded, files)))
}

fn environment(args: &DoctorArgs) -> Result<Environment, CliError> {
    if let Some(file) = &args.file {
        return common::environment(&args.drill(file)).map(|(environment, _)| environment);
    }
    let path = common::said_environment(args.environment.as_ref()).unwrap_or_else(|| PathBuf::from(ENVIRONMENT_FILE));
    if !path.exists() {
        let why = format!(
            "no environment says where to look: there is no {}; name one with --environment FILE or FIREDRILL_ENVIRONMENT",
            path.display()
        );
        return Err(CliError::Usage(why));
    }
    scenario::load_environment(&path).map_err(CliError::Problems)
}

async fn on_cluster(args: &DoctorArgs) -> Result<Report, CliError> {
    let (drill, environment) = (drill(args)?, environment(args)?);
    let wanted = environment.spec.clusters.first().and_then(|(_, cluster)| cluster.context.clone());
    let name = drill.as_ref().map(|(loaded, _)| loaded.scenario.metadata.name.clone());
    let of = |cluster: &str, findings| Report::new(&environment.metadata.name, cluster, name.as_deref(), findings);
    let cluster = match cluster::connect(args.context.as_deref().or(wanted.as_deref())).await {
        Ok(cluster) => cluster,
        Err(error @ ClusterError::Config { .. }) => return Err(error.into()),
        Err(error) => return Ok(of("that cannot be reached", vec![doctor::unreachable(&error)])),
    };
    let (clock, stop) = (Clock::host(), CancellationToken::new());
    let asked = Asked {
        cluster: &cluster,
        environment: &environment,
        drill: drill.as_ref().map(|(l, f)| (l, f)),
        clock: &clock,
        one_clock: false,
        probe: args.probe_nodes.then_some(&stop),
    };
    let look = doctor::look(asked);
    if !args.probe_nodes {
        return Ok(of(&cluster.name, look.await));
    }
    // What was placed is removed before it ends.
    let mut signals = Signals::new().map_err(|error| CliError::Usage(format!("failed to listen for signals: {error}")))?;
    tokio::pin!(look);
    loop {
        tokio::select! {
            biased;
            findings = &mut look => return Ok(of(&cluster.name, findings)),
            signal = signals.next() => {
                crate::cli::out::note!("{signal}: the pods that were placed are removed, then it ends");
                stop.cancel();
            }
        }
    }
}

/// In a cluster within this process. The runtime's clock must be paused.
async fn in_sandbox(args: &DoctorArgs) -> Result<Report, CliError> {
    if args.file.is_none() && args.world.is_none() {
        let why = "--sandbox looks at a world: name a scenario that has one beside it, or the world itself with --world PATH";
        return Err(CliError::Usage(why.to_owned()));
    }
    let drill = drill(args)?;
    let world = common::world(args.file.as_deref().unwrap_or(Path::new("")), args.world.as_deref())?;
    let environment = match common::said_environment(args.environment.as_ref()) {
        Some(_) => environment(args)?,
        None => world.environment.0.clone(),
    };
    let stage = Stage::open(&world, 0, WALL_US).await.map_err(|error| CliError::Refused(error.to_string()))?;
    let environment = stage.environment(environment);
    // As before `run --sandbox`: what `plan --rbac` prints is granted there. Where there is no plan, that is told below.
    let planned = match &drill {
        Some((loaded, files)) => plan::plan_on(&stage.cluster, loaded, &environment, files, 0).await.ok(),
        None => None,
    };
    let own = &environment.spec.firedrill;
    let granted = match (&planned, own.guard()) {
        (Some(plan), _) => stage.grant(plan).await,
        (None, Some(watchdog)) => stage.account(&own.namespace, &watchdog.service_account).await,
        (None, None) => Ok(()),
    };
    if let Err(error) = granted {
        stage.close().await;
        return Err(CliError::Refused(error.to_string()));
    }
    let stop = CancellationToken::new();
    let asked = Asked {
        cluster: &stage.cluster,
        environment: &environment,
        drill: drill.as_ref().map(|(l, f)| (l, f)),
        clock: &stage.clock,
        one_clock: true,
        probe: args.probe_nodes.then_some(&stop),
    };
    let findings = doctor::look(asked).await.into_iter().map(|finding| of_world(finding, &world.path)).collect();
    stage.close().await;
    let name = drill.as_ref().map(|(loaded, _)| loaded.scenario.metadata.name.as_str());
    Ok(Report::new(&environment.metadata.name, "sandbox", name, findings))
}

/// What would be changed on a cluster is changed in the world's manifests.
fn of_world(mut finding: Finding, world: &str) -> Finding {
    if let Some(change) = finding.change.as_mut().filter(|change| change.contains("kubectl ")) {
        *change = format!("change the manifests in {world} so; on a cluster it would be: {change}");
    }
    finding
}

fn show(args: &DoctorArgs, report: &Report) -> Result<(), CliError> {
    let text = match args.output {
        Output::Text => doctor::render(report, common::width(), common::color_stdout()),
        Output::Json => {
            serde_json::to_string_pretty(report).map_err(|error| CliError::Usage(format!("failed to write JSON: {error}")))? + "\n"
        }
    };
    out::print(&text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Area, Verdict};

    #[test]
    fn nobody_has_a_cluster_there_to_change_with_kubectl() {
        let told = |change: &str| {
            let finding = Finding::new(Area::Place, "x", Verdict::No, "y".to_owned()).change(change);
            of_world(finding, "shop/world").change.unwrap_or_default()
        };
        assert_eq!(
            told("kubectl label ns shop a=b"),
            "change the manifests in shop/world so; on a cluster it would be: kubectl label ns shop a=b"
        );
        assert_eq!(told("use another image"), "use another image");
    }
}
