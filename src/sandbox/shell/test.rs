//! `test` and `[`.

use super::files::Files;

/// How many words an expression may have.
const MOST: usize = 100;

/// Whether an expression holds.
///
/// # Errors
/// It is none.
pub(super) fn test(words: &[&str], files: &Files, path: &impl Fn(&str) -> String) -> Result<bool, String> {
    let unary = |operator: &str, operand: &str| -> Option<bool> {
        let at = path(operand);
        let content = || files.read(&at);
        Some(match operator {
            "-n" => !operand.is_empty(),
            "-z" => operand.is_empty(),
            "-e" | "-r" | "-w" | "-x" | "-a" => files.exists(&at) || at == "/dev/null",
            "-f" => content().is_some(),
            "-d" => files.is_folder(&at),
            "-s" => content().is_some_and(|bytes| !bytes.is_empty()) || files.is_folder(&at),
            "-L" | "-h" | "-p" | "-S" | "-b" | "-c" | "-t" => operator == "-c" && at == "/dev/null",
            _ => return None,
        })
    };
    match words {
        [] => Ok(false),
        words if words.len() > MOST => Err("too many arguments".to_owned()),
        ["!", rest @ ..] if !(rest.is_empty() || rest.len() == 2 && binary("", rest[0], "").is_some()) => {
            test(rest, files, path).map(|is| !is)
        }
        [one] => Ok(!one.is_empty()),
        [operator, operand] => unary(operator, operand).ok_or_else(|| format!("{operator}: unexpected operator")),
        [a, operator, b] if binary(a, operator, b).is_some() => binary(a, operator, b).unwrap_or(Ok(false)),
        ["(", inner @ .., ")"] => test(inner, files, path),
        _ => {
            // `-o` binds less than `-a`.
            for (joiner, or) in [("-o", true), ("-a", false)] {
                let at = words.iter().enumerate().position(|(n, w)| *w == joiner && n > 0 && n + 1 < words.len());
                if let Some(at) = at {
                    let (left, right) = (test(&words[..at], files, path)?, test(&words[at + 1..], files, path)?);
                    return Ok(if or { left || right } else { left && right });
                }
            }
            Err(format!("{}: unexpected operator", words.get(1).unwrap_or(&"")))
        }
    }
}

/// None: that is no operator of two operands.
fn binary(a: &str, operator: &str, b: &str) -> Option<Result<bool, String>> {
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| format!("Illegal number: {text}"));
    let compared = |is: fn(i64, i64) -> bool| Some(number(a).and_then(|a| Ok(is(a, number(b)?))));
    match operator {
        "=" | "==" => Some(Ok(a == b)),
        "!=" => Some(Ok(a != b)),
        "<" => Some(Ok(a < b)),
        ">" => Some(Ok(a > b)),
        "-eq" => compared(|a, b| a == b),
        "-ne" => compared(|a, b| a != b),
        "-lt" => compared(|a, b| a < b),
        "-le" => compared(|a, b| a <= b),
        "-gt" => compared(|a, b| a > b),
        "-ge" => compared(|a, b| a >= b),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::shell::files::Tree;

    #[test]
    fn expressions() {
        let files = Files::new(Tree::default(), Vec::new(), false);
        files.write("/tmp/full", b"x", false).unwrap();
        files.write("/tmp/empty", b"", false).unwrap();
        let is = |text: &str| {
            let words: Vec<&str> = text.split(' ').map(|w| if w == "''" { "" } else { w }).collect();
            test(&words, &files, &|p: &str| p.to_owned())
        };
        for yes in [
            "a",
            "-n a",
            "-z ''",
            "! ''",
            "a = a",
            "a != b",
            "! a = b",
            "1 -eq 01",
            "2 -gt 1 -a 1 -le 1",
            "1 -gt 2 -o b = b",
            "( a = a )",
            "-f /tmp/full",
            "-s /tmp/full",
            "-d /tmp",
            "! -e /none",
            "! -s /tmp/empty",
            "-n = -n",
            "! = !",
        ] {
            assert_eq!(is(yes), Ok(true), "{yes}");
        }
        for no in ["''", "-z a", "a = b", "2 -lt 1", "-f /tmp", "-d /tmp/full", "! a", "-e /none"] {
            assert_eq!(is(no), Ok(false), "{no}");
        }
        for wrong in ["a -eq 1", "-q a", "a b c", "a = b c"] {
            assert!(is(wrong).is_err(), "{wrong}");
        }
    }
}
