//! An answer of an API server, and what is asserted of it.

use std::{cell::RefCell, panic::Location};

use serde_json::{Value, json};

/// What stands for the case's namespace in requests and answers, so that both read the same wherever they are run. No name in
/// Kubernetes can hold these signs.
pub(crate) const NAMESPACE: &str = "@ns@";

thread_local! {
    /// Refusals that were not as they should be. The case goes on after them, so that all are told at once; it fails in the end.
    static WRONG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What was wrong since the last call.
pub(crate) fn wrong() -> Vec<String> {
    WRONG.take()
}

#[track_caller]
fn expect(asked: &str, what: &str, found: &Value, wanted: &Value) {
    if found != wanted {
        let at = Location::caller();
        let told = format!("{}:{}: {asked}: {what}\n   is {found}\n  not {wanted}", at.file(), at.line());
        WRONG.with_borrow_mut(|wrong| wrong.push(told));
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The request, for messages.
    pub(crate) asked: String,
    /// The HTTP status.
    pub(crate) code: u16,
    /// The body; text that is no JSON is a string.
    pub(crate) body: Value,
    /// What `Warning` headers say.
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    /// The body of an answer that must have this status.
    #[track_caller]
    pub(crate) fn is(self, code: u16) -> Value {
        assert!(self.code == code, "{} was answered with {} instead of {code}: {}", self.asked, self.code, self.body);
        self.body
    }

    /// A refusal: its status, reason and message. The rest of it is in the result.
    #[track_caller]
    pub(crate) fn refused(self, code: u16, reason: &str, message: &str) -> Value {
        let (asked, body) = (self.asked, self.body);
        expect(&asked, "code", &json!([self.code, body["code"], body["kind"], body["status"]]), &json!([code, code, "Status", "Failure"]));
        expect(&asked, "reason", &body["reason"], &json!(reason));
        expect(&asked, "message", &body["message"], &json!(message));
        body
    }

    /// A refusal as invalid (422): the object's kind as in messages, its name, and each cause as `reason field: message`.
    #[track_caller]
    pub(crate) fn invalid(self, kind: &str, name: &str, causes: &[&str]) {
        let (asked, body) = (self.asked, self.body);
        expect(&asked, "code and reason", &json!([self.code, body["reason"]]), &json!([422, "Invalid"]));
        expect(&asked, "causes", &json!(causes_of(&body)), &json!(causes));
        // Field and message of each cause; several are in brackets.
        let each: Vec<String> = causes.iter().map(|cause| cause.split_once(' ').map_or(*cause, |(_, rest)| rest).to_owned()).collect();
        let all = if each.len() == 1 { each.concat() } else { format!("[{}]", each.join(", ")) };
        expect(&asked, "message", &body["message"], &json!(format!("{kind} \"{name}\" is invalid: {all}")));
        let (kind, group) = kind.split_once('.').map_or((kind, ""), |(kind, group)| (kind, group));
        let text = |key: &str| body["details"][key].as_str().unwrap_or_default();
        expect(&asked, "details", &json!([text("kind"), text("group"), text("name")]), &json!([kind, group, name]));
    }
}

/// The causes of a refusal: `reason field: message`. One that is told twice counts once: the server makes some checks twice.
pub(crate) fn causes_of(status: &Value) -> Vec<String> {
    let text = |cause: &Value, key: &str| cause[key].as_str().unwrap_or_default().to_owned();
    let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
    let mut told: Vec<String> = Vec::new();
    for cause in &causes {
        let cause = format!("{} {}: {}", text(cause, "reason"), text(cause, "field"), text(cause, "message"));
        if !told.contains(&cause) {
            told.push(cause);
        }
    }
    told
}

/// An object without what is another each time: uid, version, times, and the accounts of who wrote what.
pub(crate) fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for key in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            metadata.remove(key);
        }
    }
    object
}

/// The names of a list's items, in their order.
pub(crate) fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// An object's resourceVersion.
pub(crate) fn version(object: &Value) -> String {
    let found = object["metadata"]["resourceVersion"].as_str();
    found.unwrap_or_else(|| panic!("no resourceVersion: {object}")).to_owned()
}
