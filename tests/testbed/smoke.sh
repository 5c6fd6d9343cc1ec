#!/usr/bin/env bash
# The testbed's own tests: smoke.sh [REGEX]. Runs every smoke/NN-*.sh (whose name matches) in order, on clusters whose
# names begin with "smoke", and ends them all. One line a test, `ok - …` or `FAILED - …`; the last line is the sum.
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
FAILED=0
trap 'end_all_clusters; rm -rf "$SCRATCH"' EXIT
trap 'exit 130' INT TERM
end_all_clusters
for file in "$TESTBED_DIR"/smoke/[0-9]*.sh; do
  [[ $(basename "$file") =~ $pattern ]] || continue
  printf '# %s\n' "$(basename "$file")"
  start=$(now_us)
  # shellcheck source=/dev/null
  . "$file"
  timed "smoke $(basename "$file" .sh)" "$start"
  printf '# %s took %s s\n' "$(basename "$file")" "$(seconds_since "$start")"
done
if [ $((PASSED + FAILED)) = 0 ]; then
  echo "no test matches '$pattern'"
  FAILED=1
fi
echo "$PASSED passed, $FAILED failed"
[ "$FAILED" = 0 ]
