//! `pgbackrest`: `info`, `restore` and `version`, as runbooks and firedrill's backup probe use them.

use std::{collections::BTreeMap, io, time::Duration};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    super::super::{
        program::Env,
        shell::{Files, Ran},
    },
    DATA,
    data::{Data, Recovery},
    member::{files, put_files},
    repository::{self, FromHost, LIMIT, ToHost},
    server::lock,
    tools::{Place, repositories},
};

/// The longest that a repository may stay silent while a restore is under way.
const RESTORE_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    command: String,
    options: BTreeMap<String, String>,
}

/// Options that change nothing here, or are looked at by name.
const KNOWN: [&str; 15] = [
    "stanza",
    "repo",
    "config",
    "output",
    "archive-mode",
    "type",
    "target",
    "set",
    "delta",
    "log-level-console",
    "log-level-file",
    "pg1-path",
    "process-max",
    "target-action",
    "force",
];

/// Reads the arguments. None: some that are not known.
fn read(argv: &[String]) -> Option<Asked> {
    let mut asked = Asked::default();
    for word in argv.iter().skip(1) {
        match word.strip_prefix("--") {
            Some(option) => {
                let (name, value) = option.split_once('=').unwrap_or((option, ""));
                if !KNOWN.contains(&name) {
                    return None;
                }
                asked.options.insert(name.to_owned(), value.to_owned());
            }
            None if asked.command.is_empty() => asked.command.clone_from(word),
            None => return None,
        }
    }
    (!asked.command.is_empty()).then_some(asked)
}

/// A configuration file's settings; sections are left out.
fn settings(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split('#').next()?.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect()
}

/// How a command fails: its exit code and words.
struct Failed(i32, String);

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self(49, format!("HostConnectError: {error}"))
    }
}

/// Runs it. None: not rehearsable.
pub(super) async fn run(env: &Env, place: &Place, ran: Ran<'_>) -> Option<i32> {
    let asked = read(ran.argv)?;
    let option = |name: &str| asked.options.get(name).map(String::as_str);
    if asked.command == "version" {
        ran.stdout.extend_from_slice(b"pgBackRest 2.45\n");
        return Some(0);
    }
    if option("stanza").is_some_and(|stanza| stanza != "orders") {
        ran.stdout.extend_from_slice(b"[]");
        return Some(0);
    }
    let done = match config(env, place, &asked, ran.files) {
        Ok(hosts) => match asked.command.as_str() {
            "info" => info(env, place, &asked, &hosts).await,
            "restore" if matches!(place, Place::Tools(_)) => restore(env, &asked, &hosts).await,
            _ => return None,
        },
        Err(failed) => Err(failed),
    };
    match done {
        Ok(text) => {
            ran.stdout.extend_from_slice(text.as_bytes());
            Some(0)
        }
        Err(Failed(code, why)) => {
            ran.stderr.extend_from_slice(format!("ERROR: [{code:03}]: {why}\n").as_bytes());
            Some(code)
        }
    }
}

/// The repositories that are configured: by a file if one is named, else as the container has them.
fn config(env: &Env, place: &Place, asked: &Asked, files: &Files) -> Result<BTreeMap<u32, String>, Failed> {
    let mut hosts = match asked.options.get("config") {
        Some(path) => {
            let text = files.read(path).ok_or_else(|| Failed(55, format!("unable to open missing file '{path}' for read")))?;
            let settings = settings(&String::from_utf8_lossy(&text));
            for (key, file) in
                settings.iter().filter(|(key, _)| ["-cert-file", "-ca-file", "-key-file"].iter().any(|end| key.ends_with(end)))
            {
                if !files.exists(file) {
                    return Err(Failed(29, format!("unable to load {key} '{file}': No such file or directory")));
                }
            }
            let host = |(key, host): (&String, &String)| {
                let number = key.strip_prefix("repo")?.strip_suffix("-host")?.parse().ok()?;
                Some((number, host.clone()))
            };
            settings.iter().filter_map(host).collect()
        }
        None if matches!(place, Place::Repository) => BTreeMap::from([(repository::number(env), String::new())]),
        None => repositories(env),
    };
    if let Some(only) = asked.options.get("repo") {
        let number: u32 = only.parse().map_err(|_| Failed(32, format!("'{only}' is not valid for 'repo' option")))?;
        hosts.retain(|n, _| *n == number);
        if hosts.is_empty() {
            return Err(Failed(37, format!("requires option: repo{number}-host")));
        }
    }
    Ok(hosts)
}

/// What one repository says; what is wrong with it if it says nothing.
async fn ask(env: &Env, number: u32, host: &str) -> Value {
    if host.is_empty() {
        return repository::info(&lock(&repository::on_volume(env)), number, repository::key(env, number).as_deref());
    }
    let asked = async {
        let mut to = repository::connect(env.dialer(), host).await?;
        to.send(&ToHost::Info).await?;
        match to.next_within(LIMIT).await? {
            FromHost::Info(info) => Ok(info),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    };
    match asked.await {
        Ok(info) => info,
        Err(why) => {
            let status = json!({"code": 99, "message": format!("HostConnectError: unable to connect to '{host}:8432': {why}")});
            json!([{"name": "orders", "status": status, "backup": [], "db": [], "repo": [{"key": number, "cipher": "none", "status": status}]}])
        }
    }
}

/// `pgbackrest info --output=json`, as this container has it.
pub(super) async fn info_json(env: &Env, place: &Place, hosts: &BTreeMap<u32, String>) -> Value {
    let _ = place;
    let mut whole: Option<Value> = None;
    for (number, host) in hosts {
        let mut one = ask(env, *number, host).await;
        let Some(stanza) = one.get_mut(0).map(Value::take) else { continue };
        match whole.as_mut() {
            None => whole = Some(stanza),
            Some(all) => {
                for list in ["backup", "repo", "db"] {
                    let more = stanza[list].as_array().cloned().unwrap_or_default();
                    if let Some(own) = all[list].as_array_mut() {
                        own.extend(more);
                    }
                }
                if all["status"]["code"] != stanza["status"]["code"] {
                    all["status"] = json!({"code": 4, "message": "different across repos"});
                }
            }
        }
    }
    json!(whole.into_iter().collect::<Vec<_>>())
}

async fn info(env: &Env, place: &Place, asked: &Asked, hosts: &BTreeMap<u32, String>) -> Result<String, Failed> {
    let all = info_json(env, place, hosts).await;
    if asked.options.get("output").is_some_and(|output| output == "json") {
        return Ok(all.to_string());
    }
    let mut text = String::new();
    for stanza in all.as_array().into_iter().flatten() {
        let (name, status) = (stanza["name"].as_str().unwrap_or_default(), stanza["status"]["message"].as_str().unwrap_or_default());
        text.push_str(&format!("stanza: {name}\n    status: {status}\n    cipher: {}\n", stanza["cipher"].as_str().unwrap_or("none")));
        for backup in stanza["backup"].as_array().into_iter().flatten() {
            let at = |which: &str| crate::clock::utc(backup["timestamp"][which].as_i64().unwrap_or(0) * 1_000_000);
            text.push_str(&format!(
                "\n        {} backup: {}\n            timestamp start/stop: {} / {}\n            database size: {}B, repo: {}\n",
                backup["type"].as_str().unwrap_or_default(),
                backup["label"].as_str().unwrap_or_default(),
                at("start"),
                at("stop"),
                backup["info"]["size"],
                backup["database"]["repo-key"],
            ));
        }
    }
    Ok(text)
}

/// The time of `--target`, with or without a zone; UTC where there is none.
fn target(text: &str) -> Option<i64> {
    let text = text.trim().replacen(' ', "T", 1);
    let zoned = if text.ends_with("+00") { format!("{text}:00") } else { text.clone() };
    let stamp: Result<jiff::Timestamp, _> = zoned.parse();
    let stamp = stamp.ok().or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    });
    stamp.map(jiff::Timestamp::as_microsecond)
}

async fn restore(env: &Env, asked: &Asked, hosts: &BTreeMap<u32, String>) -> Result<String, Failed> {
    let option = |name: &str| asked.options.get(name).map(String::as_str);
    let until_us = match (option("type"), option("target")) {
        (None | Some("default"), None) => None,
        (Some("time"), Some(text)) => Some(target(text).ok_or_else(|| Failed(32, format!("'{text}' is not valid for 'target' option")))?),
        (Some("immediate" | "none"), None) => Some(i64::MIN),
        (kind, _) => return Err(Failed(32, format!("not rehearsable: a restore of type {}", kind.unwrap_or("default")))),
    };
    let Some((number, host)) = hosts.first_key_value() else { return Err(Failed(37, "requires option: repo1-host".to_owned())) };
    let mut to = repository::connect(env.dialer(), host).await?;
    let before = until_us.filter(|until| *until != i64::MIN);
    to.send(&ToHost::Fetch { set: option("set").map(str::to_owned), until_us: before }).await?;
    let (label, parcel, takes_us, overwrites) = match to.next_within(RESTORE_LIMIT).await? {
        FromHost::Backup { label, parcel, takes_us, overwrites } => (label, parcel, takes_us, overwrites),
        FromHost::Refused(why) => return Err(Failed(75, why)),
        other => return Err(Failed(25, format!("{other:?}"))),
    };
    if files(env, DATA).is_some() && !(overwrites || asked.options.contains_key("delta")) {
        let why = "unable to restore to path '/data/pg' because it contains files\nHINT: try using --delta if this is what you intended.";
        return Err(Failed(40, why.to_owned()));
    }
    if env.disk_full() {
        return Err(Failed(104, "unable to write '/data/pg': No space left on device".to_owned()));
    }
    sleep(Duration::from_micros(takes_us)).await;
    let recovery = Recovery { host: host.clone(), repository: *number, label: label.clone(), until_us };
    put_files(env, DATA, Data::from_image(parcel.unpack(), false, Some(recovery)));
    Ok(format!("P00   INFO: repo{number}: restore backup set {label}\nP00   INFO: restore command end: completed successfully\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_settings_and_times_are_read() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let asked = read(&words("pgbackrest --stanza=orders --repo=1 info --output=json")).unwrap();
        assert_eq!((asked.command.as_str(), asked.options["repo"].as_str()), ("info", "1"));
        assert_eq!(read(&words("pgbackrest --no-such=1 info")), None);
        assert_eq!(read(&words("pgbackrest info restore")), None);
        let settings = settings("[global]\nrepo1-host=backup-repo1.shop # its host\n[orders]\npg1-path = /data/pg\n");
        assert_eq!(settings["repo1-host"], "backup-repo1.shop");
        assert_eq!(settings["pg1-path"], "/data/pg");
        for text in ["2026-01-01 00:00:00+00", "2026-01-01T00:00:00Z", "2026-01-01 00:00:00", "2026-01-01 01:00:00+01:00"] {
            assert_eq!(target(text), Some(1_767_225_600_000_000), "{text}");
        }
        assert_eq!(target("yesterday"), None);
    }
}
