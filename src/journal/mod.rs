//! The drill's append-only event log. Everything else derives from it.
//!
//! Two copies: a file beside the runner, whole and hash-chained, and a record in the cluster, which holds what resume
//! and revert need. An intent is in both before anything changes.
//!
//! **Architecture invariant:** the journal knows nothing of how events come about or what they mean; it makes them
//! durable, in order.

mod disk;
#[cfg(debug_assertions)]
mod doomed;
mod event;
mod handle;
mod log;
mod record;
mod seen;
mod stop;

pub use disk::{Disk, MemoryDisk, Moment, Synced};
pub use event::*;
pub use handle::{Journal, Listener};
pub use log::{Log, NO_HASH, Tail, line_hash, read, read_on, read_text, read_whole};
pub use record::{Inbox, InboxItem, RecordStore, StoredRecord, find_record, find_records, record_exists, record_name};
pub use seen::*;
pub use stop::{STOP, Stop};

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file.
    #[error("failed to {doing} {path}: {source}{}", way_out(source))]
    File {
        /// `write`, `read` …
        doing: &'static str,
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A line that is not a record.
    #[error("failed to read {path}, line {line}: {detail}")]
    Line {
        /// Which file.
        path: String,
        /// Which line, from 1.
        line: usize,
        /// Why.
        detail: String,
    },
    /// The chain of hashes is broken: something was changed, left out or put in.
    #[error("the journal {path} is not whole: line {line} does not follow from the line before")]
    Broken {
        /// Which file.
        path: String,
        /// Which line, from 1.
        line: usize,
    },
    /// The in-cluster record could not be written or read.
    #[error("failed to {doing} record ConfigMap {name}: {detail}")]
    Record {
        /// `write`, `read` …
        doing: &'static str,
        /// `namespace/name`.
        name: String,
        /// Why.
        detail: String,
    },
    /// Another runner has written to the in-cluster record: this one is fenced off and must not act.
    #[error("another runner has taken over drill {drill}: this runner has stopped and changes nothing more")]
    Fenced {
        /// The drill.
        drill: String,
    },
}

/// What to do about an error of a file.
fn way_out(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => "; free some space there, or name another folder with --out",
        PermissionDenied | ReadOnlyFilesystem => "; name a folder that can be written with --out",
        _ => "",
    }
}
