//! Words: quotes, parameters, substitutions.

use std::sync::Arc;

use super::{
    parse::{Parsed, Parser, ends_word, is_name, parse_at},
    syntax::{Act, Piece, Word},
};

/// Parses text as it stands between double quotes.
///
/// # Errors
/// As [`parse`].
pub(super) fn parse_quoted(text: &str, depth: u32) -> Result<Word, String> {
    let mut parser = Parser { text: text.chars().collect(), at: 0, pending: Vec::new(), depth };
    let mut pieces = Vec::new();
    parser.quoted(&mut pieces, None, true)?;
    Ok(Word(pieces))
}

impl Parser {
    pub(super) fn some_word(&mut self) -> Parsed<Word> {
        let begin = self.at;
        let word = self.word()?;
        if self.at > begin { Ok(word) } else { Err(self.wrong("a word is missing")) }
    }

    /// A word; empty where there is none.
    pub(super) fn word(&mut self) -> Parsed<Word> {
        let mut pieces = Vec::new();
        self.deeper(|parser| parser.pieces(&mut pieces, ends_word))?;
        Ok(Word(pieces))
    }

    /// Pieces outside of double quotes, up to a character that ends them.
    fn pieces(&mut self, pieces: &mut Vec<Piece>, ends: impl Fn(char) -> bool) -> Parsed<()> {
        let mut plain = String::new();
        while let Some(c) = self.peek().filter(|c| !ends(*c)) {
            if matches!(c, '\'' | '"' | '\\' | '$' | '`') && !plain.is_empty() {
                pieces.push(Piece::Plain(std::mem::take(&mut plain)));
            }
            match c {
                '\'' => {
                    self.at += 1;
                    pieces.push(Piece::Quoted(self.up_to('\'')?));
                }
                '"' => {
                    self.at += 1;
                    let before = pieces.len();
                    self.quoted(pieces, Some('"'), false)?;
                    if pieces.len() == before {
                        pieces.push(Piece::Quoted(String::new()));
                    }
                }
                '\\' => {
                    self.at += 1;
                    match self.peek() {
                        Some('\n') => self.at += 1,
                        Some(c) => {
                            self.at += 1;
                            pieces.push(Piece::Quoted(c.to_string()));
                        }
                        None => pieces.push(Piece::Quoted("\\".to_owned())),
                    }
                }
                '$' if self.ahead("$'") => return Err(self.wrong("`$'` is not understood")),
                '$' | '`' => self.dollar(pieces, &mut plain, false)?,
                other => {
                    self.at += 1;
                    plain.push(other);
                }
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Plain(plain));
        }
        Ok(())
    }

    fn up_to(&mut self, end: char) -> Parsed<String> {
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            if c == end {
                return Ok(text);
            }
            text.push(c);
        }
        Err(self.wrong(&format!("`{end}` is missing")))
    }

    /// Pieces within double quotes, or of a here-document, where `"` is nothing special.
    fn quoted(&mut self, pieces: &mut Vec<Piece>, end: Option<char>, here: bool) -> Parsed<()> {
        let mut plain = String::new();
        loop {
            match self.peek() {
                None if end.is_none() => break,
                None => return Err(self.wrong("a closing quote is missing")),
                Some(c) if Some(c) == end => {
                    self.at += 1;
                    break;
                }
                Some('\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some('\n') => self.at += 1,
                        Some(c) if matches!(c, '$' | '`' | '\\') || (c == '"' && !here) || (c == '}' && end == Some('}')) => {
                            self.at += 1;
                            plain.push(c);
                        }
                        _ => plain.push('\\'),
                    }
                }
                Some('$' | '`') => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Quoted(std::mem::take(&mut plain)));
                    }
                    self.dollar(pieces, &mut plain, true)?;
                }
                // Quotes within `"${x:-"…"}"` only group.
                Some('"') if end == Some('}') => self.at += 1,
                Some(c) => {
                    self.at += 1;
                    plain.push(c);
                }
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Quoted(plain));
        }
        Ok(())
    }

    /// What begins with `$` or a backquote. A `$` that begins nothing is itself.
    fn dollar(&mut self, pieces: &mut Vec<Piece>, plain: &mut String, quoted: bool) -> Parsed<()> {
        if self.eat("`") {
            let mut text = String::new();
            loop {
                match self.peek() {
                    None => return Err(self.wrong("a closing backquote is missing")),
                    Some('`') => break,
                    Some('\\') if self.text.get(self.at + 1).is_some_and(|c| matches!(c, '$' | '`' | '\\')) => self.at += 1,
                    Some(_) => {}
                }
                text.extend(self.peek());
                self.at += 1;
            }
            self.at += 1;
            let list = Arc::new(self.deeper(|parser| parse_at(&text, parser.depth))?);
            pieces.push(Piece::Output { list, quoted });
            return Ok(());
        }
        self.at += 1;
        if self.eat("((") {
            let text = self.sum()?;
            let text = self.deeper(|parser| parse_quoted(&text, parser.depth))?;
            pieces.push(Piece::Sum { text, quoted });
            return Ok(());
        }
        if self.eat("(") {
            let outer = std::mem::take(&mut self.pending);
            let list = Arc::new(self.list(&[])?);
            self.here_documents()?;
            self.pending = outer;
            if !self.eat(")") {
                return Err(self.wrong("expected `)`"));
            }
            pieces.push(Piece::Output { list, quoted });
            return Ok(());
        }
        if self.eat("{") {
            let piece = self.deeper(|parser| parser.braces(quoted))?;
            pieces.push(piece);
            return Ok(());
        }
        let mut name: String = self.text[self.at..].iter().take_while(|c| c.is_ascii_alphanumeric() || **c == '_').collect();
        if !is_name(&name) {
            name = match self.peek() {
                Some(c) if c.is_ascii_digit() || matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') => c.to_string(),
                _ => {
                    plain.push('$');
                    return Ok(());
                }
            };
        }
        self.at += name.len();
        pieces.push(Piece::Parameter { name, act: Act::Value, quoted });
        Ok(())
    }

    /// The text of `$((…))` after its opening.
    fn sum(&mut self) -> Parsed<String> {
        let mut text = String::new();
        let mut open = 0_u32;
        while let Some(c) = self.peek() {
            if open == 0 && self.eat("))") {
                return Ok(text);
            }
            match c {
                '(' => open += 1,
                ')' if open == 0 => break,
                ')' => open -= 1,
                _ => {}
            }
            self.at += 1;
            text.push(c);
        }
        Err(self.wrong("expected `))`"))
    }

    /// `${…}` after its opening.
    fn braces(&mut self, quoted: bool) -> Parsed<Piece> {
        let length = self.ahead("#") && !self.ahead("#}") && {
            self.at += 1;
            true
        };
        let mut name: String = self.text[self.at..].iter().take_while(|c| c.is_ascii_alphanumeric() || **c == '_').collect();
        if name.is_empty() {
            name.extend(self.peek().filter(|c| matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!')));
        }
        if name.is_empty() || !(is_name(&name) || name.len() == 1 || name.bytes().all(|b| b.is_ascii_digit())) {
            return Err(self.wrong("`${` without a name"));
        }
        self.at += name.len();
        let unknown = |parser: &Self| Err(parser.wrong(&format!("this expansion of `{name}` is not understood")));
        if length {
            return if self.eat("}") { Ok(Piece::Parameter { name, act: Act::Length, quoted }) } else { unknown(self) };
        }
        if self.eat("}") {
            return Ok(Piece::Parameter { name, act: Act::Value, quoted });
        }
        let empty = self.eat(":");
        let act = match self.peek() {
            Some(how @ ('-' | '=' | '?' | '+')) => {
                self.at += 1;
                Act::Unset { how, empty, word: self.in_braces(quoted)? }
            }
            Some(sign @ ('#' | '%')) if !empty => {
                self.at += 1;
                let longest = self.eat(&sign.to_string());
                // A pattern is a pattern within double quotes, too.
                Act::Trim { end: sign == '%', longest, pattern: self.in_braces(false)? }
            }
            _ => return unknown(self),
        };
        Ok(Piece::Parameter { name, act, quoted })
    }

    fn in_braces(&mut self, quoted: bool) -> Parsed<Word> {
        let mut pieces = Vec::new();
        if quoted {
            self.quoted(&mut pieces, Some('}'), false)?;
        } else {
            self.pieces(&mut pieces, |c| c == '}')?;
            if !self.eat("}") {
                return Err(self.wrong("expected `}`"));
            }
        }
        Ok(Word(pieces))
    }
}
