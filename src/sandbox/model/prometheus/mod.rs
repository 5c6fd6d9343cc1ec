//! `prometheus`: scrapes targets over the sandbox's network, evaluates rules, tells Alertmanager, and answers the API.
//!
//! It is configured by its own files (`--config.file`, rule files), as they are mounted from ConfigMaps when it starts or is
//! told to reload (`POST /-/reload`). What of PromQL is not in the subset here makes a rule's health `err` and a query's answer
//! an error that says "not rehearsable".
//!
//! Knobs: `scrape-broken` (a job's name, or `*`: its targets cannot be scraped), `delay-evaluation` (rules see what was so this
//! long ago), `delay-alerts` (Alertmanager hears of alerts this much later).

mod api;
mod config;
mod eval;
mod functions;
mod lex;
mod parse;
mod rules;
mod scrape;
mod store;
mod template;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{config::Config, rules::Sent, scrape::TargetState, store::Store};
use super::{
    super::{
        control::look,
        core::text,
        kubelet::{ExecAsk, ExecEnd},
        mounts,
        program::{Env, Program},
    },
    Probe, http,
    label::{self, micros, rfc3339},
};
use crate::net::{HttpRequest, Url};

/// Where the real one listens.
const PORT: u16 = 9090;
/// Batches of alerts that wait for Alertmanager (`--alertmanager.notification-queue-capacity`).
const QUEUE: usize = 10_000;
/// How long Alertmanager may take to answer (`timeout` of `alertmanager_config`).
const TELL_LIMIT: Duration = Duration::from_secs(10);
/// How long an alert that goes on is not told again (`--rules.alert.resend-delay`).
const RESEND: Duration = Duration::from_secs(60);

/// What the parts share.
#[derive(Debug, Default)]
struct Inner {
    store: Store,
    groups: BTreeMap<String, rules::Group>,
    targets: BTreeMap<String, TargetState>,
    ready: bool,
}

/// The program.
#[derive(Debug, Default)]
pub(super) struct Prometheus(Arc<Mutex<Inner>>);

type Shared = Arc<Mutex<Inner>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Inner> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that follows from the files.
struct Loaded {
    config: Config,
    groups: BTreeMap<String, rules::Group>,
    resend: Duration,
}

/// The value of an option of the container's command.
pub(super) fn option(env: &Env, name: &str) -> Option<String> {
    let containers = look::items(env.pod(), "/spec/containers").iter().filter(|c| text(c, "/name") == env.container());
    let words = containers.flat_map(|c| look::items(c, "/command").iter().chain(look::items(c, "/args")));
    words.filter_map(|word| word.as_str()?.strip_prefix(name)?.strip_prefix('=')).next_back().map(str::to_owned)
}

fn load(env: &Env) -> Result<Loaded, String> {
    let files = mounts::files(env);
    let path = option(env, "--config.file").unwrap_or_else(|| "/etc/prometheus/prometheus.yml".to_owned());
    let content = files.get(&path).ok_or_else(|| format!("open {path}: no such file or directory"))?;
    let config = config::read(content).map_err(|why| format!("{path}: {why}"))?;
    let mut groups = BTreeMap::new();
    for (file, content) in &files {
        if config.rule_files.iter().any(|pattern| config::fits(pattern, file)) {
            for group in rules::read(file, content, micros(config.evaluation))? {
                let key = group.key();
                if groups.insert(key.clone(), group).is_some() {
                    return Err(format!("groupname {key:?} is repeated in the same file"));
                }
            }
        }
    }
    let resend = option(env, "--rules.alert.resend-delay").map(|text| label::duration(&text)).transpose()?.unwrap_or(RESEND);
    for knob in ["delay-evaluation", "delay-alerts"] {
        env.knob_duration(knob)?;
    }
    Ok(Loaded { config, groups, resend })
}

impl Program for Prometheus {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            let loaded = match load(&env) {
                Ok(loaded) => loaded,
                Err(why) => {
                    env.say(&format!("level=error msg=\"Error loading config\" err={why:?}"));
                    return 1;
                }
            };
            let shared = Arc::clone(&self.0);
            let (reload, reloads) = mpsc::channel(1);
            env.spawn(work(env.clone(), Arc::clone(&shared), loaded, reloads));
            env.say("Server is ready to receive web requests.");
            lock(&shared).ready = true;
            let site: http::Site = {
                let env = env.clone();
                Arc::new(move |ask| {
                    let (shared, reload, env) = (Arc::clone(&shared), reload.clone(), env.clone());
                    async move { Some(api::answer(&env, &shared, &reload, &ask).await) }.boxed()
                })
            };
            http::serve(&env, http::port(&env, "http", PORT), site).await
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        let up = lock(&self.0).ready;
        http::probed("prometheus", up, probe, |path| if matches!(path, "/-/ready" | "/-/healthy" | "/metrics") { 200 } else { 404 })
    }

    fn exec(self: Arc<Self>, _env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        http::no_commands("prometheus", ask).boxed()
    }
}

/// What asks for a reload, and hears how it went.
type Reload = tokio::sync::oneshot::Sender<Result<(), String>>;

/// Scrapes, evaluates and tells, anew after every reload.
async fn work(env: Env, shared: Shared, mut loaded: Loaded, mut reloads: mpsc::Receiver<Reload>) {
    loop {
        let stop = CancellationToken::new();
        begin(&env, &shared, loaded, &stop);
        loaded = loop {
            let Some(answer) = reloads.recv().await else { return };
            // Whoever asked may be gone.
            match load(&env) {
                Ok(new) => {
                    let _ = answer.send(Ok(()));
                    break new;
                }
                Err(why) => {
                    let _ = answer.send(Err(why));
                }
            }
        };
        stop.cancel();
    }
}

fn begin(env: &Env, shared: &Shared, loaded: Loaded, stop: &CancellationToken) {
    let Loaded { config, mut groups, resend } = loaded;
    let (queue, alerts) = mpsc::channel(QUEUE);
    env.spawn(until(stop.clone(), tell(env.clone(), config.alertmanagers, alerts)));
    for (key, group) in &groups {
        let rules = Rules {
            key: key.clone(),
            interval: Duration::from_micros(group.interval_us.unsigned_abs()),
            resend,
            external: config.external.clone(),
            queue: queue.clone(),
        };
        env.spawn(until(stop.clone(), evaluate(env.clone(), Arc::clone(shared), rules)));
    }
    {
        let mut inner = lock(shared);
        let at_ms = env.now_us() / 1000;
        let Inner { store, groups: known, .. } = &mut *inner;
        for (key, mut old) in std::mem::take(known) {
            if let Some(new) = groups.get_mut(&key) {
                new.adopt(&mut old);
            }
            old.end(store, at_ms);
        }
        *known = groups;
    }
    for job in config.jobs {
        env.spawn(until(stop.clone(), scrape::job(env.clone(), Arc::clone(shared), job, stop.clone())));
    }
}

/// Runs a task until it is stopped.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = task => {}
    }
}

/// When something that comes again and again comes first: at its own phase, so that not all comes at once.
fn phase(env: &Env, what: &str, every: Duration) -> Duration {
    let us = look::draw(env.seed(), &["phase", what], 0, micros(every).max(1) - 1);
    Duration::from_micros(us.unsigned_abs())
}

/// Waits for the next time of a fixed rate. Times that were missed (it was frozen) are left out.
async fn next(due: &mut Instant, every: Duration) {
    let now = Instant::now();
    if *due < now {
        let missed = u32::try_from(now.duration_since(*due).as_micros() / every.as_micros().max(1)).unwrap_or(u32::MAX);
        *due += every * missed;
        if *due < now {
            *due += every;
        }
    }
    sleep_until(*due).await;
    *due += every;
}

struct Rules {
    key: String,
    interval: Duration,
    resend: Duration,
    external: label::Labels,
    queue: mpsc::Sender<(Instant, Vec<Sent>)>,
}

async fn evaluate(env: Env, shared: Shared, rules: Rules) {
    let Rules { key, interval, resend, external, queue } = rules;
    let mut due = Instant::now() + phase(&env, &key, interval);
    loop {
        next(&mut due, interval).await;
        // A knob made wrong since the start counts as none.
        let late = env.knob_duration("delay-evaluation").ok().flatten().unwrap_or_default();
        let now_us = env.now_us();
        let mut sent = {
            let mut inner = lock(&shared);
            let Inner { store, groups, .. } = &mut *inner;
            let Some(group) = groups.get_mut(&key) else { return };
            group.evaluate(store, now_us, now_us - micros(late), micros(resend))
        };
        for alert in &mut sent {
            for (name, value) in &external {
                alert.labels.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        // A queue that is full loses what is new; it is told again after the resend delay.
        if !sent.is_empty() && queue.try_send((Instant::now(), sent)).is_err() {
            env.say("level=warn msg=\"Alert notification queue full, dropping alerts\"");
        }
    }
}

/// Tells every Alertmanager of alerts, one batch after another. One that does not hear of it is told again after the resend
/// delay, as all are.
async fn tell(env: Env, alertmanagers: Vec<String>, mut alerts: mpsc::Receiver<(Instant, Vec<Sent>)>) {
    let mut connections: BTreeMap<String, http::Kept> = BTreeMap::new();
    while let Some((at, batch)) = alerts.recv().await {
        let late = env.knob_duration("delay-alerts").ok().flatten().unwrap_or_default();
        let sent_us = env.now_us() - micros(at.elapsed());
        sleep_until(at + late).await;
        // An alert that goes on must not have run out on its way.
        let ends = |alert: &Sent| if alert.ends_us > sent_us { alert.ends_us + micros(late) } else { alert.ends_us };
        let body: Vec<_> = batch
            .iter()
            .map(|alert| {
                json!({
                    "labels": alert.labels, "annotations": alert.annotations, "startsAt": rfc3339(alert.starts_us),
                    "endsAt": rfc3339(ends(alert)), "generatorURL": format!("http://{}:{PORT}/graph", env.name()),
                })
            })
            .collect();
        let body = Bytes::from(json!(body).to_string());
        for to in &alertmanagers {
            let told = async {
                let url: Url = format!("http://{to}/api/v2/alerts").parse()?;
                let request = HttpRequest::new("POST", url.clone(), [("content-type", "application/json")], body.clone())?;
                let connection = connections.entry(to.clone()).or_default();
                let answer = connection.send(env.dialer(), &url, &request, TELL_LIMIT).await.map_err(|error| error.to_string())?;
                if answer.status == 200 { Ok(()) } else { Err(format!("bad response status {}", answer.status)) }
            };
            if let Err(why) = told.await {
                env.say(&format!("level=error alertmanager={to} count={} msg=\"Error sending alert\" err={why:?}", batch.len()));
                // A moment, so that a queue of batches does not fall on one that refuses.
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
