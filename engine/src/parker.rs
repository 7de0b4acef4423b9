//! Where a thread sleeps: every blocking wait of background sockets goes through its [`Parker`].

use std::{
    cell::RefCell,
    fmt,
    marker::PhantomData,
    rc::Rc,
    task::{Wake, Waker},
};

use crate::{
    Clock,
    sync::{
        Arc, AtomicU32, Ordering,
        model::{
            self,
            thread::{self, Thread},
        },
    },
};

const EMPTY: u32 = 0;
const PARKED: u32 = 1;
const NOTIFIED: u32 = 2;

/// One thread's place to sleep. A wake leaves a token, so a wake that comes before the sleep is not lost.
///
/// The thread sleeps with `std::thread::park`, but the token is this type's own: if the program uses `park` and
/// `unpark` on the same thread, each side at worst wakes the other in vain.
#[derive(Clone)]
pub struct Parker {
    place: Arc<Place>,
    /// Only its own thread sleeps here.
    _thread: PhantomData<*const ()>,
}

struct Place {
    token: AtomicU32,
    thread: Thread,
}

impl Wake for Place {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release, even if a token is there already: the sleeper sees what was done before each wake.
        if self.token.swap(NOTIFIED, Ordering::Release) == PARKED {
            self.thread.unpark();
        }
    }
}

impl Place {
    fn take_token(&self) -> bool {
        self.token.swap(EMPTY, Ordering::Acquire) == NOTIFIED
    }

    /// The thread is about to sleep. Returns `false` when a token is there.
    fn announce(&self) -> bool {
        self.token.compare_exchange(EMPTY, PARKED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Parker {
    fn new() -> Self {
        let place = Place { token: AtomicU32::new(EMPTY), thread: thread::current() };
        Self { place: Arc::new(place), _thread: PhantomData }
    }

    /// The calling thread's parker. Allocates on a thread's first call only.
    #[must_use]
    pub fn current() -> Self {
        model::thread_local! {
            static PARKER: Parker = Parker::new();
        }
        #[cfg(feature = "sim")]
        if let Some(parker) = nested_parker() {
            return parker;
        }
        // The destructor of another thread-local may wait after `PARKER` is destroyed: it gets a parker of its own.
        PARKER.try_with(Self::clone).unwrap_or_else(|_| Self::new())
    }

    /// Wakes this thread, from any thread and at any time, also after the thread has ended. Does not allocate.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.place))
    }

    /// Sleeps until a waker was used since the last `park`, at most `timeout_ns` nanoseconds; with `None`, without a
    /// bound. Returns whether it was woken; `false` means that the time is up.
    ///
    /// An old wake may end the sleep before the caller's condition holds: check the condition, park, then check again.
    pub fn park(&self, timeout_ns: Option<u64>) -> bool {
        let scheduler = SCHEDULER.try_with(|scheduler| scheduler.borrow().clone());
        if let Ok(Some(scheduler)) = scheduler {
            return self.park_scheduled(&*scheduler, timeout_ns);
        }
        let deadline_ns = timeout_ns.map(|ns| Clock::new().now_ns().saturating_add(ns));
        loop {
            if !self.place.announce() {
                return self.place.take_token();
            }
            let is_over = sleep(deadline_ns);
            if self.place.take_token() {
                return true;
            }
            if is_over {
                return false;
            }
        }
    }

    fn park_scheduled(&self, scheduler: &Scheduler, timeout_ns: Option<u64>) -> bool {
        let (mut left_ns, mut is_over) = (timeout_ns, false);
        loop {
            if self.place.take_token() {
                return true;
            }
            if is_over {
                return false;
            }
            let passed_ns = scheduler(left_ns);
            left_ns = left_ns.map(|left_ns| left_ns.saturating_sub(passed_ns));
            is_over = left_ns == Some(0);
        }
    }
}

/// Sleeps until about the deadline, or for a shorter time. Returns whether the deadline has passed.
#[cfg(not(loom))]
fn sleep(deadline_ns: Option<u64>) -> bool {
    let Some(deadline_ns) = deadline_ns else {
        thread::park();
        return false;
    };
    let clock = Clock::new();
    let left_ns = deadline_ns.saturating_sub(clock.now_ns());
    if left_ns > 0 {
        thread::park_timeout(std::time::Duration::from_nanos(left_ns));
    }
    clock.now_ns() >= deadline_ns
}

/// A model knows no time: a sleep with a deadline is over at once.
#[cfg(loom)]
fn sleep(deadline_ns: Option<u64>) -> bool {
    if deadline_ns.is_some() {
        thread::yield_now();
    } else {
        thread::park();
    }
    deadline_ns.is_some()
}

/// Runs the rest of the simulation for at most the given virtual nanoseconds; returns how many have passed.
type Scheduler = dyn Fn(Option<u64>) -> u64;

thread_local! {
    static SCHEDULER: RefCell<Option<Rc<Scheduler>>> = const { RefCell::new(None) };
}

/// For simulations: while `body` runs, [`Parker::park`] on this thread does not sleep. It calls `hook` with the rest of
/// its timeout, until a waker is used or the virtual nanoseconds that `hook` returned add up to the timeout. If `hook`
/// has nothing to run during a wait without a timeout, it has to panic: nothing else would end the wait.
#[doc(hidden)]
pub fn with_scheduler<R>(
    hook: impl Fn(Option<u64>) -> u64 + 'static,
    body: impl FnOnce() -> R,
) -> R {
    struct Restore(Option<Rc<Scheduler>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SCHEDULER.set(self.0.take());
        }
    }
    let _restore = Restore(SCHEDULER.replace(Some(Rc::new(hook))));
    #[cfg(feature = "sim")]
    {
        // Drop all parkers, and with them old tokens: a run must not depend on what ran on its thread before.
        NESTED.set((0, Vec::new()));
        nested(body)
    }
    #[cfg(not(feature = "sim"))]
    body()
}

/// In a simulation, lets the rest of it run while this thread spins. `false`: there is no simulation.
#[cfg(feature = "sim")]
pub(crate) fn spin_scheduled() -> bool {
    const PAUSE_NS: u64 = 1_000;
    let scheduler = SCHEDULER.try_with(|scheduler| scheduler.borrow().clone()).ok().flatten();
    scheduler.map(|scheduler| scheduler(Some(PAUSE_NS))).is_some()
}

#[cfg(feature = "sim")]
thread_local! {
    /// How many waits of a simulation are nested on this thread, and one parker for each level.
    static NESTED: RefCell<(usize, Vec<Parker>)> = const { RefCell::new((0, Vec::new())) };
}

/// Runs a part of a simulation inside a wait. That part sleeps on a parker of its own, so that a nested wait does not
/// take the token that is to end the outer one.
#[cfg(feature = "sim")]
pub(crate) fn nested<R>(run: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            NESTED.with_borrow_mut(|(depth, _)| *depth -= 1);
        }
    }
    NESTED.with_borrow_mut(|(depth, _)| *depth += 1);
    let _leave = Leave;
    run()
}

#[cfg(feature = "sim")]
fn nested_parker() -> Option<Parker> {
    let find = |nested: &RefCell<(usize, Vec<Parker>)>| {
        let (depth, parkers) = &mut *nested.borrow_mut();
        let at = depth.checked_sub(1)?;
        while parkers.len() <= at {
            parkers.push(Parker::new());
        }
        Some(parkers[at].clone())
    };
    NESTED.try_with(find).ok().flatten()
}

impl fmt::Debug for Parker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parker").field("thread", &self.place.thread.id()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{
        cell::Cell,
        sync::atomic::{AtomicBool, Ordering},
        time::{Duration, Instant},
    };

    use super::*;

    const LONG_NS: u64 = 60_000_000_000;

    #[test]
    fn a_wake_before_the_park_counts_once() {
        let parker = Parker::current();
        let waker = Parker::current().waker();
        waker.wake_by_ref();
        waker.wake();
        let start = Instant::now();
        assert!(parker.park(Some(LONG_NS)), "woken before");
        assert!(!parker.park(Some(2_000_000)), "two wakes are one token");
        assert!(start.elapsed() >= Duration::from_millis(2));
        assert!(!parker.park(Some(0)));
    }

    #[test]
    fn a_wake_of_another_thread_ends_the_park() {
        let waker = Parker::current().waker();
        let done = std::sync::Arc::new(AtomicBool::new(false));
        let other = std::thread::spawn({
            let done = std::sync::Arc::clone(&done);
            move || {
                std::thread::sleep(Duration::from_millis(5));
                done.store(true, Ordering::Relaxed);
                waker.wake();
            }
        });
        assert!(Parker::current().park(None));
        assert!(done.load(Ordering::Relaxed), "what comes before the wake is seen");
        other.join().unwrap();
    }

    #[test]
    fn tokens_of_the_program_do_not_end_a_park() {
        std::thread::current().unpark();
        let start = Instant::now();
        assert!(!Parker::current().park(Some(5_000_000)));
        assert!(start.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn wakers_outlive_their_thread() {
        let waker = std::thread::spawn(|| Parker::current().waker()).join().unwrap();
        waker.wake_by_ref();
        waker.wake();
    }

    #[test]
    fn two_threads_wake_each_other() {
        const ROUNDS: u32 = 10_000;
        let turn = std::sync::Arc::new(AtomicU32::new(0));
        let play = |turn: &AtomicU32, own: u32, other: &Waker| {
            for round in 0..ROUNDS {
                while turn.load(Ordering::Acquire) != 2 * round + own {
                    assert!(Parker::current().park(Some(LONG_NS)), "a wake was lost");
                }
                turn.store(2 * round + own + 1, Ordering::Release);
                other.wake_by_ref();
            }
        };
        let here = Parker::current().waker();
        let (send, receive) = std::sync::mpsc::channel();
        let other = std::thread::spawn({
            let turn = std::sync::Arc::clone(&turn);
            move || {
                send.send(Parker::current().waker()).unwrap();
                play(&turn, 1, &here);
            }
        });
        play(&turn, 0, &receive.recv().unwrap());
        other.join().unwrap();
        assert_eq!(turn.load(Ordering::Relaxed), 2 * ROUNDS);
    }

    #[test]
    fn a_scheduler_replaces_sleeping() {
        let now_ns = Rc::new(Cell::new(0));
        let clock = Rc::clone(&now_ns);
        let hook = move |left_ns: Option<u64>| {
            let step_ns = left_ns.unwrap_or(7).min(400);
            clock.set(clock.get() + step_ns);
            if left_ns.is_none() && clock.get() >= 1_021 {
                Parker::current().waker().wake();
            }
            step_ns
        };
        with_scheduler(hook, || {
            let parker = Parker::current();
            assert!(!parker.park(Some(1_000)));
            assert_eq!(now_ns.get(), 1_000, "virtual time, all of it");
            assert!(parker.park(None));
            assert_eq!(now_ns.get(), 1_021);
            parker.waker().wake();
            assert!(parker.park(Some(1_000)));
            assert_eq!(now_ns.get(), 1_021, "a token needs no time");
        });
        let start = Instant::now();
        assert!(!Parker::current().park(Some(2_000_000)));
        assert!(start.elapsed() >= Duration::from_millis(2), "real time again");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::{
        sync::{Arc, atomic::AtomicBool},
        thread,
    };

    use super::*;

    /// The sleeper hears a wake however early it came, and sees what was written before it.
    #[test]
    fn a_wake_is_never_lost() {
        loom::model(|| {
            let flag = Arc::new(AtomicBool::new(false));
            let parker = Parker::current();
            let other = thread::spawn({
                let (waker, flag) = (parker.waker(), Arc::clone(&flag));
                move || {
                    // Relaxed on purpose: only the wake itself makes it visible.
                    flag.store(true, Ordering::Relaxed);
                    waker.wake();
                }
            });
            assert!(parker.park(None));
            assert!(flag.load(Ordering::Relaxed));
            other.join().unwrap();
        });
    }

    #[test]
    fn every_waker_is_heard() {
        loom::model(|| {
            let flags = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
            let parker = Parker::current();
            let others: Vec<_> = (0..2)
                .map(|at| {
                    let (waker, flags) = (parker.waker(), Arc::clone(&flags));
                    thread::spawn(move || {
                        flags[at].store(true, Ordering::Relaxed);
                        waker.wake();
                    })
                })
                .collect();
            while !flags.iter().all(|flag| flag.load(Ordering::Relaxed)) {
                assert!(parker.park(None));
            }
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }

    /// A wait that timed out leaves nothing behind that swallows the next wake.
    #[test]
    fn a_wake_around_a_timeout_is_kept() {
        loom::model(|| {
            let parker = Parker::current();
            let waker = parker.waker();
            let other = thread::spawn(move || waker.wake());
            if !parker.park(Some(1)) {
                assert!(parker.park(None));
            }
            other.join().unwrap();
        });
    }
}
