//! The traits of a shared engine and of the waits for it.

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
    /// The operating system's error.
    fn wait(&mut self) -> io::Result<()>;
}

/// An engine that threads share: they can turn it, and wait for it without holding it.
pub trait Turn {
    /// The object that a thread waits on.
    type Parking: Wait;

    /// Does all work that needs no waiting; returns how much that was.
    ///
    /// # Errors
    /// When the operating system refuses; the engine is unusable then.
    fn turn(&mut self) -> io::Result<usize>;

    /// As [`Turn::turn`], for a thread that spins: it may leave out expensive work most of the time.
    ///
    /// # Errors
    /// As [`Turn::turn`].
    fn glance(&mut self) -> io::Result<usize> {
        self.turn()
    }

    /// Prepares a wait until a time of [`Turn::now_ns`] (`None`: without bound). Returns `None` when a turn is due
    /// instead.
    ///
    /// # Errors
    /// As [`Turn::turn`].
    fn park(&mut self, until_ns: Option<u64>) -> io::Result<Option<Self::Parking>>;

    /// Ends a wait; a turn follows.
    fn unpark(&mut self, parking: Self::Parking);

    /// Whether the operations since the last turn need one.
    fn wants_turn(&self) -> bool;

    /// Does the work behind [`Turn::wants_turn`], but none that could still wait for more of its kind.
    ///
    /// # Errors
    /// As [`Turn::turn`].
    fn settle(&mut self) -> io::Result<()>;

    /// Whether the current wait has to end before its time.
    fn is_early(&self) -> bool;

    /// As [`Turn::is_early`], but returns `true` only once.
    fn take_early(&mut self) -> bool;

    /// Whether other threads often and soon bring what callers wait for, so that looking for a moment is cheaper than a
    /// sleep.
    fn is_patient(&self) -> bool {
        false
    }

    /// Counts what callers do without a turn. While the count changes, the Runner need not lead for them.
    fn activity(&self) -> u64 {
        0
    }

    /// Whether tasks wait. A task cannot lead.
    fn has_waiters(&self) -> bool;

    /// Takes the wakers of the waits that are over. The caller calls them once the lock is released.
    fn take_woken(&mut self) -> Woken;

    /// Whether there are any such wakers.
    fn has_woken(&self) -> bool;

    /// Whether an engine that is being stopped has nothing left to do.
    fn is_done(&mut self) -> bool;

    /// Nanoseconds on the engine's clock.
    fn now_ns(&self) -> u64;
}

/// Wakers to be called. The first one needs no allocation.
#[derive(Debug, Default)]
pub struct Woken {
    first: Option<Waker>,
    rest: Vec<Waker>,
}

impl Woken {
    /// Adds a waker.
    pub fn push(&mut self, waker: Waker) {
        match &mut self.first {
            Some(_) => self.rest.push(waker),
            first => *first = Some(waker),
        }
    }

    /// Whether there are no wakers.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn includes(&self, waker: &Waker) -> bool {
        self.first.iter().chain(&self.rest).any(|other| other.will_wake(waker))
    }

    /// Calls all wakers. The caller must not hold a lock: a waker may run the user's code.
    pub fn wake(self) {
        for waker in self.first.into_iter().chain(self.rest) {
            // A waker that panics must affect neither the other wakers nor the thread that serves them all. The panic
            // has been reported by then.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}

/// How long a thread looks for its output before it sleeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Idle {
    /// Never sleep: the lowest latency, one core at 100 %.
    Spin,
    /// Look for so many nanoseconds, then sleep.
    SpinThenPark(u64),
    /// A caller looks for a moment if that has paid lately ([`Adaptive`](super::Adaptive)), else it sleeps at once. A
    /// Runner sleeps at once.
    Adaptive,
    /// Sleep at once.
    #[default]
    Park,
}

impl Idle {
    /// Until when a thread that begins to wait now keeps looking: 0 (it sleeps at once), a time, or `u64::MAX` (for
    /// ever).
    pub fn spin_until_ns(self, now_ns: impl FnOnce() -> u64) -> u64 {
        match self {
            Self::Spin => u64::MAX,
            Self::SpinThenPark(ns) => now_ns().saturating_add(ns),
            Self::Adaptive | Self::Park => 0,
        }
    }
}

/// The callbacks of a waiting caller; see [`Lead::wait`](super::Lead::wait).
pub trait Waiter<T> {
    /// The result of the wait.
    type Output;

    /// Takes the result if it is there.
    fn attempt(&mut self, engine: &mut T) -> Option<Self::Output>;

    /// Has `waker` called when another attempt may succeed.
    fn enlist(&mut self, engine: &mut T, waker: &Waker);

    /// Takes the waker back, which may have been called already.
    fn delist(&mut self, engine: &mut T);
}
