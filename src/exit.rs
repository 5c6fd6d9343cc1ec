//! The exit codes: the one place that says them.

/// How a `firedrill` command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: the drill passed, or the command did what it was asked.
    Passed,
    /// 1: the drill failed: an objective was missed.
    Failed,
    /// 2: wrong usage, or a scenario or environment with mistakes.
    Usage,
    /// 3: inconclusive: what was measured does not decide the objectives.
    Inconclusive,
    /// 4: refused before anything was changed, or aborted (and reverted).
    Refused,
    /// 5: not clean: something of a fault is left in the cluster. Wins over all others.
    NotClean,
}

impl Exit {
    /// The process exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Inconclusive => 3,
            Self::Refused => 4,
            Self::NotClean => 5,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
