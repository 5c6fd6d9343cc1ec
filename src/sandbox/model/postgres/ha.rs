//! What a member does when it is its turn: it leads, follows, or takes over (`patroni.ha`).

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    super::super::control::look::micro_time,
    dcs::{Failed, View},
    knobs::Synchronous,
    member::{Following, Member, PROMOTE_US, RETRY},
    replicate::{self, Ended},
    rest,
    server::{Files, lock},
};

impl Member {
    /// Renews the lock, and sees to the synchronous replica.
    pub(super) async fn lead(&self, view: &View) {
        let Some(server) = self.server() else { return };
        let lsn = lock(&server.files).past.lsn;
        let start = Instant::now();
        loop {
            match self.dcs.hold(view, &self.own(), lsn, &micro_time(self.env.now_us()), self.knobs().ttl).await {
                Ok(()) => break,
                // The next turn sees who it was.
                Err(Failed::Conflict) => return,
                Err(Failed::Away(why)) if start.elapsed() >= RETRY => {
                    self.env.say(&format!("demoting self because the lock could not be renewed: {why}"));
                    return self.demote();
                }
                Err(Failed::Away(_)) => sleep(Duration::from_millis(500)).await,
            }
        }
        if self.knobs().synchronous == Synchronous::Off {
            return server.set_synchronous(Vec::new());
        }
        let streaming = server.followers();
        let current = view.synchronous.as_deref().and_then(|name| streaming.iter().find(|f| f.name == name));
        let best = streaming.iter().max_by(|a, b| a.flushed.cmp(&b.flushed).then_with(|| b.name.cmp(&a.name)));
        match current.or(best) {
            Some(chosen) => {
                // Commits wait for it before anybody may take it for safe.
                server.set_synchronous(vec![chosen.name.clone()]);
                if chosen.flushed >= lsn || current.is_some() {
                    self.say_synchronous(view, Some(&chosen.name)).await;
                }
            }
            // Nobody may take a replica for safe before commits stop to wait for it.
            None => {
                if self.say_synchronous(view, None).await {
                    server.set_synchronous(Vec::new());
                }
            }
        }
    }

    async fn say_synchronous(&self, view: &View, name: Option<&str>) -> bool {
        match self.dcs.set_synchronous(view, self.env.name(), name).await {
            Ok(()) => true,
            Err(why) => {
                self.env.say(&format!("failed to say which replica is synchronous: {why:?}"));
                false
            }
        }
    }

    pub(super) async fn promote(&self, view: &View, why: &str) {
        let Some(server) = self.server() else { return };
        if let Some(following) = lock(&self.following).take() {
            following.stop.cancel();
        }
        sleep(self.draw("promote", PROMOTE_US)).await;
        self.say_synchronous(view, None).await;
        lock(&server.files).promote(self.env.now_us());
        server.touch();
        self.led(&format!("promoted self to leader because {why}"));
    }

    pub(super) fn led(&self, why: &str) {
        let shown = self.shown();
        self.env.say(why);
        self.env.truth("primary", json!({"timeline": shown.timeline, "lsn": shown.lsn}));
    }

    pub(super) async fn follow(self: &Arc<Self>, view: &View, files: &Files) {
        if *lock(&self.diverged) {
            self.env.say("running pg_rewind");
            return self.copy(view).await;
        }
        let Some(leader) = view.member(&view.leader) else { return };
        if lock(&self.following).as_ref().is_some_and(|f| f.leader == leader.address) {
            return;
        }
        let stop = CancellationToken::new();
        let before = lock(&self.following).replace(Following { leader: leader.address.clone(), stop: stop.clone() });
        if let Some(before) = before {
            before.stop.cancel();
        }
        let (env, files, diverged) = (self.env.clone(), Arc::clone(files), Arc::clone(&self.diverged));
        let (received, replayed, address) = (self.received.clone(), self.replayed.clone(), leader.address.clone());
        self.env.spawn(async move {
            let stream = async {
                loop {
                    let ended =
                        replicate::follow(env.dialer(), &address, env.name(), env.ip(), &files, &received, replayed.subscribe()).await;
                    if ended == Ended::Diverged {
                        *lock(&diverged) = true;
                        return;
                    }
                    sleep(Duration::from_secs(1)).await;
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = stream => {}
            }
        });
    }

    /// Takes the lock that nobody has, if nobody else should.
    pub(super) async fn race(&self, view: &View) {
        let name = self.env.name();
        if self.knobs().never_leads || !view.may_lead(name) {
            return;
        }
        let Some(server) = self.server() else { return };
        let lsn = lock(&server.files).past.lsn;
        let others = view.members.iter().filter(|member| member.name != name);
        let answers = futures::future::join_all(others.map(|peer| rest::ask(&self.env, peer))).await;
        let better = |answer: &rest::Answer| answer.leads || (answer.lsn > lsn && view.may_lead(&answer.name));
        if answers.into_iter().flatten().any(|answer| better(&answer)) {
            return;
        }
        match self.dcs.hold(view, &self.own(), lsn, &micro_time(self.env.now_us()), self.knobs().ttl).await {
            Ok(()) => {
                *lock(&self.locked) = true;
                if self.is_primary() {
                    self.led("acquired session lock as a leader");
                } else {
                    self.promote(view, "I acquired the session lock").await;
                }
            }
            Err(why) => self.env.say(&format!("could not acquire lock: {why:?}")),
        }
    }
}
