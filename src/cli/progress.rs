//! One line on a terminal that tells how far a long command is, written over again and again. Elsewhere there is none.

use std::io::{IsTerminal as _, Stderr, Write};

use super::common;

/// To the line's beginning, and nothing behind it.
const AWAY: &str = "\r\u{1b}[2K";

/// The line; it goes away when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress<W: Write = Stderr> {
    /// Nowhere without a terminal.
    to: Option<W>,
    width: usize,
    shown: bool,
}

impl Progress {
    /// On standard error, if that is a terminal.
    pub(crate) fn on_stderr() -> Self {
        let to = std::io::stderr();
        Self::new(to.is_terminal().then_some(to), common::width())
    }
}

impl<W: Write> Progress<W> {
    fn new(to: Option<W>, width: usize) -> Self {
        Self { to, width, shown: false }
    }

    /// Shows this instead of what was shown.
    pub(crate) fn say(&mut self, what: &str) {
        // A line that is broken cannot be written over.
        let what: String = what.chars().filter(|c| !c.is_control()).take(self.width.saturating_sub(1)).collect();
        self.write(&format!("{AWAY}{what}"));
        self.shown = true;
    }

    /// Makes room for what is printed.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            self.write(AWAY);
        }
    }

    /// That it cannot be shown changes nothing.
    fn write(&mut self, text: &str) {
        if let Some(to) = &mut self.to {
            let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_over_and_goes_away_and_without_a_terminal_there_is_none() {
        let mut told = Vec::new();
        let mut progress = Progress::new(Some(&mut told), 12);
        progress.say("seed 1 of 20\n and more");
        progress.say("seed 2");
        drop(progress);
        assert_eq!(String::from_utf8(told).unwrap(), format!("{AWAY}seed 1 of 2{AWAY}seed 2{AWAY}"));
        let mut none = Progress::new(None::<Vec<u8>>, 80);
        none.say("seed 1");
        none.clear();
        assert!(!none.shown);
    }
}
