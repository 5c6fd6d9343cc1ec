# shellcheck shell=bash
# The API server alone: for suites that need no kubelet.

apiserver_comes_up() {
  "$TESTBED" up --cluster smoke-api --mode apiserver
  use smoke-api
  equal "$(kubectl get --raw /readyz)" ok
  equal "$(kubectl get nodes --output name)" ""
  contains "$(kubectl version --output json)" "$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" {print $3}' "$TESTBED_DIR/tools/kubernetes/go.mod")"
}

# The controllers run: a namespace gets its account and root certificate, and goes again with what is in it.
apiserver_has_controllers() {
  use smoke-api
  kubectl create namespace controllers
  within 10 kubectl get --namespace controllers serviceaccount default
  within 10 kubectl get --namespace controllers configmap kube-root-ca.crt
  kubectl create configmap --namespace controllers x
  kubectl delete namespace controllers --timeout 30s
}

second_up_is_refused() {
  refused "is up already" "$TESTBED" up --cluster smoke-api --mode apiserver
  use smoke-api
  equal "$(kubectl get --raw /readyz)" ok
}

# An API server that does not answer for a while is no reason to throw its cluster away.
hung_cluster_is_kept() {
  use smoke-api
  kubectl create configmap precious
  kill -STOP "$(cat "$STATE/run/apiserver.pid")"
  trap 'kill -CONT "$(cat "$STATE/run/apiserver.pid")"' EXIT
  refused "does not answer" "$TESTBED" up --cluster smoke-api --mode apiserver
  refused "does not answer" "$TESTBED" status --cluster smoke-api
  kill -CONT "$(cat "$STATE/run/apiserver.pid")"
  trap - EXIT
  within 30 kubectl get configmap precious
}

# While one `up` runs, another is refused, and so is a `down`.
concurrent_up_is_refused() {
  "$TESTBED" up --cluster smoke-twice --mode apiserver &
  local first=$!
  within 10 test -s "$STATE_ROOT/smoke-twice.lock"
  refused "is being worked on by process $first" "$TESTBED" up --cluster smoke-twice --mode apiserver
  refused "is being worked on by process $first" "$TESTBED" down --cluster smoke-twice
  wait "$first"
  use smoke-twice
  equal "$(kubectl get --raw /readyz)" ok
  [ "$(cat "$STATE/index")" != "$(cat "$STATE_ROOT/smoke-api/index")" ]
  "$TESTBED" down --cluster smoke-twice
  use smoke-api
  equal "$(kubectl get --raw /readyz)" ok "the cluster beside it still answers"
}

env_is_fit_for_eval() {
  (
    unset KUBECONFIG
    eval "$("$TESTBED" env --cluster smoke-api)"
    equal "$(command kubectl config current-context)" testbed-smoke-api
    [ -f "$FIREDRILL_TESTBED_AUDIT_LOG" ]
  )
  contains "$("$TESTBED" status --cluster smoke-api)" "MiB"
  contains "$("$TESTBED" logs --cluster smoke-api)" apiserver.log
  contains "$("$TESTBED" logs etcd --cluster smoke-api; echo end)" end
  refused "no log 'nonsense'" "$TESTBED" logs nonsense --cluster smoke-api
  refused "no nodes" "$TESTBED" load "$TESTBED_DIR/README.md" --cluster smoke-api
}

apiserver_goes() {
  "$TESTBED" down --cluster smoke-api
  "$TESTBED" down --cluster smoke-api # a second time
  same_inventory "$SCRATCH/inventory-api" 'smoke-*'
}

inventory 'smoke-*' >"$SCRATCH/inventory-api"
check "API server alone comes up" 60 apiserver_comes_up
check "its controllers work" 60 apiserver_has_controllers
check "a second up of a running cluster is refused" 20 second_up_is_refused
check "a cluster whose API server hangs is kept" 60 hung_cluster_is_kept
check "up and down beside a running up are refused; two clusters live side by side" 60 concurrent_up_is_refused
check "env, status and logs" 20 env_is_fit_for_eval
check "down leaves nothing of it" 30 apiserver_goes
