//! The journal as a file: one JSON record a line, each naming the SHA-256 of the line before.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Disk, Event, JournalError, Record, disk::Open};
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

/// How much is kept in memory for a file that cannot be written, in bytes. A drill whose journal fails is aborted; what follows
/// are its reverts and the last look at its probes.
const MOST_KEPT: usize = 8 << 20;

/// The file being written.
///
/// When the disk is full or fails, the log goes on in memory: the numbers and the chain of hashes stay whole, and each further line
/// tries to write those before it first. Whoever relies on the file asks [`Log::sync`], which then says no.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Open,
    tail: Tail,
    /// Lines that the file lacks, in order.
    kept: Vec<String>,
    kept_bytes: usize,
    /// Why a line could not be written first.
    failure: Option<String>,
    /// A half-written line could not be taken away again, or more lines are lacking than can be kept: the file ends here.
    given_up: bool,
}

impl Log {
    /// A new journal; refused if the file exists, because a journal is never written over.
    pub fn create(path: &Path) -> Result<Self, JournalError> {
        Self::create_on(&Disk::Host, path)
    }

    /// As [`Self::create`], on another disk.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_on(disk: &Disk, path: &Path) -> Result<Self, JournalError> {
        let file = disk.create(path).map_err(|e| failed("create", path, e))?;
        disk.sync_directory(path).map_err(|e| failed("sync the directory of", path, e))?;
        Ok(Self::onto(path, file, Tail::default()))
    }

    fn onto(path: &Path, file: Open, tail: Tail) -> Self {
        Self { path: path.to_owned(), file, tail, kept: Vec::new(), kept_bytes: 0, failure: None, given_up: false }
    }

    /// Goes on with a journal. A torn last line (power was lost while it was written) is cut off: what it said was not
    /// yet relied on, because nothing is done before its intent is synced.
    pub fn reopen(path: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        Self::reopen_on(&Disk::Host, path)
    }

    /// As [`Self::reopen`], on another disk.
    ///
    /// # Errors
    /// As [`Self::reopen`].
    pub fn reopen_on(disk: &Disk, path: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        let bytes = disk.read(path).map_err(|e| failed("read", path, e))?;
        let text = String::from_utf8(bytes).map_err(|e| failed("read", path, std::io::Error::new(std::io::ErrorKind::InvalidData, e)))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let (records, tail) = parse(&path.display().to_string(), &text[..whole])?;
        let file = disk.open(path).map_err(|e| failed("open", path, e))?;
        if whole < text.len() {
            file.set_len(whole as u64).map_err(|e| failed("cut the torn last line of", path, e))?;
        }
        Ok((Self::onto(path, file, tail), records))
    }

    /// Brings a journal up to a record in the cluster that knows more than the file (which could not be written at its end).
    ///
    /// # Errors
    /// The record does not follow from the file, or the file cannot be written.
    pub fn extend(&mut self, lines: &[String]) -> Result<Vec<Record>, JournalError> {
        let mut added = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let record: Record = read_recorded(line)?;
            if record.seq < self.tail.next_seq {
                continue;
            }
            if record.seq == self.tail.next_seq && record.prev != self.tail.head {
                return Err(JournalError::Broken { path: "in the cluster (its record)".to_owned(), line: index + 1 });
            }
            self.write_line(line)?;
            self.tail = Tail { next_seq: record.seq + 1, head: line_hash(line) };
            added.push(record);
        }
        self.sync()?;
        Ok(added)
    }

    /// Starts a journal with records that came from elsewhere (the in-cluster record), as they are.
    pub fn copy_of(disk: &Disk, path: &Path, lines: &[String]) -> Result<Self, JournalError> {
        let mut log = Self::create_on(disk, path)?;
        for line in lines {
            let record: Record = read_recorded(line)?;
            log.write_line(line)?;
            log.tail = Tail { next_seq: record.seq + 1, head: line_hash(line) };
        }
        log.sync()?;
        Ok(log)
    }

    /// Appends an event and gives the record and its line. Not synced; and not even written if the disk is full or fails, which
    /// [`Self::failure`] and [`Self::sync`] say.
    ///
    /// # Errors
    /// The event cannot be said in JSON.
    pub fn append(&mut self, at: Stamp, event: Event) -> Result<(Record, String), JournalError> {
        let record = Record { seq: self.tail.next_seq, prev: self.tail.head.clone(), at, event };
        let line = serde_json::to_string(&record).map_err(|e| JournalError::Line {
            path: self.path.display().to_string(),
            line: 0,
            detail: e.to_string(),
        })?;
        self.tail = Tail { next_seq: record.seq + 1, head: line_hash(&line) };
        self.keep(line.clone());
        if let Err(error) = self.write_kept() {
            self.failure.get_or_insert_with(|| error.to_string());
        }
        Ok((record, line))
    }

    fn keep(&mut self, line: String) {
        self.kept_bytes += line.len();
        self.given_up |= self.kept_bytes > MOST_KEPT;
        if !self.given_up || self.kept.is_empty() {
            self.kept.push(line);
        }
    }

    /// Writes the lines that the file lacks, as far as it takes them.
    fn write_kept(&mut self) -> Result<(), JournalError> {
        let mut written = 0;
        let mut result = Ok(());
        for line in std::mem::take(&mut self.kept) {
            if result.is_ok() {
                result = self.write_line(&line);
            }
            if result.is_ok() {
                written += line.len();
            } else {
                self.kept.push(line);
            }
        }
        self.kept_bytes = self.kept_bytes.saturating_sub(written);
        result
    }

    fn write_line(&mut self, line: &str) -> Result<(), JournalError> {
        if self.given_up {
            return Err(failed("write", &self.path, std::io::Error::other("writing was given up after an earlier error")));
        }
        // One write a line, so that a full disk or a kill tears the last line only.
        let before = self.file.len();
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(|e| {
            // Take a half-written line away again: the next one must not be glued to it.
            if self.file.len() != before {
                self.given_up |= before.is_none_or(|before| self.file.set_len(before).is_err());
            }
            failed("write", &self.path, e)
        })
    }

    /// Makes everything appended so far survive a loss of power.
    ///
    /// # Errors
    /// Something of it is not even written, or the disk fails.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.write_kept()?;
        self.file.sync().map_err(|e| {
            let error = failed("sync", &self.path, e);
            self.failure.get_or_insert_with(|| error.to_string());
            error
        })
    }

    /// Why a line could not be written or synced first, if ever.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The lines that the file lacks.
    pub fn unwritten(&self) -> &[String] {
        &self.kept
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

/// A line of the record in the cluster.
fn read_recorded(line: &str) -> Result<Record, JournalError> {
    serde_json::from_str(line).map_err(|e| JournalError::Line {
        path: "the record in the cluster".to_owned(),
        line: 0,
        detail: e.to_string(),
    })
}

fn failed(doing: &'static str, path: &Path, source: std::io::Error) -> JournalError {
    JournalError::File { doing, path: path.display().to_string(), source }
}

/// Reads a journal and checks its chain.
///
/// # Errors
/// A line that cannot be read, or one that does not follow from the line before it.
pub fn read(path: &Path) -> Result<Vec<Record>, JournalError> {
    read_on(&Disk::Host, path)
}

/// As [`read`], from another disk.
///
/// # Errors
/// As [`read`].
pub fn read_on(disk: &Disk, path: &Path) -> Result<Vec<Record>, JournalError> {
    let bytes = disk.read(path).map_err(|e| failed("read", path, e))?;
    read_bytes(path, &bytes)
}

/// Reads the whole lines of a journal and checks their chain; says whether a last one was cut short, as by a runner's death.
///
/// # Errors
/// As [`read`], but not for such a line.
pub fn read_whole(path: &Path) -> Result<(Vec<Record>, bool), JournalError> {
    let bytes = std::fs::read(path).map_err(|e| failed("read", path, e))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    Ok((read_bytes(path, &bytes[..whole])?, whole < bytes.len()))
}

fn read_bytes(path: &Path, bytes: &[u8]) -> Result<Vec<Record>, JournalError> {
    let name = path.display().to_string();
    match std::str::from_utf8(bytes) {
        Ok(text) => read_text(&name, text),
        Err(error) => Err(JournalError::Line { path: name, line: 0, detail: format!("not UTF-8: {error}") }),
    }
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
    use std::fs::{File, OpenOptions};

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
        let (records, torn) = read_whole(&path).unwrap();
        assert_eq!((records.len(), torn), (3, true));
        let (_, records) = Log::reopen(&path).unwrap();
        assert_eq!(records.len(), 3);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    }

    fn note(n: i64) -> Event {
        Event::Note { text: format!("note {n}") }
    }

    #[test]
    fn a_full_disk_fails_no_append_but_every_sync() {
        let file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut log = Log::onto(Path::new("/dev/full"), Open::Host(file), Tail::default());
        for n in 0..3 {
            assert_eq!(log.append(stamp(n), note(n)).unwrap().0.seq, n as u64);
        }
        assert!(log.failure().unwrap().contains("No space left on device"), "{:?}", log.failure());
        let said = log.sync().unwrap_err().to_string();
        assert!(said.contains("/dev/full") && said.contains("--out"), "{said}");
        // In memory the chain is whole.
        let text: String = log.unwritten().iter().map(|line| format!("{line}\n")).collect();
        assert_eq!(read_text("kept", &text).unwrap().len(), 3);
    }

    #[test]
    fn what_could_not_be_written_is_written_once_there_is_room() {
        use std::io::Read as _;
        // A socket that nobody reads fills up as a disk does, and can be emptied again.
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut log = Log::onto(Path::new("socket"), Open::Host(File::from(std::os::fd::OwnedFd::from(ours))), Tail::default());
        let mut n = 0;
        while log.failure().is_none() {
            assert!(n < 100_000, "it is never full");
            log.append(stamp(n), note(n)).unwrap();
            n += 1;
        }
        log.append(stamp(n), note(n)).unwrap();
        let lacking = log.unwritten().len();
        assert!(lacking >= 2, "{lacking}");
        let mut text = String::new();
        assert!(theirs.read_to_string(&mut text).is_err(), "it is open still");
        log.append(stamp(n + 1), note(n + 1)).unwrap();
        assert!(log.unwritten().is_empty());
        assert!(theirs.read_to_string(&mut text).is_err(), "it is open still");
        assert_eq!(read_text("socket", &text).unwrap().len() as i64, n + 2);
        // It has failed once all the same.
        assert!(log.failure().is_some());
    }

    #[test]
    fn memory_for_a_full_disk_has_a_limit() {
        let file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut log = Log::onto(Path::new("/dev/full"), Open::Host(file), Tail::default());
        let text = "x".repeat(1 << 20);
        for n in 0..20 {
            log.append(stamp(n), Event::Note { text: text.clone() }).unwrap();
        }
        let kept: usize = log.unwritten().iter().map(String::len).sum();
        assert!(kept <= MOST_KEPT, "{kept}");
        assert!(log.sync().is_err());
    }

    #[test]
    fn a_file_behind_its_record_is_brought_up_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut log = sample(&path);
        let lines: Vec<String> = (3..6).map(|n| log.append(stamp(n), note(n)).unwrap().1).collect();
        drop(log);
        // The file lacks the last three lines, the record only the fourth: what is not recorded is lost with the file.
        let whole = std::fs::read_to_string(&path).unwrap();
        let cut: String = whole.lines().take(3).map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, cut).unwrap();
        let recorded: Vec<String> = whole.lines().take(1).map(str::to_owned).chain(lines[1..].iter().cloned()).collect();
        let (mut log, records) = Log::reopen(&path).unwrap();
        assert_eq!((records.len(), log.extend(&recorded).unwrap().len()), (3, 2));
        assert_eq!(log.tail().head, line_hash(&lines[2]));
        assert_eq!(log.append(stamp(9), note(9)).unwrap().0.seq, 6);
        // A record of another drill does not follow.
        let other = vec![serde_json::to_string(&Record { seq: 7, prev: NO_HASH.to_owned(), at: stamp(9), event: note(9) }).unwrap()];
        assert!(matches!(log.extend(&other), Err(JournalError::Broken { .. })));
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
