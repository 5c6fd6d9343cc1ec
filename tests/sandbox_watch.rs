//! The sandbox's web service and monitoring: from a scrape over rules and groups to the receiver, with their times, and with
//! every weakness that they can be given.

use std::time::Duration;

use bytes::Bytes;
use firedrill::{
    net::{Answer, Dialer, HttpRequest, NetError, Url, request},
    sandbox::{ClusterOptions, Sandbox, SandboxOptions},
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const WALL_US: i64 = 1_767_225_600_000_000;
const MONITORING: &str = include_str!("../scenarios/world/30-monitoring.yaml");
const CHECKOUT: &str = include_str!("../scenarios/world/20-checkout.yaml");
const KNOB: &str = "sandbox.firedrill.dev";

/// Rules of these tests. Every interval is that of the shop's.
const RULES: &str = r#"
groups:
- name: heartbeat
  interval: 1s
  rules:
  - {alert: Heartbeat, expr: vector(1), labels: {severity: none}}
- name: web
  interval: 1s
  rules:
  - alert: WebDown
    expr: (count(up{job="web"} == 1) or vector(0)) < 1
    for: 3s
    labels: {severity: page}
    annotations: {summary: "Of {{ $value }} nothing answers"}
  - alert: WebGone
    expr: kube_deployment_status_replicas_available{deployment="web"} < 1
    for: 3s
    labels: {severity: ticket}
  - alert: WebSlow
    expr: histogram_quantile(0.9, web_seconds_bucket) > 1
"#;

/// A service, and what is scraped of it.
const WEB: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {sandbox.firedrill.dev/model: web}}
    spec:
      containers:
      - name: web
        image: localhost/web:1
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /livez, port: http}, periodSeconds: 2, failureThreshold: 1}
"#;

struct World {
    sandbox: Sandbox,
    client: Client,
    dialer: Dialer,
}

fn documents(text: &str) -> Vec<Value> {
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// The monitoring's objects, with the rules of these tests, and the pods of `app: web` scraped as the shop's are.
fn monitoring() -> Vec<Value> {
    let mut all = documents(MONITORING);
    for object in &mut all {
        match (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap()) {
            ("ConfigMap", "rules") => object["data"] = json!({"orders.yml": RULES}),
            ("ConfigMap", "prometheus") => {
                let file = object["data"]["prometheus.yml"].as_str().unwrap().to_owned();
                let file = file.replace("job_name: checkout", "job_name: web").replace("regex: checkout;http", "regex: web;http");
                object["data"]["prometheus.yml"] = json!(file);
            }
            _ => {}
        }
    }
    all
}

/// Changes a text in a ConfigMap.
fn edit(all: &mut [Value], map: &str, from: &str, to: &str) {
    let object = all.iter_mut().find(|o| o["kind"] == "ConfigMap" && o["metadata"]["name"] == map).unwrap();
    let mut hit = false;
    for content in object["data"].as_object_mut().unwrap().values_mut() {
        let text = content.as_str().unwrap();
        hit |= text.contains(from);
        *content = json!(text.replace(from, to));
    }
    assert!(hit, "{map} has no {from}");
}

/// Sets a knob of a Deployment's pods.
fn knob(all: &mut [Value], deployment: &str, name: &str, value: &str) {
    let object = all.iter_mut().find(|o| o["kind"] == "Deployment" && o["metadata"]["name"] == deployment).unwrap();
    object["spec"]["template"]["metadata"]["annotations"][format!("{KNOB}/{name}")] = json!(value);
}

impl World {
    async fn new(objects: Vec<Value>) -> Self {
        let sandbox = Sandbox::new(SandboxOptions { seed: 11, wall_us: WALL_US });
        sandbox.start_cluster(ClusterOptions::default());
        for n in 0..2 {
            sandbox.add_node(&format!("n{n}"), &format!("zone-{n}"));
        }
        let (client, dialer) = (sandbox.client("admin"), sandbox.dialer(Some("shop")));
        let world = Self { sandbox, client, dialer };
        for name in ["shop", "monitoring"] {
            world.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await;
        }
        for object in objects {
            world.create(object).await;
        }
        world
    }

    /// With the monitoring of the shop and `web`, well for a time.
    async fn watched(objects: Vec<Value>) -> Self {
        let world = Self::new(objects.into_iter().chain(documents(WEB)).collect()).await;
        world.until("web is scraped", 60, async || world.query("up{job=\"web\"} == 1").await["data"]["result"][0].is_object()).await;
        // Long enough for rules that look back by 20 s, too.
        sleep(Duration::from_secs(60)).await;
        world
    }

    fn api(&self, object: &Value) -> (Api<DynamicObject>, DynamicObject) {
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        let types = object.types.clone().unwrap();
        let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
        let api = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        (api, object)
    }

    async fn create(&self, object: Value) {
        let (api, object) = self.api(&object);
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    async fn patch(&self, kind: (&str, &str), namespace: &str, name: &str, patch: Value) {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(if kind.0 == "v1" { "" } else { kind.0 }, "v1", kind.1));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Sets a knob of the pod of an app, while it runs; none: takes it away.
    async fn turn(&self, namespace: &str, app: &str, knob: &str, value: Option<&str>) {
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(self.client.clone(), namespace);
        let pods = pods.list(&kube::api::ListParams::default().labels(&format!("app={app}"))).await.unwrap();
        for pod in pods {
            let annotations = json!({"metadata": {"annotations": {format!("{KNOB}/{knob}"): value}}});
            self.patch(("v1", "Pod"), namespace, pod.metadata.name.as_deref().unwrap(), annotations).await;
        }
    }

    async fn ask(&self, method: &str, url: &str, body: &str) -> Result<Answer, NetError> {
        let url: Url = url.parse().unwrap();
        let ask = HttpRequest::new(method, url, [("content-type", "application/json")], Bytes::from(body.to_owned())).unwrap();
        tokio::time::timeout(Duration::from_secs(200), request(&self.dialer, &ask, 1 << 20)).await.unwrap()
    }

    async fn status(&self, url: &str) -> u16 {
        self.ask("GET", url, "").await.unwrap().status
    }

    async fn json(&self, url: &str) -> Value {
        match self.ask("GET", url, "").await {
            Ok(answer) => serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
            Err(_) => Value::Null,
        }
    }

    async fn query(&self, expr: &str) -> Value {
        let encoded: String = expr.bytes().map(|b| format!("%{b:02X}")).collect();
        self.json(&format!("http://prometheus.monitoring:9090/api/v1/query?query={encoded}")).await
    }

    /// The notifications of an alert so far.
    async fn received(&self, alert: &str) -> Vec<Value> {
        let all = self.json(&format!("http://alert-receiver.monitoring:8080/notifications?alertname={alert}")).await;
        all.as_array().cloned().unwrap_or_default()
    }

    /// The alerts of a name that Alertmanager has.
    async fn at_alertmanager(&self, alert: &str) -> Vec<Value> {
        let url = format!(
            "http://alertmanager.monitoring:9093/api/v2/alerts?active=true&silenced=true&inhibited=true&filter=alertname%3D%22{alert}%22"
        );
        self.json(&url).await.as_array().cloned().unwrap_or_default()
    }

    /// The state of an alert at Prometheus, and since when.
    async fn at_prometheus(&self, alert: &str) -> Option<(String, i64)> {
        let all = self.json("http://prometheus.monitoring:9090/api/v1/alerts").await;
        let found = all["data"]["alerts"].as_array()?.iter().find(|a| a["labels"]["alertname"] == alert)?.clone();
        Some((found["state"].as_str()?.to_owned(), micros(&found["activeAt"])))
    }

    /// Waits until something is so.
    async fn until(&self, what: &str, seconds: u64, is: impl AsyncFn() -> bool) {
        let limit = Instant::now() + Duration::from_secs(seconds);
        while !is().await {
            assert!(Instant::now() < limit, "not within {seconds} s: {what}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Web ends now; how long until the receiver hears of it, if within a time.
    async fn pages_after(&self, seconds: u64) -> Option<Duration> {
        let before = self.received("WebDown").await.len();
        let begin = self.sandbox.now_us();
        self.turn("shop", "web", "down", Some("true")).await;
        sleep(Duration::from_secs(seconds)).await;
        let arrived = self.received("WebDown").await.get(before).map(|first| first["received_us"].as_i64().unwrap());
        arrived.map(|at| Duration::from_micros((at - begin).unsigned_abs()))
    }
}

fn micros(time: &Value) -> i64 {
    time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

fn within(what: &str, us: i64, seconds: std::ops::RangeInclusive<f64>) {
    let is = us as f64 / 1e6;
    assert!(seconds.contains(&is), "{what}: {is} s, not in {seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_goes_from_the_scrape_to_the_receiver_in_its_times_and_ends_there() {
    let world = World::watched(monitoring()).await;
    assert!(world.at_alertmanager("WebDown").await.is_empty());
    let begin = world.sandbox.now_us();
    world.turn("shop", "web", "down", Some("true")).await;
    world.until("pending", 3, async || world.at_prometheus("WebDown").await.is_some_and(|(state, _)| state == "pending")).await;
    world.until("firing", 5, async || world.at_prometheus("WebDown").await.is_some_and(|(state, _)| state == "firing")).await;
    let (_, active) = world.at_prometheus("WebDown").await.unwrap();
    // A scrape each second, and then an evaluation each second.
    within("active after the outage", active - begin, 0.0..=2.1);
    world.until("received", 5, async || !world.received("WebDown").await.is_empty()).await;
    let notification = world.received("WebDown").await.remove(0);
    let alert = &notification["alerts"][0];
    let starts = micros(&alert["startsAt"]);
    within("firing after `for`", starts - active, 3.0..=3.0);
    within("received after group_wait", notification["received_us"].as_i64().unwrap() - starts, 1.0..=1.1);
    assert_eq!((&notification["status"], &alert["status"]), (&json!("firing"), &json!("firing")));
    assert_eq!(alert["annotations"]["summary"], "Of 0 nothing answers");
    assert_eq!(notification["groupLabels"], json!({"alertname": "WebDown"}));
    let known = world.at_alertmanager("WebDown").await;
    assert_eq!((known.len(), &known[0]["fingerprint"]), (1, &alert["fingerprint"]));
    assert_eq!(known[0]["status"], json!({"state": "active", "silencedBy": [], "inhibitedBy": []}));
    // Told once, however often Prometheus says it again.
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.received("WebDown").await.len(), 1);
    let end = world.sandbox.now_us();
    world.turn("shop", "web", "down", None).await;
    world.until("resolved", 10, async || world.received("WebDown").await.len() == 2).await;
    let resolved = world.received("WebDown").await.remove(1);
    assert_eq!((&resolved["status"], &resolved["alerts"][0]["fingerprint"]), (&json!("resolved"), &alert["fingerprint"]));
    // Scrape, evaluation, and group_interval.
    within("resolved", resolved["received_us"].as_i64().unwrap() - end, 0.0..=4.2);
    assert!(world.at_alertmanager("WebDown").await.is_empty());
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_every_five_seconds_and_targets_that_are_gone_end() {
    let world = World::watched(monitoring()).await;
    sleep(Duration::from_secs(60)).await;
    let at: Vec<i64> = world.received("Heartbeat").await.iter().map(|n| n["received_us"].as_i64().unwrap()).collect();
    assert!(at.len() >= 12, "{at:?}");
    at.windows(2).for_each(|pair| within("from one to the next", pair[1] - pair[0], 4.9..=5.1));
    // No pod, and so no target: its series end, and the rule sees nobody answer.
    world.patch(("apps", "Deployment"), "shop", "web", json!({"spec": {"replicas": 0}})).await;
    world.until("series end", 10, async || world.query("up{job=\"web\"}").await["data"]["result"] == json!([])).await;
    world.until("received", 10, async || !world.received("WebDown").await.is_empty()).await;
    // Objects are metrics, too: as they were shown two seconds ago at most, scraped every two.
    world.until("WebGone", 12, async || !world.received("WebGone").await.is_empty()).await;
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_rehearsable_is_told_as_such() {
    let world = World::watched(monitoring()).await;
    let rules = world.json("http://prometheus.monitoring:9090/api/v1/rules?type=alert").await;
    let rules: Vec<&Value> = rules["data"]["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    let slow = rules.iter().find(|rule| rule["name"] == "WebSlow").unwrap();
    assert_eq!(slow["health"], "err");
    assert!(slow["lastError"].as_str().unwrap().starts_with("not rehearsable"), "{slow}");
    assert!(rules.iter().filter(|rule| rule["name"] != "WebSlow").all(|rule| rule["health"] == "ok"), "{rules:?}");
    let asked = world.query("histogram_quantile(0.9, x)").await;
    assert_eq!((&asked["status"], asked["error"].as_str().unwrap().contains("not rehearsable")), (&json!("error"), true));
    assert_eq!(world.status("http://prometheus.monitoring:9090/api/v1/label/x/values").await, 404);
    world.sandbox.stop().await;
    // A file with more in it than is modelled keeps the program from starting.
    let mut all = monitoring();
    edit(&mut all, "prometheus", "rule_files:", "remote_write: []\n    rule_files:");
    let world = World::new(all).await;
    sleep(Duration::from_secs(60)).await;
    assert!(world.ask("GET", "http://prometheus.monitoring:9090/-/ready", "").await.is_err());
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn silenced_and_inhibited_alerts_are_kept_back() {
    let mut all = monitoring();
    // A page keeps back tickets.
    let rule = "receivers:\n- name: webhook";
    edit(
        &mut all,
        "alertmanager",
        rule,
        &format!("inhibit_rules: [{{source_matchers: [severity=page], target_matchers: [severity=ticket]}}]\n{rule}"),
    );
    let world = World::watched(all).await;
    let until = jiff::Timestamp::from_microsecond(world.sandbox.now_us() + 40_000_000).unwrap();
    let silence = json!({
        "matchers": [{"name": "alertname", "value": "WebDown", "isRegex": false, "isEqual": true}], "startsAt": until - jiff::SignedDuration::from_secs(40),
        "endsAt": until, "createdBy": "tests", "comment": "on purpose",
    });
    let made = world.ask("POST", "http://alertmanager.monitoring:9093/api/v2/silences", &silence.to_string()).await.unwrap();
    assert_eq!(made.status, 200, "{made:?}");
    let id = serde_json::from_slice::<Value>(&made.body).unwrap()["silenceID"].clone();
    // Not ready and no answers: both rules.
    world.turn("shop", "web", "down", Some("true")).await;
    world
        .until("both fire", 30, async || world.at_alertmanager("WebDown").await.len() + world.at_alertmanager("WebGone").await.len() == 2)
        .await;
    let (down, gone) = (world.at_alertmanager("WebDown").await.remove(0), world.at_alertmanager("WebGone").await.remove(0));
    assert_eq!(down["status"], json!({"state": "suppressed", "silencedBy": [id], "inhibitedBy": []}));
    assert_eq!(gone["status"], json!({"state": "suppressed", "silencedBy": [], "inhibitedBy": [down["fingerprint"]]}));
    assert_eq!(world.json("http://alertmanager.monitoring:9093/api/v2/silences").await[0]["status"]["state"], "active");
    assert!(world.received("WebDown").await.is_empty() && world.received("WebGone").await.is_empty());
    world.until("the silence has ended", 60, async || !world.received("WebDown").await.is_empty()).await;
    assert!(world.received("WebDown").await[0]["received_us"].as_i64().unwrap() >= until.as_microsecond());
    assert!(world.received("WebGone").await.is_empty(), "inhibited still");
    world.sandbox.stop().await;
}

/// How long the control takes, and each weakness apart: none of them is caught by chance.
#[tokio::test(start_paused = true)]
async fn pages_that_come_late_or_never() {
    let control = World::watched(monitoring()).await;
    let honest = control.pages_after(30).await.unwrap();
    assert!((4.0..8.0).contains(&honest.as_secs_f64()), "{honest:?}");
    control.sandbox.stop().await;
    for (deployment, name) in [("prometheus", "delay-evaluation"), ("prometheus", "delay-alerts"), ("alertmanager", "delay-notifications")]
    {
        let mut all = monitoring();
        knob(&mut all, deployment, name, "20s");
        let world = World::watched(all).await;
        let late = world.pages_after(60).await.unwrap();
        within(name, late.as_micros() as i64 - honest.as_micros() as i64, 18.0..=23.0);
        world.sandbox.stop().await;
    }
    // Each of these alone, and whether heartbeats go on.
    type Change = fn(&mut [Value]);
    let never: [(&str, Change, bool); 4] = [
        ("rule gone", |all| edit(all, "rules", "alert: WebDown", "alert: WebDownOfOld"), true),
        (
            "route broken",
            |all| {
                edit(
                    all,
                    "alertmanager",
                    "repeat_interval: 1h # production: 4h\n  routes:",
                    "repeat_interval: 1h\n  routes:\n  - {matchers: [severity=page], receiver: nobody}",
                )
            },
            true,
        ),
        ("notifications lost", |all| knob(all, "alertmanager", "lose-notifications", "1"), false),
        ("lost by the receiver", |all| knob(all, "alert-receiver", "lose-notifications", "1"), false),
    ];
    for (what, change, beats) in never {
        let mut all = monitoring();
        change(&mut all);
        if what == "route broken" {
            edit(&mut all, "alertmanager", "receivers:", "receivers:\n- name: nobody");
        }
        let world = World::watched(all).await;
        assert_eq!(world.pages_after(60).await, None, "{what}");
        assert_eq!(!world.received("Heartbeat").await.is_empty(), beats, "{what}");
        assert_eq!(world.at_alertmanager("WebDown").await.is_empty(), what == "rule gone", "{what}");
        world.sandbox.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn scrapes_that_break_exporters_that_lie_and_a_receiver_that_is_down() {
    // Nothing is wrong, and nobody can see it.
    let world = World::watched(monitoring()).await;
    world.turn("monitoring", "prometheus", "scrape-broken", Some("web")).await;
    world.until("received", 15, async || !world.received("WebDown").await.is_empty()).await;
    assert_eq!(world.status("http://web.shop/").await, 200);
    world.turn("monitoring", "prometheus", "scrape-broken", None).await;
    world.until("resolved", 10, async || world.received("WebDown").await.len() == 2).await;
    // Something is wrong, and the exporter says that all is well.
    let lie = "kube_deployment_status_replicas_available{namespace=\"shop\",deployment=\"web\"} 1";
    world.turn("monitoring", "object-metrics", "lies", Some(lie)).await;
    world.patch(("apps", "Deployment"), "shop", "web", json!({"spec": {"replicas": 0}})).await;
    sleep(Duration::from_secs(40)).await;
    assert!(world.received("WebGone").await.is_empty());
    world.turn("monitoring", "object-metrics", "lies", None).await;
    world.until("WebGone", 15, async || !world.received("WebGone").await.is_empty()).await;
    // It says what it said before.
    world.turn("monitoring", "object-metrics", "stuck", Some("true")).await;
    world.patch(("apps", "Deployment"), "shop", "web", json!({"spec": {"replicas": 1}})).await;
    sleep(Duration::from_secs(40)).await;
    assert_eq!(world.at_alertmanager("WebGone").await.len(), 1);
    world.turn("monitoring", "object-metrics", "stuck", None).await;
    world.until("it ends", 15, async || world.at_alertmanager("WebGone").await.is_empty()).await;
    // The receiver takes nothing for a while; what is firing is posted again and again until it does.
    let beats = world.received("Heartbeat").await.len();
    world.turn("monitoring", "alert-receiver", "down", Some("true")).await;
    world.turn("shop", "web", "down", Some("true")).await;
    let pages = 3;
    sleep(Duration::from_secs(30)).await;
    assert!(world.ask("GET", "http://alert-receiver.monitoring:8080/time", "").await.is_err());
    assert_eq!(world.at_alertmanager("WebDown").await.len(), 1);
    world.turn("monitoring", "alert-receiver", "down", None).await;
    world.until("it is back", 5, async || world.status_or("http://alert-receiver.monitoring:8080/healthz").await == 200).await;
    world.until("received", 15, async || world.received("WebDown").await.len() >= pages).await;
    world.until("heartbeats go on", 30, async || world.received("Heartbeat").await.len() > beats).await;
    let missed: Vec<i64> = world.received("Heartbeat").await[beats - 1..].iter().map(|n| n["received_us"].as_i64().unwrap()).collect();
    assert!(missed.windows(2).any(|pair| pair[1] - pair[0] > 25_000_000), "{missed:?}");
    world.sandbox.stop().await;
}

impl World {
    async fn status_or(&self, url: &str) -> u16 {
        self.ask("GET", url, "").await.map_or(0, |answer| answer.status)
    }
}

#[tokio::test(start_paused = true)]
async fn some_notifications_are_lost_by_chance_and_the_same_ones_each_time() {
    let mut counts = Vec::new();
    for _ in 0..2 {
        let mut all = monitoring();
        knob(&mut all, "alertmanager", "lose-notifications", "0.5");
        let world = World::watched(all).await;
        sleep(Duration::from_secs(300)).await;
        let at: Vec<i64> = world.received("Heartbeat").await.iter().map(|n| n["received_us"].as_i64().unwrap()).collect();
        // About thirty of sixty.
        assert!((15..45).contains(&at.len()), "{}", at.len());
        counts.push(at);
        world.sandbox.stop().await;
    }
    assert_eq!(counts[0], counts[1]);
}

#[tokio::test(start_paused = true)]
async fn rules_are_reloaded_and_alerts_that_go_on_stay() {
    let world = World::watched(monitoring()).await;
    let beats = world.received("Heartbeat").await.len();
    let map = json!({"data": {"orders.yml": RULES.replace("for: 3s", "for: 1h")}});
    world.patch(("v1", "ConfigMap"), "monitoring", "rules", map).await;
    let reload = "http://prometheus.monitoring:9090/-/reload";
    assert_eq!(world.ask("POST", reload, "").await.unwrap().status, 200);
    world.turn("shop", "web", "down", Some("true")).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.at_prometheus("WebDown").await.map(|(state, _)| state).as_deref(), Some("pending"));
    let all = world.received("Heartbeat").await;
    assert!(all.len() >= beats + 5 && all.iter().all(|n| n["status"] == "firing"), "{all:?}");
    world.patch(("v1", "ConfigMap"), "monitoring", "rules", json!({"data": {"orders.yml": "groups: [{name: x}, {name: x}]"}})).await;
    assert_eq!(world.ask("POST", reload, "").await.unwrap().status, 500, "and what there was goes on");
    assert!(world.at_prometheus("Heartbeat").await.is_some());
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_web_service_has_its_knobs_and_a_service_without_endpoints_refuses() {
    let world = World::new(documents(WEB)).await;
    let url = "http://web.shop/";
    world.until("it is there", 60, async || world.status_or(url).await == 200).await;
    world.turn("shop", "web", "status", Some("418")).await;
    assert_eq!(world.status(url).await, 418);
    world.turn("shop", "web", "status", None).await;
    world.turn("shop", "web", "latency", Some("1500ms")).await;
    let began = Instant::now();
    assert_eq!(world.status(url).await, 200);
    within("latency", began.elapsed().as_micros() as i64, 1.5..=1.6);
    world.turn("shop", "web", "latency", None).await;
    world.turn("shop", "web", "error-share", Some("0.3")).await;
    let mut errors = 0;
    for _ in 0..200 {
        errors += usize::from(world.status(url).await == 503);
    }
    assert!((35..85).contains(&errors), "about 60: {errors}");
    world.turn("shop", "web", "error-share", None).await;
    world.turn("shop", "web", "unready", Some("true")).await;
    let refused = |answer: Result<Answer, NetError>| answer.is_err_and(|error| error.detail.contains("refused"));
    world.until("no endpoint", 10, async || refused(world.ask("GET", url, "").await)).await;
    world.turn("shop", "web", "unready", None).await;
    world.until("it is back", 10, async || world.status_or(url).await == 200).await;
    world.turn("shop", "web", "down", Some("true")).await;
    let broken = world.ask("GET", url, "").await.unwrap_err();
    assert!(!broken.detail.contains("refused"), "it hangs up until the kubelet has noticed: {broken}");
    world.until("no endpoint", 10, async || refused(world.ask("GET", url, "").await)).await;
    let outside = World { dialer: world.sandbox.dialer(None), sandbox: world.sandbox.clone(), client: world.client.clone() };
    assert!(outside.ask("GET", url, "").await.is_err());
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn checkout_is_not_healthy_without_its_database_and_says_so_in_its_metrics() {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "orders-app", "namespace": "shop"}, "stringData": {"username": "checkout", "password": "x"},
    });
    let world = World::new(documents(CHECKOUT).into_iter().chain([secret]).collect()).await;
    world.until("it is ready", 60, async || world.status_or("http://checkout.shop/livez").await == 200).await;
    let answer = world.ask("GET", "http://checkout.shop/healthz", "").await.unwrap();
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 503);
    assert!(said.starts_with("no connection to the database: look up orders-db.shop.svc.cluster.local."), "{said}");
    assert_eq!(world.status("http://checkout.shop/licence?player=anna").await, 503, "an empty cache knows nobody");
    assert_eq!(world.status("http://checkout.shop/licence").await, 400);
    let order = |body: &'static str| world.ask("POST", "http://checkout.shop/orders", body);
    assert_eq!(order(r#"{"account": 1, "amount_cents": 5}"#).await.unwrap().status, 503);
    assert_eq!(order(r#"{"account": 1}"#).await.unwrap().status, 422);
    let mut seen = String::new();
    for _ in 0..8 {
        seen += &String::from_utf8_lossy(&world.ask("GET", "http://checkout.shop/metrics", "").await.unwrap().body);
    }
    assert!(seen.contains("checkout_database_up 0\n") && !seen.contains("checkout_database_up 1\n"), "{seen}");
    assert!(seen.contains("checkout_health_checks_total{result=\"bad\"} 1"), "{seen}");
    world.sandbox.stop().await;
}
