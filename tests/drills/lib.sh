# shellcheck shell=bash
# What the drill tests share. Sourced by drills.sh after the testbed's own frame (`check`).

SCENARIOS=$REPOSITORY/scenarios

drills_begin() {
  if [ -z "${FIREDRILL_TESTBED_CLUSTER:-}" ]; then
    FIREDRILL_TESTBED_CLUSTER=drills OWN=yes
    "$TESTBED" down --cluster drills >/dev/null 2>&1
    # firedrill's own image is compiled by `build` alone, and drills need that of these sources.
    "$TESTBED" build || return 1
    "$TESTBED" up --cluster drills --world shop || return 1
  fi
  eval "$("$TESTBED" env --cluster "$FIREDRILL_TESTBED_CLUSTER")" || return 1
  "$TESTBED" environment --cluster "$FIREDRILL_TESTBED_CLUSTER" >"$SCRATCH/environment.yaml" || return 1
  FIREDRILL=${FIREDRILL:-$REPOSITORY/target/release/firedrill}
  if [ ! -x "$FIREDRILL" ]; then (cd "$REPOSITORY" && cargo build --release --locked) || return 1; fi
}

drills_end() {
  if [ -n "$OWN" ]; then "$TESTBED" down --cluster drills; fi
}

shop() { kubectl --namespace shop "$@"; }
monitoring() { kubectl --namespace monitoring "$@"; }

# drill NAME EXIT SCENARIO [ARGUMENT…]: performs a drill and wants this exit code. Its evidence is in $EVIDENCE.
drill() {
  local name=$1 wanted=$2 scenario=$3 rc=0
  shift 3
  EVIDENCE=$SCRATCH/evidence/$name
  [ -f "$scenario" ] || scenario=$SCENARIOS/$scenario/scenario.yaml
  rm -rf "$EVIDENCE"
  "$FIREDRILL" run "$scenario" --environment "$SCRATCH/environment.yaml" --yes --auto-ack --out "$EVIDENCE" "$@" || rc=$?
  # One folder a drill.
  EVIDENCE=$(dirname "$(find "$EVIDENCE" -name report.json | head -n 1)")
  if [ -f "$EVIDENCE/report.json" ]; then objectives; fi
  [ "$rc" = "$wanted" ] || { echo "exit code $rc instead of $wanted"; return 1; }
}

# What each objective came to, for the log.
objectives() {
  jq -r '.verdict.objectives[] | "\(.outcome)\t\(.name)\t\(.measured // {} | tojson)\t\(.reason)"' "$EVIDENCE/report.json"
}

# outcome NAME met|missed|inconclusive
outcome() {
  local got
  got=$(jq -r --arg name "$1" '.verdict.objectives[] | select(.name == $name).outcome' "$EVIDENCE/report.json")
  [ "$got" = "$2" ] || { echo "objective '$1' is '$got' instead of $2"; return 1; }
}
all_met() { jq -e '.verdict.objectives | length > 0 and all(.outcome == "met")' "$EVIDENCE/report.json" >/dev/null || { objectives; return 1; }; }
# only_missed NAME…: these are missed, all others met.
only_missed() {
  jq -e '[.verdict.objectives[] | select(.outcome != "met") | "\(.name) \(.outcome)"] == [$ARGS.positional[] | . + " missed"]' \
    "$EVIDENCE/report.json" --args "$@" >/dev/null || { objectives; return 1; }
}

# Nothing of any drill is left: no object with its label or annotation, no Lease, no suspended job, no frozen process.
nothing_left() {
  local left
  left=$(kubectl get pods,jobs,configmaps,leases,secrets,persistentvolumeclaims --all-namespaces --selector firedrill.dev/drill --output name)
  [ -z "$left" ] || { echo "left: $left"; return 1; }
  left=$(shop get cronjobs,statefulsets,deployments,pods --output json | jq -r '.items[] | select(.metadata.annotations["firedrill.dev/fault"] != null).metadata.name')
  [ -z "$left" ] || { echo "a fault's mark is left on: $left"; return 1; }
  [ "$(shop get cronjob orders-backup --output 'jsonpath={.spec.suspend}')" != true ] || { echo "orders-backup is suspended"; return 1; }
}

# variant SCENARIO SED-EXPRESSION…: a copy of a scenario's folder, changed; prints its scenario.yaml.
variant() {
  local from=$1 to
  to=$SCRATCH/variants/$1-$((++VARIANTS))
  shift
  mkdir -p "$to"
  cp -r "$SCENARIOS/$from/." "$to"
  local expression
  for expression in "$@"; do
    find "$to" -type f -exec sed -i -E "$expression" {} +
  done
  # A change that changed nothing would test the healthy case twice.
  if diff -rq "$SCENARIOS/$from" "$to" >/dev/null; then echo "the variant of $from is no different: $*" >&2; return 1; fi
  echo "$to/scenario.yaml"
}
VARIANTS=0

leader() { shop exec orders-0 --container postgres -- patronictl -c /etc/orders/patroni.yml list --format json | jq -r '.[] | select(.Role == "Leader").Member'; }
on_leader() { shop exec "$(leader)" --container postgres -- psql -AtX -d orders -c "$1"; }

# until_true SECONDS WHAT COMMAND…
until_true() {
  local limit=$1 what=$2 end=$((SECONDS + $1))
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || { echo "waited $limit s in vain for: $what"; return 1; }
    sleep 0.5
  done
}
replicas_stream() { [ "$(on_leader "select count(*) from pg_stat_replication where state = 'streaming'" 2>/dev/null)" = 2 ]; }

# Puts a ConfigMap back as it was when the test ends, whatever happened in it: weakened CONFIGMAP-NAMESPACE/NAME KEY SED APPLY
# APPLY is called after the change and again after it was taken back.
weakened() {
  local namespace=${1%%/*} name=${1#*/} key=$2 expression=$3 apply=$4 before after
  before=$(kubectl --namespace "$namespace" get configmap "$name" --output json | jq -r --arg k "$key" '.data[$k]')
  after=$(sed -E "$expression" <<<"$before")
  [ "$before" != "$after" ] || { echo "the weakness changes nothing in $1"; return 1; }
  # shellcheck disable=SC2064
  trap "$(printf 'put_back %q %q %q %q %q' "$namespace" "$name" "$key" "$before" "$apply")" EXIT
  kubectl --namespace "$namespace" patch configmap "$name" --type merge --patch "$(jq -n --arg k "$key" --arg v "$after" '{data: {($k): $v}}')"
  "$apply"
}
put_back() {
  set +e
  kubectl --namespace "$1" patch configmap "$2" --type merge --patch "$(jq -n --arg k "$3" --arg v "$4" '{data: {($k): $v}}')"
  "$5"
}
# A mounted ConfigMap takes up to a minute to change: a new pod has it at once.
restart_alertmanager() { monitoring rollout restart deployment/alertmanager && monitoring rollout status deployment/alertmanager --timeout 60s; }
restart_prometheus() { monitoring rollout restart deployment/prometheus && monitoring rollout status deployment/prometheus --timeout 90s; }
