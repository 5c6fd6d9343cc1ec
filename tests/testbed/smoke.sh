#!/usr/bin/env bash
# The testbed's own tests: smoke.sh [REGEX]. Runs every smoke/NN-*.sh (whose name matches), on clusters whose names begin
# with "smoke", and ends them all. One line a test, `ok - …` or `FAILED - …`; the last line is the sum.
set -uo pipefail
TESTBED_DIR=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd -P)
# shellcheck source=smoke/lib.sh
. "$TESTBED_DIR/smoke/lib.sh" || exit 1

pattern=${1:-}
# The judge is judged first: a test whose second command of three fails must fail.
broken_test() { true; false; true; }
check "the judge" 5 broken_test >/dev/null
if [ "$FAILED" != 1 ]; then
  echo "the harness passes a failing test"
  exit 1
fi
# And called where bash ignores `set -e`, it must say so instead of passing everything.
if check "the judge" 5 broken_test >/dev/null; then :; fi
if [ "$FAILED" != 2 ]; then
  echo "the harness passes a failing test inside a condition"
  exit 1
fi
FAILED=0
# Two at once would end one another's clusters.
mkdir -p "$STATE_ROOT"
exec {smoke_lock}>"$STATE_ROOT/.smoke"
flock --nonblock "$smoke_lock" || { echo "another smoke test runs on $STATE_ROOT; FIREDRILL_TESTBED_STATE gives this one a place of its own"; exit 1; }
trap 'end_all_clusters; rm -rf "$SCRATCH"' EXIT
trap 'exit 130' INT TERM
end_all_clusters
run_file() {
  local start
  [[ $(basename "$1") =~ $pattern ]] || return 0
  printf '# %s\n' "$(basename "$1")"
  start=$(now_us)
  # A file that bash cannot read whole would define some tests and call none.
  if ! bash -n "$1"; then
    echo "FAILED - $(basename "$1") cannot be read"
    FAILED=$((FAILED + 1))
    return
  fi
  # shellcheck source=/dev/null
  . "$1"
  timed "smoke $(basename "$1" .sh)" "$start"
  printf '# %s took %s s\n' "$(basename "$1")" "$(seconds_since "$start")"
}
# lane FIRST LAST: the files whose numbers lie between these, in order. Prints to the scratch directory what it counted.
lane() {
  local file number
  trap - EXIT INT TERM
  PASSED=0 FAILED=0
  for file in "$TESTBED_DIR"/smoke/[0-9]*.sh; do
    number=$(basename "$file")
    number=${number%%-*}
    if [ "$number" -ge "$1" ] && [ "$number" -le "$2" ]; then run_file "$file"; fi
  done
  echo "$PASSED $FAILED" >"$SCRATCH/lane-$1"
}

# 10 has the machine and the cache to itself. Then the tests with clusters of their own (20 to 39) run beside those that
# share one (from 40), which mostly wait for something.
(lane 10 19)
lane 20 39 &
lanes=$!
lane 40 99 &
lanes="$lanes $!"
# shellcheck disable=SC2086  # process ids
trap 'for number in $lanes; do kill_tree "$number"; done; end_all_clusters; rm -rf "$SCRATCH"' EXIT
# shellcheck disable=SC2086
wait $lanes
PASSED=0 FAILED=0
for number in 10 20 40; do
  if read -r passed failed <"$SCRATCH/lane-$number"; then
    PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed))
  else
    echo "the tests from $number on ended early"
    FAILED=$((FAILED + 1))
  fi
done
if [ $((PASSED + FAILED)) = 0 ]; then
  echo "no test matches '$pattern'"
  FAILED=1
fi
echo "$PASSED passed, $FAILED failed"
[ "$FAILED" = 0 ]
