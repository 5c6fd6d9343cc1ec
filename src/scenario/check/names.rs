//! The names in the parts whose shape is wrong. What such a part means is not guessed, but a name in it that exists nowhere is a
//! mistake whatever the part will mean; it is said together with the others.

use serde_json::{Map, Value as Json};

use super::{model::At, shape::resolve, spec::Cx};
use crate::scenario::tree::{Scalar, ScalarKind, Value};

/// Checks the names in every part that the other checks had to leave out. `schema` is the document's, whose `x-names` say what is a name.
pub(crate) fn check(cx: &mut Cx<'_>, schema: &Json) {
    let spec = cx.spec;
    let mut left_out: Vec<(&str, At<'_>)> = Vec::new();
    for (name, _) in cx.model.probes.iter().filter(|(_, probe)| probe.is_none()) {
        left_out.push(("probes", spec.get("probes").get(name)));
    }
    if cx.model.steady.is_none() {
        left_out.push(("steadyState", spec.get("steadyState")));
    }
    for (section, indexes) in
        [("steps", missing(&cx.model.steps)), ("objectives", missing(&cx.model.objectives)), ("abortIf", missing(&cx.model.abort_if))]
    {
        left_out.extend(indexes.into_iter().map(|i| (section, spec.get(section).item(i))));
    }
    let Some(defs) = schema.get("$defs").and_then(Json::as_object) else { return };
    let member = |schema, key: &str| resolve(defs, schema)?.0.get("properties")?.get(key);
    let Some(spec_schema) = member(schema, "spec") else { return };
    for (section, at) in left_out {
        let Some(section) = member(spec_schema, section) else { continue };
        // Of a list or a map of parts, what one of them is.
        let part = ["items", "additionalProperties"].iter().find_map(|key| section.get(key)).unwrap_or(section);
        names(cx, defs, part, at);
    }
}

fn missing<T>(items: &[Option<T>]) -> Vec<usize> {
    items.iter().enumerate().filter(|(_, item)| item.is_none()).map(|(i, _)| i).collect()
}

/// As deep as the tree at most.
fn names(cx: &mut Cx<'_>, defs: &Map<String, Json>, schema: &Json, at: At<'_>) {
    let Some(node) = at.node() else { return };
    if let Some(what) = schema.get("x-names").and_then(Json::as_str) {
        each(at, |at| name(cx, what, at));
        return;
    }
    let Some((schema, _)) = resolve(defs, schema) else { return };
    if let Some(items) = schema.get("items") {
        (0..node.items().len()).for_each(|i| names(cx, defs, items, at.item(i)));
    }
    for (key, _) in node.entries() {
        if let Some(member) = schema.get("properties").and_then(|properties| properties.get(&key.text)) {
            names(cx, defs, member, at.get(&key.text));
        }
    }
}

/// The value, or each item of a list.
fn each(at: At<'_>, mut with: impl FnMut(At<'_>)) {
    match at.node().map_or(0, |node| node.items().len()) {
        0 => with(at),
        items => (0..items).for_each(|i| with(at.item(i))),
    }
}

/// Anything but a text was said to be none.
fn name(cx: &mut Cx<'_>, what: &str, at: At<'_>) {
    let Some(Value::Scalar(Scalar { text: name, kind: ScalarKind::Text, .. })) = at.node().map(|node| &node.value) else { return };
    match what {
        "probe" => drop(cx.probe(at, name)),
        "step" => drop(cx.step(at, name)),
        _ => drop(cx.named_target(at, name)),
    }
}
