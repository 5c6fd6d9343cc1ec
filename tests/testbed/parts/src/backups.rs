//! pgBackRest's own account of its backups (`pgbackrest info --output=json`), as metrics.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

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
    info: Info,
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
struct Info {
    size: u64,
}

/// Runs `command` and turns what it says into metrics. If that fails, the metrics say so and no age is made up.
pub async fn metrics(command: &[String], limit: Duration) -> String {
    match ask(command, limit).await.and_then(|json| render(&json)) {
        Ok(metrics) => metrics + "pgbackrest_info_success 1\n",
        Err(error) => {
            eprintln!("{error:#}");
            "pgbackrest_info_success 0\n".to_owned()
        }
    }
}

async fn ask(command: &[String], limit: Duration) -> anyhow::Result<String> {
    let (program, arguments) = command.split_first().context("no command to run")?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("failed to run {program}"))?;
    let output = timeout(limit, child.wait_with_output()).await.with_context(|| format!("{program} did not answer within {limit:?}"))??;
    if !output.status.success() {
        anyhow::bail!("{program} failed with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The metrics of one answer of `pgbackrest info --output=json`.
///
/// # Errors
/// If the answer is not what pgBackRest 2.45 gives.
pub fn render(json: &str) -> anyhow::Result<String> {
    let stanzas: Vec<Stanza> = serde_json::from_str(json).context("failed to read the output of pgbackrest info")?;
    let mut text = String::new();
    for Stanza { name, backup, repo } in &stanzas {
        for Repo { key, status } in repo {
            let of = format!("{{stanza=\"{name}\",repo=\"{key}\"}}");
            let mut good: Vec<_> = backup.iter().filter(|backup| backup.database.repo_key == *key && backup.error != Some(true)).collect();
            good.sort_by_key(|backup| backup.timestamp.stop);
            writeln!(text, "pgbackrest_stanza_status{of} {}", status.code)?;
            writeln!(text, "pgbackrest_backup_count{of} {}", good.len())?;
            let newest = good.iter().rev();
            if let Some(last) = newest.clone().next() {
                writeln!(text, "pgbackrest_backup_last_success_timestamp_seconds{of} {}", last.timestamp.stop)?;
                writeln!(text, "pgbackrest_backup_last_size_bytes{of} {}", last.info.size)?;
            }
            if let Some(full) = newest.clone().find(|backup| backup.kind == "full") {
                writeln!(text, "pgbackrest_backup_last_full_timestamp_seconds{of} {}", full.timestamp.stop)?;
            }
            if let Some(before) = newest.clone().nth(1) {
                writeln!(text, "pgbackrest_backup_previous_size_bytes{of} {}", before.info.size)?;
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{metrics, render};
    use std::time::Duration;

    /// Cut down from what pgBackRest 2.45 printed in the testbed.
    const INFO: &str = r#"[{"backup":[
      {"database":{"id":1,"repo-key":1},"error":false,"info":{"delta":9,"size":100},"timestamp":{"start":10,"stop":20},"type":"full"},
      {"database":{"id":1,"repo-key":1},"error":true,"info":{"delta":9,"size":300},"timestamp":{"start":40,"stop":50},"type":"incr"},
      {"database":{"id":1,"repo-key":1},"error":false,"info":{"delta":9,"size":200},"timestamp":{"start":30,"stop":35},"type":"incr"}],
      "name":"orders","repo":[{"cipher":"none","key":1,"status":{"code":0,"message":"ok"}}],"status":{"code":0}}]"#;

    #[test]
    fn a_backup_with_errors_does_not_count() -> anyhow::Result<()> {
        let text = render(INFO)?;
        let of = r#"{stanza="orders",repo="1"}"#;
        for line in [
            format!("pgbackrest_backup_last_success_timestamp_seconds{of} 35"),
            format!("pgbackrest_backup_last_full_timestamp_seconds{of} 20"),
            format!("pgbackrest_backup_last_size_bytes{of} 200"),
            format!("pgbackrest_backup_previous_size_bytes{of} 100"),
            format!("pgbackrest_backup_count{of} 2"),
        ] {
            assert!(text.lines().any(|have| have == line), "no {line:?} in {text}");
        }
        Ok(())
    }

    #[test]
    fn no_backup_gives_no_age() -> anyhow::Result<()> {
        let text = render(r#"[{"backup":[],"name":"orders","repo":[{"key":2,"status":{"code":2}}]}]"#)?;
        assert_eq!(
            text,
            "pgbackrest_stanza_status{stanza=\"orders\",repo=\"2\"} 2\npgbackrest_backup_count{stanza=\"orders\",repo=\"2\"} 0\n"
        );
        Ok(())
    }

    #[tokio::test]
    async fn a_command_that_fails_or_hangs_is_told() {
        for command in [vec!["false"], vec!["sleep", "30"], vec!["/no/such/program"], vec!["echo", "{"]] {
            let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
            let text = metrics(&command, Duration::from_millis(200)).await;
            assert_eq!(text, "pgbackrest_info_success 0\n", "{command:?}");
        }
    }
}
