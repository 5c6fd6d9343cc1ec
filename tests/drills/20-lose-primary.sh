# shellcheck shell=bash disable=SC2317
# lose-database-primary: a frozen primary, healthy and with weaknesses.

fails_over() {
  drill freeze 0 lose-database-primary
  all_met
  # Somebody else leads now, and the proof of effect is there.
  jq -e '.faults | length == 1 and .[0].injected and .[0].effect != null' "$EVIDENCE/report.json" >/dev/null
  nothing_left
  until_true 60 "three members again" replicas_stream
  # The same records judged against another target: one second is not enough for any failover.
  local rc=0
  cp -r "$EVIDENCE" "$SCRATCH/rejudged"
  "$FIREDRILL" report "$SCRATCH/rejudged" --set rto=1s || rc=$?
  [ "$rc" = 1 ]
}

misses_a_target_of_one_second() {
  drill one-second 1 lose-database-primary --set rto=1s
  only_missed "RTO of checkout" "RTO of the database"
  nothing_left
}

# The page goes to a receiver that nobody reads. Heartbeats still arrive.
sees_broken_alert_routing() {
  weakened monitoring/alertmanager alertmanager.yml \
    's/^( *)receivers:/\1receivers:\n\1- name: nobody/; s/^( *)routes:/\1routes:\n\1- matchers: [alertname="OrdersDatabaseDown"]\n\1  receiver: nobody/' restart_alertmanager
  drill routing 1 lose-database-primary
  only_missed "page within target"
  nothing_left
}

# Replication is asynchronous and the replicas receive nothing: all that was acknowledged since is lost with the primary.
counts_lost_writes() {
  trap async_back EXIT
  patroni_config '{"synchronous_mode": false, "maximum_lag_on_failover": 104857600}'
  until_true 30 "asynchronous replication" asynchronous
  local pod lead
  lead=$(leader)
  for pod in orders-0 orders-1 orders-2; do
    [ "$pod" = "$lead" ] || shop exec "$pod" --container postgres -- psql -X -d postgres -c "alter system set primary_conninfo = 'host=127.0.0.1 port=1'" -c "select pg_reload_conf()"
  done
  until_true 30 "replicas that receive nothing" cut_off
  drill async 1 lose-database-primary
  outcome "no acknowledged write is lost" missed
  # Lost = acknowledged − read, nothing invented, nothing twice.
  jq -e '.ledgers[0] | .lost > 0 and .phantom == 0 and .duplicated == 0' "$EVIDENCE/report.json"
  nothing_left
}
patroni_config() {
  shop exec orders-0 --container postgres -- python3 -c 'import json, sys, urllib.request
request = urllib.request.Request("http://orders-patroni.shop:8008/config", data=sys.argv[1].encode(), method="PATCH", headers={"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=5).read())' "$1"
}
asynchronous() { [ "$(on_leader "select count(*) from pg_stat_replication where sync_state <> 'async'" 2>/dev/null)" = 0 ]; }
cut_off() { [ "$(on_leader "select count(*) from pg_stat_replication" 2>/dev/null)" = 0 ]; }
async_back() {
  set +e
  local pod
  for pod in orders-0 orders-1 orders-2; do
    shop exec "$pod" --container postgres -- psql -X -d postgres -c "alter system reset primary_conninfo" -c "select pg_reload_conf()"
  done
  patroni_config '{"synchronous_mode": true, "maximum_lag_on_failover": 1048576}'
  until_true 120 "three members again" replicas_stream
}

# What really happened differs with how it is lost; each way has its own marks.
ways_to_lose_it() {
  local way scenario
  for way in "crash: {target: primary}" "crash: {target: primary, hold: true}" "podKill: {target: primary}"; do
    scenario=$(variant lose-database-primary "s/inject: \{freeze: \{target: primary\}\}/inject: {$way}/")
    case $way in
      # Restarted in place within two seconds: too short for the alert, which is the finding.
      *podKill* | "crash: {target: primary}") drill "way-${way%%:*}" 1 "$scenario"; only_missed "page within target" ;;
      *) drill "way-hold" 0 "$scenario"; all_met ;;
    esac
    until_true 90 "three members again" replicas_stream
    nothing_left
  done
}

check "lose-database-primary passes with a healthy failover" 300 fails_over
check "lose-database-primary fails when the alert's route is broken" 400 sees_broken_alert_routing
check "lose-database-primary fails when acknowledged writes are lost" 400 counts_lost_writes
if [ -n "${DRILLS_FULL:-}" ]; then
  check "lose-database-primary fails against a target of one second" 300 misses_a_target_of_one_second
  check "a crash, a held crash and a deleted pod are three different drills" 900 ways_to_lose_it
fi
