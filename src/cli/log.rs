//! Warnings and errors of the library, on standard error. `FIREDRILL_LOG` says what else (`debug`, `firedrill::probe=trace`).

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use indicatif::ProgressBar;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// The variable with the filter.
const VARIABLE: &str = "FIREDRILL_LOG";

/// kube logs each request that fails before its caller has it; what failed is said once, by the caller, with what it was for.
const DEFAULT: &str = "warn,kube_client=off";

/// The live view that is drawn now: lines go above it.
static VIEW: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Shows events from now on; JSON lines where the command's output is for programs.
pub(crate) fn start(json: bool) {
    // A variable that cannot be read is as good as none.
    let wanted = std::env::var(VARIABLE).ok().filter(|wanted| !wanted.is_empty());
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::WARN.into()).parse_lossy(wanted.as_deref().unwrap_or(DEFAULT));
    let color = io::IsTerminal::is_terminal(&io::stderr()) && super::set::color();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(AboveTheView).with_target(false);
    // It would say on standard error that standard error cannot be written, and panic in the midst of a revert.
    let lines = lines.log_internal_errors(false);
    // Only a second call could fail, and there is none.
    let _ = if json { lines.json().try_init() } else { lines.compact().without_time().with_ansi(color).try_init() };
}

/// Lines go above this view, or none is drawn any more.
pub(crate) fn above(view: Option<&ProgressBar>) {
    *VIEW.lock().unwrap_or_else(PoisonError::into_inner) = view.cloned();
}

#[derive(Debug, Clone, Copy)]
struct AboveTheView;

impl<'a> MakeWriter<'a> for AboveTheView {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for AboveTheView {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match &*VIEW.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(view) => view.println(String::from_utf8_lossy(text).trim_end()),
            None => io::stderr().write_all(text)?,
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
