//! What can be told of a SQL statement by its text alone: what it begins with, and whether it is one.
//!
//! The database has the last word: the extended protocol takes one statement only, and what was changed is counted there.

/// What a fault's statement may begin with: these change rows, and rows are counted.
const BEGINS: [&str; 6] = ["delete", "insert", "merge", "select", "update", "with"];
/// What would end the transaction in which the rows are counted, or begin another.
const TRANSACTION: [&str; 10] = ["abort", "begin", "call", "commit", "do", "end", "prepare", "release", "rollback", "savepoint"];

/// Why a text is no statement for a fault; none if it is one, as far as the text shows.
pub fn refusal(text: &str) -> Option<String> {
    let found = match words(text) {
        Ok(found) => found,
        Err(open) => return Some(format!("{open} has no end")),
    };
    if found.parameter {
        return Some("it has parameters (`$1`), for which there are no values".to_owned());
    }
    if found.several {
        return Some("it is more than one statement: one fault is one statement, whose rows are counted".to_owned());
    }
    let Some(first) = found.first else { return Some("it is empty".to_owned()) };
    if BEGINS.contains(&first.as_str()) {
        return None;
    }
    let what = BEGINS.join("`, `");
    Some(if TRANSACTION.contains(&first.as_str()) || first == "start" {
        format!("`{first}` has to do with transactions, and the rows are counted within one: begin with `{what}`")
    } else {
        format!("the rows that `{first}` touches cannot be counted: begin with `{what}`")
    })
}

/// The word that a statement begins with, in small letters.
pub fn first_word(text: &str) -> Option<String> {
    words(text).ok()?.first
}

#[derive(Default)]
struct Found {
    first: Option<String>,
    several: bool,
    parameter: bool,
}

/// Goes through a text as PostgreSQL's scanner does: quotes, remarks within remarks, dollar quotes.
///
/// # Errors
/// What was opened and not closed.
fn words(text: &str) -> Result<Found, &'static str> {
    let mut found = Found::default();
    let mut ended = false;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if rest.starts_with("--") {
            rest.find(['\n', '\r']).unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            remark(rest).ok_or("a remark (`/*`)")?
        } else if first == ';' {
            ended = true;
            1
        } else {
            found.several |= ended;
            if found.first.is_none() && !(first.is_alphabetic() || first == '_') {
                found.first = Some(first.to_string());
            }
            if first == '\'' || first == '"' {
                quoted(rest, first, false).ok_or("a quoted text")?
            } else if first == '$' {
                let digit = rest[1..].starts_with(|c: char| c.is_ascii_digit());
                found.parameter |= digit;
                if digit { 2 } else { dollar(rest)?.unwrap_or(1) }
            } else if first.is_alphabetic() || first == '_' {
                // A `$` within a name begins no quote.
                let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
                let word = &rest[..length];
                if found.first.is_none() {
                    found.first = Some(word.to_lowercase());
                }
                // `E'…'` has backslashes that escape.
                if word.eq_ignore_ascii_case("e") && rest[length..].starts_with('\'') {
                    length + quoted(&rest[length..], '\'', true).ok_or("a quoted text")?
                } else {
                    length
                }
            } else {
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    Ok(found)
}

/// How long a remark is; none if it has no end.
fn remark(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" if depth == 1 => return Some(at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    None
}

/// How long a quoted text is. A doubled quote is two texts side by side, which comes to the same here.
fn quoted(rest: &str, quote: char, escapes: bool) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some(at + 1);
        }
        if escapes && c == '\\' {
            chars.next();
        }
    }
    None
}

/// How long a text between `$tag$` is; none if the `$` begins none.
///
/// # Errors
/// It has no end.
fn dollar(rest: &str) -> Result<Option<usize>, &'static str> {
    let Some(tag) = rest[1..].find('$').map(|at| &rest[..at + 2]) else { return Ok(None) };
    let name = &tag[1..tag.len() - 1];
    if name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Ok(None);
    }
    match rest[tag.len()..].find(tag) {
        Some(at) => Ok(Some(2 * tag.len() + at)),
        None => Err("a text in dollars"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_change_rows_are_taken() {
        for text in [
            "delete from orders",
            " -- why\n /* and /* how */ */ UPDATE t SET a = ';' || \"b;\" || $$;$$ || $x$ $$; $x$ || E'\\';'; -- the end\n ;",
            "with gone as (delete from t returning *) insert into u select * from gone",
            "select f('it''s; all')",
            "insert into t select a$1 from u",
            "update \"Tabelle;\" set ä = 1",
        ] {
            assert_eq!(refusal(text), None, "{text}");
        }
        assert_eq!(first_word("/* a */ Delete from t").as_deref(), Some("delete"));
    }

    #[test]
    fn others_are_refused_with_a_reason() {
        for (text, part) in [
            ("commit", "`commit` has to do with transactions"),
            ("BEGIN", "`begin` has to do with transactions"),
            ("start transaction", "`start` has to do with transactions"),
            ("do $$ begin end $$", "`do` has to do with transactions"),
            ("delete from t; commit", "more than one statement"),
            ("delete from t;; delete from u", "more than one statement"),
            ("select 1; /* */ 'x'", "more than one statement"),
            ("truncate t", "the rows that `truncate` touches cannot be counted"),
            ("copy t from stdin", "`copy`"),
            ("drop table t", "`drop`"),
            ("(select 1)", "`(`"),
            ("'select 1'", "`'`"),
            (" -- nothing", "it is empty"),
            ("delete from t where a = $1", "parameters"),
            ("select 'a", "a quoted text has no end"),
            ("select /* a", "a remark (`/*`) has no end"),
            ("select $a$ x $$", "a text in dollars has no end"),
            ("select E'a\\'", "a quoted text has no end"),
        ] {
            let why = refusal(text).unwrap_or_else(|| panic!("taken: {text}"));
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
