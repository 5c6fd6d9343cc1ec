//! Parameters: `${name}` in the values of a scenario, replaced before anything is given a type.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::{
    diag::{Gather, clip, nearest, quoted},
    tree::{Node, Scalar, ScalarKind, Value},
};

/// Longest text a scalar may become.
const MAX_TEXT: usize = 1 << 16;

/// Replaces every `${name}` below `spec`, and the values of `spec.parameters` themselves by those of `sets`.
/// A scalar that is nothing but one parameter takes the parameter's type; `$${` stands for `${`. Places are kept.
/// Gives the parameters with their values, in the scenario's order.
pub(crate) fn substitute(root: &mut Node, sets: &[(String, String)], gather: &mut Gather) -> IndexMap<String, String> {
    let mut parameters: IndexMap<String, Scalar> = IndexMap::new();
    let Value::Map(entries) = &mut root.value else { return IndexMap::new() };
    let Some((_, spec)) = entries.iter_mut().find(|(key, _)| key.text == "spec") else { return IndexMap::new() };
    let Value::Map(spec) = &mut spec.value else { return IndexMap::new() };
    let mut places = IndexMap::new();
    if let Some((_, declared)) = spec.iter_mut().find(|(key, _)| key.text == "parameters")
        && let Value::Map(declared) = &mut declared.value
    {
        for (key, node) in declared {
            // Anything but a scalar is reported by the check of shapes.
            let Value::Scalar(scalar) = &mut node.value else {
                let wrong = Scalar { text: String::new(), kind: ScalarKind::Wrong, note: None };
                parameters.insert(key.text.clone(), wrong);
                continue;
            };
            if let Some((_, value)) = sets.iter().rev().find(|(name, _)| *name == key.text) {
                match overridden(scalar, value) {
                    Ok(new) => *scalar = new,
                    Err(wanted) => {
                        gather
                            .mistake(
                                node.span,
                                format!("parameter `{}` is {wanted}, and `--set` gives it `{}`", clip(&key.text), clip(value)),
                            )
                            .help(format!("give it {wanted}"));
                    }
                }
            }
            parameters.insert(key.text.clone(), scalar.clone());
            places.insert(key.text.clone(), key.span);
        }
    }
    for (name, _) in sets {
        if !parameters.contains_key(name) {
            let names = || parameters.keys().map(String::as_str);
            let meant = nearest(name, names()).map(|n| format!("did you mean `{n}`"));
            let known =
                if parameters.is_empty() { "the scenario has no parameters".to_owned() } else { format!("there are {}", quoted(names())) };
            gather
                .whole(format!("`--set` names the parameter `{}`, which the scenario does not have", clip(name)))
                .help_if(meant)
                .help(known);
        }
    }
    let mut used = BTreeSet::new();
    for (key, node) in spec.iter_mut().filter(|(key, _)| key.text != "parameters") {
        let _ = key;
        walk(node, &parameters, &mut used, gather);
    }
    for (name, span) in &places {
        if !used.contains(name) {
            gather
                .warning(*span, format!("parameter `{}` is not used", clip(name)))
                .help(format!("write `${{{}}}` where its value belongs", clip(name)));
        }
    }
    parameters.into_iter().map(|(name, scalar)| (name, scalar.text)).collect()
}

/// The new value of a parameter, of the same type as its default.
fn overridden(default: &Scalar, value: &str) -> Result<Scalar, &'static str> {
    let kind = match (default.kind, ScalarKind::of_plain(value)) {
        (ScalarKind::Text | ScalarKind::Null | ScalarKind::Wrong, _) => ScalarKind::Text,
        (ScalarKind::Int(_) | ScalarKind::Float(_), kind @ (ScalarKind::Int(_) | ScalarKind::Float(_))) => kind,
        (ScalarKind::Int(_) | ScalarKind::Float(_), _) => return Err("a number"),
        (ScalarKind::Bool(_), kind @ ScalarKind::Bool(_)) => kind,
        (ScalarKind::Bool(_), _) => return Err("`true` or `false`"),
    };
    Ok(Scalar { text: value.to_owned(), kind, note: None })
}

/// The tree is at most [`super::tree::MAX_DEPTH`] deep, so this may recurse.
fn walk(node: &mut Node, parameters: &IndexMap<String, Scalar>, used: &mut BTreeSet<String>, gather: &mut Gather) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| walk(item, parameters, used, gather)),
        Value::Map(entries) => {
            for (key, value) in entries {
                if key.text.contains("${") && !key.text.contains("$${") {
                    gather.mistake(key.span, "a parameter cannot stand in a key").help("`${…}` is replaced in values only");
                }
                walk(value, parameters, used, gather);
            }
        }
        Value::Scalar(scalar) => {
            if scalar.text.contains("${") {
                replace(scalar, node.span, parameters, used, gather);
            }
        }
    }
}

fn replace(
    scalar: &mut Scalar,
    span: super::diag::Span,
    parameters: &IndexMap<String, Scalar>,
    used: &mut BTreeSet<String>,
    gather: &mut Gather,
) {
    let text = std::mem::take(&mut scalar.text);
    let mut out = String::new();
    let mut notes = Vec::new();
    let mut rest = text.as_str();
    let mut whole = None;
    let mut wrong = false;
    while let Some(at) = rest.find("${") {
        let (before, tail) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = tail;
            continue;
        }
        out.push_str(before);
        let Some(end) = tail.find('}') else {
            gather
                .mistake(span, format!("`${{` without `}}` in `{}`", clip(&text)))
                .help("write `${name}` for a parameter, or `$${` for the two characters themselves");
            wrong = true;
            rest = tail;
            continue;
        };
        let name = &tail[..end];
        rest = &tail[end + 1..];
        match parameters.get(name) {
            Some(value) => {
                used.insert(name.to_owned());
                wrong |= value.kind == ScalarKind::Wrong;
                notes.push(format!("`${{{}}}` is `{}`", clip(name), clip(&value.text)));
                if text.len() == name.len() + 3 {
                    whole = Some(value.kind);
                }
                out.push_str(&value.text);
            }
            None => {
                let names = || parameters.keys().map(String::as_str);
                let meant = nearest(name, names()).map(|n| format!("did you mean `${{{n}}}`"));
                let known = if parameters.is_empty() {
                    "declare it under `parameters`, or write `$${` for the two characters themselves".to_owned()
                } else {
                    format!("there are {}; `$${{` stands for the two characters themselves", quoted(names()))
                };
                gather.mistake(span, format!("parameter `{}` does not exist", clip(name))).help_if(meant).help(known);
                wrong = true;
            }
        }
        if out.len() > MAX_TEXT {
            gather.mistake(span, format!("with its parameters replaced this text is longer than {MAX_TEXT} bytes"));
            wrong = true;
            break;
        }
    }
    out.push_str(rest);
    scalar.text = out;
    scalar.kind = if wrong { ScalarKind::Wrong } else { whole.unwrap_or(ScalarKind::Text) };
    scalar.note = (!notes.is_empty()).then(|| notes.join(", "));
}
