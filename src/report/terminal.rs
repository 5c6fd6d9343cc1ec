//! The summary on the terminal.

use std::fmt::Write as _;

use owo_colors::{OwoColorize as _, Style};
use textwrap::{Options, WordSeparator, WordSplitter};

use super::{Report, collect};
use crate::{
    journal::Record,
    verdict::{DrillVerdict, MarkKind, Outcome, Unit},
};

/// The narrowest page that is laid out for.
const NARROWEST: usize = 60;

/// The summary of a drill for a terminal of this width (at least 60 columns are used). Colours only if asked for: the text
/// says everything without them. Ends with a newline.
pub fn terminal(records: &[Record], width: usize, color: bool) -> String {
    match collect(records) {
        Some(report) => Page { width: width.clamp(NARROWEST, 140), color, text: String::new() }.render(&report),
        None => "the journal does not begin with the drill's plan: there is nothing to report\n".to_owned(),
    }
}

/// Lines broken at blanks alone: a path, a digest or a command that is cut in two cannot be copied. A longer word has a line to itself.
pub(crate) fn at_blanks(text: &str, width: usize) -> Vec<std::borrow::Cow<'_, str>> {
    let how = Options::new(width).break_words(false).word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(text, how.word_separator(WordSeparator::AsciiSpace))
}

struct Page {
    width: usize,
    color: bool,
    text: String,
}

impl Page {
    fn paint(&self, text: &str, style: Style) -> String {
        if self.color { text.style(style).to_string() } else { text.to_owned() }
    }

    /// A paragraph whose first line begins with `head` (which has `head_width` columns) and whose others are indented as far.
    fn hanging(&mut self, head: &str, indent: usize, text: &str) {
        let wide = self.width.saturating_sub(indent).max(20);
        let lines = at_blanks(text, wide);
        for (n, line) in lines.iter().enumerate() {
            let lead = if n == 0 { head.to_owned() } else { " ".repeat(indent) };
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "{}", format!("{lead}{line}").trim_end());
        }
        if lines.is_empty() {
            let _ = writeln!(self.text, "{}", head.trim_end());
        }
    }

    fn heading(&mut self, text: &str) {
        let text = self.paint(text, Style::new().bold());
        let _ = writeln!(self.text, "\n{text}");
    }

    fn render(mut self, report: &Report) -> String {
        if report.sandbox {
            let banner = self.paint("SANDBOX: not evidence of anything", Style::new().yellow().bold());
            let _ = writeln!(self.text, "{banner}");
        }
        self.top(report);
        self.stays(report);
        self.objectives(report);
        self.counts(report);
        self.marks(report);
        let touched: Vec<String> = report.faults.iter().flat_map(|fault| fault.touched.iter().cloned()).collect();
        self.list("What the faults touched", &touched);
        self.list("Deviations", &report.deviations);
        self.bottom(report);
        self.text
    }

    fn top(&mut self, report: &Report) {
        let verdict = &report.verdict;
        let style = match verdict.drill {
            DrillVerdict::Passed => Style::new().green().bold(),
            DrillVerdict::Failed => Style::new().red().bold(),
            DrillVerdict::Inconclusive | DrillVerdict::Aborted => Style::new().yellow().bold(),
        };
        let word = self.paint(&verdict.drill.to_string().to_uppercase(), style);
        let style = match (verdict.clean, verdict.stays.is_empty()) {
            (true, true) => Style::new().green(),
            (true, false) => Style::new().yellow(),
            (false, _) => Style::new().red().bold(),
        };
        // What stays has a heading of its own below: the first line must fit.
        let clean = self.paint(if verdict.clean { "clean" } else { "NOT CLEAN" }, style);
        let _ =
            writeln!(self.text, "{word}, {clean}{}: {}", if verdict.stays.is_empty() { "" } else { " but for what stays" }, report.drill);
        self.hanging("  ", 2, &report.summary);
        let took = report.duration_us.map_or_else(String::new, |us| format!(", {}", crate::verdict::time(us)));
        self.hanging("  ", 2, &format!("{} on {}, {}{took}, seed {}", report.environment, report.cluster, report.started, report.seed));
        for reason in &verdict.reasons {
            self.hanging("  - ", 4, reason);
        }
        if !verdict.unclean.is_empty() {
            self.heading("Left in the cluster, or not proven to be gone");
            for left in &verdict.unclean {
                self.hanging("  - ", 4, left);
            }
        }
    }

    /// What nobody was to undo.
    fn stays(&mut self, report: &Report) {
        self.list("Stays: declared irreversible (`undo: none`)", &report.verdict.stays);
    }

    fn objectives(&mut self, report: &Report) {
        self.heading("Objectives");
        for o in &report.verdict.objectives {
            let style = match o.outcome {
                Outcome::Met => Style::new().green(),
                Outcome::Missed => Style::new().red().bold(),
                Outcome::Inconclusive => Style::new().yellow(),
            };
            let word = self.paint(&format!("{:<12}", o.outcome), style);
            let measured = if o.measured.is_some() { format!(", measured {}", o.measured_text()) } else { String::new() };
            self.hanging(&format!("  {word}  "), 16, &format!("{}: target {}{measured}", o.name, o.target));
            self.hanging(&" ".repeat(16), 16, &o.reason);
            if let Some(hint) = &o.hint {
                self.hanging(&" ".repeat(16), 16, &format!("hint: {hint}"));
            }
            for part in o.parts.iter().filter(|p| p.unit == Unit::Microseconds) {
                let detail = if part.detail.is_empty() { String::new() } else { format!(" ({})", part.detail) };
                let text = format!("{}: {}{detail}", part.name, part.unit.show(part.measured));
                self.hanging(&format!("{}· ", " ".repeat(16)), 18, &text);
            }
        }
        if report.verdict.objectives.is_empty() {
            let _ = writeln!(self.text, "  none");
        }
    }

    fn counts(&mut self, report: &Report) {
        if report.ledgers.is_empty() {
            return;
        }
        self.heading("Ledgers");
        for l in &report.ledgers {
            let text = format!(
                "{}: {} attempted, {} acknowledged, {} refused, {} unknown; {} lost, {} phantom, {} duplicated, {} reordered; read from {}",
                l.name,
                l.attempted,
                l.acknowledged,
                l.refused,
                l.unknown,
                l.lost.len(),
                l.phantom,
                l.duplicated,
                l.reordered,
                if l.copies.is_empty() { "nowhere".to_owned() } else { l.copies.join(", ") }
            );
            self.hanging("  ", 4, &text);
        }
    }

    fn marks(&mut self, report: &Report) {
        if report.verdict.marks.is_empty() {
            return;
        }
        self.heading("Marks, from the drill's start");
        for mark in &report.verdict.marks {
            // What was hit, and what answered afterwards: whether another leads now is seen here.
            let told = matches!(mark.kind, MarkKind::Injected | MarkKind::Recovered) && !mark.detail.is_empty();
            let detail = if told { format!(" ({})", mark.detail.lines().next().unwrap_or_default()) } else { String::new() };
            let text = format!("{}: {}{detail}", mark.of, mark.at.as_time());
            self.hanging(&format!("  {:<12}  ", mark.kind), 16, &text);
        }
    }

    fn list(&mut self, heading: &str, items: &[String]) {
        if items.is_empty() {
            return;
        }
        self.heading(heading);
        for item in items {
            self.hanging("  - ", 4, item);
        }
    }

    fn bottom(&mut self, report: &Report) {
        let _ = writeln!(
            self.text,
            "\njournal: {} records, head {}",
            report.journal.records,
            report.journal.head.get(..16).unwrap_or_default()
        );
    }
}
