//! What planning must know of each kind of fault, probe, step and objective, in one table each.
//!
//! The structs are taken apart without `..`, so that a new kind does not compile before it has its line here.

use crate::scenario::check::placements;
use crate::scenario::types::{
    Endpoint, FaultSpec, LedgerProbe, ObjectName, Objective, OneOf as _, OwnPlace, Placement, Postgres, Probe, Scenario, ServiceRef, Step,
};

/// What a fault counts against in the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaks {
    /// Each chosen pod.
    Pods,
    /// Each chosen node, and the pods on it.
    Nodes,
    /// Each chosen volume.
    Volumes,
    /// Each chosen object.
    Objects,
}

/// A fault, as planning looks at it.
#[derive(Debug, Clone, Copy)]
pub struct FaultView<'a> {
    /// `podKill`, `scale` …
    pub kind: &'static str,
    /// Its target.
    pub target: Option<&'a str>,
    /// What it counts as.
    pub breaks: Breaks,
    /// The kinds of objects it can act on.
    pub accepts: &'static [&'static str],
    /// Whether it needs a node helper.
    pub helper: bool,
    /// Whether this build can inject it.
    pub built: bool,
}

impl FaultView<'_> {
    /// Whether it takes pods away, so that their budgets have a say.
    pub fn asks_budgets(&self) -> bool {
        self.breaks == Breaks::Pods || matches!(self.kind, "scale" | "loseVolume")
    }

    /// Whether its helper may be within the target's pod.
    pub fn works_inside(&self) -> bool {
        placements(self.kind).contains(&Placement::Pod)
    }

    /// Whether it is for every process of a container, the first one included.
    pub fn hits_all(&self) -> bool {
        matches!(self.kind, "freeze" | "crash")
    }

    /// Whether it stays in force until somebody undoes it through the API server. What a node helper does ends with the
    /// helper's time to live, and pods that were killed are brought back by their owners.
    pub fn undone_through_api(&self) -> bool {
        !self.helper && (self.breaks != Breaks::Pods || self.kind == "custom")
    }
}

const POD: &[&str] = &["Pod"];
const NODE: &[&str] = &["Node"];
const CLAIM: &[&str] = &["PersistentVolumeClaim"];
/// What a volume is reached through.
const ON_VOLUMES: &[&str] = &["Pod", "PersistentVolumeClaim"];
const WORKLOAD: &[&str] = &["Deployment", "StatefulSet"];

/// A fault's line of the table; none when not exactly one kind is set.
pub fn fault(spec: &FaultSpec) -> Option<FaultView<'_>> {
    let kind = spec.kind_name()?;
    let FaultSpec {
        pod_kill,
        crash,
        freeze,
        signal,
        scale,
        cut_backup_job,
        drain_node,
        cordon_node,
        detach_service,
        hide_secret,
        lose_volume,
        bad_image,
        fill_disk,
        corrupt_file,
        delete_files,
        partition,
        lose_node,
        lose_zone,
        fill_node_disk,
        sql,
        custom,
        manifest,
        undo: _,
        duration: _,
        placement: _,
    } = spec;
    let t = |target, breaks, accepts, helper, built| Some(FaultView { kind, target: Some(target), breaks, accepts, helper, built });
    if let Some(f) = pod_kill {
        return t(f.target.as_str(), Breaks::Pods, POD, false, true);
    }
    if let Some(f) = crash {
        return t(&f.target, Breaks::Pods, POD, true, true);
    }
    if let Some(f) = freeze {
        return t(&f.target, Breaks::Pods, POD, true, true);
    }
    if let Some(f) = scale {
        return t(&f.target, Breaks::Objects, WORKLOAD, false, true);
    }
    if let Some(f) = cut_backup_job {
        return t(&f.target, Breaks::Objects, &["CronJob"], false, true);
    }
    if let Some(f) = signal {
        return t(&f.target, Breaks::Pods, POD, true, true);
    }
    if let Some(f) = drain_node.as_ref().or(cordon_node.as_ref()) {
        return t(&f.target, Breaks::Nodes, NODE, false, true);
    }
    if let Some(f) = lose_node.as_ref().or(lose_zone.as_ref()) {
        return t(&f.target, Breaks::Nodes, NODE, true, true);
    }
    if let Some(f) = detach_service {
        return t(&f.target, Breaks::Objects, &["Service"], false, true);
    }
    if let Some(f) = hide_secret {
        return t(&f.target, Breaks::Objects, &["Secret"], false, true);
    }
    if let Some(f) = bad_image {
        return t(&f.target, Breaks::Objects, WORKLOAD, false, true);
    }
    if let Some(f) = lose_volume {
        return t(&f.target, Breaks::Volumes, CLAIM, false, true);
    }
    if let Some(f) = fill_disk {
        return t(&f.target, Breaks::Volumes, ON_VOLUMES, true, true);
    }
    if let Some(f) = fill_node_disk {
        return t(&f.target, Breaks::Nodes, NODE, true, true);
    }
    if let Some(f) = corrupt_file {
        return t(&f.target, Breaks::Volumes, ON_VOLUMES, true, true);
    }
    if let Some(f) = delete_files {
        return t(&f.target, Breaks::Volumes, ON_VOLUMES, true, true);
    }
    if let Some(f) = partition {
        return t(&f.target, Breaks::Pods, POD, true, true);
    }
    if let Some(target) = custom.as_ref().and_then(|f| f.target.as_ref()) {
        return t(target, Breaks::Pods, POD, false, true);
    }
    (sql.is_some() || manifest.is_some() || custom.is_some()).then_some(FaultView {
        kind,
        target: None,
        breaks: Breaks::Objects,
        accepts: &[],
        helper: false,
        built: true,
    })
}

/// Why every process of a container cannot be hit from within a pod.
pub const NOT_SHARED: &str = "from within the pod it needs `shareProcessNamespace: true`: the kernel drops SIGSTOP and SIGKILL to the first process of a \
                              namespace from inside it, and whoever is in that namespace ends with it";

/// Where a fault's helpers are: as it says, else on nodes, else in pods where the environment has no node helpers and the fault can be
/// made there.
pub fn placement(spec: &FaultSpec, own: &OwnPlace) -> Placement {
    let forced = !own.node_helpers && fault(spec).is_some_and(|view| view.works_inside());
    spec.placement.unwrap_or(if forced { Placement::Pod } else { Placement::Node })
}

/// Whether a fault is made by an agent within its target's pods.
pub fn is_inside(spec: &FaultSpec, own: &OwnPlace) -> bool {
    fault(spec).is_some_and(|view| view.helper) && placement(spec, own) == Placement::Pod
}

/// The database whose rows a fault changes.
pub fn fault_database(spec: &FaultSpec) -> Option<&Postgres> {
    spec.sql.as_ref().map(|sql| &sql.postgres)
}

/// What a probe reads, writes and needs.
#[derive(Debug, Clone, Default)]
pub struct ProbeView<'a> {
    /// Services it talks to.
    pub services: Vec<&'a ServiceRef>,
    /// Secrets it reads.
    pub secrets: Vec<&'a ObjectName>,
    /// Targets of pods it looks at or runs a command in.
    pub targets: Vec<&'a str>,
    /// Targets of pods it runs a command in.
    pub execs: Vec<&'a str>,
    /// A host name it connects to.
    pub host: Option<String>,
    /// Whether it writes into what it watches.
    pub writes: bool,
    /// Whether this build can sample it; otherwise what is missing.
    pub missing: Option<String>,
}

impl<'a> ProbeView<'a> {
    fn postgres(&mut self, postgres: &'a Postgres) {
        self.services.extend(&postgres.service);
        self.targets.extend(postgres.target.as_deref());
        self.secrets.push(&postgres.secret);
    }
}

/// A probe's line of the table.
pub fn probe(spec: &Probe) -> ProbeView<'_> {
    let Probe {
        http,
        tcp,
        dns,
        sql,
        pods,
        object: _,
        metric: _,
        alert: _,
        backup,
        ledger,
        status_page,
        command,
        every: _,
        timeout: _,
        connection: _,
        from: _,
    } = spec;
    let mut view = ProbeView::default();
    let not_built = |kind: &str| Some(format!("the probe kind `{kind}`"));
    if let Some(http) = http {
        view.host = url_host(&http.url);
    }
    if let Some(tcp) = tcp {
        view.host = tcp.address.rsplit_once(':').map(|(host, _)| host.to_owned());
    }
    if dns.is_some() {
        view.missing = not_built("dns");
    }
    if let Some(sql) = sql {
        view.postgres(&sql.postgres);
        view.writes = sql.writes;
    }
    if let Some(pods) = pods {
        view.targets.push(&pods.target);
    }
    if let Some(backup) = backup {
        let target = backup.pgbackrest.as_ref().map(|b| b.target.as_str()).or(backup.command.as_ref().map(|c| c.target.as_str()));
        view.targets.extend(target);
        view.execs.extend(target);
    }
    if let Some(LedgerProbe { postgres, replicas, redis, http, mail }) = ledger {
        view.writes = true;
        if let Some(postgres) = postgres {
            view.postgres(postgres);
        }
        view.targets.extend(replicas.as_deref());
        if let Some(redis) = redis {
            view.services.push(&redis.service);
            view.secrets.extend(&redis.secret);
            view.missing = not_built("ledger: {redis: …}");
        }
        if let Some(http) = http {
            view.host = url_host(&http.write);
            view.missing = not_built("ledger: {http: …}");
        }
        if let Some(mail) = mail {
            view.services.extend([&mail.smtp, &mail.imap]);
            view.secrets.push(&mail.secret);
            view.missing = not_built("ledger: {mail: …}");
        }
    }
    if let Some(page) = status_page {
        view.host = url_host(&page.url);
        view.missing = not_built("statusPage");
    }
    if let Some(command) = command {
        view.targets.push(&command.target);
        view.execs.push(&command.target);
        view.missing = not_built("command");
    }
    view
}

/// The host of an `http://` or `https://` address.
pub fn url_host(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = if host.starts_with('[') { host } else { host.split(':').next()? };
    (!host.is_empty()).then(|| host.to_owned())
}

/// The Service that a host name can only or possibly mean: `checkout.shop`, `checkout.shop.svc`, `checkout.shop.svc.cluster.local`.
/// The flag says that it can mean nothing else.
pub fn service_of_host(host: &str) -> Option<(&str, &str, bool)> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut labels = host.split('.');
    let (name, namespace) = (labels.next()?, labels.next()?);
    let is_label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !is_label(name) || !is_label(namespace) || namespace.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    match labels.next() {
        None => Some((name, namespace, false)),
        Some("svc") => Some((name, namespace, true)),
        Some(_) => None,
    }
}

/// The databases that an objective reads by itself.
pub fn objective_databases(objective: &Objective) -> Vec<&Postgres> {
    objective.restore.iter().flat_map(|r| [&r.source.postgres, &r.restored.postgres]).collect()
}

/// The Service of an endpoint of the environment.
pub fn endpoints(place: &crate::scenario::types::EnvironmentSpec) -> impl Iterator<Item = &Endpoint> {
    place.prometheus.iter().chain(&place.alertmanager).chain(&place.receiver)
}

/// Whether the environment's monitoring is needed.
pub fn needs_monitoring<'a>(probes: impl IntoIterator<Item = &'a Probe>) -> bool {
    probes.into_iter().any(|p| p.metric.is_some() || p.alert.is_some())
}

/// All steps, depth first, those of a `parallel` in place of it.
pub fn leaves(steps: &[Step]) -> Vec<&Step> {
    let mut out = Vec::new();
    for step in steps {
        match &step.parallel {
            Some(children) => out.extend(leaves(children)),
            None => out.push(step),
        }
    }
    out
}

/// Everything in a scenario that this build cannot run yet, one line each. `plan` and `run` refuse it by these.
pub fn not_built(scenario: &Scenario) -> Vec<String> {
    let mut missing = Vec::new();
    for (i, step) in leaves(&scenario.spec.steps).into_iter().enumerate() {
        let name = step.name.clone().unwrap_or_else(|| format!("number {}", i + 1));
        if let Some(view) = step.inject.as_ref().and_then(fault)
            && !view.built
        {
            missing.push(format!("step `{name}`: the fault kind `{}` is not built yet", view.kind));
        }
    }
    for (name, spec) in &scenario.spec.probes {
        if let Some(what) = probe(spec).missing {
            missing.push(format!("probe `{name}`: {what} is not built yet"));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_can_mean_a_service() {
        for (host, wanted) in [
            ("checkout.shop", Some(("checkout", "shop", false))),
            ("checkout.shop.svc", Some(("checkout", "shop", true))),
            ("checkout.shop.svc.cluster.local.", Some(("checkout", "shop", true))),
            ("example.com", Some(("example", "com", false))),
            ("www.example.com", None),
            ("localhost", None),
            ("10.0.0.1", None),
            ("10.0", None),
        ] {
            assert_eq!(service_of_host(host), wanted, "{host}");
        }
    }

    #[test]
    fn hosts_of_addresses() {
        for (url, host) in [
            ("http://checkout.shop/healthz", Some("checkout.shop")),
            ("https://a:b@checkout.shop:8443?x", Some("checkout.shop")),
            ("http://[::1]:80/", Some("[::1]:80")),
            ("ftp://x", None),
            ("http:///x", None),
        ] {
            assert_eq!(url_host(url).as_deref(), host, "{url}");
        }
    }

    #[test]
    fn every_fault_kind_has_its_line() {
        for kind in FaultSpec::KINDS {
            let text = match *kind {
                "sql" => r#"{"postgres":{"service":"a/b","database":"d","secret":"a/s"},"statement":"x","maxRows":1}"#.to_owned(),
                "signal" => r#"{"target":"t","signal":"SIGTERM","process":"p"}"#.to_owned(),
                "scale" => r#"{"target":"t","replicas":0}"#.to_owned(),
                "corruptFile" | "deleteFiles" => r#"{"target":"t","path":"/x"}"#.to_owned(),
                "custom" => r#"{"target":"t","inject":[],"effective":[],"revert":[],"gone":[]}"#.to_owned(),
                "manifest" => r#"{"file":"x","effective":"true"}"#.to_owned(),
                _ => r#"{"target":"t"}"#.to_owned(),
            };
            let spec: FaultSpec = serde_json::from_str(&format!("{{\"{kind}\":{text}}}")).unwrap();
            let view = fault(&spec).unwrap_or_else(|| panic!("{kind} has no line"));
            assert_eq!(view.kind, *kind);
            assert_eq!(view.target.is_none(), matches!(*kind, "sql" | "manifest"), "{kind}");
            let built = [
                "podKill",
                "crash",
                "freeze",
                "scale",
                "cutBackupJob",
                "cordonNode",
                "drainNode",
                "detachService",
                "badImage",
                "hideSecret",
                "loseVolume",
                "manifest",
                "signal",
                "fillDisk",
                "corruptFile",
                "deleteFiles",
                "partition",
                "custom",
                "sql",
                "loseNode",
                "loseZone",
                "fillNodeDisk",
            ];
            assert_eq!(view.built, built.contains(kind), "{kind}");
            assert_eq!(view.helper, placements(kind).contains(&Placement::Node), "{kind}");
        }
    }
}
