//! Standard output: the one place that writes to it, and remembers when it could not be written.

use std::{
    io::{self, Write as _},
    sync::{Mutex, PoisonError},
};

use crate::exit::Exit;

/// The first failure. Kept aside, because much is printed where nothing could be done about it, and all ends in [`end`].
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes a text to standard output, all of it and now: what is left in a buffer fails when nobody looks.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        failed(error);
    }
}

/// The same with a line break.
pub(crate) fn line(text: impl std::fmt::Display) {
    print(&format!("{text}\n"));
}

/// Remembers a failure. Whoever closed a pipe, as `head` does, has seen what was wanted: that is none.
pub(crate) fn failed(error: io::Error) {
    if error.kind() != io::ErrorKind::BrokenPipe {
        FAILED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// A line on standard error. `eprintln!` would panic where nobody reads it any more, or its disk is full.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use note;

/// As [`note`], without the end of the line.
macro_rules! prompt {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use prompt;

/// How a command ends; where its output could not be written, that is said on standard error, and what would have been 0 is
/// `instead`.
pub(crate) fn end(exit: Exit, instead: Exit) -> Exit {
    match FAILED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        None => exit,
        Some(error) => {
            // The same disk may be behind standard error, where `eprintln!` would panic; the exit code says it still.
            let _ = writeln!(io::stderr(), "failed to write to standard output: {error}; what it got is not whole");
            if exit == Exit::Passed { instead } else { exit }
        }
    }
}
