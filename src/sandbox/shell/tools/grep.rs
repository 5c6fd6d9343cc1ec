//! `grep`.

use regex::bytes::{Regex, RegexBuilder};

use super::{Options, contents, failed};
use crate::sandbox::shell::state::{Going, Shell};

/// How large a compiled expression may be, in bytes.
const LARGEST: usize = 1 << 20;

pub(super) async fn run(shell: &mut Shell<'_>, name: &str, args: &[String]) -> Going<Option<i32>> {
    let long =
        [("quiet", 'q'), ("count", 'c'), ("only-matching", 'o'), ("invert-match", 'v'), ("ignore-case", 'i'), ("extended-regexp", 'E')];
    let Some(options) = Options::parse(args, "qcovisEFwxnhHl", "em", &long) else { return Ok(None) };
    let mut rest = options.rest.as_slice();
    let mut patterns: Vec<&str> = options.values.iter().filter(|(flag, _)| *flag == 'e').flat_map(|(_, p)| p.split('\n')).collect();
    if patterns.is_empty() {
        let [first, more @ ..] = rest else { return failed(shell, name, "a pattern is missing", 2).await };
        patterns = first.split('\n').collect();
        rest = more;
    }
    let (extended, fixed) = (options.has('E') || name == "egrep", options.has('F') || name == "fgrep");
    let mut alternatives = Vec::new();
    for pattern in patterns {
        let Some(pattern) = (if fixed { Some(regex::escape(pattern)) } else { translate(pattern, extended) }) else { return Ok(None) };
        alternatives.push(match (options.has('x'), options.has('w')) {
            (true, _) => format!("^(?:{pattern})$"),
            (false, true) => format!(r"\b(?:{pattern})\b"),
            _ => pattern,
        });
    }
    let built = RegexBuilder::new(&alternatives.join("|")).case_insensitive(options.has('i')).unicode(true).size_limit(LARGEST).build();
    let Ok(expression) = built else { return failed(shell, name, "the pattern is not understood", 2).await };
    let limit = match options.value('m').map(str::parse::<usize>) {
        None => usize::MAX,
        Some(Ok(limit)) => limit,
        Some(Err(_)) => return Ok(None),
    };
    let (files, trouble) = contents(shell, name, rest).await?;
    let named = options.has('H') || (files.len() > 1 || rest.len() > 1) && !options.has('h');
    let mut out = Vec::new();
    let mut any = false;
    for (file, bytes) in files {
        let front = if named { format!("{file}:") } else { String::new() };
        let mut count = 0_usize;
        for (n, line) in lines(&bytes).enumerate() {
            if count >= limit || expression.is_match(line) == options.has('v') {
                continue;
            }
            count += 1;
            if options.has('q') || options.has('c') || options.has('l') {
                continue;
            }
            let front = if options.has('n') { format!("{front}{}:", n + 1) } else { front.clone() };
            if options.has('o') {
                for found in found(&expression, line) {
                    out.extend_from_slice(front.as_bytes());
                    out.extend_from_slice(found);
                    out.push(b'\n');
                }
            } else {
                out.extend_from_slice(front.as_bytes());
                out.extend_from_slice(line);
                out.push(b'\n');
            }
        }
        any |= count > 0;
        if options.has('c') && !options.has('q') {
            out.extend_from_slice(format!("{front}{count}\n").as_bytes());
        } else if options.has('l') && count > 0 && !options.has('q') {
            out.extend_from_slice(format!("{file}\n").as_bytes());
        }
    }
    shell.write(1, &out).await?;
    Ok(Some(match (any, trouble) {
        (true, 0) => 0,
        (true, _) if options.has('q') => 0,
        (_, 1) => 2,
        _ => 1,
    }))
}

fn found<'l>(expression: &Regex, line: &'l [u8]) -> Vec<&'l [u8]> {
    expression.find_iter(line).map(|m| m.as_bytes()).filter(|m| !m.is_empty()).collect()
}

/// The lines of a text, the last one with or without its end.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let none = bytes.is_empty();
    bytes.split(|b| *b == b'\n').filter(move |line| !(none && line.is_empty()))
}

/// A POSIX expression as the crate wants it. None: it has what the crate has not (back-references).
fn translate(pattern: &str, extended: bool) -> Option<String> {
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    let mut begin = true;
    while let Some(c) = chars.next() {
        let at_begin = std::mem::take(&mut begin);
        match c {
            '\\' => match chars.next()? {
                d if d.is_ascii_digit() => return None,
                operator @ ('(' | ')' | '{' | '}' | '|' | '+' | '?') => {
                    if extended {
                        out.push('\\');
                    } else {
                        begin = matches!(operator, '(' | '|');
                    }
                    out.push(operator);
                }
                class @ ('w' | 'W' | 's' | 'S' | 'b' | 'B') => out.extend(['\\', class]),
                '<' | '>' => out.push_str(r"\b"),
                other => out.push_str(&regex::escape(&other.to_string())),
            },
            '(' | ')' | '{' | '}' | '|' | '+' | '?' if !extended => out.extend(['\\', c]),
            '*' if at_begin && !extended => out.push_str(r"\*"),
            '^' if !at_begin && !extended => out.push_str(r"\^"),
            '$' if chars.peek().is_some() && !extended => out.push_str(r"\$"),
            '[' => {
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                if chars.next_if_eq(&']').is_some() {
                    out.push_str(r"\]");
                }
                loop {
                    match chars.next()? {
                        ']' => break,
                        '[' if chars.peek() == Some(&':') => {
                            out.push('[');
                            loop {
                                let c = chars.next()?;
                                out.push(c);
                                if c == ']' {
                                    break;
                                }
                            }
                        }
                        c @ ('[' | '\\' | '&' | '~') => out.extend(['\\', c]),
                        c => out.push(c),
                    }
                }
                out.push(']');
            }
            c => {
                begin = extended && matches!(c, '(' | '|') || c == '^' && at_begin;
                out.push(c);
            }
        }
    }
    Some(out)
}
