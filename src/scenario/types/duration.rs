//! Scalars with a unit: durations as Go writes them, percentages, Kubernetes quantities.

use std::{fmt, str::FromStr, time::Duration};

/// Makes a type that is written as a string in YAML: serde by `Display` and `FromStr`, and a schema with a pattern.
macro_rules! string_like {
    ($ty:ty, $what:literal, $pattern:literal) => {
        impl serde::Serialize for $ty {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $ty {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $ty;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$ty, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<$ty, E> {
                        n.to_string().parse().map_err(E::custom)
                    }
                    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<$ty, E> {
                        n.to_string().parse().map_err(E::custom)
                    }
                    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<$ty, E> {
                        n.to_string().parse().map_err(E::custom)
                    }
                }
                d.deserialize_any(Text)
            }
        }
        impl schemars::JsonSchema for $ty {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($ty).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern, "description": $what})
            }
        }
    };
}
pub(crate) use string_like;

/// A length of time, written as Go and Kubernetes do: `300ms`, `1m30s`, `26h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dur(pub Duration);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurError {
    /// A number alone.
    #[error("duration `{0}` has no unit: write `{0}s`, `{0}m` or `{0}h`")]
    NoUnit(String),
    /// Anything else.
    #[error("`{0}` is not a duration: write a number and a unit (us, ms, s, m, h), for example `90s` or `1h30m`")]
    Malformed(String),
    /// More than about 100 years.
    #[error("duration `{0}` is too long")]
    TooLong(String),
}

impl Dur {
    /// Zero.
    pub const ZERO: Self = Self(Duration::ZERO);
    /// From whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
    /// From whole milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }
    /// From whole microseconds.
    pub const fn from_micros(us: u64) -> Self {
        Self(Duration::from_micros(us))
    }
    /// In microseconds, the unit of everything measured.
    pub fn as_micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Dur {
    type Err = ParseDurError;
    fn from_str(text: &str) -> Result<Self, ParseDurError> {
        let malformed = || ParseDurError::Malformed(text.to_owned());
        if text == "0" {
            return Ok(Self::ZERO);
        }
        if !text.is_empty() && text.parse::<f64>().is_ok_and(|n| n.is_finite() && n >= 0.0) {
            return Err(ParseDurError::NoUnit(text.to_owned()));
        }
        let (mut rest, mut total_ns) = (text, 0f64);
        if rest.is_empty() || rest.len() > 40 {
            return Err(malformed());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
            let (number, tail) = rest.split_at(digits);
            let number: f64 = number.parse().map_err(|_| malformed())?;
            let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            total_ns += number
                * match unit {
                    "ns" => 1.0,
                    "us" | "µs" => 1e3,
                    "ms" => 1e6,
                    "s" => 1e9,
                    "m" => 60e9,
                    "h" => 3600e9,
                    _ => return Err(malformed()),
                };
            rest = tail;
        }
        if total_ns > 3.2e18 {
            return Err(ParseDurError::TooLong(text.to_owned()));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within 0..3.2e18 just above")]
        Ok(Self(Duration::from_nanos(total_ns.round() as u64)))
    }
}

impl fmt::Display for Dur {
    /// As Go prints it, in the fewest parts that lose nothing down to the microsecond: `1h30m`, `2.5s`, `300ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.as_micros();
        if us == 0 {
            return f.write_str("0s");
        }
        if us < 1_000 {
            return write!(f, "{us}us");
        }
        if us < 1_000_000 {
            return write!(f, "{}ms", trimmed(us as f64 / 1e3));
        }
        let (hours, minutes, secs_us) = (us / 3_600_000_000, us / 60_000_000 % 60, us % 60_000_000);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if secs_us > 0 {
            write!(f, "{}s", trimmed(secs_us as f64 / 1e6))?;
        }
        Ok(())
    }
}

fn trimmed(n: f64) -> String {
    let text = format!("{n:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

string_like!(Dur, "a duration with a unit, such as 300ms, 90s or 1h30m", r"^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$");

/// A share, written with a percent sign: `95%`, `99.9%`. Held in parts of one hundred.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_suffix('%')
            .and_then(|n| n.parse::<f64>().ok())
            .filter(|n| (0.0..=100.0).contains(n))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a percentage: write for example `99.9%`"))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", trimmed(self.0))
    }
}

string_like!(Percent, "a percentage such as 99.9%", r"^[0-9]+(\.[0-9]+)?%$");

/// A number of bytes as a Kubernetes quantity: `512Mi`, `10Gi`, `1000000`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(pub u64);

impl FromStr for Quantity {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a quantity: write for example `512Mi` or `10G`");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let factor: u64 = match suffix {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return Err(wrong()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(40u32, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if self.0 > 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

string_like!(Quantity, "a quantity of bytes such as 512Mi", r"^[0-9]+([kMGT]|[KMGT]i)?$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_as_go_does() {
        for (text, us, printed) in [
            ("300ms", 300_000, "300ms"),
            ("1m30s", 90_000_000, "1m30s"),
            ("26h", 93_600_000_000, "26h"),
            ("1.5s", 1_500_000, "1.5s"),
            ("90s", 90_000_000, "1m30s"),
            ("250us", 250, "250us"),
            ("0s", 0, "0s"),
        ] {
            let dur: Dur = text.parse().unwrap();
            assert_eq!(dur.as_micros(), us, "{text}");
            assert_eq!(dur.to_string(), printed, "{text}");
            assert_eq!(printed.parse::<Dur>().unwrap(), dur);
        }
    }

    #[test]
    fn what_is_not_a_duration_says_what_to_write() {
        assert_eq!("30".parse::<Dur>().unwrap_err().to_string(), "duration `30` has no unit: write `30s`, `30m` or `30h`");
        for text in ["", "s", "-3s", "3 s", "3x", "1e9h", ".s", "99999999999999h", "NaN"] {
            assert!(text.parse::<Dur>().is_err(), "{text}");
        }
    }

    #[test]
    fn quantities_and_percentages() {
        assert_eq!("512Mi".parse::<Quantity>().unwrap().0, 512 << 20);
        assert_eq!("512Mi".parse::<Quantity>().unwrap().to_string(), "512Mi");
        assert!("18446744073709551615Ti".parse::<Quantity>().is_err());
        assert_eq!("99.9%".parse::<Percent>().unwrap().to_string(), "99.9%");
        assert!("101%".parse::<Percent>().is_err());
    }
}
