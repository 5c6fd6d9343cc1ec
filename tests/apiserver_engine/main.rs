//! The whole engine against a real API server: the real command, real drills, and everything that can befall its runner.
//!
//! `tests/engine.sh` brings a cluster up and runs this. There are no kubelets; what a kubelet would say of pods the tests say.
//! `FIREDRILL_TEST_FULL=1` does at every record what is otherwise done at a sample.

mod kill9;
mod kit;
mod latency;
mod people;
mod runner;
mod stall;
mod stop;
#[expect(dead_code, reason = "shared by suites, each of which uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod verdicts;
