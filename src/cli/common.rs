//! What the commands that plan a drill share: from arguments to a plan.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use crate::{
    cluster::{self, Cluster, ClusterError},
    exit::Exit,
    plan::{self, NoPlan, PLAN_VERSION, Plan, Refused, kinds},
    rehearse::{Stage, World, WorldError},
    scenario::{self, Diagnostic, Loaded, Problems, Severity, types::Environment},
};

/// The environment's file, when neither `--environment` nor the scenario's file says it.
const ENVIRONMENT_FILE: &str = "environment.yaml";
/// The largest plan or runbook that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;
/// The largest object that a fault may make: it is part of the plan, which must fit into a record in the cluster.
const MAX_MANIFEST: usize = 128 << 10;

/// How a command prints what it found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON document.
    Json,
}

/// Which drill, where.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrillArgs {
    /// The scenario.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where to run it: a file with an Environment. Default: the file that FIREDRILL_ENVIRONMENT names, else an Environment
    /// in the scenario's file, else `environment.yaml` beside the scenario, else in this folder.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) environment: Option<PathBuf>,
    /// The kubeconfig's context; default the environment's, else the current one.
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// A new value for a parameter of the scenario.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = super::set::parse)]
    pub(crate) sets: Vec<(String, String)>,
    /// What everything random comes from; default a random one, always shown.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
}

/// A drill that may be run.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The scenario.
    pub(crate) loaded: Loaded,
    /// The text of the file the environment is from.
    pub(crate) environment_text: String,
    /// The cluster, found to be the environment's.
    pub(crate) cluster: Cluster,
    /// The plan.
    pub(crate) plan: Plan,
}

/// Why a command did not get as far as a plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The scenario or the environment has mistakes.
    #[error(transparent)]
    Problems(Problems),
    /// A file or an argument is not as it must be.
    #[error("{0}")]
    Usage(String),
    /// The cluster.
    #[error(transparent)]
    Cluster(ClusterError),
    /// The drill is refused, with all reasons.
    #[error("{0}")]
    Refused(String),
    /// A signal asked to end what nothing was learnt from yet.
    #[error("{0}")]
    Interrupted(String),
}

impl From<ClusterError> for CliError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(error)
    }
}

impl From<NoPlan> for CliError {
    fn from(error: NoPlan) -> Self {
        match error {
            NoPlan::Cluster(error) => error.into(),
            NoPlan::Refused(refused) => refused.into(),
        }
    }
}

impl From<Refused> for CliError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused.to_string())
    }
}

impl CliError {
    /// Nothing was changed in any of these cases.
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Problems(_) | Self::Usage(_) => Exit::Usage,
            Self::Cluster(error) => match error {
                ClusterError::Config { .. } => Exit::Usage,
                ClusterError::Unreachable { .. }
                | ClusterError::WrongCluster { .. }
                | ClusterError::Call { .. }
                | ClusterError::TimedOut { .. } => Exit::Refused,
            },
            Self::Refused(_) | Self::Interrupted(_) => Exit::Refused,
        }
    }
}

/// Says an error on standard error, and how the command ends.
pub(crate) fn report_error(error: &CliError) -> Exit {
    let color = std::io::stderr().is_terminal() && super::set::color();
    match error {
        CliError::Problems(problems) => {
            crate::cli::out::prompt!("{}", scenario::diag::render(&problems.list, color));
            crate::cli::out::note!("{problems}");
        }
        CliError::Usage(_) | CliError::Cluster(_) | CliError::Refused(_) | CliError::Interrupted(_) => crate::cli::out::note!("{error}"),
    }
    error.exit()
}

/// Reads scenario and environment, connects, looks at the cluster and makes the plan.
///
/// # Errors
/// Whatever keeps the drill from being run; nothing was changed.
pub(crate) async fn prepare(args: &DrillArgs) -> Result<Prepared, CliError> {
    prepare_with(args, args.seed.unwrap_or_else(new_seed)).await
}

/// The same, for a plan that was approved before: with its seed, and refused if anything that was approved has drifted.
///
/// # Errors
/// As [`prepare`], and for drift, line by line.
pub(crate) async fn prepare_approved(args: &DrillArgs, approved: &Path) -> Result<Prepared, CliError> {
    let plan = read_plan(approved)?;
    if args.seed.is_some_and(|seed| seed != plan.seed) {
        return Err(CliError::Usage(format!("--seed is not the seed of {}: leave it out", approved.display())));
    }
    let prepared = prepare_with(args, plan.seed).await?;
    refuse_drift(approved, &prepared.plan)?;
    Ok(prepared)
}

/// The scenario, found to be one that this build can run.
///
/// # Errors
/// Its mistakes, or what of it this build does not have.
pub(crate) fn load(file: &Path, sets: &[(String, String)]) -> Result<Loaded, CliError> {
    let loaded = scenario::load_scenario(file, sets).map_err(CliError::Problems)?;
    let missing = plan::not_built(&loaded.scenario);
    if missing.is_empty() { Ok(loaded) } else { Err(Refused { reasons: missing }.into()) }
}

/// A drill that may be run, and the stage for it.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The sandbox.
    pub(crate) stage: Stage,
    /// The drill.
    pub(crate) prepared: Prepared,
}

/// Reads scenario and world, puts the world on a stage, and makes the plan there.
///
/// # Errors
/// Whatever keeps the drill from being run.
pub(crate) async fn stage(args: &DrillArgs, world: Option<&Path>, seed: u64, wall_us: i64) -> Result<Staged, CliError> {
    let loaded = load(&args.file, &args.sets)?;
    let world = self::world(&args.file, world)?;
    let (environment, environment_text) = match said_environment(args.environment.as_ref()) {
        Some(_) => environment(args)?,
        None => world.environment.clone(),
    };
    let stage = Stage::open(&world, seed, wall_us).await.map_err(|error| CliError::Refused(error.to_string()))?;
    let environment = stage.environment(environment);
    match plan_on(loaded, &environment, environment_text, stage.cluster.clone(), seed).await {
        Ok(prepared) => match stage.grant(&prepared.plan).await {
            Ok(()) => Ok(Staged { stage, prepared }),
            Err(error) => {
                stage.close().await;
                Err(CliError::Refused(error.to_string()))
            }
        },
        Err(error) => {
            stage.close().await;
            Err(error)
        }
    }
}

/// The world of a scenario.
///
/// # Errors
/// There is none, or it has mistakes.
pub(crate) fn world(scenario: &Path, named: Option<&Path>) -> Result<World, CliError> {
    World::find(scenario, named).map_err(|error| match error {
        WorldError::Environment(problems) => CliError::Problems(problems),
        other => CliError::Usage(other.to_string()),
    })
}

async fn prepare_with(args: &DrillArgs, seed: u64) -> Result<Prepared, CliError> {
    let loaded = load(&args.file, &args.sets)?;
    let (environment, environment_text) = environment(args)?;
    let (name, wanted) = environment
        .spec
        .clusters
        .first()
        .ok_or_else(|| CliError::Usage("the environment names no cluster: add `clusters: {main: {uid: …}}`".to_owned()))?;
    let cluster = cluster::connect(args.context.as_deref().or(wanted.context.as_deref())).await?;
    cluster.expect_uid(name, &wanted.uid)?;
    plan_on(loaded, &environment, environment_text, cluster, seed).await
}

/// Looks at the cluster and makes the plan.
async fn plan_on(
    loaded: Loaded,
    environment: &Environment,
    environment_text: String,
    cluster: Cluster,
    seed: u64,
) -> Result<Prepared, CliError> {
    let runbooks = runbooks(&loaded)?;
    let plan = plan::plan_on(&cluster, &loaded, environment, &runbooks, seed).await?;
    Ok(Prepared { loaded, environment_text, cluster, plan })
}

/// A seed that also programs without 64-bit integers (JavaScript, jq) can read back.
pub(crate) fn new_seed() -> u64 {
    rand::random_range(0..1 << 53)
}

/// The environment's file as `--environment` says it, else FIREDRILL_ENVIRONMENT.
pub(crate) fn said_environment(argument: Option<&PathBuf>) -> Option<PathBuf> {
    let variable = || std::env::var_os("FIREDRILL_ENVIRONMENT").filter(|path| !path.is_empty()).map(PathBuf::from);
    argument.cloned().or_else(variable)
}

/// The environment of a drill, with the text of its file.
///
/// # Errors
/// There is none, or it has mistakes.
pub(crate) fn environment(args: &DrillArgs) -> Result<(Environment, String), CliError> {
    if let Some(path) = &said_environment(args.environment.as_ref()) {
        return Ok((scenario::load_environment(path).map_err(CliError::Problems)?, text(path)?));
    }
    let checked = scenario::check_file(&args.file, &args.sets);
    if checked.diagnostics.iter().any(|d| d.severity == Severity::Mistake) {
        return Err(CliError::Problems(Problems { name: args.file.display().to_string(), list: checked.diagnostics }));
    }
    if let Some(environment) = checked.environment {
        return Ok((environment, text(&args.file)?));
    }
    let beside = args.file.parent().unwrap_or(Path::new("")).join(ENVIRONMENT_FILE);
    for path in [beside.as_path(), Path::new(ENVIRONMENT_FILE)] {
        if path.exists() {
            return Ok((scenario::load_environment(path).map_err(CliError::Problems)?, text(path)?));
        }
    }
    let tried = if beside == Path::new(ENVIRONMENT_FILE) { String::new() } else { format!(" {} or", beside.display()) };
    Err(CliError::Usage(format!(
        "no environment says where to run {}: there is none in it, and no{tried} {ENVIRONMENT_FILE} here; name one with --environment FILE \
         or FIREDRILL_ENVIRONMENT",
        args.file.display()
    )))
}

/// The texts of the runbooks and manifests of a scenario, by file.
///
/// # Errors
/// One cannot be read.
pub(crate) fn runbooks(loaded: &Loaded) -> Result<BTreeMap<String, String>, CliError> {
    let mut texts = BTreeMap::new();
    for step in kinds::leaves(&loaded.scenario.spec.steps) {
        if let Some(file) = step.runbook.as_ref().and_then(|r| r.file.as_ref()) {
            texts.insert(file.clone(), text(&loaded.dir.join(file))?);
        }
        if let Some(file) = step.inject.as_ref().and_then(|fault| fault.object_file()).map(|object| object.file) {
            let text = text(&loaded.dir.join(file))?;
            if text.len() > MAX_MANIFEST {
                let why =
                    format!("failed to read {file}: it has {} bytes, and the plan takes a manifest of at most {MAX_MANIFEST}", text.len());
                return Err(CliError::Usage(why));
            }
            texts.insert(file.to_owned(), text);
        }
    }
    Ok(texts)
}

fn text(path: &Path) -> Result<String, CliError> {
    let fail = |why: String| CliError::Usage(format!("failed to read {}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
    if size > MAX_BYTES {
        return Err(fail(format!("it has {size} bytes, more than {MAX_BYTES}")));
    }
    std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))
}

fn read_plan(path: &Path) -> Result<Plan, CliError> {
    let json = text(path)?;
    let wrong = |why: String| CliError::Usage(format!("{} is not a plan of this firedrill: {why}", path.display()));
    let value: serde_json::Value = serde_json::from_str(&json).map_err(|error| wrong(error.to_string()))?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(PLAN_VERSION)) {
        let found = version.map_or_else(|| "none".to_owned(), |v| v.to_string());
        return Err(wrong(format!(
            "its version is {found}, and this build reads {PLAN_VERSION}: make it again with `firedrill plan --out`"
        )));
    }
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}

/// Refuses to run what was not approved.
///
/// # Errors
/// Every difference, a line each; or that the file is no plan.
pub(crate) fn refuse_drift(approved: &Path, now: &Plan) -> Result<(), CliError> {
    let lines = plan::drift(&read_plan(approved)?, now);
    if lines.is_empty() {
        return Ok(());
    }
    let lines = lines.iter().map(|line| format!("\n  - {line}")).collect::<String>();
    Err(CliError::Refused(format!(
        "refused: the cluster or the scenario is no longer as in the approved plan {}:{lines}",
        approved.display()
    )))
}

/// Makes sure that evidence can be written under `--out`, before anything else is done.
///
/// # Errors
/// Which folder cannot be made or written, why, and what to do.
pub(crate) fn check_out(out: &Path) -> Result<(), CliError> {
    let refuse = |error: std::io::Error| {
        CliError::Refused(format!(
            "refused: the evidence of the drill cannot be written under {}: {error}; name another folder with --out. Nothing was changed",
            out.display()
        ))
    };
    std::fs::create_dir_all(out).map_err(refuse)?;
    let probe = out.join(format!(".firedrill-{}", std::process::id()));
    let written = std::fs::File::create_new(&probe).and_then(|mut file| {
        std::io::Write::write_all(&mut file, &[b'.'; 4096])?;
        file.sync_all()
    });
    // Gone with the folder's other contents if it cannot be removed; what matters is what was written.
    let removed = std::fs::remove_file(&probe);
    written.and(removed).map_err(refuse)
}

/// Shows the warnings of a scenario on standard error.
pub(crate) fn show_warnings(warnings: &[Diagnostic]) {
    if !warnings.is_empty() {
        crate::cli::out::prompt!("{}", scenario::diag::render(warnings, std::io::stderr().is_terminal() && super::set::color()));
    }
}

/// The terminal's width in columns; 100 when there is none.
pub(crate) fn width() -> usize {
    let columns = || std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).filter(|c| *c > 0);
    let terminal = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|c| *c > 0);
    terminal.or_else(columns).unwrap_or(100)
}

/// Whether standard output takes colours.
pub(crate) fn color_stdout() -> bool {
    std::io::stdout().is_terminal() && super::set::color()
}
