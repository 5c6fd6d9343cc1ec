//! `printf`, and the escapes of `echo`.

/// Backslash escapes; true: `\c` ends all output.
pub(super) fn unescape(text: &str) -> (String, bool) {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('a') => out.push('\x07'),
            Some('b') => out.push('\x08'),
            Some('f') => out.push('\x0c'),
            Some('v') => out.push('\x0b'),
            Some('\\') => out.push('\\'),
            Some('c') => return (out, true),
            Some(first @ '0'..='7') => {
                let mut code = first.to_digit(8).unwrap_or(0);
                for _ in 0..if first == '0' { 3 } else { 2 } {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    chars.next();
                }
                out.extend(char::from_u32(code & 255));
            }
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    (out, false)
}

/// `printf`: as often as it takes for all arguments. False: something was no number.
pub(super) fn format_all(format: &str, args: &[&str]) -> (String, bool) {
    let mut out = String::new();
    let mut good = true;
    let mut rest = args;
    loop {
        let (before, stop) = (rest.len(), format_once(format, &mut rest, &mut out, &mut good));
        if stop || rest.is_empty() || rest.len() == before {
            return (out, good);
        }
    }
}

fn format_once(format: &str, rest: &mut &[&str], out: &mut String, good: &mut bool) -> bool {
    let mut chars = format.chars().peekable();
    let mut literal = String::new();
    while let Some(c) = chars.next() {
        if c != '%' {
            literal.push(c);
            if c == '\\' {
                literal.extend(chars.next());
            }
            continue;
        }
        out.push_str(&unescape(&std::mem::take(&mut literal)).0);
        let mut next = || -> Option<&str> {
            let (first, more) = rest.split_first()?;
            *rest = more;
            Some(first)
        };
        let (mut left, mut zero, mut plus) = (false, false, false);
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            left |= flag == '-';
            zero |= flag == '0';
            plus |= flag == '+';
        }
        let mut number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Option<usize> {
            if chars.next_if_eq(&'*').is_some() {
                return next().and_then(|a| a.parse().ok());
            }
            let mut digits = String::new();
            while let Some(c) = chars.next_if(char::is_ascii_digit) {
                digits.push(c);
            }
            // Nobody prints a field of more than that.
            digits.parse::<usize>().ok().map(|n| n.min(10_000))
        };
        let width = number(&mut chars).unwrap_or(0).min(10_000);
        let precision = if chars.next_if_eq(&'.').is_some() { Some(number(&mut chars).unwrap_or(0)) } else { None };
        let mut stop = false;
        let text = match chars.next() {
            Some('%') => "%".to_owned(),
            Some('s') => {
                let text = next().unwrap_or_default();
                precision.map_or_else(|| text.to_owned(), |n| text.chars().take(n).collect())
            }
            Some('b') => {
                let (text, stopped) = unescape(next().unwrap_or_default());
                stop = stopped;
                text
            }
            Some('c') => next().unwrap_or_default().chars().take(1).collect(),
            Some(kind @ ('d' | 'i' | 'u' | 'x' | 'X' | 'o')) => {
                let text = next().unwrap_or("0");
                let number = text.trim().parse::<i64>().unwrap_or_else(|_| {
                    *good &= text.is_empty();
                    0
                });
                match kind {
                    'x' => format!("{number:x}"),
                    'X' => format!("{number:X}"),
                    'o' => format!("{number:o}"),
                    _ if plus => format!("{number:+}"),
                    _ => number.to_string(),
                }
            }
            Some('f') => {
                let text = next().unwrap_or("0");
                let number = text.trim().parse::<f64>().unwrap_or_else(|_| {
                    *good = false;
                    0.0
                });
                format!("{number:.*}", precision.unwrap_or(6).min(100))
            }
            other => format!("%{}", other.map(String::from).unwrap_or_default()),
        };
        let missing = width.saturating_sub(text.chars().count());
        match (left, zero) {
            (true, _) => out.extend([text, " ".repeat(missing)]),
            (false, true) if text.starts_with(['-', '+']) => out.extend([text[..1].to_owned(), "0".repeat(missing), text[1..].to_owned()]),
            (false, true) => out.extend(["0".repeat(missing), text]),
            _ => out.extend([" ".repeat(missing), text]),
        }
        if stop {
            return true;
        }
    }
    let (text, stopped) = unescape(&literal);
    out.push_str(&text);
    stopped
}
