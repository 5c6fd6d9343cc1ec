//! The shipped scenarios among the seeds: whole drills in the world beside them, healthy and weak, in fair weather and foul. What they count
//! and when they were told is held against what the world's models know: writes that nobody has any more, and pages as they arrived.

use std::{collections::BTreeMap, path::Path};

use firedrill::{
    journal::{Event, Reading},
    rehearse::{Case, MUTANTS, Mutant, Rehearsal, World, flaky, perform},
    sandbox::{Truth, Weather},
    scenario,
    verdict::{DrillVerdict, Outcome},
};
use serde_json::Value;

use crate::{history::text, world::WALL_US};

/// One of so many seeds is a shipped scenario.
const EVERY: u64 = 75;
/// Those that can run, with the weaknesses whose truth is known here.
const SHIPPED: [(&str, &[&str]); 3] = [
    ("lose-database-primary", &["failover-loses-writes", "alert-late", "alert-route-broken", "failover-never"]),
    ("cut-backup-job", &["alert-rule-gone", "alert-route-broken", "alert-late"]),
    ("restore-from-backup", &["restore-drops-rows", "restore-key-missing"]),
];

/// What a seed stands for, if it is one of these.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shipped {
    seed: u64,
    name: &'static str,
    mutant: Option<&'static Mutant>,
    is_flaky: bool,
}

impl Shipped {
    pub(crate) fn of(seed: u64) -> Option<Self> {
        if seed % EVERY != EVERY - 1 {
            return None;
        }
        let nth = usize::try_from(seed / EVERY).unwrap_or_default();
        let (name, weak) = SHIPPED[nth % SHIPPED.len()];
        let round = nth / SHIPPED.len();
        // Healthy and weak by turns; those that are healthy in fair weather and foul by turns.
        let mutant = (round % 2 == 1).then(|| weak[round / 2 % weak.len()]);
        let mutant = mutant.and_then(|name| MUTANTS.iter().find(|mutant| mutant.name == name));
        Some(Self { seed, name, mutant, is_flaky: round % 4 == 2 })
    }

    fn rehearse(&self) -> Result<Rehearsal, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(self.name);
        let file = folder.join("scenario.yaml");
        let loaded = scenario::load_scenario(&file, &[]).map_err(|problems| problems.to_string())?;
        let mut runbooks = BTreeMap::new();
        for step in &loaded.scenario.spec.steps {
            if let Some(file) = step.runbook.as_ref().and_then(|runbook| runbook.file.as_ref()) {
                runbooks.insert(file.clone(), std::fs::read_to_string(folder.join(file)).map_err(|e| format!("{file}: {e}"))?);
            }
        }
        let world = World::find(&file, None).map_err(|e| e.to_string())?;
        let (environment, _) = world.environment.clone();
        let weather = if self.is_flaky { flaky() } else { Weather::default() };
        let (loaded, runbooks, environment) = (&loaded, &runbooks, &environment);
        let mutant = self.mutant;
        perform(&Case { loaded, runbooks, world: &world, environment, seed: self.seed, wall_us: WALL_US, weather: &weather, mutant })
            .map_err(|e| e.to_string())
    }

    /// Plays it. What is wrong.
    pub(crate) fn play(&self) -> Vec<String> {
        let (name, weak) = (self.name, self.mutant.map_or("", |mutant| mutant.name));
        let wrong = self.rehearse().map_or_else(|why| vec![why], |drill| self.check(&drill));
        wrong.into_iter().map(|why| format!("{name} {weak}{}: {why}", if self.is_flaky { " flaky" } else { "" })).collect()
    }

    fn check(&self, drill: &Rehearsal) -> Vec<String> {
        let mut wrong = [lost_writes(drill), pages(drill)].concat();
        let verdict = &drill.verdict;
        let how = || format!("{}, {:?}, {:?}, {:?}", verdict.drill, verdict.reasons, verdict.unclean, drill.trouble);
        if !verdict.clean {
            wrong.push(format!("not clean: {}", how()));
        }
        match self.mutant {
            Some(mutant) if verdict.drill == DrillVerdict::Passed => {
                wrong.push(format!("passes in a world that is weak: {}", mutant.weakness))
            }
            None if !self.is_flaky && verdict.drill != DrillVerdict::Passed => {
                wrong.push(format!("does not pass in a healthy world: {}", how()))
            }
            _ => {}
        }
        wrong
    }
}

/// Numbers of a ledger's writes that a member had and that were rewound: nobody has them any more.
fn rewound(truth: &[Truth]) -> Vec<u64> {
    let facts = truth.iter().filter(|t| t.what == "rewound").filter_map(|t| t.fact["rows"].as_array());
    let of_ledger = facts.flatten().filter(|row| text(&row["table"]).starts_with("firedrill."));
    of_ledger.filter_map(|row| row["row"][0].as_str()?.parse().ok()).collect()
}

/// What a ledger says is lost was lost, and what was lost and acknowledged is said to be.
fn lost_writes(drill: &Rehearsal) -> Vec<String> {
    let gone = rewound(&drill.truth);
    let mut wrong = Vec::new();
    for record in &drill.records {
        let Event::Reading { of, reading: Reading::Ledger(ledger), .. } = &record.event else { continue };
        let lost: Vec<u64> = ledger.lost.iter().map(|write| write.n).collect();
        if let Some(kept) = lost.iter().find(|n| !gone.contains(n)) {
            wrong.push(format!("ledger {of}: write {kept} is said to be lost and was never rewound; {} were", gone.len()));
        }
        // Each of those that are gone was acknowledged, or nobody knows of it.
        let missing = gone.iter().filter(|n| !lost.contains(n)).count() as u64;
        if missing > ledger.unknown + ledger.failed {
            wrong.push(format!("ledger {of}: {missing} writes are gone and not said to be lost, and only {} unknown", ledger.unknown));
        }
        let met = drill.verdict.objectives.iter().any(|o| o.kind == "dataLoss" && o.outcome == Outcome::Met);
        if met && !lost.is_empty() {
            wrong.push(format!("ledger {of}: {} writes are lost and the objective is met", lost.len()));
        }
    }
    wrong
}

/// A detection's bracket contains the time from the fault to the page's real arrival; what never arrived is never met.
fn pages(drill: &Rehearsal) -> Vec<String> {
    let mut wrong = Vec::new();
    for (objective, planned) in drill.verdict.objectives.iter().zip(&drill.plan.objectives) {
        let Some(spec) = &planned.spec.detection_time else { continue };
        let Some(fault) = drill.plan.step_named(&spec.after).and_then(|step| step.fault) else { continue };
        let mut struck = None;
        for record in &drill.records {
            match &record.event {
                Event::Injected { fault: id, start, .. } if *id == fault => struck = Some((start.wall_us, None)),
                Event::Effective { fault: id, at, .. } if *id == fault => struck = struck.map(|(start, _)| (start, Some(at.wall_us))),
                _ => {}
            }
        }
        let Some((start, Some(effective))) = struck else { continue };
        let alert = drill.plan.probes.get(&spec.alert).and_then(|probe| probe.spec.alert.as_ref());
        let Some(alert) = alert else { continue };
        let is_it = |told: &Value| text(&told["alertname"]) == alert.name && text(&told["status"]) == "firing";
        let arrived = drill
            .truth
            .iter()
            .filter(|t| t.what == "received" && t.at_us >= start)
            .find(|t| t.fact["alerts"].as_array().is_some_and(|all| all.iter().any(is_it)))
            .map(|t| t.at_us);
        let (name, measured) = (&objective.name, objective.measured);
        match (objective.outcome, arrived, measured) {
            (Outcome::Met, None, _) => wrong.push(format!("`{name}` is met, and no page ever arrived")),
            (_, Some(arrived), Some(measured)) if measured.upper.is_some() => {
                let (least, most) = (arrived - effective, arrived - start);
                if measured.lower.is_some_and(|lower| lower > most) || measured.upper.is_some_and(|upper| upper < least) {
                    wrong.push(format!("`{name}`: the page came {least} to {most} us after the fault, and {measured:?} was measured"));
                }
            }
            _ => {}
        }
    }
    wrong
}

/// What a seed of these found, told in full.
pub(crate) fn tell(shipped: &Shipped) {
    println!("{shipped:#?}");
    let wrong = shipped.play();
    wrong.iter().for_each(|why| println!("WRONG: {why}"));
    assert!(wrong.is_empty(), "seed {}, commit {}, breaks a promise", shipped.seed, crate::play::commit());
}
