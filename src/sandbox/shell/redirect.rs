//! Redirections, as they are written.

use std::sync::{Arc, OnceLock};

use super::{
    parse::{Parsed, Parser, Pending},
    syntax::{Piece, Redirect, Target, Word},
};

impl Parser {
    pub(super) fn redirect(&mut self) -> Parsed<Option<Redirect>> {
        let digits = self.text[self.at..].iter().take_while(|c| c.is_ascii_digit()).count();
        let sign = self.text.get(self.at + digits).copied();
        if !matches!(sign, Some('<' | '>')) {
            if self.ahead("&>") {
                return Err(self.wrong("`&>` is not understood"));
            }
            return Ok(None);
        }
        let number: String = self.text[self.at..self.at + digits].iter().collect();
        self.at += digits;
        let fd = match (number.is_empty(), sign) {
            (true, Some('<')) => 0,
            (true, _) => 1,
            (false, _) => number.parse().ok().filter(|n| *n < 64).ok_or_else(|| self.wrong("a descriptor above 63"))?,
        };
        if self.ahead("<<<") || self.ahead("<>") || self.ahead("<(") || self.ahead(">(") {
            return Err(self.wrong("`<<<`, `<>`, `<(` and `>(` are not understood"));
        }
        if self.eat("<<") {
            let strip = self.eat("-");
            self.blanks();
            let word = self.some_word()?;
            let mut end = String::new();
            let mut literal = false;
            for piece in word.0 {
                match piece {
                    Piece::Plain(text) => end.push_str(&text),
                    Piece::Quoted(text) => {
                        literal = true;
                        end.push_str(&text);
                    }
                    _ => return Err(self.wrong("the end of a here-document is a word")),
                }
            }
            let to = Arc::new(OnceLock::new());
            self.pending.push(Pending { to: Arc::clone(&to), end, literal, strip });
            return Ok(Some(Redirect { fd, to: Target::Here(to) }));
        }
        let to: fn(Word) -> Target = if self.eat(">>") {
            |word| Target::Write(word, true)
        } else if self.eat(">&") || self.eat("<&") {
            Target::Same
        } else if self.eat(">|") || self.eat(">") {
            |word| Target::Write(word, false)
        } else {
            self.at += 1;
            Target::Read
        };
        self.blanks();
        Ok(Some(Redirect { fd, to: to(self.some_word()?) }))
    }
}
