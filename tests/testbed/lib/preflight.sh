# shellcheck shell=bash
# What must be true of the machine, each said in one line with the way out. Sourced.

# command:package, checked together so that one apt-get line mends all of them
NEEDED_TO_RUN="containerd:containerd ctr:containerd runc:runc ip:iproute2 nft:nftables conntrack:conntrack socat:socat
openssl:openssl nsenter:util-linux mkfs.ext4:e2fsprogs losetup:mount flock:util-linux iptables:iptables curl:curl jq:jq pgrep:procps"
NEEDED_TO_BUILD="gcc:gcc tar:tar mmdebstrap:mmdebstrap cargo:cargo"

# Besides, what those only recommend and is needed here (`gcc` without the C library's headers …), or has no command of its own.
NEEDED_TOO="ca-certificates libc6-dev make pkg-config containernetworking-plugins iputils-ping"

# The Debian packages of all that, but for cargo: Debian's is too old.
debian_packages() { tr ' ' '\n' <<<"$NEEDED_TO_RUN $NEEDED_TO_BUILD $NEEDED_TOO" | cut -d: -f2 | grep -vx cargo | sort -u; }

# cmd_packages [MORE…]: installs what is missing of them on a Debian machine; a mirror or proxy may drop a connection, hence three tries.
cmd_packages() {
  local package missing=() attempt
  command -v apt-get >/dev/null || die "this is no Debian machine; install by other means: $(debian_packages | tr '\n' ' ')$*"
  for package in $(debian_packages) "$@"; do
    [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} = 0 ]; then
    say "all packages are here"
    return
  fi
  say "installing: ${missing[*]}"
  for attempt in 1 2 3; do
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" && return
    warn "attempt $attempt failed"
    sleep $((attempt * 5))
  done
  return 1
}

need_packages() {
  local pair missing=()
  for pair in $1; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  [ "${2:-}" != cni ] || [ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
  [ ${#missing[@]} = 0 ] || die "missing packages; run: apt-get install -y $(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')"
}

need_root() { [ "$(id -u)" = 0 ] || die "must run as root (nodes need namespaces, mounts and links); run: sudo $0 $*"; }

need_go() {
  local want have
  command -v go >/dev/null || die "Go is missing; install it (https://go.dev/dl/) so that 'go' is on the PATH"
  want=$(cat "$TESTBED_DIR"/tools/*/go.mod | awk '$1 == "go" {print $2}' | sort -V | tail -n 1)
  have=$(go env GOVERSION | sed 's/^go//; s/ .*//')
  [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ] ||
    die "Go $have is too old: the tools need $want or newer (https://go.dev/dl/)"
}

# need_disk DIRECTORY GIB WHAT
need_disk() {
  local dir=$1 free
  while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
  free=$(($(stat -f -c '%a * %S' "$dir" | sed 's/ //g') / 1073741824))
  [ "$free" -ge "$2" ] || die "too little disk: $1 has $free GiB free, $3 needs $2; make room, or point ${4:-FIREDRILL_TESTBED_CACHE} elsewhere"
}

# need_inotify NODES: a node's daemons watch files in about a dozen places, and the kernel's usual limit is 128 for all of
# root's processes. Short of it, kubelets start and end over and over.
need_inotify() {
  local limit used
  limit=${NEED_INOTIFY_LIMIT:-$(cat /proc/sys/fs/inotify/max_user_instances)}
  used=$(find /proc/[0-9]*/fd -lname 'anon_inode:inotify' 2>/dev/null | wc -l)
  [ $((used + 14 * $1)) -le "$limit" ] ||
    die "too few inotify instances: $used of $limit are in use, $1 nodes need $((14 * $1)); end another cluster, or: sysctl fs.inotify.max_user_instances=1024"
}

preflight_build() {
  need_root build # images are made with mounts
  need_packages "$NEEDED_TO_BUILD $NEEDED_TO_RUN"
  need_go
  need_disk "$CACHE" "${NEED_CACHE_GIB:-8}" "a build"
}

preflight_up() { # NODES
  need_root up
  need_packages "$NEEDED_TO_RUN" cni
  need_disk "$STATE_ROOT" "${NEED_STATE_GIB:-10}" "a cluster" FIREDRILL_TESTBED_STATE
  need_inotify "$1"
  [ -r /proc/net/nf_conntrack ] || [ -d /proc/sys/net/netfilter ] || modprobe nf_conntrack 2>/dev/null || true
}
