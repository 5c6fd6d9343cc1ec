//! The files that a container sees of ConfigMaps and Secrets.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{control::look, core::text, model, program::Env};

/// All files of the ConfigMaps and Secrets that are mounted in a program's container, by path, as the objects are now. What is
/// not text, or not there, is left out.
pub(in crate::sandbox) fn files(env: &Env) -> BTreeMap<String, String> {
    let pod = env.pod();
    let mut files = BTreeMap::new();
    for mount in look::items(env.spec(), "/volumeMounts") {
        let volume = look::items(pod, "/spec/volumes").iter().find(|v| text(v, "/name") == text(mount, "/name"));
        let Some(volume) = volume else { continue };
        let (sub, at) = (text(mount, "/subPath"), text(mount, "/mountPath").trim_end_matches('/'));
        for (key, content) in shown(env, volume) {
            match sub {
                "" => files.insert(format!("{at}/{key}"), content),
                one if one == key => files.insert(at.to_owned(), content),
                _ => None,
            };
        }
    }
    files
}

/// The files of a volume.
fn shown(env: &Env, volume: &Value) -> Vec<(String, String)> {
    let (plural, name, items) = match (text(volume, "/configMap/name"), text(volume, "/secret/secretName")) {
        ("", "") => return Vec::new(),
        ("", secret) => ("secrets", secret, look::items(volume, "/secret/items")),
        (map, _) => ("configmaps", map, look::items(volume, "/configMap/items")),
    };
    let Some(server) = env.hosting().server.upgrade() else { return Vec::new() };
    let Some(object) = server.core.lock().peek("", plural, env.namespace(), name).cloned() else { return Vec::new() };
    let data = object.value.get("data").and_then(Value::as_object).into_iter().flatten();
    let decoded = data.filter_map(|(key, value)| {
        let value = value.as_str()?;
        Some((key.clone(), if plural == "secrets" { model::unbase64(value)? } else { value.to_owned() }))
    });
    if items.is_empty() {
        return decoded.collect();
    }
    // Some keys only, under other names.
    decoded
        .filter_map(|(key, value)| {
            let item = items.iter().find(|item| text(item, "/key") == key)?;
            Some((text(item, "/path").to_owned(), value))
        })
        .collect()
}
