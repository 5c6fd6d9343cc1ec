//! What holds a program: while it is frozen, nothing of it is polled; when it is gone, all of it is dropped.
//!
//! That is SIGSTOP as a program sees it: timers that ran out and bytes that arrived meanwhile are found when it goes on.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::future::BoxFuture;

#[derive(Debug, Default)]
struct State {
    /// SIGSTOP.
    stopped: bool,
    /// Its node does not move.
    node_frozen: bool,
    gone: bool,
    /// Of those that are behind it, by their numbers.
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

/// Of one run of a container.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<State>);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, how: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        how(&mut state);
        let opens = state.gone || !(state.stopped || state.node_frozen);
        let waiting = if opens { std::mem::take(&mut state.waiting) } else { BTreeMap::new() };
        drop(state);
        waiting.into_values().for_each(Waker::wake);
    }

    /// SIGSTOP and SIGCONT.
    pub(super) fn stop(&self, stopped: bool) {
        self.change(|state| state.stopped = stopped);
    }

    /// Its node freezes, or goes on.
    pub(super) fn freeze_node(&self, frozen: bool) {
        self.change(|state| state.node_frozen = frozen);
    }

    /// It has ended for good.
    pub(super) fn close(&self) {
        self.change(|state| state.gone = true);
    }

    /// A future that is held by the gate; `None` when the gate has closed before its end.
    pub(super) fn through<T>(self: &Arc<Self>, inner: BoxFuture<'static, T>) -> Gated<T> {
        let mut state = self.lock();
        state.next += 1;
        Gated { id: state.next, gate: Arc::clone(self), inner: Some(inner) }
    }
}

/// See [`Gate::through`].
pub(super) struct Gated<T> {
    id: u64,
    gate: Arc<Gate>,
    inner: Option<BoxFuture<'static, T>>,
}

impl<T> Future for Gated<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        {
            let mut state = self.gate.lock();
            if state.gone {
                drop(state);
                self.inner = None;
                return Poll::Ready(None);
            }
            // Always, because it may be closed while the inner one waits for something else.
            state.waiting.insert(self.id, cx.waker().clone());
            if state.stopped || state.node_frozen {
                return Poll::Pending;
            }
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        inner.as_mut().poll(cx).map(Some)
    }
}

impl<T> Drop for Gated<T> {
    fn drop(&mut self) {
        self.gate.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_goes_on_where_it_was_and_what_is_gone_is_dropped() {
        let start = Instant::now();
        let gate = Arc::new(Gate::default());
        let program = async move {
            sleep(Duration::from_secs(1)).await;
            let first = start.elapsed();
            sleep(Duration::from_secs(1)).await;
            (first, start.elapsed())
        };
        let task = tokio::spawn(gate.through(Box::pin(program)));
        sleep(Duration::from_millis(500)).await;
        gate.stop(true);
        sleep(Duration::from_secs(9)).await;
        gate.stop(false);
        let (first, second) = task.await.unwrap().unwrap();
        assert!((9500..9600).contains(&first.as_millis()), "a timer that ran out meanwhile fires when it goes on: {first:?}");
        assert!((10500..10600).contains(&second.as_millis()), "{second:?}");
        let task = tokio::spawn(gate.through(Box::pin(std::future::pending::<()>())));
        sleep(Duration::from_secs(1)).await;
        gate.stop(true);
        gate.close();
        assert_eq!(task.await.unwrap(), None, "also one that is held");
    }
}
