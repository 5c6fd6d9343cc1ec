//! Tools for files and folders.

use super::{Options, failed};
use crate::sandbox::shell::{
    expand,
    files::Files,
    state::{Going, Shell},
};

/// How large a file system is that is no volume.
const OWN_BYTES: u64 = 100 << 30;

pub(super) async fn run(shell: &mut Shell<'_>, name: &str, args: &[String]) -> Going<Option<i32>> {
    let files = shell.files();
    match name {
        "ls" => ls(shell, args, &files).await,
        "find" => find(shell, args, &files).await,
        "df" => df(shell, args, &files).await,
        "mkdir" | "install" => {
            let Some(options) = Options::parse(args, "pdv", "mog", &[("parents", 'p'), ("directory", 'd'), ("mode", 'm')]) else {
                return Ok(None);
            };
            if name == "install" && !options.has('d') {
                return Ok(None);
            }
            let parents = options.has('p') || name == "install";
            let mut code = 0;
            for folder in &options.rest {
                let path = shell.path(folder);
                let made = match () {
                    () if !parents && files.exists(&path) => Err("File exists".to_owned()),
                    () if !parents && !files.is_folder(crate::sandbox::shell::files::parent(&path)) => {
                        Err("No such file or directory".to_owned())
                    }
                    () => files.make_folder(&path),
                };
                if let Err(why) = made {
                    failed(shell, name, &format!("cannot create directory '{folder}': {why}"), 1).await?;
                    code = 1;
                }
            }
            Ok(Some(code))
        }
        "rm" => {
            let Some(options) = Options::parse(args, "rRfv", "", &[("recursive", 'r'), ("force", 'f')]) else { return Ok(None) };
            let (deep, force) = (options.has('r') || options.has('R'), options.has('f'));
            let mut code = 0;
            for name in &options.rest {
                let path = shell.path(name);
                let removed = if files.is_folder(&path) && !deep { Err("Is a directory".to_owned()) } else { files.remove(&path) };
                let why = match removed {
                    Ok(true) => continue,
                    Ok(false) if force => continue,
                    Ok(false) => "No such file or directory".to_owned(),
                    Err(why) => why,
                };
                failed(shell, "rm", &format!("cannot remove '{name}': {why}"), 1).await?;
                code = 1;
            }
            Ok(Some(code))
        }
        "touch" => {
            let Some(options) = Options::parse(args, "", "", &[]) else { return Ok(None) };
            for name in &options.rest {
                let path = shell.path(name);
                if !files.is_folder(&path)
                    && let Err(why) = files.write(&path, b"", true)
                {
                    return failed(shell, "touch", &format!("cannot touch '{name}': {why}"), 1).await;
                }
            }
            Ok(Some(0))
        }
        "cp" | "mv" => {
            let Some(options) = Options::parse(args, "fv", "", &[]) else { return Ok(None) };
            let [from, to] = options.rest.as_slice() else { return Ok(None) };
            let (source, mut target) = (shell.path(from), shell.path(to));
            if files.is_folder(&source) {
                return Ok(None);
            }
            let Some(bytes) = files.read(&source) else {
                return failed(shell, name, &format!("cannot stat '{from}': No such file or directory"), 1).await;
            };
            if files.is_folder(&target) {
                target = format!("{target}/{}", source.rsplit('/').next().unwrap_or_default());
            }
            let done = files
                .write(&target, &bytes, false)
                .and_then(|()| if name == "mv" && source != target { files.remove(&source).map(drop) } else { Ok(()) });
            match done {
                Ok(()) => Ok(Some(0)),
                Err(why) => failed(shell, name, &format!("cannot write '{to}': {why}"), 1).await,
            }
        }
        "mktemp" => {
            let Some(options) = Options::parse(args, "d", "", &[("directory", 'd')]) else { return Ok(None) };
            if !options.rest.is_empty() {
                return Ok(None);
            }
            let free = (0..).map(|n| format!("/tmp/tmp.{n:010}")).find(|path| !files.exists(path)).unwrap_or_default();
            let made = if options.has('d') { files.make_folder(&free) } else { files.write(&free, b"", false) };
            match made {
                Ok(()) => shell.write(1, format!("{free}\n").as_bytes()).await.map(Some),
                Err(why) => failed(shell, "mktemp", &format!("failed to create '{free}': {why}"), 1).await,
            }
        }
        // There are no owners and no modes here; a file has to be there all the same.
        _ => {
            let Some(options) = Options::parse(args, "Rv", "", &[]) else { return Ok(None) };
            let [_, names @ ..] = options.rest.as_slice() else { return failed(shell, name, "missing operand", 1).await };
            match names.iter().find(|n| !files.exists(&shell.path(n))) {
                Some(missing) => failed(shell, name, &format!("cannot access '{missing}': No such file or directory"), 1).await,
                None => Ok(Some(0)),
            }
        }
    }
}

async fn ls(shell: &mut Shell<'_>, args: &[String], files: &Files) -> Going<Option<i32>> {
    let Some(options) = Options::parse(args, "aA1d", "", &[("all", 'a'), ("almost-all", 'A')]) else { return Ok(None) };
    let names = if options.rest.is_empty() { vec!["."] } else { options.rest.clone() };
    let (mut out, mut code) = (String::new(), 0);
    for (n, name) in names.iter().enumerate() {
        let path = shell.path(name);
        if files.read(&path).is_some() || options.has('d') && files.is_folder(&path) {
            out.push_str(&format!("{name}\n"));
            continue;
        }
        let Some(list) = files.list(&path) else {
            failed(shell, "ls", &format!("cannot access '{name}': No such file or directory"), 2).await?;
            code = 2;
            continue;
        };
        if names.len() > 1 {
            out.push_str(&format!("{}{name}:\n", if n > 0 { "\n" } else { "" }));
        }
        if options.has('a') {
            out.push_str(".\n..\n");
        }
        let hidden = options.has('a') || options.has('A');
        out.extend(list.into_iter().filter(|entry| hidden || !entry.starts_with('.')).map(|entry| entry + "\n"));
    }
    shell.write(1, out.as_bytes()).await?;
    Ok(Some(code))
}

async fn find(shell: &mut Shell<'_>, args: &[String], files: &Files) -> Going<Option<i32>> {
    let from: Vec<&str> = args.iter().map(String::as_str).take_while(|a| !a.starts_with(['-', '!', '('])).collect();
    let (mut name, mut kind, mut deepest, mut shallowest) = (None, None, usize::MAX, 0);
    let mut rest = args[from.len()..].iter().map(String::as_str);
    while let Some(word) = rest.next() {
        match (word, rest.next()) {
            ("-name", Some(pattern)) => name = Some(pattern.chars().map(|c| (c, false)).collect::<Vec<_>>()),
            ("-type", Some(what @ ("f" | "d"))) => kind = Some(what),
            ("-maxdepth", Some(n)) if n.parse::<usize>().is_ok() => deepest = n.parse().unwrap_or(0),
            ("-mindepth", Some(n)) if n.parse::<usize>().is_ok() => shallowest = n.parse().unwrap_or(0),
            ("-print", None) => {}
            _ => return Ok(None),
        }
    }
    let (mut out, mut code) = (String::new(), 0);
    for begin in if from.is_empty() { vec!["."] } else { from } {
        if !files.exists(&shell.path(begin)) {
            failed(shell, "find", &format!("'{begin}': No such file or directory"), 1).await?;
            code = 1;
            continue;
        }
        let mut todo = vec![(begin.to_owned(), 0)];
        while let Some((at, depth)) = todo.pop() {
            let path = shell.path(&at);
            let folder = files.is_folder(&path);
            let bare = at.rsplit('/').next().unwrap_or_default();
            if depth >= shallowest
                && kind.is_none_or(|kind| folder == (kind == "d"))
                && name.as_ref().is_none_or(|pattern| expand::matches(pattern, bare))
            {
                out.push_str(&format!("{at}\n"));
            }
            if folder && depth < deepest {
                let entries = files.list(&path).unwrap_or_default();
                todo.extend(entries.into_iter().rev().map(|entry| (format!("{}/{entry}", at.trim_end_matches('/')), depth + 1)));
            }
        }
    }
    shell.write(1, out.as_bytes()).await?;
    Ok(Some(code))
}

fn human(bytes: u64) -> String {
    let units = ["", "K", "M", "G", "T"];
    let (mut size, mut unit) = (bytes, 0);
    while size >= 1024 && unit + 1 < units.len() {
        size = size.div_ceil(1024);
        unit += 1;
    }
    format!("{size}{}", units[unit])
}

async fn df(shell: &mut Shell<'_>, args: &[String], files: &Files) -> Going<Option<i32>> {
    let Some(options) = Options::parse(args, "hkPm", "", &[("human-readable", 'h')]) else { return Ok(None) };
    let mut out = if options.has('h') {
        "Filesystem      Size  Used Avail Use% Mounted on\n".to_owned()
    } else {
        "Filesystem     1K-blocks      Used Available Use% Mounted on\n".to_owned()
    };
    for name in if options.rest.is_empty() { vec!["/"] } else { options.rest.clone() } {
        let path = shell.path(name);
        if !files.exists(&path) {
            return failed(shell, "df", &format!("{name}: No such file or directory"), 1).await;
        }
        let (size, used, at) = match files.mount(&path) {
            Some(mount) => (mount.size, mount.tree.room(), mount.path.clone()),
            None => (OWN_BYTES, files.own_bytes() as u64, "/".to_owned()),
        };
        let used = if files.is_full() { size } else { used.min(size) };
        let percent = if size == 0 { 0 } else { (used * 100).div_ceil(size) };
        let device = if at == "/" { "overlay" } else { "/dev/vdb" };
        let free = size - used;
        let line = if options.has('h') {
            format!("{device:<14} {:>5} {:>5} {:>5} {percent:>3}% {at}\n", human(size), human(used), human(free))
        } else {
            format!("{device:<14} {:>9} {:>9} {:>9} {percent:>3}% {at}\n", size / 1024, used / 1024, free / 1024)
        };
        out.push_str(&line);
    }
    shell.write(1, out.as_bytes()).await.map(Some)
}
