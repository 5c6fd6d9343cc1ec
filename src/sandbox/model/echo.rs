//! `echo`: answers every line on port 7 with the same line (RFC 862), and says how many it had. The smallest program, for tests.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::{
    super::{
        kubelet::{ExecAsk, ExecEnd},
        program::{Env, Program},
    },
    Probe,
};
use crate::net::Stream;

/// RFC 862.
const PORT: u16 = 7;

#[derive(Debug)]
pub(super) struct Echo;

impl Program for Echo {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move { env.serve(PORT, |stream| answer(env.clone(), stream)).await }.boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        match probe {
            Probe::Tcp => Ok(()),
            other => Err(format!("not rehearsable: echo has no answer to {other:?}")),
        }
    }

    fn exec(self: Arc<Self>, _env: Env, mut ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        async move {
            let words: Vec<&str> = ask.command.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["echo", rest @ ..] => {
                    // Nobody reads it: that does not change how the command ends.
                    let _ = ask.stdout.write_all(format!("{}\n", rest.join(" ")).as_bytes()).await;
                    ExecEnd::Exit(0)
                }
                _ => ExecEnd::Failed(format!("not rehearsable: echo has no answer to {words:?}")),
            }
        }
        .boxed()
    }
}

async fn answer(env: Env, stream: Stream) {
    let (read, mut write) = tokio::io::split(stream);
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        env.say(&line);
        if write.write_all(format!("{line}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
