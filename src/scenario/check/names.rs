//! The names in the parts whose shape is wrong. What such a part means is not guessed, but a name in it that exists nowhere is a
//! mistake whatever the part will mean; it is said together with the others.

use serde_json::Value as Json;

use super::{model::At, spec::Cx};
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
    let walk = Walk { schema };
    let spec_schema = walk.member(schema, "spec");
    for (section, at) in left_out {
        let schema = spec_schema.and_then(|spec| walk.member(spec, section));
        // Of a list or a map of parts, what one of them is.
        let part = schema.map(|schema| {
            ["items", "additionalProperties"].iter().find_map(|key| schema.get(key).filter(|s| s.is_object())).unwrap_or(schema)
        });
        if let Some(part) = part {
            walk.names(cx, part, at);
        }
    }
}

fn missing<T>(items: &[Option<T>]) -> Vec<usize> {
    items.iter().enumerate().filter(|(_, item)| item.is_none()).map(|(i, _)| i).collect()
}

struct Walk<'s> {
    schema: &'s Json,
}

impl<'s> Walk<'s> {
    /// Follows `$ref`.
    fn resolve(&self, schema: &'s Json) -> &'s Json {
        let name = schema.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix("#/$defs/"));
        name.and_then(|name| self.schema.get("$defs")?.get(name)).unwrap_or(schema)
    }

    fn member(&self, schema: &'s Json, key: &str) -> Option<&'s Json> {
        self.resolve(schema).get("properties")?.get(key).map(|member| self.resolve(member))
    }

    /// As deep as the tree at most.
    fn names(&self, cx: &mut Cx<'_>, schema: &'s Json, at: At<'_>) {
        let Some(node) = at.node() else { return };
        if let Some(what) = schema.get("x-names").and_then(Json::as_str) {
            each(at, |at| name(cx, what, at));
            return;
        }
        let schema = self.resolve(schema);
        if let Some(items) = schema.get("items") {
            (0..node.items().len()).for_each(|i| self.names(cx, items, at.item(i)));
        }
        for (key, _) in node.entries() {
            let member = schema.get("properties").and_then(|properties| properties.get(&key.text));
            if let Some(member) = member {
                self.names(cx, member, at.get(&key.text));
            }
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
