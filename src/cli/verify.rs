//! `firedrill verify FOLDER`: whether a folder is the evidence of a drill, whole and unchanged.

use std::path::PathBuf;

use clap::Args;

use super::out;
use crate::{
    exit::Exit,
    journal::{self, Event, JournalError, Record},
    report,
    verdict::judge,
};

/// Look whether a drill's evidence is whole: the journal's chain, the verdict and the reports made from it once more, and every file's
/// checksum.
///
/// Ends with 0 when all of it agrees, with 1 when something does not, and with 4 for a drill in the sandbox: nothing of it is evidence.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The evidence folder of one drill, with its journal.jsonl.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The journal's head as it was told at the drill's end: who has it can see that nobody has written the whole journal anew.
    #[arg(long, value_name = "HASH")]
    head: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs) -> Exit {
    let folder = args.folder.display();
    let (records, torn) = match journal::read_whole(&args.folder.join("journal.jsonl")) {
        Ok(read) => read,
        Err(error @ JournalError::File { .. }) => {
            crate::cli::out::note!("{error}");
            return Exit::Usage;
        }
        Err(error) => {
            out::line(format_args!("NOT VERIFIED: {folder}\n  - {error}"));
            return Exit::Failed;
        }
    };
    let Some(Event::Started { sandbox, plan, drill, .. }) = records.first().map(|record| &record.event) else {
        crate::cli::out::note!("{folder} has no evidence of a drill: its journal does not begin with the drill's plan");
        return Exit::Usage;
    };
    if *sandbox {
        out::line(format_args!(
            "SANDBOX: {folder} has a drill in the sandbox, {drill}. It is not evidence of anything and can never be verified as such"
        ));
        return Exit::Refused;
    }
    let mut wrong = Vec::new();
    if torn {
        wrong.push("the journal's last line was cut short, as when its runner dies".to_owned());
    }
    let head = head(&args.folder);
    if let Some(told) = &args.head
        && head.as_deref().is_none_or(|head| told.is_empty() || !head.starts_with(told.as_str()))
    {
        wrong.push(format!("the journal's head is {}, and {told} was told", head.as_deref().unwrap_or("none")));
    }
    match std::fs::read_to_string(args.folder.join("scenario.yaml")) {
        Ok(text) if journal::line_hash(&text) != plan.scenario_sha256 => {
            wrong.push("scenario.yaml is not the scenario that was run: its SHA-256 is not the plan's".to_owned());
        }
        Ok(_) => {}
        Err(error) => wrong.push(format!("scenario.yaml cannot be read: {error}")),
    }
    match report::differing(&args.folder, &records) {
        Ok(differing) => wrong.extend(differing),
        Err(error) => wrong.push(error.to_string()),
    }
    say(args, &records, drill, head.as_deref().unwrap_or_default(), &wrong)
}

fn say(args: &VerifyArgs, records: &[Record], drill: &str, head: &str, wrong: &[String]) -> Exit {
    let folder = args.folder.display();
    if wrong.is_empty() {
        let verdict = judge(records);
        let clean = verdict.cleanness();
        out::line(format_args!(
            "verified: {drill}: {}, {clean}; {} records, head {head}{}",
            verdict.drill,
            records.len(),
            if args.head.is_some() { ", as it was told" } else { "" }
        ));
        return Exit::Passed;
    }
    out::line(format_args!("NOT VERIFIED: {folder}"));
    for why in wrong {
        out::line(format_args!("  - {why}"));
    }
    Exit::Failed
}

/// The hash of the journal's last whole line.
fn head(folder: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("journal.jsonl")).ok()?;
    text.split_inclusive('\n').rfind(|line| line.ends_with('\n')).map(|line| journal::line_hash(line.trim_end_matches('\n')))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::report::tests::folder, *};

    fn verified(folder: &Path, head: Option<&str>) -> Exit {
        run(&VerifyArgs { folder: folder.to_owned(), head: head.map(str::to_owned) })
    }

    /// A drill's evidence as it is left.
    fn evidence() -> tempfile::TempDir {
        let dir = folder();
        let (records, _) = journal::read_whole(&dir.path().join("journal.jsonl")).unwrap();
        std::fs::create_dir(dir.path().join("samples")).unwrap();
        std::fs::write(dir.path().join("samples/web.csv"), "n,state\n0,good\n").unwrap();
        report::write(dir.path(), &records).unwrap();
        dir
    }

    #[test]
    fn whole_evidence_is_verified_and_any_change_of_it_is_not() {
        let dir = evidence();
        let path = |name: &str| dir.path().join(name);
        assert_eq!(verified(dir.path(), None), Exit::Passed);
        let own = head(dir.path()).unwrap();
        assert_eq!(verified(dir.path(), Some(&own)), Exit::Passed);
        assert_eq!(verified(dir.path(), Some(&own[..16])), Exit::Passed);
        assert_eq!(verified(dir.path(), Some("")), Exit::Failed);
        assert_eq!(verified(dir.path(), Some(&"0".repeat(64))), Exit::Failed);

        let with = |name: &str, change: &dyn Fn(String) -> String| {
            let before = std::fs::read(path(name)).unwrap();
            std::fs::write(path(name), change(String::from_utf8(before.clone()).unwrap())).unwrap();
            let ended = verified(dir.path(), None);
            std::fs::write(path(name), before).unwrap();
            assert_eq!(verified(dir.path(), None), Exit::Passed, "{name} is as it was");
            ended
        };
        for name in ["report.json", "report.md", "junit.xml", "scenario.yaml", "samples/web.csv", "SHA256SUMS"] {
            assert_eq!(with(name, &|text| text.replacen('e', "a", 1)), Exit::Failed, "{name}");
        }
        assert_eq!(with("journal.jsonl", &|text| text.replacen("connection refused", "connection accepted", 1)), Exit::Failed);
        // A report that says otherwise than the journal, with a checksum that fits it.
        let verdict = |text: String| text.replace("\"passed\"", "\"failed\"");
        let sums = std::fs::read_to_string(path("SHA256SUMS")).unwrap();
        let report = std::fs::read_to_string(path("report.json")).unwrap();
        let (old, new) = (journal::line_hash(&report), journal::line_hash(&verdict(report.clone())));
        assert_ne!(old, new);
        std::fs::write(path("SHA256SUMS"), sums.replace(&old, &new)).unwrap();
        std::fs::write(path("report.json"), verdict(report.clone())).unwrap();
        assert_eq!(verified(dir.path(), None), Exit::Failed);
        std::fs::write(path("SHA256SUMS"), sums).unwrap();
        std::fs::write(path("report.json"), report).unwrap();
        assert_eq!(verified(dir.path(), None), Exit::Passed);

        std::fs::write(path("samples/more.csv"), "").unwrap();
        assert_eq!(verified(dir.path(), None), Exit::Failed, "a file that was put in");
        std::fs::remove_file(path("samples/more.csv")).unwrap();
        for name in ["samples/web.csv", "SHA256SUMS", "report.md"] {
            let kept = std::fs::read(path(name)).unwrap();
            std::fs::remove_file(path(name)).unwrap();
            assert_eq!(verified(dir.path(), None), Exit::Failed, "{name} is gone");
            std::fs::write(path(name), kept).unwrap();
        }
        assert_eq!(verified(dir.path(), None), Exit::Passed);
    }

    #[test]
    fn what_is_no_evidence_of_a_drill_is_not_looked_at() {
        let dir = evidence();
        assert_eq!(verified(&dir.path().join("samples"), None), Exit::Usage);
        std::fs::write(dir.path().join("journal.jsonl"), "").unwrap();
        assert_eq!(verified(dir.path(), None), Exit::Usage);
    }
}
