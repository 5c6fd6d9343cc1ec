//! `psql`, as far as runbooks use it: statements by `-c`, in a session of the server beside it.

use super::{execute::Rows, server::Server, value::Kind};
use std::{collections::BTreeMap, sync::Arc};

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) host: Option<String>,
    pub(super) user: Option<String>,
    pub(super) database: Option<String>,
    pub(super) commands: Vec<String>,
    unaligned: bool,
    tuples: bool,
    quiet: bool,
    separator: String,
}

/// Reads the arguments. None: some that are not known.
pub(super) fn read(argv: &[String]) -> Option<Asked> {
    let mut asked = Asked { separator: "|".to_owned(), ..Asked::default() };
    let mut rest = argv.iter().skip(1);
    while let Some(word) = rest.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = long.split_once('=').unwrap_or((long, ""));
            match name {
                "no-align" => asked.unaligned = true,
                "tuples-only" => asked.tuples = true,
                "no-psqlrc" | "no-password" => {}
                "quiet" => asked.quiet = true,
                "host" => asked.host = Some(value.to_owned()),
                "username" => asked.user = Some(value.to_owned()),
                "dbname" => asked.database = Some(value.to_owned()),
                "command" => asked.commands.push(value.to_owned()),
                _ => return None,
            }
            continue;
        }
        let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) else {
            // The database, when nothing else has named it.
            if asked.database.is_some() {
                return None;
            }
            asked.database = Some(word.clone());
            continue;
        };
        for (at, letter) in short.char_indices() {
            match letter {
                'A' => asked.unaligned = true,
                't' => asked.tuples = true,
                'X' | 'w' => {}
                'q' => asked.quiet = true,
                'h' | 'U' | 'd' | 'c' | 'F' | 'v' | 'p' => {
                    let glued = &short[at + 1..];
                    let value = if glued.is_empty() { rest.next()?.clone() } else { glued.to_owned() };
                    match letter {
                        'h' => asked.host = Some(value),
                        'U' => asked.user = Some(value),
                        'd' => asked.database = Some(value),
                        'c' => asked.commands.push(value),
                        'F' => asked.separator = value,
                        'p' if value == "5432" => {}
                        'v' if value == "ON_ERROR_STOP=1" => {}
                        _ => return None,
                    }
                    break;
                }
                _ => return None,
            }
        }
    }
    Some(asked)
}

impl Asked {
    /// With what the environment and standard input say. None: there is nothing to run, and a session with a person is none to rehearse.
    pub(super) fn with(mut self, vars: &BTreeMap<String, String>, stdin: &[u8]) -> Option<Self> {
        for (field, var) in [(&mut self.host, "PGHOST"), (&mut self.user, "PGUSER"), (&mut self.database, "PGDATABASE")] {
            if field.is_none() {
                *field = vars.get(var).cloned();
            }
        }
        if self.commands.is_empty() {
            self.commands.push(String::from_utf8(stdin.to_vec()).ok().filter(|text| !text.trim().is_empty())?);
        }
        Some(self)
    }
}

/// Runs it: the exit code.
pub(super) async fn run(asked: &Asked, server: Option<&Arc<Server>>, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) -> i32 {
    let user = asked.user.as_deref().unwrap_or("postgres");
    let database = asked.database.as_deref().unwrap_or(user);
    let socket = asked.host.as_deref().unwrap_or("/run/postgresql");
    let Some(server) = server else {
        let why = format!(
            "psql: error: connection to server on socket \"{socket}/.s.PGSQL.5432\" failed: No such file or directory\n\tIs the server running locally and accepting connections on that socket?\n"
        );
        stderr.extend_from_slice(why.as_bytes());
        return 2;
    };
    // By the socket: who runs it is the database's superuser.
    let mut session = match server.session(user, None, database) {
        Ok(session) => session,
        Err(error) => {
            let why = format!("psql: error: connection to server on socket \"{socket}/.s.PGSQL.5432\" failed: FATAL:  {}\n", error.message);
            stderr.extend_from_slice(why.as_bytes());
            return 2;
        }
    };
    let mut code = 0;
    for command in &asked.commands {
        match session.simple(command).await {
            Ok(outcomes) => {
                for outcome in outcomes {
                    match &outcome.rows {
                        Some(rows) => stdout.extend_from_slice(shown(rows, asked).as_bytes()),
                        None if asked.quiet || asked.tuples => {}
                        None => stdout.extend_from_slice(format!("{}\n", outcome.tag).as_bytes()),
                    }
                }
                code = 0;
            }
            Err(error) => {
                stderr.extend_from_slice(format!("ERROR:  {}\n", error.message).as_bytes());
                code = 1;
            }
        }
    }
    code
}

fn shown(rows: &Rows, asked: &Asked) -> String {
    let heads: Vec<&str> = rows.columns.iter().map(|(name, _)| name.as_str()).collect();
    let cells: Vec<Vec<String>> = rows.rows.iter().map(|row| row.iter().map(|cell| cell.written().unwrap_or_default()).collect()).collect();
    let foot = format!("({} row{})\n", cells.len(), if cells.len() == 1 { "" } else { "s" });
    let mut text = String::new();
    if asked.unaligned {
        if !asked.tuples {
            text.push_str(&format!("{}\n", heads.join(&asked.separator)));
        }
        for row in &cells {
            text.push_str(&format!("{}\n", row.join(&asked.separator)));
        }
        return if asked.tuples { text } else { text + &foot };
    }
    let wide =
        |n: usize| cells.iter().map(|row| row.get(n).map_or(0, |c| c.chars().count())).max().unwrap_or(0).max(heads[n].chars().count());
    let widths: Vec<usize> = (0..heads.len()).map(wide).collect();
    if !asked.tuples {
        let centred = heads.iter().zip(&widths).map(|(head, width)| format!("{head:^width$}"));
        text.push_str(&format!(" {} \n", centred.collect::<Vec<_>>().join(" | ")));
        text.push_str(&format!("{}\n", widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+")));
    }
    for row in &cells {
        let aligned = row.iter().enumerate().map(|(n, cell)| {
            let (width, number) = (widths[n], matches!(rows.columns[n].1, Kind::Int | Kind::Span));
            if number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(&format!(" {}\n", aligned.collect::<Vec<_>>().join(" | ").trim_end()));
    }
    if !asked.tuples {
        text.push_str(&foot);
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::model::postgres::value::Cell;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn arguments_are_read_as_psql_reads_them() {
        let asked = read(&words("psql -h /tmp -d orders -AtX -c select -cbegin")).unwrap();
        assert_eq!((asked.host.as_deref(), asked.database.as_deref()), (Some("/tmp"), Some("orders")));
        assert_eq!(asked.commands, ["select", "begin"]);
        assert!(asked.unaligned && asked.tuples);
        assert_eq!(read(&words("psql orders -c x")).unwrap().database.as_deref(), Some("orders"));
        let piped =
            |text: &str| read(&words("psql -d orders")).unwrap().with(&BTreeMap::from([("PGHOST".into(), "/tmp".into())]), text.as_bytes());
        assert_eq!(piped(" "), None);
        let piped = piped("select 1").unwrap();
        assert_eq!((piped.commands.as_slice(), piped.host.as_deref()), (["select 1".to_owned()].as_slice(), Some("/tmp")));
        for unknown in ["psql -Z -c x", "psql -f file", "psql -c"] {
            assert_eq!(read(&words(unknown)), None, "{unknown}");
        }
    }

    #[test]
    fn rows_are_shown_as_psql_shows_them() {
        let columns = vec![("accounts".to_owned(), Kind::Int), ("plan".to_owned(), Kind::Text)];
        let rows = Rows { columns, rows: vec![vec![Cell::Int(5000), Cell::text("free")], vec![Cell::Null, Cell::text("x")]] };
        let asked = |options: &str| read(&words(&format!("psql {options} -c x"))).unwrap();
        assert_eq!(shown(&rows, &asked("-X")), " accounts | plan \n----------+------\n     5000 | free\n          | x\n(2 rows)\n\n");
        assert_eq!(shown(&rows, &asked("-At")), "5000|free\n|x\n");
        assert_eq!(shown(&rows, &asked("-A")), "accounts|plan\n5000|free\n|x\n(2 rows)\n");
    }
}
