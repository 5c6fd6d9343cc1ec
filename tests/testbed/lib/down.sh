# shellcheck shell=bash
# Ending a cluster so that nothing of it is left, however far its `up` came. Sourced.
#
# Nothing here trusts what `up` wrote down but the index: processes are found by their mark, links, control groups and
# loop devices by their names, a bridge whose index was never noted by its address. So it works after `up` was killed at any instant, and a second time.

cluster_remove() {
  local failed=0
  kill_marked || failed=1
  if [ -n "$INDEX" ]; then
    remove_links
    remove_cgroups || failed=1
  fi
  remove_own_bridges
  remove_mounts || failed=1
  remove_loop_devices || failed=1
  [ "$failed" = 0 ] || return 1
  # Logs and timings stay for who wants to know what happened; the next `up` starts them anew.
  find "$STATE" -mindepth 1 -maxdepth 1 ! -name log ! -name timings.tsv -exec rm -rf {} +
}

# The first process of a node is marked; when it dies the kernel kills everything in its pid namespace, frozen or not.
# A dying process loses its environment, so its mark, before its namespace is empty: wait for those seen to be dead.
kill_marked() {
  local i pids seen=
  for ((i = 0; i < 200; i++)); do
    pids=$(marked_processes | grep -vx "$$" || true)
    # shellcheck disable=SC2086
    seen=$(printf '%s\n' $seen $pids | sort -u)
    # shellcheck disable=SC2086
    if [ -z "$pids" ] && all_dead $seen; then return 0; fi
    # shellcheck disable=SC2086
    if [ -n "$pids" ]; then kill -KILL $pids 2>/dev/null; fi
    [ "$i" != 3 ] || thaw
    sleep 0.05
  done
  warn "processes that do not die: $(tr '\n' ' ' <<<"$pids")"
  return 1
}

all_dead() {
  local pid
  for pid in "$@"; do
    if [ -d "/proc/$pid" ] && ! grep -s '^State:.*[ZX]' "/proc/$pid/status" >/dev/null; then return 1; fi
  done
}

# A control group in the version 1 freezer holds even SIGKILL back until it is thawed.
thaw() {
  local group state
  [ -n "$INDEX" ] || return 0
  for group in /sys/fs/cgroup/freezer/"$CGROUP"-node*; do
    [ -d "$group" ] || continue
    find "$group" -name freezer.state | while read -r state; do echo THAWED >"$state" 2>/dev/null; done
  done
}

remove_links() {
  local link
  for link in /sys/class/net/"fd$INDEX"-*; do
    if [ -e "$link" ]; then ip link del "$(basename "$link")" 2>/dev/null || true; fi
  done
  # Routes to the pods go with the bridge.
  if [ -e "/sys/class/net/$BRIDGE" ]; then ip link del "$BRIDGE" || true; fi
}

remove_own_bridges() {
  local i address
  for i in 0 1 2 3 4 5 6 7 8 9; do
    address=$(cat "/sys/class/net/fdbr$i/address" 2>/dev/null) || continue
    if [ "$address" = "$(bridge_address "$i")" ]; then ip link del "fdbr$i" || true; fi
  done
}

remove_cgroups() {
  local i hierarchy group left
  for ((i = 0; i < 100; i++)); do
    left=
    while read -r hierarchy; do
      for group in "$hierarchy/$CGROUP"-node*; do
        [ -d "$group" ] || continue
        find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
        [ ! -d "$group" ] || left=$group
      done
    done < <(cgroup_hierarchies)
    [ -n "$left" ] || return 0
    # Whoever is still in there came from a node (a helper that left its node's pid namespace, say).
    # shellcheck disable=SC2038  # process ids, not names
    find "$left" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -KILL 2>/dev/null
    thaw
    sleep 0.05
  done
  warn "control group $left does not go away"
  return 1
}

remove_mounts() {
  local target left
  while read -r target; do umount --lazy "$target" 2>/dev/null; done < <(own_mounts)
  left=$(own_mounts)
  [ -z "$left" ] || { warn "mounts that do not go away: $left"; return 1; }
}
own_mounts() { awk -v p="$STATE/" 'index($2, p) == 1 {print $2}' /proc/self/mounts | sort -r; }

own_loop_devices() { losetup --list --noheadings --output NAME,BACK-FILE | awk -v p="$STATE/" 'index($2, p) == 1 {print $1}'; }
remove_loop_devices() {
  local i device
  for ((i = 0; i < 100; i++)); do
    [ -n "$(own_loop_devices)" ] || return 0
    for device in $(own_loop_devices); do losetup --detach "$device" 2>/dev/null; done
    sleep 0.05
  done
  warn "loop devices that do not go away: $(own_loop_devices | tr '\n' ' ')"
  return 1
}
