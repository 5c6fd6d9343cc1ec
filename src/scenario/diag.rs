//! What is wrong with a file: mistakes and warnings with their places, shown through miette.

use std::{fmt, fmt::Write as _, sync::Arc};

use miette::{LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// Most mistakes and warnings kept of one file; the rest is counted.
pub const MAX_SHOWN: usize = 200;
/// How many are gathered before the rest is only counted: a file of nothing but mistakes takes no longer than another.
const MAX_GATHERED: usize = 1000;
/// Lines longer than this are cut around the place when shown, in bytes.
const LONG_LINE: usize = 240;

/// A place in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Byte offset of its start.
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A file's name and text, shared by its diagnostics.
#[derive(PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
    line_starts: Vec<usize>,
    /// What snippets are cut from, when the text itself must not reach a terminal.
    shown: Option<Box<Shown>>,
}

/// A text whose control characters are replaced by visible ones, one by one, so that columns stay.
#[derive(PartialEq, Eq)]
struct Shown {
    source: Source,
    /// Of each replaced character: the offset behind it in the text, and how many bytes longer all was until there.
    longer: Vec<(usize, usize)>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("name", &self.name).field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}

impl Source {
    /// A file's text under the name it is shown by.
    pub fn new(name: &str, text: &str) -> Arc<Self> {
        let name = escaped(name);
        let mut source = Self::plain(&name, text.to_owned());
        source.shown = shown(&name, text).map(Box::new);
        Arc::new(source)
    }

    fn plain(name: &str, text: String) -> Self {
        let line_starts = std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1)).collect();
        Self { name: name.to_owned(), text, line_starts, shown: None }
    }

    /// What snippets are cut from.
    fn shown(&self) -> &Self {
        self.shown.as_deref().map_or(self, |shown| &shown.source)
    }

    /// Where a place is in [`Self::shown`]: offset and length.
    fn shown_at(&self, span: Span) -> (usize, usize) {
        let at = |offset: usize| {
            let longer = self.shown.as_deref().map_or(&[][..], |shown| &shown.longer);
            let replaced = longer.partition_point(|(end, _)| *end <= offset);
            offset + replaced.checked_sub(1).and_then(|last| longer.get(last)).map_or(0, |(_, more)| *more)
        };
        let start = at(span.offset);
        (start, at(span.offset + span.len) - start)
    }

    /// The name it is shown by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The number of the line (from 0) that holds a byte, its start and its end without the line break.
    fn line_of(&self, offset: usize) -> (usize, usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= offset).saturating_sub(1);
        let start = self.line_starts.get(line).copied().unwrap_or(0);
        let end = self.line_starts.get(line + 1).map_or(self.text.len(), |next| next - 1).max(start);
        // Windows ends lines with two characters. With half a line break at its end, miette numbers a snippet's lines wrongly.
        let end = if self.text.get(start..end).is_some_and(|line| line.ends_with('\r')) { end - 1 } else { end };
        (line, start, end)
    }

    /// A place from byte offsets, cut to its first line.
    pub fn span(&self, start: usize, end: usize) -> Span {
        let start = floor_boundary(&self.text, start);
        let (line, line_start, line_end) = self.line_of(start);
        // The place of a line break is the end of its line, however many characters it has.
        let start = start.min(line_end);
        let before = self.text.get(line_start..start).unwrap_or("");
        // A byte order mark is no character a person sees.
        let column = before.trim_start_matches('\u{feff}').chars().count() + 1;
        let end = floor_boundary(&self.text, end.min(line_end).max(start));
        let shown = self.text.get(start..end).unwrap_or("").trim_end();
        Span { offset: start, len: shown.len(), line: line + 1, column }
    }
}

/// A text as snippets show it; none when it can be shown as it is.
fn shown(name: &str, text: &str) -> Option<Shown> {
    if !text.chars().any(|c| visible(c).is_some()) {
        return None;
    }
    let mut out = String::with_capacity(text.len() + 64);
    let mut longer = Vec::new();
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        let line_break = c == '\r' && text[end..].starts_with('\n');
        match visible(c).filter(|_| !line_break) {
            None => out.push(c),
            Some(instead) => {
                out.push(instead);
                longer.push((end, out.len() - end));
            }
        }
    }
    Some(Shown { source: Source::plain(name, out), longer })
}

/// What stands in a snippet for a character that would change what a terminal shows beside it.
fn visible(c: char) -> Option<char> {
    match c {
        '\t' | '\n' => None,
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)),
        '\u{7f}' => Some('\u{2421}'),
        c if is_hidden(c) => Some(char::REPLACEMENT_CHARACTER),
        _ => None,
    }
}

/// Control characters, and those that change lines or the direction of writing.
fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl SourceCode for Source {
    /// The lines around a place; a long line is cut to a window around it, so that no message is as long as the file.
    fn read_span<'a>(&'a self, span: &SourceSpan, before: usize, after: usize) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let (first, start, first_end) = self.line_of(span.offset());
        if before == 0 && after == 0 {
            // What miette asks for to print the place itself.
            let shown = self.span(span.offset(), span.offset() + span.len());
            let data = self.text.get(shown.offset..shown.offset + shown.len).unwrap_or("").as_bytes();
            let at = (shown.offset, shown.len).into();
            return Ok(Box::new(MietteSpanContents::new_named(self.name.clone(), data, at, shown.line - 1, shown.column - 1, 1)));
        }
        let (last, last_start, last_end) = self.line_of((span.offset() + span.len()).min(self.text.len()));
        // From a place to another one many lines away, only the first is shown here.
        let (mut from, mut to) = if last - first > 20 { (start, first_end) } else { (start, last_end) };
        if first_end - start > LONG_LINE || last_end - last_start > LONG_LINE {
            from = floor_boundary(&self.text, from.max(span.offset().saturating_sub(LONG_LINE / 3)));
            to = floor_boundary(&self.text, to.min(span.offset() + span.len().min(LONG_LINE) + LONG_LINE / 3)).max(from);
        }
        let data = self.text.get(from..to).unwrap_or("").as_bytes();
        let column = self.text.get(start..from).unwrap_or("").chars().count();
        let data = if first == 0 && from == 0 { data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(data) } else { data };
        let skipped = to - from - data.len();
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            data,
            (from + skipped, data.len()).into(),
            first,
            column,
            last - first + 1,
        )))
    }
}

/// Whether something keeps a file from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file cannot be used.
    Mistake,
    /// The file can be used; a person should look.
    Warning,
}

/// One mistake or warning, with its place, the reason and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Mistake or warning.
    pub severity: Severity,
    /// Where. None when it is about the file as a whole.
    pub span: Option<Span>,
    /// What is wrong.
    pub message: String,
    /// What was meant, or what to write.
    pub help: Option<String>,
    /// Other places it is about, each with a word.
    pub also: Vec<(Span, String)>,
    /// The file.
    pub source: Arc<Source>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Mistake => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.span.map(|_| self.source.shown() as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let main = self.span?;
        let main = LabeledSpan::new_primary_with_span((!self.also.is_empty()).then(|| "here".to_owned()), self.source.shown_at(main));
        let also = self.also.iter().map(|(span, word)| {
            let (offset, len) = self.source.shown_at(*span);
            LabeledSpan::new(Some(word.clone()), offset, len)
        });
        Some(Box::new(std::iter::once(main).chain(also)))
    }
}

impl Diagnostic {
    /// `FILE:LINE:COLUMN: mistake: MESSAGE`, one line.
    pub fn line(&self) -> String {
        let kind = match self.severity {
            Severity::Mistake => "mistake",
            Severity::Warning => "warning",
        };
        match self.span {
            Some(span) => format!("{}:{}:{}: {kind}: {}", self.source.name, span.line, span.column, self.message),
            None => format!("{}: {kind}: {}", self.source.name, self.message),
        }
    }
}

/// Everything that is wrong with a file, in the order of its lines. At least one is a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file's name.
    pub name: String,
    /// Mistakes and warnings.
    pub list: Vec<Diagnostic>,
}

impl Problems {
    /// How many are mistakes.
    pub fn mistakes(&self) -> usize {
        self.list.iter().filter(|d| d.severity == Severity::Mistake).count()
    }
    /// How many are warnings.
    pub fn warnings(&self) -> usize {
        self.list.len() - self.mistakes()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", counted(self.mistakes(), "mistake"), self.name)
    }
}

impl std::error::Error for Problems {}

impl miette::Diagnostic for Problems {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(self.list.iter().map(|d| d as &dyn miette::Diagnostic)))
    }
}

/// `1 mistake`, `2 mistakes`.
pub(crate) fn counted(n: impl fmt::Display, what: &str) -> String {
    let n = n.to_string();
    if n == "1" { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Shows diagnostics as text. Without `color`: plain ASCII, one line `FILE:LINE:COLUMN: …` ahead of each, stable.
pub fn render(list: &[Diagnostic], color: bool) -> String {
    let theme = if color {
        miette::GraphicalTheme::unicode()
    } else {
        miette::GraphicalTheme { characters: miette::ThemeCharacters::ascii(), styles: miette::ThemeStyles::none() }
    };
    let handler = miette::GraphicalReportHandler::new_themed(theme).with_width(110).with_context_lines(1).with_links(false);
    let mut out = String::new();
    for diagnostic in list {
        let mut one = String::new();
        if handler.render_report(&mut one, diagnostic).is_err() {
            one.clear();
        }
        if !color || one.is_empty() {
            // The place comes first, so that editors and `grep` find it.
            let _ = writeln!(out, "{}", diagnostic.line());
        }
        // In plain text the message stands in that first line already, whole.
        let starts = |line: &&str| color || line.trim_start().starts_with(",-[") || line.starts_with("  help: ");
        for line in one.lines().skip_while(|line| !starts(line)) {
            let _ = writeln!(out, "{}", line.trim_end());
        }
        if !out.ends_with("\n\n") {
            out.push('\n');
        }
    }
    out
}

/// Gathers what is wrong with one file.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) source: Arc<Source>,
    list: Vec<Diagnostic>,
    /// Counted and not kept.
    more: usize,
    mistakes: usize,
}

impl Gather {
    pub(crate) fn new(source: Arc<Source>) -> Self {
        Self { source, list: Vec::new(), more: 0, mistakes: 0 }
    }

    /// Adds a mistake and gives it back for a help or another place.
    pub(crate) fn mistake(&mut self, span: Span, message: impl Into<String>) -> Added<'_> {
        self.add(Severity::Mistake, Some(span), message.into())
    }

    pub(crate) fn warning(&mut self, span: Span, message: impl Into<String>) -> Added<'_> {
        self.add(Severity::Warning, Some(span), message.into())
    }

    /// Adds a mistake of the file as a whole.
    pub(crate) fn whole(&mut self, message: impl Into<String>) -> Added<'_> {
        self.add(Severity::Mistake, None, message.into())
    }

    fn add(&mut self, severity: Severity, span: Option<Span>, message: String) -> Added<'_> {
        let first_mistake = severity == Severity::Mistake && self.mistakes == 0;
        self.mistakes += usize::from(severity == Severity::Mistake);
        if self.is_full() && !first_mistake {
            self.more += 1;
            return Added(None);
        }
        self.list.push(Diagnostic {
            severity,
            span,
            message: escaped(&message),
            help: None,
            also: Vec::new(),
            source: Arc::clone(&self.source),
        });
        Added(self.list.last_mut())
    }

    /// Whether what is added is only counted from here on.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= MAX_GATHERED
    }

    pub(crate) fn mistakes(&self) -> usize {
        self.mistakes
    }

    /// In the order of the file; too many are counted instead of shown.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        self.list.sort_by(|a, b| (a.span, a.severity, &a.message).cmp(&(b.span, b.severity, &b.message)));
        self.list.dedup();
        if self.list.len() > MAX_SHOWN {
            // Mistakes before warnings, so that cutting never turns a wrong file into a right one.
            self.list.sort_by_key(|d| d.severity);
            let more = self.list.len() - MAX_SHOWN + self.more;
            self.list.truncate(MAX_SHOWN);
            self.list.sort_by_key(|d| d.span);
            self.more = 0;
            self.list.push(Diagnostic {
                severity: if self.mistakes > 0 { Severity::Mistake } else { Severity::Warning },
                span: None,
                message: format!("{more} more are not shown"),
                help: None,
                also: Vec::new(),
                source: Arc::clone(&self.source),
            });
        }
        self.list
    }
}

/// A diagnostic just added.
pub(crate) struct Added<'a>(Option<&'a mut Diagnostic>);

impl Added<'_> {
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        let Self(Some(diagnostic)) = self else { return self };
        let help = escaped(&help.into());
        diagnostic.help = Some(match diagnostic.help.take() {
            Some(before) => format!("{before}; {help}"),
            None => help,
        });
        Self(Some(diagnostic))
    }
    pub(crate) fn help_if(self, help: Option<String>) -> Self {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }
    pub(crate) fn also(self, span: Span, word: impl Into<String>) -> Self {
        let Self(Some(diagnostic)) = self else { return self };
        diagnostic.also.push((span, escaped(&word.into())));
        Self(Some(diagnostic))
    }
}

/// The name nearest to what was written, if one is near enough to have been meant.
pub(crate) fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.is_empty() || written.len() > 64 {
        return None;
    }
    let lower = written.to_lowercase();
    let limit = match written.chars().count() {
        0..=3 => 1,
        4..=7 => 2,
        _ => 3,
    };
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `` `a`, `b` and `c` ``.
pub(crate) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|n| format!("`{}`", clip(n))).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A text short enough for a message, without control characters.
pub(crate) fn clip(text: &str) -> String {
    let mut out: String = text.chars().take(60).flat_map(|c| if is_hidden(c) { c.escape_default().collect() } else { vec![c] }).collect();
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}

/// A message without control characters, whatever was put into it. Its lines stay.
pub(crate) fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c != '\n' && is_hidden(c) { c.escape_default().collect() } else { vec![c] }).collect()
}
