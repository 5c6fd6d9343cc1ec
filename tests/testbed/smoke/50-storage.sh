# shellcheck shell=bash
# The storage class `fixed`: volumes of real, fixed size, that stay where they are, and break when they are told to.

writer() { # a claim of its own per replica
  cat <<'YAML'
apiVersion: v1
kind: Namespace
metadata: {name: smoke-disk}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: writer, namespace: smoke-disk}
spec:
  serviceName: writer
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: writer}}
  template:
    metadata: {labels: {app: writer}}
    spec:
      terminationGracePeriodSeconds: 0
      affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: writer}}}]}}
      containers:
      - name: writer
        image: localhost/toolbox:1
        imagePullPolicy: Never
        command: [sleep, infinity]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: fixed, resources: {requests: {storage: 64Mi}}}
YAML
}
in_writer() { kubectl exec --namespace smoke-disk "writer-$1" -- sh -c "$2"; }
writer_node() { kubectl get pod --namespace smoke-disk "writer-$1" --output 'jsonpath={.spec.nodeName}'; }
writer_volume() { kubectl get persistentvolumeclaim --namespace smoke-disk "data-writer-$1" --output 'jsonpath={.spec.volumeName}'; }

volumes_are_made() {
  use smoke
  writer | kubectl apply --filename -
  kubectl rollout status --namespace smoke-disk statefulset/writer --timeout 60s
  [ "$(writer_node 0)" != "$(writer_node 1)" ]
  # The size is the claim's, to the byte on the machine, and no more than that inside.
  equal "$(stat -c %s "$STATE/volumes/$(writer_volume 0).img")" $((64 * 1024 * 1024))
  local kib
  kib=$(in_writer 0 "df -k /data | awk 'NR == 2 {print \$2}'")
  [ "$kib" -gt $((50 * 1024)) ] && [ "$kib" -le $((64 * 1024)) ]
  # A claim that no pod uses yet waits for its first consumer.
  kubectl apply --filename - <<'YAML'
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: nobody, namespace: smoke-disk}
spec: {accessModes: [ReadWriteOnce], storageClassName: fixed, resources: {requests: {storage: 64Mi}}}
YAML
  sleep 2 # long enough to be made, had anything wanted to
  equal "$(kubectl get persistentvolumeclaim --namespace smoke-disk nobody --output 'jsonpath={.status.phase}')" Pending
}

data_survives_a_restart() {
  use smoke
  local node
  node=$(writer_node 0)
  in_writer 0 'echo kept > /data/file && sync'
  kubectl delete pod --namespace smoke-disk writer-0
  within 30 pod_is_ready smoke-disk writer-0
  equal "$(in_writer 0 'cat /data/file')" kept
  equal "$(writer_node 0)" "$node" "the node it is on"
}

volume_fills_up() {
  use smoke
  refused "No space left on device" in_writer 0 'cat /dev/zero > /data/fill'
  # What is left is less than any write of a database needs.
  [ "$(in_writer 0 "df -k /data | awk 'NR == 2 {print \$4}'")" -lt 512 ]
  # The other volume, of the same class, has room.
  in_writer 1 'dd if=/dev/zero of=/data/fill bs=1M count=40 conv=fsync && rm /data/fill'
  # Monitoring sees it: this is what alerts on disks go by.
  fullness_is_seen() {
    local left
    left=$(kubectl get --raw "/api/v1/nodes/$(writer_node 0)/proxy/metrics" | awk '/^kubelet_volume_stats_available_bytes{namespace="smoke-disk",persistentvolumeclaim="data-writer-0"}/ {printf "%d", $2}')
    [ -n "$left" ] && [ "$left" -lt $((512 * 1024)) ]
  }
  within 30 fullness_is_seen
  in_writer 0 'rm /data/fill && echo room > /data/again'
}

volume_turns_read_only() {
  use smoke
  "$TESTBED" volume readonly smoke-disk/data-writer-0 --cluster smoke
  refused "Read-only file system" in_writer 0 'echo no > /data/new'
  equal "$(in_writer 0 'cat /data/file')" kept "what is there can be read"
  contains "$("$TESTBED" volume ls --cluster smoke | grep data-writer-0)" read-only
  refused "is in use" "$TESTBED" volume restore smoke-disk/data-writer-0 --cluster smoke
  # And then nothing has changed: it is mounted, read-only, and a second look says so.
  refused "Read-only file system" in_writer 0 'echo no > /data/new'
  contains "$("$TESTBED" volume ls --cluster smoke | grep data-writer-0)" read-only
  node_run "$(writer_node 0 | tr -dc 0-9)" mountpoint "/volumes/$(writer_volume 0)"
}

volume_is_lost() {
  use smoke
  in_writer 1 'echo gone > /data/file && sync'
  "$TESTBED" volume lose smoke-disk/data-writer-1 --cluster smoke
  refused "Input/output error" in_writer 1 'dd if=/dev/zero of=/data/new bs=1M count=1 conv=fsync'
  contains "$("$TESTBED" volume ls --cluster smoke | grep data-writer-1)" lost
}

volumes_are_restored() {
  use smoke
  kubectl scale --namespace smoke-disk statefulset/writer --replicas 0
  kubectl wait --namespace smoke-disk --for=delete pod/writer-0 pod/writer-1 --timeout 30s
  "$TESTBED" volume restore smoke-disk/data-writer-0 --cluster smoke
  "$TESTBED" volume restore smoke-disk/data-writer-1 --cluster smoke
  kubectl scale --namespace smoke-disk statefulset/writer --replicas 2
  kubectl rollout status --namespace smoke-disk statefulset/writer --timeout 60s
  equal "$(in_writer 0 'cat /data/file; echo new > /data/new; cat /data/new')" $'kept\nnew' "a read-only volume comes back with its data"
  refused "No such file" in_writer 1 'cat /data/file' # a lost one comes back empty
  in_writer 1 'echo new > /data/new'
}

# What a claim's end frees: the file and the loop device.
volumes_are_freed() {
  use smoke
  local file
  file=$STATE/volumes/$(writer_volume 0).img
  contains "$(losetup --list --noheadings --output BACK-FILE)" "$file"
  kubectl delete namespace smoke-disk --timeout 60s
  volume_is_gone() { [ ! -e "$file" ] && ! losetup --list --noheadings --output BACK-FILE | grep -F "$file"; }
  within 30 volume_is_gone
  no_volumes_left() { equal "$(kubectl get persistentvolumes --output json | jq '[.items[] | select(.spec.claimRef.namespace == "smoke-disk")] | length')" 0; }
  within 20 no_volumes_left
}

check "fixed volumes are made where their pod runs, of exactly the size asked for" 100 volumes_are_made
if [ "$LAST" != 0 ]; then return; fi
check "their data survives a restart of the pod, and stays on its node" 60 data_survives_a_restart
check "a full volume is full, and metrics say so" 60 volume_fills_up
check "a volume turns read-only" 30 volume_turns_read_only
check "a volume is lost" 30 volume_is_lost
check "both come back: one with its data, one empty" 120 volumes_are_restored
check "a deleted claim frees file and device" 100 volumes_are_freed
