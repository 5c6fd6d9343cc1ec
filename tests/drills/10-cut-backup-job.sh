# shellcheck shell=bash disable=SC2317
# cut-backup-job: somebody is paged when backups stop; nobody is when the rule is gone or only exit codes are watched.
# Before the drills on the database: a backup that such a drill disturbs would be a failed job for five minutes.

pages_about_stale_backups() {
  printed_permissions cut-backup-job
  between_seconds 30 48
  KUBECONFIG=$SCRATCH/runner.kubeconfig drill cut 0 cut-backup-job "${BUSY[@]}" --set steady=4s
  all_met
  jq -e '.faults[0] | .injected and .effect != null and .gone != null' "$EVIDENCE/report.json" >/dev/null
  nothing_left
}

# The job says that it succeeded and there is nothing in it. Who watches exit codes sees nothing.
exit_codes_see_nothing() {
  # Until one of these jobs, which start with each minute, has run; the cut is some ten seconds from now.
  local patience=$((15 + 60 - (10#$(date +%S) + 10) % 60))
  if [ "$patience" -lt 25 ]; then patience=$((patience + 60)); fi
  drill empty 1 cut-backup-job "${BUSY[@]}" --set how=empty --set alert=OrdersBackupJobFailed --set detect=20s --set patience="${patience}s" --set steady=4s
  only_missed "somebody is paged in time"
  # There was such a job while the alert was waited for, and it did succeed.
  shop get jobs --output json |
    jq -e '.items | any(.spec.template.spec.containers[0].command == ["true"] and .status.succeeded == 1)' >/dev/null
  nothing_left
}

# The same cut, seen by who watches the age of backups: it is not the drill that sees nothing.
age_sees_an_empty_job() {
  drill empty-age 0 cut-backup-job "${BUSY[@]}" --set how=empty
  all_met
  nothing_left
}

sees_a_missing_rule() {
  # Another name: the rule is still evaluated, but not the one that somebody routes and reads.
  weakened monitoring/rules orders.yml 's/OrdersBackupTooOld/SomethingElse/' restart_prometheus
  # Longer than the limit of 100 s from the newest backup, whenever that was.
  drill no-rule 1 cut-backup-job "${BUSY[@]}" --set detect=105s --set patience=110s
  only_missed "somebody is paged in time"
  nothing_left
}

check "cut-backup-job passes with the permissions that plan prints: the stale backup is paged in time" 500 pages_about_stale_backups
check "cut-backup-job fails when only the exit code of an empty job is watched" 500 exit_codes_see_nothing
if [ -n "${DRILLS_FULL:-}" ]; then
  check "cut-backup-job with an empty job passes when the backups' age is watched" 500 age_sees_an_empty_job
  check "cut-backup-job fails when the rule is removed" 600 sees_a_missing_rule
fi
