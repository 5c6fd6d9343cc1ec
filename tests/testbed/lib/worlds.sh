# shellcheck shell=bash
# Worlds: plain manifests under worlds/NAME/, applied in the order of their names, between prepare.sh, which makes what
# cannot be committed (passwords, keys), and ready.sh, which waits. Sourced.

world_list() { find "$TESTBED_DIR/worlds" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' 2>/dev/null | sort; }

world_check() {
  [[ $1 =~ ^[a-z0-9][a-z0-9-]*$ ]] && [ -d "$TESTBED_DIR/worlds/$1" ] || die "no world '$1'; there are: $(world_list | tr '\n' ' ')"
  compgen -G "$TESTBED_DIR/worlds/$1/*.yaml" >/dev/null || die "world '$1' has no manifest (*.yaml)"
}

world_apply() {
  local file
  if [ -f "$TESTBED_DIR/worlds/$1/prepare.sh" ]; then
    KUBECONFIG=$KUBECONFIG_FILE PATH=$BIN:$PATH timeout 300 bash "$TESTBED_DIR/worlds/$1/prepare.sh" >>"$LOG/apply.log" 2>&1 || {
      warn "worlds/$1/prepare.sh failed (log: $LOG/apply.log)"
      tail -n 5 "$LOG/apply.log" >&2
      return 1
    }
  fi
  for file in "$TESTBED_DIR/worlds/$1"/*.yaml; do
    [ -f "$file" ] || continue
    # A kind that another file of the world defines (a CRD) may take a moment to be served.
    wait_until 20 "$(basename "$file") of world $1 to be accepted (log: $LOG/apply.log)" world_apply_file "$file" || {
      tail -n 5 "$LOG/apply.log" >&2
      return 1
    }
  done
}
world_apply_file() { timeout 30 "$BIN/kubectl" --kubeconfig "$KUBECONFIG_FILE" apply --server-side --field-manager testbed -f "$1" >>"$LOG/apply.log" 2>&1; }

world_ready() {
  [ -f "$TESTBED_DIR/worlds/$1/ready.sh" ] || return 0
  KUBECONFIG=$KUBECONFIG_FILE PATH=$BIN:$PATH timeout 900 bash "$TESTBED_DIR/worlds/$1/ready.sh"
}
