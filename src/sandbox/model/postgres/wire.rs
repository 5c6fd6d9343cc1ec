//! PostgreSQL's wire protocol, version 3: what a server says to one client. Messages are read and written by `pgwire`; there is no TLS,
//! and passwords are asked for in clear text, which clients answer as they answer any other way of asking.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use pgwire::messages::{
    DecodeContext, PgWireBackendMessage as Said, PgWireFrontendMessage as Asked, ProtocolVersion, SslNegotiationMetaMessage,
    data::{DataRow, FieldDescription, NoData, ParameterDescription, RowDescription},
    extendedquery::{BindComplete, CloseComplete, ParseComplete, TARGET_TYPE_BYTE_STATEMENT},
    response::{
        CommandComplete, EmptyQueryResponse, ErrorResponse, GssEncResponse, NoticeResponse, ReadyForQuery, SslResponse, TransactionStatus,
    },
    startup::{Authentication, BackendKeyData, ParameterStatus, SecretKey, Startup},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    ast::Statement,
    eval::SqlError,
    execute::{Outcome, Rows, describe},
    parse,
    server::{Server, Session, Status, UNSURE, Waited},
    value::{Cell, Kind, Lsn},
};
use crate::net::Stream;

/// How much a client may send before it reads.
const MOST_ASKED: usize = 1 << 20;
/// How much is written before it is sent.
const CHUNK: usize = 32 << 10;
/// How long somebody may take to log in (`authentication_timeout`).
const LOGIN_LIMIT: Duration = Duration::from_secs(60);

/// How a server treats its clients, asked anew for each statement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Manners {
    /// How long it takes before it begins.
    pub(super) latency: Duration,
    /// The connection breaks instead.
    pub(super) breaks: bool,
    /// It acknowledges what no replica has.
    pub(super) lies: bool,
}

/// Asks how the server treats the next statement.
pub(super) type Ask = Arc<dyn Fn() -> Manners + Send + Sync>;

/// Somebody who wants the log, not answers.
pub(super) struct Walreceiver {
    pub(super) stream: Stream,
    /// What it has sent already after that.
    pub(super) rest: BytesMut,
    pub(super) name: String,
    pub(super) address: String,
}

struct Prepared {
    statement: Option<Statement>,
    columns: Option<Vec<(String, Kind)>>,
    kinds: Vec<Kind>,
}

struct Portal {
    statement: String,
    params: Vec<Cell>,
    formats: Vec<i16>,
}

struct Talk {
    stream: Stream,
    asked: BytesMut,
    answer: BytesMut,
    context: DecodeContext,
}

impl Talk {
    fn say(&mut self, said: &Said) -> io::Result<()> {
        said.encode(&mut self.answer).map_err(io::Error::other)
    }

    async fn send(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.answer).await?;
        self.stream.flush().await
    }

    /// The next message; `None`: the client is gone.
    async fn next(&mut self) -> io::Result<Option<Asked>> {
        loop {
            if let Some(asked) = Asked::decode(&mut self.asked, &self.context).map_err(io::Error::other)? {
                return Ok(Some(asked));
            }
            if self.asked.len() > MOST_ASKED {
                return Err(io::Error::other("a message that is too large"));
            }
            if self.stream.read_buf(&mut self.asked).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Ends when the client is gone: a server looks from time to time while it works.
    async fn gone(&mut self) {
        while self.asked.len() < MOST_ASKED {
            match self.stream.read_buf(&mut self.asked).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }

    fn error(&mut self, severity: &str, error: &SqlError) -> io::Result<()> {
        self.say(&Said::ErrorResponse(ErrorResponse::new(fields(severity, error.code, &error.message))))
    }

    fn ready(&mut self, status: Status) -> io::Result<()> {
        let status = match status {
            Status::Idle => TransactionStatus::Idle,
            Status::Open => TransactionStatus::Transaction,
            Status::Failed => TransactionStatus::Error,
        };
        self.say(&Said::ReadyForQuery(ReadyForQuery::new(status)))
    }

    fn heads(&mut self, columns: &[(String, Kind)], formats: &[i16]) -> io::Result<()> {
        let fields = columns.iter().enumerate().map(|(n, (name, kind))| {
            let (oid, size) = typed(*kind);
            FieldDescription::new(name.clone(), 0, 0, oid, size, -1, format_of(formats, n))
        });
        self.say(&Said::RowDescription(RowDescription::new(fields.collect())))
    }

    async fn rows(&mut self, rows: &Rows, formats: &[i16]) -> io::Result<()> {
        for row in &rows.rows {
            let mut data = BytesMut::new();
            for (n, cell) in row.iter().enumerate() {
                match written(cell, format_of(formats, n)) {
                    Some(bytes) => {
                        data.put_i32(i32::try_from(bytes.len()).map_err(io::Error::other)?);
                        data.put_slice(&bytes);
                    }
                    None => data.put_i32(-1),
                }
            }
            self.say(&Said::DataRow(DataRow::new(data, i16::try_from(row.len()).map_err(io::Error::other)?)))?;
            if self.answer.len() > CHUNK {
                self.send().await?;
            }
        }
        Ok(())
    }
}

fn fields(severity: &str, code: &str, message: &str) -> Vec<(u8, String)> {
    [(b'S', severity), (b'V', severity), (b'C', code), (b'M', message)].map(|(key, text)| (key, text.to_owned())).to_vec()
}

fn format_of(formats: &[i16], n: usize) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(n).copied().unwrap_or(0),
    }
}

/// A type's number and size (`pg_type.dat`).
fn typed(kind: Kind) -> (u32, i16) {
    match kind {
        Kind::Bool => (16, 1),
        Kind::Int => (20, 8),
        Kind::Text => (25, -1),
        Kind::Time => (1184, 8),
        Kind::Lsn => (3220, 8),
        Kind::Span => (701, 8),
    }
}

/// 2000-01-01 in microseconds since the Unix epoch.
const Y2K_US: i64 = 946_684_800_000_000;

fn written(cell: &Cell, format: i16) -> Option<Vec<u8>> {
    if format == 0 {
        return cell.written().map(String::into_bytes);
    }
    Some(match cell {
        Cell::Null => return None,
        Cell::Bool(is) => vec![u8::from(*is)],
        Cell::Int(number) => number.to_be_bytes().to_vec(),
        Cell::Text(text) => text.as_bytes().to_vec(),
        Cell::Time(us) => (us - Y2K_US).to_be_bytes().to_vec(),
        Cell::Lsn(lsn) => lsn.to_be_bytes().to_vec(),
        Cell::Span(us) => (*us as f64 / 1e6).to_be_bytes().to_vec(),
    })
}

/// A parameter as it was sent.
fn read(bytes: Option<&Bytes>, kind: Kind, format: i16) -> Option<Cell> {
    let Some(bytes) = bytes else { return Some(Cell::Null) };
    if format == 0 {
        let text = std::str::from_utf8(bytes).ok()?;
        return Some(match kind {
            Kind::Int => Cell::Int(text.parse().ok()?),
            Kind::Bool => Cell::Bool(matches!(text, "t" | "true")),
            Kind::Text => Cell::text(text),
            Kind::Lsn => Cell::Lsn(Lsn::parse(text)?.0),
            Kind::Time | Kind::Span => return None,
        });
    }
    let mut number = &bytes[..];
    Some(match (kind, bytes.len()) {
        (Kind::Int, 8) => Cell::Int(number.get_i64()),
        (Kind::Int, 4) => Cell::Int(i64::from(number.get_i32())),
        (Kind::Bool, 1) => Cell::Bool(bytes[0] != 0),
        (Kind::Text, _) => Cell::text(std::str::from_utf8(bytes).ok()?),
        (Kind::Time, 8) => Cell::Time(number.get_i64().checked_add(Y2K_US)?),
        (Kind::Lsn, 8) => Cell::Lsn(number.get_u64()),
        _ => return None,
    })
}

/// Serves one client until it goes. One that wants the log is given back.
pub(super) async fn serve(stream: Stream, server: &Arc<Server>, ask: &Ask) -> Option<Walreceiver> {
    let context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
    let mut talk = Talk { stream, asked: BytesMut::new(), answer: BytesMut::new(), context };
    let login = tokio::time::timeout(LOGIN_LIMIT, login(&mut talk, server));
    let mut session = match login.await {
        Ok(Ok(Login::Session(session))) => session,
        Ok(Ok(Login::Walreceiver { name, address })) => {
            return Some(Walreceiver { stream: talk.stream, rest: talk.asked, name, address });
        }
        // Refused, gone, or too slow: the connection ends.
        _ => return None,
    };
    let served = tokio::select! {
        biased;
        () = server.stop.cancelled() => None,
        served = converse(&mut talk, &mut session, ask) => Some(served),
    };
    if served.is_none() {
        let error = SqlError::new("57P01", "terminating connection due to administrator command");
        // Best effort, and not for long: the client may not read any more.
        if talk.error("FATAL", &error).is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(1), talk.send()).await;
        }
    }
    None
}

enum Login {
    Session(Box<Session>),
    Walreceiver { name: String, address: String },
}

async fn login(talk: &mut Talk, server: &Arc<Server>) -> io::Result<Login> {
    let over = || io::Error::other("gone before it logged in");
    let startup: Startup = loop {
        match talk.next().await?.ok_or_else(over)? {
            Asked::SslNegotiation(SslNegotiationMetaMessage::PostgresSsl(_)) => {
                talk.say(&Said::SslResponse(SslResponse::Refuse))?;
                talk.send().await?;
            }
            Asked::SslNegotiation(SslNegotiationMetaMessage::PostgresGss(_)) => {
                talk.say(&Said::GssEncResponse(GssEncResponse::Refuse))?;
                talk.send().await?;
            }
            // Neither: the decoder looks for them first, and then for what it is.
            Asked::SslNegotiation(SslNegotiationMetaMessage::None) => talk.context.awaiting_frontend_ssl = false,
            Asked::Startup(startup) => break startup,
            _ => return Err(over()),
        }
    };
    talk.context.awaiting_frontend_ssl = false;
    talk.context.awaiting_frontend_startup = false;
    let param = |name: &str| startup.parameters.get(name).cloned().unwrap_or_default();
    let user = param("user");
    if param("replication") == "true" {
        return Ok(Login::Walreceiver { name: param("application_name"), address: param("address") });
    }
    talk.say(&Said::Authentication(Authentication::CleartextPassword))?;
    talk.send().await?;
    let Asked::PasswordMessageFamily(message) = talk.next().await?.ok_or_else(over)? else { return Err(over()) };
    let password = message.into_password().map_err(io::Error::other)?.password;
    let database = Some(param("database")).filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
    let mut session = match server.session(&user, Some(&password), &database) {
        Ok(session) => session,
        Err(error) => {
            talk.error("FATAL", &error)?;
            talk.send().await?;
            return Err(over());
        }
    };
    for setting in param("options").split_whitespace() {
        if let Some((name, value)) = setting.split_once('=') {
            session.set(name, value);
        }
    }
    talk.say(&Said::Authentication(Authentication::Ok))?;
    for (name, value) in [("server_version", "15.14"), ("client_encoding", "UTF8"), ("TimeZone", "UTC"), ("DateStyle", "ISO, YMD")] {
        talk.say(&Said::ParameterStatus(ParameterStatus::new(name.to_owned(), value.to_owned())))?;
    }
    talk.say(&Said::BackendKeyData(BackendKeyData::new(1, SecretKey::I32(0))))?;
    talk.ready(Status::Idle)?;
    talk.send().await?;
    Ok(Login::Session(Box::new(session)))
}

async fn converse(talk: &mut Talk, session: &mut Session, ask: &Ask) -> io::Result<()> {
    let mut prepared: BTreeMap<String, Prepared> = BTreeMap::new();
    let mut portals: BTreeMap<String, Portal> = BTreeMap::new();
    // After an error nothing counts until the client has said where it stands.
    let mut skip = false;
    while let Some(asked) = talk.next().await? {
        if matches!(asked, Asked::Query(_) | Asked::Execute(_)) && !skip {
            let manners = ask();
            session.waits = !manners.lies;
            if !manners.latency.is_zero() {
                tokio::time::sleep(manners.latency).await;
            }
            if manners.breaks {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
        match asked {
            Asked::Query(query) => {
                if let Err(error) = simple(talk, session, &query.query).await? {
                    session.fail();
                    talk.error("ERROR", &error)?;
                }
                talk.ready(session.status())?;
                talk.send().await?;
            }
            Asked::Sync(_) => {
                skip = false;
                match session.settle() {
                    Ok(Some(lsn)) => wait(talk, session, lsn).await?,
                    Ok(None) => {}
                    Err(error) => talk.error("ERROR", &error)?,
                }
                talk.ready(session.status())?;
                talk.send().await?;
                portals.clear();
            }
            Asked::Flush(_) => talk.send().await?,
            Asked::Terminate(_) => return Ok(()),
            extended if !skip => {
                if let Err(error) = step(talk, session, extended, &mut prepared, &mut portals).await? {
                    session.fail();
                    talk.error("ERROR", &error)?;
                    skip = true;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

async fn simple(talk: &mut Talk, session: &mut Session, sql: &str) -> io::Result<Result<(), SqlError>> {
    let parts = match parse::split(sql) {
        Ok(parts) => parts,
        Err(why) => return Ok(Err(SqlError::not_rehearsable(why))),
    };
    if parts.is_empty() {
        talk.say(&Said::EmptyQueryResponse(EmptyQueryResponse::new()))?;
    }
    let last = parts.len().saturating_sub(1);
    for (n, text) in parts.iter().enumerate() {
        let done = parse::parse(text).map_err(SqlError::not_rehearsable).and_then(|statement| {
            let outcome = session.execute(&statement, &[])?;
            // A `COMMIT` ends what is open; what stands alone ends with the message.
            let settled = if n == last || statement == Statement::Commit { session.settle()? } else { None };
            Ok((outcome, settled))
        });
        let (outcome, settled) = match done {
            Ok(done) => done,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(lsn) = settled {
            wait(talk, session, lsn).await?;
        }
        if let Some(rows) = &outcome.rows {
            talk.heads(&rows.columns, &[])?;
            talk.rows(rows, &[]).await?;
        }
        complete(talk, &outcome)?;
    }
    Ok(Ok(()))
}

fn complete(talk: &mut Talk, outcome: &Outcome) -> io::Result<()> {
    talk.say(&Said::CommandComplete(CommandComplete::new(outcome.tag.clone())))
}

/// Waits until a commit is on a synchronous replica. A client that goes meanwhile ends the session.
async fn wait(talk: &mut Talk, session: &Session, lsn: u64) -> io::Result<()> {
    let waited = tokio::select! {
        biased;
        waited = session.sure(lsn) => waited,
        () = talk.gone() => return Err(io::ErrorKind::ConnectionReset.into()),
    };
    match waited {
        Waited::Done => Ok(()),
        Waited::Cancelled => {
            let mut notice = fields("WARNING", "01000", UNSURE);
            let more = "The transaction has already committed locally, but might not have been replicated to the standby.";
            notice.push((b'D', more.to_owned()));
            talk.say(&Said::NoticeResponse(NoticeResponse::new(notice)))
        }
        // The session is ended by whoever stops the server.
        Waited::Stopped => std::future::pending().await,
    }
}

async fn step(
    talk: &mut Talk,
    session: &mut Session,
    asked: Asked,
    prepared: &mut BTreeMap<String, Prepared>,
    portals: &mut BTreeMap<String, Portal>,
) -> io::Result<Result<(), SqlError>> {
    let unknown = |what: &str, name: &str| SqlError::new("26000", format!("{what} \"{name}\" does not exist"));
    match asked {
        Asked::Parse(parse) => {
            let parsed = parse::split(&parse.query).and_then(|parts| match parts.as_slice() {
                [] => Ok(None),
                [one] => parse::parse(one).map(Some),
                _ => Err("several statements in one that is prepared".to_owned()),
            });
            let described = parsed.map_err(SqlError::not_rehearsable).and_then(|statement| {
                let (columns, kinds) = match &statement {
                    Some(statement) => describe(statement, &session.tables())?,
                    None => (None, Vec::new()),
                };
                Ok(Prepared { statement, columns, kinds })
            });
            match described {
                Ok(ready) => drop(prepared.insert(parse.name.unwrap_or_default(), ready)),
                Err(error) => return Ok(Err(error)),
            }
            talk.say(&Said::ParseComplete(ParseComplete::new()))?;
        }
        Asked::Describe(describe) => {
            let name = describe.name.unwrap_or_default();
            let portal = portals.get(&name);
            let of_statement = describe.target_type == TARGET_TYPE_BYTE_STATEMENT;
            let statement = if of_statement { Some(&name) } else { portal.map(|portal| &portal.statement) };
            let Some(known) = statement.and_then(|name| prepared.get(name)) else { return Ok(Err(unknown("prepared statement", &name))) };
            if of_statement {
                let types = known.kinds.iter().map(|kind| typed(*kind).0).collect();
                talk.say(&Said::ParameterDescription(ParameterDescription::new(types)))?;
            }
            let formats = portal.filter(|_| !of_statement).map(|portal| portal.formats.clone()).unwrap_or_default();
            match &known.columns {
                Some(columns) => talk.heads(columns, &formats)?,
                None => talk.say(&Said::NoData(NoData::new()))?,
            }
        }
        Asked::Bind(bind) => {
            let name = bind.statement_name.unwrap_or_default();
            let Some(known) = prepared.get(&name) else { return Ok(Err(unknown("prepared statement", &name))) };
            let params = bind.parameters.iter().zip(&known.kinds).enumerate();
            let params = params.map(|(n, (bytes, kind))| read(bytes.as_ref(), *kind, format_of(&bind.parameter_format_codes, n)));
            let params: Option<Vec<Cell>> = params.collect();
            let Some(params) = params.filter(|params| params.len() == known.kinds.len()) else {
                return Ok(Err(SqlError::new("22P03", "a parameter that is not what the statement asks for")));
            };
            let portal = Portal { statement: name, params, formats: bind.result_column_format_codes };
            portals.insert(bind.portal_name.unwrap_or_default(), portal);
            talk.say(&Said::BindComplete(BindComplete::new()))?;
        }
        Asked::Execute(execute) => {
            let name = execute.name.unwrap_or_default();
            if execute.max_rows != 0 {
                return Ok(Err(SqlError::not_rehearsable("a part of a query's rows")));
            }
            let Some(portal) = portals.get(&name) else { return Ok(Err(unknown("portal", &name))) };
            let Some(statement) = prepared.get(&portal.statement).map(|known| &known.statement) else {
                return Ok(Err(unknown("prepared statement", &portal.statement)));
            };
            let Some(statement) = statement else {
                talk.say(&Said::EmptyQueryResponse(EmptyQueryResponse::new()))?;
                return Ok(Ok(()));
            };
            let outcome = match session.execute(statement, &portal.params) {
                Ok(outcome) => outcome,
                Err(error) => return Ok(Err(error)),
            };
            if let Some(rows) = &outcome.rows {
                talk.rows(rows, &portal.formats).await?;
            }
            complete(talk, &outcome)?;
        }
        Asked::Close(close) => {
            let name = close.name.unwrap_or_default();
            if close.target_type == TARGET_TYPE_BYTE_STATEMENT {
                prepared.remove(&name);
            } else {
                portals.remove(&name);
            }
            talk.say(&Said::CloseComplete(CloseComplete::new()))?;
        }
        other => return Ok(Err(SqlError::not_rehearsable(format!("the message {other:?}")))),
    }
    Ok(Ok(()))
}
