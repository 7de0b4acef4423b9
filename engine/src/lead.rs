//! One engine shared by threads: which thread turns it, and which threads sleep meanwhile.
//!
//! All state lies under one lock that is held for the length of an operation, never for a wait. One thread at a time
//! waits for the operating system; that thread has the *lead*:
//!
//! ```text
//!            ┌────────────── nobody turned it for a millisecond ──────────────┐
//!            ▼                                                                │
//!   Runner leads ──▶ a caller has to wait: it leads, the Runner steps aside ──┤
//!                          │        ▲                                         │
//!                          ▼        └──── the next caller that waits ◀────────┤
//!                    done waiting ──▶ nobody leads ───────────────────────────┘
//! ```
//!
//! A caller that leads does its own input and output, so its messages reach it without a hop through another thread.
//! Only a *mobile* engine can be led by callers. A fixed engine is led by its Runner alone, and its callers sleep until
//! the Runner wakes them. While one thread waits in the lead, all others may use the engine.
//!
//! A Runner that has lost the lead may still be about to wait, next to the caller that leads. Both of them, and a third
//! thread that turns the engine for an operation of its own, can consume a wake that was meant for another thread. A
//! thread that may have done so calls the waker again. The leader does that when it leaves the lead: until then it
//! handles every event itself.
//!
//! Longer than 600 lines: the lock, the lead and the waits are one protocol, and are read together.

mod adaptive;
mod turn;

use std::{fmt, io, task::Waker};

pub use adaptive::{Adaptive, Spell};
pub use turn::{Idle, Turn, Wait, Waiter, Woken};

use crate::{
    parker::Parker,
    sync::model::{self, Mutex, MutexGuard},
};

/// How long callers have to take the lead again before the Runner takes it.
const STEP_ASIDE_NS: u64 = 1_000_000;
/// How often a caller looks before it sleeps, if its messages may come from other threads, without the operating
/// system.
const PATIENCE: u32 = 64;
/// How many pauses of the processor a spinning thread makes between two looks at the engine.
const PAUSES: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leader {
    Nobody,
    Runner,
    Caller,
}

/// The state of the Runner's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runner {
    /// It leads, or is about to check who leads.
    Awake,
    /// It sleeps until it is woken: a caller is in a long wait, or the Runner has not been started.
    Asleep,
}

#[derive(Debug)]
struct State<T> {
    engine: T,
    leader: Leader,
    /// How many threads wait without the lock: the leader, and a Runner that has lost the lead and not noticed yet.
    parked: u32,
    /// The waker was called to end the leader's wait, and the leader has not returned yet.
    is_called: bool,
    /// The waker has to be called, perhaps once more, when the lock is released.
    owes_call: bool,
    /// Callers that wait while another thread leads, oldest first.
    followers: Vec<(u64, Waker)>,
    follower_number: u64,
    /// How often a caller took the lead.
    leads: u64,
    /// How the waits of leading callers went.
    adaptive: Adaptive,
    runner: Runner,
    /// Ends the Runner's sleep; `None` until the Runner is started.
    runner_waker: Option<Waker>,
    /// [`Lead::stop`] was called: the Runner ends, at the latest at this time.
    stop_at_ns: Option<u64>,
    /// A turn is under way. Stays set if the turn panics.
    is_turning: bool,
    /// The failure that made the engine unusable.
    failed: Option<(io::ErrorKind, String)>,
    /// Not every waiting thread has been told of the failure.
    owes_failure: bool,
}

impl<T: Turn> State<T> {
    /// A turn by a thread that does not lead.
    fn turn_aside<R>(&mut self, turn: impl FnOnce(&mut T) -> io::Result<R>) -> io::Result<R> {
        // The turn may consume the wake that the leader was called with, before the leader sees it.
        self.owes_call |= self.is_called;
        self.turn_by(turn)
    }

    fn turn(&mut self) -> io::Result<usize> {
        self.turn_by(T::turn)
    }

    fn turn_by<R>(&mut self, turn: impl FnOnce(&mut T) -> io::Result<R>) -> io::Result<R> {
        self.check()?;
        self.is_turning = true;
        let turned = turn(&mut self.engine);
        self.is_turning = false;
        self.note(turned)
    }

    fn glance(&mut self) -> io::Result<usize> {
        self.turn_by(T::glance)
    }

    fn note<R>(&mut self, outcome: io::Result<R>) -> io::Result<R> {
        if let Err(error) = &outcome {
            self.fail(error.kind(), error.to_string());
        }
        outcome
    }

    fn fail(&mut self, kind: io::ErrorKind, message: String) {
        if self.failed.is_none() {
            self.failed = Some((kind, message));
            self.owes_failure = true;
        }
    }

    /// Whether releasing the lock is all that is left to do.
    #[inline]
    fn is_clear(&mut self) -> bool {
        !(self.is_turning | self.owes_failure | self.owes_call)
            && !self.engine.has_woken()
            && !self.engine.wants_turn()
            && (self.parked == 0 || !self.engine.is_early())
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some((kind, message)) => Err(io::Error::new(*kind, message.clone())),
            None => Ok(()),
        }
    }
}

/// An engine and its lead; see the module.
pub struct Lead<T> {
    state: Mutex<State<T>>,
    /// Ends the leader's wait.
    waker: Waker,
    is_mobile: bool,
    idle: Idle,
}

/// Access to the engine for one operation. Dropping it carries on the work that the operation left, calls wakers and
/// releases the lock.
pub struct Held<'a, T: Turn> {
    lead: &'a Lead<T>,
    state: Option<MutexGuard<'a, State<T>>>,
}

impl<T: Turn> Lead<T> {
    /// Shares an engine. `waker` ends its waits. If `is_mobile`, any thread may turn it.
    pub fn new(engine: T, waker: Waker, is_mobile: bool, idle: Idle) -> Self {
        let state = State {
            engine,
            leader: Leader::Nobody,
            parked: 0,
            is_called: false,
            owes_call: false,
            followers: Vec::new(),
            follower_number: 0,
            leads: 0,
            adaptive: Adaptive::default(),
            runner: Runner::Asleep,
            runner_waker: None,
            stop_at_ns: None,
            is_turning: false,
            failed: None,
            owes_failure: false,
        };
        Self { state: Mutex::new(state), waker, is_mobile, idle }
    }

    /// Whether callers may lead.
    #[must_use]
    pub fn is_mobile(&self) -> bool {
        self.is_mobile
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic that poisoned the lock came from outside of this module, so the module's own state is intact. A panic
        // in a turn fails the engine.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Locks the engine for one operation.
    #[inline]
    pub fn hold(&self) -> Held<'_, T> {
        Held { lead: self, state: Some(self.lock()) }
    }

    /// Waits until `waiter` has its output, at most until a time on the engine's clock. `None`: the time is up.
    ///
    /// # Errors
    /// When the operating system refuses to turn the engine.
    pub fn wait<W: Waiter<T>>(
        &self,
        until_ns: Option<u64>,
        waiter: &mut W,
    ) -> io::Result<Option<W::Output>> {
        let mut visit = Visit { held: self.hold(), leads: false };
        let Visit { held, leads } = &mut visit;
        let mut spin_until_ns = self.idle.spin_until_ns(|| held.now_ns());
        // Only the leader has a spell: the other callers are woken by the leader, so they need not look first.
        let mut spell = None;
        let mut were_others_let_in = true;
        let mut patience = if held.is_patient() { PATIENCE } else { 0 };
        loop {
            if let Some(output) = waiter.attempt(held) {
                held.end(spell, true);
                return Ok(Some(output));
            }
            held.state().check()?;
            let is_bounded = until_ns.is_some() || !matches!(spin_until_ns, 0 | u64::MAX);
            let now_ns = if is_bounded { held.now_ns() } else { 0 };
            if until_ns.is_some_and(|until_ns| now_ns >= until_ns) {
                held.end(spell, false);
                return Ok(None);
            }
            if !were_others_let_in {
                // Let other threads in, however much work the engine finds that is not for this caller.
                were_others_let_in = held.pause();
                continue;
            }
            *leads = *leads || held.take_lead();
            if *leads && self.idle == Idle::Adaptive && spell.is_none() {
                spin_until_ns = spell.insert(held.begin()).look_until_ns();
            }
            let spins = now_ns < spin_until_ns || patience > 0;
            patience = patience.saturating_sub(1);
            were_others_let_in = match (*leads, spins) {
                (true, true) => held.turn_spinning(spell.as_mut())?,
                (true, false) => held.wait_leading(until_ns, waiter)?,
                (false, true) => held.pause(),
                (false, false) => held.wait_following(until_ns, waiter),
            };
        }
    }

    /// Leads whenever no caller does, until [`Lead::stop`]; for a thread of its own. Afterwards a fixed engine is
    /// unusable.
    ///
    /// # Errors
    /// When the operating system refuses to turn the engine.
    pub fn run(&self) -> io::Result<()> {
        let parker = Parker::current();
        self.hold().state().runner_waker = Some(parker.waker());
        let _running = Running(self);
        let mut past = Past::default();
        loop {
            match self.round(&mut past)? {
                Next::Round => continue,
                Next::StepAside => parker.park(Some(STEP_ASIDE_NS)),
                Next::Sleep => parker.park(None),
                Next::End => return Ok(()),
            };
        }
    }

    fn round(&self, past: &mut Past) -> io::Result<Next> {
        let mut held = self.hold();
        if held.is_stopped() {
            return Ok(Next::End);
        }
        let state = held.state();
        state.check()?;
        state.runner = Runner::Awake;
        let seen = (state.leads, state.engine.activity());
        let is_same = past.seen == seen;
        past.seen = seen;
        let was_asleep = std::mem::take(&mut past.was_asleep);
        if state.leader == Leader::Caller {
            if is_same && state.parked > 0 && state.stop_at_ns.is_none() {
                // A caller is in a long wait. The caller that leaves the lead ends this sleep.
                state.runner = Runner::Asleep;
                past.was_asleep = true;
                return Ok(Next::Sleep);
            }
            return Ok(Next::StepAside);
        }
        if (!is_same || was_asleep) && !state.engine.has_waiters() {
            // The caller that has left the lead gets a moment to come back.
            return Ok(Next::StepAside);
        }
        state.leader = Leader::Runner;
        if state.turn()? > 0 {
            past.spin_until_ns = self.idle.spin_until_ns(|| held.now_ns());
        } else if self.idle == Idle::Spin || past.spin_until_ns > held.now_ns() {
            held.pause();
        } else {
            let until_ns = held.state().stop_at_ns;
            held.park_leading(until_ns)?;
        }
        let state = held.state();
        if state.leader == Leader::Runner {
            state.leader = Leader::Nobody;
        } else {
            // The wake that ended our wait may have been meant for the caller that leads now.
            state.owes_call = true;
        }
        Ok(Next::Round)
    }

    /// One round of [`Lead::run`] without a wait. Returns how much was done.
    ///
    /// # Errors
    /// When the operating system refuses to turn the engine.
    pub fn turn(&self) -> io::Result<usize> {
        self.hold().state().turn_aside(T::turn)
    }

    /// One round of [`Lead::run`] for a thread that returns instead of waiting. It calls this again when the engine's
    /// waker was used or a deadline has passed, and counts as waiting in between, through `parking`. Returns how much
    /// was done; 0: it counts as waiting now.
    ///
    /// # Errors
    /// When the operating system refuses to turn the engine.
    #[cfg(feature = "sim")]
    pub fn turn_parked(&self, parking: &mut Option<T::Parking>) -> io::Result<usize> {
        let mut held = self.hold();
        let state = held.state();
        if let Some(parking) = parking.take() {
            state.parked -= 1;
            state.engine.unpark(parking);
            state.is_called &= state.parked > 0;
        }
        let done = state.turn_aside(T::turn)?;
        // If the turn consumed the leader's wake, that wake is passed on to the leader and is no reason for another
        // turn.
        if done > 0 && !state.is_called {
            return Ok(done);
        }
        let parked = state.engine.park(None);
        *parking = state.note(parked)?;
        state.parked += u32::from(parking.is_some());
        Ok(usize::from(parking.is_none()))
    }

    /// Asks [`Lead::run`] to return when the engine is done, at the latest at this time on the engine's clock.
    pub fn stop(&self, at_ns: u64) {
        let mut held = self.hold();
        let state = held.state();
        state.stop_at_ns = Some(at_ns);
        state.owes_call = true;
        let runner = state.runner_waker.clone();
        drop(held);
        runner.into_iter().for_each(Waker::wake);
    }

    /// Carries on the work that an operation queued: in this thread if it may turn the engine, else in the thread that
    /// waits.
    #[cold]
    fn settle(&self, state: &mut State<T>) {
        if self.is_mobile {
            // The error is kept for the threads that wait.
            let _ = state.turn_aside(T::settle);
        }
        state.owes_call |= state.engine.wants_turn();
    }

    /// Tells all waiting threads that the engine has failed.
    #[cold]
    fn tell_failure(&self, state: &mut State<T>, woken: &mut Woken) {
        state.owes_failure = false;
        state.owes_call = true;
        state.followers.iter().for_each(|(_, waker)| woken.push(waker.clone()));
        state.runner_waker.iter().for_each(|waker| woken.push(waker.clone()));
    }
}

/// The step after a round of [`Lead::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Round,
    StepAside,
    Sleep,
    End,
}

/// The state that a Runner keeps from one round to the next.
#[derive(Debug, Default)]
struct Past {
    /// [`State::leads`] and [`Turn::activity`] at the last round.
    seen: (u64, u64),
    spin_until_ns: u64,
    was_asleep: bool,
}

/// Gives the Runner's lead away when [`Lead::run`] ends, even by a panic.
struct Running<'a, T: Turn>(&'a Lead<T>);

impl<T: Turn> Drop for Running<'_, T> {
    fn drop(&mut self) {
        let mut held = self.0.hold();
        let state = held.state();
        if state.leader == Leader::Runner {
            state.leader = Leader::Nobody;
        }
        if !self.0.is_mobile {
            state.fail(io::ErrorKind::NotConnected, "nobody turns the engine any more".to_owned());
        }
    }
}

/// A caller's wait. However the wait ends, the drop passes the lead on to a thread that needs it.
struct Visit<'a, T: Turn> {
    held: Held<'a, T>,
    leads: bool,
}

impl<T: Turn> Drop for Visit<'_, T> {
    fn drop(&mut self) {
        self.held.leave(self.leads);
    }
}

impl<'a, T: Turn> Held<'a, T> {
    #[inline]
    fn state(&mut self) -> &mut State<T> {
        self.state.as_mut().expect("held except inside of waits")
    }

    /// Runs `wait` with the lock released, so that others may use the engine.
    fn released<R>(&mut self, wait: impl FnOnce() -> R) -> R {
        self.release();
        let outcome = wait();
        self.state = Some(self.lead.lock());
        outcome
    }

    #[inline]
    fn release(&mut self) {
        let Some(mut state) = self.state.take() else { return };
        if state.is_clear() { drop(state) } else { self.release_with_care(state) }
    }

    #[inline(never)]
    fn release_with_care(&self, mut state: MutexGuard<'_, State<T>>) {
        let lead = self.lead;
        if state.is_turning {
            state.is_turning = false;
            state.fail(io::ErrorKind::Other, "a turn of the engine panicked".to_owned());
        } else if state.engine.wants_turn() {
            lead.settle(&mut state);
        }
        let mut woken = Woken::default();
        if state.engine.has_woken() {
            woken = state.engine.take_woken();
            state.is_called |= state.parked > 0 && woken.includes(&lead.waker);
        }
        if state.owes_failure {
            lead.tell_failure(&mut state, &mut woken);
        }
        let owes_call = std::mem::take(&mut state.owes_call);
        if state.parked > 0 && (owes_call || state.engine.take_early()) {
            state.is_called = true;
            lead.waker.wake_by_ref();
        }
        drop(state);
        if !woken.is_empty() {
            woken.wake();
        }
    }

    /// Turns the engine once if it is mobile and no thread leads.
    ///
    /// # Errors
    /// When the operating system refuses to turn the engine.
    pub fn look(&mut self) -> io::Result<()> {
        let is_mobile = self.lead.is_mobile;
        let state = self.state();
        if is_mobile && state.leader == Leader::Nobody {
            state.turn_aside(T::turn)?;
        }
        state.check()
    }

    fn is_stopped(&mut self) -> bool {
        let state = self.state();
        let Some(at_ns) = state.stop_at_ns else { return false };
        state.engine.is_done() || state.engine.now_ns() >= at_ns
    }

    /// Takes the lead of a mobile engine unless another caller has it. Returns whether the calling thread has it now.
    fn take_lead(&mut self) -> bool {
        let lead = self.lead;
        let state = self.state();
        if !lead.is_mobile || state.leader == Leader::Caller {
            return false;
        }
        if state.parked > 0 {
            // The Runner waits: wake it, so that it notices that it does not lead any more.
            lead.waker.wake_by_ref();
        }
        state.leader = Leader::Caller;
        state.leads += 1;
        true
    }

    /// A wait of the leader begins.
    fn begin(&mut self) -> Spell {
        let state = self.state();
        state.adaptive.begin(state.engine.now_ns())
    }

    /// The wait is over. `brought`: with its output.
    fn end(&mut self, spell: Option<Spell>, brought: bool) {
        let Some(spell) = spell else { return };
        let state = self.state();
        let brought_at_ns = brought.then(|| state.engine.now_ns());
        state.adaptive.end(spell, brought_at_ns);
    }

    /// Like all waits here, returns whether others were let in meanwhile.
    fn turn_spinning(&mut self, spell: Option<&mut Spell>) -> io::Result<bool> {
        // The turn did something: the caller checks for its output first.
        if self.state().glance()? > 0 {
            return Ok(false);
        }
        match spell {
            Some(spell) => self.spin(|| spell.rest()),
            None => self.rest(PAUSES),
        }
        Ok(true)
    }

    fn pause(&mut self) -> bool {
        self.rest(PAUSES);
        true
    }

    /// Spins for so many pauses of the processor with the lock released, so that others may use the engine.
    pub fn rest(&mut self, pauses: u32) {
        self.spin(|| (0..pauses).for_each(|_| model::hint::spin_loop()));
    }

    fn spin(&mut self, rest: impl FnOnce()) {
        self.released(|| {
            #[cfg(feature = "sim")]
            if crate::parker::spin_scheduled() {
                return;
            }
            rest();
        });
    }

    /// Waits for the operating system as the leader.
    fn park_leading(&mut self, until_ns: Option<u64>) -> io::Result<bool> {
        let waited = self.park(until_ns)?;
        self.state().turn()?;
        Ok(waited)
    }

    fn park(&mut self, until_ns: Option<u64>) -> io::Result<bool> {
        let state = self.state();
        let parked = state.engine.park(until_ns);
        let Some(mut parking) = state.note(parked)? else { return Ok(false) };
        state.parked += 1;
        let waited = self.released(|| parking.wait());
        let state = self.state();
        state.parked -= 1;
        state.engine.unpark(parking);
        state.is_called &= state.parked > 0;
        state.note(waited)?;
        Ok(true)
    }

    fn wait_leading<W: Waiter<T>>(
        &mut self,
        until_ns: Option<u64>,
        waiter: &mut W,
    ) -> io::Result<bool> {
        // Another thread may bring what this caller waits for.
        let waker = &self.lead.waker;
        waiter.enlist(&mut self.state().engine, waker);
        let waited = self.park(until_ns);
        let state = self.state();
        waiter.delist(&mut state.engine);
        state.is_called = false;
        if state.parked > 0 {
            // The Runner has not noticed yet that it lost the lead, and the wake for it may have ended this wait. Wake
            // it again now: a later wake would end our next wait.
            waker.wake_by_ref();
        }
        let waited = waited?;
        self.state().turn()?;
        Ok(waited)
    }

    fn wait_following<W: Waiter<T>>(&mut self, until_ns: Option<u64>, waiter: &mut W) -> bool {
        let parker = Parker::current();
        let waker = parker.waker();
        let state = self.state();
        waiter.enlist(&mut state.engine, &waker);
        state.follower_number += 1;
        let number = state.follower_number;
        state.followers.push((number, waker));
        let timeout_ns = until_ns.map(|at_ns| at_ns.saturating_sub(state.engine.now_ns()));
        self.released(|| parker.park(timeout_ns));
        let state = self.state();
        state.followers.retain(|&(other, _)| other != number);
        waiter.delist(&mut state.engine);
        true
    }

    /// The caller is done waiting: the lead goes to a thread that needs it.
    fn leave(&mut self, leads: bool) {
        let lead = self.lead;
        let state = self.state.get_or_insert_with(|| lead.lock());
        if leads {
            state.leader = Leader::Nobody;
            state.owes_call = true;
        }
        if state.leader != Leader::Nobody || !lead.is_mobile {
            return;
        }
        let mut heir = state.followers.first().map(|(_, waker)| waker.clone());
        if heir.is_none()
            && (state.runner == Runner::Asleep || (leads && state.engine.has_waiters()))
        {
            state.runner = Runner::Awake;
            heir = state.runner_waker.clone();
        }
        self.release();
        heir.into_iter().for_each(Waker::wake);
    }
}

impl<T: Turn> std::ops::Deref for Held<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.state.as_ref().expect("held except inside of waits").engine
    }
}

impl<T: Turn> std::ops::DerefMut for Held<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state().engine
    }
}

impl<T: Turn> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.release();
    }
}

impl<T: Turn> fmt::Debug for Held<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Lead<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead")
            .field("is_mobile", &self.is_mobile)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
