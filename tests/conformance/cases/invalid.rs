//! Objects that are refused as invalid, and why.

use serde_json::{Value, json};

use crate::{
    Case,
    bench::{Bench, JSON, MERGE},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(names_of_objects, "names are DNS subdomains"),
    case!(names_of_services, "names of services are DNS labels that begin with a letter"),
    case!(names_of_namespaces, "names of namespaces are DNS labels"),
    case!(label_syntax, "keys and values of labels have a syntax"),
    case!(annotation_syntax, "keys of annotations have a syntax, and all of them together a size"),
    case!(deployment_selector_must_match, "a Deployment's selector must match its template"),
    case!(deployment_selector_is_fixed, "a Deployment's selector cannot be changed"),
    case!(negative_replicas, "replicas must not be negative"),
    case!(deployment_without_a_spec, "a Deployment needs selector, labels and containers: every cause is told"),
    case!(pod_without_containers, "a pod needs at least one container"),
    case!(containers_without_name_or_image, "a container needs a name and an image, and names differ"),
    case!(container_name_syntax, "a container's name is a DNS label"),
    case!(quantities, "quantities have a syntax, and requests stay below limits"),
    case!(ports, "ports are between 1 and 65535, with a known protocol"),
    case!(restart_policy_unknown, "an unknown restart policy, and one that a workload does not allow"),
    case!(job_spec_is_fixed, "a Job's template cannot be changed, and it does not restart always"),
    case!(cron_schedule, "a CronJob needs a schedule that can be read, and a short name"),
    case!(stateful_set_is_fixed, "of a StatefulSet's spec only a few fields can be changed"),
    case!(service_cluster_ip_is_fixed, "a Service keeps its address, and needs ports"),
    case!(config_map_keys, "keys of ConfigMaps and Secrets have a syntax"),
    case!(immutable_maps, "an immutable ConfigMap or Secret keeps its data"),
    case!(secret_type_is_fixed, "a Secret's type cannot be changed, and its data is base64"),
    case!(claim_is_fixed, "a claim's spec cannot be changed but for its size"),
    case!(lease_values, "a Lease's duration is positive"),
    case!(budget_values, "a budget has one of minAvailable and maxUnavailable"),
    case!(volume_mounts, "a mount needs its volume, and a path"),
    case!(owner_and_finalizer_syntax, "finalizers have a prefix"),
    case!(probes_of_containers, "a probe needs one handler, and periods above zero"),
];

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
                         end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
                     alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and \
                           end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
                           '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                         character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                         '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

async fn names_of_objects(b: &Bench) {
    for name in ["Upper", "-a", "a_b", "a..b", "a."] {
        let cause = format!("FieldValueInvalid metadata.name: Invalid value: \"{name}\": {SUBDOMAIN}");
        b.post("configmaps", json!({"metadata": {"name": name}})).await.invalid("ConfigMap", name, &[&cause]);
    }
    let long = "a".repeat(254);
    let cause = format!("FieldValueInvalid metadata.name: Invalid value: \"{long}\": must be no more than 253 characters");
    b.post("configmaps", json!({"metadata": {"name": long}})).await.invalid("ConfigMap", &long, &[&cause]);
    b.make("configmaps", json!({"metadata": {"name": "a".repeat(253)}})).await;
    b.make("configmaps", json!({"metadata": {"name": "1.a-b.c"}})).await;
}

async fn names_of_services(b: &Bench) {
    let mut object = named("services").object("1web");
    let body = b.post("services", object.clone()).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "metadata.name", "{body}");
    object["metadata"]["name"] = json!("a.b");
    b.post("services", object).await.is(422);
}

async fn names_of_namespaces(b: &Bench) {
    for (name, why) in [("@ns@.x", "must not contain dots"), ("@ns@-X", LABEL)] {
        let cause = format!("FieldValueInvalid metadata.name: Invalid value: \"{name}\": {why}");
        b.post("namespaces", json!({"metadata": {"name": name}})).await.invalid("Namespace", name, &[&cause]);
    }
}

async fn label_syntax(b: &Bench) {
    let body = |labels: Value| json!({"metadata": {"name": "a", "labels": labels}});
    let cause = format!("FieldValueInvalid metadata.labels: Invalid value: \"a b\": {LABEL_VALUE}");
    b.post("configmaps", body(json!({"x": "a b"}))).await.invalid("ConfigMap", "a", &[&cause]);
    let cause = format!("FieldValueInvalid metadata.labels: Invalid value: \"a b\": {QUALIFIED}");
    b.post("configmaps", body(json!({"a b": "x"}))).await.invalid("ConfigMap", "a", &[&cause]);
    let long = "v".repeat(64);
    let cause = format!("FieldValueInvalid metadata.labels: Invalid value: \"{long}\": must be no more than 63 characters");
    b.post("configmaps", body(json!({"x": long}))).await.invalid("ConfigMap", "a", &[&cause]);
    b.config_map("a").await;
    b.patch("configmaps/a", MERGE, json!({"metadata": {"labels": {"x": "-"}}})).await.is(422);
    let after = b.patch("configmaps/a", MERGE, json!({"metadata": {"labels": {"firedrill.dev/drills": "allowed", "e": ""}}})).await.is(200);
    assert_eq!(after["metadata"]["labels"]["e"], "");
}

async fn annotation_syntax(b: &Bench) {
    let body = |annotations: Value| json!({"metadata": {"name": "a", "annotations": annotations}});
    let answer = b.post("configmaps", body(json!({"a b": "x"}))).await.is(422);
    assert_eq!(answer["details"]["causes"][0]["field"], "metadata.annotations", "{answer}");
    let answer = b.post("configmaps", body(json!({"x": "v".repeat(262_144)}))).await.is(422);
    let cause = &answer["details"]["causes"][0];
    assert_eq!(cause["message"], "Too long: may not be more than 262144 bytes", "{cause}");
    b.post("configmaps", body(json!({"x": "any thing: {}\n"}))).await.is(201);
}

async fn deployment_selector_must_match(b: &Bench) {
    let mut object = named("deployments").object("web");
    object["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    let cause =
        "FieldValueInvalid spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`";
    b.post("deployments", object).await.invalid("Deployment.apps", "web", &[cause]);
}

async fn deployment_selector_is_fixed(b: &Bench) {
    b.make("deployments", named("deployments").object("web")).await;
    let labels = json!({"app": "it", "x": "y"});
    let patch = json!({"spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}});
    let cause = "FieldValueInvalid spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"it\",\"x\":\"y\"}}: field is immutable";
    b.patch("deployments/web", MERGE, patch).await.invalid("Deployment.apps", "web", &[cause]);
}

async fn negative_replicas(b: &Bench) {
    for (plural, kind) in [("deployments", "Deployment.apps"), ("replicasets", "ReplicaSet.apps"), ("statefulsets", "StatefulSet.apps")] {
        let mut object = named(plural).object("it");
        object["spec"]["replicas"] = json!(-1);
        let cause = "FieldValueInvalid spec.replicas: Invalid value: -1: must be greater than or equal to 0";
        b.post(plural, object).await.invalid(kind, "it", &[cause]);
        b.make(plural, named(plural).object("it")).await;
        b.patch(&format!("{plural}/it"), MERGE, json!({"spec": {"replicas": -1}})).await.invalid(kind, "it", &[cause]);
    }
}

async fn deployment_without_a_spec(b: &Bench) {
    let causes = [
        "FieldValueRequired spec.selector: Required value",
        "FieldValueInvalid spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
        "FieldValueRequired spec.template.spec.containers: Required value",
    ];
    let body = b.post("deployments", json!({"metadata": {"name": "web"}})).await.is(422);
    let found: Vec<&str> = body["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap()).collect();
    let wanted: Vec<&str> = causes.iter().map(|cause| cause.split([' ', ':']).nth(1).unwrap()).collect();
    assert_eq!(found, wanted, "{body}");
}

async fn pod_without_containers(b: &Bench) {
    b.account().await;
    let cause = "FieldValueRequired spec.containers: Required value";
    b.post("pods", json!({"metadata": {"name": "a"}, "spec": {"containers": []}})).await.invalid("Pod", "a", &[cause]);
    b.post("pods", json!({"metadata": {"name": "a"}})).await.invalid("Pod", "a", &[cause]);
}

/// Why a pod with these containers is refused.
async fn pod_refused(b: &Bench, containers: Value, causes: &[&str]) {
    b.account().await;
    let spec = json!({"containers": containers, "automountServiceAccountToken": false});
    b.post("pods", json!({"metadata": {"name": "a"}, "spec": spec})).await.invalid("Pod", "a", causes);
}

async fn containers_without_name_or_image(b: &Bench) {
    pod_refused(b, json!([{"image": "none"}]), &["FieldValueRequired spec.containers[0].name: Required value"]).await;
    pod_refused(b, json!([{"name": "main"}]), &["FieldValueRequired spec.containers[0].image: Required value"]).await;
    let twice = json!([{"name": "main", "image": "one"}, {"name": "main", "image": "two"}]);
    pod_refused(b, twice, &["FieldValueDuplicate spec.containers[1].name: Duplicate value: \"main\""]).await;
}

async fn container_name_syntax(b: &Bench) {
    let cause = format!("FieldValueInvalid spec.containers[0].name: Invalid value: \"Main\": {LABEL}");
    pod_refused(b, json!([{"name": "Main", "image": "none"}]), &[&cause]).await;
}

async fn quantities(b: &Bench) {
    b.account().await;
    let pod = |resources: Value| json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "main", "image": "none", "resources": resources}]}});
    let body = b.post("pods", pod(json!({"limits": {"memory": "lots"}}))).await.is(400);
    assert!(body["message"].as_str().unwrap().contains("quantities must match the regular expression"), "{body}");
    let cause =
        "FieldValueInvalid spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1";
    let answer = b.post("pods", pod(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}))).await;
    answer.invalid("Pod", "a", &[cause]);
    let cause = "FieldValueInvalid spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0";
    let body = b.post("pods", pod(json!({"limits": {"cpu": "-1"}}))).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], cause.split([' ', ':']).nth(1).unwrap(), "{body}");
    let made = b.make("pods", pod(json!({"limits": {"cpu": "0.5", "memory": "1024Mi"}}))).await;
    // Written back in the shortest form.
    assert_eq!(made["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "500m", "memory": "1Gi"}));
}

async fn ports(b: &Bench) {
    let container = |port: Value| json!([{"name": "main", "image": "none", "ports": [port]}]);
    let cause = "FieldValueInvalid spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive";
    pod_refused(b, container(json!({"containerPort": 65536})), &[cause]).await;
    let cause = "FieldValueNotSupported spec.containers[0].ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"";
    pod_refused(b, container(json!({"containerPort": 80, "protocol": "HTTP"})), &[cause]).await;
    let mut service = named("services").object("web");
    service["spec"]["ports"] = json!([{"port": 0}]);
    let body = b.post("services", service.clone()).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "spec.ports[0].port", "{body}");
    service["spec"]["ports"] = json!([{"port": 80}, {"port": 81}]);
    let causes = ["FieldValueRequired spec.ports[0].name: Required value", "FieldValueRequired spec.ports[1].name: Required value"];
    b.post("services", service).await.invalid("Service", "web", &causes);
}

async fn restart_policy_unknown(b: &Bench) {
    b.account().await;
    let container = json!({"name": "main", "image": "none"});
    let pod = json!({"metadata": {"name": "a"}, "spec": {"restartPolicy": "Sometimes", "containers": [container]}});
    let cause = "FieldValueNotSupported spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"";
    b.post("pods", pod).await.invalid("Pod", "a", &[cause]);
    let mut object = named("deployments").object("web");
    object["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let cause = "FieldValueNotSupported spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"";
    b.post("deployments", object).await.invalid("Deployment.apps", "web", &[cause]);
}

async fn job_spec_is_fixed(b: &Bench) {
    let mut object = named("jobs").object("a");
    object["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
    let body = b.post("jobs", object).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "spec.template.spec.restartPolicy", "{body}");
    b.make("jobs", named("jobs").object("a")).await;
    let body = b.patch("jobs/a", JSON, json!([{"op": "add", "path": "/spec/template/spec/hostname", "value": "x"}])).await.is(422);
    let cause = &body["details"]["causes"][0];
    assert_eq!(cause["field"], "spec.template", "{body}");
    assert!(cause["message"].as_str().unwrap().ends_with(": field is immutable"), "{body}");
    b.patch("jobs/a", MERGE, json!({"spec": {"parallelism": 0, "backoffLimit": 2}})).await.is(200);
    let cause = "FieldValueInvalid spec.parallelism: Invalid value: -1: must be greater than or equal to 0";
    b.patch("jobs/a", MERGE, json!({"spec": {"parallelism": -1}})).await.invalid("Job.batch", "a", &[cause]);
}

async fn cron_schedule(b: &Bench) {
    let mut object = named("cronjobs").object("a");
    object["spec"]["schedule"] = json!("whenever");
    let cause = "FieldValueInvalid spec.schedule: Invalid value: \"whenever\": expected exactly 5 fields, found 1: [whenever]";
    b.post("cronjobs", object.clone()).await.invalid("CronJob.batch", "a", &[cause]);
    object["spec"].as_object_mut().unwrap().remove("schedule");
    b.post("cronjobs", object.clone()).await.invalid("CronJob.batch", "a", &["FieldValueRequired spec.schedule: Required value"]);
    object["spec"]["schedule"] = json!("*/5 * * * *");
    object["spec"]["concurrencyPolicy"] = json!("Maybe");
    let cause =
        "FieldValueNotSupported spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"";
    b.post("cronjobs", object.clone()).await.invalid("CronJob.batch", "a", &[cause]);
    object["spec"]["concurrencyPolicy"] = json!("Forbid");
    let long = "a".repeat(53);
    object["metadata"]["name"] = json!(long);
    let cause = format!("FieldValueInvalid metadata.name: Invalid value: \"{long}\": must be no more than 52 characters");
    b.post("cronjobs", object.clone()).await.invalid("CronJob.batch", &long, &[&cause]);
    object["metadata"]["name"] = json!("a");
    object["spec"]["timeZone"] = json!("Mars/North");
    b.post("cronjobs", object).await.is(422);
}

async fn stateful_set_is_fixed(b: &Bench) {
    b.make("statefulsets", named("statefulsets").object("db")).await;
    let cause = "FieldValueForbidden spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    let answer = b.patch("statefulsets/db", MERGE, json!({"spec": {"serviceName": "other"}})).await;
    answer.invalid("StatefulSet.apps", "db", &[cause]);
    let answer = b.patch("statefulsets/db", MERGE, json!({"spec": {"podManagementPolicy": "Parallel"}})).await;
    answer.invalid("StatefulSet.apps", "db", &[cause]);
    b.patch("statefulsets/db", MERGE, json!({"spec": {"minReadySeconds": 3}})).await.is(200);
}

async fn service_cluster_ip_is_fixed(b: &Bench) {
    b.make("services", named("services").object("web")).await;
    let body = b.patch("services/web", MERGE, json!({"spec": {"clusterIP": "10.0.0.77", "clusterIPs": ["10.0.0.77"]}})).await.is(422);
    let causes = body["details"]["causes"].as_array().unwrap();
    assert!(causes.iter().any(|cause| cause["field"] == "spec.clusterIPs[0]"), "{body}");
    let mut object = named("services").object("none");
    object["spec"]["ports"] = json!([]);
    b.post("services", object).await.invalid("Service", "none", &["FieldValueRequired spec.ports: Required value"]);
}

async fn config_map_keys(b: &Bench) {
    let wanted = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', \
                  regex used for validation is '[-._a-zA-Z0-9]+')";
    let cause = format!("FieldValueInvalid data[a/b]: Invalid value: \"a/b\": {wanted}");
    b.post("configmaps", json!({"metadata": {"name": "a"}, "data": {"a/b": "x"}})).await.invalid("ConfigMap", "a", &[&cause]);
    b.post("secrets", json!({"metadata": {"name": "a"}, "stringData": {"a/b": "x"}})).await.invalid("Secret", "a", &[&cause]);
    let both = json!({"metadata": {"name": "a"}, "data": {"x": "1"}, "binaryData": {"x": "AQ=="}});
    let body = b.post("configmaps", both).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "data[x]", "{body}");
    let large = "x".repeat(1_048_577);
    let body = b.post("configmaps", json!({"metadata": {"name": "a"}, "data": {"x": large}})).await.is(422);
    assert_eq!(body["details"]["causes"][0]["message"], "Too long: may not be more than 1048576 bytes", "{}", body["details"]["causes"]);
}

async fn immutable_maps(b: &Bench) {
    for (plural, kind) in [("configmaps", "ConfigMap"), ("secrets", "Secret")] {
        let mut object = named(plural).object("a");
        object["immutable"] = json!(true);
        b.make(plural, object).await;
        let at = format!("{plural}/a");
        let cause = "FieldValueForbidden data: Forbidden: field is immutable when `immutable` is set";
        b.patch(&at, MERGE, json!({"data": {"key": "b3RoZXI="}})).await.invalid(kind, "a", &[cause]);
        let cause = "FieldValueForbidden immutable: Forbidden: field is immutable when `immutable` is set";
        b.patch(&at, MERGE, json!({"immutable": false})).await.invalid(kind, "a", &[cause]);
        b.patch(&at, MERGE, json!({"metadata": {"labels": {"x": "y"}}})).await.is(200);
    }
}

async fn secret_type_is_fixed(b: &Bench) {
    let made = b.make("secrets", named("secrets").object("a")).await;
    assert_eq!((&made["type"], &made["data"], made.get("stringData")), (&json!("Opaque"), &json!({"key": "dmFsdWU="}), None), "{made}");
    let cause = "FieldValueInvalid type: Invalid value: \"other\": field is immutable";
    b.patch("secrets/a", MERGE, json!({"type": "other"})).await.invalid("Secret", "a", &[cause]);
    let body = b.post("secrets", json!({"metadata": {"name": "b"}, "data": {"key": "no base64!"}})).await.is(400);
    assert_eq!(body["reason"], "BadRequest", "{body}");
    let after = b.patch("secrets/a", MERGE, json!({"stringData": {"more": "x"}})).await.is(200);
    assert_eq!(after["data"], json!({"key": "dmFsdWU=", "more": "eA=="}));
}

async fn claim_is_fixed(b: &Bench) {
    b.make("persistentvolumeclaims", named("persistentvolumeclaims").object("a")).await;
    let body = b.patch("persistentvolumeclaims/a", MERGE, json!({"spec": {"accessModes": ["ReadWriteMany"]}})).await.is(422);
    let cause = &body["details"]["causes"][0];
    assert_eq!((&cause["reason"], &cause["field"]), (&json!("FieldValueForbidden"), &json!("spec")), "{body}");
    assert!(cause["message"].as_str().unwrap().starts_with("Forbidden: spec is immutable after creation except "), "{body}");
    let mut object = named("persistentvolumeclaims").object("b");
    object["spec"].as_object_mut().unwrap().remove("resources");
    let cause = "FieldValueRequired spec.resources[storage]: Required value";
    b.post("persistentvolumeclaims", object).await.invalid("PersistentVolumeClaim", "b", &[cause]);
}

async fn lease_values(b: &Bench) {
    let cause = "FieldValueInvalid spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0";
    let body = json!({"metadata": {"name": "a"}, "spec": {"leaseDurationSeconds": 0}});
    b.post("leases", body).await.invalid("Lease.coordination.k8s.io", "a", &[cause]);
    let cause = "FieldValueInvalid spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0";
    let body = json!({"metadata": {"name": "a"}, "spec": {"leaseTransitions": -1}});
    b.post("leases", body).await.invalid("Lease.coordination.k8s.io", "a", &[cause]);
    let body = b.post("leases", json!({"metadata": {"name": "a"}, "spec": {"renewTime": "yesterday"}})).await.is(400);
    assert_eq!(body["reason"], "BadRequest", "{body}");
    let made = b.make("leases", json!({"metadata": {"name": "a"}, "spec": {"renewTime": "2026-01-02T03:04:05.678901Z"}})).await;
    assert_eq!(made["spec"]["renewTime"], "2026-01-02T03:04:05.678901Z");
}

async fn budget_values(b: &Bench) {
    let mut object = named("poddisruptionbudgets").object("a");
    object["spec"]["maxUnavailable"] = json!(1);
    let body = b.post("poddisruptionbudgets", object.clone()).await.is(422);
    assert_eq!(
        body["details"]["causes"][0]["message"].as_str().map(|text| text.ends_with("minAvailable and maxUnavailable cannot be both set")),
        Some(true),
        "{body}"
    );
    object["spec"].as_object_mut().unwrap().remove("maxUnavailable");
    object["spec"]["minAvailable"] = json!("150%");
    b.post("poddisruptionbudgets", object.clone()).await.is(422);
    object["spec"]["minAvailable"] = json!("50%");
    assert_eq!(b.make("poddisruptionbudgets", object).await["spec"]["minAvailable"], "50%");
}

async fn volume_mounts(b: &Bench) {
    let container = json!([{"name": "main", "image": "none", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]);
    pod_refused(b, container, &["FieldValueNotFound spec.containers[0].volumeMounts[0].name: Not found: \"data\""]).await;
}

async fn owner_and_finalizer_syntax(b: &Bench) {
    let body = b.post("configmaps", json!({"metadata": {"name": "a", "finalizers": ["hold it"]}})).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "metadata.finalizers", "{body}");
    let reference = json!({"apiVersion": "", "kind": "", "name": "", "uid": "x"});
    let body = b.post("configmaps", json!({"metadata": {"name": "a", "ownerReferences": [reference]}})).await.is(422);
    let fields: Vec<&str> = body["details"]["causes"].as_array().unwrap().iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    assert!(fields.contains(&"metadata.ownerReferences.kind") && fields.contains(&"metadata.ownerReferences.name"), "{body}");
}

async fn probes_of_containers(b: &Bench) {
    let container = |probe: Value| json!([{"name": "main", "image": "none", "readinessProbe": probe}]);
    pod_refused(
        b,
        container(json!({"periodSeconds": 5})),
        &["FieldValueRequired spec.containers[0].readinessProbe: Required value: must specify a handler type"],
    )
    .await;
    let probe = json!({"httpGet": {"port": 80}, "timeoutSeconds": -1});
    let cause = "FieldValueInvalid spec.containers[0].readinessProbe.timeoutSeconds: Invalid value: -1: must be greater than or equal to 0";
    pod_refused(b, container(probe), &[cause]).await;
}
