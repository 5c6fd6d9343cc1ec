# shellcheck shell=bash disable=SC2317
# How blocks of runbooks run and end in real pods: tests/cluster_runbook.rs, in namespaces of its own on the same cluster.

runbooks_in_pods() {
  local log
  log=$SCRATCH/cluster_runbook.txt
  (cd "$REPOSITORY" && FIREDRILL_TEST_KUBECONFIG=$KUBECONFIG cargo test --workspace --locked --test cluster_runbook) >"$log" 2>&1 || { cat "$log"; return 1; }
  cat "$log"
  # Run, and not left out for want of a cluster.
  ! grep "NOT RUN" "$log"
  grep -E '^test result: ok\. [1-9][0-9]* passed' "$log"
}
check "runbooks in pods: blocks, their end, Jobs, digests, nothing left" 300 runbooks_in_pods
