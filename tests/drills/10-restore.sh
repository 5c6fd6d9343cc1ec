# shellcheck shell=bash disable=SC2317
# restore-from-backup: passes when healthy; fails when a row differs, when the key is gone, when it is too slow.

restores_the_same_rows() {
  drill restore 0 restore-from-backup
  all_met
  jq -e '[.runbooks[]?] | length > 0' "$EVIDENCE/report.json" >/dev/null
  nothing_left
}

# The restore itself works; one account's name is different.
sees_one_changed_row() {
  local scenario
  scenario=$(variant restore-from-backup "s/^## Look at it/## Damage one row\n\n\`\`\`sh\npsql -h \/tmp -d orders -X -c 'update accounts set name = name || '.' where id = 4711'\n\`\`\`\n\n&/")
  drill changed-row 1 "$scenario"
  only_missed "the accounts are the same"
  nothing_left
}

# The second repository is encrypted; its host has another key, and the backups in it are worth nothing.
sees_a_missing_key() {
  local key
  key=$(shop get secret backup-repo2-cipher --output 'jsonpath={.data.pass}')
  # shellcheck disable=SC2064
  trap "$(printf 'key_back %q' "$key")" EXIT
  shop patch secret backup-repo2-cipher --type merge --patch "$(jq -n --arg v "$(printf 'not the key' | base64)" '{data: {pass: $v}}')"
  shop rollout restart deployment/backup-repo2
  shop rollout status deployment/backup-repo2 --timeout 90s
  drill missing-key 1 restore-from-backup --set repository=2 --set maxAge=1h
  outcome "restored in time" missed
  ! jq -e '.verdict.objectives[] | select(.kind == "restore" and .outcome == "met")' "$EVIDENCE/report.json"
  nothing_left
}
key_back() {
  set +e
  shop patch secret backup-repo2-cipher --type merge --patch "$(jq -n --arg v "$1" '{data: {pass: $v}}')"
  shop rollout restart deployment/backup-repo2
  shop rollout status deployment/backup-repo2 --timeout 90s
}

# The runbook works and takes longer than its target; and a step that takes longer than its own time is ended.
sees_a_slow_runbook() {
  local scenario
  scenario=$(variant restore-from-backup "s/^df -h/sleep 25; &/")
  drill slow 1 "$scenario" --set rto=20s
  only_missed "restored in time"
  scenario=$(variant restore-from-backup "s/<!-- within: 30s -->/<!-- within: 3s -->/; s/^df -h/sleep 60; &/")
  drill ended 1 "$scenario"
  outcome "restored in time" missed
  jq -e '[.. | strings | select(test("its time was over"))] | length > 0' "$EVIDENCE/report.json" >/dev/null
  nothing_left
}

check "restore-from-backup passes with the same rows" 180 restores_the_same_rows
check "restore-from-backup fails when one row is changed" 180 sees_one_changed_row
check "restore-from-backup fails when the repository's key is missing" 300 sees_a_missing_key
check "restore-from-backup fails when the runbook is slower than its target" 300 sees_a_slow_runbook
