//! Simple commands: redirections, assignments, and whom a command's name means.

use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    Ran, builtins,
    files::Files,
    io::{Fd, Input, Output},
    state::{Going, Host, Options, Shell, Stop, Variable},
    syntax::{Redirect, Stage, Target, Word},
    tools,
};

impl<'a> Shell<'a> {
    /// Redirects. False: it failed, and that was said.
    pub(super) async fn redirect(&mut self, redirects: &[Redirect]) -> Going<bool> {
        for Redirect { fd, to } in redirects {
            let opened = match to {
                Target::Here(word) => {
                    let word = word.get().cloned().unwrap_or_default();
                    Fd::In(Input::bytes(self.text(&word).await?.into_bytes()))
                }
                Target::Same(word) => {
                    let text = self.text(word).await?;
                    if text == "-" {
                        self.fds.remove(fd);
                        continue;
                    }
                    let Some(same) = text.parse().ok().and_then(|n: u32| self.fds.get(&n).cloned()) else {
                        self.say(&format!("{text}: Bad file descriptor")).await;
                        return Ok(false);
                    };
                    same
                }
                Target::Read(word) => {
                    let name = self.text(word).await?;
                    let path = self.path(&name);
                    match path.as_str() {
                        "/dev/null" => Fd::In(Input::bytes(Vec::new())),
                        "/dev/stdin" => Fd::In(self.input()),
                        _ => {
                            let Some(bytes) = self.files().read(&path) else {
                                let why = if self.files().is_folder(&path) { "Is a directory" } else { "No such file or directory" };
                                self.say(&format!("cannot open {name}: {why}")).await;
                                return Ok(false);
                            };
                            Fd::In(Input::bytes(bytes))
                        }
                    }
                }
                Target::Write(word, append) => {
                    let name = self.text(word).await?;
                    let path = self.path(&name);
                    let same = |fd: u32| self.fds.get(&fd).cloned().unwrap_or(Fd::Out(Output::Nowhere));
                    match path.as_str() {
                        "/dev/null" => Fd::Out(Output::Nowhere),
                        "/dev/stdout" => same(1),
                        "/dev/stderr" => same(2),
                        _ => {
                            if let Err(why) = self.files().write(&path, b"", *append) {
                                self.say(&format!("cannot create {name}: {why}")).await;
                                return Ok(false);
                            }
                            Fd::Out(Output::File(path))
                        }
                    }
                }
            };
            self.fds.insert(*fd, opened);
        }
        Ok(true)
    }

    pub(super) async fn simple(&mut self, assigns: &[(String, Word)], words: &[Word], redirects: &[Redirect]) -> Going<()> {
        self.substituted = None;
        let argv = self.fields(words).await?;
        if self.options.trace && !argv.is_empty() {
            let line = format!("+ {}\n", argv.join(" "));
            self.write(2, line.as_bytes()).await?;
        }
        let fds = self.fds.clone();
        let permanent = argv.first().is_some_and(|name| name == "exec");
        match self.redirect(redirects).await {
            Ok(true) => {}
            Ok(false) => {
                self.fds = fds;
                self.status = self.wrong();
                return Ok(());
            }
            Err(stop) => {
                self.fds = fds;
                return Err(stop);
            }
        }
        let ran = self.assigned(assigns, &argv).await;
        if !(permanent && argv.len() == 1) {
            self.fds = fds;
        }
        ran?;
        self.trapped().await
    }

    /// A command with its assignments, which are its own if it is not a special one of the shell.
    async fn assigned(&mut self, assigns: &[(String, Word)], argv: &[String]) -> Going<()> {
        let mut hidden: Vec<(String, Option<Variable>)> = Vec::new();
        let special = argv.first().is_none_or(|name| builtins::SPECIAL.contains(&name.as_str()));
        for (name, word) in assigns {
            let value = self.text(word).await?;
            if !special {
                hidden.push((name.clone(), self.variables.get(name).cloned()));
                self.variables.insert(name.clone(), Variable { value, exported: true });
            } else {
                self.set(name, value);
            }
        }
        let ran = if argv.is_empty() {
            // Of a command that is only assignments the last substitution's status counts.
            self.status = self.substituted.take().unwrap_or(0);
            Ok(())
        } else {
            self.command(argv).await
        };
        for (name, before) in hidden.into_iter().rev() {
            match before {
                Some(before) => drop(self.variables.insert(name, before)),
                None => drop(self.variables.remove(&name)),
            }
        }
        ran
    }

    /// Does what traps say for signals that have come.
    async fn trapped(&mut self) -> Going<()> {
        while !self.copy
            && let Some(what) = self.process.caught()
        {
            let status = self.status;
            self.script(&what).await?;
            self.status = status;
        }
        Ok(())
    }

    /// Runs a command by its name: a function, one of the shell's own, one of the model's, a small tool.
    pub(super) fn command<'s>(&'s mut self, argv: &'s [String]) -> BoxFuture<'s, Going<()>>
    where
        'a: 's,
    {
        async move {
            let Some(name) = argv.first() else { return Ok(()) };
            if let Some(body) = self.functions.get(name).cloned() {
                return self.call(&body, &argv[1..]).await;
            }
            let bare = match name.rsplit_once('/') {
                Some((folder, bare)) if folder.is_empty() || folder.ends_with("bin") => bare,
                _ => name.as_str(),
            };
            if let Some(code) = builtins::run(self, bare, &argv[1..]).await? {
                self.status = code;
                return Ok(());
            }
            let mut argv = argv.to_vec();
            bare.clone_into(&mut argv[0]);
            let code = tokio::select! {
                           biased;
                           // The signal that the shell has a trap for ends what it waits for.
                           () = self.process.until_caught(), if !self.copy => {
            self.status = 143;
            return Ok(());
            }
                           code = ran(&self.host, &self.variables, self.input(), self.files(), &argv) => code,
                       };
            let (code, stdout, stderr) = match code {
                (Some(code), stdout, stderr) => (code, stdout, stderr),
                (None, _, _) => match tools::run(self, bare, &argv[1..]).await? {
                    Some(code) => {
                        self.status = code;
                        return Ok(());
                    }
                    None => return Err(self.refuse(&format!("there is no answer to {argv:?}")).await),
                },
            };
            self.write(1, &stdout).await?;
            self.write(2, &stderr).await?;
            self.status = code;
            Ok(())
        }
        .boxed()
    }

    async fn call(&mut self, body: &Stage, args: &[String]) -> Going<()> {
        let args = std::mem::replace(&mut self.args, args.to_vec());
        self.locals.push(BTreeMap::new());
        let loops = std::mem::take(&mut self.loops);
        let ran = self.stage(body).await;
        self.loops = loops;
        self.args = args;
        for (name, before) in self.locals.pop().unwrap_or_default() {
            match before {
                Some(before) => drop(self.variables.insert(name, before)),
                None => drop(self.variables.remove(&name)),
            }
        }
        match ran {
            Err(Stop::Return(code)) => {
                self.status = code;
                Ok(())
            }
            other => other,
        }
    }

    /// Becomes another shell: `sh [options] [-c script [name [args]]]`, or a file.
    pub(super) async fn shell(&mut self, bash: bool, args: &[String]) -> Going<i32> {
        let mut child = self.child();
        // A process of its own with the same number is as good as any: nobody but itself can ask for it.
        (child.bash, child.options, child.locals, child.unchecked) = (bash, Options::default(), Vec::new(), 0);
        child.variables.retain(|_, v| v.exported);
        child.functions.clear();
        child.copy = self.copy;
        child.name = if bash { "bash".to_owned() } else { "sh".to_owned() };
        let mut rest = args.iter();
        let mut text = None;
        let mut inline = false;
        while let Some(arg) = rest.as_slice().first() {
            let Some(flags) = arg.strip_prefix('-').filter(|f| !f.is_empty()) else { break };
            rest.next();
            if flags == "-" {
                break;
            }
            for flag in flags.chars() {
                match flag {
                    'c' => inline = true,
                    'o' => {
                        let name = rest.next().cloned().unwrap_or_default();
                        if !child.option(&name, true) {
                            return Err(self.refuse(&format!("option -o {name} of the shell")).await);
                        }
                    }
                    'l' | 'i' => {}
                    flag => {
                        if !child.flag(flag, true) {
                            return Err(self.refuse(&format!("option -{flag} of the shell")).await);
                        }
                    }
                }
            }
        }
        if inline {
            text = rest.next().cloned();
            if let Some(name) = rest.next() {
                child.name.clone_from(name);
            }
        } else if let Some(file) = rest.next() {
            child.name.clone_from(file);
            let Some(bytes) = self.files().read(&self.path(file)) else {
                self.say(&format!("{file}: No such file or directory")).await;
                return Ok(127);
            };
            text = Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        child.args = rest.cloned().collect();
        let text = match text {
            Some(text) => text,
            None if inline => return Ok(2),
            None => String::from_utf8_lossy(&self.input().all().await).into_owned(),
        };
        let ran = child.script(&text).await;
        let code = child.leave(ran).await;
        self.after(&child);
        code
    }
}

/// Runs a command of the model's.
async fn ran(
    host: &Host<'_>,
    variables: &BTreeMap<String, Variable>,
    input: Arc<Input>,
    files: Files,
    argv: &[String],
) -> (Option<i32>, Vec<u8>, Vec<u8>) {
    let vars: BTreeMap<String, String> =
        variables.iter().filter(|(_, v)| v.exported).map(|(name, v)| (name.clone(), v.value.clone())).collect();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let stdin = input.made().await;
    // What it does not take is still there for the tool of the same name.
    let kept = stdin.clone();
    let ran = Ran { argv, vars: &vars, stdin, stdout: &mut stdout, stderr: &mut stderr, files: &files };
    let code = host.commands.run(ran).await;
    if code.is_none() && !kept.is_empty() {
        input.give_back(kept).await;
    }
    (code, stdout, stderr)
}
