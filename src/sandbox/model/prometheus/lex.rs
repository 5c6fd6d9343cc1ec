//! PromQL's words.

use super::super::label;

/// The longest expression that is read, in bytes.
const LONGEST: usize = 16_384;

/// A word of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Number(f64),
    /// In milliseconds.
    Duration(i64),
    Text(String),
    /// A name of a metric, a label, a function or an operator; may hold colons.
    Word(String),
    /// An operator or a bracket.
    Sign(&'static str),
}

const SIGNS: [&str; 26] = [
    "==", "!=", ">=", "<=", "=~", "!~", "(", ")", "{", "}", "[", "]", ",", "+", "-", "*", "/", "%", "^", "=", ">", "<", "@", ":", ";", "!",
];

/// The words of an expression.
///
/// # Errors
/// Something in it is none.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    if text.len() > LONGEST {
        return Err(format!("not rehearsable: the expression is longer than {LONGEST} bytes"));
    }
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    // Within braces there are no durations, and a colon separates nothing.
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' | '`' => {
                let (value, length) = quoted(rest, first)?;
                found.push(Token::Text(value));
                length
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
                let word = &rest[..length];
                found.push(match word.to_ascii_lowercase().as_str() {
                    "inf" => Token::Number(f64::INFINITY),
                    "nan" => Token::Number(f64::NAN),
                    _ => Token::Word(word.to_owned()),
                });
                length
            }
            c if c.is_ascii_digit() || c == '.' => {
                let (token, length) = figure(rest)?;
                found.push(token);
                length
            }
            _ => {
                let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| format!("`{first}` means nothing in PromQL"))?;
                found.push(Token::Sign(sign));
                sign.len()
            }
        };
        rest = rest[length..].trim_start();
    }
    Ok(found)
}

/// A number or a duration.
fn figure(text: &str) -> Result<(Token, usize), String> {
    let bytes = text.as_bytes();
    let word = bytes.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'.').count();
    if let Ok(duration) = label::duration(&text[..word])
        && &text[..word] != "0"
    {
        return Ok((Token::Duration(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)), word));
    }
    let mut length = word;
    // An exponent's sign.
    if bytes.get(word.wrapping_sub(1)).is_some_and(|b| b.eq_ignore_ascii_case(&b'e'))
        && !text.starts_with("0x")
        && bytes.get(word).is_some_and(|b| b"+-".contains(b))
    {
        length += 1 + bytes[word + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
    }
    let figure = &text[..length];
    let value = match figure.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).map(f64::from).map_err(|_| ()),
        None => figure.parse().map_err(|_| ()),
    };
    value.map(|value| (Token::Number(value), length)).map_err(|()| format!("`{figure}` is neither a number nor a duration"))
}

/// A text in quotes, and how long it is with them. Between backquotes nothing is escaped.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices().skip(1) {
        match (escaped, c) {
            (true, 'n') => value.push('\n'),
            (true, 't') => value.push('\t'),
            (true, '\\' | '"' | '\'') => value.push(c),
            (true, c) => return Err(format!("not rehearsable: the escape `\\{c}`")),
            (false, '\\') if quote != '`' => {
                escaped = true;
                continue;
            }
            (false, c) if c == quote => return Ok((value, at + c.len_utf8())),
            (false, c) => value.push(c),
        }
        escaped = false;
    }
    Err("a quote is not closed".to_owned())
}
