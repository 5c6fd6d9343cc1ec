//! `shell`: runs the container's own command in the sandbox's shell, or waits until it is ended where there is none; answers commands
//! with the same shell. For hooks and jobs that need nothing but small tools.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    super::{
        kubelet::{ExecAsk, ExecEnd},
        program::{Env, Program},
        shell::{self, NoCommands},
    },
    Probe,
};

#[derive(Debug)]
pub(super) struct Shell;

impl Program for Shell {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move { shell::main(&env, &NoCommands).await }.boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        Err(format!("not rehearsable: a shell has no answer to {probe:?}"))
    }

    fn exec(self: Arc<Self>, env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        async move { shell::exec(&env, &NoCommands, ask).await }.boxed()
    }
}
