//! Delete and deletecollection (`rest.BeforeDelete`, `registry.Store.Delete`).

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    core::{State, as_map, key, meta, seconds, strings, text},
    crd, decode,
    kinds::Kind,
    read::Filter,
    refusal::{Answer, FieldError, Refusal, details, qualified, success},
    request::{Ask, Place},
    store::{Key, Stored},
    write::{Done, Said},
};

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    grace: Option<i64>,
    uid: Option<String>,
    version: Option<String>,
    propagation: Option<String>,
    pub(super) dry: bool,
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

impl Options {
    /// From the body, or where there is none from the query.
    ///
    /// # Errors
    /// 400 and 422.
    pub(super) fn read(ask: &Ask) -> Answer<Self> {
        // With a body nobody looks at the query.
        if !ask.body.is_empty() {
            let options = Self::from_value(&decode::body(ask)?)?;
            return options.checked();
        }
        let mut options = Self { dry: ask.dry_run()?, ..Self::default() };
        if let Some(grace) = ask.option("gracePeriodSeconds") {
            let wrong = || Refusal::bad_request(format!("strconv.ParseInt: parsing \"{grace}\": invalid syntax"));
            options.grace = Some(grace.parse().map_err(|_| wrong())?);
        }
        options.propagation = ask.option("propagationPolicy").map(str::to_owned);
        options.checked()
    }

    fn checked(self) -> Answer<Self> {
        if let Some(policy) = &self.propagation
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            let error = FieldError::not_supported("propagationPolicy", policy, &["Background", "Foreground", "Orphan"]);
            return Err(Refusal::invalid_as("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        Ok(self)
    }

    /// A precondition on a version goes on to the next, for one who has written it.
    pub(super) fn follow(&mut self, from: u64, to: u64) {
        if self.version.as_deref() == Some(from.to_string().as_str()) {
            self.version = Some(to.to_string());
        }
    }

    /// From `DeleteOptions` as JSON, such as an eviction's.
    ///
    /// # Errors
    /// 500: a field of another type. 422: an unknown `dryRun`.
    pub(super) fn from_value(body: &Value) -> Answer<Self> {
        for (field, pointer) in
            [("gracePeriodSeconds", "/gracePeriodSeconds"), ("propagationPolicy", "/propagationPolicy"), ("uid", "/preconditions/uid")]
        {
            let right = |value: &Value| value.is_null() || value.is_i64() == (field == "gracePeriodSeconds") && !value.is_object();
            if !body.pointer(pointer).is_none_or(right) {
                // Without a reason, as the real one.
                let why = format!("json: cannot unmarshal into Go struct field DeleteOptions.{field}");
                return Err(Refusal::new(500, "", why));
            }
        }
        let string = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let dry = strings(body, "/dryRun");
        if let Some(other) = dry.iter().find(|&&value| value != "All") {
            let error = FieldError::not_supported("dryRun", other, &["All"]);
            return Err(Refusal::invalid_as("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        let orphan = body.get("orphanDependents").and_then(Value::as_bool);
        let propagation =
            string("/propagationPolicy").or_else(|| orphan.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned()));
        Ok(Self {
            grace: body.get("gracePeriodSeconds").and_then(Value::as_i64),
            uid: string("/preconditions/uid"),
            version: string("/preconditions/resourceVersion"),
            propagation,
            dry: !dry.is_empty(),
        })
    }
}

/// What a deletion came to.
pub(super) enum Deleted {
    /// It is gone.
    Gone(Arc<Stored>),
    /// It has been marked, and stays until its grace period is over and its finalizers are gone.
    Marked(Arc<Stored>),
}

impl State {
    /// DELETE of an object.
    ///
    /// # Errors
    /// 404; 409: a precondition does not hold.
    pub(super) fn delete(&mut self, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<Done> {
        let options = Options::read(ask)?;
        let found = self.found(kind, place)?;
        if kind.kind == "CustomResourceDefinition" && found.value.pointer("/metadata/deletionTimestamp").is_none() {
            return self.delete_definition(kind, &key(kind, place), &found, &options);
        }
        Ok((
            200,
            match self.delete_key(kind, &key(kind, place), &options)? {
                Deleted::Gone(gone) if !kind.returns_deleted => {
                    let mut details = details(&kind.group, &kind.plural, &place.name);
                    details.insert("uid".to_owned(), Value::from(text(&gone.value, "/metadata/uid")));
                    Said::Raw(success(Some(details), None))
                }
                Deleted::Gone(object) | Deleted::Marked(object) => Said::Object(object),
            },
        ))
    }

    /// The first DELETE of a definition: it is answered as it waits for its objects to go. (That of a collection knows nothing of this.)
    fn delete_definition(&mut self, kind: &Arc<Kind>, key: &Key, old: &Arc<Stored>, options: &Options) -> Answer<Done> {
        let (uid, version) = (text(&old.value, "/metadata/uid"), old.version.to_string());
        for (what, wanted, found) in [("UID", &options.uid, uid), ("ResourceVersion", &options.version, &version)] {
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
                let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
                return Err(Refusal::conflict(kind, &key.1, &why));
            }
        }
        let now = self.now();
        let marked = self.commit(kind, key, crd::marked(&old.value, &now), options.dry);
        if !options.dry {
            crd::clean(self, &marked.value);
        }
        Ok((200, Said::Object(marked)))
    }

    /// DELETE of all objects that a selector finds.
    ///
    /// # Errors
    /// 400: no selector. Else of the first object that could not be deleted.
    pub(super) fn delete_collection(&mut self, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<Done> {
        let options = Options::read(ask)?;
        let filter = Filter::read(ask, kind)?;
        let keys: Vec<Key> = self
            .store
            .list(kind.shelf(), &place.namespace)
            .filter(|(_, stored)| filter.matches(&stored.value))
            .map(|(key, _)| key.clone())
            .collect();
        let mut gone = Vec::new();
        for key in keys {
            match self.delete_key(kind, &key, &options) {
                Ok(Deleted::Gone(object) | Deleted::Marked(object)) => {
                    gone.push(if kind.custom() { decode::with_kind(kind, object.value.clone()) } else { object.value.clone() });
                }
                Err(refusal) if refusal.code() == 404 => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let metadata = json!({"resourceVersion": self.store.version().to_string()});
        Ok((200, Said::Raw(json!({"kind": kind.list, "apiVersion": kind.api_version(), "metadata": metadata, "items": gone}))))
    }

    /// Deletes, or marks for deletion.
    ///
    /// # Errors
    /// As [`Self::delete`].
    pub(super) fn delete_key(&mut self, kind: &Arc<Kind>, key: &Key, options: &Options) -> Answer<Deleted> {
        let old = self.store.get(kind.shelf(), key).cloned().ok_or_else(|| Refusal::not_found(kind, &key.1))?;
        // Here the server names the kind and not the resource.
        let conflict = |why: &str| {
            let called = qualified(&kind.group, &kind.kind);
            let message = format!("Operation cannot be fulfilled on {called} \"{}\": {why}", key.1);
            Refusal::new(409, "Conflict", message).with_details(details(&kind.group, &kind.kind, &key.1))
        };
        let uid = text(&old.value, "/metadata/uid");
        if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
            let why = format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then \
                 recreated"
            );
            return Err(conflict(&why));
        }
        let version = old.version.to_string();
        if let Some(wanted) = options.version.as_deref().filter(|wanted| *wanted != version) {
            let why = format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object \
                 might have been modified"
            );
            return Err(conflict(&why));
        }
        if kind.kind == "Namespace" && matches!(key.1.as_str(), "default" | "kube-system" | "kube-public") {
            return Err(Refusal::forbidden("", "namespaces", &key.1, "this namespace may not be deleted"));
        }
        if kind.kind == "Namespace" {
            return Ok(self.delete_namespace(kind, key, &old, options));
        }
        let mut value = old.value.clone();
        self.set_finalizers(kind, &mut value, options);
        let mark = if kind.kind == "Pod" { pod_grace(&old.value, options) } else { 0 };
        let held = !strings(&value, "/metadata/finalizers").is_empty();
        let marked = old.value.pointer("/metadata/deletionTimestamp").is_some();
        let grace = old.value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
        if mark == 0 && !held {
            if options.dry {
                return Ok(Deleted::Gone(old));
            }
            return Ok(self.erase(kind, key, None).map_or(Deleted::Marked(old), Deleted::Gone));
        }
        // A grace period can be shortened, never lengthened; what is marked once keeps its time.
        if !marked || grace.is_some_and(|grace| mark < grace) {
            let now_us = self.now_us;
            let at = seconds(now_us + mark * 1_000_000);
            let metadata = meta(&mut value);
            metadata.insert("deletionTimestamp".to_owned(), Value::from(at));
            metadata.insert("deletionGracePeriodSeconds".to_owned(), Value::from(mark));
            if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|_| !marked) {
                metadata.insert("generation".to_owned(), Value::from(generation + 1));
            }
        }
        if value == old.value {
            return Ok(Deleted::Marked(old));
        }
        Ok(Deleted::Marked(self.commit(kind, key, value, options.dry)))
    }

    /// The finalizers by which the owner collector knows what is to become of dependents
    /// (`deletionFinalizersForGarbageCollection`).
    fn set_finalizers(&mut self, kind: &Kind, value: &mut Value, options: &Options) {
        let mut finalizers: Vec<String> = strings(value, "/metadata/finalizers").into_iter().map(str::to_owned).collect();
        let had = |name: &str| finalizers.iter().any(|f| f == name);
        let (orphan, foreground) = match options.propagation.as_deref() {
            Some("Orphan") => (true, false),
            Some("Foreground") => (false, true),
            Some(_) => (false, false),
            None if had(ORPHAN) => (true, false),
            None if had(FOREGROUND) => (false, true),
            // batch/v1 keeps what its first clients relied on.
            None => (kind.kind == "Job", false),
        };
        if kind.kind == "Job" && options.propagation.is_none() {
            self.warnings.push(
                "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set \
                 propagationPolicy=Orphan to suppress this warning"
                    .to_owned(),
            );
        }
        finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
        finalizers.extend(orphan.then(|| ORPHAN.to_owned()));
        finalizers.extend(foreground.then(|| FOREGROUND.to_owned()));
        let metadata = meta(value);
        if finalizers.is_empty() {
            metadata.shift_remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), json!(finalizers));
        }
    }

    /// A namespace is marked and refuses new content; its controller empties it and then takes its finalizer away.
    fn delete_namespace(&mut self, kind: &Arc<Kind>, key: &Key, old: &Arc<Stored>, options: &Options) -> Deleted {
        let finalized = strings(&old.value, "/spec/finalizers").is_empty() && strings(&old.value, "/metadata/finalizers").is_empty();
        if finalized && !options.dry {
            return self.erase(kind, key, None).map_or_else(|| Deleted::Marked(Arc::clone(old)), Deleted::Gone);
        }
        if old.value.pointer("/metadata/deletionTimestamp").is_some() {
            return Deleted::Marked(Arc::clone(old));
        }
        let mut value = old.value.clone();
        let now = self.now();
        meta(&mut value).insert("deletionTimestamp".to_owned(), Value::from(now));
        as_map(&mut value).insert("status".to_owned(), json!({"phase": "Terminating"}));
        Deleted::Marked(self.commit(kind, key, value, options.dry))
    }
}

/// How long a pod may take to end (`podStrategy.CheckGracefulDelete`).
fn pod_grace(pod: &Value, options: &Options) -> i64 {
    let mut grace = options.grace.or_else(|| pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64)).unwrap_or(30);
    // Nobody runs it: there is nothing to wait for.
    if text(pod, "/spec/nodeName").is_empty() || matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") {
        grace = 0;
    }
    if grace < 0 { 1 } else { grace }
}
