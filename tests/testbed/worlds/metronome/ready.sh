#!/usr/bin/env bash
# Waits until the metronome serves.
set -euo pipefail
kubectl --namespace metronome rollout status deployment/metronome --timeout 60s
for _ in $(seq 100); do
  if kubectl get --raw /api/v1/namespaces/metronome/services/metronome:8080/proxy/ 2>/dev/null | grep -qx ok; then exit 0; fi
  sleep 0.2
done
echo "the metronome does not answer through its Service" >&2
exit 1
