//! `batch`: ends by itself after a time.
//!
//! Knobs: `runs-for` (10 s unless said otherwise), `exit-code` (0).

use super::{Exec, Model, Next, Probe, Turn, common, probed};

const RUNS_US: i64 = 10_000_000;

#[derive(Debug, Default)]
pub(super) struct Batch {
    ends_us: i64,
    code: i32,
}

impl Model for Batch {
    fn start(&mut self, turn: &mut Turn<'_>) -> Result<Next, String> {
        let code = turn.knob("exit-code").unwrap_or("0");
        self.code = match code.parse() {
            Ok(code) if (0..256).contains(&code) => code,
            _ => return Err(format!("annotation sandbox.firedrill.dev/exit-code: `{code}` is no exit code")),
        };
        self.ends_us = turn.now_us + turn.duration("runs-for")?.unwrap_or(RUNS_US);
        turn.say("started");
        Ok(self.turn(turn))
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Next {
        if self.ends_us > turn.now_us {
            return Next::Runs(Some(self.ends_us));
        }
        turn.say(&format!("ended with code {}", self.code));
        Next::Ended(self.code)
    }

    /// It does not catch the signal: 128 + SIGTERM.
    fn stop(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Ended(143)
    }

    fn probe(&mut self, turn: &mut Turn<'_>, probe: &Probe) -> Result<(), String> {
        match probe {
            Probe::Exec(command) => probed(self.exec(turn, command)),
            Probe::Http { path } => Err(format!("Get {path:?}: dial tcp: connect: connection refused")),
            Probe::Tcp => Err("dial tcp: connect: connection refused".to_owned()),
            Probe::Other(kind) => Err(format!("not rehearsable: the model has no answer to a {kind} probe")),
        }
    }

    fn exec(&mut self, _turn: &mut Turn<'_>, command: &[String]) -> Exec {
        common(command)
    }
}
