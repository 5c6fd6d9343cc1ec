# shellcheck shell=bash disable=SC2317
# lose-database-primary: a frozen primary, healthy and with weaknesses; and other ways to lose one.

# What is waited for to be sure; DRILLS_FULL takes the scenario as it is. Longer than the `stableFor: 10s` of its objectives: the old
# primary, when it is thawed, is rewound on the same two processors, and may cost checkout some requests.
SHORT=(--set steady=4s --set settle=11s)
if [ -n "${DRILLS_FULL:-}" ]; then SHORT=(); fi

# By a ServiceAccount that has what `plan --rbac` prints, and nothing else.
fails_over() {
  printed_permissions lose-database-primary
  [ "$(kubectl --kubeconfig "$SCRATCH/runner.kubeconfig" auth can-i delete pods --namespace shop)" = no ]
  KUBECONFIG=$SCRATCH/runner.kubeconfig drill freeze 0 lose-database-primary "${SHORT[@]}"
  all_met
  # The proof of effect is there, and somebody else leads now.
  jq -e '.faults | length == 1 and .[0].injected and .[0].effect != null' "$EVIDENCE/report.json" >/dev/null
  led_by another
  nothing_left
  # The same records judged against another target: one second is not enough for any failover.
  judged_again rto=1s 1
  only_missed "RTO of checkout" "RTO of the database"
}

# led_by same|another: who led before the fault and who after it, as the report says; and that it is true.
led_by() {
  local before after
  before=$(jq -r '.faults[0].objects[0] | sub(".*/"; "")' "$EVIDENCE/report.json")
  after=$(jq -r '[.verdict.marks[] | select(.kind == "recovered" and .of == "leader").detail][0] | sub(".*: "; "")' "$EVIDENCE/report.json")
  echo "led by $before before and by $after after"
  case $1 in
    same) [ "$before" = "$after" ] ;;
    another) [ "$before" != "$after" ] ;;
  esac
  [ "$(leader)" = "$after" ]
}

# The drill just performed, and the same in the sandbox: the same marks in the same order. Times are another matter.
same_marks_in_the_sandbox() {
  local real sandbox
  # Not the one that was judged again.
  real=$(find "$EVIDENCE_ROOT/freeze" -name report.json -not -path '*=*')
  rm -rf "$EVIDENCE_ROOT/freeze-in-the-sandbox"
  "$FIREDRILL" run "$SCENARIOS/lose-database-primary/scenario.yaml" --sandbox --pace max --quiet --auto-ack --seed 1 \
    --out "$EVIDENCE_ROOT/freeze-in-the-sandbox" "${SHORT[@]}"
  sandbox=$(find "$EVIDENCE_ROOT/freeze-in-the-sandbox" -name report.json)
  marks_differ "$real" "$sandbox" >"$SCRATCH/marks"
  cat "$SCRATCH/marks"
  [ ! -s "$SCRATCH/marks" ]
  # A mark that is not there, and one in another place, are seen.
  jq 'del(.verdict.marks[] | select(.kind == "detected"))' "$sandbox" >"$SCRATCH/without.json"
  [ "$(marks_differ "$real" "$SCRATCH/without.json")" = 'only on the testbed: detected of paged' ]
  jq '(.verdict.marks[] | select(.kind == "detected").at) = {lower: 1, upper: 2}' "$sandbox" >"$SCRATCH/moved.json"
  marks_differ "$real" "$SCRATCH/moved.json" | grep 'injected of lose the primary comes before detected of paged'
}
marks_differ() {
  jq -rn --slurpfile one "$1" --slurpfile two "$2" --arg first "on the testbed" --arg second "in the sandbox" -f "$REPOSITORY/tests/drills/marks.jq"
}

misses_a_target_of_one_second() {
  drill one-second 1 lose-database-primary --set rto=1s
  only_missed "RTO of checkout" "RTO of the database"
  nothing_left
}

# The page goes to a receiver that nobody reads. Heartbeats still arrive.
broken_routing() {
  weakened monitoring/alertmanager alertmanager.yml \
    's/^( *)receivers:/\1receivers:\n\1- name: nobody/; s/^( *)routes:/\1routes:\n\1- matchers: [alertname="OrdersDatabaseDown"]\n\1  receiver: nobody/' restart_alertmanager
}
sees_broken_alert_routing() {
  broken_routing
  drill routing 1 lose-database-primary --set detect=20s "${SHORT[@]}"
  only_missed "page within target"
  nothing_left
}

# Replication is asynchronous and the replicas receive nothing for three seconds: what was acknowledged then is lost with
# the primary. Which writes those are is counted again here, from the acknowledgements and the rows in the database.
lost_writes() { # OBJECTIVE…: what is missed
  local scenario counting
  on_exit 'patroni_config "{\"synchronous_mode\": true, \"maximum_lag_on_failover\": 1048576}"'
  patroni_config '{"synchronous_mode": false, "maximum_lag_on_failover": 104857600}'
  until_true 30 "asynchronous replication" asynchronous
  scenario=$(variant lose-database-primary \
    's|^    - name: lose the primary$|    - name: the replicas receive nothing\n      runbook: {file: runbooks/send-nothing.md, runIn: {target: primary, container: postgres}}\n    - hold: 3s\n&|')
  # The processes that send to the replicas are stopped. They go on with the others when the primary is thawed.
  # shellcheck disable=SC2016
  printf '# Send nothing\n```sh\npids=$(psql -AtX -d postgres -c "select pid from pg_stat_replication")\n[ "$(echo $pids | wc -w)" = 2 ]\nkill -STOP $pids\n```\n' \
    >"$(dirname "$scenario")/runbooks/send-nothing.md"
  rm -rf "$EVIDENCE_ROOT/async"
  rows_after_the_failover async >"$SCRATCH/rows" &
  counting=$!
  drill async 1 "$scenario" --set detect=20s "${SHORT[@]}"
  wait "$counting"
  only_missed "$@"
  led_by another
  lost_is_exact
  nothing_left
  until_true 60 "three members again" replicas_stream
}
counts_lost_writes() { lost_writes "no acknowledged write is lost"; }
# Two weaknesses in one drill: each is seen by its own objective, and by no other.
sees_lost_writes_and_broken_routing() {
  broken_routing
  lost_writes "page within target" "no acknowledged write is lost"
}
patroni_config() {
  shop exec orders-0 --container postgres -- python3 -c 'import json, sys, urllib.request
request = urllib.request.Request("http://orders-patroni.shop:8008/config", data=sys.argv[1].encode(), method="PATCH", headers={"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=5).read())' "$1"
}
asynchronous() { [ "$(on_leader "select count(*) || '/' || count(*) filter (where sync_state = 'async') from pg_stat_replication" 2>/dev/null)" = 2/2 ]; }

# rows_after_the_failover NAME: once the drill has thawed the old primary, the numbers of all rows, from the new primary.
rows_after_the_failover() {
  until_true 200 "the revert of drill $1" reverted "$1" >&2
  local table
  table=$(on_leader "select relname from pg_class where relnamespace = 'firedrill'::regnamespace and relkind = 'r'")
  on_leader "select n from firedrill.$table"
}
reverted() { grep -qs '"event":{"reverted":' "$EVIDENCE_ROOT/$1"/*/journal.jsonl; }

# The lost ones are exactly the acknowledged ones up to the newest row read that were not read.
lost_is_exact() {
  sort -n "$SCRATCH/rows" >"$SCRATCH/rows.sorted"
  [ "$(wc -l <"$SCRATCH/rows.sorted")" -gt 100 ]
  awk -F, '$1 ~ /^w/ && $6 == "ok" {print substr($1, 2)}' "$EVIDENCE/samples/orders.csv" | sort -n |
    awk -v newest="$(tail -n 1 "$SCRATCH/rows.sorted")" '$1 <= newest' >"$SCRATCH/acknowledged"
  awk 'NR == FNR {read_back[$1]; next} !($1 in read_back)' "$SCRATCH/rows.sorted" "$SCRATCH/acknowledged" >"$SCRATCH/lost"
  jq -r '.ledgers[0].lost[]' "$EVIDENCE/report.json" | sort -n >"$SCRATCH/lost.reported"
  echo "acknowledged $(wc -l <"$SCRATCH/acknowledged"), read $(wc -l <"$SCRATCH/rows.sorted"), lost $(wc -l <"$SCRATCH/lost"), reported as lost $(wc -l <"$SCRATCH/lost.reported")"
  # Three seconds of one write at least every 100 ms.
  [ "$(wc -l <"$SCRATCH/lost")" -gt 30 ]
  diff "$SCRATCH/lost" "$SCRATCH/lost.reported"
  jq -e '.ledgers[0] | .phantom == 0 and .duplicated == 0' "$EVIDENCE/report.json" >/dev/null
}

# The other ways. Whether somebody is paged about a second or two is not what these are about.
another_way() { # NAME FAULT same|another
  local scenario
  scenario=$(variant lose-database-primary "s/inject: \{freeze: \{target: primary\}\}/inject: {$2}/" '/- name: page within target/,+1d')
  drill "$1" 0 "$scenario" "${SHORT[@]}"
  all_met
  led_by "$3"
  nothing_left
  until_true 90 "three members again" replicas_stream
}
crashed() { another_way crash "crash: {target: primary}" same; }
held_down() { another_way crash-hold "crash: {target: primary, hold: true}" another; }
deleted() { another_way pod-kill "podKill: {target: primary}" another; }

check "lose-database-primary passes with a healthy failover, with the permissions that plan prints" 300 fails_over
check "lose-database-primary shows the same sequence of marks in the sandbox" 120 same_marks_in_the_sandbox
if [ -z "${DRILLS_FULL:-}" ]; then
  check "lose-database-primary fails when the alert's route is broken and acknowledged writes are lost, exactly those counted" 300 sees_lost_writes_and_broken_routing
else
  check "lose-database-primary fails when the alert's route is broken" 300 sees_broken_alert_routing
  check "lose-database-primary fails when acknowledged writes are lost, and counts them exactly" 300 counts_lost_writes
  check "lose-database-primary fails against a target of one second" 300 misses_a_target_of_one_second
  check "a crashed primary is restarted in place: the same one leads" 300 crashed
  check "a primary that is kept down is replaced" 400 held_down
  check "a deleted primary hands over" 300 deleted
fi
