# shellcheck shell=bash disable=SC2317
# `sql` on a real database: fifty accounts are renamed by the shop's own role, and put back by another primary than the one that lost
# them; more rows than allowed are rolled back; and where the runner is lost, the watchdog puts them back.

# Accounts that nobody trades with while this runs.
LOST="select count(*) from accounts where name like '%-lost'"
MARKS="select count(*) from pg_description where left(description, 15) = 'firedrill drill'"

# rows_scenario MOST STEP…: a scenario in a folder of its own, whose steps follow the fault; prints its file.
rows_scenario() {
  local most=$1 folder step
  shift
  folder=$(mktemp -d "$SCRATCH/rows.XXXXXX")
  cat >"$folder/scenario.yaml" <<YAML
apiVersion: firedrill.dev/v1alpha1
kind: Scenario
metadata: {name: rows}
spec:
  summary: Accounts are renamed by a script that should not have run.
  targets:
    primary: {namespace: shop, pods: "cluster=orders,role=master", expect: 1}
    members: {namespace: shop, pods: "cluster=orders"}
  limits: {pods: 1, duration: 10m}
  probes:
    accounts:
      sql:
        postgres: {service: shop/orders-db, database: orders, secret: shop/orders-monitor}
        query: $LOST
        expect: "0"
      every: 250ms
      timeout: 1s
    members: {pods: {target: members, ready: 3}}
  steadyState: {good: [accounts, members], for: 1s, timeout: 2m}
  steps:
    - name: rename accounts
      inject:
        sql:
          postgres: {service: shop/orders-db, database: orders, secret: shop/orders-app}
          statement: update accounts set name = name || '-lost' where id between 101 and 150
          revert: update accounts set name = left(name, -5) where id between 101 and 150 and name like '%-lost'
          maxRows: $most
YAML
  for step in "$@"; do printf '    - %s\n' "$step" >>"$folder/scenario.yaml"; done
  cat >>"$folder/scenario.yaml" <<'YAML'
  objectives:
    - name: the accounts are back
      recoveryTime: {probe: accounts, after: rename accounts, within: 5m, stableFor: 2s}
YAML
  echo "$folder/scenario.yaml"
}

rows_are() { # LOST MARKS
  local lost marks
  lost=$(on_leader "$LOST") && marks=$(on_leader "$MARKS") && [ "$lost/$marks" = "$1/$2" ]
}

# shown CASE: a line for the table in docs/faults.md.
shown() {
  if [ -n "${FIREDRILL_FAULT_TABLE:-}" ]; then printf 'sql\t%s\tkubelets\tok\n' "$1" >>"$FIREDRILL_FAULT_TABLE"; fi
}

another_primary_puts_them_back() {
  local scenario before
  before=$(leader)
  # Noticed before the next fault, or it would be that one's, too.
  scenario=$(rows_scenario 50 \
    "{name: it is noticed, waitFor: {probe: accounts, state: bad, timeout: 20s}}" \
    "{name: lose the primary, inject: {podKill: {target: primary}}}" \
    "{name: another one leads, waitFor: {probe: members, state: good, for: 5s, timeout: 3m}}" \
    "{name: put them back, revert: rename accounts}" \
    "{name: all is well, waitFor: {probe: accounts, state: good, for: 3s, timeout: 1m}}")
  printed_permissions "$scenario"
  # The very same, but for the permission to change anything in the database by another way.
  [ "$(kubectl --kubeconfig "$SCRATCH/runner.kubeconfig" auth can-i create pods/exec --namespace shop)" = no ]
  KUBECONFIG=$SCRATCH/runner.kubeconfig drill rows 0 "$scenario"
  all_met
  jq -e '.faults[] | select(.step == "rename accounts") | .injected and .effect != null' "$EVIDENCE/report.json" >/dev/null
  grep -q 'touched 50 rows, as many as the fault' "$EVIDENCE/journal.jsonl"
  [ "$(leader)" != "$before" ] || { echo "$before leads all the while"; return 1; }
  rows_are 0 0
  nothing_left
  shown "inject, proof, revert, proof"
  shown "another primary between inject and revert"
}

over_the_limit() {
  drill too-many 3 "$(rows_scenario 49 "{hold: 1s}")" || return 1
  grep -q 'it touches 50 rows, and ' "$EVIDENCE/journal.jsonl"
  rows_are 0 0
  nothing_left
  shown "rows over the limit"
}

rows_without_their_runner() {
  local scenario runner rc=0
  scenario=$(rows_scenario 50 "{hold: 5m}")
  # The permissions of its watchdog, too.
  printed_permissions "$scenario"
  KUBECONFIG=$SCRATCH/runner.kubeconfig "$FIREDRILL" run "$scenario" --environment "$SCRATCH/environment.yaml" --yes --auto-ack --quiet --lease 5s \
    --out "$EVIDENCE_ROOT/rows-killed" &
  runner=$!
  until_true 120 "the accounts are renamed" rows_are 50 1
  kill -KILL "$runner"
  wait "$runner" || rc=$?
  [ "$rc" = 137 ] || { echo "the runner ended by itself ($rc)"; return 1; }
  until_true 90 "the watchdog has put them back" rows_are 0 0
  until_true 60 "the watchdog has removed all" nothing_left
  shown "renewals stopped"
}

check "rows: fifty are changed, counted, and put back by another primary, with the permissions that the plan prints" 240 another_primary_puts_them_back
check "rows: one more than allowed, and all is rolled back" 120 over_the_limit
check "rows: the runner is killed, and the watchdog puts them back" 240 rows_without_their_runner
