# shellcheck shell=bash
# What needs no cluster: refusals that say the way out, and a cache that heals.

one_line() { # WORDS COMMAND…: refused, in one line
  local output rc=0
  output=$("${@:2}" 2>&1) || rc=$?
  [ "$rc" != 0 ]
  equal "$(wc -l <<<"$output")" 1 "lines of: $output"
  contains "$output" "$1"
}

refuses_bad_arguments() {
  one_line "unknown command 'upp'" "$TESTBED" upp
  one_line "--nodes must be 1 to 9" "$TESTBED" up --nodes 0
  one_line "--nodes needs a value" "$TESTBED" up --nodes
  one_line "unknown mode 'half'" "$TESTBED" up --mode half
  one_line "no world 'atlantis'" "$TESTBED" up --world atlantis
  one_line "no world '../lib'" "$TESTBED" up --world=../lib
  one_line "no world ''" "$TESTBED" up --world ""
  one_line "down takes no argument" "$TESTBED" down extra --cluster smoke-none
  one_line "must have no spaces" env FIREDRILL_TESTBED_STATE="$SCRATCH/a b" "$TESTBED" up --cluster smoke-none
  : >"$SCRATCH/file"
  one_line "cannot make the state directory" env FIREDRILL_TESTBED_STATE="$SCRATCH/file/x" "$TESTBED" up --cluster smoke-none
  one_line "is no cluster name" "$TESTBED" up --cluster ../etc
  one_line "is not up" "$TESTBED" load x.tar --cluster smoke-none
  one_line "is not up" "$TESTBED" env --cluster smoke-none
}

refuses_a_user_who_is_not_root() {
  # The sources may lie where another user cannot go: give it a copy.
  cp -r "$TESTBED_DIR" "$SCRATCH/copy"
  chmod -R a+rX "$SCRATCH" "$SCRATCH/copy"
  one_line "must run as root" setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/tmp "$SCRATCH/copy/testbed" up --cluster smoke-none
}

refuses_a_machine_without_packages() {
  mkdir "$SCRATCH/bin"
  local tool
  for tool in bash cat sed awk grep sort tr readlink dirname basename id stat date printf head uname realpath; do ln -s "$(command -v "$tool")" "$SCRATCH/bin/$tool"; done
  # /usr/sbin is looked into as well: hide what lies there from this one process.
  one_line "apt-get install -y" unshare --mount sh -c "mount -t tmpfs none /usr/sbin && PATH=$SCRATCH/bin exec $TESTBED up --cluster smoke-none"
}

refuses_too_little_disk() {
  one_line "too little disk" env NEED_STATE_GIB=1000000 "$TESTBED" up --cluster smoke-none
}

refuses_too_few_watches() {
  one_line "too few inotify instances" env NEED_INOTIFY_LIMIT=10 "$TESTBED" up --cluster smoke-none
}

# The cache in small: a directory of its own, and an entry that is quick to make.
broken_cache_entries_heal() {
  export CACHE=$SCRATCH/cache
  local file
  file=$(cache_path thing 00000000000000000001)
  make_thing() { echo made >>"$SCRATCH/made"; echo content >"$1"; }
  cache_make thing 00000000000000000001 make_thing
  cache_make thing 00000000000000000001 make_thing
  equal "$(wc -l <"$SCRATCH/made")" 1 "a good entry is used again"
  : >"$file" # truncated
  cache_make thing 00000000000000000001 make_thing
  equal "$(cat "$file")" content
  equal "$(wc -l <"$SCRATCH/made")" 2
  echo cOntent >"$file" # same size, other content
  cache_make thing 00000000000000000001 make_thing
  equal "$(cat "$file")" content
  rm "$file.seal" # killed between the two renames
  cache_make thing 00000000000000000001 make_thing
  equal "$(wc -l <"$SCRATCH/made")" 4
  touch -r "$file" "$SCRATCH/time"
  echo cOntent >"$file"
  touch -r "$SCRATCH/time" "$file" # size and time as before: only the full check of `build` sees it
  CACHE_CHECK=full cache_make thing 00000000000000000001 make_thing
  equal "$(cat "$file")" content
  fails_to_make() { echo half >"$1"; return 1; }
  refused "failed to make other" cache_make other 00000000000000000002 fails_to_make
  [ ! -e "$(cache_path other 00000000000000000002)" ]
  local key
  for key in 2 3 4; do
    sleep 0.02
    cache_make thing "0000000000000000000$key" make_thing
  done
  cache_prune
  equal "$(find "$CACHE" -name 'thing.*.seal' | wc -l)" 2 "entries kept"
  [ -f "$(cache_path thing 00000000000000000004)" ]
}

# The real thing: a tool of the cluster, cut short, is whole again after `build` of what `up` needs.
broken_tool_heals() {
  # shellcheck source=../lib/tools.sh
  . "$TESTBED_DIR/lib/tools.sh"
  local file sum
  file=$(cache_path kube-scheduler "$(tool_key kube-scheduler)")
  sum=$(sha256sum <"$file")
  # A new file in its place: a running cluster may be executing the old one.
  head -c 1000 "$file" >"$SCRATCH/short"
  mv "$SCRATCH/short" "$file"
  tools_build kube-scheduler
  equal "$(sha256sum <"$file")" "$sum"
}

images_are_deterministic() {
  mkdir "$SCRATCH/image"
  echo hello >"$SCRATCH/image/file"
  tar -C "$SCRATCH/image" -cf "$SCRATCH/layer.tar" .
  "$TESTBED_DIR/lib/mkimage.sh" "$SCRATCH/1.tar" localhost/x:1 "$SCRATCH/layer.tar" '["/x"]'
  sleep 1.1
  "$TESTBED_DIR/lib/mkimage.sh" "$SCRATCH/2.tar" localhost/x:1 "$SCRATCH/layer.tar" '["/x"]'
  cmp "$SCRATCH/1.tar" "$SCRATCH/2.tar"
  refused "no layer" "$TESTBED_DIR/lib/mkimage.sh" "$SCRATCH/3.tar" localhost/x:1 "$SCRATCH/none.tar" '["/x"]'
}

check "bad arguments are refused in one line" 20 refuses_bad_arguments
check "a user who is not root is refused in one line" 10 refuses_a_user_who_is_not_root
check "missing packages are named with the line that installs them" 10 refuses_a_machine_without_packages
check "too little disk is refused in one line" 10 refuses_too_little_disk
check "too few file watches are refused in one line" 10 refuses_too_few_watches
check "broken cache entries are made again, old ones go" 20 broken_cache_entries_heal
check "a tool cut short in the cache is built again" 120 broken_tool_heals
check "an image is the same file each time" 10 images_are_deterministic
