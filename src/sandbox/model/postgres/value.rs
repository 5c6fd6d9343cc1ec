//! Values and their kinds, and how PostgreSQL writes them.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Cell {
    /// SQL's NULL.
    Null,
    /// A boolean.
    Bool(bool),
    /// A bigint.
    Int(i64),
    /// A text.
    Text(Arc<str>),
    /// A timestamptz, in microseconds since the Unix epoch.
    Time(i64),
    /// A position in the log.
    Lsn(u64),
    /// A length of time, in microseconds; read as seconds with a fraction.
    Span(i64),
}

impl Cell {
    /// A text.
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().into())
    }

    /// As PostgreSQL writes it with the time zone UTC and the date style ISO; none for NULL.
    pub(super) fn written(&self) -> Option<String> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(is) => if *is { "t" } else { "f" }.to_owned(),
            Self::Int(number) => number.to_string(),
            Self::Text(text) => text.to_string(),
            Self::Time(us) => time(*us),
            Self::Lsn(lsn) => Lsn(*lsn).to_string(),
            Self::Span(us) => {
                format!("{}{}.{:06}", if *us < 0 { "-" } else { "" }, us.unsigned_abs() / 1_000_000, us.unsigned_abs() % 1_000_000)
            }
        })
    }
}

fn time(us: i64) -> String {
    let Ok(stamp) = jiff::Timestamp::from_microsecond(us) else { return format!("{us}us") };
    let civil = stamp.to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let fraction = format!("{:06}", civil.subsec_nanosecond() / 1000);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{} {:02}:{:02}:{:02}{dot}{fraction}+00", civil.date(), civil.hour(), civil.minute(), civil.second())
}

/// A position in the log, as PostgreSQL writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lsn(pub(super) u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl Lsn {
    /// Reads what [`Lsn`] writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let part = |text: &str| u32::from_str_radix(text, 16).ok();
        Some(Self(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

/// What kind of values a column has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// boolean
    Bool,
    /// bigint
    Int,
    /// text
    Text,
    /// timestamptz
    Time,
    /// `pg_lsn`
    Lsn,
    /// A number of seconds with a fraction (double precision).
    Span,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) not_null: bool,
    /// Numbered by the database; the number is the row's position, too.
    pub(super) identity: bool,
    /// No two rows have the same.
    pub(super) unique: bool,
    /// `now()` where nothing is said.
    pub(super) now: bool,
}

impl Column {
    /// A plain one.
    pub(super) fn new(name: &str, kind: Kind) -> Self {
        Self { name: name.to_owned(), kind, not_null: false, identity: false, unique: false, now: false }
    }
}
