//! Mutants: worlds made weak in the ways the five incidents were (`docs/sandbox.md`), each with the kind of objective that is meant to
//! notice. A drill that passes all the same cannot fail.

use std::fmt;

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Map, Value, json};

use super::World;
use crate::{
    cluster,
    plan::kinds,
    scenario::types::{OneOf as _, Scenario},
    verdict::{DrillVerdict, Outcome, Verdict},
};

/// The prefix of the annotations that choose and tune models.
const PREFIX: &str = "sandbox.firedrill.dev/";
/// Who makes a world weak while a drill runs: never the runner, whose writes are told as its own.
pub(super) const USER: &str = "admin:mutant";

/// What a drill has to go through for a weakness to matter to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// A member of a database is broken.
    Failover,
    /// Somebody is to be paged.
    Alerts,
    /// Backups are cut, or looked at as an objective.
    Backups,
    /// A backup is restored.
    Restore,
    /// Something is asked that has a degraded mode.
    Degraded,
}

/// How the world is made weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// A knob of a model, as long as the drill lasts.
    Knob { model: &'static str, knob: &'static str, value: &'static str },
    /// A knob that is turned once the steady state has held: from the beginning it would be found there, and the drill would not begin.
    KnobLater { model: &'static str, knob: &'static str, value: &'static str },
    /// The rules of the alerts that the drill waits for are gone.
    RulesGone,
    /// The keys in the Secrets that runbooks' pods mount.
    KeyGone,
    /// Notifications of all but the heartbeat go to a receiver that tells nobody.
    RouteBroken,
}

/// A weakness.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// What is weak.
    pub weakness: &'static str,
    /// The incident it is from; empty: none of the five.
    pub incident: &'static str,
    /// Kinds of objectives that are meant to notice, as in [`crate::verdict::ObjectiveVerdict::kind`].
    pub meant: &'static [&'static str],
    scene: Scene,
    change: Change,
}

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "failover-never",
        weakness: "no replica ever takes over",
        incident: "bluetie",
        meant: &["recoveryTime"],
        scene: Scene::Failover,
        change: Change::Knob { model: "postgres", knob: "failover", value: "never" },
    },
    Mutant {
        name: "failover-loses-writes",
        weakness: "commits do not wait for a replica",
        incident: "tito",
        meant: &["dataLoss"],
        scene: Scene::Failover,
        change: Change::Knob { model: "postgres", knob: "synchronous", value: "off" },
    },
    Mutant {
        name: "alert-rule-gone",
        weakness: "the alert's rule is no longer there",
        incident: "tito",
        meant: &["detectionTime"],
        scene: Scene::Alerts,
        change: Change::RulesGone,
    },
    Mutant {
        name: "alert-route-broken",
        weakness: "the alert fires and reaches nobody",
        incident: "bluetie",
        meant: &["detectionTime"],
        scene: Scene::Alerts,
        change: Change::RouteBroken,
    },
    Mutant {
        name: "alert-late",
        weakness: "alerts arrive ten minutes late",
        incident: "intuiface",
        meant: &["detectionTime"],
        scene: Scene::Alerts,
        change: Change::Knob { model: "prometheus", knob: "delay-alerts", value: "10m" },
    },
    Mutant {
        name: "backup-copies-nothing",
        weakness: "the backup job succeeds with nothing in it",
        incident: "bluetie",
        meant: &["backup", "restore"],
        scene: Scene::Backups,
        change: Change::KnobLater { model: "backup-job", knob: "backup", value: "empty" },
    },
    Mutant {
        name: "backup-stale",
        weakness: "the backup job succeeds and makes no backup",
        incident: "bluetie",
        meant: &["backup"],
        scene: Scene::Backups,
        change: Change::KnobLater { model: "backup-job", knob: "backup", value: "stale" },
    },
    Mutant {
        name: "backup-incomplete",
        weakness: "backups lack a tenth of the rows",
        incident: "bluetie",
        meant: &["restore"],
        scene: Scene::Restore,
        change: Change::Knob { model: "backup-job", knob: "backup", value: "incomplete=10%" },
    },
    Mutant {
        name: "restore-drops-rows",
        weakness: "a restore ends well and rows are missing",
        incident: "bluetie",
        meant: &["restore"],
        scene: Scene::Restore,
        change: Change::Knob { model: "backup-repository", knob: "restore", value: "drops-rows" },
    },
    Mutant {
        name: "restore-overwrites",
        weakness: "a restore goes over newer rows instead of refusing",
        incident: "tito",
        meant: &["runbook"],
        scene: Scene::Restore,
        change: Change::Knob { model: "backup-repository", knob: "restore", value: "overwrites" },
    },
    Mutant {
        name: "restore-key-missing",
        weakness: "the key of the backup is not there",
        incident: "titanfile",
        meant: &["runbook", "restore"],
        scene: Scene::Restore,
        change: Change::KeyGone,
    },
    Mutant {
        name: "restore-slow",
        weakness: "a restore takes half an hour",
        incident: "polarismail",
        meant: &["runbook"],
        scene: Scene::Restore,
        change: Change::Knob { model: "backup-repository", knob: "restore-takes", value: "30m" },
    },
    Mutant {
        name: "degraded-mode-broken",
        weakness: "what should be answered from a cache needs the database",
        incident: "intuiface",
        meant: &["availability"],
        scene: Scene::Degraded,
        change: Change::Knob { model: "web", knob: "degraded", value: "broken" },
    },
];

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The drill failed for objectives that are meant to notice.
    Caught(Vec<String>),
    /// It did not: what it came to instead.
    Survived(String),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught(by) => write!(f, "caught by {}", by.join(", ")),
            Self::Survived(as_what) => write!(f, "SURVIVED ({as_what})"),
        }
    }
}

/// Whether the containers of a template run a model.
fn runs(template: &Value, model: &str, images: &str) -> bool {
    let annotations = template.pointer("/metadata/annotations").and_then(Value::as_object);
    let chosen = |name: &str, value: &Value| (name == "model" || name.starts_with("model.")) && value == model;
    let by_name = annotations.into_iter().flatten().any(|(name, value)| name.strip_prefix(PREFIX).is_some_and(|name| chosen(name, value)));
    by_name || images.split_whitespace().any(|pair| pair.split_once('=').is_some_and(|(_, of)| of == model))
}

/// Where an object has its pods' template.
fn template_of(object: &Value) -> Option<&'static str> {
    Some(match object.get("kind").and_then(Value::as_str)? {
        "Pod" => "",
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => "/spec/template",
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => return None,
    })
}

fn has_model(world: &World, model: &str) -> bool {
    world.objects.iter().any(|(_, object)| {
        let images = object.pointer("/metadata/annotations").and_then(|a| a.get(format!("{PREFIX}images"))).and_then(Value::as_str);
        runs(&Value::Null, model, images.unwrap_or_default())
            || template_of(object).and_then(|at| object.pointer(at)).is_some_and(|template| runs(template, model, ""))
    })
}

impl Mutant {
    /// Whether its weakness matters to a drill of this scenario in this world.
    pub fn concerns(&self, scenario: &Scenario, world: &World) -> bool {
        let steps = kinds::leaves(&scenario.spec.steps);
        let injects = |kinds: &[&str]| {
            steps.iter().any(|s| s.inject.as_ref().is_some_and(|fault| fault.kind_name().is_some_and(|kind| kinds.contains(&kind))))
        };
        let aims = |kind: &str| scenario.spec.objectives.iter().any(|o| o.kind_name() == Some(kind));
        let here = match self.scene {
            Scene::Failover => injects(&["crash", "freeze", "podKill", "loseNode", "loseZone"]) && has_model(world, "postgres"),
            Scene::Alerts => scenario.spec.probes.values().any(|probe| probe.alert.is_some()),
            Scene::Backups => injects(&["cutBackupJob"]),
            Scene::Restore => aims("restore"),
            Scene::Degraded => {
                scenario.spec.probes.values().any(|probe| probe.http.as_ref().is_some_and(|http| http.url.contains("licence")))
            }
        };
        let there = match self.change {
            Change::Knob { model, .. } | Change::KnobLater { model, .. } => has_model(world, model),
            Change::RulesGone => has_model(world, "prometheus"),
            Change::KeyGone => !secrets(scenario).is_empty(),
            Change::RouteBroken => has_model(world, "alertmanager"),
        };
        here && there
    }

    /// The world with its weakness, as far as that is there from the beginning.
    pub fn weaken(&self, world: &World, scenario: &Scenario) -> World {
        let mut world = world.clone();
        let alerts: Vec<&str> = scenario.spec.probes.values().filter_map(|probe| Some(probe.alert.as_ref()?.name.as_str())).collect();
        let secrets = secrets(scenario);
        for (_, object) in &mut world.objects {
            match self.change {
                Change::Knob { model, knob, value } => turn(object, model, knob, value),
                Change::KnobLater { .. } => {}
                Change::RulesGone => edit_config(object, |config| without_rules(config, &alerts)),
                Change::RouteBroken => edit_config(object, misrouted),
                Change::KeyGone => without_keys(object, &secrets),
            }
        }
        world
    }

    /// Whether something is still to be done once the steady state has held.
    pub(super) const fn comes_later(&self) -> bool {
        matches!(self.change, Change::KnobLater { .. })
    }

    /// Does what comes later, to the templates of what is there.
    ///
    /// # Errors
    /// It could not be done: then nothing is known of this mutant.
    pub(super) async fn weaken_later(&self, client: &Client, world: &World) -> Result<(), String> {
        let Change::KnobLater { model, knob, value } = self.change else { return Ok(()) };
        // A Job's template cannot be changed, and a pod's model has read its knobs: what is made from now on is weak.
        let lasting = |kind: Option<&str>| !matches!(kind, Some("Job" | "Pod"));
        for (_, object) in world.objects.iter().filter(|(_, object)| lasting(object.get("kind").and_then(Value::as_str))) {
            let Some(at) = template_of(object).filter(|at| object.pointer(at).is_some_and(|template| runs(template, model, ""))) else {
                continue;
            };
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", text("/apiVersion")));
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
            let namespace = text("/metadata/namespace");
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), if namespace.is_empty() { "default" } else { namespace }, &resource);
            let name = text("/metadata/name");
            let mut patch = json!({"metadata": {"annotations": {format!("{PREFIX}{knob}"): value}}});
            for part in at.split('/').rev().filter(|part| !part.is_empty()) {
                patch = json!({part: patch});
            }
            let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            patched.map_err(|error| format!("{} {name} could not be made weak: {}", text("/kind"), cluster::why(&error)))?;
        }
        Ok(())
    }

    /// What became of it in a drill.
    pub fn fate(&self, verdict: &Verdict) -> Fate {
        let missed = verdict.objectives.iter().filter(|o| o.outcome == Outcome::Missed);
        let (meant, others): (Vec<_>, Vec<_>) = missed.partition(|o| self.meant.contains(&o.kind.as_str()));
        if verdict.drill == DrillVerdict::Failed && !meant.is_empty() {
            return Fate::Caught(meant.into_iter().map(|o| o.name.clone()).collect());
        }
        let mut said = verdict.drill.to_string();
        // What those who are meant to notice say for themselves is the best hint at what the drill lacks.
        let meant = verdict.objectives.iter().find(|o| o.outcome == Outcome::Inconclusive && self.meant.contains(&o.kind.as_str()));
        if !others.is_empty() {
            let names: Vec<&str> = others.iter().map(|o| o.name.as_str()).collect();
            said.push_str(&format!(", for another objective: {}", names.join(", ")));
        } else if let Some(meant) = meant {
            said.push_str(&format!(": {}: {}", meant.name, meant.reason));
        } else if let Some(reason) = verdict.reasons.first() {
            said.push_str(&format!(": {reason}"));
        }
        Fate::Survived(said)
    }
}

/// Sets a knob where a model runs; for a model chosen by image, on the namespace's pods that are to come there is nothing to set it on but the
/// namespace's own annotation.
fn turn(object: &mut Value, model: &str, knob: &str, value: &str) {
    let images = object.pointer("/metadata/annotations").and_then(|a| a.get(format!("{PREFIX}images"))).and_then(Value::as_str);
    let at = if images.is_some_and(|images| runs(&Value::Null, model, images)) {
        ""
    } else {
        match template_of(object) {
            Some(at) if object.pointer(at).is_some_and(|template| runs(template, model, "")) => at,
            _ => return,
        }
    };
    let Some(Value::Object(template)) = object.pointer_mut(at) else { return };
    let metadata = template.entry("metadata").or_insert_with(|| json!({}));
    if let Some(metadata) = metadata.as_object_mut() {
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(format!("{PREFIX}{knob}"), Value::from(value));
        }
    }
}

/// Secrets, as `namespace/name`, that pods made for runbooks mount.
fn secrets(scenario: &Scenario) -> Vec<String> {
    let jobs = kinds::leaves(&scenario.spec.steps).into_iter().filter_map(|step| step.runbook.as_ref()?.run_in.as_ref()?.job.as_ref());
    let mounted = |mount: &String| mount.strip_prefix("secret/").and_then(|rest| rest.split(':').next()).map(str::to_owned);
    jobs.flat_map(|job| job.mounts.iter().filter_map(mounted).map(|name| format!("{}/{name}", job.namespace)).collect::<Vec<_>>()).collect()
}

/// Takes private keys out of a Secret, if it is one of these.
fn without_keys(object: &mut Value, secrets: &[String]) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"));
    if text("/kind") != "Secret" || !secrets.contains(&name) {
        return;
    }
    for field in ["data", "stringData"] {
        if let Some(contents) = object.get_mut(field).and_then(Value::as_object_mut) {
            contents.retain(|key, _| !(key.ends_with(".key") || key.ends_with("pass")));
        }
    }
}

/// Rewrites the texts of a ConfigMap that are YAML and change by it.
fn edit_config(object: &mut Value, edit: impl Fn(&mut Value) -> bool) {
    if object.get("kind").and_then(Value::as_str) != Some("ConfigMap") {
        return;
    }
    for text in object.get_mut("data").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        let Some(Ok(mut config)) = text.as_str().map(serde_saphyr::from_str::<Value>) else { continue };
        if edit(&mut config) {
            // JSON is YAML.
            *text = Value::from(config.to_string());
        }
    }
}

fn without_rules(config: &mut Value, alerts: &[&str]) -> bool {
    let mut changed = false;
    for group in config.get_mut("groups").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(rules) = group.get_mut("rules").and_then(Value::as_array_mut) {
            let before = rules.len();
            rules.retain(|rule| !rule.get("alert").and_then(Value::as_str).is_some_and(|alert| alerts.contains(&alert)));
            changed |= rules.len() != before;
        }
    }
    changed
}

fn misrouted(config: &mut Value) -> bool {
    if !(config.get("route").is_some_and(Value::is_object) && config.get("receivers").is_some_and(Value::is_array)) {
        return false;
    }
    if let Some(receivers) = config.get_mut("receivers").and_then(Value::as_array_mut) {
        receivers.push(json!({"name": "nobody"}));
    }
    config["route"]["receiver"] = json!("nobody");
    true
}
