#!/usr/bin/env bash
# Everything that a fault could have left on a cluster of the testbed, one thing a line: sweep.sh CLUSTER >FILE, before a suite and
# after it; `sweep.sh --same FILE CLUSTER` waits up to two minutes until nothing differs, and shows what does.
#
# On the nodes: processes and which of them are stopped, frozen control groups, routes, packet filters (of every network namespace), mounts,
# files of firedrill's (the network of pods and its rules come with a node's first pod: not those). In the cluster: cordons, taints and labels of nodes, replica counts, suspended CronJobs, and the names of all
# that lasts. Left out is what changes by itself: heartbeats, Events, what Kubernetes makes in each namespace. The cluster's own pods leave a
# node that is lost and come up on another one: what pods bring along is counted over all nodes, and ids of pods and containers are passed over.
set -uo pipefail
REPOSITORY=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
TESTBED_DIR=$REPOSITORY/tests/testbed
# shellcheck source=tests/testbed/smoke/lib.sh
. "$TESTBED_DIR/smoke/lib.sh" || exit 1
trap 'rm -rf "$SCRATCH"' EXIT
set +e

# What belongs to a node, and what its pods bring along.
# shellcheck disable=SC2016 # for the nodes' shells
of_node='
  echo "route: $(ip rule | tr "\n" ";")"; ip route show table all | grep -vE "^broadcast|^local|cni|veth" | sed "s/^/route: /"
  find / -xdev \( -path /proc -o -path /sys \) -prune -o \( -name ".firedrill*" -o -path "/run/firedrill*" -o -path "/tmp/firedrill*" \) -print 2>/dev/null | sed "s/^/file: /"
'
# shellcheck disable=SC2016
of_pods='
  ps -eo comm= | grep -vE "^(ps|sh|bash|awk|grep|sed|sort|uniq|find|nft|ip|sleep|exe|runc.*|mount|umount|ip6?tables.*|xtables.*|nsenter|kworker.*)$" | sed "s/^/process: /"
  ps -eo state=,comm= | grep "^T" | sed "s/^/stopped process: /"
  { find /sys/fs/cgroup -name freezer.state -exec grep -l FROZEN {} +; find /sys/fs/cgroup -name cgroup.freeze -exec grep -l 1 {} +; } 2>/dev/null | sed "s/^/frozen: /"
  for ns in $(for p in /proc/[0-9]*; do echo "$(readlink "$p/ns/net") ${p#/proc/}"; done 2>/dev/null | sort -u -k1,1 | awk "{print \$2}"); do
    nsenter --target "$ns" --net nft list tables 2>/dev/null | grep -vE "^table (ip|ip6) (nat|filter|mangle|raw)$" | sed "s/^/packet filter: /"
  done
  awk "{print \"mount: \" \$2, \$3}" /proc/self/mounts
'
sweep() {
  local n
  for n in $(seq "$(node_count)"); do
    node_run "$n" sh -c "$of_node" 2>/dev/null | sed "s/^/node $n: /"
  done
  for n in $(seq "$(node_count)"); do
    node_run "$n" sh -c "$of_pods" 2>/dev/null
  done | sed -E 's/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/POD/g; s/[0-9a-f]{64}/CONTAINER/g; s/(kube-api-access)-[a-z0-9]{5}/\1/g; s#/nodes/[0-9]+/#/nodes/N/#g' | sort | uniq -c
  kubectl get nodes --output json | jq -r '.items[] | "node \(.metadata.name) unschedulable=\(.spec.unschedulable // false) taints=\([.spec.taints[]?.key] | sort) labels=\(.metadata.labels | keys)"'
  kubectl get deployments,statefulsets,replicasets,daemonsets,cronjobs --all-namespaces --output json |
    jq -r '.items[] | "\(.kind) \(.metadata.namespace)/\(.metadata.name) replicas=\(.spec.replicas) suspend=\(.spec.suspend) labels=\(.metadata.labels // {} | keys)"'
  kubectl get namespaces,persistentvolumes,clusterroles,clusterrolebindings,customresourcedefinitions --output name
  # The name of a pod without what is drawn for it.
  kubectl get pods --all-namespaces --output json | jq -r '.items[] | "Pod \(.metadata.namespace)/\(.metadata.generateName // .metadata.name)"'
  kubectl get configmaps,secrets,serviceaccounts,roles,rolebindings,jobs,persistentvolumeclaims,services,networkpolicies,leases --all-namespaces \
    --output 'jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\n"}{end}' | grep -vE '^Lease (kube-node-lease|kube-system)/'
}

same=
if [ "${1:-}" = --same ]; then
  same=$2
  shift 2
fi
cluster_use "${1:?sweep.sh CLUSTER}"
environment=$("$TESTBED" env --cluster "$1") || exit 1
eval "$environment"
if [ "$(node_count)" = 0 ]; then
  echo "cluster $1 has no nodes to be swept" >&2
  exit 1
fi
if [ -z "$same" ]; then
  sweep | sort
  exit
fi
deadline=$((SECONDS + 120))
until differs=$(diff "$same" <(sweep | sort)); do
  if [ $SECONDS -ge $deadline ]; then
    printf 'left behind (>) or lost (<):\n%s\n' "$differs"
    echo "test result: FAILED. 0 passed; 1 failed"
    exit 1
  fi
  sleep 2
done
echo "test result: ok. 1 passed; 0 failed (nothing differs from before: $(wc -l <"$same") lines)"
