//! Texts with a grammar of their own: CEL, addresses, names.

use crate::scenario::diag::clip;

/// The longest CEL expression that is read.
const MAX_CEL: usize = 2000;
/// The deepest nesting of brackets in one; cel's own limit is more than a small stack holds.
const MAX_CEL_DEPTH: usize = 24;

/// Whether a text is a CEL expression over `object`.
pub(crate) fn cel(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("the CEL expression is empty".to_owned());
    }
    if text.len() > MAX_CEL {
        return Err(format!("the CEL expression is longer than {MAX_CEL} bytes"));
    }
    let mut depth = 0usize;
    let mut unary = 0usize;
    for c in text.chars() {
        match c {
            '(' | '[' | '{' | '?' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        unary = if matches!(c, '!' | '-') || c.is_whitespace() && unary > 0 { unary + 1 } else { 0 };
        if depth > MAX_CEL_DEPTH || unary > MAX_CEL_DEPTH {
            return Err(format!("the CEL expression is nested more than {MAX_CEL_DEPTH} levels deep"));
        }
    }
    // A parser of someone else's must not end the program, whatever it is given.
    let parsed = std::panic::catch_unwind(|| cel::Program::compile(text).map(|program| program.references().has_variable("object")));
    match parsed {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(format!("`{}` says nothing about `object`", clip(text))),
        Ok(Err(errors)) => {
            let first = errors.errors.first().map_or_else(String::new, |e| format!(": {}", clip(&e.msg)));
            Err(format!("`{}` is not a CEL expression{first}", clip(text)))
        }
        Err(_) => Err(format!("`{}` is not a CEL expression", clip(text))),
    }
}

/// Whether a text is an `http` or `https` address; gives what a person should look at besides.
pub(crate) fn url(text: &str) -> Result<Option<String>, String> {
    let wrong = |why: &str| Err(format!("`{}` is not an address: {why}", clip(text)));
    if !text.contains("://") {
        return wrong("it must start with `http://` or `https://`");
    }
    let Ok(uri) = text.parse::<hyper::Uri>() else { return wrong("it cannot be read as a URL") };
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(other) => return wrong(&format!("`{}` is not `http` or `https`", clip(other))),
        None => return wrong("it must start with `http://` or `https://`"),
    }
    let Some(authority) = uri.authority() else { return wrong("the host is missing") };
    if authority.host().is_empty() {
        return wrong("the host is missing");
    }
    let port = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
    if let Some((_, port)) = port.rsplit_once(':').filter(|(host, _)| !host.starts_with('[') || host.ends_with(']'))
        && !port.parse::<u16>().is_ok_and(|p| p > 0)
    {
        return wrong(&format!("`{}` is not a port", clip(port)));
    }
    Ok(authority.as_str().contains('@').then(|| "a password in an address becomes part of the evidence".to_owned()))
}

/// Whether a text is `host:port`.
pub(crate) fn host_port(text: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("`{}` is not `host:port`: {why}", clip(text)));
    let Some((host, port)) = text.rsplit_once(':') else { return wrong("the port is missing") };
    if !port.parse::<u16>().is_ok_and(|p| p > 0) {
        return wrong(&format!("`{}` is not a port", clip(port)));
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let fine = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host_name(host),
    };
    if fine { Ok(()) } else { wrong("the host cannot be one") }
}

/// Whether a file's name leads to the scenario's own folder or below it; links are not followed for that.
pub(crate) fn is_beside(file: &str) -> bool {
    let path = std::path::Path::new(file);
    let parts = || path.components();
    !file.is_empty() && !path.is_absolute() && !parts().any(|part| matches!(part, std::path::Component::ParentDir))
}

/// A DNS name or an IPv4 address.
pub(crate) fn host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// A DNS label as Kubernetes wants it for names: lower case letters, digits, dashes.
pub(crate) fn dns_label(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A Kubernetes object's name: DNS labels joined by dots.
pub(crate) fn object_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|label| dns_label(label, 253))
}

/// A name of the scenario's own (of a target, a probe): it becomes part of file names.
pub(crate) fn own_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}
