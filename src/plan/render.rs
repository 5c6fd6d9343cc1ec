//! A plan as people read it, before they agree to it. Readable at 60 columns; colour only where the caller says so.

mod fault;

use owo_colors::{OwoColorize as _, Style};

use super::{
    drift, guard,
    types::{Permission, Plan, PlannedStep},
};
use crate::scenario::types::{BudgetPolicy, Dur, Objective, OneOf as _, Step, UndoPolicy, Vantage};

/// Narrower than this a terminal is treated as if it were this wide.
const NARROWEST: usize = 40;
/// How many objects of a step are listed; the rest is counted.
const SHOWN: usize = 12;

struct Page {
    out: String,
    width: usize,
    color: bool,
}

impl Page {
    fn paint(&self, text: &str, style: Style) -> String {
        if self.color { text.style(style).to_string() } else { text.to_owned() }
    }

    fn heading(&mut self, text: &str) {
        let painted = self.paint(text, Style::new().bold());
        self.out += &format!("\n{painted}\n");
    }

    /// A name and its value, the value's later lines under its first.
    fn field(&mut self, name: &str, value: &str) {
        let indent = 15;
        for (i, line) in wrap(value, self.width, indent, indent).iter().enumerate() {
            let name = if i == 0 { name } else { "" };
            self.out += &format!("  {name:<12} {line}\n");
        }
    }

    /// Text broken at spaces to the page's width, its later lines indented.
    fn text(&mut self, first: usize, rest: usize, text: &str, style: Style) {
        for (i, line) in wrap(text, self.width, first, rest).iter().enumerate() {
            let indent = if i == 0 { first } else { rest };
            let painted = self.paint(line, style);
            self.out += &format!("{:indent$}{painted}\n", "");
        }
    }
}

/// Breaks a text at spaces so that each line with its indent fits; a word longer than a line stays whole.
fn wrap(text: &str, width: usize, first: usize, rest: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let indent = if lines.is_empty() { first } else { rest };
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// The plan as text, without colour.
pub fn render(plan: &Plan, width: usize) -> String {
    render_with(plan, width, false)
}

/// The plan as text.
pub fn render_with(plan: &Plan, width: usize, color: bool) -> String {
    let mut page = Page { out: String::new(), width: width.clamp(NARROWEST, 110), color };
    let plain = Style::new();
    let name = page.paint(&plan.name, Style::new().bold());
    page.out += &format!("Plan of drill {name}\n");
    page.text(2, 2, &clean(&plan.summary), plain);
    page.out += "\n";
    for (what, value) in [
        ("environment", plan.environment.clone()),
        ("cluster", plan.cluster_name.clone()),
        ("cluster uid", plan.cluster_uid.clone()),
        ("seed", plan.seed.to_string()),
        ("digest", drift::digest(plan).chars().take(16).collect()),
        ("expected", format!("{} to {}, at most {}", plan.expected.0, plan.expected.1, plan.limits.duration)),
    ] {
        page.field(what, &clean(&value));
    }
    if let Some(watchdog) = &plan.watchdog {
        let account = format!("{}/{}", plan.place.firedrill.namespace, watchdog.service_account);
        page.field("watchdog", &clean(&format!("reverts as ServiceAccount {account} if the runner's machine is lost")));
    }
    if !plan.parameters.is_empty() {
        let values = plan.parameters.iter().map(|(k, v)| format!("{k}={}", clean(v))).collect::<Vec<_>>().join(", ");
        page.field("parameters", &values);
    }

    page.heading("Steps");
    if plan.steps.is_empty() {
        page.out += "  none: only watched\n";
    }
    for step in &plan.steps {
        one_step(&mut page, step, 2);
    }
    targets(&mut page, plan);
    blast_radius(&mut page, plan);
    watched(&mut page, plan);

    page.heading("Objectives");
    for objective in &plan.objectives {
        page.text(2, 4, &clean(&format!("{}: {}", objective.name, wanted(&objective.spec))), plain);
    }
    page.heading("Permissions (in full: --rbac)");
    permissions(&mut page, &plan.rbac);
    if !plan.warnings.is_empty() {
        page.heading("Look at this");
        for warning in &plan.warnings {
            page.text(2, 4, &format!("! {}", clean(warning)), Style::new().yellow());
        }
    }
    page.out
}

/// What an objective asks for, in a few words.
fn wanted(spec: &Objective) -> String {
    let after = |step: Option<&String>| step.map_or_else(String::new, |step| format!(" after `{step}`"));
    if let Some(o) = &spec.recovery_time {
        let stable = if o.stable_for == Dur::ZERO { String::new() } else { format!(", and good for {}", o.stable_for) };
        return format!("`{}` back within {}{}{stable}", o.probe, o.within, after(o.after.as_ref()));
    }
    if let Some(o) = &spec.detection_time {
        return format!("`{}` received within {} after `{}`", o.alert, o.within, o.after);
    }
    if let Some(o) = &spec.data_loss {
        let writes = o.writes.or(o.within.is_none().then_some(0)).map(|n| format!("at most {n} writes"));
        let time = o.within.map(|t| format!("a recovery point of at most {t}"));
        return format!("`{}` loses {}", o.ledger, [writes, time].into_iter().flatten().collect::<Vec<_>>().join(" and "));
    }
    if let Some(o) = &spec.availability {
        let window = o.window.map_or_else(|| "until the steps end".to_owned(), |w| format!("for {w}"));
        return format!("`{}` good for at least {}{} {window}", o.probe, o.at_least, after(o.after.as_ref()));
    }
    if let Some(o) = &spec.runbook {
        return format!("`{}` followed within {}", o.step, o.within);
    }
    if let Some(o) = &spec.backup {
        let age = o.max_age.map_or_else(|| "young enough for its probe".to_owned(), |age| format!("at most {age} old"));
        return format!("the newest of `{}` {age}{}", o.probe, after(o.after.as_ref()));
    }
    if let Some(o) = &spec.restore {
        return format!("the restored copy has the rows of its source, {} at least", o.min_rows.max(1));
    }
    if let Some(o) = &spec.order {
        return format!("{} recover in this order after `{}`", o.probes.join(", "), o.after);
    }
    if let Some(o) = &spec.step_time {
        return format!("`{}` done within {}{}", o.step, o.within, after(o.after.as_ref()));
    }
    if let Some(o) = &spec.never {
        return format!("`{}` never {}{}", o.probe, o.state, after(o.after.as_ref()));
    }
    spec.check.as_ref().map_or_else(String::new, |o| format!("`{}` {} when the steps end", o.probe, o.state))
}

/// What comes from the cluster or a file must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn one_step(page: &mut Page, step: &PlannedStep, indent: usize) {
    let kind = step.spec.kind_name().unwrap_or("step");
    let fault = step.spec.inject.as_ref().map(|fault| fault.kind_name().unwrap_or("fault"));
    let title = clean(&step.title);
    let what = match fault {
        Some(fault) => format!("{} {title}: {fault}", step.path),
        None if title.starts_with(kind) => format!("{} {}", step.path, kind),
        None => format!("{} {title}: {kind}", step.path),
    };
    let style = if fault.is_some() { Style::new().red().bold() } else { Style::new() };
    page.text(indent, indent + 4, &what, style);
    let inner = indent + 4;
    for line in details(step) {
        page.text(inner, inner + 2, &clean(&line), Style::new());
    }
    for touched in step.touches.iter().take(SHOWN) {
        page.text(inner, inner + 2, &format!("→ {}", clean(touched)), Style::new());
    }
    if step.touches.len() > SHOWN {
        page.text(inner, inner, &format!("→ and {} more", step.touches.len() - SHOWN), Style::new());
    }
    for child in &step.children {
        one_step(page, child, inner);
    }
}

fn details(step: &PlannedStep) -> Vec<String> {
    let Step { inject, revert, wait_for, hold, runbook, manual, approve, declare, note, parallel: _, name: _, when, within, on_failure } =
        &step.spec;
    let mut lines = Vec::new();
    if let Some(when) = when {
        lines.push(format!("when {} is {} for {}, within {}", when.probe, when.state, when.hold, when.timeout));
    }
    if let Some(fault) = inject {
        lines.extend(fault::details(fault, step.manifest.as_ref()));
    }
    if let Some(policy) = step.undo {
        let of_helper = inject.as_ref().is_some_and(crate::fault::needs_helper);
        lines.push(if of_helper && policy == UndoPolicy::None { HELPER_UNDOES } else { undo(policy) }.to_owned());
    }
    if let Some(name) = revert {
        lines.push(format!("undoes `{name}`"));
    }
    if let Some(wait) = wait_for {
        lines.push(format!("until {} is {} for {}, within {}", wait.probe, wait.state, wait.hold, wait.timeout));
    }
    if let Some(hold) = hold {
        lines.push(format!("for {hold}"));
    }
    if let Some(runbook) = runbook {
        let job = runbook.cron_job.as_ref().map(|job| format!("starts the Job of {job}"));
        lines.extend(runbook.file.clone().or(job));
    }
    if let Some(manual) = manual {
        lines.push(format!("{}: {}", manual.role.as_deref().unwrap_or("someone"), manual.instruction));
    }
    if let Some(approve) = approve {
        lines.push(format!("{}: {}", approve.role.as_deref().unwrap_or("someone"), approve.question));
    }
    if let Some(declare) = declare {
        let who = declare.alert.as_ref().map(|alert| format!("by the receipt of {alert}"));
        lines.push(who.unwrap_or_else(|| format!("by {}", declare.role.as_deref().unwrap_or("someone"))));
    }
    lines.extend(note.clone());
    if let Some(within) = within {
        lines.push(format!("within {within}"));
    }
    if on_failure.is_some_and(|f| f == crate::scenario::types::OnFailure::Continue) {
        lines.push("goes on if it fails".to_owned());
    }
    lines
}

/// What `undo: none` comes to where a helper makes the fault.
const HELPER_UNDOES: &str = "undo: by no revert; its helper undoes what it holds when the drill ends";

/// An undo policy in words.
pub fn undo(policy: UndoPolicy) -> &'static str {
    match policy {
        UndoPolicy::Auto => "undo: always, at the end of the drill at the latest",
        UndoPolicy::OnAbort => "undo: only if the drill does not reach its runbook",
        UndoPolicy::Runbook => "undo: by the runbook",
        UndoPolicy::None => "undo: never, this is irreversible",
    }
}

fn targets(page: &mut Page, plan: &Plan) {
    if plan.targets.is_empty() {
        return;
    }
    page.heading("Targets");
    for (name, target) in &plan.targets {
        let chosen = target.chosen().count();
        page.text(2, 4, &format!("{name}: {} ({chosen} of {})", clean(&guard::describe(target)), target.matched), Style::new());
        for object in target.chosen().take(SHOWN) {
            let mut line = guard::called(object);
            if !object.node.is_empty() {
                line += &format!(" on {}", object.node);
            }
            if !object.owner.is_empty() {
                line += &format!(" of {}", object.owner);
            }
            if object.kind == "Pod" && !object.ready {
                line += " (not ready)";
            }
            page.text(4, 6, &clean(&line), Style::new());
        }
        if chosen > SHOWN {
            page.text(4, 4, &format!("and {} more", chosen - SHOWN), Style::new());
        }
    }
}

fn blast_radius(page: &mut Page, plan: &Plan) {
    page.heading("Blast radius");
    let counts = plan.scope.blast;
    for (what, is, limit) in [
        ("pods", counts.pods, plan.limits.pods),
        ("nodes", counts.nodes, plan.limits.nodes),
        ("volumes", counts.volumes, plan.limits.volumes),
        ("objects", counts.objects, plan.limits.objects),
    ] {
        if is > 0 || limit > 0 {
            page.field(what, &format!("{is} of at most {limit}"));
        }
    }
    let names = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    page.field("namespaces", &names(&plan.scope.namespaces));
    page.field("nodes", &names(&plan.scope.nodes));
    page.field("Leases", &names(&plan.leases));
    let budgets = match plan.limits.budgets {
        BudgetPolicy::Respect => "respected: a fault they do not allow is refused",
        BudgetPolicy::Ignore => "ignored, as a real outage does",
    };
    page.field("budgets", budgets);
}

fn watched(page: &mut Page, plan: &Plan) {
    if plan.probes.is_empty() {
        return;
    }
    page.heading("Watched");
    for (name, probe) in &plan.probes {
        let from = match probe.from {
            Vantage::Runner => "this machine",
            Vantage::Cluster => "the cluster",
        };
        let kind = probe.spec.kind_name().unwrap_or("probe");
        page.text(2, 4, &format!("{name}: {kind} every {} within {} from {from}", probe.every, probe.timeout), Style::new());
    }
}

fn permissions(page: &mut Page, rules: &[Permission]) {
    let mut place = None;
    for rule in rules {
        if place != Some(&rule.namespace) {
            place = Some(&rule.namespace);
            let line = rule.namespace.as_ref().map_or_else(|| "cluster".to_owned(), |namespace| format!("namespace {namespace}"));
            page.text(2, 4, &line, Style::new());
        }
        let names = if rule.names.is_empty() { String::new() } else { format!(" {}", rule.names.join(", ")) };
        page.text(4, 6, &format!("{}{names}: {}", rule.resource, rule.verbs.join(" ")), Style::new());
    }
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn lines_fit_and_words_stay_whole() {
        assert_eq!(wrap("one two three", 10, 2, 4), ["one two", "three"]);
        assert_eq!(wrap("a-word-longer-than-the-line b", 10, 0, 0), ["a-word-longer-than-the-line", "b"]);
        assert!(wrap("  ", 10, 0, 0).is_empty());
    }
}
