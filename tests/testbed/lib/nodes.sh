# shellcheck shell=bash
# Worker nodes, seen from the machine: making, joining, waiting. Sourced. What happens inside is in node-init.sh.

# node_start N: make a node's disk and start its first process, in namespaces of its own.
node_start() {
  local n=$1 dir=$STATE/nodes/$1 outer pid
  mkdir -p "$dir"
  pki_node "$n"
  # The node's root disk has a size of its own, so that a full node disk is a full disk. Sparse; no journal: throw-away.
  truncate -s "${NODE_DISK:-20G}" "$dir/disk.img" || return 1
  mkfs.ext4 -q -F -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard "$dir/disk.img" 2>>"$LOG/node$n.log" || return 1
  node_environment "$n" >"$dir/environment"
  # --kill-child: should this process end, the node's first process is killed, and with it everything on the node.
  daemon "node$n" unshare --mount --pid --uts --ipc --net --fork --kill-child "$TESTBED_DIR/lib/node-init.sh" "$dir/environment"
  outer=$(cat "$STATE/run/node$n.pid")
  wait_until 10 "node$n's first process" grep -q . "/proc/$outer/task/$outer/children" || return 1
  pid=$(tr -d ' ' <"/proc/$outer/task/$outer/children")
  echo "$pid" >"$dir/pid"
  # The link's other end goes straight into the node: no named network namespace to be left behind. The node waits for it.
  wait_until 10 "node$n's network namespace" node_has_own_network "$pid" || return 1
  ip link add "$(node_link "$n")" type veth peer name eth0 netns "$pid" || return 1
  ip link set "$(node_link "$n")" master "$BRIDGE" up || return 1
  # Added, never replaced: a route that the machine has already is not ours to take.
  ip route add "$(node_pod_cidr "$n")" via "$(node_ip "$n")"
}

node_has_own_network() { [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }

# Everything node-init.sh must know, as shell assignments.
node_environment() {
  local n=$1 m
  cat <<SH
NODE=node$n
NODE_DIR='$STATE/nodes/$n'
NODE_IP=$(node_ip "$n")
NODE_ZONE=$(node_zone "$n")
NODE_POD_CIDR=$(node_pod_cidr "$n")
NODE_CGROUP=$(node_cgroup "$n")
POD_CIDR=$POD_CIDR
GATEWAY=$GATEWAY
DNS_IP=$DNS_IP
PKI='$PKI'
BIN='$BIN'
LOG='$LOG'
TESTBED_DIR='$TESTBED_DIR'
IMAGE_STORE=$(cat "$STATE/images.device" 2>/dev/null)
ROUTES="$(for m in $(seq "$NODES"); do [ "$m" = "$n" ] || printf '%s=%s ' "$(node_pod_cidr "$m")" "$(node_ip "$m")"; done)"
SH
}

nodes_start() {
  local n
  for n in $(seq "$NODES"); do node_start "$n" || return 1; done
}

nodes_are_ready() {
  local ready
  ready=$(kubectl get nodes --request-timeout 5s -o jsonpath='{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -c True)
  [ "$ready" = "$NODES" ]
}

nodes_wait() {
  local n
  wait_until 90 "$NODES nodes to be Ready (logs: $LOG/kubelet*.log)" nodes_are_ready && return
  for n in $(seq "$NODES"); do
    tail -n 2 "$LOG/node$n.log" >&2
    grep -E '^E' "$LOG/kubelet-node$n.log" 2>/dev/null | tail -n 2 >&2
  done
  return 1
}

# node_import N TAR…: put images into a node's container runtime.
node_import() {
  local n=$1 tar
  shift
  for tar in "$@"; do
    node_run "$n" ctr --namespace k8s.io images import - <"$tar" >/dev/null || return 1
  done
}
