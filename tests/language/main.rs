//! The language: what is a mistake, where it is said to be, and what is said about it.

mod meanings;
mod mistakes;

use std::path::Path;

use firedrill::scenario::{Checked, Diagnostic, Severity, check_file, check_text, diag::render, parse_scenario, schema::Document};

use meanings::{ENVIRONMENTS, MEANINGS};
use mistakes::{MISTAKES, WARNINGS};

/// The parts of a scenario without mistakes, in their order. A case replaces one of them.
const PARTS: &[(&str, &str)] = &[
    ("head", "apiVersion: firedrill.dev/v1alpha1\nkind: Scenario\nmetadata: {name: test}\nspec:"),
    ("summary", "  summary: A test."),
    ("parameters", "  parameters: {rto: 60s}"),
    (
        "targets",
        "  targets:\n    primary: {namespace: shop, pods: \"cluster=orders\", expect: 1}\n    job: {namespace: shop, cronJob: backup}\n    web: {namespace: shop, deployment: web}",
    ),
    ("limits", "  limits: {pods: 1, objects: 1, duration: 20m}"),
    (
        "probes",
        "  probes:\n    checkout: {http: {url: \"http://checkout.shop/healthz\"}, every: 100ms}\n    orders: {ledger: {postgres: {service: shop/db, database: orders, secret: shop/ledger}}}\n    paged: {alert: {name: Down}}\n    slow: {http: {url: \"http://checkout.shop/healthz\"}, every: 30s}",
    ),
    ("steady", "  steadyState: {good: [checkout], quiet: [paged], for: 30s, timeout: 5m}"),
    (
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {name: up, inject: {scale: {target: web, replicas: 3}}}\n    - {name: cut, inject: {cutBackupJob: {target: job}}}\n    - {name: book, runbook: {cronJob: shop/restore}}",
    ),
    ("objectives", "  objectives:\n    - recoveryTime: {probe: checkout, after: lose, within: \"${rto}\"}"),
    ("end", ""),
];

/// A scenario with one part replaced. `§` marks where the mistake is; it is taken out, and its line and column given back.
fn text(part: &str, replacement: &str) -> (String, Option<(usize, usize)>) {
    let parts: Vec<&str> = PARTS.iter().map(|(name, text)| if *name == part { replacement } else { *text }).collect();
    assert!(PARTS.iter().any(|(name, _)| *name == part), "{part}");
    marked(&parts.join("\n"))
}

/// A text without its `§`, and where that was.
fn marked(text: &str) -> (String, Option<(usize, usize)>) {
    let at = text.find('§').map(|at| {
        let before = &text[..at];
        (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap_or("").chars().count() + 1)
    });
    (text.replace('§', ""), at)
}

fn checked(text: &str) -> Checked {
    check_text("test.yaml", text, &[])
}

fn of(list: &[Diagnostic], severity: Severity) -> Vec<&Diagnostic> {
    list.iter().filter(|d| d.severity == severity).collect()
}

#[test]
fn the_scenario_of_these_tests_has_no_mistake() {
    let (text, _) = text("end", "");
    let checked = checked(&text);
    assert_eq!(of(&checked.diagnostics, Severity::Mistake), Vec::<&Diagnostic>::new());
    assert_eq!(checked.diagnostics.len(), 0, "{:#?}", checked.diagnostics);
    assert!(checked.scenario.is_some());
}

#[test]
fn every_mistake_is_said_alone_and_at_its_place() {
    assert!(MISTAKES.len() + MEANINGS.len() >= 150);
    let mut wrong = Vec::new();
    for (part, replacement, expected) in MISTAKES {
        wrong.extend(alone(text(part, replacement), expected).map(|why| format!("{part}: {replacement}\n   {why}")));
    }
    for (part, replacement, expected) in MEANINGS {
        wrong.extend(alone(wrapped(part, replacement), expected).map(|why| format!("{part}: {replacement}\n   {why}")));
    }
    for (spec, expected) in ENVIRONMENTS {
        let text = format!("apiVersion: firedrill.dev/v1alpha1\nkind: Environment\nmetadata: {{name: e}}\nspec:\n{spec}\n");
        wrong.extend(alone(marked(&text), expected).map(|why| format!("environment: {spec}\n   {why}")));
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whether exactly the one mistake is said, at its place; otherwise what was said instead.
fn alone((text, at): (String, Option<(usize, usize)>), expected: &str) -> Option<String> {
    let checked = checked(&text);
    let found: Vec<(Option<(usize, usize)>, &str)> =
        of(&checked.diagnostics, Severity::Mistake).into_iter().map(|d| (d.span.map(|s| (s.line, s.column)), d.message.as_str())).collect();
    // A mistake without a mark of its own is at `spec`.
    let at = at.or(Some((4, 1)));
    if !matches!(found.as_slice(), [(place, message)] if *place == at && message.contains(expected)) {
        return Some(format!("wanted {at:?} {expected}\n   found  {found:?}"));
    }
    (checked.scenario.is_some() || checked.environment.is_some()).then(|| "it is usable all the same".to_owned())
}

/// A scenario with one more target, probe, step, fault, runbook's pod or objective, or without faults or any steps.
fn wrapped(what: &str, text: &str) -> (String, Option<(usize, usize)>) {
    let part = |name: &str| PARTS.iter().find(|(n, _)| *n == name).unwrap().1.to_owned();
    let replaced: Vec<(&str, String)> = match what {
        "target" => vec![("targets", format!("{}\n    {text}", part("targets")))],
        "probe" => vec![("probes", format!("{}\n    {text}", part("probes")))],
        "long" => vec![("limits", text.to_owned()), ("steps", format!("{}\n    - {{hold: 30m}}", part("steps")))],
        "step" => vec![("steps", format!("{}\n    - {text}", part("steps")))],
        "run" => vec![(
            "steps",
            format!(
                "{}\n    - {{runbook: {{cronJob: shop/a, restores: [primary]}}}}\n    - {{runbook: {{file: x.md, runIn: {{job: {text}}}}}}}",
                part("steps")
            ),
        )],
        "fault" => vec![
            ("targets", format!("{}\n    claim: {{namespace: shop, pvc: data}}\n    all: {{nodes: \"a=b\"}}", part("targets"))),
            ("limits", "  limits: {pods: 9, nodes: 9, objects: 9, volumes: 9, duration: 20m}".to_owned()),
            ("steps", format!("{}\n    - {{inject: {text}}}", part("steps"))),
        ],
        "objective" => vec![("objectives", format!("{}\n    - {text}", part("objectives")))],
        "stepless" | "faultless" => vec![
            ("parameters", "  parameters: {}".to_owned()),
            ("steps", if what == "stepless" { "  steps: []" } else { "  steps: [{hold: 1s}]" }.to_owned()),
            ("objectives", format!("  objectives:\n    - {text}")),
        ],
        part => vec![(part, text.to_owned())],
    };
    let parts: Vec<String> = PARTS
        .iter()
        .map(|(name, text)| replaced.iter().find(|(n, _)| n == name).map_or_else(|| (*text).to_owned(), |(_, new)| new.clone()))
        .collect();
    marked(&parts.join("\n"))
}

#[test]
fn warnings_leave_the_scenario_usable() {
    for (part, replacement, expected) in WARNINGS {
        let (text, at) = text(part, replacement);
        let checked = checked(&text);
        assert!(checked.scenario.is_some(), "{part}: {replacement}: {:#?}", checked.diagnostics);
        let at = at.or(Some((4, 1)));
        let found: Vec<_> = checked.diagnostics.iter().map(|d| (d.span.map(|s| (s.line, s.column)), d.message.as_str())).collect();
        assert!(
            matches!(found.as_slice(), [(place, message)] if *place == at && message.contains(expected)),
            "{part}: {replacement}: {at:?} {found:?}"
        );
    }
}

#[test]
fn too_many_are_counted_and_never_change_the_outcome() {
    let many: Vec<String> = (0..1500).map(|i| format!("p{i}: 1")).collect();
    let (unused, _) = text("parameters", &format!("  parameters: {{rto: 60s, {}}}", many.join(", ")));
    let warned = checked(&unused);
    assert!(warned.scenario.is_some());
    assert_eq!(warned.diagnostics.len(), 201);
    assert_eq!(warned.diagnostics.last().unwrap().message, "1300 more are not shown");
    assert!(of(&warned.diagnostics, Severity::Mistake).is_empty());
    // The one mistake among them is kept and shown.
    let wrong = checked(&unused.replace("after: lose", "after: loose"));
    assert!(wrong.scenario.is_none());
    assert!(wrong.diagnostics.iter().any(|d| d.message.starts_with("step `loose` does not exist")));
}

#[test]
fn the_cadence_a_warning_names_decides_the_target() {
    let (slow, _) = text("objectives", "  objectives:\n    - recoveryTime: {probe: slow, after: lose, within: \"${rto}\"}");
    let help = checked(&slow).diagnostics[0].help.clone().unwrap();
    assert_eq!(help, "`every: 15s, timeout: 30s` or faster decides it");
    let faster = slow.replace("every: 30s", "every: 15s, timeout: 30s");
    assert_eq!(checked(&faster).diagnostics.len(), 0);
    let slower = slow.replace("every: 30s", "every: 15s, timeout: 31s");
    assert_eq!(checked(&slower).diagnostics.len(), 1);
}

#[test]
fn limits_are_held_against_what_the_steps_do() {
    let (none, _) = text("limits", "  limits: {objects: 1}");
    let messages: Vec<String> = checked(&none).diagnostics.iter().map(Diagnostic::line).collect();
    assert_eq!(messages, ["test.yaml:19:29: mistake: `freeze` breaks at least 1 of `pods`, and `limits.pods` is 0"]);
    // As many as are expected, if all are chosen.
    let (three, _) = text("end", "");
    let three = three.replace("expect: 1", "expect: 3");
    assert!(checked(&three).diagnostics[0].message.contains("`freeze` breaks at least 3 of `pods`, and `limits.pods` is 1"));
    assert_eq!(checked(&three.replace("expect: 3", "expect: 3, mode: one")).diagnostics.len(), 0);
    let (short, _) = text("limits", "  limits: {pods: 1, objects: 1, duration: 59s}");
    let messages: Vec<String> = checked(&short).diagnostics.iter().map(|d| d.message.clone()).collect();
    assert!(messages.contains(&"the drill takes at least 1m and may take 59s".to_owned()), "{messages:?}");
}

#[test]
fn all_mistakes_of_a_file_are_said_at_once_in_its_order() {
    let text = "apiVersion: firedrill.dev/v1alpha1\nkind: Scenario\nmetadata: {name: X}\nspec:\n  summary: 1\n  targets:\n    a: {namespace: shop, pods: \"=\"}\n    b: {namespace: shop, pods: x=y, pods: z}\n  probes:\n    p: {htp: {}}\n    q: {pods: {target: c, ready: 0}}\n  steps:\n    - inject: {freeze: {target: b}, undo: never}\n    - hold: 5\n    - waitFor: {probe: r, state: good, timeout: 0s}\n  objectives:\n    - recoveryTime: {probe: p, after: nothing, within: 1}\n    - detectionTime: {alert: q, after: x, within: 1m}\n---\napiVersion: firedrill.dev/v1alpha1\nkind: Environment\nmetadata: {name: here}\nspec:\n  clusters: {}\n  prometheus: {service: monitoring/prometheus}\n";
    let checked = checked(text);
    let lines: Vec<usize> = checked.diagnostics.iter().map(|d| d.span.map_or(0, |s| s.line)).collect();
    assert_eq!(
        lines,
        [3, 4, 5, 7, 8, 10, 11, 11, 13, 14, 15, 15, 17, 17, 18, 18, 24, 25],
        "{:#?}",
        checked.diagnostics.iter().map(Diagnostic::line).collect::<Vec<_>>()
    );
}

/// What a part with a mistake of shape would mean is not guessed; the names in it are checked all the same, of every kind of part.
#[test]
fn a_mistake_of_shape_hides_no_name_that_does_not_exist() {
    let cases = [
        ("steady", "  steadyState: {good: [chekout], quiet: [pagd], for: 30s}", vec!["probe `chekout`", "probe `pagd`"]),
        ("steps", "  steps:\n    - {name: lose, inject: {freeze: {target: primry}}, within: 5}", vec!["target `primry`"]),
        (
            "steps",
            "  steps:\n    - {name: lose, parallel: [{hold: 5}, {revert: los}, {waitFor: {probe: chekout, state: good, timeout: 1s}}]}",
            vec!["step `los`", "probe `chekout`"],
        ),
        ("steps", "  steps:\n    - {name: lose, inject: {partition: {target: primary, peers: [wb], port: [1]}}}", vec!["target `wb`"]),
        ("probes", "  probes:\n    checkout: {pods: {target: primry, ready: many}}", vec!["target `primry`"]),
        ("probes", "  probes:\n    checkout: {sql: {postgres: {runbook: bok, database: 1, secret: a/b}, query: x}}", vec!["step `bok`"]),
        ("objectives", "  objectives:\n    - order: {probes: [checkout, slw], after: los, within: 1s}", vec!["probe `slw`", "step `los`"]),
        ("objectives", "  objectives:\n    - dataLoss: {ledger: ordrs, writes: few}", vec!["probe `ordrs`"]),
        ("end", "  abortIf: [{probe: chekout}]", vec!["probe `chekout`"]),
    ];
    for (part, replacement, names) in cases {
        let (text, _) = text(part, replacement);
        let checked = checked(&text);
        let said: Vec<&str> = checked.diagnostics.iter().map(|d| d.message.as_str()).collect();
        for name in names {
            let times = said.iter().filter(|message| message.starts_with(&format!("{name} does not exist"))).count();
            assert_eq!(times, 1, "{replacement}: {name}: {said:#?}");
        }
        assert!(said.iter().any(|message| !message.contains("does not exist")), "{replacement}: {said:#?}");
    }
    // Where the names cannot be read, none is called dangling.
    let (unreadable, _) = text("targets", "  targets: [primary, job, web]");
    let said = checked(&unreadable).diagnostics;
    assert_eq!(of(&said, Severity::Mistake).len(), 1, "{said:#?}");
}

#[test]
fn a_duplicate_shows_both_places_and_plain_text_is_stable() {
    let (text, _) = text("limits", "  limits:\n    pods: 1\n    objects: 1\n    pods: 2");
    let checked = checked(&text);
    let expected = "\
test.yaml:14:5: mistake: key `pods` is set twice
    ,-[test.yaml:12:5]
 12 |     pods: 1
    :     ^^|^
    :       `-- first set here, line 12
    `----
    ,-[test.yaml:14:5]
 14 |     pods: 2
    :     ^^|^
    :       `-- here
    `----
  help: keep one of them

";
    assert_eq!(render(&checked.diagnostics, false), expected);
    assert!(render(&checked.diagnostics, false).is_ascii());
}

#[test]
fn a_long_line_is_shown_in_part() {
    let (text, _) = text("summary", &format!("  summary: {{a: {}, b: §1}}", "x".repeat(100_000)).replace('§', ""));
    let checked = checked(&text);
    let shown = render(&checked.diagnostics, false);
    assert!(!checked.diagnostics.is_empty() && shown.len() < 5_000, "{} bytes", shown.len());
}

#[test]
fn parameters_keep_their_type_and_can_be_set() {
    let (text, _) = text("parameters", "  parameters: {rto: 60s}");
    let sets = |value: &str| vec![("rto".to_owned(), value.to_owned())];
    let loaded = parse_scenario("test.yaml", &text, &sets("10s")).unwrap();
    assert_eq!(loaded.scenario.spec.objectives[0].recovery_time.as_ref().unwrap().within.to_string(), "10s");
    assert_eq!(loaded.parameters["rto"], "10s");
    assert_eq!(loaded.sha256.len(), 64);
    // The place is where it is used; what it was is said.
    let problems = parse_scenario("test.yaml", &text, &sets("10")).unwrap_err();
    assert_eq!(problems.list[0].line(), "test.yaml:24:60: mistake: duration `10` has no unit: write `10s`, `10m` or `10h`");
    assert!(problems.list[0].help.as_ref().unwrap().contains("`${rto}` is `10`"));
    let problems = parse_scenario("test.yaml", &text, &[("rtoo".to_owned(), "1s".to_owned())]).unwrap_err();
    assert!(problems.list.iter().any(|d| d.message.contains("`--set` names the parameter `rtoo`")));

    let number = text
        .replace("rto: 60s", "rto: 60s, n: 1, word: \"5\"")
        .replace("pods: 1,", "pods: \"${n}\",")
        .replace("A test.", "\"$${x} ${word} ${n}\"");
    let loaded = parse_scenario("test.yaml", &number, &[("n".to_owned(), "2".to_owned())]).unwrap();
    assert_eq!(loaded.scenario.spec.limits.pods, 2);
    assert_eq!(loaded.scenario.spec.summary, "${x} 5 2");
    let problems = parse_scenario("test.yaml", &number, &[("n".to_owned(), "two".to_owned())]).unwrap_err();
    assert!(problems.list[0].message.contains("parameter `n` is a number, and `--set` gives it `two`"));
}

#[test]
fn aliases_and_merge_keys_mean_what_they_stand_for() {
    let (text, _) = text(
        "probes",
        "  probes:\n    checkout: &web {http: {url: \"http://a/\"}, every: 100ms}\n    again: {<<: *web, every: 1s}\n    same: *web\n    paged: {alert: {name: Down}}",
    );
    let scenario = checked(&text).scenario.unwrap();
    assert_eq!(scenario.spec.probes["again"].every.unwrap().to_string(), "1s");
    assert_eq!(scenario.spec.probes["again"].http, scenario.spec.probes["checkout"].http);
    assert_eq!(scenario.spec.probes["same"], scenario.spec.probes["checkout"]);
}

/// A restored copy is looked for in the pod of a runbook step that makes one.
#[test]
fn a_restored_copy_needs_the_pod_of_its_runbook() {
    let side = |what: &str| {
        format!(
            "  objectives:\n    - stepTime: {{step: book, within: \"${{rto}}\"}}\n    - restore: {{source: {{postgres: {{service: shop/db, database: a, secret: shop/x}}}}, restored: {{postgres: {{runbook: {what}, database: a, secret: shop/x}}}}, query: select 1}}"
        )
    };
    let (text, at) = text("objectives", &side("§book"));
    let checked = checked(&text);
    let found: Vec<_> = checked.diagnostics.iter().map(|d| (d.span.map(|s| (s.line, s.column)), d.message.as_str())).collect();
    assert_eq!(found, [(at, "step `book` is no runbook with `runIn.job`: no pod is made for it")]);
}

#[test]
fn every_scenario_of_the_project_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut seen = Vec::new();
    for folder in std::fs::read_dir(&root).unwrap() {
        let folder = folder.unwrap().path();
        if folder.ends_with("world") {
            // What is in the sandbox: objects of Kubernetes, and an environment.
            let world = firedrill::rehearse::World::load(&folder).unwrap();
            assert!(world.environment.0.spec.prometheus.is_some() && !world.objects.is_empty());
            continue;
        }
        for file in std::fs::read_dir(&folder).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_none_or(|e| e != "yaml") {
                continue;
            }
            let checked = check_file(&file, &[]);
            assert!(checked.diagnostics.is_empty(), "{}", render(&checked.diagnostics, false));
            let scenario = checked.scenario.unwrap();
            // What is written as JSON, as in the evidence, is the same scenario.
            let again = serde_json::to_string(&scenario).unwrap();
            let again = check_text("again", &again, &[]);
            assert!(again.diagnostics.iter().all(|d| d.severity == Severity::Warning), "{}", render(&again.diagnostics, false));
            assert_eq!(again.scenario.unwrap(), scenario);
            seen.push(scenario.metadata.name);
        }
    }
    for incident in ["titanfile", "tito", "bluetie", "polarismail", "intuiface"] {
        assert!(seen.iter().any(|name| name == incident), "{incident} is missing of {seen:?}");
    }
}

/// `FIREDRILL_BLESS=1` writes them anew.
#[test]
fn the_schemas_in_docs_are_those_of_the_types() {
    for document in Document::ALL {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schema/{}.json", document.kind().to_lowercase()));
        let schema = format!("{:#}\n", document.schema());
        if std::env::var_os("FIREDRILL_BLESS").is_some() {
            std::fs::write(&path, &schema).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == schema, "{} is not what the types say: run the test with FIREDRILL_BLESS=1", path.display());
        assert_eq!(document.schema()["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(!schema.contains("\"null\"") && !schema.contains("x-one-of"));
    }
}

fn firedrill(args: &[&str]) -> (i32, String, String) {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_firedrill")).args(args).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn validate_says_ok_or_how_many_and_exits_so() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.yaml");
    let bad = folder.path().join("bad.yaml");
    let (scenario, _) = text("end", "");
    std::fs::write(&good, &scenario).unwrap();
    std::fs::write(&bad, scenario.replace("after: lose", "after: loose").replace("pods: 1,", "pods: x,")).unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    let (code, out, _) = firedrill(&["validate", good]);
    assert_eq!((code, out), (0, format!("{good}: ok\n")));
    let (code, out, _) = firedrill(&["validate", good, bad]);
    assert_eq!(code, 2);
    assert!(out.starts_with(&format!("{good}: ok\n{bad}:11:18: mistake: `pods` must be a whole number")), "{out}");
    assert!(out.ends_with(&format!("2 mistakes, 0 warnings in {bad}\n")), "{out}");
    assert!(!out.contains('\u{1b}'), "colours where there is no terminal");
    let (code, out, _) = firedrill(&["validate", "-o", "json", bad]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["files"][0]["mistakes"].as_u64(), json["files"][0]["diagnostics"][0]["line"].as_u64()), (2, Some(2), Some(11)));
    let (code, out, _) = firedrill(&["validate", "--set", "rto=5", good]);
    assert_eq!(code, 2, "{out}");
    let (code, out, _) = firedrill(&["validate", "/nowhere/x.yaml"]);
    assert!(code == 2 && out.contains("failed to read the file"), "{out}");
    assert_eq!(firedrill(&["validate"]).0, 2);
    let (code, out, _) = firedrill(&["schema", "environment"]);
    assert!(code == 0 && out.contains("\"Environment\""));
}

#[test]
fn a_runbook_must_be_there_and_have_the_steps_an_objective_names() {
    let folder = tempfile::tempdir().unwrap();
    let (scenario, _) = text(
        "steps",
        "  steps:\n    - {name: lose, inject: {freeze: {target: primary}}}\n    - {name: up, inject: {scale: {target: web, replicas: 3}}}\n    - {name: cut, inject: {cutBackupJob: {target: job}}}\n    - {name: book, runbook: {file: book.md, runIn: {target: primary}}}",
    );
    let scenario = format!("{}\n    - runbook: {{step: book, within: 5m, steps: {{Restore it: 1m}}}}\n", scenario.trim_end());
    let file = folder.path().join("scenario.yaml");
    std::fs::write(&file, &scenario).unwrap();
    let line = |checked: &Checked| checked.diagnostics.iter().map(|d| d.message.clone()).collect::<Vec<_>>();
    assert_eq!(line(&check_file(&file, &[])), ["file `book.md` does not exist"]);
    // Nor may it lie elsewhere, behind a link.
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("book.md")).unwrap();
    assert_eq!(line(&check_file(&file, &[])), ["file `book.md` is a link that leads out of the scenario's folder"]);
    std::fs::remove_file(folder.path().join("book.md")).unwrap();
    // Together with every other mistake.
    std::fs::write(&file, scenario.replace("within: 5m", "within: 5")).unwrap();
    assert_eq!(line(&check_file(&file, &[])).len(), 2, "{:?}", line(&check_file(&file, &[])));
    std::fs::write(&file, &scenario).unwrap();
    std::fs::write(folder.path().join("book.md"), "# Book\n## Restore\n```sh\ntrue\n```\n").unwrap();
    assert_eq!(line(&check_file(&file, &[])), ["the runbook of step `book` has no step `Restore it`: did you mean `Restore`?"]);
    std::fs::write(folder.path().join("book.md"), "# Book\n## Restore it\n```sh\ntrue\n```\n").unwrap();
    assert_eq!(line(&check_file(&file, &[])), Vec::<String>::new());
}
