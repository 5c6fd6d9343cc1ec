# shellcheck shell=bash
# Fake nodes, for scale: 200 nodes and 2,000 pods.

kwok_comes_up() {
  "$TESTBED" up --cluster smoke-kwok --mode kwok --kwok-nodes 200
  use smoke-kwok
  equal "$(kubectl get nodes --no-headers | grep -cw Ready)" 200
  equal "$(kubectl get nodes --selector topology.kubernetes.io/zone=zone-b --output name | wc -l)" 67
}

kwok_runs_pods() {
  use smoke-kwok
  kubectl create deployment many --image example.invalid/none --replicas 2000
  all_run() { equal "$(kubectl get deployment many --output 'jsonpath={.status.readyReplicas}')" 2000; }
  within 120 all_run
  # Spread over the nodes by the real scheduler.
  [ "$(kubectl get pods --output 'jsonpath={range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u | wc -l)" -ge 190 ]
}

kwok_deletes_pods() {
  use smoke-kwok
  kubectl delete deployment many --cascade=foreground --timeout 100s
  equal "$(kubectl get pods --output name | wc -l)" 0
}

kwok_goes() {
  "$TESTBED" down --cluster smoke-kwok
  same_inventory "$SCRATCH/inventory-kwok"
}

inventory >"$SCRATCH/inventory-kwok"
check "kwok mode comes up with 200 nodes in three zones" 60 kwok_comes_up
check "2,000 fake pods are scheduled and run" 130 kwok_runs_pods
check "and are deleted" 110 kwok_deletes_pods
check "down leaves nothing of it" 30 kwok_goes
