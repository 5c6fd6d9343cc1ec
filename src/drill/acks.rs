//! Word from people: acknowledgements of manual steps, approvals, decisions on a failed runbook step.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::{Mutex, watch};

use crate::{clock::Clock, journal::InboxItem, scenario::types::Dur};

/// What a person said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Who.
    pub by: String,
    /// What.
    pub action: AckAction,
    /// A remark or a reason.
    pub remark: String,
}

/// What a person can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckAction {
    /// Done, or agreed.
    Done,
    /// Not done, or not agreed.
    Refused,
    /// Try the failed step again.
    Retry,
    /// Go on without it.
    Skip,
}

impl AckAction {
    /// As it is written in the inbox and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Retry => "retry",
            Self::Skip => "skip",
        }
    }

    /// From what is written there.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Done, Self::Refused, Self::Retry, Self::Skip].into_iter().find(|action| action.as_str() == word)
    }
}

/// The inbox key of a step: `ack.3.1`, and `ack.3.1-2` for the third manual item of a runbook (`3.1#2`).
pub fn ack_key(step: &str) -> String {
    format!("ack.{}", step.replace('#', "-"))
}

/// The key beside the inbox's items under which the runner shows what it asks now.
pub(super) const ASKED: &str = "asked";

/// What is asked, for the inbox.
pub(super) fn to_item(by: &str, asked: &[Question]) -> InboxItem {
    // Nothing in a question fails to serialize.
    InboxItem { by: by.to_owned(), action: "asks".to_owned(), remark: serde_json::to_string(asked).unwrap_or_default() }
}

/// What a runner asks now, out of its drill's inbox.
pub fn asked_in(items: &BTreeMap<String, InboxItem>) -> Vec<Question> {
    // What cannot be read was not written by a runner.
    items.get(ASKED).and_then(|item| serde_json::from_str(&item.remark).ok()).unwrap_or_default()
}

/// What people said, by step, and what is being asked.
#[derive(Clone, Debug)]
pub struct Acks {
    said: Arc<Mutex<BTreeMap<String, Ack>>>,
    /// What was answered. Whatever else was said to that question does not answer the next one of the same step.
    answered: Arc<Mutex<BTreeSet<String>>>,
    changed: watch::Sender<u64>,
    asked: watch::Sender<Vec<Question>>,
    /// `--auto-ack`: every question is answered with "done" at once, which the caller records as a deviation.
    pub auto: bool,
    clock: Clock,
}

/// Something a person is asked now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// The step, as `firedrill ack` takes it.
    pub step: String,
    /// What.
    pub text: String,
    /// Whether `retry` and `skip` are answers too.
    pub failed_step: bool,
}

/// A question that is asked until this is dropped, also by an abort that ends the wait.
struct Asking<'a> {
    asked: &'a watch::Sender<Vec<Question>>,
    question: Question,
}

impl<'a> Asking<'a> {
    fn new(asked: &'a watch::Sender<Vec<Question>>, question: Question) -> Self {
        asked.send_modify(|all| all.push(question.clone()));
        Self { asked, question }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.asked.send_modify(|all| all.retain(|question| question != &self.question));
    }
}

impl Acks {
    /// Nothing said yet.
    pub fn new(auto: bool, clock: Clock) -> Self {
        Self {
            said: Arc::default(),
            answered: Arc::default(),
            changed: watch::Sender::new(0),
            asked: watch::Sender::new(Vec::new()),
            auto,
            clock,
        }
    }

    /// What is being asked now, for a prompt.
    pub fn asked(&self) -> watch::Receiver<Vec<Question>> {
        self.asked.subscribe()
    }

    /// Somebody said something about a step.
    pub async fn say(&self, step: &str, ack: Ack) {
        self.said.lock().await.insert(ack_key(step), ack);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Takes what came in through the inbox. Gives the keys that were understood.
    pub async fn deliver(&self, items: &BTreeMap<String, InboxItem>) -> Vec<String> {
        let mut taken = Vec::new();
        for (key, item) in items.iter().filter(|(key, _)| key.starts_with("ack.")) {
            if let Some(action) = AckAction::from_word(&item.action) {
                let ack = Ack { by: item.by.clone(), action, remark: item.remark.clone() };
                self.said.lock().await.insert(key.clone(), ack);
                taken.push(key.clone());
            }
        }
        if !taken.is_empty() {
            self.changed.send_modify(|n| *n += 1);
        }
        taken
    }

    /// Waits until somebody says something about a step; `None` when `within` has passed.
    pub async fn wait(&self, question: Question, within: Option<Dur>) -> Option<Ack> {
        if self.auto {
            return Some(Ack { by: crate::journal::AUTO_ACK.to_owned(), action: AckAction::Done, remark: String::new() });
        }
        let key = ack_key(&question.step);
        if self.answered.lock().await.remove(&key) {
            self.said.lock().await.remove(&key);
        }
        let deadline_us = within.map(|w| self.clock.now().mono_us.saturating_add(i64::try_from(w.as_micros()).unwrap_or(i64::MAX)));
        let _asking = Asking::new(&self.asked, question);
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(ack) = self.said.lock().await.remove(&key) {
                self.answered.lock().await.insert(key);
                return Some(ack);
            }
            let left = deadline_us.map(|d| u64::try_from(d - self.clock.now().mono_us).unwrap_or(0));
            if left == Some(0) {
                return None;
            }
            // Without `within` the drill's own time limit ends this wait.
            let pause = Dur::from_micros(left.unwrap_or(60_000_000)).0;
            tokio::select! {
                biased;
                _ = changed.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(by: &str) -> Ack {
        Ack { by: by.to_owned(), action: AckAction::Done, remark: String::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn two_answers_to_one_question_are_not_answers_to_two() {
        let acks = Acks::new(false, Clock::virtual_at("test", 0));
        let question = || Question { step: "3".to_owned(), text: "failed over?".to_owned(), failed_step: true };
        // Before it is asked, a word is an answer.
        acks.say("3", done("jane")).await;
        assert_eq!(acks.wait(question(), Some(Dur::from_secs(1))).await, Some(done("jane")));
        acks.say("3", done("joe")).await;
        assert_eq!(acks.wait(question(), Some(Dur::from_secs(1))).await, None);
        acks.say("3", done("joe")).await;
        assert_eq!(acks.wait(question(), Some(Dur::from_secs(1))).await, Some(done("joe")));
    }
}
