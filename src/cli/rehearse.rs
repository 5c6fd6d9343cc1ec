//! `firedrill rehearse FILE…`: how drills would go, in the sandbox, in seconds.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use owo_colors::{OwoColorize as _, Style};
use serde_json::{Value, json};

use super::{
    common::{self, CliError, Output},
    out,
    progress::Progress,
};
use crate::{
    exit::Exit,
    journal::Event,
    rehearse::{Case, Fate, MUTANTS, Mutant, Rehearsal, World, flaky, perform},
    report,
    sandbox::Weather,
    scenario::{self, Loaded, types::Environment},
    verdict::{DrillVerdict, Outcome, time},
};

/// Every rehearsal begins at this instant, so that the same seed is the same rehearsal: 2026-01-01T00:00:00Z.
pub(super) const WALL_US: i64 = 1_767_225_600_000_000;

/// Rehearse scenarios in the sandbox: how they would unfold, what they would show, what they would touch.
#[derive(Debug, Args)]
pub(crate) struct RehearseArgs {
    /// Scenarios.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The environment to rehearse in; default the world's.
    #[arg(short, long, value_name = "FILE")]
    environment: Option<PathBuf>,
    /// The manifests of what is in the sandbox, as for `run --sandbox`.
    #[arg(long, value_name = "PATH")]
    world: Option<PathBuf>,
    /// A new value for a parameter, as for `run`.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = super::set::parse)]
    sets: Vec<(String, String)>,
    /// What everything random comes from.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Rehearse with so many seeds (other times, other targets, every second one with a slow and flaky API server) and tell which
    /// of them end otherwise than the first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000), conflicts_with = "flaky")]
    seeds: Option<u64>,
    /// Rehearse in worlds that are weak in the ways real outages have shown, one weakness each, and tell which objective notices.
    /// Exit code 1 when one survives.
    #[arg(long, conflicts_with_all = ["seeds", "flaky"])]
    mutants: bool,
    /// Rehearse in the world that has this weakness of `--mutants`.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["seeds", "mutants"], value_parser = clap::builder::PossibleValuesParser::new(MUTANTS.iter().map(|mutant| mutant.name)))]
    mutant: Option<String>,
    /// With a slow and flaky API server.
    #[arg(long)]
    flaky: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A scenario with all that is needed to rehearse it.
struct Piece {
    file: PathBuf,
    loaded: Loaded,
    runbooks: BTreeMap<String, String>,
    world: World,
    environment: Environment,
}

impl Piece {
    fn read(file: &Path, args: &RehearseArgs) -> Result<Self, CliError> {
        let loaded = common::load(file, &args.sets)?;
        let runbooks = common::runbooks(&loaded)?;
        let world = common::world(file, args.world.as_deref())?;
        let environment = match common::said_environment(args.environment.as_ref()) {
            Some(path) => scenario::load_environment(&path).map_err(CliError::Problems)?,
            None => world.environment.0.clone(),
        };
        Ok(Self { file: file.to_owned(), loaded, runbooks, world, environment })
    }

    fn rehearse(&self, seed: u64, is_flaky: bool, mutant: Option<&Mutant>) -> Result<Rehearsal, CliError> {
        let weather = if is_flaky { flaky() } else { Weather::default() };
        let Self { loaded, runbooks, world, environment, .. } = self;
        let case = Case { loaded, runbooks, world, environment, seed, wall_us: WALL_US, weather: &weather, mutant };
        let rehearsal = perform(&case).map_err(|error| CliError::Refused(format!("{}: {error}", self.file.display())))?;
        // A drill that was cut short says nothing of the scenario, and those that would follow are not wanted either.
        match rehearsal.records.iter().find_map(|record| interrupted(&record.event)) {
            Some(signal) => {
                Err(CliError::Interrupted(format!("{}: {signal}: the rehearsal was ended, with nothing to say", self.file.display())))
            }
            None => Ok(rehearsal),
        }
    }
}

/// The signal that a drill was aborted by.
fn interrupted(event: &Event) -> Option<&str> {
    match event {
        Event::AbortRequested { by, .. } if crate::signals::NAMES.contains(&by.as_str()) => Some(by),
        _ => None,
    }
}

/// Runs the command. Each rehearsal makes a runtime of its own.
pub(crate) fn run(args: &RehearseArgs) -> Exit {
    let mut pieces = Vec::new();
    let mut worst = Exit::Passed;
    for file in &args.files {
        match Piece::read(file, args) {
            Ok(piece) => pieces.push(piece),
            Err(error) => worst = worse(worst, common::report_error(&error)),
        }
    }
    let mut printed = Vec::new();
    for piece in &pieces {
        let exit = match args.seeds {
            None if args.mutants => mutants(piece, args, &mut printed),
            None => one(piece, args, &mut printed),
            Some(seeds) => many(piece, args, seeds, &mut printed),
        };
        let ended = matches!(exit, Err(CliError::Interrupted(_)));
        worst = worse(worst, exit.unwrap_or_else(|error| common::report_error(&error)));
        if ended {
            break;
        }
    }
    if args.output == Output::Json {
        out::line(Value::Array(printed));
    }
    worst
}

/// Of several commands' ends the one to be told.
fn worse(one: Exit, other: Exit) -> Exit {
    let rank = |exit: Exit| match exit {
        Exit::Passed => 0,
        Exit::Inconclusive => 1,
        Exit::Failed => 2,
        Exit::Refused => 3,
        Exit::Usage => 4,
        Exit::NotClean => 5,
    };
    if rank(other) > rank(one) { other } else { one }
}

fn exit(rehearsal: &Rehearsal) -> Exit {
    match report::exit(&rehearsal.verdict) {
        Exit::Passed | Exit::Inconclusive if rehearsal.trouble.is_some() => Exit::Refused,
        exit => exit,
    }
}

fn as_json(piece: &Piece, seed: u64, is_flaky: bool, rehearsal: &Rehearsal) -> Value {
    let by_faults = report::beyond_api(&rehearsal.records);
    let touched: Vec<Value> = rehearsal.touched.iter().map(|(touch, times)| json!({"write": touch.to_string(), "times": times})).collect();
    json!({
        "file": piece.file.display().to_string(), "seed": seed, "flaky": is_flaky, "verdict": rehearsal.verdict,
        "touched": touched, "touchedBesides": by_faults, "ownWrites": rehearsal.own_writes, "trouble": rehearsal.trouble,
    })
}

fn one(piece: &Piece, args: &RehearseArgs, printed: &mut Vec<Value>) -> Result<Exit, CliError> {
    let rehearsal = {
        let mutant = MUTANTS.iter().find(|mutant| args.mutant.as_deref() == Some(mutant.name));
        piece.rehearse(args.seed, args.flaky, mutant)?
    };
    if args.output == Output::Json {
        printed.push(as_json(piece, args.seed, args.flaky, &rehearsal));
        return Ok(exit(&rehearsal));
    }
    let color = common::color_stdout();
    let heading = |text: &str| if color { text.style(Style::new().bold()).to_string() } else { text.to_owned() };
    out::line(format_args!("{}\n", heading(&format!("Rehearsal of {}", piece.file.display()))));
    if let Some(report) = report::collect(&rehearsal.records) {
        out::line(heading("As it would unfold"));
        for entry in &report.timeline {
            let at = entry.offset_us.map_or_else(|| "?".to_owned(), time);
            for (n, line) in report::at_blanks(&entry.what, common::width().clamp(60, 140) - 14).iter().enumerate() {
                out::line(format_args!("  {:>10}  {line}", if n == 0 { at.as_str() } else { "" }));
            }
        }
        out::line("");
    }
    out::line(report::terminal(&rehearsal.records, common::width(), color));
    out::line(heading("What was touched"));
    for (touch, times) in &rehearsal.touched {
        out::line(format_args!("  {touch}{}", if *times > 1 { format!(" ({times} times)") } else { String::new() }));
    }
    let besides = report::beyond_api(&rehearsal.records);
    for line in &besides {
        paragraph("  ", line);
    }
    if rehearsal.touched.is_empty() && besides.is_empty() {
        out::line("  nothing but firedrill's own");
    }
    paragraph("  ", &format!("{} writes of firedrill's own: its namespace, record, Leases and pods", rehearsal.own_writes));
    if let Some(trouble) = &rehearsal.trouble {
        out::line(format_args!("\ntrouble: {trouble}"));
    }
    Ok(exit(&rehearsal))
}

/// Text behind a lead, broken at words; its other lines stand below its first.
fn paragraph(lead: &str, text: &str) {
    let indent = lead.chars().count();
    for (n, line) in report::at_blanks(text, common::width().clamp(60, 140).saturating_sub(indent).max(20)).iter().enumerate() {
        out::line(format_args!("{}{line}", if n == 0 { lead.to_owned() } else { " ".repeat(indent) }));
    }
}

/// The command that rehearses a piece alone, as it was rehearsed here.
fn again(piece: &Piece, args: &RehearseArgs, seed: u64, rest: &str) -> String {
    let mut words = format!("firedrill rehearse {}", typed(&piece.file.display().to_string()));
    let path = |option: &str, path: &Path| format!(" --{option} {}", typed(&path.display().to_string()));
    words.extend(args.environment.as_deref().map(|given| path("environment", given)));
    words.extend(args.world.as_deref().map(|given| path("world", given)));
    words.extend(args.sets.iter().map(|(name, value)| format!(" --set {}", typed(&format!("{name}={value}")))));
    format!("{words} --seed {seed}{rest}")
}

/// A word as a shell takes it.
fn typed(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// How a rehearsal ended, in words that can be compared.
fn ending(rehearsal: &Rehearsal) -> String {
    format!("{}, {}", rehearsal.verdict.drill, rehearsal.verdict.cleanness())
}

/// Why it ended so: what was not met, and what else there is to say.
fn reasons(rehearsal: &Rehearsal) -> Vec<String> {
    let verdict = &rehearsal.verdict;
    let missed = verdict.objectives.iter().filter(|o| o.outcome != Outcome::Met);
    let mut why: Vec<String> = missed.map(|o| format!("{} {}: {}", o.outcome, o.name, o.reason)).collect();
    if verdict.drill != DrillVerdict::Failed {
        why.extend(verdict.reasons.iter().cloned());
    }
    why.extend(verdict.unclean.iter().chain(&rehearsal.trouble).cloned());
    why
}

fn many(piece: &Piece, args: &RehearseArgs, seeds: u64, printed: &mut Vec<Value>) -> Result<Exit, CliError> {
    let mut first: Option<(String, Exit)> = None;
    let (mut others, mut worst) = (Vec::new(), Exit::Passed);
    let mut progress = Progress::on_stderr();
    for n in 0..seeds {
        progress.say(&format!("{}: seed {} of {seeds}, {} ended otherwise", piece.file.display(), n + 1, others.len()));
        let (seed, is_flaky) = (args.seed.wrapping_add(n), n % 2 == 1);
        let (said, ended, why) = match piece.rehearse(seed, is_flaky, None) {
            Ok(rehearsal) => {
                if args.output == Output::Json {
                    printed.push(as_json(piece, seed, is_flaky, &rehearsal));
                }
                (ending(&rehearsal), exit(&rehearsal), reasons(&rehearsal))
            }
            Err(CliError::Refused(why)) => ("refused".to_owned(), Exit::Refused, vec![why]),
            Err(error) => return Err(error),
        };
        worst = worse(worst, ended);
        match &first {
            None => first = Some((said, ended)),
            Some((reference, _)) if *reference != said => others.push((seed, is_flaky, said, why)),
            Some(_) => {}
        }
    }
    drop(progress);
    let Some((reference, ended)) = first else { return Ok(Exit::Passed) };
    if args.output == Output::Text {
        let file = piece.file.display();
        out::line(format_args!("{file}: {} of {seeds} seeds end as the first: {reference}", seeds - others.len() as u64));
        for (seed, is_flaky, said, why) in &others {
            out::line(format_args!("  seed {seed}: {said}"));
            for why in why {
                out::line(format_args!("    - {why}"));
            }
            out::line(format_args!("    look at it: {}", again(piece, args, *seed, if *is_flaky { " --flaky" } else { "" })));
        }
    }
    Ok(if others.is_empty() { ended } else { worse(worst, Exit::Failed) })
}

/// The unmutated control first; then each mutant that matters to the drill, on the same seed.
fn mutants(piece: &Piece, args: &RehearseArgs, printed: &mut Vec<Value>) -> Result<Exit, CliError> {
    let file = piece.file.display();
    let text = args.output == Output::Text;
    let mut progress = Progress::on_stderr();
    progress.say(&format!("{file}: as it is"));
    let control = piece.rehearse(args.seed, false, None)?;
    progress.clear();
    if exit(&control) != Exit::Passed {
        let why = control.verdict.reasons.iter().chain(&control.verdict.unclean).chain(&control.trouble).cloned().collect::<Vec<_>>();
        return Err(CliError::Refused(format!(
            "{file}: without any weakness the drill is {} ({}), so that nothing can be learnt from weak worlds: look at it with `{}`",
            ending(&control),
            why.join("; "),
            again(piece, args, args.seed, "")
        )));
    }
    if text {
        out::line(format_args!("{file}: as it is: {}", ending(&control)));
    }
    let mut exit = Exit::Passed;
    let wide = MUTANTS.iter().map(|mutant| mutant.name.len()).max().unwrap_or(0);
    let all: Vec<&Mutant> = MUTANTS.iter().filter(|mutant| mutant.concerns(&piece.loaded.scenario, &piece.world)).collect();
    for (n, mutant) in all.iter().copied().enumerate() {
        progress.say(&format!("{file}: mutant {} of {}, {}", n + 1, all.len(), mutant.name));
        let fate = match piece.rehearse(args.seed, false, Some(mutant)) {
            Ok(rehearsal) => mutant.fate(&rehearsal.verdict),
            // It does not even begin: nobody has learnt why.
            Err(CliError::Refused(why)) => Fate::Survived(why),
            Err(error) => return Err(error),
        };
        progress.clear();
        if matches!(fate, Fate::Survived(_)) {
            exit = Exit::Failed;
        }
        if text {
            let again = matches!(fate, Fate::Survived(_))
                .then(|| format!("look at it: {}", again(piece, args, args.seed, &format!(" --mutant {}", mutant.name))));
            let from = if mutant.incident.is_empty() { String::new() } else { format!(", as in scenarios/{}", mutant.incident) };
            paragraph(&format!("  {:wide$}  ", mutant.name), &fate.to_string());
            paragraph(&format!("  {:wide$}    ", ""), &format!("({}{from})", mutant.weakness));
            if let Some(again) = again {
                out::line(format_args!("  {:wide$}    {again}", ""));
            }
        } else {
            let (caught, by) = match &fate {
                Fate::Caught(by) => (true, json!(by)),
                Fate::Survived(said) => (false, json!(said)),
            };
            printed.push(json!({"file": file.to_string(), "seed": args.seed, "mutant": mutant.name, "caught": caught, "by": by}));
        }
    }
    if text {
        let others: Vec<&str> = MUTANTS.iter().filter(|m| !m.concerns(&piece.loaded.scenario, &piece.world)).map(|m| m.name).collect();
        if !others.is_empty() {
            paragraph("  ", &format!("does not go through what these are about: {}", others.join(", ")));
        }
    }
    Ok(exit)
}
