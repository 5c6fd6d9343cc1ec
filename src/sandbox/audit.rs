//! The audit log: every request, who made it, when, and what became of it. Checkers of simulation tests read it.

use bytes::Bytes;
use serde_json::Value;

/// A request to the sandbox's API server, with the words of Kubernetes' audit log (`audit.k8s.io/v1`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When it arrived: the sandbox's wall clock, in microseconds since the Unix epoch.
    pub at_us: i64,
    /// Who asked.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// The path, with what follows `?`.
    pub uri: String,
    /// API group; empty for the core group and for what is no resource.
    pub group: String,
    /// API version.
    pub version: String,
    /// The resource, such as `pods`; empty for what is no resource, such as `/version`.
    pub resource: String,
    /// The subresource, such as `exec`; may be empty.
    pub subresource: String,
    /// Namespace; may be empty.
    pub namespace: String,
    /// The object's name; empty in lists and creates.
    pub name: String,
    /// The content type of a patch, such as `application/merge-patch+json`; empty otherwise.
    pub patch_type: String,
    /// It was a trial (`dryRun=All`) and changed nothing.
    pub dry_run: bool,
    /// The HTTP status; 0 while it is not answered.
    pub code: u16,
    /// The weather had it: `error`, `lost`, `slow`; empty as a rule. A `lost` request was carried out.
    pub trouble: &'static str,
    /// What was sent.
    pub request: Bytes,
}

impl AuditEntry {
    /// The object, patch or options that were sent, if it was JSON.
    pub fn request_object(&self) -> Option<Value> {
        serde_json::from_slice(&self.request).ok()
    }

    /// Whether it was one that changes something: any verb but reading ones.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// How many requests are kept.
const LIMIT: usize = 1_000_000;

/// The log.
#[derive(Debug, Default)]
pub(super) struct Audit {
    entries: Vec<AuditEntry>,
    /// How many were not kept.
    dropped: u64,
}

impl Audit {
    /// Notes a request; the number is for [`Self::answered`].
    pub(super) fn arrived(&mut self, entry: AuditEntry) -> usize {
        if self.entries.len() < LIMIT {
            self.entries.push(entry);
        } else {
            self.dropped += 1;
        }
        self.entries.len() - usize::from(self.dropped == 0)
    }

    /// Notes how a request was answered.
    pub(super) fn answered(&mut self, number: usize, code: u16) {
        if let Some(entry) = self.entries.get_mut(number) {
            entry.code = code;
        }
    }

    pub(super) fn entries(&self) -> &[AuditEntry] {
        &self.entries
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
