# shellcheck shell=bash disable=SC2317
# cut-backup-job: somebody is paged when backups stop; nobody is when the rule is gone or only exit codes are watched.

pages_about_stale_backups() {
  drill cut 0 cut-backup-job
  all_met
  nothing_left
}

# The job says that it succeeded and there is nothing in it. Who watches exit codes sees nothing.
exit_codes_see_nothing() {
  drill empty 1 cut-backup-job --set how=empty --set alert=OrdersBackupJobFailed
  only_missed "somebody is paged in time"
  nothing_left
}

sees_a_missing_rule() {
  # Another name: the rule is still evaluated, but not the one that somebody routes and reads.
  weakened monitoring/rules orders.yml 's/OrdersBackupTooOld/SomethingElse/' restart_prometheus
  drill no-rule 1 cut-backup-job
  only_missed "somebody is paged in time"
  nothing_left
}

check "cut-backup-job passes: the stale backup is paged in time" 500 pages_about_stale_backups
check "cut-backup-job fails when only the exit code of an empty job is watched" 500 exit_codes_see_nothing
if [ -n "${DRILLS_FULL:-}" ]; then
  check "cut-backup-job fails when the rule is removed" 600 sees_a_missing_rule
fi
