#!/usr/bin/env bash
# A thousand pods killed as one step, beside `kubectl delete` and raw DELETE requests over ten connections, on one cluster of fake
# nodes (kwok: the API server, its controllers and the scheduler are real, nothing runs). kill-1000.sh [PODS]
#
# Prints the three times, the write requests that the API server's audit log has of the drill, and the runner's peak of memory.
# Needs root and what the testbed needs. FIREDRILL is the program (default: the testbed's, of the present sources).
set -euo pipefail
main() {
  REPOSITORY=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd -P)
  TESTBED=$REPOSITORY/tests/testbed/testbed
  pods=${1:-1000}
  scratch=$(mktemp -d)
  trap '"$TESTBED" down --cluster bench >/dev/null; rm -rf "$scratch"' EXIT

  FIREDRILL=${FIREDRILL:-$("$TESTBED" firedrill)}
  "$TESTBED" up --cluster bench --mode kwok --kwok-nodes $((pods / 10 + 10)) >&2
  eval "$("$TESTBED" env --cluster bench)"
  "$TESTBED" environment --cluster bench >"$scratch/environment.yaml"

  milliseconds() { echo $(($(date +%s%N) / 1000000)); }

  # victims NAMESPACE: a namespace with the pods, all running, and nothing more to be done for them.
  victims() {
    kubectl create namespace "$1"
    kubectl label namespace "$1" firedrill.dev/drills=allowed
    kubectl --namespace "$1" create deployment victim --image example.invalid/none --replicas "$pods"
    kubectl --namespace "$1" rollout status deployment/victim --timeout 300s
  } >/dev/null

  # settled NAMESPACE: until as many others run.
  settled() {
    local deadline=$((SECONDS + 600)) running
    while [ $SECONDS -lt $deadline ]; do
      running=$(kubectl --namespace "$1" get deployment victim --output 'jsonpath={.status.readyReplicas}')
      [ "$running" = "$pods" ] && [ "$(kubectl --namespace "$1" get pods --output name | wc -l)" = "$pods" ] && return
      sleep 1
    done
    echo "$1: not $pods pods again after ten minutes" >&2
    return 1
  }

  # Each way begins with a namespace of its own as full as the others', and the one before at rest.
  victims by-firedrill
  cat >"$scratch/scenario.yaml" <<YAML
apiVersion: firedrill.dev/v1alpha1
kind: Scenario
metadata: {name: kill-many}
spec:
  summary: All pods of a Deployment are killed at once; it must have them all again.
  targets: {victims: {namespace: by-firedrill, pods: "app=victim", expect: $pods}}
  limits: {pods: $pods, duration: 20m}
  probes:
    web: {object: {apiVersion: apps/v1, kind: Deployment, namespace: by-firedrill, name: victim, cel: "has(object.status.readyReplicas) && object.status.readyReplicas == $pods"}, every: 1s}
  steadyState: {good: [web], for: 1s, timeout: 5m}
  steps:
    - name: kill them all
      inject: {podKill: {target: victims}}
    - waitFor: {probe: web, state: good, for: 2s, timeout: 10m}
  objectives:
    - recoveryTime: {probe: web, after: kill them all, within: 10m, stableFor: 2s}
YAML
  rc=0
  /usr/bin/time -f %M -o "$scratch/peak" "$FIREDRILL" run "$scratch/scenario.yaml" --environment "$scratch/environment.yaml" --yes \
    --out "$scratch/evidence" >"$scratch/run.log" 2>&1 || rc=$?
  journal=$(find "$scratch/evidence" -name journal.jsonl)
  [ "$rc" = 0 ] || { tail -n 30 "$scratch/run.log"; exit 1; }
  firedrill=$(jq -s '([.[] | select(.event.injected)][0].event.injected) as $i | (($i.end.monoUs - $i.start.monoUs) / 1000 | floor)' "$journal")
  step=$(jq -s '
    ([.[] | select(.event.stepStarted)][0].event.stepStarted.start.monoUs) as $from
    | ([.[] | select(.event.effective)][0].event.effective.at.monoUs - $from) / 1000 | floor' "$journal")
  # From the step's start to its end, by the runner's wall clock, which here is the API server's, too.
  iso='def iso: (. / 1000000 | floor | strftime("%Y-%m-%dT%H:%M:%S")) + "." + ((. % 1000000 + 1000000) | tostring | .[1:]) + "Z";'
  from=$(jq -rs "$iso [.[] | select(.event.stepStarted)][0].event.stepStarted.start.wallUs | iso" "$journal")
  to=$(jq -rs "$iso [.[] | select(.event.stepEnded)][0].at.wallUs | iso" "$journal")
  writes=$(jq -r --arg from "$from" --arg to "$to" 'select((.userAgent // "") | startswith("firedrill/"))
    | select(.verb | test("^(create|update|patch|delete|deletecollection)$")) | select(.requestReceivedTimestamp >= $from and .requestReceivedTimestamp <= $to)
    | "\(.verb) \(.objectRef.resource)"' "${FIREDRILL_TESTBED_AUDIT_LOG:?}" | sort | uniq -c | sort -rn)
  settled by-firedrill

  victims by-kubectl
  begin=$(milliseconds)
  kubectl --namespace by-kubectl delete pods --selector app=victim --wait=false >/dev/null
  kubectl=$(($(milliseconds) - begin))
  settled by-kubectl

  victims by-hand
  server=$(kubectl config view --minify --raw --output 'jsonpath={.clusters[0].cluster.server}')
  for part in certificate-authority:ca client-certificate:cert client-key:key; do
    kubectl config view --minify --raw --flatten --output json |
      jq -r --arg key "${part%%:*}-data" '(.clusters[0].cluster[$key] // .users[0].user[$key]) // empty' | base64 -d >"$scratch/${part##*:}"
  done
  kubectl --namespace by-hand get pods --selector app=victim \
    --output "jsonpath={range .items[*]}url = \"$server/api/v1/namespaces/by-hand/pods/{.metadata.name}\"{\"\n\"}output = /dev/null{\"\n\"}{end}" >"$scratch/urls"
  begin=$(milliseconds)
  curl --silent --no-progress-meter --fail --http1.1 --parallel --parallel-max 10 --request DELETE --cacert "$scratch/ca" --cert "$scratch/cert" --key "$scratch/key" --config "$scratch/urls"
  raw=$(($(milliseconds) - begin))

  printf 'killed %s pods: requests of firedrill %s ms, of its whole step to the proof %s ms; kubectl %s ms; raw DELETEs over ten connections %s ms\n' \
    "$pods" "$firedrill" "$step" "$kubectl" "$raw"
  awk -v f="$firedrill" -v k="$kubectl" -v r="$raw" 'BEGIN { printf "firedrill / kubectl %.2f, firedrill / raw %.2f\n", f / k, f / r }'
  printf 'write requests of the step: %s\n%s\n' "$(awk '{n += $1} END {print n}' <<<"$writes")" "$writes"
  printf 'peak of memory %s MiB\n' $(($(cat "$scratch/peak") / 1024))
}
main "$@"
