# shellcheck shell=bash
# The storage class `fixed`: every volume is an ext4 image file of exactly the claim's size, mounted on one node. Sourced.
#
# A full volume is full, a broken one gives I/O errors, and what is on it stays on its node. The provisioner is a
# process of the machine, not of the cluster: it watches claims and volumes, and does with losetup and mount what a
# storage driver does with a cloud's API. Volumes are of type `local`: the kubelet binds /volumes/NAME into pods.

PROVISIONER=testbed.firedrill.dev/fixed

volumes_start() { daemon provisioner "$TESTBED_DIR/testbed" provisioner --cluster "$CLUSTER"; }

# The provisioner's process: two watches, each begun again when it ends.
cmd_provisioner() {
  (
    while true; do
      kubectl get persistentvolumeclaims --all-namespaces --watch --output \
        'jsonpath={.metadata.uid} {.metadata.namespace} {.metadata.name} {.status.phase} {.spec.storageClassName} {.spec.resources.requests.storage} {.metadata.annotations.volume\.kubernetes\.io/selected-node} {.metadata.annotations.volume\.kubernetes\.io/storage-provisioner}{"\n"}' |
        while read -r uid namespace name phase class size node provisioner; do
          [ "$phase" = Pending ] && [ "$provisioner" = "$PROVISIONER" ] || continue
          volume_provision "pvc-$uid" "$namespace" "$name" "$class" "$size" "$node" "$uid" ||
            echo "$(date -u +%FT%TZ) failed to make a volume for $namespace/$name; it is tried again when the claim changes"
        done
      sleep 1
    done
  ) &
  while true; do
    kubectl get persistentvolumes --watch --output \
      'jsonpath={.metadata.name} {.status.phase} {.spec.persistentVolumeReclaimPolicy} {.metadata.annotations.pv\.kubernetes\.io/provisioned-by}{"\n"}' |
      while read -r name phase policy provisioner; do
        [ "$phase" = Released ] && [ "$policy" = Delete ] && [ "$provisioner" = "$PROVISIONER" ] || continue
        volume_delete "$name" || echo "$(date -u +%FT%TZ) failed to delete volume $name"
      done
    sleep 1
  done
}

# quantity_bytes 2Gi → 2147483648
quantity_bytes() {
  local number=${1%%[!0-9.]*} unit=${1##*[0-9.]} factor
  case $unit in
    '') factor=1 ;;
    k) factor=1000 ;; M) factor=1000000 ;; G) factor=1000000000 ;;
    Ki) factor=1024 ;; Mi) factor=1048576 ;; Gi) factor=1073741824 ;; Ti) factor=1099511627776 ;;
    *) return 1 ;;
  esac
  awk -v n="$number" -v f="$factor" 'BEGIN {printf "%d", n * f}'
}

# volume_provision VOLUME NAMESPACE CLAIM CLASS SIZE NODE CLAIM_UID: every part can be repeated.
volume_provision() {
  local volume=$1 namespace=$2 claim=$3 class=$4 size=$5 node=$6 uid=$7 bytes file=$STATE/volumes/$1.img
  [[ $node =~ ^node[1-9]$ ]] || { echo "no node '$node' here"; return 1; }
  if ! bytes=$(quantity_bytes "$size") || [ "$bytes" -lt 8388608 ]; then
    echo "$namespace/$claim asks for '$size': a fixed volume is at least 8Mi"
    return 1
  fi
  if [ ! -f "$file" ]; then
    # Allocated in full at once: that the machine's disk fills must never look like the volume's filling.
    fallocate -l "$bytes" "$file.new" && mkfs.ext4 -q -F -m 0 -E nodiscard "$file.new" && mv "$file.new" "$file" || return 1
    echo "${node#node}" >"$STATE/volumes/$volume.node"
  fi
  volume_attach "$volume" || return 1
  kubectl apply --server-side --field-manager testbed-provisioner --filename - <<YAML || return 1
apiVersion: v1
kind: PersistentVolume
metadata:
  name: $volume
  annotations: {pv.kubernetes.io/provisioned-by: $PROVISIONER}
spec:
  capacity: {storage: "$size"}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Delete
  storageClassName: $class
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: $namespace, name: $claim, uid: $uid}
  local: {path: /volumes/$volume/data}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]
YAML
  echo "$(date -u +%FT%TZ) made volume $volume of $size on $node for $namespace/$claim"
}

volume_device() { losetup --list --noheadings --output NAME,BACK-FILE | awk -v f="$STATE/volumes/$1.img" '$2 == f {print $1}'; }
volume_node() { cat "$STATE/volumes/$1.node"; }

# volume_attach VOLUME: mount it on its node. Debian's own default on errors: stop writing.
volume_attach() {
  local node device
  node=$(volume_node "$1") || return 1
  node_run "$node" mountpoint -q "/volumes/$1" && return
  device=$(volume_device "$1")
  [ -n "$device" ] || device=$(losetup --find --show --direct-io=on "$STATE/volumes/$1.img" 2>/dev/null) ||
    device=$(losetup --find --show "$STATE/volumes/$1.img") || return 1
  # Pods get a directory *on* it: where it is not mounted there is none, and no pod writes to the node's own disk instead.
  node_run "$node" sh -c "mkdir -p /volumes/$1 && mount -o errors=remount-ro,noatime $device /volumes/$1 && mkdir -p /volumes/$1/data"
}

# volume_in_use VOLUME: whether a pod has it mounted beside the node's own mount.
volume_in_use() {
  local pid device
  device=$(volume_device "$1")
  [ -n "$device" ] && pid=$(node_pid "$(volume_node "$1")") || return 1
  [ "$(grep -c " $(cat "/sys/class/block/$(basename "$device")/dev") " "/proc/$pid/mountinfo")" -gt 1 ]
}

# volume_detach VOLUME: fails while a pod uses it, and then has changed nothing.
volume_detach() {
  local node device i
  # A pod's own mount goes a moment after the pod.
  for ((i = 0; i < 50; i++)); do
    volume_in_use "$1" || break
    sleep 0.1
  done
  if volume_in_use "$1"; then return 1; fi
  node=$(volume_node "$1") || return 1
  if node_run "$node" mountpoint -q "/volumes/$1"; then node_run "$node" umount "/volumes/$1" || return 1; fi
  device=$(volume_device "$1")
  [ -n "$device" ] || return 0
  # A device that some mount still uses is only marked to be detached; that it is gone is what counts.
  losetup --detach "$device"
  for ((i = 0; i < 50; i++)); do
    [ -n "$(volume_device "$1")" ] || return 0
    sleep 0.1
  done
  return 1
}

volume_delete() {
  local i
  # The pod's own bind mount goes a moment after the pod.
  for ((i = 0; i < 100; i++)); do
    if [ ! -f "$STATE/volumes/$1.img" ] || volume_detach "$1"; then
      rm -f "$STATE/volumes/$1.img" "$STATE/volumes/$1.node"
      kubectl delete persistentvolume "$1" --wait=false --ignore-not-found
      echo "$(date -u +%FT%TZ) deleted volume $1"
      return
    fi
    sleep 0.3
  done
  return 1
}

# ---- testbed volume -------------------------------------------------------------------------------------------------
cmd_volume() {
  local action=${1:-ls} claim=${2:-} volume
  need_up
  if [ "$action" = ls ]; then volume_list; return; fi
  [[ $claim == */* ]] || die "which claim? testbed volume $action NAMESPACE/CLAIM"
  volume=$(kubectl get persistentvolumeclaim --namespace "${claim%/*}" "${claim#*/}" --output 'jsonpath={.spec.volumeName}' 2>/dev/null)
  [ -n "$volume" ] && [ -f "$STATE/volumes/$volume.img" ] || die "claim $claim has no fixed volume"
  case $action in
    lose) volume_lose "$volume" ;;
    readonly) volume_readonly "$volume" ;;
    restore) volume_restore "$volume" ;;
    *) die "unknown: volume $action (ls, lose, readonly, restore)" ;;
  esac
}

volume_list() {
  local name claim size file state
  printf '%-50s %-30s %-6s %-8s %s\n' VOLUME CLAIM NODE SIZE STATE
  kubectl get persistentvolumes --output 'jsonpath={range .items[*]}{.metadata.name} {.spec.claimRef.namespace}/{.spec.claimRef.name} {.spec.capacity.storage}{"\n"}{end}' |
    while read -r name claim size; do
      file=$STATE/volumes/$name.img
      [ -f "$file" ] || continue
      state=ok
      if [ "$(stat -c %s "$file")" = 0 ]; then
        state=lost
      elif node_run "$(volume_node "$name")" awk -v m="/volumes/$name" '$2 == m {print $4}' /proc/mounts | grep -E "(^|,)(ro|emergency_ro)(,|$)" >/dev/null; then
        state=read-only
      fi
      printf '%-50s %-30s %-6s %-8s %s\n' "$name" "$claim" "node$(volume_node "$name")" "$size" "$state"
    done
}

# The disk is gone under a mounted filesystem: every read and write that is not cached fails with an I/O error.
volume_lose() {
  local device
  device=$(volume_device "$1")
  [ -n "$device" ] || die "volume $1 has no disk (is it lost already? testbed volume ls)"
  truncate -s 0 "$STATE/volumes/$1.img" && losetup --set-capacity "$device" || die "failed to take the disk of volume $1 away"
  say "volume $1 is lost: its data is gone, and I/O fails from now on"
}

# The filesystem finds itself broken and stops writing (errors=remount-ro), as on a failing disk.
volume_readonly() {
  local device
  device=$(volume_device "$1")
  [ -n "$device" ] && echo "testbed volume readonly" >"/sys/fs/ext4/$(basename "$device")/trigger_fs_error" ||
    die "failed to break volume $1: is it mounted? (testbed volume ls)"
  say "volume $1 is read-only now"
}

# A disk that works again: repaired, or a new and empty one if it was lost. No pod may use it meanwhile.
volume_restore() {
  local file=$STATE/volumes/$1.img size
  volume_detach "$1" || die "volume $1 is in use: delete or scale down the pods that mount it, then restore"
  if [ "$(stat -c %s "$file")" = 0 ]; then
    size=$(quantity_bytes "$(kubectl get persistentvolume "$1" --output 'jsonpath={.spec.capacity.storage}')") || die "volume $1 has no readable size"
    fallocate -l "$size" "$file" && mkfs.ext4 -q -F -m 0 -E nodiscard "$file" || die "failed to make $file again"
    say "volume $1 is back, new and empty"
  else
    e2fsck -fy "$file" >>"$LOG/provisioner.log" 2>&1 # exit code 1: errors were corrected
    [ $? -le 1 ] || die "failed to repair volume $1 (log: $LOG/provisioner.log)"
    say "volume $1 is back with its data"
  fi
  volume_attach "$1" || die "failed to mount volume $1"
}
