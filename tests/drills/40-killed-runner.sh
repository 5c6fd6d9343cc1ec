# shellcheck shell=bash disable=SC2317
# The runner of a drill is killed, each time at the first record of another kind; then `firedrill revert`, in an empty folder,
# with nothing but what is in the cluster: nothing is left, no process is frozen, the database is well, and it is never a pass.

# The freeze is short, so that all kinds come up soon: what is tested here is the end, not the failover.
short_freeze() { variant lose-database-primary 's/waitFor: \{probe: checkout, .*\}$/hold: 3s/'; }

killed_at() { # KIND
  local kind=$1 folder=$EVIDENCE_ROOT/killed-$1 runner journal='' rc=0 empty i
  rm -rf "$folder"
  "$FIREDRILL" run "$(short_freeze)" --environment "$SCRATCH/environment.yaml" --yes --auto-ack --quiet --lease 5s --set steady=1s --out "$folder" &
  runner=$!
  for ((i = 0; i < 2000; i++)); do
    journal=$(find "$folder" -name journal.jsonl 2>/dev/null) && [ -n "$journal" ] && break
    sleep 0.01
  done
  # `tail` is told of each line by the kernel, and ends with the runner.
  grep -m 1 "\"event\":{\"$kind\":" < <(tail -n +1 --pid "$runner" --follow "$journal" 2>/dev/null) >/dev/null
  kill -KILL "$runner"
  wait "$runner" || rc=$?
  [ "$rc" = 137 ] || { echo "the runner ended by itself ($rc) before it was killed at '$kind'"; return 1; }
  echo "killed at '$kind', behind it: $(jq -r '.event | keys[0]' "$journal" | tail -n 3 | xargs)"
  # Otherwise `no stopped process` below would say nothing.
  case $kind in
    injected | effective) [ -n "$(stopped_processes)" ] || { echo "nothing was frozen when it was killed"; return 1; } ;;
  esac
  empty=$(mktemp -d "$SCRATCH/empty.XXXXXX")
  rc=0
  (cd "$empty" && "$FIREDRILL" revert --auto-ack --quiet --lease 5s) >"$empty.log" 2>&1 || rc=$?
  tail -n 40 "$empty.log"
  # Aborted and clean. Once the steps had ended there is nothing to abort; what is in the cluster is never enough for a pass.
  case $kind/$rc in
    */4) ;;
    stepsEnded/[13] | reading/[13] | readingsDone/[13] | disarmed/[13] | ended/[13]) ;;
    *) echo "revert ended with $rc"; return 1 ;;
  esac
  [ -z "$(stopped_processes)" ]
  until_true 60 "three members again" replicas_stream
  nothing_left
  "$FIREDRILL" list --output json | jq -e 'length == 0' >/dev/null
}

# One test a kind, whose name is the function's.
killed() { # KIND
  eval "killed_at_$1() { killed_at '$1'; }"
  check "killed at the first '$1': revert from the cluster alone leaves nothing" 150 "killed_at_$1"
}

if [ -n "${DRILLS_FULL:-}" ]; then
  # The kinds that there are, in their order: those of such a drill that was left alone. Its verdict is of no interest.
  all_kinds() {
    drill left-alone 0 "$(short_freeze)" --set steady=1s || true
    jq -e '.verdict.clean' "$EVIDENCE/report.json" >/dev/null
    [ "$(jq -r '.event | keys[0]' "$EVIDENCE/journal.jsonl" | sort -u | wc -l)" -ge 15 ]
    nothing_left
  }
  check "a short freeze leaves a journal with all kinds of records" 200 all_kinds
  for kind in $(jq -r '.event | keys[0]' "$EVIDENCE_ROOT"/left-alone/*/journal.jsonl | awk '!seen[$0]++'); do killed "$kind"; done
else
  # Just before the freeze, in it, and in the middle of its revert.
  for kind in intent effective revertIntent; do killed "$kind"; done
fi
