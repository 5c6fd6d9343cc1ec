//! What `run`, `resume` and `revert` refuse before they look at any cluster.

use std::process::Command;

/// A folder that cannot be: it would lie in a file. (A folder without write permission would not stop root.)
#[test]
fn evidence_that_cannot_be_written_is_refused_first_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let out = file.join("evidence");
    for command in [&["run", "no-such-scenario.yaml", "--yes"][..], &["resume", "some-drill"], &["revert", "some-drill"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_firedrill"))
            .args(command)
            .arg("--out")
            .arg(&out)
            .env("KUBECONFIG", dir.path().join("none"))
            .env("NO_COLOR", "1")
            .current_dir(dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{command:?}: {said}");
        assert!(said.contains(&out.display().to_string()) && said.contains("--out") && said.contains("Nothing was changed"), "{said}");
    }
}
