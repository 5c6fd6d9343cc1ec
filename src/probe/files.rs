//! The raw series: one CSV file a probe in the evidence folder's `samples/`.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write as _},
    path::Path,
};

use super::Sample;
use crate::clock::Stamp;

const HEADER: &str = "n,clock,send_us,send_wall_us,took_us,state,detail\n";

/// A probe's file. After the first failure nothing more is written: a series with a hole that nobody sees is worse than
/// one that ends.
#[derive(Debug)]
pub(super) struct SampleFile {
    writer: Option<BufWriter<File>>,
}

impl SampleFile {
    /// Opens the file for adding to it, so that a resumed drill keeps what was there.
    pub(super) fn open(dir: &Path, probe: &str) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let file = OpenOptions::new().create(true).append(true).open(dir.join(file_name(probe)))?;
        let fresh = file.metadata()?.len() == 0;
        let mut writer = BufWriter::with_capacity(1 << 16, file);
        if fresh {
            writer.write_all(HEADER.as_bytes())?;
        }
        Ok(Self { writer: Some(writer) })
    }

    pub(super) fn sample(&mut self, sample: &Sample) -> io::Result<()> {
        let took = sample.complete.mono_us - sample.send.mono_us;
        self.row(&sample.n.to_string(), &sample.send, &took.to_string(), &sample.state.to_string(), &sample.detail)
    }

    /// A row of any kind: for a ledger also its writes, `w17` with `sent`, `ok`, `fail` or `unknown`.
    pub(super) fn row(&mut self, n: &str, at: &Stamp, took: &str, state: &str, detail: &str) -> io::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let row = format!("{n},{},{},{},{took},{state},{}\n", at.clock, at.mono_us, at.wall_us, quoted(detail));
        let written = writer.write_all(row.as_bytes());
        self.ended_by(written)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let written = writer.flush();
        self.ended_by(written)
    }

    fn ended_by(&mut self, written: io::Result<()>) -> io::Result<()> {
        if written.is_err()
            && let Some(writer) = self.writer.take()
        {
            // What is in the buffer cannot be written; dropping it must not try again.
            drop(writer.into_parts());
        }
        written
    }
}

/// The file's name: a probe's name never leads out of the folder.
pub(super) fn file_name(probe: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    format!("{}.csv", probe.chars().map(safe).collect::<String>())
}

/// A field as RFC 4180 has it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, scenario::types::ProbeState};

    fn sample(n: u64, detail: &str) -> Sample {
        let clock = Clock::host_as("c");
        let (send, complete) = (Stamp { mono_us: 10, wall_us: 20, ..clock.now() }, Stamp { mono_us: 15, wall_us: 25, ..clock.now() });
        Sample { n, send, complete, state: ProbeState::Bad, detail: detail.to_owned() }
    }

    #[test]
    fn rows_are_csv_and_a_second_opening_adds() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..2 {
            let mut file = SampleFile::open(dir.path(), "web").unwrap();
            file.sample(&sample(n, "said \"no\", twice")).unwrap();
            file.flush().unwrap();
        }
        let text = std::fs::read_to_string(dir.path().join("web.csv")).unwrap();
        let row = |n| format!("{n},c,10,20,5,bad,\"said \"\"no\"\", twice\"\n");
        assert_eq!(text, format!("{HEADER}{}{}", row(0), row(1)));
    }

    #[test]
    fn a_full_disk_is_told_once() {
        // Every write to /dev/full fails as a full disk does.
        let mut file = SampleFile { writer: Some(BufWriter::with_capacity(1, File::options().write(true).open("/dev/full").unwrap())) };
        assert_eq!(file.sample(&sample(0, "x")).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.sample(&sample(1, "x")).unwrap();
        file.flush().unwrap();
    }
}
