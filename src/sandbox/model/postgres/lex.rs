//! SQL's words.

use std::fmt;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or keyword, in small letters.
    Word(String),
    /// `"A name"`.
    Quoted(String),
    Str(String),
    Num(i64),
    /// `$1` is 0.
    Param(usize),
    Op(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(text) | Self::Quoted(text) => write!(f, "`{text}`"),
            Self::Str(text) => write!(f, "'{text}'"),
            Self::Num(number) => write!(f, "`{number}`"),
            Self::Param(n) => write!(f, "`${}`", n + 1),
            Self::Op(op) => write!(f, "`{op}`"),
        }
    }
}

/// Longer ones first.
const OPS: [&str; 21] = ["::", "<=", ">=", "<>", "!=", "||", "(", ")", ",", ";", ".", "=", "<", ">", "+", "-", "*", "/", "%", "[", "]"];

/// The words of a text, each with its place in bytes. Remarks are left out.
///
/// # Errors
/// What is no word.
pub(super) fn lex(sql: &str) -> Result<Vec<(Token, usize)>, String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let start = at;
        if first.is_whitespace() {
            at += first.len_utf8();
        } else if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if let Some(within) = rest.strip_prefix("/*") {
            at += within.find("*/").ok_or("a remark has no end")? + 4;
        } else if first == '\'' || first == '"' {
            let (text, length) = quoted(rest, first).ok_or_else(|| format!("{first} has no counterpart"))?;
            at += length;
            tokens.push((if first == '"' { Token::Quoted(text) } else { Token::Str(text) }, start));
        } else if first.is_ascii_digit() {
            let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            at += length;
            let number = rest[..length].parse().map_err(|_| format!("{} is too large", &rest[..length]))?;
            tokens.push((Token::Num(number), start));
        } else if first == '$' {
            let digits = &rest[1..];
            let length = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            at += 1 + length;
            let n: usize = digits[..length].parse().map_err(|_| "nothing is known about `$`".to_owned())?;
            tokens.push((Token::Param(n.checked_sub(1).ok_or("there is no parameter $0")?), start));
        } else if first.is_alphabetic() || first == '_' {
            let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            at += length;
            tokens.push((Token::Word(rest[..length].to_lowercase()), start));
        } else {
            let op = OPS.iter().find(|op| rest.starts_with(**op)).ok_or_else(|| format!("nothing is known about `{first}`"))?;
            at += op.len();
            tokens.push((Token::Op(if *op == "!=" { "<>" } else { op }), start));
        }
    }
    Ok(tokens)
}

/// What is between quotes, a doubled one being one of the text; and how many bytes all that takes.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            text.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            text.push(quote);
        } else {
            return Some((text, at + c.len_utf8()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        let words = |sql: &str| lex(sql).map(|all| all.into_iter().map(|(token, _)| token).collect::<Vec<_>>());
        assert_eq!(
            words("SELECT \"Id\", 'it''s' FROM t -- all\n WHERE n<>$2 /* x */ AND 7::text != '';").unwrap(),
            [
                Token::Word("select".into()),
                Token::Quoted("Id".into()),
                Token::Op(","),
                Token::Str("it's".into()),
                Token::Word("from".into()),
                Token::Word("t".into()),
                Token::Word("where".into()),
                Token::Word("n".into()),
                Token::Op("<>"),
                Token::Param(1),
                Token::Word("and".into()),
                Token::Num(7),
                Token::Op("::"),
                Token::Word("text".into()),
                Token::Op("<>"),
                Token::Str(String::new()),
                Token::Op(";"),
            ]
        );
        for wrong in ["'", "\"a", "/* a", "§", "$", "$0", "99999999999999999999", "é'"] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }
}
