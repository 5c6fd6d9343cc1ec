//! Standard output that cannot be written is an error of every command, and a pipe closed early is none.

use std::process::{Command, Stdio};

const SCENARIO: &str = r#"
apiVersion: firedrill.dev/v1alpha1
kind: Scenario
metadata: {name: x}
spec:
  summary: Nothing goes.
  probes: {p: {http: {url: "http://example.com"}}}
  steadyState: {good: [p], for: 1s, timeout: 10s}
  steps: [{hold: 1s}]
  objectives: [{availability: {probe: p, atLeast: 99%}}]
"#;

fn ends(args: &[&str], out: Stdio) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_firedrill")).args(args).stdout(out).stderr(Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_could_not_be_printed_is_never_passed() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.yaml");
    std::fs::write(&good, SCENARIO).unwrap();
    let good = good.to_str().unwrap();
    for args in
        [&["schema", "scenario"][..], &["schema", "environment"], &["validate", good], &["validate", good, "-o", "json"], &["--help"]]
    {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (code, said) = ends(args, full.into());
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.starts_with("failed to write to standard output: ") && said.lines().count() == 1, "{args:?}: {said}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(ends(args, writer.into()), (Some(0), String::new()), "{args:?}");
        assert_eq!(ends(args, Stdio::null()), (Some(0), String::new()), "{args:?}");
    }
}

/// Nor is there a panic where standard error is full, or nobody reads it.
#[test]
fn errors_that_cannot_be_told_change_no_exit_code() {
    for args in [&["plan", "no-such-file.yaml"][..], &["validate", "no-such-file.yaml"], &["rehearse", "no-such-file.yaml"]] {
        let told = ends(args, Stdio::null());
        assert_eq!(told.0, Some(2), "{args:?}: {told:?}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        for err in [Stdio::from(full), writer.into()] {
            let code = Command::new(env!("CARGO_BIN_EXE_firedrill")).args(args).stdout(Stdio::null()).stderr(err).status().unwrap().code();
            assert_eq!(code, told.0, "{args:?}");
        }
    }
}
