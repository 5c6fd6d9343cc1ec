//! The findings as people read them: a table where there is room, a list where there is not.

use std::{borrow::Cow, fmt::Write as _};

use owo_colors::{OwoColorize as _, Style};
use textwrap::{Options, WordSeparator, WordSplitter};

use super::{Finding, Report, Verdict};
use crate::scenario::diag::counted;

/// The narrowest page that is laid out for, and the widest.
const WIDTHS: (usize, usize) = (40, 140);
/// From here on what was found stands beside what was looked at.
const TABLE: usize = 90;
/// The columns of the verdict, with what parts it from the next.
const VERDICT: usize = 9;
/// The columns of what was looked at.
const WHAT: usize = 30;

/// The report for a terminal of this width. Ends with a newline.
pub fn render(report: &Report, width: usize, color: bool) -> String {
    let mut page = Page { width: width.clamp(WIDTHS.0, WIDTHS.1), color, text: String::new() };
    let about = report.scenario.as_ref().map_or_else(|| "any drill".to_owned(), |scenario| format!("drill {scenario}"));
    page.paragraph(
        0,
        &format!(
            "What stands in the way of {} on cluster {} (environment {})",
            clean(&about),
            clean(&report.cluster),
            clean(&report.environment)
        ),
    );
    let mut area = None;
    for finding in &report.findings {
        if area != Some(finding.area) {
            area = Some(finding.area);
            let title = page.paint(finding.area.title(), Style::new().bold());
            let _ = writeln!(page.text, "\n{title}");
        }
        page.finding(finding);
    }
    let counts = report.counts();
    let of = |verdict| counts.get(&verdict).copied().unwrap_or(0);
    let end = match (of(Verdict::No), of(Verdict::Warning)) {
        (0, 0) => "Nothing stands in the way.".to_owned(),
        (0, warnings) => format!("Nothing stands in the way; {} to look at.", number(warnings, "warning")),
        (1, _) => "One thing stands in the way.".to_owned(),
        (no, _) => format!("{} stand in the way.", number(no, "thing")),
    };
    page.text.push('\n');
    page.paragraph(0, &end);
    page.text
}

fn number(n: usize, what: &str) -> String {
    counted(u32::try_from(n).unwrap_or(u32::MAX), what)
}

/// What comes from the cluster must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Broken at blanks alone: a command or a name that is cut in two cannot be copied.
fn wrap(text: &str, width: usize) -> Vec<String> {
    wrapped(text, at_blanks(width).break_words(false))
}

fn at_blanks(width: usize) -> Options<'static> {
    Options::new(width).word_splitter(WordSplitter::NoHyphenation).word_separator(WordSeparator::AsciiSpace)
}

fn wrapped(text: &str, how: Options<'_>) -> Vec<String> {
    textwrap::wrap(text, how).into_iter().map(Cow::into_owned).collect()
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

    fn wrap(&self, indent: usize, text: &str) -> Vec<String> {
        wrap(text, self.width.saturating_sub(indent).max(20))
    }

    fn paragraph(&mut self, indent: usize, text: &str) {
        for line in self.wrap(indent, text) {
            let _ = writeln!(self.text, "{:indent$}{line}", "");
        }
    }

    fn finding(&mut self, finding: &Finding) {
        let style = match finding.verdict {
            Verdict::Ok => Style::new().green(),
            Verdict::Warning => Style::new().yellow().bold(),
            Verdict::No => Style::new().red().bold(),
        };
        let word = finding.verdict.as_str();
        let verdict = format!("{}{:2$}", self.paint(word, style), "", VERDICT - word.len());
        let (what, found) = (clean(&finding.what), clean(&finding.found));
        let change = finding.change.as_ref().map(|change| format!("→ {}", clean(change)));
        if self.width < TABLE {
            let head = format!("{what}: {found}");
            for (n, line) in self.wrap(VERDICT + 2, &head).iter().enumerate() {
                let lead = if n == 0 { verdict.clone() } else { " ".repeat(VERDICT) };
                let _ = writeln!(self.text, "  {lead}{line}");
            }
            if let Some(change) = change {
                self.paragraph(VERDICT + 2, &change);
            }
            return;
        }
        let indent = 2 + VERDICT + WHAT;
        // The name of a node may be longer than its column.
        let left = wrapped(&what, at_blanks(WHAT - 2));
        let mut right = self.wrap(indent, &found);
        right.extend(change.map(|change| self.wrap(indent, &change)).unwrap_or_default());
        for n in 0..left.len().max(right.len()) {
            let lead = if n == 0 { verdict.clone() } else { " ".repeat(VERDICT) };
            let (left, right) = (left.get(n).map_or("", String::as_str), right.get(n).map_or("", String::as_str));
            let pad = WHAT.saturating_sub(textwrap::core::display_width(left));
            let _ = writeln!(self.text, "{}", format!("  {lead}{left}{:pad$}{right}", "").trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Area;

    fn report() -> Report {
        let helper = Finding::new(
            Area::Place,
            "node helper on a-node-with-quite-a-long-name-1",
            Verdict::No,
            "failed to try pod firedrill/node-helper-doctor-n1: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true, hostPID=true), privileged",
        );
        let findings = vec![
            helper.change("`kubectl label namespace firedrill --overwrite pod-security.kubernetes.io/enforce=privileged`"),
            Finding::new(Area::Cluster, "API server", Verdict::Ok, "Kubernetes v1.34.4\u{1b}[2J"),
        ];
        Report::new("staging", "staging-eu", Some("lose-primary"), findings)
    }

    #[test]
    fn it_fits_the_terminal_and_says_everything_without_colour() {
        for width in [40, 60, 80, 90, 120, 200] {
            let text = render(&report(), width, false);
            for line in text.lines() {
                // A command is not broken in two.
                let words = line.split_whitespace().count();
                assert!(textwrap::core::display_width(line) <= width || words <= 3, "{width}: {line}");
            }
            assert!(!text.contains('\u{1b}'), "{text:?}");
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for part in [
                "no node helper on",
                "ok API server",
                "→ `kubectl label namespace firedrill",
                "One thing stands in the way.",
                "Kubernetes v1.34.4 [2J",
            ] {
                assert!(words.contains(part), "{width}: no `{part}` in\n{text}");
            }
            assert!(text.find("Cluster\n") < text.find("firedrill's own place\n"), "{text}");
        }
    }

    #[test]
    fn colour_is_only_for_the_verdict_and_the_headings() {
        let plain = render(&report(), 120, false);
        let colored = render(&report(), 120, true);
        assert!(colored.contains("\u{1b}["));
        let mut stripped = String::new();
        let mut rest = colored.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            stripped += before;
            rest = after.split_once('m').map_or("", |(_, rest)| rest);
        }
        assert_eq!(stripped + rest, plain);
    }
}
