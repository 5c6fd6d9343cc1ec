//! What the API server passes on to the node that runs a pod: `exec`, `attach` and `log`.

use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _, future::BoxFuture};
use hyper::{Request, Response, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::{
    core::{Core, State, text},
    kinds::Kind,
    refusal::{Answer, FieldError, Refusal},
    request::{Ask, Place},
    serve::{Body, full, whole},
};
use crate::net::Stream;

/// How a command in a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEnd {
    /// With this exit code.
    Exit(i32),
    /// It could not be run: no such program, the container does not run.
    Failed(String),
}

/// A command to be run in a container.
pub struct ExecAsk {
    /// The pod, as it is stored.
    pub pod: Value,
    /// The container's name.
    pub container: String,
    /// Program and arguments; empty: attach to the container's own process.
    pub command: Vec<String>,
    /// What is written to it.
    pub stdin: Box<dyn AsyncRead + Send + Unpin>,
    /// What it writes. Dropped output means that nobody reads it.
    pub stdout: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it writes when something is wrong.
    pub stderr: Box<dyn AsyncWrite + Send + Unpin>,
}

impl std::fmt::Debug for ExecAsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecAsk").field("container", &self.container).field("command", &self.command).finish_non_exhaustive()
    }
}

/// What of a container's log is wanted (`v1.PodLogOptions`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogAsk {
    /// The container's name.
    pub container: String,
    /// Of the run before the last restart.
    pub previous: bool,
    /// At most so many of the last lines.
    pub tail_lines: Option<u64>,
    /// Lines of the last so many seconds.
    pub since_seconds: Option<u64>,
    /// Each line with its time.
    pub timestamps: bool,
}

/// The kubelets of all nodes. Without any, what needs one is answered as a real API server answers that cannot reach it.
pub trait Kubelets: Send + Sync {
    /// Whether the node's kubelet can be reached now.
    fn reachable(&self, node: &str) -> bool;
    /// Runs a command. It is dropped when the client goes away.
    fn exec(&self, ask: ExecAsk) -> BoxFuture<'static, ExecEnd>;
    /// Opens a connection to a port of a pod, as from within it.
    fn forward(&self, _pod: &Value, port: u16) -> BoxFuture<'static, Result<Stream, String>> {
        Box::pin(std::future::ready(Err(format!("nothing listens on port {port}"))))
    }
    /// A container's log so far, or why there is none (answered with 400).
    ///
    /// # Errors
    /// A message in the kubelet's words, such as `container "web" in pod "a" is waiting to start: ContainerCreating`.
    fn log(&self, pod: &Value, ask: &LogAsk) -> Result<String, String>;
}

/// How many bytes of a stream wait for their reader.
const PIPE_BYTES: usize = 64 * 1024;
/// How much input waits for the command before the socket is left unread.
const INPUT_BYTES: usize = 1024 * 1024;
/// How long the client may take to say that it closes, too.
const CLOSE_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
/// How many ports are forwarded at once, and how many messages wait for one.
const MOST_PORTS: usize = 16;
const MESSAGES: usize = 1024;
/// What goes into one WebSocket message at most.
const CHUNK: usize = 16 * 1024;

impl State {
    /// The pod's container that is meant, and its node's kubelet.
    ///
    /// # Errors
    /// 400: no such container, more than one and none named, no node yet. 404: no pod, no node. 500: the kubelet cannot be reached.
    fn container(&self, kind: &Kind, ask: &Ask, place: &Place) -> Answer<(Value, String, Arc<dyn Kubelets>)> {
        let pod = self.found(kind, place)?.value.clone();
        let lists = ["containers", "initContainers", "ephemeralContainers"];
        let names = |list: &str| -> Vec<String> {
            let containers = pod["spec"].get(list).and_then(Value::as_array);
            containers.into_iter().flatten().map(|c| text(c, "/name").to_owned()).collect()
        };
        let container = match ask.option("container") {
            Some(named) => {
                if !lists.iter().any(|list| names(list).iter().any(|name| name == named)) {
                    return Err(Refusal::bad_request(format!("container {named} is not valid for pod {}", place.name)));
                }
                named.to_owned()
            }
            None => {
                let default = pod["metadata"]["annotations"].get("kubectl.kubernetes.io/default-container").and_then(Value::as_str);
                match (names("containers").as_slice(), default) {
                    ([only], _) => only.clone(),
                    (all, Some(named)) if place.subresource != "log" && all.iter().any(|name| name == named) => named.to_owned(),
                    (all, _) => {
                        let mut why =
                            format!("a container name must be specified for pod {}, choose one of: [{}]", place.name, all.join(" "));
                        let (init, ephemeral) = (names("initContainers"), names("ephemeralContainers"));
                        if !init.is_empty() {
                            why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                        }
                        if !ephemeral.is_empty() {
                            why.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
                        }
                        return Err(Refusal::bad_request(why));
                    }
                }
            }
        };
        let node = text(&pod, "/spec/nodeName").to_owned();
        if node.is_empty() {
            if place.subresource == "log" {
                return Err(Refusal::no_log_yet());
            }
            return Err(Refusal::bad_request(format!("pod {} does not have a host assigned", place.name)));
        }
        let kubelets = self.kubelet_of(&node, || match place.subresource.as_str() {
            "log" => {
                let url = format!("https://{node}:10250/containerLogs/{}/{}/{container}", place.namespace, place.name);
                format!("Get \"{url}\": dial tcp: lookup {node}: no such host")
            }
            _ => format!("error dialing backend: dial tcp: lookup {node}: no such host"),
        })?;
        Ok((pod, container, kubelets))
    }

    /// The kubelet of a node; `silent` says that it does not answer.
    ///
    /// # Errors
    /// 404: no such node. 500: it cannot be reached.
    fn kubelet_of(&self, node: &str, silent: impl FnOnce() -> String) -> Answer<Arc<dyn Kubelets>> {
        let Some(found) = self.peek("", "nodes", "", node) else {
            let nodes = self.kinds.v1("", "nodes");
            return Err(nodes.map_or_else(Refusal::no_such_page, |nodes| Refusal::not_found(&nodes, node)));
        };
        let nowhere = found.value.pointer("/status/addresses").and_then(Value::as_array).is_none_or(Vec::is_empty);
        match &self.kubelets {
            Some(kubelets) if kubelets.reachable(node) => Ok(Arc::clone(kubelets)),
            _ if nowhere => Err(Refusal::new(500, "", "no preferred addresses found; known addresses: []")),
            _ => Err(Refusal::new(500, "", silent())),
        }
    }
}

impl Refusal {
    /// A pod that no node has been found for has no log, which is no error.
    fn no_log_yet() -> Self {
        Self::new(204, "", "")
    }
}

/// `GET …/log`.
///
/// # Errors
/// As [`State::container`]; 400 in the kubelet's words.
pub(super) fn log(core: &Core, kind: &Kind, ask: &Ask, place: &Place) -> Answer<Response<Body>> {
    for (option, least) in [("tailLines", 0), ("sinceSeconds", 1)] {
        let number = ask.option(option).and_then(|text| text.parse::<i64>().ok());
        if let Some(number) = number.filter(|number| *number < least) {
            let why = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            return Err(Refusal::invalid_as("", "PodLogOptions", &place.name, &[FieldError::invalid(option, number, why)]));
        }
    }
    let found = core.lock().container(kind, ask, place);
    let (pod, container, kubelets) = match found {
        Ok(found) => found,
        Err(refusal) if refusal.code() == 204 => return Ok(full(204, "text/plain", Bytes::new())),
        Err(refusal) => return Err(refusal),
    };
    let options = LogAsk {
        container,
        previous: ask.flag("previous"),
        tail_lines: ask.number("tailLines")?,
        since_seconds: ask.number("sinceSeconds")?,
        timestamps: ask.flag("timestamps"),
    };
    let text = kubelets.log(&pod, &options).map_err(Refusal::bad_request)?;
    Ok(full(200, "text/plain", text.into()))
}

/// `…/exec` and `…/attach`: a WebSocket with the channels of `v4.channel.k8s.io` or `v5.channel.k8s.io`.
///
/// # Errors
/// As [`State::container`]; 400: not a WebSocket, or no stream is wanted.
pub(super) fn exec(core: &Core, kind: &Kind, ask: &Ask, place: &Place, request: &mut Request<Incoming>) -> Answer<Response<Body>> {
    let command = ask.all("command");
    let pod = core.lock().found(kind, place)?;
    let phase = text(&pod.value, "/status/phase");
    if matches!(phase, "Succeeded" | "Failed") && place.subresource != "portforward" {
        let why = format!("cannot exec into a container in a completed pod; current phase is {phase}");
        return Err(Refusal::bad_request(why));
    }
    if place.subresource == "portforward" {
        return forward(core, ask, pod.value.clone(), request);
    }
    let (pod, container, kubelets) = core.lock().container(kind, ask, place)?;
    if !["stdin", "stdout", "stderr"].iter().any(|stream| ask.flag(stream)) {
        return Err(Refusal::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if place.subresource == "exec" && command.is_empty() {
        return Err(Refusal::bad_request("you must specify at least one command for the container"));
    }
    let stdin = ask.flag("stdin");
    upgrade(core, request, move |socket| session(socket, pod, container, command, stdin, kubelets))
}

/// `…/portforward`: a WebSocket with two channels a port, one for what passes and one for why nothing does.
///
/// # Errors
/// 400: no port, no node, not a WebSocket. 500: the kubelet cannot be reached.
fn forward(core: &Core, ask: &Ask, pod: Value, request: &mut Request<Incoming>) -> Answer<Response<Body>> {
    let words = ask.all("ports");
    let ports: Result<Vec<u16>, _> = words.iter().flat_map(|text| text.split(',')).map(str::parse).collect();
    let Some(ports) = ports.ok().filter(|ports| (1..=MOST_PORTS).contains(&ports.len())) else {
        return Err(Refusal::bad_request("query parameter \"port\" is required"));
    };
    let node = text(&pod, "/spec/nodeName").to_owned();
    if node.is_empty() {
        return Err(Refusal::bad_request(format!("pod {} does not have a host assigned", text(&pod, "/metadata/name"))));
    }
    let kubelets = core.lock().kubelet_of(&node, || format!("error dialing backend: dial tcp: lookup {node}: no such host"))?;
    upgrade(core, request, move |socket| forwarding(socket, pod, ports, kubelets))
}

/// Answers with a WebSocket, and does with it what is to be done.
///
/// # Errors
/// 400: the request is none for a WebSocket.
fn upgrade<F>(core: &Core, request: &mut Request<Incoming>, with: impl FnOnce(Socket) -> F + Send + 'static) -> Answer<Response<Body>>
where
    F: Future<Output = ()> + Send,
{
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let protocol = ["v5.channel.k8s.io", "v4.channel.k8s.io"].into_iter().find(|known| offered.split(',').any(|o| o.trim() == *known));
    let (Some(key), Some(protocol)) = (key, protocol) else {
        return Err(Refusal::bad_request("Upgrade request required"));
    };
    let upgrade = hyper::upgrade::on(request);
    let mut sessions = core.sessions.lock().unwrap_or_else(PoisonError::into_inner);
    while sessions.try_join_next().is_some() {}
    sessions.spawn(async move {
        // Fails only when the client is gone before it was told that it may begin.
        let Ok(upgraded) = upgrade.await else { return };
        with(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await).await;
    });
    drop(sessions);
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
        .body(whole(Bytes::new()));
    response.map_err(Refusal::internal)
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

async fn session(mut socket: Socket, pod: Value, container: String, command: Vec<String>, takes_input: bool, kubelets: Arc<dyn Kubelets>) {
    let (mut to_stdin, stdin) = tokio::io::duplex(PIPE_BYTES);
    let (mut from_stdout, stdout) = tokio::io::duplex(PIPE_BYTES);
    let (mut from_stderr, stderr) = tokio::io::duplex(PIPE_BYTES);
    if !takes_input {
        let _ = to_stdin.shutdown().await;
    }
    let ask = ExecAsk { pod, container, command, stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr) };
    let mut run = kubelets.exec(ask);
    let mut end: Option<ExecEnd> = None;
    let (mut out_open, mut err_open) = (true, true);
    let (mut out, mut err) = (vec![0_u8; CHUNK], vec![0_u8; CHUNK]);
    // Input that the command has not taken yet. While there is much of it the socket is not read.
    let (mut input, mut input_ends) = (BytesMut::new(), false);
    while end.is_none() || out_open || err_open {
        tokio::select! {
            biased;
            read = from_stdout.read(&mut out), if out_open => match read {
                Ok(n) if n > 0 => if send(&mut socket, STDOUT, &out[..n]).await.is_err() { return },
                _ => out_open = false,
            },
            read = from_stderr.read(&mut err), if err_open => match read {
                Ok(n) if n > 0 => if send(&mut socket, STDERR, &err[..n]).await.is_err() { return },
                _ => err_open = false,
            },
            ended = &mut run, if end.is_none() => end = Some(ended),
            wrote = feed(&mut to_stdin, &input), if !input.is_empty() || input_ends => match wrote {
                Some(n) if n > 0 => drop(input.split_to(n)),
                // At its end, or the command has ended and its input is lost, as on a real node.
                _ => {
                    input.clear();
                    input_ends = false;
                }
            },
            message = socket.next(), if input.len() < INPUT_BYTES => match message {
                Some(Ok(Message::Binary(bytes))) => match &bytes[..] {
                    [CLOSE, STDIN] => input_ends = true,
                    [STDIN, bytes @ ..] => input.extend_from_slice(bytes),
                    _ => {}
                },
                Some(Ok(Message::Ping(bytes))) => drop(socket.send(Message::Pong(bytes)).await),
                Some(Ok(_)) => {}
                // The client is gone, and so is the command: dropping it ends it.
                Some(Err(_)) | None => return,
            },
        }
    }
    let status = status(end.unwrap_or(ExecEnd::Exit(0)));
    if send(&mut socket, STATUS, status.to_string().as_bytes()).await.is_err() {
        return;
    }
    // Both sides have to say that they close, or the client takes it for a broken connection.
    let _ = socket.close(None).await;
    let closed = async { while let Some(Ok(_)) = socket.next().await {} };
    let _ = tokio::time::timeout(CLOSE_LIMIT, closed).await;
}

/// Passes on what ports of a pod say and are told (`pkg/kubelet/cri/streaming/portforward`): the first message of every channel is its
/// port.
async fn forwarding(mut socket: Socket, pod: Value, ports: Vec<u16>, kubelets: Arc<dyn Kubelets>) {
    let (said, mut outputs) = mpsc::channel::<(u8, Bytes)>(MESSAGES);
    let (mut inputs, mut tasks) = (Vec::new(), JoinSet::new());
    for (channel, port) in (0_u8..).step_by(2).zip(&ports) {
        for channel in [channel, channel + 1] {
            if send(&mut socket, channel, &port.to_le_bytes()).await.is_err() {
                return;
            }
        }
        let (input, told) = mpsc::channel::<Bytes>(MESSAGES);
        inputs.push(input);
        tasks.spawn(one_port(kubelets.forward(&pod, *port), channel, told, said.clone()));
    }
    drop(said);
    loop {
        tokio::select! {
            biased;
            output = outputs.recv() => match output {
                Some((channel, bytes)) => if send(&mut socket, channel, &bytes).await.is_err() { return },
                None => break,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Some(input) = bytes.first().filter(|channel| *channel % 2 == 0).and_then(|channel| inputs.get(usize::from(channel / 2)))
                        // Nobody there any more is told by its channel. One that takes nothing for so long is given up.
                        && matches!(input.try_send(bytes.slice(1..)), Err(mpsc::error::TrySendError::Full(_)))
                    {
                        return;
                    }
                }
                Some(Ok(Message::Ping(bytes))) => drop(socket.send(Message::Pong(bytes)).await),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    let _ = socket.close(None).await;
    let closed = async { while let Some(Ok(_)) = socket.next().await {} };
    let _ = tokio::time::timeout(CLOSE_LIMIT, closed).await;
}

async fn one_port(
    connect: BoxFuture<'static, Result<Stream, String>>,
    channel: u8,
    mut told: mpsc::Receiver<Bytes>,
    said: mpsc::Sender<(u8, Bytes)>,
) {
    let stream = match connect.await {
        Ok(stream) => stream,
        Err(why) => {
            // The client may be gone, and does not need to know then.
            let _ = said.send((channel + 1, Bytes::from(why))).await;
            return;
        }
    };
    let (mut read, mut write) = tokio::io::split(stream);
    let mut buffer = vec![0_u8; CHUNK];
    loop {
        tokio::select! {
            biased;
            read = read.read(&mut buffer) => match read {
                Ok(n) if n > 0 => if said.send((channel, Bytes::copy_from_slice(&buffer[..n]))).await.is_err() { return },
                _ => return,
            },
            bytes = told.recv() => match bytes {
                Some(bytes) => if write.write_all(&bytes).await.is_err() { return },
                None => return,
            },
        }
    }
}

/// Writes some of the input, or its end where there is no more. None: nobody takes any.
async fn feed(stdin: &mut tokio::io::DuplexStream, input: &[u8]) -> Option<usize> {
    if input.is_empty() { stdin.shutdown().await.ok().map(|()| 0) } else { stdin.write(input).await.ok() }
}

async fn send(socket: &mut Socket, channel: u8, bytes: &[u8]) -> Result<(), ()> {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    socket.send(Message::binary(message)).await.map_err(drop)
}

/// The `Status` on the error channel (`k8s.io/apimachinery/pkg/util/remotecommand`).
fn status(end: ExecEnd) -> Value {
    match end {
        ExecEnd::Exit(0) => json!({"metadata": {}, "status": "Success"}),
        ExecEnd::Exit(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: error executing command, exit code {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        ExecEnd::Failed(why) => {
            json!({"metadata": {}, "status": "Failure", "message": why, "reason": "InternalError", "details": {"causes": [{"message": why}]}, "code": 500})
        }
    }
}
