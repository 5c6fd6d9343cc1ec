#!/usr/bin/env bash
# The engine's suites against a real API server, and the node helper's against real kubelets: engine.sh [apiserver|nodes].
#
#   apiserver   plan, full disk, watchdog, the contract of each API fault, the runner killed at every record, signals, Leases, a stalled API server,
#               verdicts, and the cases that the sandbox's API server is held to; on a cluster of etcd, API server and controller-manager
#   nodes       what faults do to real kubelets' processes, volumes, traffic, objects and nodes, runbooks in pods, and the cases that the sandbox's controllers
#               and kubelets are held to; on a cluster of three nodes, on which nothing must then be left (sweep.sh)
# Without an argument, both. Brings up clusters of its own and ends them. Needs root and what the testbed needs.
# FIREDRILL_TEST_FULL=1: at every record what is otherwise done at a sample. Each suite's sum is cargo's line `test result: …`.
set -uo pipefail
REPOSITORY=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
TESTBED=$REPOSITORY/tests/testbed/testbed
cd "$REPOSITORY" || exit 1
part=${1:-all}
case $part in apiserver | nodes | all) ;; *)
  echo "engine.sh [apiserver|nodes]" >&2
  exit 2
  ;;
esac

scratch=$(mktemp)
before=$(mktemp)
ours=()
# shellcheck disable=SC2317 # called by the trap
finish() {
  local rc=$? name
  trap - EXIT
  rm -f "$scratch" "$before"
  for name in "${ours[@]}"; do "$TESTBED" down --cluster "$name" || rc=1; done
  exit "$rc"
}
trap finish EXIT
trap 'exit 130' INT TERM

# cluster NAME ARGUMENT…: brings one up; its kubeconfig is then $kubeconfig.
cluster() {
  local name=$1
  shift
  "$TESTBED" down --cluster "$name" >/dev/null 2>&1
  ours+=("$name")
  "$TESTBED" up --cluster "$name" "$@" || return 1
  eval "$("$TESTBED" env --cluster "$name")"
  kubeconfig=${KUBECONFIG:?}
}

failed=0
# suite NAME VARIABLE [ARGUMENT…]: runs a test crate with the cluster's kubeconfig in a variable.
suite() {
  local name=$1 variable=$2
  shift 2
  printf '\n# %s (%s)\n' "$name" "$(date -u +%T)"
  env "$variable=$kubeconfig" cargo test --locked --test "$name" -- --nocapture "$@"
}

# What is slow to build is built before anything is up.
cargo test --locked --no-run --test apiserver_plan --test apiserver_faults --test apiserver_full_disk --test apiserver_watchdog --test apiserver_engine \
  --test conformance --test testbed_faults --test testbed_inside --test testbed_api_faults --test testbed_node_faults --test cluster_runbook || exit 1

if [ "$part" != nodes ]; then
  cluster engine --mode apiserver || exit 1
  for name in apiserver_plan apiserver_faults apiserver_full_disk apiserver_watchdog apiserver_engine; do
    suite "$name" FIREDRILL_TEST_KUBECONFIG || failed=1
  done
  suite conformance FIREDRILL_TEST_KUBECONFIG apiserver:: || failed=1
fi
if [ "$part" != apiserver ]; then
  cluster nodes || exit 1
  tests/sweep.sh nodes >"$before" || exit 1
  # Beside each other: all mostly wait, in namespaces of their own.
  {
    suite cluster_runbook FIREDRILL_TEST_KUBECONFIG
    runbook=$?
    suite testbed_inside FIREDRILL_TESTBED_KUBECONFIG --test-threads 4 && [ "$runbook" = 0 ]
  } >"$scratch" 2>&1 &
  beside=$!
  suite testbed_faults FIREDRILL_TESTBED_KUBECONFIG || failed=1
  wait "$beside" || failed=1
  cat "$scratch"
  # Many at once, for they mostly wait; it cordons a node.
  suite conformance FIREDRILL_TESTBED_KUBECONFIG --test-threads 12 kubelets:: || failed=1
  # By itself: it drains a node.
  suite testbed_api_faults FIREDRILL_TESTBED_KUBECONFIG || failed=1
  # Alone: it takes nodes from under whatever else runs.
  suite testbed_node_faults FIREDRILL_TESTBED_KUBECONFIG || failed=1
  printf '\n# what is left on the cluster (%s)\n' "$(date -u +%T)"
  tests/sweep.sh --same "$before" nodes || failed=1
fi
exit "$failed"
