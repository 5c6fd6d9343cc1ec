//! Expressions: what they come to, and of what kind that is.

use std::cmp::Ordering;

use super::{
    ast::{Expr, Item, Select},
    data::{Row, Table, Tables},
    execute::run_select,
    value::{Cell, Column, Kind, Lsn},
};

/// Why a statement failed: an SQLSTATE and the server's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SqlError {
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl SqlError {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The database has no answer to it. Never success.
    pub(super) fn not_rehearsable(why: impl std::fmt::Display) -> Self {
        Self::new("0A000", format!("not rehearsable: {why}"))
    }
}

/// A replica as the primary sees it (`pg_stat_replication`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Follower {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) sent: u64,
    pub(super) flushed: u64,
    pub(super) replayed: u64,
    pub(super) sync: bool,
}

/// What a statement sees besides the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) user: String,
    pub(super) now_us: i64,
    pub(super) in_recovery: bool,
    /// The transaction or the server takes no writes.
    pub(super) read_only: bool,
    /// The end of its log.
    pub(super) lsn: u64,
    pub(super) replayed: u64,
    pub(super) replayed_at_us: Option<i64>,
    pub(super) address: String,
    pub(super) followers: Vec<Follower>,
    /// What this transaction has touched: rows, and rows of the catalogue.
    pub(super) touched: (i64, i64),
}

/// All that an expression may need.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) tables: &'a Tables,
    pub(super) facts: &'a Facts,
    pub(super) params: &'a [Cell],
    /// The columns and values of the row that is looked at.
    pub(super) row: Option<(&'a [Column], &'a [Cell])>,
    pub(super) excluded: Option<(&'a [Column], &'a [Cell])>,
    /// The rows that are counted and summed.
    pub(super) group: Option<(&'a [Column], &'a [&'a Row])>,
}

pub(super) type Answer<T> = Result<T, SqlError>;

const AGGREGATES: [&str; 3] = ["max", "min", "sum"];

/// Whether it is made of many rows.
pub(super) fn aggregates(expr: &Expr) -> bool {
    match expr {
        Expr::CountAll => true,
        Expr::Call(name, arguments) => name == "count" || AGGREGATES.contains(&name.as_str()) || arguments.iter().any(aggregates),
        Expr::Cast(inner, _) | Expr::Not(inner) | Expr::IsNull(inner, _) => aggregates(inner),
        Expr::Binary(_, left, right) => aggregates(left) || aggregates(right),
        Expr::Case(arms, otherwise) => aggregates(otherwise) || arms.iter().any(|(c, v)| aggregates(c) || aggregates(v)),
        Expr::Lit(_) | Expr::Param(_) | Expr::Column(_) | Expr::Excluded(_) | Expr::Sub(_) => false,
    }
}

/// What an expression comes to.
pub(super) fn eval(expr: &Expr, scope: Scope<'_>) -> Answer<Cell> {
    Ok(match expr {
        Expr::Lit(cell) => cell.clone(),
        Expr::Param(n) => {
            scope.params.get(*n).cloned().ok_or_else(|| SqlError::new("42P02", format!("there is no parameter ${}", n + 1)))?
        }
        Expr::Column(name) => of(scope.row, name)?,
        Expr::Excluded(name) => of(scope.excluded, name)?,
        Expr::CountAll => Cell::Int(grouped(scope)?.1.len() as i64),
        Expr::Call(name, arguments) if name == "count" || AGGREGATES.contains(&name.as_str()) => aggregate(name, arguments, scope)?,
        Expr::Call(name, arguments) => call(name, arguments, scope)?,
        Expr::Cast(inner, to) => cast(eval(inner, scope)?, to, scope.tables)?,
        Expr::Binary(op, left, right) => binary(op, left, right, scope)?,
        Expr::Not(inner) => match eval(inner, scope)? {
            Cell::Null => Cell::Null,
            Cell::Bool(is) => Cell::Bool(!is),
            other => return Err(mismatch("not", &other)),
        },
        Expr::IsNull(inner, wanted) => Cell::Bool((eval(inner, scope)? == Cell::Null) == *wanted),
        Expr::Case(arms, otherwise) => {
            for (condition, value) in arms {
                if eval(condition, scope)? == Cell::Bool(true) {
                    return eval(value, scope);
                }
            }
            eval(otherwise, scope)?
        }
        Expr::Sub(select) => {
            let rows = run_select(select, Scope { row: None, excluded: None, group: None, ..scope })?.rows;
            match rows.as_slice() {
                [] => Cell::Null,
                [row] => row.first().cloned().unwrap_or(Cell::Null),
                _ => return Err(SqlError::new("21000", "more than one row returned by a subquery used as an expression")),
            }
        }
    })
}

fn of(row: Option<(&[Column], &[Cell])>, name: &str) -> Answer<Cell> {
    let place = row.and_then(|(columns, cells)| columns.iter().zip(cells).find(|(column, _)| column.name == name));
    place.map(|(_, cell)| cell.clone()).ok_or_else(|| no_column(name))
}

pub(super) fn no_column(name: &str) -> SqlError {
    SqlError::new("42703", format!("column \"{name}\" does not exist"))
}

fn mismatch(what: &str, cell: &Cell) -> SqlError {
    SqlError::not_rehearsable(format!("`{what}` of {}", cell.written().unwrap_or_else(|| "NULL".to_owned())))
}

fn grouped<'a>(scope: Scope<'a>) -> Answer<(&'a [Column], &'a [&'a Row])> {
    scope.group.ok_or_else(|| SqlError::new("42803", "aggregate functions are not allowed here"))
}

fn aggregate(name: &str, arguments: &[Expr], scope: Scope<'_>) -> Answer<Cell> {
    let [argument] = arguments else { return Err(SqlError::not_rehearsable(format!("{name} of {} arguments", arguments.len()))) };
    let (columns, rows) = grouped(scope)?;
    let mut cells = Vec::with_capacity(rows.len());
    for row in rows {
        let cell = eval(argument, Scope { row: Some((columns, row)), group: None, ..scope })?;
        if cell != Cell::Null {
            cells.push(cell);
        }
    }
    Ok(match name {
        "count" => Cell::Int(cells.len() as i64),
        "max" => cells.into_iter().max().unwrap_or(Cell::Null),
        "min" => cells.into_iter().min().unwrap_or(Cell::Null),
        _ if cells.is_empty() => Cell::Null,
        _ => {
            let mut sum: i64 = 0;
            for cell in cells {
                let Cell::Int(number) = cell else { return Err(mismatch("sum", &cell)) };
                sum = sum.checked_add(number).ok_or_else(overflow)?;
            }
            Cell::Int(sum)
        }
    })
}

fn overflow() -> SqlError {
    SqlError::new("22003", "bigint out of range")
}

/// The functions that are known.
fn call(name: &str, arguments: &[Expr], scope: Scope<'_>) -> Answer<Cell> {
    let facts = scope.facts;
    let cells = arguments.iter().map(|argument| eval(argument, scope)).collect::<Answer<Vec<Cell>>>()?;
    let optional = |lsn: Option<u64>| lsn.map_or(Cell::Null, Cell::Lsn);
    Ok(match (name, cells.as_slice()) {
        ("pg_is_in_recovery", []) => Cell::Bool(facts.in_recovery),
        ("now" | "clock_timestamp", []) => Cell::Time(facts.now_us),
        ("pg_current_wal_lsn" | "pg_current_wal_insert_lsn" | "pg_current_wal_flush_lsn", []) => {
            if facts.in_recovery {
                return Err(SqlError::new("55000", "recovery is in progress"));
            }
            Cell::Lsn(facts.lsn)
        }
        ("pg_last_wal_receive_lsn", []) => optional(facts.in_recovery.then_some(facts.lsn)),
        ("pg_last_wal_replay_lsn", []) => optional(facts.in_recovery.then_some(facts.replayed)),
        ("pg_last_xact_replay_timestamp", []) => facts.replayed_at_us.filter(|_| facts.in_recovery).map_or(Cell::Null, Cell::Time),
        ("inet_server_addr", []) => Cell::text(&facts.address),
        ("host" | "lower" | "abbrev", [Cell::Text(text)]) => Cell::text(text.to_lowercase()),
        ("current_setting", [Cell::Text(setting)]) => match &**setting {
            "transaction_read_only" => Cell::text(if facts.read_only { "on" } else { "off" }),
            "server_version" => Cell::text("15.14"),
            "timezone" | "TimeZone" => Cell::text("UTC"),
            "track_counts" => Cell::text("on"),
            other => return Err(SqlError::not_rehearsable(format!("the setting `{other}`"))),
        },
        ("version", []) => Cell::text("PostgreSQL 15.14 (sandbox)"),
        ("current_database", []) => Cell::text("orders"),
        ("to_regnamespace", [Cell::Text(schema)]) => {
            let known = scope.tables.schemas.contains_key(&**schema) || matches!(&**schema, "public" | "pg_catalog");
            if known { Cell::Text(schema.clone()) } else { Cell::Null }
        }
        ("to_regclass", [Cell::Text(table)]) => {
            if find(scope.tables, table).is_some() {
                Cell::Text(table.clone())
            } else {
                Cell::Null
            }
        }
        ("obj_description", [Cell::Text(table), Cell::Text(_)]) => {
            find(scope.tables, table).and_then(|table| table.comment.as_deref()).map_or(Cell::Null, Cell::text)
        }
        ("left", [Cell::Text(text), Cell::Int(most)]) if *most >= 0 => {
            Cell::text(text.chars().take(usize::try_from(*most).unwrap_or(usize::MAX)).collect::<String>())
        }
        ("left", [Cell::Null, _] | [_, Cell::Null]) => Cell::Null,
        ("coalesce", cells) => cells.iter().find(|cell| **cell != Cell::Null).cloned().unwrap_or(Cell::Null),
        ("greatest", cells) => cells.iter().filter(|cell| **cell != Cell::Null).max().cloned().unwrap_or(Cell::Null),
        ("least", cells) => cells.iter().filter(|cell| **cell != Cell::Null).min().cloned().unwrap_or(Cell::Null),
        ("pg_wal_lsn_diff", [Cell::Lsn(one), Cell::Lsn(other)]) => {
            Cell::Int(i64::try_from(i128::from(*one) - i128::from(*other)).map_err(|_| overflow())?)
        }
        ("extract", [Cell::Text(field), Cell::Span(us)]) if &**field == "epoch" => Cell::Span(*us),
        ("extract", [Cell::Text(field), Cell::Time(us)]) if &**field == "epoch" => Cell::Span(*us),
        ("extract", [_, Cell::Null]) | ("pg_wal_lsn_diff", [Cell::Null, _] | [_, Cell::Null]) => Cell::Null,
        _ => return Err(SqlError::not_rehearsable(format!("function {name} of {} arguments", cells.len()))),
    })
}

fn find<'a>(tables: &'a Tables, name: &str) -> Option<&'a Table> {
    tables.tables.get(name.strip_prefix("public.").unwrap_or(name)).map(|table| &**table)
}

fn cast(cell: Cell, to: &str, tables: &Tables) -> Answer<Cell> {
    let wrong = |text: &str, kind: &str| SqlError::new("22P02", format!("invalid input syntax for type {kind}: \"{text}\""));
    Ok(match (to, cell) {
        (_, Cell::Null) => Cell::Null,
        ("text", cell) => cell.written().map_or(Cell::Null, Cell::text),
        ("pg_lsn", Cell::Text(text)) => Cell::Lsn(Lsn::parse(&text).ok_or_else(|| wrong(&text, "pg_lsn"))?.0),
        ("regclass", Cell::Text(name)) => {
            find(tables, &name).ok_or_else(|| no_table(&name))?;
            Cell::Text(name)
        }
        ("int" | "integer" | "bigint" | "int8" | "int4", Cell::Bool(is)) => Cell::Int(i64::from(is)),
        ("int" | "integer" | "bigint" | "int8" | "int4", Cell::Int(number)) => Cell::Int(number),
        ("int" | "integer" | "bigint" | "int8" | "int4", Cell::Text(text)) => {
            Cell::Int(text.trim().parse().map_err(|_| wrong(&text, "bigint"))?)
        }
        (kind, cell) => return Err(mismatch(&format!("::{kind}"), &cell)),
    })
}

pub(super) fn no_table(name: &str) -> SqlError {
    SqlError::new("42P01", format!("relation \"{name}\" does not exist"))
}

fn binary(op: &'static str, left: &Expr, right: &Expr, scope: Scope<'_>) -> Answer<Cell> {
    let one = eval(left, scope)?;
    // Three-valued: what decides it alone is enough.
    match (op, &one) {
        ("and", Cell::Bool(false)) | ("or", Cell::Bool(true)) => return Ok(one),
        _ => {}
    }
    let other = eval(right, scope)?;
    Ok(match (op, one, other) {
        ("and", Cell::Null, Cell::Bool(false)) => Cell::Bool(false),
        ("or", Cell::Null, Cell::Bool(true)) => Cell::Bool(true),
        (_, Cell::Null, _) | (_, _, Cell::Null) => Cell::Null,
        ("and" | "or", Cell::Bool(_), Cell::Bool(is)) => Cell::Bool(is),
        ("+", Cell::Int(a), Cell::Int(b)) => Cell::Int(a.checked_add(b).ok_or_else(overflow)?),
        ("-", Cell::Int(a), Cell::Int(b)) => Cell::Int(a.checked_sub(b).ok_or_else(overflow)?),
        ("*", Cell::Int(a), Cell::Int(b)) => Cell::Int(a.checked_mul(b).ok_or_else(overflow)?),
        ("/" | "%", Cell::Int(_), Cell::Int(0)) => return Err(SqlError::new("22012", "division by zero")),
        ("/", Cell::Int(a), Cell::Int(b)) => Cell::Int(a.checked_div(b).ok_or_else(overflow)?),
        ("%", Cell::Int(a), Cell::Int(b)) => Cell::Int(a.checked_rem(b).ok_or_else(overflow)?),
        ("-", Cell::Time(a), Cell::Time(b)) => Cell::Span(a.saturating_sub(b)),
        ("||", a, b) => Cell::text(format!("{}{}", a.written().unwrap_or_default(), b.written().unwrap_or_default())),
        ("=" | "<>" | "<" | "<=" | ">" | ">=", a, b) => {
            if std::mem::discriminant(&a) != std::mem::discriminant(&b) {
                return Err(SqlError::not_rehearsable(format!("`{op}` of two kinds of values")));
            }
            let order = a.cmp(&b);
            Cell::Bool(match op {
                "=" => order == Ordering::Equal,
                "<>" => order != Ordering::Equal,
                "<" => order == Ordering::Less,
                "<=" => order != Ordering::Greater,
                ">" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            })
        }
        (op, a, _) => return Err(mismatch(op, &a)),
    })
}

/// Of what kind an expression is, as far as that can be said without its values.
pub(super) fn kind(expr: &Expr, columns: &[Column]) -> Kind {
    match expr {
        Expr::Lit(cell) => kind_of(cell),
        Expr::Param(_) => Kind::Text,
        Expr::Column(name) | Expr::Excluded(name) => columns.iter().find(|c| c.name == *name).map_or(Kind::Text, |c| c.kind),
        Expr::CountAll => Kind::Int,
        Expr::Call(name, arguments) => match name.as_str() {
            "count" | "sum" | "pg_wal_lsn_diff" => Kind::Int,
            "pg_is_in_recovery" => Kind::Bool,
            "now" | "clock_timestamp" | "pg_last_xact_replay_timestamp" => Kind::Time,
            "extract" => Kind::Span,
            _ if name.starts_with("pg_") && name.ends_with("_lsn") => Kind::Lsn,
            "max" | "min" | "coalesce" | "greatest" | "least" => arguments.first().map_or(Kind::Text, |first| kind(first, columns)),
            _ => Kind::Text,
        },
        Expr::Cast(_, to) => match to.as_str() {
            "text" | "regclass" => Kind::Text,
            "pg_lsn" => Kind::Lsn,
            _ => Kind::Int,
        },
        Expr::Binary(op, left, right) => match *op {
            "||" => Kind::Text,
            "-" if kind(left, columns) == Kind::Time => Kind::Span,
            "+" | "-" | "*" | "/" | "%" => kind(right, columns),
            _ => Kind::Bool,
        },
        Expr::Not(_) | Expr::IsNull(..) => Kind::Bool,
        Expr::Case(arms, otherwise) => arms.first().map_or_else(|| kind(otherwise, columns), |(_, value)| kind(value, columns)),
        Expr::Sub(select) => sub_kind(select),
    }
}

fn sub_kind(select: &Select) -> Kind {
    match select.items.first() {
        // A sub-query's columns are not known here: what is counted and summed is a number.
        Some(Item::One(expr, _)) => kind(expr, &[]),
        _ => Kind::Text,
    }
}

fn kind_of(cell: &Cell) -> Kind {
    match cell {
        Cell::Bool(_) => Kind::Bool,
        Cell::Int(_) => Kind::Int,
        Cell::Time(_) => Kind::Time,
        Cell::Lsn(_) => Kind::Lsn,
        Cell::Span(_) => Kind::Span,
        Cell::Null | Cell::Text(_) => Kind::Text,
    }
}
