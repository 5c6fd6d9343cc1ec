#!/usr/bin/env bash
# Restore a backup of stanza `orders` into a new, empty volume and start a database of its own on it: see README.md.
set -euo pipefail
shop() { kubectl --namespace shop "$@"; }
if [ "${1:-}" = clean ]; then
  shop delete pod/orders-restored persistentvolumeclaim/restore-data configmap/orders-restored --ignore-not-found --timeout 60s
  exit
fi
repo=${1:?which repository: 1 or 2}
case $repo in 1 | 2) ;; *) echo "no repository '$repo': 1 or 2" >&2; exit 2 ;; esac
shift
if shop get persistentvolumeclaim restore-data >/dev/null 2>&1; then
  echo "claim shop/restore-data exists: a restore goes into an empty volume only; run: $0 clean" >&2
  exit 1
fi

shop create configmap orders-restored --dry-run=client --output yaml --from-literal "pgbackrest.conf=[global]
repo$repo-host=backup-repo$repo.shop.svc.cluster.local
repo$repo-host-type=tls
repo$repo-host-ca-file=/etc/pgbackrest-tls/ca.crt
repo$repo-host-cert-file=/etc/pgbackrest-tls/client.crt
repo$repo-host-key-file=/etc/pgbackrest-tls/client.key
io-timeout=10
log-level-console=info
log-level-file=off
lock-path=/tmp/pgbackrest
[orders]
pg1-path=/data/pg
pg1-socket-path=/run/postgresql
" | shop apply --server-side --filename - >/dev/null

options=$(printf '%s\n' "$@" | jq -Rsc 'split("\n") | map(select(. != ""))')
jq -n --argjson options "$options" --arg repo "$repo" '
  def volumes: [{name: "data", mountPath: "/data"}, {name: "config", mountPath: "/etc/pgbackrest"},
                {name: "tls", mountPath: "/etc/pgbackrest-tls"}, {name: "run", mountPath: "/run/postgresql"}];
  {apiVersion: "v1", kind: "List", items: [
    {apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: {name: "restore-data", namespace: "shop"},
     spec: {storageClassName: "fixed", accessModes: ["ReadWriteOnce"], resources: {requests: {storage: "512Mi"}}}},
    {apiVersion: "v1", kind: "Pod", metadata: {name: "orders-restored", namespace: "shop", labels: {app: "orders-restored"}},
     spec: {
       restartPolicy: "Never",
       securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999},
       initContainers: [{
         name: "restore", image: "localhost/postgres-ha:1", imagePullPolicy: "IfNotPresent", volumeMounts: volumes,
         # An empty volume has lost+found on it, nothing else: a directory of its own is the new cluster.
         command: (["pgbackrest", "--stanza=orders", "--repo=" + $repo, "--archive-mode=off"] + $options + ["restore"])}],
       containers: [{
         name: "postgres", image: "localhost/postgres-ha:1", imagePullPolicy: "IfNotPresent", volumeMounts: volumes,
         # What Patroni wrote into the data directory names its own paths and peers: start from the defaults.
         command: ["bash", "-c", "exec postgres -D /data/pg -c hba_file=/data/pg/pg_hba.conf -c listen_addresses=0.0.0.0 -c unix_socket_directories=/run/postgresql -c synchronous_standby_names= -c primary_conninfo= -c primary_slot_name="],
         ports: [{name: "postgresql", containerPort: 5432}],
         readinessProbe: {exec: {command: ["bash", "-c", "[ \"$(psql -AtXc \"SELECT pg_is_in_recovery()\")\" = f ]"]}, periodSeconds: 1}}],
       volumes: [{name: "data", persistentVolumeClaim: {claimName: "restore-data"}}, {name: "run", emptyDir: {}},
                 {name: "config", configMap: {name: "orders-restored"}},
                 {name: "tls", secret: {secretName: ("restore-repo" + $repo + "-tls"), defaultMode: 288}}]}}]}' |
  shop apply --server-side --filename - >/dev/null
if ! shop wait pod/orders-restored --for=condition=Ready --timeout 120s; then
  shop logs orders-restored --container restore --tail 20 >&2 || true
  shop logs orders-restored --container postgres --tail 20 >&2 || true
  exit 1
fi
