//! Tests of the verdict: a made-up drill in which each case changes one thing, and simulated samplers against a known truth.

mod cases;
mod detection;
pub(crate) mod kit;
mod sampler;
mod truth;
