# shellcheck shell=bash
# What a Kubernetes cluster must do, on the real nodes.

cluster_comes_up() {
  smoke_cluster
  equal "$(kubectl get nodes --no-headers | grep -cw Ready)" 3
  equal "$(kubectl get nodes --output 'jsonpath={.items[*].metadata.labels.topology\.kubernetes\.io/zone}')" "zone-a zone-b zone-c"
}

# Each node has pid, mount, net, uts and ipc namespaces that neither the machine nor another node has, a kubelet and a
# container runtime of its own, a name of its own, and sees no other node's.
nodes_are_apart() {
  use smoke
  local kind n all
  for kind in pid mnt net uts ipc; do
    all=$(for pid in self $(node_pid 1) $(node_pid 2) $(node_pid 3); do readlink "/proc/$pid/ns/$kind"; done | sort -u | wc -l)
    equal "$all" 4 "different $kind namespaces"
  done
  for n in 1 2 3; do
    equal "$(node_run "$n" hostname)" "node$n"
    for kind in kubelet containerd kube-proxy; do
      equal "$(node_run "$n" sh -c 'cat /proc/[0-9]*/comm' | grep -cx "$kind")" 1 "$kind on node$n"
    done
    # What a node writes stays on its own disk.
    node_run "$n" sh -c 'echo x > /var/lib/testbed-was-here; ! touch /usr/testbed-was-here 2>/dev/null'
  done
  [ ! -e /var/lib/testbed-was-here ]
}

# A client on each node, a server on each node. The server answers with its node's name.
workload() {
  cat <<'YAML'
apiVersion: v1
kind: Namespace
metadata: {name: smoke-net}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: server, namespace: smoke-net}
spec:
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: server
        image: localhost/toolbox:1
        imagePullPolicy: Never
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        # perl-base is part of every Debian root.
        command: [perl, -MIO::Socket::INET, -e]
        args:
        - |
          $| = 1; print "serving on $ENV{NODE}\n"; $SIG{TERM} = sub { exit 0 };
          my $listener = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die;
          while (my $client = $listener->accept) {
            while (<$client>) { last if /^\r?$/ }
            print $client "HTTP/1.0 200 OK\r\n\r\n$ENV{NODE}\n"; close $client;
          }
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: smoke-net}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: smoke-net}
spec:
  clusterIP: None
  selector: {app: server}
YAML
}

workload_runs() {
  use smoke
  workload | kubectl apply --filename -
  kubectl rollout status --namespace smoke-net daemonset/server --timeout 60s
}
server_on() { kubectl get pods --namespace smoke-net --selector app=server --field-selector "spec.nodeName=$1" --output "jsonpath={.items[0]$2}"; }
in_server_on() { kubectl exec --namespace smoke-net "$(server_on "$1" .metadata.name)" -- "${@:2}"; }

dns_answers() {
  use smoke
  local n ip
  ip=$(kubectl get service --namespace smoke-net server --output 'jsonpath={.spec.clusterIP}')
  for n in 1 2 3; do
    contains "$(in_server_on "node$n" getent hosts server.smoke-net.svc.cluster.local)" "$ip"
    contains "$(in_server_on "node$n" getent hosts server)" "$ip"
    equal "$(in_server_on "node$n" getent ahostsv4 headless | awk '$2 == "STREAM"' | wc -l)" 3 "addresses of the headless service"
  done
  refused "exit code 2" in_server_on node1 getent hosts no-such-name.example.com
}

services_and_nodes_are_reached() {
  use smoke
  local from to answers
  for from in 1 2 3; do
    for to in 1 2 3; do
      equal "$(in_server_on "node$from" curl -sS --max-time 5 "http://$(server_on "node$to" .status.podIP):8080/")" "node$to"
    done
    # The Service spreads over the nodes: all three answer within 60 tries but for a chance of 3·(2/3)^60.
    # shellcheck disable=SC2016
    answers=$(in_server_on "node$from" sh -c 'for i in $(seq 60); do curl -sS --max-time 5 http://server/; done | sort -u | tr "\n" " "')
    equal "$answers" "node1 node2 node3 "
    # The machine itself reaches pods, not Services.
    equal "$(curl -sS --max-time 5 "http://$(server_on "node$from" .status.podIP):8080/")" "node$from"
  done
  # A pod reaches the API under its cluster name.
  equal "$(in_server_on node2 curl -sk --max-time 5 https://kubernetes.default/readyz)" ok
}

exec_attach_logs_work() {
  use smoke
  local pod
  pod=$(server_on node2 .metadata.name)
  equal "$(echo hello | kubectl exec --namespace smoke-net --stdin "$pod" -- sed 's/l/L/')" heLlo
  local rc=0
  kubectl exec --namespace smoke-net "$pod" -- sh -c 'exit 7' || rc=$?
  equal "$rc" 7 "exit code through exec"
  equal "$(kubectl logs --namespace smoke-net "$pod")" "serving on node2"
  kubectl run --namespace smoke-net attached --image localhost/toolbox:1 --image-pull-policy Never --stdin --attach=false --restart Never --command -- cat
  within 20 pod_is_running smoke-net attached
  equal "$(echo over the line | kubectl attach --namespace smoke-net --stdin attached 2>/dev/null)" "over the line"
  kubectl delete pod --namespace smoke-net attached --grace-period 0 --force
}

port_forward_works() {
  use smoke
  kubectl port-forward --namespace smoke-net "$(server_on node3 .metadata.name)" :8080 >"$SCRATCH/forward" &
  local forward=$!
  within 10 grep -q Forwarding "$SCRATCH/forward"
  equal "$(curl -sS --max-time 5 "http://127.0.0.1:$(sed -nE '1s/.*127.0.0.1:([0-9]+).*/\1/p' "$SCRATCH/forward")/")" node3
  kill "$forward"
}

ephemeral_containers_work() {
  use smoke
  local pod
  pod=$(server_on node1 .metadata.name)
  kubectl debug --namespace smoke-net "$pod" --image localhost/toolbox:1 --image-pull-policy Never --target server --container looker --profile general -- sleep 60
  looker_runs() { [ -n "$(kubectl get pod --namespace smoke-net "$pod" --output 'jsonpath={.status.ephemeralContainerStatuses[0].state.running.startedAt}')" ]; }
  within 20 looker_runs
  # It shares the target's processes.
  contains "$(kubectl exec --namespace smoke-net "$pod" --container looker -- sh -c 'cat /proc/1/comm')" perl
}

rbac_holds() {
  use smoke
  kubectl create serviceaccount --namespace smoke-net reader
  kubectl create role --namespace smoke-net reader --verb get,list --resource pods
  kubectl create rolebinding --namespace smoke-net reader --role reader --serviceaccount smoke-net:reader
  local token
  token=$(kubectl create token --namespace smoke-net reader)
  as_reader() { "$BIN/kubectl" --kubeconfig /dev/null --server "$API" --certificate-authority "$PKI/ca.crt" --token "$token" "$@"; }
  contains "$(as_reader get pods --namespace smoke-net --output name)" pod/server
  refused forbidden as_reader delete pods --all --namespace smoke-net
  refused forbidden as_reader get pods --namespace kube-system
  # A node may write about itself only (NodeRestriction).
  local as_node=("$BIN/kubectl" --kubeconfig "$PKI/node1.kubeconfig")
  "${as_node[@]}" annotate node node1 testbed=itself
  refused forbidden "${as_node[@]}" annotate node node2 testbed=another
}

pod_security_holds() {
  use smoke
  kubectl create namespace smoke-restricted
  kubectl label namespace smoke-restricted pod-security.kubernetes.io/enforce=restricted
  refused "violates PodSecurity" kubectl run --namespace smoke-restricted root --image localhost/toolbox:1 --privileged
  kubectl run --namespace smoke-restricted modest --image localhost/toolbox:1 --image-pull-policy Never --overrides '{"spec": {"securityContext":
    {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}, "terminationGracePeriodSeconds": 0, "containers": [{"name": "modest", "image": "localhost/toolbox:1",
    "imagePullPolicy": "Never", "command": ["sleep", "60"], "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}'
  within 20 pod_is_running smoke-restricted modest
  equal "$(kubectl exec --namespace smoke-restricted modest -- id -u)" 1000
  kubectl delete namespace smoke-restricted --wait=false
}

admission_policies_hold() {
  use smoke
  kubectl apply --filename - <<'YAML'
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: smoke-no-secrets-named-x}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  validations: [{expression: "object.metadata.name != 'forbidden'", message: "not that name"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: smoke-no-secrets-named-x}
spec:
  policyName: smoke-no-secrets-named-x
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: smoke-net}}}
YAML
  policy_bites() { refused "not that name" kubectl create configmap --namespace smoke-net forbidden --dry-run=server; }
  within 20 policy_bites
  kubectl create configmap --namespace smoke-net allowed
  kubectl create configmap --namespace default forbidden --dry-run=server
  kubectl delete validatingadmissionpolicy,validatingadmissionpolicybinding smoke-no-secrets-named-x
}

disruption_budgets_hold() {
  use smoke
  kubectl create deployment --namespace smoke-net pair --image localhost/toolbox:1 --replicas 2 --dry-run=client --output json -- sleep infinity |
    jq '.spec.template.spec += {terminationGracePeriodSeconds: 0} | .spec.template.spec.containers[0].imagePullPolicy = "Never"' | kubectl apply --filename -
  kubectl rollout status --namespace smoke-net deployment/pair --timeout 30s
  kubectl create poddisruptionbudget --namespace smoke-net pair --selector app=pair --min-available 2
  budget_is_counted() { equal "$(kubectl get pdb --namespace smoke-net pair --output 'jsonpath={.status.currentHealthy}')" 2; }
  within 20 budget_is_counted
  local pod
  pod=$(kubectl get pods --namespace smoke-net --selector app=pair --output 'jsonpath={.items[0].metadata.name}')
  evict() { printf '{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"%s","namespace":"smoke-net"}}' "$pod" | kubectl create --raw "/api/v1/namespaces/smoke-net/pods/$pod/eviction" --filename -; }
  refused "disruption budget" evict
  kubectl delete pdb --namespace smoke-net pair
  evict
  kubectl wait --namespace smoke-net --for=delete "pod/$pod" --timeout 20s
}

custom_resources_work() {
  use smoke
  kubectl apply --filename - <<'YAML'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.smoke.firedrill.dev}
spec:
  group: smoke.firedrill.dev
  scope: Namespaced
  names: {kind: Boat, plural: boats, singular: boat}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {sails: {type: integer, minimum: 1}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
YAML
  kubectl wait --for=condition=Established crd/boats.smoke.firedrill.dev --timeout 20s
  boat() { printf 'apiVersion: smoke.firedrill.dev/v1\nkind: Boat\nmetadata: {name: b, namespace: smoke-net}\nspec: {sails: %s}\n' "$1" | kubectl apply --filename -; }
  within 10 boat 2
  refused "should be greater than or equal to 1" boat 0
  kubectl delete crd boats.smoke.firedrill.dev --timeout 20s
}

audit_log_tells() {
  use smoke
  kubectl create configmap --namespace smoke-net audited --from-literal secret=never-in-the-audit-log
  local found
  found=$(jq --slurp '[.[] | select(.verb == "create" and .objectRef.resource == "configmaps" and .objectRef.name == "audited")]' "$LOG/audit.jsonl")
  equal "$(jq length <<<"$found")" 1
  equal "$(jq -r '.[0].user.username' <<<"$found")" testbed-admin
  equal "$(jq -r '.[0].responseStatus.code' <<<"$found")" 201
  equal "$(grep -c never-in-the-audit-log "$LOG/audit.jsonl" || true)" 0
}

# The numbers a monitoring system reads: of the kubelet, of its containers, of its volumes, with a pod's own rights.
kubelet_metrics_are_served() {
  use smoke
  contains "$(kubectl get --raw /api/v1/nodes/node1/proxy/metrics/cadvisor | grep '^container_memory_working_set_bytes{')" 'namespace="smoke-net"'
  contains "$(kubectl get --raw /api/v1/nodes/node1/proxy/metrics)" kubelet_running_pods
  equal "$(curl -sk -o /dev/null -w '%{http_code}' "https://$(node_ip 1):10250/metrics")" 401 "without a token"
}

images_are_loaded() {
  use smoke
  mkdir "$SCRATCH/load"
  tar -C "$SCRATCH/load" -cf "$SCRATCH/load.tar" .
  "$TESTBED_DIR/lib/mkimage.sh" "$SCRATCH/loaded.tar" localhost/smoke-loaded:1 "$SCRATCH/load.tar" '["/none"]'
  "$TESTBED" load --cluster smoke "$SCRATCH/loaded.tar"
  local n
  for n in 1 2 3; do contains "$(node_run "$n" ctr --namespace k8s.io images list --quiet)" localhost/smoke-loaded:1; done
  refused "no image file" "$TESTBED" load --cluster smoke "$SCRATCH/none.tar"
}

check "three nodes in three zones, and the shop world, come up" 240 cluster_comes_up
if [ "$LAST" != 0 ]; then return; fi
check "every node has namespaces, daemons and a disk of its own" 30 nodes_are_apart
check "pods run on every node" 70 workload_runs
check "cluster DNS answers on every node" 30 dns_answers
check "pods and Services are reached across nodes" 60 services_and_nodes_are_reached
check "exec, attach and logs" 40 exec_attach_logs_work
check "port-forward" 20 port_forward_works
check "ephemeral containers" 30 ephemeral_containers_work
check "RBAC and node restriction" 20 rbac_holds
check "Pod Security admission" 40 pod_security_holds
check "ValidatingAdmissionPolicy" 40 admission_policies_hold
check "PodDisruptionBudget" 60 disruption_budgets_hold
check "custom resources" 40 custom_resources_work
check "audit log" 20 audit_log_tells
check "kubelet and container metrics" 20 kubelet_metrics_are_served
check "images are loaded onto running nodes" 30 images_are_loaded
