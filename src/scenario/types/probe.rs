//! Probes: what is watched all through a drill.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dur, ObjectName, Quantity, ServiceRef, one_of};

one_of! {
    /// Something watched at a fixed rate from before the first step to the end: a series of good, bad and unknown samples.
    pub struct Probe {
        /// An HTTP request.
        "http" http: HttpProbe,
        /// A TCP connection, with an optional exchange of lines (SMTP, IMAP, POP3 …).
        "tcp" tcp: TcpProbe,
        /// A DNS look-up.
        "dns" dns: DnsProbe,
        /// A query on PostgreSQL.
        "sql" sql: SqlProbe,
        /// How many pods of a target are ready, by watch.
        "pods" pods: PodsProbe,
        /// A condition on any Kubernetes object, by watch.
        "object" object: ObjectProbe,
        /// A PromQL expression against a bound.
        "metric" metric: MetricProbe,
        /// An alert: its state at Alertmanager and its receipt at the receiver. Bad means firing.
        "alert" alert: AlertProbe,
        /// The age and completeness of backups, by the backup tool's own word.
        "backup" backup: BackupProbe,
        /// A sequential writer whose acknowledged writes are read back at the end.
        "ledger" ledger: LedgerProbe,
        /// A status page and its updates.
        "statusPage" status_page: StatusPageProbe,
        /// A command in a pod; exit code 0 is good.
        "command" command: CommandProbe,
    }
    common {
        /// Time from one sample's start to the next. Defaults: 1s for most kinds, 100ms for `http` and `tcp`, 10s for `backup`, 20ms for a `ledger` (where it is a minimum).
        "every" every: Dur,
        /// How long one sample may take before it is bad. Default: twice `every`, at least 200ms.
        "timeout" timeout: Dur,
        /// `fresh` (default): a new look-up and connection for each sample; `kept`: one connection, as a pool holds it.
        "connection" connection: Connection,
        /// Where it is sampled from: `runner` or `cluster` (the observer pod). Default: `cluster` for names of Services, else `runner`.
        "from" from: Vantage,
    }
}

impl Probe {
    /// Time from one sample's start to the next, and how long one sample may take: what is written, else the defaults.
    pub fn cadence(&self) -> (Dur, Dur) {
        let default = if self.http.is_some() || self.tcp.is_some() {
            Dur::from_millis(100)
        } else if self.ledger.is_some() {
            Dur::from_millis(20)
        } else if self.backup.is_some() {
            Dur::from_secs(10)
        } else {
            Dur::from_secs(1)
        };
        let every = self.every.unwrap_or(default);
        let timeout = self.timeout.unwrap_or_else(|| Dur(every.0.saturating_mul(2)).max(Dur::from_millis(200)));
        (every, timeout)
    }
}

/// The state of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProbeState {
    /// As it should be.
    Good,
    /// Not as it should be (for an alert: firing).
    Bad,
    /// The observer itself failed; neither good nor bad.
    Unknown,
}

impl ProbeState {
    pub(crate) const fn bad() -> Self {
        Self::Bad
    }
}

impl std::fmt::Display for ProbeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        })
    }
}

/// Whether each sample makes a new connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Connection {
    /// A new look-up and connection each time.
    #[default]
    Fresh,
    /// One connection kept open and reused until it breaks: half-open pools are a real outage.
    Kept,
}

/// Where a probe is sampled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Vantage {
    /// The machine firedrill runs on.
    Runner,
    /// The observer pod in the cluster.
    Cluster,
}

/// An HTTP request; good when the status (and body) are as expected within the timeout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// `http://` or `https://` address.
    pub url: String,
    /// Method; default GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Request headers. No secrets here: the scenario is part of the evidence.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, String>,
    /// Request body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Accepted statuses, such as `200`, `2xx`; default any 2xx.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<StatusClass>,
    /// Text the body must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
}

/// An HTTP status or a class of them: `200` or `2xx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusClass {
    /// Exactly this one.
    Code(u16),
    /// All of a hundred, given by its first digit.
    Class(u16),
}

impl StatusClass {
    /// Whether a status is of this class.
    pub fn accepts(self, status: u16) -> bool {
        match self {
            Self::Code(code) => status == code,
            Self::Class(class) => status / 100 == class,
        }
    }
}

impl std::str::FromStr for StatusClass {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let class = text.strip_suffix("xx").and_then(|c| c.parse().ok()).filter(|c| (1..=5).contains(c)).map(Self::Class);
        class
            .or_else(|| text.parse().ok().filter(|c| (100..600).contains(c)).map(Self::Code))
            .ok_or_else(|| format!("`{text}` is not a status: write for example `200` or `2xx`"))
    }
}

impl std::fmt::Display for StatusClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{code}"),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}

super::duration::string_like!(StatusClass, "an HTTP status such as 200 or 2xx", r"^[1-5]([0-9]{2}|xx)$");

/// A TCP connection; good when it opens and every expected answer comes within the timeout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpProbe {
    /// `host:port`.
    pub address: String,
    /// What to send and to expect, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exchange: Vec<Exchange>,
}

one_of! {
    /// One turn of a TCP exchange.
    pub struct Exchange {
        /// Bytes to send; `\r\n` as in YAML double quotes.
        "send" send: String,
        /// Text the answer must contain.
        "expect" expect: String,
    }
}

/// A DNS look-up; good when it answers, and with the expected answer if one is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsProbe {
    /// The name.
    pub name: String,
    /// The record's type; default A.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// An answer that must be among those given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// The longest time to live the answer may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<Dur>,
}

/// Where a PostgreSQL database is, and who connects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-one-of" = ["service", "target", "runbook"]))]
pub struct Postgres {
    /// The Service, `namespace/name` or `namespace/name:port`; default port 5432. One of `service`, `target` and `runbook`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceRef>,
    /// A target (one pod) to connect to directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "target"))]
    pub target: Option<String>,
    /// For a restored copy: a `runbook` step with `runIn.job`; the database runs in the pod made for it, port 5432.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "step"))]
    pub runbook: Option<String>,
    /// The database's name.
    pub database: String,
    /// The Secret with keys `username` and `password`, `namespace/name`.
    pub secret: ObjectName,
}

/// A query; good when it answers within the timeout, and its first column of its first row meets `expect` if given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SqlProbe {
    /// The database.
    pub postgres: Postgres,
    /// One statement. It runs in a read-only transaction unless `writes: true`.
    pub query: String,
    /// The expected value, compared as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// Good when the statement is refused for lack of privilege (SQLSTATE 42501): a prevention check.
    #[serde(default)]
    pub refused: bool,
    /// The statement writes.
    #[serde(default)]
    pub writes: bool,
}

/// Good while at least `ready` pods of a target are ready.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodsProbe {
    /// A target of pods. Matched anew all the time, so that a new leader counts.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// How many must be ready.
    pub ready: u32,
}

/// Good while a condition on an object holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectProbe {
    /// `v1`, `apps/v1`, …
    pub api_version: String,
    /// `Pod`, `Deployment`, any CRD's kind.
    pub kind: String,
    /// Namespace, for namespaced kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// A CEL expression over `object`, true when good.
    pub cel: String,
}

/// Good while a PromQL expression gives a value within the bounds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricProbe {
    /// PromQL, evaluated to one scalar or a vector of one element.
    pub query: String,
    /// The largest good value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The smallest good value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
}

/// An alert, followed from Prometheus over Alertmanager to the receiver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertProbe {
    /// The alert's name (label `alertname`).
    pub name: String,
    /// Further labels it must have.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub labels: IndexMap<String, String>,
    /// An always-firing alert whose notifications prove the path works; default: the environment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<String>,
}

/// Good while the newest complete backup is young enough.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-one-of" = ["pgbackrest", "command"]))]
pub struct BackupProbe {
    /// pgBackRest's own word, by `pgbackrest info --output=json` in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pgbackrest: Option<PgBackRest>,
    /// Any tool: a command in a pod that prints JSON `{"backups":[{"id":…,"finished":RFC3339,"bytes":…,"ok":bool}]}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandProbe>,
    /// The oldest the newest complete backup may be.
    pub max_age: Dur,
    /// The smallest the newest backup may be (what it holds, not what it stores): a backup of nothing is no backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Quantity>,
}

/// A pgBackRest stanza.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PgBackRest {
    /// A target of pods in which `pgbackrest` runs; the first ready one is asked.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// Its container; default the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The stanza.
    pub stanza: String,
    /// Only this repository (`1`, `2` …); default: the youngest backup of any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<u8>,
}

/// A sequential writer. Exactly one of its stores is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-one-of" = ["postgres", "redis", "http", "mail"]))]
pub struct LedgerProbe {
    /// Rows in PostgreSQL, in schema `firedrill` of the database named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
    /// Read back from these too (a target of pods): every replica, once it has replayed past the primary's position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "target"))]
    pub replicas: Option<String>,
    /// Keys in Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisLedger>,
    /// Numbered requests to an HTTP service that stores them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpLedger>,
    /// Numbered messages sent by SMTP and read back by IMAP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailLedger>,
}

/// A ledger in Redis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisLedger {
    /// The Service.
    pub service: ServiceRef,
    /// The Secret with key `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectName>,
}

/// A ledger behind HTTP.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpLedger {
    /// Where each write is POSTed, with `{key}` for its number.
    pub write: String,
    /// Where all keys are read back, a JSON array.
    pub read: String,
}

/// A ledger of mail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MailLedger {
    /// The SMTP Service.
    pub smtp: ServiceRef,
    /// The IMAP Service.
    pub imap: ServiceRef,
    /// The mailbox's Secret with keys `username` and `password`.
    pub secret: ObjectName,
}

/// A status page: good while the newest update is younger than `cadence`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatusPageProbe {
    /// Address of a JSON or Atom feed of updates.
    pub url: String,
    /// The longest time between updates while an incident is open.
    pub cadence: Dur,
    /// The most times an announced estimate may be moved; one more and the probe is bad. Default: not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_slips: Option<u32>,
}

/// A command in a pod of a target; exit code 0 is good.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandProbe {
    /// A target of pods; the first ready one is used.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// Its container; default the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The command and its arguments; no shell is added.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
}
