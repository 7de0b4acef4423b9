//! What can be shared, and what it is waited for with.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

/// A wait for the operating system that needs no access to the engine.
pub trait Wait {
    /// Waits until something happens, the engine's waker is used, or the time is up.
    ///
    /// # Errors
    /// What the operating system said.
    fn wait(&mut self) -> io::Result<()>;
}

/// What is shared: it can be turned, and waited for without being held.
pub trait Turn {
    /// What a thread waits on.
    type Parking: Wait;

    /// Does whatever can be done without waiting; returns how much that was.
    ///
    /// # Errors
    /// When the operating system refuses; the engine is of no use any more then.
    fn turn(&mut self) -> io::Result<usize>;

    /// As [`Turn::turn`], for somebody who spins: it may leave out what costs much, most of the time.
    ///
    /// # Errors
    /// As [`Turn::turn`].
    fn glance(&mut self) -> io::Result<usize> {
        self.turn()
    }

    /// Prepares a wait until a time of [`Turn::now_ns`] (none: without bound); `None` when a turn is due instead.
    ///
    /// # Errors
    /// As [`Turn::turn`].
    fn park(&mut self, until_ns: Option<u64>) -> io::Result<Option<Self::Parking>>;

    /// The wait is over; a turn follows.
    fn unpark(&mut self, parking: Self::Parking);

    /// Whether what was done since the last turn needs one.
    fn wants_turn(&self) -> bool;

    /// Does what [`Turn::wants_turn`] asks for, and nothing that could still wait for more of its kind.
    ///
    /// # Errors
    /// As [`Turn::turn`].
    fn settle(&mut self) -> io::Result<()>;

    /// Whether the wait that is under way has to end earlier than it was told.
    fn is_early(&self) -> bool;

    /// As [`Turn::is_early`]; says so once.
    fn take_early(&mut self) -> bool;

    /// Whether what callers wait for often comes from other threads, soon, and so a moment of looking is cheaper than
    /// a sleep.
    fn is_patient(&self) -> bool {
        false
    }

    /// Counts what callers do by themselves without a turn: while it changes, nobody needs to lead for them.
    fn activity(&self) -> u64 {
        0
    }

    /// Whether tasks wait that nobody leads for.
    fn has_waiters(&self) -> bool;

    /// Those whose wait is over, to be woken once the lock is free.
    fn take_woken(&mut self) -> Woken;

    /// Whether there are any.
    fn has_woken(&self) -> bool;

    /// Whether an engine that is being stopped has nothing left to do.
    fn is_done(&mut self) -> bool;

    /// Nanoseconds on the engine's clock.
    fn now_ns(&self) -> u64;
}

/// Wakers to be called: one without an allocation.
#[derive(Debug, Default)]
pub struct Woken {
    first: Option<Waker>,
    rest: Vec<Waker>,
}

impl Woken {
    /// Adds one.
    pub fn push(&mut self, waker: Waker) {
        match &mut self.first {
            Some(_) => self.rest.push(waker),
            first => *first = Some(waker),
        }
    }

    /// Whether there is none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn includes(&self, waker: &Waker) -> bool {
        self.first.iter().chain(&self.rest).any(|other| other.will_wake(waker))
    }

    /// Calls all of them. Not under a lock: a waker may run code of the user's.
    pub fn wake(self) {
        for waker in self.first.into_iter().chain(self.rest) {
            // One that panics, which has been reported by then, does so at the cost of neither the others nor the
            // thread that serves them all.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}

/// What a thread does before it sleeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Idle {
    /// It never sleeps: the lowest latency, one core at 100 %.
    Spin,
    /// It looks for so many nanoseconds, then sleeps.
    SpinThenPark(u64),
    /// A caller looks for a moment where that has paid lately ([`Adaptive`](super::Adaptive)), else it sleeps at once.
    /// A Runner sleeps at once.
    Adaptive,
    /// It sleeps at once.
    #[default]
    Park,
}

impl Idle {
    /// Until when somebody who begins to wait now looks again and again: 0, a time, or `u64::MAX` for ever.
    pub fn spin_until_ns(self, now_ns: impl FnOnce() -> u64) -> u64 {
        match self {
            Self::Spin => u64::MAX,
            Self::SpinThenPark(ns) => now_ns().saturating_add(ns),
            Self::Adaptive | Self::Park => 0,
        }
    }
}

/// What a caller does while it waits; see [`Lead::wait`](super::Lead::wait).
pub trait Waiter<T> {
    /// What it waits for.
    type Output;

    /// Looks whether it is there.
    fn attempt(&mut self, engine: &mut T) -> Option<Self::Output>;

    /// Has `waker` called when another look may be worth while.
    fn enlist(&mut self, engine: &mut T, waker: &Waker);

    /// Takes that back; it may have been called already.
    fn delist(&mut self, engine: &mut T);
}
