//! What the live view shows, as lines of a given width: a pure function of the records, the board of probes and the time.

use std::{collections::BTreeMap, sync::Arc};

use super::line::{Tone, clean};
use crate::{
    clock::Stamp,
    drill::Question,
    hint,
    journal::{AlertStage, Event, Record, SteadyPhase, StepOutcome},
    plan::{Plan, PlannedObjective},
    probe::Board,
    scenario::types::{Dur, ProbeState},
};

/// A line in pieces, each with its tone.
pub(super) type Line = Vec<(Tone, String)>;

/// How long the names of probes and objectives may get on a narrow terminal; on a wider one, a third of it.
const NAME: usize = 22;
/// The most lines of each list.
const MOST: usize = 12;

/// What has happened so far, as far as the view shows it. Times are microseconds of the runner's monotonic clock.
pub(super) struct Screen {
    plan: Arc<Plan>,
    drill: String,
    in_sandbox: bool,
    begin_us: Option<i64>,
    phase: &'static str,
    /// Running steps by path, with their start.
    running: BTreeMap<String, i64>,
    /// Ended steps with start, end and outcome.
    ended: BTreeMap<String, (i64, i64, StepOutcome)>,
    /// Where faults were injected, by step's path.
    injected: BTreeMap<String, i64>,
    /// When a notification of an alert probe arrived (was seen).
    received: BTreeMap<String, i64>,
    runbook: Option<(String, i64, Option<u64>)>,
    probes: BTreeMap<String, Probe>,
    /// Objectives whose probe has been good for as long as it must be: how long that took. What comes later does not undo it.
    recovered: BTreeMap<String, i64>,
}

/// A probe as it was seen. The instants are those of seeing it: good enough to look at, not to judge by.
#[derive(Default)]
struct Probe {
    state: Option<ProbeState>,
    since_us: i64,
    /// When it was last seen bad.
    bad_us: Option<i64>,
    detail: String,
}

impl Screen {
    pub(super) fn new(plan: Arc<Plan>, drill: String, in_sandbox: bool) -> Self {
        Self {
            plan,
            drill,
            in_sandbox,
            begin_us: None,
            phase: "starting",
            running: BTreeMap::new(),
            ended: BTreeMap::new(),
            injected: BTreeMap::new(),
            received: BTreeMap::new(),
            runbook: None,
            probes: BTreeMap::new(),
            recovered: BTreeMap::new(),
        }
    }

    /// A record was written.
    pub(super) fn record(&mut self, record: &Record) {
        let at = record.at.mono_us;
        self.begin_us.get_or_insert(at);
        // A stamp of another clock (a resumed drill's old ones) cannot be compared with now.
        let own = |stamp: &Stamp| if stamp.clock == record.at.clock { stamp.mono_us } else { at };
        match &record.event {
            Event::LeasesTaken { .. } => self.phase = "arming",
            Event::ArmingDone { .. } => self.phase = "waiting for the steady state",
            Event::SteadyState { phase: SteadyPhase::After, .. } => self.phase = "reading back",
            Event::SteadyState { .. } | Event::StepStarted { .. } if !self.phase.starts_with("und") => self.phase = "",
            Event::StepsEnded { .. } | Event::AbortRequested { .. } => self.phase = "undoing",
            Event::Gone { .. } if self.plan.steady_state.is_some() => self.phase = "undone; waiting for the steady state again",
            Event::RevertIntent { .. } => self.phase = "undoing",
            Event::Disarmed { .. } => self.phase = "ending",
            _ => {}
        }
        match &record.event {
            Event::StepStarted { step, start } => drop(self.running.insert(step.clone(), own(start))),
            Event::StepEnded { step, outcome, end, .. } => {
                let start = self.running.remove(step).unwrap_or(at);
                self.ended.insert(step.clone(), (start, own(end), *outcome));
                self.runbook = None;
            }
            Event::Injected { fault, start, .. } => {
                if let Some(step) = self.plan.leaf_steps().into_iter().find(|s| s.fault == Some(*fault)) {
                    self.injected.insert(step.path.clone(), own(start));
                }
            }
            Event::Alert(seen) if seen.stage == AlertStage::Received => drop(self.received.entry(seen.probe.clone()).or_insert(at)),
            Event::RunbookStep(s) if s.state == crate::journal::RunbookState::Started => {
                self.runbook = Some((format!("{}. {}", s.index + 1, s.title), own(&s.at), s.within_us));
            }
            _ => {}
        }
    }

    /// The probes were looked at. Returns those whose state changed, each with its name, as lines for the log.
    pub(super) fn board(&mut self, board: &Board, now_us: i64) -> Vec<(String, Tone, String)> {
        let mut changes = Vec::new();
        self.note_recovered(now_us);
        for (name, live) in &board.0 {
            let probe = self.probes.entry(name.clone()).or_default();
            if live.state == Some(ProbeState::Bad) {
                probe.bad_us = Some(now_us);
            }
            if probe.state != live.state {
                if let Some(state) = live.state {
                    let tone = if state == ProbeState::Good { Tone::Good } else { Tone::Warn };
                    let detail = clean(&live.detail);
                    changes.push((
                        name.clone(),
                        tone,
                        format!("probe {name} is {state}{}{detail}", if detail.is_empty() { "" } else { ": " }),
                    ));
                }
                probe.state = live.state;
                probe.since_us = now_us;
            }
            probe.detail = clean(&live.detail);
        }
        changes
    }

    fn note_recovered(&mut self, now_us: i64) {
        for objective in &self.plan.objectives {
            let Some(o) = &objective.spec.recovery_time else { continue };
            let start = o.after.as_deref().and_then(|step| self.injected_at(step));
            let (Some(start), Some(probe)) = (start, self.probes.get(&o.probe)) else { continue };
            let stable_us = i64::try_from(o.stable_for.as_micros()).unwrap_or(i64::MAX);
            let back = probe.state == Some(ProbeState::Good) && probe.bad_us.is_some_and(|at| at >= start);
            if back && now_us - probe.since_us >= stable_us {
                self.recovered.entry(objective.name.clone()).or_insert(probe.since_us - start);
            }
        }
    }

    fn injected_at(&self, step: &str) -> Option<i64> {
        self.plan.step_named(step).and_then(|s| self.injected.get(&s.path).copied())
    }

    /// The lines to show now.
    pub(super) fn lines(&self, asked: &[Question], now_us: i64, width: usize) -> Vec<Line> {
        let mut lines = vec![self.head(now_us)];
        self.steps(&mut lines, now_us);
        for question in asked.iter().take(MOST) {
            question_lines(&mut lines, question, &self.to_answer(question), width);
        }
        let names = self.names(width);
        if !self.probes.is_empty() {
            lines.push(vec![(Tone::Plain, "probes".to_owned())]);
        }
        for (name, probe) in self.probes.iter().take(MOST) {
            let (tone, mark, word) = match probe.state {
                Some(ProbeState::Good) => (Tone::Good, "●", "good"),
                Some(ProbeState::Bad) => (Tone::Bad, "✗", "bad"),
                Some(ProbeState::Unknown) => (Tone::Warn, "?", "unknown"),
                None => (Tone::Plain, "·", "waiting"),
            };
            let since = probe.state.map_or_else(String::new, |_| clock(now_us - probe.since_us));
            let text = format!("{mark} {} {word:<7} {since:>6}", padded(name, names));
            lines.push(vec![(tone, text), (Tone::Plain, format!("  {}", probe.detail))]);
        }
        more(&mut lines, self.probes.len());
        if !self.plan.objectives.is_empty() {
            lines.push(vec![(Tone::Plain, "objectives".to_owned())]);
        }
        for objective in self.plan.objectives.iter().take(MOST) {
            lines.push(self.objective(objective, now_us, width));
        }
        more(&mut lines, self.plan.objectives.len());
        lines.into_iter().map(|line| cut(line, width)).collect()
    }

    fn head(&self, now_us: i64) -> Line {
        let took = self.begin_us.map_or_else(String::new, |b| clock(now_us - b));
        let phase = if self.phase.is_empty() { String::new() } else { format!(" · {}", self.phase) };
        let (drill, seed) = (&self.drill, self.plan.seed);
        // Before what a narrow terminal cuts off.
        let line = if self.in_sandbox {
            format!("{took} · SANDBOX{phase} · {drill} · seed {seed}")
        } else {
            format!("{took}{phase} · {drill} · {} · seed {seed}", self.plan.cluster_name)
        };
        vec![(Tone::Plain, line)]
    }

    /// How wide the column of names is.
    fn names(&self, width: usize) -> usize {
        let names = self.probes.keys().map(String::as_str).chain(self.plan.objectives.iter().map(|objective| objective.name.as_str()));
        names.map(|name| clean(name).chars().count()).max().unwrap_or(0).clamp(NAME, NAME.max(width / 3))
    }

    /// How a question is answered.
    fn to_answer(&self, question: &Question) -> String {
        match (self.in_sandbox, question.failed_step) {
            (true, false) => "a simulated participant answers".to_owned(),
            (true, true) => "nobody mends anything in the sandbox".to_owned(),
            (false, failed) => {
                let words = if failed { "`retry`, `skip REASON` or `no`" } else { "`done` or `no`" };
                let ack = hint::command(&format!("ack {}", question.step), &self.plan.place.firedrill.namespace);
                format!("type {words} (or elsewhere: {ack})")
            }
        }
    }

    fn steps(&self, lines: &mut Vec<Line>, now_us: i64) {
        let total = self.plan.leaf_steps().len();
        if self.running.is_empty() && total > 0 {
            lines.push(vec![(Tone::Plain, format!("▷ {} of {total} steps done", self.ended.len()))]);
        }
        for (path, start) in &self.running {
            let Some(step) = self.plan.step(path) else { continue };
            let limit = step.spec.within.or_else(|| step.spec.wait_for.as_ref().map(|w| w.timeout)).or(step.spec.hold);
            let of = limit.map_or_else(String::new, |d| format!(" of {d}"));
            lines.push(vec![(
                Tone::Plain,
                format!("▶ {path}/{total} {}  {}{of}", untitled(&clean(&step.title), path), clock(now_us - start)),
            )]);
        }
        if let Some((title, start, within)) = &self.runbook {
            let of = within.map_or_else(String::new, |us| format!(" of {}", Dur::from_micros(us)));
            lines.push(vec![(Tone::Plain, format!("  ▸ {}  {}{of}", clean(title), clock(now_us - start)))]);
        }
    }

    /// An objective's clock, running towards its target.
    fn objective(&self, objective: &PlannedObjective, now_us: i64, width: usize) -> Line {
        let spec = &objective.spec;
        let injected = |step: &str| self.injected_at(step);
        let (progress, target) = if let (Some(o), Some(took)) = (&spec.recovery_time, self.recovered.get(&objective.name)) {
            (Progress::Done(*took, "recovered".to_owned()), Some(o.within))
        } else if let Some(o) = &spec.recovery_time {
            (self.recovery(&o.probe, o.after.as_deref().and_then(injected), o.stable_for, now_us), Some(o.within))
        } else if let Some(o) = &spec.detection_time {
            let start = injected(&o.after);
            (
                Progress::between(start, start.and_then(|s| self.received.get(&o.alert).copied().filter(|at| *at >= s)), now_us),
                Some(o.within),
            )
        } else if let Some(o) = &spec.runbook {
            (self.of_step(&o.step, now_us), Some(o.within))
        } else if let Some(o) = &spec.step_time {
            (self.of_step(&o.step, now_us), Some(o.within))
        } else {
            (Progress::AtEnd, None)
        };
        let name = padded(&objective.name, self.names(width));
        let (Some(target), Some((tone, us, word))) = (target, progress.shown()) else {
            return vec![(Tone::Plain, format!("  {name} {}", if target.is_some() { "not started" } else { "judged at the end" }))];
        };
        let over = us > i64::try_from(target.as_micros()).unwrap_or(i64::MAX);
        let tone = if over { Tone::Bad } else { tone };
        let text = format!("  {name} {:>7} of {target}", clock_fine(us));
        // A bar where there is room for one that says something.
        let room = width.saturating_sub(text.chars().count() + word.chars().count() + 4).min(24);
        let bar = if room >= 8 {
            let share = us as f64 / target.as_micros().max(1) as f64;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 24")]
            let full = ((share.clamp(0.0, 1.0)) * room as f64).round() as usize;
            format!(" {}{}", "━".repeat(full), "┄".repeat(room - full))
        } else {
            String::new()
        };
        let word = if over { format!("over target, {word}") } else { word };
        vec![(tone, format!("{text}{bar} {word}"))]
    }

    fn recovery(&self, probe: &str, start: Option<i64>, stable: Dur, now_us: i64) -> Progress {
        let (Some(start), Some(probe)) = (start, self.probes.get(probe)) else { return Progress::NotYet };
        let was_bad = probe.bad_us.is_some_and(|at| at >= start);
        if probe.state == Some(ProbeState::Good) && was_bad {
            let stable_us = i64::try_from(stable.as_micros()).unwrap_or(i64::MAX);
            let held = now_us - probe.since_us;
            let word = if held >= stable_us { "recovered".to_owned() } else { format!("good again, {} of {stable}", clock(held)) };
            return Progress::Done(probe.since_us - start, word);
        }
        let word = if was_bad || probe.state == Some(ProbeState::Bad) { "down" } else { "no outage seen" };
        Progress::Running(now_us - start, word.to_owned())
    }

    fn of_step(&self, name: &str, now_us: i64) -> Progress {
        let Some(path) = self.plan.step_named(name).map(|s| s.path.as_str()) else { return Progress::NotYet };
        if let Some((start, end, outcome)) = self.ended.get(path) {
            let word = if *outcome == StepOutcome::Succeeded { "done" } else { "failed" };
            return Progress::Done(end - start, word.to_owned());
        }
        Progress::between(self.running.get(path).copied(), None, now_us)
    }
}

enum Progress {
    NotYet,
    Running(i64, String),
    Done(i64, String),
    AtEnd,
}

impl Progress {
    fn between(start: Option<i64>, end: Option<i64>, now_us: i64) -> Self {
        match (start, end) {
            (None, _) => Self::NotYet,
            (Some(start), None) => Self::Running(now_us - start, "running".to_owned()),
            (Some(start), Some(end)) => Self::Done(end - start, "done".to_owned()),
        }
    }

    fn shown(self) -> Option<(Tone, i64, String)> {
        match self {
            Self::NotYet | Self::AtEnd => None,
            Self::Running(us, word) => Some((Tone::Warn, us, word)),
            Self::Done(us, word) => Some((Tone::Good, us, word)),
        }
    }
}

/// A step without a name is called by its kind and number; the number stands there already.
pub(super) fn untitled<'t>(title: &'t str, path: &str) -> &'t str {
    title.strip_suffix(path).and_then(|kind| kind.strip_suffix(' ')).unwrap_or(title)
}

/// What a person is asked, in up to three lines, and how to answer.
fn question_lines(lines: &mut Vec<Line>, question: &Question, to_answer: &str, width: usize) {
    let text = clean(&question.text);
    let asked = textwrap::wrap(&text, width.saturating_sub(question.step.len() + 3).max(10));
    for (i, line) in asked.iter().take(3).enumerate() {
        let head = if i == 0 { format!("? {} ", question.step) } else { " ".repeat(question.step.len() + 3) };
        let more = if i == 2 && asked.len() > 3 { " …" } else { "" };
        lines.push(vec![(Tone::Warn, format!("{head}{line}{more}"))]);
    }
    lines.push(vec![(Tone::Warn, format!("  {to_answer}"))]);
}

/// `0:07`, `12:05`, `1:02:33`.
fn clock(us: i64) -> String {
    let secs = us.max(0) / 1_000_000;
    if secs >= 3600 { format!("{}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60) } else { format!("{}:{:02}", secs / 60, secs % 60) }
}

/// `7.4s` below a minute.
fn clock_fine(us: i64) -> String {
    if us < 60_000_000 { format!("{:.1}s", us.max(0) as f64 / 1e6) } else { clock(us) }
}

/// A name in a column of some width.
fn padded(name: &str, wide: usize) -> String {
    let name = clean(name);
    if name.chars().count() <= wide {
        format!("{name:<wide$}")
    } else {
        format!("{}…", name.chars().take(wide.saturating_sub(1)).collect::<String>())
    }
}

fn more(lines: &mut Vec<Line>, all: usize) {
    if all > MOST {
        lines.push(vec![(Tone::Plain, format!("  and {} more", all - MOST))]);
    }
}

/// A line that fits: what does not is cut, and says so.
fn cut(line: Line, width: usize) -> Line {
    let mut left = width;
    let mut fits = Vec::new();
    for (tone, text) in line {
        let count = text.chars().count();
        if count <= left {
            left -= count;
            fits.push((tone, text));
            continue;
        }
        if left > 1 {
            fits.push((tone, text.chars().take(left - 1).chain(std::iter::once('…')).collect()));
        }
        break;
    }
    fits
}
