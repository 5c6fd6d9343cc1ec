//! What of its permissions somebody really has: asked of the API server before anything is changed, so that a drill does not stop
//! half-way at a refusal that could have been known.

use futures::{StreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;

use super::Permission;
use crate::cluster::{Cluster, ClusterError};

/// How many questions are asked at a time.
const AT_ONCE: usize = 8;

/// What is missing, a line each: `patch deployments.apps shop/web`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// The API server says no.
    pub denied: Vec<String>,
    /// It could not be asked; with the reason.
    pub unknown: Vec<String>,
}

/// Which of these permissions the user of this connection lacks.
pub async fn missing(cluster: &Cluster, permissions: &[Permission]) -> Missing {
    asked(permissions, |question| async move {
        let what = format!("ask whether it may {}", called(&question));
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(question), ..SelfSubjectAccessReviewSpec::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let asked = cluster.cluster_api::<SelfSubjectAccessReview>();
        let answer = cluster.call(what, asked.create(&PostParams::default(), &review)).await?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    })
    .await
}

/// Which of these permissions a ServiceAccount (namespace, name) lacks. Asking for others is a permission of its own.
pub async fn missing_of(cluster: &Cluster, account: (&str, &str), permissions: &[Permission]) -> Missing {
    let (namespace, name) = account;
    let user = format!("system:serviceaccount:{namespace}:{name}");
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}"), "system:authenticated".to_owned()];
    asked(permissions, |question| {
        let (user, groups) = (user.clone(), groups.to_vec());
        async move {
            let what = format!("ask whether {user} may {}", called(&question));
            let spec = SubjectAccessReviewSpec {
                resource_attributes: Some(question),
                user: Some(user),
                groups: Some(groups),
                ..SubjectAccessReviewSpec::default()
            };
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            let asked = cluster.cluster_api::<SubjectAccessReview>();
            let answer = cluster.call(what, asked.create(&PostParams::default(), &review)).await?;
            Ok(answer.status.is_some_and(|s| s.allowed))
        }
    })
    .await
}

/// Asks every question of these permissions; an answer is whether it is allowed.
async fn asked<F>(permissions: &[Permission], ask: impl Fn(ResourceAttributes) -> F) -> Missing
where
    F: Future<Output = Result<bool, ClusterError>>,
{
    let questions: Vec<ResourceAttributes> = permissions.iter().flat_map(questions).collect();
    let answers = questions.into_iter().map(|question| {
        let called = called(&question);
        let answer = ask(question);
        async move {
            match answer.await {
                Ok(true) => None,
                Ok(false) => Some(Ok(called)),
                Err(error) => Some(Err(format!("{called} ({error})"))),
            }
        }
    });
    let mut answers = std::pin::pin!(stream::iter(answers).buffered(AT_ONCE));
    let mut missing = Missing::default();
    while let Some(answer) = answers.next().await {
        match answer {
            None => {}
            Some(Ok(denied)) => missing.denied.push(denied),
            Some(Err(unknown)) => missing.unknown.push(unknown),
        }
    }
    missing
}

/// What of these permissions is among what was denied.
pub fn lacking(permissions: &[Permission], denied: &[String]) -> Vec<String> {
    let asked = permissions.iter().flat_map(questions);
    let lacking = asked.filter_map(|question| {
        // What one needs by its name, another may need for all names; then that is what was asked.
        let all = called(&ResourceAttributes { name: None, ..question.clone() });
        let one = called(&question);
        denied.contains(&one).then_some(one).or_else(|| denied.contains(&all).then_some(all))
    });
    lacking.collect()
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

    #[test]
    fn what_is_lacking_may_have_been_asked_for_all_names() {
        let rule = Permission {
            namespace: Some("shop".to_owned()),
            group: String::new(),
            resource: "pods".to_owned(),
            verbs: vec!["get".to_owned(), "list".to_owned()],
            names: vec!["a".to_owned()],
            because: String::new(),
        };
        let denied = ["list pods in shop", "get pods shop/b", "delete pods shop/a"].map(str::to_owned);
        assert_eq!(lacking(std::slice::from_ref(&rule), &denied), ["list pods in shop"]);
        assert_eq!(lacking(&[rule], &["get pods shop/a".to_owned()]), ["get pods shop/a"]);
    }
}
