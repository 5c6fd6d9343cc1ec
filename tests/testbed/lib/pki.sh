# shellcheck shell=bash
# Keys, certificates and kubeconfigs of one cluster. Elliptic curves: made in milliseconds. Sourced.

pki_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1" 2>/dev/null; }

# pki_cert NAME SUBJECT [SUBJECT_ALT_NAMES]: one process makes key and certificate; a configuration of our own, for the
# system's would make every certificate an authority.
pki_cert() {
  openssl req -x509 -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -config <(printf '[req]\ndistinguished_name = dn\n[dn]\n') -subj "$2" -days 30 -addext basicConstraints=critical,CA:FALSE \
    ${3:+-addext "subjectAltName=$3"} -keyout "$PKI/$1.key" -out "$PKI/$1.crt" 2>>"$LOG/pki.log"
}

# pki_kubeconfig NAME FILE: everything inside the file, so that it can be copied anywhere.
pki_kubeconfig() {
  cat >"$2.tmp" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: testbed-$CLUSTER
  cluster: {server: "$API", certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")}
users:
- name: $1
  user: {client-certificate-data: $(base64 -w0 "$PKI/$1.crt"), client-key-data: $(base64 -w0 "$PKI/$1.key")}
contexts:
- name: testbed-$CLUSTER
  context: {cluster: testbed-$CLUSTER, user: $1}
current-context: testbed-$CLUSTER
YAML
  chmod 600 "$2.tmp"
  mv "$2.tmp" "$2"
}

pki_control_plane() {
  mkdir -p "$PKI"
  chmod 700 "$PKI"
  pki_key "$PKI/ca.key"
  openssl req -x509 -new -key "$PKI/ca.key" -days 30 -subj "/CN=testbed-$CLUSTER-ca" -out "$PKI/ca.crt"
  pki_key "$PKI/sa.key"
  openssl ec -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub" 2>/dev/null
  pki_cert apiserver /CN=kube-apiserver \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:$API_SERVICE_IP,IP:$GATEWAY"
  pki_cert apiserver-kubelet-client /O=system:masters/CN=apiserver-kubelet-client
  pki_cert admin /O=system:masters/CN=testbed-admin
  pki_cert controller-manager /CN=system:kube-controller-manager
  pki_cert scheduler /CN=system:kube-scheduler
  pki_cert kube-proxy /CN=system:kube-proxy
  pki_kubeconfig admin "$KUBECONFIG_FILE"
  local user
  for user in controller-manager scheduler kube-proxy; do pki_kubeconfig "$user" "$PKI/$user.kubeconfig"; done
}

pki_node() { # N
  pki_cert "node$1" "/O=system:nodes/CN=system:node:node$1" "DNS:node$1,IP:$(node_ip "$1")"
  pki_kubeconfig "node$1" "$PKI/node$1.kubeconfig"
}
