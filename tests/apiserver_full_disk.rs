//! The disk with the evidence fills up in the middle of a drill: it is aborted and reverted, and says so.

#[expect(dead_code, reason = "suites share this module, and each uses a part of it")]
mod support;

use std::{
    path::Path,
    process::{Command, Stdio},
};

use firedrill::journal::{Event, read};
use k8s_openapi::api::{batch::v1::CronJob, core::v1::ConfigMap};
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};
use support::{
    cli::{firedrill, stderr},
    eventually, world,
};

/// A file system of a few MiB, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None where it may not be mounted (not root): then that is said.
    fn mount(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "firedrill-test"]).arg(dir.path()).output().unwrap();
        if mounted.status.success() {
            return Some(Self(dir));
        }
        let why = String::from_utf8_lossy(&mounted.stderr);
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{test}: NOT RUN, it needs root to mount a tmpfs: {why}\n"));
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.path().join("filler")).unwrap();
        // To the last byte.
        for piece in [1 << 16, 1 << 10, 1] {
            while file.write_all(&vec![0u8; piece]).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn scenario(namespace: &str) -> Value {
    json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "full-disk"},
        "spec": {
            "summary": "The backup job is suspended while the disk of the evidence fills up.",
            "targets": {"backup": {"namespace": namespace, "cronJob": "backup"}},
            "limits": {"objects": 1},
            "probes": {"job": {"object": {"apiVersion": "batch/v1", "kind": "CronJob", "namespace": namespace, "name": "backup",
                                          "cel": "object.spec.suspend == false"}, "every": "200ms"}},
            "steps": [{"name": "cut", "inject": {"cutBackupJob": {"target": "backup", "how": "suspend"}}}, {"hold": "5s"}, {"hold": "10m"}],
            "objectives": [{"check": {"probe": "job", "state": "bad"}}]
        }
    })
}

#[tokio::test]
async fn a_disk_that_fills_up_aborts_and_reverts() {
    let Some(disk) = SmallDisk::mount("a_disk_that_fills_up_aborts_and_reverts") else { return };
    let Some(world) = world("a_disk_that_fills_up_aborts_and_reverts").await else { return };
    let namespace = world.namespace.clone();
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "b", "image": "none"}]}}}});
    world.create::<CronJob>(json!({"metadata": {"name": "backup"}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": template}})).await;
    let file = world.file("scenario.yaml", &scenario(&namespace).to_string());
    let own = format!("{namespace}-own");
    let environment = world.environment(&own);
    let out = disk.path().join("evidence");
    let mut run = Command::new(env!("CARGO_BIN_EXE_firedrill"))
        .args(["run", file.to_str().unwrap(), "-e", environment.to_str().unwrap(), "--yes", "--out", out.to_str().unwrap()])
        .env("KUBECONFIG", &world.kubeconfig)
        .env("NO_COLOR", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let suspended = async || world.api::<CronJob>().get("backup").await.unwrap().spec.unwrap().suspend == Some(true);
    eventually("the CronJob is suspended", suspended).await;
    disk.fill();
    let ended = async || run.try_wait().unwrap().is_some();
    if tokio::time::timeout(std::time::Duration::from_secs(50), eventually("the drill ends", ended)).await.is_err() {
        run.kill().unwrap();
    }
    let output = run.wait_with_output().unwrap();
    let (said, shown) = (stderr(&output), String::from_utf8(output.stdout.clone()).unwrap());
    assert_eq!(output.status.code(), Some(4), "{said}\n{shown}");
    assert!(!suspended().await, "it was reverted");
    assert!(shown.contains("aborted by firedrill: the journal cannot be written any more"), "{shown}");
    assert!(shown.contains("No space left on device"), "{shown}");
    assert!(said.contains("kept in the cluster") && said.contains("firedrill revert"), "{said}");
    // The file has no more than its beginning; the record in the cluster has the end.
    let journal = std::fs::read_dir(&out).unwrap().next().unwrap().unwrap().path().join("journal.jsonl");
    let ended = |path: &Path| read(path).unwrap().iter().any(|r| matches!(r.event, Event::Ended { clean: true, .. }));
    assert!(!ended(&journal));
    // With room again the journal gets its end, and the record goes.
    disk.empty();
    let args = ["revert", "--namespace", &own, "--out", out.to_str().unwrap()];
    let output = firedrill(&world.kubeconfig, &args);
    assert_eq!(output.status.code(), Some(4), "{}\n{}", stderr(&output), String::from_utf8_lossy(&output.stdout));
    assert!(ended(&journal), "{}", std::fs::read_to_string(&journal).unwrap());
    let records = Api::<ConfigMap>::namespaced(world.client.clone(), &own).list(&kube::api::ListParams::default()).await.unwrap();
    let left: Vec<_> = records.items.iter().filter(|m| m.metadata.name.as_deref().is_some_and(|n| n.starts_with("firedrill-"))).collect();
    assert!(left.is_empty(), "{left:?}");
    let delete = Api::<k8s_openapi::api::core::v1::Namespace>::all(world.client.clone()).delete(&own, &DeleteParams::default()).await;
    assert!(delete.is_ok(), "{delete:?}");
    world.end().await;
}
