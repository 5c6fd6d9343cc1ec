//! What a seed stands for: a scenario, the weather, and the trouble that befalls its runner.

use std::time::Duration;

use firedrill::{journal::ResumeIntent, sandbox::Weather};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

/// All that is drawn from one seed.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) scenario: Value,
    /// Of the second drill, where there is one.
    pub(crate) second: Value,
    pub(crate) lease: Duration,
    pub(crate) weather: Weather,
    /// How long after the drill's beginning it rains.
    pub(crate) rain_after: Duration,
    pub(crate) trouble: Trouble,
    pub(crate) nuisance: Nuisance,
}

/// When a runner dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// In place of this poll of its tasks.
    Poll(u64),
    /// This long after it began.
    After(Duration),
}

/// How a drill is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Takeover {
    pub(crate) intent: ResumeIntent,
    /// On the machine of the runner before, with its journal; else on another one.
    pub(crate) same_machine: bool,
    /// What the other machine's clock is ahead.
    pub(crate) skew_us: i64,
    /// How long after the trouble.
    pub(crate) after: Duration,
}

/// What befalls the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// It dies; with its machine's power, maybe.
    Crash {
        when: When,
        power: bool,
        takeover: Takeover,
    },
    /// It is not run for a while, and taken over from meanwhile, maybe.
    Sleep {
        at: Duration,
        long: Duration,
        takeover: Option<Takeover>,
    },
    /// A second drill in the same namespace.
    Second {
        at: Duration,
    },
    /// Somebody tries to take it over while it lives.
    Hasty {
        at: Duration,
        takeover: Takeover,
    },
    /// Its wall clock is set.
    WallJump {
        at: Duration,
        by_us: i64,
    },
    /// A node can be reached by nobody for a while: the helper on it is not renewed.
    CutOff {
        node: usize,
        at: Duration,
        long: Duration,
    },
}

/// What others do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nuisance {
    None,
    /// A person asks for an abort.
    Abort(Duration),
    /// A person stops all drills.
    Stop(Duration),
    /// Somebody scales `web`.
    Scale(Duration, u32),
    /// Somebody resumes the CronJob.
    Resume(Duration),
    /// etcd is compacted.
    Compact(Duration),
}

/// The summary of a scenario whose limits are too small.
const SCANT: &str = "A simulated drill that may break less than it wants to.";

impl Script {
    /// Whether its limits can be seen to be ignored: they are too small, or somebody makes more pods than were planned for.
    #[cfg(debug_assertions)]
    pub(crate) fn is_limited(&self) -> bool {
        self.scenario["spec"]["summary"] == SCANT || matches!(self.nuisance, Nuisance::Scale(..))
    }
}

struct Die(StdRng);

impl Die {
    fn one_in(&mut self, n: u32) -> bool {
        self.0.random_range(0..n) == 0
    }

    fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.0.random_range(range))
    }

    /// As many small numbers as large ones.
    fn poll(&mut self) -> u64 {
        let bits = self.0.random_range(4..13_u32);
        self.0.random_range(1..1_u64 << bits)
    }

    fn takeover(&mut self) -> Takeover {
        Takeover {
            intent: self.of(&[ResumeIntent::Resume, ResumeIntent::Revert]),
            same_machine: self.one_in(2),
            skew_us: self.of(&[0, 3_600_000_000, -7_000_000]),
            // Longer than what is frozen stays so without its runner, now and then.
            after: if self.one_in(4) { self.millis(20_000..70_000) } else { self.millis(1..20_000) },
        }
    }

    fn weather(&mut self) -> Weather {
        let [refused, lost, slow, slowest_ms, watch_cut, watch_gap] = match self.below(5) {
            0 | 1 => [0; 6],
            2 => [8, 4, 40, 800, 100, 50],
            3 => [25, 12, 80, 2_500, 200, 100],
            _ => [70, 40, 150, 12_000, 300, 200],
        };
        let slowest = Duration::from_millis(u64::from(slowest_ms));
        Weather { refused, lost, slow, slowest, watch_cut, watch_gap, users: Vec::new() }
    }

    fn trouble(&mut self) -> Trouble {
        match self.below(14) {
            0 | 1 => Trouble::None,
            2..=5 => {
                let when = if self.one_in(3) { When::After(self.millis(0..25_000)) } else { When::Poll(self.poll()) };
                Trouble::Crash { when, power: self.one_in(2), takeover: self.takeover() }
            }
            6 | 7 => {
                let takeover = (!self.one_in(3)).then(|| self.takeover());
                let (at, long) = (self.millis(0..20_000), self.millis(500..60_000));
                Trouble::Sleep { at, long, takeover }
            }
            8 | 9 => Trouble::Second { at: self.millis(0..15_000) },
            10 => Trouble::Hasty { at: self.millis(0..15_000), takeover: self.takeover() },
            11 => Trouble::CutOff { node: self.below(2), at: self.millis(0..15_000), long: self.millis(1_000..90_000) },
            12 => Trouble::CutOff { node: self.below(2), at: self.millis(5_000..15_000), long: self.millis(35_000..60_000) },
            _ => Trouble::WallJump { at: self.millis(0..15_000), by_us: self.of(&[3_600_000_000, -3_600_000_000, -40_000_000, 5_000_000]) },
        }
    }

    fn nuisance(&mut self) -> Nuisance {
        match self.below(10) {
            0 => Nuisance::Abort(self.millis(0..20_000)),
            1 => Nuisance::Stop(self.millis(0..20_000)),
            2 => Nuisance::Scale(self.millis(0..15_000), self.of(&[2, 4, 5])),
            3 => Nuisance::Resume(self.millis(2_000..20_000)),
            4 => Nuisance::Compact(self.millis(0..15_000)),
            _ => Nuisance::None,
        }
    }

    fn scenario(&mut self, name: &str) -> Value {
        let mut faults = vec![
            json!({"name": "shrink", "inject": {"scale": {"target": "web", "replicas": 1}}}),
            json!({"name": "cut", "inject": {"cutBackupJob": {"target": "backup", "how": self.of(&["suspend", "empty"])}}}),
            json!({"name": "kill", "inject": {"podKill": {"target": "one-api"}}}),
            json!({"name": "kill all", "inject": {"podKill": {"target": "all-web"}}}),
            json!({"name": "freeze", "inject": {"freeze": {"target": "one-api"}}}),
            json!({"name": "crash", "inject": {"crash": {"target": "one-api", "hold": self.one_in(2)}}}),
        ];
        let wanted = 1 + self.below(3);
        let mut steps = Vec::new();
        let mut injected: Vec<(String, bool)> = Vec::new();
        let mut chosen = Vec::new();
        for _ in 0..wanted {
            let mut fault = faults.remove(self.below(faults.len()));
            let name = fault["name"].as_str().unwrap_or_default().to_owned();
            let is_over = name.starts_with("kill") || name == "crash" && fault["inject"]["crash"]["hold"] == false;
            let holds = !is_over;
            if holds && self.one_in(4) {
                fault["inject"]["for"] = json!(format!("{}ms", 500 + self.below(6_000)));
            }
            if self.one_in(4) {
                fault["onFailure"] = json!("continue");
            }
            injected.push((name, holds));
            chosen.push(fault);
        }
        if chosen.len() > 1 && self.one_in(4) {
            steps.push(json!({"parallel": chosen}));
        } else {
            for fault in chosen {
                steps.push(fault);
                match self.below(4) {
                    0 => {}
                    1 => steps.push(json!({"waitFor": {"probe": "api", "state": "good", "for": "1s", "timeout": "20s"}})),
                    _ => steps.push(json!({"hold": format!("{}ms", 200 + self.below(4_000))})),
                }
            }
            if let Some((name, _)) = injected.iter().find(|(_, holds)| *holds)
                && self.one_in(3)
            {
                steps.push(json!({"revert": name}));
            }
        }
        steps.push(json!({"hold": format!("{}ms", 200 + self.below(5_000))}));
        // Long enough; or so short that what takes longer than it must is cut off.
        let least_ms: u64 = 3_000 + steps.iter().map(least).sum::<u64>();
        let (duration, targets) = if self.one_in(3) {
            (format!("{}ms", least_ms + 1_000 * self.0.random_range(1..8_u64)), ["200ms", "500ms", "1s", "2s", "3s"])
        } else {
            ("2m".to_owned(), ["200ms", "1s", "3s", "6s", "20s"])
        };
        let mut objectives = vec![json!({"check": {"probe": "job", "state": "good"}})];
        for (name, _) in &injected {
            let probe = match name.as_str() {
                "kill" | "freeze" | "crash" => "api",
                "kill all" | "shrink" => "web",
                _ => "job",
            };
            let within = self.of(&targets);
            objectives.push(json!({"recoveryTime": {"probe": probe, "after": name, "within": within, "stableFor": "1s"}, "name": format!("back after {name}")}));
            let at_least = self.of(&["10%", "50%", "90%"]);
            objectives.push(json!({"availability": {"probe": probe, "after": name, "for": "4s", "atLeast": at_least}, "name": format!("up after {name}")}));
        }
        let ready = |name: &str, replicas: u32| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": name,
                   "cel": format!("has(object.status.readyReplicas) && object.status.readyReplicas == {replicas}")})
        };
        // Just as much as the plan breaks, so that whatever comes on top is too much; or more; or, now and then, too little: then the drill
        // is refused.
        let (mut pods, mut objects) = (0_u32, 0_u32);
        for (name, _) in &injected {
            match name.as_str() {
                "shrink" => (pods, objects) = (pods + 2, objects + 1),
                "cut" => objects += 1,
                "kill all" => pods += 3,
                _ => pods += 1,
            }
        }
        let mut scant = false;
        match self.below(12) {
            0 => (pods, scant) = (pods.saturating_sub(1), true),
            1..=5 => {}
            _ => (pods, objects) = (pods + 5, objects + 1),
        }
        let every = |die: &mut Self| die.of(&["100ms", "250ms", "500ms"]);
        let (web, api, job) = (every(self), every(self), every(self));
        json!({"apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": name}, "spec": {
            "summary": if scant { SCANT } else { "A simulated drill." },
            "targets": {
                "web": {"namespace": "shop", "deployment": "web"},
                "one-api": {"namespace": "shop", "pods": "app=api", "mode": "one"},
                "all-web": {"namespace": "shop", "pods": "app=web", "mode": "all"},
                "backup": {"namespace": "shop", "cronJob": "backup"},
            },
            "limits": {"pods": pods, "objects": objects, "duration": duration},
            "probes": {
                "web": {"object": ready("web", 3), "every": web, "timeout": "1s"},
                "api": {"object": ready("api", 2), "every": api, "timeout": "1s"},
                "job": {"object": {"apiVersion": "batch/v1", "kind": "CronJob", "namespace": "shop", "name": "backup",
                                   "cel": "!(has(object.spec.suspend) && object.spec.suspend)"}, "every": job, "timeout": "1s"},
            },
            "steadyState": {"good": ["web", "api", "job"], "for": "1s", "timeout": "30s"},
            "steps": steps,
            "objectives": objectives,
        }})
    }
}

/// The shortest time that a step takes.
fn least(step: &Value) -> u64 {
    let hold = step["hold"].as_str().and_then(|time| time.strip_suffix("ms")).and_then(|ms| ms.parse().ok());
    hold.unwrap_or(if step["waitFor"].is_object() { 1_000 } else { 0 })
}

/// What a seed stands for.
pub(crate) fn script(seed: u64) -> Script {
    let mut die = Die(StdRng::seed_from_u64(seed));
    Script {
        seed,
        scenario: die.scenario("sim"),
        second: die.scenario("other"),
        lease: Duration::from_secs(die.of(&[4, 8, 15])),
        weather: die.weather(),
        rain_after: if die.one_in(3) { Duration::ZERO } else { die.millis(0..12_000) },
        trouble: die.trouble(),
        nuisance: die.nuisance(),
    }
}
