//! The alert receiver as Alertmanager and a drill see it.

mod common;

use std::net::SocketAddr;

use common::request;
use testbed_parts::clock::{Clock, Now};
use testbed_parts::receiver::{Inbox, Received};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// As Alertmanager 0.25 posts it.
fn payload(alertname: &str, status: &str) -> String {
    format!(
        r#"{{"receiver":"webhook","status":"{status}","alerts":[{{"status":"{status}","labels":{{"alertname":"{alertname}","severity":"page"}},
        "annotations":{{"summary":"s"}},"startsAt":"2026-01-19T10:25:00.1Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://p/graph",
        "fingerprint":"c0ffee"}}],"groupLabels":{{"alertname":"{alertname}"}},"commonLabels":{{}},"commonAnnotations":{{}},
        "externalURL":"http://alertmanager:9093","version":"4","groupKey":"{{}}:{{}}","truncatedAlerts":0}}"#
    )
}

/// A receiver that keeps two notifications; it ends with the set.
async fn start() -> anyhow::Result<(SocketAddr, JoinSet<std::io::Result<()>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut tasks = JoinSet::new();
    let routes = Inbox::new(Clock::default(), 2).routes();
    tasks.spawn(async { axum::serve(listener, routes).await });
    Ok((address, tasks))
}

async fn notifications(to: SocketAddr, query: &str) -> anyhow::Result<Vec<Received>> {
    let (status, body) = request(to, "GET", &format!("/notifications{query}"), "").await?;
    anyhow::ensure!(status == 200, "{status}: {body}");
    Ok(serde_json::from_str(&body)?)
}

fn ids(notifications: &[Received]) -> Vec<u64> {
    notifications.iter().map(|received| received.id).collect()
}

#[tokio::test]
async fn keeps_the_newest_with_their_arrival_and_forgets_on_demand() -> anyhow::Result<()> {
    let (to, _tasks) = start().await?;
    let before: Now = serde_json::from_str(&request(to, "GET", "/time", "").await?.1)?;
    for (name, status) in [("Heartbeat", "firing"), ("OrdersDatabaseDown", "firing"), ("OrdersDatabaseDown", "resolved")] {
        assert_eq!(request(to, "POST", "/alerts", &payload(name, status)).await?.0, 200);
    }
    let after: Now = serde_json::from_str(&request(to, "GET", "/time", "").await?.1)?;
    let all = notifications(to, "").await?;
    assert_eq!(ids(&all), [2, 3], "the oldest of three goes");
    assert!(all.iter().all(|n| (before.wall_us..=after.wall_us).contains(&n.received_us)), "{before:?} {all:?} {after:?}");
    let alert = &all[0].alerts[0];
    assert_eq!((alert.status.as_str(), alert.fingerprint.as_str()), ("firing", "c0ffee"));
    assert_eq!(alert.starts_at, "2026-01-19T10:25:00.1Z");
    assert_eq!(all[0].group_labels.get("alertname").map(String::as_str), Some("OrdersDatabaseDown"));
    assert_eq!(ids(&notifications(to, &format!("?since={}", all[1].received_us)).await?), [3]);
    assert!(notifications(to, "?alertname=Heartbeat").await?.is_empty());
    assert_eq!(request(to, "DELETE", "/notifications", "").await?.0, 204);
    assert!(notifications(to, "").await?.is_empty());
    request(to, "POST", "/alerts", &payload("Heartbeat", "firing")).await?;
    assert_eq!(ids(&notifications(to, "?alertname=Heartbeat").await?), [4], "ids go on");
    Ok(())
}

#[tokio::test]
async fn what_is_no_notification_is_refused() -> anyhow::Result<()> {
    let (to, _tasks) = start().await?;
    for (body, status) in [(r#"{"status":"firing"}"#, 422), ("{", 400)] {
        assert_eq!(request(to, "POST", "/alerts", body).await?.0, status, "{body}");
    }
    assert_eq!(request(to, "GET", "/notifications?since=yesterday", "").await?.0, 400);
    assert!(notifications(to, "").await?.is_empty());
    Ok(())
}
