//! `alertmanager`: takes alerts in, groups them, keeps silenced and inhibited ones back, and posts notifications to webhooks.
//!
//! It is configured by its own file (`--config.file`), as it is mounted from a ConfigMap when it starts or is told to reload. Alerts,
//! silences and what was told last are forgotten when it ends.
//!
//! Knobs: `lose-notifications` (a share from 0 to 1: so many notifications are taken to be delivered and never sent),
//! `delay-notifications` (each is sent this much later).

mod api;
mod config;
mod dispatch;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use self::{
    config::Config,
    dispatch::{Dispatcher, GroupKey, Job},
};
use super::{
    super::{
        control::look::mix,
        kubelet::{ExecAsk, ExecEnd},
        mounts,
        program::{Env, Program},
    },
    Probe, http,
    label::{Labels, fingerprint, rfc3339},
    prometheus::option,
};
use crate::net::{HttpRequest, Url};

/// Where the real one listens.
const PORT: u16 = 9093;
/// The first and the longest pause before a notification is tried again (`backoff.NewExponentialBackOff`).
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A time that Go writes for none.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Default)]
struct Inner {
    dispatcher: Mutex<Option<Dispatcher>>,
    /// Something has changed that may be due now.
    changed: Notify,
}

/// The program.
#[derive(Default)]
pub(super) struct Alertmanager(Arc<Inner>);

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Option<Dispatcher>> {
        self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the dispatcher, and looks again at what is due. None: it has not begun.
    fn with<T>(&self, what: impl FnOnce(&mut Dispatcher) -> T) -> Option<T> {
        let done = self.lock().as_mut().map(what);
        self.changed.notify_one();
        done
    }
}

fn load(env: &Env) -> Result<Config, String> {
    let path = option(env, "--config.file").unwrap_or_else(|| "/etc/alertmanager/alertmanager.yml".to_owned());
    let files = mounts::files(env);
    let content = files.get(&path).ok_or_else(|| format!("open {path}: no such file or directory"))?;
    env.knob_duration("delay-notifications")?;
    share(env, "lose-notifications")?;
    config::read(content).map_err(|why| format!("{path}: {why}"))
}

/// A knob that is a share of all; 0 where it is not set.
///
/// # Errors
/// It is none.
pub(super) fn share(env: &Env, name: &str) -> Result<f64, String> {
    let Some(text) = env.knob(name) else { return Ok(0.0) };
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("annotation {name}: `{text}` is no share between 0 and 1"))
}

/// Whether chance, which follows from the seed, picks this one of so many.
pub(super) fn picked(env: &Env, share: f64, what: &str, number: u64) -> bool {
    let drawn = mix(&[&env.seed().to_string(), what, &number.to_string()]) >> 11;
    (drawn as f64 / (1_u64 << 53) as f64) < share
}

impl Program for Alertmanager {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            match load(&env) {
                Ok(config) => *self.0.lock() = Some(Dispatcher::new(config)),
                Err(why) => {
                    env.say(&format!("level=error msg=\"Loading configuration file failed\" err={why:?}"));
                    return 1;
                }
            }
            env.spawn(work(env.clone(), Arc::clone(&self.0)));
            let (site, inner) = (env.clone(), Arc::clone(&self.0));
            let site: http::Site = Arc::new(move |ask| std::future::ready(Some(api::answer(&site, &inner, &ask))).boxed());
            http::serve(&env, http::port(&env, "http", PORT), site).await
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        let up = self.0.lock().is_some();
        http::probed("alertmanager", up, probe, |path| if matches!(path, "/-/ready" | "/-/healthy" | "/metrics") { 200 } else { 404 })
    }

    fn exec(self: Arc<Self>, _env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        http::no_commands("alertmanager", ask).boxed()
    }
}

/// Starts whatever is due.
async fn work(env: Env, inner: Arc<Inner>) {
    let mut number = 0;
    loop {
        let now_us = env.now_us();
        let (jobs, next) = {
            let mut dispatcher = inner.lock();
            let Some(dispatcher) = dispatcher.as_mut() else { return };
            (dispatcher.due(now_us), dispatcher.next_us())
        };
        let none = jobs.is_empty();
        for job in jobs {
            number += 1;
            env.spawn(deliver(env.clone(), Arc::clone(&inner), job, number));
        }
        if !none {
            continue;
        }
        // Rounded up to the next millisecond: tokio's timers go by those.
        let wait = next.map(|at| Duration::from_micros((at - now_us).max(1_000).unsigned_abs()));
        tokio::select! {
            biased;
            () = inner.changed.notified() => {}
            () = sleep(wait.unwrap_or(Duration::from_secs(3600))) => {}
        }
    }
}

/// Posts a notification, again and again until it is taken or its time is up.
async fn deliver(env: Env, inner: Arc<Inner>, job: Job, number: u64) {
    // A knob made wrong since the start counts as none.
    if let Some(late) = env.knob_duration("delay-notifications").ok().flatten() {
        sleep(late).await;
    }
    let lost = picked(&env, share(&env, "lose-notifications").unwrap_or_default(), "notification", number);
    let left = Duration::from_micros((job.until_us - env.now_us()).max(LEAST_US).unsigned_abs());
    let delivered = lost || timeout(left, post(&env, &job)).await.unwrap_or(false);
    let now_us = env.now_us();
    inner.with(|dispatcher| dispatcher.done(job, delivered, now_us));
}

/// What a notification that was delayed has at least.
const LEAST_US: i64 = 10_000_000;

async fn post(env: &Env, job: &Job) -> bool {
    let body = Bytes::from(payload(job).to_string());
    let mut pause = PAUSES.0;
    let mut connection = super::http::Kept::default();
    loop {
        let tried = async {
            let url: Url = job.webhook.url.parse()?;
            let request = HttpRequest::new("POST", url.clone(), [("content-type", "application/json")], body.clone())?;
            connection.send(env.dialer(), &url, &request, PAUSES.1).await.map_err(|error| error.to_string())
        };
        match tried.await {
            Ok(answer) if answer.status / 100 == 2 => return true,
            Ok(answer) => {
                env.say(&format!(
                    "level=warn receiver={} msg=\"Notify attempt failed\" err=\"unexpected status code {}\"",
                    job.receiver, answer.status
                ));
                // Only what a server may recover from is tried again.
                if answer.status / 100 != 5 {
                    return false;
                }
            }
            Err(why) => env.say(&format!("level=warn receiver={} msg=\"Notify attempt failed\" err={why:?}", job.receiver)),
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSES.1);
    }
}

/// How a group is called in notifications.
fn group_key(key: &GroupKey) -> String {
    let labels: Vec<String> = key.1.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{}:{{{}}}", key.0, labels.join(", "))
}

/// A notification in the webhook's format, version 4.
fn payload(job: &Job) -> Value {
    let status = |ended: bool| if ended { "resolved" } else { "firing" };
    let most = if job.webhook.most == 0 { usize::MAX } else { job.webhook.most };
    let alerts: Vec<Value> = job
        .alerts
        .iter()
        .take(most)
        .map(|(alert, ended)| {
            json!({
                "status": status(*ended), "labels": alert.labels, "annotations": alert.annotations, "startsAt": rfc3339(alert.starts_us),
                "endsAt": if *ended { rfc3339(alert.ends_us) } else { NEVER.to_owned() }, "generatorURL": alert.source,
                "fingerprint": fingerprint(&alert.labels),
            })
        })
        .collect();
    let common = |of: fn(&dispatch::Alert) -> &Labels| {
        let mut all = job.alerts.iter().map(|(alert, _)| of(alert));
        let mut common = all.next().cloned().unwrap_or_default();
        for labels in all {
            common.retain(|name, value| labels.get(name) == Some(value));
        }
        common
    };
    json!({
        "version": "4", "groupKey": group_key(&job.group), "truncatedAlerts": job.alerts.len() - alerts.len(), "receiver": job.receiver,
        "status": status(job.alerts.iter().all(|(_, ended)| *ended)), "groupLabels": job.group.1, "commonLabels": common(|a| &a.labels),
        "commonAnnotations": common(|a| &a.annotations), "externalURL": "http://alertmanager:9093", "alerts": alerts,
    })
}
