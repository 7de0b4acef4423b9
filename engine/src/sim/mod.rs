//! A simulated world to test programs that are built on this crate. Whole multi-socket programs run on one thread,
//! under a virtual clock, over a network that fails in seeded ways. The same seed gives the same run.
//!
//! Not for production: a world talks to nothing outside of the process.
//!
//! ```
//! use zring_engine::{Clock, sim::{Faults, World}};
//!
//! World::run(7, &Faults::all(), |world| {
//!     let clock = Clock::new();
//!     let start_ns = clock.now_ns();
//!     let sleeper = world.clone();
//!     let task = world.spawn(async move { sleeper.sleep(3_600_000_000_000).await });
//!     world.run_until(|| task.is_done());
//!     assert!(clock.now_ns() - start_ns >= 3_600_000_000_000);
//! });
//! ```
//!
//! # What runs
//! - The *body*: the closure given to [`World::run`]. It may block: a [`crate::Shard::turn`] that waits, a
//!   [`crate::Parker::park`] and [`World::run_until`] run everything else meanwhile.
//! - *Tasks*: futures given to [`World::spawn`]. They may block, too, but nested waits end in the opposite order only;
//!   many tasks are better written `async`.
//! - *Turners*: closures given to [`register`], one for each thread that the program would start otherwise.
//! - The *network*: deliveries, resets and late completions, each at its time.
//!
//! [`World::step`] picks one of those that can run, at random. When none can, the clock jumps to the time of the next
//! event. If there is no next event, that is a deadlock: the world fails and lists the waiting tasks, turners and
//! threads.
//!
//! # What is simulated
//! [`crate::Shard::open`] with [`crate::DriverChoice::Sim`], or with [`crate::DriverChoice::Auto`] while a world runs
//! on the thread; the [`crate::Clock`]s made meanwhile; and [`crate::Parker`]. Addresses are TCP's, and only the port
//! counts. Names are not simulated: [`crate::Shard::resolve`] asks a real thread, so use numeric addresses.
//!
//! A program stays deterministic as long as it does not depend on real time, on memory addresses or on the order of a
//! `HashMap`, and starts no thread.

mod batch;
mod schedule;
mod task;

use std::{
    cell::{Cell, RefCell},
    fmt,
    panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind},
    rc::Rc,
    task::Waker,
};

pub use batch::{SEED_VARIABLE, SEEDS_VARIABLE, batch};
pub(crate) use schedule::{pass, wait};
pub use task::{Sleep, Task};

use self::{
    schedule::{Turners, Waiting},
    task::Tasks,
};
pub use crate::driver::sim::{Faults, Random};
use crate::{
    driver::sim::{Net, lock},
    parker,
    sync::{Arc, Mutex},
    time,
};

/// How many steps a world may take by default.
pub const STEPS_MAX: u64 = 2_000_000;
/// The time of a world's clock at its begin.
const START_NS: u64 = 1_000_000_000;

/// The outcome of a turner's call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// The turner did something; there may be more to do.
    Worked,
    /// The turner found nothing to do. Call it when one of the shards it turns has work, or at this time.
    Idle {
        /// On the world's clock, in nanoseconds.
        next_deadline_ns: Option<u64>,
    },
    /// As `Idle`, after the turner has prepared a wait ([`crate::Shard::park`]): wakes that came during the call are
    /// for other threads that wait for the same shard.
    Parked {
        /// On the world's clock, in nanoseconds.
        next_deadline_ns: Option<u64>,
    },
    /// The turner has ended. It is never called again.
    Gone,
}

struct Inner {
    seed: u64,
    replay: String,
    steps: Cell<u64>,
    steps_max: u64,
    net: Arc<Mutex<Net>>,
    /// The scheduler's own random numbers.
    random: RefCell<Random>,
    tasks: Tasks,
    turners: Turners,
    /// The waits that are nested now, the outermost first.
    waits: RefCell<Vec<Waiting>>,
}

/// A handle on the world that runs on this thread.
#[derive(Clone)]
pub struct World(Rc<Inner>);

thread_local! {
    static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// How to run a world.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of all random decisions.
    pub seed: u64,
    /// Bounds for the faults of the world.
    pub faults: Faults,
    /// The command that runs a failed world again; a report puts `ZRING_SIM_SEED=…` in front of it.
    pub replay: String,
    /// The world fails for want of progress after so many steps.
    pub steps_max: u64,
}

impl Plan {
    /// A plan with the usual bounds.
    #[must_use]
    pub fn new(seed: u64, faults: &Faults) -> Self {
        let replay = "cargo test".to_owned();
        Self { seed, faults: faults.clone(), replay, steps_max: STEPS_MAX }
    }

    /// Runs `body` in a world of its own.
    ///
    /// # Panics
    /// If anything inside panics, with the same payload, after a report on stderr that names the seed and the last
    /// events; at a deadlock; after too many steps; and when a world runs on this thread already.
    pub fn run<R>(&self, body: impl FnOnce(&World) -> R) -> R {
        assert!(current().is_none(), "a world inside a world");
        let world = World::new(self);
        let _restore = Installed::new(&world);
        let hook = {
            let world = world.clone();
            move |left_ns| world.park(left_ns)
        };
        let inside = || {
            let result = body(&world);
            world.clear();
            result
        };
        let outcome = parker::with_scheduler(hook, || catch_unwind(AssertUnwindSafe(inside)));
        outcome.unwrap_or_else(|panic| {
            world.report();
            world.abandon();
            resume_unwind(panic)
        })
    }
}

/// While this value lives, its world is the thread's.
struct Installed;

impl Installed {
    fn new(world: &World) -> Self {
        CURRENT.set(Some(world.clone()));
        time::set_virtual_ns(Some(START_NS));
        Self
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        CURRENT.set(None);
        time::set_virtual_ns(None);
    }
}

/// The world that runs on this thread.
#[must_use]
pub fn current() -> Option<World> {
    CURRENT.with_borrow(Clone::clone)
}

pub(crate) fn current_net() -> Option<Arc<Mutex<Net>>> {
    CURRENT.with_borrow(|world| world.as_ref().map(|world| world.0.net.clone()))
}

/// Hands a closure to the scheduler: the loop body of a thread that the program would start otherwise. The scheduler
/// calls it whenever a shard that it turns has something to do. The scheduler learns which shards these are when the
/// closure turns them, which it must do without waiting. The returned waker asks for a call, too.
///
/// # Panics
/// If no world runs on this thread.
#[track_caller]
pub fn register(turn: Box<dyn FnMut() -> Turned>) -> Waker {
    let world = current().expect("a turner is registered inside a world");
    world.0.turners.add(turn, Location::caller())
}

impl World {
    /// Runs `body` in a world of its own, with the usual bounds: [`Plan::run`] says more.
    ///
    /// # Panics
    /// As [`Plan::run`].
    pub fn run<R>(seed: u64, faults: &Faults, body: impl FnOnce(&World) -> R) -> R {
        Plan::new(seed, faults).run(body)
    }

    fn new(plan: &Plan) -> Self {
        let net = Net::new(plan.seed, &plan.faults, START_NS);
        Self(Rc::new(Inner {
            seed: plan.seed,
            replay: plan.replay.clone(),
            steps: Cell::new(0),
            steps_max: plan.steps_max,
            net: Arc::new(Mutex::new(net)),
            random: RefCell::new(Random::new(!plan.seed)),
            tasks: Tasks::default(),
            turners: Turners::default(),
            waits: RefCell::default(),
        }))
    }

    /// The seed of the world.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// A number below `bound`, for the program's own decisions.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.0.random.borrow_mut().below(bound)
    }

    /// The time of the world's clock, in nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        lock(&self.0.net).now_ns
    }

    /// How many steps the world took so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.0.steps.get()
    }

    /// Ends all faults from now on. Delays and windows stay as they are.
    pub fn heal(&self) {
        lock(&self.0.net).heal();
    }

    /// Adds a line to the report of a failure.
    pub fn trace(&self, line: &str) {
        let mut net = lock(&self.0.net);
        let now_ns = net.now_ns;
        net.trace.say(now_ns, line);
    }

    /// The last events, one per line.
    #[must_use]
    pub fn trace_lines(&self) -> Vec<String> {
        lock(&self.0.net).trace.lines().collect()
    }

    /// A digest of all events so far: two runs with the same digest were the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        lock(&self.0.net).trace.digest()
    }

    /// How many events of this name there were so far; the names are those of [`World::trace_lines`]. For tests that
    /// check whether they met the fault they are about: `reset`, `refused`, `accept failed`, `no buffer`, `late`, ….
    #[must_use]
    pub fn count(&self, event: &str) -> u64 {
        lock(&self.0.net).trace.count(event)
    }

    /// How many operations of all shards wait for their last completion.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        lock(&self.0.net).desks.iter().map(|desk| desk.ops.len()).sum()
    }

    /// How many pool buffers the driver of a shard has. Shards are counted in the order in which they were opened.
    /// Buffers that are neither with the driver nor ready in the pool are pinned by chunks and leases.
    ///
    /// # Panics
    /// If there was no such shard.
    #[must_use]
    pub fn driver_buffers(&self, shard: usize) -> usize {
        lock(&self.0.net).desks[shard].buffers
    }

    /// How many simulated sockets are open, connections in backlogs included.
    #[must_use]
    pub fn sockets(&self) -> usize {
        lock(&self.0.net).sockets.len()
    }

    /// Drops tasks and turners. Their destructors may still run code of the program.
    fn clear(&self) {
        while self.0.tasks.drop_one() || self.0.turners.drop_one() {}
    }

    /// After a failure nothing of the program may run any more, not even destructors.
    fn abandon(&self) {
        self.0.tasks.forget();
        self.0.turners.forget();
    }

    fn report(&self) {
        let inner = &self.0;
        let lines = self.trace_lines();
        let mut text = format!("the last {} events:\n", lines.len());
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        let Inner { seed, replay, .. } = &**inner;
        eprintln!("{text}seed {seed}: rerun with {SEED_VARIABLE}={seed} {replay}");
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.0.seed)
            .field("steps", &self.0.steps)
            .finish_non_exhaustive()
    }
}
