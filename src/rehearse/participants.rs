//! The people of a drill in the sandbox: they do what manual steps ask, after a while.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use crate::{
    drill::{Ack, AckAction, Drill},
    random::mix,
};

/// How long somebody takes to answer, in seconds.
const SHORTEST: u64 = 5;
const LONGEST: u64 = 25;

/// Simulated participants of one drill. They are gone when this is dropped.
#[derive(Debug)]
pub struct Participants(JoinHandle<()>);

impl Participants {
    /// Answers every question with "done", 5 to 25 s after it was asked, by the drill's seed. A failed step is not answered: nobody has
    /// mended anything.
    pub fn of(drill: &Arc<Drill>) -> Self {
        let drill = Arc::clone(drill);
        Self(tokio::spawn(async move {
            let mut asked = drill.acks.asked();
            let seed = drill.plan().seed;
            let mut nth = 0_u64;
            loop {
                let question = asked.borrow_and_update().iter().find(|q| !q.failed_step).cloned();
                if let Some(question) = question {
                    nth += 1;
                    let wait = SHORTEST + mix(seed, nth) % (LONGEST - SHORTEST + 1);
                    tokio::time::sleep(Duration::from_secs(wait)).await;
                    let still = asked.borrow().iter().any(|q| q.step == question.step);
                    if still {
                        let ack = Ack { by: "simulated participant".to_owned(), action: AckAction::Done, remark: String::new() };
                        drill.acks.say(&question.step, ack).await;
                    }
                }
                if asked.changed().await.is_err() {
                    return;
                }
            }
        }))
    }
}

impl Drop for Participants {
    fn drop(&mut self) {
        self.0.abort();
    }
}
