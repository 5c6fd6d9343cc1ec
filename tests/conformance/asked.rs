//! What was asked of an API server: the four things by which a request of a drill is known again.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use hyper::{Method, Request, Response, header::CONTENT_TYPE};
use kube::client::{Body, Client};
use tower::service_fn;

/// A request and its answer, in the words of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub(crate) verb: String,
    /// `pods/eviction`, `deployments.apps`; `-` for what is no resource, such as the version.
    pub(crate) resource: String,
    /// `apply`, `json`, `merge`, `strategic`; `-` for what is no patch.
    pub(crate) patch: String,
    /// The HTTP status.
    pub(crate) status: u16,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}\t{}\t{}", self.verb, self.resource, self.patch, self.status)
    }
}

/// Everything asked by way of [`recording`].
pub(crate) type Log = Arc<Mutex<Vec<Asked>>>;

/// A client that writes down what goes through it.
pub(crate) fn recording(client: Client, log: &Log) -> Client {
    let namespace = client.default_namespace().to_owned();
    let log = Arc::clone(log);
    let service = service_fn(move |request: Request<Body>| {
        let (client, log) = (client.clone(), Arc::clone(&log));
        async move {
            let asked = request_of(&request);
            let answer: Response<Body> = client.send(request).await?;
            let asked = Asked { status: answer.status().as_u16(), ..asked };
            log.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
            Ok::<_, kube::Error>(answer)
        }
    });
    Client::new(service, namespace)
}

/// What a request asks, as apiserver's `pkg/endpoints/request/requestinfo.go` reads it from method and path.
fn request_of(request: &Request<Body>) -> Asked {
    let path: Vec<&str> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
    let (group, rest) = match path.as_slice() {
        ["api", _, rest @ ..] => (None, rest),
        ["apis", group, _, rest @ ..] => (Some(*group), rest),
        _ => (None, &[] as &[&str]),
    };
    // The old way of watching: `watch/namespaces/NAME/pods`.
    let (old_watch, rest) = match rest {
        ["watch", inner @ ..] => (true, inner),
        _ => (false, rest),
    };
    // `namespaces/NAME/status` is of the namespace itself; `namespaces/NAME/pods` is of pods.
    let rest = match rest {
        ["namespaces", _, "status" | "finalize"] => rest,
        ["namespaces", _, inner @ ..] if !inner.is_empty() => inner,
        _ => rest,
    };
    let (resource, name) = (rest.first(), rest.get(1));
    let query = request.uri().query().unwrap_or_default();
    let asked_for = query.split('&').any(|part| matches!(part, "watch=true" | "watch=1"));
    let verb = match (request.method(), resource.is_some(), name.is_some()) {
        (&Method::POST, ..) => "create",
        (&Method::PUT, ..) => "update",
        (&Method::PATCH, ..) => "patch",
        (&Method::DELETE, _, true) => "delete",
        (&Method::DELETE, ..) => "deletecollection",
        (_, true, _) if old_watch => "watch",
        (_, true, false) if asked_for => "watch",
        (_, true, false) => "list",
        _ => "get",
    };
    let patch = match request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        Some(kind) if verb == "patch" => kind.trim_start_matches("application/").split(['-', '+']).next().unwrap_or_default(),
        _ => "-",
    };
    let mut called = resource.map_or_else(|| "-".to_owned(), |name| (*name).to_owned());
    if let (Some(group), true) = (group, resource.is_some()) {
        called += &format!(".{group}");
    }
    if let Some(subresource) = rest.get(2) {
        called += &format!("/{subresource}");
    }
    Asked { verb: verb.to_owned(), resource: called, patch: patch.to_owned(), status: 0 }
}
