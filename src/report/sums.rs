//! `SHA256SUMS`: a checksum of every file of the evidence, as `sha256sum --check` reads it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::ReportError;

/// Its name.
pub(super) const NAME: &str = "SHA256SUMS";
/// The deepest folder that is looked into: evidence is `samples/` and files.
const DEPTH: usize = 4;

/// The text of the file. Names are sorted; neither the file itself nor a half-written one is in it.
pub(super) fn of(dir: &Path) -> Result<String, ReportError> {
    let mut files = Vec::new();
    collect(dir, Path::new(""), DEPTH, &mut files)?;
    files.sort();
    let mut text = String::new();
    for file in files {
        let path = dir.join(&file);
        let digest = digest(&path).map_err(|e| ReportError::io("read", &path, e))?;
        text.push_str(&format!("{digest}  {}\n", file.display()));
    }
    Ok(text)
}

/// The files that are no longer as the list says, or gone; those named in `but` are not looked at. Nothing without a list.
pub(super) fn altered(dir: &Path, but: &[&str]) -> Result<Vec<String>, ReportError> {
    let path = dir.join(NAME);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ReportError::io("read", &path, error)),
    };
    let lines = text.lines().filter_map(|line| line.split_once("  ")).filter(|(_, name)| !but.contains(name));
    // A file that cannot be read is not as it was.
    Ok(lines.filter(|(sum, name)| digest(&dir.join(name)).ok().as_deref() != Some(*sum)).map(|(_, name)| name.to_owned()).collect())
}

/// What is not as the list says, a sentence each: files that were changed, are gone, or are not in it.
pub(super) fn differing(dir: &Path) -> Result<Vec<String>, ReportError> {
    let path = dir.join(NAME);
    let listed = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![format!("there is no {NAME}")]),
        Err(error) => return Err(ReportError::io("read", &path, error)),
    };
    let by_name = |text: &str| -> BTreeMap<String, String> {
        text.lines().filter_map(|line| line.split_once("  ")).map(|(sum, name)| (name.to_owned(), sum.to_owned())).collect()
    };
    let (listed, there) = (by_name(&listed), by_name(&of(dir)?));
    let changed = listed.iter().filter_map(|(name, sum)| match there.get(name) {
        None => Some(format!("{name} is gone, or is no file any more")),
        Some(now) if now != sum => Some(format!("{name} is not as {NAME} has it")),
        Some(_) => None,
    });
    let added = there.keys().filter(|name| !listed.contains_key(*name)).map(|name| format!("{name} is not in {NAME}"));
    Ok(changed.chain(added).collect())
}

fn collect(dir: &Path, below: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), ReportError> {
    let here = dir.join(below);
    let entries = std::fs::read_dir(&here).map_err(|e| ReportError::io("list", &here, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| ReportError::io("list", &here, e))?;
        let name = below.join(entry.file_name());
        let kind = entry.file_type().map_err(|e| ReportError::io("look at", &entry.path(), e))?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if kind.is_dir() && depth > 0 && !hidden {
            collect(dir, &name, depth - 1, files)?;
        } else if kind.is_file() && !hidden && name != Path::new(NAME) {
            files.push(name);
        }
    }
    Ok(())
}

fn digest(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut block)?;
        let Some(read) = block.get(..n).filter(|b| !b.is_empty()) else { return Ok(hex::encode(hash.finalize())) };
        hash.update(read);
    }
}
