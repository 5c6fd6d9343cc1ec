//! Lists: pages, versions, selectors.

use serde_json::{Value, json};

use crate::{
    Case,
    answer::{names, version},
    bench::{Bench, MERGE},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(list_in_the_order_of_names, "a list is in the order of names"),
    case!(list_in_pages, "limit and continue: every object once, with one version for all pages"),
    case!(pages_show_one_moment, "what is made or deleted between two pages is not seen by the second"),
    case!(pages_with_a_selector, "pages of a selector say nothing of how many remain"),
    case!(limit_that_is_not_reached, "a limit above the number of objects: no token"),
    case!(continue_token_that_is_none, "a continue token that is none is refused"),
    case!(list_not_older_than, "resourceVersionMatch=NotOlderThan with a known version"),
    case!(list_of_version_zero, "resourceVersion=0 gives what is at hand"),
    case!(list_exact, "resourceVersionMatch=Exact shows the past"),
    case!(list_version_match_without_version, "resourceVersionMatch needs a resourceVersion"),
    case!(list_version_that_is_no_number, "a resourceVersion that is no number is refused"),
    case!(list_version_of_the_future, "a version that does not exist yet is waited for, and then refused"),
    case!(list_over_all_namespaces, "a list over all namespaces, by label"),
    case!(list_of_nothing, "a list of nothing has items and a version"),
    case!(list_in_a_missing_namespace, "a list in a namespace that does not exist is empty"),
    case!(field_selector_by_name, "field selectors by name and namespace"),
    case!(field_selector_of_pods, "field selectors of pods: phase, node, restart policy, inequality"),
    case!(field_selector_unknown, "a field that is not selectable is refused"),
    case!(selectors_that_are_none, "selectors that cannot be read are refused"),
    case!(field_selector_of_events, "field selectors of events by what they are about"),
];

async fn maps(b: &Bench, names: &[&str]) {
    for name in names {
        b.make("configmaps", json!({"metadata": {"name": name, "labels": {"own": "maps"}}})).await;
    }
}

async fn list_in_the_order_of_names(b: &Bench) {
    maps(b, &["b", "a.c", "a", "c", "a-b", "ab"]).await;
    assert_eq!(names(&b.get("configmaps?labelSelector=own").await.is(200)), ["a", "a-b", "a.c", "ab", "b", "c"]);
}

/// The pages of a list.
async fn pages(b: &Bench, path: &str, between: impl AsyncFn(usize)) -> Vec<Value> {
    let mut pages = vec![b.get(path).await.is(200)];
    while let Some(token) = pages[pages.len() - 1]["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
        between(pages.len()).await;
        let page = b.get(&format!("{path}&continue={}", token.replace('=', "%3D"))).await.is(200);
        pages.push(page);
        assert!(pages.len() < 10, "the pages do not end");
    }
    pages
}

/// Leases, because no controller makes any in a namespace.
async fn leases(b: &Bench, count: usize) {
    for number in 0..count {
        b.make("leases", json!({"metadata": {"name": format!("l{number}")}})).await;
    }
}

async fn list_in_pages(b: &Bench) {
    leases(b, 7).await;
    let pages = pages(b, "leases?limit=3", async |_| ()).await;
    let found: Vec<Vec<String>> = pages.iter().map(names).collect();
    assert_eq!(found, [vec!["l0", "l1", "l2"], vec!["l3", "l4", "l5"], vec!["l6"]]);
    let left: Vec<Option<i64>> = pages.iter().map(|page| page["metadata"]["remainingItemCount"].as_i64()).collect();
    assert_eq!(left, [Some(4), Some(1), None]);
    assert_eq!((version(&pages[0]), version(&pages[1])), (version(&pages[1]), version(&pages[2])));
}

async fn pages_show_one_moment(b: &Bench) {
    leases(b, 5).await;
    let pages = pages(b, "leases?limit=2", async |done| {
        if done == 1 {
            b.delete("leases/l3", json!({})).await.is(200);
            b.make("leases", json!({"metadata": {"name": "l2x"}})).await;
        }
    })
    .await;
    let found: Vec<String> = pages.iter().flat_map(names).collect();
    assert_eq!(found, ["l0", "l1", "l2", "l3", "l4"]);
    assert_eq!(names(&b.get("leases").await.is(200)), ["l0", "l1", "l2", "l2x", "l4"]);
}

async fn pages_with_a_selector(b: &Bench) {
    maps(b, &["a", "b", "c"]).await;
    let pages = pages(b, "configmaps?labelSelector=own%3Dmaps&limit=2", async |_| ()).await;
    assert_eq!(pages.iter().map(names).collect::<Vec<_>>(), [vec!["a", "b"], vec!["c"]]);
    assert_eq!(pages[0]["metadata"].get("remainingItemCount"), None, "{}", pages[0]["metadata"]);
}

async fn limit_that_is_not_reached(b: &Bench) {
    leases(b, 2).await;
    for limit in ["2", "3", "0"] {
        let list = b.get(&format!("leases?limit={limit}")).await.is(200);
        assert_eq!(names(&list), ["l0", "l1"]);
        assert_eq!((list["metadata"].get("continue"), list["metadata"].get("remainingItemCount")), (None, None), "{}", list["metadata"]);
    }
}

async fn continue_token_that_is_none(b: &Bench) {
    let message = "invalid continue token: continue key is not valid: illegal base64 data at input byte 0";
    b.get("leases?limit=1&continue=!").await.refused(400, "BadRequest", message);
}

async fn list_not_older_than(b: &Bench) {
    leases(b, 2).await;
    let seen = version(&b.get("leases?limit=500").await.is(200));
    b.make("leases", json!({"metadata": {"name": "l9"}})).await;
    let list = b.get(&format!("leases?limit=500&resourceVersion={seen}&resourceVersionMatch=NotOlderThan")).await.is(200);
    // The new one is seen or not, as it happens; what was seen before is there.
    assert_eq!(names(&list)[..2], ["l0", "l1"]);
    let number = |version: &str| version.parse::<u64>().unwrap();
    assert!(number(&version(&list)) >= number(&seen));
    let newest = b.get("leases/l9").await.is(200);
    let list = b.get(&format!("leases?resourceVersion={}&resourceVersionMatch=NotOlderThan", version(&newest))).await.is(200);
    assert_eq!(names(&list), ["l0", "l1", "l9"]);
}

async fn list_of_version_zero(b: &Bench) {
    leases(b, 2).await;
    let wanted = |answer: &crate::answer::Answer| answer.code == 200 && names(&answer.body) == ["l0", "l1"];
    b.until("leases?resourceVersion=0", wanted).await;
    b.until("leases?resourceVersion=0&resourceVersionMatch=NotOlderThan", wanted).await;
}

async fn list_exact(b: &Bench) {
    leases(b, 2).await;
    let then = version(&b.get("leases").await.is(200));
    b.make("leases", json!({"metadata": {"name": "l9"}})).await;
    b.patch("leases/l0", MERGE, json!({"spec": {"holderIdentity": "she"}})).await.is(200);
    let past = b.get(&format!("leases?resourceVersion={then}&resourceVersionMatch=Exact")).await.is(200);
    assert_eq!((names(&past), version(&past)), (vec!["l0".to_owned(), "l1".to_owned()], then));
    assert_eq!(past["items"][0]["spec"].get("holderIdentity"), None, "{past}");
}

async fn list_version_match_without_version(b: &Bench) {
    let body = b.get("leases?resourceVersionMatch=NotOlderThan").await.is(422);
    assert_eq!(body["reason"], "Invalid", "{body}");
    let message = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
    assert_eq!(body["message"], message);
    let body = b.get("leases?resourceVersion=0&resourceVersionMatch=Exact").await.is(422);
    let message = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
    assert_eq!(body["message"], message);
}

async fn list_version_that_is_no_number(b: &Bench) {
    let message = "invalid resource version: resourceVersion: Invalid value: \"new\": strconv.ParseUint: parsing \"new\": invalid syntax";
    let body = b.get("leases?resourceVersion=new").await.is(400);
    assert_eq!((&body["reason"], &body["message"]), (&json!("BadRequest"), &json!(message)), "{body}");
}

async fn list_version_of_the_future(b: &Bench) {
    let made = b.make("leases", json!({"metadata": {"name": "l0"}})).await;
    let now = version(&made);
    let future = now.parse::<u64>().unwrap() + 1_000_000;
    let body = b.get(&format!("leases?resourceVersion={future}&resourceVersionMatch=NotOlderThan")).await.is(504);
    assert_eq!(body["reason"], "Timeout", "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("Timeout: Too large resource version: {future}, current: ")), "{message}");
    assert_eq!(
        body["details"]["causes"],
        json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]),
        "{body}"
    );
    assert_eq!(body["details"]["retryAfterSeconds"], 1, "{body}");
}

async fn list_over_all_namespaces(b: &Bench) {
    b.make("namespaces", json!({"metadata": {"name": "@ns@-two"}})).await;
    b.later("namespaces/@ns@-two");
    let object = |namespace: &str| json!({"metadata": {"name": "a", "namespace": namespace, "labels": {"across": "@ns@"}}});
    b.make("configmaps", object("@ns@")).await;
    b.post("/api/v1/namespaces/@ns@-two/configmaps", object("@ns@-two")).await.is(201);
    let list = b.get("/api/v1/configmaps?labelSelector=across%3D@ns@").await.is(200);
    let found: Vec<&str> = list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["namespace"].as_str().unwrap()).collect();
    // By namespace/name, and a hyphen comes before a slash.
    assert_eq!((found, list["kind"].as_str()), (vec!["@ns@-two", "@ns@"], Some("ConfigMapList")));
    b.post("/api/v1/configmaps", object("@ns@")).await.is(405);
}

async fn list_of_nothing(b: &Bench) {
    let list = b.get("leases").await.is(200);
    assert_eq!((&list["items"], &list["kind"]), (&json!([]), &json!("LeaseList")));
    assert!(version(&list).parse::<u64>().unwrap() > 0);
}

async fn list_in_a_missing_namespace(b: &Bench) {
    assert_eq!(b.get("/api/v1/namespaces/@ns@-none/pods").await.is(200)["items"], json!([]));
}

async fn field_selector_by_name(b: &Bench) {
    maps(b, &["a", "b", "c"]).await;
    for (selector, wanted) in [
        ("metadata.name%3Da", &["a"][..]),
        ("metadata.name%3D%3Db", &["b"]),
        ("metadata.name!%3Da,metadata.namespace%3D@ns@", &["b", "c"]),
        ("metadata.name%3Da,metadata.name%3Db", &[]),
    ] {
        assert_eq!(names(&b.get(&format!("configmaps?labelSelector=own&fieldSelector={selector}")).await.is(200)), wanted, "{selector}");
    }
}

async fn field_selector_of_pods(b: &Bench) {
    b.pod("loose").await;
    b.bound_pod("bound").await;
    b.patch("pods/bound/status", MERGE, json!({"status": {"phase": "Running"}})).await.is(200);
    for (selector, wanted) in [
        ("status.phase%3DPending", &["loose"][..]),
        ("status.phase!%3DPending", &["bound"]),
        ("spec.nodeName%3D@ns@-node", &["bound"]),
        ("spec.nodeName%3D", &["loose"]),
        ("spec.restartPolicy%3DAlways,status.phase%3DRunning", &["bound"]),
        ("spec.schedulerName%3Ddefault-scheduler", &["bound", "loose"]),
    ] {
        assert_eq!(names(&b.get(&format!("pods?fieldSelector={selector}")).await.is(200)), wanted, "{selector}");
    }
}

async fn field_selector_unknown(b: &Bench) {
    let message = "field label not supported: spec.colour";
    let body = b.get("pods?fieldSelector=spec.colour%3Dred").await.is(400);
    assert_eq!((&body["reason"], &body["message"]), (&json!("BadRequest"), &json!(message)), "{body}");
    let body = b.get("configmaps?fieldSelector=data.key%3Dred").await.is(400);
    assert_eq!(body["reason"], "BadRequest", "{body}");
}

async fn selectors_that_are_none(b: &Bench) {
    for selector in
        ["labelSelector=a%20b", "labelSelector=%3Dvalue", "labelSelector=a%20in%20x", "labelSelector=-a-%3Db", "fieldSelector=x"]
    {
        let body = b.get(&format!("configmaps?{selector}")).await.is(400);
        assert_eq!(body["reason"], "BadRequest", "{selector}: {body}");
    }
}

async fn field_selector_of_events(b: &Bench) {
    for (name, about, reason) in [("a", "web", "Killing"), ("b", "web", "Started"), ("c", "db", "Killing")] {
        let mut event = named("events").object(name);
        event["involvedObject"]["name"] = json!(about);
        event["reason"] = json!(reason);
        b.make("events", event).await;
    }
    for (selector, wanted) in [
        ("involvedObject.name%3Dweb", &["a", "b"][..]),
        ("involvedObject.kind%3DPod,reason%3DKilling", &["a", "c"]),
        ("type!%3DNormal", &[]),
    ] {
        assert_eq!(names(&b.get(&format!("events?fieldSelector={selector}")).await.is(200)), wanted, "{selector}");
    }
}
