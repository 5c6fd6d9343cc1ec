//! Ways to an agent.

use std::process::Stdio;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::AttachParams};
use tokio::net::UnixStream;

use super::{LinkError, Transport, task::Cut};
use crate::agent::{inside, wire::Pipe};

/// Makes one connection.
pub(super) async fn open(transport: &Transport) -> Result<Pipe, Cut> {
    match transport {
        Transport::Socket(path) => {
            let stream = UnixStream::connect(path).await.map_err(|e| Cut::Broken(format!("failed to connect: {e}")))?;
            let (read, write) = stream.into_split();
            Ok(Pipe { read: Box::new(read), write: Box::new(write), keep: Box::new(()) })
        }
        Transport::Child { program, args } => {
            let over = |why: String| Cut::Over(LinkError::Ended { at: program.display().to_string(), why });
            let mut child = tokio::process::Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|e| over(format!("failed to start it: {e}")))?;
            let (Some(write), Some(read)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(over("it has no pipes".to_owned()));
            };
            Ok(Pipe { read: Box::new(read), write: Box::new(write), keep: Box::new(child) })
        }
        Transport::Exec { client, namespace, pod, container } => {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let params = AttachParams {
                container: container.clone(),
                stdin: true,
                stdout: true,
                stderr: false,
                max_stdin_buf_size: Some(64 << 10),
                max_stdout_buf_size: Some(256 << 10),
                ..AttachParams::default()
            };
            let mut process = match api.exec(pod, ["/firedrill", "agent", "attach"], &params).await {
                Ok(process) => process,
                Err(e) => return Err(exec_failed(&api, pod, container.as_deref(), &e).await),
            };
            let (Some(read), Some(write)) = (process.stdout(), process.stdin()) else {
                return Err(Cut::Broken("the exec has no streams".to_owned()));
            };
            Ok(Pipe { read: Box::new(read), write: Box::new(write), keep: Box::new(process) })
        }
    }
}

/// An exec that fails may work the next time, except when the pod, or the container that was added to it, is gone or over.
async fn exec_failed(api: &Api<Pod>, pod: &str, container: Option<&str>, error: &kube::Error) -> Cut {
    let over = |why: String| Cut::Over(LinkError::Ended { at: format!("pod {pod}"), why });
    match api.get_opt(pod).await {
        Ok(None) => over("the pod is gone".to_owned()),
        Ok(Some(found)) if container.is_some_and(|name| inside::has_ended(&found, name)) => over("its container has ended".to_owned()),
        Ok(Some(found)) => match found.status.and_then(|s| s.phase).as_deref() {
            Some(phase @ ("Succeeded" | "Failed")) => over(format!("the pod is {phase}")),
            _ => Cut::Broken(format!("failed to exec: {error}")),
        },
        Err(_) => Cut::Broken(format!("failed to exec: {error}")),
    }
}
