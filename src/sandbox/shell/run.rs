//! Runs what was parsed.

use std::sync::{Arc, PoisonError};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::watch;

use super::{
    expand,
    io::{Fd, Input, Output},
    parse,
    state::{Going, Shell, Stop},
    syntax::{AndOr, Command, List, Pipeline, Stage},
};

/// How deep lists of commands may be nested: in loops, functions, substitutions, scripts. Each takes some 110 KiB of stack in an
/// unoptimised build, and a thread of a test has 2 MiB.
const DEEPEST: u32 = 14;
impl<'a> Shell<'a> {
    /// A copy for what a real shell would run in a process of its own.
    pub(super) fn child(&self) -> Self {
        Self { copy: true, at_exit: None, loops: 0, ..self.clone() }
    }

    /// What a copy used up counts for the whole.
    pub(super) fn after(&mut self, child: &Self) {
        (self.steps, self.steps_at) = (child.steps, child.steps_at);
    }

    /// Runs a copy to its end. Its exit code.
    async fn ended(&mut self, mut child: Self, list: &List) -> Going<i32> {
        let ran = child.list(list).await;
        let code = child.leave(ran).await;
        self.after(&child);
        code
    }

    /// A shell's end: what `trap … EXIT` says, and the exit code.
    pub(super) async fn leave(&mut self, ran: Going<()>) -> Going<i32> {
        let code = match ran {
            Ok(()) | Err(Stop::Break(_) | Stop::Continue(_)) => self.status,
            Err(Stop::Exit(code) | Stop::Return(code)) => code,
            Err(refused) => return Err(refused),
        };
        let Some(what) = self.at_exit.take() else { return Ok(code) };
        self.status = code;
        match self.script(&what).await {
            Err(Stop::Exit(code)) => Ok(code),
            Err(refused @ Stop::Refused(_)) => Err(refused),
            _ => Ok(code),
        }
    }

    /// Parses and runs text.
    pub(super) async fn script(&mut self, text: &str) -> Going<()> {
        match parse::parse(text) {
            Ok(list) => self.list(&list).await,
            Err(why) => Err(self.refuse(&format!("the script: {why}")).await),
        }
    }

    /// What a command substitution comes to.
    pub(super) async fn output(&mut self, list: &Arc<List>) -> Going<String> {
        let (output, kept) = Output::kept();
        let mut child = self.child();
        child.fds.insert(1, Fd::Out(output));
        self.status = self.ended(child, list).await?;
        self.substituted = Some(self.status);
        let bytes = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
        let text = String::from_utf8_lossy(&bytes).replace('\0', "");
        Ok(text.trim_end_matches('\n').to_owned())
    }

    pub(super) fn list<'s>(&'s mut self, list: &'s List) -> BoxFuture<'s, Going<()>>
    where
        'a: 's,
    {
        async move {
            if self.depth >= DEEPEST {
                return Err(self.refuse(&format!("commands nested more than {DEEPEST} deep")).await);
            }
            self.depth += 1;
            let mut ran = Ok(());
            for item in list {
                ran = if item.background { self.in_background(Arc::clone(&item.what)).await } else { self.and_or(&item.what).await };
                if ran.is_err() {
                    break;
                }
            }
            self.depth -= 1;
            ran
        }
        .boxed()
    }

    async fn in_background(&mut self, what: Arc<AndOr>) -> Going<()> {
        let Some(running) = self.host.space.start(Some(&self.process)) else { return Err(self.refuse("too many processes").await) };
        let pid = running.process.pid;
        let mut child = self.child();
        child.fds.insert(0, Fd::In(Input::bytes(Vec::new())));
        let (done, ended) = watch::channel(None);
        let refused = Arc::clone(&self.host.refused);
        let job = async move {
            let ran = async {
                let ran = child.and_or(&what).await;
                child.leave(ran).await
            };
            let code = tokio::select! {
                biased;
                code = running.process.ended() => Ok(code),
                code = ran => code,
            };
            match code {
                Ok(code) => drop(done.send_replace(Some(code))),
                Err(Stop::Refused(why)) => drop(refused.set(why)),
                Err(_) => drop(done.send_replace(Some(1))),
            }
        };
        if self.host.jobs.try_send(job.boxed()).is_err() {
            return Err(self.refuse("too many commands in the background").await);
        }
        self.jobs.insert(pid, ended);
        self.background = Some(pid);
        self.status = 0;
        Ok(())
    }

    pub(super) fn and_or<'s>(&'s mut self, what: &'s AndOr) -> BoxFuture<'s, Going<()>>
    where
        'a: 's,
    {
        async move {
            let last = what.rest.len();
            self.pipeline(&what.first, last > 0).await?;
            for (n, (and, pipeline)) in what.rest.iter().enumerate() {
                if *and == (self.status == 0) {
                    self.pipeline(pipeline, n + 1 < last).await?;
                }
            }
            Ok(())
        }
        .boxed()
    }

    /// `unchecked`: its failure is dealt with by what follows.
    async fn pipeline(&mut self, pipeline: &Pipeline, unchecked: bool) -> Going<()> {
        let unchecked = u32::from(unchecked || pipeline.not);
        self.unchecked += unchecked;
        let ran = self.stages(&pipeline.stages).await;
        self.unchecked -= unchecked;
        ran?;
        if pipeline.not {
            self.status = i32::from(self.status == 0);
            return Ok(());
        }
        // What a group or a loop ends with was looked at within it.
        let checked = pipeline.stages.len() > 1
            || matches!(pipeline.stages.first().map(|s| &s.command), Some(Command::Simple { .. } | Command::Subshell(_)));
        if self.status != 0 && checked && unchecked == 0 && self.unchecked == 0 && self.options.exit {
            return Err(Stop::Exit(self.status));
        }
        Ok(())
    }

    /// The commands of a pipeline, one after the other: each reads what the one before has written.
    async fn stages(&mut self, stages: &[Stage]) -> Going<()> {
        let [first, rest @ ..] = stages else { return Ok(()) };
        if rest.is_empty() {
            return self.stage(first).await;
        }
        let mut input = None;
        let mut failed = 0;
        for (n, stage) in stages.iter().enumerate() {
            let mut child = self.child();
            if let Some(bytes) = input.take() {
                child.fds.insert(0, Fd::In(Input::bytes(bytes)));
            }
            let (output, kept) = Output::kept();
            if n + 1 < stages.len() {
                child.fds.insert(1, Fd::Out(output));
            }
            let ran = child.stage(stage).await;
            let code = child.leave(ran).await;
            self.after(&child);
            self.status = code?;
            if self.status != 0 {
                failed = self.status;
            }
            input = Some(std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner)));
        }
        if self.options.pipe_fail {
            self.status = failed;
        }
        Ok(())
    }

    pub(super) fn stage<'s>(&'s mut self, stage: &'s Stage) -> BoxFuture<'s, Going<()>>
    where
        'a: 's,
    {
        async move {
            self.step().await?;
            if let Command::Simple { assigns, words } = &stage.command {
                return self.simple(assigns, words, &stage.redirects).await;
            }
            let before = self.fds.clone();
            let ran = match self.redirect(&stage.redirects).await {
                Ok(true) => self.compound(&stage.command).await,
                Ok(false) => {
                    self.status = self.wrong();
                    Ok(())
                }
                Err(stop) => Err(stop),
            };
            self.fds = before;
            ran
        }
        .boxed()
    }

    async fn compound(&mut self, command: &Command) -> Going<()> {
        match command {
            Command::Simple { .. } => Ok(()),
            Command::Group(list) => self.list(list).await,
            Command::Subshell(list) => {
                let child = self.child();
                self.status = self.ended(child, list).await?;
                Ok(())
            }
            Command::If(branches, other) => {
                for (condition, then) in branches {
                    if self.holds(condition).await? {
                        return self.list(then).await;
                    }
                }
                self.status = 0;
                match other {
                    Some(other) => self.list(other).await,
                    None => Ok(()),
                }
            }
            Command::While { until, condition, body } => {
                let mut status = 0;
                loop {
                    self.step().await?;
                    self.loops += 1;
                    let holds = self.holds(condition).await;
                    let ran = match holds {
                        Ok(holds) if holds == *until => {
                            self.loops -= 1;
                            self.status = status;
                            return Ok(());
                        }
                        Ok(_) => self.list(body).await,
                        Err(stop) => Err(stop),
                    };
                    self.loops -= 1;
                    if !looped(ran)? {
                        self.status = 0;
                        return Ok(());
                    }
                    status = self.status;
                }
            }
            Command::For { name, words, body } => {
                let words = match words {
                    Some(words) => self.fields(words).await?,
                    None => self.args.clone(),
                };
                self.status = 0;
                for word in words {
                    self.set(name, word);
                    self.loops += 1;
                    let ran = self.list(body).await;
                    self.loops -= 1;
                    if !looped(ran)? {
                        self.status = 0;
                        return Ok(());
                    }
                }
                Ok(())
            }
            Command::Case { word, arms } => {
                let text = self.text(word).await?;
                for (patterns, body) in arms {
                    for pattern in patterns {
                        let pattern = self.pattern(pattern).await?;
                        if expand::matches(&pattern, &text) {
                            self.status = 0;
                            return self.list(body).await;
                        }
                    }
                }
                self.status = 0;
                Ok(())
            }
            Command::Function { name, body } => {
                self.functions.insert(name.clone(), Arc::clone(body));
                self.status = 0;
                Ok(())
            }
        }
    }

    async fn holds(&mut self, condition: &List) -> Going<bool> {
        self.unchecked += 1;
        let ran = self.list(condition).await;
        self.unchecked -= 1;
        ran.map(|()| self.status == 0)
    }
}

/// Whether a loop goes on.
fn looped(ran: Going<()>) -> Going<bool> {
    match ran {
        Ok(()) | Err(Stop::Continue(1)) => Ok(true),
        Err(Stop::Break(1)) => Ok(false),
        Err(Stop::Break(n)) => Err(Stop::Break(n - 1)),
        Err(Stop::Continue(n)) => Err(Stop::Continue(n - 1)),
        Err(stop) => Err(stop),
    }
}
