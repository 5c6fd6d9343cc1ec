//! `report.json` and its schema.

use super::{Report, collect};
use crate::journal::Record;

/// `report.json` of these records. None when they do not begin with a plan.
pub fn json(records: &[Record]) -> Option<String> {
    collect(records).map(|report| render(&report))
}

/// The report as JSON, with a newline at its end.
pub(super) fn render(report: &Report) -> String {
    // Only maps with keys that are no strings cannot be written, and a report has none.
    serde_json::to_string_pretty(report).map(|text| text + "\n").unwrap_or_default()
}

/// The JSON Schema of `report.json`.
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(Report)
}
