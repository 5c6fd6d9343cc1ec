//! `report.md`: the whole report for people and auditors.

use std::fmt::Write as _;

use super::Report;
use crate::verdict::{Bracket, Part, time};

/// The report as Markdown.
pub(super) fn render(report: &Report) -> String {
    let mut md = Markdown(String::new());
    md.top(report);
    md.objectives(report);
    md.marks(report);
    md.faults(report);
    md.measured(report);
    md.runbooks(report);
    md.timeline(report);
    md.bottom(report);
    md.0
}

/// Text for a table's cell: one line, no bars, nothing that Markdown or HTML takes for its own. What stands between two
/// single backticks is code, where a backslash is a backslash; only a bar ends a cell even there.
fn cell(text: &str) -> String {
    let code_spans = text.matches('`').count().is_multiple_of(2) && !text.contains("``");
    let (mut out, mut code) = (String::with_capacity(text.len()), false);
    for c in text.trim().chars() {
        match c {
            '`' if code_spans => {
                code = !code;
                out.push(c);
            }
            '|' => out.push_str("\\|"),
            '<' | '>' | '*' | '_' | '[' | ']' | '\\' | '`' | '&' if !code => out.extend(['\\', c]),
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "NO" }
}

struct Markdown(String);

impl Markdown {
    fn line(&mut self, text: impl AsRef<str>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{}", text.as_ref());
    }

    fn table(&mut self, heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        self.line(format!("| {} |", heads.join(" | ")));
        self.line(format!("|{}", "---|".repeat(heads.len())));
        for row in rows {
            let cells: Vec<_> = row.iter().map(|c| cell(c)).collect();
            self.line(format!("| {} |", cells.join(" | ")));
        }
        self.line("");
    }

    fn top(&mut self, r: &Report) {
        let v = &r.verdict;
        self.line(format!("# {}: {}, {}\n", cell(&r.drill), v.drill, v.cleanness()));
        if r.sandbox {
            self.line("**SANDBOX: not evidence of anything.**\n");
        }
        self.line(format!("{}\n", cell(&r.summary)));
        let steady = |s: &Option<super::data::Steady>| match s {
            Some(s) => format!("{}: {}", if s.held { "held" } else { "did NOT hold" }, s.detail),
            None => "not looked at".to_owned(),
        };
        let mut rows = vec![
            vec!["Scenario".to_owned(), format!("{} (SHA-256 {})", r.scenario, r.scenario_sha256)],
            vec!["Environment".to_owned(), format!("{}, cluster {} ({})", r.environment, r.cluster, r.cluster_uid)],
            vec!["Started".to_owned(), r.started.clone()],
            vec!["Ended".to_owned(), r.ended.clone().unwrap_or_else(|| "NEVER".to_owned())],
            vec!["Duration".to_owned(), r.duration_us.map_or_else(|| "unknown".to_owned(), time)],
            vec!["Baseline".to_owned(), steady(&r.baseline)],
            vec!["After the reverts".to_owned(), steady(&r.afterwards)],
            vec!["Seed".to_owned(), r.seed.to_string()],
            vec!["firedrill".to_owned(), r.version.clone()],
        ];
        rows.extend(r.parameters.iter().map(|(k, v)| vec![format!("Parameter {k}"), v.clone()]));
        self.table(&["", ""], rows);
        for (heading, items) in [
            ("Why it did not pass", &v.reasons),
            ("Left, or not proven to be gone", &v.unclean),
            ("Stays: declared irreversible (`undo: none`)", &v.stays),
            ("Deviations", &r.deviations),
        ] {
            if !items.is_empty() {
                self.line(format!("## {heading}\n"));
                for item in items {
                    self.line(format!("- {}", cell(item)));
                }
                self.line("");
            }
        }
        self.line("## Who took part\n");
        self.table(&["Who", "What"], r.participants.iter().map(|p| vec![p.who.clone(), p.did.clone()]));
    }

    fn objectives(&mut self, r: &Report) {
        self.line("## Objectives\n");
        let rows = r.verdict.objectives.iter().map(|o| {
            let why = o.hint.as_ref().map_or_else(|| o.reason.clone(), |h| format!("{}. Hint: {h}", o.reason));
            vec![o.name.clone(), o.kind.clone(), o.outcome.to_string(), o.target.clone(), o.measured_text(), why]
        });
        self.table(&["Objective", "Kind", "Outcome", "Target", "Measured", "Why"], rows);
        let part = |name: &str, p: &Part| {
            let outcome = p.outcome.map_or_else(String::new, |o| o.to_string());
            vec![name.to_owned(), p.name.clone(), p.unit.show(p.measured), outcome, p.detail.clone()]
        };
        let parts: Vec<_> = r.verdict.objectives.iter().flat_map(|o| o.parts.iter().map(|p| part(&o.name, p))).collect();
        if !parts.is_empty() {
            self.line("### Their parts\n");
            self.table(&["Objective", "Part", "Measured", "Outcome", "Remark"], parts);
        }
    }

    fn marks(&mut self, r: &Report) {
        self.line("## Marks\n\nFrom the drill's first record; each lies within its bracket.\n");
        let end = |e: Option<i64>| e.map_or_else(|| "∞".to_owned(), |us| format!("+{}", time(us)));
        let row = |m: &crate::verdict::Mark| {
            let width = m.at.width().map_or_else(String::new, |w| format!("± {}", time(w / 2)));
            vec![m.kind.to_string(), m.of.clone(), end(m.at.lower), end(m.at.upper), width, m.detail.clone()]
        };
        self.table(&["Mark", "Of", "Not before", "Not after", "", "Known by"], r.verdict.marks.iter().map(row));
    }

    fn faults(&mut self, r: &Report) {
        if r.faults.is_empty() {
            return;
        }
        self.line("## Faults, their effect, and the proof of cleaning up\n");
        let rows = r.faults.iter().map(|f| {
            let effect = f.effect.clone().unwrap_or_else(|| "NOT PROVEN".to_owned());
            let effect = f.hold_broken.as_ref().map_or(effect.clone(), |b| format!("{effect}; DID NOT HOLD: {b}"));
            vec![
                f.step.clone(),
                f.kind.clone(),
                f.objects.join(", "),
                yes(f.injected).to_owned(),
                effect,
                f.revert.clone().unwrap_or_else(|| "NOT REVERTED".to_owned()),
                f.gone.clone().unwrap_or_else(|| "NOT PROVEN".to_owned()),
            ]
        });
        self.table(&["Step", "Fault", "Objects", "Injected", "Proof of effect", "Revert", "Proof that it is gone"], rows);
        let touched: Vec<_> = r.faults.iter().flat_map(|f| f.touched.iter().map(|what| vec![f.step.clone(), what.clone()])).collect();
        if !touched.is_empty() {
            self.line("### What the faults touched\n");
            self.table(&["Step", "What"], touched);
        }
    }

    fn measured(&mut self, r: &Report) {
        self.line("## What was watched\n");
        let rows = r.probes.iter().map(|p| {
            let us = |us: u64| time(i64::try_from(us).unwrap_or(i64::MAX));
            let mut row = vec![p.name.clone(), p.kind.clone(), us(p.every_us), us(p.timeout_us)];
            row.extend([p.good, p.bad, p.unknown].map(|n| n.to_string()));
            row.push(us(p.slowest_us));
            row
        });
        self.table(&["Probe", "Kind", "Every", "Time limit", "Good", "Bad", "Unknown", "Slowest"], rows);
        if !r.ledgers.is_empty() {
            self.line("### Ledgers\n");
            let rows = r.ledgers.iter().map(|l| {
                let mut row = vec![l.name.clone()];
                row.extend([l.attempted, l.acknowledged, l.refused, l.unknown].map(|n| n.to_string()));
                row.push(l.lost.len().to_string());
                row.extend([l.phantom, l.duplicated, l.reordered].map(|n| n.to_string()));
                row.push(l.copies.join("; "));
                row
            });
            let heads = [
                "Ledger",
                "Attempted",
                "Acknowledged",
                "Refused",
                "Unknown",
                "Lost",
                "Phantom",
                "Duplicated",
                "Reordered",
                "Read back from",
            ];
            self.table(&heads, rows);
            for l in r.ledgers.iter().filter(|l| !l.lost.is_empty()) {
                self.line(format!("Lost of `{}`: {}\n", cell(&l.name), ranges(&l.lost)));
            }
        }
        if !r.readings.is_empty() {
            self.line("### Backups and digests\n");
            let rows = r.readings.iter().map(|x| vec![x.at.clone(), x.of.clone(), x.what.clone(), x.detail.clone()]);
            self.table(&["When (UTC)", "Of", "What", "Read"], rows);
        }
        if !r.clocks.is_empty() {
            self.line("### Clocks measured against the drill's\n");
            let rows = r
                .clocks
                .iter()
                .map(|c| vec![c.clock.clone(), c.links.to_string(), format!("± {}", time(c.worst_error_us)), time(c.wall_offset_us)]);
            self.table(&["Clock", "Times", "Largest error", "Wall time off by"], rows);
        }
    }

    fn runbooks(&mut self, r: &Report) {
        if r.runbooks.is_empty() {
            return;
        }
        self.line("## Runbooks\n");
        let rows = r.runbooks.iter().map(|s| {
            let took = s.took.map_or_else(String::new, Bracket::as_time);
            vec![s.step.clone(), s.title.clone(), s.state.clone(), s.attempts.to_string(), took, s.actor.clone(), s.detail.clone()]
        });
        self.table(&["Step", "Of the runbook", "", "Tries", "Took", "Who", "Said"], rows);
    }

    fn timeline(&mut self, r: &Report) {
        self.line("## Timeline\n");
        let rows = r.timeline.iter().map(|e| {
            let offset = e.offset_us.map_or_else(|| "other clock".to_owned(), |us| format!("+{}", time(us)));
            vec![e.utc.clone(), offset, e.what.clone()]
        });
        self.table(&["UTC", "From the start", "What"], rows);
    }

    fn bottom(&mut self, r: &Report) {
        self.line(format!("Made from {} journal records; the last one's SHA-256 is `{}`.", r.journal.records, r.journal.head));
    }
}

/// Numbers with what follows on each other drawn together: `3–7, 9`.
fn ranges(numbers: &[u64]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let groups = sorted.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let show = |g: &[u64]| match g {
        [first, .., last] => format!("{first}–{last}"),
        one => one.iter().map(ToString::to_string).collect(),
    };
    groups.map(show).collect::<Vec<_>>().join(", ")
}
