#!/usr/bin/env bash
# The table in docs/faults.md, made from what the fault suites wrote into the file that FIREDRILL_FAULT_TABLE named (a line a case that went
# well: fault, case, where, ok): fault-table.sh [--check] FILE…
# With --check nothing is written: it fails where the table and the files differ, and says how.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
docs=docs/faults.md
check=
if [ "${1:-}" = --check ]; then check=yes && shift; fi
[ $# -gt 0 ] || { echo "usage: fault-table.sh [--check] FILE…" >&2 && exit 2; }
made=$(mktemp)
trap 'rm -f "$made"' EXIT

table() {
  awk -F'\t' '
    BEGIN {
      cases = "inject, proof, revert, proof;inject twice;revert twice;revert without inject;target gone;container restarted;" \
        "runner killed in inject;runner killed in revert;revert on another machine;second revert on another machine;value changed by others;" \
        "changed between prepare and inject;under another drill\x27s fault;inject arrives after the revert;without effect;renewals stopped;helper killed"
      n = split(cases, column, ";")
      for (i = 1; i <= n; i++) known[column[i]] = 1
      letter["sandbox"] = "S"; letter["API server"] = "A"; letter["kubelets"] = "K"
    }
    $4 == "ok" && letter[$3] == "" { printf "%s: where is `%s`?\n", FILENAME, $3 > "/dev/stderr"; exit 1 }
    $4 == "ok" {
      faults[$1] = 1
      if ($2 in known) ran[$1, $2, letter[$3]] = 1; else other[$1] = index(other[$1] "; ", "; " $2 " (" letter[$3] "); ") ? other[$1] : other[$1] "; " $2 " (" letter[$3] ")"
    }
    END {
      printf "| fault"; for (i = 1; i <= n; i++) printf " | %s", column[i]; printf " | other cases |\n|---"
      for (i = 0; i <= n; i++) printf "|---"; printf "|\n"
      for (f in faults) {
        row = "| " f
        for (i = 1; i <= n; i++) {
          cell = ""
          for (w = 1; w <= 3; w++) { l = substr("SAK", w, 1); if ((f, column[i], l) in ran) cell = cell (cell == "" ? "" : " ") l }
          row = row " | " (cell == "" ? "–" : cell)
        }
        rows = rows row " | " substr(other[f], 3) " |\n"
      }
      fflush(); printf "%s", rows | "LC_ALL=C sort"
    }' "$@"
}

begin='<!-- made by tests/fault-table.sh -->'
end='<!-- end -->'
if ! grep -qxF -- "$begin" "$docs" || ! grep -qxF -- "$end" "$docs"; then
  echo "$docs lacks the lines $begin and $end" >&2
  exit 1
fi
{
  sed "\\#^$begin\$#q" "$docs"
  table "$@"
  sed -n "\\#^$end\$#,\$p" "$docs"
} >"$made"
if [ -n "$check" ]; then
  diff -u "$docs" "$made" || { echo "$docs says otherwise than the suites: tests/fault-table.sh FILE…" >&2 && exit 1; }
else
  cat "$made" >"$docs"
fi
