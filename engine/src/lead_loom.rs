//! Loom models of the lead: which thread turns a shared engine, which threads sleep, and which ones they wake.
//!
//! One lock stands for the operating system: the ready keys, and the notifier of the readiness driver. Time passes only
//! in waits with a timeout, and those are over at once.
//!
//! Longer than 600 lines: each model needs the world that they share.

use std::{io, task::Wake, task::Waker};

use loom::thread;

use crate::{
    Parker,
    lead::{Held, Idle, Lead, Turn, Wait, Waiter, Woken},
    sync::{
        Arc,
        model::{Condvar, Mutex, MutexGuard},
    },
};

/// How many keys there are. Each arrival has the key of the caller that waits for it.
const KEYS: usize = 3;
const FOREVER: u64 = u64::MAX;

#[derive(Default)]
struct Kernel {
    ready: [bool; KEYS],
    /// The notifier is readable.
    is_notified: bool,
    /// How often the notifier became readable: every thread that waits at that time sees it.
    notified: u32,
    /// The engine's waker was used, and the engine has not seen that yet.
    is_woken: bool,
    is_waited_for: bool,
    refuses: bool,
}

struct Os {
    kernel: Mutex<Kernel>,
    changed: Condvar,
    /// Whether only one thread may wait, as with the crate `polling`: the waits of others return at once.
    is_exclusive: bool,
    /// Whether others get ahead of a thread that is about to wait.
    is_late: bool,
}

impl Os {
    fn lock(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Kernel)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn produce(&self, key: usize) {
        self.change(|kernel| kernel.ready[key] = true);
    }
}

impl Wake for Os {
    fn wake(self: Arc<Self>) {
        self.change(|kernel| {
            if !std::mem::replace(&mut kernel.is_woken, true) {
                kernel.is_notified = true;
                kernel.notified += 1;
            }
        });
    }
}

struct Parking {
    os: Arc<Os>,
    until_ns: Option<u64>,
    seen: [bool; KEYS],
}

impl Wait for Parking {
    fn wait(&mut self) -> io::Result<()> {
        if self.os.is_late {
            thread::yield_now();
        }
        let mut kernel = self.os.lock();
        if self.os.is_exclusive && kernel.is_waited_for {
            drop(kernel);
            thread::yield_now();
            return Ok(());
        }
        kernel.is_waited_for = true;
        let notified = kernel.notified;
        while !kernel.is_notified
            && kernel.notified == notified
            && !kernel.refuses
            && !kernel.ready.contains(&true)
            && self.until_ns.is_none()
        {
            kernel = self.os.changed.wait(kernel).unwrap();
        }
        kernel.is_waited_for = false;
        kernel.is_notified = false;
        self.seen = kernel.ready;
        Ok(())
    }
}

/// An engine like a shard on the readiness driver.
struct Engine {
    os: Arc<Os>,
    is_mobile: bool,
    now_ns: u64,
    /// Keys that were reported as ready and not taken yet.
    filed: [bool; KEYS],
    has_ended: bool,
    /// The key of an arrival that an operation queued. A turn delivers it like those in `filed`.
    queued: Option<usize>,
    /// The time and the key of an arrival that comes by itself.
    timer: Option<(u64, usize)>,
    arrived: [u32; KEYS],
    waiters: Vec<(u64, usize, Waker)>,
    number: u64,
    woken: Woken,
    /// Woken by every arrival, without being a waiter.
    witness: Option<Waker>,
    parked: u32,
    parked_until_ns: u64,
    refuses_once: bool,
}

impl Engine {
    fn arrive(&mut self, key: usize) {
        self.arrived[key] += 1;
        let woken = &mut self.woken;
        self.waiters.retain(|(_, other, waker)| {
            if *other == key {
                woken.push(waker.clone());
            }
            *other != key
        });
        if let Some(witness) = &self.witness {
            woken.push(witness.clone());
        }
    }

    fn note_woken(&mut self) {
        self.has_ended |= std::mem::take(&mut self.os.lock().is_woken);
    }

    fn is_due(&self) -> bool {
        self.timer.is_some_and(|(at_ns, _)| self.now_ns >= at_ns)
    }

    fn take(&mut self, key: usize) -> Option<()> {
        self.arrived[key] = self.arrived[key].checked_sub(1)?;
        Some(())
    }

    fn enlist(&mut self, key: usize, waker: &Waker) -> u64 {
        self.number += 1;
        self.waiters.push((self.number, key, waker.clone()));
        self.number
    }
}

impl Turn for Engine {
    type Parking = Parking;

    fn turn(&mut self) -> io::Result<usize> {
        let os = Arc::clone(&self.os);
        let mut kernel = os.lock();
        if kernel.refuses || std::mem::take(&mut self.refuses_once) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if !(os.is_exclusive && kernel.is_waited_for) {
            // A look that does not wait takes all that is ready, the notification included.
            kernel.is_notified = false;
            (0..KEYS).for_each(|key| self.filed[key] |= kernel.ready[key]);
        }
        let mut work = usize::from(std::mem::take(&mut kernel.is_woken) || self.has_ended);
        self.has_ended = false;
        let filed = std::mem::take(&mut self.filed);
        (0..KEYS).for_each(|key| kernel.ready[key] &= !filed[key]);
        drop(kernel);
        let timer = if self.is_due() { self.timer.take() } else { None };
        let keys = (0..KEYS).filter(|&key| filed[key]);
        for key in keys.chain(self.queued.take()).chain(timer.map(|(_, key)| key)) {
            self.arrive(key);
            work += 1;
        }
        Ok(work)
    }

    fn park(&mut self, until_ns: Option<u64>) -> io::Result<Option<Parking>> {
        self.note_woken();
        if self.wants_turn() || self.is_due() {
            return Ok(None);
        }
        let until_ns = until_ns.into_iter().chain(self.timer.map(|(at_ns, _)| at_ns)).min();
        let others_ns = if self.parked == 0 { 0 } else { self.parked_until_ns };
        self.parked_until_ns = until_ns.unwrap_or(FOREVER).max(others_ns);
        self.parked += 1;
        Ok(Some(Parking { os: Arc::clone(&self.os), until_ns, seen: [false; KEYS] }))
    }

    fn unpark(&mut self, parking: Parking) {
        self.parked -= 1;
        (0..KEYS).for_each(|key| self.filed[key] |= parking.seen[key]);
        self.now_ns = self.now_ns.max(parking.until_ns.unwrap_or(0));
    }

    fn wants_turn(&self) -> bool {
        self.queued.is_some() || self.has_ended || self.filed.contains(&true)
    }

    fn settle(&mut self) -> io::Result<()> {
        assert!(self.is_mobile, "only its Runner turns a fixed engine");
        self.turn().map(drop)
    }

    fn is_early(&self) -> bool {
        self.parked > 0 && self.timer.is_some_and(|(at_ns, _)| at_ns < self.parked_until_ns)
    }

    fn take_early(&mut self) -> bool {
        let is_early = self.is_early();
        if let Some((at_ns, _)) = self.timer.filter(|_| is_early) {
            self.parked_until_ns = at_ns;
        }
        is_early
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
        true
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

/// A call that waits for one arrival.
struct Call {
    key: usize,
    number: u64,
}

impl Waiter<Engine> for Call {
    type Output = ();

    fn attempt(&mut self, engine: &mut Engine) -> Option<()> {
        engine.take(self.key)
    }

    fn enlist(&mut self, engine: &mut Engine, waker: &Waker) {
        self.number = engine.enlist(self.key, waker);
    }

    fn delist(&mut self, engine: &mut Engine) {
        engine.waiters.retain(|&(number, ..)| number != self.number);
    }
}

#[derive(Clone)]
struct World {
    os: Arc<Os>,
    lead: Arc<Lead<Engine>>,
    /// A waker of every thread, kept to the end: std counts the clones of wakers, and the model does not see that.
    wakers: Arc<crate::sync::Mutex<Vec<Waker>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fixed,
    /// Only one thread may wait for the operating system at a time.
    Exclusive,
    /// As `Exclusive`, and other threads get ahead of a thread that is about to wait.
    Late,
    /// Several threads may wait at a time.
    Mobile,
}

impl World {
    fn new(kind: Kind, idle: Idle) -> Self {
        let os = Arc::new(Os {
            kernel: Mutex::new(Kernel::default()),
            changed: Condvar::new(),
            is_exclusive: matches!(kind, Kind::Exclusive | Kind::Late),
            is_late: kind == Kind::Late,
        });
        let is_mobile = kind != Kind::Fixed;
        let engine = Engine {
            os: Arc::clone(&os),
            is_mobile,
            now_ns: 0,
            filed: [false; KEYS],
            has_ended: false,
            queued: None,
            timer: None,
            arrived: [0; KEYS],
            waiters: Vec::new(),
            number: 0,
            woken: Woken::default(),
            witness: None,
            parked: 0,
            parked_until_ns: 0,
            refuses_once: false,
        };
        let waker = Waker::from(Arc::clone(&os));
        let lead = Arc::new(Lead::new(engine, waker, is_mobile, idle));
        let world = Self { os, lead, wakers: Arc::default() };
        world.keep_waker();
        world
    }

    fn keep_waker(&self) {
        self.wakers.lock().unwrap().push(Parker::current().waker());
    }

    fn hold(&self) -> Held<'_, Engine> {
        self.lead.hold()
    }

    fn try_call(&self, key: usize) -> io::Result<()> {
        let called = self.lead.wait(None, &mut Call { key, number: 0 });
        called.map(|done| done.expect("there is no time limit"))
    }

    fn call(&self, key: usize) {
        self.try_call(key).expect("a call that succeeds");
    }

    /// Waits as a task would, with this thread as its executor.
    fn call_async(&self, key: usize) {
        let parker = Parker::current();
        loop {
            let mut held = self.hold();
            if held.take(key).is_some() {
                return;
            }
            held.enlist(key, &parker.waker());
            drop(held);
            parker.park(None);
        }
    }

    fn spawn(&self, body: impl FnOnce(Self) + 'static) -> thread::JoinHandle<()> {
        let world = self.clone();
        thread::spawn(move || {
            world.keep_waker();
            body(world);
        })
    }

    fn run(&self) -> thread::JoinHandle<()> {
        self.spawn(|world| world.lead.run().expect("nothing fails"))
    }

    /// Stops the Runner and checks that nothing is left behind. No thread may be waiting any more.
    fn end(&self, runner: thread::JoinHandle<()>) {
        self.lead.stop(0);
        runner.join().unwrap();
        self.check();
    }

    fn check(&self) {
        let held = self.hold();
        assert_eq!((held.parked, held.waiters.len(), held.woken.is_empty()), (0, 0, true));
    }
}

fn model(kinds: &[Kind], body: impl Fn(World) + Sync + Send + Copy + 'static) {
    model_idle(kinds, Idle::Park, body);
}

fn model_idle(kinds: &[Kind], idle: Idle, body: impl Fn(World) + Sync + Send + Copy + 'static) {
    for &kind in kinds {
        let mut builder = loom::model::Builder::new();
        builder.max_branches = 10_000;
        builder.check(move || body(World::new(kind, idle)));
    }
}

const CALLERS_LEAD: &[Kind] = &[Kind::Exclusive, Kind::Late, Kind::Mobile];
const ALL: &[Kind] = &[Kind::Fixed, Kind::Exclusive, Kind::Late, Kind::Mobile];

/// The caller that leads serves the other one, and hands the lead over.
#[test]
fn callers_serve_each_other() {
    model(CALLERS_LEAD, |world| {
        let others = [0, 1].map(|key| world.spawn(move |world| world.call(key)));
        world.os.produce(0);
        world.os.produce(1);
        others.into_iter().for_each(|other| other.join().unwrap());
        world.check();
    });
}

#[test]
fn spinning_callers_serve_each_other() {
    model_idle(CALLERS_LEAD, Idle::Spin, |world| {
        let others = [0, 1].map(|key| world.spawn(move |world| world.call(key)));
        world.os.produce(0);
        world.os.produce(1);
        others.into_iter().for_each(|other| other.join().unwrap());
        world.check();
    });
}

/// An arrival after the caller has left is dispatched all the same.
#[test]
fn the_runner_comes_back() {
    model(ALL, |world| {
        world.hold().witness = Some(Parker::current().waker());
        let runner = world.run();
        let other = world.spawn(|world| world.call(0));
        world.os.produce(0);
        other.join().unwrap();
        world.os.produce(1);
        while world.hold().take(1).is_none() {
            Parker::current().park(None);
        }
        world.end(runner);
    });
}

/// Two calls one after the other: the second meets a Runner in any state.
#[test]
fn a_caller_comes_back() {
    model(ALL, |world| {
        let runner = world.run();
        let other = world.spawn(|world| {
            world.os.produce(0);
            world.os.produce(1);
        });
        world.call(0);
        world.call(1);
        other.join().unwrap();
        world.end(runner);
    });
}

#[test]
fn a_runner_wakes_all_callers() {
    model(ALL, |world| {
        let runner = world.run();
        let other = world.spawn(|world| {
            world.os.produce(1);
            world.call(0);
        });
        world.os.produce(0);
        world.call(1);
        other.join().unwrap();
        world.end(runner);
    });
}

/// Work that an operation queues reaches the caller that waits for it, whichever thread turns the engine.
#[test]
fn queued_work_is_got_on_with() {
    model(ALL, |world| {
        let runner = world.run();
        let other = world.spawn(|world| world.call(0));
        world.hold().queued = Some(0);
        other.join().unwrap();
        world.end(runner);
    });
}

/// A timer that an operation arms cuts the current wait short, whichever thread waits.
#[test]
fn an_early_timer_is_not_slept_through() {
    model(ALL, |world| {
        let runner = world.run();
        let other = world.spawn(|world| world.call(0));
        world.hold().timer = Some((5, 0));
        other.join().unwrap();
        world.end(runner);
    });
}

/// An early timer that no caller waits for, while a caller takes the lead and leaves it.
#[test]
fn an_early_timer_outlives_the_leader() {
    model(CALLERS_LEAD, |world| {
        world.hold().witness = Some(Parker::current().waker());
        let runner = world.run();
        let other = world.spawn(|world| {
            world.os.produce(0);
            world.call(0);
        });
        world.hold().timer = Some((5, 1));
        while world.hold().take(1).is_none() {
            Parker::current().park(None);
        }
        other.join().unwrap();
        world.end(runner);
    });
}

/// A turn for another thread's operation consumes no wake of the leader's.
#[test]
fn turns_in_between_swallow_no_wake() {
    model(CALLERS_LEAD, |world| {
        let others = [
            world.spawn(|world| world.call(0)),
            world.spawn(|world| world.hold().queued = Some(1)),
        ];
        world.hold().timer = Some((5, 0));
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(world.hold().arrived, [0, 1, 0]);
        world.check();
    });
}

/// As above, but here the wake announces the arrival that the leader waits for.
#[test]
fn turns_in_between_swallow_no_arrival() {
    model(CALLERS_LEAD, |world| {
        let others = [
            world.spawn(|world| world.call(0)),
            world.spawn(|world| world.hold().queued = Some(1)),
        ];
        world.hold().queued = Some(0);
        others.into_iter().for_each(|other| other.join().unwrap());
        world.check();
    });
}

#[test]
fn the_runner_serves_tasks() {
    model(ALL, |world| {
        let runner = world.run();
        let other = world.spawn(|world| world.os.produce(0));
        world.call_async(0);
        other.join().unwrap();
        world.end(runner);
    });
}

/// A caller leads next to a task that waits, and leaves.
#[test]
fn tasks_are_served_next_to_callers() {
    model(ALL, |world| {
        let runner = world.run();
        let other = world.spawn(|world| {
            world.os.produce(0);
            world.call(0);
            world.os.produce(1);
        });
        world.call_async(1);
        other.join().unwrap();
        world.end(runner);
    });
}

#[test]
fn a_caller_outlives_the_runner() {
    model(&[Kind::Exclusive, Kind::Late], |world| {
        let runner = world.run();
        let other = world.spawn(|world| world.call(0));
        world.lead.stop(0);
        runner.join().unwrap();
        world.os.produce(0);
        other.join().unwrap();
        world.check();
    });
}

#[test]
fn nobody_waits_for_a_fixed_engine_without_its_runner() {
    model(&[Kind::Fixed], |world| {
        let runner = world.run();
        let other = world.spawn(|world| {
            let error = world.try_call(0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        });
        world.lead.stop(0);
        runner.join().unwrap();
        other.join().unwrap();
        world.check();
    });
}

/// The operating system refuses: every caller gets the error.
#[test]
fn a_failure_reaches_every_caller() {
    let fails = |world: World| {
        let error = world.try_call(0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    };
    model(CALLERS_LEAD, move |world| {
        let others = [world.spawn(fails), world.spawn(fails)];
        world.os.change(|kernel| kernel.refuses = true);
        others.into_iter().for_each(|other| other.join().unwrap());
        world.check();
    });
    model(ALL, move |world| {
        let others = [world.spawn(|world| drop(world.lead.run().unwrap_err())), world.spawn(fails)];
        world.os.change(|kernel| kernel.refuses = true);
        others.into_iter().for_each(|other| other.join().unwrap());
        world.check();
    });
}

/// An error that only one operation meets reaches the Runner and the other caller.
#[test]
fn a_failed_operation_is_heard_of() {
    model(CALLERS_LEAD, move |world| {
        let runner = world.spawn(|world| drop(world.lead.run().unwrap_err()));
        let other = world.spawn(|world| drop(world.try_call(0).unwrap_err()));
        let mut held = world.hold();
        held.refuses_once = true;
        held.queued = Some(1);
        drop(held);
        runner.join().unwrap();
        other.join().unwrap();
        world.check();
    });
}
