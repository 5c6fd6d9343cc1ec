//! Arithmetic of `$((…))`: 64-bit integers, as C has them.

/// How deep parentheses may be nested.
const DEEPEST: u32 = 40;

/// Reads a variable, after setting it if there is a value to set it to.
type Variable<'a> = dyn FnMut(&str, Option<String>) -> Option<String> + 'a;

struct Sum<'a, 'v> {
    text: &'a [u8],
    at: usize,
    variable: &'v mut Variable<'v>,
    depth: u32,
    /// Part of `&&`, `||` or `?:` that does not count: nothing in it is assigned or divided.
    idle: u32,
}

/// Evaluates.
///
/// # Errors
/// What is not understood, and division by zero.
pub(super) fn evaluate<'v>(text: &str, variable: &'v mut Variable<'v>) -> Result<i64, String> {
    let mut sum = Sum { text: text.as_bytes(), at: 0, variable, depth: 0, idle: 0 };
    sum.blanks();
    if sum.at == text.len() {
        return Ok(0);
    }
    let number = sum.whole()?;
    sum.blanks();
    if sum.at == text.len() { Ok(number) } else { Err("not understood".to_owned()) }
}

/// Operators of two sides by how tightly they bind; longer ones first.
const LEVELS: [&[&str]; 10] =
    [&["||"], &["&&"], &["|"], &["^"], &["&"], &["==", "!="], &["<=", ">=", "<", ">"], &["<<", ">>"], &["+", "-"], &["*", "/", "%"]];

fn apply(operator: &str, a: i64, b: i64) -> Result<i64, String> {
    #[expect(clippy::cast_sign_loss, reason = "only the lowest six bits of a shift count")]
    let by = (b & 63) as u32;
    Ok(match operator {
        "||" => i64::from(a != 0 || b != 0),
        "&&" => i64::from(a != 0 && b != 0),
        "|" => a | b,
        "^" => a ^ b,
        "&" => a & b,
        "==" => i64::from(a == b),
        "!=" => i64::from(a != b),
        "<=" => i64::from(a <= b),
        ">=" => i64::from(a >= b),
        "<" => i64::from(a < b),
        ">" => i64::from(a > b),
        "<<" => a.wrapping_shl(by),
        ">>" => a.wrapping_shr(by),
        "+" => a.wrapping_add(b),
        "-" => a.wrapping_sub(b),
        "*" => a.wrapping_mul(b),
        _ if b == 0 => return Err("division by zero".to_owned()),
        "/" => a.wrapping_div(b),
        _ => a.wrapping_rem(b),
    })
}

impl Sum<'_, '_> {
    fn blanks(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn ahead(&self, text: &str) -> bool {
        self.text[self.at..].starts_with(text.as_bytes())
    }

    fn eat(&mut self, text: &str) -> bool {
        self.blanks();
        let is = self.ahead(text);
        if is {
            self.at += text.len();
        }
        is
    }

    fn name(&mut self) -> Option<String> {
        self.blanks();
        let rest = &self.text[self.at..];
        let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        if length == 0 || rest[0].is_ascii_digit() {
            return None;
        }
        self.at += length;
        Some(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    fn get(&mut self, name: &str) -> Result<i64, String> {
        let value = (self.variable)(name, None).unwrap_or_default();
        let value = value.trim();
        if value.is_empty() { Ok(0) } else { number(value).ok_or_else(|| format!("{name} is `{value}`")) }
    }

    /// With assignments and `?:`.
    fn whole(&mut self) -> Result<i64, String> {
        if self.depth >= DEEPEST {
            return Err("nested too deep".to_owned());
        }
        self.depth += 1;
        let number = self.assigned();
        self.depth -= 1;
        number
    }

    fn assigned(&mut self) -> Result<i64, String> {
        let begin = self.at;
        if let Some(name) = self.name() {
            self.blanks();
            let operators = ["<<=", ">>=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "="];
            let found = operators.into_iter().find(|o| self.ahead(o)).filter(|o| *o != "=" || !self.ahead("=="));
            if let Some(operator) = found {
                self.at += operator.len();
                let mut value = self.whole()?;
                if self.idle == 0 {
                    if operator != "=" {
                        value = apply(operator.trim_end_matches('='), self.get(&name)?, value)?;
                    }
                    (self.variable)(&name, Some(value.to_string()));
                }
                return Ok(value);
            }
        }
        self.at = begin;
        let condition = self.level(0)?;
        if !self.eat("?") {
            return Ok(condition);
        }
        self.idle += u32::from(condition == 0);
        let yes = self.whole();
        self.idle -= u32::from(condition == 0);
        if !self.eat(":") {
            return Err("`:` is missing".to_owned());
        }
        self.idle += u32::from(condition != 0);
        let no = self.whole();
        self.idle -= u32::from(condition != 0);
        if condition != 0 { yes } else { no }
    }

    fn level(&mut self, n: usize) -> Result<i64, String> {
        let Some(operators) = LEVELS.get(n) else { return self.single() };
        let mut left = self.level(n + 1)?;
        loop {
            self.blanks();
            // `|` is not the beginning of `||`, and `<` not that of `<<` or of `<<=`.
            let found = operators.iter().find(|o| {
                self.ahead(o) && {
                    let next = self.text.get(self.at + o.len()).copied().unwrap_or(b' ');
                    let last = o.as_bytes()[o.len() - 1];
                    !(o.len() == 1 && matches!(last, b'|' | b'&' | b'<' | b'>') && (next == last || next == b'='))
                }
            });
            let Some(operator) = found else { return Ok(left) };
            self.at += operator.len();
            let idle = *operator == "||" && left != 0 || *operator == "&&" && left == 0;
            self.idle += u32::from(idle);
            let right = self.level(n + 1);
            self.idle -= u32::from(idle);
            let right = right?;
            left = if self.idle > 0 && right == 0 { 0 } else { apply(operator, left, right)? };
        }
    }

    fn single(&mut self) -> Result<i64, String> {
        self.depth += 1;
        let number = if self.depth > 2 * DEEPEST { Err("nested too deep".to_owned()) } else { self.single_inner() };
        self.depth -= 1;
        number
    }

    fn single_inner(&mut self) -> Result<i64, String> {
        self.blanks();
        if self.ahead("++") || self.ahead("--") {
            return Err("`++` and `--` are not understood".to_owned());
        }
        if self.eat("(") {
            let number = self.whole()?;
            return if self.eat(")") { Ok(number) } else { Err("`)` is missing".to_owned()) };
        }
        if self.eat("!") {
            return Ok(i64::from(self.single()? == 0));
        }
        if self.eat("-") {
            return Ok(self.single()?.wrapping_neg());
        }
        if self.eat("+") {
            return self.single();
        }
        if self.eat("~") {
            return Ok(!self.single()?);
        }
        if let Some(name) = self.name() {
            if self.ahead("++") || self.ahead("--") {
                return Err("`++` and `--` are not understood".to_owned());
            }
            return self.get(&name);
        }
        let rest = &self.text[self.at..];
        let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let text = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length;
        number(&text).ok_or_else(|| if text.is_empty() { "a number is missing".to_owned() } else { format!("`{text}` is no number") })
    }
}

/// Decimal, octal with a leading 0, or hexadecimal.
fn number(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let parsed = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    parsed.ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit())).map(|n| sign * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<i64, String> {
        let mut x = "5".to_owned();
        evaluate(text, &mut |name, to| {
            if let Some(to) = to {
                x = to;
            }
            (name == "x").then(|| x.clone())
        })
    }

    #[test]
    fn sums() {
        for (text, number) in [
            ("1 + 2 * 3", 7),
            ("(1+2)*3", 9),
            ("x+1", 6),
            ("x = 3, 1", 0),
            ("x += 2", 7),
            ("x<6 && x>4", 1),
            ("x == 5 ? 10 : 20", 10),
            ("0 || 0", 0),
            ("7 / 2 - -1", 4),
            ("-7 % 3", -1),
            ("1 << 4 | 1", 17),
            ("010 + 0x10", 24),
            ("!x + ~0", -1),
            ("none", 0),
            ("", 0),
            ("0 && 1/0", 0),
            ("1 || 1/0", 1),
            ("1 ? 2 : 1/0", 2),
        ] {
            if text.contains(',') {
                assert!(of(text).is_err(), "{text}");
            } else {
                assert_eq!(of(text), Ok(number), "{text}");
            }
        }
        assert_eq!(of("1/0"), Err("division by zero".to_owned()));
        assert!(of("1 +").is_err() && of("a b").is_err() && of("08").is_err() && of("x++").is_err() && of("9223372036854775808").is_err());
        assert_eq!(of("9223372036854775807 + 1"), Ok(i64::MIN));
        assert!(of(&"(".repeat(10_000)).is_err() && of(&"-".repeat(10_000)).is_err() && of(&"1?".repeat(10_000)).is_err());
        assert!(of(&"!".repeat(10_000)).is_err() && of(&"x=".repeat(10_000)).is_err());
    }
}
