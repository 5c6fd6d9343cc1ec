//! The events of a watch, one after the other.

use std::time::Duration;

use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;

use crate::answer::NAMESPACE;

/// How long the next event is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// A watch that is open.
pub(crate) struct Watch {
    path: String,
    namespace: String,
    body: Body,
    read: Vec<u8>,
}

impl Watch {
    pub(crate) fn new(path: String, namespace: String, body: Body) -> Self {
        Self { path, namespace, body, read: Vec::new() }
    }

    /// The next event, or none when the server has ended the watch.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line).replace(&self.namespace, NAMESPACE);
                return Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("watch {}: {error}: {text}", self.path)));
            }
            let frame = tokio::time::timeout(LIMIT, self.body.frame()).await;
            match frame.unwrap_or_else(|_| panic!("watch {}: nothing came", self.path)) {
                None => return None,
                Some(Ok(frame)) => self.read.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => panic!("watch {}: {error}", self.path),
            }
        }
    }

    /// The next event as `TYPE name`, with its object.
    pub(crate) async fn event(&mut self) -> (String, Value) {
        let event = self.next().await.unwrap_or_else(|| panic!("watch {} has ended", self.path));
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        (format!("{} {name}", event["type"].as_str().unwrap_or_default()).trim_end().to_owned(), event["object"].clone())
    }

    /// The next events must be these, each `TYPE name`.
    pub(crate) async fn expect(&mut self, wanted: &[&str]) {
        let mut found = Vec::new();
        for _ in wanted {
            found.push(self.event().await.0);
        }
        assert_eq!(found, wanted, "watch {}", self.path);
    }
}
