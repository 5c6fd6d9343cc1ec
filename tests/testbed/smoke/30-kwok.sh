# shellcheck shell=bash
# Fake nodes, for scale: 200 nodes and 1,000 pods (as many as the minutes allow; by hand, take more).

kwok_comes_up() {
  "$TESTBED" up --cluster smoke-kwok --mode kwok --kwok-nodes 200
  use smoke-kwok
  equal "$(kubectl get nodes --no-headers | grep -cw Ready)" 200
  equal "$(kubectl get nodes --selector topology.kubernetes.io/zone=zone-b --output name | wc -l)" 67
}

kwok_runs_pods() {
  use smoke-kwok
  kubectl create deployment many --image example.invalid/none --replicas 1000
  kubectl rollout status deployment/many --timeout 120s
  # Spread over the nodes by the real scheduler.
  [ "$(kubectl get pods --output 'jsonpath={range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u | wc -l)" -ge 190 ]
}

kwok_deletes_pods() {
  use smoke-kwok
  kubectl delete pods --selector app=many --wait=false --field-selector spec.nodeName=fake-7
  kubectl scale deployment/many --replicas 900
  fewer_pods() { equal "$(kubectl get pods --output name | wc -l)" 900; }
  within 60 fewer_pods
}

kwok_goes() {
  "$TESTBED" down --cluster smoke-kwok
  same_inventory "$SCRATCH/inventory-kwok" 'smoke-*'
}

inventory 'smoke-*' >"$SCRATCH/inventory-kwok"
check "kwok mode comes up with 200 nodes in three zones" 60 kwok_comes_up
check "1,000 fake pods are scheduled and run" 130 kwok_runs_pods
check "and are deleted" 70 kwok_deletes_pods
check "down leaves nothing of it" 30 kwok_goes
