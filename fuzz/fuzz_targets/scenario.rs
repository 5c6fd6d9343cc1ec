//! Any text ends in a scenario, an environment, or mistakes with places; never in a panic or a hang.
//! The same corpus runs with `cargo test --test hostile`.
#![no_main]

use firedrill::scenario::{Severity, check_text, diag::render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let checked = check_text("fuzz", &text, &[("a".to_owned(), "1s".to_owned())]);
    let mistakes = checked.diagnostics.iter().any(|d| d.severity == Severity::Mistake);
    assert!(mistakes || checked.scenario.is_some() || checked.environment.is_some());
    assert!(checked.diagnostics.iter().all(|d| !d.message.contains("cannot be used")));
    let _ = render(&checked.diagnostics, false);
});
