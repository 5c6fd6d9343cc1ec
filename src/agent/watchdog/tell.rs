//! What the watchdog asks of the API server about itself, and what it tells there.

use futures::{StreamExt as _, stream};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Event,
};
use kube::api::PostParams;
use serde_json::json;

use crate::{
    clock::Clock,
    cluster::{Cluster, ClusterError},
    labels,
    plan::{Permission, Plan},
};

/// How many questions are asked at a time.
const AT_ONCE: usize = 8;

/// How loud an Event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Warning,
}

/// An Event to be made.
#[derive(Debug)]
pub(super) struct Told<'a> {
    pub(super) kind: Kind,
    /// One word.
    pub(super) reason: &'a str,
    /// A sentence.
    pub(super) message: &'a str,
    /// The ConfigMap it is about.
    pub(super) about: &'a str,
    /// The pod that tells it.
    pub(super) by: &'a str,
}

/// What the watchdog's account may not do of what reverting the drill needs, a line each; what cannot be found out counts.
pub(super) async fn missing(cluster: &Cluster, plan: &Plan) -> Vec<String> {
    let Some(watchdog) = &plan.watchdog else { return vec!["anything: the plan knows of no watchdog".to_owned()] };
    let questions: Vec<ResourceAttributes> = watchdog.rbac.iter().flat_map(questions).collect();
    let answers = stream::iter(questions.into_iter().map(|question| async move {
        let called = called(&question);
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(question), ..SelfSubjectAccessReviewSpec::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let asked = cluster.cluster_api::<SelfSubjectAccessReview>();
        match cluster.call(format!("ask whether it may {called}"), asked.create(&PostParams::default(), &review)).await {
            Ok(answer) if answer.status.as_ref().is_some_and(|s| s.allowed) => None,
            Ok(_) => Some(called),
            Err(error) => Some(format!("{called} ({error})")),
        }
    }));
    answers.buffered(AT_ONCE).filter_map(|answer| async move { answer }).collect().await
}

/// The single questions of a rule: one a verb and name.
fn questions(rule: &Permission) -> Vec<ResourceAttributes> {
    let (resource, subresource) = rule.resource.split_once('/').map_or((rule.resource.as_str(), None), |(r, s)| (r, Some(s)));
    let names: Vec<Option<&String>> = if rule.names.is_empty() { vec![None] } else { rule.names.iter().map(Some).collect() };
    let each = rule.verbs.iter().flat_map(|verb| names.iter().map(move |name| (verb, *name)));
    each.map(|(verb, name)| ResourceAttributes {
        namespace: rule.namespace.clone(),
        group: Some(rule.group.clone()),
        resource: Some(resource.to_owned()),
        subresource: subresource.map(str::to_owned),
        verb: Some(verb.clone()),
        name: name.cloned(),
        ..ResourceAttributes::default()
    })
    .collect()
}

/// `patch cronjobs.batch shop/backup`.
fn called(question: &ResourceAttributes) -> String {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let mut called = format!("{} {}", text(&question.verb), text(&question.resource));
    for (mark, part) in [("/", &question.subresource), (".", &question.group)] {
        if let Some(part) = part.as_ref().filter(|part| !part.is_empty()) {
            called += &format!("{mark}{part}");
        }
    }
    match (&question.namespace, &question.name) {
        (Some(namespace), Some(name)) => called += &format!(" {namespace}/{name}"),
        (Some(namespace), None) => called += &format!(" in {namespace}"),
        (None, Some(name)) => called += &format!(" {name}"),
        (None, None) => {}
    }
    called
}

/// Makes a Kubernetes Event about the drill's record, for `kubectl get events`: it outlives the record and the watchdog.
pub(super) async fn event(cluster: &Cluster, clock: &Clock, namespace: &str, told: &Told<'_>) -> Result<(), ClusterError> {
    let now = jiff::Timestamp::from_microsecond(clock.now().wall_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let second = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let event = json!({
        "metadata": {
            "generateName": format!("{}.", told.about), "namespace": namespace,
            "labels": {labels::MANAGED_BY: labels::MANAGER},
        },
        "involvedObject": {"apiVersion": "v1", "kind": "ConfigMap", "namespace": namespace, "name": told.about},
        "type": match told.kind { Kind::Normal => "Normal", Kind::Warning => "Warning" },
        "reason": told.reason,
        // The API server takes no more than 1024 bytes.
        "message": shorten(told.message, 1000),
        "firstTimestamp": second, "lastTimestamp": second, "count": 1,
        "source": {"component": "firedrill-watchdog", "host": told.by},
        "reportingComponent": "firedrill.dev/watchdog", "reportingInstance": told.by,
    });
    let event: Event = serde_json::from_value(event).map_err(|error| ClusterError::Config { why: error.to_string() })?;
    let api = cluster.api::<Event>(namespace);
    cluster.call(format!("create an Event in {namespace}"), api.create(&PostParams::default(), &event)).await.map(|_| ())
}

fn shorten(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_and_name_of_a_rule_is_asked_for() {
        let rule = Permission {
            namespace: Some("shop".to_owned()),
            group: "apps".to_owned(),
            resource: "deployments".to_owned(),
            verbs: vec!["get".to_owned(), "patch".to_owned()],
            names: vec!["a".to_owned(), "b".to_owned()],
            because: String::new(),
        };
        let asked: Vec<String> = questions(&rule).iter().map(called).collect();
        assert_eq!(
            asked,
            [
                "get deployments.apps shop/a",
                "get deployments.apps shop/b",
                "patch deployments.apps shop/a",
                "patch deployments.apps shop/b"
            ]
        );
        let exec =
            Permission { group: String::new(), resource: "pods/exec".to_owned(), verbs: vec!["create".to_owned()], names: vec![], ..rule };
        let asked = questions(&exec);
        assert_eq!((asked[0].resource.as_deref(), asked[0].subresource.as_deref()), (Some("pods"), Some("exec")));
        assert_eq!(called(&asked[0]), "create pods/exec in shop");
    }
}
