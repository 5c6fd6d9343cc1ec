//! Tools that read text and write text.

use super::{Options, contents, failed, grep::lines};
use crate::sandbox::shell::state::{Going, Shell};

pub(super) async fn run(shell: &mut Shell<'_>, name: &str, args: &[String]) -> Going<Option<i32>> {
    match name {
        "cat" => {
            let Some(options) = Options::parse(args, "u", "", &[]) else { return Ok(None) };
            if options.rest.is_empty() || options.rest == ["-"] {
                // As it comes: who reads may wait for the first line only.
                loop {
                    let line = shell.input().line().await;
                    if line.is_empty() {
                        return Ok(Some(0));
                    }
                    shell.write(1, &line).await?;
                }
            }
            let (files, trouble) = contents(shell, name, &options.rest).await?;
            let mut code = trouble;
            for (_, bytes) in files {
                code = code.max(shell.write(1, &bytes).await?);
            }
            Ok(Some(code))
        }
        "head" | "tail" => ends(shell, name, args).await,
        "wc" => wc(shell, args).await,
        "cut" => cut(shell, args).await,
        "sort" => sort(shell, args).await,
        "tr" => tr(shell, args).await,
        "tee" => {
            let Some(options) = Options::parse(args, "a", "", &[("append", 'a')]) else { return Ok(None) };
            let (read, _) = contents(shell, name, &[]).await?;
            let bytes = read.into_iter().next().unwrap_or_default().1;
            let mut code = shell.write(1, &bytes).await?;
            for file in &options.rest {
                let path = shell.path(file);
                if let Err(why) = shell.files().write(&path, &bytes, options.has('a')) {
                    failed(shell, name, &format!("{file}: {why}"), 1).await?;
                    code = 1;
                }
            }
            Ok(Some(code))
        }
        _ => {
            let numbers: Option<Vec<i64>> = args.iter().map(|a| a.parse().ok()).collect();
            let (first, step, last) = match numbers.as_deref() {
                Some([last]) => (1, 1, *last),
                Some([first, last]) => (*first, 1, *last),
                Some([first, step, last]) if *step != 0 => (*first, *step, *last),
                _ => return Ok(None),
            };
            let mut out = String::new();
            let mut number = first;
            while if step > 0 { number <= last } else { number >= last } {
                out.push_str(&format!("{number}\n"));
                if out.len() > crate::sandbox::shell::io::MOST {
                    return Ok(None);
                }
                let Some(next) = number.checked_add(step) else { break };
                number = next;
            }
            shell.write(1, out.as_bytes()).await.map(Some)
        }
    }
}

async fn ends(shell: &mut Shell<'_>, name: &str, args: &[String]) -> Going<Option<i32>> {
    // `-3` is short for `-n 3`.
    let args: Vec<String> = args
        .iter()
        .map(|a| match a.strip_prefix('-') {
            Some(n) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => format!("-n{n}"),
            _ => a.clone(),
        })
        .collect();
    let Some(options) = Options::parse(&args, "q", "nc", &[("lines", 'n'), ("bytes", 'c')]) else { return Ok(None) };
    let bytes_wanted = options.value('c');
    let text = bytes_wanted.or_else(|| options.value('n')).unwrap_or("10");
    let (from, digits) = text.strip_prefix('+').map_or((false, text), |rest| (true, rest));
    let Ok(count) = digits.parse::<usize>() else { return Ok(None) };
    if from && name == "head" {
        return Ok(None);
    }
    let (files, code) = contents(shell, name, &options.rest).await?;
    let titles = files.len() > 1 && !options.has('q');
    for (n, (file, content)) in files.into_iter().enumerate() {
        if titles {
            let title = format!("{}==> {file} <==\n", if n > 0 { "\n" } else { "" });
            shell.write(1, title.as_bytes()).await?;
        }
        let starts: Vec<usize> = if bytes_wanted.is_some() {
            (0..content.len()).collect()
        } else {
            let after = content.iter().enumerate().filter(|(n, b)| **b == b'\n' && n + 1 < content.len()).map(|(n, _)| n + 1);
            std::iter::once(0).filter(|_| !content.is_empty()).chain(after).collect()
        };
        let start = |n: usize| starts.get(n).copied().unwrap_or(content.len());
        let part = match (name, from) {
            ("head", _) => &content[..start(count)],
            (_, true) => &content[start(count.saturating_sub(1))..],
            _ => &content[start(starts.len().saturating_sub(count))..],
        };
        shell.write(1, part).await?;
    }
    Ok(Some(code))
}

async fn wc(shell: &mut Shell<'_>, args: &[String]) -> Going<Option<i32>> {
    let Some(options) = Options::parse(args, "lwcm", "", &[("lines", 'l'), ("words", 'w'), ("bytes", 'c')]) else { return Ok(None) };
    let (files, code) = contents(shell, "wc", &options.rest).await?;
    let all = options.flags.is_empty();
    let mut out = String::new();
    let mut total = [0; 3];
    let mut line = |counts: [usize; 3], name: &str| {
        let wanted = [all || options.has('l'), all || options.has('w'), all || options.has('c') || options.has('m')];
        let shown: Vec<String> = counts.iter().zip(wanted).filter(|(_, w)| *w).map(|(n, _)| n.to_string()).collect();
        let name = if options.rest.is_empty() { String::new() } else { format!(" {name}") };
        out.push_str(&format!("{}{name}\n", shown.join(" ")));
    };
    for (name, bytes) in &files {
        let text = String::from_utf8_lossy(bytes);
        let length = if options.has('m') { text.chars().count() } else { bytes.len() };
        let counts = [bytes.iter().filter(|b| **b == b'\n').count(), text.split_whitespace().count(), length];
        total.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        line(counts, name);
    }
    if files.len() > 1 {
        line(total, "total");
    }
    shell.write(1, out.as_bytes()).await?;
    Ok(Some(code))
}

/// The places that a list such as `1,3-5,7-` names. None: it is no such list.
fn places(list: &str) -> Option<Vec<(usize, usize)>> {
    let number = |text: &str, none: usize| if text.is_empty() { Some(none) } else { text.parse().ok().filter(|n| *n > 0) };
    list.split(',')
        .map(|part| match part.split_once('-') {
            Some((from, to)) if part != "-" => Some((number(from, 1)?, number(to, usize::MAX)?)),
            _ => number(part, 0).filter(|n| *n > 0).map(|n| (n, n)),
        })
        .collect()
}

async fn cut(shell: &mut Shell<'_>, args: &[String]) -> Going<Option<i32>> {
    let Some(options) = Options::parse(args, "s", "dfcb", &[("delimiter", 'd'), ("fields", 'f'), ("characters", 'c')]) else {
        return Ok(None);
    };
    let fields = options.value('f');
    let Some(list) = fields.or_else(|| options.value('c')).or_else(|| options.value('b')).and_then(places) else { return Ok(None) };
    let mut by = options.value('d').unwrap_or("\t").chars();
    let (Some(by), None) = (by.next(), by.next()) else { return Ok(None) };
    let wanted = |n: usize| list.iter().any(|(from, to)| (*from..=*to).contains(&n));
    let (files, code) = contents(shell, "cut", &options.rest).await?;
    let mut out = String::new();
    for (_, bytes) in &files {
        for line in lines(bytes) {
            let line = String::from_utf8_lossy(line);
            if fields.is_none() {
                out.extend(line.chars().enumerate().filter(|(n, _)| wanted(n + 1)).map(|(_, c)| c));
            } else if !line.contains(by) {
                if options.has('s') {
                    continue;
                }
                out.push_str(&line);
            } else {
                let kept: Vec<&str> = line.split(by).enumerate().filter(|(n, _)| wanted(n + 1)).map(|(_, f)| f).collect();
                out.push_str(&kept.join(&by.to_string()));
            }
            out.push('\n');
        }
    }
    shell.write(1, out.as_bytes()).await?;
    Ok(Some(code))
}

async fn sort(shell: &mut Shell<'_>, args: &[String]) -> Going<Option<i32>> {
    let Some(options) = Options::parse(args, "nru", "kt", &[]) else { return Ok(None) };
    let mut by = options.value('t').unwrap_or("\0").chars();
    let by = by.next().filter(|c| *c != '\0');
    let key = match options.value('k').map(|k| k.split(['n', ',']).next().unwrap_or_default().parse::<usize>()) {
        None => 0,
        Some(Ok(n)) => n,
        Some(Err(_)) => return Ok(None),
    };
    let numeric = options.has('n') || options.value('k').is_some_and(|k| k.contains('n'));
    let (files, code) = contents(shell, "sort", &options.rest).await?;
    let mut all: Vec<String> =
        files.iter().flat_map(|(_, bytes)| lines(bytes).map(|l| String::from_utf8_lossy(l).into_owned()).collect::<Vec<_>>()).collect();
    let field = |line: &str| -> String {
        let rest = |parts: Vec<&str>| parts.get(key.saturating_sub(1)).copied().unwrap_or_default().to_owned();
        match (key, by) {
            (0, _) => line.to_owned(),
            (_, Some(by)) => rest(line.split(by).collect()),
            _ => rest(line.split_whitespace().collect()),
        }
    };
    let number = |line: &str| -> f64 {
        let text = line.trim_start();
        let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '-' | '.'))).unwrap_or(text.len());
        text[..end].parse().unwrap_or(0.0)
    };
    all.sort_by(|a, b| {
        let (fa, fb) = (field(a), field(b));
        let order = if numeric { number(&fa).total_cmp(&number(&fb)) } else { fa.cmp(&fb) };
        order.then_with(|| a.cmp(b))
    });
    if options.has('r') {
        all.reverse();
    }
    if options.has('u') {
        all.dedup_by(|a, b| if numeric { number(&field(a)) == number(&field(b)) } else { field(a) == field(b) });
    }
    let out: String = all.into_iter().map(|line| line + "\n").collect();
    shell.write(1, out.as_bytes()).await?;
    Ok(Some(code))
}

/// The characters that a set of `tr` names. None: it is not understood.
fn set(text: &str) -> Option<Vec<char>> {
    let text = match text {
        "[:lower:]" => "a-z",
        "[:upper:]" => "A-Z",
        "[:digit:]" => "0-9",
        "[:alpha:]" => "A-Za-z",
        "[:alnum:]" => "0-9A-Za-z",
        "[:space:]" => "\t\n\u{b}\u{c}\r ",
        text if text.contains("[:") => return None,
        text => text,
    };
    let mut chars = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let c = match c {
            '\\' => match rest.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                c => c,
            },
            '-' if !chars.is_empty() && !rest.as_str().is_empty() => {
                let last = rest.next()?;
                let first = chars.pop()?;
                if first > last {
                    return None;
                }
                chars.extend(first..last);
                last
            }
            c => c,
        };
        chars.push(c);
    }
    Some(chars)
}

async fn tr(shell: &mut Shell<'_>, args: &[String]) -> Going<Option<i32>> {
    let Some(options) = Options::parse(args, "dsc", "", &[]) else { return Ok(None) };
    let Some(sets) = options.rest.iter().map(|text| set(text)).collect::<Option<Vec<_>>>() else { return Ok(None) };
    let (from, to) = match sets.as_slice() {
        [from] if options.has('d') || options.has('s') => (from.clone(), Vec::new()),
        [from, to] if !options.has('d') && !to.is_empty() => (from.clone(), to.clone()),
        _ => return Ok(None),
    };
    let (read, _) = contents(shell, "tr", &[]).await?;
    let text = read.into_iter().next().unwrap_or_default().1;
    let mut out = String::new();
    let mut last = None;
    for c in String::from_utf8_lossy(&text).chars() {
        let at = from.iter().position(|f| *f == c);
        let hit = at.is_some() != options.has('c');
        if hit && options.has('d') {
            continue;
        }
        let new = match (hit, at, to.last()) {
            (true, Some(at), Some(end)) => to.get(at).copied().unwrap_or(*end),
            (true, None, Some(end)) => *end,
            _ => c,
        };
        if options.has('s') && hit && last == Some(new) {
            continue;
        }
        last = hit.then_some(new);
        out.push(new);
    }
    shell.write(1, out.as_bytes()).await.map(Some)
}
