//! Who may do what.

use serde_json::{Value, json};

use crate::{
    Case,
    bench::{Bench, MERGE},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(rbac_nothing_by_default, "a user without rights may do nothing, and is told what was refused"),
    case!(rbac_messages, "a refusal names verb, resource, group, namespace or cluster scope, and subresource"),
    case!(rbac_a_role, "a role gives what it says and nothing more"),
    case!(rbac_resource_names, "a rule with names is for those objects alone"),
    case!(rbac_resource_names_and_create, "create and list cannot be given by name"),
    case!(rbac_subresources, "a subresource is a right of its own"),
    case!(rbac_all_subresources, "rules with * for subresources, resources, verbs and groups"),
    case!(rbac_cluster_role_in_a_namespace, "a cluster role bound in a namespace is for that namespace"),
    case!(rbac_cluster_wide, "a cluster role bound to the cluster is for all namespaces, and for nodes"),
    case!(rbac_groups, "a group gives rights to its members"),
    case!(rbac_service_account, "a ServiceAccount is bound by namespace and name, and by its groups"),
    case!(rbac_binding_gone, "a right ends with its binding"),
    case!(rbac_role_missing, "a binding to a role that does not exist gives nothing"),
    case!(rbac_before_existence, "what one may not see is refused, whether it exists or not"),
    case!(rbac_dry_run_counts, "a dry run needs the right"),
    case!(rbac_delete_collection, "deletecollection is a verb of its own"),
    case!(rbac_watch, "watch is a verb of its own"),
    case!(rbac_apply_is_patch, "apply needs patch, and create where it makes something"),
    case!(rbac_no_escalation, "nobody gives rights that he does not have"),
    case!(rbac_bind_needs_the_rights, "nobody binds a role whose rights he does not have"),
    case!(rbac_role_ref_is_fixed, "the role of a binding cannot be changed"),
    case!(ssar_answers, "SelfSubjectAccessReview says what the user may do"),
    case!(ssar_by_everybody, "everybody may ask for himself"),
    case!(sar_answers, "SubjectAccessReview says what somebody else may do"),
    case!(self_subject_review, "SelfSubjectReview says who one is"),
    case!(rbac_non_resource, "everybody reads the version and the discovery, and not the metrics"),
];

const GROUP: &str = "rbac.authorization.k8s.io";

/// A user of the case's own.
const ANN: &str = "@ns@-ann";

/// Gives a user rights in the case's namespace.
async fn grant(b: &Bench, name: &str, rules: Value, subject: Value) {
    b.make("roles", json!({"metadata": {"name": name}, "rules": rules})).await;
    let role = json!({"apiGroup": GROUP, "kind": "Role", "name": name});
    b.make("rolebindings", json!({"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})).await;
}

fn ann() -> Value {
    json!({"apiGroup": GROUP, "kind": "User", "name": ANN})
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

/// Asks again and again until the answer has a status: rights are known a moment after they are given.
async fn known(user: &Bench, path: &str, code: u16) {
    user.until(path, |answer| answer.code == code).await;
}

async fn rbac_nothing_by_default(b: &Bench) {
    let message = "pods is forbidden: User \"@ns@-ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"@ns@\"";
    let body = b.user(ANN).get("pods").await.refused(403, "Forbidden", message);
    assert_eq!(body["details"], json!({"kind": "pods"}), "{body}");
    let message = "pods \"a\" is forbidden: User \"@ns@-ann\" cannot get resource \"pods\" in API group \"\" in the namespace \"@ns@\"";
    let body = b.user(ANN).get("pods/a").await.refused(403, "Forbidden", message);
    assert_eq!(body["details"], json!({"name": "a", "kind": "pods"}), "{body}");
}

async fn rbac_messages(b: &Bench) {
    let user = b.user(ANN);
    let says = |what: &str, verb: &str, resource: &str, group: &str, place: &str| {
        format!("{what} is forbidden: User \"@ns@-ann\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}")
    };
    let here = "in the namespace \"@ns@\"";
    let answer = user.post("configmaps", json!({"metadata": {"name": "a"}})).await;
    answer.refused(403, "Forbidden", &says("configmaps", "create", "configmaps", "", here));
    let answer = user.patch("deployments/web", MERGE, json!({})).await;
    answer.refused(403, "Forbidden", &says("deployments.apps \"web\"", "patch", "deployments", "apps", here));
    let answer = user.patch("deployments/web/scale", MERGE, json!({})).await;
    answer.refused(403, "Forbidden", &says("deployments.apps \"web\"", "patch", "deployments/scale", "apps", here));
    let answer = user.post("pods/a/eviction", json!({})).await;
    answer.refused(403, "Forbidden", &says("pods \"a\"", "create", "pods/eviction", "", here));
    let answer = user.delete("cronjobs/a", json!({})).await;
    answer.refused(403, "Forbidden", &says("cronjobs.batch \"a\"", "delete", "cronjobs", "batch", here));
    let answer = user.delete("pods/a", json!({})).await;
    answer.refused(403, "Forbidden", &says("pods \"a\"", "delete", "pods", "", here));
    let answer = user.post("pods", json!({"metadata": {"name": "a"}})).await;
    answer.refused(403, "Forbidden", &says("pods", "create", "pods", "", here));
    let answer = user.get("nodes").await;
    answer.refused(403, "Forbidden", &says("nodes", "list", "nodes", "", "at the cluster scope"));
    let answer = user.get("nodes/x").await;
    answer.refused(403, "Forbidden", &says("nodes \"x\"", "get", "nodes", "", "at the cluster scope"));
    let answer = user.get("/api/v1/pods").await;
    answer.refused(403, "Forbidden", &says("pods", "list", "pods", "", "at the cluster scope"));
    let answer = user.get("namespaces/@ns@").await;
    answer.refused(403, "Forbidden", &says("namespaces \"@ns@\"", "get", "namespaces", "", here));
    let answer = user.get("pods?watch=true").await;
    answer.refused(403, "Forbidden", &says("pods", "watch", "pods", "", here));
    let answer = user.get("pods/a/exec?command=true").await;
    answer.refused(403, "Forbidden", &says("pods \"a\"", "get", "pods/exec", "", here));
}

async fn rbac_a_role(b: &Bench) {
    grant(b, "reader", json!([rule("", &["configmaps"], &["get", "list"])]), ann()).await;
    b.config_map("a").await;
    let user = b.user(ANN);
    known(&user, "configmaps", 200).await;
    user.get("configmaps/a").await.is(200);
    user.get("configmaps/none").await.is(404);
    user.get("secrets").await.is(403);
    user.delete("configmaps/a", json!({})).await.is(403);
    user.get("/api/v1/configmaps").await.is(403);
    user.get("/api/v1/namespaces/default/configmaps").await.is(403);
}

async fn rbac_resource_names(b: &Bench) {
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch", "delete", "list", "watch"], "resourceNames": ["a"]});
    grant(b, "one", json!([rule]), ann()).await;
    b.config_map("a").await;
    b.config_map("b").await;
    let user = b.user(ANN);
    known(&user, "configmaps/a", 200).await;
    let refused =
        "configmaps \"b\" is forbidden: User \"@ns@-ann\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"@ns@\"";
    user.get("configmaps/b").await.refused(403, "Forbidden", refused);
    user.patch("configmaps/a", MERGE, json!({"data": {"x": "y"}})).await.is(200);
    user.patch("configmaps/b", MERGE, json!({"data": {"x": "y"}})).await.is(403);
    user.get("configmaps").await.is(403);
    // A list of one name is a request for that name.
    user.get("configmaps?fieldSelector=metadata.name%3Da").await.is(200);
    user.delete("configmaps/a", json!({})).await.is(200);
}

async fn rbac_resource_names_and_create(b: &Bench) {
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create"], "resourceNames": ["a"]});
    grant(b, "one", json!([rule]), ann()).await;
    let user = b.user(ANN);
    known(&user, "configmaps/a", 404).await;
    user.post("configmaps", json!({"metadata": {"name": "a"}})).await.is(403);
}

async fn rbac_subresources(b: &Bench) {
    grant(b, "a", json!([rule("", &["pods"], &["get"]), rule("apps", &["deployments/scale"], &["get", "patch"])]), ann()).await;
    b.pod("a").await;
    b.make("deployments", named("deployments").object("web")).await;
    let user = b.user(ANN);
    known(&user, "pods/a", 200).await;
    user.get("pods/a/log").await.is(403);
    user.get("pods/a/status").await.is(403);
    user.get("deployments/web").await.is(403);
    user.get("deployments/web/scale").await.is(200);
    user.patch("deployments/web/scale", MERGE, json!({"spec": {"replicas": 0}})).await.is(200);
}

async fn rbac_all_subresources(b: &Bench) {
    grant(b, "a", json!([rule("", &["pods/*"], &["get"])]), ann()).await;
    b.pod("a").await;
    let user = b.user(ANN);
    // `pods/*` is no resource: only `*` and `*/NAME` are known to be more than they say.
    known(&user, "pods/a/log", 403).await;
    let other = json!({"apiGroup": GROUP, "kind": "User", "name": "@ns@-bob"});
    grant(b, "b", json!([rule("*", &["*"], &["get"])]), other).await;
    let bob = b.user("@ns@-bob");
    known(&bob, "pods/a", 200).await;
    bob.get("pods/a/status").await.is(200);
    bob.get("leases/a").await.is(404);
    bob.get("leases").await.is(403);
    let third = json!({"apiGroup": GROUP, "kind": "User", "name": "@ns@-cy"});
    grant(b, "c", json!([rule("*", &["*/status"], &["*"])]), third).await;
    let cy = b.user("@ns@-cy");
    known(&cy, "pods/a/status", 200).await;
    cy.patch("pods/a/status", MERGE, json!({"status": {"message": "x"}})).await.is(200);
    cy.get("pods/a").await.is(403);
}

/// A ClusterRole of the case's own.
async fn cluster_role(b: &Bench, rules: Value) {
    b.make("clusterroles", json!({"metadata": {"name": "@ns@-role"}, "rules": rules})).await;
    b.later("clusterroles/@ns@-role");
}

fn role_ref() -> Value {
    json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": "@ns@-role"})
}

async fn rbac_cluster_role_in_a_namespace(b: &Bench) {
    cluster_role(b, json!([rule("", &["pods", "nodes"], &["list"])])).await;
    b.make("rolebindings", json!({"metadata": {"name": "a"}, "roleRef": role_ref(), "subjects": [ann()]})).await;
    let user = b.user(ANN);
    known(&user, "pods", 200).await;
    user.get("/api/v1/pods").await.is(403);
    user.get("nodes").await.is(403);
}

async fn rbac_cluster_wide(b: &Bench) {
    cluster_role(b, json!([rule("", &["pods", "nodes"], &["list"])])).await;
    b.make("clusterrolebindings", json!({"metadata": {"name": "@ns@-binding"}, "roleRef": role_ref(), "subjects": [ann()]})).await;
    b.later("clusterrolebindings/@ns@-binding");
    let user = b.user(ANN);
    known(&user, "/api/v1/pods?limit=1", 200).await;
    user.get("pods").await.is(200);
    user.get("nodes").await.is(200);
    user.get("namespaces").await.is(403);
}

async fn rbac_groups(b: &Bench) {
    let everybody = json!({"apiGroup": GROUP, "kind": "Group", "name": "system:authenticated"});
    grant(b, "a", json!([rule("", &["services"], &["list"])]), everybody).await;
    known(&b.user(ANN), "services", 200).await;
    known(&b.user("@ns@-bob"), "services", 200).await;
}

async fn rbac_service_account(b: &Bench) {
    b.make("serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
    let robot = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "@ns@"});
    grant(b, "a", json!([rule("", &["pods"], &["list"])]), robot).await;
    let user = b.user("system:serviceaccount:@ns@:robot");
    known(&user, "pods", 200).await;
    let message = "services is forbidden: User \"system:serviceaccount:@ns@:robot\" cannot list resource \"services\" in API group \"\" \
                   in the namespace \"@ns@\"";
    user.get("services").await.refused(403, "Forbidden", message);
    b.user("system:serviceaccount:@ns@:other").get("pods").await.is(403);
    let all = json!({"apiGroup": GROUP, "kind": "Group", "name": "system:serviceaccounts:@ns@"});
    grant(b, "b", json!([rule("", &["secrets"], &["list"])]), all).await;
    known(&user, "secrets", 200).await;
    known(&b.user("system:serviceaccount:@ns@:other"), "secrets", 200).await;
}

async fn rbac_binding_gone(b: &Bench) {
    grant(b, "a", json!([rule("", &["pods"], &["list"])]), ann()).await;
    let user = b.user(ANN);
    known(&user, "pods", 200).await;
    b.delete("rolebindings/a", json!({})).await.is(200);
    known(&user, "pods", 403).await;
}

async fn rbac_role_missing(b: &Bench) {
    let role = json!({"apiGroup": GROUP, "kind": "Role", "name": "none"});
    b.make("rolebindings", json!({"metadata": {"name": "a"}, "roleRef": role, "subjects": [ann()]})).await;
    let body = b.user(ANN).get("pods").await.is(403);
    let plain = "pods is forbidden: User \"@ns@-ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"@ns@\"";
    // The real one may add that a role was not found, a moment after the binding was made.
    assert!(body["message"].as_str().unwrap().starts_with(plain), "{body}");
    b.make("roles", json!({"metadata": {"name": "none"}, "rules": [rule("", &["pods"], &["list"])]})).await;
    known(&b.user(ANN), "pods", 200).await;
}

async fn rbac_before_existence(b: &Bench) {
    let user = b.user(ANN);
    user.get("configmaps/none").await.is(403);
    user.get("/api/v1/namespaces/@ns@-none/pods").await.is(403);
    user.delete("deployments/none", json!({})).await.is(403);
    user.put("configmaps/none", json!({"nonsense": true})).await.is(403);
}

async fn rbac_dry_run_counts(b: &Bench) {
    b.user(ANN).post("configmaps?dryRun=All", json!({"metadata": {"name": "a"}})).await.is(403);
}

async fn rbac_delete_collection(b: &Bench) {
    grant(b, "a", json!([rule("", &["configmaps"], &["list", "delete"])]), ann()).await;
    let user = b.user(ANN);
    known(&user, "configmaps", 200).await;
    let message = "configmaps is forbidden: User \"@ns@-ann\" cannot deletecollection resource \"configmaps\" in API group \"\" in the \
                   namespace \"@ns@\"";
    user.delete("configmaps", json!({})).await.refused(403, "Forbidden", message);
}

async fn rbac_watch(b: &Bench) {
    grant(b, "a", json!([rule("coordination.k8s.io", &["leases"], &["get", "list"])]), ann()).await;
    let user = b.user(ANN);
    known(&user, "leases", 200).await;
    user.get("leases?watch=true").await.is(403);
    user.get("leases?watch=1").await.is(403);
}

async fn rbac_apply_is_patch(b: &Bench) {
    grant(b, "a", json!([rule("", &["configmaps"], &["get", "patch"])]), ann()).await;
    let user = b.user(ANN);
    known(&user, "configmaps/a", 404).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}});
    let message = "configmaps \"a\" is forbidden: User \"@ns@-ann\" cannot create resource \"configmaps\" in API group \"\" in the \
                   namespace \"@ns@\"";
    user.apply("configmaps/a", "one", map.clone()).await.refused(403, "Forbidden", message);
    b.config_map("a").await;
    user.apply("configmaps/a", "one", map).await.is(200);
}

async fn rbac_no_escalation(b: &Bench) {
    grant(b, "a", json!([rule(GROUP, &["roles"], &["get", "create"]), rule("", &["pods"], &["get"])]), ann()).await;
    let user = b.user(ANN);
    known(&user, "roles/a", 200).await;
    let role = |verbs: &[&str]| json!({"metadata": {"name": "b"}, "rules": [rule("", &["pods"], verbs)]});
    let body = user.post("roles", role(&["get", "delete"])).await.is(403);
    let message = "roles.rbac.authorization.k8s.io \"b\" is forbidden: user \"@ns@-ann\" (groups=[\"system:authenticated\"]) is attempting \
                   to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}";
    assert_eq!(body["message"], message, "{body}");
    user.post("roles", role(&["get"])).await.is(201);
}

async fn rbac_bind_needs_the_rights(b: &Bench) {
    grant(b, "a", json!([rule(GROUP, &["rolebindings"], &["get", "create"])]), ann()).await;
    b.make("roles", json!({"metadata": {"name": "strong"}, "rules": [rule("", &["secrets"], &["get"])]})).await;
    let user = b.user(ANN);
    known(&user, "rolebindings/a", 200).await;
    let role = json!({"apiGroup": GROUP, "kind": "Role", "name": "strong"});
    let binding = json!({"metadata": {"name": "b"}, "roleRef": role, "subjects": [ann()]});
    let body = user.post("rolebindings", binding.clone()).await.is(403);
    assert!(body["message"].as_str().unwrap().contains("is attempting to grant RBAC permissions not currently held"), "{body}");
    let bind = json!({"apiGroups": [GROUP], "resources": ["roles"], "verbs": ["bind"], "resourceNames": ["strong"]});
    grant(b, "c", json!([bind]), ann()).await;
    let mut allowed = false;
    for _ in 0..100 {
        allowed = user.post("rolebindings", binding.clone()).await.code == 201;
        if allowed {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(allowed, "bind does not help");
}

async fn rbac_role_ref_is_fixed(b: &Bench) {
    grant(b, "a", json!([rule("", &["pods"], &["get"])]), ann()).await;
    let patch = json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "b"}});
    let body = b.patch("rolebindings/a", MERGE, patch).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "roleRef", "{body}");
    assert!(body["details"]["causes"][0]["message"].as_str().unwrap().ends_with(": cannot change roleRef"), "{body}");
    b.patch("rolebindings/a", MERGE, json!({"subjects": []})).await.is(200);
}

fn question(verb: &str, group: &str, resource: &str, subresource: &str, name: &str) -> Value {
    json!({"namespace": "@ns@", "verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name})
}

async fn asks(user: &Bench, attributes: Value) -> Value {
    user.post("selfsubjectaccessreviews", json!({"spec": {"resourceAttributes": attributes}})).await.is(201)
}

async fn ssar_answers(b: &Bench) {
    let named = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["one"]});
    grant(b, "a", json!([rule("apps", &["deployments"], &["get", "patch"]), rule("", &["pods/exec"], &["create"]), named]), ann()).await;
    let user = b.user(ANN);
    known(&user, "deployments/none", 404).await;
    for (attributes, allowed) in [
        (question("get", "apps", "deployments", "", ""), true),
        (question("get", "apps", "deployments", "", "web"), true),
        (question("delete", "apps", "deployments", "", ""), false),
        (question("get", "", "deployments", "", ""), false),
        (question("create", "", "pods", "exec", ""), true),
        (question("create", "", "pods", "", ""), false),
        (question("get", "", "secrets", "", "one"), true),
        (question("get", "", "secrets", "", "two"), false),
        (question("get", "", "secrets", "", ""), false),
        (json!({"verb": "get", "group": "apps", "resource": "deployments"}), false),
    ] {
        let answer = asks(&user, attributes).await;
        assert_eq!(
            (&answer["kind"], answer["status"]["allowed"].as_bool()),
            (&json!("SelfSubjectAccessReview"), Some(allowed)),
            "{answer}"
        );
        let reason = answer["status"]["reason"].as_str();
        let wanted = "RBAC: allowed by RoleBinding \"a/@ns@\" of Role \"a\" to User \"@ns@-ann\"";
        assert_eq!(reason, allowed.then_some(wanted), "{answer}");
    }
    let answer = asks(b, json!({"verb": "*", "group": "*", "resource": "*"})).await;
    assert_eq!(answer["status"]["allowed"], true, "{answer}");
}

async fn ssar_by_everybody(b: &Bench) {
    let answer = asks(&b.user("@ns@-nobody"), question("get", "", "pods", "", "")).await;
    assert_eq!(answer["status"], json!({"allowed": false}), "{answer}");
    let spec = json!({"spec": {"nonResourceAttributes": {"path": "/version", "verb": "get"}}});
    let answer = b.user("@ns@-nobody").post("selfsubjectaccessreviews", spec).await.is(201);
    assert_eq!(answer["status"]["allowed"], true, "{answer}");
    let both = json!({"spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}});
    let body = b.post("selfsubjectaccessreviews", both).await.is(422);
    assert_eq!(body["reason"], "Invalid", "{body}");
    b.post("selfsubjectaccessreviews", json!({"spec": {}})).await.is(422);
    b.get("selfsubjectaccessreviews").await.is(405);
}

async fn sar_answers(b: &Bench) {
    grant(b, "a", json!([rule("", &["pods"], &["get"])]), ann()).await;
    known(&b.user(ANN), "pods/none", 404).await;
    for (user, allowed) in [(ANN, true), ("@ns@-bob", false)] {
        let spec = json!({"spec": {"user": user, "resourceAttributes": question("get", "", "pods", "", "")}});
        let answer = b.post("subjectaccessreviews", spec).await.is(201);
        assert_eq!(answer["status"]["allowed"], allowed, "{answer}");
    }
    let spec = json!({"spec": {"user": ANN, "resourceAttributes": question("get", "", "pods", "", "")}});
    b.user(ANN).post("subjectaccessreviews", spec).await.is(403);
}

async fn self_subject_review(b: &Bench) {
    let answer = b.user(ANN).post("selfsubjectreviews", json!({})).await.is(201);
    let info = &answer["status"]["userInfo"];
    assert_eq!((&info["username"], &info["groups"]), (&json!(ANN), &json!(["system:authenticated"])), "{answer}");
    let answer = b.user("system:serviceaccount:@ns@:robot").post("selfsubjectreviews", json!({})).await.is(201);
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:@ns@", "system:authenticated"]);
    assert_eq!(answer["status"]["userInfo"]["groups"], groups, "{answer}");
}

async fn rbac_non_resource(b: &Bench) {
    let user = b.user(ANN);
    for path in ["/version", "/api", "/apis", "/api/v1", "/apis/apps/v1", "/healthz"] {
        user.get(path).await.is(200);
    }
    let message = "forbidden: User \"@ns@-ann\" cannot get path \"/metrics\"";
    user.get("/metrics").await.refused(403, "Forbidden", message);
}
