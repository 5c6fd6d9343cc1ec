//! Scenario + environment + snapshot → plan, or every reason why not. Pure.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

use super::{
    claims, drain, expected,
    guard::{self, FaultOn, Findings, Touched, called},
    kinds, manifest, rbac, resolve,
    seen::{NamedKind, Snapshot},
    types::*,
};
use crate::scenario::types::{
    CutHow, Dur, Endpoint, Environment, FaultSpec, Objective, OneOf as _, Postgres, Probe, Scenario, SqlFault, Step, UndoPolicy, Vantage,
};

/// All that a plan is made of.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The scenario, its parameters substituted.
    pub scenario: &'a Scenario,
    /// SHA-256 (hex) of its text.
    pub scenario_sha256: &'a str,
    /// The values of its parameters.
    pub parameters: &'a IndexMap<String, String>,
    /// Where it runs.
    pub environment: &'a Environment,
    /// The cluster as it was seen.
    pub snapshot: &'a Snapshot,
    /// What everything random comes from.
    pub seed: u64,
    /// The texts of runbooks and manifests, by the name the scenario gives their files.
    pub runbooks: &'a BTreeMap<String, String>,
}

/// Why a scenario cannot be run here, all reasons at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused:{}", reasons.iter().map(|r| format!("\n  - {r}")).collect::<String>())]
pub struct Refused {
    /// The reasons, each a sentence that names the thing and the way out.
    pub reasons: Vec<String>,
}

/// Makes a plan.
///
/// # Errors
/// All reasons why this scenario may not run in this environment on this cluster now.
pub fn make(inputs: &Inputs<'_>) -> Result<Plan, Refused> {
    let mut maker = Maker {
        inputs,
        spec: &inputs.scenario.spec,
        found: Findings::default(),
        touched: Touched::default(),
        scope: Scope::default(),
        faults: 0,
    };
    maker.found.refusals = kinds::not_built(inputs.scenario);
    maker.cluster();
    let targets = maker.targets();
    let probes = maker.probes();
    let steps = maker.steps(&inputs.scenario.spec.steps, "", &targets);
    maker.writers(&targets);
    let objectives = objectives(&inputs.scenario.spec.objectives);
    maker.readers(&targets);
    maker.repeated(&steps, &targets);
    let Maker { mut found, mut scope, touched, faults, .. } = maker;
    scope.blast = touched.blast();
    scope.namespaces = sorted(scope.namespaces);
    scope.nodes = sorted(scope.nodes);
    // Two tools at once spoil a drill without a fault as well, but nothing is broken by that.
    let others = inputs.snapshot.others.findings(&scope, None);
    found.warnings.extend(others.warnings);
    if faults > 0 { &mut found.refusals } else { &mut found.warnings }.extend(others.refusals);
    found.refusals = once(found.refusals);
    if !found.refusals.is_empty() {
        return Err(Refused { reasons: found.refusals });
    }
    let spec = &inputs.scenario.spec;
    let mut leases: Vec<String> = scope.namespaces.iter().map(|n| lease("ns-", n)).collect();
    leases.extend(scope.nodes.iter().map(|n| lease("node-", n)));
    leases.sort();
    found.warnings.extend(inputs.snapshot.unreadable.iter().cloned());
    let mut plan = Plan {
        version: PLAN_VERSION,
        name: inputs.scenario.metadata.name.clone(),
        summary: spec.summary.clone(),
        scenario_sha256: inputs.scenario_sha256.to_owned(),
        parameters: inputs.parameters.clone(),
        environment: inputs.environment.metadata.name.clone(),
        place: inputs.environment.spec.clone(),
        cluster_uid: inputs.snapshot.cluster_uid.clone(),
        cluster_name: inputs.snapshot.cluster_name.clone(),
        seed: inputs.seed,
        limits: spec.limits.clone(),
        targets,
        probes,
        steady_state: spec.steady_state.clone(),
        steps,
        objectives,
        abort_if: spec.abort_if.clone(),
        leases,
        scope,
        warnings: Vec::new(),
        rbac: Vec::new(),
        watchdog: None,
        expected: (Dur::ZERO, Dur::ZERO),
    };
    let (expected, more) = expected::expected(&plan);
    plan.expected = expected;
    found.warnings.extend(more);
    found.warnings.extend(unguarded(&plan));
    plan.warnings = once(found.warnings);
    plan.rbac = rbac::needed(&plan, inputs.snapshot);
    if let Some(watchdog) = plan.guarded_by() {
        let service_account = watchdog.service_account.clone();
        plan.watchdog = Some(PlannedWatchdog { service_account, rbac: rbac::of_watchdog(&plan) });
    }
    Ok(plan)
}

/// What nobody would undo if the runner were lost, because the environment has no watchdog.
fn unguarded(plan: &Plan) -> Option<String> {
    if plan.place.firedrill.guard().is_some() {
        return None;
    }
    let steps = plan.leaf_steps().into_iter().filter_map(|step| {
        let fault = step.spec.inject.as_ref()?;
        let view = kinds::fault(fault).filter(kinds::FaultView::undone_through_api)?;
        // A killed Job has nothing to undo: its CronJob starts the next one.
        if fault.cut_backup_job.as_ref().is_some_and(|cut| cut.how == CutHow::KillRunning) {
            return None;
        }
        (step.undo != Some(UndoPolicy::None)).then(|| format!("`{}` of step `{}`", view.kind, step.title))
    });
    let steps: Vec<String> = steps.collect();
    (!steps.is_empty()).then(|| {
        format!(
            "no watchdog: if the runner's machine is lost, {} stay until `firedrill revert`: the environment has \
             `firedrill: {{watchdog: {{enabled: false}}}}`",
            steps.join(", ")
        )
    })
}

/// The name of a Lease; names of namespaces and nodes are shorter than names of objects may be, but for the longest nodes'.
fn lease(prefix: &str, name: &str) -> String {
    let mut lease = format!("{prefix}{name}");
    lease.truncate(253);
    lease
}

fn sorted(names: Vec<String>) -> Vec<String> {
    names.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The first of each, in order.
fn once(lines: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    lines.into_iter().filter(|line| seen.insert(line.clone())).collect()
}

struct Maker<'a> {
    inputs: &'a Inputs<'a>,
    spec: &'a crate::scenario::types::ScenarioSpec,
    found: Findings,
    touched: Touched,
    scope: Scope,
    faults: u32,
}

impl Maker<'_> {
    fn refuse(&mut self, why: impl Into<String>) {
        self.found.refusals.push(why.into());
    }

    fn warn(&mut self, what: impl Into<String>) {
        self.found.warnings.push(what.into());
    }

    fn cluster(&mut self) {
        let snapshot = self.inputs.snapshot;
        let Some((name, cluster)) = self.inputs.environment.spec.clusters.first() else {
            return self.refuse("the environment names no cluster: add `clusters: {main: {uid: …}}`");
        };
        if cluster.uid != snapshot.cluster_uid || cluster.uid.is_empty() {
            let (context, found, wanted) = (&snapshot.cluster_name, &snapshot.cluster_uid, &cluster.uid);
            self.refuse(format!(
                "context {context} is the cluster with uid {found}, but the environment's cluster `{name}` has uid {wanted}: choose the right \
                 context, or correct `clusters.{name}.uid`"
            ));
        }
        for (target, spec) in &self.spec.targets {
            if let Some(other) = spec.cluster.as_ref().filter(|c| *c != name) {
                self.found
                    .refusals
                    .push(format!("target `{target}`: drills over more than one cluster (`{other}` beside `{name}`) are not built yet"));
            }
        }
    }

    fn targets(&mut self) -> BTreeMap<String, ResolvedTarget> {
        let mut targets = BTreeMap::new();
        for (name, spec) in &self.spec.targets {
            match resolve::resolve(name, spec, self.inputs.snapshot, self.inputs.seed) {
                Ok(target) => {
                    guard::counts(name, &target, &mut self.found);
                    targets.insert(name.clone(), target);
                }
                Err(why) => self.refuse(why),
            }
        }
        targets
    }

    fn probes(&mut self) -> IndexMap<String, PlannedProbe> {
        self.spec.probes.iter().map(|(name, spec)| (name.clone(), self.probe(name, spec))).collect()
    }

    fn probe(&mut self, name: &str, spec: &Probe) -> PlannedProbe {
        let snapshot = self.inputs.snapshot;
        let view = kinds::probe(spec);
        for service in &view.services {
            if snapshot.object(NamedKind::Service, &service.namespace, &service.name).is_none() {
                self.warn(format!("probe `{name}`: Service {}/{} does not exist (yet)", service.namespace, service.name));
            }
        }
        for secret in &view.secrets {
            if snapshot.object(NamedKind::Secret, &secret.namespace, &secret.name).is_none() {
                self.refuse(format!("probe `{name}`: Secret {}/{} does not exist", secret.namespace, secret.name));
            }
        }
        if let Some(object) = &spec.object {
            match snapshot.kinds.get(&(object.api_version.clone(), object.kind.clone())) {
                None => self.refuse(format!("probe `{name}`: this cluster has no kind {} {}", object.api_version, object.kind)),
                Some(kind) if kind.namespaced && object.namespace.is_none() => {
                    self.refuse(format!("probe `{name}`: {} {} needs a `namespace`", object.kind, object.name));
                }
                Some(kind) if !kind.namespaced && object.namespace.is_some() => {
                    self.refuse(format!("probe `{name}`: {} {} has no namespace: leave it out", object.kind, object.name));
                }
                Some(_) => {}
            }
        }
        let place = &self.inputs.environment.spec;
        let needs: &[(&str, &Option<Endpoint>)] = match spec.kind_name() {
            Some("metric") => &[("prometheus", &place.prometheus)],
            Some("alert") => &[("alertmanager", &place.alertmanager), ("receiver", &place.receiver)],
            _ => &[],
        };
        for (what, endpoint) in needs {
            if endpoint.is_none() {
                self.refuse(format!("probe `{name}` needs `{what}` in the environment"));
            }
        }
        let from = spec.from.unwrap_or_else(|| self.vantage(name, spec, &view));
        let (every, timeout) = spec.cadence();
        PlannedProbe { spec: spec.clone(), every, timeout, from }
    }

    /// Where a probe is sampled from when the scenario does not say.
    fn vantage(&mut self, name: &str, spec: &Probe, view: &kinds::ProbeView<'_>) -> Vantage {
        let place = &self.inputs.environment.spec;
        let of_service = |yes: bool| if yes { Vantage::Cluster } else { Vantage::Runner };
        if spec.sql.is_some() || spec.ledger.as_ref().is_some_and(|l| l.postgres.is_some() || l.redis.is_some() || l.mail.is_some()) {
            return Vantage::Cluster;
        }
        if spec.metric.is_some() {
            return of_service(place.prometheus.as_ref().is_some_and(|e| e.service.is_some()));
        }
        if spec.alert.is_some() {
            return of_service([&place.alertmanager, &place.receiver].into_iter().flatten().any(|e| e.service.is_some()));
        }
        let Some((service, namespace, certain)) = view.host.as_deref().and_then(kinds::service_of_host) else { return Vantage::Runner };
        let exists = self.inputs.snapshot.object(NamedKind::Service, namespace, service).is_some();
        if certain && !exists {
            self.warn(format!("probe `{name}`: Service {namespace}/{service} does not exist (yet)"));
        }
        of_service(exists || certain)
    }

    fn steps(&mut self, steps: &[Step], prefix: &str, targets: &BTreeMap<String, ResolvedTarget>) -> Vec<PlannedStep> {
        let mut planned = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            let path = format!("{prefix}{}", i + 1);
            let title = step.title(&path);
            if step.set_fields().len() != 1 {
                self.refuse(format!("step `{title}` must have exactly one kind"));
            }
            let children = step.parallel.as_ref().map(|children| self.steps(children, &format!("{path}."), targets)).unwrap_or_default();
            let mut out = PlannedStep {
                spec: Step { parallel: step.parallel.as_ref().map(|_| Vec::new()), ..step.clone() },
                fault: None,
                undo: None,
                evicts: Vec::new(),
                volume: None,
                manifest: None,
                touches: Vec::new(),
                runbook_text: None,
                path,
                title,
                children,
            };
            if let Some(fault) = &step.inject {
                out.fault = Some(self.faults);
                self.faults += 1;
                self.fault(fault, &mut out, targets);
            }
            if let Some(runbook) = &step.runbook {
                self.runbook(runbook, &mut out, targets);
            }
            planned.push(out);
        }
        planned
    }

    fn fault(&mut self, spec: &FaultSpec, step: &mut PlannedStep, targets: &BTreeMap<String, ResolvedTarget>) {
        let undo = spec.undo.unwrap_or_default();
        step.undo = Some(undo);
        let Some(view) = kinds::fault(spec) else {
            return self.refuse(format!("step `{}`: its fault must have exactly one kind", step.title));
        };
        match undo {
            UndoPolicy::None if view.helper => {
                let what = "by no revert; its helper undoes what it holds when the drill ends";
                self.warn(format!("step `{}`: `{}` is undone {what}", step.title, view.kind));
            }
            UndoPolicy::None => self.warn(format!("step `{}`: `{}` is never undone: irreversible", step.title, view.kind)),
            UndoPolicy::Runbook => self.warn(format!("step `{}`: `{}` is undone only by the runbook", step.title, view.kind)),
            UndoPolicy::Auto | UndoPolicy::OnAbort => {}
        }
        if spec.object_file().is_some() {
            self.manifest(spec, step);
        }
        if let Some(sql) = &spec.sql {
            self.sql(sql, step, targets);
        }
        let Some(name) = view.target else { return };
        let Some(target) = targets.get(name) else {
            // A target that could not be resolved has been refused with its reason; one that is not there at all has not.
            if !self.spec.targets.contains_key(name) {
                self.refuse(format!("step `{}`: there is no target `{name}`", step.title));
            }
            return;
        };
        let on = FaultOn { step: &step.title, spec, target_name: name, target };
        let found = guard::check(&self.inputs.environment.spec, &self.spec.limits, on, self.inputs.snapshot, &mut self.touched);
        self.found.refusals.extend(found.refusals);
        self.found.warnings.extend(found.warnings);
        step.evicts = drain::evicted(spec, target, self.inputs.snapshot);
        if let Some(lose) = &spec.lose_volume {
            step.volume = claims::volume(target, self.inputs.snapshot);
            step.touches.extend(step.volume.iter().map(|volume| crate::cluster::named("PersistentVolume", "", volume)));
            if !lose.set_aside {
                self.warn(format!(
                    "step `{}`: `{}` sets nothing aside, what is on the volume is lost: irreversible",
                    step.title, view.kind
                ));
            }
        }
        for object in target.chosen().chain(&step.evicts) {
            step.touches.push(called(object));
            if object.kind == "Node" {
                self.scope.nodes.push(object.name.clone());
            } else {
                self.scope.namespaces.push(object.namespace.clone());
            }
        }
    }

    /// A fault that makes an object, or runs one.
    fn manifest(&mut self, fault: &FaultSpec, step: &mut PlannedStep) {
        let who = format!("step `{}`", step.title);
        let Some(file) = fault.object_file().map(|object| object.file) else { return };
        let Some(text) = self.inputs.runbooks.get(file) else {
            return self.refuse(format!("{who}: the manifest {file} was not read"));
        };
        let snapshot = self.inputs.snapshot;
        if let Some(secret) = fault.manifest.as_ref().and_then(|manifest| manifest.secret.as_ref())
            && snapshot.object(NamedKind::Secret, &secret.namespace, &secret.name).is_none()
        {
            self.refuse(format!("{who}: Secret {}/{}, which it needs, does not exist", secret.namespace, secret.name));
        }
        match manifest::read(text, fault).and_then(|object| manifest::plan(file, object, snapshot)) {
            Ok(object) => {
                let (place, limits) = (&self.inputs.environment.spec, &self.spec.limits);
                let found = manifest::check(place, limits, &step.title, &object, snapshot, &mut self.touched);
                self.found.refusals.extend(found.refusals);
                self.scope.namespaces.push(object.namespace.clone());
                let name = crate::cluster::named(&object.kind, &object.namespace, &object.name);
                step.touches.push(if fault.custom.is_some() { format!("{name}-…") } else { name });
                step.manifest = Some(object);
            }
            Err(why) => self.refuse(format!("{who}: {why}")),
        }
    }

    /// A fault on rows: the database must be there, where drills are allowed.
    fn sql(&mut self, sql: &SqlFault, step: &mut PlannedStep, targets: &BTreeMap<String, ResolvedTarget>) {
        let who = format!("step `{}`", step.title);
        let Postgres { service, target, runbook: _, database, secret } = &sql.postgres;
        let snapshot = self.inputs.snapshot;
        if snapshot.object(NamedKind::Secret, &secret.namespace, &secret.name).is_none() {
            self.refuse(format!("{who}: Secret {secret} does not exist"));
        }
        for (key, text) in [("statement", Some(&sql.statement)), ("revert", sql.revert.as_ref())] {
            if let Some(why) = text.and_then(|text| crate::scenario::statement::refusal(text)) {
                self.refuse(format!("{who}: `{key}`: {why}"));
            }
        }
        if let Some(service) = service {
            if snapshot.object(NamedKind::Service, &service.namespace, &service.name).is_none() {
                self.refuse(format!("{who}: Service {}/{} does not exist", service.namespace, service.name));
            }
            step.touches.push(format!("Database {database} of Service {service}"));
        }
        if let Some(name) = target {
            match targets.get(name) {
                Some(found) if found.matched == 0 => {
                    self.refuse(format!("{who}: target `{name}` ({}) matches nothing", guard::describe(found)));
                }
                None if !self.spec.targets.contains_key(name) => self.refuse(format!("{who}: there is no target `{name}`")),
                _ => {}
            }
            step.touches.push(format!("Database {database} of target `{name}`"));
        }
        match database_namespace(&sql.postgres, targets) {
            Some(namespace) => self.writes_in(&who, &namespace),
            None => self.refuse(format!("{who}: its database needs a `service` or a `target` of pods")),
        }
    }

    fn runbook(&mut self, runbook: &crate::scenario::types::Runbook, step: &mut PlannedStep, targets: &BTreeMap<String, ResolvedTarget>) {
        let who = format!("step `{}`", step.title);
        if let Some(file) = &runbook.file {
            match self.inputs.runbooks.get(file) {
                Some(text) => step.runbook_text = Some(text.clone()),
                None => self.refuse(format!("{who}: the runbook {file} was not read")),
            }
        }
        let mut namespaces = BTreeSet::new();
        if let Some(run_in) = &runbook.run_in {
            namespaces.extend(run_in.job.as_ref().map(|job| job.namespace.clone()));
            if let Some(name) = &run_in.target {
                match targets.get(name) {
                    Some(target) => namespaces.extend(target.spec.namespace.clone()),
                    None if !self.spec.targets.contains_key(name) => self.refuse(format!("{who}: there is no target `{name}`")),
                    None => {}
                }
            }
        }
        if let Some(job) = &runbook.cron_job {
            match job.split_once('/') {
                Some((namespace, name)) => {
                    let exists = |kind| self.inputs.snapshot.object(kind, namespace, name).is_some();
                    if !exists(NamedKind::CronJob) && !exists(NamedKind::Job) {
                        self.refuse(format!("{who}: there is no CronJob or Job {job}"));
                    }
                    namespaces.insert(namespace.to_owned());
                }
                None => self.refuse(format!("{who}: `cronJob: {job}` is not `namespace/name`")),
            }
        }
        for namespace in namespaces {
            self.writes_in(&who, &namespace);
            step.touches.push(format!("Namespace {namespace}"));
        }
    }

    /// Probes that write, where they write.
    fn writers(&mut self, targets: &BTreeMap<String, ResolvedTarget>) {
        for (name, spec) in &self.spec.probes {
            let view = kinds::probe(spec);
            if !view.writes {
                continue;
            }
            let mut namespaces: BTreeSet<String> = view.services.iter().map(|s| s.namespace.clone()).collect();
            namespaces.extend(view.targets.iter().filter_map(|t| targets.get(*t)).filter_map(|t| t.spec.namespace.clone()));
            for namespace in namespaces {
                self.writes_in(&format!("probe `{name}` writes there"), &namespace);
            }
        }
    }

    fn writes_in(&mut self, who: &str, namespace: &str) {
        let refusal = guard::namespace_refusal(who, namespace, &self.inputs.environment.spec, self.inputs.snapshot);
        self.found.refusals.extend(refusal);
        self.scope.namespaces.push(namespace.to_owned());
    }

    /// Targets that are only looked at: that they match nothing now is said, for they may come into being in the drill.
    fn readers(&mut self, targets: &BTreeMap<String, ResolvedTarget>) {
        let looked_at = self.spec.probes.iter().flat_map(|(name, p)| kinds::probe(p).targets.into_iter().map(move |t| (name, t)));
        for (probe, name) in looked_at {
            match targets.get(name) {
                Some(target) if target.matched == 0 && target.spec.expect != Some(0) => {
                    self.found
                        .warnings
                        .push(format!("probe `{probe}`: target `{name}` ({}) matches nothing (yet)", guard::describe(target)));
                }
                Some(_) => {}
                None if self.spec.targets.contains_key(name) => {}
                None => self.found.refusals.push(format!("probe `{probe}`: there is no target `{name}`")),
            }
        }
    }

    /// Faults that meet the same objects now may meet others later: said before, because the limit will refuse them then.
    fn repeated(&mut self, steps: &[PlannedStep], targets: &BTreeMap<String, ResolvedTarget>) {
        let mut pods = Vec::new();
        collect(steps, &mut |step| {
            if let Some(view) = step.spec.inject.as_ref().and_then(kinds::fault)
                && view.breaks == kinds::Breaks::Pods
                && let Some(target) = view.target.and_then(|t| targets.get(t))
            {
                pods.push((step.title.clone(), target.chosen().count()));
            }
        });
        let sum: usize = pods.iter().map(|(_, n)| n).sum();
        if sum > self.spec.limits.pods as usize && self.touched.blast().pods <= self.spec.limits.pods {
            let steps = pods.iter().map(|(title, _)| format!("`{title}`")).collect::<Vec<_>>().join(", ");
            self.warn(format!(
                "steps {steps} meet the same pods now; if other pods match by then, `limits.pods: {}` refuses them (they would need {sum})",
                self.spec.limits.pods
            ));
        }
    }
}

/// Where a database is that a fault changes.
pub(super) fn database_namespace(at: &Postgres, targets: &BTreeMap<String, ResolvedTarget>) -> Option<String> {
    let of_target = || targets.get(at.target.as_ref()?)?.spec.namespace.clone();
    at.service.as_ref().map(|service| service.namespace.clone()).or_else(of_target)
}

fn collect(steps: &[PlannedStep], f: &mut impl FnMut(&PlannedStep)) {
    for step in steps {
        f(step);
        collect(&step.children, f);
    }
}

/// Names of objectives: the scenario's, or kind and subject; a name that is there already gets a number behind it.
fn objectives(objectives: &[Objective]) -> Vec<PlannedObjective> {
    let mut taken: BTreeSet<String> = objectives.iter().filter_map(|o| o.name.clone()).collect();
    let mut planned = Vec::new();
    let mut given = BTreeSet::new();
    for objective in objectives {
        let name = match &objective.name {
            Some(name) if given.insert(name.clone()) => name.clone(),
            other => {
                let base = other.clone().unwrap_or_else(|| default_name(objective));
                let mut name = base.clone();
                let mut n = 2;
                while !taken.insert(name.clone()) {
                    name = format!("{base} ({n})");
                    n += 1;
                }
                name
            }
        };
        planned.push(PlannedObjective { name, spec: objective.clone() });
    }
    planned
}

fn default_name(objective: &Objective) -> String {
    let Objective {
        recovery_time,
        detection_time,
        data_loss,
        availability,
        runbook,
        backup,
        restore,
        order,
        step_time,
        never,
        check,
        name: _,
    } = objective;
    let subject = recovery_time
        .as_ref()
        .map(|o| o.probe.clone())
        .or_else(|| detection_time.as_ref().map(|o| o.alert.clone()))
        .or_else(|| data_loss.as_ref().map(|o| o.ledger.clone()))
        .or_else(|| availability.as_ref().map(|o| o.probe.clone()))
        .or_else(|| runbook.as_ref().map(|o| o.step.clone()))
        .or_else(|| backup.as_ref().map(|o| o.probe.clone()))
        .or_else(|| restore.as_ref().map(|o| o.restored.postgres.database.clone()))
        .or_else(|| order.as_ref().map(|o| o.probes.join(" → ")))
        .or_else(|| step_time.as_ref().map(|o| o.step.clone()))
        .or_else(|| never.as_ref().map(|o| format!("{} {}", o.probe, o.state)))
        .or_else(|| check.as_ref().map(|o| format!("{} {}", o.probe, o.state)));
    let kind = objective.kind_name().unwrap_or("objective");
    subject.map_or_else(|| kind.to_owned(), |subject| format!("{kind} {subject}"))
}
