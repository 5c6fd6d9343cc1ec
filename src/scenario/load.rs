//! From a file or a text to a checked scenario or environment.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{
    check,
    diag::{Diagnostic, Gather, Problems, Severity, Source, Span, clip, nearest, quoted},
    params,
    schema::Document,
    tree::{self, MAX_BYTES, Node},
    types::{Environment, Scalar, Scenario, Step},
};

/// A scenario ready to be planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The scenario, its parameters replaced by their values.
    pub scenario: Scenario,
    /// The file's text, as it is.
    pub text: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// The parameters and the values they were given.
    pub parameters: IndexMap<String, String>,
    /// The folder of the file; runbooks are looked for there.
    pub dir: PathBuf,
    /// What a person should look at.
    pub warnings: Vec<Diagnostic>,
}

/// All that is in a file, and all that is wrong with it.
#[derive(Debug, Default)]
pub struct Checked {
    /// The scenario, if there is one without mistakes.
    pub scenario: Option<Scenario>,
    /// The environment, if there is one without mistakes.
    pub environment: Option<Environment>,
    /// The parameters and the values they were given.
    pub parameters: IndexMap<String, String>,
    /// Mistakes and warnings, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// Which documents of a file are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    Everything,
    Scenarios,
    Environments,
}

/// Reads and checks the scenario of a file. `sets` are new values of its parameters.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn load_scenario(path: &Path, sets: &[(String, String)]) -> Result<Loaded, Problems> {
    let name = path.display().to_string();
    let text = read(path)?;
    let dir = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    finish_scenario(&name, &text, sets, dir, true)
}

/// Checks the scenario of a text, without any I/O. `name` stands for the file in messages.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn parse_scenario(name: &str, text: &str, sets: &[(String, String)]) -> Result<Loaded, Problems> {
    finish_scenario(name, text, sets, PathBuf::new(), false)
}

/// Reads and checks the environment of a file.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn load_environment(path: &Path) -> Result<Environment, Problems> {
    parse_environment(&path.display().to_string(), &read(path)?)
}

/// Checks the environment of a text, without any I/O.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn parse_environment(name: &str, text: &str) -> Result<Environment, Problems> {
    let checked = check(name, text, &[], None, Only::Environments);
    match checked.environment {
        Some(environment) if !has_mistakes(&checked.diagnostics) => Ok(environment),
        _ => Err(Problems { name: name.to_owned(), list: checked.diagnostics }),
    }
}

/// Checks everything in a file, whatever documents it holds; the runbooks a scenario names must be there too.
pub fn check_file(path: &Path, sets: &[(String, String)]) -> Checked {
    match read(path) {
        Ok(text) => check(&path.display().to_string(), &text, sets, Some(path.parent().unwrap_or(Path::new(""))), Only::Everything),
        Err(problems) => Checked { diagnostics: problems.list, ..Checked::default() },
    }
}

/// Checks everything in a text, without any I/O.
pub fn check_text(name: &str, text: &str, sets: &[(String, String)]) -> Checked {
    check(name, text, sets, None, Only::Everything)
}

fn finish_scenario(name: &str, text: &str, sets: &[(String, String)], dir: PathBuf, files: bool) -> Result<Loaded, Problems> {
    let checked = check(name, text, sets, files.then_some(dir.as_path()), Only::Scenarios);
    match checked.scenario {
        Some(scenario) if !has_mistakes(&checked.diagnostics) => Ok(Loaded {
            scenario,
            text: text.to_owned(),
            sha256: hex::encode(Sha256::digest(text.as_bytes())),
            parameters: checked.parameters,
            dir,
            warnings: checked.diagnostics,
        }),
        _ => Err(Problems { name: name.to_owned(), list: checked.diagnostics }),
    }
}

fn has_mistakes(list: &[Diagnostic]) -> bool {
    list.iter().any(|d| d.severity == Severity::Mistake)
}

/// Reads a file of text, no more of it than a scenario can be.
fn read(path: &Path) -> Result<String, Problems> {
    let name = path.display().to_string();
    let fail = |message: String, help: &str| {
        let mut gather = Gather::new(Source::new(&name, ""));
        gather.whole(message).help_if((!help.is_empty()).then(|| help.to_owned()));
        Problems { name: name.clone(), list: gather.finish() }
    };
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(fail(format!("failed to read the file: {error}"), ""));
    }
    if bytes.len() > MAX_BYTES {
        return Err(fail(format!("the file is larger than {} MiB", MAX_BYTES >> 20), "a scenario is a few kilobytes"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let utf16 = error.as_bytes().starts_with(&[0xff, 0xfe]) || error.as_bytes().starts_with(&[0xfe, 0xff]);
            let lossy = String::from_utf8_lossy(error.as_bytes());
            let source = Source::new(&name, &lossy);
            let mut gather = Gather::new(source);
            let span = gather.source.span(at, at + 3);
            gather.mistake(span, format!("not UTF-8: the byte {} of the file is no character", at + 1)).help(if utf16 {
                "the file is UTF-16; save it as UTF-8"
            } else {
                "save the file as UTF-8"
            });
            Err(Problems { name, list: gather.finish() })
        }
    }
}

/// The whole way from a text. `dir`: where the files are that a scenario names; none when they are not looked for.
fn check(name: &str, text: &str, sets: &[(String, String)], dir: Option<&Path>, only: Only) -> Checked {
    if text.len() > MAX_BYTES {
        let mut gather = Gather::new(Source::new(name, ""));
        gather.whole(format!("the text is larger than {} MiB", MAX_BYTES >> 20)).help("a scenario is a few kilobytes");
        return Checked { diagnostics: gather.finish(), ..Checked::default() };
    }
    let mut gather = Gather::new(Source::new(name, text));
    let mut checked = Checked::default();
    if let Some(at) = text.find('\0') {
        let span = gather.source.span(at, at + 1);
        gather.mistake(span, "a NUL character is in the file").help("the file is damaged or not a text");
        return Checked { diagnostics: gather.finish(), ..checked };
    }
    let mut first: [Option<Span>; 2] = [None, None];
    let documents = tree::read(&mut gather);
    let readable = gather.mistakes() == 0;
    for mut root in documents {
        if !matches!(root.value, tree::Value::Map(_)) {
            gather
                .mistake(root.span, format!("a document must be a map of keys, not {}", root.described()))
                .help("it starts with `apiVersion:`");
            continue;
        }
        let Some(document) = check::document(&root, &mut gather) else { continue };
        let wanted = match only {
            Only::Everything => true,
            Only::Scenarios => document == Document::Scenario,
            Only::Environments => document == Document::Environment,
        };
        if !wanted {
            continue;
        }
        let slot = &mut first[usize::from(document == Document::Environment)];
        if let Some(first) = slot {
            let kind = root.get("kind").map_or(root.span, |node| node.span);
            gather
                .mistake(kind, format!("a second {} in one file", document.kind()))
                .also(*first, format!("the first one, line {}", first.line))
                .help("give each its own file");
        }
        *slot = slot.or_else(|| root.get("kind").map(|node| node.span));
        match document {
            Document::Scenario => {
                checked.parameters = params::substitute(&mut root, sets, &mut gather);
                checked.scenario = scenario(&root, &checked.parameters, dir, &mut gather);
            }
            Document::Environment => checked.environment = environment(&root, &mut gather),
        }
    }
    let missing = match only {
        Only::Scenarios if first[0].is_none() => Some("Scenario"),
        Only::Environments if first[1].is_none() => Some("Environment"),
        Only::Everything if first == [None, None] => Some("Scenario or Environment"),
        _ => None,
    };
    if let Some(kind) = missing.filter(|_| readable && gather.mistakes() == 0) {
        gather
            .whole(format!("the file holds no {kind}"))
            .help(format!("a document starts with `apiVersion: {}` and `kind: …`", super::types::API_VERSION));
    }
    if gather.mistakes() > 0 {
        checked.scenario = None;
        checked.environment = None;
    }
    checked.diagnostics = gather.finish();
    checked
}

fn scenario(root: &Node, parameters: &IndexMap<String, String>, dir: Option<&Path>, gather: &mut Gather) -> Option<Scenario> {
    let json = check::shape(root, Document::Scenario.walked(), gather)?;
    let model = check::scenario(root, &json, gather);
    if let Some(dir) = dir {
        files(root, &model, dir, gather);
    }
    if gather.mistakes() > 0 {
        return None;
    }
    let mut scenario: Scenario = typed(root, &json, gather)?;
    for (name, value) in &mut scenario.spec.parameters {
        if let Some(text) = parameters.get(name).filter(|_| value.0.is_string()) {
            *value = Scalar(serde_json::Value::String(text.clone()));
        }
    }
    Some(scenario)
}

fn environment(root: &Node, gather: &mut Gather) -> Option<Environment> {
    let before = gather.mistakes();
    let json = check::shape(root, Document::Environment.walked(), gather)?;
    let environment = if gather.mistakes() == before { typed(root, &json, gather) } else { None };
    check::environment(root, environment.as_ref(), gather);
    environment
}

/// The JSON of a checked shape as its type. The shape is made from the type, so this fails only where the two differ.
fn typed<T: DeserializeOwned>(root: &Node, json: &serde_json::Value, gather: &mut Gather) -> Option<T> {
    match T::deserialize(json) {
        Ok(value) => Some(value),
        Err(error) => {
            gather.mistake(root.span, format!("this document cannot be used: {}", clip(&error.to_string())));
            None
        }
    }
}

/// Every file the steps name must be there, every runbook readable, and every runbook step an objective names in it.
fn files(root: &Node, model: &check::Model, dir: &Path, gather: &mut Gather) {
    let spec_node = root.get("spec");
    let mut headings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let steps: Vec<_> = model.steps.iter().map(Option::as_ref).collect();
    files_of_steps(spec_node.and_then(|s| s.get("steps")), &steps, dir, &mut headings, gather);
    let objectives = spec_node.and_then(|s| s.get("objectives"));
    for (i, objective) in model.objectives.iter().enumerate() {
        let Some(runbook) = objective.as_ref().and_then(|objective| objective.runbook.as_ref()) else { continue };
        let Some(known) = headings.get(&runbook.step) else { continue };
        let steps = objectives.and_then(|o| o.items().get(i)).and_then(|o| o.get("runbook")).and_then(|r| r.get("steps"));
        for heading in runbook.steps.keys().filter(|heading| !known.contains(heading)) {
            let span = steps.and_then(|s| s.entry(heading)).map_or(root.span, |(key, _)| key.span);
            let names = || known.iter().map(String::as_str);
            let meant = nearest(heading, names()).map_or_else(String::new, |n| format!(": did you mean `{n}`?"));
            gather
                .mistake(span, format!("the runbook of step `{}` has no step `{}`{meant}", clip(&runbook.step), clip(heading)))
                .help(format!("its steps are the headings with something to do under them: {}", quoted(names())));
        }
    }
}

/// Gives the headings of each named step's runbook too. Steps with a mistake in them are none. As deep as the tree at most.
fn files_of_steps(
    node: Option<&Node>,
    steps: &[Option<&Step>],
    dir: &Path,
    headings: &mut BTreeMap<String, Vec<String>>,
    gather: &mut Gather,
) {
    for (i, step) in steps.iter().enumerate() {
        let Some(step) = step else { continue };
        let at = node.and_then(|n| n.items().get(i));
        if let Some(file) = step.runbook.as_ref().and_then(|r| r.file.as_deref()) {
            let span = at.and_then(|n| n.get("runbook")).and_then(|n| n.get("file")).or(at).map_or_else(Default::default, |n| n.span);
            if let Some(text) = side_file(dir, file, span, gather) {
                match crate::runbook::parse(&text) {
                    Ok(items) => {
                        let items = items.into_iter().map(|item| item.title).collect();
                        headings.insert(step.name.clone().unwrap_or_default(), items);
                    }
                    Err(error) => drop(gather.mistake(span, format!("the runbook `{}` cannot be followed: {error}", clip(file)))),
                }
            }
        }
        if let Some(object) = step.inject.as_ref().and_then(|fault| fault.object_file()) {
            let place = object.at.iter().fold(at.and_then(|n| n.get("inject")), |node, key| node.and_then(|n| n.get(key))).or(at);
            let _ = side_file(dir, object.file, place.map_or_else(Default::default, |n| n.span), gather);
        }
        if let Some(steps) = &step.parallel {
            let steps: Vec<_> = steps.iter().map(Some).collect();
            files_of_steps(at.and_then(|n| n.get("parallel")), &steps, dir, headings, gather);
        }
    }
}

/// A file in the scenario's folder, no more of it than a scenario may be long.
fn side_file(dir: &Path, name: &str, span: Span, gather: &mut Gather) -> Option<String> {
    // That it leads out of the folder was said.
    if !check::is_beside(name) {
        return None;
    }
    let path = &dir.join(name);
    if !path.is_file() {
        let help = format!("it is looked for at {}", path.display());
        gather.mistake(span, format!("file `{}` does not exist", clip(name))).help(help);
        return None;
    }
    let folder = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    match (folder.canonicalize(), path.canonicalize()) {
        (Ok(folder), Ok(real)) if !real.starts_with(&folder) => {
            gather
                .mistake(span, format!("file `{}` is a link that leads out of the scenario's folder", clip(name)))
                .help(format!("it leads to {}: put the file itself into the folder", real.display()));
            return None;
        }
        (Ok(_), Ok(_)) => {}
        (Err(error), _) | (_, Err(error)) => {
            gather.mistake(span, format!("failed to read file `{}`: {error}", clip(name)));
            return None;
        }
    }
    let mut text = String::new();
    match std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES as u64).read_to_string(&mut text)) {
        Ok(_) => Some(text),
        Err(error) => {
            gather.mistake(span, format!("failed to read file `{}`: {error}", clip(name)));
            None
        }
    }
}
