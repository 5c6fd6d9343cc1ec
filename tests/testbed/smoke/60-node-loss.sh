# shellcheck shell=bash
# A node is lost for real: its kubelet stands still and its link is down. Others take its pods over; then it returns.

mobile() {
  cat <<'YAML'
apiVersion: v1
kind: Namespace
metadata: {name: smoke-loss}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mobile, namespace: smoke-loss}
spec:
  replicas: 1
  selector: {matchLabels: {app: mobile}}
  template:
    metadata: {labels: {app: mobile}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: "localhost/toolbox:1", imagePullPolicy: Never, command: [sleep, infinity]}]
YAML
}

lost_node_is_evicted_and_returns() {
  use smoke
  mobile | kubectl apply --filename -
  kubectl rollout status --namespace smoke-loss deployment/mobile --timeout 60s
  local node n kubelet
  node=$(kubectl get pods --namespace smoke-loss --selector app=mobile --output 'jsonpath={.items[0].spec.nodeName}')
  n=${node#node}
  kubelet=$(node_run "$n" pgrep -x kubelet)
  ping -c 1 -W 2 "$(node_ip "$n")" # so that its silence means something later
  node_run "$n" kill -STOP "$kubelet"
  ip link set "$(node_link "$n")" down
  # Whatever happens from here on, the node gets its link and its kubelet back.
  trap 'ip link set "$(node_link "$n")" up; node_run "$n" kill -CONT "$kubelet"' EXIT
  within 30 node_is "$node" Unknown
  runs_elsewhere() {
    [ -n "$(kubectl get pods --namespace smoke-loss --selector app=mobile --output json |
      jq -r --arg node "$node" '.items[] | select(.spec.nodeName != $node and .status.phase == "Running" and .metadata.deletionTimestamp == null) | .metadata.name')" ]
  }
  within 40 runs_elsewhere
  refused "100% packet loss" ping -c 1 -W 1 "$(node_ip "$n")"
  ip link set "$(node_link "$n")" up
  node_run "$n" kill -CONT "$kubelet"
  trap - EXIT
  within 30 node_is "$node" True
  # The old pod is really gone once its node is back, and the node takes pods again.
  one_pod() { equal "$(kubectl get pods --namespace smoke-loss --selector app=mobile --output name | wc -l)" 1; }
  within 40 one_pod
  kubectl run --namespace smoke-loss back --image localhost/toolbox:1 --image-pull-policy Never --overrides "{\"spec\": {\"nodeName\": \"$node\"}}" --command -- sleep 60
  within 30 pod_is_ready smoke-loss back
  kubectl delete namespace smoke-loss --wait=false
}

# The whole node stands still, by its control group: every process on it, its pods' too.
frozen_node_is_missed_and_returns() {
  use smoke
  local group
  group=/sys/fs/cgroup/freezer/$(node_cgroup 3)
  echo FROZEN >"$group/freezer.state"
  trap 'echo THAWED >"$group/freezer.state"' EXIT
  within 30 node_is node3 Unknown
  echo THAWED >"$group/freezer.state"
  trap - EXIT
  within 30 node_is node3 True
}

# A daemon that dies is started again, as an init system would.
daemons_are_restarted() {
  use smoke
  local before
  before=$(node_run 2 pgrep -x kubelet)
  node_run 2 kill -KILL "$before"
  kubelet_is_new() { local now; now=$(node_run 2 pgrep -x kubelet) && [ "$now" != "$before" ]; }
  within 10 kubelet_is_new
  within 30 node_is node2 True
}

check "a lost node: NotReady, pods elsewhere, and its return" 160 lost_node_is_evicted_and_returns
check "a frozen node: NotReady, and its return" 70 frozen_node_is_missed_and_returns
check "a killed kubelet is started again" 45 daemons_are_restarted
