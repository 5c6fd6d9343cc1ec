#!/usr/bin/env bash
# An OCI image without a registry or a container engine, fit for `ctr images import`:
#   mkimage.sh OUT.tar REF LAYER.tar[,LAYER.tar…] ENTRYPOINT_JSON [ENV_JSON] [USER]
# Layers go in as they are (uncompressed: unpacking is then as quick as the disk), lowest first. The same layers and
# words give the same file, byte for byte. Can be sourced for the function `mkimage` of the same arguments.

# oci_blob DIR: take standard input in as a blob; prints "DIGEST SIZE".
oci_blob() {
  local sum
  cat >"$1/new"
  sum=$(sha256sum <"$1/new" | cut -d' ' -f1)
  mv "$1/new" "$1/blobs/sha256/$sum"
  printf 'sha256:%s %s\n' "$sum" "$(stat -c %s "$1/blobs/sha256/$sum")"
}

mkimage() {
  local out=$1 ref=$2 entrypoint=$4 env=${5:-} user=${6:-} layers layer dir digest size
  local diffs='' descriptors='' config manifest
  [ -n "$env" ] || env='["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
  IFS=, read -ra layers <<<"$3"
  dir=$(mktemp -d "$out.XXXXXX") || return 1
  mkdir -p "$dir/blobs/sha256"
  for layer in "${layers[@]}"; do
    if ! digest=$(sha256sum <"$layer" | cut -d' ' -f1) || [ ! -f "$layer" ]; then
      echo "mkimage: no layer $layer" >&2
      rm -rf "$dir"
      return 1
    fi
    size=$(stat -L -c %s "$layer")
    # A symbolic link, followed by tar below: no copy of a large layer.
    ln -sf "$(readlink -f "$layer")" "$dir/blobs/sha256/$digest"
    diffs+=",\"sha256:$digest\""
    descriptors+=",{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"sha256:$digest\",\"size\":$size}"
  done
  read -r digest size < <(printf '{"architecture":"%s","os":"linux","config":{"User":"%s","Entrypoint":%s,"Env":%s},"rootfs":{"type":"layers","diff_ids":[%s]}}' \
    "$(go_arch)" "$user" "$entrypoint" "$env" "${diffs#,}" | oci_blob "$dir")
  config="{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"$digest\",\"size\":$size}"
  read -r digest size < <(printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
    "$config" "${descriptors#,}" | oci_blob "$dir")
  manifest="{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"$digest\",\"size\":$size"
  manifest+=",\"annotations\":{\"io.containerd.image.name\":\"$ref\",\"org.opencontainers.image.ref.name\":\"${ref##*:}\"}}"
  printf '{"schemaVersion":2,"manifests":[%s]}' "$manifest" >"$dir/index.json"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci-layout"
  tar -C "$dir" -c --dereference --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --format=ustar \
    -f "$out.part" oci-layout index.json blobs && mv "$out.part" "$out"
  local rc=$?
  rm -rf "$dir"
  return "$rc"
}

go_arch() { case $(uname -m) in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac; }

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  [ $# -ge 4 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
  mkimage "$@"
fi
