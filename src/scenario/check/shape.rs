//! The shape of a document: keys, types, scalars with a unit, exactly one of several kinds.

use serde_json::{Map, Number, Value as Json};

use crate::scenario::{
    diag::{Gather, Span, nearest, quoted},
    tree::{Key, Node, Scalar, ScalarKind, Value},
    types::{Dur, Mode, Percent, Quantity, ServiceRef, StatusClass},
};

/// Checks a document against a schema and gives it as JSON of the schema's types. What is wrong is gathered, and left
/// out of the JSON: whole parts (a limit, a probe, a step …), never only a piece of one, which would then mean something
/// else. An item or a named member that is left out is `null` there.
pub(crate) fn shape(root: &Node, schema: &Json, gather: &mut Gather) -> Option<Json> {
    let empty = Map::new();
    let defs = schema.get("$defs").and_then(Json::as_object).unwrap_or(&empty);
    let mut walk = Walk { defs, none: &empty, gather };
    let place = Place { name: "the document".to_owned(), span: root.span, parent: None, partial: 2 };
    walk.node(root, schema, &place)
}

/// Where the walk is, for messages.
struct Place<'a> {
    /// What the value belongs to: its key, or `item 2 of steps`.
    name: String,
    /// The key, or the value itself in lists.
    span: Span,
    /// The schema of the map around it, and that map's name.
    parent: Option<(&'a Map<String, Json>, &'a str)>,
    /// For how many levels from here a map may be given without its wrong members: the document and its `spec`.
    partial: u8,
}

/// Follows `$ref` into the document's `$defs`; gives the definition's name too.
pub(super) fn resolve<'a>(defs: &'a Map<String, Json>, schema: &'a Json) -> Option<(&'a Map<String, Json>, Option<&'a str>)> {
    let object = schema.as_object()?;
    match object.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix("#/$defs/")) {
        Some(name) => Some((defs.get(name)?.as_object()?, Some(name))),
        None => Some((object, None)),
    }
}

struct Walk<'a, 'g> {
    defs: &'a Map<String, Json>,
    none: &'a Map<String, Json>,
    gather: &'g mut Gather,
}

impl<'a> Walk<'a, '_> {
    fn node(&mut self, node: &Node, schema: &'a Json, place: &Place<'_>) -> Option<Json> {
        let (schema, name) = self.resolve(schema)?;
        if matches!(&node.value, Value::Scalar(Scalar { kind: ScalarKind::Wrong, .. })) {
            return None;
        }
        if let Some(parse) = name.and_then(unit_scalar) {
            return self.unit_scalar(node, schema, parse, place);
        }
        if let Some(choices) = choices(schema) {
            return self.choice(node, &choices, place);
        }
        match schema.get("type") {
            Some(Json::String(kind)) => match kind.as_str() {
                "object" => self.object(node, schema, place),
                "array" => self.array(node, schema, place),
                _ => self.scalar(node, schema, &[kind.as_str()], place),
            },
            Some(Json::Array(kinds)) => {
                let kinds: Vec<&str> = kinds.iter().filter_map(Json::as_str).collect();
                self.scalar(node, schema, &kinds, place)
            }
            // A schema that says nothing accepts everything; the types have none.
            _ => Some(plain_json(node)),
        }
    }

    fn resolve(&self, schema: &'a Json) -> Option<(&'a Map<String, Json>, Option<&'a str>)> {
        resolve(self.defs, schema)
    }

    fn wrong_type(&mut self, node: &Node, place: &Place<'_>, wanted: &str, help: Option<String>) {
        if matches!(&node.value, Value::Scalar(Scalar { kind: ScalarKind::Null, .. })) {
            self.gather
                .mistake(place.span, format!("{} has no value; it must be {wanted}", place.name))
                .help(help.unwrap_or_else(|| "give it a value, or leave the key out".to_owned()));
        } else {
            let message = format!("{} must be {wanted}, not {}", place.name, node.described());
            self.gather.mistake(node.span, message).help_if(help).help_if(note(node));
        }
    }

    /// A text with a form of its own, such as a duration.
    fn unit_scalar(&mut self, node: &Node, schema: &Map<String, Json>, parse: UnitParse, place: &Place<'_>) -> Option<Json> {
        let wanted = schema.get("description").and_then(Json::as_str).unwrap_or("a text");
        let wanted = wanted.split(". ").next().unwrap_or(wanted).split(": ").next().unwrap_or(wanted).trim_end_matches('.');
        match &node.value {
            Value::Scalar(Scalar { text, kind: ScalarKind::Text | ScalarKind::Int(_) | ScalarKind::Float(_), .. }) => match parse(text) {
                Ok(()) => Some(Json::String(text.clone())),
                Err(error) => {
                    self.gather.mistake(node.span, error).help_if(note(node)).help_if(Some(format!("for {}", place.name)));
                    None
                }
            },
            _ => {
                self.wrong_type(node, place, &article(wanted), None);
                None
            }
        }
    }

    fn choice(&mut self, node: &Node, choices: &[&str], place: &Place<'_>) -> Option<Json> {
        match &node.value {
            Value::Scalar(Scalar { text, .. }) if choices.contains(&text.as_str()) => Some(Json::String(text.clone())),
            _ => {
                let meant = node.text().and_then(|text| nearest(text, choices.iter().copied()));
                let help = meant.map(|m| format!("did you mean `{m}`?"));
                self.wrong_type(node, place, &format!("one of {}", quoted(choices.iter().copied())), help);
                None
            }
        }
    }

    fn scalar(&mut self, node: &Node, schema: &Map<String, Json>, kinds: &[&str], place: &Place<'_>) -> Option<Json> {
        let allows = |kind: &str| kinds.contains(&kind);
        if let Value::Scalar(Scalar { text, kind, .. }) = &node.value {
            match kind {
                ScalarKind::Text if allows("string") => return self.string(node, text, schema, place),
                ScalarKind::Bool(value) if allows("boolean") => return Some(Json::Bool(*value)),
                ScalarKind::Int(number) if allows("integer") => return self.integer(node, *number, schema, place),
                ScalarKind::Int(number) if allows("number") => {
                    return i64::try_from(*number).map_or_else(|_| self.out_of_range(node, place), |n| Some(n.into()));
                }
                ScalarKind::Float(number) if allows("number") => {
                    return Number::from_f64(*number).map_or_else(|| self.out_of_range(node, place), |n| Some(Json::Number(n)));
                }
                _ => {}
            }
        }
        let (wanted, help) = match kinds {
            ["string"] => (
                "a text",
                matches!(&node.value, Value::Scalar(s) if s.kind != ScalarKind::Null)
                    .then(|| format!("write it in quotes: \"{}\"", crate::scenario::diag::clip(node.text().unwrap_or("")))),
            ),
            ["integer"] => ("a whole number", None),
            ["number"] => ("a number", None),
            ["boolean"] => (
                "`true` or `false`",
                match node.text().map(str::to_lowercase).as_deref() {
                    Some("yes" | "on" | "y" | "1") => Some("write `true`".to_owned()),
                    Some("no" | "off" | "n" | "0") => Some("write `false`".to_owned()),
                    _ => None,
                },
            ),
            _ => ("a text, a number or a boolean", None),
        };
        self.wrong_type(node, place, wanted, help);
        None
    }

    fn string(&mut self, node: &Node, text: &str, schema: &Map<String, Json>, place: &Place<'_>) -> Option<Json> {
        let bound = |key: &str| schema.get(key).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
        let length = text.chars().count();
        if bound("minLength").is_some_and(|min| length < min) {
            self.gather.mistake(node.span, format!("{} is empty", place.name));
            return None;
        }
        if let Some(max) = bound("maxLength").filter(|max| length > *max) {
            self.gather.mistake(node.span, format!("{} has {length} characters; at most {max} are possible", place.name));
            return None;
        }
        Some(Json::String(text.to_owned()))
    }

    fn out_of_range(&mut self, node: &Node, place: &Place<'_>) -> Option<Json> {
        self.gather.mistake(node.span, format!("{} cannot be {}: it is out of range", place.name, node.described())).help_if(note(node));
        None
    }

    fn integer(&mut self, node: &Node, number: i128, schema: &Map<String, Json>, place: &Place<'_>) -> Option<Json> {
        let (low, high) = match schema.get("format").and_then(Json::as_str) {
            Some("uint8") => (0, i128::from(u8::MAX)),
            Some("uint16") => (0, i128::from(u16::MAX)),
            Some("uint32") => (0, i128::from(u32::MAX)),
            Some("uint64") => (0, i128::from(u64::MAX)),
            Some("int32") => (i128::from(i32::MIN), i128::from(i32::MAX)),
            _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
        };
        if number < low || number > high {
            let bounds = format!("it must be from {low} to {high}");
            self.gather.mistake(node.span, format!("{} cannot be {number}: {bounds}", place.name)).help_if(note(node));
            return None;
        }
        u64::try_from(number).map(Json::from).or_else(|_| i64::try_from(number).map(Json::from)).ok()
    }

    fn array(&mut self, node: &Node, schema: &'a Map<String, Json>, place: &Place<'_>) -> Option<Json> {
        let Value::List(items) = &node.value else {
            let help = match (&node.value, node.text()) {
                (Value::Scalar(s), Some(text)) if s.kind != ScalarKind::Null => {
                    Some(format!("write `[{}]`", crate::scenario::diag::clip(text)))
                }
                _ => Some("start each item with `- `".to_owned()),
            };
            self.wrong_type(node, place, "a list", help);
            return None;
        };
        if schema.get("minItems").and_then(Json::as_u64).is_some_and(|min| (items.len() as u64) < min) {
            self.gather.mistake(place.span, format!("{} is empty; it needs at least one item", place.name));
            return None;
        }
        let item_schema = schema.get("items")?;
        let key = place.name.trim_matches('`').to_owned();
        let values = items.iter().enumerate().map(|(i, item)| {
            let name = format!("item {} of `{key}`", i + 1);
            self.node(item, item_schema, &Place { name, span: item.span, parent: None, partial: 0 }).unwrap_or(Json::Null)
        });
        Some(Json::Array(values.collect()))
    }

    fn object(&mut self, node: &Node, schema: &'a Map<String, Json>, place: &Place<'_>) -> Option<Json> {
        let Value::Map(entries) = &node.value else {
            let choices = kinds(schema).next().map(|first| format!("write a kind and what belongs to it, as in `{first}: …`"));
            self.wrong_type(node, place, "a map of keys", choices);
            return None;
        };
        if let Some(members) = schema.get("additionalProperties").filter(|a| a.is_object()) {
            return self.named_members(entries, members, place);
        }
        let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(self.none);
        let mut object = Map::new();
        let mut valid = true;
        let mut unknown = 0usize;
        for (key, value) in entries {
            let Some(property) = properties.get(&key.text) else {
                unknown += 1;
                self.unknown_key(key, properties, place);
                continue;
            };
            let name = format!("`{}`", key.text);
            let inner = Place { name, span: key.span, parent: Some((properties, &place.name)), partial: place.partial.saturating_sub(1) };
            match self.node(value, property, &inner) {
                Some(value) => drop(object.insert(key.text.clone(), value)),
                None => valid = false,
            }
        }
        let present = |name: &str| entries.iter().any(|(key, _)| key.text == name);
        for missing in required(schema).filter(|name| !present(name)) {
            // What was misspelt is said once.
            if unknown == 0
                || !entries.iter().any(|(key, _)| !properties.contains_key(&key.text) && nearest(&key.text, [missing]).is_some())
            {
                self.gather.mistake(place.span, format!("{} needs `{missing}`", place.name)).help_if(describe(properties.get(missing)));
            }
            valid = false;
        }
        valid &= self.exactly_one(entries, schema, unknown, place) && unknown == 0;
        (valid || place.partial > 0).then_some(Json::Object(object))
    }

    /// A map from names of the user's own to values of one type.
    fn named_members(&mut self, entries: &[(Key, Node)], members: &'a Json, place: &Place<'_>) -> Option<Json> {
        let mut object = Map::new();
        for (key, value) in entries {
            if key.text.is_empty() {
                self.gather.mistake(key.span, format!("a name in {} is empty", place.name));
                continue;
            }
            let inner = Place { name: format!("`{}`", crate::scenario::diag::clip(&key.text)), span: key.span, parent: None, partial: 0 };
            object.insert(key.text.clone(), self.node(value, members, &inner).unwrap_or(Json::Null));
        }
        Some(Json::Object(object))
    }

    fn unknown_key(&mut self, key: &Key, properties: &Map<String, Json>, place: &Place<'_>) {
        let shown = crate::scenario::diag::clip(&key.text);
        if self.gather.is_full() {
            self.gather.mistake(key.span, "unknown key");
            return;
        }
        let possible = || properties.keys().map(String::as_str);
        let (message, first) = match nearest(&key.text, possible()) {
            Some(near) => (format!("unknown key `{shown}` in {}: did you mean `{near}`?", place.name), None),
            None => {
                let above = place.parent.filter(|(parent, _)| parent.contains_key(&key.text));
                let inside = properties.iter().find(|(_, schema)| {
                    self.resolve_owned(schema).is_some_and(|inner| inner.get("properties").is_some_and(|p| p.get(&key.text).is_some()))
                });
                let hint = match (above, inside) {
                    (Some((_, parent)), _) => Some(format!("`{shown}` belongs one level up, in {parent}, beside {}", place.name)),
                    (None, Some((inner, _))) if properties.len() < 40 && !properties.contains_key("freeze") => {
                        Some(format!("`{shown}` belongs one level down, in `{inner}`"))
                    }
                    _ => None,
                };
                (format!("unknown key `{shown}` in {}", place.name), hint)
            }
        };
        self.gather.mistake(key.span, message).help_if(first).help(format!("possible here: {}", quoted(possible())));
    }

    fn resolve_owned(&self, schema: &Json) -> Option<&'a Map<String, Json>> {
        let name = schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?;
        self.defs.get(name)?.as_object()
    }

    fn exactly_one(&mut self, entries: &[(Key, Node)], schema: &Map<String, Json>, unknown: usize, place: &Place<'_>) -> bool {
        let choices: Vec<&str> = kinds(schema).collect();
        if choices.is_empty() {
            return true;
        }
        let set: Vec<&Key> = entries.iter().map(|(key, _)| key).filter(|key| choices.contains(&key.text.as_str())).collect();
        match set.as_slice() {
            [_] => true,
            [] => {
                // An unknown key has most likely been meant as the kind; that was said.
                if unknown == 0 {
                    self.gather
                        .mistake(place.span, format!("{} needs exactly one of {}", place.name, quoted(choices.iter().copied())))
                        .help("none of them is set");
                }
                false
            }
            [first, second, ..] => {
                let names = quoted(set.iter().map(|key| key.text.as_str()));
                self.gather
                    .mistake(second.span, format!("{} is set to {names}: exactly one is possible", place.name))
                    .also(first.span, "the other one")
                    .help("keep one of them");
                false
            }
        }
    }
}

fn required(schema: &Map<String, Json>) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

fn kinds(schema: &Map<String, Json>) -> impl Iterator<Item = &str> {
    schema.get("x-one-of").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

fn describe(schema: Option<&Json>) -> Option<String> {
    let text = schema?.get("description")?.as_str()?;
    Some(text.split_once(". ").map_or(text, |(first, _)| first).trim_end_matches('.').replace('\n', " "))
}

/// The values of an enumeration.
fn choices(schema: &Map<String, Json>) -> Option<Vec<&str>> {
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        return values.iter().map(Json::as_str).collect();
    }
    let one_of = schema.get("oneOf")?.as_array()?;
    let mut all = Vec::new();
    for choice in one_of {
        match (choice.get("const").and_then(Json::as_str), choice.get("enum").and_then(Json::as_array)) {
            (Some(value), _) => all.push(value),
            (None, Some(values)) => all.extend(values.iter().filter_map(Json::as_str)),
            (None, None) => return None,
        }
    }
    Some(all)
}

fn article(what: &str) -> String {
    let lower = what.strip_prefix('A').map_or_else(|| what.to_owned(), |rest| format!("a{rest}"));
    if lower.starts_with("a ") || lower.starts_with("an ") || lower.starts_with('`') || lower.contains('/') {
        lower
    } else {
        format!("a {lower}")
    }
}

fn note(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar(scalar) => scalar.note.clone(),
        _ => None,
    }
}

type UnitParse = fn(&str) -> Result<(), String>;

/// The scalars with a form of their own, by the name of their definition.
fn unit_scalar(name: &str) -> Option<UnitParse> {
    fn of<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(), String> {
        text.parse::<T>().map(drop).map_err(|error| shorten(text, &error.to_string()))
    }
    Some(match name {
        "Dur" => of::<Dur>,
        "Percent" => of::<Percent>,
        "Quantity" => of::<Quantity>,
        "Mode" => of::<Mode>,
        "ServiceRef" => of::<ServiceRef>,
        "StatusClass" => of::<StatusClass>,
        "Selector" => |text| crate::selector::parse(text).map(drop).map_err(|error| shorten(text, &error.to_string())),
        _ => return None,
    })
}

/// An error that repeats a very long text is cut.
fn shorten(text: &str, error: &str) -> String {
    if text.len() > 60 || text.chars().any(char::is_control) {
        error.replace(text, &crate::scenario::diag::clip(text))
    } else {
        error.to_owned()
    }
}

/// Any node as JSON.
fn plain_json(node: &Node) -> Json {
    match &node.value {
        Value::Scalar(scalar) => match scalar.kind {
            ScalarKind::Null | ScalarKind::Wrong => Json::Null,
            ScalarKind::Bool(value) => Json::Bool(value),
            ScalarKind::Int(number) => i64::try_from(number).map_or_else(|_| Json::String(scalar.text.clone()), Json::from),
            ScalarKind::Float(number) => Number::from_f64(number).map_or(Json::Null, Json::Number),
            ScalarKind::Text => Json::String(scalar.text.clone()),
        },
        Value::List(items) => Json::Array(items.iter().map(plain_json).collect()),
        Value::Map(entries) => Json::Object(entries.iter().map(|(key, value)| (key.text.clone(), plain_json(value))).collect()),
    }
}
