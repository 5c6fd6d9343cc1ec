//! Quantities (`k8s.io/apimachinery/pkg/api/resource`): amounts such as `500m` and `1Gi`, which the API server writes back in
//! their shortest form.

use serde_json::Value;

/// What a text that is no quantity is answered with.
pub(super) const FORMAT: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// How it was written, which is how it is written back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Binary,
    Decimal,
    Exponent,
}

/// An amount, in thousand-millionths: finer ones are rounded up, as Kubernetes does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quantity {
    nano: i128,
    form: Form,
}

const NANO: i128 = 1_000_000_000;
/// The largest that Kubernetes keeps (2^63 - 1); larger ones are cut to it.
const LARGEST: i128 = 9_223_372_036_854_775_807 * NANO;

impl Quantity {
    /// Reads a quantity; none if it is not one.
    pub(super) fn read(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (negative, digits) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let legal = |part: &str| part.chars().all(|c| c.is_ascii_digit());
        if whole.is_empty() && fraction.is_empty() || !legal(whole) || !legal(fraction) || digits.len() > 40 {
            return None;
        }
        let (form, base, power): (Form, i128, i32) = match suffix {
            "" => (Form::Decimal, 10, 0),
            "n" => (Form::Decimal, 10, -9),
            "u" => (Form::Decimal, 10, -6),
            "m" => (Form::Decimal, 10, -3),
            "k" => (Form::Decimal, 10, 3),
            "M" => (Form::Decimal, 10, 6),
            "G" => (Form::Decimal, 10, 9),
            "T" => (Form::Decimal, 10, 12),
            "P" => (Form::Decimal, 10, 15),
            "E" => (Form::Decimal, 10, 18),
            "Ki" => (Form::Binary, 1024, 1),
            "Mi" => (Form::Binary, 1024, 2),
            "Gi" => (Form::Binary, 1024, 3),
            "Ti" => (Form::Binary, 1024, 4),
            "Pi" => (Form::Binary, 1024, 5),
            "Ei" => (Form::Binary, 1024, 6),
            other => (Form::Exponent, 10, other.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| (-30..=30).contains(power))?),
        };
        // The digits as one number, and how many of them are behind the point.
        let all: i128 = format!("{whole}{fraction}").parse().ok()?;
        let behind = u32::try_from(fraction.len()).ok()?;
        let mut top = all.checked_mul(NANO)?;
        let mut bottom = 10_i128.checked_pow(behind)?;
        let factor = base.checked_pow(power.unsigned_abs())?;
        if power >= 0 {
            top = top.checked_mul(factor).unwrap_or(i128::MAX);
        } else {
            bottom = bottom.checked_mul(factor)?;
        }
        let up = top / bottom + i128::from(top % bottom != 0);
        let nano = up.min(LARGEST);
        Some(Self { nano: if negative { -nano } else { nano }, form })
    }

    /// In thousand-millionths: for adding and comparing.
    pub(super) fn nano(self) -> i128 {
        self.nano
    }

    /// Compared as amounts.
    pub(super) fn more_than(self, other: Self) -> bool {
        self.nano > other.nano
    }

    pub(super) fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// In the shortest form of the kind in which it was written.
    pub(super) fn write(self) -> String {
        let sign = if self.nano < 0 { "-" } else { "" };
        let nano = self.nano.abs();
        if nano == 0 {
            return "0".to_owned();
        }
        if self.form == Form::Binary && nano % NANO == 0 {
            let mut whole = nano / NANO;
            let mut suffix = "";
            // Below 1024 it is written as a decimal.
            for larger in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
                if whole % 1024 != 0 {
                    break;
                }
                whole /= 1024;
                suffix = larger;
            }
            return format!("{sign}{whole}{suffix}");
        }
        let (mut number, mut power) = (nano, -9_i32);
        while number % 1000 == 0 && power < 18 {
            number /= 1000;
            power += 3;
        }
        if self.form == Form::Exponent {
            return if power == 0 { format!("{sign}{number}") } else { format!("{sign}{number}e{power}") };
        }
        let suffix = match power {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        };
        format!("{sign}{number}{suffix}")
    }
}

/// Writes the quantities of an object in their shortest form: those of limits, requests, capacity and allocatable, wherever
/// they are.
///
/// # Errors
/// One is none.
pub(super) fn shorten(value: &mut Value, depth: usize) -> Result<(), &'static str> {
    const HOLDERS: [&str; 6] = ["limits", "requests", "capacity", "allocatable", "hard", "used"];
    if depth > 128 {
        return Ok(());
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::Object(amounts) if HOLDERS.contains(&name.as_str()) => {
                        for amount in amounts.values_mut() {
                            if let Value::String(text) = amount {
                                *text = Quantity::read(text).ok_or(FORMAT)?.write();
                            }
                        }
                    }
                    other => shorten(other, depth + 1)?,
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| shorten(item, depth + 1)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_back_in_their_shortest_form() {
        for (text, short) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("0", "0"),
            ("-1", "-1"),
            ("2e3", "2e3"),
            ("100n", "100n"),
            ("0.1n", "1n"),
            ("1Ki", "1Ki"),
            ("110", "110"),
            ("5.", "5"),
            (".5", "500m"),
            ("99999999999999999999", "9223372036854775807"),
        ] {
            assert_eq!(Quantity::read(text).unwrap().write(), short, "{text}");
        }
        for wrong in ["", "lots", "1.2.3", "1x", "--1", "1 Gi", "e3", "1e", "1e999"] {
            assert_eq!(Quantity::read(wrong), None, "{wrong}");
        }
        assert!(Quantity::read("1").unwrap().more_than(Quantity::read("900m").unwrap()));
    }
}
