//! From text to [`super::syntax`] (POSIX.1-2024, Shell Command Language).
//!
//! Ours because no crate fits: the one that is alive brings a test framework, a second parser generator and caches that all threads
//! share.

use std::sync::{Arc, OnceLock};

use super::{
    syntax::{AndOr, Command, Item, List, Piece, Pipeline, Stage, Word},
    words::parse_quoted,
};

/// How deep commands and words may be nested.
const DEEPEST: u32 = 40;

/// Parses a whole script.
///
/// # Errors
/// What is not understood, and in which line.
pub(super) fn parse(text: &str) -> Result<List, String> {
    parse_at(text, 0)
}

pub(super) fn parse_at(text: &str, depth: u32) -> Result<List, String> {
    let mut parser = Parser { text: text.chars().collect(), at: 0, pending: Vec::new(), depth };
    let list = parser.list(&[])?;
    parser.here_documents()?;
    match parser.peek() {
        None => Ok(list),
        Some(other) => Err(parser.wrong(&format!("unexpected `{other}`"))),
    }
}

pub(super) struct Pending {
    pub(super) to: Arc<OnceLock<Word>>,
    pub(super) end: String,
    pub(super) literal: bool,
    pub(super) strip: bool,
}

pub(super) struct Parser {
    pub(super) text: Vec<char>,
    pub(super) at: usize,
    /// Here-documents whose text begins after this line.
    pub(super) pending: Vec<Pending>,
    pub(super) depth: u32,
}

pub(super) type Parsed<T> = Result<T, String>;

pub(super) fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, ';' | '&' | '|' | '<' | '>' | '(' | ')')
}

pub(super) fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl Parser {
    pub(super) fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    pub(super) fn ahead(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(n, c)| self.text.get(self.at + n) == Some(&c))
    }

    pub(super) fn eat(&mut self, text: &str) -> bool {
        let is = self.ahead(text);
        if is {
            self.at += text.chars().count();
        }
        is
    }

    pub(super) fn wrong(&self, why: &str) -> String {
        let line = 1 + self.text.iter().take(self.at).filter(|c| **c == '\n').count();
        format!("line {line}: {why}")
    }

    /// Blanks, comments and continued lines, but no line ends.
    pub(super) fn blanks(&mut self) {
        loop {
            if self.eat("\\\n") {
                continue;
            }
            match self.peek() {
                Some(c) if c.is_whitespace() && c != '\n' => self.at += 1,
                Some('#') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    /// Blanks and line ends.
    fn lines(&mut self) -> Parsed<()> {
        loop {
            self.blanks();
            if !self.eat("\n") {
                return Ok(());
            }
            self.here_documents()?;
        }
    }

    /// The texts of here-documents, right after the end of the line that announced them.
    pub(super) fn here_documents(&mut self) -> Parsed<()> {
        for Pending { to, end, literal, strip } in std::mem::take(&mut self.pending) {
            let mut text = String::new();
            loop {
                if self.at >= self.text.len() {
                    return Err(self.wrong(&format!("the here-document has no end `{end}`")));
                }
                let mut line = String::new();
                while let Some(c) = self.peek() {
                    self.at += 1;
                    if c == '\n' {
                        break;
                    }
                    line.push(c);
                }
                let line = if strip { line.trim_start_matches('\t') } else { &line };
                if line == end {
                    break;
                }
                text.push_str(line);
                text.push('\n');
            }
            let word = if literal { Word(vec![Piece::Quoted(text)]) } else { parse_quoted(&text, self.depth)? };
            // Set here and nowhere else.
            let _ = to.set(word);
        }
        Ok(())
    }

    /// The plain word that begins here, without reading it: a reserved word, perhaps.
    fn reserved(&self) -> String {
        let rest = &self.text[self.at.min(self.text.len())..];
        let word: String = rest.iter().take_while(|c| !ends_word(**c)).collect();
        if word.contains(['\'', '"', '\\', '$', '`']) { String::new() } else { word }
    }

    /// Reads a reserved word.
    fn expect(&mut self, word: &str) -> Parsed<()> {
        self.lines()?;
        let found = self.reserved();
        if found == word && self.eat(word) {
            return Ok(());
        }
        Err(self.wrong(&format!("expected `{word}`, found `{}`", if found.is_empty() { "something else" } else { &found })))
    }

    pub(super) fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEEPEST {
            return Err(self.wrong("nested too deep"));
        }
        self.depth += 1;
        let parsed = inner(self);
        self.depth -= 1;
        parsed
    }

    /// Commands up to one of these reserved words, a `)`, a `;;` or the end.
    pub(super) fn list(&mut self, ends: &[&str]) -> Parsed<List> {
        self.deeper(|parser| parser.list_inner(ends))
    }

    fn list_inner(&mut self, ends: &[&str]) -> Parsed<List> {
        let mut list = List::new();
        loop {
            self.lines()?;
            let word = self.reserved();
            if self.peek().is_none_or(|c| c == ')') || self.ahead(";;") || ends.contains(&word.as_str()) {
                return Ok(list);
            }
            let what = Arc::new(self.and_or()?);
            self.blanks();
            let background = !self.ahead("&&") && self.eat("&");
            let more = background || (!self.ahead(";;") && self.eat(";")) || self.peek() == Some('\n');
            list.push(Item { what, background });
            if !more {
                self.blanks();
                let word = self.reserved();
                if self.peek().is_none_or(|c| c == ')') || self.ahead(";;") || ends.contains(&word.as_str()) {
                    return Ok(list);
                }
                return Err(self.wrong(&format!("unexpected `{}`", self.peek().unwrap_or(' '))));
            }
        }
    }

    /// Commands up to a reserved word that has to come.
    fn until(&mut self, ends: &[&str]) -> Parsed<List> {
        let list = self.list(ends)?;
        if list.is_empty() { Err(self.wrong(&format!("a command is missing before `{}`", ends[0]))) } else { Ok(list) }
    }

    fn and_or(&mut self) -> Parsed<AndOr> {
        let first = self.pipeline()?;
        let mut rest = Vec::new();
        loop {
            self.blanks();
            let and = self.ahead("&&");
            if !and && !self.ahead("||") {
                return Ok(AndOr { first, rest });
            }
            self.at += 2;
            self.lines()?;
            rest.push((and, self.pipeline()?));
        }
    }

    fn pipeline(&mut self) -> Parsed<Pipeline> {
        self.blanks();
        let mut not = false;
        while self.reserved() == "!" {
            self.at += 1;
            not = !not;
            self.blanks();
        }
        let mut stages = vec![self.stage()?];
        loop {
            self.blanks();
            if self.ahead("||") || !self.eat("|") {
                return Ok(Pipeline { not, stages });
            }
            if self.ahead("&") {
                return Err(self.wrong("`|&` is not understood"));
            }
            self.lines()?;
            stages.push(self.stage()?);
        }
    }

    fn stage(&mut self) -> Parsed<Stage> {
        self.deeper(Self::stage_inner)
    }

    fn stage_inner(&mut self) -> Parsed<Stage> {
        self.blanks();
        let word = self.reserved();
        let command = match word.as_str() {
            "if" => self.if_clause()?,
            "while" | "until" => {
                self.at += word.len();
                let condition = self.until(&["do"])?;
                Command::While { until: word == "until", condition, body: self.do_group()? }
            }
            "for" => self.for_clause()?,
            "case" => self.case_clause()?,
            "{" => {
                self.at += 1;
                let list = self.until(&["}"])?;
                self.expect("}")?;
                Command::Group(list)
            }
            "[[" | "select" | "time" | "coproc" => return Err(self.wrong(&format!("`{word}` is not understood"))),
            "then" | "else" | "elif" | "fi" | "do" | "done" | "esac" | "}" => return Err(self.wrong(&format!("unexpected `{word}`"))),
            "function" => {
                self.at += word.len();
                self.blanks();
                let name = self.reserved();
                if !is_name(&name) {
                    return Err(self.wrong("expected a function's name"));
                }
                self.at += name.len();
                self.blanks();
                if self.eat("(") {
                    self.blanks();
                    if !self.eat(")") {
                        return Err(self.wrong("expected `)`"));
                    }
                }
                return self.function(name);
            }
            _ if self.ahead("((") => return Err(self.wrong("`((` is not understood")),
            _ if self.eat("(") => {
                let list = self.list(&[])?;
                if !self.eat(")") {
                    return Err(self.wrong("expected `)`"));
                }
                Command::Subshell(list)
            }
            _ => return self.simple(),
        };
        let mut redirects = Vec::new();
        loop {
            self.blanks();
            match self.redirect()? {
                Some(redirect) => redirects.push(redirect),
                None => return Ok(Stage { command, redirects }),
            }
        }
    }

    fn function(&mut self, name: String) -> Parsed<Stage> {
        self.lines()?;
        let body = self.stage()?;
        if matches!(body.command, Command::Simple { .. }) {
            return Err(self.wrong(&format!("function {name} has no body in braces")));
        }
        Ok(Stage { command: Command::Function { name, body: Arc::new(body) }, redirects: Vec::new() })
    }

    fn if_clause(&mut self) -> Parsed<Command> {
        self.expect("if")?;
        let mut branches = Vec::new();
        loop {
            let condition = self.until(&["then"])?;
            self.expect("then")?;
            branches.push((condition, self.until(&["elif", "else", "fi"])?));
            match self.reserved().as_str() {
                "elif" => self.at += 4,
                "else" => {
                    self.at += 4;
                    let other = self.until(&["fi"])?;
                    self.expect("fi")?;
                    return Ok(Command::If(branches, Some(other)));
                }
                _ => {
                    self.expect("fi")?;
                    return Ok(Command::If(branches, None));
                }
            }
        }
    }

    fn do_group(&mut self) -> Parsed<List> {
        self.expect("do")?;
        let body = self.until(&["done"])?;
        self.expect("done")?;
        Ok(body)
    }

    fn for_clause(&mut self) -> Parsed<Command> {
        self.expect("for")?;
        self.blanks();
        let name = self.reserved();
        if !is_name(&name) {
            return Err(self.wrong("expected a variable's name after `for`"));
        }
        self.at += name.len();
        self.lines()?;
        let mut words = None;
        if self.reserved() == "in" {
            self.at += 2;
            let mut all = Vec::new();
            loop {
                self.blanks();
                match self.peek() {
                    Some('\n' | ';') | None => break,
                    _ => all.push(self.some_word()?),
                }
            }
            words = Some(all);
        }
        self.blanks();
        let _ = self.eat(";");
        Ok(Command::For { name, words, body: self.do_group()? })
    }

    fn case_clause(&mut self) -> Parsed<Command> {
        self.expect("case")?;
        self.blanks();
        let word = self.some_word()?;
        self.expect("in")?;
        let mut arms = Vec::new();
        loop {
            self.lines()?;
            if self.reserved() == "esac" {
                self.at += 4;
                return Ok(Command::Case { word, arms });
            }
            let _ = self.eat("(");
            let mut patterns = Vec::new();
            loop {
                self.blanks();
                patterns.push(self.some_word()?);
                self.blanks();
                if self.eat(")") {
                    break;
                }
                if !self.eat("|") {
                    return Err(self.wrong("expected `)` after a pattern"));
                }
            }
            let body = self.list(&["esac"])?;
            arms.push((patterns, body));
            self.blanks();
            if self.ahead(";;&") {
                return Err(self.wrong("`;;&` is not understood"));
            }
            if !self.eat(";;") && self.reserved() != "esac" {
                return Err(self.wrong("expected `;;`"));
            }
        }
    }

    fn simple(&mut self) -> Parsed<Stage> {
        let (mut assigns, mut words, mut redirects) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            self.blanks();
            if let Some(redirect) = self.redirect()? {
                redirects.push(redirect);
                continue;
            }
            match self.peek() {
                None | Some('\n' | ';' | '&' | '|' | ')') => break,
                Some('(') => {
                    let name = words.first().and_then(Word::plain).map(str::to_owned);
                    self.at += 1;
                    self.blanks();
                    match name {
                        Some(name) if words.len() == 1 && assigns.is_empty() && self.eat(")") => return self.function(name),
                        _ => return Err(self.wrong("unexpected `(`")),
                    }
                }
                _ => {}
            }
            if words.is_empty()
                && let Some(name) = self.assigned()
            {
                self.at += name.len() + 1;
                if self.peek() == Some('(') {
                    return Err(self.wrong("arrays are not understood"));
                }
                let value = self.word()?;
                assigns.push((name, value));
                continue;
            }
            words.push(self.some_word()?);
        }
        if words.is_empty() && assigns.is_empty() && redirects.is_empty() {
            return Err(self.wrong(&match self.peek() {
                Some('\n') | None => "a command is missing at the end of the line".to_owned(),
                Some(c) => format!("a command is missing before `{c}`"),
            }));
        }
        Ok(Stage { command: Command::Simple { assigns, words }, redirects })
    }

    /// The name that is assigned to, if the next word is an assignment.
    fn assigned(&self) -> Option<String> {
        let word = self.text[self.at..].iter().take_while(|c| !ends_word(**c));
        let text: String = word.collect();
        let (name, _) = text.split_once('=')?;
        is_name(name).then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_said_with_its_line() {
        for (text, why) in [
            ("echo a\nif true; then", "line 2: a command is missing before `elif`"),
            ("a=(1 2)", "line 1: arrays are not understood"),
            ("[[ a = b ]]", "line 1: `[[` is not understood"),
            ("echo ${x/a/b}", "line 1: this expansion of `x` is not understood"),
            ("echo 'a", "line 1: `'` is missing"),
            ("echo \"a", "line 1: a closing quote is missing"),
            ("cat <<E\nx\n", "line 3: the here-document has no end `E`"),
            ("echo a; ; echo b", "line 1: a command is missing before `;`"),
            ("done", "line 1: unexpected `done`"),
            ("echo )", "line 1: unexpected `)`"),
            ("diff <(a) b", "line 1: `<<<`, `<>`, `<(` and `>(` are not understood"),
        ] {
            assert_eq!(parse(text).expect_err(text), why, "{text}");
        }
    }

    #[test]
    fn wild_text_never_panics_and_never_overflows_the_stack() {
        for piece in ["(", "$(", "${x:-", "\"$(", "`", "if ", "{ ", "case x in ", "$((", "'", "<<", "!", "\\", "a()"] {
            let _ = parse(&piece.repeat(5_000));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[-a-c $(){}'\"\\\\;&|<>`#=!\n*?0-2]{0,60}") {
            let _ = parse(&text);
        }
    }
}
