# shellcheck shell=bash
# What `.ci/run` is made of: steps, suites, and the sum of what they counted. Sourced.

PASSED=0
FAILED=0
NOTES=()

heading() { printf '\n==== %s (%s)\n' "$1" "$(date -u +%T)"; }

# retry COMMAND…: three tries; a mirror or proxy may drop a connection.
retry() {
  local attempt
  for attempt in 1 2 3; do
    "$@" && return
    echo "attempt $attempt failed: $*"
    sleep $((attempt * 5))
  done
  return 1
}

# limited SECONDS LOG COMMAND…: run with a limit and without input, show the output and keep it. On time-out the whole
# process group is ended.
limited() {
  local limit=$1 log=$2 rc
  shift 2
  timeout --kill-after=20 "$limit" "$@" </dev/null 2>&1 | tee "$log"
  rc=${PIPESTATUS[0]}
  if [ "$rc" = 124 ] || [ "$rc" = 137 ]; then echo "took longer than its limit of $limit s" | tee -a "$log"; fi
  return "$rc"
}

# step NAME LIMIT COMMAND…: something that must succeed for the rest to make sense. If it fails, this ends.
step() {
  local name=$1 limit=$2
  shift 2
  heading "$name"
  if ! limited "$limit" "$LOGS/$name.log" "$@"; then
    count "$name" 0 1 "failed; nothing after it was run"
    exit 1
  fi
}

# lint NAME LIMIT COMMAND…: a check that only says yes or no; counts as one.
lint() {
  local name=$1 limit=$2
  shift 2
  heading "$name"
  if limited "$limit" "$LOGS/$name.log" "$@"; then count "$name" 1 0; else count "$name" 0 1 "failed"; fi
}

# suite NAME LIMIT COMMAND…: tests that count themselves, either by a last line `N passed, N failed` or by cargo's
# `test result:` lines. No count, no success: a suite that ran nothing or was cut short has failed.
suite() {
  local name=$1 limit=$2 rc=0
  shift 2
  heading "$name"
  limited "$limit" "$LOGS/$name.log" "$@" || rc=$?
  counted "$name" "$rc"
}

# beside NAME LIMIT COMMAND…: a suite whose time is virtual, begun now beside those that mostly wait: it gets what they leave of the
# processors and nothing else. `joined` tells how it went.
declare -A BESIDE=()
beside() {
  local name=$1 limit=$2
  shift 2
  heading "$name: begun beside what follows"
  chrt --idle 0 timeout --kill-after=20 "$limit" "$@" </dev/null >"$LOGS/$name.log" 2>&1 &
  BESIDE[$name]=$!
}

# joined NAME: waits for a suite that was begun beside others.
joined() {
  local name=$1 rc=0
  heading "$name"
  wait "${BESIDE[$name]}" || rc=$?
  unset "BESIDE[$name]"
  if [ "$rc" = 124 ] || [ "$rc" = 137 ]; then echo "took longer than its limit" >>"$LOGS/$name.log"; fi
  cat "$LOGS/$name.log"
  counted "$name" "$rc"
}

# ended_beside: ends what was begun beside others and not waited for.
ended_beside() {
  local pid
  for pid in "${BESIDE[@]}"; do
    # `timeout` passes it on to what it runs.
    kill "$pid" 2>/dev/null && wait "$pid"
  done
}

# counted NAME EXIT-CODE: what its log counts.
counted() {
  local name=$1 rc=$2 passed failed ignored
  read -r passed failed ignored < <(suite_counts "$LOGS/$name.log")
  if [ "$((passed + failed))" = 0 ]; then
    count "$name" 0 1 "printed no count (exit code $rc)"
  elif [ "$rc" != 0 ] && [ "$failed" = 0 ]; then
    count "$name" "$passed" 1 "exit code $rc, though no test failed"
  else
    count "$name" "$passed" "$failed"
  fi
  if [ "$ignored" != 0 ]; then NOTES+=("$name: $ignored ignored"); fi
}

# suite_counts LOG: prints "PASSED FAILED IGNORED".
suite_counts() {
  awk '
    /^test result: / { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) p += $i; if ($(i + 1) ~ /^failed/) f += $i; if ($(i + 1) ~ /^ignored/) g += $i }; cargo = 1 }
    /^[0-9]+ passed, [0-9]+ failed$/ { lp = $1; lf = $3; own = 1 }
    END { if (own) { p += lp; f += lf }; print p + 0, f + 0, g + 0 }' "$1"
}

# skip NAME REASON: never silently.
skip() {
  heading "$1"
  echo "skipped: $2"
  NOTES+=("$1: skipped: $2")
}

count() { # NAME PASSED FAILED [WORDS]
  PASSED=$((PASSED + $2))
  FAILED=$((FAILED + $3))
  NOTES+=("$1: $2 passed, $3 failed${4:+ ($4)}")
}

summary() {
  local note
  heading "summary (logs: $LOGS)"
  for note in "${NOTES[@]}"; do echo "  $note"; done
  echo "$PASSED passed, $FAILED failed"
}
