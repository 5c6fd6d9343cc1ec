# shellcheck shell=bash disable=SC2317
# restore-from-backup: passes when healthy; fails when a row differs, when the key is gone, when it is too slow.

restores_the_same_rows() {
  printed_permissions restore-from-backup
  KUBECONFIG=$SCRATCH/runner.kubeconfig drill restore 0 restore-from-backup "${BUSY[@]}"
  all_met
  jq -e '[.runbooks[]? | select(.state == "succeeded")] | length >= 5' "$EVIDENCE/report.json" >/dev/null
  nothing_left
  # The same records against a target of one second: a restore was never that fast.
  judged_again rto=1s 1
  only_missed "restored in time"
}

# The restore itself works; one account's name is different.
sees_one_changed_row() {
  local scenario
  scenario=$(variant restore-from-backup \
    "s/^## Look at it/## Damage one row\n\n\`\`\`sh\npsql -h \/tmp -d orders -X -c 'update accounts set name = upper(name) where id = 4711'\n\`\`\`\n\n&/")
  drill changed-row 1 "$scenario" "${BUSY[@]}"
  only_missed "the accounts are the same"
  jq -e '.runbooks[] | select(.title == "Damage one row").detail | test("UPDATE 1")' "$EVIDENCE/report.json" >/dev/null
  nothing_left
}

# The second repository is encrypted; its host has another key, and the backups in it are worth nothing.
sees_a_missing_key() {
  local key
  key=$(shop get secret backup-repo2-cipher --output 'jsonpath={.data.pass}')
  on_exit "$(printf 'key_back %q' "$key")"
  shop patch secret backup-repo2-cipher --type merge --patch "$(jq -n --arg v "$(printf 'not the key' | base64)" '{data: {pass: $v}}')"
  shop rollout restart deployment/backup-repo2
  shop rollout status deployment/backup-repo2 --timeout 90s
  drill missing-key 1 restore-from-backup "${BUSY[@]}" --set repository=2 --set maxAge=1h
  outcome "restored in time" missed
  outcome "customers notice nothing" met
  # Nothing was restored, so nothing can be said to be the same.
  jq -e '[.verdict.objectives[] | select(.kind == "restore")] | length == 2 and all(.outcome != "met")' "$EVIDENCE/report.json" >/dev/null
  nothing_left
}
key_back() {
  shop patch secret backup-repo2-cipher --type merge --patch "$(jq -n --arg v "$1" '{data: {pass: $v}}')"
  shop rollout restart deployment/backup-repo2
  shop rollout status deployment/backup-repo2 --timeout 90s
}

# With its key the second repository is as good as the first: what failed above is the key.
restores_from_the_second_repository() {
  drill second-repository 0 restore-from-backup "${BUSY[@]}" --set repository=2 --set maxAge=1h
  all_met
  nothing_left
}

# The runbook works and takes longer than its target; and a step that takes longer than its own time is ended.
sees_a_slow_runbook() {
  local scenario
  scenario=$(variant restore-from-backup "s/^df -h/sleep 25; &/")
  drill slow 1 "$scenario" "${BUSY[@]}" --set rto=20s
  only_missed "restored in time"
  nothing_left
}
ends_a_step_that_hangs() {
  local scenario
  scenario=$(variant restore-from-backup "s/<!-- within: 30s -->/<!-- within: 3s -->/" "s/^df -h/sleep 60; &/")
  drill ended 1 "$scenario" "${BUSY[@]}"
  outcome "restored in time" missed
  jq -e '.runbooks[] | select(.title == "The volume is empty" and .state == "timed out")' "$EVIDENCE/report.json" >/dev/null
  nothing_left
}

check "restore-from-backup passes with the same rows, with the permissions that plan prints" 180 restores_the_same_rows
check "restore-from-backup fails when one row is changed" 180 sees_one_changed_row
check "restore-from-backup fails when the repository's key is missing" 300 sees_a_missing_key
if [ -n "${DRILLS_FULL:-}" ]; then
  check "restore-from-backup passes from the second, encrypted repository" 180 restores_from_the_second_repository
  check "restore-from-backup fails when the runbook is slower than its target" 180 sees_a_slow_runbook
  check "restore-from-backup fails when a step of the runbook hangs, and ends it" 180 ends_a_step_that_hangs
fi
