//! What is no resource: discovery, version, health.

use hyper::Response;
use serde_json::{Value, json};

use super::{
    core::State,
    kinds::Kind,
    refusal::{Answer, Refusal},
    request::Ask,
    serve::{Body, full},
};

/// Answers a request that names no resource.
///
/// # Errors
/// 404: there is no such page.
pub(super) fn answer(state: &State, ask: &Ask) -> Answer<Response<Body>> {
    if ask.verb != "get" {
        return Err(Refusal::method_not_allowed());
    }
    let parts: Vec<&str> = ask.path.split('/').filter(|part| !part.is_empty()).collect();
    let aggregated = ask.accept.contains("as=APIGroupDiscoveryList");
    let value = match parts.as_slice() {
        ["healthz" | "readyz" | "livez", ..] => return Ok(full(200, "text/plain; charset=utf-8", "ok".into())),
        ["version"] => json!({
            "major": "1", "minor": "34", "emulationMajor": "1", "emulationMinor": "34", "minCompatibilityMajor": "1",
            "minCompatibilityMinor": "33", "gitVersion": "v1.34.4+sandbox", "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "sandbox/sandbox",
        }),
        ["api"] if aggregated => groups(state, true),
        ["apis"] if aggregated => groups(state, false),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["apis"] => {
            let groups: Vec<Value> = state.kinds.groups().filter(|(group, _)| !group.is_empty()).map(|(g, v)| group(g, &v)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", wanted] => {
            let found = state.kinds.groups().find(|(name, _)| name == wanted).ok_or_else(Refusal::no_such_page)?;
            let mut found = group(found.0, &found.1);
            found["kind"] = Value::from("APIGroup");
            found["apiVersion"] = Value::from("v1");
            found
        }
        ["api", version] => resources(state, "", version)?,
        ["apis", group, version] => resources(state, group, version)?,
        _ => return Err(Refusal::no_such_page()),
    };
    let kind = if aggregated && parts.len() == 1 {
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    } else {
        "application/json"
    };
    Ok(full(200, kind, value.to_string().into()))
}

fn group(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> =
        versions.iter().map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version})).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

/// The verbs of a kind.
fn verbs(kind: &Kind) -> Vec<&'static str> {
    if kind.review {
        return vec!["create"];
    }
    let mut verbs = vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    if kind.kind == "Namespace" {
        verbs.retain(|verb| *verb != "deletecollection");
    }
    verbs
}

/// A subresource's name, the group and version of its kind if they are not the resource's, its kind (empty: the resource's) and
/// its verbs.
type Subresource = (&'static str, Option<(&'static str, &'static str)>, &'static str, Vec<&'static str>);

fn subresources(kind: &Kind) -> Vec<Subresource> {
    let mut all = Vec::new();
    let object = vec!["get", "patch", "update"];
    if kind.status {
        all.push(("status", None, "", object.clone()));
    }
    if kind.scale {
        all.push(("scale", Some(("autoscaling", "v1")), "Scale", object.clone()));
    }
    for name in &kind.subresources {
        all.push(match *name {
            "eviction" => ("eviction", Some(("policy", "v1")), "Eviction", vec!["create"]),
            "binding" => ("binding", None, "Binding", vec!["create"]),
            "portforward" => ("portforward", None, "PodPortForwardOptions", vec!["create", "get"]),
            "exec" => ("exec", None, "PodExecOptions", vec!["create", "get"]),
            "attach" => ("attach", None, "PodAttachOptions", vec!["create", "get"]),
            "log" => ("log", None, "", vec!["get"]),
            "finalize" => ("finalize", None, "", vec!["update"]),
            other => (other, None, "", object.clone()),
        });
    }
    if !kind.custom() {
        all.sort_by_key(|(name, ..)| *name);
    }
    all
}

fn resources(state: &State, group: &str, version: &str) -> Answer<Value> {
    let kinds = state.kinds.of(group, version).ok_or_else(Refusal::no_such_page)?;
    let mut resources = Vec::new();
    for kind in kinds {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs(kind),
        });
        if !kind.short.is_empty() {
            resource["shortNames"] = json!(kind.short);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        resources.push(resource);
        for (name, of, named, verbs) in subresources(kind) {
            let named = if named.is_empty() { kind.kind.as_str() } else { named };
            let mut resource = json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced, "kind": named, "verbs": verbs,
            });
            if let Some((group, version)) = of {
                resource["group"] = Value::from(group);
                resource["version"] = Value::from(version);
            }
            resources.push(resource);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}

/// Aggregated discovery (KEP-3352).
fn groups(state: &State, core: bool) -> Value {
    let items: Vec<Value> = state
        .kinds
        .groups()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let kinds = state.kinds.of(group, version).into_iter().flatten();
                    let resources: Vec<Value> = kinds.map(|kind| aggregated(kind)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if core { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated(kind: &Kind) -> Value {
    let response = |group: &str, version: &str, named: &str| json!({"group": group, "version": version, "kind": named});
    let below: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|(name, of, named, verbs)| {
            let named = if named.is_empty() { kind.kind.as_str() } else { named };
            let (group, version) = of.unwrap_or((&kind.group, &kind.version));
            json!({"subresource": name, "responseKind": response(group, version, named), "verbs": verbs})
        })
        .collect();
    json!({
        "resource": kind.plural,
        "responseKind": response(&kind.group, &kind.version, &kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": verbs(kind),
        "shortNames": kind.short,
        "categories": kind.categories,
        "subresources": below,
    })
}
