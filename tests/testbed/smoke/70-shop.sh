# shellcheck shell=bash
# The shop world keeps its promises: a hung primary is replaced and comes back, pages arrive, backups can be restored.

shop() { kubectl --namespace shop "$@"; }
# A pod's or a Service's HTTP port, through the API server. kubectl's own --request-timeout would be passed on as a
# parameter of the query, which servers refuse.
get_http() { timeout 5 "$BIN/kubectl" --kubeconfig "$KUBECONFIG_FILE" get --raw "/api/v1/namespaces/$1/proxy/$2" 2>/dev/null; }

members() { # Patroni's view, from a member that is not $1
  local pod
  for pod in orders-0 orders-1 orders-2; do
    if [ "$pod" != "${1:-}" ] && get_http "shop/pods/$pod:8008" cluster; then return; fi
  done
  return 1
}
leader() {
  local view
  view=$(members "${1:-}") && jq -er '.members[] | select(.role == "leader" and .state == "running").name' <<<"$view"
}
another_leads() { local now; now=$(leader "$1") && [ "$now" != "$1" ]; }
healthz_is_ok() { [ "$(get_http shop/services/checkout:80 healthz)" = ok ]; }
healthz_is_bad() { ! healthz_is_ok; }

# Processes of a pod's containers, as the machine sees them.
pod_processes() {
  local uid
  uid=$(shop get pod "$1" --output 'jsonpath={.metadata.uid}')
  grep -sl "pod$uid" /proc/[0-9]*/cgroup | cut -d/ -f3
}
# shellcheck disable=SC2046  # process ids
signal_pod() { kill "-$1" $(pod_processes "$2"); }
wal_receiver() {
  local pid
  for pid in $(pod_processes "$1"); do
    if grep -qsa walreceiver "/proc/$pid/cmdline"; then echo "$pid"; fi
  done
}
all_are_stopped() {
  local pid
  for pid in $(pod_processes "$1"); do grep -q '^State:.T' "/proc/$pid/status" || return 1; done
}

notifications() { get_http monitoring/services/alert-receiver:8080 "notifications?alertname=$1&since=${2:-0}"; }
ended() { notifications "$1" 0 | jq -e '[.[].alerts[]] | group_by(.labels) | all(.[-1].status != "firing")'; }
paged() { notifications "$1" "$2" | jq -e --arg status "$3" 'any(.[].alerts[]; .status == $status)'; }

psql_in() { shop exec "$1" --container postgres -- psql -AtX -d orders -c "$2"; }
streams_from() { [ "$(psql_in "$1" "SELECT count(*) FROM pg_stat_replication WHERE application_name = '$2' AND state = 'streaming'")" = 1 ]; }
order() {
  shop exec orders-0 --container postgres -- python3 -c "
import json, urllib.request
r = urllib.request.Request('http://checkout.shop.svc.cluster.local/orders', json.dumps({'account': 7, 'amount_cents': $1}).encode(), {'content-type': 'application/json'})
print(json.load(urllib.request.urlopen(r, timeout=5))['id'])"
}

primary_endpoint_is_the_leader() {
  use smoke
  local pod ip
  # A member may be slow to answer right after it has come up; each call is bounded, so the next one is asked.
  within 60 leader >/dev/null
  pod=$(leader)
  ip=$(shop get pod "$pod" --output 'jsonpath={.status.podIP}')
  equal "$(shop get endpointslices --selector kubernetes.io/service-name=orders-db --output 'jsonpath={.items[*].endpoints[*].addresses[*]}')" "$ip"
  equal "$(shop get pods --selector cluster=orders,role=master --output name)" "pod/$pod"
  equal "$(shop get pods --selector cluster=orders --output json | jq '[.items[].spec.nodeName] | unique | length')" 3 "one member a zone"
  # No password, no entry: not even from a member.
  refused "no password supplied" shop exec "$pod" --container postgres -- psql -w -h 127.0.0.1 -U postgres -c "SELECT 1"
}

# Every process of the primary stands still: nobody hands the lock over, no connection breaks.
frozen_primary_is_replaced_and_rejoins() {
  use smoke
  local old new since id
  old=$(leader)
  # What fired while the world came up has ended: an alert that goes on firing pages nobody anew.
  within 60 ended OrdersDatabaseDown
  within 60 ended CheckoutUnavailable
  since=$(($(now_us)))
  id=$(order 4711)
  within 20 paged Heartbeat "$since" firing
  # What was made to stand still goes on, whatever happens below.
  trap 'signal_pod CONT "$old"' EXIT
  signal_pod STOP "$old"
  all_are_stopped "$old"
  within 10 healthz_is_bad
  # Degraded mode: who has paid goes on, who has not waits.
  contains "$(get_http shop/services/checkout:80 'licence?player=paid')" '"degraded":true'
  refused "" get_http shop/services/checkout:80 'licence?player=free'
  within 20 paged OrdersDatabaseDown "$since" firing
  within 10 paged CheckoutUnavailable "$since" firing
  within 40 another_leads "$old"
  new=$(leader "$old")
  within 20 healthz_is_ok
  equal "$(psql_in "$new" "SELECT amount_cents FROM orders WHERE id = $id")" 4711 "the order taken before"
  # The frozen pod still says that it is the master: a label is no lock.
  contains "$(shop get pods --selector cluster=orders,role=master --output name)" "pod/$old"
  all_are_stopped "$old"
  within 30 paged OrdersDatabaseDown "$since" resolved
  signal_pod CONT "$old"
  trap - EXIT
  within 60 streams_from "$new" "$old"
  rejoined() { members | jq -e --arg name "$old" '.members[] | select(.name == $name) | .role != "leader" and .state == "running"'; }
  within 30 rejoined
  equal "$(psql_in "$old" "SELECT pg_is_in_recovery()")" t
  # Arrival times lie after what they tell of, and within this test.
  notifications OrdersDatabaseDown "$since" | jq -e --argjson since "$since" --argjson now "$(now_us)" 'all(.[]; .received_us > $since and .received_us < $now)'
}

# restored_equals_source REPOSITORY: from the repository into an empty volume; equal digests of a table at rest, and the
# order taken just before the backup is there.
restored_equals_source() {
  use smoke
  local source order_id job=smoke-backup-$1 cron=orders-backup restore=$TESTBED_DIR/worlds/shop/restore
  [ "$1" = 1 ] || cron=orders-backup-repo$1
  source=$(leader)
  "$restore/restore.sh" clean
  order_id=$(order "$((1000 + $1))")
  shop delete job "$job" --ignore-not-found
  shop create job "$job" --from "cronjob/$cron"
  backup_is_over() { shop get job "$job" --output json | jq -e '[.status.conditions[]? | select(.status == "True").type] | any(. == "Complete" or . == "Failed")'; }
  within 120 backup_is_over
  equal "$(shop get job "$job" --output 'jsonpath={.status.succeeded}')" 1 "$(shop logs "job/$job" --tail 5)"
  "$restore/restore.sh" "$1"
  equal "$("$restore/digest.sh" orders-restored accounts)" "$("$restore/digest.sh" "$source" accounts)"
  contains "$("$restore/digest.sh" orders-restored accounts)" "5000 "
  equal "$(psql_in orders-restored "SELECT amount_cents FROM orders WHERE id = $order_id")" "$((1000 + $1))"
  # A copy of its own, not another replica of the source.
  equal "$(psql_in orders-restored "SELECT pg_is_in_recovery()")" f
  refused "exists" "$restore/restore.sh" "$1"
  psql_in orders-restored "UPDATE accounts SET plan = 'free' WHERE id = 1"
  refused "NOT EQUAL" equal "$("$restore/digest.sh" orders-restored accounts)" "$("$restore/digest.sh" "$source" accounts)"
  "$restore/restore.sh" clean
}
first_repository_restores() { restored_equals_source 1; }
second_repository_restores() { restored_equals_source 2; }

# The second repository is encrypted for real: none of its files says the stanza's configuration in clear.
# knock POD CONTAINER KEY REPOSITORY: what is said to a client with this key. TLS 1.3 refuses a client only after the handshake.
knock() {
  # shellcheck disable=SC2016
  shop exec "$1" --container "$2" -- sh -c 'sleep 1 | openssl s_client -connect "backup-repo$2:8432" \
    -cert "/etc/pgbackrest-tls/$1.crt" -key "/etc/pgbackrest-tls/$1.key" 2>&1 || true' sh "$3" "$4"
}
lets_in() {
  contains "$1" "BEGIN CERTIFICATE"
  if [[ $1 == *alert* ]]; then
    echo "REFUSED: $1"
    return 1
  fi
}
second_repository_is_encrypted() {
  use smoke
  read_info() { shop exec "deployment/backup-repo$1" --container pgbackrest -- head -c 16 /backup/pgbackrest/backup/orders/backup.info; }
  contains "$(read_info 1)" "[backrest]"
  equal "$(read_info 2 | head -c 8)" "Salted__"
  # And neither host is let in at the other. (A member, which must be, is let in by its key for that repository.)
  local n other
  for n in 1 2; do
    other=$((3 - n))
    contains "$(knock "deployment/backup-repo$n" pgbackrest server "$other")" "alert unknown ca"
    lets_in "$(knock orders-0 postgres "repo$other" "$other")"
  done
}

# What four alerts tell of, brought about at once; they need half a minute, in which the next tests run.
alerts_are_provoked() {
  use smoke
  local lead lagging filling since
  # The member that has just come back may not have its part yet.
  all_have_parts() { members | jq -e '[.members[].role] | sort == ["leader", "replica", "sync_standby"]'; }
  within 30 all_have_parts
  lead=$(leader)
  lagging=$(members | jq -er '[.members[] | select(.role == "replica").name][0]')
  filling=$(members | jq -er '[.members[] | select(.role == "sync_standby").name][0]')
  for alert in OrdersReplicationLag OrdersRowCountDrop OrdersVolumeFilling; do
    # The frozen primary has just come back, and what told of it may take a moment to end.
    within 60 ended "$alert"
  done
  since=$(($(now_us)))
  echo "$since $lead $lagging $filling" >"$SCRATCH/provoked"
  # A replica that receives no more, although its connection stands.
  [ -n "$(wal_receiver "$lagging")" ]
  kill -STOP "$(wal_receiver "$lagging")"
  # Three per cent of the orders are gone.
  psql_in "$lead" "CREATE TABLE smoke_kept AS SELECT * FROM orders WHERE id <= 600"
  psql_in "$lead" "DELETE FROM orders WHERE id <= 600"
  # A volume that lost a third of its space within seconds.
  shop exec "$filling" --container postgres -- fallocate --length 200MiB /data/smoke-ballast
  # A backup that fails, and says so.
  shop create job orders-backup-failing --from cronjob/orders-backup --dry-run=client --output json |
    jq '.spec.template.spec.containers[0].command = ["false"]' | shop create --filename -
}
# Of this job: a backup that the failover cut short fires for minutes, too.
job_paged() {
  notifications OrdersBackupJobFailed "$1" |
    jq -e --arg status "$2" 'any(.[].alerts[]; .status == $status and .labels.job_name == "orders-backup-failing")'
}
# Each page arrives after its cause, and when the cause is gone, so does the end of it.
provoked_alerts_arrive() {
  use smoke
  local since lead lagging filling alert
  read -r since lead lagging filling <"$SCRATCH/provoked"
  trap 'provocations_end "$lead" "$lagging" "$filling"' EXIT
  for alert in OrdersRowCountDrop OrdersVolumeFilling OrdersReplicationLag; do
    within 60 paged "$alert" "$since" firing
  done
  within 60 job_paged "$since" firing
  # Of this volume, and of no other.
  equal "$(notifications OrdersVolumeFilling "$since" | jq -r '[.[].alerts[].labels.persistentvolumeclaim] | unique | join(" ")')" "data-$filling"
  trap - EXIT
  provocations_end "$lead" "$lagging" "$filling"
  for alert in OrdersRowCountDrop OrdersVolumeFilling OrdersReplicationLag; do
    within 60 paged "$alert" "$since" resolved
  done
  within 60 job_paged "$since" resolved
}
provocations_end() {
  kill -CONT "$(wal_receiver "$2")"
  psql_in "$1" "INSERT INTO orders OVERRIDING SYSTEM VALUE SELECT * FROM smoke_kept ON CONFLICT DO NOTHING"
  psql_in "$1" "DROP TABLE smoke_kept"
  shop exec "$3" --container postgres -- rm -f /data/smoke-ballast
  shop delete job orders-backup-failing --ignore-not-found
}

check "world shop comes up" 400 smoke_cluster
if [ "$LAST" = 0 ]; then
  check "orders-db leads to the leader and nobody else" 120 primary_endpoint_is_the_leader
  check "a primary frozen whole is replaced, paged, and rejoins" 240 frozen_primary_is_replaced_and_rejoins
  check "row count, volume, replication and backup job: alerts are provoked" 150 alerts_are_provoked
  check "a backup of repository 1 restores into an empty volume" 240 first_repository_restores
  check "a backup of repository 2 restores into an empty volume" 240 second_repository_restores
  check "and each of them pages, and ends" 120 provoked_alerts_arrive
  check "repository 2 is encrypted, and shut to repository 1" 30 second_repository_is_encrypted
fi
