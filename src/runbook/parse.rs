//! Reading a runbook: Markdown as a team keeps it → the steps a drill follows.
//!
//! - A heading with something to do directly under it is a step, at any level; a heading without (a title, background,
//!   contacts) is prose. What is to be done before the first heading is a step of its own.
//! - Fenced blocks marked `sh`, `shell` or `bash` are run; `sh no-run` and every other fence are shown to readers only.
//! - `- [ ]` lines are done by a person, ticked ones too: a runbook is followed anew in every drill.
//! - `<!-- within: 5m -->` under a heading is how long that step may take.
//!
//! **Architecture invariant:** pure, and bounded whatever the text: no cluster, no clock, no file.

use std::collections::BTreeMap;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::scenario::types::Dur;

/// The longest runbook, in bytes.
pub(super) const MAX_TEXT: usize = 256 << 10;
/// The longest shell block, in bytes: it is handed to a shell as one argument, and Linux takes 128 KiB.
pub(super) const MAX_BLOCK: usize = 64 << 10;
/// The most steps.
pub(super) const MAX_STEPS: usize = 200;
/// The most things to do in all steps together.
pub(super) const MAX_ACTIONS: usize = 1000;
/// The longest title or manual item kept, in characters; longer ones are cut.
const MAX_LINE: usize = 400;
/// The title of what stands before the first heading.
const UNTITLED: &str = "before the first heading";

/// A step of a runbook: a heading and what is to be done under it, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunbookItem {
    /// The heading's text; unique in the runbook (a second `Verify` is called `Verify (2)`).
    pub title: String,
    /// How long it may take, by the file.
    pub within: Option<Dur>,
    /// The heading's line in the file, from 1.
    pub line: usize,
    /// What is to be done, at least one thing.
    pub actions: Vec<Action>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A shell block to run.
    Run {
        /// Which shell.
        shell: Shell,
        /// Its text.
        script: String,
        /// Its line in the file, from 1.
        line: usize,
    },
    /// Something a person does.
    Manual {
        /// What to do.
        text: String,
        /// Its line in the file, from 1.
        line: usize,
    },
}

/// The shell of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// `sh -eu`
    Sh,
    /// `bash -euo pipefail`
    Bash,
}

/// Why a text is not a runbook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Too long.
    #[error("the runbook has {0} bytes; at most {MAX_TEXT} are read: split it")]
    TooLong(usize),
    /// A NUL byte.
    #[error("line {0}: the runbook holds a NUL byte: save it as plain UTF-8 text")]
    Nul(usize),
    /// A block too long.
    #[error("line {line}: this shell block has {bytes} bytes; at most {MAX_BLOCK} can be run: move it into a script of the image")]
    BlockTooLong {
        /// Where it begins.
        line: usize,
        /// Its length.
        bytes: usize,
    },
    /// A fence without an end: Markdown would take all that follows as shell.
    #[error("line {0}: this shell block is never closed, so all that follows would be run: add the closing fence")]
    Unclosed(usize),
    /// Too many steps.
    #[error("line {0}: more than {MAX_STEPS} steps: split the runbook")]
    TooManySteps(usize),
    /// Too many things to do.
    #[error("line {0}: more than {MAX_ACTIONS} blocks and manual items: split the runbook")]
    TooManyActions(usize),
    /// A `within` that is no duration.
    #[error("line {line}: `within`: {reason}")]
    Within {
        /// Where.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Two times for one step.
    #[error("line {0}: this step has a second `within`: keep one")]
    WithinTwice(usize),
    /// A time for nothing.
    #[error(
        "line {0}: this `within` stands where nothing is to be done: put it under the heading of a step with a shell block or a `- [ ]` line"
    )]
    WithinForNothing(usize),
    /// Nothing to do.
    #[error("nothing to do: a runbook needs a fenced `sh` block or a `- [ ]` line under a heading")]
    Empty,
}

/// A heading while what stands under it is gathered.
struct Section {
    title: String,
    line: usize,
    within: Option<(Dur, usize)>,
    actions: Vec<Action>,
}

/// Reads a runbook.
///
/// # Errors
/// When it is too long, has nothing to do, or says something that cannot be followed; each error names the line.
pub fn parse(text: &str) -> Result<Vec<RunbookItem>, ParseError> {
    if text.len() > MAX_TEXT {
        return Err(ParseError::TooLong(text.len()));
    }
    let lines = Lines::of(text);
    if let Some(at) = text.bytes().position(|b| b == 0) {
        return Err(ParseError::Nul(lines.number(at)));
    }
    let mut reader = Reader {
        text,
        lines,
        section: Section { title: UNTITLED.to_owned(), line: 1, within: None, actions: Vec::new() },
        steps: Vec::new(),
        titles: BTreeMap::new(),
        actions: 0,
    };
    reader.read()?;
    if reader.steps.is_empty() { Err(ParseError::Empty) } else { Ok(reader.steps) }
}

/// What text is being gathered for.
enum Gather {
    Heading { line: usize, text: String },
    Block { line: usize, shell: Shell, text: String },
    Item { line: usize, text: String },
}

struct Reader<'a> {
    text: &'a str,
    lines: Lines,
    section: Section,
    steps: Vec<RunbookItem>,
    titles: BTreeMap<String, u32>,
    actions: usize,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), ParseError> {
        let mut gather: Option<Gather> = None;
        for (event, range) in Parser::new_ext(self.text, Options::ENABLE_TASKLISTS).into_offset_iter() {
            let line = self.lines.number(range.start);
            match event {
                Event::Start(Tag::Heading { .. }) => {
                    self.item_ends(gather.take())?;
                    gather = Some(Gather::Heading { line, text: String::new() });
                }
                Event::End(TagEnd::Heading(_)) => {
                    if let Some(Gather::Heading { line, text }) = gather.take() {
                        self.section_ends(Section { title: one_line(&text), line, within: None, actions: Vec::new() })?;
                    }
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    self.item_ends(gather.take())?;
                    if let Some(shell) = shell_of(&info) {
                        if !is_closed(&self.text[range]) {
                            return Err(ParseError::Unclosed(line));
                        }
                        gather = Some(Gather::Block { line, shell, text: String::new() });
                    }
                }
                Event::End(TagEnd::CodeBlock) => {
                    if let Some(Gather::Block { line, shell, text }) = gather.take() {
                        self.block_ends(line, shell, text)?;
                    }
                }
                Event::TaskListMarker(_) => {
                    self.item_ends(gather.take())?;
                    gather = Some(Gather::Item { line, text: String::new() });
                }
                // An item's text ends where its paragraph, a list in it or the item itself ends: notes below belong to the reader.
                Event::End(TagEnd::Item | TagEnd::Paragraph) | Event::Start(Tag::List(_) | Tag::Item) => match gather.take() {
                    item @ Some(Gather::Item { .. }) => self.item_ends(item)?,
                    other => gather = other,
                },
                Event::Html(html) | Event::InlineHtml(html) => self.comment(&html, line)?,
                Event::Text(t) | Event::Code(t) => match &mut gather {
                    Some(Gather::Heading { text, .. } | Gather::Block { text, .. } | Gather::Item { text, .. }) => text.push_str(&t),
                    None => {}
                },
                Event::SoftBreak | Event::HardBreak => {
                    if let Some(Gather::Heading { text, .. } | Gather::Item { text, .. }) = &mut gather {
                        text.push(' ');
                    }
                }
                _ => {}
            }
        }
        self.item_ends(gather)?;
        self.section_ends(Section { title: String::new(), line: 0, within: None, actions: Vec::new() })
    }

    fn act(&mut self, action: Action, line: usize) -> Result<(), ParseError> {
        self.actions += 1;
        if self.actions > MAX_ACTIONS {
            return Err(ParseError::TooManyActions(line));
        }
        self.section.actions.push(action);
        Ok(())
    }

    fn item_ends(&mut self, gather: Option<Gather>) -> Result<(), ParseError> {
        match gather {
            Some(Gather::Item { line, text }) => {
                let text = one_line(&text);
                let text = if text.is_empty() { format!("(an item without text, line {line})") } else { text };
                self.act(Action::Manual { text, line }, line)
            }
            _ => Ok(()),
        }
    }

    fn block_ends(&mut self, line: usize, shell: Shell, script: String) -> Result<(), ParseError> {
        if script.len() > MAX_BLOCK {
            return Err(ParseError::BlockTooLong { line, bytes: script.len() });
        }
        // A block of nothing but blanks and comments does nothing; running it would be a step that cannot fail.
        if script.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
            return Ok(());
        }
        self.act(Action::Run { shell, script, line }, line)
    }

    fn section_ends(&mut self, next: Section) -> Result<(), ParseError> {
        let done = std::mem::replace(&mut self.section, next);
        if done.actions.is_empty() {
            return done.within.map_or(Ok(()), |(_, line)| Err(ParseError::WithinForNothing(line)));
        }
        if self.steps.len() == MAX_STEPS {
            return Err(ParseError::TooManySteps(done.line));
        }
        let title = if done.title.is_empty() { format!("line {}", done.line) } else { done.title };
        let count = self.titles.entry(title.clone()).or_default();
        *count += 1;
        let title = if *count == 1 { title } else { format!("{title} ({count})") };
        self.steps.push(RunbookItem { title, within: done.within.map(|(d, _)| d), line: done.line, actions: done.actions });
        Ok(())
    }

    fn comment(&mut self, html: &str, line: usize) -> Result<(), ParseError> {
        let Some(value) =
            html.trim().strip_prefix("<!--").and_then(|t| t.strip_suffix("-->")).and_then(|t| t.trim().strip_prefix("within:"))
        else {
            return Ok(());
        };
        let within: Dur =
            value.trim().parse().map_err(|e: crate::scenario::types::ParseDurError| ParseError::Within { line, reason: e.to_string() })?;
        if within == Dur::ZERO {
            return Err(ParseError::Within { line, reason: "a step needs some time: write for example `5m`".to_owned() });
        }
        if self.section.within.replace((within, line)).is_some() {
            return Err(ParseError::WithinTwice(line));
        }
        Ok(())
    }
}

/// Which shell runs a fence with this info string, if any does.
fn shell_of(info: &str) -> Option<Shell> {
    let mut words = info.split([' ', '\t', ',', '{', '}']).filter(|w| !w.is_empty());
    let shell = match words.next()? {
        "sh" | "shell" => Shell::Sh,
        "bash" => Shell::Bash,
        _ => return None,
    };
    if words.any(|w| w == "no-run") { None } else { Some(shell) }
}

/// Whether a fenced block's source ends with its closing fence.
fn is_closed(source: &str) -> bool {
    let mut lines = source.trim_end().lines();
    let Some(open) = lines.next() else { return false };
    let Some(mark) = open.trim_start().chars().next() else { return false };
    let fence = open.trim_start().chars().take_while(|c| *c == mark).count();
    lines.next_back().is_some_and(|last| {
        // Inside a quote the last line carries the quote's marks too.
        let last = last.trim_start_matches([' ', '\t', '>']).trim_end();
        last.chars().all(|c| c == mark) && last.chars().count() >= fence
    })
}

/// Text for one line of a terminal: no control characters, no runs of blanks, not too long.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    if line.chars().count() <= MAX_LINE { line } else { line.chars().take(MAX_LINE).chain(std::iter::once('…')).collect() }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1)).collect())
    }

    /// The line, from 1, of a byte.
    fn number(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, line: usize) -> Action {
        Action::Run { shell: Shell::Sh, script: script.to_owned(), line }
    }

    fn manual(text: &str, line: usize) -> Action {
        Action::Manual { text: text.to_owned(), line }
    }

    #[test]
    fn a_runbook_as_a_team_keeps_it() {
        let text = "# Restore the orders database\n\
            Written by *ops*, last read in May.\n\n\
            ## Contacts\n- Ann\n- Bob\n\n\
            ## Before you begin\n<!-- within: 5m -->\n\n\
            - [ ] Tell `#support`\n  that a restore begins\n- [x] Get approval\n\n\
            ## Restore\nThe log looks like this:\n\n\
            ```\nnot run\n```\n```json\n{}\n```\n```sh no-run\nrm -rf /\n```\n\n\
            1. Fetch it:\n   ```sh\n   pgbackrest restore\n   echo done\n   ```\n\
            2. - [ ] Look at it\n\n\
            ### Verify\n~~~bash\nset -x\n~~~\n\n## Verify\n```shell\ntrue\n```\n";
        let steps = parse(text).unwrap();
        let seen: Vec<_> = steps.iter().map(|s| (s.title.as_str(), s.within, s.actions.len())).collect();
        assert_eq!(
            seen,
            [("Before you begin", Some(Dur::from_secs(300)), 2), ("Restore", None, 2), ("Verify", None, 1), ("Verify (2)", None, 1)]
        );
        assert_eq!(steps[0].actions, [manual("Tell #support that a restore begins", 11), manual("Get approval", 13)]);
        assert_eq!(steps[1].actions, [run("pgbackrest restore\necho done\n", 29), manual("Look at it", 33)]);
        assert_eq!(steps[2].actions, [Action::Run { shell: Shell::Bash, script: "set -x\n".to_owned(), line: 36 }]);
        assert_eq!(steps[1].line, 15);
    }

    #[test]
    fn without_a_heading_there_is_one_step() {
        let steps = parse("```sh\ntrue\n```\n- [ ] look\n").unwrap();
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].title, "before the first heading");
        assert_eq!(steps[0].actions, [run("true\n", 1), manual("look", 4)]);
    }

    #[test]
    fn order_is_kept_and_items_do_not_run_into_each_other() {
        let steps = parse("# A\n- [ ] one\n  - [ ] one and a half\n- [ ] two\n\n  a note\n\n```sh\nfalse\n```\n- [ ] three\n").unwrap();
        assert_eq!(
            steps[0].actions,
            [manual("one", 2), manual("one and a half", 3), manual("two", 4), run("false\n", 8), manual("three", 11)]
        );
    }

    #[test]
    fn what_cannot_be_followed_is_said_with_its_line() {
        let many_steps: String = (0..=MAX_STEPS).map(|n| format!("# {n}\n```sh\ntrue\n```\n")).collect();
        let many_items = "- [ ] x\n".repeat(MAX_ACTIONS + 1);
        let long = format!("# a\n```sh\n{}\n```\n", "x".repeat(MAX_BLOCK));
        for (text, error) in [
            ("", ParseError::Empty),
            ("# Title\nprose\n```yaml\na: 1\n```\n", ParseError::Empty),
            ("# A\n```sh\n# only a remark\n\n```\n", ParseError::Empty),
            ("# A\n\n```sh\ntrue\n\n# B\nprose", ParseError::Unclosed(3)),
            ("# A\n> ```sh\n> true\n\n# B\nprose", ParseError::Unclosed(2)),
            (
                "# A\n<!-- within: 5 -->\n```sh\ntrue\n```",
                ParseError::Within { line: 2, reason: "duration `5` has no unit: write `5s`, `5m` or `5h`".to_owned() },
            ),
            ("# A\n<!-- within: 5m -->\n\n<!-- within: 6m -->\n\n- [ ] x", ParseError::WithinTwice(4)),
            ("# A\n<!-- within: 5m -->\n\n## B\n- [ ] x", ParseError::WithinForNothing(2)),
            ("a\nb\0", ParseError::Nul(2)),
            (many_steps.as_str(), ParseError::TooManySteps(801)),
            (many_items.as_str(), ParseError::TooManyActions(1001)),
            (long.as_str(), ParseError::BlockTooLong { line: 2, bytes: MAX_BLOCK + 1 }),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{:.60}", text);
        }
        assert_eq!(parse(&"x".repeat(MAX_TEXT + 1)).unwrap_err(), ParseError::TooLong(MAX_TEXT + 1));
    }

    #[test]
    fn a_zero_time_is_no_time() {
        assert!(matches!(parse("# A\n<!-- within: 0s -->\n- [ ] x"), Err(ParseError::Within { line: 2, .. })));
    }

    #[test]
    fn hostile_texts_end_soon_and_without_panic() {
        let deep = MAX_TEXT / 4;
        for text in [
            ">".repeat(deep),
            "- ".repeat(deep),
            "[".repeat(deep),
            "*_".repeat(deep),
            "# ".repeat(deep),
            "<!-- within: ".repeat(deep / 4),
            "```sh\n".repeat(deep / 2),
            format!("# {}\n- [ ] {}\u{1b}[2J", "y".repeat(9000), "z".repeat(9000)),
            "\u{202e}\u{feff}- [ ] \u{0}".to_owned(),
        ] {
            if let Ok(steps) = parse(&text) {
                for step in steps {
                    assert!(step.title.chars().count() <= MAX_LINE + 10 && !step.title.contains('\u{1b}'));
                    for action in step.actions {
                        if let Action::Manual { text, .. } = action {
                            assert!(text.chars().count() <= MAX_LINE + 1 && !text.contains('\u{1b}'));
                        }
                    }
                }
            }
        }
    }
}
