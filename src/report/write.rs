//! Writing the reports into the evidence folder.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{collect, json, junit, markdown, sums};
use crate::journal::Record;

/// The files made from the journal. All others in the folder are left alone.
pub const FILES: [&str; 4] = ["report.json", "junit.xml", "report.md", sums::NAME];

/// Why a report could not be made.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ReportError {
    /// The records are not a drill's.
    #[error("failed to make the report: the journal does not begin with the drill's plan")]
    NoPlan,
    /// A file could not be written or read.
    #[error("failed to {doing} {}", .path.display())]
    #[diagnostic(help("{}", help(source)))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The JUnit file could not be put together.
    #[error("failed to make junit.xml: {0}")]
    Junit(String),
}

impl ReportError {
    pub(super) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }
}

fn help(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "the disk is full; the journal is safe: free some space and run `firedrill report FOLDER`"
        }
        std::io::ErrorKind::PermissionDenied => "the folder belongs to somebody else; copy it and run `firedrill report COPY`",
        _ => "the journal holds all there is; `firedrill report FOLDER` makes the reports again",
    }
}

/// The files of an evidence folder that are no longer as its `SHA256SUMS` has them, or gone: all but the reports, which can be made
/// again. None when there is no such list (the drill's runner died).
///
/// # Errors
/// The list cannot be read.
pub fn altered(dir: &Path) -> Result<Vec<String>, ReportError> {
    sums::altered(dir, &FILES)
}

/// What of an evidence folder is not as its records and its `SHA256SUMS` say, a sentence each: reports that the records do not make,
/// files that were changed, are gone or were put in.
///
/// # Errors
/// The records are no drill's, or a file cannot be read.
pub fn differing(dir: &Path, records: &[Record]) -> Result<Vec<String>, ReportError> {
    let texts = texts(records)?;
    let mut wrong = Vec::new();
    for (name, text) in FILES.iter().zip(&texts) {
        match std::fs::read(dir.join(name)) {
            Ok(bytes) if bytes == text.as_bytes() => {}
            Ok(_) => wrong.push(format!("{name} is not the one that the journal makes")),
            Err(error) => wrong.push(format!("{name} cannot be read: {error}")),
        }
    }
    wrong.extend(sums::differing(dir)?);
    Ok(wrong)
}

/// The reports, in the order of [`FILES`].
fn texts(records: &[Record]) -> Result<[String; 3], ReportError> {
    let report = collect(records).ok_or(ReportError::NoPlan)?;
    Ok([json::render(&report), junit::render(&report)?, markdown::render(&report)])
}

/// Makes `report.json`, `junit.xml`, `report.md` and `SHA256SUMS` in the evidence folder from the records alone. Each file
/// is written beside its place and then moved there, so that a full disk or a lost power never leaves half a report.
pub fn write(dir: &Path, records: &[Record]) -> Result<(), ReportError> {
    let texts = texts(records)?;
    std::fs::create_dir_all(dir).map_err(|e| ReportError::io("make the folder", dir, e))?;
    for (name, text) in FILES.iter().zip(&texts) {
        put(dir, name, text)?;
    }
    put(dir, sums::NAME, &sums::of(dir)?)
}

fn put(dir: &Path, name: &str, text: &str) -> Result<(), ReportError> {
    let (path, half) = (dir.join(name), dir.join(format!(".{name}.new")));
    let written = File::create(&half).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let moved = written.and_then(|()| std::fs::rename(&half, &path));
    moved.map_err(|error| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&half);
        ReportError::io("write", &path, error)
    })
}
