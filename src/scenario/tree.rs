//! YAML text to a tree in which every key and value knows its place.
//!
//! The events come from serde-saphyr's own parser. The tree is built here, because a serde value keeps the first
//! mistake only: duplicate keys, unknown aliases, tags and too deep nesting are all gathered with their places.
//! Nothing here recurses, and depth and number of nodes are bounded before anything is made of them.

use std::collections::{HashMap, HashSet};

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Span as RawSpan, Tag};

use super::diag::{Gather, Source, Span, clip};

/// The largest file that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting of lists and maps.
pub(crate) const MAX_DEPTH: usize = 64;
/// The most keys and values of a file, counted after aliases are replaced by what they stand for.
pub(crate) const MAX_NODES: usize = 50_000;
/// The most documents of a file.
const MAX_DOCUMENTS: usize = 64;

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key with its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// A scalar as it is written, and what YAML 1.2 takes it for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) kind: ScalarKind,
    /// The parameters that made it what it is.
    pub(crate) note: Option<String>,
}

/// What YAML's core schema takes a scalar for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ScalarKind {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text,
    /// What cannot be known, and was said to be wrong already.
    Wrong,
}

impl ScalarKind {
    /// What an unquoted scalar is.
    pub(crate) fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            _ => {}
        }
        let (sign, digits) = match text.as_bytes() {
            [b'-', ..] => (-1, &text[1..]),
            [b'+', ..] => (1, &text[1..]),
            _ => (1, text),
        };
        if let Some(hex) = text.strip_prefix("0x").and_then(|h| i128::from_str_radix(h, 16).ok()).filter(|n| *n >= 0) {
            return Self::Int(hex);
        }
        if let Some(octal) = text.strip_prefix("0o").and_then(|o| i128::from_str_radix(o, 8).ok()).filter(|n| *n >= 0) {
            return Self::Int(octal);
        }
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            return digits.parse::<i128>().map_or(Self::Float(f64::INFINITY), |n| Self::Int(sign * n));
        }
        let floating = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
            && digits.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'.');
        if floating && let Ok(number) = text.parse::<f64>() {
            return Self::Float(number);
        }
        if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
            return Self::Float(f64::NAN);
        }
        Self::Text
    }
}

impl Node {
    /// The members of a map.
    pub(crate) fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }
    /// The items of a list.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }
    /// A member of a map, with its key.
    pub(crate) fn entry(&self, key: &str) -> Option<&(Key, Node)> {
        self.entries().iter().find(|(k, _)| k.text == key)
    }
    /// A member of a map.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }
    /// A scalar's text.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }
    /// What it is, for a message: `the number 5`, `a list`.
    pub(crate) fn described(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map of keys".to_owned(),
            Value::Scalar(Scalar { text, kind, .. }) => match kind {
                ScalarKind::Null | ScalarKind::Wrong => "nothing".to_owned(),
                ScalarKind::Bool(_) => format!("`{}`", clip(text)),
                ScalarKind::Int(_) | ScalarKind::Float(_) => format!("the number `{}`", clip(text)),
                ScalarKind::Text => format!("the text `{}`", clip(text)),
            },
        }
    }
}

/// A node under construction.
struct Open {
    span: Span,
    anchor: usize,
    kind: OpenKind,
    /// Nodes in it so far, itself included.
    size: usize,
    /// Deepest nesting below it.
    height: usize,
}

enum OpenKind {
    List(Vec<Node>),
    Map {
        entries: Vec<(Key, Node)>,
        places: HashMap<String, Span>,
        /* none inside for a key that was said to be wrong */ key: Option<Option<Key>>,
    },
}

/// What an anchor stands for.
enum Anchored {
    /// Still being read: an alias to it would be endless.
    Open,
    Done {
        node: Node,
        size: usize,
        height: usize,
    },
    /// More than the budget had room for: an alias to it goes over it.
    TooLarge {
        size: usize,
    },
}

/// Why reading stops.
struct Stop {
    span: Span,
    message: String,
    help: &'static str,
    /// Whether the documents after this one can still be read.
    next_document: bool,
}

struct Builder<'a> {
    source: &'a Source,
    gather: &'a mut Gather,
    stack: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    root: Option<Node>,
    documents: Vec<Node>,
}

/// Reads all documents of a text. What is wrong goes to `gather`; empty documents are left out.
pub(crate) fn read(gather: &mut Gather) -> Vec<Node> {
    let source = std::sync::Arc::clone(&gather.source);
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.emit_unresolved_aliases = true;
    options.block_nesting_limit = MAX_DEPTH + 2;
    options.flow_nesting_limit = MAX_DEPTH + 2;
    let mut parser = Parser::new_from_str_with_options(source.text(), options);
    let mut builder =
        Builder { source: &source, gather, stack: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None, documents: Vec::new() };
    loop {
        let stop = match parser.next_event() {
            None => break,
            Some(Ok((Event::StreamEnd, _))) => break,
            Some(Ok((event, span))) => match builder.event(event, &span) {
                Ok(()) => continue,
                Err(stop) => stop,
            },
            Some(Err(error)) => {
                let at = error.marker().byte_offset().unwrap_or(0);
                let span = source.span(at, at + 1);
                let info = error.info();
                let info = info.split(" at byte ").next().unwrap_or_default();
                let (message, help) = syntax(info);
                Stop { span, message, help, next_document: true }
            }
        };
        builder.gather.mistake(stop.span, stop.message).help_if((!stop.help.is_empty()).then(|| stop.help.to_owned()));
        builder.stack.clear();
        builder.anchors.clear();
        builder.root = None;
        if !stop.next_document || !matches!(parser.proceed_next_document(), Ok(true)) {
            break;
        }
    }
    builder.documents
}

/// The parser's words in ours.
fn syntax(info: &str) -> (String, &'static str) {
    let lower = info.to_lowercase();
    let help = if lower.contains("tab") {
        "YAML is indented with spaces, never with tabs"
    } else if lower.contains("nest") || lower.contains("recursion") || lower.contains("depth") {
        "a scenario needs no more than a dozen levels"
    } else {
        "this part of the file cannot be read as YAML; what comes after it in the same document was not checked"
    };
    (format!("not YAML: {}", clip(info)), help)
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, raw: &RawSpan) -> Result<(), Stop> {
        let span = self.place(raw);
        match event {
            Event::DocumentStart(..) => {
                self.root = None;
                self.anchors.clear();
            }
            Event::DocumentEnd => {
                if let Some(root) = self.root.take().filter(|root| !is_null(root)) {
                    if self.documents.len() >= MAX_DOCUMENTS {
                        return Err(self.stop(span, format!("more than {MAX_DOCUMENTS} documents in one file"), "split the file"));
                    }
                    self.documents.push(root);
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, span)?;
                let kind = self.scalar_kind(&text, style, tag.as_deref(), span);
                let node = Node { span, value: Value::Scalar(Scalar { text: text.into_owned(), kind, note: None }) };
                self.done(node, anchor, 1, 0);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(span, anchor, tag.as_deref(), OpenKind::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(span, anchor, tag.as_deref(), OpenKind::Map { entries: Vec::new(), places: HashMap::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.stack.pop() else { return Ok(()) };
                let value = match open.kind {
                    OpenKind::List(items) => Value::List(items),
                    OpenKind::Map { entries, .. } => Value::Map(merged(entries, self.gather)),
                };
                self.done(Node { span: open.span, value }, open.anchor, open.size, open.height + 1);
            }
            Event::Alias(id) => self.alias(id, span)?,
            Event::UnresolvedAlias(name) => {
                self.gather
                    .mistake(span, format!("alias `*{}` stands for nothing", clip(&name)))
                    .help("an anchor `&…` must come before it");
                self.done(wrong(span), 0, 1, 0);
            }
            _ => {}
        }
        Ok(())
    }

    fn place(&self, raw: &RawSpan) -> Span {
        let range = raw.byte_range().unwrap_or(0..0);
        self.source.span(range.start, range.end)
    }

    fn stop(&self, span: Span, message: String, help: &'static str) -> Stop {
        Stop { span, message, help, next_document: false }
    }

    /// Counts nodes against the budget, before they are made.
    fn count(&mut self, more: usize, span: Span) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            return Err(self.stop(
                span,
                format!("the file has more than {MAX_NODES} values, aliases counted by what they stand for"),
                "a scenario is a few hundred values; aliases of aliases grow quickly",
            ));
        }
        Ok(())
    }

    fn open(&mut self, span: Span, anchor: usize, tag: Option<&Tag>, kind: OpenKind) -> Result<(), Stop> {
        self.count(1, span)?;
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.too_deep(span));
        }
        if let Some(tag) = tag.filter(|t| !matches!(t.core_suffix(), Some("map" | "seq"))) {
            self.bad_tag(tag, span);
        }
        if anchor != 0 {
            self.anchors.insert(anchor, Anchored::Open);
        }
        self.stack.push(Open { span, anchor, kind, size: 1, height: 0 });
        Ok(())
    }

    fn too_deep(&self, span: Span) -> Stop {
        Stop {
            span,
            message: format!("nested more than {MAX_DEPTH} levels deep"),
            help: "a scenario needs no more than a dozen levels",
            next_document: true,
        }
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Stop> {
        let (size, height) = match self.anchors.get(&id) {
            Some(Anchored::Done { size, height, .. }) => (*size, *height),
            Some(Anchored::TooLarge { size }) => (*size, 0),
            _ => {
                self.gather.mistake(span, "alias to something that holds the alias itself").help("that would never end");
                self.done(wrong(span), 0, 1, 0);
                return Ok(());
            }
        };
        self.count(size, span)?;
        if self.stack.len() + height > MAX_DEPTH {
            return Err(self.too_deep(span));
        }
        if let Some(Anchored::Done { node, .. }) = self.anchors.get(&id) {
            // The whole is where it is used; what is inside is where it is written.
            let node = Node { span, value: node.value.clone() };
            self.done(node, 0, size, height);
        }
        Ok(())
    }

    fn bad_tag(&mut self, tag: &Tag, span: Span) {
        self.gather.mistake(span, format!("tag `{}` has no meaning here", clip(&tag.original()))).help("leave it out");
    }

    fn scalar_kind(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> ScalarKind {
        if let Some(tag) = tag {
            if tag.core_suffix() == Some("str") || tag.suffix().is_empty() || tag.suffix() == "!" {
                return ScalarKind::Text;
            }
            if !matches!(tag.core_suffix(), Some("int" | "float" | "bool" | "null")) {
                self.bad_tag(tag, span);
            }
        }
        if style == ScalarStyle::Plain { ScalarKind::of_plain(text) } else { ScalarKind::Text }
    }

    /// Puts a finished node where it belongs.
    fn done(&mut self, node: Node, anchor: usize, size: usize, height: usize) {
        if anchor != 0 {
            // What is kept for aliases is counted too; what is not kept could not be used any more, as the count never shrinks.
            let anchored = if self.nodes.saturating_add(size) <= MAX_NODES {
                self.nodes += size;
                Anchored::Done { node: node.clone(), size, height }
            } else {
                Anchored::TooLarge { size }
            };
            self.anchors.insert(anchor, anchored);
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return;
        };
        open.size += size;
        open.height = open.height.max(height);
        match &mut open.kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map { entries, places, key } => match key.take() {
                None => {
                    *key = Some(match &node.value {
                        Value::Scalar(Scalar { kind: ScalarKind::Wrong, .. }) => None,
                        Value::Scalar(scalar) => Some(Key { text: scalar.text.clone(), span: node.span }),
                        _ => {
                            self.gather.mistake(node.span, "a key must be a name, not a list or a map").help("write `name: value`");
                            None
                        }
                    });
                }
                Some(None) => {}
                Some(Some(key)) => {
                    if let Some(first) = places.get(&key.text).copied().filter(|_| key.text != "<<") {
                        self.gather
                            .mistake(key.span, format!("key `{}` is set twice", clip(&key.text)))
                            .also(first, format!("first set here, line {}", first.line))
                            .help("keep one of them");
                    } else {
                        places.insert(key.text.clone(), key.span);
                        entries.push((key, node));
                    }
                }
            },
        }
    }
}

/// Merge keys (`<<: *defaults`): what they bring in is used where the map does not set it itself.
fn merged(entries: Vec<(Key, Node)>, gather: &mut Gather) -> Vec<(Key, Node)> {
    if entries.iter().all(|(key, _)| key.text != "<<") {
        return entries;
    }
    let (merges, mut entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| key.text == "<<");
    let mut present: HashSet<String> = entries.iter().map(|(key, _)| key.text.clone()).collect();
    for (key, node) in merges {
        let sources = match node.value {
            Value::Map(_) => vec![node],
            Value::List(items) => items,
            Value::Scalar(_) => Vec::new(),
        };
        if sources.is_empty() || sources.iter().any(|s| !matches!(s.value, Value::Map(_))) {
            gather.mistake(key.span, "`<<` must be a map or a list of maps").help("write `<<: *anchor`, the anchor being on a map");
        }
        for source in sources {
            let Value::Map(more) = source.value else { continue };
            for (key, node) in more {
                if present.insert(key.text.clone()) {
                    entries.push((key, node));
                }
            }
        }
    }
    entries
}

fn wrong(span: Span) -> Node {
    Node { span, value: Value::Scalar(Scalar { text: String::new(), kind: ScalarKind::Wrong, note: None }) }
}

fn is_null(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(Scalar { kind: ScalarKind::Null, .. }))
}
