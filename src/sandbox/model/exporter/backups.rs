//! pgBackRest's own account of its backups (`pgbackrest info --output=json`), as metrics.

use std::{fmt::Write as _, time::Duration};

use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{super::super::program::Env, Info};

/// How long pgBackRest may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A stanza of `pgbackrest info`.
#[derive(Debug, Deserialize)]
struct Stanza {
    name: String,
    #[serde(default)]
    backup: Vec<Backup>,
    #[serde(default)]
    repo: Vec<Repo>,
}

#[derive(Debug, Deserialize)]
struct Repo {
    key: u32,
    status: Status,
}

#[derive(Debug, Deserialize)]
struct Status {
    code: i64,
}

#[derive(Debug, Deserialize)]
struct Backup {
    #[serde(rename = "type")]
    kind: String,
    database: Database,
    timestamp: Timestamp,
    info: Size,
    #[serde(default)]
    error: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Database {
    #[serde(rename = "repo-key")]
    repo_key: u32,
}

#[derive(Debug, Deserialize)]
struct Timestamp {
    stop: i64,
}

#[derive(Debug, Deserialize)]
struct Size {
    size: u64,
}

/// Asks at a fixed rate, and shows what was said. If asking fails, the metrics say so and no age is made up.
pub(super) async fn keep(env: Env, info: Info, show: impl Fn(String) + Send + Sync) {
    let mut ticks = interval(super::every(&env, 5));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = timeout(LIMIT, info(env.clone())).await.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")));
        let said = asked.and_then(|json| render(&json)).map(|metrics| metrics + "pgbackrest_info_success 1\n");
        show(said.unwrap_or_else(|why| {
            env.say(&why);
            "pgbackrest_info_success 0\n".to_owned()
        }));
    }
}

/// The metrics of one answer of `pgbackrest info --output=json`.
///
/// # Errors
/// The answer is not what pgBackRest gives.
fn render(json: &str) -> Result<String, String> {
    let stanzas: Vec<Stanza> =
        serde_json::from_str(json).map_err(|error| format!("failed to read the output of pgbackrest info: {error}"))?;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, of: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "pgbackrest_{name}{of} {value}");
    };
    for Stanza { name, backup, repo } in &stanzas {
        for Repo { key, status } in repo {
            let of = format!("{{stanza=\"{name}\",repo=\"{key}\"}}");
            let mut good: Vec<_> = backup.iter().filter(|backup| backup.database.repo_key == *key && backup.error != Some(true)).collect();
            good.sort_by_key(|backup| backup.timestamp.stop);
            line("stanza_status", &of, &status.code);
            line("backup_count", &of, &good.len());
            let newest = good.iter().rev();
            if let Some(last) = newest.clone().next() {
                line("backup_last_success_timestamp_seconds", &of, &last.timestamp.stop);
                line("backup_last_size_bytes", &of, &last.info.size);
            }
            if let Some(full) = newest.clone().find(|backup| backup.kind == "full") {
                line("backup_last_full_timestamp_seconds", &of, &full.timestamp.stop);
            }
            if let Some(before) = newest.clone().nth(1) {
                line("backup_previous_size_bytes", &of, &before.info.size);
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn a_backup_with_errors_does_not_count_and_no_backup_gives_no_age() {
        let info = r#"[{"backup":[
          {"database":{"id":1,"repo-key":1},"error":false,"info":{"delta":9,"size":100},"timestamp":{"start":10,"stop":20},"type":"full"},
          {"database":{"id":1,"repo-key":1},"error":true,"info":{"delta":9,"size":300},"timestamp":{"start":40,"stop":50},"type":"incr"},
          {"database":{"id":1,"repo-key":1},"error":false,"info":{"delta":9,"size":200},"timestamp":{"start":30,"stop":35},"type":"incr"}],
          "name":"orders","repo":[{"cipher":"none","key":1,"status":{"code":0,"message":"ok"}}, {"key":2,"status":{"code":2}}]}]"#;
        let text = render(info).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let of = r#"{stanza="orders",repo="1"}"#;
        assert_eq!(
            lines,
            [
                &format!("pgbackrest_stanza_status{of} 0"),
                &format!("pgbackrest_backup_count{of} 2"),
                &format!("pgbackrest_backup_last_success_timestamp_seconds{of} 35"),
                &format!("pgbackrest_backup_last_size_bytes{of} 200"),
                &format!("pgbackrest_backup_last_full_timestamp_seconds{of} 20"),
                &format!("pgbackrest_backup_previous_size_bytes{of} 100"),
                "pgbackrest_stanza_status{stanza=\"orders\",repo=\"2\"} 2",
                "pgbackrest_backup_count{stanza=\"orders\",repo=\"2\"} 0",
            ]
        );
        assert!(render("{").is_err());
    }
}
