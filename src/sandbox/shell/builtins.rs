//! What the shell does itself.

use std::time::Duration;

use super::{
    files,
    print::{format_all, unescape},
    process::{self, Trap},
    state::{Going, Shell, Stop, Variable},
    test,
};

/// Commands whose assignments stay.
pub(super) const SPECIAL: [&str; 15] =
    [":", ".", "break", "continue", "eval", "exec", "exit", "export", "readonly", "return", "set", "shift", "trap", "unset", "local"];
/// Those that are not.
const OTHERS: [&str; 18] = [
    "true", "false", "echo", "printf", "test", "[", "read", "cd", "pwd", "kill", "wait", "sleep", "command", "type", "umask", "sh", "bash",
    "source",
];
/// The longest sleep.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

fn name_of(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Runs one of the shell's own. None: it is none of them.
pub(super) async fn run(shell: &mut Shell<'_>, name: &str, args: &[String]) -> Going<Option<i32>> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match name {
        ":" | "true" => 0,
        "false" => 1,
        "echo" => echo(shell, &words).await?,
        "printf" => match words.as_slice() {
            [] => wrong(shell, "printf: usage: printf format [arguments]").await,
            [format, rest @ ..] => {
                let (text, good) = format_all(format, rest);
                let code = shell.write(1, text.as_bytes()).await?;
                if good { code } else { wrong(shell, "printf: a number was expected").await.min(1) }
            }
        },
        "test" => tested(shell, &words).await,
        "[" => match words.split_last() {
            Some((&"]", words)) => tested(shell, words).await,
            _ => wrong(shell, "[: missing ]").await,
        },
        "read" => read(shell, &words).await?,
        "cd" => {
            let to = words
                .iter()
                .find(|w| **w != "--")
                .map_or_else(|| shell.value("HOME").unwrap_or_else(|| "/".to_owned()), |w| (*w).to_owned());
            let path = shell.path(&to);
            if shell.files().is_folder(&path) {
                shell.folder = path;
                0
            } else {
                wrong(shell, &format!("cd: can't cd to {to}")).await
            }
        }
        "pwd" => {
            let line = format!("{}\n", shell.folder);
            shell.write(1, line.as_bytes()).await?
        }
        "exit" | "return" => {
            let code = match words.first() {
                None => shell.status,
                Some(text) => match text.parse::<i32>() {
                    Ok(code) => code & 255,
                    Err(_) => wrong(shell, &format!("{name}: Illegal number: {text}")).await,
                },
            };
            return Err(if name == "exit" { Stop::Exit(code) } else { Stop::Return(code) });
        }
        "break" | "continue" => {
            let n = words.first().map_or(Some(1), |text| text.parse().ok().filter(|n: &u32| *n > 0));
            match n {
                None => wrong(shell, &format!("{name}: Illegal number: {}", words[0])).await,
                Some(_) if shell.loops == 0 => 0,
                Some(n) => {
                    let n = n.min(shell.loops);
                    shell.status = 0;
                    return Err(if name == "break" { Stop::Break(n) } else { Stop::Continue(n) });
                }
            }
        }
        "eval" => {
            let text = words.join(" ");
            shell.status = 0;
            inner(shell, &text).await?
        }
        "." | "source" => {
            let Some(file) = words.first() else { return Ok(Some(wrong(shell, ".: a file is missing").await)) };
            match shell.files().read(&shell.path(file)) {
                Some(bytes) => {
                    shell.status = 0;
                    match inner(shell, &String::from_utf8_lossy(&bytes)).await {
                        Err(Stop::Return(code)) => code,
                        other => other?,
                    }
                }
                None => return Err(shell.fails(&format!(".: cannot open {file}")).await),
            }
        }
        "exec" => {
            if args.is_empty() {
                return Ok(Some(0));
            }
            shell.at_exit = None;
            shell.command(args).await?;
            return Err(Stop::Exit(shell.status));
        }
        // That a variable cannot be written any more is not kept: a script that tries to is wrong on a real shell, too.
        "export" | "readonly" => {
            let command = name;
            for word in &words {
                let (name, value) = word.split_once('=').map_or((*word, None), |(name, value)| (name, Some(value)));
                if word.starts_with('-') || !name_of(name) {
                    return Err(shell.refuse(&format!("the shell's {name:?} of {word:?}")).await);
                }
                let value = value.map_or_else(|| shell.value(name), |value| Some(value.to_owned()));
                let exported = command == "export" || shell.variables.get(name).is_some_and(|v| v.exported);
                if let Some(value) = value {
                    shell.variables.insert(name.to_owned(), Variable { value, exported });
                }
            }
            0
        }
        "local" => {
            for word in &words {
                let (name, value) = word.split_once('=').map_or((*word, None), |(name, value)| (name, Some(value.to_owned())));
                let before = shell.variables.get(name).cloned();
                let Some(hidden) = shell.locals.last_mut() else {
                    return Err(shell.fails("local: not in a function").await);
                };
                hidden.entry(name.to_owned()).or_insert(before);
                match value {
                    Some(value) => shell.set(name, value),
                    None => drop(shell.variables.remove(name)),
                }
            }
            0
        }
        "unset" => {
            for name in words.iter().filter(|w| **w != "-v") {
                shell.variables.remove(*name);
            }
            0
        }
        "set" => set(shell, args).await?,
        "shift" => {
            let n = words.first().map_or(Some(1), |text| text.parse::<usize>().ok());
            match n {
                Some(n) if n <= shell.args.len() => {
                    shell.args.drain(..n);
                    0
                }
                _ => return Err(shell.fails("shift: can't shift that many").await),
            }
        }
        "trap" => trap(shell, &words).await?,
        "umask" => 0,
        "kill" => kill(shell, &words).await?,
        "wait" => wait(shell, &words).await?,
        "sleep" => sleep(shell, &words).await?,
        "command" => match words.as_slice() {
            ["-v", name] => {
                if !(SPECIAL.contains(name) || OTHERS.contains(name) || super::tools::NAMES.contains(name)) {
                    // Only the model knows what it has, and only by trying.
                    return Err(shell.refuse(&format!("whether there is a command {name:?}")).await);
                }
                shell.write(1, format!("{name}\n").as_bytes()).await?
            }
            [name, ..] if !name.starts_with('-') => {
                shell.command(args).await?;
                shell.status
            }
            _ => return Err(shell.refuse(&format!("the shell's command {words:?}")).await),
        },
        "sh" | "bash" | "dash" => shell.shell(name == "bash", args).await?,
        _ => return Ok(None),
    };
    Ok(Some(code))
}

async fn wrong(shell: &mut Shell<'_>, why: &str) -> i32 {
    shell.say(why).await;
    2
}

async fn inner(shell: &mut Shell<'_>, text: &str) -> Going<i32> {
    shell.script(text).await?;
    Ok(shell.status)
}

async fn tested(shell: &mut Shell<'_>, words: &[&str]) -> i32 {
    let files = shell.files();
    let path = |name: &str| shell.path(name);
    match test::test(words, &files, &path) {
        Ok(is) => i32::from(!is),
        Err(why) => wrong(shell, &format!("test: {why}")).await,
    }
}

async fn echo(shell: &mut Shell<'_>, words: &[&str]) -> Going<i32> {
    let mut rest = words;
    // dash always takes backslashes for escapes, bash only when told.
    let (mut line, mut escapes) = (true, !shell.bash);
    while let [first, more @ ..] = rest {
        match *first {
            "-n" => line = false,
            "-e" if shell.bash => escapes = true,
            "-ne" | "-en" if shell.bash => (line, escapes) = (false, true),
            _ => break,
        }
        rest = more;
    }
    let mut text = rest.join(" ");
    if escapes {
        let (unescaped, stopped) = unescape(&text);
        text = unescaped;
        line &= !stopped;
    }
    if line {
        text.push('\n');
    }
    shell.write(1, text.as_bytes()).await
}

async fn read(shell: &mut Shell<'_>, words: &[&str]) -> Going<i32> {
    let mut names = words;
    let mut raw = false;
    while let [flag, rest @ ..] = names {
        match *flag {
            "-r" => raw = true,
            flag if flag.starts_with('-') => return Err(shell.refuse(&format!("the shell's read {flag}")).await),
            _ => break,
        }
        names = rest;
    }
    let input = shell.input();
    let mut text = String::new();
    let mut ended = false;
    loop {
        let line = tokio::select! {
            biased;
            () = shell.process.until_caught(), if !shell.copy => return Ok(143),
            line = input.line() => line,
        };
        let mut line = String::from_utf8_lossy(&line).into_owned();
        ended |= !line.ends_with('\n');
        if !ended {
            line.pop();
        }
        if raw {
            text.push_str(&line);
            break;
        }
        let more = line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1;
        if more {
            line.pop();
        }
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            if c == '\\' { text.extend(chars.next()) } else { text.push(c) }
        }
        if !more || ended {
            break;
        }
    }
    let separators = shell.value("IFS").unwrap_or_else(|| " \t\n".to_owned());
    let blank = |c: char| separators.contains(c) && c.is_whitespace();
    let names = if names.is_empty() { &["REPLY"] } else { names };
    let mut rest = text.trim_start_matches(blank);
    for (n, name) in names.iter().enumerate() {
        if !name_of(name) {
            return Ok(wrong(shell, &format!("read: {name}: bad variable name")).await);
        }
        if n + 1 == names.len() {
            shell.set(name, rest.trim_end_matches(blank).to_owned());
            break;
        }
        let end = rest.find(|c| separators.contains(c)).unwrap_or(rest.len());
        shell.set(name, rest[..end].to_owned());
        rest = rest[end..].trim_start_matches(blank);
        if let Some(c) = rest.chars().next().filter(|c| separators.contains(*c)) {
            rest = rest[c.len_utf8()..].trim_start_matches(blank);
        }
    }
    Ok(i32::from(ended))
}

async fn set(shell: &mut Shell<'_>, args: &[String]) -> Going<i32> {
    let mut rest = args;
    while let [first, more @ ..] = rest {
        let on = match first.chars().next() {
            _ if first == "--" => {
                shell.args = more.to_vec();
                return Ok(0);
            }
            Some('-') if first.len() > 1 => true,
            Some('+') if first.len() > 1 => false,
            _ => {
                shell.args = rest.to_vec();
                return Ok(0);
            }
        };
        rest = more;
        for flag in first.chars().skip(1) {
            let known = if flag == 'o' {
                let Some((name, more)) = rest.split_first() else { break };
                rest = more;
                shell.option(name, on)
            } else {
                shell.flag(flag, on)
            };
            if !known {
                return Err(shell.refuse(&format!("the shell's option {first:?}")).await);
            }
        }
    }
    Ok(0)
}

async fn trap(shell: &mut Shell<'_>, words: &[&str]) -> Going<i32> {
    let words = if words.first() == Some(&"--") { &words[1..] } else { words };
    let [what, names @ ..] = words else { return Ok(0) };
    for name in names {
        if matches!(*name, "EXIT" | "0") {
            shell.at_exit = (*what != "-" && !what.is_empty()).then(|| (*what).to_owned());
            continue;
        }
        let Some(signal) = process::signal(name) else {
            if matches!(*name, "ERR" | "DEBUG" | "RETURN") {
                return Err(shell.refuse(&format!("trap of {name}")).await);
            }
            return Ok(wrong(shell, &format!("trap: {name}: bad trap")).await);
        };
        let to = match *what {
            "-" => None,
            "" => Some(Trap::Ignore),
            what => Some(Trap::Do(what.to_owned())),
        };
        // A copy is no process of its own here: it must not change what its parent does.
        if !shell.copy {
            shell.process.trap(signal, to);
        }
    }
    Ok(0)
}

async fn kill(shell: &mut Shell<'_>, words: &[&str]) -> Going<i32> {
    let (signal, targets) = match words {
        ["-s", name, rest @ ..] => (process::signal(name), rest),
        [first, rest @ ..] if first.starts_with('-') && !rest.is_empty() && *first != "--" => (process::signal(&first[1..]), rest),
        rest => (Some(15), rest),
    };
    let targets = if targets.first() == Some(&"--") { &targets[1..] } else { targets };
    let Some(signal) = signal else { return Ok(wrong(shell, &format!("kill: unknown signal in {words:?}")).await) };
    let mut code = 0;
    for target in targets {
        let Ok(to) = target.parse::<i32>() else { return Ok(wrong(shell, &format!("kill: Illegal number: {target}")).await) };
        if matches!(to, -1..=1) {
            return Err(shell.refuse("a signal to the container's own processes").await);
        }
        if !shell.host.space.signal(to, signal) {
            shell.say("kill: No such process").await;
            code = 1;
        }
    }
    // A signal to itself is felt before the next command.
    tokio::task::yield_now().await;
    Ok(code)
}

async fn wait(shell: &mut Shell<'_>, words: &[&str]) -> Going<i32> {
    let pids: Vec<i32> =
        if words.is_empty() { shell.jobs.keys().copied().collect() } else { words.iter().filter_map(|w| w.parse().ok()).collect() };
    let mut code = 0;
    for pid in pids {
        let Some(mut job) = shell.jobs.get(&pid).cloned() else {
            code = 127;
            continue;
        };
        let process = std::sync::Arc::clone(&shell.process);
        let ended = async {
            let ended = job.wait_for(Option::is_some).await.ok().and_then(|code| *code);
            match ended {
                Some(code) => code,
                // It could not be rehearsed, and so all ends at once.
                None => std::future::pending().await,
            }
        };
        code = tokio::select! {
            biased;
            () = process.until_caught(), if !shell.copy => return Ok(143),
            code = ended => code,
        };
        shell.jobs.remove(&pid);
    }
    Ok(if words.is_empty() { 0 } else { code })
}

async fn sleep(shell: &mut Shell<'_>, words: &[&str]) -> Going<i32> {
    let mut time = Duration::ZERO;
    for word in words {
        let (number, unit) = match word.find(|c: char| c.is_ascii_alphabetic()) {
            Some(at) => word.split_at(at),
            None => (*word, "s"),
        };
        let unit = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => f64::NAN,
        };
        let seconds = number.parse::<f64>().unwrap_or(f64::NAN) * unit;
        match Duration::try_from_secs_f64(seconds) {
            Ok(more) => time = time.saturating_add(more),
            Err(_) => return Ok(wrong(shell, &format!("sleep: invalid time interval '{word}'")).await.min(1)),
        }
    }
    if words.is_empty() {
        return Ok(wrong(shell, "sleep: missing operand").await.min(1));
    }
    let process = std::sync::Arc::clone(&shell.process);
    tokio::select! {
        biased;
        () = process.until_caught(), if !shell.copy => Ok(143),
        () = tokio::time::sleep(time.min(LONGEST)) => Ok(0),
    }
}

/// A path as `dirname` has it.
pub(super) fn folder_of(path: &str) -> &str {
    if path.contains('/') { files::parent(path.trim_end_matches('/')) } else { "." }
}
