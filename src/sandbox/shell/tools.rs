//! Small programs that runbooks take for granted. A model's command of the same name comes first.

mod grep;
mod list;
mod text;

use super::state::{Going, Shell};

/// Those that there are.
pub(super) const NAMES: [&str; 32] = [
    "basename", "cat", "chmod", "chown", "cp", "cut", "date", "df", "dirname", "env", "find", "grep", "egrep", "fgrep", "head", "hostname",
    "install", "ls", "mkdir", "mktemp", "mv", "printenv", "rm", "seq", "sort", "sync", "tail", "tee", "timeout", "touch", "tr", "wc",
];

/// What options say: letters that stand alone, letters with a value, and the rest.
pub(super) struct Options<'a> {
    flags: Vec<char>,
    values: Vec<(char, &'a str)>,
    rest: Vec<&'a str>,
}

impl<'a> Options<'a> {
    /// Parses. None: there is an option that is not among these.
    pub(super) fn parse(args: &'a [String], flags: &str, valued: &str, long: &[(&str, char)]) -> Option<Self> {
        let mut options = Self { flags: Vec::new(), values: Vec::new(), rest: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                options.rest.extend(args.map(String::as_str));
                break;
            }
            if let Some(name) = arg.strip_prefix("--") {
                let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
                let (_, letter) = long.iter().find(|(known, _)| *known == name)?;
                if valued.contains(*letter) {
                    let value = match value {
                        Some(value) => value,
                        None => args.next()?.as_str(),
                    };
                    options.values.push((*letter, value));
                } else {
                    options.flags.push(*letter);
                }
                continue;
            }
            match arg.strip_prefix('-').filter(|rest| !rest.is_empty()) {
                None => options.rest.push(arg),
                Some(letters) => {
                    for (at, letter) in letters.char_indices() {
                        if valued.contains(letter) {
                            let tail = &letters[at + letter.len_utf8()..];
                            options.values.push((letter, if tail.is_empty() { args.next()?.as_str() } else { tail }));
                            break;
                        }
                        if !flags.contains(letter) {
                            return None;
                        }
                        options.flags.push(letter);
                    }
                }
            }
        }
        Some(options)
    }

    pub(super) fn has(&self, flag: char) -> bool {
        self.flags.contains(&flag)
    }

    pub(super) fn value(&self, flag: char) -> Option<&'a str> {
        self.values.iter().rev().find(|(f, _)| *f == flag).map(|(_, value)| *value)
    }
}

/// What a tool has to say: a line on standard error, and its exit code.
pub(super) async fn failed(shell: &mut Shell<'_>, tool: &str, why: &str, code: i32) -> Going<Option<i32>> {
    let line = format!("{tool}: {why}\n");
    shell.write(2, line.as_bytes()).await?;
    Ok(Some(code))
}

/// What files have in them, or what is read where none is named. A file that is not there is said, and makes the code 1.
pub(super) async fn contents(shell: &mut Shell<'_>, tool: &str, names: &[&str]) -> Going<(Vec<(String, Vec<u8>)>, i32)> {
    if names.is_empty() {
        let all = read(shell).await;
        return Ok((vec![("-".to_owned(), all)], 0));
    }
    let (mut found, mut code) = (Vec::new(), 0);
    for name in names {
        let path = shell.path(name);
        if *name == "-" || path == "/dev/stdin" {
            let all = read(shell).await;
            found.push(((*name).to_owned(), all));
        } else if path == "/dev/null" {
            found.push(((*name).to_owned(), Vec::new()));
        } else if let Some(bytes) = shell.files().read(&path) {
            found.push(((*name).to_owned(), bytes));
        } else {
            let why = if shell.files().is_folder(&path) { "Is a directory" } else { "No such file or directory" };
            failed(shell, tool, &format!("{name}: {why}"), 1).await?;
            code = 1;
        }
    }
    Ok((found, code))
}

/// All input. A signal with a trap ends the wait for it.
async fn read(shell: &Shell<'_>) -> Vec<u8> {
    let input = shell.input();
    tokio::select! {
        biased;
        () = shell.process.until_caught(), if !shell.copy => Vec::new(),
        all = input.all() => all,
    }
}

/// Runs a tool. None: there is none of that name, or it has no answer to these arguments.
pub(super) async fn run(shell: &mut Shell<'_>, name: &str, args: &[String]) -> Going<Option<i32>> {
    match name {
        "cat" | "head" | "tail" | "wc" | "cut" | "sort" | "tr" | "tee" | "seq" => text::run(shell, name, args).await,
        "grep" | "egrep" | "fgrep" => grep::run(shell, name, args).await,
        "ls" | "find" | "rm" | "mkdir" | "touch" | "cp" | "mv" | "mktemp" | "install" | "chmod" | "chown" | "df" => {
            list::run(shell, name, args).await
        }
        "basename" | "dirname" => {
            let Some(path) = args.first().filter(|a| !a.starts_with('-') && args.len() <= 2) else { return Ok(None) };
            let line = if name == "dirname" {
                super::builtins::folder_of(path).to_owned()
            } else {
                let bare = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
                let bare = args.get(1).and_then(|suffix| bare.strip_suffix(suffix.as_str())).unwrap_or(bare);
                if bare.is_empty() { "/".to_owned() } else { bare.to_owned() }
            };
            shell.write(1, format!("{line}\n").as_bytes()).await.map(Some)
        }
        "date" => date(shell, args).await,
        "hostname" if args.is_empty() => {
            let line = format!("{}\n", shell.value("HOSTNAME").unwrap_or_else(|| "localhost".to_owned()));
            shell.write(1, line.as_bytes()).await.map(Some)
        }
        "sync" => Ok(Some(0)),
        "env" | "printenv" if args.is_empty() => {
            let lines: String =
                shell.variables.iter().filter(|(_, v)| v.exported).map(|(name, v)| format!("{name}={}\n", v.value)).collect();
            shell.write(1, lines.as_bytes()).await.map(Some)
        }
        "printenv" if args.len() == 1 => match shell.variables.get(&args[0]).filter(|v| v.exported).map(|v| format!("{}\n", v.value)) {
            Some(line) => shell.write(1, line.as_bytes()).await.map(Some),
            None => Ok(Some(1)),
        },
        "env" => {
            let assigns = args.iter().take_while(|a| a.contains('=') && !a.starts_with('-')).count();
            if args.get(assigns).is_none_or(|a| a.starts_with('-')) {
                return Ok(None);
            }
            let mut child = shell.child();
            for (name, value) in args[..assigns].iter().filter_map(|a| a.split_once('=')) {
                let variable = super::state::Variable { value: value.to_owned(), exported: true };
                child.variables.insert(name.to_owned(), variable);
            }
            child.command(&args[assigns..]).await?;
            Ok(Some(child.status))
        }
        "timeout" => {
            let Some(options) = Options::parse(&args[..args.len().min(1)], "", "", &[]) else { return Ok(None) };
            let seconds = options.rest.first().and_then(|t| t.trim_end_matches('s').parse::<f64>().ok());
            let Some(limit) = seconds.and_then(|s| std::time::Duration::try_from_secs_f64(s).ok()) else { return Ok(None) };
            let mut child = shell.child();
            tokio::select! {
                biased;
                ran = child.command(&args[1..]) => ran?,
                () = tokio::time::sleep(limit) => return Ok(Some(124)),
            }
            Ok(Some(child.status))
        }
        _ => Ok(None),
    }
}

/// In UTC, whether or not that was asked for.
async fn date(shell: &mut Shell<'_>, args: &[String]) -> Going<Option<i32>> {
    let Some(options) = Options::parse(args, "uI", "", &[("utc", 'u')]) else { return Ok(None) };
    let Ok(now) = jiff::Timestamp::from_microsecond(shell.host.clock.now().wall_us) else { return Ok(None) };
    let now = now.to_zoned(jiff::tz::TimeZone::UTC);
    let format = match options.rest.as_slice() {
        [] if options.has('I') => "%Y-%m-%d",
        [] => "%a %b %e %H:%M:%S UTC %Y",
        [one] => match one.strip_prefix('+') {
            Some(format) => format,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    match jiff::fmt::strtime::format(format, &now) {
        Ok(text) => shell.write(1, format!("{text}\n").as_bytes()).await.map(Some),
        Err(_) => Ok(None),
    }
}
