# shellcheck shell=bash
# Large images, unpacked once for all nodes. Sourced; run as a program only by itself, as `store.sh fill DIRECTORY TAR…`.
#
# Importing a gigabyte of images into each of three nodes takes minutes. Instead the large ones are imported once, by a
# container runtime on its own, into an ext4 image file that is kept in the cache: the store. Every node mounts the one
# store read-only and lays its snapshots and blobs under its own containerd directory (node-init.sh). Small images, which
# are those that change while one works on them, are imported into each node the plain way.

STORE_LIMIT_BYTES=$((40 * 1024 * 1024)) # images from this size on go into the store

store_tars() { while read -r tar; do [ "$(stat -L -c %s "$tar")" -ge "$STORE_LIMIT_BYTES" ] && echo "$tar"; done; true; }
small_tars() { while read -r tar; do [ "$(stat -L -c %s "$tar")" -lt "$STORE_LIMIT_BYTES" ] && echo "$tar"; done; true; }

# The key: the image files (their names carry the hash of what is in them), the runtime, and how it is done.
store_key() { { printf '%s\n' "$@" | xargs -n1 basename | sort; containerd --version; echo 1; } | hash_of; }

# store_make TAR… OUT: an ext4 image file, without a journal, as large as needed.
store_make() {
  local out=${*: -1} bytes=0 tar rc=0
  set -- "${@:1:$#-1}"
  for tar in "$@"; do bytes=$((bytes + $(stat -L -c %s "$tar"))); done
  mkdir -p "$out.tmp-mount"
  # Each image is there twice, packed and unpacked, and small files take whole blocks.
  truncate -s $((bytes * 3 + 268435456)) "$out"
  mkfs.ext4 -q -F -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard "$out" || return 1
  # A mount namespace of its own: nothing stays mounted should this be killed.
  unshare --mount --pid --fork --kill-child --mount-proc bash "$TESTBED_DIR/lib/store.sh" fill "$out" "$out.tmp-mount" "$@" >"$CACHE/log/store.log" 2>&1 || rc=$?
  rmdir "$out.tmp-mount"
  [ "$rc" = 0 ] || { warn "failed to unpack the images; the end of $CACHE/log/store.log:"; tail -n 5 "$CACHE/log/store.log" >&2; }
  return "$rc"
}

store_fill() { # FILE DIRECTORY TAR…
  local file=$1 dir=$2 tar i
  shift 2
  mount -o loop,noatime "$file" "$dir"
  mount -t tmpfs tmpfs /run
  cat >/run/config.toml <<TOML
version = 2
root = "$dir"
state = "/run/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.native"]
[grpc]
address = "/run/containerd.sock"
TOML
  containerd --config /run/config.toml &
  local runtime=$!
  for ((i = 0; i < 100; i++)); do
    ctr --address /run/containerd.sock version >/dev/null 2>&1 && break
    sleep 0.1
  done
  for tar in "$@"; do ctr --address /run/containerd.sock --namespace k8s.io images import "$tar"; done
  kill "$runtime"
  wait "$runtime" || true
  sync -f "$dir"
  umount "$dir"
}

# store_build: the store of all large images there are now, in the cache; sets STORE_FILE, or leaves it empty.
store_build() {
  local tars
  STORE_FILE=
  mapfile -t tars < <(all_images | grep . | store_tars)
  [ ${#tars[@]} -gt 0 ] || return 0
  cache_make images.ext4 "$(store_key "${tars[@]}")" store_make "${tars[@]}" || return 1
  STORE_FILE=$(cache_path images.ext4 "$(store_key "${tars[@]}")")
}

# store_attach: the store as a read-only block device; prints its name. The cluster holds a link to the file of its own,
# so that the cache may let go of it, and `down` knows the device by its file.
store_attach() {
  store_build >&2 || return 1
  [ -n "$STORE_FILE" ] || return 0
  ln "$STORE_FILE" "$STATE/images.ext4" 2>/dev/null || cp --sparse=always "$STORE_FILE" "$STATE/images.ext4" || return 1
  losetup --find --show --read-only --direct-io=on "$STATE/images.ext4" 2>/dev/null ||
    losetup --find --show --read-only "$STATE/images.ext4"
}

if [ "${BASH_SOURCE[0]}" = "$0" ] && [ "${1:-}" = fill ]; then
  set -euo pipefail
  shift
  store_fill "$@"
fi
