//! What the levels forbid, one function for each thing, in Kubernetes' words (`k8s.io/pod-security-admission/policy`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::core::{pairs, strings, text};

/// What is forbidden, and where it is.
type Violation = Option<(&'static str, String)>;

/// A pod, or a workload's template of one.
struct Pod<'a> {
    spec: &'a Value,
    annotations: Vec<(&'a str, &'a str)>,
    containers: Vec<&'a Value>,
    /// The minor version of Kubernetes whose rules they are.
    minor: u32,
}

/// A thing that is looked at.
type Check = fn(&Pod<'_>) -> Violation;

/// From which minor version on, and what. In the order of the real one's names for them, in which it tells them.
const BASELINE: [(u32, Check); 12] = [
    (0, app_armor),
    (0, capabilities),
    (0, host_namespaces),
    (0, host_paths),
    (0, host_ports),
    (34, hosts),
    (0, privileged),
    (0, proc_mount),
    (0, se_linux),
    (0, seccomp),
    (0, sysctls),
    (0, host_process),
];

/// What `restricted` forbids besides.
const RESTRICTED: [(u32, Check); 6] =
    [(8, privilege_escalation), (22, capabilities_dropped), (0, volumes), (0, run_as_non_root), (23, run_as_user), (19, seccomp_given)];

/// Everything that a pod has and a level forbids, in Kubernetes' order.
pub(super) fn violations(pod: &Value, restricted: bool, minor: u32) -> Vec<(&'static str, String)> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let lists = ["/initContainers", "/containers", "/ephemeralContainers"];
    let containers = lists.iter().flat_map(|at| spec.pointer(at).and_then(Value::as_array).into_iter().flatten()).collect();
    let pod = Pod { spec, annotations: pairs(pod, "/metadata/annotations"), containers, minor };
    // What `restricted` asks in other words is not told twice.
    let said_again = |n: usize| restricted && (n == 1 && minor >= 22 || n == 3 || n == 9 && minor >= 19);
    let mut checks: Vec<(u32, Check)> = BASELINE.into_iter().enumerate().filter(|(n, _)| !said_again(*n)).map(|(_, check)| check).collect();
    if restricted {
        checks.extend(RESTRICTED);
    }
    checks.into_iter().filter(|(since, _)| minor >= *since).filter_map(|(_, check)| check(&pod)).collect()
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

fn plural(one: &'static str, many: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { many }
}

fn flag(value: &Value, pointer: &str) -> Option<bool> {
    value.pointer(pointer).and_then(Value::as_bool)
}

impl<'a> Pod<'a> {
    /// The names of the containers that are so.
    fn which(&self, so: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers.iter().copied().filter(|container| so(container)).map(|container| text(container, "/name")).collect()
    }

    /// Those of Windows are let off some rules, from 1.25 on.
    fn windows(&self) -> bool {
        self.minor >= 25 && text(self.spec, "/os/name") == "windows"
    }
}

/// `container "a"` or `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`, or either.
fn setters(pod: bool, names: &[&str]) -> String {
    match (pod, names.is_empty()) {
        (true, true) => "pod".to_owned(),
        (true, false) => format!("pod and {}", containers(names)),
        (false, _) => containers(names),
    }
}

/// A field of the pod's and of its containers' security contexts whose text is wrong: who has set it so, and to what.
fn wrong<'a>(pod: &Pod<'a>, pointer: &str, right: impl Fn(&str) -> bool) -> Option<(String, BTreeSet<&'a str>)> {
    let at = format!("/securityContext{pointer}");
    let found = |value: &'a Value| value.pointer(&at).and_then(Value::as_str).filter(|value| !right(value));
    let names = pod.which(|container| found(container).is_some());
    let own = found(pod.spec);
    let values: BTreeSet<&str> = pod.containers.iter().copied().filter_map(found).chain(own).collect();
    (!values.is_empty()).then(|| (setters(own.is_some(), &names), values))
}

fn app_armor(pod: &Pod<'_>) -> Violation {
    let set = wrong(pod, "/appArmorProfile/type", |profile| matches!(profile, "RuntimeDefault" | "Localhost"));
    let right = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let noted =
        pod.annotations.iter().filter(|(key, value)| key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !right(value));
    let noted: BTreeSet<String> = noted.map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let (mut who, mut what): (Vec<String>, Vec<String>) =
        set.map(|(who, what)| (vec![who], what.into_iter().map(str::to_owned).collect())).unwrap_or_default();
    if !noted.is_empty() {
        who.push(plural("annotation", "annotations", noted.len()).to_owned());
        what.extend(noted);
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", what.len());
    (!who.is_empty()).then(|| (reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(what))))
}

/// Capabilities that containers add and may not.
fn added<'a>(pod: &Pod<'a>, allowed: &[&str]) -> Option<(Vec<&'a str>, BTreeSet<&'a str>)> {
    let bad = |container: &'a Value| -> Vec<&'a str> {
        let all = strings(container, "/securityContext/capabilities/add");
        all.into_iter().filter(|capability| !allowed.contains(capability)).collect()
    };
    let names = pod.which(|container| !bad(container).is_empty());
    (!names.is_empty()).then(|| (names, pod.containers.iter().copied().flat_map(bad).collect()))
}

fn capabilities(pod: &Pod<'_>) -> Violation {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let (names, bad) = added(pod, &ALLOWED)?;
    let detail = format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(bad));
    Some(("non-default capabilities", detail))
}

fn host_namespaces(pod: &Pod<'_>) -> Violation {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| flag(pod.spec, &format!("/{field}")) == Some(true));
    let shared: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    (!shared.is_empty()).then(|| ("host namespaces", shared.join(", ")))
}

fn host_paths(pod: &Pod<'_>) -> Violation {
    let all = pod.spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let names: Vec<&str> = all.filter(|volume| volume.get("hostPath").is_some()).map(|volume| text(volume, "/name")).collect();
    (!names.is_empty()).then(|| ("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names))))
}

fn host_ports(pod: &Pod<'_>) -> Violation {
    fn of(container: &Value) -> impl Iterator<Item = i64> {
        let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
        ports.filter_map(|port| port.get("hostPort").and_then(Value::as_i64)).filter(|port| *port != 0)
    }
    let names = pod.which(|container| of(container).next().is_some());
    // In the order of their digits.
    let ports: BTreeSet<String> = pod.containers.iter().flat_map(|container| of(container)).map(|port| port.to_string()).collect();
    let used = ports.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let detail = || {
        let (uses, port) = (plural("uses", "use", names.len()), plural("hostPort", "hostPorts", ports.len()));
        format!("{} {uses} {port} {used}", containers(&names))
    };
    (!names.is_empty()).then(|| ("hostPort", detail()))
}

/// Hosts that the kubelet would call for a probe or a hook.
fn hosts(pod: &Pod<'_>) -> Violation {
    fn of(container: &Value) -> Vec<&str> {
        const CALLS: [&str; 5] = ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
        let all = CALLS.iter().flat_map(|call| ["httpGet", "tcpSocket"].map(|how| text(container, &format!("{call}/{how}/host"))));
        all.filter(|host| !host.is_empty()).collect()
    }
    let mut names = pod.which(|container| !of(container).is_empty());
    names.sort_unstable();
    let hosts: BTreeSet<&str> = pod.containers.iter().flat_map(|container| of(container)).collect();
    let detail = || {
        let what = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
        format!("{} {} {what} {}", containers(&names), plural("uses", "use", names.len()), quoted(&hosts))
    };
    (!names.is_empty()).then(|| ("probe or lifecycle host", detail()))
}

fn privileged(pod: &Pod<'_>) -> Violation {
    let names = pod.which(|container| flag(container, "/securityContext/privileged") == Some(true));
    (!names.is_empty()).then(|| ("privileged", format!("{} must not set securityContext.privileged=true", containers(&names))))
}

fn proc_mount(pod: &Pod<'_>) -> Violation {
    let found = |container: &Value| !matches!(text(container, "/securityContext/procMount"), "" | "Default");
    let names = pod.which(found);
    let kinds: BTreeSet<&str> =
        pod.containers.iter().filter(|container| found(container)).map(|container| text(container, "/securityContext/procMount")).collect();
    (!names.is_empty())
        .then(|| ("procMount", format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(kinds))))
}

fn se_linux(pod: &Pod<'_>) -> Violation {
    let newer = pod.minor >= 31;
    let right =
        |kind: &str| matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t") || newer && kind == "container_engine_t";
    let of = |value: &Value, field: &str| text(value, &format!("/securityContext/seLinuxOptions/{field}")).to_owned();
    let bad = |value: &Value| !right(&of(value, "type")) || !of(value, "user").is_empty() || !of(value, "role").is_empty();
    let names = pod.which(bad);
    let own = bad(pod.spec);
    if names.is_empty() && !own {
        return None;
    }
    let all = || pod.containers.iter().copied().chain([pod.spec]);
    let types: BTreeSet<String> = all().map(|value| of(value, "type")).filter(|kind| !right(kind)).collect();
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    for field in ["user", "role"] {
        if all().any(|value| !of(value, field).is_empty()) {
            what.push(format!("{field} may not be set"));
        }
    }
    let detail = format!("{} set forbidden securityContext.seLinuxOptions: {}", setters(own, &names), what.join("; "));
    Some(("seLinuxOptions", detail))
}

const SECCOMP: &str = "seccompProfile";

/// Who has set a profile that is not allowed.
fn seccomp_wrong(pod: &Pod<'_>) -> Violation {
    let (who, what) = wrong(pod, "/seccompProfile/type", |profile| matches!(profile, "RuntimeDefault" | "Localhost"))?;
    Some((SECCOMP, format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(what))))
}

fn seccomp(pod: &Pod<'_>) -> Violation {
    if pod.minor >= 19 {
        return seccomp_wrong(pod);
    }
    // Before it was a field it was an annotation.
    let right = |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let about = |key: &str| {
        key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.strip_prefix("container.seccomp.security.alpha.kubernetes.io/").is_some_and(|name| pod.which(|_| true).contains(&name))
    };
    let found = pod.annotations.iter().filter(|(key, value)| about(key) && !right(value));
    let found: BTreeSet<String> = found.map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let list = found.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    (!found.is_empty()).then(|| (SECCOMP, format!("forbidden {} {list}", plural("annotation", "annotations", found.len()))))
}

fn sysctls(pod: &Pod<'_>) -> Violation {
    const ALLOWED: [(u32, &str); 12] = [
        (0, "kernel.shm_rmid_forced"),
        (0, "net.ipv4.ip_local_port_range"),
        (0, "net.ipv4.tcp_syncookies"),
        (0, "net.ipv4.ping_group_range"),
        (0, "net.ipv4.ip_unprivileged_port_start"),
        (27, "net.ipv4.ip_local_reserved_ports"),
        (29, "net.ipv4.tcp_keepalive_time"),
        (29, "net.ipv4.tcp_fin_timeout"),
        (29, "net.ipv4.tcp_keepalive_intvl"),
        (29, "net.ipv4.tcp_keepalive_probes"),
        (32, "net.ipv4.tcp_rmem"),
        (32, "net.ipv4.tcp_wmem"),
    ];
    let all = pod.spec.pointer("/securityContext/sysctls").and_then(Value::as_array).into_iter().flatten().map(|one| text(one, "/name"));
    let bad: Vec<&str> = all.filter(|name| !ALLOWED.iter().any(|(since, known)| known == name && pod.minor >= *since)).collect();
    (!bad.is_empty()).then(|| ("forbidden sysctls", bad.join(", ")))
}

fn host_process(pod: &Pod<'_>) -> Violation {
    let bad = |value: &Value| flag(value, "/securityContext/windowsOptions/hostProcess") == Some(true);
    let (own, names) = (bad(pod.spec), pod.which(bad));
    let detail = || format!("{} must not set securityContext.windowsOptions.hostProcess=true", setters(own, &names));
    (own || !names.is_empty()).then(|| ("hostProcess", detail()))
}

fn privilege_escalation(pod: &Pod<'_>) -> Violation {
    let names = pod.which(|container| flag(container, "/securityContext/allowPrivilegeEscalation") != Some(false));
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    (!names.is_empty() && !pod.windows()).then(|| ("allowPrivilegeEscalation != false", detail()))
}

fn capabilities_dropped(pod: &Pod<'_>) -> Violation {
    if pod.windows() {
        return None;
    }
    let mut details = Vec::new();
    let keeping = pod.which(|container| !strings(container, "/securityContext/capabilities/drop").contains(&"ALL"));
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if let Some((names, bad)) = added(pod, &["NET_BIND_SERVICE"]) {
        details.push(format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(bad)));
    }
    (!details.is_empty()).then(|| ("unrestricted capabilities", details.join("; ")))
}

fn volumes(pod: &Pod<'_>) -> Violation {
    const ALLOWED: [&str; 9] =
        ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];
    let all = pod.spec.get("volumes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in all.filter(|volume| !ALLOWED.iter().any(|kind| volume.contains_key(*kind))) {
        names.push(volume.get("name").and_then(Value::as_str).unwrap_or_default());
        kinds.insert(volume.keys().find(|key| *key != "name").map_or("unknown", String::as_str));
    }
    let detail = || {
        let (volume, uses) = (plural("volume", "volumes", names.len()), plural("uses", "use", names.len()));
        let kind = plural("restricted volume type", "restricted volume types", kinds.len());
        format!("{volume} {} {uses} {kind} {}", quoted(&names), quoted(&kinds))
    };
    (!names.is_empty()).then(|| ("restricted volume types", detail()))
}

fn run_as_non_root(pod: &Pod<'_>) -> Violation {
    const REASON: &str = "runAsNonRoot != true";
    let of = |value: &Value| flag(value, "/securityContext/runAsNonRoot");
    let (own, explicit) = (of(pod.spec), pod.which(|container| of(container) == Some(false)));
    if own == Some(false) || !explicit.is_empty() {
        let who = setters(own == Some(false), &explicit);
        return Some((REASON, format!("{who} must not set securityContext.runAsNonRoot=false")));
    }
    let silent = pod.which(|container| of(container).is_none());
    let detail = || format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent));
    (own.is_none() && !silent.is_empty()).then(|| (REASON, detail()))
}

fn run_as_user(pod: &Pod<'_>) -> Violation {
    let root = |value: &Value| value.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(0);
    let (own, names) = (root(pod.spec), pod.which(root));
    (own || !names.is_empty()).then(|| ("runAsUser=0", format!("{} must not set runAsUser=0", setters(own, &names))))
}

fn seccomp_given(pod: &Pod<'_>) -> Violation {
    if pod.windows() {
        return None;
    }
    let wrong = seccomp_wrong(pod);
    if wrong.is_some() {
        return wrong;
    }
    let none = |value: &Value| value.pointer("/securityContext/seccompProfile").is_none();
    let silent = pod.which(none);
    let detail =
        || format!("pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"", containers(&silent));
    (none(pod.spec) && !silent.is_empty()).then(|| (SECCOMP, detail()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(pod: &Value, restricted: bool, minor: u32) -> Vec<String> {
        violations(pod, restricted, minor).into_iter().map(|(reason, detail)| format!("{reason} ({detail})")).collect()
    }

    #[test]
    fn what_asks_for_nothing_is_baseline_and_not_restricted() {
        let pod = json!({"spec": {"initContainers": [{"name": "a"}], "containers": [{"name": "b"}]}});
        assert_eq!(told(&pod, false, 34), [""; 0]);
        assert_eq!(
            told(&pod, true, 34),
            [
                "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ]
        );
        let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}});
        let careful = json!({"spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": own}], "volumes": [{"name": "v", "emptyDir": {}}],
        }});
        assert_eq!(told(&careful, true, 34), [""; 0]);
    }

    #[test]
    fn everything_that_baseline_forbids_is_told_in_order() {
        let container = json!({
            "name": "a",
            "ports": [{"containerPort": 1, "hostPort": 8080}],
            "livenessProbe": {"httpGet": {"host": "10.0.0.1"}},
            "securityContext": {
                "privileged": true, "capabilities": {"add": ["SYS_ADMIN", "KILL", "NET_RAW"]}, "procMount": "Unmasked",
                "seLinuxOptions": {"type": "x_t", "user": "u"}, "appArmorProfile": {"type": "Unconfined"},
            },
        });
        let pod = json!({"spec": {
            "hostNetwork": true, "hostPID": true, "containers": [container], "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "securityContext": {"sysctls": [{"name": "kernel.msgmax"}], "seccompProfile": {"type": "Unconfined"}, "windowsOptions": {"hostProcess": true}},
        }});
        let all = [
            "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
            "non-default capabilities (container \"a\" must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
            "host namespaces (hostNetwork=true, hostPID=true)",
            "hostPath volumes (volume \"v\")",
            "hostPort (container \"a\" uses hostPort 8080)",
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")",
            "privileged (container \"a\" must not set securityContext.privileged=true)",
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
            "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"x_t\"; user may not be set)",
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            "forbidden sysctls (kernel.msgmax)",
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ];
        assert_eq!(told(&pod, false, 34), all);
        // Older rules know nothing of hosts.
        assert_eq!(told(&pod, false, 33).len(), all.len() - 1);
        let restricted = told(&pod, true, 34);
        assert!(
            restricted.contains(&"restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")".to_owned()),
            "{restricted:?}"
        );
        assert!(!restricted.iter().any(|line| line.starts_with("hostPath") || line.starts_with("non-default")), "{restricted:?}");
    }
}
