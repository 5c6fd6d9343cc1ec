#!/usr/bin/env bash
# Waits until the shop is what README.md says, each thing with a limit, and says how long each took. It makes one change:
# it asks for the first backup of both repositories, which the jobs' schedule would only do minutes later.
set -uo pipefail
start=$(date +%s%N)
shop() { kubectl --namespace shop "$@"; }
raw() { kubectl get --raw "$1" 2>/dev/null; }

# until_true SECONDS WHAT COMMAND…
until_true() {
  local limit=$1 what=$2 begin now
  shift 2
  begin=$(date +%s%N)
  until "$@"; do
    now=$(date +%s%N)
    if [ $(((now - begin) / 1000000000)) -ge "$limit" ]; then
      echo "    waited $limit s in vain for: $what" >&2
      diagnose >&2
      exit 1
    fi
    sleep 0.3
  done
  now=$(date +%s%N)
  printf '    %-44s at %3d.%d s\n' "$what" $(((now - start) / 1000000000)) $(((now - start) / 100000000 % 10))
}

diagnose() {
  kubectl get pods --all-namespaces --output wide | grep -vw kube-system
  kubectl get events --all-namespaces --field-selector type=Warning | tail -n 15
  members
}

# What Patroni says of all members, asked of any that answers.
members() {
  local pod
  for pod in orders-0 orders-1 orders-2; do
    raw "/api/v1/namespaces/shop/pods/$pod:8008/proxy/cluster" && return
  done
}
has_primary() { [ "$(members | jq '[.members[] | select(.role == "leader" and .state == "running")] | length' 2>/dev/null)" = 1 ]; }
# Patroni 3.0 calls a streaming replica "running"; both must be on the leader's timeline and behind by nothing much.
replicas_stream() {
  local pod count
  pod=$(members | jq -r '.members[] | select(.role == "leader").name' 2>/dev/null)
  [ -n "$pod" ] || return 1
  count=$(shop exec "$pod" --container postgres -- psql -AtX -c "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'" 2>/dev/null)
  [ "$count" = 2 ]
}
has_synchronous() { members | jq -e '.members[] | select(.role == "sync_standby")' >/dev/null 2>&1; }
checkout_answers() { [ "$(raw /api/v1/namespaces/shop/services/checkout:80/proxy/healthz)" = ok ]; }
rolled_out() { kubectl --namespace "$1" rollout status "deployment/$2" --timeout 1s >/dev/null 2>&1; }

prometheus() { raw "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query?query=$(jq -rn --arg q "$1" '$q | @uri')" | jq -r '.data.result[0].value[1] // "0"' 2>/dev/null; }
prometheus_scrapes() {
  [ "$(prometheus 'count(up{job="orders"} == 1)')" = 3 ] && [ "$(prometheus 'count(up{job="checkout"} == 1)')" = 2 ] &&
    [ "$(prometheus 'count(up{job="backups"} == 1)')" = 2 ] && [ "$(prometheus 'count(up{job="kubelet"} == 1)')" -ge 3 ] &&
    [ "$(prometheus 'count(orders_pg_in_recovery == 0)')" = 1 ]
}

# The Jobs of a backup: those that its CronJob started, and the one that does not wait for its minute.
backup_jobs() {
  shop get jobs --output json | jq --arg n "$1" '[.items[] | select(.metadata.name | test("^" + $n + "-(first|[0-9]+)$"))]' 2>/dev/null
}
# Two at once would only wait for each other's lock.
backup_asked() {
  local running
  running=$(backup_jobs "$1" | jq '[.[] | select(.status.succeeded != 1 and (.status.failed // 0) == 0)] | length')
  [ "${running:-0}" -gt 0 ] || shop create job "$1-first" --from="cronjob/$1" >/dev/null 2>&1
}
# backup_done CRONJOB: one of them has ended well. The first of all is a full backup. When all have failed (the primary moved, say), it is
# asked for again.
backup_done() {
  local jobs
  jobs=$(backup_jobs "$1")
  if jq -e 'any(.[]; .status.succeeded == 1)' <<<"$jobs" >/dev/null 2>&1; then return 0; fi
  if jq -e 'any(.[]; .metadata.name == $n and (.status.failed // 0) > 0)' --arg n "$1-first" <<<"$jobs" >/dev/null 2>&1; then
    shop logs "job/$1-first" --tail 3 >&2
    shop delete job "$1-first" >/dev/null
  fi
  backup_asked "$1"
  return 1
}
backups_known() { [ "$(prometheus 'count(pgbackrest_backup_last_full_timestamp_seconds{stanza="orders"})')" = 2 ]; }
pages_arrive() {
  raw '/api/v1/namespaces/monitoring/services/alert-receiver:8080/proxy/notifications?alertname=Heartbeat' | jq -e 'length > 0' >/dev/null 2>&1
}
# Alerts that fired while the world came up have ended.
quiet() { [ "$(prometheus 'count(ALERTS{alertname!="Heartbeat",alertstate="firing"}) or vector(0)')" = 0 ]; }

until_true 90 "a primary is elected" has_primary
until_true 60 "repository 1 serves" rolled_out shop backup-repo1
backup_asked orders-backup
until_true 60 "two replicas stream" replicas_stream
until_true 30 "one of them is synchronous" has_synchronous
until_true 60 "checkout answers 200" checkout_answers
until_true 90 "first full backup in repository 1" backup_done orders-backup
until_true 60 "repository 2 serves" rolled_out shop backup-repo2
until_true 90 "first full backup in repository 2" backup_done orders-backup-repo2
until_true 60 "Prometheus scrapes everything" prometheus_scrapes
until_true 30 "Prometheus knows of both backups" backups_known
until_true 30 "a page arrives at the receiver" pages_arrive
until_true 60 "no alert fires but the heartbeat" quiet
