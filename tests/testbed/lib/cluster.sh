# shellcheck shell=bash
# A cluster's name, its state directory, and every name and address that follows from its index. Sourced.
#
# Clusters live beside one another: each takes a free index 0–9, and everything it makes on the machine (bridge, links,
# subnets, ports, cgroups) carries that index. Nothing else on the machine is touched.

MAX_NODES=9

# cluster_use NAME: set STATE and the rest for a cluster, whether it exists or not.
cluster_use() {
  CLUSTER=$1
  [[ $CLUSTER =~ ^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$ ]] ||
    die "'$CLUSTER' is no cluster name: lower-case letters, digits and hyphens, at most 32 (--cluster NAME)"
  if [[ $STATE_ROOT =~ [[:space:]] ]]; then die "the state directory's path must have no spaces: '$STATE_ROOT' (FIREDRILL_TESTBED_STATE)"; fi
  STATE=$STATE_ROOT/$CLUSTER
  LOG=$STATE/log
  PKI=$STATE/pki
  BIN=$STATE/bin
  KUBECONFIG_FILE=$STATE/kubeconfig
  INDEX=
  if [ -f "$STATE/index" ]; then cluster_addresses "$(cat "$STATE/index")"; fi
}

cluster_addresses() {
  INDEX=$1
  BRIDGE=fdbr$INDEX
  GATEWAY=172.30.$INDEX.1 # the machine itself as the nodes see it; the API server listens here
  API=https://$GATEWAY:6443
  POD_CIDR=10.10$INDEX.0.0/16
  SERVICE_CIDR=10.11$INDEX.0.0/16
  API_SERVICE_IP=10.11$INDEX.0.1
  DNS_IP=10.11$INDEX.0.10
  ETCD_PORT=$((12379 + INDEX * 10))
  CGROUP=firedrill-testbed-$INDEX
}

node_ip() { echo "172.30.$INDEX.1$1"; }
node_pod_cidr() { echo "10.10$INDEX.$1.0/24"; }
node_zone() { # 1 → zone-a, 2 → zone-b, 3 → zone-c, 4 → zone-a …
  local letters=abc
  echo "zone-${letters:$((($1 - 1) % 3)):1}"
}
node_link() { echo "fd$INDEX-$1"; }
node_cgroup() { echo "$CGROUP-node$1"; }
# The process id, as the machine sees it, of a node's first process; everything on the node lives and dies with it.
node_pid() { cat "$STATE/nodes/$1/pid" 2>/dev/null; }
# node_run N COMMAND…: run a command on a node, as root there.
node_run() {
  local pid
  pid=$(node_pid "$1") || return 1
  shift
  nsenter --target "$pid" --mount --pid --net --uts --ipc --root --wd -- "$@"
}
node_count() { cat "$STATE/nodes.count" 2>/dev/null || echo 0; }

# bridge_address I: the hardware address of this cluster's bridge of an index. It says whose it is, from the instant at which it is made: an
# `up` that is killed before it has noted its index leaves a bridge that `down` knows. And it is fixed: by itself a bridge takes the lowest of
# its ports' and changes with each that joins, and nodes that know the old one do not reach the machine for half a minute.
bridge_address() {
  local digest
  digest=$(printf '%s' "$STATE" | sha256sum)
  echo "02:fd:${digest:0:2}:${digest:2:2}:${digest:4:2}:0$1"
}

# cluster_allocate: give the cluster a free index. Whoever makes the bridge of an index has it: the kernel decides, also
# between clusters of two state directories.
cluster_allocate() {
  local i
  mkdir -p "$STATE" || die "cannot make $STATE"
  for i in 0 1 2 3 4 5 6 7 8 9; do
    # One that is half ended still owns its control groups.
    if grep -qsx "$i" "$STATE_ROOT"/*/index; then continue; fi
    if ip link add "fdbr$i" address "$(bridge_address "$i")" type bridge 2>/dev/null; then
      echo "$i" >"$STATE/index"
      cluster_addresses "$i"
      return
    fi
  done
  die "ten clusters are up already; end one with: testbed down --cluster NAME"
}

# cluster_lock: one `up` or `down` of a cluster at a time. Daemons must not inherit the lock: see `daemon`. What a killed
# `up` left running may still hold it: once its owner is dead, end them.
cluster_lock() {
  local owner
  mkdir -p "$STATE_ROOT" 2>/dev/null && [ -w "$STATE_ROOT" ] || die "cannot make the state directory $STATE_ROOT (FIREDRILL_TESTBED_STATE)"
  exec {CLUSTER_LOCK}>>"$STATE_ROOT/$CLUSTER.lock"
  if ! flock --nonblock "$CLUSTER_LOCK"; then
    owner=$(cat "$STATE_ROOT/$CLUSTER.lock")
    if [ -d "/proc/${owner:-none}" ]; then die "cluster '$CLUSTER' is being worked on by process $owner: wait for it, or end it first"; fi
    kill_marked
    flock --timeout 10 "$CLUSTER_LOCK" || die "something that 'up' of cluster '$CLUSTER' started still holds $STATE_ROOT/$CLUSTER.lock"
  fi
  echo $$ >"$STATE_ROOT/$CLUSTER.lock"
}

# daemon NAME COMMAND…: start a background process with a log of its own. It carries the cluster's mark in its
# environment, by which `down` finds it even if nothing else was written down.
daemon() {
  local name=$1
  shift
  if [ -n "${CLUSTER_LOCK:-}" ]; then
    FIREDRILL_TESTBED_DAEMON=$STATE setsid "$@" >>"$LOG/$name.log" 2>&1 </dev/null {CLUSTER_LOCK}>&- &
  else
    FIREDRILL_TESTBED_DAEMON=$STATE setsid "$@" >>"$LOG/$name.log" 2>&1 </dev/null &
  fi
  echo $! >"$STATE/run/$name.pid"
  # Before compilers and tests on the same machine: a slow API server costs leaders their locks.
  renice --priority -10 --pid $! >/dev/null 2>&1 || true
}

# marked_processes: every process that carries the cluster's mark (containers do not: they end with their node).
marked_processes() {
  grep -slzxF "FIREDRILL_TESTBED_DAEMON=$STATE" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}

# cgroup_hierarchies: where control groups can be made: each version 1 hierarchy and the version 2 one.
cgroup_hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts; }

kubectl() { "$BIN/kubectl" --kubeconfig "$KUBECONFIG_FILE" "$@"; }

# A cluster that came up and whose API server is still there lives, even if it does not answer just now.
cluster_lives() {
  [ -f "$STATE/complete" ] && grep -qszxF "FIREDRILL_TESTBED_DAEMON=$STATE" "/proc/$(cat "$STATE/run/apiserver.pid" 2>/dev/null)/environ"
}
cluster_is_up() { [ -f "$STATE/complete" ] && kubectl get --raw /readyz --request-timeout 3s >/dev/null 2>&1; }
