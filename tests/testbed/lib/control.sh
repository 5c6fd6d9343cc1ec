# shellcheck shell=bash
# The control plane: etcd, API server, controller-manager, scheduler, as processes of the machine. Sourced.
#
# They listen on the cluster's own bridge address (172.30.INDEX.1) or on the loopback, so that clusters never collide.

# The bridge itself was made when the cluster took its index.
control_network() {
  ip addr add "$GATEWAY/24" dev "$BRIDGE" || return 1
  ip link set "$BRIDGE" up
}

control_etcd() {
  # No fsync: the cluster is thrown away with the machine's next reboot anyway, and slow disks would slow every test.
  daemon etcd "$BIN/etcd" --name testbed --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" \
    --listen-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
    --initial-cluster "testbed=http://127.0.0.1:$((ETCD_PORT + 1))" --heartbeat-interval 50 --election-timeout 250
}

control_apiserver() {
  local args=(
    --etcd-servers "http://127.0.0.1:$ETCD_PORT"
    --bind-address "$GATEWAY" --advertise-address "$GATEWAY" --secure-port 6443
    --service-cluster-ip-range "$SERVICE_CIDR"
    --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" --client-ca-file "$PKI/ca.crt"
    --service-account-issuer https://kubernetes.default.svc
    --service-account-key-file "$PKI/sa.pub" --service-account-signing-key-file "$PKI/sa.key"
    --kubelet-client-certificate "$PKI/apiserver-kubelet-client.crt" --kubelet-client-key "$PKI/apiserver-kubelet-client.key"
    --kubelet-certificate-authority "$PKI/ca.crt" --kubelet-preferred-address-types InternalIP
    --authorization-mode Node,RBAC
    # Pod Security admission and ValidatingAdmissionPolicy are on by default.
    --enable-admission-plugins NodeRestriction
    --allow-privileged=true # node helpers and the like; Pod Security says where
    --audit-policy-file "$TESTBED_DIR/cluster/audit-policy.yaml" --audit-log-path "$LOG/audit.jsonl"
    --audit-log-mode blocking # production: batch; here a test reads its own call right after making it
    --audit-log-maxsize 200 --audit-log-maxbackup 1
    # Pods leave a lost node after 3 s (production: 300 s each), so that a drill fits into CI.
    --default-not-ready-toleration-seconds 3 --default-unreachable-toleration-seconds 3
    --profiling=false
  )
  daemon apiserver "$BIN/kube-apiserver" "${args[@]}"
}

control_controller_manager() { # MODE
  # A lost node is noticed after 8 s (production: 50 s, looked at every 5 s). Fake nodes keep production's: one process
  # sends the heartbeats of them all, and may fall behind.
  local grace=8s
  if [ "$1" = kwok ]; then grace=50s; fi
  local args=(
    --kubeconfig "$PKI/controller-manager.kubeconfig" --authentication-kubeconfig "$PKI/controller-manager.kubeconfig"
    --authorization-kubeconfig "$PKI/controller-manager.kubeconfig"
    --bind-address "$GATEWAY" --leader-elect=false --use-service-account-credentials
    --service-account-private-key-file "$PKI/sa.key" --root-ca-file "$PKI/ca.crt"
    --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key"
    --node-monitor-grace-period "$grace" --node-monitor-period 1s
    # A lost zone is evicted as quickly as a lost node (production: 0.1 a second, and slower still for a large outage).
    --node-eviction-rate 10 --secondary-node-eviction-rate 10
    # Defaults (20 a second) would take minutes over the thousands of pods of kwok mode.
    --kube-api-qps 500 --kube-api-burst 1000
    --profiling=false
  )
  daemon controller-manager "$BIN/kube-controller-manager" "${args[@]}"
}

control_scheduler() {
  daemon scheduler "$BIN/kube-scheduler" --kubeconfig "$PKI/scheduler.kubeconfig" --authentication-kubeconfig "$PKI/scheduler.kubeconfig" \
    --authorization-kubeconfig "$PKI/scheduler.kubeconfig" --bind-address "$GATEWAY" --leader-elect=false --profiling=false \
    --kube-api-qps 500 --kube-api-burst 1000
}

api_ready() { curl -sf --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" --max-time 2 "$API/readyz"; }
default_account_ready() { kubectl get serviceaccount default --namespace default --request-timeout 5s; }

# Ready: the API answers, and the controllers made the first namespace's service account, without which no pod can start.
control_start() {
  control_apiserver
  wait_until 60 "the API server to be ready (log: $LOG/apiserver.log)" api_ready || return 1
  control_controller_manager "$1"
  if [ "$1" != apiserver ]; then control_scheduler; fi
  wait_until 30 "the first service account (log: $LOG/controller-manager.log)" default_account_ready
}

# apply_filled FILE…: apply manifests with the cluster's own addresses filled in.
apply_filled() {
  local file
  for file in "$@"; do
    sed "s|@DNS_IP@|$DNS_IP|g; s|@CLUSTER@|$CLUSTER|g" "$file"
    echo ---
  done | kubectl apply --server-side --field-manager testbed -f - >>"$LOG/apply.log"
}
