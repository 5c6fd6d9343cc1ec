//! One suite with the same assertions for the sandbox's API server and for a real one (Kubernetes 1.34).
//!
//! Every case is a test of its own on each side: `sandbox::NAME` and `apiserver::NAME`; `cargo test --test conformance watch` runs
//! those that have `watch` in their name. The real side runs when `FIREDRILL_TEST_KUBECONFIG` names a kubeconfig of a throw-away
//! cluster whose user is an administrator; an API server with a controller-manager is enough (`tests/engine.sh apiserver` brings
//! one up). Without it, it is said on standard error that those did not run.
//!
//! Cases of what controllers, scheduler and kubelets do need nodes: in the sandbox those of its own, and on the real side a cluster of the testbed
//! that `FIREDRILL_TESTBED_KUBECONFIG` names (`kubelets::NAME`; `tests/engine.sh nodes`). On an API server alone they are left out, which is said, too.
//!
//! A case never knows which side it is on. What differs by nature is in [`differences::KNOWN_DIFFERENCES`]: such a case must fail
//! there, so that the list stays true. [`requests`] compares what the cases ask for with what real drills have asked for.

mod answer;
mod asked;
mod bench;
mod cases;
mod differences;
mod kinds;
mod nodes;
mod requests;
mod sides;
mod watch;

use std::{io::Write as _, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::{
    bench::{Bench, BenchFuture},
    differences::{KNOWN_DIFFERENCES, Side},
};

/// One case: what it is called, what it shows, and the assertions.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// A short sentence.
    pub(crate) says: &'static str,
    /// It needs nodes and all that makes them run something.
    pub(crate) nodes: bool,
    pub(crate) run: for<'a> fn(&'a Bench) -> BenchFuture<'a>,
}

/// `case!(function, "sentence")`: the function's name is the case's. `case!(nodes function, "sentence")`: it needs nodes.
macro_rules! case {
    ($name:ident, $says:literal) => {
        $crate::Case { name: stringify!($name), says: $says, nodes: false, run: |bench| Box::pin($name(bench)) }
    };
    (nodes $name:ident, $says:literal) => {
        $crate::Case { name: stringify!($name), says: $says, nodes: true, run: |bench| Box::pin($name(bench)) }
    };
}
pub(crate) use case;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = requests::trials();
    trials.push(Trial::test("suite::the_known_differences_are_those_that_the_docs_list", differences::compare_with_docs));
    trials.push(Trial::test("suite::there_are_enough_cases_and_no_name_twice", enough));
    for case in cases::all() {
        trials.push(trial(case, Side::Sandbox, move || sides::on_sandbox(case).map(drop)));
        let side = if case.nodes { Side::Kubelets } else { Side::ApiServer };
        if let Some(kubeconfig) = sides::kubeconfig(side) {
            trials.push(trial(case, side, move || sides::on_real(case, side, &kubeconfig)));
        }
    }
    let mut said = std::io::stderr().lock();
    for (side, what) in [(Side::ApiServer, "a real API server"), (Side::Kubelets, "real kubelets")] {
        let count = cases::all().filter(|case| case.nodes == (side == Side::Kubelets)).count();
        if sides::kubeconfig(side).is_none() && !arguments.list {
            let _ = writeln!(
                said,
                "conformance: NOT RUN against {what}, without {}: {count} cases, which run in the sandbox alone; tests/engine.sh brings a cluster up",
                sides::variable(side)
            );
        }
    }
    for (case, side, why) in KNOWN_DIFFERENCES {
        let _ = writeln!(said, "conformance: known difference: {case} on the {side}: {why}");
    }
    drop(said);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A case on a side, the other way round where it is known to differ.
fn trial(case: &'static Case, side: Side, run: impl FnOnce() -> Result<(), String> + Send + 'static) -> Trial {
    let known = KNOWN_DIFFERENCES.iter().find(|(name, at, _)| *name == case.name && *at == side);
    Trial::test(format!("{}::{}", side.module(), case.name), move || match (run(), known) {
        (Ok(()), None) | (Err(_), Some(_)) => Ok(()),
        (Err(why), None) => Err(Failed::from(format!("{}\n{why}", case.says))),
        (Ok(()), Some(_)) => Err(Failed::from("it no longer differs: take it out of KNOWN_DIFFERENCES and of docs/sandbox.md")),
    })
}

/// As many as were promised.
fn enough() -> Result<(), Failed> {
    let mut names: Vec<&str> = cases::all().map(|case| case.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    if names.len() != count {
        return Err(Failed::from("two cases have the same name"));
    }
    if let Some((stranger, ..)) = KNOWN_DIFFERENCES.iter().find(|(name, ..)| names.binary_search(name).is_err()) {
        return Err(Failed::from(format!("KNOWN_DIFFERENCES names {stranger}, which is no case")));
    }
    if count < 120 { Err(Failed::from(format!("{count} cases; at least 120 were promised"))) } else { Ok(()) }
}
