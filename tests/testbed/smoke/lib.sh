# shellcheck shell=bash
# What the smoke tests share. Sourced by smoke.sh; each file in smoke/ calls `check NAME LIMIT FUNCTION` for each test.

# shellcheck source=../lib/common.sh
. "$TESTBED_DIR/lib/common.sh"
# shellcheck source=../lib/cluster.sh
. "$TESTBED_DIR/lib/cluster.sh"

TESTBED=$TESTBED_DIR/testbed
PASSED=0
# shellcheck disable=SC2034
LAST=0 # exit code of the last test
FAILED=0
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/firedrill-smoke.XXXXXX")
SMOKE_LOGS=${SMOKE_LOGS:-$SCRATCH}
TIMINGS=${SMOKE_TIMINGS:-$SCRATCH/timings.tsv}
mkdir -p "$SMOKE_LOGS"

# A limit is what a test takes on an idle machine, amply; it is there to end what hangs. A busy or throttled machine gets this much more.
GRACE=${SMOKE_GRACE:-120}

# check NAME LIMIT_SECONDS FUNCTION: one test. The function runs in a shell of its own where the first failing command
# ends it; its output is shown only when it fails.
check() {
  local name=$1 limit=$2 function=$3 log start rc=0 watchdog ignored
  log=$SMOKE_LOGS/$function.log
  start=$(now_us)
  # Inside a condition bash ignores `set -e`, in every subshell too, and every test would pass.
  ignored=$(set -e; false; echo yes)
  if [ -n "$ignored" ]; then
    FAILED=$((FAILED + 1))
    echo "FAILED - $name: check was called inside a condition"
    return
  fi
  (
    trap - EXIT INT TERM
    set -eEx
    "$function"
  ) >"$log" 2>&1 &
  local test=$!
  (
    trap - EXIT INT TERM
    exec 2>/dev/null # not a word when it is ended early, as it nearly always is
    sleep $((limit + GRACE))
    echo "took longer than its limit of $limit s and another $GRACE" >>"$log"
    kill_tree "$test"
  ) &
  watchdog=$!
  wait "$test" || rc=$?
  kill_tree "$watchdog" 2>/dev/null
  wait "$watchdog" 2>/dev/null
  if [ "$rc" = 0 ]; then
    PASSED=$((PASSED + 1))
    printf 'ok - %s (%s s)\n' "$name" "$(seconds_since "$start")"
  else
    FAILED=$((FAILED + 1))
    # In one piece: another lane may be talking, too.
    printf 'FAILED - %s (%s s); the end of its log:\n%s\n' "$name" "$(seconds_since "$start")" \
      "$(grep -vE '^\++ (local |use |cluster_|\[ |[A-Z_]+=|export |.*now_us|.*EPOCHREALTIME|printf %s|sleep 0\.[12])' "$log" | tail -n 20 | cut -c 1-400 | sed 's/^/    /')"
  fi
  # shellcheck disable=SC2034
  LAST=$rc
}

kill_tree() { # the parent first: else it would go on with its next command
  local children child
  children=$(pgrep -P "$1")
  kill -KILL "$1" 2>/dev/null
  for child in $children; do kill_tree "$child"; done
}

# ---- assertions: each says what it found ----------------------------------------------------------------------------
equal() { [ "$1" = "$2" ] || { echo "NOT EQUAL: '$1' is not '$2'${3:+ ($3)}"; return 1; }; }
contains() { [[ $1 == *"$2"* ]] || { echo "'$2' is NOT IN: $1"; return 1; }; }
# refused WORDS COMMAND…: the command must fail and say these words.
refused() {
  local words=$1 output rc=0
  shift
  output=$("$@" 2>&1) || rc=$?
  [ "$rc" != 0 ] || { echo "SUCCEEDED though it had to be refused: $*"; return 1; }
  contains "$output" "$words"
}
# within SECONDS COMMAND…: the condition must come true in time.
within() {
  local limit=$1
  shift
  wait_until "$limit" "$*" "$@"
}

use() { cluster_use "$1"; export KUBECONFIG=$KUBECONFIG_FILE; }
pod_is_running() { equal "$(kubectl get pod --namespace "$1" "$2" --output 'jsonpath={.status.phase}')" Running; }
pod_is_ready() { equal "$(kubectl get pod --namespace "$1" "$2" --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" True; }
node_is() { equal "$(kubectl get node "$1" --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" "$2"; }

# end_all_clusters: also those whose `up` still runs, because its test took too long.
end_all_clusters() {
  local dir
  for dir in "$STATE_ROOT"/smoke*/; do
    [ -f "$dir/index" ] || continue
    STATE=${dir%/} marked_processes | xargs -r kill -KILL 2>/dev/null
    "$TESTBED" down --cluster "$(basename "$dir")" >/dev/null
  done
  return 0
}

# inventory OWN: everything on the machine that a cluster makes, but for that of clusters whose names do not match the
# pattern OWN, which may come and go meanwhile. Two of them must be equal before `up` and after `down`.
inventory() (
  set +ex # sections may be empty; a subshell, so that the caller's options stay
  own=$1
  others=$(for dir in "$STATE_ROOT"/*/ /tmp/firedrill-testbed/*/ /tmp/firedrill-ci/*/; do
    # shellcheck disable=SC2053  # a pattern
    if [ ! -f "$dir/index" ] || [[ $dir == "$STATE_ROOT"/* && $(basename "$dir") == $own ]]; then continue; fi
    i=$(cat "$dir/index")
    printf '%s|' "fdbr$i" "fd$i-[0-9]" "172\.30\.$i\." "10\.10$i\." "firedrill-testbed-$i-" "$dir"
  done)
  {
    echo "== links"; ip -o link | awk -F': ' '{print $2}' | grep -vE '^(lo|eth0)'
    echo "== routes"; ip route show table all | grep -v '^broadcast'
    echo "== network namespaces"; ip netns list
    echo "== mounts"; awk -v c="$CACHE/" 'index($2, c) != 1 && $1 != "firedrill-test" {print $1, $2, $3}' /proc/self/mounts # images may be being built, and cargo tests run
    echo "== loop devices"; losetup --list --noheadings --output NAME,BACK-FILE
    echo "== control groups"; cgroup_hierarchies | while read -r h; do find "$h" -maxdepth 1 -name 'firedrill-testbed*'; find "$h" -maxdepth 1 -name 'kubepods*'; done
    echo "== processes"
    for dir in "$STATE_ROOT"/$own/; do STATE=${dir%/} marked_processes; done
    for dir in /proc/[0-9]*/; do
      # The dead that nobody has collected yet hold nothing.
      if grep -s '/firedrill-testbed-' "$dir/cgroup" >/dev/null && ! grep -s '^State:.*Z' "$dir/status" >/dev/null; then
        # One that ends between the two looks has no control group any more.
        line=$(tr '\n' ' ' <"$dir/cgroup") && [[ $line == */firedrill-testbed-* ]] && echo "$line $dir"
      fi
    done 2>/dev/null
    echo "== kernel parameters"
    sysctl -a 2>/dev/null | grep -E '^(vm\.(overcommit_memory|panic_on_oom)|kernel\.(panic|panic_on_oops|keys\.root_max[a-z]*)|net\.ipv4\.ip_forward|net\.ipv4\.conf\.(all|default)\.(forwarding|route_localnet)|net\.netfilter\.nf_conntrack_(max|buckets)) '
    echo "== packet filter"; nft list tables 2>/dev/null
    echo "== directories"
    stat -c '%n %Y' /etc/cni /etc/cni/net.d /opt/cni /var/lib/kubelet /var/lib/containerd /var/lib/cni /run/containerd /var/log/pods /var/log/containers /run/netns 2>/dev/null
  } | grep -vE "${others:-no others}NOTHING" | sort
  true
)
# same_inventory FILE OWN: a second look, should another cluster have come or gone during the first.
same_inventory() { diff "$1" <(inventory "$2") || { sleep 2; diff "$1" <(inventory "$2"); }; }

# smoke_cluster: the full cluster that most tests share, brought up by whoever comes first; with the shop world, so that
# the tests of the world find it and the cluster's own tests run beside real work.
smoke_cluster() {
  use smoke
  if cluster_is_up; then return; fi
  inventory smoke >"$SCRATCH/inventory"
  local world=()
  if [ -f "$TESTBED_DIR/worlds/shop/ready.sh" ] && [ -z "${SMOKE_NO_WORLD:-}" ]; then world=(--world shop); fi
  "$TESTBED" up --cluster smoke "${world[@]}"
}
