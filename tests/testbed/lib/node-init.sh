#!/usr/bin/env bash
# The first process of a node: node-init.sh ENVIRONMENT_FILE. Started in new mount, pid, net, uts and ipc namespaces.
#
# Stage one gives the node a root of its own: a disk of fixed size, the machine's /usr read-only, its own /var, /run and
# /etc. So nothing a kubelet, a container runtime or a privileged pod writes lands in the machine's directories.
# Stage two (the same file, from inside the new root) runs the node's daemons and restarts them as an init system would.
set -euo pipefail

build_root() {
  local root=$NODE_DIR/root dir name
  mkdir -p "$root"
  mount -o loop,nodiscard,noatime "$NODE_DIR/disk.img" "$root"
  mkdir -p "$root"/{usr,etc,var/{lib,log/{pods,containers},cache,tmp},run,tmp,proc,sys,dev,root,opt/{cni,testbed/{bin,pki,log}},old,volumes,home,mnt,srv}
  chmod 1777 "$root/tmp" "$root/var/tmp"
  ln -s /run "$root/var/run"
  bind_read_only /usr "$root/usr"
  for dir in /bin /sbin /lib /lib32 /lib64; do
    if [ -L "$dir" ]; then
      cp -P "$dir" "$root$dir"
    elif [ -d "$dir" ]; then
      mkdir "$root$dir"
      bind_read_only "$dir" "$root$dir"
    fi
  done
  # Of /etc only what programs need to run: the node is no copy of the machine.
  for name in ld.so.cache ld.so.conf ld.so.conf.d alternatives nsswitch.conf passwd group protocols services ssl/certs iptables; do
    [ -e "/etc/$name" ] || continue
    mkdir -p "$(dirname "$root/etc/$name")"
    cp -a "/etc/$name" "$root/etc/$name"
  done
  echo "$NODE" >"$root/etc/hostname"
  printf '127.0.0.1 localhost\n%s %s\n' "$NODE_IP" "$NODE" >"$root/etc/hosts"
  : >"$root/etc/resolv.conf"
  tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"

  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"

  bind_read_only /usr/lib/cni "$root/opt/cni" bin
  for name in kubelet kube-proxy kubectl; do bind_file "$(readlink -f "$BIN/$name")" "$root/opt/testbed/bin/$name"; done
  for name in ca.crt "$NODE.crt" "$NODE.key" "$NODE.kubeconfig" kube-proxy.kubeconfig; do cp -p "$PKI/$name" "$root/opt/testbed/pki/"; done
  mount --bind "$LOG" "$root/opt/testbed/log"
  cp "$NODE_DIR/environment" "$root/opt/testbed/environment"
  cp "$TESTBED_DIR/lib/node-init.sh" "$root/opt/testbed/node-init.sh"

  # kubelet sets a handful of kernel parameters for the whole machine. Let it find them as it wants them, in files of
  # the node's own: nothing outside changes.
  mkdir -p "$root/opt/testbed/sysctl"
  local entry value
  for entry in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    value=${entry#*=}
    name=${entry%=*}
    echo "$value" >"$root/opt/testbed/sysctl/${name//\//.}"
    if [ -f "$root/proc/sys/$name" ]; then mount --bind "$root/opt/testbed/sysctl/${name//\//.}" "$root/proc/sys/$name"; fi
  done

  if [ -n "$IMAGE_STORE" ]; then use_image_store "$root"; fi

  cd "$root"
  pivot_root . old
  umount --lazy /old
  rmdir /old
  mount --make-rshared /
}

# The images that all nodes share (store.sh): snapshots and blobs stay where they are, read-only; the two small databases
# that name them are copied, for the node adds its own to them.
use_image_store() {
  local store=$1/opt/testbed/images to=$1/var/lib/containerd plugin dir
  mkdir -p "$store" "$1/var/lib/testbed"
  mount -o ro,noatime "$IMAGE_STORE" "$store"
  plugin=io.containerd.snapshotter.v1.overlayfs
  for dir in "$store/$plugin"/snapshots/*/; do bind_read_only "$dir" "$to/$plugin/snapshots/$(basename "$dir")"; done
  cp "$store/$plugin/metadata.db" "$to/$plugin/"
  mkdir -p "$to/io.containerd.metadata.v1.bolt"
  cp "$store/io.containerd.metadata.v1.bolt/meta.db" "$to/io.containerd.metadata.v1.bolt/"
  plugin=io.containerd.content.v1.content
  mkdir -p "$to/$plugin" "$1/var/lib/testbed"/content{,-work}
  mount -t overlay overlay -o "lowerdir=$store/$plugin,upperdir=$1/var/lib/testbed/content,workdir=$1/var/lib/testbed/content-work" "$to/$plugin"
}

bind_read_only() { # FROM TO [SUBDIRECTORY]
  local to=$2${3:+/$3}
  mkdir -p "$to"
  mount --bind "$1" "$to"
  mount -o remount,bind,ro "$to"
}

bind_file() {
  : >"$2"
  mount --bind "$1" "$2"
  mount -o remount,bind,ro "$2"
}

# The node's own control groups: its daemons in NODE/system, its pods in NODE/kubepods. Freezing NODE freezes the node.
join_cgroups() {
  local hierarchy file
  awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts | while read -r hierarchy; do
    mkdir -p "$hierarchy/$NODE_CGROUP/system" 2>/dev/null || continue
    for file in cpuset.cpus cpuset.mems; do
      [ -f "$hierarchy/$file" ] || continue
      cat "$hierarchy/$file" >"$hierarchy/$NODE_CGROUP/$file"
      cat "$hierarchy/$file" >"$hierarchy/$NODE_CGROUP/system/$file"
    done
    # A compiler beside the cluster must not starve it: a node's pods together weigh as much as one of its threads else,
    # and a database that waits seconds for a processor loses its leader's lock.
    for file in cpu.shares cpu.weight; do
      if [ -f "$hierarchy/$NODE_CGROUP/$file" ]; then echo 10000 >"$hierarchy/$NODE_CGROUP/$file"; fi
    done
    echo $$ >"$hierarchy/$NODE_CGROUP/system/cgroup.procs" || true
  done
}

network() {
  local i pair
  for ((i = 0; i < 200; i++)); do
    [ -e /sys/class/net/eth0 ] && break
    sleep 0.05
  done
  ip link set lo up
  ip addr add "$NODE_IP/24" dev eth0
  ip link set eth0 up
  ip route add default via "$GATEWAY"
  for pair in $ROUTES; do ip route add "${pair%=*}" via "${pair#*=}"; done
  echo 1 >/proc/sys/net/ipv4/ip_forward
  mkdir -p /etc/cni/net.d
  cat >/etc/cni/net.d/10-testbed.conflist <<JSON
{"cniVersion": "1.0.0", "name": "testbed", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$NODE_POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
}

# keep NAME COMMAND…: run a daemon and start it again when it ends, as an init system would.
keep() {
  local name=$1
  shift
  (
    while true; do
      "$@" >>"/opt/testbed/log/$name-$NODE.log" 2>&1 || true
      echo "$(date -u +%FT%TZ) $name ended; starting it again" >>"/opt/testbed/log/$name-$NODE.log"
      sleep 1
    done
  ) &
}

run_containerd() {
  mkdir -p /etc/containerd
  # restrict_oom_score_adj: without CAP_SYS_RESOURCE runc dies writing a score below the machine's own.
  cat >/etc/containerd/config.toml <<'TOML'
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
TOML
  keep containerd containerd
  local i
  for ((i = 0; i < 300; i++)); do
    ctr version >/dev/null 2>&1 && return
    sleep 0.05
  done
  echo "containerd does not answer" >&2
  exit 1
}

run_kubelet() {
  mkdir -p /var/lib/kubelet
  cat >/var/lib/kubelet/config.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /$NODE_CGROUP
failSwapOn: false
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /opt/testbed/pki/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: [$DNS_IP]
clusterDomain: cluster.local
resolvConf: ""
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
tlsCertFile: /opt/testbed/pki/$NODE.crt
tlsPrivateKeyFile: /opt/testbed/pki/$NODE.key
# Production: 10 s and 40 s. A node must be missed within seconds here.
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 8
evictionHard: {nodefs.available: "5%", imagefs.available: "5%", memory.available: 100Mi}
# There is no registry to fetch an image from again: never clean images away because the disk fills.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
# A drill reads metrics of disks and pods as they change (production: 60 s).
volumeStatsAggPeriod: 5s
maxPods: 110
YAML
  keep kubelet /opt/testbed/bin/kubelet --config /var/lib/kubelet/config.yaml --kubeconfig "/opt/testbed/pki/$NODE.kubeconfig" \
    --hostname-override "$NODE" --node-ip "$NODE_IP" --node-labels "topology.kubernetes.io/zone=$NODE_ZONE,topology.kubernetes.io/region=testbed"
}

run_kube_proxy() {
  # conntrack-max 0: leave the machine's table size alone.
  keep kube-proxy /opt/testbed/bin/kube-proxy --kubeconfig /opt/testbed/pki/kube-proxy.kubeconfig --hostname-override "$NODE" \
    --cluster-cidr "$POD_CIDR" --proxy-mode nftables --conntrack-max-per-core 0 --conntrack-min 0 --metrics-bind-address "$NODE_IP:10249"
}

stage=$1
if [ "$stage" != run ]; then
  # shellcheck disable=SC1090
  . "$stage"
  exec >>"$LOG/$NODE.log" 2>&1
  join_cgroups
  hostname "$NODE"
  build_root
  exec /bin/bash /opt/testbed/node-init.sh run
fi
# shellcheck disable=SC1091
. /opt/testbed/environment
export PATH=/opt/testbed/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
network
run_containerd
: >/run/testbed-runtime-ready
run_kube_proxy
# Images come from the machine (`up` imports them through this node's containerd) before the kubelet may start pods.
for ((i = 0; i < 1200; i++)); do
  [ -e /run/testbed-images-ready ] && break
  sleep 0.1
done
run_kubelet
wait
