# shellcheck shell=bash
# What the drill tests share. Sourced by drills.sh after the testbed's own frame (`check`).

SCENARIOS=$REPOSITORY/scenarios
# Evidence of all drills; kept where DRILLS_LOGS says, else gone with the scratch.
EVIDENCE_ROOT=${DRILLS_LOGS:-$SCRATCH}/evidence

drills_begin() {
  # Of the present sources, and the same program as in the image that helpers and observers run from: once it is compiled, `up` puts it
  # into its image.
  local program
  program=$("$TESTBED" firedrill) || return 1
  FIREDRILL=${FIREDRILL:-$program}
  "$FIREDRILL" --version || return 1
  if [ -z "${FIREDRILL_TESTBED_CLUSTER:-}" ]; then
    FIREDRILL_TESTBED_CLUSTER=drills OWN=yes
    "$TESTBED" down --cluster drills >/dev/null 2>&1
    "$TESTBED" up --cluster drills --world shop || return 1
  fi
  # Its addresses and control groups, too.
  cluster_use "$FIREDRILL_TESTBED_CLUSTER"
  eval "$("$TESTBED" env --cluster "$FIREDRILL_TESTBED_CLUSTER")" || return 1
  "$TESTBED" environment --cluster "$FIREDRILL_TESTBED_CLUSTER" >"$SCRATCH/environment.yaml" || return 1
  rm -rf "$EVIDENCE_ROOT"
  mkdir -p "$EVIDENCE_ROOT"
}

drills_end() {
  if [ -n "$OWN" ]; then "$TESTBED" down --cluster drills; fi
}

# Whether the shop's own processes are held up for a second by whatever else runs on the machine is not what these drills are about.
# shellcheck disable=SC2034
BUSY=(--set available=90%)

shop() { kubectl --namespace shop "$@"; }
monitoring() { kubectl --namespace monitoring "$@"; }

# drill NAME EXIT SCENARIO [ARGUMENT…]: performs a drill and wants this exit code. Its evidence is in $EVIDENCE.
drill() {
  local name=$1 wanted=$2 scenario=$3 rc=0
  shift 3
  [ -f "$scenario" ] || scenario=$SCENARIOS/$scenario/scenario.yaml
  rm -rf "${EVIDENCE_ROOT:?}/$name"
  "$FIREDRILL" run "$scenario" --environment "$SCRATCH/environment.yaml" --yes --auto-ack --out "$EVIDENCE_ROOT/$name" "$@" || rc=$?
  # One folder a drill.
  EVIDENCE=$(dirname "$(find "$EVIDENCE_ROOT/$name" -name report.json | head -n 1)")
  if [ -f "$EVIDENCE/report.json" ]; then objectives; fi
  [ "$rc" = "$wanted" ] || { echo "exit code $rc instead of $wanted"; return 1; }
}

# printed_permissions SCENARIO|FILE: a ServiceAccount that has what `plan --rbac` prints for it and nothing else, and
# $SCRATCH/runner.kubeconfig to act as it.
printed_permissions() {
  local runner=(kubectl --kubeconfig "$SCRATCH/runner.kubeconfig") context file=$1 name=$1
  if [ -f "$file" ]; then name=own-scenario; else file=$SCENARIOS/$1/scenario.yaml; fi
  "$FIREDRILL" plan "$file" --environment "$SCRATCH/environment.yaml" --rbac --rbac-subject "ServiceAccount:firedrill/$name" \
    >"$SCRATCH/rbac.yaml"
  kubectl create namespace firedrill --dry-run=client --output yaml | kubectl apply --filename -
  kubectl --namespace firedrill create serviceaccount "$name" --dry-run=client --output yaml | kubectl apply --filename -
  kubectl apply --filename "$SCRATCH/rbac.yaml"
  cp "$KUBECONFIG" "$SCRATCH/runner.kubeconfig"
  context=$("${runner[@]}" config current-context)
  { set +x; } 2>/dev/null
  "${runner[@]}" config set-credentials runner --token "$(kubectl --namespace firedrill create token "$name" --duration 1h)"
  set -x
  "${runner[@]}" config set-context "$context" --user runner
  # It is another user now, who may not do everything.
  [ "$("${runner[@]}" auth whoami --output 'jsonpath={.status.userInfo.username}')" = "system:serviceaccount:firedrill:$name" ]
  [ "$("${runner[@]}" auth can-i get secrets --namespace escrow)" = no ]
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
# only_missed NAME…: these are missed, in the scenario's order, and all others are met.
only_missed() {
  jq -e '[.verdict.objectives[] | select(.outcome != "met") | "\(.name) \(.outcome)"] == [$ARGS.positional[] | . + " missed"]' \
    "$EVIDENCE/report.json" --args "$@" >/dev/null || { objectives; return 1; }
}

# judged_again NAME=VALUE EXIT: the same records against another target. $EVIDENCE is the new report.
judged_again() {
  local to=$EVIDENCE-$1 rc=0
  "$FIREDRILL" report "$EVIDENCE" --set "$1" --out "$to" || rc=$?
  [ "$rc" = "$2" ] || { echo "exit code $rc instead of $2"; return 1; }
  EVIDENCE=$to
}

# Nothing of any drill is left: no object with its label or annotation, no Lease, no suspended job, no stopped process, no table.
nothing_left() {
  local left
  left=$(kubectl get pods,jobs,configmaps,leases,secrets,persistentvolumeclaims --all-namespaces --selector firedrill.dev/drill --output name)
  [ -z "$left" ] || { echo "left: $left"; return 1; }
  left=$(shop get cronjobs,statefulsets,deployments,pods --output json | jq -r '.items[] | select(.metadata.labels["firedrill.dev/fault"] != null).metadata.name')
  [ -z "$left" ] || { echo "a fault's mark is left on: $left"; return 1; }
  [ "$(shop get cronjob orders-backup --output 'jsonpath={.spec.suspend}')" != true ] || { echo "orders-backup is suspended"; return 1; }
  [ "$(shop get statefulset orders --output 'jsonpath={.spec.replicas}')" = 3 ] || { echo "orders has not its three replicas"; return 1; }
  left=$(stopped_processes)
  [ -z "$left" ] || { echo "stopped processes: $left"; return 1; }
  left=$(on_leader "select relname from pg_class where relnamespace = 'firedrill'::regnamespace and relkind = 'r'")
  [ -z "$left" ] || { echo "tables left in the database: $left"; return 1; }
}

# Pids and commands of all processes in pods of this cluster that the kernel calls stopped, whatever node they are on.
stopped_processes() (
  set +ex
  for file in /proc/[0-9]*/stat; do
    { read -r stat <"$file"; } 2>/dev/null || continue
    state=${stat##*) }
    if [ "${state:0:1}" = T ] && grep -qs "/$CGROUP-node" "${file%stat}cgroup"; then echo "${stat%%) *}"; fi
  done
)

# No password or private key of the shop is in anything under this folder, as it is or in base64.
no_secrets_in() (
  set +x # or they would be in this test's log
  set -e
  kubectl get secrets --all-namespaces --output json | jq -r '
    .items[] | select(.metadata.namespace == "shop" or .metadata.namespace == "escrow") | .data // {} | to_entries[]
    | select(.key != "username" and (.key | test("\\.crt$") | not)) | .value | @base64d | split("\n")[]
    | select(length >= 16 and (startswith("-----") | not)) | ., @base64' | sort -u >"$SCRATCH/secrets"
  # At least: six passwords, two keys of a repository, private keys of several lines.
  [ "$(wc -l <"$SCRATCH/secrets")" -ge 30 ] || { echo "only $(wc -l <"$SCRATCH/secrets") secret words known"; exit 1; }
  # The search finds one where there is one.
  mkdir -p "$SCRATCH/planted"
  sed -n 7p "$SCRATCH/secrets" >"$SCRATCH/planted/file"
  grep -rqFf "$SCRATCH/secrets" "$SCRATCH/planted" || { echo "the search finds nothing at all"; exit 1; }
  [ -n "$(find "$1" -name journal.jsonl)" ] || { echo "no evidence in $1"; exit 1; }
  ! grep -rlFf "$SCRATCH/secrets" "$1"
)

# variant SCENARIO SED-EXPRESSION…: a copy of a scenario's folder, changed; prints its scenario.yaml.
variant() {
  local from=$1 to
  to=$(mktemp -d "$SCRATCH/variant-$1.XXXXXX")
  shift
  cp -r "$SCENARIOS/$from/." "$to"
  local expression before
  for expression in "$@"; do
    before=$(find "$to" -type f -exec sha256sum {} + | sort)
    find "$to" -type f -exec sed -i -E "$expression" {} +
    # A change that changed nothing would test the healthy case twice.
    if [ "$before" = "$(find "$to" -type f -exec sha256sum {} + | sort)" ]; then echo "this changes nothing in $from: $expression" >&2; return 1; fi
  done
  echo "$to/scenario.yaml"
}

# Asked of all members, for one of them may be hung or starting.
leader() {
  local pod found
  for pod in orders-0 orders-1 orders-2; do
    found=$(timeout 5 kubectl --namespace shop exec "$pod" --container postgres -- patronictl -c /etc/orders/patroni.yml list --format json 2>/dev/null |
      jq -r '.[] | select(.Role == "Leader" and .State == "running").Member') || continue
    if [ -n "$found" ]; then echo "$found"; return; fi
  done
  return 1
}
on_leader() {
  local pod
  pod=$(leader) && shop exec "$pod" --container postgres -- psql -AtX -v ON_ERROR_STOP=1 -d orders -c "$1"
}

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

# between_seconds FROM TO: begins in that part of a minute. Backups begin with each minute, so how long a drill on them takes is
# otherwise a matter of luck. DRILLS_FULL takes it as it comes.
between_seconds() {
  local now
  now=10#$(date +%S)
  if [ -z "${DRILLS_FULL:-}" ] && { ((now < $1)) || ((now > $2)); }; then sleep $(((60 + $1 - now) % 60)); fi
}

# on_exit COMMAND: done when the test ends, whatever happened in it; the last one first.
ON_EXIT=()
on_exit() {
  ON_EXIT=("$1" "${ON_EXIT[@]}")
  trap run_on_exit EXIT
}
run_on_exit() {
  local command
  set +e
  for command in "${ON_EXIT[@]}"; do eval "$command"; done
}

# Changes a ConfigMap until the test ends: weakened CONFIGMAP-NAMESPACE/NAME KEY SED APPLY
# APPLY is called after the change and again after it was taken back.
weakened() {
  local namespace=${1%%/*} name=${1#*/} key=$2 expression=$3 apply=$4 before after
  before=$(kubectl --namespace "$namespace" get configmap "$name" --output json | jq -r --arg k "$key" '.data[$k]')
  after=$(sed -E "$expression" <<<"$before")
  [ "$before" != "$after" ] || { echo "the weakness changes nothing in $1"; return 1; }
  on_exit "$(printf 'put_back %q %q %q %q %q' "$namespace" "$name" "$key" "$before" "$apply")"
  kubectl --namespace "$namespace" patch configmap "$name" --type merge --patch "$(jq -n --arg k "$key" --arg v "$after" '{data: {($k): $v}}')"
  "$apply"
}
put_back() {
  kubectl --namespace "$1" patch configmap "$2" --type merge --patch "$(jq -n --arg k "$3" --arg v "$4" '{data: {($k): $v}}')"
  "$5"
}
# A mounted ConfigMap takes up to a minute to change: a new pod has it at once.
restart_alertmanager() { monitoring rollout restart deployment/alertmanager && monitoring rollout status deployment/alertmanager --timeout 60s; }
restart_prometheus() { monitoring rollout restart deployment/prometheus && monitoring rollout status deployment/prometheus --timeout 90s; }
