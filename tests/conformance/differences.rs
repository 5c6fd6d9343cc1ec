//! Where the two sides are known to differ, and why.

use std::fmt;

use libtest_mimic::Failed;

/// Where a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// firedrill's cluster in the process.
    Sandbox,
    /// A real API server.
    ApiServer,
    /// A real cluster with nodes.
    Kubelets,
}

impl Side {
    /// What the side's tests begin with.
    pub(crate) const fn module(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::ApiServer => "apiserver",
            Self::Kubelets => "kubelets",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.module())
    }
}

/// Each: a case, the side on which its assertions do not hold, and why that cannot be otherwise. Also the table of known differences
/// in `docs/sandbox.md`.
pub(crate) const KNOWN_DIFFERENCES: &[(&str, Side, &str)] = &[];

/// The section of the docs that lists them.
const SECTION: &str = "### Cases that differ";

/// What is written down for people is what the suite goes by.
pub(crate) fn compare_with_docs() -> Result<(), Failed> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sandbox.md");
    let text = std::fs::read_to_string(file).map_err(|error| Failed::from(format!("docs/sandbox.md: {error}")))?;
    let (_, section) = text.split_once(SECTION).ok_or_else(|| Failed::from(format!("docs/sandbox.md has no section `{SECTION}`")))?;
    let told: Vec<&str> =
        section.lines().skip(1).take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `")).collect();
    let known: Vec<String> = KNOWN_DIFFERENCES.iter().map(|(case, side, why)| format!("| `{case}` | {side} | {why} |")).collect();
    if told == known {
        return Ok(());
    }
    Err(Failed::from(format!("docs/sandbox.md lists\n{}\nand KNOWN_DIFFERENCES has\n{}", told.join("\n"), known.join("\n"))))
}
