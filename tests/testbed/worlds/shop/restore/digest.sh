#!/usr/bin/env bash
# digest.sh POD TABLE: "rows md5" of a table of database `orders` in that pod, ordered by its key.
set -euo pipefail
kubectl --namespace shop exec "$1" --container postgres -- \
  psql -AtX -F ' ' -d orders -c "SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY id)) FROM $2 AS t"
