//! The one place that says the label and annotation keys, and the names of firedrill's own objects.

use sha2::{Digest as _, Sha256};

/// Owners put this label with the value [`ALLOWED`] on namespaces and nodes on which drills are allowed.
pub const DRILLS: &str = "firedrill.dev/drills";
/// The value of [`DRILLS`] that allows drills.
pub const ALLOWED: &str = "allowed";
/// On everything firedrill makes: the drill's name.
pub const DRILL: &str = "firedrill.dev/drill";
/// On everything firedrill makes: what it is (`record`, `inbox`, `lease`, `observer`, `node-helper`, `runbook`).
pub const ROLE: &str = "firedrill.dev/role";
/// Kubernetes' own label for the maker of an object; always `firedrill`.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`], and the field manager of all writes.
pub const MANAGER: &str = "firedrill";
/// A label on an object a fault changes, while it holds: the drill's name. A value that is not ours is never overwritten.
/// Not an annotation: the controllers of Deployments and StatefulSets copy those to what they make, where they would stay.
pub const FAULT: &str = "firedrill.dev/fault";
/// A key in the selector of a Service that a fault has pointed at nothing: the drill's name. No pod has it.
pub const DETACHED: &str = "firedrill.dev/detached";
/// Annotation of a volume that was set aside: the uid of the claim that stands in for the one it belonged to, or [`RETURNING`].
pub const STAND_IN: &str = "firedrill.dev/stand-in";
/// Value of [`STAND_IN`]: the volume is being given back to its claim.
pub const RETURNING: &str = "returning";
/// On the Lease that keeps a node lost: which loss it is of.
pub const LOSS: &str = "firedrill.dev/loss";
/// On it: the node is asked for back.
pub const LOSS_BACK: &str = "firedrill.dev/give-back";
/// On it: what the node's helper says of it.
pub const LOSS_SEEN: &str = "firedrill.dev/seen";
/// The ServiceAccount of helpers that lose their node, in firedrill's own namespace. `firedrill plan --rbac` prints it with what it may do.
pub const LOSS_ACCOUNT: &str = "firedrill-node-helper";
/// The Lease that keeps a node lost. By the node, so that a role can name it before there is one.
pub fn loss_lease(node: &str) -> String {
    let mut lease = format!("lost-{node}");
    lease.truncate(253);
    lease
}

/// By which a namespace says what its pods may be (Pod Security admission).
pub const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Its strictest value.
pub const RESTRICTED: &str = "restricted";
/// Nodes with one of these labels carry the cluster itself.
pub const CONTROL_PLANE: &[&str] = &["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// The zone of a node.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The copy of a hidden Secret, in firedrill's own namespace. By what it is a copy of, so that a role can name it before there is one.
pub fn hidden_copy(namespace: &str, name: &str) -> String {
    let digest = Sha256::digest(format!("{namespace}/{name}"));
    format!("hidden-{}", hex::encode(&digest[..16]))
}

/// Namespaces that no drill may ever touch, whatever their labels.
pub const SYSTEM_NAMESPACES: &[&str] = &["kube-system", "kube-public", "kube-node-lease"];
