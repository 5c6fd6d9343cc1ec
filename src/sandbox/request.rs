//! What a request asks for: user, verb, resource and options, as `k8s.io/apiserver/pkg/endpoints/request` reads them.

use bytes::Bytes;
use hyper::{Method, header::HeaderMap};

use super::refusal::{Answer, Refusal};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

impl User {
    /// `admin` (also with a name, `admin:NAME`) is of the group that may do everything; a service account has the groups that the real one has.
    pub(super) fn named(name: &str) -> Self {
        let mut groups = Vec::new();
        if name == "admin" || name.starts_with("admin:") {
            groups.push("system:masters".to_owned());
        }
        if let Some(account) = name.strip_prefix("system:serviceaccount:") {
            groups.push("system:serviceaccounts".to_owned());
            if let Some((namespace, _)) = account.split_once(':') {
                groups.push(format!("system:serviceaccounts:{namespace}"));
            }
        }
        groups.push("system:authenticated".to_owned());
        Self { name: name.to_owned(), groups }
    }
}

/// The part of an address after the version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) resource: String,
    pub(super) subresource: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) user: User,
    pub(super) verb: &'static str,
    pub(super) path: String,
    pub(super) uri: String,
    /// None: `/version`, discovery and the like.
    pub(super) place: Option<Place>,
    query: Vec<(String, String)>,
    pub(super) content_type: String,
    pub(super) accept: String,
    pub(super) user_agent: String,
    pub(super) body: Bytes,
}

impl Ask {
    /// Reads a request's head.
    pub(super) fn read(user: User, method: &Method, uri: &hyper::Uri, headers: &HeaderMap, body: Bytes) -> Self {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let mut query = read_query(uri.query().unwrap_or_default());
        let (mut place, old_watch) = read_path(uri.path());
        let watch = old_watch || query.iter().any(|(key, value)| key == "watch" && matches!(value.as_str(), "" | "1" | "true"));
        // A watch of one object is one of the list that it is alone in.
        if let Some(place) = place.as_mut().filter(|place| watch && !place.name.is_empty() && place.subresource.is_empty()) {
            query.push(("fieldSelector".to_owned(), format!("metadata.name={}", place.name)));
            place.name.clear();
        }
        let named = place.as_ref().is_some_and(|p| !p.name.is_empty());
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if place.is_some() && !named => "deletecollection",
            Method::DELETE => "delete",
            _ if place.is_none() || named => "get",
            _ if watch => "watch",
            _ => "list",
        };
        // A list of the one object of a name is authorized for that name.
        if let Some(place) = &mut place
            && matches!(verb, "list" | "watch" | "deletecollection")
            && let Some((_, fields)) = query.iter().find(|(key, _)| key == "fieldSelector")
            && let Some(name) = fields.split(',').find_map(|field| field.strip_prefix("metadata.name="))
        {
            place.name = name.trim_start_matches('=').to_owned();
        }
        Self {
            user,
            verb,
            path: uri.path().to_owned(),
            uri: uri.path_and_query().map_or_else(String::new, ToString::to_string),
            place,
            query,
            content_type: header("content-type").split(';').next().unwrap_or_default().trim().to_owned(),
            accept: header("accept"),
            user_agent: header("user-agent"),
            body,
        }
    }

    /// An option of the query; empty is as good as absent.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All values of an option that may come more than once.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// A yes-or-no option.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.query.iter().any(|(key, value)| key == name && matches!(value.as_str(), "" | "1" | "true"))
    }

    /// A number.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn number(&self, name: &str) -> Answer<Option<u64>> {
        self.option(name)
            .map(|text| text.parse().map_err(|_| Refusal::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))))
            .transpose()
    }

    /// Only metadata is wanted (`PartialObjectMetadata`).
    pub(super) fn only_metadata(&self) -> bool {
        self.accept.contains("as=PartialObjectMetadata")
    }

    /// Whether it takes JSON for an answer.
    pub(super) fn takes_json(&self) -> bool {
        let kinds = self.accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
        self.accept.is_empty() || kinds.into_iter().any(|kind| matches!(kind, "*/*" | "application/*" | "application/json"))
    }

    /// `dryRun=All`.
    ///
    /// # Errors
    /// Another value.
    pub(super) fn dry_run(&self) -> Answer<bool> {
        match self.option("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => {
                let error = super::refusal::FieldError::not_supported("dryRun", other, &["All"]);
                Err(Refusal::invalid_as("meta.k8s.io", self.options_kind(), "", &[error]))
            }
        }
    }

    /// What the server calls the options of a write.
    pub(super) fn options_kind(&self) -> &'static str {
        match self.verb {
            "create" => "CreateOptions",
            "patch" => "PatchOptions",
            "update" => "UpdateOptions",
            _ => "DeleteOptions",
        }
    }

    /// Who is to own the fields: `fieldManager`, or what the client calls itself.
    pub(super) fn manager(&self) -> String {
        match self.option("fieldManager") {
            Some(manager) => manager.to_owned(),
            None => {
                let agent = self.user_agent.split('/').next().unwrap_or_default();
                let manager: String = agent.chars().filter(|c| !c.is_control()).take(128).collect();
                if manager.is_empty() { "unknown".to_owned() } else { manager }
            }
        }
    }
}

/// The pairs of a query, decoded.
pub(super) fn read_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        })
        .collect()
}

/// Percent decoding; `+` is a space in queries only.
fn decode(text: &str, query: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match bytes[at] {
            b'+' if query => decoded.push(b' '),
            b'%' => match (bytes.get(at + 1).copied().and_then(hex), bytes.get(at + 2).copied().and_then(hex)) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    at += 2;
                }
                _ => decoded.push(b'%'),
            },
            byte => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// `/api/v1/namespaces/shop/pods/orders-0/log` and the like. None for what names no resource.
///
/// True: it is the old way to watch, `/api/v1/watch/…`.
fn read_path(path: &str) -> (Option<Place>, bool) {
    let parts: Vec<String> = path.split('/').skip(1).map(|part| decode(part, false)).collect();
    let (group, version, rest) = match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, parts.len() - rest.len()),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, parts.len() - rest.len()),
        _ => return (None, false),
    };
    let mut place = Place { group: group.to_owned(), version: version.to_owned(), ..Place::default() };
    let mut rest = &parts[rest..];
    let watch = rest.len() > 1 && rest[0] == "watch";
    if watch {
        rest = &rest[1..];
    }
    if let [namespaces, namespace, below @ ..] = rest
        && namespaces == "namespaces"
        && !namespace.is_empty()
    {
        place.namespace.clone_from(namespace);
        // The subresources of a namespace itself; anything else is a resource in it.
        if below.first().is_some_and(|resource| !resource.is_empty() && resource != "status" && resource != "finalize") {
            rest = below;
        }
    }
    let part = |n: usize| rest.get(n).cloned().unwrap_or_default();
    (place.resource, place.name, place.subresource) = (part(0), part(1), part(2));
    ((!place.resource.is_empty()).then_some(place), watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, uri: &str) -> Ask {
        Ask::read(User::named("bob"), &method, &uri.parse().unwrap(), &HeaderMap::new(), Bytes::new())
    }

    fn place(uri: &str) -> [String; 6] {
        let p = ask(Method::GET, uri).place.unwrap();
        [p.group, p.version, p.namespace, p.resource, p.name, p.subresource]
    }

    #[test]
    fn addresses_are_read_as_kubernetes_reads_them() {
        assert_eq!(place("/api/v1/namespaces/shop/pods/a/log"), ["", "v1", "shop", "pods", "a", "log"]);
        assert_eq!(place("/apis/apps/v1/namespaces/shop/deployments"), ["apps", "v1", "shop", "deployments", "", ""]);
        assert_eq!(place("/api/v1/namespaces/shop"), ["", "v1", "shop", "namespaces", "shop", ""]);
        assert_eq!(place("/api/v1/namespaces/shop/status"), ["", "v1", "shop", "namespaces", "shop", "status"]);
        assert_eq!(place("/api/v1/namespaces"), ["", "v1", "", "namespaces", "", ""]);
        assert_eq!(place("/api/v1/nodes/n1"), ["", "v1", "", "nodes", "n1", ""]);
        for none in ["/version", "/api", "/api/v1", "/apis", "/apis/apps/v1", "/"] {
            assert_eq!(ask(Method::GET, none).place, None, "{none}");
        }
    }

    #[test]
    fn verbs_and_options() {
        for (method, uri, verb) in [
            (Method::GET, "/api/v1/pods", "list"),
            (Method::GET, "/api/v1/pods?watch=true", "watch"),
            (Method::GET, "/api/v1/namespaces/a/pods/b", "get"),
            (Method::POST, "/api/v1/namespaces/a/pods", "create"),
            (Method::PUT, "/api/v1/namespaces/a/pods/b", "update"),
            (Method::DELETE, "/api/v1/namespaces/a/pods/b", "delete"),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "deletecollection"),
            (Method::GET, "/version", "get"),
        ] {
            assert_eq!(ask(method, uri).verb, verb, "{uri}");
        }
        let ask = ask(Method::GET, "/api/v1/pods?&labelSelector=a%3Db%2Cc+in+%28d%29&command=x&command=y%zz&limit=x&empty=");
        assert_eq!(ask.option("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(ask.all("command"), ["x", "y%zz"]);
        assert_eq!(ask.option("empty"), None);
        assert_eq!(ask.number("limit").unwrap_err().code(), 400);
    }

    #[test]
    fn queries_are_decoded() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            read_query("query=up%7Ba%3D%22b%22%7D+1&x&y=%zz&z=%4"),
            [pair("query", "up{a=\"b\"} 1"), pair("x", ""), pair("y", "%zz"), pair("z", "%4")]
        );
        assert!(read_query("").is_empty());
    }
}
