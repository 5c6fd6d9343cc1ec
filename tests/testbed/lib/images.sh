#!/usr/bin/env bash
# The images of the workloads: one definition file each under images/, no registry, no container engine. Sourced; run
# as a program only by itself, to extend the shared base in a mount namespace of its own.
#
# images/NAME.image is a bash fragment that sets
#   REF          the image's name and tag
#   BASE         debian (images/debian.base plus PACKAGES) or scratch
#   PACKAGES     Debian packages
#   ENTRYPOINT   JSON; default []
#   ENVIRONMENT  JSON; default a PATH
#   RUN_USER     the user to run as; default root
# and may define
#   inputs       print the files that `customize` takes, making them if need be; their contents belong to the key
#   skip         print why the image cannot be made now; it is left out, and that is said
#   customize    ROOT INPUT…: change the root directory before it is packed
# Layers: the base, shared by all on every node, and what the image adds to it.

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  # shellcheck source=tests/testbed/lib/common.sh
  . "$(dirname "$0")/common.sh"
fi

REPOSITORY=${REPOSITORY:-$(cd "$TESTBED_DIR/../.." && pwd -P)}
IMAGES_DIR=$TESTBED_DIR/images
# Debian's release, and where apt gets it from: the machine's own apt configuration says the mirror.
IMAGES_SUITE=bookworm

# ---- definitions -----------------------------------------------------------------------------------------------------
image_names() { find "$IMAGES_DIR" -maxdepth 1 -name '*.image' -printf '%f\n' | sed 's/\.image$//' | sort; }

# image_load NAME: in a subshell, please.
image_load() {
  REF='' BASE='' PACKAGES='' ENTRYPOINT='[]' ENVIRONMENT='' RUN_USER=''
  inputs() { :; }
  skip() { :; }
  customize() { :; }
  # shellcheck disable=SC1090
  . "$IMAGES_DIR/$1.image" || die "image $1: its definition has a mistake"
  [ -n "$REF" ] || die "image $1: $IMAGES_DIR/$1.image sets no REF"
  case $BASE in debian | scratch) ;; *) die "image $1: BASE is '$BASE': debian or scratch" ;; esac
}

# Keys hold the functions that make the entry, not this whole file: a comment here must not cost five minutes.
image_base_key() {
  {
    hash_files "$IMAGES_DIR/debian.base"
    declare -f base_layer mmdebstrap_logged pack_layer
    echo "$IMAGES_SUITE ${image_dpkg_options[*]}"
  } | hash_of
}

# image_key NAME INPUT…
image_key() {
  local name=$1 base=
  shift
  if [ "$BASE" = debian ]; then base=$(image_base_key); else base="$ENTRYPOINT $RUN_USER"; fi
  {
    echo "$base"
    hash_files "$IMAGES_DIR/$name.image" "$TESTBED_DIR/lib/mkimage.sh"
    declare -f image_tar extend_base pack_layer
    hash_files "$@" </dev/null
  } | hash_of
}

# ---- what images are made of -----------------------------------------------------------------------------------------
# Programs of this repository, static: an image from scratch has no C library. Optimised just enough; link-time
# optimisation would take minutes for nothing here.
# rust_programs NAME PACKAGE PATH…: print the cached tar of the package's programs, made from the sources at PATHs.
rust_programs() {
  local name=$1 package=$2 key
  shift 2
  key=$({
    rustc --version
    declare -f rust_programs_tar static_build
    # The dependencies of this package only, not the lock file: a new one of another package must not cost a build.
    cd "$REPOSITORY" || exit 1
    set -o pipefail
    cargo tree --locked --package "$package" --edges normal,build --no-dedupe --prefix none --format '{p} {f}' |
      sed 's| (/[^)]*)||' | LC_ALL=C sort -u || cat Cargo.lock
    find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | hash_of)
  cache_make "$name" "$key" rust_programs_tar "$package" >&2 || return 1
  cache_path "$name" "$key"
  echo
}

# static_build: how programs for images are compiled: static, optimised as far as it is quick, in a target directory of its own.
static_build() {
  export CARGO_TARGET_DIR=$CACHE/cargo CARGO_BUILD_BUILD_DIR=$CACHE/cargo RUSTFLAGS='-C target-feature=+crt-static'
  export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
  export CARGO_PROFILE_RELEASE_STRIP=symbols
  CARGO_BUILD_TARGET=$(rustc -vV | sed -n 's/^host: //p')
  export CARGO_BUILD_TARGET
}

rust_programs_tar() { # PACKAGE OUT
  local log=$CACHE/log/cargo-$1.log programs
  mkdir -p "$CACHE/log"
  say "  building $1 (log: $log)"
  (
    cd "$REPOSITORY" || exit 1
    static_build
    # One heavy build at a time where several share a machine.
    exec flock "${FIREDRILL_BUILD_LOCK:-$CACHE/lock/cargo}" \
      cargo build --locked --package "$1" --bins --release --message-format=json-render-diagnostics
  ) >"$log.json" 2>"$log" || {
    warn "cargo build of $1 failed; the end of $log:"
    tail -n 20 "$log" >&2
    return 1
  }
  mapfile -t programs < <(grep -o '"executable":"[^"]*"' "$log.json" | cut -d'"' -f4 | xargs -rn1 basename)
  [ ${#programs[@]} -gt 0 ] || { warn "package $1 has no programs"; return 1; }
  tar -C "$CACHE/cargo/$(rustc -vV | sed -n 's/^host: //p')/release" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=755 \
    -cf "$2" "${programs[@]}"
}

# firedrill_program: print the path of the static firedrill of the present sources, the very one that its image has. Made
# unless it is there.
firedrill_program() {
  local tar
  tar=$(rust_programs firedrill.programs firedrill Cargo.toml src) || return 1
  cache_make firedrill.static "${tar##*.}" unpack_program "$tar" firedrill >&2 || return 1
  cache_path firedrill.static "${tar##*.}"
  echo
}
unpack_program() { tar -xOf "$1" "$2" >"$3" && chmod 755 "$3"; } # TAR PROGRAM OUT

# ---- roots and layers ------------------------------------------------------------------------------------------------
# Nothing that a container reads: documentation, translations, caches.
image_dpkg_options=(
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*'
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*'
  --dpkgopt='path-exclude=/usr/share/lintian/*' --dpkgopt='path-exclude=/usr/share/bash-completion/*'
)

# mmdebstrap_logged LOG ARGUMENT…: three tries, for a mirror may drop a connection.
mmdebstrap_logged() {
  local log=$1 attempt
  shift
  for attempt in 1 2 3; do
    mmdebstrap --mode=root "${image_dpkg_options[@]}" "$@" >"$log" 2>&1 && return
    [ "$attempt" = 3 ] || sleep 3
  done
  warn "mmdebstrap failed; the end of $log:"
  tail -n 15 "$log" >&2
  return 1
}

base_layer() { # OUT
  local root rc=0
  root=$(mktemp -d "$1.XXXXXX") || return 1
  mkdir -p "$CACHE/log"
  (
    # shellcheck source=/dev/null
    . "$IMAGES_DIR/debian.base"
    mmdebstrap_logged "$CACHE/log/image-base.log" --variant=essential --include="${PACKAGES// /,}" --skip=output/dev \
      "$IMAGES_SUITE" "$root" && customize "$root" && pack_layer "$root" "$1"
  ) || rc=1
  rm -rf "$root"
  return "$rc"
}

pack_layer() { tar -C "$1" --sort=name --numeric-owner --exclude='./dev/*' --exclude='./tmp/*' -cf "$2" .; }

# The part run as a program: what image NAME adds to the base, as a layer. The mounts end with the namespace.
extend_base() { # NAME BASE.tar OUT WORK INPUT…
  local name=$1 base=$2 out=$3 work=$4 gone
  shift 4
  image_load "$name"
  mkdir -p "$work"/{base,upper,work,root}
  tar -C "$work/base" -xf "$base"
  mount -t overlay overlay -o "lowerdir=$work/base,upperdir=$work/upper,workdir=$work/work" "$work/root"
  if [ -n "$PACKAGES" ]; then
    mmdebstrap_logged "$CACHE/log/image-$name.log" --variant=custom --skip=check/empty --skip=output/dev \
      --include="$(tr -s ' \n' ',' <<<"${PACKAGES## }" | sed 's/^,//; s/,$//')" "$IMAGES_SUITE" "$work/root"
  fi
  customize "$work/root" "$@"
  umount "$work/root"
  rm -rf "$work/upper/dev" "$work/upper/var/lib/apt" "$work/upper/var/cache" "$work/upper/var/log"
  # overlayfs marks a deleted file of the base by a device 0:0; a layer marks it by a name.
  find "$work/upper" -type c -print0 | while IFS= read -r -d '' gone; do
    [ "$(stat -c %t:%T "$gone")" = 0:0 ] || continue
    rm "$gone"
    : >"$(dirname "$gone")/.wh.$(basename "$gone")"
  done
  pack_layer "$work/upper" "$out"
}

image_tar() { # NAME INPUT… OUT
  local name=$1 out=${*: -1} work base layers rc=0
  shift
  set -- "${@:1:$#-1}"
  mkdir -p "$CACHE/log"
  work=$(mktemp -d "$out.XXXXXX") || return 1
  case $BASE in
    debian)
      base=$(cache_path debian.base "$(image_base_key)")
      unshare --mount bash "$TESTBED_DIR/lib/images.sh" "$name" "$base" "$work/layer.tar" "$work/tmp" "$@" &&
        layers=$base,$work/layer.tar
      ;;
    scratch)
      mkdir "$work/root"
      (set -e; customize "$work/root" "$@") && chmod -R u=rwX,go=rX "$work/root" &&
        tar -C "$work/root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" . &&
        layers=$work/layer.tar
      ;;
  esac && "$TESTBED_DIR/lib/mkimage.sh" "$out" "$REF" "$layers" "$ENTRYPOINT" "$ENVIRONMENT" "$RUN_USER" || rc=1
  rm -rf "$work"
  return "$rc"
}

# ---- what the testbed calls ------------------------------------------------------------------------------------------
# Where image-NAME.path says which file of the cache an image is: the cache itself for `build`, a cluster's own directory
# for `up`, which may be of other sources.
IMAGE_PATHS=${IMAGE_PATHS:-$CACHE}

# images_build [NAME…]: every image (or these) into the cache; image-NAME.path says which file, for images_list.
# FIREDRILL_TESTBED_IMAGES="NAME…" narrows both to these: who only needs the shop need not wait for firedrill's build.
images_build() {
  local name why rc=0
  mkdir -p "$CACHE/log" "$CACHE/lock"
  if [ $# = 0 ]; then
    # shellcheck disable=SC2046,SC2086  # names without spaces
    set -- ${FIREDRILL_TESTBED_IMAGES:-$(image_names)}
  fi
  cache_make debian.base "$(image_base_key)" base_layer || return 1
  for name in "$@"; do
    (
      image_load "$name"
      why=$(skip)
      if [ -n "$why" ]; then
        say "  image $name left out: $why"
        : >"$IMAGE_PATHS/image-$name.path"
        exit 0
      fi
      files=$(inputs) || die "image $name: its inputs could not be made"
      mapfile -t files < <(grep . <<<"$files")
      key=$(image_key "$name" "${files[@]}")
      cache_make "image-$name.tar" "$key" image_tar "$name" "${files[@]}" || exit 1
      cache_path "image-$name.tar" "$key" >"$IMAGE_PATHS/image-$name.path"
    ) || rc=1
  done
  return "$rc"
}

# images_list [NAME…]: the image files that the last images_build made sure of.
images_list() {
  local name
  if [ $# = 0 ]; then
    # shellcheck disable=SC2046,SC2086
    set -- ${FIREDRILL_TESTBED_IMAGES:-$(image_names)}
  fi
  for name in "$@"; do
    [ -e "$IMAGE_PATHS/image-$name.path" ] || die "image $name was never built; run: testbed build"
    # Empty: left out, and that was said.
    [ -s "$IMAGE_PATHS/image-$name.path" ] || continue
    [ -f "$(cat "$IMAGE_PATHS/image-$name.path")" ] || die "image $name as it was last built is gone from the cache; run: testbed build"
    cat "$IMAGE_PATHS/image-$name.path"
    echo
  done
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then extend_base "$@"; fi
