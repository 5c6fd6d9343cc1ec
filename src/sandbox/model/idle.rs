//! `idle`: runs until it is ended. It listens on every port and answers every HTTP probe, so that ordinary manifests come up.
//!
//! Knobs, read each time they count: `unready` (`true`: readiness fails), `unhealthy` (`true`: liveness fails, too), `stop-takes`
//! (how long it goes on after SIGTERM; 0 unless said otherwise).

use super::{Exec, Model, Next, Probe, Turn, common, probed};

#[derive(Debug, Default)]
pub(super) struct Idle {
    /// It was asked to stop, and ends then.
    ends_us: Option<i64>,
}

impl Model for Idle {
    fn start(&mut self, turn: &mut Turn<'_>) -> Result<Next, String> {
        turn.duration("stop-takes")?;
        turn.say("started");
        Ok(Next::Runs(None))
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Next {
        match self.ends_us {
            Some(ends) if ends <= turn.now_us => Next::Ended(0),
            ends => Next::Runs(ends),
        }
    }

    fn stop(&mut self, turn: &mut Turn<'_>) -> Next {
        turn.say("stopping");
        // A knob that was wrong when it started has kept it from starting; one made wrong since counts as none.
        let takes = turn.duration("stop-takes").ok().flatten().unwrap_or(0);
        let ends = *self.ends_us.get_or_insert(turn.now_us + takes);
        if ends <= turn.now_us { Next::Ended(0) } else { Next::Runs(Some(ends)) }
    }

    fn probe(&mut self, turn: &mut Turn<'_>, probe: &Probe) -> Result<(), String> {
        match probe {
            Probe::Exec(command) => probed(self.exec(turn, command)),
            Probe::Http { .. } | Probe::Tcp if turn.knob("unready") == Some("true") || turn.knob("unhealthy") == Some("true") => {
                Err("HTTP probe failed with statuscode: 503".to_owned())
            }
            Probe::Http { .. } | Probe::Tcp => Ok(()),
            Probe::Other(kind) => Err(format!("not rehearsable: the model has no answer to a {kind} probe")),
        }
    }

    fn exec(&mut self, turn: &mut Turn<'_>, command: &[String]) -> Exec {
        // The two questions that manifests of the tests ask.
        let failed = |yes: bool| Exec::Done { stdout: Vec::new(), stderr: Vec::new(), code: i32::from(yes) };
        match command {
            [word] if word == "ready" => failed(turn.knob("unready") == Some("true")),
            [word] if word == "healthy" => failed(turn.knob("unhealthy") == Some("true")),
            _ => common(command),
        }
    }
}
