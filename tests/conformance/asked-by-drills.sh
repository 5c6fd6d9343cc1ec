#!/usr/bin/env bash
# What firedrill asked of API servers, from audit logs of the testbed: asked-by-drills.sh AUDIT_LOG… > asked-by-drills.tsv
#
# firedrill's calls name it as their agent. It patches by merge, and by apply with force, which the address shows.
set -euo pipefail
echo "# verb	resource	patch	status: asked for by firedrill in drills on the testbed; made by asked-by-drills.sh"
jq -r '
  select(.stage == "ResponseComplete" and ((.userAgent // "") | startswith("firedrill/")) and .objectRef.resource != null)
  | [
      .verb,
      .objectRef.resource
        + (if .objectRef.apiGroup then "." + .objectRef.apiGroup else "" end)
        + (if .objectRef.subresource then "/" + .objectRef.subresource else "" end),
      (if .verb != "patch" then "-" elif (.requestURI | test("[?&]force=true")) then "apply" else "merge" end),
      .responseStatus.code
    ]
  | @tsv' "$@" | LC_ALL=C sort -u
