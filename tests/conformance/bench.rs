//! What a case works with: a namespace of its own on an API server that it knows nothing else of.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::Future;
use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, Response,
    header::{ACCEPT, CONTENT_TYPE, WARNING},
};
use kube::client::{Body, Client};
use serde_json::{Value, json};

use crate::{
    answer::{Answer, NAMESPACE},
    asked::{Log, recording},
    differences::Side,
    kinds,
    watch::Watch,
};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a write is tried again that others have come in between.
const CONFLICTS: usize = 8;

pub(crate) type BenchFuture<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;
/// Makes a client that acts as a user.
pub(crate) type Users = Arc<dyn Fn(&str) -> Client>;

/// A path, and the merge patch of it; without one it is deleted.
type Later = (String, Option<Value>);

/// Patch types, by their media type.
pub(crate) const JSON: &str = "application/json-patch+json";
/// Objects merged, `null` deletes, lists replaced.
pub(crate) const MERGE: &str = "application/merge-patch+json";
/// As [`MERGE`], but lists of things with names are merged by name.
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// Server-side apply.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// An API server as one user sees it, and a namespace in which the case is alone. A path begins with a resource (`pods/web/status`),
/// which is looked up in [`kinds`] and lies in that namespace if it has namespaces; one that begins with `/` is taken as it is.
/// `@ns@` in paths and bodies is the namespace, and so it reads in answers.
#[derive(Clone)]
pub(crate) struct Bench {
    side: Side,
    client: Client,
    namespace: String,
    users: Users,
    log: Log,
    /// What is deleted at the end, besides the namespace; or patched, where there is a patch.
    later: Arc<Mutex<Vec<Later>>>,
}

impl Bench {
    /// As the administrator, with the namespace made.
    pub(crate) async fn new(side: Side, namespace: String, users: Users, log: Log) -> Self {
        let client = recording(users("admin"), &log);
        let bench = Self { side, client, namespace, users, log, later: Arc::default() };
        bench.post("namespaces", json!({"metadata": {"name": NAMESPACE}})).await.is(201);
        bench
    }

    /// The same as another user, who is in no group but that of everybody.
    pub(crate) fn user(&self, name: &str) -> Self {
        let client = recording((self.users)(&name.replace(NAMESPACE, &self.namespace)), &self.log);
        Self { client, ..self.clone() }
    }

    /// A client as firedrill has it.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where this is, for the few things that are done in another way on each side. No case asks.
    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// A client of which nobody keeps an account.
    pub(crate) fn plain_client(&self) -> Client {
        (self.users)("admin")
    }

    /// The namespace's real name.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Deletes this when the case is over, however it ends.
    pub(crate) fn later(&self, path: &str) {
        self.later.lock().unwrap_or_else(PoisonError::into_inner).push((path.to_owned(), None));
    }

    /// Makes this merge patch when the case is over, however it ends.
    pub(crate) fn undo(&self, path: &str, patch: Value) {
        self.later.lock().unwrap_or_else(PoisonError::into_inner).push((path.to_owned(), Some(patch)));
    }

    /// The end: everything the case made goes.
    pub(crate) async fn end(&self) {
        let later = std::mem::take(&mut *self.later.lock().unwrap_or_else(PoisonError::into_inner));
        for (path, patch) in later.into_iter().rev() {
            let answer = match patch {
                Some(patch) => self.patch(&path, MERGE, patch).await,
                None => self.delete(&path, json!({"propagationPolicy": "Background", "gracePeriodSeconds": 0})).await,
            };
            assert!(matches!(answer.code, 200 | 202 | 404), "{answer:?}");
        }
        let at = format!("namespaces/{NAMESPACE}");
        let answer = self.delete(&at, json!({})).await;
        assert!(matches!(answer.code, 200 | 404 | 409), "{answer:?}");
        // What ran in it would be in the way of others.
        if self.side == Side::Kubelets {
            self.gone(&at).await;
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, None, None).await
    }

    /// What a GET with this `Accept` is answered.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.ask_as(Method::GET, path, None, None, accept).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, Some("application/json"), Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PUT, path, Some("application/json"), Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        self.ask(Method::PATCH, path, Some(kind), Some(body)).await
    }

    /// A patch whose answer is wanted as metadata alone, which is how firedrill writes.
    pub(crate) async fn patch_metadata(&self, path: &str, kind: &str, body: Value) -> Answer {
        let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        self.ask_as(Method::PATCH, path, Some(kind), Some(body), accept).await
    }

    /// Server-side apply by a manager.
    pub(crate) async fn apply(&self, path: &str, manager: &str, body: Value) -> Answer {
        let mark = if path.contains('?') { '&' } else { '?' };
        self.patch(&format!("{path}{mark}fieldManager={manager}"), APPLY, body).await
    }

    /// `options` is a `DeleteOptions`; null is no body at all.
    pub(crate) async fn delete(&self, path: &str, options: Value) -> Answer {
        let body = Some(options).filter(|options| !options.is_null());
        self.ask(Method::DELETE, path, body.is_some().then_some("application/json"), body).await
    }

    /// Creates an object of a table's kind from JSON, which must succeed.
    pub(crate) async fn make(&self, resource: &str, body: Value) -> Value {
        self.post(resource, body).await.is(201)
    }

    /// A ConfigMap with one entry.
    pub(crate) async fn config_map(&self, name: &str) -> Value {
        self.make("configmaps", json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"key": "value"}})).await
    }

    /// Pods are refused in a namespace without this account, which a controller makes sooner or later.
    pub(crate) async fn account(&self) {
        let answer = self.post("serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        assert!(matches!(answer.code, 201 | 409), "{answer:?}");
    }

    /// A pod that nothing runs, for want of a node.
    pub(crate) async fn pod(&self, name: &str) -> Value {
        self.account().await;
        let container = json!({"name": "main", "image": "none"});
        let spec = json!({"containers": [container], "automountServiceAccountToken": false});
        self.make("pods", json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})).await
    }

    /// A pod that has a node, which no kubelet looks after: it goes only when it is deleted by force.
    pub(crate) async fn bound_pod(&self, name: &str) -> Value {
        self.account().await;
        self.node().await;
        let container = json!({"name": "main", "image": "none"});
        let spec = json!({
            "containers": [container], "automountServiceAccountToken": false, "nodeName": "@ns@-node", "tolerations": [{"operator": "Exists"}]
        });
        let pod = self.make("pods", json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})).await;
        self.later(&format!("pods/{name}"));
        pod
    }

    /// A node of the case's own, if there is none yet.
    pub(crate) async fn node(&self) {
        let answer = self.post("nodes", json!({"metadata": {"name": "@ns@-node"}})).await;
        assert!(matches!(answer.code, 201 | 409), "{answer:?}");
        self.later("nodes/@ns@-node");
    }

    /// Reads, changes and replaces an object until nobody has come in between.
    pub(crate) async fn replace(&self, path: &str, change: impl Fn(&mut Value)) -> Answer {
        for _ in 0..CONFLICTS {
            let mut object = self.get(path).await.is(200);
            change(&mut object);
            let answer = self.put(path, object).await;
            if answer.code != 409 {
                return answer;
            }
        }
        panic!("others write to {path} all the time");
    }

    /// Asks again and again until the answer is as wanted; the last one in the message if it never is.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Value {
        self.within(PATIENCE, Duration::from_millis(50), path, wanted).await
    }

    /// As [`Self::until`], with a limit, asking this often.
    pub(crate) async fn within(&self, limit: Duration, every: Duration, path: &str, wanted: impl Fn(&Answer) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let answer = self.get(path).await;
            if wanted(&answer) {
                return answer.body;
            }
            assert!(tokio::time::Instant::now() < deadline, "not within {limit:?}: {answer:?}");
            tokio::time::sleep(every).await;
        }
    }

    /// Opens a watch, which must begin with 200.
    pub(crate) async fn watch(&self, path: &str) -> Watch {
        let mark = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{mark}watch=true");
        let answer = self.send(Method::GET, &path, None, String::new(), "application/json").await;
        assert_eq!(answer.status().as_u16(), 200, "watch {path}");
        Watch::new(path, self.namespace.clone(), answer.into_body())
    }

    /// A body as it is, in whatever form.
    pub(crate) async fn post_text(&self, path: &str, kind: &str, body: &str) -> Answer {
        self.ask_text(Method::POST, path, Some(kind), body.to_owned(), "application/json").await
    }

    /// Any method; a body is JSON.
    pub(crate) async fn ask(&self, method: Method, path: &str, kind: Option<&str>, body: Option<Value>) -> Answer {
        self.ask_as(method, path, kind, body, "application/json").await
    }

    async fn ask_as(&self, method: Method, path: &str, kind: Option<&str>, body: Option<Value>, accept: &str) -> Answer {
        self.ask_text(method, path, kind, body.map_or_else(String::new, |body| body.to_string()), accept).await
    }

    async fn ask_text(&self, method: Method, path: &str, kind: Option<&str>, body: String, accept: &str) -> Answer {
        let asked = format!("{method} {path}");
        let answer = self.send(method, path, kind, body, accept).await;
        let code = answer.status().as_u16();
        let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).replace(&self.namespace, NAMESPACE);
        let warnings = answer.headers().get_all(WARNING).iter().map(text).collect();
        let bytes = tokio::time::timeout(LIMIT, answer.into_body().collect()).await;
        let bytes = bytes.unwrap_or_else(|_| panic!("{asked}: the answer does not end")).unwrap_or_else(|error| panic!("{asked}: {error}"));
        let text = String::from_utf8_lossy(&bytes.to_bytes()).replace(&self.namespace, NAMESPACE);
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { asked, code, body, warnings }
    }

    async fn send(&self, method: Method, path: &str, kind: Option<&str>, body: String, accept: &str) -> Response<Body> {
        let url = kinds::url(path).replace(NAMESPACE, &self.namespace);
        let mut request = Request::builder().method(method.clone()).uri(&url).header(ACCEPT, accept);
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        let body = body.replace(NAMESPACE, &self.namespace);
        let request = request.body(Body::from(body.into_bytes())).unwrap_or_else(|error| panic!("{method} {url}: {error}"));
        let answer = tokio::time::timeout(LIMIT, self.client.send(request)).await;
        answer.unwrap_or_else(|_| panic!("{method} {url}: no answer")).unwrap_or_else(|error| panic!("{method} {url}: {error}"))
    }
}
