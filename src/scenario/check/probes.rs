//! Probes.

use super::{model::At, spec::Cx, text};
use crate::scenario::{
    diag::clip,
    types::{BackupProbe, CommandProbe, Dur, HttpProbe, LedgerProbe, MetricProbe, Postgres, Probe, SqlProbe, TargetKind},
};

/// The fastest sampling: below it the sampler itself would be measured.
const FASTEST: Dur = Dur::from_millis(1);
/// Headers in which secrets stand.
const SECRET_HEADERS: &[&str] = &["authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token"];

pub(super) fn check(cx: &mut Cx<'_>) {
    for (name, probe) in &cx.model.probes {
        let at = cx.spec.get("probes").get(name);
        if !text::own_name(name) {
            cx.gather.mistake(at.key(), format!("`{}` is not a probe's name", clip(name))).help("letters, digits, `-` and `_`, at most 63");
        }
        if let Some(probe) = probe {
            one(cx, at, probe);
        }
    }
}

fn one(cx: &mut Cx<'_>, at: At<'_>, probe: &Probe) {
    if let Some(every) = probe.every.filter(|every| *every < FASTEST) {
        cx.gather.mistake(at.get("every").span(), format!("`every: {every}` is faster than {FASTEST}")).help("write for example `100ms`");
    }
    if probe.timeout == Some(Dur::ZERO) {
        cx.gather.mistake(at.get("timeout").span(), "`timeout` is 0s: no sample could ever be good");
    }
    if let Some(http) = &probe.http {
        self::http(cx, at.get("http"), http);
    }
    if let Some(tcp) = &probe.tcp {
        let place = at.get("tcp").get("address");
        if let Err(why) = text::host_port(&tcp.address) {
            cx.gather.mistake(place.span(), why).help("write for example `mail.example.org:25`");
        }
    }
    if let Some(dns) = &probe.dns {
        let place = at.get("dns");
        if !text::host_name(&dns.name) {
            cx.gather.mistake(place.get("name").span(), format!("`{}` is not a DNS name", clip(&dns.name)));
        }
        let types = ["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT"];
        if let Some(record) = dns.record.as_deref().filter(|record| !types.contains(record)) {
            cx.gather
                .mistake(place.get("type").span(), format!("`{}` is no type of record", clip(record)))
                .help(format!("possible are {}", crate::scenario::diag::quoted(types)));
        }
    }
    if let Some(sql) = &probe.sql {
        self::sql(cx, at.get("sql"), sql);
    }
    if let Some(pods) = &probe.pods {
        let place = at.get("pods");
        cx.target(place.get("target"), &pods.target, &[TargetKind::Pods], "a `pods` probe");
        if pods.ready == 0 {
            cx.gather.mistake(place.get("ready").span(), "`ready: 0` is always good").help("say how many pods must be ready");
        }
    }
    if let Some(object) = &probe.object {
        let place = at.get("object");
        if let Err(why) = text::cel(&object.cel) {
            cx.gather.mistake(place.get("cel").span(), why).help("write for example `object.status.readyReplicas >= 2`");
        }
        if object.api_version.is_empty() || object.api_version.matches('/').count() > 1 {
            let shown = clip(&object.api_version);
            cx.gather
                .mistake(place.get("apiVersion").span(), format!("`{shown}` is not an API version"))
                .help("write for example `v1` or `apps/v1`");
        }
    }
    if let Some(metric) = &probe.metric {
        self::metric(cx, at.get("metric"), metric);
    }
    if let Some(alert) = &probe.alert
        && alert.name.trim().is_empty()
    {
        cx.gather.mistake(at.get("alert").get("name").span(), "the alert's name is empty");
    }
    if let Some(backup) = &probe.backup {
        self::backup(cx, at.get("backup"), backup);
    }
    if let Some(ledger) = &probe.ledger {
        self::ledger(cx, at.get("ledger"), ledger);
    }
    if let Some(page) = &probe.status_page {
        address(cx, at.get("statusPage").get("url"), &page.url);
        cx.positive(at.get("statusPage").get("cadence"), "`cadence`", page.cadence);
    }
    if let Some(command) = &probe.command {
        self::command(cx, at.get("command"), command);
    }
}

fn address(cx: &mut Cx<'_>, at: At<'_>, url: &str) {
    match text::url(url) {
        Err(why) => drop(cx.gather.mistake(at.span(), why).help("write for example `http://checkout.shop/healthz`")),
        Ok(Some(warning)) => drop(cx.gather.warning(at.span(), warning)),
        Ok(None) => {}
    }
}

fn http(cx: &mut Cx<'_>, at: At<'_>, http: &HttpProbe) {
    address(cx, at.get("url"), &http.url);
    if let Some(method) = http.method.as_deref().filter(|m| m.is_empty() || !m.chars().all(|c| c.is_ascii_uppercase())) {
        cx.gather.mistake(at.get("method").span(), format!("`{}` is not an HTTP method", clip(method))).help("write for example `POST`");
    }
    for (name, value) in &http.headers {
        let place = at.get("headers").get(name);
        let valid = name.parse::<hyper::header::HeaderName>().is_ok() && value.parse::<hyper::header::HeaderValue>().is_ok();
        if !valid {
            cx.gather.mistake(place.key(), format!("`{}: {}` is not an HTTP header", clip(name), clip(value)));
        }
        if SECRET_HEADERS.contains(&name.to_lowercase().as_str()) {
            cx.gather
                .warning(place.key(), format!("header `{}` holds a secret as a rule", clip(name)))
                .help("the scenario is part of the evidence");
        }
    }
    let json = http.headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("content-type") && value.contains("json"));
    if let Some(body) = http.body.as_ref().filter(|_| json)
        && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(body)
    {
        cx.gather.mistake(at.get("body").span(), format!("the body is not JSON: {error}")).help("its `content-type` says that it is");
    }
    if http.body.is_some() && matches!(http.method.as_deref(), None | Some("GET" | "HEAD")) {
        cx.gather.mistake(at.get("body").key(), "a GET request has no body").help("set `method: POST`");
    }
}

/// A database: the Service or the one pod to connect to. The pod of a runbook is for restored copies alone.
pub(super) fn postgres(cx: &mut Cx<'_>, at: At<'_>, postgres: &Postgres, restored: bool) {
    if let Some(runbook) = &postgres.runbook {
        let place = at.get("runbook");
        if !restored {
            cx.gather
                .mistake(place.key(), "`runbook` goes with the `restored` side of a `restore` objective")
                .help("name a `service` or a `target`");
            return;
        }
        if let Some(step) = cx.step(place, runbook) {
            let job = step.step.as_ref().map(|s| s.runbook.as_ref().is_some_and(|r| r.run_in.as_ref().is_some_and(|r| r.job.is_some())));
            if job == Some(false) {
                cx.gather
                    .mistake(place.span(), format!("step `{}` is no runbook with `runIn.job`: no pod is made for it", clip(runbook)))
                    .also(step.span, "the step");
            }
        }
    }
    if let Some(target) = &postgres.target {
        cx.target(at.get("target"), target, &[TargetKind::Pods], "a connection to a database");
    }
    if postgres.database.is_empty() {
        cx.gather.mistake(at.get("database").span(), "the database's name is empty");
    }
}

fn sql(cx: &mut Cx<'_>, at: At<'_>, sql: &SqlProbe) {
    postgres(cx, at.get("postgres"), &sql.postgres, false);
    if sql.query.trim().is_empty() {
        cx.gather.mistake(at.get("query").span(), "the query is empty");
    }
    if sql.refused && sql.expect.is_some() {
        cx.gather
            .mistake(at.get("expect").key(), "a statement that must be refused has no result to expect")
            .also(at.get("refused").key(), "refused");
    }
}

fn metric(cx: &mut Cx<'_>, at: At<'_>, metric: &MetricProbe) {
    if metric.query.trim().is_empty() {
        cx.gather.mistake(at.get("query").span(), "the query is empty");
    }
    match (metric.min, metric.max) {
        (None, None) => drop(cx.gather.mistake(at.key(), "a `metric` probe without `min` and `max` is always good").help("set a bound")),
        (Some(min), Some(max)) if min > max => {
            cx.gather
                .mistake(at.get("min").span(), format!("`min` {min} is above `max` {max}: it could never be good"))
                .also(at.get("max").span(), "max");
        }
        _ => {}
    }
}

fn backup(cx: &mut Cx<'_>, at: At<'_>, backup: &BackupProbe) {
    cx.positive(at.get("maxAge"), "`maxAge`", backup.max_age);
    if let Some(pgbackrest) = &backup.pgbackrest {
        cx.target(at.get("pgbackrest").get("target"), &pgbackrest.target, &[TargetKind::Pods], "`pgbackrest`");
        if pgbackrest.repo == Some(0) {
            cx.gather.mistake(at.get("pgbackrest").get("repo").span(), "pgBackRest counts its repositories from 1");
        }
    }
    if let Some(command) = &backup.command {
        self::command(cx, at.get("command"), command);
    }
}

fn ledger(cx: &mut Cx<'_>, at: At<'_>, ledger: &LedgerProbe) {
    if let Some(database) = &ledger.postgres {
        postgres(cx, at.get("postgres"), database, false);
    }
    if let Some(replicas) = &ledger.replicas {
        cx.target(at.get("replicas"), replicas, &[TargetKind::Pods], "`replicas`");
        if ledger.postgres.is_none() {
            cx.gather.mistake(at.get("replicas").key(), "`replicas` goes with a `postgres` ledger");
        }
    }
    if let Some(http) = &ledger.http {
        let place = at.get("http");
        address(cx, place.get("write"), &http.write.replace("{key}", "1"));
        address(cx, place.get("read"), &http.read);
        if !http.write.contains("{key}") {
            cx.gather
                .mistake(place.get("write").span(), "each write needs its number")
                .help("write `{key}` where it belongs in the address");
        }
    }
}

fn command(cx: &mut Cx<'_>, at: At<'_>, command: &CommandProbe) {
    cx.target(at.get("target"), &command.target, &[TargetKind::Pods], "a command");
    if command.command.first().is_some_and(String::is_empty) {
        cx.gather.mistake(at.get("command").item(0).span(), "the command is empty");
    }
}
