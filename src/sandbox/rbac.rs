//! Who may do what: RBAC from the roles and bindings in the store (`k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac`),
//! access reviews, and the rule that nobody gives away rights they do not have.

use serde_json::{Map, Value, json};

use super::{
    core::{State, strings, text},
    decode,
    kinds::Kind,
    refusal::{Answer, Refusal},
    request::{Ask, Place, User},
    store::Key,
};

/// The API group of roles.
pub(super) const GROUP: &str = "rbac.authorization.k8s.io";
const ROLES: &str = "rbac.authorization.k8s.io/roles";
const CLUSTER_ROLES: &str = "rbac.authorization.k8s.io/clusterroles";

/// A question to the authorizer.
#[derive(Debug, Clone, Default)]
struct Wish {
    verb: String,
    group: String,
    /// With the subresource, as in `pods/exec`.
    resource: String,
    namespace: String,
    name: String,
    /// Of what is no resource.
    path: Option<String>,
}

impl Wish {
    fn of(ask: &Ask) -> Self {
        match &ask.place {
            None => Self { verb: non_resource_verb(ask), path: Some(ask.path.clone()), ..Self::default() },
            Some(place) => Self {
                verb: ask.verb.to_owned(),
                group: place.group.clone(),
                resource: with_subresource(&place.resource, &place.subresource),
                namespace: place.namespace.clone(),
                name: place.name.clone(),
                path: None,
            },
        }
    }
}

fn non_resource_verb(ask: &Ask) -> String {
    match ask.verb {
        "create" => "post",
        "update" => "put",
        "deletecollection" => "delete",
        other => other,
    }
    .to_owned()
}

fn with_subresource(resource: &str, subresource: &str) -> String {
    if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") }
}

/// Whether a rule lets a wish through (`rbacv1helpers.VerbMatches` and its neighbours).
fn covers(rule: &Value, wish: &Wish) -> bool {
    let has = |list: &str, wanted: &str| strings(rule, list).iter().any(|item| *item == "*" || *item == wanted);
    if !has("/verbs", &wish.verb) {
        return false;
    }
    if let Some(path) = &wish.path {
        return strings(rule, "/nonResourceURLs").iter().any(|url| match url.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => url == path,
        });
    }
    // `*/scale` is the scale of everything.
    let any_with_subresource =
        wish.resource.split_once('/').is_some_and(|(_, sub)| strings(rule, "/resources").contains(&format!("*/{sub}").as_str()));
    let names = strings(rule, "/resourceNames");
    has("/apiGroups", &wish.group)
        && (has("/resources", &wish.resource) || any_with_subresource)
        && (names.is_empty() || names.contains(&wish.name.as_str()))
}

fn is_subject(subject: &Value, user: &User, binding_namespace: &str) -> bool {
    let name = text(subject, "/name");
    match text(subject, "/kind") {
        "User" => name == user.name,
        "Group" => user.groups.iter().any(|group| group == name),
        "ServiceAccount" => {
            let namespace = text(subject, "/namespace");
            let namespace = if namespace.is_empty() { binding_namespace } else { namespace };
            user.name.strip_prefix("system:serviceaccount:") == Some(format!("{namespace}:{name}").as_str())
        }
        _ => false,
    }
}

impl State {
    /// Shows each rule a user has in a namespace (empty: those for the whole cluster) with how it was given, until one is
    /// enough. What is given back: roles that bindings name and that are not there.
    fn each_rule<'a>(&'a self, user: &User, namespace: &str, mut enough: impl FnMut(&'a Value, &Given<'a>) -> bool) -> Vec<String> {
        let mut missing = Vec::new();
        // True: it was enough.
        let mut look = |key: &'a Key, binding: &'a Value| {
            let subjects = binding.get("subjects").and_then(Value::as_array);
            let subject = subjects.into_iter().flatten().find(|subject| is_subject(subject, user, &key.0));
            let Some(subject) = subject else { return false };
            let (kind, name) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
            let role = match kind {
                "ClusterRole" => self.store.get(CLUSTER_ROLES, &Key(String::new(), name.to_owned())),
                _ => self.store.get(ROLES, &Key(key.0.clone(), name.to_owned())),
            };
            let Some(role) = role else {
                missing.push(format!("{}.{GROUP} \"{name}\" not found", kind.to_lowercase()));
                return false;
            };
            let given = Given { key, kind, name, subject };
            role.value.get("rules").and_then(Value::as_array).into_iter().flatten().any(|rule| enough(rule, &given))
        };
        let mut cluster = self.store.list("rbac.authorization.k8s.io/clusterrolebindings", "");
        if cluster.any(|(key, binding)| look(key, &binding.value)) || namespace.is_empty() {
            return missing;
        }
        let mut local = self.store.list("rbac.authorization.k8s.io/rolebindings", namespace);
        local.any(|(key, binding)| look(key, &binding.value));
        missing
    }

    /// Whether a wish is granted, and why; or what stands against it beyond the lack of a rule.
    fn allows(&self, user: &User, wish: &Wish) -> Result<String, String> {
        if user.groups.iter().any(|group| group == "system:masters") {
            return Ok(String::new());
        }
        let mut found = None;
        let missing = self.each_rule(user, &wish.namespace, |rule, given| {
            let covered = covers(rule, wish);
            if covered {
                found = Some(given.to_string());
            }
            covered
        });
        if let Some(given) = found {
            return Ok(format!("RBAC: allowed by {given}"));
        }
        Err(match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }
}

/// How a rule was given to a user.
struct Given<'a> {
    /// The binding's.
    key: &'a Key,
    /// The role's kind and name.
    kind: &'a str,
    name: &'a str,
    subject: &'a Value,
}

impl std::fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Key(namespace, binding) = self.key;
        if namespace.is_empty() {
            write!(f, "ClusterRoleBinding \"{binding}\"")?;
        } else {
            write!(f, "RoleBinding \"{binding}/{namespace}\"")?;
        }
        let subject = text(self.subject, "/kind");
        write!(f, " of {} \"{}\" to {subject} \"{}\"", self.kind, self.name, subject_name(self.subject))
    }
}

fn subject_name(subject: &Value) -> String {
    let (namespace, name) = (text(subject, "/namespace"), text(subject, "/name"));
    if namespace.is_empty() { name.to_owned() } else { format!("{name}/{namespace}") }
}

/// Lets a request through.
///
/// # Errors
/// 403, in the API server's words.
pub(super) fn authorize(state: &State, ask: &Ask) -> Answer<()> {
    grant(state, ask, Wish::of(ask))
}

/// A PUT or an apply that makes an object needs the right to create it, too.
///
/// # Errors
/// As [`authorize`].
pub(super) fn authorize_create(state: &State, ask: &Ask) -> Answer<()> {
    grant(state, ask, Wish { verb: "create".to_owned(), ..Wish::of(ask) })
}

fn grant(state: &State, ask: &Ask, wish: Wish) -> Answer<()> {
    let Err(more) = state.allows(&ask.user, &wish) else { return Ok(()) };
    let more = if more.is_empty() { String::new() } else { format!(": {more}") };
    let user = &ask.user.name;
    let Some(place) = &ask.place else {
        let path = wish.path.unwrap_or_default();
        let why = format!("forbidden: User \"{user}\" cannot {} path \"{path}\"{more}", wish.verb);
        return Err(Refusal::new(403, "Forbidden", why).with_details(Map::new()));
    };
    let scope =
        if place.namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace \"{}\"", place.namespace) };
    let why = format!("User \"{user}\" cannot {} resource \"{}\" in API group \"{}\" {scope}{more}", wish.verb, wish.resource, wish.group);
    Err(Refusal::forbidden(&place.group, &place.resource, &place.name, &why))
}

/// Answers an access review.
///
/// # Errors
/// 400: it is none. 405: it is not a POST.
pub(super) fn review(state: &mut State, ask: &Ask, kind: &Kind, place: &Place) -> Answer<Value> {
    if ask.verb != "create" {
        return Err(Refusal::method_not_allowed());
    }
    let mut review = decode::body(ask)?;
    if kind.kind == "SelfSubjectReview" {
        let info = json!({"userInfo": {"username": ask.user.name, "groups": ask.user.groups}});
        return Ok(
            json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": {"creationTimestamp": state.now()}, "status": info}),
        );
    }
    let user = if kind.kind == "SelfSubjectAccessReview" {
        ask.user.clone()
    } else {
        let groups = strings(&review, "/spec/groups").into_iter().map(str::to_owned).collect();
        User { name: text(&review, "/spec/user").to_owned(), groups }
    };
    let resource = review.pointer("/spec/resourceAttributes").filter(|value| value.is_object());
    let other = review.pointer("/spec/nonResourceAttributes").filter(|value| value.is_object());
    let wish = match (resource, other) {
        (Some(wanted), None) => Wish {
            verb: text(wanted, "/verb").to_owned(),
            group: text(wanted, "/group").to_owned(),
            resource: with_subresource(text(wanted, "/resource"), text(wanted, "/subresource")),
            namespace: if kind.namespaced { place.namespace.clone() } else { text(wanted, "/namespace").to_owned() },
            name: text(wanted, "/name").to_owned(),
            path: None,
        },
        (None, Some(wanted)) => {
            Wish { verb: text(wanted, "/verb").to_owned(), path: Some(text(wanted, "/path").to_owned()), ..Wish::default() }
        }
        _ => {
            let error = super::refusal::FieldError::invalid(
                "spec.resourceAttributes",
                resource.cloned().unwrap_or(Value::Null),
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            );
            return Err(Refusal::invalid(kind, "", &[error]));
        }
    };
    let (allowed, reason) = match state.allows(&user, &wish) {
        Ok(reason) => (true, reason),
        Err(reason) => (false, reason),
    };
    review["kind"] = Value::from(kind.kind.as_str());
    review["apiVersion"] = Value::from(kind.api_version());
    review["status"] = json!({"allowed": allowed});
    if !reason.is_empty() {
        review["status"]["reason"] = Value::from(reason);
    }
    Ok(review)
}

/// Refuses a role with rights, or a binding to a role with rights, that the user does not have
/// (`pkg/registry/rbac/*/policybased`).
///
/// # Errors
/// 403 with the rules that are missing.
pub(super) fn escalates(state: &State, ask: &Ask, kind: &Kind, old: Option<&Value>, value: &Value) -> Answer<()> {
    let user = &ask.user;
    let same = |field: &str| old.is_some_and(|old| old.get(field) == value.get(field));
    let (namespace, name) = (text(value, "/metadata/namespace"), text(value, "/metadata/name"));
    let may = |verb: &str, resource: &str, name: &str| {
        let wish = Wish {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            path: None,
        };
        state.allows(user, &wish).is_ok()
    };
    let wanted: Vec<Value> = match kind.kind.as_str() {
        "Role" | "ClusterRole" => {
            if same("rules") || may("escalate", &kind.plural, name) {
                return Ok(());
            }
            value.get("rules").and_then(Value::as_array).cloned().unwrap_or_default()
        }
        _ => {
            let (role_kind, role) = (text(value, "/roleRef/kind"), text(value, "/roleRef/name"));
            let plural = if role_kind == "ClusterRole" { "clusterroles" } else { "roles" };
            if same("subjects") && same("roleRef") || may("bind", plural, role) {
                return Ok(());
            }
            let in_namespace = if role_kind == "ClusterRole" { "" } else { namespace };
            match state.peek(GROUP, plural, in_namespace, role) {
                Some(role) => role.value.get("rules").and_then(Value::as_array).cloned().unwrap_or_default(),
                None => {
                    let kind = state.kinds.v1(GROUP, plural);
                    return Err(kind.map_or_else(Refusal::no_such_page, |kind| Refusal::not_found(&kind, role)));
                }
            }
        }
    };
    let mut held = Vec::new();
    state.each_rule(user, namespace, |rule, _| {
        held.push(rule);
        false
    });
    let missing: Vec<String> = wanted.iter().flat_map(|rule| not_held(rule, &held)).map(|rule| rule_text(&rule)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = user.groups.iter().map(|group| format!("\"{group}\"")).collect();
    let why = format!(
        "user \"{}\" (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        missing.join("\n")
    );
    Err(Refusal::forbidden(&kind.group, &kind.plural, name, &why))
}

/// The rights of a rule that are not held, as a rule for each resource (`validation.Covers`, `BreakdownRule`).
fn not_held(rule: &Value, held: &[&Value]) -> Vec<Value> {
    let one_of = |pointer: &str| {
        let list = strings(rule, pointer);
        if list.is_empty() { vec![""] } else { list }
    };
    let verbs = strings(rule, "/verbs");
    let lacking = |wish: &Wish| -> Vec<&str> {
        let held = |verb: &&&str| held.iter().any(|rule| covers(rule, &Wish { verb: (**verb).to_owned(), ..wish.clone() }));
        verbs.iter().filter(|verb| !held(verb)).copied().collect()
    };
    let mut missing = Vec::new();
    for path in strings(rule, "/nonResourceURLs") {
        let verbs = lacking(&Wish { path: Some(path.to_owned()), ..Wish::default() });
        if !verbs.is_empty() {
            missing.push(json!({"nonResourceURLs": [path], "verbs": verbs}));
        }
    }
    for group in strings(rule, "/apiGroups") {
        for resource in strings(rule, "/resources") {
            for name in one_of("/resourceNames") {
                let wish = Wish { group: group.to_owned(), resource: resource.to_owned(), name: name.to_owned(), ..Wish::default() };
                let verbs = lacking(&wish);
                if !verbs.is_empty() {
                    let names: Vec<&str> = Some(name).filter(|name| !name.is_empty()).into_iter().collect();
                    missing.push(json!({"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": verbs}));
                }
            }
        }
    }
    missing
}

/// A rule as the API server prints it: `{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`.
fn rule_text(rule: &Value) -> String {
    let fields = [
        ("/apiGroups", "APIGroups"),
        ("/resources", "Resources"),
        ("/resourceNames", "ResourceNames"),
        ("/nonResourceURLs", "NonResourceURLs"),
        ("/verbs", "Verbs"),
    ];
    let said = fields.iter().filter_map(|(pointer, name)| {
        let list: Vec<String> = strings(rule, pointer).iter().map(|item| format!("\"{item}\"")).collect();
        (!list.is_empty()).then(|| format!("{name}:[{}]", list.join(" ")))
    });
    format!("{{{}}}", said.collect::<Vec<_>>().join(", "))
}
