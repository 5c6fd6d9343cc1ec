//! What statements are made of.

use super::value::{Cell, Column};

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expr {
    Lit(Cell),
    /// `$1` is 0.
    Param(usize),
    Column(String),
    /// A value of the row that a conflict kept out.
    Excluded(String),
    Call(String, Vec<Expr>),
    /// `count(*)`
    CountAll,
    Cast(Box<Expr>, String),
    Binary(&'static str, Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    IsNull(Box<Expr>, bool),
    /// Conditions and values, and the value where none holds.
    Case(Vec<(Expr, Expr)>, Box<Expr>),
    /// The one value of a query.
    Sub(Box<Select>),
}

/// One of the things that are selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    All,
    One(Expr, Option<String>),
}

/// A query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Select {
    pub(super) items: Vec<Item>,
    pub(super) from: Option<String>,
    pub(super) filter: Option<Expr>,
    pub(super) order: Vec<(Expr, bool)>,
    pub(super) limit: Option<Expr>,
    /// `UNION ALL`
    pub(super) union: Option<Box<Select>>,
}

/// What an insert does with a row that is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Conflict {
    Nothing,
    /// The column that is the same, and what is set then.
    Update(String, Vec<(String, Expr)>),
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    Begin {
        read_only: bool,
    },
    Commit,
    Rollback,
    /// `SET x = y`: none of them changes what is answered, but the time limits.
    Set {
        name: String,
        value: String,
    },
    Select(Select),
    /// The digest of a query's rows, as firedrill asks for it.
    Digest(Select),
    Insert {
        table: String,
        columns: Vec<String>,
        rows: Vec<Vec<Expr>>,
        conflict: Option<Conflict>,
        returning: Vec<Item>,
    },
    Update {
        table: String,
        set: Vec<(String, Expr)>,
        filter: Option<Expr>,
    },
    Delete {
        table: String,
        filter: Option<Expr>,
    },
    CreateTable {
        name: String,
        columns: Vec<Column>,
    },
    CreateSchema {
        name: String,
    },
    DropTable {
        name: String,
        if_exists: bool,
    },
    DropSchema {
        name: String,
        if_exists: bool,
    },
    Comment {
        table: String,
        text: Option<String>,
    },
    /// `SAVEPOINT name`
    Savepoint(String),
    /// `ROLLBACK TO SAVEPOINT name`
    RollbackTo(String),
    /// `SELECT pg_try_advisory_xact_lock(n)`
    TryLock(i64),
    /// `SELECT lo_create(n)`
    CreateObject(i64),
    /// `SELECT lo_unlink(n)`
    Unlink(i64),
    /// `COMMENT ON LARGE OBJECT`
    CommentObject {
        oid: i64,
        text: Option<String>,
    },
    /// `CHECKPOINT`, `ANALYZE`, `SET CONSTRAINTS`: nothing to see.
    Housekeeping(&'static str),
}
