//! The scheduler: which task or turner runs next, at what time, and the waits they are in.

use std::{
    cell::RefCell,
    fmt, io,
    panic::Location,
    task::{Wake, Waker},
};

use super::{Random, Turned, World, current};
use crate::{
    driver::sim::{Net, lock},
    parker,
    sync::{Arc, AtomicBool, Mutex, Ordering},
    time,
};

/// How many waits may be nested.
const WAITS_MAX: usize = 16;
/// How much time a step takes at most.
const STEP_NS_MAX: u64 = 400;
/// How many kinds of runnable things there are.
const KINDS: u64 = 3;

type Place = &'static Location<'static>;

/// The waker of a turner: asks the scheduler to call it.
#[derive(Default)]
struct Call(AtomicBool);

impl Wake for Call {
    fn wake(self: std::sync::Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

struct Turner {
    /// `None` while it is called, and once it is gone.
    turn: Option<Box<dyn FnMut() -> Turned>>,
    is_working: bool,
    asked: Arc<Call>,
    deadline_ns: Option<u64>,
    is_gone: bool,
    place: Place,
}

#[derive(Default)]
pub(super) struct Turners(RefCell<Vec<Turner>>);

impl Turners {
    pub(super) fn add(&self, turn: Box<dyn FnMut() -> Turned>, place: Place) -> Waker {
        let asked = Arc::<Call>::default();
        let turner = Turner {
            turn: Some(turn),
            is_working: true,
            asked: asked.clone(),
            deadline_ns: None,
            is_gone: false,
            place,
        };
        self.0.borrow_mut().push(turner);
        Waker::from(asked)
    }

    fn runnable(&self, net: &Net) -> Vec<usize> {
        let is_rung = |at| {
            let mut desks = net.desks.iter().filter(|desk| desk.turner == Some(at));
            desks.any(|desk| desk.bell.is_rung.load(Ordering::Acquire))
        };
        let can_run = |(at, turner): &(usize, &Turner)| {
            let is_due = turner.deadline_ns.is_some_and(|at_ns| at_ns <= net.now_ns);
            let is_asked = turner.is_working || turner.asked.0.load(Ordering::Acquire);
            turner.turn.is_some() && (is_asked || is_due || is_rung(*at))
        };
        let turners = self.0.borrow();
        turners.iter().enumerate().filter(can_run).map(|(at, _)| at).collect()
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        let turners = self.0.borrow();
        let callable = turners.iter().filter(|turner| turner.turn.is_some());
        callable.filter_map(|turner| turner.deadline_ns).min()
    }

    /// The turners that the scheduler may call although they have nothing to do.
    fn callable(&self) -> Vec<usize> {
        let turners = self.0.borrow();
        let callable = turners.iter().enumerate().filter(|(_, turner)| turner.turn.is_some());
        callable.map(|(at, _)| at).collect()
    }

    /// Calls a turner. Returns whether it waits now.
    fn call(&self, at: usize) -> bool {
        let Some(mut turn) = self.0.borrow_mut()[at].turn.take() else { return false };
        self.0.borrow()[at].asked.0.store(false, Ordering::Release);
        let turned = turn();
        let mut turners = self.0.borrow_mut();
        let turner = &mut turners[at];
        turner.is_working = turned == Turned::Worked;
        turner.deadline_ns = match turned {
            Turned::Idle { next_deadline_ns } | Turned::Parked { next_deadline_ns } => {
                next_deadline_ns
            }
            Turned::Worked | Turned::Gone => None,
        };
        turner.is_gone = turned == Turned::Gone;
        let rest = if turner.is_gone {
            Some(turn)
        } else {
            turner.turn = Some(turn);
            None
        };
        // The drop may run code of the program.
        drop(turners);
        drop(rest);
        matches!(turned, Turned::Parked { .. })
    }

    fn waiting(&self) -> Vec<String> {
        let turners = self.0.borrow();
        let there = turners.iter().enumerate().filter(|(_, turner)| !turner.is_gone);
        there.map(|(at, turner)| format!("turner {at} of {}", turner.place)).collect()
    }

    pub(super) fn drop_one(&self) -> bool {
        let turner = self.0.borrow_mut().iter_mut().find_map(|turner| {
            turner.is_gone = true;
            turner.turn.take()
        });
        turner.is_some()
    }

    pub(super) fn forget(&self) {
        std::mem::forget(self.0.take());
    }
}

/// A wait, as a report shows it.
pub(super) struct Waiting {
    what: &'static str,
    place: Option<Place>,
    until_ns: Option<u64>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if let Some(place) = self.place {
            write!(f, " at {place}")?;
        }
        match self.until_ns {
            Some(ns) => write!(f, " (until {} us)", ns / 1000),
            None => Ok(()),
        }
    }
}

/// Why a world cannot go on.
#[derive(Debug)]
pub(super) struct Stuck(String);

enum Next {
    Network,
    Task(u64),
    Turner(usize),
}

impl World {
    /// Runs the world until `is_done`.
    ///
    /// # Panics
    /// When nothing more can happen, and after too many steps.
    #[track_caller]
    pub fn run_until(&self, is_done: impl Fn() -> bool) {
        self.run_until_within(None, is_done);
    }

    /// Runs the world for so many nanoseconds of its own time.
    ///
    /// # Panics
    /// As [`World::run_until`].
    #[track_caller]
    pub fn run_for(&self, ns: u64) {
        self.run_until_within(Some(ns), || false);
    }

    /// Runs the world until `is_done`, at most for so many nanoseconds of its own time. Returns `is_done()`.
    ///
    /// # Panics
    /// As [`World::run_until`].
    #[track_caller]
    pub fn run_until_within(&self, ns: Option<u64>, is_done: impl Fn() -> bool) -> bool {
        let until_ns = ns.map(|ns| self.now_ns().saturating_add(ns));
        let place = Some(Location::caller());
        let waiting = Waiting { what: "the world was run", place, until_ns };
        self.wait(waiting, &is_done).unwrap_or_else(|stuck| self.fail(&stuck));
        is_done()
    }

    /// Takes one step: runs a task or a turner, or delivers an event of the network.
    ///
    /// # Panics
    /// When nothing can run, and after too many steps.
    pub fn step(&self) {
        self.try_step(None).unwrap_or_else(|stuck| self.fail(&stuck));
    }

    fn fail(&self, Stuck(why): &Stuck) -> ! {
        panic!("{why}")
    }

    /// As [`World::fail`], but returns an error to a thread that is panicking already.
    fn refuse(&self, stuck: Stuck) -> io::Result<()> {
        if std::thread::panicking() {
            return Err(io::Error::other(stuck.0));
        }
        self.fail(&stuck)
    }

    fn wait(&self, waiting: Waiting, is_over: &dyn Fn() -> bool) -> Result<(), Stuck> {
        let until_ns = waiting.until_ns;
        if self.0.waits.borrow().len() >= WAITS_MAX {
            return Err(self.stuck(&format!("more than {WAITS_MAX} waits inside one another")));
        }
        self.0.waits.borrow_mut().push(waiting);
        let turner = lock(&self.0.net).turner;
        let outcome = loop {
            if is_over() || until_ns.is_some_and(|until_ns| self.now_ns() >= until_ns) {
                break Ok(());
            }
            if let Err(stuck) = self.try_step(until_ns) {
                break Err(stuck);
            }
        };
        lock(&self.0.net).turner = turner;
        self.0.waits.borrow_mut().pop();
        outcome
    }

    /// Takes one step, or moves the clock to `until_ns` when nothing happens before.
    fn try_step(&self, until_ns: Option<u64>) -> Result<(), Stuck> {
        let inner = &self.0;
        self.count_step()?;
        loop {
            if let Some(next) = self.choose() {
                self.perform(&next);
                return Ok(());
            }
            let event_ns = lock(&inner.net).next_event_ns();
            let deadline_ns = inner.turners.next_deadline_ns();
            let next_ns = event_ns.into_iter().chain(deadline_ns).min();
            let Some(to_ns) = next_ns.into_iter().chain(until_ns).min() else {
                return Err(self.stuck("deadlock: nothing can happen any more"));
            };
            self.advance(to_ns.saturating_sub(self.now_ns()));
            if next_ns != Some(to_ns) {
                return Ok(());
            }
        }
    }

    /// Lets a little time pass, and fails after too many steps.
    fn count_step(&self) -> Result<(), Stuck> {
        let inner = &self.0;
        inner.steps.set(inner.steps.get() + 1);
        if inner.steps.get() > inner.steps_max {
            let why = format!("no progress within {} steps", inner.steps_max);
            return Err(self.stuck(&why));
        }
        let passed_ns = inner.random.borrow_mut().below(STEP_NS_MAX);
        self.advance(passed_ns);
        Ok(())
    }

    fn advance(&self, ns: u64) {
        let mut net = lock(&self.0.net);
        net.now_ns += ns;
        time::set_virtual_ns(Some(net.now_ns));
    }

    /// Picks one of the steps that can be taken now.
    fn choose(&self) -> Option<Next> {
        let net = lock(&self.0.net);
        let is_due = net.next_event_ns().is_some_and(|at_ns| at_ns <= net.now_ns);
        let mut turners = self.0.turners.runnable(&net);
        let spurious_ppm = net.faults.spurious_ppm;
        drop(net);
        let mut tasks = self.0.tasks.runnable();
        if !is_due && turners.is_empty() && tasks.is_empty() {
            return None;
        }
        let mut random = self.0.random.borrow_mut();
        if random.chance(spurious_ppm) {
            // A spurious call, which every task and turner has to cope with.
            turners = self.0.turners.callable();
            tasks = self.0.tasks.callable();
        }
        let pick = |random: &mut Random, len: usize| random.below(len as u64) as usize;
        loop {
            match random.below(KINDS) {
                0 if is_due => return Some(Next::Network),
                1 if !tasks.is_empty() => {
                    return Some(Next::Task(tasks[pick(&mut random, tasks.len())]));
                }
                2 if !turners.is_empty() => {
                    return Some(Next::Turner(turners[pick(&mut random, turners.len())]));
                }
                _ => {}
            }
        }
    }

    fn perform(&self, next: &Next) {
        match *next {
            Next::Network => {
                let waker = lock(&self.0.net).happen();
                waker.into_iter().for_each(Waker::wake);
            }
            Next::Task(id) => {
                let mut net = lock(&self.0.net);
                net.turner = None;
                net.note(None, "task", id, 0);
                drop(net);
                parker::nested(|| self.0.tasks.poll(id));
            }
            Next::Turner(at) => {
                let mut net = lock(&self.0.net);
                net.turner = Some(at);
                net.note(None, "turner", at as u64, 0);
                net.quieten(at);
                drop(net);
                let is_parked = parker::nested(|| self.0.turners.call(at));
                let mut net = lock(&self.0.net);
                net.turner = None;
                if is_parked {
                    net.quieten(at);
                }
            }
        }
    }

    fn stuck(&self, why: &str) -> Stuck {
        let now_ns = self.now_ns();
        let mut text = format!("seed {}: {why}, at {} us;", self.seed(), now_ns / 1000);
        text.push_str(" waiting, the innermost last:");
        let waits: Vec<String> = self.0.waits.borrow().iter().map(ToString::to_string).collect();
        let waiting = [self.0.tasks.waiting(), self.0.turners.waiting(), waits].concat();
        for one in &waiting {
            text.push_str("\n    ");
            text.push_str(one);
        }
        Stuck(text)
    }

    /// The hook of [`crate::Parker`]: one step, which lets no more time pass than is left of the wait.
    pub(super) fn park(&self, left_ns: Option<u64>) -> u64 {
        let start_ns = self.now_ns();
        let until_ns = left_ns.map(|ns| start_ns.saturating_add(ns));
        let waiting = Waiting { what: "a parked thread", place: None, until_ns };
        self.0.waits.borrow_mut().push(waiting);
        let turner = lock(&self.0.net).turner;
        let outcome = match self.0.waits.borrow().len() {
            0..=WAITS_MAX => None,
            _ => Some(self.stuck(&format!("more than {WAITS_MAX} waits inside one another"))),
        };
        let outcome = outcome.map_or_else(|| self.try_step(until_ns), Err);
        lock(&self.0.net).turner = turner;
        self.0.waits.borrow_mut().pop();
        if let Err(stuck) = outcome {
            if std::thread::panicking() {
                // A destructor waits that can never end.
                self.report();
                eprintln!("{}", stuck.0);
                std::process::abort();
            }
            self.fail(&stuck);
        }
        self.now_ns() - start_ns
    }
}

/// A driver waits; everything else runs meanwhile.
pub(crate) fn wait(
    net: &Arc<Mutex<Net>>,
    what: &'static str,
    until_ns: Option<u64>,
    is_over: impl Fn() -> bool,
) -> io::Result<()> {
    let Some(world) = current().filter(|world| Arc::ptr_eq(&world.0.net, net)) else {
        return Err(io::Error::other("a simulated shard outside of its world"));
    };
    let waiting = Waiting { what, place: None, until_ns };
    let outcome = world.wait(waiting, &is_over);
    outcome.or_else(|stuck| world.refuse(stuck))
}

/// A driver polls without waiting; a moment passes, and the network may deliver events meanwhile.
pub(crate) fn pass(net: &Arc<Mutex<Net>>) -> io::Result<()> {
    let Some(world) = current().filter(|world| Arc::ptr_eq(&world.0.net, net)) else {
        return Err(io::Error::other("a simulated shard outside of its world"));
    };
    world.count_step().or_else(|stuck| world.refuse(stuck))?;
    loop {
        let mut locked = lock(net);
        let is_due = locked.next_event_ns().is_some_and(|at_ns| at_ns <= locked.now_ns);
        if !is_due || world.0.random.borrow_mut().below(4) == 0 {
            return Ok(());
        }
        let waker = locked.happen();
        drop(locked);
        waker.into_iter().for_each(Waker::wake);
    }
}
