//! The parts of a scenario whose shape is right, and where they are.

use std::time::Duration;

use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::scenario::{
    diag::Span,
    tree::{Node, Value},
    types::{AbortIf, Dur, FaultSpec, Limits, Objective, OneOf, Probe, SteadyState, Step, Target},
};

/// A place in the tree; a key that is not there stays at the map around it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'t> {
    node: Option<&'t Node>,
    key: Span,
}

impl<'t> At<'t> {
    pub(crate) fn root(node: &'t Node) -> Self {
        Self { node: Some(node), key: node.span }
    }

    /// A member of the map here.
    pub(crate) fn get(self, key: &str) -> Self {
        match self.node.and_then(|node| node.entry(key)) {
            Some((key, node)) => Self { node: Some(node), key: key.span },
            None => Self { node: None, key: self.key },
        }
    }

    /// An item of the list here.
    pub(crate) fn item(self, index: usize) -> Self {
        match self.node.and_then(|node| node.items().get(index)) {
            Some(node) => Self { node: Some(node), key: first_key(node).unwrap_or(node.span) },
            None => Self { node: None, key: self.key },
        }
    }

    /// Whether it is written.
    pub(crate) fn is_set(self) -> bool {
        self.node.is_some()
    }

    /// The key.
    pub(crate) fn key(self) -> Span {
        self.key
    }

    /// The value if it is a scalar, else the key.
    pub(crate) fn span(self) -> Span {
        match self.node {
            Some(node) if matches!(node.value, Value::Scalar(_)) => node.span,
            _ => self.key,
        }
    }

    pub(crate) fn node(self) -> Option<&'t Node> {
        self.node
    }
}

fn first_key(node: &Node) -> Option<Span> {
    node.entries().first().map(|(key, _)| key.span)
}

/// A scenario's parts. None: its shape is wrong, which was said; its name still counts as one that exists.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) targets: IndexMap<String, Option<Target>>,
    pub(crate) limits: Limits,
    pub(crate) probes: IndexMap<String, Option<Probe>>,
    pub(crate) steady: Option<SteadyState>,
    pub(crate) steps: Vec<Option<Step>>,
    pub(crate) objectives: Vec<Option<Objective>>,
    pub(crate) abort_if: Vec<Option<AbortIf>>,
}

impl Model {
    /// From the JSON that [`super::shape`] made of a scenario's `spec`, which is `at`.
    pub(crate) fn new(spec: &Json, at: At<'_>) -> Self {
        // Limits with a mistake in them must not make mistakes of what they allow.
        let unlimited = Limits {
            pods: u32::MAX,
            nodes: u32::MAX,
            volumes: u32::MAX,
            objects: u32::MAX,
            duration: Dur(Duration::MAX),
            ..Limits::default()
        };
        let limits = if at.get("limits").is_set() { spec.get("limits").and_then(part).unwrap_or(unlimited) } else { Limits::default() };
        Self {
            targets: members(spec.get("targets")),
            limits,
            probes: members(spec.get("probes")),
            steady: spec.get("steadyState").and_then(part),
            steps: items(spec.get("steps")),
            objectives: items(spec.get("objectives")),
            abort_if: items(spec.get("abortIf")),
        }
    }
}

fn part<T: DeserializeOwned>(json: &Json) -> Option<T> {
    T::deserialize(json).ok()
}

fn members<T: DeserializeOwned>(json: Option<&Json>) -> IndexMap<String, Option<T>> {
    json.and_then(Json::as_object).into_iter().flatten().map(|(name, value)| (name.clone(), part(value))).collect()
}

fn items<T: DeserializeOwned>(json: Option<&Json>) -> Vec<Option<T>> {
    json.and_then(Json::as_array).into_iter().flatten().map(part).collect()
}

/// A step, wherever it is nested.
#[derive(Debug, Clone)]
pub(crate) struct StepInfo {
    /// `2`, `2.1`.
    pub(crate) path: String,
    /// The number of its outermost step, from 0.
    pub(crate) top: usize,
    /// Its name, if it has one.
    pub(crate) name: Option<String>,
    /// Where the name is, or the step's first key.
    pub(crate) span: Span,
    /// Its kind, if it has one of them.
    pub(crate) kind: Option<&'static str>,
    /// The step, if its shape is right.
    pub(crate) step: Option<Step>,
}

impl StepInfo {
    /// Its fault, for `inject`.
    pub(crate) fn fault(&self) -> Option<&FaultSpec> {
        self.step.as_ref()?.inject.as_ref()
    }
}

/// All steps, depth first, those of a `parallel` after itself. Made from the tree, so that a step with a mistake in it still counts.
pub(crate) fn step_index(steps: At<'_>, model: &Model) -> Vec<StepInfo> {
    let mut out = Vec::new();
    for (i, typed) in model.steps.iter().enumerate() {
        walk(steps.item(i), typed.as_ref(), &(i + 1).to_string(), i, &mut out);
    }
    out
}

/// As deep as the tree at most.
fn walk(at: At<'_>, typed: Option<&Step>, path: &str, top: usize, out: &mut Vec<StepInfo>) {
    let name = at.get("name").node().and_then(Node::text).map(str::to_owned);
    let span = if name.is_some() { at.get("name").span() } else { at.key() };
    let kind = match typed {
        Some(step) => step.kind_name(),
        None => Step::KINDS.iter().copied().find(|kind| at.get(kind).is_set()),
    };
    out.push(StepInfo { path: path.to_owned(), top, name, span, kind, step: typed.cloned() });
    let parallel = at.get("parallel");
    if parallel.is_set() {
        let children = parallel.node().map_or(0, |n| n.items().len());
        for i in 0..children {
            let typed = typed.and_then(|s| s.parallel.as_ref()).and_then(|p| p.get(i));
            walk(parallel.item(i), typed, &format!("{path}.{}", i + 1), top, out);
        }
    }
}
