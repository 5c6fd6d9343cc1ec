//! A process within this one: tasks that are held and ended together, as SIGSTOP, SIGCONT and SIGKILL do it to a runner of its own.
//! Simulations run several runners in one thread, and let them sleep and die at any point at which they wait.
//!
//! What a runner starts beside itself belongs to it by [`own`], which does nothing where there is no gate.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

tokio::task_local! {
    /// Whose task is being polled.
    static MINE: Gate;
}

/// Holds, ends and counts the polls of the tasks that belong to it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    held: bool,
    dead: bool,
    polls: u64,
    /// At this poll it dies.
    last: Option<u64>,
    tasks: u64,
    /// Who to wake when it goes on or dies.
    wakers: BTreeMap<u64, Waker>,
    /// Who to wake when it has died.
    mourners: Vec<Waker>,
}

impl Inner {
    fn die(&mut self) -> Vec<Waker> {
        self.dead = true;
        std::mem::take(&mut self.wakers).into_values().chain(std::mem::take(&mut self.mourners)).collect()
    }
}

impl Gate {
    /// An open gate.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A future that belongs to it. Once the gate is dead, what is left of the future is dropped and it never ends.
    pub fn hold<F: Future>(&self, future: F) -> Gated<F> {
        let task = {
            let mut inner = self.lock();
            inner.tasks += 1;
            inner.tasks
        };
        Gated { future: Some(Box::pin(future)), gate: Some((self.clone(), task)) }
    }

    /// Polls nothing from now on, as SIGSTOP. Timers that run out meanwhile are seen when it goes on.
    pub fn stop(&self) {
        self.lock().held = true;
    }

    /// Goes on, as SIGCONT.
    pub fn go_on(&self) {
        let wakers: Vec<Waker> = {
            let mut inner = self.lock();
            inner.held = false;
            inner.wakers.values().cloned().collect()
        };
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Drops all that belongs to it, as SIGKILL.
    pub fn kill(&self) {
        let wakers = self.lock().die();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Dies in place of the poll of this number, counted from 1 over all its tasks.
    pub fn kill_at(&self, poll: u64) {
        self.lock().last = Some(poll);
    }

    /// How often its tasks were polled so far.
    pub fn polls(&self) -> u64 {
        self.lock().polls
    }

    /// Whether it was killed.
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Resolves when it is dead.
    pub async fn dead(&self) {
        std::future::poll_fn(|cx| {
            let mut inner = self.lock();
            if inner.dead {
                return Poll::Ready(());
            }
            if !inner.mourners.iter().any(|waker| waker.will_wake(cx.waker())) {
                inner.mourners.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// The process that the calling task belongs to has `future` too; nothing happens to it where there is none.
pub fn own<F: Future>(future: F) -> Gated<F> {
    match MINE.try_with(Gate::clone) {
        Ok(gate) => gate.hold(future),
        Err(_) => Gated { future: Some(Box::pin(future)), gate: None },
    }
}

/// A future behind a gate.
pub struct Gated<F: Future> {
    future: Option<Pin<Box<F>>>,
    gate: Option<(Gate, u64)>,
}

impl<F: Future> std::fmt::Debug for Gated<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gated").field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl<F: Future> Drop for Gated<F> {
    fn drop(&mut self) {
        if let Some((gate, task)) = &self.gate {
            let waker = gate.lock().wakers.remove(task);
            drop(waker);
        }
    }
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let Some(future) = &mut this.future else { return Poll::Pending };
        let Some((gate, task)) = &this.gate else { return future.as_mut().poll(cx) };
        let (dead, killed) = {
            let mut inner = gate.lock();
            if !inner.dead && !inner.held {
                inner.polls += 1;
            }
            let killed = if inner.last.is_some_and(|last| inner.polls >= last) && !inner.dead { inner.die() } else { Vec::new() };
            if !inner.dead && !inner.wakers.get(task).is_some_and(|waker| waker.will_wake(cx.waker())) {
                inner.wakers.insert(*task, cx.waker().clone());
            }
            if inner.held && !inner.dead {
                return Poll::Pending;
            }
            (inner.dead, killed)
        };
        killed.into_iter().for_each(Waker::wake);
        if dead {
            // What it holds may want to look at the gate as it goes: not under its lock.
            this.future = None;
            return Poll::Pending;
        }
        MINE.sync_scope(gate.clone(), || future.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_goes_on_late_and_so_does_what_it_started() {
        let gate = Gate::new();
        let began = Instant::now();
        let running = tokio::spawn(gate.hold(async move {
            let child = tokio::spawn(own(async move {
                sleep(Duration::from_secs(2)).await;
                began.elapsed()
            }));
            sleep(Duration::from_secs(1)).await;
            (began.elapsed(), child.await.unwrap())
        }));
        sleep(Duration::from_millis(1500)).await;
        gate.stop();
        sleep(Duration::from_secs(8)).await;
        assert!(!running.is_finished());
        gate.go_on();
        let (own_time, child) = running.await.unwrap();
        assert_eq!((own_time, child), (Duration::from_secs(1), Duration::from_millis(9500)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_killed_is_dropped_with_what_it_started() {
        struct Told(Arc<Mutex<u32>>);
        impl Drop for Told {
            fn drop(&mut self) {
                *self.0.lock().unwrap() += 1;
            }
        }
        for at_poll in [false, true] {
            let (gate, dropped) = (Gate::new(), Arc::new(Mutex::new(0)));
            let told = |_: ()| Told(Arc::clone(&dropped));
            let (one, two) = (told(()), told(()));
            let running = tokio::spawn(gate.hold(async move {
                let _one = one;
                tokio::spawn(own(async move {
                    let _two = two;
                    std::future::pending::<()>().await;
                }));
                loop {
                    sleep(Duration::from_secs(1)).await;
                }
            }));
            if at_poll {
                gate.kill_at(5);
            } else {
                sleep(Duration::from_millis(2500)).await;
                gate.kill();
            }
            timeout(Duration::from_secs(60), gate.dead()).await.unwrap();
            sleep(Duration::from_millis(1)).await;
            assert_eq!(*dropped.lock().unwrap(), 2);
            assert!(!running.is_finished(), "a process that was killed returns nothing");
            running.abort();
            if at_poll {
                assert_eq!(gate.polls(), 5);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_can_be_killed() {
        let (gate, told) = (Gate::new(), Arc::new(()));
        let held = Arc::clone(&told);
        let running = tokio::spawn(gate.hold(async move {
            let _held = held;
            std::future::pending::<()>().await;
        }));
        sleep(Duration::from_secs(1)).await;
        gate.stop();
        gate.kill();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&told), 1, "it is dropped");
        running.abort();
    }

    #[tokio::test]
    async fn without_a_gate_nothing_happens() {
        assert_eq!(own(async { 7 }).await, 7);
    }
}
