#!/usr/bin/env bash
# The simulation tests as fast as they go and with all chance seeded: simulation.sh [ARGUMENTS OF THE TEST PROGRAM].
# `FIREDRILL_SIM_SEEDS`, `_FROM`, `_SEED`, `_PROCESSES`: see docs/simulation.md. Builds in a directory of its own, because
# `tokio_unstable`, without which nobody can seed what tokio's `select!` picks, makes every crate another one.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
export CARGO_TARGET_DIR=${FIREDRILL_SIM_TARGET:-${XDG_CACHE_HOME:-$HOME/.cache}/firedrill/cargo-sim}
export RUSTFLAGS="${RUSTFLAGS:-} --cfg tokio_unstable"
exec cargo test --locked --profile sim --test simulation "$@"
