//! Create, update and patch (`k8s.io/apiserver/pkg/registry/generic/registry/store.go`, `pkg/registry/rest`).

use std::sync::Arc;

use serde_json::Value;

use super::{
    core::{State, key, meta, text},
    crd, decode, defaults,
    kinds::{Generation, Kind},
    managed::{self, Writer},
    patch::{self, Format},
    rbac,
    refusal::{Answer, FieldError, Refusal},
    request::{Ask, Place},
    store::{Key, Stored},
    strategy, validate,
};

/// What a write answers with.
#[derive(Debug, Clone)]
pub(super) enum Said {
    /// The object.
    Object(Arc<Stored>),
    /// A Status, a list, a Scale …
    Raw(Value),
}

/// A status code and what goes with it.
pub(super) type Done = (u16, Said);

const OTHER_NAMESPACE: &str = "the namespace of the provided object does not match the namespace sent on the request";

/// Who writes, by a request.
pub(super) fn writer(ask: &Ask, place: &Place, apply: bool) -> Writer {
    Writer { manager: ask.manager(), apply, subresource: place.subresource.clone() }
}

impl State {
    /// POST of an object.
    ///
    /// # Errors
    /// As a real API server's: 400, 403, 404 (the namespace), 409, 422.
    pub(super) fn create(&mut self, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<Done> {
        let dry = ask.dry_run()?;
        let value = decode::object(ask, kind, &mut self.warnings)?;
        crd::may_create(self, kind, text(&value, "/metadata/name"))?;
        let stored = self.create_value(ask, kind, &place.namespace, value, &writer(ask, place, false), dry)?;
        Ok((201, Said::Object(stored)))
    }

    /// Makes an object. Its managers are noted unless it brings some (from an apply).
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(super) fn create_value(
        &mut self,
        ask: &Ask,
        kind: &Arc<Kind>,
        namespace: &str,
        mut value: Value,
        writer: &Writer,
        dry: bool,
    ) -> Answer<Arc<Stored>> {
        let given = text(&value, "/metadata/namespace").to_owned();
        if kind.namespaced {
            if !given.is_empty() && given != namespace {
                return Err(Refusal::bad_request(OTHER_NAMESPACE));
            }
            meta(&mut value).insert("namespace".to_owned(), Value::from(namespace));
        }
        if !matches!(text(&value, "/metadata/resourceVersion"), "" | "0") {
            return Err(Refusal::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        defaults::apply(kind, &mut value);
        let metadata = meta(&mut value);
        if metadata.get("name").and_then(Value::as_str).unwrap_or_default().is_empty()
            && let Some(prefix) = metadata.get("generateName").and_then(Value::as_str).filter(|prefix| !prefix.is_empty())
        {
            let prefix: String = prefix.chars().take(58).collect();
            let mut name = format!("{prefix}{}", self.store.suffix());
            // A name that is taken: the server tries again (KEP-4420), a few times.
            for _ in 0..7 {
                if self.store.get(kind.shelf(), &Key(namespace_of(kind, namespace), name.clone())).is_none() {
                    break;
                }
                name = format!("{prefix}{}", self.store.suffix());
            }
            metadata.insert("name".to_owned(), Value::from(name));
        }
        let name = text(&value, "/metadata/name").to_owned();
        if !writer.apply {
            meta(&mut value).shift_remove("managedFields");
            let now = self.now();
            managed::updated(kind, &serde_json::json!({"metadata": {}}), &mut value, writer, &now);
        }
        let key = Key(namespace_of(kind, namespace), name.clone());
        self.admit(kind, &key, &mut value)?;
        let uid = self.store.uid();
        let now = self.now();
        let metadata = meta(&mut value);
        metadata.insert("uid".to_owned(), Value::from(uid));
        for stale in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"] {
            metadata.shift_remove(stale);
        }
        metadata.insert("creationTimestamp".to_owned(), Value::from(now));
        if kind.generation != Generation::None {
            metadata.insert("generation".to_owned(), Value::from(1));
        }
        strategy::before_create(self, kind, &mut value)?;
        let errors = validate::create(kind, &value);
        if !errors.is_empty() {
            return Err(Refusal::invalid(kind, &name, &errors));
        }
        self.admit_secure(kind, "", None, &value)?;
        if let Some(there) = self.store.get(kind.shelf(), &key) {
            let going = there.value.pointer("/metadata/deletionTimestamp").is_some();
            return Err(Refusal::already_exists(kind, &name, going));
        }
        self.admit_last(ask, kind, None, &value)?;
        Ok(self.commit(kind, &key, value, dry))
    }

    /// PUT of an object or its status.
    ///
    /// # Errors
    /// As a real API server's: 400, 404, 409, 422.
    pub(super) fn update(&mut self, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<Done> {
        let dry = ask.dry_run()?;
        let mut value = decode::object(ask, kind, &mut self.warnings)?;
        check_name(kind, place, &value)?;
        let writer = writer(ask, place, false);
        let Some(old) = self.store.get(kind.shelf(), &key(kind, place)).cloned() else {
            if !kind.create_on_update || !place.subresource.is_empty() {
                return Err(Refusal::not_found(kind, &place.name));
            }
            let uid = text(&value, "/metadata/uid");
            if !uid.is_empty() {
                return Err(Refusal::conflict(kind, &place.name, &wrong_uid(kind, place, uid, "")));
            }
            rbac::authorize_create(self, ask)?;
            meta(&mut value).shift_remove("resourceVersion");
            let stored = self.create_value(ask, kind, &place.namespace, value, &writer, dry)?;
            return Ok((201, Said::Object(stored)));
        };
        // Of a patch this is no precondition: there a uid is a field that cannot be changed.
        let (uid, old_uid) = (text(&value, "/metadata/uid"), text(&old.value, "/metadata/uid"));
        if !uid.is_empty() && uid != old_uid {
            return Err(Refusal::conflict(kind, &place.name, &wrong_uid(kind, place, uid, old_uid)));
        }
        defaults::apply(kind, &mut value);
        let stored = self.update_value(ask, kind, place, &old, value, &writer, dry)?;
        Ok((200, Said::Object(stored)))
    }

    /// PATCH of an object or its status.
    ///
    /// # Errors
    /// As a real API server's: 400, 404, 409, 415, 422.
    pub(super) fn patch(&mut self, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<Done> {
        let dry = ask.dry_run()?;
        let format = patch::format(ask, kind)?;
        let force = ask.option("force").is_some();
        let options = |error| Refusal::invalid_as("meta.k8s.io", "PatchOptions", "", &[error]);
        if format == Format::Apply && ask.option("fieldManager").is_none() {
            return Err(options(FieldError::required("fieldManager", "is required for apply patch")));
        }
        if format != Format::Apply && force {
            return Err(options(FieldError::forbidden("force", "may not be specified for non-apply patch")));
        }
        let body = patch::body(ask, format)?;
        let writer = writer(ask, place, format == Format::Apply);
        let old = self.store.get(kind.shelf(), &key(kind, place)).cloned();
        if format == Format::Apply {
            return self.apply(ask, kind, place, old, body, &writer, dry);
        }
        let Some(old) = old else { return Err(Refusal::not_found(kind, &place.name)) };
        let whole = decode::with_kind(kind, old.value.clone());
        let mut value = patch::patched(kind, &whole, &body, format)?;
        let (version, named) = (text(&value, "/apiVersion").to_owned(), text(&value, "/kind").to_owned());
        if version != kind.api_version() || named != kind.kind {
            return Err(Refusal::bad_request(format!(
                "the API version in the data ({version}, Kind={named}) does not match the expected API version ({}, Kind={})",
                kind.api_version(),
                kind.kind
            )));
        }
        value = decode::validated(ask, kind, value, &mut self.warnings).map_err(|misfit| {
            // Made again, because nobody else needs it.
            let text = patch::patched(kind, &whole, &body, format).map_or_else(|_| String::new(), |value| value.to_string());
            patch::unfit(&text, &misfit.strict())
        })?;
        check_name(kind, place, &value)?;
        defaults::apply(kind, &mut value);
        let stored = self.update_value(ask, kind, place, &old, value, &writer, dry)?;
        Ok((200, Said::Object(stored)))
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a patch, cut off for its length")]
    fn apply(
        &mut self,
        ask: &Ask,
        kind: &Arc<Kind>,
        place: &Place,
        old: Option<Arc<Stored>>,
        mut config: Value,
        writer: &Writer,
        dry: bool,
    ) -> Answer<Done> {
        let (version, named) = (text(&config, "/apiVersion").to_owned(), text(&config, "/kind").to_owned());
        if version.is_empty() || named.is_empty() {
            return Err(Refusal::bad_request("error decoding YAML: Object 'Kind' is missing"));
        }
        if version != kind.api_version() || named != kind.kind {
            return Err(Refusal::bad_request(format!(
                "the API version in the data ({version}, Kind={named}) does not match the expected API version ({}, Kind={})",
                kind.api_version(),
                kind.kind
            )));
        }
        if config.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
            return Err(Refusal::bad_request("metadata.managedFields must be nil"));
        }
        // Checks types, and drops what the kind does not know; defaults are nobody's.
        let mut unknown = Vec::new();
        let read = decode::typed(kind, config.clone(), Some(&mut unknown));
        let read = if unknown.is_empty() { read } else { Err(decode::Misfit::Unknown(unknown)) };
        read.map_err(|misfit| {
            let why = match misfit {
                decode::Misfit::Unknown(fields) => {
                    format!(".{}: field not declared in schema", fields.join(": field not declared in schema, ."))
                }
                decode::Misfit::Type(why) => why,
            };
            let what = format!("{}/{}; {version}, Kind={named}", place.namespace, place.name);
            Refusal::new(500, "", format!("failed to create typed patch object ({what}): {why}"))
        })?;
        if let Some(config) = config.as_object_mut() {
            config.shift_remove("apiVersion");
            config.shift_remove("kind");
        }
        let now = self.now();
        let none = serde_json::json!({"metadata": {}});
        let force = ask.flag("force");
        let live = old.as_ref().map_or(&none, |old| &old.value);
        let merged = managed::applied(kind, live, &config, writer, force, &now)?;
        // What is there has its name; only what is made has to bring one.
        check_name(kind, place, &merged)?;
        let merged = decode::with_kind(kind, merged);
        let mut value = decode::typed(kind, merged, None).map_err(|misfit| patch::unfit("", &misfit.strict()))?;
        match old {
            Some(old) => {
                defaults::apply(kind, &mut value);
                let stored = self.update_value(ask, kind, place, &old, value, writer, dry)?;
                Ok((200, Said::Object(stored)))
            }
            None if !place.subresource.is_empty() => Err(Refusal::not_found(kind, &place.name)),
            None => {
                rbac::authorize_create(self, ask)?;
                let uid = text(&value, "/metadata/uid");
                if !uid.is_empty() {
                    return Err(Refusal::conflict(
                        kind,
                        &place.name,
                        "uid mismatch: the provided object specified uid, and no existing object was found",
                    ));
                }
                meta(&mut value).shift_remove("resourceVersion");
                let stored = self.create_value(ask, kind, &place.namespace, value, writer, dry)?;
                Ok((201, Said::Object(stored)))
            }
        }
    }

    /// Replaces an object by a new state of it.
    ///
    /// # Errors
    /// 409: it is not the version that was changed. 422: the new state breaks rules.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request and the object it is about")]
    pub(super) fn update_value(
        &mut self,
        ask: &Ask,
        kind: &Arc<Kind>,
        place: &Place,
        old: &Arc<Stored>,
        mut value: Value,
        writer: &Writer,
        dry: bool,
    ) -> Answer<Arc<Stored>> {
        let name = place.name.as_str();
        match text(&value, "/metadata/resourceVersion") {
            "" | "0" if kind.unconditional => {}
            "" | "0" => {
                // Here the server names the resource and not the kind.
                let error = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
                return Err(Refusal::invalid_as(&kind.group, &kind.plural, name, &[error]));
            }
            version if version == old.version.to_string() => {}
            version if version.parse::<u64>().is_ok() => return Err(Refusal::stale(kind, name)),
            version => {
                let error =
                    FieldError::invalid("resourceVersion", version, format!("strconv.ParseUint: parsing \"{version}\": invalid syntax"));
                return Err(Refusal::invalid(kind, name, &[error]));
            }
        }
        strategy::keep_metadata(&old.value, &mut value);
        strategy::before_update(kind, &place.subresource, &old.value, &mut value);
        // Apply has noted its managers already.
        if !writer.apply {
            let now = self.now();
            managed::updated(kind, &old.value, &mut value, writer, &now);
        }
        if strategy::same_but_times(&old.value, &value) {
            return Ok(Arc::clone(old));
        }
        if place.subresource != "status" {
            strategy::bump_generation(kind, &old.value, &mut value);
        }
        let errors = validate::update(kind, &place.subresource, &old.value, &value);
        if !errors.is_empty() {
            return Err(Refusal::invalid(kind, name, &errors));
        }
        self.admit_secure(kind, &place.subresource, Some(&old.value), &value)?;
        self.admit_last(ask, kind, Some(&old.value), &value)?;
        let key = key(kind, place);
        if strategy::ends_with_update(kind, &old.value, &value) {
            if dry {
                return Ok(Stored::new(value, old.version));
            }
            return Ok(self.erase(kind, &key, Some(value)).unwrap_or_else(|| Arc::clone(old)));
        }
        Ok(self.commit(kind, &key, value, dry))
    }

    /// Writes, unless it is a trial.
    pub(super) fn commit(&mut self, kind: &Kind, key: &Key, value: Value, dry: bool) -> Arc<Stored> {
        if dry {
            let version = self.store.get(kind.shelf(), key).map_or(0, |stored| stored.version);
            return Stored::new(value, version);
        }
        let stored = self.store.put(kind.shelf(), key, value);
        if kind.kind == "CustomResourceDefinition" {
            return crd::established(self, &stored);
        }
        stored
    }

    /// Takes an object away for good.
    pub(super) fn erase(&mut self, kind: &Kind, key: &Key, last: Option<Value>) -> Option<Arc<Stored>> {
        let gone = self.store.delete(kind.shelf(), key, last)?;
        if kind.kind == "CustomResourceDefinition" {
            crd::gone(self, &gone.value);
        } else if kind.custom() {
            crd::cleaned(self, &kind.group, &kind.plural);
        }
        Some(gone)
    }
}

/// An object that is to be written has to say the name of the address, and no other namespace.
fn check_name(kind: &Kind, place: &Place, value: &Value) -> Answer<()> {
    let (name, namespace) = (text(value, "/metadata/name"), text(value, "/metadata/namespace"));
    if kind.namespaced && !namespace.is_empty() && namespace != place.namespace {
        return Err(Refusal::bad_request(OTHER_NAMESPACE));
    }
    if name.is_empty() {
        let why = format!("the name of the object ({} based on URL) was undeterminable: name must be provided", place.name);
        return Err(Refusal::bad_request(why));
    }
    if name != place.name {
        let why = format!("the name of the object ({name}) does not match the name on the URL ({})", place.name);
        return Err(Refusal::bad_request(why));
    }
    Ok(())
}

fn namespace_of(kind: &Kind, namespace: &str) -> String {
    if kind.namespaced { namespace.to_owned() } else { String::new() }
}

/// What etcd3's precondition check says.
fn wrong_uid(kind: &Kind, place: &Place, given: &str, found: &str) -> String {
    let group = if kind.custom() { kind.group.as_str() } else { "" };
    let path: Vec<&str> = [group, &kind.plural, &place.namespace, &place.name].into_iter().filter(|p| !p.is_empty()).collect();
    format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: \
         UID in precondition: {given}, UID in object meta: {found}",
        path.join("/")
    )
}
