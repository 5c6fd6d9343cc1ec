# shellcheck shell=bash
# `down` leaves nothing, however far `up` came.

# up_killed_at STEP: kill `up` by force once it says that it is past STEP.
up_killed_at() {
  local at=$1 up
  "$TESTBED" up --cluster smoke-kill --nodes 1 >"$SCRATCH/up.out" 2>&1 &
  up=$!
  within 100 grep -F "$at" "$SCRATCH/up.out"
  kill -KILL "$up"
  wait "$up" || true
}

killed_up_leaves_nothing() {
  local at
  for at in "keys and certificates" "start 1 nodes" "control plane ready" "nodes ready"; do
    up_killed_at "$at"
    "$TESTBED" down --cluster smoke-kill
    same_inventory "$SCRATCH/inventory-kill" 'smoke-*'
  done
}

# Instants between the steps, too: some tenths of a second apart, with no look at how far it came.
up_killed_anywhere_leaves_nothing() {
  local tenths up
  for tenths in 3 9 21; do
    "$TESTBED" up --cluster smoke-kill --nodes 1 >"$SCRATCH/up.out" 2>&1 &
    up=$!
    sleep "$((tenths / 10)).$((tenths % 10))"
    kill -KILL "$up"
    wait "$up" || true
    "$TESTBED" down --cluster smoke-kill
    same_inventory "$SCRATCH/inventory-kill" 'smoke-*'
  done
}

up_after_a_killed_up_works() {
  up_killed_at "start 1 nodes"
  "$TESTBED" up --cluster smoke-kill --nodes 1
  use smoke-kill
  equal "$(kubectl get nodes --no-headers | grep -cw Ready)" 1
  # Its daemons killed behind its back, it is not up any more; a new `up` starts from nothing.
  kill -KILL "$(cat "$STATE/run/apiserver.pid")"
  "$TESTBED" up --cluster smoke-kill --mode apiserver
  equal "$(kubectl get --raw /readyz)" ok
  "$TESTBED" down --cluster smoke-kill
  same_inventory "$SCRATCH/inventory-kill" 'smoke-*'
}

inventory 'smoke-*' >"$SCRATCH/inventory-kill"
check "up killed after any step, then down: nothing is left" 300 killed_up_leaves_nothing
check "up killed at any instant, then down: nothing is left" 120 up_killed_anywhere_leaves_nothing
check "up after a killed up, and after dead daemons, works" 120 up_after_a_killed_up_works
