# shellcheck shell=bash disable=SC2317
# After all drills: what they left as evidence holds no password and no key.

keeps_secrets() { no_secrets_in "$EVIDENCE_ROOT"; }
check "no secret of the shop is in any evidence" 60 keeps_secrets
