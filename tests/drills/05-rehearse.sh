# shellcheck shell=bash disable=SC2317
# The drills that follow, in the sandbox first: healthy ones pass, and each weakness is noticed by the objective that is meant to. Needs
# the program alone.

REHEARSED=(cut-backup-job lose-database-primary restore-from-backup)

rehearsals_pass() {
  local files=("${REHEARSED[@]/#/$SCENARIOS/}")
  "$FIREDRILL" rehearse "${files[@]/%//scenario.yaml}" --output json >"$SCRATCH/rehearsals.json"
  jq -e 'length == 3 and all(.verdict.drill == "passed" and .verdict.clean and .trouble == null)' "$SCRATCH/rehearsals.json"
}

# mutants SCENARIO NAME…: just these are about the drill, and all are caught; the healthy world passes first, on the same seed.
mutants() {
  local scenario=$1 rc=0
  shift
  "$FIREDRILL" rehearse "$SCENARIOS/$scenario/scenario.yaml" --mutants --output json >"$SCRATCH/mutants.json" || rc=$?
  jq -r '.[] | "\(.mutant)\t\(if .caught then "caught by" else "SURVIVED:" end) \(.by | tostring)"' "$SCRATCH/mutants.json"
  [ "$rc" = 0 ]
  jq -e 'map(.mutant) == $ARGS.positional and all(.caught)' "$SCRATCH/mutants.json" --args "$@"
}
weaknesses_are_noticed() {
  mutants cut-backup-job alert-rule-gone alert-route-broken alert-late backup-copies-nothing backup-stale
  mutants lose-database-primary failover-never failover-loses-writes alert-rule-gone alert-route-broken alert-late degraded-mode-broken
  mutants restore-from-backup backup-incomplete restore-drops-rows restore-overwrites restore-key-missing restore-slow
}

check "the drills pass in the sandbox" 120 rehearsals_pass
check "each weakness of a world is noticed by the objective that is meant to" 600 weaknesses_are_noticed
