//! Targets: found, scraped at their times, and gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        super::program::Env,
        http::Kept,
        label::{Labels, NAME},
    },
    Shared,
    config::{self, Job},
    lock, next, phase,
    store::{Writer, exposition},
    until,
};
use crate::net::{HttpRequest, Url};

/// How long a discovery may take to answer.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(30);

/// How a target stands.
#[derive(Debug, Clone)]
pub(super) struct TargetState {
    pub(super) job: String,
    pub(super) url: String,
    pub(super) labels: Labels,
    /// When it was scraped last, and what was wrong; none: it was not yet.
    pub(super) last: Option<(i64, Option<String>)>,
}

/// An entry of HTTP service discovery.
#[derive(Debug, Deserialize)]
struct Found {
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Follows a job's targets until it is stopped.
pub(super) async fn job(env: Env, shared: Shared, job: Job, stop: CancellationToken) {
    let job = Arc::new(job);
    let mut running: BTreeMap<String, CancellationToken> = BTreeMap::new();
    let fixed = job.fixed.iter().flat_map(|one| one.targets.iter().map(|t| (t.clone(), one.labels.clone()))).collect::<Vec<_>>();
    let mut discoveries: Vec<Discovery> = job.discovery.iter().map(|_| Discovery::new()).collect();
    loop {
        let wanted = fixed.iter().chain(discoveries.iter().flat_map(|d| &d.found));
        let wanted: BTreeMap<String, (String, Labels)> = wanted
            .filter_map(|(address, labels)| config::target(&job, address, labels))
            .map(|(address, labels)| (format!("{} {address} {labels:?}", job.name), (address, labels)))
            .collect();
        running.retain(|key, token| {
            let stays = wanted.contains_key(key);
            if !stays {
                token.cancel();
            }
            stays
        });
        for (key, (address, labels)) in wanted {
            if !running.contains_key(&key) {
                let token = stop.child_token();
                running.insert(key.clone(), token.clone());
                env.spawn(target(env.clone(), Arc::clone(&shared), Arc::clone(&job), Target { key, address, labels }, token));
            }
        }
        // Until one of them says something new.
        loop {
            let Some((n, discovery)) = discoveries.iter_mut().enumerate().min_by_key(|(_, discovery)| discovery.due) else { return };
            sleep_until(discovery.due).await;
            let (url, every) = &job.discovery[n];
            discovery.due = Instant::now() + *every;
            match discovery.ask(&env, url).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(why) => env.say(&format!("level=error msg=\"Unable to refresh target groups\" job={} err={why:?}", job.name)),
            }
        }
    }
}

/// A place that tells targets. What it said last counts until it says something else.
struct Discovery {
    connection: Kept,
    due: Instant,
    said: Bytes,
    found: Vec<(String, BTreeMap<String, String>)>,
}

impl Discovery {
    fn new() -> Self {
        Self { connection: Kept::default(), due: Instant::now(), said: Bytes::new(), found: Vec::new() }
    }

    /// Asks. True: it said something new.
    async fn ask(&mut self, env: &Env, url: &str) -> Result<bool, String> {
        let url: Url = url.parse()?;
        let request = HttpRequest::get(url.clone());
        let answer = self.connection.send(env.dialer(), &url, &request, DISCOVERY_LIMIT).await.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("server returned HTTP status {}", answer.status));
        }
        if answer.body == self.said {
            return Ok(false);
        }
        let found: Vec<Found> = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        let pairs = found.into_iter().flat_map(|one| one.targets.into_iter().map(move |target| (target, one.labels.clone())));
        (self.found, self.said) = (pairs.collect(), answer.body);
        Ok(true)
    }
}

struct Target {
    key: String,
    address: String,
    labels: Labels,
}

/// Scrapes a target until it is no longer wanted; then its series end.
async fn target(env: Env, shared: Shared, job: Arc<Job>, target: Target, token: CancellationToken) {
    let Target { key, address, labels } = target;
    let url = format!("http://{address}{}", job.path);
    let state = TargetState { job: job.name.clone(), url: url.clone(), labels: labels.clone(), last: None };
    lock(&shared).targets.insert(key.clone(), state);
    let mut writers = [Writer::default(), Writer::default()];
    until(token.clone(), scrapes(&env, &shared, &job, (&key, &url, &labels), &mut writers)).await;
    let mut inner = lock(&shared);
    inner.targets.remove(&key);
    let at_ms = env.now_us() / 1000;
    writers.iter_mut().for_each(|writer| writer.end(&mut inner.store, at_ms));
}

async fn scrapes(env: &Env, shared: &Shared, job: &Job, (key, url, labels): (&str, &str, &Labels), writers: &mut [Writer; 2]) {
    let mut connection = Kept::default();
    let mut read = Read::default();
    let mut due = Instant::now() + phase(env, key, job.interval);
    loop {
        next(&mut due, job.interval).await;
        let at_us = env.now_us();
        let scraped = scrape(env, job, url, &mut connection).await.and_then(|body| read.samples(job, labels, body));
        let took = (env.now_us() - at_us) as f64 / 1e6;
        let own = |name: &str| {
            let mut own = labels.clone();
            own.insert(NAME.to_owned(), name.to_owned());
            own
        };
        let (samples, mut wrong) = match scraped {
            Ok(samples) => (samples, None),
            Err(why) => (&[] as &[(Labels, f64)], Some(why)),
        };
        let mut inner = lock(shared);
        let count = samples.len() as f64;
        if let Err(why) = writers[0].write(&mut inner.store, at_us / 1000, samples.iter().map(|(labels, value)| (labels, *value))) {
            wrong = Some(why);
        }
        let up = f64::from(u8::from(wrong.is_none()));
        let about = [(own("up"), up), (own("scrape_duration_seconds"), took), (own("scrape_samples_scraped"), count)];
        // There is room for these wherever there was room for the target's first.
        let _ = writers[1].write(&mut inner.store, at_us / 1000, about.iter().map(|(labels, value)| (labels, *value)));
        if let Some(state) = inner.targets.get_mut(key) {
            state.last = Some((at_us, wrong));
        }
    }
}

async fn scrape(env: &Env, job: &Job, url: &str, connection: &mut Kept) -> Result<String, String> {
    if let Some(broken) = env.knob("scrape-broken")
        && (broken == "*" || broken.split(',').any(|one| one.trim() == job.name))
    {
        return Err("the knob `scrape-broken` says so".to_owned());
    }
    let url: Url = url.parse()?;
    let answer =
        connection.send(env.dialer(), &url, &HttpRequest::get(url.clone()), job.timeout).await.map_err(|error| error.to_string())?;
    if answer.status != 200 || answer.cut {
        return Err(format!("server returned HTTP status {}", answer.status));
    }
    String::from_utf8(answer.body.to_vec()).map_err(|_| "the answer is no text".to_owned())
}

/// What a target said last, so that the same is not read twice.
#[derive(Debug, Default)]
struct Read {
    body: String,
    samples: Vec<(Labels, f64)>,
}

impl Read {
    fn samples(&mut self, job: &Job, labels: &Labels, body: String) -> Result<&[(Labels, f64)], String> {
        if self.body != body || body.is_empty() {
            let read = exposition(&body)?;
            let mut seen = BTreeSet::new();
            self.samples = read.into_iter().filter_map(|(own, value)| Some((config::sample(job, own, labels)?, value))).collect();
            // Of two samples of one series the first counts.
            self.samples.retain(|(labels, _)| seen.insert(labels.clone()));
            self.body = body;
        }
        Ok(&self.samples)
    }
}
