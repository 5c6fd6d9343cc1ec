//! What a fault does, in a line or two: the plan is what is approved.

use crate::{
    plan::PlannedManifest,
    scenario::{
        diag::counted,
        types::{CutHow, Direction, FaultSpec, FillDisk, Partition},
    },
};

/// Whatever of a fault is not said by its kind and by what it touches.
pub(super) fn details(fault: &FaultSpec, manifest: Option<&PlannedManifest>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(scale) = &fault.scale {
        lines.push(format!("to {}", counted(scale.replicas, "replica")));
    }
    if let Some(kill) = &fault.pod_kill {
        lines.push(kill.grace.map_or_else(|| "with the pod's own grace period".to_owned(), |grace| format!("with {grace} of grace")));
    }
    if fault.crash.as_ref().is_some_and(|c| c.hold) {
        lines.push("held down until the revert".to_owned());
    }
    if let Some(signal) = &fault.signal {
        lines.push(format!("{} to the process `{}`", signal.signal, signal.process));
    }
    if let Some(cut) = &fault.cut_backup_job {
        lines.push(match cut.how {
            CutHow::Suspend => "suspended".to_owned(),
            CutHow::KillRunning => match cut.after {
                Some(after) => format!("its running Job is killed, {after} after its start"),
                None => "its running Job is killed".to_owned(),
            },
            CutHow::Empty => "its containers run `true` and copy nothing; their image must have it".to_owned(),
        });
    }
    if let Some(fill) = &fault.fill_disk {
        lines.push(filled(fill, &format!("the volume{}", fill.path.as_ref().map_or_else(String::new, |path| format!(" at {path}")))));
    }
    if let Some(fill) = &fault.fill_node_disk {
        lines.push(filled(fill, "the disk that the node's kubelet lives on"));
    }
    if let Some(corrupt) = &fault.corrupt_file {
        let bytes = corrupt.bytes.map_or_else(|| "8Ki".to_owned(), |bytes| bytes.to_string());
        lines.push(format!("every bit of {bytes} bytes in the middle of {} is turned over", corrupt.path));
    }
    if let Some(delete) = &fault.delete_files {
        lines.push(format!("{} is taken away, and set aside on the same volume", delete.path));
    }
    if let Some(partition) = &fault.partition {
        lines.push(cut(partition));
    }
    if let Some(spec) = &fault.manifest {
        let what = manifest.map_or_else(|| spec.file.clone(), |m| format!("{} {}/{} of {}", m.kind, m.namespace, m.name, spec.file));
        lines.push(format!("makes {what}; it has bitten when `{}`", spec.effective));
    }
    if let Some(lose) = &fault.lose_volume {
        let new = "its pods end, and it is made anew, empty; the new volume goes by its own reclaim policy when the fault is undone";
        lines.push(new.to_owned());
        lines.push(match lose.set_aside {
            true => "the volume it has is set aside, and kept until it is given back or its restore is verified".to_owned(),
            false => "the volume it has is not set aside: what is on it goes by its reclaim policy".to_owned(),
        });
    }
    if let Some(sql) = &fault.sql {
        // All that it runs, and as whom.
        lines.push(format!("statement: {}", words(std::slice::from_ref(&sql.statement))));
        lines.push(format!("at most {} rows, as the role of Secret {}; more are rolled back", sql.max_rows, sql.postgres.secret));
        if let Some(revert) = &sql.revert {
            lines.push(format!("revert: {}", words(std::slice::from_ref(revert))));
        }
    }
    if let Some(custom) = &fault.custom {
        if let Some(job) = &custom.job {
            lines.push(by_job(&job.file, manifest));
        }
        // All that it runs.
        for (what, argv) in
            [("inject", &custom.inject), ("effective", &custom.effective), ("revert", &custom.revert), ("gone", &custom.gone)]
        {
            lines.push(format!("{what}: {}", words(argv)));
        }
    }
    if let Some(after) = fault.duration {
        lines.push(format!("reverted after {after}"));
    }
    lines
}

/// The Job that runs commands: what it runs from, and what it may do.
fn by_job(file: &str, job: Option<&PlannedManifest>) -> String {
    let Some(job) = job else { return format!("each command is run by the Job of {file}") };
    let text = |at: &str| job.object.pointer(at).and_then(serde_json::Value::as_str).unwrap_or("?");
    let pod = "/spec/template/spec";
    let image = text(&format!("{pod}/containers/0/image"));
    let account = job.object.pointer(&format!("{pod}/serviceAccountName")).and_then(serde_json::Value::as_str).unwrap_or("default");
    format!("each command is run by a Job {}/{}-… of {file}: image {image}, account {account}", job.namespace, job.name)
}

fn filled(fill: &FillDisk, what: &str) -> String {
    let goal = match (fill.to, fill.leave) {
        (Some(share), _) => format!("until it is {share} full"),
        (None, Some(bytes)) => format!("until {bytes} bytes are free"),
        (None, None) => String::new(),
    };
    let over = fill.over.map_or_else(|| "at once".to_owned(), |over| format!("over {over}"));
    format!("fills {what} {goal}, {over}")
}

fn cut(partition: &Partition) -> String {
    let Partition { target: _, peers, cidrs, ports, dns, direction } = partition;
    let way = match direction {
        None => "to and from",
        Some(Direction::Ingress) => "from",
        Some(Direction::Egress) => "to",
    };
    let whom = peers.iter().map(|peer| format!("`{peer}`")).chain(cidrs.iter().cloned()).collect::<Vec<_>>();
    let whom = if whom.is_empty() { "everything".to_owned() } else { whom.join(", ") };
    let mut only: Vec<String> = ports.iter().map(|port| format!("port {port}")).collect();
    if *dns && !ports.contains(&53) {
        only.push("port 53 (name look-ups)".to_owned());
    }
    let only = if only.is_empty() { String::new() } else { format!(", only {}", only.join(", ")) };
    format!("cuts the traffic {way} {whom}{only}")
}

/// A command line as JSON, so that every word of it, and nothing on a terminal but words, is seen.
fn words(argv: &[String]) -> String {
    serde_json::Value::from(argv.to_vec()).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(fault: &Value) -> Vec<String> {
        details(&serde_json::from_value(fault.clone()).unwrap(), None)
    }

    #[test]
    fn each_fault_says_what_it_does() {
        for (fault, line) in [
            (
                json!({"fillDisk": {"target": "t", "path": "/data", "to": "95%", "over": "40m"}}),
                "fills the volume at /data until it is 95% full, over 40m",
            ),
            (json!({"fillDisk": {"target": "t", "leave": "10Mi"}}), "fills the volume until 10Mi bytes are free, at once"),
            (
                json!({"fillNodeDisk": {"target": "t", "to": "90%"}}),
                "fills the disk that the node's kubelet lives on until it is 90% full, at once",
            ),
            (json!({"partition": {"target": "t"}}), "cuts the traffic to and from everything"),
            (
                json!({"partition": {"target": "t", "peers": ["db"], "cidrs": ["10.0.0.0/8"], "ports": [80], "dns": true, "direction": "egress"}}),
                "cuts the traffic to `db`, 10.0.0.0/8, only port 80, port 53 (name look-ups)",
            ),
            (json!({"corruptFile": {"target": "t", "path": "/data/a"}}), "every bit of 8Ki bytes in the middle of /data/a is turned over"),
            (json!({"deleteFiles": {"target": "t", "path": "/data/*"}}), "/data/* is taken away, and set aside on the same volume"),
            (json!({"signal": {"target": "t", "signal": "SIGSTOP", "process": "walsender"}}), "SIGSTOP to the process `walsender`"),
            (json!({"manifest": {"file": "m.yaml", "effective": "object.x == 1"}}), "makes m.yaml; it has bitten when `object.x == 1`"),
        ] {
            assert_eq!(said(&fault), [line], "{fault}");
        }
    }
}
