#!/usr/bin/env bash
# The first three drills on a real cluster, healthy and with a weakness put in: drills.sh [REGEX].
# Runs every tests/drills/NN-*.sh whose name matches, each test by its own name; `drills.sh --list` names the files.
#
# Needs root and what the testbed needs. Without FIREDRILL_TESTBED_CLUSTER it brings up a cluster "drills" of its own and
# ends it; with it, it uses that one, which must be up with the world `shop` and idle, and leaves it as it was.
# FIREDRILL names the program to drill with (default: the static one of these sources, as it is in the image). DRILLS_FULL=1
# runs what takes longer than CI has; DRILLS_LOGS=FOLDER keeps logs and evidence.
# One line a test, `ok - …` or `FAILED - …`; the last line is the sum.
set -uo pipefail
REPOSITORY=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
TESTBED_DIR=$REPOSITORY/tests/testbed
if [ "${1:-}" = --list ]; then
  (cd "$REPOSITORY/tests/drills" && ls [0-9]*.sh)
  exit
fi
# shellcheck disable=SC2034
SMOKE_LOGS=${DRILLS_LOGS:-}
# shellcheck source=tests/testbed/smoke/lib.sh
. "$TESTBED_DIR/smoke/lib.sh" || exit 1
# shellcheck source=tests/drills/lib.sh
. "$REPOSITORY/tests/drills/lib.sh" || exit 1

pattern=${1:-}
# The judge is judged first: a test whose second command of three fails must fail.
broken_test() { true; false; true; }
check "the judge" 5 broken_test >/dev/null
if [ "$FAILED" != 1 ]; then
  echo "the harness passes a failing test"
  exit 1
fi
FAILED=0
# shellcheck disable=SC2034
OWN=
trap 'drills_end; rm -rf "$SCRATCH"' EXIT
trap 'exit 130' INT TERM
drills_begin || exit 1
for file in "$REPOSITORY"/tests/drills/[0-9]*.sh; do
  [[ $(basename "$file") =~ $pattern ]] || continue
  printf '# %s\n' "$(basename "$file")"
  start=$(now_us)
  # shellcheck source=/dev/null
  . "$file"
  printf '# %s took %s s\n' "$(basename "$file")" "$(seconds_since "$start")"
done
if [ $((PASSED + FAILED)) = 0 ]; then
  echo "no test matches '$pattern'"
  FAILED=1
fi
echo "$PASSED passed, $FAILED failed"
[ "$FAILED" = 0 ]
