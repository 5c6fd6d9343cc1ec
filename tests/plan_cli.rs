//! `plan` as a command, where no cluster is needed: what it says before it has one, and when it cannot reach it.

#[path = "support/cli.rs"]
mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{firedrill, stderr};

fn write(dir: &Path, name: &str, value: &Value) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path
}

fn scenario(inject: &Value) -> Value {
    json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "x"},
        "spec": {
            "summary": "One pod goes.", "limits": {"pods": 1, "nodes": 1, "duration": "5m"},
            "targets": {"t": {"namespace": "shop", "pods": "app=web"}, "n": {"nodes": "a=b"}},
            "probes": {"p": {"http": {"url": "http://example.com"}}},
            "steps": [{"name": "break", "inject": inject}, {"hold": "1s"}],
            "objectives": [{"recoveryTime": {"probe": "p", "after": "break", "within": "60s"}}]
        }
    })
}

fn environment(uid: &str) -> Value {
    json!({"apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "e"}, "spec": {"clusters": {"main": {"uid": uid}}}})
}

fn kubeconfig(server: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "staging",
        "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "staging", "context": {"cluster": "c", "user": "u"}}]
    })
}

#[test]
fn an_api_server_that_is_not_there_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "scenario.yaml", &scenario(&json!({"podKill": {"target": "t"}})));
    write(dir.path(), "environment.yaml", &environment("5d1f0c2e-0000-4000-8000-000000000001"));
    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = write(dir.path(), "config", &kubeconfig(&format!("https://127.0.0.1:{port}")));
    let output = firedrill(&config, &["plan", file.to_str().unwrap()]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(4), "{text}");
    let line = text.lines().last().unwrap();
    assert!(line.starts_with(&format!("failed to reach the API server https://127.0.0.1:{port}/ (context staging): ")), "{text}");
    assert!(line.contains("Connection refused"), "{text}");
    assert_eq!(text.lines().filter(|l| l.contains("failed")).count(), 1, "{text}");
}

#[test]
fn contexts_and_kubeconfigs_that_are_not_there_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "scenario.yaml", &scenario(&json!({"podKill": {"target": "t"}})));
    write(dir.path(), "environment.yaml", &environment("5d1f0c2e-0000-4000-8000-000000000001"));
    let config = write(dir.path(), "config", &kubeconfig("https://127.0.0.1:1"));
    let file = file.to_str().unwrap();
    let output = firedrill(&config, &["plan", file, "--context", "prod"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("the kubeconfig has no context `prod`: it has staging"), "{}", stderr(&output));
    let output = firedrill(&dir.path().join("nope"), &["plan", file]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("failed to find a cluster") && stderr(&output).contains("nope"), "{}", stderr(&output));
}

#[test]
fn an_environment_is_looked_for_and_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    let file = write(&sub, "scenario.yaml", &scenario(&json!({"podKill": {"target": "t"}})));
    let config = write(dir.path(), "config", &kubeconfig("https://127.0.0.1:1"));
    let run = || firedrill(&config, &["plan", file.to_str().unwrap()]);
    let output = run();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no environment says where to run"), "{}", stderr(&output));
    // Found in the folder it is run in, beside the scenario before that, and in the scenario's own file before that: told
    // apart by their mistakes.
    let broken = |name: &str| json!({"apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": name}, "spec": {"clusterz": {}}});
    write(dir.path(), "environment.yaml", &broken("here"));
    assert!(stderr(&run()).contains("environment.yaml") && stderr(&run()).contains("clusterz"), "{}", stderr(&run()));
    write(&sub, "environment.yaml", &environment("5d1f0c2e-0000-4000-8000-000000000001"));
    assert_eq!(run().status.code(), Some(4), "{}", stderr(&run()));
    assert!(stderr(&run()).contains("failed to reach the API server"), "{}", stderr(&run()));
    let both = format!("{}\n---\n{}\n", scenario(&json!({"podKill": {"target": "t"}})), broken("inside"));
    std::fs::write(&file, both).unwrap();
    assert_eq!(run().status.code(), Some(2));
    assert!(stderr(&run()).contains("scenario.yaml") && stderr(&run()).contains("clusterz"), "{}", stderr(&run()));
}

#[test]
fn what_is_not_built_is_refused_before_anything_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut unbuilt = scenario(&json!({"podKill": {"target": "t"}}));
    unbuilt["spec"]["probes"]["name"] = json!({"dns": {"name": "shop.example.com"}});
    let file = write(dir.path(), "scenario.yaml", &unbuilt);
    write(dir.path(), "environment.yaml", &environment("5d1f0c2e-0000-4000-8000-000000000001"));
    let config = write(dir.path(), "config", &kubeconfig("https://127.0.0.1:1"));
    let output = firedrill(&config, &["plan", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("probe `name`: the probe kind `dns` is not built yet"), "{}", stderr(&output));
}
