//! What several commands share: `--set NAME=VALUE`, and whether to use colours.

/// Reads `NAME=VALUE`.
pub(crate) fn parse(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE, for example rto=30s".to_owned()),
    }
}

/// Whether colours are wanted: see <https://no-color.org>.
pub(crate) fn color() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
