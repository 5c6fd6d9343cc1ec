#!/usr/bin/env bash
# The simulation tests in an optimised build: simulation.sh [--seeded] [ARGUMENT OF THE TEST PROGRAM…]. `FIREDRILL_SIM_SEEDS`, `_FROM`, `_SEED`:
# see docs/simulation.md.
#
# By itself with the library that the testbed's image is compiled of (no debug assertions, none of the bugs that are planted for the
# checkers: `cargo test` has those). --seeded makes a build of its own, with debug assertions, planted bugs, and `tokio_unstable`, without which nobody can
# seed what tokio's `select!` picks: then whole journals are compared. It makes every crate another one and takes minutes.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
if [ "${1:-}" = --seeded ]; then
  shift
  export CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/firedrill/cargo-sim
  export RUSTFLAGS="${RUSTFLAGS:-} --cfg tokio_unstable"
  exec cargo test --locked --profile sim --test simulation -- --nocapture "$@"
fi
exec tests/testbed/testbed cargo test --locked --release --test simulation -- --nocapture "$@"
