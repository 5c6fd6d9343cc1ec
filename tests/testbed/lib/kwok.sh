# shellcheck shell=bash
# Fake nodes and pods by kwok, for scale: the API and its controllers are real, nothing runs. Sourced.

up_kwok() { # COUNT
  daemon kwok "$BIN/kwok" --kubeconfig "$KUBECONFIG_FILE" --manage-all-nodes=false --manage-nodes-with-annotation-selector kwok.x-k8s.io/node=fake \
    --cidr "$POD_CIDR" --node-ip "$GATEWAY" --node-lease-duration-seconds 40 --enable-crds= --server-address "$GATEWAY:10247"
  step "$1 fake nodes" kwok_nodes "$1" || up_failed
  step "fake nodes ready" wait_until 60 "$1 fake nodes to be Ready (log: $LOG/kwok.log)" kwok_nodes_are_ready "$1" || up_failed
}

kwok_nodes() {
  local i
  for i in $(seq "$1"); do
    cat <<YAML
---
apiVersion: v1
kind: Node
metadata:
  name: fake-$i
  annotations: {kwok.x-k8s.io/node: fake}
  labels: {type: kwok, kubernetes.io/hostname: fake-$i, kubernetes.io/os: linux, topology.kubernetes.io/zone: $(node_zone "$i")}
status:
  allocatable: {cpu: "32", memory: 256Gi, pods: "110"}
  capacity: {cpu: "32", memory: 256Gi, pods: "110"}
YAML
  done | kubectl create --filename - >>"$LOG/apply.log" 2>&1
}

kwok_nodes_are_ready() {
  local ready
  ready=$(kubectl get nodes --selector type=kwok -o jsonpath='{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -c True)
  [ "$ready" = "$1" ]
}
