#!/usr/bin/env bash
# Namespaces, and what must never be committed: passwords, keys and certificates, made once for each cluster.
# `testbed up --world shop` runs it before it applies the manifests; running it again changes nothing.
set -euo pipefail
cd "$(dirname "$0")"
kubectl apply --server-side --field-manager testbed --filename 00-namespaces.yaml
if kubectl --namespace escrow get secret backup-repo2-cipher >/dev/null 2>&1; then exit 0; fi # made last

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# login NAME USER: a role of the database.
login() {
  kubectl create secret generic "$1" --namespace shop --dry-run=client --output yaml \
    --from-literal "username=$2" --from-literal "password=$(openssl rand -hex 16)"
  echo ---
}

# authority NAME; certificate NAME AUTHORITY COMMON_NAME [NAMES]: files NAME.crt and NAME.key.
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$1" \
    -keyout "$work/$1.key" -out "$work/$1.crt" 2>/dev/null
}
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$3" \
    -keyout "$work/$1.key" -out "$work/$1.csr" 2>/dev/null
  openssl x509 -req -in "$work/$1.csr" -CA "$work/$2.crt" -CAkey "$work/$2.key" -CAcreateserial -days 30 \
    -extfile <(printf 'subjectAltName=%s\n' "${4:-DNS:$3}") -out "$work/$1.crt" 2>/dev/null
}

# Three authorities, so that what opens one repository is worth nothing at the other: each repository host trusts its
# own clients only, and the database trusts both hosts.
for name in orders-ca repo1-ca repo2-ca; do authority "$name"; done
certificate orders orders-ca orders "DNS:*.orders.shop.svc.cluster.local"
for n in 1 2; do
  certificate "repo$n" "repo$n-ca" "backup-repo$n" "DNS:backup-repo$n.shop.svc.cluster.local,DNS:backup-repo$n"
  certificate "repo$n-client" "repo$n-ca" orders
  certificate "repo$n-restore" "repo$n-ca" orders-restore
done
cat "$work/repo1-ca.crt" "$work/repo2-ca.crt" >"$work/clients-ca.crt"

# files NAMESPACE/SECRET KEY=FILE…
files() {
  local secret=$1 arguments=() pair
  shift
  for pair in "$@"; do arguments+=(--from-file "${pair%%=*}=$work/${pair#*=}"); done
  kubectl create secret generic "${secret#*/}" --namespace "${secret%/*}" --dry-run=client --output yaml "${arguments[@]}"
  echo ---
}

openssl rand -hex 32 | tr -d '\n' >"$work/pass"
{
  login orders-superuser postgres
  login orders-replication standby
  login orders-app checkout
  login orders-ledger firedrill_ledger
  login orders-monitor monitor
  login orders-metrics-script usage_metrics
  files shop/orders-pgbackrest-tls server.crt=orders.crt server.key=orders.key clients-ca.crt=clients-ca.crt \
    repo1-ca.crt=repo1-ca.crt repo1.crt=repo1-client.crt repo1.key=repo1-client.key \
    repo2-ca.crt=repo2-ca.crt repo2.crt=repo2-client.crt repo2.key=repo2-client.key
  for n in 1 2; do
    files "shop/backup-repo$n-tls" "server.crt=repo$n.crt" "server.key=repo$n.key" "clients-ca.crt=repo$n-ca.crt" orders-ca.crt=orders-ca.crt
    files "shop/restore-repo$n-tls" "ca.crt=repo$n-ca.crt" "client.crt=repo$n-restore.crt" "client.key=repo$n-restore.key"
  done
  files shop/backup-repo2-cipher pass=pass
  # The escrowed copy: whoever loses the cluster's copy can still read the second repository.
  files escrow/backup-repo2-cipher pass=pass
} | kubectl apply --server-side --field-manager testbed --filename - >/dev/null
