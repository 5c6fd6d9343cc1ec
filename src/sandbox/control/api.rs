//! How the cluster's own components write: by the code that answers requests, with a user, a manager and an entry in the
//! audit log as any client has. Only the connection is left out, and with it the weather and the question whether the
//! component may do it.

use std::sync::Arc;

use hyper::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use serde_json::{Value, json};

use crate::sandbox::{
    audit::AuditEntry,
    core::State,
    decode, defaults,
    delete::Options,
    kinds::Kind,
    refusal::{Answer, Refusal},
    request::{Ask, Place, User},
    store::{Key, Stored},
    write::writer,
};

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub(in crate::sandbox) struct By<'a> {
    /// The user.
    pub(in crate::sandbox) user: &'a str,
    /// What its client calls itself: the field manager.
    pub(in crate::sandbox) agent: &'static str,
}

/// A controller of kube-controller-manager, which has a service account of its own.
macro_rules! controller {
    ($name:literal) => {
        $crate::sandbox::control::api::By { user: concat!("system:serviceaccount:kube-system:", $name), agent: "kube-controller-manager" }
    };
}
pub(in crate::sandbox) use controller;

/// Where something is.
#[derive(Debug, Clone, Copy)]
pub(in crate::sandbox) struct At<'a> {
    pub(in crate::sandbox) group: &'a str,
    pub(in crate::sandbox) plural: &'a str,
    pub(in crate::sandbox) namespace: &'a str,
    pub(in crate::sandbox) name: &'a str,
}

impl<'a> At<'a> {
    pub(in crate::sandbox) fn new(group: &'a str, plural: &'a str, namespace: &'a str, name: &'a str) -> Self {
        Self { group, plural, namespace, name }
    }

    pub(in crate::sandbox) fn pod(namespace: &'a str, name: &'a str) -> Self {
        Self::new("", "pods", namespace, name)
    }
}

/// A controller wrote something that its kind does not have: a fault here, told as the API server tells it.
#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
fn misfit(misfit: decode::Misfit) -> Refusal {
    Refusal::bad_request(format!("{misfit:?}"))
}

impl State {
    fn inner_kind(&self, at: At<'_>) -> Answer<Arc<Kind>> {
        self.kinds.v1(at.group, at.plural).ok_or_else(Refusal::no_such_page)
    }

    /// A request as it would have come over a connection, noted in the audit log.
    fn inner_ask(&mut self, by: By<'_>, method: &Method, kind: &Kind, at: At<'_>, sub: &str, body: &Value) -> Answer<(Ask, Place, usize)> {
        let mut path =
            if kind.group.is_empty() { format!("/api/{}", kind.version) } else { format!("/apis/{}/{}", kind.group, kind.version) };
        if kind.namespaced {
            path.push_str(&format!("/namespaces/{}", at.namespace));
        }
        path.push_str(&format!("/{}", kind.plural));
        for part in [at.name, sub].into_iter().filter(|part| !part.is_empty()) {
            path.push_str(&format!("/{part}"));
        }
        let uri = path.parse().map_err(Refusal::internal)?;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(by.agent));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let ask = Ask::read(User::named(by.user), method, &uri, &headers, body.to_string().into());
        let place = ask.place.clone().ok_or_else(Refusal::no_such_page)?;
        let entry = AuditEntry {
            at_us: self.now_us,
            user: ask.user.name.clone(),
            verb: ask.verb.to_owned(),
            uri: ask.uri.clone(),
            group: place.group.clone(),
            version: place.version.clone(),
            resource: place.resource.clone(),
            subresource: place.subresource.clone(),
            namespace: place.namespace.clone(),
            name: place.name.clone(),
            patch_type: String::new(),
            dry_run: false,
            code: 0,
            trouble: "",
            request: ask.body.clone(),
        };
        let number = self.audit.arrived(entry);
        Ok((ask, place, number))
    }

    fn inner_answered<T>(&mut self, number: usize, good: u16, answer: &Answer<T>) {
        let code = answer.as_ref().map_or_else(Refusal::code, |_| good);
        self.audit.answered(number, code);
        // Nobody reads them.
        self.warnings.clear();
    }

    /// Creates an object.
    ///
    /// # Errors
    /// As a POST.
    pub(in crate::sandbox) fn make(&mut self, by: By<'_>, at: At<'_>, value: Value) -> Answer<Arc<Stored>> {
        let kind = self.inner_kind(at)?;
        let at = At { name: "", ..at };
        let value = decode::with_kind(&kind, value);
        let (ask, place, number) = self.inner_ask(by, &Method::POST, &kind, at, "", &value)?;
        let answer = decode::typed(&kind, value, None)
            .map_err(misfit)
            .and_then(|value| self.create_value(&ask, &kind, &place.namespace, value, &writer(&ask, &place, false), false));
        self.inner_answered(number, 201, &answer);
        answer
    }

    /// Replaces an object, or with `sub` such as `status` a part of it.
    ///
    /// # Errors
    /// As a PUT.
    pub(in crate::sandbox) fn change(&mut self, by: By<'_>, at: At<'_>, sub: &str, value: Value) -> Answer<Arc<Stored>> {
        let kind = self.inner_kind(at)?;
        let key = Key(if kind.namespaced { at.namespace.to_owned() } else { String::new() }, at.name.to_owned());
        let old = self.store.get(kind.shelf(), &key).cloned().ok_or_else(|| Refusal::not_found(&kind, at.name))?;
        let value = decode::with_kind(&kind, value);
        let (ask, place, number) = self.inner_ask(by, &Method::PUT, &kind, at, sub, &value)?;
        let answer = decode::typed(&kind, value, None).map_err(misfit).and_then(|mut value| {
            defaults::apply(&kind, &mut value);
            self.update_value(&ask, &kind, &place, &old, value, &writer(&ask, &place, false), false)
        });
        self.inner_answered(number, 200, &answer);
        answer
    }

    /// Replaces an object's status, if it differs.
    ///
    /// # Errors
    /// As a PUT of the status.
    pub(in crate::sandbox) fn change_status(&mut self, by: By<'_>, at: At<'_>, old: &Stored, status: Value) -> Answer<()> {
        if old.value.get("status") == Some(&status) {
            return Ok(());
        }
        let mut value = old.value.clone();
        crate::sandbox::core::as_map(&mut value).insert("status".to_owned(), status);
        self.change(by, at, "status", value).map(drop)
    }

    /// Deletes an object. That it is gone already is no error.
    ///
    /// # Errors
    /// As a DELETE.
    pub(in crate::sandbox) fn remove(&mut self, by: By<'_>, at: At<'_>, options: &Value) -> Answer<()> {
        let kind = self.inner_kind(at)?;
        self.remove_of(by, &kind, at, options)
    }

    /// As [`Self::remove`], of a kind that need not be a built-in one.
    ///
    /// # Errors
    /// As a DELETE.
    pub(in crate::sandbox) fn remove_of(&mut self, by: By<'_>, kind: &Arc<Kind>, at: At<'_>, options: &Value) -> Answer<()> {
        let key = Key(if kind.namespaced { at.namespace.to_owned() } else { String::new() }, at.name.to_owned());
        let (_, _, number) = self.inner_ask(by, &Method::DELETE, kind, at, "", options)?;
        let answer = Options::from_value(options).and_then(|options| self.delete_key(kind, &key, &options).map(drop));
        self.inner_answered(number, 200, &answer);
        match answer {
            Err(refusal) if refusal.code() == 404 => Ok(()),
            other => other,
        }
    }

    /// As [`Self::change`], of a kind that need not be a built-in one and of the object itself.
    ///
    /// # Errors
    /// As a PUT.
    pub(in crate::sandbox) fn change_of(&mut self, by: By<'_>, kind: &Arc<Kind>, at: At<'_>, value: Value) -> Answer<Arc<Stored>> {
        let key = Key(if kind.namespaced { at.namespace.to_owned() } else { String::new() }, at.name.to_owned());
        let old = self.store.get(kind.shelf(), &key).cloned().ok_or_else(|| Refusal::not_found(kind, at.name))?;
        let (ask, place, number) = self.inner_ask(by, &Method::PUT, kind, at, "", &value)?;
        let answer = self.update_value(&ask, kind, &place, &old, value, &writer(&ask, &place, false), false);
        self.inner_answered(number, 200, &answer);
        answer
    }

    /// Gives a pod its node.
    ///
    /// # Errors
    /// As a POST of a Binding.
    pub(in crate::sandbox) fn bind_to(&mut self, by: By<'_>, namespace: &str, name: &str, node: &str) -> Answer<()> {
        let at = At::pod(namespace, name);
        let kind = self.inner_kind(at)?;
        let body = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": namespace},
            "target": {"kind": "Node", "name": node},
        });
        let (ask, place, number) = self.inner_ask(by, &Method::POST, &kind, at, "binding", &body)?;
        let answer = self.bind(&ask, &kind, &place).map(drop);
        self.inner_answered(number, 201, &answer);
        answer
    }

    /// Takes a namespace's finalizer away.
    ///
    /// # Errors
    /// As a PUT of `finalize`.
    pub(in crate::sandbox) fn finalize_namespace(&mut self, by: By<'_>, name: &str) -> Answer<()> {
        let at = At::new("", "namespaces", "", name);
        let kind = self.inner_kind(at)?;
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {}});
        let (ask, place, number) = self.inner_ask(by, &Method::PUT, &kind, at, "finalize", &body)?;
        let answer = self.finalize(&ask, &kind, &place).map(drop);
        self.inner_answered(number, 200, &answer);
        answer
    }
}
