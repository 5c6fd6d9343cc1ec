//! Label selectors as kubectl reads them: `app=web,tier in (a, b),!canary`.
//!
//! kube can match and print selectors but not read them, and asking the API server would need a cluster.

use std::collections::BTreeSet;

use kube::core::{Expression, Selector};

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a label selector: {why}{}", place(text, *at))]
pub struct SelectorError {
    /// The text.
    pub text: String,
    /// What is wrong.
    pub why: String,
    /// Where, in bytes from the start of the text.
    pub at: usize,
}

/// Where it is wrong, for a message. An empty text has no place.
fn place(text: &str, at: usize) -> String {
    if text.trim().is_empty() {
        return String::new();
    }
    format!(" at character {}", text.get(..at).map_or(0, |before| before.chars().count()) + 1)
}

/// Reads a selector in kubectl's syntax: comma-separated `key`, `!key`, `key=value`, `key==value`, `key!=value`,
/// `key in (a,b)`, `key notin (a,b)`.
///
/// # Errors
/// When it is empty (which would select everything) or not of that form, or a key or value is not a legal label.
pub fn parse(text: &str) -> Result<Selector, SelectorError> {
    let mut reader = Reader { text, at: 0 };
    let mut expressions = Vec::new();
    reader.spaces();
    if reader.rest().is_empty() {
        return Err(reader.wrong("it is empty and would select everything"));
    }
    loop {
        expressions.push(reader.requirement()?);
        reader.spaces();
        if reader.rest().is_empty() {
            return Ok(expressions.into_iter().collect());
        }
        if !reader.take(",") {
            return Err(reader.wrong("a comma is missing"));
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong(&self, why: impl Into<String>) -> SelectorError {
        SelectorError { text: self.text.to_owned(), why: why.into(), at: self.at }
    }

    fn spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// A run of characters that can be in a key or a value.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_./".contains(c))).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn requirement(&mut self) -> Result<Expression, SelectorError> {
        self.spaces();
        if self.take("!") {
            self.spaces();
            return Ok(Expression::DoesNotExist(self.key()?));
        }
        let key = self.key()?;
        self.spaces();
        if self.take("!=") {
            return Ok(Expression::NotEqual(key, self.value()?));
        }
        if self.take("==") || self.take("=") {
            return Ok(Expression::Equal(key, self.value()?));
        }
        let before = self.at;
        match self.word() {
            "in" => Ok(Expression::In(key, self.set()?)),
            "notin" => Ok(Expression::NotIn(key, self.set()?)),
            "" if self.rest().is_empty() || self.rest().starts_with(',') => Ok(Expression::Exists(key)),
            _ => {
                self.at = before;
                Err(self.wrong("expected `=`, `!=`, `in (…)`, `notin (…)` or a comma"))
            }
        }
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        self.spaces();
        if !self.take("(") {
            return Err(self.wrong("expected `(`"));
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.value()?);
            self.spaces();
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(self.wrong("expected `,` or `)`"));
            }
        }
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let start = self.at;
        let key = self.word();
        let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(p, n)| (Some(p), n));
        let why = if key.is_empty() {
            "a label's key is missing"
        } else if !legal(name) || name.is_empty() {
            "a label's key is at most 63 letters, digits, `-`, `_`, `.`, beginning and ending with a letter or digit"
        } else if prefix.is_some_and(|p| p.is_empty() || p.len() > 253 || p.contains('/') || p.contains('_')) {
            "the part of a label's key before `/` is a DNS name"
        } else {
            return Ok(key.to_owned());
        };
        self.at = start;
        Err(self.wrong(why))
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        self.spaces();
        let start = self.at;
        let value = self.word();
        if legal(value) {
            return Ok(value.to_owned());
        }
        self.at = start;
        Err(self.wrong("a label's value is at most 63 letters, digits, `-`, `_`, `.`, beginning and ending with a letter or digit"))
    }
}

/// Whether a text can be a label's value (which may be empty).
fn legal(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63 && !text.contains('/') && ends(text.chars().next()) && ends(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt as _;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn reads_what_kubectl_reads() {
        let shop = labels(&[("app", "web"), ("tier", "a"), ("firedrill.dev/drills", "allowed"), ("empty", "")]);
        for (text, matches) in [
            ("app=web", true),
            ("app==web", true),
            (" app = web , tier in ( a , b ) ", true),
            ("app!=web", false),
            ("other!=web", true),
            ("tier notin (a,b)", false),
            ("other notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!canary,app", true),
            ("firedrill.dev/drills=allowed", true),
            ("empty=", true),
            ("empty in ()", true),
            ("in", false),
            ("in in (in)", false),
            ("app=web,tier=b", false),
        ] {
            assert_eq!(parse(text).unwrap().matches(&shop), matches, "{text}");
        }
    }

    #[test]
    fn says_where_it_is_wrong() {
        for (text, at, why) in [
            ("", 0, "empty"),
            ("   ", 3, "empty"),
            ("app=", usize::MAX, ""),
            ("app web", 4, "expected `=`"),
            ("app in a", 7, "expected `(`"),
            ("app in (a", 9, "expected `,` or `)`"),
            ("app=web,", 8, "key is missing"),
            ("=web", 0, "key is missing"),
            ("a//b=c", 0, "DNS name"),
            ("/b", 0, "DNS name"),
            ("app=-web", 4, "value"),
            ("app=we/b", 4, "value"),
            ("app=wäb", 5, "comma"),
            ("app>3", 3, "expected `=`"),
        ] {
            match parse(text) {
                Ok(_) => assert_eq!(at, usize::MAX, "{text} was accepted"),
                Err(error) => {
                    assert!(error.why.contains(why) && error.at == at, "{text}: {error}");
                    assert!(error.to_string().contains(text.trim()));
                    assert_eq!(error.to_string().contains(" at character "), !text.trim().is_empty(), "{error}");
                }
            }
        }
        assert!(parse(&format!("a={}", "x".repeat(64))).is_err());
        assert!(parse(&"(".repeat(100_000)).is_err());
    }
}
