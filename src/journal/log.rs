//! The journal as a file: one JSON record a line, each naming the SHA-256 of the line before.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{Event, JournalError, Record};
use crate::clock::Stamp;

/// The `prev` of the first record.
pub const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// SHA-256 (hex) of a line without its newline.
pub fn line_hash(line: &str) -> String {
    hex::encode(Sha256::digest(line.as_bytes()))
}

/// Where a journal goes on: the next number and the hash of the last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The number of the next record.
    pub next_seq: u64,
    /// The hash of the last line.
    pub head: String,
}

impl Default for Tail {
    fn default() -> Self {
        Self { next_seq: 0, head: NO_HASH.to_owned() }
    }
}

/// The file being written.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    tail: Tail,
}

impl Log {
    /// A new journal; refused if the file exists, because a journal is never written over.
    pub fn create(path: &Path) -> Result<Self, JournalError> {
        let file = OpenOptions::new().create_new(true).append(true).open(path).map_err(|e| failed("create", path, e))?;
        sync_directory(path)?;
        Ok(Self { path: path.to_owned(), file, tail: Tail::default() })
    }

    /// Goes on with a journal. A torn last line (power was lost while it was written) is cut off: what it said was not
    /// yet relied on, because nothing is done before its intent is synced.
    pub fn reopen(path: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        let text = std::fs::read_to_string(path).map_err(|e| failed("read", path, e))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let (records, tail) = parse(&path.display().to_string(), &text[..whole])?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| failed("open", path, e))?;
        if whole < text.len() {
            file.set_len(whole as u64).map_err(|e| failed("cut the torn last line of", path, e))?;
        }
        Ok((Self { path: path.to_owned(), file, tail }, records))
    }

    /// Starts a journal with records that came from elsewhere (the in-cluster record), as they are.
    pub fn copy_of(path: &Path, lines: &[String]) -> Result<Self, JournalError> {
        let mut log = Self::create(path)?;
        for line in lines {
            let record: Record = serde_json::from_str(line).map_err(|e| JournalError::Line {
                path: "the in-cluster record".to_owned(),
                line: 0,
                detail: e.to_string(),
            })?;
            log.write_line(line)?;
            log.tail = Tail { next_seq: record.seq + 1, head: line_hash(line) };
        }
        log.sync()?;
        Ok(log)
    }

    /// Appends an event and gives the record and its line. Not synced.
    pub fn append(&mut self, at: Stamp, event: Event) -> Result<(Record, String), JournalError> {
        let record = Record { seq: self.tail.next_seq, prev: self.tail.head.clone(), at, event };
        let line = serde_json::to_string(&record).map_err(|e| JournalError::Line {
            path: self.path.display().to_string(),
            line: 0,
            detail: e.to_string(),
        })?;
        self.write_line(&line)?;
        self.tail = Tail { next_seq: record.seq + 1, head: line_hash(&line) };
        Ok((record, line))
    }

    fn write_line(&mut self, line: &str) -> Result<(), JournalError> {
        // One write a line, so that a full disk or a kill tears the last line only.
        let before = self.file.metadata().map(|m| m.len()).ok();
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(|e| {
            // Take a half-written line away again: the next one must not be glued to it.
            if let Some(len) = before {
                let _ = self.file.set_len(len);
            }
            failed("write", &self.path, e)
        })
    }

    /// Makes everything appended so far survive a loss of power.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|e| failed("sync", &self.path, e))
    }

    /// Where it goes on.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn failed(doing: &'static str, path: &Path, source: std::io::Error) -> JournalError {
    JournalError::File { doing, path: path.display().to_string(), source }
}

/// A new file is durable only once its directory is synced too.
fn sync_directory(path: &Path) -> Result<(), JournalError> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| failed("sync the directory of", path, e))
}

/// Reads a journal and checks its chain.
///
/// # Errors
/// A line that cannot be read, or one that does not follow from the line before it.
pub fn read(path: &Path) -> Result<Vec<Record>, JournalError> {
    let bytes = std::fs::read(path).map_err(|e| failed("read", path, e))?;
    let text = String::from_utf8(bytes).map_err(|e| JournalError::Line {
        path: path.display().to_string(),
        line: 0,
        detail: format!("not UTF-8: {e}"),
    })?;
    read_text(&path.display().to_string(), &text)
}

/// Reads a journal's text and checks its chain; `name` is for messages.
///
/// # Errors
/// As [`read`].
pub fn read_text(name: &str, text: &str) -> Result<Vec<Record>, JournalError> {
    parse(name, text).map(|(records, _)| records)
}

fn parse(name: &str, text: &str) -> Result<(Vec<Record>, Tail), JournalError> {
    let mut records = Vec::new();
    let mut tail = Tail::default();
    for (index, line) in text.lines().enumerate() {
        let record: Record =
            serde_json::from_str(line).map_err(|e| JournalError::Line { path: name.to_owned(), line: index + 1, detail: e.to_string() })?;
        // A journal made out of the in-cluster record lacks the probe runs, so numbers may jump; but only up to the
        // `Resumed` record that says so (its verdict then lacks those runs too, and cannot be a pass).
        let follows = record.seq == tail.next_seq && record.prev == tail.head;
        let jumps = record.seq > tail.next_seq && !records.is_empty();
        if !follows && !jumps {
            return Err(JournalError::Broken { path: name.to_owned(), line: index + 1 });
        }
        tail = Tail { next_seq: record.seq + 1, head: line_hash(line) };
        records.push(record);
    }
    let last_jump = records.windows(2).rposition(|w| w[1].seq != w[0].seq + 1);
    if let Some(jump) = last_jump
        && !records[jump + 1..].iter().any(|r| matches!(r.event, Event::Resumed { .. }))
    {
        return Err(JournalError::Broken { path: name.to_owned(), line: jump + 2 });
    }
    Ok((records, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockId;

    fn stamp(us: i64) -> Stamp {
        Stamp { clock: ClockId("t".into()), mono_us: us, wall_us: us }
    }

    fn sample(path: &Path) -> Log {
        let mut log = Log::create(path).unwrap();
        for n in 0..3 {
            log.append(stamp(n), Event::Note { text: format!("note {n}") }).unwrap();
        }
        log
    }

    #[test]
    fn a_journal_reads_back_and_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        drop(sample(&path));
        let (mut log, records) = Log::reopen(&path).unwrap();
        assert_eq!(records.len(), 3);
        log.append(stamp(9), Event::Note { text: "after".to_owned() }).unwrap();
        let records = read(&path).unwrap();
        assert_eq!(records.last().unwrap().seq, 3);
        assert!(Log::create(&path).is_err(), "a journal is never written over");
    }

    #[test]
    fn a_torn_last_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        drop(sample(&path));
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"seq\":3,\"prev\"")).unwrap();
        assert!(read(&path).is_err());
        let (_, records) = Log::reopen(&path).unwrap();
        assert_eq!(records.len(), 3);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    }

    #[test]
    fn any_change_breaks_the_chain() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        drop(sample(&path));
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        let changed = whole.replace("note 1", "note x");
        let left_out = format!("{}\n{}\n", lines[0], lines[2]);
        let swapped = format!("{}\n{}\n{}\n", lines[1], lines[0], lines[2]);
        let cut_front = format!("{}\n{}\n", lines[1], lines[2]);
        for (what, text) in [("changed", changed), ("left out", left_out), ("swapped", swapped), ("front cut", cut_front)] {
            assert!(matches!(read_text("j", &text), Err(JournalError::Broken { .. })), "{what}");
        }
        assert!(read_text("j", &whole).is_ok());
    }
}
