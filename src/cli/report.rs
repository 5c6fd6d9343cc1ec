//! `firedrill report FOLDER`: the reports again, or what would have been with other targets.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use clap::Args;
use indexmap::IndexMap;

use super::{
    common::{self, Output},
    out,
};
use crate::{
    exit::Exit,
    journal::{self, Event, Record},
    report, scenario,
    verdict::{judge, rejudge_plan},
};

/// Make a drill's reports again from its journal, or judge it again with other parameters.
///
/// Without --set: writes report.json, junit.xml, report.md and SHA256SUMS into the folder and shows the summary. With --set:
/// only shows what would have been; the evidence stays as it is. Ends with the exit code of the verdict shown.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The evidence folder of one drill, with its journal.jsonl.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Another value for a parameter of the scenario: judge again with it.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = super::set::parse)]
    sets: Vec<(String, String)>,
    /// Write the reports into this folder instead. Must not be the evidence folder when judging again.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
pub(crate) fn run(args: &ReportArgs) -> Exit {
    match try_run(args) {
        Ok(exit) => exit,
        Err(text) => {
            crate::cli::out::prompt!("{text}");
            Exit::Usage
        }
    }
}

/// Errors are whole texts with a newline at their end.
fn try_run(args: &ReportArgs) -> Result<Exit, String> {
    let (records, torn) = journal::read_whole(&args.folder.join("journal.jsonl")).map_err(line)?;
    if torn {
        crate::cli::out::note!("the journal's last line was cut short, as when its runner dies; it is left out");
    }
    let altered = report::altered(&args.folder).map_err(line_and_help)?;
    if !altered.is_empty() {
        let said = format!("{} not as SHA256SUMS has it: the evidence was changed after the drill", altered.join(", "));
        if args.sets.is_empty() && args.out.as_ref().is_none_or(|out| same(out, &args.folder)) {
            return Err(format!("{said}\n  nothing was written; `--out ELSEWHERE` makes reports of the journal alone\n"));
        }
        crate::cli::out::note!("{said}");
    }
    let what_if = !args.sets.is_empty();
    let records = if what_if { judged_again(args, &records)? } else { records };
    match &args.out {
        Some(out) if what_if && same(out, &args.folder) => {
            return Err("judging again never overwrites the evidence: name another folder with --out\n".to_owned());
        }
        Some(out) => report::write(out, &records).map_err(line_and_help)?,
        None if what_if => {}
        None => report::write(&args.folder, &records).map_err(line_and_help)?,
    }
    let text = match args.output {
        Output::Json => report::json(&records).unwrap_or_default(),
        Output::Text => {
            let sets: Vec<_> = args.sets.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let head = if what_if { format!("WHAT IF {} (the evidence is unchanged)\n", sets.join(" ")) } else { String::new() };
            head + &report::terminal(&records, common::width(), common::color_stdout())
        }
    };
    out::print(&text);
    Ok(report::exit(&judge(&records)))
}

/// The records with the objectives of the kept scenario under other parameters.
fn judged_again(args: &ReportArgs, records: &[Record]) -> Result<Vec<Record>, String> {
    let Some(Event::Started { plan, .. }) = records.first().map(|r| &r.event) else {
        return Err("failed to judge again: the journal does not begin with the drill's plan\n".to_owned());
    };
    let path = args.folder.join("scenario.yaml");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("failed to read {}: {e}\n", path.display()))?;
    if journal::line_hash(&text) != plan.scenario_sha256 {
        return Err(format!(
            "failed to judge again: {} is not the scenario that was run (its SHA-256 differs from the plan's)\n",
            path.display()
        ));
    }
    if let Some((name, _)) = args.sets.iter().find(|(name, _)| !plan.parameters.contains_key(name)) {
        let known: Vec<_> = plan.parameters.keys().map(String::as_str).collect();
        return Err(format!("failed to judge again: the scenario has no parameter `{name}`; it has: {}\n", known.join(", ")));
    }
    // What was set for the drill stays set.
    let mut values: IndexMap<String, String> = plan.parameters.clone();
    values.extend(args.sets.iter().cloned());
    let values: Vec<_> = values.into_iter().collect();
    let loaded = scenario::parse_scenario(&path.display().to_string(), &text, &values).map_err(|problems| {
        let color = std::io::stderr().is_terminal() && super::set::color();
        scenario::diag::render(&problems.list, color)
    })?;
    let mut records = rejudge_plan(records, &loaded.scenario).map_err(line)?;
    if let Some(Event::Started { plan, .. }) = records.first_mut().map(|r| &mut r.event) {
        plan.parameters.extend(args.sets.iter().cloned());
    }
    Ok(records)
}

/// An error as a line.
fn line(error: impl std::fmt::Display) -> String {
    format!("{error}\n")
}

/// The same with its cause and what can be done.
fn line_and_help(error: report::ReportError) -> String {
    let cause = std::error::Error::source(&error).map_or_else(String::new, |c| format!(": {c}"));
    let help = miette::Diagnostic::help(&error).map_or_else(String::new, |h| format!("  {h}\n"));
    format!("{error}{cause}\n{help}")
}

fn same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        journal::{Log, RevertResult, RunEnd},
        scenario::types::ProbeState,
        verdict::tests::kit::Tape,
    };

    const SCENARIO: &str = r#"
apiVersion: firedrill.dev/v1alpha1
kind: Scenario
metadata: {name: lose-primary}
spec:
  summary: The primary is lost; a replica must take over.
  parameters: {rto: 60s, stable: 5s}
  targets:
    primary: {namespace: shop, pods: "role=master", expect: 1}
  limits: {pods: 1, duration: 20m}
  probes:
    web: {http: {url: "http://checkout.shop/healthz"}, every: 100ms, timeout: 200ms}
  steadyState: {good: [web], for: 5s, timeout: 1m}
  steps:
    - name: break it
      inject: {freeze: {target: primary}}
    - name: watch
      hold: 60s
  objectives:
    - recoveryTime: {probe: web, after: break it, within: "${rto}", stableFor: "${stable}"}
"#;

    /// An evidence folder of a drill whose probe was good again 2.48–2.61 s after the fault, judged with `rto=3s`.
    pub(in crate::cli) fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("scenario.yaml"), SCENARIO).unwrap();
        let mut tape = Tape::new();
        tape.rto(3_000, 5_000);
        tape.plan.scenario_sha256 = journal::line_hash(SCENARIO);
        tape.plan.parameters = [("rto".to_owned(), "3s".to_owned()), ("stable".to_owned(), "5s".to_owned())].into();
        tape.run("web", ProbeState::Good, 0, 900, RunEnd::Cut);
        tape.break_it(1_000, 1_020);
        tape.run("web", ProbeState::Bad, 1_100, 3_500, RunEnd::Change);
        tape.run("web", ProbeState::Good, 3_600, 19_900, RunEnd::End);
        tape.steps_ended(10_000);
        tape.revert(11_000, RevertResult::Reverted);
        tape.end(20_000);
        let mut log = Log::create(&dir.path().join("journal.jsonl")).unwrap();
        for record in tape.records() {
            log.append(record.at, record.event).unwrap();
        }
        log.sync().unwrap();
        dir
    }

    fn args(folder: &Path, sets: &[(&str, &str)], out: Option<&Path>) -> ReportArgs {
        let sets = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ReportArgs { folder: folder.to_owned(), sets, out: out.map(Path::to_owned), output: Output::Json }
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn reports_are_made_again_and_judged_again_without_touching_the_evidence() {
        let dir = folder();
        let what_if = |rto: &str| try_run(&args(dir.path(), &[("rto", rto)], None));
        assert_eq!(what_if("3s"), Ok(Exit::Passed));
        assert_eq!(what_if("1s"), Ok(Exit::Failed));
        assert_eq!(what_if("2500ms"), Ok(Exit::Inconclusive));
        assert_eq!(try_run(&args(dir.path(), &[("stable", "10m")], None)), Ok(Exit::Inconclusive));
        assert_eq!(files(dir.path()), ["journal.jsonl", "scenario.yaml"]);

        assert_eq!(try_run(&args(dir.path(), &[], None)), Ok(Exit::Passed));
        assert_eq!(files(dir.path()), ["SHA256SUMS", "journal.jsonl", "junit.xml", "report.json", "report.md", "scenario.yaml"]);
        // The head in the report is the hash of the journal's last line.
        let journal = std::fs::read_to_string(dir.path().join("journal.jsonl")).unwrap();
        let report: report::Report = serde_json::from_str(&std::fs::read_to_string(dir.path().join("report.json")).unwrap()).unwrap();
        assert_eq!(report.journal.head, journal::line_hash(journal.lines().last().unwrap()));

        let kept = std::fs::read(dir.path().join("report.json")).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(try_run(&args(dir.path(), &[("rto", "1s")], Some(elsewhere.path()))), Ok(Exit::Failed));
        assert_eq!(files(elsewhere.path()), ["SHA256SUMS", "junit.xml", "report.json", "report.md"]);
        let refused = try_run(&args(dir.path(), &[("rto", "1s")], Some(dir.path()))).unwrap_err();
        assert!(refused.contains("never overwrites the evidence"), "{refused}");
        assert_eq!(std::fs::read(dir.path().join("report.json")).unwrap(), kept);
    }

    #[test]
    fn what_cannot_be_judged_says_why() {
        let dir = folder();
        let says = |sets: &[(&str, &str)], why: &str| {
            let text = try_run(&args(dir.path(), sets, None)).unwrap_err();
            assert!(text.contains(why), "{why}: {text}");
        };
        says(&[("rta", "1s")], "no parameter `rta`; it has: rto, stable");
        says(&[("rto", "soon")], "soon");
        std::fs::write(dir.path().join("scenario.yaml"), SCENARIO.replace("60s", "61s")).unwrap();
        says(&[("rto", "1s")], "is not the scenario that was run");
        std::fs::remove_file(dir.path().join("scenario.yaml")).unwrap();
        says(&[("rto", "1s")], "failed to read");
        // Without --set the scenario is not needed, but the journal must be whole.
        assert_eq!(try_run(&args(dir.path(), &[], None)), Ok(Exit::Passed));
        let path = dir.path().join("journal.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("connection refused", "connection accepted", 1)).unwrap();
        says(&[], "is not whole");
        std::fs::write(&path, "").unwrap();
        let empty = try_run(&args(dir.path(), &[], None)).unwrap_err();
        assert!(empty.contains("failed to make the report") || empty.contains("journal"), "{empty}");
        let none = tempfile::tempdir().unwrap();
        assert!(try_run(&args(none.path(), &[], None)).unwrap_err().contains("journal.jsonl"));
    }

    #[test]
    fn evidence_that_was_changed_is_not_reported_as_if_it_were_not() {
        let dir = folder();
        std::fs::create_dir(dir.path().join("samples")).unwrap();
        std::fs::write(dir.path().join("samples/web.csv"), "n,state\n0,good\n").unwrap();
        assert_eq!(try_run(&args(dir.path(), &[], None)), Ok(Exit::Passed));
        let sums = std::fs::read(dir.path().join("SHA256SUMS")).unwrap();
        // The reports themselves can be made again.
        std::fs::write(dir.path().join("report.md"), "").unwrap();
        assert_eq!(try_run(&args(dir.path(), &[], None)), Ok(Exit::Passed));
        std::fs::write(dir.path().join("samples/web.csv"), "n,state\n0,bad\n").unwrap();
        std::fs::remove_file(dir.path().join("scenario.yaml")).unwrap();
        let said = try_run(&args(dir.path(), &[], None)).unwrap_err();
        assert!(said.starts_with("samples/web.csv, scenario.yaml not as SHA256SUMS has it"), "{said}");
        assert_eq!(std::fs::read(dir.path().join("SHA256SUMS")).unwrap(), sums);
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(try_run(&args(dir.path(), &[], Some(elsewhere.path()))), Ok(Exit::Passed));
    }

    #[test]
    fn a_line_cut_short_by_the_runners_death_is_left_out() {
        let dir = folder();
        let path = dir.path().join("journal.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        let end = text.trim_end().rfind('\n').unwrap() + 1;
        std::fs::write(&path, &text[..end + 20]).unwrap();
        assert_eq!(try_run(&args(dir.path(), &[], None)), Ok(Exit::NotClean));
    }
}
