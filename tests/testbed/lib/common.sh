# shellcheck shell=bash
# What every part of the testbed shares: words to the user, timed steps, the cache. Sourced, never run.

TESTBED_DIR=${TESTBED_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)}
CACHE=${FIREDRILL_TESTBED_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/firedrill/testbed}
# As the kernel will show it in its tables of mounts and loop devices, by which `down` finds what is to go.
# shellcheck disable=SC2034  # used by those who source this
STATE_ROOT=$(realpath --canonicalize-missing -- "${FIREDRILL_TESTBED_STATE:-/tmp/firedrill-testbed}")
# A file that gets one line a step (UTC instant, step, seconds); `up` and `build` set it. This is the benchmark output.
TIMINGS=${TIMINGS:-}

say() { printf '%s\n' "$*"; }
warn() { printf 'testbed: %s\n' "$*" >&2; }
die() { printf 'testbed: %s\n' "$*" >&2; exit 1; }

# Microseconds since the epoch. EPOCHREALTIME uses the locale's decimal mark, so strip whatever it is.
now_us() { local t=$EPOCHREALTIME; printf '%s' "${t//[!0-9]/}"; }
seconds_since() { local us=$(($(now_us) - $1)); printf '%d.%d' $((us / 1000000)) $((us / 100000 % 10)); }

# timed NAME SINCE_US: record how long a step took, for the benchmark output.
timed() {
  [ -n "$TIMINGS" ] || return 0
  mkdir -p "$(dirname "$TIMINGS")"
  printf '%s\t%s\t%s\n' "$(date -u +%FT%TZ)" "$1" "$(seconds_since "$2")" >>"$TIMINGS"
}

# step NAME COMMAND…: run a command, say what it is and how long it took. The command's own output is shown as it comes.
step() {
  local name=$1 start rc=0
  shift
  start=$(now_us)
  "$@" || rc=$?
  if [ "$rc" != 0 ]; then
    printf '  %-46s FAILED after %s s\n' "$name" "$(seconds_since "$start")" >&2
    return "$rc"
  fi
  printf '  %-46s %6s s\n' "$name" "$(seconds_since "$start")"
  timed "$name" "$start"
}

# wait_until SECONDS WHAT COMMAND…: poll a condition, with a limit; on failure say what was waited for.
wait_until() {
  local limit=$1 what=$2 start
  shift 2
  start=$(now_us)
  until "$@" >/dev/null 2>&1; do
    if [ $(($(now_us) - start)) -ge $((limit * 1000000)) ]; then
      warn "waited $limit s in vain for: $what"
      return 1
    fi
    sleep 0.2 # often enough; asking by kubectl costs a tenth of a second of processor each time
  done
}

# ---- cache ---------------------------------------------------------------------------------------------------------
# One directory, one file an entry: NAME.KEY, KEY being a hash of everything the entry is made of, and NAME.KEY.seal
# beside it with the size, modification time and SHA-256 of the finished file. No seal, or a seal that does not fit: the
# entry is broken (killed half-way, disk full, truncated) and is made again.

# hash_of: the key of what is on standard input.
hash_of() { sha256sum | cut -c1-20; }

# hash_files FILE…: the key of the contents (and base names) of files.
hash_files() {
  local f
  for f in "$@"; do
    printf '%s ' "$(basename "$f")"
    sha256sum <"$f"
  done | hash_of
}

cache_path() { printf '%s/%s.%s' "$CACHE" "$1" "$2"; }

# cache_ok FILE [full]: does the entry fit its seal? Quick (size and time) or full (the hash as well). A changed
# modification time alone is settled by the hash.
cache_ok() {
  local file=$1 size mtime sum
  [ -f "$file" ] && [ -f "$file.seal" ] || return 1
  read -r size mtime sum <"$file.seal" || return 1
  [ "$(stat -c %s "$file")" = "$size" ] || return 1
  if [ "${2:-}" != full ] && [ "$(stat -c %.9Y "$file")" = "$mtime" ]; then return 0; fi
  [ "$(sha256sum <"$file" | cut -d' ' -f1)" = "$sum" ]
}

cache_seal() {
  printf '%s %s %s\n' "$(stat -c %s "$1")" "$(stat -c %.9Y "$1")" "$(sha256sum <"$1" | cut -d' ' -f1)" >"$1.seal.tmp"
  mv "$1.seal.tmp" "$1.seal"
}

# cache_make NAME KEY COMMAND…: make the entry unless a good one is there. COMMAND gets the file to write as its last
# argument. Two processes that want the same entry wait for one another. CACHE_CHECK=full checks hashes of old entries.
# CACHE_NO_MAKE names an entry that must be there already: it is not made, nor waited for.
cache_make() {
  local name=$1 key=$2 file start
  shift 2
  file=$(cache_path "$name" "$key")
  if [ "$name" = "${CACHE_NO_MAKE:-}" ] && ! cache_ok "$file"; then return 1; fi
  mkdir -p "$CACHE/lock" 2>/dev/null && : >>"$CACHE/lock/$name" ||
    die "cannot write to the cache $CACHE; make it writable, or point FIREDRILL_TESTBED_CACHE elsewhere"
  exec {cache_lock}>"$CACHE/lock/$name"
  if ! flock --nonblock "$cache_lock"; then
    say "  waiting: somebody else makes $name"
    flock --timeout 3600 "$cache_lock" || die "waited an hour in vain for whoever makes $name (lock: $CACHE/lock/$name)"
  fi
  if cache_ok "$file" "${CACHE_CHECK:-}"; then
    touch "$file.seal" # when it was last wanted, for cache_prune
  else
    [ ! -e "$file" ] || warn "cache entry $name.$key is broken; making it again"
    rm -rf "$file" "$file.seal" "$file".tmp*
    start=$(now_us)
    if ! "$@" "$file.tmp"; then
      rm -rf "$file.tmp"
      exec {cache_lock}>&-
      warn "failed to make $name"
      return 1
    fi
    mv "$file.tmp" "$file"
    cache_seal "$file"
    printf '  %-46s %6s s\n' "made $name" "$(seconds_since "$start")"
    timed "make $name" "$start"
  fi
  exec {cache_lock}>&-
}

# cache_prune: keep the two newest entries of each name, so that the cache stays bounded over version bumps.
cache_prune() {
  local name seal
  [ -d "$CACHE" ] || return 0
  find "$CACHE" -maxdepth 1 -name '*.seal' -printf '%f\n' | sed -E 's/\.[0-9a-f]{20}\.seal$//' | sort -u | while read -r name; do
    # shellcheck disable=SC2012  # names are our own: no newlines in them
    ls -t "$CACHE/$name".????????????????????.seal 2>/dev/null | tail -n +3 | while read -r seal; do
      rm -rf "${seal%.seal}" "$seal"
    done
  done
  # What a killed build left behind.
  find "$CACHE" -maxdepth 1 -name '*.tmp*' -mmin +120 -exec rm -rf {} +
}
