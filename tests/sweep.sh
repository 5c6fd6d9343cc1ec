#!/usr/bin/env bash
# Everything that a fault could have left on a cluster of the testbed, one thing a line: sweep.sh CLUSTER >FILE, before a suite and
# after it; `sweep.sh --same FILE CLUSTER` waits up to two minutes until nothing differs, and shows what does.
#
# On the nodes: processes and which of them are stopped, frozen control groups, routes, packet filters (of every network namespace), mounts,
# files of firedrill's. In the cluster: cordons, taints and labels of nodes, replica counts, suspended CronJobs, and the names of all
# that lasts. Left out is what changes by itself: heartbeats, Events, what Kubernetes makes in each namespace.
set -uo pipefail
REPOSITORY=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
TESTBED_DIR=$REPOSITORY/tests/testbed
# shellcheck source=tests/testbed/smoke/lib.sh
. "$TESTBED_DIR/smoke/lib.sh" || exit 1
trap 'rm -rf "$SCRATCH"' EXIT
set +e

# shellcheck disable=SC2016 # for the nodes' shells
on_node='
  echo "== processes"; ps -eo comm= | grep -vE "^(ps|sh|bash|awk|grep|sort|uniq|find|nft|ip|sleep|exe|runc.*|mount|umount|iptables.*|xtables.*|nsenter|kworker.*)$" | sort | uniq -c
  echo "== stopped"; ps -eo state=,comm= | grep "^T"
  echo "== frozen"; find /sys/fs/cgroup -name freezer.state -exec grep -l FROZEN {} + 2>/dev/null; find /sys/fs/cgroup -name cgroup.freeze -exec grep -l 1 {} + 2>/dev/null
  echo "== routes"; ip route show table all | grep -v "^broadcast"; ip rule
  echo "== packet filters"
  for ns in $(for p in /proc/[0-9]*; do echo "$(readlink "$p/ns/net") ${p#/proc/}"; done 2>/dev/null | sort -u -k1,1 | awk "{print \$2}"); do
    nsenter --target "$ns" --net nft list tables 2>/dev/null
  done | sort | uniq -c
  echo "== mounts"; awk "{print \$2, \$3}" /proc/self/mounts | sort
  echo "== files"; find / -xdev \( -path /proc -o -path /sys \) -prune -o \( -name ".firedrill*" -o -path "/run/firedrill*" -o -path "/tmp/firedrill*" \) -print 2>/dev/null
'
sweep() {
  local n
  for n in $(seq "$(node_count)"); do
    node_run "$n" sh -c "$on_node" 2>/dev/null | sed "s/^/node $n: /"
  done
  kubectl get nodes --output json | jq -r '.items[] | "node \(.metadata.name) unschedulable=\(.spec.unschedulable // false) taints=\([.spec.taints[]?.key] | sort) labels=\(.metadata.labels | keys)"'
  kubectl get deployments,statefulsets,replicasets,daemonsets,cronjobs --all-namespaces --output json |
    jq -r '.items[] | "\(.kind) \(.metadata.namespace)/\(.metadata.name) replicas=\(.spec.replicas) suspend=\(.spec.suspend) labels=\(.metadata.labels // {} | keys)"'
  kubectl get namespaces,persistentvolumes,clusterroles,clusterrolebindings,customresourcedefinitions --output name
  kubectl get configmaps,secrets,serviceaccounts,roles,rolebindings,pods,jobs,persistentvolumeclaims,services,networkpolicies,leases --all-namespaces \
    --output 'jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\n"}{end}' | grep -vE '^Lease (kube-node-lease|kube-system)/'
}

same=
if [ "${1:-}" = --same ]; then
  same=$2
  shift 2
fi
cluster_use "${1:?sweep.sh CLUSTER}"
eval "$("$TESTBED" env --cluster "$1")" || exit 1
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
