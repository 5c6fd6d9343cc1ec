//! What the API server answers when it does not do what was asked: `metav1.Status` with Kubernetes' codes, reasons,
//! messages and causes (`k8s.io/apimachinery/pkg/api/errors`, `pkg/util/validation/field`).

use serde_json::{Map, Value, json};

use super::kinds::Kind;

/// An answer that is an error.
#[derive(Debug, Clone)]
pub(super) struct Refusal(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: u16,
    reason: &'static str,
    message: String,
    details: Map<String, Value>,
    /// The token with which an expired list can be continued all the same.
    next: Option<String>,
    /// Answered as text, as the API server does where no handler is found.
    plain: bool,
}

/// A result of the API server.
pub(super) type Answer<T> = Result<T, Refusal>;

impl Refusal {
    /// An error with a code, a reason (empty: `Unknown`) and a message.
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { code, reason, message: message.into(), details: Map::new(), next: None, plain: false }))
    }

    /// An address that nothing serves.
    pub(super) fn no_such_page() -> Self {
        let mut refusal = Self::new(404, "", "404 page not found\n");
        refusal.0.plain = true;
        refusal
    }

    /// An address where there could be a resource, and none is.
    pub(super) fn no_such_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", kind.group_resource())).about(kind, name)
    }

    /// `going`: what is there is being deleted.
    pub(super) fn already_exists(kind: &Kind, name: &str, going: bool) -> Self {
        let going = if going { "object is being deleted: " } else { "" };
        Self::new(409, "AlreadyExists", format!("{going}{} \"{name}\" already exists", kind.group_resource())).about(kind, name)
    }

    pub(super) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.group_resource());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// The write was based on a version that is not the newest.
    pub(super) fn stale(kind: &Kind, name: &str) -> Self {
        Self::conflict(kind, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    pub(super) fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message =
            if name.is_empty() { format!("{what} is forbidden: {why}") } else { format!("{what} \"{name}\" is forbidden: {why}") };
        let mut refusal = Self::new(403, "Forbidden", message);
        refusal.0.details = details(group, resource, name);
        refusal
    }

    /// The object breaks rules: `Pod "x" is invalid: …`, a cause a rule.
    pub(super) fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_as(&kind.group, &kind.kind, name, errors)
    }

    /// As [`Self::invalid`], for a kind that is not in the table (such as `Scale`).
    pub(super) fn invalid_as(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut said: Vec<String> = Vec::new();
        for error in errors {
            let text = format!("{}: {}", error.field, error.body());
            if !said.contains(&text) {
                said.push(text);
            }
        }
        let why = if said.len() == 1 { said.concat() } else { format!("[{}]", said.join(", ")) };
        let mut refusal = Self::new(422, "Invalid", format!("{} \"{name}\" is invalid: {why}", qualified(group, kind)));
        refusal.0.details = details(group, kind, name);
        let causes = errors.iter().map(|e| json!({"reason": e.kind.cause(), "message": e.body(), "field": e.field})).collect();
        refusal.0.details.insert("causes".to_owned(), Value::Array(causes));
        refusal
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource").with_details(Map::new())
    }

    /// `410 Gone` with the reason `Expired`.
    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(super) fn internal(message: impl std::fmt::Display) -> Self {
        let text = message.to_string();
        let causes = json!([{"message": text}]);
        let mut refusal = Self::new(500, "InternalError", format!("Internal error occurred: {text}"));
        refusal.0.details.insert("causes".to_owned(), causes);
        refusal
    }

    /// Names the object that the error is about.
    pub(super) fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.0.details = details(&kind.group, &kind.plural, name);
        self
    }

    pub(super) fn with_details(mut self, details: Map<String, Value>) -> Self {
        self.0.details = details;
        self
    }

    /// With a token for `metadata.continue`.
    pub(super) fn with_continue(mut self, token: String) -> Self {
        self.0.next = Some(token);
        self
    }

    /// Adds a cause.
    pub(super) fn cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let mut cause = json!({"reason": reason, "message": message});
        if !field.is_empty()
            && let Some(cause) = cause.as_object_mut()
        {
            cause.insert("field".to_owned(), Value::from(field));
        }
        match self.0.details.entry("causes") {
            serde_json::map::Entry::Occupied(mut entry) => {
                if let Value::Array(causes) = entry.get_mut() {
                    causes.push(cause);
                }
            }
            serde_json::map::Entry::Vacant(entry) => {
                entry.insert(Value::Array(vec![cause]));
            }
        }
        self
    }

    /// When to try again.
    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.0.details.insert("retryAfterSeconds".to_owned(), Value::from(seconds));
        self
    }

    /// The HTTP status.
    pub(super) fn code(&self) -> u16 {
        self.0.code
    }

    /// In seconds, for the header `Retry-After`.
    pub(super) fn retry_after_secs(&self) -> Option<u64> {
        self.0.details.get("retryAfterSeconds").and_then(Value::as_u64)
    }

    /// The text, if it is not answered as a `Status`.
    pub(super) fn plain(&self) -> Option<&str> {
        self.0.plain.then_some(self.0.message.as_str())
    }

    /// The `Status`.
    pub(super) fn status(&self) -> Value {
        let inner = &self.0;
        let metadata = inner.next.as_ref().map_or_else(|| json!({}), |token| json!({"continue": token}));
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure", "message": inner.message});
        if let Some(status) = status.as_object_mut() {
            if !inner.reason.is_empty() {
                status.insert("reason".to_owned(), Value::from(inner.reason));
            }
            if !inner.details.is_empty() {
                status.insert("details".to_owned(), Value::Object(inner.details.clone()));
            }
            status.insert("code".to_owned(), Value::from(inner.code));
        }
        status
    }
}

/// `deployments.apps`, or `pods` in the core group.
pub(super) fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// `metav1.StatusDetails` of an object.
pub(super) fn details(group: &str, kind: &str, name: &str) -> Map<String, Value> {
    [("name", name), ("group", group), ("kind", kind)]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect()
}

/// `metav1.Status` for something that was done. `details` as [`details`] makes them.
pub(super) fn success(details: Option<Map<String, Value>>, code: Option<u16>) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let Some(status) = status.as_object_mut() {
        if let Some(details) = details {
            status.insert("details".to_owned(), Value::Object(details));
        }
        if let Some(code) = code {
            status.insert("code".to_owned(), Value::from(code));
        }
    }
    status
}

/// How a field is wrong (`field.ErrorType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is missing.
    Required,
    /// It is malformed or out of bounds.
    Invalid,
    /// Not one of the values there are.
    NotSupported,
    /// Not allowed here.
    Forbidden,
    /// There twice.
    Duplicate,
    /// Too many bytes.
    TooLong,
    /// It refers to what is not there.
    NotFound,
    /// Not of the type that the schema says.
    TypeInvalid,
}

impl Wrong {
    const fn cause(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TooLong => "FieldValueTooLong",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::TooLong => "Too long",
            Self::NotFound => "Not found",
        }
    }
}

/// A field that breaks a rule (`field.Error`).
#[derive(Debug, Clone)]
pub(super) struct FieldError {
    kind: Wrong,
    field: String,
    value: Value,
    detail: String,
}

impl FieldError {
    pub(super) fn new(kind: Wrong, field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind, field: field.into(), value: value.into(), detail: detail.into() }
    }

    pub(super) fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(Wrong::Required, field, Value::Null, detail)
    }

    pub(super) fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(Wrong::Invalid, field, value, detail)
    }

    pub(super) fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Wrong::Forbidden, field, Value::Null, detail)
    }

    pub(super) fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(Wrong::Duplicate, field, value, "")
    }

    pub(super) fn not_supported(field: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let known: Vec<String> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        Self::new(Wrong::NotSupported, field, value, format!("supported values: {}", known.join(", ")))
    }

    /// The message without the field's name (`field.Error.ErrorBody`).
    fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if !matches!(self.kind, Wrong::Required | Wrong::Forbidden | Wrong::TooLong) {
            text = format!("{text}: {}", self.value);
        }
        if self.detail.is_empty() { text } else { format!("{text}: {}", self.detail) }
    }
}
