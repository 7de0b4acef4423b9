//! The lead on real threads, with an engine that makes its own arrivals. The loom models cover every order of few
//! steps.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use super::{Idle, Lead, Turn, Wait, Waiter, Woken};
use crate::{Clock, Parker};

const CALLERS: usize = 4;
/// A wait takes this long only when something is wrong.
const LONG_NS: u64 = 20_000_000_000;

#[derive(Default)]
struct Kernel {
    ready: [u64; CALLERS],
    is_notified: bool,
    is_waited_for: bool,
    waits: u64,
}

/// Stands for the operating system.
#[derive(Default)]
struct Os {
    kernel: Mutex<Kernel>,
    changed: Condvar,
    is_woken: AtomicBool,
}

impl Os {
    fn change(&self, change: impl FnOnce(&mut Kernel)) {
        change(&mut self.kernel.lock().unwrap());
        self.changed.notify_all();
    }

    fn waits(&self) -> u64 {
        self.kernel.lock().unwrap().waits
    }
}

impl Wake for Os {
    fn wake(self: Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.change(|kernel| kernel.is_notified = true);
        }
    }
}

struct Parking {
    os: Arc<Os>,
    until: Option<Instant>,
}

impl Wait for Parking {
    fn wait(&mut self) -> io::Result<()> {
        let mut kernel = self.os.kernel.lock().unwrap();
        kernel.waits += 1;
        if kernel.is_waited_for {
            return Ok(());
        }
        kernel.is_waited_for = true;
        while !kernel.is_notified && kernel.ready == [0; CALLERS] {
            let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break;
            }
            let left = left.unwrap_or(Duration::from_secs(3600));
            kernel = self.os.changed.wait_timeout(kernel, left).unwrap().0;
        }
        kernel.is_waited_for = false;
        kernel.is_notified = false;
        Ok(())
    }
}

#[derive(Default)]
struct Engine {
    os: Arc<Os>,
    clock: Option<Clock>,
    arrived: [u64; CALLERS],
    waiters: Vec<(u64, usize, Waker)>,
    number: u64,
    woken: Woken,
    has_ended: bool,
    /// Each turn has something to do.
    is_busy: bool,
    panics: bool,
    turns: u64,
}

impl Turn for Engine {
    type Parking = Parking;

    fn turn(&mut self) -> io::Result<usize> {
        assert!(!self.panics, "as the test wants");
        self.turns += 1;
        let mut kernel = self.os.kernel.lock().unwrap();
        if !kernel.is_waited_for {
            kernel.is_notified = false;
        }
        self.has_ended |= self.os.is_woken.swap(false, Ordering::AcqRel);
        let ready = std::mem::take(&mut kernel.ready);
        drop(kernel);
        let mut work = usize::from(std::mem::take(&mut self.has_ended) || self.is_busy);
        for (key, count) in ready.into_iter().enumerate().filter(|&(_, count)| count > 0) {
            self.arrived[key] += count;
            work += 1;
            for (_, _, waker) in self.waiters.extract_if(.., |&mut (_, other, _)| other == key) {
                self.woken.push(waker);
            }
        }
        Ok(work)
    }

    fn park(&mut self, until_ns: Option<u64>) -> io::Result<Option<Parking>> {
        self.has_ended |= self.os.is_woken.swap(false, Ordering::AcqRel);
        if self.has_ended || self.is_busy {
            return Ok(None);
        }
        let left_ns = until_ns.map(|at_ns| at_ns.saturating_sub(self.now_ns()));
        let until = left_ns.map(|ns| Instant::now() + Duration::from_nanos(ns));
        Ok(Some(Parking { os: Arc::clone(&self.os), until }))
    }

    fn unpark(&mut self, _parking: Parking) {}

    fn wants_turn(&self) -> bool {
        false
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn is_early(&self) -> bool {
        false
    }

    fn take_early(&mut self) -> bool {
        false
    }

    fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    fn take_woken(&mut self) -> Woken {
        std::mem::take(&mut self.woken)
    }

    fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    fn is_done(&mut self) -> bool {
        self.arrived[0] != u64::MAX
    }

    fn now_ns(&self) -> u64 {
        self.clock.unwrap_or_default().now_ns()
    }
}

struct Call {
    key: usize,
    number: u64,
}

impl Waiter<Engine> for Call {
    type Output = ();

    fn attempt(&mut self, engine: &mut Engine) -> Option<()> {
        engine.arrived[self.key] = engine.arrived[self.key].checked_sub(1)?;
        Some(())
    }

    fn enlist(&mut self, engine: &mut Engine, waker: &Waker) {
        engine.number += 1;
        self.number = engine.number;
        engine.waiters.push((self.number, self.key, waker.clone()));
    }

    fn delist(&mut self, engine: &mut Engine) {
        engine.waiters.retain(|&(number, ..)| number != self.number);
    }
}

fn share(is_mobile: bool, idle: Idle) -> (Arc<Os>, Arc<Lead<Engine>>) {
    let os = Arc::new(Os::default());
    let engine = Engine { os: Arc::clone(&os), ..Engine::default() };
    let waker = Waker::from(Arc::clone(&os));
    (os, Arc::new(Lead::new(engine, waker, is_mobile, idle)))
}

fn call(lead: &Lead<Engine>, key: usize) -> io::Result<Option<()>> {
    let until_ns = lead.hold().now_ns() + LONG_NS;
    lead.wait(Some(until_ns), &mut Call { key, number: 0 })
}

fn run(lead: &Arc<Lead<Engine>>) -> thread::JoinHandle<io::Result<()>> {
    let lead = Arc::clone(lead);
    thread::spawn(move || lead.run())
}

/// `rounds` arrivals for four callers, a few of them in flight at a time.
fn serve(is_mobile: bool, idle: Idle, rounds: usize) {
    let (os, lead) = share(is_mobile, idle);
    let runner = run(&lead);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for key in 0..CALLERS {
            let (lead, done) = (&lead, &done);
            scope.spawn(move || {
                for _ in 0..rounds / CALLERS {
                    assert_eq!(call(lead, key).unwrap(), Some(()), "a wake was lost");
                    done.fetch_add(1, Ordering::Release);
                }
            });
        }
        for round in 0..rounds {
            os.change(|kernel| kernel.ready[round % CALLERS] += 1);
            while round + 1 - done.load(Ordering::Acquire) > 6 {
                thread::yield_now();
            }
        }
    });
    assert_eq!(lead.hold().arrived, [0; CALLERS]);
    assert_eq!(lead.hold().waiters.len(), 0);
    lead.stop(0);
    runner.join().unwrap().unwrap();
}

#[test]
fn four_callers_serve_each_other() {
    serve(true, Idle::Park, 100_000);
    serve(true, Idle::SpinThenPark(20_000), 20_000);
}

#[test]
fn a_runner_serves_four_callers() {
    serve(false, Idle::Park, 40_000);
}

/// No thread wakes up periodically: with nothing due, the Runner sleeps in the operating system, or until the leader
/// has left.
#[test]
fn an_idle_runner_does_not_tick() {
    let (os, lead) = share(true, Idle::Park);
    let runner = run(&lead);
    os.change(|kernel| kernel.ready[0] = 1);
    assert_eq!(call(&lead, 0).unwrap(), Some(()));
    thread::sleep(Duration::from_millis(30));
    let (turns, waits) = (lead.hold().turns, os.waits());
    assert!(waits > 0, "the Runner came back");
    thread::sleep(Duration::from_millis(100));
    assert_eq!((lead.hold().turns, os.waits()), (turns, waits), "nobody leads but the Runner");
    let caller = thread::spawn({
        let lead = Arc::clone(&lead);
        move || call(&lead, 1).unwrap()
    });
    thread::sleep(Duration::from_millis(30));
    let (turns, waits) = (lead.hold().turns, os.waits());
    thread::sleep(Duration::from_millis(100));
    assert_eq!((lead.hold().turns, os.waits()), (turns, waits), "a caller leads");
    os.change(|kernel| kernel.ready[1] = 1);
    assert_eq!(caller.join().unwrap(), Some(()));
    lead.stop(0);
    runner.join().unwrap().unwrap();
}

/// A stop takes effect in time although a caller keeps the lead.
#[test]
fn a_stop_is_in_time_next_to_a_leader() {
    let (os, lead) = share(true, Idle::Park);
    let runner = run(&lead);
    let caller = thread::spawn({
        let lead = Arc::clone(&lead);
        move || call(&lead, 1).unwrap()
    });
    thread::sleep(Duration::from_millis(20));
    // The engine is never done: only the time given to `stop` ends the run.
    lead.hold().arrived[0] = u64::MAX;
    let at_ns = lead.hold().now_ns() + 30_000_000;
    lead.stop(at_ns);
    runner.join().unwrap().unwrap();
    let late_ns = lead.hold().now_ns() - at_ns;
    assert!(late_ns < 5_000_000_000, "{late_ns} ns late");
    os.change(|kernel| kernel.ready[1] = 1);
    assert_eq!(caller.join().unwrap(), Some(()), "it goes on leading");
}

/// An engine that always has work, none of it for the leader: other threads get in, and their wakers are called.
#[test]
fn a_busy_leader_lets_others_in() {
    for idle in [Idle::Park, Idle::Spin] {
        let (os, lead) = share(true, idle);
        lead.hold().is_busy = true;
        let caller = thread::spawn({
            let lead = Arc::clone(&lead);
            move || call(&lead, 0).unwrap()
        });
        while lead.hold().turns == 0 {
            thread::yield_now();
        }
        let parker = Parker::current();
        lead.hold().waiters.push((0, 1, parker.waker()));
        os.change(|kernel| kernel.ready[1] = 1);
        assert!(parker.park(Some(LONG_NS)), "a waker is called while the leader goes on");
        os.change(|kernel| kernel.ready[0] = 1);
        assert_eq!(caller.join().unwrap(), Some(()));
    }
}

struct Panics;

impl Waiter<Engine> for Panics {
    type Output = ();

    fn attempt(&mut self, engine: &mut Engine) -> Option<()> {
        assert!(engine.arrived[0] == 0, "as the test wants");
        None
    }

    fn enlist(&mut self, _engine: &mut Engine, _waker: &Waker) {}

    fn delist(&mut self, _engine: &mut Engine) {}
}

/// The user's code may panic in an attempt: the lead is passed on.
#[test]
fn a_panic_in_an_attempt_gives_the_lead_away() {
    let (os, lead) = share(true, Idle::Park);
    let leader = thread::spawn({
        let lead = Arc::clone(&lead);
        move || lead.wait(None, &mut Panics).map(drop)
    });
    while os.waits() == 0 {
        thread::yield_now();
    }
    let follower = thread::spawn({
        let lead = Arc::clone(&lead);
        move || call(&lead, 1).unwrap()
    });
    while lead.hold().waiters.is_empty() {
        thread::yield_now();
    }
    os.change(|kernel| kernel.ready[0] = 1);
    assert!(leader.join().is_err());
    os.change(|kernel| kernel.ready[1] = 1);
    assert_eq!(follower.join().unwrap(), Some(()));
}

/// After a panic in a turn no thread may trust the engine: all callers and the Runner get an error.
#[test]
fn a_panic_in_a_turn_fails_the_engine() {
    for is_mobile in [false, true] {
        let (os, lead) = share(is_mobile, Idle::Park);
        let runner = run(&lead);
        let callers: Vec<_> = (0..2)
            .map(|key| {
                let lead = Arc::clone(&lead);
                thread::spawn(move || catch_unwind(AssertUnwindSafe(|| call(&lead, key))))
            })
            .collect();
        while lead.hold().waiters.len() < 2 {
            thread::yield_now();
        }
        lead.hold().panics = true;
        os.change(|kernel| kernel.ready[3] = 1);
        let outcomes: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        let ran = catch_unwind(AssertUnwindSafe(|| runner.join().unwrap().map(|()| None)));
        let panicked = outcomes.iter().chain([&ran]).filter(|outcome| outcome.is_err()).count();
        assert_eq!(panicked, 1, "whoever turned it");
        let heard = outcomes.iter().chain([&ran]).filter(|outcome| matches!(outcome, Ok(Err(_))));
        assert_eq!(heard.count(), 2, "all others");
        assert!(call(&lead, 0).is_err());
    }
}

/// A user's waker that panics affects neither the other wakers nor the thread that calls them.
#[test]
fn a_waker_that_panics_stands_alone() {
    struct Bad;
    impl Wake for Bad {
        fn wake(self: Arc<Self>) {
            panic!("as the test wants");
        }
    }
    #[derive(Default)]
    struct Count(AtomicU64);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let count = Arc::new(Count::default());
    let mut woken = Woken::default();
    assert!(woken.is_empty());
    woken.push(Waker::from(Arc::new(Bad)));
    woken.push(Waker::from(Arc::clone(&count)));
    woken.push(Waker::from(Arc::clone(&count)));
    assert!(!woken.is_empty());
    woken.wake();
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
}
