//! Taking files away: they are renamed into a folder of ours at the volume's top, and back.

use super::{Kind, OURS, Volume, parts};
use crate::journal::RevertResult;

/// The most files and folders that one fault takes away.
const MOST: usize = 10_000;
/// The list of what was where, in the folder of ours.
const INDEX: &str = "index.json";

/// Whether a name fits a pattern of `*` and `?`.
fn fits(pattern: &[char], name: &[char]) -> bool {
    // Where in the pattern one may be, for each character of the name: no pattern takes longer than its length times the name's.
    let star = |at: &mut Vec<bool>| {
        for n in 0..pattern.len() {
            at[n + 1] |= at[n] && pattern[n] == '*';
        }
    };
    let mut at = vec![false; pattern.len() + 1];
    at[0] = true;
    star(&mut at);
    for c in name {
        let mut next = vec![false; pattern.len() + 1];
        for n in (0..pattern.len()).filter(|n| at[*n]) {
            next[n] |= pattern[n] == '*';
            next[n + 1] |= pattern[n] == '?' || pattern[n] == *c && pattern[n] != '*';
        }
        star(&mut next);
        at = next;
    }
    at[pattern.len()]
}

/// All that a path or a pattern means, in order.
pub(super) fn matching(volume: &dyn Volume, path: &str) -> Result<Vec<String>, String> {
    let parts = parts(path)?;
    let mut found = vec![String::new()];
    for (n, part) in parts.iter().enumerate() {
        let mut next = Vec::new();
        let pattern: Vec<char> = part.chars().collect();
        for folder in &found {
            let join = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            if !part.contains(['*', '?']) {
                // A folder on the way must be one; a link there is refused when it is gone through.
                if volume.entry(&join(part))?.is_some_and(|e| n + 1 == parts.len() || e.kind == Kind::Folder) {
                    next.push(join(part));
                }
                continue;
            }
            for name in volume.list(folder)? {
                let hidden = name.starts_with('.') && !part.starts_with('.');
                if hidden || !fits(&pattern, &name.chars().collect::<Vec<_>>()) {
                    continue;
                }
                if n + 1 == parts.len() || volume.entry(&join(&name))?.is_some_and(|e| e.kind == Kind::Folder) {
                    next.push(join(&name));
                }
            }
            if next.len() > MOST {
                return Err(format!("more than {MOST} match {path}: name their folder, or fewer of them"));
            }
        }
        found = next;
    }
    // What is ours, and what belongs to the file system, is nobody's to delete.
    found.retain(|path| !path.starts_with(OURS) && path != "lost+found");
    if found.is_empty() {
        return Err(format!("nothing matches {path}"));
    }
    Ok(found)
}

fn index(volume: &dyn Volume, name: &str) -> Result<Option<Vec<String>>, String> {
    let path = format!("{name}/{INDEX}");
    let Some(entry) = volume.entry(&path)?.filter(|e| e.kind == Kind::File) else { return Ok(None) };
    let bytes = volume.read(&path, entry.inode, 0, entry.size)?;
    // One that is not whole was never acted on.
    Ok(serde_json::from_slice(&bytes).ok())
}

pub(super) fn inject(volume: &dyn Volume, name: &str, path: &str) -> Result<(), String> {
    let list = match index(volume, name)? {
        // The second time, or after it was cut short.
        Some(list) => list,
        None => {
            let list = matching(volume, path)?;
            if volume.entry(name)?.is_some() {
                volume.remove(&format!("{name}/{INDEX}"))?;
                volume.remove(name)?;
            }
            volume.make_folder(name)?;
            let at = format!("{name}/{INDEX}");
            let entry = volume.create(&at)?;
            let bytes = serde_json::to_vec(&list).map_err(|e| e.to_string())?;
            volume.write(&at, entry.inode, 0, &bytes)?;
            list
        }
    };
    for (n, from) in list.iter().enumerate() {
        let to = format!("{name}/{n}");
        if volume.entry(from)?.is_some() && volume.entry(&to)?.is_none() && !volume.rename(from, &to)? {
            return Err(format!("{to} is in the way"));
        }
    }
    Ok(())
}

pub(super) fn check(volume: &dyn Volume, name: &str) -> Result<(bool, Option<String>, String), String> {
    let Some(list) = index(volume, name)? else {
        return Ok((false, Some(format!("{name} was removed")), "nothing is set aside".to_owned()));
    };
    let mut back = Vec::new();
    for path in &list {
        if volume.entry(path)?.is_some() {
            back.push(path.as_str());
        }
    }
    let detail = format!("{} of {} files and folders are gone", list.len() - back.len(), list.len());
    let broken = (!back.is_empty()).then(|| format!("{} there again: {}", back.len(), some(&back)));
    Ok((back.is_empty(), broken, detail))
}

pub(super) fn revert(volume: &dyn Volume, name: &str) -> Result<(RevertResult, String), String> {
    if volume.entry(name)?.is_none() {
        return Ok((RevertResult::Nothing, "nothing of ours is on it".to_owned()));
    }
    let list = index(volume, name)?.unwrap_or_default();
    let (mut restored, mut kept) = (0, Vec::new());
    for (n, path) in list.iter().enumerate() {
        let from = format!("{name}/{n}");
        if volume.entry(&from)?.is_none() {
            continue;
        }
        match volume.rename(&from, path) {
            Ok(true) => restored += 1,
            Ok(false) => kept.push(format!("{path} (there is a new one)")),
            Err(why) => kept.push(format!("{path} ({why})")),
        }
    }
    if !kept.is_empty() {
        let names: Vec<&str> = kept.iter().map(String::as_str).collect();
        let detail = format!(
            "{restored} put back, {} not: {}; they are kept in {name}: delete that when nobody wants them",
            kept.len(),
            some(&names)
        );
        return Ok((RevertResult::Superseded, detail));
    }
    volume.remove(&format!("{name}/{INDEX}"))?;
    volume.remove(name)?;
    Ok(match restored {
        0 => (RevertResult::Nothing, "nothing had been taken away".to_owned()),
        n => (RevertResult::Reverted, format!("{n} files and folders put back")),
    })
}

/// Up to five names.
fn some(names: &[&str]) -> String {
    let shown = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown} and {} more", names.len() - 5) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let is = |pattern: &str, name: &str| fits(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>());
        assert!(is("*.db", "a.db") && is("a?c*", "abc") && is("*", "x") && is("a*b*c", "aXbYc"));
        assert!(!is("*.db", "a.dbx") && !is("a?c", "ac") && !is("", "x"));
    }
}
