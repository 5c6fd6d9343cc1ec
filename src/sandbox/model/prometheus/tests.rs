use std::collections::BTreeMap;

use super::{
    super::label::Labels,
    config,
    eval::{Value, eval},
    parse::parse,
    rules,
    store::{Sample, Store, exposition, written},
};

/// A store of lines `name{…} value@seconds value@seconds …`.
fn store(text: &str) -> Store {
    let mut store = Store::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let at = line.find("} ").map_or_else(|| line.find(' ').unwrap(), |at| at + 1);
        let (series, samples) = line.split_at(at);
        let labels = exposition(&format!("{series} 0")).unwrap().remove(0).0;
        let id = store.series(&labels).unwrap();
        for sample in samples.split_whitespace() {
            let (value, seconds) = sample.split_once('@').unwrap();
            let value = (value != "end").then(|| value.parse().unwrap());
            store.add(id, Sample { ms: (seconds.parse::<f64>().unwrap() * 1000.0) as i64, value });
        }
    }
    store
}

fn shown(labels: &Labels) -> String {
    let all: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{{{}}}", all.join(","))
}

/// An expression's value: a number, or a line a series.
fn at(store: &Store, expr: &str, seconds: i64) -> String {
    let value = match parse(expr).and_then(|expr| eval(store, &expr, seconds * 1000)) {
        Ok(value) => value,
        Err(why) => return format!("error: {why}"),
    };
    match value {
        Value::Scalar(value) => written(value),
        Value::Vector(vector) => {
            let round = |value: f64| written((value * 1e6).round() / 1e6);
            vector.into_iter().map(|(labels, value)| format!("{} {}", shown(&labels), round(value))).collect::<Vec<_>>().join("; ")
        }
        other => format!("{other:?}"),
    }
}

#[track_caller]
fn table(store: &Store, seconds: i64, rows: &[(&str, &str)]) {
    for (expr, wanted) in rows {
        assert_eq!(at(store, expr, seconds), *wanted, "{expr}");
    }
}

#[test]
fn arithmetic_binds_as_in_promql() {
    let store = Store::default();
    let rows = [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("2 ^ 3 ^ 2", "512"),
        ("-2 ^ 2", "-4"),
        ("7 % 4", "3"),
        ("-7 % 4", "-3"),
        ("1 / 0", "+Inf"),
        ("0 / 0", "NaN"),
        ("1 > bool 2", "0"),
        ("2 >= bool 2 == bool 1", "1"),
        ("0x10 + 1e2 + .5", "116.5"),
        ("time()", "100"),
        ("vector(3) # a comment", "{} 3"),
        ("scalar(vector(4)) + 1", "5"),
        ("scalar(none)", "NaN"),
        ("Inf", "+Inf"),
    ];
    table(&store, 100, &rows);
}

#[test]
fn series_are_chosen_compared_and_joined() {
    let store = store(
        r#"
        m{pod="a",zone="1"} 1@95
        m{pod="b",zone="2"} 2@95
        m{pod="c",zone="2"} 3@95
        n{pod="a"} 10@95
        n{pod="b"} 0@95
        gone{pod="a"} 1@90 end@95
        "#,
    );
    let rows = [
        ("m{zone=\"2\"}", "{__name__=m,pod=b,zone=2} 2; {__name__=m,pod=c,zone=2} 3"),
        ("m{zone!=\"2\"} * 2", "{pod=a,zone=1} 2"),
        ("m{pod=~\"a|c\"} > 1", "{__name__=m,pod=c,zone=2} 3"),
        ("m{pod=~\"a|c\"} > bool 1", "{pod=a,zone=1} 0; {pod=c,zone=2} 1"),
        ("2 < m", "{__name__=m,pod=c,zone=2} 3"),
        ("-m{pod=\"a\"}", "{pod=a,zone=1} -1"),
        ("m + on (pod) n", "{pod=a} 11; {pod=b} 2"),
        ("m - ignoring (zone) n", "{pod=a} -9; {pod=b} 2"),
        ("m > on (pod) n", "{pod=b} 2"),
        ("m + n", ""),
        ("m * on (pod) group_left n", "{pod=a,zone=1} 10; {pod=b,zone=2} 0"),
        ("n * on (pod) group_right m", "{pod=a,zone=1} 10; {pod=b,zone=2} 0"),
        ("n * on (pod) group_left (zone) m", "{pod=a,zone=1} 10; {pod=b,zone=2} 0"),
        ("m and on (pod) n == 0", "{__name__=m,pod=b,zone=2} 2"),
        ("m unless on (pod) n", "{__name__=m,pod=c,zone=2} 3"),
        ("n or on (pod) m", "{__name__=n,pod=a} 10; {__name__=n,pod=b} 0; {__name__=m,pod=c,zone=2} 3"),
        ("sum(m)", "{} 6"),
        ("sum by (zone) (m)", "{zone=1} 1; {zone=2} 5"),
        ("max without (pod) (m)", "{zone=1} 1; {zone=2} 3"),
        ("min(m) by (zone)", "{zone=1} 1; {zone=2} 2"),
        ("avg(m)", "{} 2"),
        ("count(m > 1)", "{} 2"),
        ("count(m > 5)", ""),
        ("(count(m > 5) or vector(0)) < 1", "{} 0"),
        ("topk(1, m)", "{__name__=m,pod=c,zone=2} 3"),
        ("quantile(0.5, m)", "{} 2"),
        ("group(m)", "{} 1"),
        ("absent(m)", ""),
        ("absent(x{a=\"b\",c=~\"d\",e=\"\"})", "{a=b} 1"),
        ("absent(gone)", "{} 1"),
        ("sort_desc(m)", "{__name__=m,pod=c,zone=2} 3; {__name__=m,pod=b,zone=2} 2; {__name__=m,pod=a,zone=1} 1"),
        ("timestamp(m{pod=\"a\"})", "{pod=a,zone=1} 95"),
        ("clamp_max(m{pod=\"c\"}, 2)", "{pod=c,zone=2} 2"),
        ("round(m{pod=\"c\"} / 2)", "{pod=c,zone=2} 2"),
        ("label_replace(n{pod=\"a\"}, \"x\", \"<$1>\", \"pod\", \"(.*)\")", "{__name__=n,pod=a,x=<a>} 10"),
        ("{__name__=~\"m|n\",pod=\"a\"}", "{__name__=m,pod=a,zone=1} 1; {__name__=n,pod=a} 10"),
    ];
    table(&store, 100, &rows);
    for wrong in ["n + on () m", "m + on (zone) n", "sum(m) by (zone) + on (nothing) sum by (zone) (m)"] {
        assert!(at(&store, wrong, 100).starts_with("error: "), "{wrong}: {}", at(&store, wrong, 100));
    }
}

/// Worked out by hand from the rules of `extrapolatedRate` and of least squares.
#[test]
fn ranges_are_worked_out_as_by_hand() {
    let store = store(
        "c 0@0 10@10 30@20 5@30
         g 1@0 3@10
         v 100@0 80@10 60@20
         one 7@5",
    );
    let rows = [
        (30, "increase(c[30s])", "{} 35"),
        (30, "rate(c[30s])", "{} 1.166667"),
        // From -5 s to 35 s: a counter is not extended below 0, and to the end by 5 s.
        (35, "increase(c[40s])", "{} 40.833333"),
        (35, "irate(c[40s])", "{} 0.5"),
        (15, "delta(g[20s])", "{} 4"),
        // Up to eleven seconds beyond a sample it goes on, and beyond that for half of ten.
        (18, "delta(g[28s])", "{} 5.6"),
        (25, "delta(g[25s])", "{} 3"),
        (15, "idelta(g[20s])", "{} 2"),
        (20, "deriv(v[20s])", "{} -2"),
        (20, "predict_linear(v[20s], 30)", "{} 0"),
        (20, "predict_linear(v[20s], 40) < 0", "{} -20"),
        (30, "changes(c[30s])", "{} 3"),
        (30, "resets(c[30s])", "{} 1"),
        (30, "max_over_time(c[30s])", "{} 30"),
        (30, "min_over_time(c[25s])", "{} 5"),
        (30, "avg_over_time(c[30s])", "{} 11.25"),
        (30, "sum_over_time(c[10s])", "{} 35"),
        (30, "count_over_time(c[1m])", "{} 4"),
        (20, "stddev_over_time(v[20s])", "{} 16.329932"),
        (30, "last_over_time(c[1m])", "{__name__=c} 5"),
        (30, "c offset 10s", "{__name__=c} 30"),
        (30, "max_over_time(c[10s] offset 20s)", "{} 10"),
        (30, "rate(one[1m])", ""),
        (30, "absent_over_time(one[10s])", "{} 1"),
        (30, "absent_over_time(one[1m])", ""),
    ];
    for (seconds, expr, wanted) in rows {
        assert_eq!(at(&store, expr, seconds), wanted, "{expr}");
    }
}

#[test]
fn what_is_outside_of_the_subset_says_so_and_what_is_wrong_says_that() {
    for expr in ["histogram_quantile(0.9, m)", "max_over_time(rate(m[1m])[5m:1m])", "m @ 5", "1 atan2 2", "sum_over_time((m)[1m:])"] {
        let why = parse(expr).unwrap_err();
        assert!(why.starts_with("not rehearsable"), "{expr}: {why}");
    }
    for expr in [
        "",
        "1 +",
        "(1",
        "m{a=b}",
        "m{a=\"b\"",
        "rate(m)",
        "m[1m] + 1",
        "1 > 2",
        "1 and 2",
        "m{}}",
        "{}",
        "{a=\"\"}",
        "sum(1)",
        "m offset 5",
        "m[5]",
        "\"a",
        "abs(m, m)",
        "1 2",
        "m{a=~\"(\"}",
        "on",
        "sum by m",
    ] {
        let parsed = parse(expr);
        // `on` and the like are names of metrics, too.
        assert!(parsed.as_ref().is_err_and(|why| !why.starts_with("not rehearsable")) || expr == "on", "{expr}: {parsed:?}");
    }
    let deep = format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(parse(&deep).unwrap_err().starts_with("not rehearsable"));
    let long = vec!["1"; 5_000].join("+");
    assert!(parse(&long).unwrap_err().starts_with("not rehearsable"));
}

fn group(expr: &str, more: &str) -> rules::Group {
    let file = format!("groups: [{{name: g, interval: 1s, rules: [{{alert: Down, expr: '{expr}', labels: {{severity: page}}{more}}}]}}]");
    rules::read("f", &file, 1_000_000).unwrap().remove(0)
}

fn states(group: &rules::Group) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    group.alerts().iter().map(|alert| (text(&alert["state"]), text(&alert["activeAt"]))).collect()
}

const RESEND: i64 = 5_000_000;

#[test]
fn an_alert_is_pending_then_fires_is_told_again_and_ends() {
    let mut store = store("up{job=\"x\"} 1@0 0@2 0@20 1@21");
    let mut group = group("up == 0", ", for: 3s");
    let mut step = |seconds: i64| {
        let us = seconds * 1_000_000;
        let sent = group.evaluate(&mut store, us, us, RESEND);
        let told: Vec<(i64, i64)> = sent.iter().map(|alert| (alert.starts_us / 1_000_000, alert.ends_us / 1_000_000)).collect();
        (states(&group), told)
    };
    let since = "1970-01-01T00:00:02Z".to_owned();
    assert_eq!(step(1), (vec![], vec![]));
    assert_eq!(step(2), (vec![("pending".to_owned(), since.clone())], vec![]));
    assert_eq!(step(4), (vec![("pending".to_owned(), since.clone())], vec![]));
    // It has held for 3 s; it holds until four times the resend delay from now.
    assert_eq!(step(5), (vec![("firing".to_owned(), since.clone())], vec![(5, 25)]));
    assert_eq!(step(10).1, [], "5 s are not more than 5 s");
    assert_eq!(step(11).1, [(5, 31)]);
    assert_eq!(step(21), (vec![], vec![(5, 21)]), "ended");
    assert_eq!(step(22).1, []);
    assert_eq!(step(27).1, [(5, 21)], "told again that it has ended");
    assert_eq!(step(21 + 15 * 60 + 1).1, [], "for fifteen minutes");
}

#[test]
fn an_alert_whose_condition_ends_while_it_is_pending_was_never_there() {
    let mut store = store("up 0@0 1@2 0@4");
    let mut group = group("up == 0", ", for: 3s");
    let mut step = |seconds: i64| {
        let us = seconds * 1_000_000;
        let sent = group.evaluate(&mut store, us, us, RESEND).len();
        (states(&group).into_iter().map(|(state, _)| state).collect::<Vec<_>>(), sent)
    };
    assert_eq!(step(0), (vec!["pending".to_owned()], 0));
    assert_eq!(step(2), (vec![], 0));
    assert_eq!(step(4), (vec!["pending".to_owned()], 0));
    assert_eq!(step(6), (vec!["pending".to_owned()], 0), "it counts anew");
    assert_eq!(step(7), (vec!["firing".to_owned()], 1));
    // And it is a series.
    assert_eq!(at(&store, "ALERTS", 7), "{__name__=ALERTS,alertname=Down,alertstate=firing,severity=page} 1");
}

#[test]
fn a_rule_that_is_not_rehearsable_has_no_health_and_leaves_no_alert() {
    let mut store = store("up 0@0");
    let mut group = group("histogram_quantile(0.9, up) > 1", "");
    assert!(group.evaluate(&mut store, 0, 0, RESEND).is_empty());
    let shown = group.shown(None, &[]);
    assert_eq!(shown["rules"][0]["health"], "err");
    assert!(shown["rules"][0]["lastError"].as_str().unwrap().contains("not rehearsable"), "{shown}");
    // A rule whose evaluation fails keeps the alert that it had.
    let mut group = self::group("a + on (x) b", "");
    let mut store = self::store("a{x=\"1\"} 1@0 1@5\nb{x=\"1\"} 1@0 1@5\nb{x=\"1\",y=\"2\"} 1@5");
    group.evaluate(&mut store, 0, 0, RESEND);
    group.evaluate(&mut store, 5_000_000, 5_000_000, RESEND);
    assert_eq!(group.shown(None, &[])["rules"][0]["health"], "err");
    assert_eq!(states(&group).len(), 1);
    assert!(rules::read("f", "groups: [{name: g, rules: [{alert: A, expr: 'up =='}]}]", 1).is_err());
    assert!(rules::read("f", "groups: [{name: g, rules: [{expr: up}]}]", 1).is_err());
}

#[test]
fn new_series_are_recorded_and_end_with_what_they_came_from() {
    let file = "groups: [{name: g, rules: [{record: 'job:up', expr: 'sum by (job) (up)', labels: {own: x}}]}]";
    let mut group = rules::read("f", file, 1_000_000).unwrap().remove(0);
    let mut store = store("up{job=\"a\",i=\"1\"} 1@0 end@5\nup{job=\"a\",i=\"2\"} 1@0 end@5");
    group.evaluate(&mut store, 0, 0, RESEND);
    assert_eq!(at(&store, "job:up", 1), "{__name__=job:up,job=a,own=x} 2");
    group.evaluate(&mut store, 5_000_000, 5_000_000, RESEND);
    assert_eq!(at(&store, "job:up", 6), "");
}

/// The rules of the testbed's shop, all of them.
#[test]
fn the_shops_rules_are_rehearsable() {
    let world = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testbed/worlds/shop/61-rules.yaml"));
    let map: BTreeMap<String, serde_json::Value> = serde_saphyr::from_str(world).unwrap();
    let groups = rules::read("orders.yml", map["data"]["orders.yml"].as_str().unwrap(), 1_000_000).unwrap();
    let mut store = Store::default();
    let mut count = 0;
    for mut group in groups {
        group.evaluate(&mut store, 0, 0, RESEND);
        for rule in group.shown(None, &[])["rules"].as_array().unwrap() {
            assert_eq!(rule["health"], "ok", "{rule}");
            count += 1;
        }
    }
    assert_eq!(count, 13);
}

#[test]
fn the_shops_alerts_follow_from_its_series() {
    // Three members, one of them a primary; then nobody says that it is one; rows that go.
    let store = store(
        r#"
        orders_pg_in_recovery{pod="orders-0"} 0@100 end@110
        orders_pg_in_recovery{pod="orders-1"} 1@100 1@110
        orders_rows_count{pod="orders-0",relation="orders"} 1000@100 970@105
        orders_rows_count{pod="orders-1",relation="orders"} 1000@100 1000@105
        kube_job_status_failed{namespace="shop",job_name="orders-backup-1"} 1@100
        kube_job_status_start_time{namespace="shop",job_name="orders-backup-1"} 50@100
        pgbackrest_backup_last_success_timestamp_seconds{stanza="orders",repo="1"} 4@100
        "#,
    );
    let down = "(count(orders_pg_in_recovery == 0) or vector(0)) < 1";
    let rows = "max by (relation) (orders_rows_count and on (pod) (orders_pg_in_recovery == 0)) \
                < 0.98 * max by (relation) (max_over_time(orders_rows_count[2m]))";
    let failed =
        "kube_job_status_failed{namespace=\"shop\",job_name=~\"orders-backup.*\"} > 0 and time() - kube_job_status_start_time < 300";
    let old = "time() - max by (repo) (pgbackrest_backup_last_success_timestamp_seconds{stanza=\"orders\",repo=\"1\"}) > 100";
    // Names do not count on the sides of an `and`.
    let job = "{__name__=kube_job_status_failed,job_name=orders-backup-1,namespace=shop} 1";
    table(&store, 100, &[(down, ""), (rows, ""), (failed, job), (old, "")]);
    table(&store, 351, &[(failed, "")]);
    table(&store, 105, &[(rows, "{relation=orders} 970"), (old, "{repo=1} 101")]);
    table(&store, 110, &[(down, "{} 0"), (rows, "")]);
}

#[test]
fn targets_follow_from_discovery_and_relabelling() {
    let file = r#"
global: {scrape_interval: 5s, scrape_timeout: 2s, evaluation_interval: 1s}
rule_files: [/etc/rules/*.yml]
alerting: {alertmanagers: [{static_configs: [{targets: ["a:9093"]}]}]}
scrape_configs:
- job_name: orders
  scrape_interval: 1s
  scrape_timeout: 900ms
  http_sd_configs: [{url: "http://o/targets/pods", refresh_interval: 2s}]
  relabel_configs:
  - {action: keep, source_labels: [__meta_cluster, __meta_port], regex: orders;metrics}
  - {source_labels: [__meta_pod], target_label: pod}
  metric_relabel_configs:
  - {action: drop, source_labels: [__name__], regex: "go_.*"}
"#;
    let config = config::read(file).unwrap();
    let job = &config.jobs[0];
    let found = |port: &str| {
        let all = [("__meta_cluster", "orders"), ("__meta_port", port), ("__meta_pod", "orders-0")];
        config::target(job, "10.0.0.1:9187", &all.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
    };
    assert!(found("patroni").is_none());
    let (address, labels) = found("metrics").unwrap();
    assert_eq!((address.as_str(), shown(&labels).as_str()), ("10.0.0.1:9187", "{instance=10.0.0.1:9187,job=orders,pod=orders-0}"));
    let own = |text: &str| exposition(text).unwrap().remove(0).0;
    assert_eq!(
        shown(&config::sample(job, own("m{pod=\"x\"} 1"), &labels).unwrap()),
        "{__name__=m,exported_pod=x,instance=10.0.0.1:9187,job=orders,pod=orders-0}"
    );
    assert!(config::sample(job, own("go_threads 1"), &labels).is_none());
    for (pattern, path, fits) in
        [("/etc/rules/*.yml", "/etc/rules/a.yml", true), ("/etc/rules/*.yml", "/etc/rules/a/b.yml", false), ("/a", "/a", true)]
    {
        assert_eq!(config::fits(pattern, path), fits, "{pattern} {path}");
    }
    for wrong in
        ["scrape_configs: [{job_name: a, scheme: https}]", "remote_write: []", "scrape_configs: [{job_name: a, kubernetes_sd_configs: []}]"]
    {
        assert!(config::read(wrong).unwrap_err().contains("not rehearsable"), "{wrong}");
    }
}
