//! Commands as messages tell people to type them.

use crate::scenario::types::OwnPlace;

/// `firedrill WHAT`, with `-n NAMESPACE` behind where firedrill's own namespace is not the default one. Without it the command would
/// look where the drill is not.
pub(crate) fn command(what: &str, namespace: &str) -> String {
    if namespace == OwnPlace::default().namespace { format!("firedrill {what}") } else { format!("firedrill {what} -n {namespace}") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_namespace_that_is_not_the_default_is_said() {
        assert_eq!(super::command("revert d-1", "firedrill"), "firedrill revert d-1");
        assert_eq!(super::command("revert d-1", "eyes-fd"), "firedrill revert d-1 -n eyes-fd");
    }
}
