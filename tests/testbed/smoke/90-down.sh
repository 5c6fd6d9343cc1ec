# shellcheck shell=bash
# The end of the cluster that the tests before this one used.

down_leaves_nothing() {
  use smoke
  local dir
  for dir in /var/lib/kubelet /var/lib/containerd /etc/cni/net.d; do
    # What the nodes have there, the machine has not.
    [ -n "$(node_run 1 ls -A "$dir")" ]
  done
  "$TESTBED" down --cluster smoke
  "$TESTBED" down --cluster smoke # a second time
  same_inventory "$SCRATCH/inventory" smoke
  [ ! -e "$STATE/nodes" ] && [ ! -e "$STATE/kubeconfig" ]
  [ -s "$LOG/apiserver.log" ] # the logs stay
}

if [ -f "$SCRATCH/inventory" ]; then check "down leaves nothing on the machine, run twice" 60 down_leaves_nothing; fi
