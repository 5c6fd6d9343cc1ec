//! What follows from what was seen. Pure.

use k8s_openapi::api::core::v1::Node;

use super::{Area, Finding, Verdict};
use crate::{
    agent::{
        ClockLink,
        host::{Host, kernel},
    },
    cluster::ClusterError,
};

/// The oldest kernel that has what faults on volumes need: `openat2` (5.6) and the numbers of mounts by `statx` (5.8).
pub(super) const VOLUMES: (u32, u32) = (5, 8);
/// The oldest kernel on which partitions were made: nftables tables that go with their owner.
pub(super) const PARTITIONS: (u32, u32) = (5, 12);
/// How far apart two clocks may be, in microseconds, before it is worth a word.
const APART_US: i64 = 2_000_000;

/// By how much a server's clock is ahead of ours: somewhere between these, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    /// At least.
    pub from_us: i64,
    /// At most.
    pub to_us: i64,
}

/// From the `Date` of an answer, which has whole seconds and was set between question and answer.
pub fn offset(date: &str, sent_us: i64, received_us: i64) -> Option<Offset> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?.as_microsecond();
    Some(Offset { from_us: date - received_us, to_us: date + 1_000_000 - sent_us })
}

impl Offset {
    /// What it means.
    pub(super) fn finding(self) -> Finding {
        let middle = i64::midpoint(self.from_us, self.to_us);
        let error = (self.to_us - self.from_us) / 2;
        let seconds = |us: i64| format!("{:.1} s", us as f64 / 1e6);
        let found = format!(
            "the API server's clock is {} {} this machine's, give or take {}",
            seconds(middle.abs()),
            if middle < 0 { "behind" } else { "ahead of" },
            seconds(error)
        );
        let surely = self.from_us > APART_US || self.to_us < -APART_US;
        let verdict = if surely { Verdict::Warning } else { Verdict::Ok };
        let finding = Finding::new(Area::Cluster, "clocks", verdict, found);
        if surely {
            finding.change("set the clock of the one that is wrong (chronyc makestep, or timedatectl set-ntp true): times in reports and alerts would not agree")
        } else {
            finding
        }
    }
}

/// What a node has, against what helpers on it need.
pub(super) fn node(node: &Node, name: &str, image: &str, volumes: bool, partitions: bool) -> Finding {
    let status = node.status.as_ref();
    let Some(info) = status.and_then(|s| s.node_info.as_ref()) else {
        return Finding::new(Area::Nodes, name, Verdict::Warning, "its kubelet has not said yet what it is");
    };
    let ready = status.and_then(|s| s.conditions.as_ref()).is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    let has_image = status.and_then(|s| s.images.as_ref()).is_some_and(|all| {
        all.iter()
            .flat_map(|one| one.names.iter().flatten())
            .any(|name| name == image || name.strip_suffix(image).is_some_and(|front| front.ends_with('/')))
    });
    let found = format!("{} {}, {}, {}", info.operating_system, info.kernel_version, info.architecture, info.container_runtime_version);
    let of = |verdict, more: &str| Finding::new(Area::Nodes, name, verdict, format!("{found}{more}"));
    if info.operating_system != "linux" {
        return of(Verdict::No, "").change("choose targets on nodes with Linux: helpers need it");
    }
    let needs = [
        (volumes, VOLUMES, "faults on volumes need `openat2` and `statx` with mount numbers"),
        (partitions, PARTITIONS, "partitions need nftables that go with their owner"),
    ];
    for (needed, (major, minor), why) in needs {
        match kernel(&info.kernel_version) {
            Some(has) if needed && has < (major, minor) => {
                return of(Verdict::No, "").change(format!("Linux {major}.{minor} or later: {why}"));
            }
            None if needed => return of(Verdict::Warning, "").change(format!("see whether that is Linux {major}.{minor} or later: {why}")),
            _ => {}
        }
    }
    if !ready {
        return of(Verdict::No, "; not ready").change(format!("see why with `kubectl describe node {name}`: no helper would start there"));
    }
    if has_image {
        return of(Verdict::Ok, "; it has firedrill's image");
    }
    of(Verdict::Warning, "; it has not said that it has firedrill's image")
        .change(format!("`--probe-nodes` shows whether it can get {image}"))
}

/// What a helper on a node has said of it.
pub(super) fn host(node: &str, host: &Host, clock: Option<&ClockLink>) -> Vec<Finding> {
    let of = |what: &str, verdict, found: String| Finding::new(Area::Nodes, format!("{node}, {what}"), verdict, found);
    let mut found = vec![of("helper", Verdict::Ok, "its pod ran and answered: the image is there, and privileged pods may run".to_owned())];
    let missing: Vec<String> = [&host.openat2, &host.nftables].into_iter().flatten().cloned().collect();
    found.push(match missing.is_empty() {
        true => of("kernel", Verdict::Ok, "openat2 and nftables are there".to_owned()),
        false => {
            let lacks = of("kernel", Verdict::No, missing.join("; "));
            lacks.change("without nftables no `partition`, without openat2 no fault on volumes: load nf_tables, or take a newer kernel")
        }
    });
    let version = host.cgroup.map_or_else(|| "no cgroups were found".to_owned(), |version| format!("cgroup v{version}"));
    found.push(match host.freezer && host.cgroup.is_some() {
        true => of("cgroups", Verdict::Ok, format!("{version} with a freezer")),
        false => of("cgroups", Verdict::Warning, format!("{version}, and no freezer"))
            .change("processes are stopped one by one instead, by signals"),
    });
    found.push(match &host.kubelet {
        None => of("kubelet", Verdict::Warning, "no process of that name was found".to_owned())
            .change("whether something would start it anew is not known"),
        Some(kubelet) => {
            let unit = kubelet.unit.as_ref().map_or_else(|| "in no unit".to_owned(), |unit| format!("unit {unit}"));
            let restart = kubelet.restart.as_ref().map_or_else(String::new, |restart| format!(", Restart={restart}"));
            let about = format!("{} of {}, {unit}{restart}", kubelet.process, kubelet.manager);
            match &kubelet.watchdog {
                None if kubelet.manager == "systemd" && kubelet.unit.is_some() => {
                    of("kubelet", Verdict::Ok, format!("{about}; nothing kills it when it hangs"))
                }
                None => of("kubelet", Verdict::Warning, about)
                    .change("see what watches it: whether it would be started anew when it hangs is not known"),
                Some(time) => {
                    let watched = of(
                        "kubelet",
                        Verdict::Warning,
                        format!("{about}; WatchdogSec={time}: a kubelet that hangs is killed and started anew after that"),
                    );
                    watched.change(
                        "for drills that lose this node, drop in `[Service]` with `WatchdogSec=0`: else the node comes back by itself",
                    )
                }
            }
        }
    });
    if let Some(clock) = clock {
        let (ahead, error) = (clock.wall_offset_us as f64 / 1e6, clock.error_us as f64 / 1e6);
        let text = format!(
            "its clock is {:.3} s {} this machine's, give or take {error:.3} s",
            ahead.abs(),
            if ahead < 0.0 { "behind" } else { "ahead of" }
        );
        let far = clock.wall_offset_us.abs().saturating_sub(clock.error_us) > APART_US;
        let finding = of("clock", if far { Verdict::Warning } else { Verdict::Ok }, text);
        found.push(if far { finding.change("set it (chronyc makestep): certificates, alerts and logs are by it") } else { finding });
    }
    found
}

/// What the answer to the trial of a pod means.
pub(super) fn trial(what: &str, namespace: &str, answer: Result<(), ClusterError>) -> Finding {
    let of = |verdict, found: String| Finding::new(Area::Place, what, verdict, found);
    let error = match answer {
        Ok(()) => return of(Verdict::Ok, "its pod would be taken (tried with dryRun)".to_owned()),
        Err(error) => error,
    };
    let why = error.to_string();
    let change = if why.contains("PodSecurity") {
        format!(
            "`kubectl label namespace {namespace} --overwrite pod-security.kubernetes.io/enforce=privileged`, or `nodeHelpers: false` in the environment"
        )
    } else if why.contains("does not support dry run") {
        return of(Verdict::Warning, why).change("a webhook cannot be tried: only a drill, or `--probe-nodes`, will show it");
    } else if why.contains("admission webhook") || why.contains("ValidatingAdmissionPolicy") {
        format!("have the owner of that policy except namespace {namespace}")
    } else if why.contains("quota") {
        format!("raise the quota of namespace {namespace}, or remove it")
    } else if why.contains("serviceaccount") {
        "make it with `firedrill plan FILE --rbac | kubectl apply -f -`".to_owned()
    } else if error.is_forbidden() {
        "have it allowed: `firedrill plan FILE --rbac` prints how".to_owned()
    } else {
        return of(Verdict::Warning, why);
    };
    of(Verdict::No, why).change(change)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn versions_of_kernels() {
        for (text, wanted) in [
            ("6.12.90+deb13-amd64", Some((6, 12))),
            ("5.15.0-1051-gke", Some((5, 15))),
            ("5.6", Some((5, 6))),
            ("10.0.20348", Some((10, 0))),
            ("six", None),
            ("", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(kernel(text), wanted, "{text}");
        }
    }

    #[test]
    fn an_answers_date_brackets_the_offset() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        let (sent, received) = (at("2026-11-23T12:00:00.2Z"), at("2026-11-23T12:00:00.3Z"));
        let same = offset("Mon, 23 Nov 2026 12:00:00 GMT", sent, received).unwrap();
        assert_eq!(same, Offset { from_us: -300_000, to_us: 800_000 });
        assert_eq!(same.finding().verdict, Verdict::Ok);
        for (date, found) in [("Mon, 23 Nov 2026 12:00:10 GMT", "10.2 s ahead"), ("Mon, 23 Nov 2026 11:59:50 GMT", "9.8 s behind")] {
            let finding = offset(date, sent, received).unwrap().finding();
            assert!(finding.verdict == Verdict::Warning && finding.found.contains(found) && finding.change.is_some(), "{finding:?}");
        }
        assert_eq!(offset("yesterday", sent, received), None);
    }

    fn seen(change: &Value) -> Node {
        let mut node = json!({"metadata": {"name": "n1"}, "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "images": [{"names": ["docker.io/library/firedrill:1"], "sizeBytes": 1}],
            "nodeInfo": {"operatingSystem": "linux", "kernelVersion": "5.10.0", "architecture": "amd64", "containerRuntimeVersion": "containerd://2.2.1",
                         "kubeletVersion": "v1.34.4", "bootID": "", "machineID": "", "systemUUID": "", "osImage": "", "kubeProxyVersion": ""}}});
        json_patch::merge(&mut node, change);
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn nodes_that_cannot_carry_a_helper() {
        let kernel = |version: &str| json!({"status": {"nodeInfo": {"kernelVersion": version}}});
        for (case, change, volumes, partitions, verdict, part) in [
            ("as it must be", json!({}), true, false, Verdict::Ok, "linux 5.10.0, amd64, containerd://2.2.1; it has firedrill's image"),
            ("too old for a partition", json!({}), true, true, Verdict::No, "Linux 5.12 or later: partitions"),
            ("too old for volumes", kernel("5.4.0"), true, false, Verdict::No, "Linux 5.8 or later: faults on volumes"),
            ("old, and nothing of that is wanted", kernel("5.4.0"), false, false, Verdict::Ok, "5.4.0"),
            ("a version of its own", kernel("custom"), true, false, Verdict::Warning, "see whether that is Linux 5.8"),
            ("Windows", json!({"status": {"nodeInfo": {"operatingSystem": "windows"}}}), false, false, Verdict::No, "nodes with Linux"),
            ("not ready", json!({"status": {"conditions": []}}), false, false, Verdict::No, "`kubectl describe node n1`"),
            (
                "without the image",
                json!({"status": {"images": []}}),
                false,
                false,
                Verdict::Warning,
                "`--probe-nodes` shows whether it can get firedrill:1",
            ),
        ] {
            let finding = node(&seen(&change), "n1", "firedrill:1", volumes, partitions);
            let text = format!("{} {}", finding.found, finding.change.as_deref().unwrap_or_default());
            assert!(finding.verdict == verdict && text.contains(part), "{case}: {finding:?}");
        }
    }

    #[test]
    fn what_a_helper_says_of_its_node() {
        let kubelet = |watchdog: Option<&str>| {
            let of = |text: &str| Some(text.to_owned());
            Some(crate::agent::host::Kubelet {
                process: "kubelet".to_owned(),
                manager: "systemd".to_owned(),
                unit: of("kubelet.service"),
                restart: of("always"),
                watchdog: watchdog.and_then(of),
            })
        };
        let well = Host { cgroup: Some(2), freezer: true, kubelet: kubelet(None), ..Host::default() };
        let clock =
            |wall_offset_us: i64| ClockLink { clock: crate::clock::ClockId("agent".into()), offset_us: 0, error_us: 500, wall_offset_us };
        let found = host("n1", &well, Some(&clock(20_000)));
        assert!(found.iter().all(|finding| finding.verdict == Verdict::Ok), "{found:#?}");
        assert!(found[4].found.contains("0.020 s ahead"), "{found:#?}");
        for (case, is, what, verdict, part) in [
            ("a watchdog", Host { kubelet: kubelet(Some("30s")), ..well.clone() }, "n1, kubelet", Verdict::Warning, "WatchdogSec=30s"),
            (
                "no systemd",
                Host { kubelet: kubelet(None).map(|k| crate::agent::host::Kubelet { manager: "runit".to_owned(), ..k }), ..well.clone() },
                "n1, kubelet",
                Verdict::Warning,
                "kubelet of runit",
            ),
            ("no kubelet", Host { kubelet: None, ..well.clone() }, "n1, kubelet", Verdict::Warning, "no process of that name"),
            ("no nftables", Host { nftables: Some("no socket".to_owned()), ..well.clone() }, "n1, kernel", Verdict::No, "load nf_tables"),
            ("no freezer", Host { freezer: false, ..well.clone() }, "n1, cgroups", Verdict::Warning, "cgroup v2, and no freezer"),
        ] {
            let found = host("n1", &is, Some(&clock(-20_000)));
            let wrong: Vec<&Finding> = found.iter().filter(|finding| finding.verdict != Verdict::Ok).collect();
            let text =
                wrong.iter().map(|f| format!("{} {} {}", f.what, f.found, f.change.as_deref().unwrap_or_default())).collect::<String>();
            assert!(wrong.len() == 1 && wrong[0].what == what && wrong[0].verdict == verdict && text.contains(part), "{case}: {wrong:#?}");
        }
        assert_eq!(host("n1", &well, Some(&clock(-5_000_000))).last().unwrap().verdict, Verdict::Warning);
    }

    #[test]
    fn refusals_of_pods_have_a_way_out() {
        let refused = |code: u16, why: &str| {
            Err(ClusterError::Call { what: "try a pod".to_owned(), code: Some(code), reason: "Forbidden".to_owned(), why: why.to_owned() })
        };
        for (answer, verdict, part) in [
            (Ok(()), Verdict::Ok, "dryRun"),
            (refused(403, "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": hostPID"), Verdict::No, "enforce=privileged"),
            (refused(403, "pods \"x\" is forbidden: exceeded quota: all"), Verdict::No, "raise the quota of namespace firedrill"),
            (refused(403, "admission webhook \"no.privileged\" denied the request"), Verdict::No, "except namespace firedrill"),
            (refused(400, "admission webhook \"x\" does not support dry run"), Verdict::Warning, "cannot be tried"),
            (
                refused(403, "error looking up service account firedrill/watchdog: serviceaccount \"watchdog\" not found"),
                Verdict::No,
                "kubectl apply",
            ),
            (refused(403, "User \"bob\" cannot create resource \"pods\""), Verdict::No, "have it allowed"),
            (refused(500, "etcd is away"), Verdict::Warning, "etcd is away"),
        ] {
            let finding = trial("node helper on n1", "firedrill", answer);
            let text = format!("{} {}", finding.found, finding.change.as_deref().unwrap_or_default());
            assert!(finding.verdict == verdict && text.contains(part), "{finding:?}");
        }
    }
}
