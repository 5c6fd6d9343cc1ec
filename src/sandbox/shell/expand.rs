//! What words come to: parameters, output of commands, sums, fields, names of files, patterns.

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    state::{Shell, Stop},
    sum,
    syntax::{Act, Piece, Word},
};

/// Whether a character is of a class.
type IsOf = fn(char) -> bool;

/// How many fields a word may come to.
const FIELDS: usize = 100_000;

/// What a word is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// One text.
    Text,
    /// Fields: values fall into several.
    Fields,
    /// Fields, and plain text falls into several, too: the word in `${x:-a word}`.
    Value,
}

/// A character, and whether it was quoted.
type Char = (char, bool);

/// Collects the fields of a word.
#[derive(Default)]
struct Fields {
    done: Vec<Vec<Char>>,
    /// The field that is being made.
    now: Option<Vec<Char>>,
}

impl Fields {
    fn push(&mut self, text: &str, quoted: bool) {
        self.now.get_or_insert_default().extend(text.chars().map(|c| (c, quoted)));
    }

    fn split(&mut self) {
        self.done.extend(self.now.take());
    }

    /// The unquoted value of an expansion, which falls into fields.
    fn value(&mut self, text: &str, separators: &str) {
        // An other character than a blank ends a field even if it is empty.
        for c in text.chars() {
            if !separators.contains(c) {
                self.now.get_or_insert_default().push((c, false));
            } else if c.is_whitespace() {
                self.split();
            } else {
                self.now.get_or_insert_default();
                self.split();
            }
        }
    }
}

impl<'a> Shell<'a> {
    /// The fields of words: split, and with names of files in place of patterns.
    pub(super) async fn fields(&mut self, words: &[Word]) -> Result<Vec<String>, Stop> {
        let mut all = Vec::new();
        for word in words {
            let mut fields = Fields::default();
            self.pieces(&word.0, &mut fields, How::Fields).await?;
            fields.split();
            for field in fields.done {
                let names = if self.options.no_glob { Vec::new() } else { self.glob(&field) };
                if names.is_empty() {
                    all.push(field.into_iter().map(|(c, _)| c).collect());
                } else {
                    all.extend(names);
                }
                if all.len() > FIELDS {
                    return Err(self.refuse(&format!("more than {FIELDS} arguments")).await);
                }
            }
        }
        Ok(all)
    }

    /// A word as one text: of an assignment, a redirection and the like.
    pub(super) async fn text(&mut self, word: &Word) -> Result<String, Stop> {
        Ok(self.pattern(word).await?.into_iter().map(|(c, _)| c).collect())
    }

    /// A word as a pattern: its unquoted `*`, `?` and `[` count.
    pub(super) async fn pattern(&mut self, word: &Word) -> Result<Vec<Char>, Stop> {
        let mut fields = Fields::default();
        self.pieces(&word.0, &mut fields, How::Text).await?;
        Ok(fields.now.unwrap_or_default())
    }

    fn pieces<'s>(&'s mut self, pieces: &'s [Piece], fields: &'s mut Fields, how: How) -> BoxFuture<'s, Result<(), Stop>>
    where
        'a: 's,
    {
        async move {
            for (n, piece) in pieces.iter().enumerate() {
                match piece {
                    Piece::Plain(text) => {
                        // `~` and `~/…` at the beginning of a word.
                        let home = n == 0 && how == How::Fields && (text == "~" && pieces.len() == 1 || text.starts_with("~/"));
                        if home {
                            let home = self.value("HOME").unwrap_or_else(|| "/".to_owned());
                            fields.push(&home, true);
                            fields.push(&text[1..], false);
                        } else if how == How::Value {
                            self.came_to(text, false, fields, how);
                        } else {
                            fields.push(text, false);
                        }
                    }
                    Piece::Quoted(text) => fields.push(text, true),
                    Piece::Parameter { name, act: Act::Value, quoted } if matches!(name.as_str(), "@" | "*") => {
                        self.positional(name == "@", *quoted, fields, how);
                    }
                    Piece::Parameter { name, act, quoted } => self.parameter(name, act, *quoted, fields, how).await?,
                    Piece::Output { list, quoted } => {
                        let text = self.output(list).await?;
                        self.came_to(&text, *quoted, fields, how);
                    }
                    Piece::Sum { text, quoted } => {
                        let text = self.text(text).await?;
                        let number = match sum::evaluate(&text, &mut |name, to| {
                            if let Some(to) = to {
                                self.set(name, to);
                            }
                            self.value(name)
                        }) {
                            Ok(number) => number.to_string(),
                            Err(why) => return Err(self.fails(&format!("arithmetic: {why}: {text}")).await),
                        };
                        self.came_to(&number, *quoted, fields, how);
                    }
                }
                let bytes = fields.now.as_ref().map_or(0, Vec::len);
                self.bounded(bytes + fields.done.len()).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn came_to(&self, text: &str, quoted: bool, fields: &mut Fields, how: How) {
        if quoted || how == How::Text {
            fields.push(text, quoted);
        } else {
            let separators = self.value("IFS").unwrap_or_else(|| " \t\n".to_owned());
            fields.value(text, &separators);
        }
    }

    fn positional(&self, each: bool, quoted: bool, fields: &mut Fields, how: How) {
        let separators = self.value("IFS").unwrap_or_else(|| " \t\n".to_owned());
        if how == How::Text || quoted && !each {
            let by = separators.chars().next().filter(|_| !each || quoted).unwrap_or(' ');
            fields.push(&self.args.join(&by.to_string()), quoted);
            return;
        }
        for (n, arg) in self.args.iter().enumerate() {
            if n > 0 {
                fields.split();
            }
            if quoted { fields.push(arg, true) } else { fields.value(arg, &separators) }
        }
    }

    async fn parameter(&mut self, name: &str, act: &Act, quoted: bool, fields: &mut Fields, how: How) -> Result<(), Stop> {
        let value = self.value(name);
        match act {
            Act::Unset { how: sign, empty, word } => {
                let none = value.as_ref().is_none_or(|v| *empty && v.is_empty());
                match (sign, none) {
                    ('+', true) => {
                        if quoted {
                            fields.push("", true);
                        }
                    }
                    ('-', true) | ('+', false) => {
                        if quoted && word.0.is_empty() {
                            fields.push("", true);
                        }
                        // Plain text in the word falls into fields as a value does.
                        let how = if quoted || how == How::Text { How::Text } else { How::Value };
                        self.pieces(&word.0, fields, how).await?;
                    }
                    ('=', true) => {
                        let text = self.text(word).await?;
                        self.set(name, text.clone());
                        self.came_to(&text, quoted, fields, how);
                    }
                    ('?', true) => {
                        let text = self.text(word).await?;
                        let why = if text.is_empty() { "parameter not set" } else { &text };
                        return Err(self.fails(&format!("{name}: {why}")).await);
                    }
                    _ => self.came_to(&value.unwrap_or_default(), quoted, fields, how),
                }
            }
            _ => {
                let Some(value) = value else {
                    if self.options.no_unset && !matches!(name, "@" | "*" | "!") {
                        return Err(self.fails(&format!("{name}: parameter not set")).await);
                    }
                    let nothing = if matches!(act, Act::Length) { "0" } else { "" };
                    self.came_to(nothing, quoted, fields, how);
                    return Ok(());
                };
                let text = match act {
                    Act::Length => value.chars().count().to_string(),
                    Act::Trim { end, longest, pattern } => {
                        let pattern = self.pattern(pattern).await?;
                        trim(&value, &pattern, *end, *longest)
                    }
                    _ => value,
                };
                self.came_to(&text, quoted, fields, how);
            }
        }
        Ok(())
    }

    /// The names of files that a field's pattern matches, in order.
    fn glob(&self, field: &[Char]) -> Vec<String> {
        if !field.iter().any(|(c, quoted)| !quoted && matches!(c, '*' | '?' | '[')) {
            return Vec::new();
        }
        let files = self.files();
        let absolute = field.first().is_some_and(|(c, _)| *c == '/');
        let mut found = vec![if absolute { "/".to_owned() } else { String::new() }];
        for part in field.split(|(c, _)| *c == '/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            for front in &found {
                let at = self.path(if front.is_empty() { "." } else { front });
                let join = |name: &str| {
                    if front.is_empty() || front.ends_with('/') { format!("{front}{name}") } else { format!("{front}/{name}") }
                };
                if part.iter().any(|(c, quoted)| !quoted && matches!(c, '*' | '?' | '[')) {
                    let hidden = part.first().is_some_and(|(c, _)| *c == '.');
                    let names = files.list(&at).unwrap_or_default();
                    next.extend(names.iter().filter(|n| (hidden || !n.starts_with('.')) && matches(part, n)).map(|n| join(n)));
                } else {
                    let name: String = part.iter().map(|(c, _)| *c).collect();
                    if files.exists(&format!("{at}/{name}")) {
                        next.push(join(&name));
                    }
                }
            }
            found = next;
        }
        found
    }
}

/// Whether a pattern matches a whole text.
pub(super) fn matches(pattern: &[Char], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    matches_chars(pattern, &text)
}

/// As a glob does: after a mismatch it goes back to the last `*` only, so that no pattern takes long.
fn matches_chars(pattern: &[Char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(('*', false)) => {
                back = Some((p, t));
                p += 1;
                continue;
            }
            Some(('?', false)) => Some(1),
            Some(('[', false)) => match class(&pattern[p..], text[t]) {
                Some((true, length)) => Some(length),
                Some((false, _)) => None,
                None => (text[t] == '[').then_some(1),
            },
            Some((c, _)) => (*c == text[t]).then_some(1),
            None => None,
        };
        match (step, back) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((star, from))) => {
                back = Some((star, from + 1));
                p = star + 1;
                t = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == ('*', false))
}

/// Whether `[…]` at the beginning of a pattern has a character, and how long it is. None: it is no such thing.
fn class(pattern: &[Char], c: char) -> Option<(bool, usize)> {
    let mut at = 1;
    let not = pattern.get(at).is_some_and(|(c, quoted)| !quoted && matches!(c, '!' | '^'));
    at += usize::from(not);
    let begin = at;
    let mut has = false;
    loop {
        let (first, quoted) = *pattern.get(at)?;
        if first == ']' && !quoted && at > begin {
            return Some((has != not, at + 1));
        }
        let rest: String = pattern[at..].iter().take(12).map(|(c, _)| *c).collect();
        let named: [(&str, IsOf); 7] = [
            ("[:alpha:]", char::is_alphabetic),
            ("[:digit:]", |c| c.is_ascii_digit()),
            ("[:alnum:]", char::is_alphanumeric),
            ("[:space:]", char::is_whitespace),
            ("[:upper:]", char::is_uppercase),
            ("[:lower:]", char::is_lowercase),
            ("[:punct:]", |c| c.is_ascii_punctuation()),
        ];
        if let Some((name, is)) = named.iter().find(|(name, _)| rest.starts_with(name)) {
            has |= is(c);
            at += name.len();
            continue;
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some(('-', false)), Some((last, _))) if *last != ']' => {
                has |= (first..=*last).contains(&c);
                at += 3;
            }
            _ => {
                has |= first == c;
                at += 1;
            }
        }
    }
}

/// A value without the part that a pattern matches.
fn trim(value: &str, pattern: &[Char], end: bool, longest: bool) -> String {
    let text: Vec<char> = value.chars().collect();
    let cut = |length: &usize| {
        let part = if end { &text[text.len() - length..] } else { &text[..*length] };
        matches_chars(pattern, part)
    };
    let mut lengths = 0..=text.len();
    let found = if longest { lengths.rfind(cut) } else { lengths.find(cut) };
    let length = found.unwrap_or(0);
    if end { text[..text.len() - length].iter().collect() } else { text[length..].iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(pattern: &str, text: &str) -> bool {
        let pattern: Vec<Char> = pattern.chars().map(|c| (c, false)).collect();
        matches(&pattern, text)
    }

    #[test]
    fn patterns() {
        assert!(is("*.conf", "a.conf") && !is("*.conf", "a.confs") && is("a?c", "abc") && !is("a?c", "ac"));
        assert!(is("[a-c]x", "bx") && !is("[!a-c]x", "bx") && is("[]]", "]") && is("[[:digit:]]*", "7a") && is("[", "["));
        assert!(is("*a*b*c*", "xxaxxbxxcxx") && !is("*a*b*c*", "xxcxxbxxaxx") && is("", "") && is("*", ""));
        assert!(!matches(&[('*', true)], "a") && matches(&[('*', true)], "*"));
        // Exponential in a naive matcher.
        assert!(!is(&"*a".repeat(30), &"a".repeat(5_000).replace("aaaaaaaaaa", "aaaaaaaaab").replace('a', "b")));
    }

    #[test]
    fn parts_are_cut_off() {
        let cut =
            |value: &str, pattern: &str, end, longest| trim(value, &pattern.chars().map(|c| (c, false)).collect::<Vec<_>>(), end, longest);
        assert_eq!(cut("repo2", "repo", false, false), "2");
        assert_eq!(cut("/a/b/c", "*/", false, true), "c");
        assert_eq!(cut("/a/b/c", "*/", false, false), "a/b/c");
        assert_eq!(cut("a.tar.gz", ".*", true, false), "a.tar");
        assert_eq!(cut("a.tar.gz", ".*", true, true), "a");
        assert_eq!(cut("a", "b", true, true), "a");
    }
}
