//! Damaging a file: the bits of a range are turned over. What was there before is set aside on the same volume first.

use sha2::{Digest as _, Sha256};

use super::{Entry, Kind, Volume};
use crate::{fault::DamagedRange, journal::RevertResult};

/// The size of a block of most databases: where a range begins.
const BLOCK: u64 = 8 << 10;
/// The most that is damaged: it is held in memory a few times over.
const MOST: u64 = 4 << 20;

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

fn file(volume: &dyn Volume, path: &str) -> Result<Option<Entry>, String> {
    match volume.entry(path)? {
        Some(entry) if entry.kind != Kind::File => Err(format!("{path} is no file")),
        found => Ok(found),
    }
}

/// A range in the middle of a file, at the beginning of a block.
pub(super) fn choose(volume: &dyn Volume, path: &str, bytes: u64) -> Result<DamagedRange, String> {
    super::parts(path)?;
    let entry = file(volume, path)?.ok_or_else(|| format!("there is no file {path}"))?;
    if entry.size == 0 {
        return Err(format!("{path} is empty: nothing in it can be damaged"));
    }
    if bytes == 0 || bytes > MOST {
        return Err(format!("{bytes} bytes are to be damaged: say between 1 and {MOST}"));
    }
    let length = bytes.min(entry.size);
    let offset = (entry.size / 2 / BLOCK * BLOCK).min(entry.size - length);
    let before = volume.read(path, entry.inode, offset, length)?;
    let after = digest(&turned(&before));
    Ok(DamagedRange { inode: entry.inode, offset, length, before: digest(&before), after })
}

fn original(name: &str) -> String {
    format!("{name}/original")
}

/// What was set aside, if it is all there.
fn aside(volume: &dyn Volume, name: &str, range: &DamagedRange) -> Result<Option<Vec<u8>>, String> {
    let Some(entry) = file(volume, &original(name))? else { return Ok(None) };
    let bytes = volume.read(&original(name), entry.inode, 0, range.length)?;
    Ok((digest(&bytes) == range.before).then_some(bytes))
}

fn drop_aside(volume: &dyn Volume, name: &str) -> Result<(), String> {
    volume.remove(&original(name))?;
    volume.remove(name).map(drop)
}

pub(super) fn inject(volume: &dyn Volume, name: &str, path: &str, range: &DamagedRange) -> Result<(), String> {
    let entry = file(volume, path)?.ok_or_else(|| format!("there is no file {path} any more: nothing was done"))?;
    let now = volume.read(path, entry.inode, range.offset, range.length)?;
    let before = match (digest(&now), aside(volume, name, range)?) {
        // The second time.
        (is, Some(_)) if is == range.after && entry.inode == range.inode => return Ok(()),
        // The first time was cut short.
        (_, Some(before)) if ours(&now, &before) && entry.inode == range.inode => before,
        (is, None) if is == range.before && entry.inode == range.inode => {
            if volume.entry(name)?.is_some() {
                drop_aside(volume, name)?;
            }
            volume.make_folder(name)?;
            let copy = volume.create(&original(name))?;
            volume.write(&original(name), copy.inode, 0, &now)?;
            now
        }
        _ => return Err(format!("{path} has changed since it was looked at: nothing was done")),
    };
    volume.write(path, range.inode, range.offset, &turned(&before))
}

/// Whether every byte is either as it was or as we turned it: nobody else has written there.
fn ours(now: &[u8], before: &[u8]) -> bool {
    now.len() == before.len() && now.iter().zip(before).all(|(now, before)| now == before || *now == !before)
}

pub(super) fn check(volume: &dyn Volume, path: &str, range: &DamagedRange) -> Result<(bool, Option<String>, String), String> {
    let Some(entry) = file(volume, path)? else {
        return Ok((false, Some(format!("{path} was removed")), format!("{path} is not there")));
    };
    let detail = format!("{} bytes of {path} at {}", range.length, range.offset);
    if entry.inode != range.inode {
        return Ok((false, Some(format!("{path} was replaced by another file")), format!("{detail} are of another file")));
    }
    let is = digest(&volume.read(path, entry.inode, range.offset, range.length)?);
    Ok(match is {
        is if is == range.after => (true, None, format!("{detail} damaged (sha256 {})", &range.after[..16])),
        is if is == range.before => (false, Some(format!("{path} is whole again")), format!("{detail} are whole")),
        _ => (false, Some(format!("somebody has written to the damaged part of {path}")), format!("{detail} were written by others")),
    })
}

pub(super) fn revert(volume: &dyn Volume, name: &str, path: &str, range: Option<&DamagedRange>) -> Result<(RevertResult, String), String> {
    let Some(range) = range else { return Ok((RevertResult::Nothing, "nothing was chosen".to_owned())) };
    if volume.entry(name)?.is_none() {
        return Ok((RevertResult::Nothing, "nothing was set aside, so nothing was damaged".to_owned()));
    }
    let Some(before) = aside(volume, name, range)? else {
        // It was cut short before the copy was whole; the file is written after that only.
        drop_aside(volume, name)?;
        return Ok((RevertResult::Nothing, format!("{path} had not been damaged yet")));
    };
    let entry = file(volume, path)?;
    let now = match entry.filter(|entry| entry.inode == range.inode) {
        Some(entry) => Some(volume.read(path, entry.inode, range.offset, range.length)?),
        None => None,
    };
    match now {
        Some(now) if now == before => {
            drop_aside(volume, name)?;
            Ok((RevertResult::Nothing, format!("{path} is as it was")))
        }
        Some(now) if ours(&now, &before) => {
            volume.write(path, range.inode, range.offset, &before)?;
            drop_aside(volume, name)?;
            Ok((RevertResult::Reverted, format!("{} bytes of {path} put back", range.length)))
        }
        _ => Ok((
            RevertResult::Superseded,
            format!(
                "{path} was replaced or written to by others and is left alone; what was there before is kept in {}: delete it when nobody wants it",
                original(name)
            ),
        )),
    }
}
