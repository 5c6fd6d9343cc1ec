//! What a shell script consists of.

use std::sync::{Arc, OnceLock};

/// Commands one after the other.
pub(super) type List = Vec<Item>;

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) what: Arc<AndOr>,
    /// `&`
    pub(super) background: bool,
}

/// Pipelines joined by `&&` and `||`.
#[derive(Debug)]
pub(super) struct AndOr {
    pub(super) first: Pipeline,
    /// `true`: `&&`.
    pub(super) rest: Vec<(bool, Pipeline)>,
}

/// Commands joined by `|`.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// `!`
    pub(super) not: bool,
    pub(super) stages: Vec<Stage>,
}

/// A command with what is redirected for it.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) command: Command,
    pub(super) redirects: Vec<Redirect>,
}

#[derive(Debug)]
pub(super) enum Command {
    Simple {
        assigns: Vec<(String, Word)>,
        words: Vec<Word>,
    },
    Group(List),
    Subshell(List),
    /// Conditions with their branches, and `else`.
    If(Vec<(List, List)>, Option<List>),
    While {
        until: bool,
        condition: List,
        body: List,
    },
    /// Without `in`: over the positional parameters.
    For {
        name: String,
        words: Option<Vec<Word>>,
        body: List,
    },
    Case {
        word: Word,
        arms: Vec<(Vec<Word>, List)>,
    },
    Function {
        name: String,
        body: Arc<Stage>,
    },
}

#[derive(Debug)]
pub(super) struct Redirect {
    pub(super) fd: u32,
    pub(super) to: Target,
}

#[derive(Debug)]
pub(super) enum Target {
    Read(Word),
    /// `true`: at its end.
    Write(Word, bool),
    /// `>&` or `<&`, of a number or `-`.
    Same(Word),
    /// A here-document; read when its line has ended.
    Here(Arc<OnceLock<Word>>),
}

/// A word, in pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct Word(pub(super) Vec<Piece>);

#[derive(Debug, Clone)]
pub(super) enum Piece {
    /// As it stands there; patterns in it count.
    Plain(String),
    /// Quoted: nothing in it counts.
    Quoted(String),
    /// `$name`, `${name…}`
    Parameter { name: String, act: Act, quoted: bool },
    /// `$(…)`
    Output { list: Arc<List>, quoted: bool },
    /// `$((…))`
    Sum { text: Word, quoted: bool },
}

/// What a parameter expansion does with the value.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Value,
    Length,
    /// `-`, `=`, `?` or `+`; `empty`: with a colon, an empty value counts as none.
    Unset {
        how: char,
        empty: bool,
        word: Word,
    },
    /// `#`, `##`, `%`, `%%`
    Trim {
        end: bool,
        longest: bool,
        pattern: Word,
    },
}

impl Word {
    /// Its text, if it is a single plain one: a reserved word can be nothing else.
    pub(super) fn plain(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Piece::Plain(text)] => Some(text),
            _ => None,
        }
    }
}
