//! What faults say of what they do: all that can be known to be wrong of it without a cluster.

use super::{model::At, probes::postgres, spec::Cx, text};
use crate::scenario::{
    diag::{clip, nearest},
    statement,
    types::{CutHow, FaultSpec, FillDisk, Partition, Percent, Quantity, Signal, SqlFault, TargetKind},
};

/// Signals by name.
const SIGNALS: &[&str] = &[
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGABRT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGPIPE",
    "SIGALRM", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE",
];

/// What a node needs to undo a full disk, as its helper has it: so many bytes, or a hundredth of the disk.
const NODE_FLOOR: Quantity = Quantity(256 << 20);
const NODE_MOST: Percent = Percent(99.0);
/// The most bytes of a file that are damaged.
const MOST_DAMAGED: Quantity = Quantity(4 << 20);

/// Checks the fault of a kind, which is at `place`.
pub(super) fn check(cx: &mut Cx<'_>, place: At<'_>, fault: &FaultSpec, kind: &str) {
    if let Some(cut) = &fault.cut_backup_job
        && cut.after.is_some()
        && cut.how != CutHow::KillRunning
    {
        cx.gather.mistake(place.get("after").key(), "`after` goes with `how: killRunning`");
    }
    if let Some(signal) = &fault.signal {
        self::signal(cx, place, signal);
    }
    if let Some(fill) = fault.fill_disk.as_ref().or(fault.fill_node_disk.as_ref()) {
        self::fill(cx, place, fill, kind);
    }
    if let Some(corrupt) = &fault.corrupt_file {
        file(cx, place, &corrupt.path);
        if let Some(bytes) = corrupt.bytes.filter(|bytes| bytes.0 == 0 || *bytes > MOST_DAMAGED) {
            cx.gather
                .mistake(place.get("bytes").span(), format!("`bytes: {bytes}` cannot be damaged"))
                .help(format!("it must be from 1 to {MOST_DAMAGED}"));
        }
    }
    if let Some(delete) = &fault.delete_files {
        file(cx, place, &delete.path);
    }
    if let Some(partition) = &fault.partition {
        self::partition(cx, place, partition);
    }
    if let Some(sql) = &fault.sql {
        self::sql(cx, place, sql);
    }
    if let Some(custom) = &fault.custom {
        for (key, command) in
            [("inject", &custom.inject), ("effective", &custom.effective), ("revert", &custom.revert), ("gone", &custom.gone)]
        {
            if command.first().is_none_or(|program| program.trim().is_empty()) {
                cx.gather.mistake(place.get(key).key(), format!("the command `{key}` is empty")).help("the contract needs all four");
            }
        }
        if let Some(within) = custom.within {
            cx.positive(place.get("within"), "`within`", within);
        }
        match (&custom.target, &custom.job) {
            (Some(_), None) => {}
            (None, Some(job)) => beside(cx, place.get("job").get("file"), &job.file),
            (Some(_), Some(_)) => drop(
                cx.gather
                    .mistake(place.get("job").key(), "`target` and `job` are both set")
                    .also(place.get("target").key(), "target")
                    .help("keep one of them: the commands run in the target's containers, or each by a Job of its own"),
            ),
            (None, None) => drop(
                cx.gather
                    .mistake(place.key(), "`custom` needs `target` or `job`")
                    .help("write `target: NAME` to run the commands in its containers, or `job: {file: FILE}` to run each by a Job"),
            ),
        }
    }
    if let Some(manifest) = &fault.manifest {
        beside(cx, place.get("file"), &manifest.file);
        for (key, text) in [("effective", Some(&manifest.effective)), ("gone", manifest.gone.as_ref())] {
            if let Some(Err(why)) = text.map(|text| text::cel(text)) {
                cx.gather.mistake(place.get(key).span(), why);
            }
        }
    }
}

fn beside(cx: &mut Cx<'_>, place: At<'_>, file: &str) {
    if !text::is_beside(file) {
        cx.gather
            .mistake(place.span(), format!("`{}` is not a file beside the scenario", clip(file)))
            .help("write a path below the scenario's own folder, for example `manifests/quota.yaml`");
    }
}

fn signal(cx: &mut Cx<'_>, place: At<'_>, signal: &Signal) {
    if !SIGNALS.contains(&signal.signal.as_str()) {
        cx.gather
            .mistake(place.get("signal").span(), format!("`{}` is no signal", clip(&signal.signal)))
            .help_if(nearest(&signal.signal, SIGNALS.iter().copied()).map(|s| format!("did you mean `{s}`?")))
            .help("write for example `SIGTERM`");
    }
    if signal.process.trim().is_empty() {
        cx.gather
            .mistake(place.get("process").span(), "`process` is empty: it would be every process, and one gets the signal")
            .help("write its command's name, or a part of its command line");
    }
}

fn fill(cx: &mut Cx<'_>, place: At<'_>, fill: &FillDisk, kind: &str) {
    match (fill.to.is_some(), fill.leave.is_some()) {
        (true, false) | (false, true) => {}
        (true, true) => drop(
            cx.gather
                .mistake(place.get("leave").key(), "`to` and `leave` are both set")
                .also(place.get("to").key(), "to")
                .help("keep one of them"),
        ),
        (false, false) => drop(
            cx.gather.mistake(place.key(), format!("`{kind}` needs `to` or `leave`")).help("write for example `to: 100%` or `leave: 10Mi`"),
        ),
    }
    if fill.to.is_some_and(|share| share.0 <= 0.0) {
        cx.gather.mistake(place.get("to").span(), "`to: 0%` fills nothing").help("write for example `to: 95%`");
    }
    if let Some(over) = fill.over {
        let limit = cx.model.limits.duration;
        if over > limit {
            cx.gather
                .mistake(
                    place.get("over").span(),
                    format!("it would take {over} to fill, and the drill is aborted after `limits.duration`: {limit}"),
                )
                .help("raise `limits.duration`, or fill faster");
        } else {
            cx.positive(place.get("over"), "`over`", over);
        }
    }
    if kind == "fillNodeDisk" {
        if fill.path.is_some() {
            cx.gather
                .mistake(place.get("path").key(), "`fillNodeDisk` takes no `path`: it is the disk of the node's kubelet that is filled")
                .help("leave it out");
        }
        let floor = "a node needs 256Mi, or a hundredth of its disk if that is more, to undo it";
        if let Some(share) = fill.to.filter(|share| *share > NODE_MOST) {
            cx.gather.mistake(place.get("to").span(), format!("`to: {share}` leaves too little: {floor}")).help("99% is the most");
        }
        if let Some(bytes) = fill.leave.filter(|bytes| *bytes < NODE_FLOOR) {
            cx.gather.mistake(place.get("leave").span(), format!("`leave: {bytes}` is too little: {floor}")).help("leave that much");
        }
        return;
    }
    let on_pods = cx.model.targets.get(&fill.target).and_then(Option::as_ref).and_then(|t| t.kind()) == Some(TargetKind::Pods);
    match &fill.path {
        Some(path) => path_of(cx, place, path),
        None if on_pods => {
            cx.gather.mistake(place.key(), "`fillDisk` on pods needs the `path` of a volume").help("write for example `path: /data`");
        }
        None => {}
    }
}

/// A path in a container, which no `..` may lead out of its volume.
fn path_of(cx: &mut Cx<'_>, place: At<'_>, path: &str) {
    let at = place.get("path").span();
    if !path.starts_with('/') {
        cx.gather.mistake(at, format!("`{}` does not start with `/`", clip(path))).help("write the whole path inside the container");
    } else if path.split('/').any(|part| part == "..") {
        cx.gather.mistake(at, format!("`{}` may lead out of the volume", clip(path))).help("write the path without `..`");
    }
}

/// The path of a file, which is no whole file system.
fn file(cx: &mut Cx<'_>, place: At<'_>, path: &str) {
    path_of(cx, place, path);
    if path.starts_with('/') && path.split('/').all(|part| part.is_empty() || part == ".") {
        cx.gather.mistake(place.get("path").span(), format!("`{}` is no file", clip(path))).help("name a file on a volume");
    }
}

fn partition(cx: &mut Cx<'_>, place: At<'_>, partition: &Partition) {
    // Without these keys all is cut. Who writes an empty list means something else.
    for (key, is_empty, all) in [
        ("peers", partition.peers.is_empty(), "the traffic with everybody"),
        ("cidrs", partition.cidrs.is_empty(), "the traffic with everybody"),
        ("ports", partition.ports.is_empty(), "the traffic of all ports"),
    ] {
        if is_empty && place.get(key).is_set() {
            cx.gather
                .mistake(place.get(key).key(), format!("`{key}` is empty"))
                .help(format!("name at least one, or leave `{key}` out, which cuts {all}"));
        }
    }
    for i in partition.ports.iter().enumerate().filter(|(_, port)| **port == 0).map(|(i, _)| i) {
        cx.gather.mistake(place.get("ports").item(i).span(), "there is no port 0").help("it must be from 1 to 65535");
    }
    for (i, peer) in partition.peers.iter().enumerate() {
        cx.target(place.get("peers").item(i), peer, &[TargetKind::Pods, TargetKind::Service, TargetKind::Nodes], "a peer");
    }
    for (i, cidr) in partition.cidrs.iter().enumerate() {
        let ok = cidr.split_once('/').is_some_and(|(address, bits)| {
            let longest = match address.parse::<std::net::IpAddr>() {
                Ok(std::net::IpAddr::V4(_)) => 32u8,
                Ok(std::net::IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            bits.parse::<u8>().is_ok_and(|b| b <= longest)
        });
        if !ok {
            cx.gather
                .mistake(place.get("cidrs").item(i).span(), format!("`{}` is not a network", clip(cidr)))
                .help("write for example `10.0.0.0/8`");
        }
    }
}

fn sql(cx: &mut Cx<'_>, place: At<'_>, sql: &SqlFault) {
    postgres(cx, place.get("postgres"), &sql.postgres, false);
    for (key, text) in [("statement", Some(&sql.statement)), ("revert", sql.revert.as_ref())] {
        let Some(text) = text else { continue };
        if text.trim().is_empty() {
            cx.gather.mistake(place.get(key).span(), "the statement is empty");
        } else if let Some(why) = statement::refusal(text) {
            cx.gather.mistake(place.get(key).span(), format!("no statement for a fault: {why}"));
        }
    }
    if sql.max_rows == 0 {
        cx.gather.mistake(place.get("maxRows").span(), "`maxRows: 0` would roll every statement back: no fault");
    }
}
