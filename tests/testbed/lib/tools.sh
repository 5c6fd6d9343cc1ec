# shellcheck shell=bash
# The programs of the cluster, compiled from the Go module proxy into the cache. Sourced.
#
# One Go module each under tools/ says the version (go.mod: one line to bump) and pins every dependency (go.sum).

# name, module directory under tools/, package. Smallest modules first, so that a broken set-up shows early.
TOOLS="
etcd                    etcd       go.etcd.io/etcd/server/v3
coredns                 coredns    .
kube-scheduler          kubernetes k8s.io/kubernetes/cmd/kube-scheduler
kube-proxy              kubernetes k8s.io/kubernetes/cmd/kube-proxy
kubectl                 kubernetes k8s.io/kubernetes/cmd/kubectl
kubelet                 kubernetes k8s.io/kubernetes/cmd/kubelet
kube-controller-manager kubernetes k8s.io/kubernetes/cmd/kube-controller-manager
kube-apiserver          kubernetes k8s.io/kubernetes/cmd/kube-apiserver
kwok                    kwok       sigs.k8s.io/kwok/cmd/kwok
"

tool_names() { awk 'NF == 3 {print $1}' <<<"$TOOLS"; }
tool_module() { awk -v n="$1" '$1 == n {print $2}' <<<"$TOOLS"; }
tool_package() { awk -v n="$1" '$1 == n {print $3}' <<<"$TOOLS"; }

kubernetes_version() { awk '$1 == "require" && $2 == "k8s.io/kubernetes" {print $3}' "$TESTBED_DIR/tools/kubernetes/go.mod"; }

# Go without its own download of another toolchain, without cgo: static binaries, the same on every machine.
go_build_flags() {
  local flags='-s -w' version
  if [ "$1" = kubernetes ]; then
    version=$(kubernetes_version)
    flags+=" -X k8s.io/component-base/version.gitVersion=$version"
    flags+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$version")"
  fi
  printf '%s' "$flags"
}

# The key of a tool: its module's files, how it is built, and the compiler.
tool_key() {
  local module
  module=$(tool_module "$1")
  {
    (cd "$TESTBED_DIR/tools/$module" && sha256sum -- *)
    tool_package "$1"
    go_build_flags "$module"
    GO_VERSION=${GO_VERSION:-$(go env GOVERSION GOARCH)}
    printf '%s' "$GO_VERSION"
  } | hash_of
}

tool_build() { # NAME OUT
  local name=$1 out=$2 module log start ticker rc=0
  module=$(tool_module "$name")
  log=$CACHE/log/$name.log
  mkdir -p "$CACHE/log"
  start=$(now_us)
  say "  building $name ($module module; log: $log)"
  # Progress for a person or a CI log: a line every half minute, with the packages compiled so far.
  (
    while sleep 30; do
      printf '    %s: %s s, %s packages compiled so far\n' "$name" "$(seconds_since "$start")" "$(grep -cE '^[a-z0-9./@_-]+$' "$log")"
    done
  ) &
  ticker=$!
  (
    cd "$TESTBED_DIR/tools/$module" || exit 1
    export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off
    # The proxy may be slow or drop a connection; what was fetched and compiled is kept, so trying again is cheap.
    for attempt in 1 2 3; do
      go build -v -trimpath -buildvcs=false -ldflags "$(go_build_flags "$module")" -o "$out" "$(tool_package "$name")" && exit 0
      echo "attempt $attempt failed"
      sleep 3
    done
    exit 1
  ) >"$log" 2>&1 || rc=$?
  kill "$ticker" 2>/dev/null
  wait "$ticker" 2>/dev/null || true
  if [ "$rc" != 0 ]; then
    warn "go build of $name failed; the end of $log:"
    tail -n 15 "$log" >&2
    return 1
  fi
}

# tools_build [NAME…]: make sure that these (default: all) are in the cache.
tools_build() {
  local name
  GO_VERSION=$(go env GOVERSION GOARCH)
  # shellcheck disable=SC2046  # names without spaces
  [ $# -gt 0 ] || set -- $(tool_names)
  for name in "$@"; do cache_make "$name" "$(tool_key "$name")" tool_build "$name" || return 1; done
}

# tools_link DIR: a directory of the cached tools under their plain names. Links of its own to the files, or copies: the
# cache may let go of them while the cluster runs.
tools_link() {
  local name file
  GO_VERSION=$(go env GOVERSION GOARCH)
  mkdir -p "$1"
  for name in $(tool_names); do
    file=$(cache_path "$name" "$(tool_key "$name")")
    [ -f "$file" ] || continue
    ln -f "$file" "$1/$name" 2>/dev/null || cp "$file" "$1/$name" || return 1
  done
}

# The image every pod's sandbox starts from, and CoreDNS's: too small to need a definition file of their own.
pause_tar() { # OUT
  local dir
  dir=$(mktemp -d "$1.XXXXXX") || return 1
  mkdir "$dir/root"
  gcc -static -O2 -s -o "$dir/root/pause" "$TESTBED_DIR/tools/pause/pause.c" &&
    tar -C "$dir/root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$dir/root.tar" . &&
    "$TESTBED_DIR/lib/mkimage.sh" "$1" localhost/pause:1 "$dir/root.tar" '["/pause"]'
  local rc=$?
  rm -rf "$dir"
  return "$rc"
}

coredns_tar() { # OUT
  local dir
  dir=$(mktemp -d "$1.XXXXXX") || return 1
  mkdir "$dir/root"
  cp "$(cache_path coredns "$(tool_key coredns)")" "$dir/root/coredns" && chmod 755 "$dir/root/coredns" &&
    tar -C "$dir/root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$dir/root.tar" . &&
    "$TESTBED_DIR/lib/mkimage.sh" "$1" localhost/coredns:1 "$dir/root.tar" '["/coredns"]'
  local rc=$?
  rm -rf "$dir"
  return "$rc"
}

pause_key() { hash_files "$TESTBED_DIR/tools/pause/pause.c" "$TESTBED_DIR/lib/mkimage.sh"; }
coredns_image_key() { { tool_key coredns; hash_files "$TESTBED_DIR/lib/mkimage.sh"; } | hash_of; }

cluster_images_build() {
  cache_make pause.tar "$(pause_key)" pause_tar && cache_make coredns.tar "$(coredns_image_key)" coredns_tar
}

cluster_images_list() {
  cache_path pause.tar "$(pause_key)"
  echo
  cache_path coredns.tar "$(coredns_image_key)"
  echo
}
