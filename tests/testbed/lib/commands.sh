# shellcheck shell=bash
# The commands of `testbed`. Sourced last.

usage() {
  cat <<'TEXT'
testbed: a real Kubernetes cluster, with a real database and monitoring, on one bare Linux machine (root).

  testbed packages [MORE…]     install the Debian packages that are missing
  testbed build                compile Kubernetes and the rest, make the images; kept in a cache, so quick the second time
  testbed up [OPTIONS]         start a cluster
      --nodes N                worker nodes, 1–9, in three zones (default 3)
      --world NAME             apply a world (a folder under worlds/) and wait for it; may be given more than once
      --mode full              control plane and nodes (default)
             apiserver         etcd, API server and controller-manager only: for tests that need no kubelet
             kwok              control plane and fake nodes, for scale
      --kwok-nodes N           fake nodes of kwok mode (default 100)
  testbed load IMAGE.tar…      put images on every node of a running cluster
  testbed status               what runs, and how much memory it takes
  testbed env                  shell lines with KUBECONFIG and paths: eval "$(testbed env)"
  testbed environment          the Environment of firedrill for this cluster (its uid, monitoring, image), as YAML
  testbed firedrill            the path of the static firedrill of the present sources; compiled unless it is in the cache
  testbed cargo ARGUMENT…       cargo with the flags and the target directory that programs for images are compiled with
  testbed logs [COMPONENT]     list the logs, or print one (apiserver, kubelet-node1, audit …)
  testbed volume ls|lose|readonly|restore [NAMESPACE/CLAIM]
                               break a volume of the storage class `fixed` for real, and mend it
  testbed smoke [PATTERN]      the testbed's own tests, on clusters of their own
  testbed down                 end the cluster; leaves nothing behind
  testbed help                 this text

Every command takes --cluster NAME (default main): clusters of different names run beside one another.
State: ${FIREDRILL_TESTBED_STATE:-/tmp/firedrill-testbed}/NAME; cache: ${FIREDRILL_TESTBED_CACHE:-${XDG_CACHE_HOME:-~/.cache}/firedrill/testbed}.
FIREDRILL_TESTBED_NO_BUILD=1: `up` takes the images as they were last built, without a look at what they are made of.
TEXT
}

main() {
  local command=${1:-help} name=main nodes=3 mode=full kwok_nodes=100 worlds=() rest=()
  shift || true
  # Its arguments are cargo's.
  if [ "$command" = cargo ]; then rest=("$@") && set --; fi
  while [ $# -gt 0 ]; do
    case $1 in
      --cluster | --nodes | --world | --mode | --kwok-nodes)
        [ $# -ge 2 ] || die "$1 needs a value (testbed help)"
        case $1 in
          --cluster) name=$2 ;;
          --nodes) nodes=$2 ;;
          --world) worlds+=("$2") ;;
          --mode) mode=$2 ;;
          --kwok-nodes) kwok_nodes=$2 ;;
        esac
        shift 2
        ;;
      --cluster=* | --nodes=* | --world=* | --mode=* | --kwok-nodes=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
      -h | --help) command=help; shift ;;
      -*) die "unknown option $1 (testbed help)" ;;
      *) rest+=("$1"); shift ;;
    esac
  done
  case $command in
    packages | build | cargo | up | up-marked | load | status | env | environment | firedrill | logs | volume | smoke | down | provisioner)
      need_root "$command" # also to look: keys and state are root's
      cluster_use "$name"
      "cmd_$command" "${rest[@]}"
      ;;
    help | -h | --help) usage ;;
    *) die "unknown command '$command' (testbed help)" ;;
  esac
}

cmd_build() {
  preflight_build
  local start
  start=$(now_us)
  TIMINGS=$CACHE/build-timings.tsv
  say "building what is not in $CACHE"
  CACHE_CHECK=full tools_build || exit 1
  CACHE_CHECK=full cluster_images_build || exit 1
  if declare -F images_build >/dev/null; then CACHE_CHECK=full images_build || exit 1; fi
  store_build || exit 1
  cache_prune
  say "built in $(seconds_since "$start") s; the cache holds $(du -sh "$CACHE" | cut -f1)"
}

# What a cluster needs from the cache, and nothing that it does not.
ensure_built() {
  case $MODE in
    apiserver) tools_build etcd kube-apiserver kube-controller-manager kubectl ;;
    kwok) tools_build etcd kube-apiserver kube-controller-manager kube-scheduler kubectl kwok ;;
    full)
      # shellcheck disable=SC2046
      tools_build $(tool_names | grep -vx kwok) && cluster_images_build || return 1
      up_images
      ;;
  esac
}

# Every image but firedrill's own is made if it has to be. That one is compiled by `build` alone: its sources change with
# every edit, and minutes of compiling have no place in `up`. It is put on the nodes if it is that of the present sources.
up_images() {
  declare -F images_build >/dev/null || return 0
  if [ -n "${FIREDRILL_TESTBED_NO_BUILD:-}" ]; then
    say "  images as they were last built (FIREDRILL_TESTBED_NO_BUILD is set)"
    cp "$CACHE"/image-*.path "$IMAGE_PATHS/" || return 1
    images_list >/dev/null
    return
  fi
  local name names=()
  for name in $(image_names); do [ "$name" = firedrill ] || names+=("$name"); done
  images_build "${names[@]}" || return 1
  if ! CACHE_NO_MAKE=firedrill.programs images_build firedrill 2>/dev/null; then
    : >"$IMAGE_PATHS/image-firedrill.path"
    say "  image firedrill left out: not compiled since its sources changed (testbed build does it)"
  fi
}

cmd_up() {
  [ $# = 0 ] || die "up takes no argument '$1' (testbed help)"
  local world
  case $mode in full | apiserver | kwok) ;; *) die "unknown mode '$mode': full, apiserver or kwok" ;; esac
  [[ $nodes =~ ^[1-9]$ ]] || die "--nodes must be 1 to $MAX_NODES, not '$nodes'"
  [[ $kwok_nodes =~ ^[1-9][0-9]{0,3}$ ]] || die "--kwok-nodes must be 1 to 9999, not '$kwok_nodes'"
  for world in "${worlds[@]}"; do world_check "$world"; done
  [ ${#worlds[@]} = 0 ] || [ "$mode" = full ] || die "a world needs nodes: --mode full"
  if [ "$mode" = full ]; then preflight_up "$nodes"; else preflight_up 0; fi
  cluster_lock
  if cluster_is_up; then die "cluster '$CLUSTER' is up already; end it with: testbed down --cluster $CLUSTER"; fi
  if cluster_lives; then die "cluster '$CLUSTER' is up already, though its API server does not answer; end it with: testbed down --cluster $CLUSTER"; fi
  if [ -f "$STATE/index" ]; then step "clean up after an earlier up" cluster_remove || exit 1; fi
  rm -rf "$STATE"
  mkdir -p "$STATE" "$LOG" "$STATE/run" "$STATE/nodes" "$STATE/volumes"
  cluster_allocate
  # From here on this process and all that it starts carry the mark by which `down` finds them. A process's environment
  # is what it was started with, so start this one anew; it keeps the lock.
  export FIREDRILL_TESTBED_DAEMON=$STATE CLUSTER_LOCK
  exec "$TESTBED_DIR/testbed" up-marked --cluster "$CLUSTER" --mode "$mode" --nodes "$nodes" --kwok-nodes "$kwok_nodes" \
    "${worlds[@]/#/--world=}"
}

cmd_up-marked() {
  [ "${FIREDRILL_TESTBED_DAEMON:-}" = "$STATE" ] || die "use: testbed up"
  export -n CLUSTER_LOCK # known here, no business of those started
  MODE=$mode NODES=$nodes
  local world start
  [ "$MODE" = full ] || NODES=0
  start=$(now_us)
  TIMINGS=$STATE/timings.tsv
  IMAGE_PATHS=$STATE/images
  mkdir -p "$IMAGE_PATHS"
  say "cluster '$CLUSTER' ($MODE), state in $STATE"
  step "look up what is cached, build the rest" ensure_built || up_failed
  tools_link "$BIN" || up_failed
  echo "$NODES" >"$STATE/nodes.count"
  if [ "$MODE" = full ]; then step "unpacked images, for all nodes" attach_images || up_failed; fi
  step "network" control_network || up_failed
  control_etcd # needs neither keys nor anything else: let it find itself meanwhile
  step "keys and certificates" pki_control_plane || up_failed
  if [ "$MODE" = full ]; then step "start $NODES nodes" nodes_start || up_failed; fi
  step "control plane ready" control_start "$MODE" || up_failed
  case $MODE in
    full) up_full ;;
    kwok) up_kwok "$kwok_nodes" ;;
  esac
  for world in "${worlds[@]}"; do
    step "apply world $world" world_apply "$world" || up_failed
    step "world $world ready" world_ready "$world" || up_failed
  done
  : >"$STATE/complete"
  say "up in $(seconds_since "$start") s; to use it: eval \"\$($0 env --cluster $CLUSTER)\""
  timed "up" "$start"
}

up_failed() { die "cluster '$CLUSTER' did not come up; logs: $LOG; clean up with: testbed down --cluster $CLUSTER"; }

up_full() {
  step "system objects" apply_filled "$TESTBED_DIR"/cluster/[0-9]*.yaml || up_failed
  step "images on the nodes" nodes_import_all || up_failed
  step "nodes ready" nodes_wait || up_failed
  if declare -F volumes_start >/dev/null; then step "volume provisioner" volumes_start || up_failed; fi
  step "cluster DNS ready" dns_ready || up_failed
}

all_images() {
  cluster_images_list
  if declare -F images_list >/dev/null; then images_list; fi
}

attach_images() { store_attach >"$STATE/images.device"; }

nodes_import_all() {
  local n pids=() rc=0 images
  mapfile -t images < <(all_images | grep . | small_tars)
  for n in $(seq "$NODES"); do
    (
      wait_until 30 "the container runtime of node$n (log: $LOG/containerd-node$n.log)" node_run "$n" test -e /run/testbed-runtime-ready &&
        node_import "$n" "${images[@]}" && node_run "$n" touch /run/testbed-images-ready
    ) &
    pids+=($!)
  done
  for n in "${pids[@]}"; do wait "$n" || rc=1; done
  return "$rc"
}

cmd_load() {
  local tar n pids=() rc=0
  [ $# -gt 0 ] || die "load what? testbed load IMAGE.tar…"
  need_up
  [ "$(node_count)" != 0 ] || die "cluster '$CLUSTER' has no nodes to put images on"
  for tar in "$@"; do [ -f "$tar" ] || die "no image file $tar"; done
  for n in $(seq "$(node_count)"); do
    node_import "$n" "$@" &
    pids+=($!)
  done
  for n in "${pids[@]}"; do wait "$n" || rc=1; done
  [ "$rc" = 0 ] || die "not every node took the image"
}

need_up() { cluster_is_up || die "cluster '$CLUSTER' is not up; start it with: testbed up --cluster $CLUSTER"; }

cmd_status() {
  if ! cluster_is_up; then
    if cluster_lives; then die "cluster '$CLUSTER' is up, but its API server does not answer (log: $LOG/apiserver.log)"; fi
    if [ -f "$STATE/index" ]; then die "cluster '$CLUSTER' is half up; end it with: testbed down --cluster $CLUSTER"; fi
    say "cluster '$CLUSTER' is not up"
    return 1
  fi
  say "cluster '$CLUSTER': API $API, state $STATE, memory $(cluster_memory_mib) MiB"
  kubectl get nodes --label-columns topology.kubernetes.io/zone
  kubectl get pods --all-namespaces --output wide 2>/dev/null | head -n 200
}

# Proportional set sizes of all the cluster's processes: what would be free again without it (but for the page cache).
cluster_memory_mib() {
  local n pid
  {
    marked_processes
    for n in $(seq "$(node_count)"); do
      pid=$(node_pid "$n") || continue
      node_members "$pid"
    done
  } | sort -u | while read -r pid; do awk '/^Pss:/ {print $2}' "/proc/$pid/smaps_rollup" 2>/dev/null; done |
    awk '{sum += $1} END {printf "%d", sum / 1024}'
}
# Every process in a node's pid namespace or below it: those whose chain of pids goes through it.
node_members() {
  local depth
  depth=$(awk '/^NSpid:/ {print NF - 1}' "/proc/$1/status")
  local ns
  ns=$(readlink "/proc/$1/ns/pid")
  for pid in /proc/[0-9]*; do
    if [ "$(readlink "$pid/ns/pid" 2>/dev/null)" = "$ns" ]; then basename "$pid"; continue; fi
    # A pod with its own pid namespace below the node's: its uts namespace's parent is not readable, so go by cgroup.
    if [ "$depth" -ge 2 ] && grep -q "/$CGROUP-node" "$pid/cgroup" 2>/dev/null; then basename "$pid"; fi
  done
}

cmd_env() {
  [ -f "$KUBECONFIG_FILE" ] || die "cluster '$CLUSTER' is not up; start it with: testbed up --cluster $CLUSTER"
  cat <<SH
export KUBECONFIG='$KUBECONFIG_FILE'
export FIREDRILL_TESTBED_CLUSTER='$CLUSTER'
export FIREDRILL_TESTBED_DIR='$STATE'
export FIREDRILL_TESTBED_AUDIT_LOG='$LOG/audit.jsonl'
export PATH='$BIN':"\$PATH"
SH
}

# A scenario is portable, its environment is not: each cluster is another one, with a uid of its own.
cmd_environment() {
  [ -f "$KUBECONFIG_FILE" ] || die "cluster '$CLUSTER' is not up; start it with: testbed up --cluster $CLUSTER"
  local uid watchdog='enabled: false'
  uid=$(kubectl get namespace kube-system --output 'jsonpath={.metadata.uid}') || die "cluster '$CLUSTER' does not say who it is"
  # An API server alone has no account for it, and no node to run it on.
  if kubectl get serviceaccount --namespace firedrill watchdog >/dev/null 2>&1; then watchdog='serviceAccount: watchdog'; fi
  cat <<YAML
apiVersion: firedrill.dev/v1alpha1
kind: Environment
metadata: {name: testbed-$CLUSTER}
spec:
  clusters: {$CLUSTER: {context: testbed-$CLUSTER, uid: $uid}}
  prometheus: {service: "monitoring/prometheus:9090"}
  alertmanager: {service: "monitoring/alertmanager:9093"}
  receiver: {service: "monitoring/alert-receiver:8080"}
  heartbeat: {alert: Heartbeat, every: 10s}
  firedrill: {namespace: firedrill, image: "localhost/firedrill:dev", nodeHelpers: true, watchdog: {$watchdog}}
YAML
}

# The program that drills are run with here: the one that observers and helpers run from, too.
cmd_firedrill() { firedrill_program; }

# cargo as programs for images are compiled: what tests then need of the library is there already.
cmd_cargo() {
  static_build
  exec cargo "$@"
}

cmd_logs() {
  [ -d "$LOG" ] || die "cluster '$CLUSTER' has no logs (it never was up)"
  if [ $# = 0 ]; then
    say "logs of cluster '$CLUSTER' in $LOG:"
    find "$LOG" -type f -printf '%f\t%s bytes\n' | sort
    return
  fi
  local file
  [[ $1 != */* ]] || die "'$1' is no name of a log (testbed logs lists them)"
  for file in "$LOG/$1" "$LOG/$1.log" "$LOG/$1.jsonl"; do
    if [ -f "$file" ]; then cat "$file"; return; fi
  done
  die "no log '$1'; there are: $(find "$LOG" -type f -printf '%f ' | sed 's/\.log//g')"
}

cmd_smoke() { exec "$TESTBED_DIR/smoke.sh" "$@"; }

cmd_down() {
  [ $# = 0 ] || die "down takes no argument '$1' (testbed help)"
  [ -d "$STATE" ] || { say "cluster '$CLUSTER' is not up"; return 0; }
  cluster_lock
  step "end cluster '$CLUSTER'" cluster_remove || die "cluster '$CLUSTER' is not gone completely; run down again"
  : >"$STATE_ROOT/$CLUSTER.lock"
}

dns_ready() { kubectl rollout status --namespace kube-system deployment/coredns --timeout 90s >>"$LOG/apply.log"; }
