//! The way to a cluster: one place that connects, and that puts a limit on every call.
//!
//! kube 5 by default repeats a request answered with 429, 503 or 504 up to 16 times and waits without limit for an
//! answer. Neither will do here: a repeated fault is another fault, and a probe that waits measures nothing. So
//! [`connect`] switches the repeats off ([`kube::Config::default_retry`]) and sets the limits, and every call goes
//! through [`limit`] besides, because a connection's read limit starts anew with each byte.
//!
//! **Architecture invariant:** no other module builds a `kube::Config` or a `kube::Client` for a real cluster.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::Future;
use hyper::header::{HeaderValue, USER_AGENT};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, api::core::v1::Namespace};
use kube::{
    Api, Client, Config, Resource, ResourceExt as _,
    api::{ListParams, VersionMatch},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
    runtime::utils::Backoff,
};
use serde::de::DeserializeOwned;

/// How long opening a connection (with TLS) may take.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection for calls may be silent while an answer is awaited.
pub const READ_LIMIT: Duration = Duration::from_secs(30);
/// How long one ordinary call may take in all.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long a watch may last, in seconds, before the server ends it and it is opened anew: what bounds the time in which
/// a watch whose peer is gone goes unnoticed.
pub const WATCH_SECS: u32 = 25;
/// The reason given where discovery does not find a kind.
const MISSING_KIND: &str = "MissingKind";
/// How many objects a page of a list has. Half of kubectl's: a pod takes some 25 KB of memory, and guards read several lists side by side.
const PAGE: u32 = 250;

/// Leave to change something now. What is read before a change takes its time, and Leases may run out meanwhile.
#[derive(Clone)]
pub struct Leave(Arc<dyn Fn() -> Result<(), String> + Send + Sync>);

impl Leave {
    /// As `ask` has it: why not, if not.
    pub fn new(ask: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Always.
    pub fn always() -> Self {
        Self::new(|| Ok(()))
    }

    /// Asks for it.
    ///
    /// # Errors
    /// Why not.
    pub fn ask(&self) -> Result<(), String> {
        (self.0)()
    }
}

impl std::fmt::Debug for Leave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leave").finish_non_exhaustive()
    }
}

/// How long a watch that broke is left alone: as kube has it, but without chance, so that the same drill twice is the same.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WatchPause {
    last: Duration,
}

impl WatchPause {
    const SHORTEST: Duration = Duration::from_millis(800);
    const LONGEST: Duration = Duration::from_secs(30);
}

impl Iterator for WatchPause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.last = (self.last * 2).clamp(Self::SHORTEST, Self::LONGEST);
        Some(self.last)
    }
}

impl Backoff for WatchPause {
    fn reset(&mut self) {
        self.last = Duration::ZERO;
    }
}

/// A cluster that was reached and has said who it is. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    /// For calls: no repeats, [`CONNECT_LIMIT`], [`READ_LIMIT`].
    pub client: Client,
    /// For what stays open and may be silent for long (exec, attach, following logs, watches): no repeats,
    /// [`CONNECT_LIMIT`], and no read limit. Who uses it brings a limit of its own; watches ask the server to end
    /// after [`WATCH_SECS`].
    pub streams: Client,
    /// The kubeconfig's context, or `in-cluster`; for people.
    pub name: String,
    /// The uid of the kube-system namespace: the cluster's identity.
    pub uid: String,
    /// The versions of lists, by their address without what selects from them: see [`Fresh::Seen`].
    listed: Arc<Mutex<BTreeMap<String, String>>>,
}

/// How new a list must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    /// Newer than all that was written before it was asked for.
    Now,
    /// Not older than the last list of the same kind and place that this process has read, which is what the API server has at hand:
    /// as a rule that of a moment ago. Since Kubernetes 1.31 [`Fresh::Now`] waits until the server's cache has heard of etcd's
    /// progress, which it asks for ten times a second; a fault that is about to be injected would come that much later.
    Seen,
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("name", &self.name).field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// Why the cluster did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no usable kubeconfig.
    #[error("failed to find a cluster: {why}")]
    Config {
        /// Why.
        why: String,
    },
    /// The API server does not answer.
    #[error("failed to reach the API server {server} (context {name}): {why}")]
    Unreachable {
        /// Its address.
        server: String,
        /// The context.
        name: String,
        /// Why.
        why: String,
    },
    /// It is not the cluster that the environment names.
    #[error(
        "refused: context {name} is the cluster with uid {found}, but the environment's cluster `{wanted_name}` has uid {wanted}: \
         choose the right context, or correct `clusters.{wanted_name}.uid`"
    )]
    WrongCluster {
        /// The context.
        name: String,
        /// The uid found.
        found: String,
        /// The name of the cluster in the environment.
        wanted_name: String,
        /// Its uid there.
        wanted: String,
    },
    /// A call was answered with an error, or could not be made.
    #[error("failed to {what}: {why}")]
    Call {
        /// What was to be done, such as `delete pod shop/orders-0`.
        what: String,
        /// The HTTP status, where there was an answer.
        code: Option<u16>,
        /// The API's word for it, such as `NotFound`; may be empty.
        reason: String,
        /// Why, for people.
        why: String,
    },
    /// A call did not end within its limit. Whether it was carried out is unknown.
    #[error("failed to {what}: no answer within {}", crate::scenario::types::Dur(*.after))]
    TimedOut {
        /// What was to be done.
        what: String,
        /// The limit.
        after: Duration,
    },
}

impl ClusterError {
    /// From kube's error, with what was to be done.
    pub fn call(what: impl Into<String>, error: &kube::Error) -> Self {
        let (code, reason) = match error {
            kube::Error::Api(status) => (Some(status.code), status.reason.clone()),
            kube::Error::Discovery(_) => (None, MISSING_KIND.to_owned()),
            _ => (None, String::new()),
        };
        Self::Call { what: what.into(), code, reason, why: why(error) }
    }

    /// The HTTP status of the answer, if there was one.
    pub const fn code(&self) -> Option<u16> {
        match self {
            Self::Call { code, .. } => *code,
            _ => None,
        }
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object was changed in between, exists already, or a precondition did not hold.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// A permission is missing.
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// The API server has no such kind.
    pub fn is_missing_kind(&self) -> bool {
        matches!(self, Self::Call { code: None, reason, .. } if reason == MISSING_KIND)
    }

    /// It is not known whether the call was carried out: no answer came.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Call { code: None, .. }) && !self.is_missing_kind()
    }
}

/// The innermost cause of kube's error in words: kube wraps an API answer, or hyper and the operating system.
pub fn why(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return if status.message.is_empty() {
            format!("the API server answered {} {}", status.code, status.reason)
        } else {
            status.message.clone()
        };
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    if text.contains("UnsupportedCertVersion") {
        return "its client certificate is of X.509 version 1, which rustls refuses: have it issued as version 3".to_owned();
    }
    text
}

/// How often [`again`] tries, and how long it waits between two tries.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_secs(1);

/// Does something that may be done twice again and again for some seconds, for an API server that is busy for a moment.
///
/// # Errors
/// The last try's.
pub(crate) async fn again<T, E, F: Future<Output = Result<T, E>>>(mut what: impl FnMut() -> F) -> Result<T, E> {
    let mut tries = 1;
    loop {
        match what().await {
            Err(_) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(BETWEEN).await;
            }
            done => return done,
        }
    }
}

/// Ends a call after a limit, and names it in its error. `what` finishes "failed to …", such as `read pod shop/orders-0`.
///
/// # Errors
/// The call's own, or that it did not end in time.
pub async fn limit<T>(call: impl Future<Output = kube::Result<T>>, after: Duration, what: impl Into<String>) -> Result<T, ClusterError> {
    match tokio::time::timeout(after, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ClusterError::call(what, &error)),
        Err(_) => Err(ClusterError::TimedOut { what: what.into(), after }),
    }
}

/// Connects to the cluster of a kubeconfig context (of `KUBECONFIG` or `~/.kube/config`; default its current context), or
/// to the cluster this process runs in when there is no kubeconfig, and asks it who it is.
///
/// # Errors
/// When there is no such context, the API server cannot be reached, or does not let its identity be read.
pub async fn connect(context: Option<&str>) -> Result<Cluster, ClusterError> {
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    match Kubeconfig::read() {
        Ok(kubeconfig) => connect_with(kubeconfig, context).await,
        // A KUBECONFIG that cannot be read must not lead to another cluster by accident.
        Err(_) if context.is_none() && in_pod && std::env::var_os("KUBECONFIG").is_none() => {
            let config = Config::incluster().map_err(|error| ClusterError::Config { why: error.to_string() })?;
            reach(config, "in-cluster".to_owned()).await
        }
        Err(error) => Err(ClusterError::Config { why: format!("{}: set KUBECONFIG to a kubeconfig file", unusable(&error)) }),
    }
}

/// The API server as this pod's own account, which may not even ask who the cluster is.
///
/// # Errors
/// This is no pod, or one without an account.
pub fn in_pod() -> Result<Client, ClusterError> {
    let config = Config::incluster().map_err(|error| ClusterError::Config { why: error.to_string() })?;
    Client::try_from(with_limits(config, Some(READ_LIMIT))).map_err(|error| ClusterError::Config { why: why(&error) })
}

/// What is wrong with a kubeconfig. A YAML error would show lines of the file, and those hold keys, tokens and passwords.
fn unusable(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => {
            let place = error.location().map_or_else(String::new, |at| format!(" at line {}, column {}", at.line(), at.column()));
            format!("the kubeconfig is not one{place} (its text may hold secrets and is not shown)")
        }
        other => other.to_string(),
    }
}

/// Connects to the cluster of a context of a kubeconfig that is at hand; default its current context.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(kubeconfig: Kubeconfig, context: Option<&str>) -> Result<Cluster, ClusterError> {
    let (config, name) = configure(kubeconfig, context).await?;
    reach(config, name).await
}

async fn reach(config: Config, name: String) -> Result<Cluster, ClusterError> {
    let server = config.cluster_url.to_string();
    let calls = with_limits(config.clone(), Some(READ_LIMIT));
    let streams = with_limits(config, None);
    let build = |config: Config| {
        Client::try_from(config).map_err(|error| ClusterError::Config { why: format!("context {name} cannot be used: {}", why(&error)) })
    };
    let (client, streams) = (build(calls)?, build(streams)?);
    identified(client, streams, server, name).await
}

/// A cluster behind a client that somebody else built, which is asked who it is.
///
/// # Errors
/// When the API server cannot be reached, or does not let its identity be read.
pub async fn behind(client: Client, name: &str) -> Result<Cluster, ClusterError> {
    identified(client.clone(), client, name.to_owned(), name.to_owned()).await
}

async fn identified(client: Client, streams: Client, server: String, name: String) -> Result<Cluster, ClusterError> {
    let what = "read namespace kube-system, whose uid is the cluster's identity";
    match limit(Api::<Namespace>::all(client.clone()).get("kube-system"), CALL_LIMIT, what).await {
        Ok(namespace) => Ok(Cluster { client, streams, name, uid: namespace.uid().unwrap_or_default(), listed: Arc::default() }),
        Err(ClusterError::Call { code: None, why, .. }) => Err(ClusterError::Unreachable { server, name, why }),
        Err(ClusterError::TimedOut { after, .. }) => {
            Err(ClusterError::Unreachable { server, name, why: format!("no answer within {}", crate::scenario::types::Dur(after)) })
        }
        Err(error) => Err(error),
    }
}

fn with_limits(mut config: Config, read: Option<Duration>) -> Config {
    config.default_retry = false;
    // An audit log then tells firedrill from whoever else uses the same account.
    config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("firedrill/", env!("CARGO_PKG_VERSION")))));
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = read;
    // Otherwise the time a pooled connection lay idle counts against the next answer.
    config.reset_reader_on_write = true;
    config
}

async fn configure(kubeconfig: Kubeconfig, context: Option<&str>) -> Result<(Config, String), ClusterError> {
    let Some(name) = context.map(str::to_owned).or_else(|| kubeconfig.current_context.clone()).filter(|name| !name.is_empty()) else {
        return Err(ClusterError::Config { why: "the kubeconfig has no current context: name one with --context".to_owned() });
    };
    let known: Vec<String> = kubeconfig.contexts.iter().map(|c| c.name.clone()).collect();
    if !known.contains(&name) {
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        return Err(ClusterError::Config { why: format!("the kubeconfig has no context `{name}`: {known}") });
    }
    let options = KubeConfigOptions { context: Some(name.clone()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| ClusterError::Config { why: format!("context {name} cannot be used: {}", unusable(&error)) })?;
    Ok((config, name))
}

/// `Pod shop/orders-0` or `Node node2`: how an object is named in messages.
pub fn named(kind: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

impl Cluster {
    /// A cluster behind a client that somebody else built: a sandbox's, a test's.
    pub fn from_client(client: Client, name: impl Into<String>, uid: impl Into<String>) -> Self {
        Self { streams: client.clone(), client, name: name.into(), uid: uid.into(), listed: Arc::default() }
    }

    /// Refuses a cluster that is not the one an environment names.
    ///
    /// # Errors
    /// [`ClusterError::WrongCluster`] with both uids.
    pub fn expect_uid(&self, wanted_name: &str, wanted: &str) -> Result<(), ClusterError> {
        if self.uid == wanted && !wanted.is_empty() {
            return Ok(());
        }
        Err(ClusterError::WrongCluster {
            name: self.name.clone(),
            found: self.uid.clone(),
            wanted_name: wanted_name.to_owned(),
            wanted: wanted.to_owned(),
        })
    }

    /// Objects of a kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Objects of a kind that has no namespaces.
    pub fn cluster_api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = ClusterResourceScope>,
        K::DynamicType: Default,
    {
        Api::all(self.client.clone())
    }

    /// An ordinary call under [`CALL_LIMIT`].
    ///
    /// # Errors
    /// As [`limit`].
    pub async fn call<T>(&self, what: impl Into<String>, call: impl Future<Output = kube::Result<T>>) -> Result<T, ClusterError> {
        limit(call, CALL_LIMIT, what).await
    }

    /// One object, or none if it does not exist.
    ///
    /// # Errors
    /// As [`limit`], but not when the object does not exist.
    pub async fn get_opt<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, ClusterError>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let what = format!("read {}", named(&K::kind(&K::DynamicType::default()), namespace, name));
        self.call(what, self.api::<K>(namespace).get_opt(name)).await
    }

    /// One object of a kind that has no namespaces, or none if it does not exist.
    ///
    /// # Errors
    /// As [`limit`], but not when the object does not exist.
    pub async fn get_cluster_opt<K>(&self, name: &str) -> Result<Option<K>, ClusterError>
    where
        K: Resource<Scope = ClusterResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let what = format!("read {}", named(&K::kind(&K::DynamicType::default()), "", name));
        self.call(what, self.cluster_api::<K>().get_opt(name)).await
    }

    /// All objects of a list, read in pages, each mapped to what is kept of it, so that the rest is never held.
    ///
    /// # Errors
    /// As [`limit`], for each page; also when the list cannot be read to its end because pages expire again and again.
    pub async fn list_map<K, T>(
        &self,
        api: &Api<K>,
        labels: Option<&str>,
        what: &str,
        mut fresh: Fresh,
        mut keep: impl FnMut(K) -> Option<T>,
    ) -> Result<Vec<T>, ClusterError>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        let mut tries = 0;
        'again: loop {
            tries += 1;
            let seen = (fresh == Fresh::Seen).then(|| self.listed().get(api.resource_url()).cloned()).flatten();
            let mut kept = Vec::new();
            let mut params = ListParams {
                limit: Some(PAGE),
                label_selector: labels.map(str::to_owned),
                version_match: seen.is_some().then_some(VersionMatch::NotOlderThan),
                resource_version: seen,
                ..ListParams::default()
            };
            loop {
                let page = match self.call(what, api.list(&params)).await {
                    Ok(page) => page,
                    // The continue token is older than what the server remembers: from the start. Or this server is behind the one
                    // that was asked before: then it has to catch up.
                    Err(error) if (error.code() == Some(410) || fresh == Fresh::Seen && error.code() == Some(504)) && tries < 3 => {
                        fresh = Fresh::Now;
                        continue 'again;
                    }
                    Err(error) => return Err(error),
                };
                if let Some(version) = page.metadata.resource_version.filter(|version| !version.is_empty()) {
                    self.listed().insert(api.resource_url().to_owned(), version);
                }
                let token = page.metadata.continue_.filter(|token| !token.is_empty());
                kept.extend(page.items.into_iter().filter_map(&mut keep));
                match token {
                    Some(token) => params.continue_token = Some(token),
                    None => return Ok(kept),
                }
            }
        }
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All objects of a list, read in pages.
    ///
    /// # Errors
    /// As [`Self::list_map`].
    pub async fn list_all<K>(&self, api: &Api<K>, labels: Option<&str>, what: &str) -> Result<Vec<K>, ClusterError>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        self.list_map(api, labels, what, Fresh::Now, Some).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ends_is_ended_and_named() {
        let error = limit(std::future::pending::<kube::Result<()>>(), CALL_LIMIT, "delete pod shop/orders-0").await.unwrap_err();
        assert_eq!(error.to_string(), "failed to delete pod shop/orders-0: no answer within 10s");
        assert!(error.is_unknown());
    }

    #[tokio::test]
    async fn an_answer_is_told_in_the_servers_words() {
        let status = kube::core::Status::failure("pods \"orders-0\" not found", "NotFound").with_code(404).boxed();
        let error = limit(async { Err::<(), _>(kube::Error::Api(status)) }, CALL_LIMIT, "read pod shop/orders-0").await.unwrap_err();
        assert_eq!(error.to_string(), "failed to read pod shop/orders-0: pods \"orders-0\" not found");
        assert!(error.is_not_found() && !error.is_unknown() && !error.is_conflict());
    }

    #[test]
    fn nothing_of_a_kubeconfig_that_is_none_is_shown() {
        for text in ["users: [{user: {password: \"hunter2-secret}}]\nclusters: {", "users: hunter2-secret\n"] {
            let error = Kubeconfig::from_yaml(text).unwrap_err();
            assert!(error.to_string().contains("hunter2"), "kube no longer shows it: {error}");
            let said = unusable(&error);
            assert!(said.contains(" at line ") && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn repeats_are_off_and_limits_are_set() {
        let config = with_limits(Config::new("https://localhost:1".parse().unwrap()), Some(READ_LIMIT));
        assert!(!config.default_retry);
        assert!(config.headers.iter().any(|(name, value)| name == USER_AGENT && value.as_bytes().starts_with(b"firedrill/")));
        assert_eq!((config.connect_timeout, config.read_timeout), (Some(CONNECT_LIMIT), Some(READ_LIMIT)));
    }
}
