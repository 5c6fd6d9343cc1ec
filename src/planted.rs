//! Bugs on purpose, to see that the checkers of the simulation tests find such. Debug builds alone: a release build has nothing of
//! this.

use std::cell::Cell;

/// A bug of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The first fault's revert is said to be done, and is not.
    SkipRevert,
    /// The fault is injected, and its intent written afterwards.
    InjectBeforeIntent,
    /// A measured recovery time has its lower end for its upper.
    DropUpperEnd,
    /// `limits` are not looked at.
    IgnoreLimits,
    /// A runner goes on as if its Leases were its own.
    ActAfterFencing,
}

thread_local! {
    static NOW: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// From now on the drills of this thread have this bug, or none.
pub fn plant(bug: Option<Bug>) {
    NOW.set(bug);
}

/// Whether this thread's drills have it.
pub(crate) fn is(bug: Bug) -> bool {
    NOW.get() == Some(bug)
}
