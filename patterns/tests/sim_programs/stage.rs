//! The environment of the programs: contexts, endpoints, and the end, at which nothing may be left.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::Deref,
    rc::Rc,
    time::Duration,
};

use zring::{Config, Context, Message, Options, PoolConfig, SocketType, inline};
use zring_engine::sim::World;

use super::{content::Shapes, sock::Sock};

pub(crate) const US: u64 = 1_000;
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const S: u64 = 1_000_000_000;

const BUFFERS: u16 = 8;
/// Most received messages that are kept.
const KEPT_MAX: usize = 12;

/// A value that is leaked when a test fails: the world has stopped by then, and destructors would wait for it.
pub(crate) struct Leaky<T>(Option<T>);

impl<T> Leaky<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("taken once")
    }
}

impl<T> Deref for Leaky<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("taken at the end only")
    }
}

impl<T> Drop for Leaky<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.0.take());
        }
    }
}

#[derive(Clone)]
pub(crate) struct Stage(Rc<Inner>);

struct Inner {
    world: World,
    config: Config,
    contexts: RefCell<Vec<Leaky<Context>>>,
    /// Shards opened so far, which is how the world numbers them.
    shards: Cell<usize>,
    shapes: Shapes,
    is_lossless: bool,
    senders: Cell<u16>,
    endpoints: Cell<u16>,
    /// Messages whose memory the program still holds.
    kept: RefCell<VecDeque<Message>>,
}

fn pool(world: &World) -> PoolConfig {
    // The kernel has all buffers, so that at the end the world can tell whether one is missing.
    let reserve = 1 + world.below(3) as u16;
    PoolConfig { buffers: BUFFERS, buffer_bytes: 4096, with_kernel: BUFFERS, reserve }
}

impl Stage {
    pub(crate) fn new(world: &World, is_lossless: bool) -> Self {
        let mut config = Config {
            drain_on_drop: Duration::from_millis(world.below(200)),
            wait: match world.below(4) {
                0 => zring::Wait::SpinThenPark(Duration::from_micros(world.below(50))),
                1 => zring::Wait::Adaptive,
                _ => zring::Wait::Park,
            },
            ..Config::default()
        };
        if world.below(2) == 0 {
            config.engine.pool = pool(world);
            config.engine.pool_whole = pool(world);
        }
        if world.below(2) == 0 {
            config.engine.completions_per_turn = 1 + world.below(8) as usize;
        }
        if world.below(2) == 0 {
            config.engine.arena_block_bytes = 4096;
            config.engine.arena_blocks_max = 2;
        }
        let stage = Self(Rc::new(Inner {
            world: world.clone(),
            config,
            contexts: RefCell::default(),
            shards: Cell::new(0),
            shapes: Shapes::default(),
            is_lossless,
            senders: Cell::new(0),
            endpoints: Cell::new(0),
            kept: RefCell::default(),
        }));
        for _ in 0..1 + world.below(3) {
            let context = Leaky::new(stage.open());
            stage.0.contexts.borrow_mut().push(context);
        }
        stage
    }

    pub(crate) fn world(&self) -> &World {
        &self.0.world
    }

    pub(crate) fn shapes(&self) -> &Shapes {
        &self.0.shapes
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.0.world.below(bound)
    }

    /// Whether no message that was handed over may be lost.
    pub(crate) fn is_lossless(&self) -> bool {
        self.0.is_lossless
    }

    /// A new background context.
    pub(crate) fn open(&self) -> Context {
        let inner = &*self.0;
        let shards = 1 + self.below(2) as usize;
        let config = Config { shards, ..inner.config.clone() };
        inner.shards.set(inner.shards.get() + shards);
        Context::with_config(config).expect("a context")
    }

    pub(crate) fn open_inline(&self) -> inline::Context {
        let inner = &*self.0;
        inner.shards.set(inner.shards.get() + 1);
        inline::Context::with_config(inner.config.clone()).expect("an inline context")
    }

    /// A socket in one of the contexts, in a new context, or inline.
    pub(crate) fn socket(&self, socket_type: SocketType, options: Options) -> Sock {
        let contexts = self.0.contexts.borrow();
        match self.below(8) {
            0 => Sock::inline(self, socket_type, options),
            1 => Sock::alone(self, socket_type, options),
            _ => {
                let at = self.below(contexts.len() as u64) as usize;
                Sock::shared(&contexts[at], socket_type, options)
            }
        }
    }

    /// A socket of a background context.
    pub(crate) fn shared(&self, socket_type: SocketType, options: Options) -> Sock {
        let contexts = self.0.contexts.borrow();
        let at = self.below(contexts.len() as u64) as usize;
        Sock::shared(&contexts[at], socket_type, options)
    }

    /// Random values for all options that must not matter.
    pub(crate) fn options(&self) -> Options {
        let hwm = || [1, 2, 3, 10, 1000, 0][self.below(6) as usize];
        let mut options = Options::default();
        options.sndhwm = hwm();
        options.rcvhwm = hwm();
        options.reconnect_ivl = Duration::from_micros(200 + self.below(30_000));
        options.reconnect_ivl_max = Duration::from_millis(self.below(2) * self.below(100));
        options.backlog = 1 + self.below(10) as u32;
        if self.below(4) == 0 {
            options.pipe_bytes_max = 1 + self.below(10_000);
        }
        if !self.0.is_lossless && self.below(3) == 0 {
            options.heartbeat_ivl = Some(Duration::from_millis(5 + self.below(100)));
            options.heartbeat_timeout = Some(Duration::from_millis(20 + self.below(200)));
        }
        options
    }

    /// An unused endpoint.
    pub(crate) fn endpoint(&self) -> String {
        let number = self.0.endpoints.get();
        self.0.endpoints.set(number + 1);
        match self.below(3) {
            0 => format!("inproc://place-{number}"),
            _ => format!("tcp://127.0.0.1:{}", 5000 + number),
        }
    }

    /// A number for the messages of one sender.
    pub(crate) fn sender(&self) -> u16 {
        self.0.senders.set(self.0.senders.get() + 1);
        self.0.senders.get()
    }

    /// Keeps a message for a while, with some probability.
    pub(crate) fn keep(&self, message: Message) {
        let mut kept = self.0.kept.borrow_mut();
        if self.below(3) == 0 {
            kept.push_back(message);
        }
        if kept.len() > KEPT_MAX || self.below(8) == 0 {
            kept.pop_front();
        }
    }

    /// A random duration, mostly short.
    pub(crate) fn moment_ns(&self) -> u64 {
        match self.below(4) {
            0 => self.below(5 * MS),
            1 => self.below(US),
            _ => self.below(300 * US),
        }
    }

    /// Lets a short time pass in the world.
    pub(crate) async fn pause(&self) {
        let ns = self.moment_ns();
        self.0.world.sleep(ns).await;
    }

    /// Checks that operations, descriptors and buffers have all come back.
    pub(crate) fn end(&self) {
        let Inner { world, contexts, kept, config, .. } = &*self.0;
        kept.borrow_mut().clear();
        let has_all = config.engine.pool.with_kernel == config.engine.pool.buffers;
        if has_all && contexts.borrow().iter().all(|context| context.engine_stats().len() == 1) {
            let count = contexts.borrow().len();
            self.check_buffers(count);
        }
        contexts.borrow_mut().clear();
        let shards = 0..self.0.shards.get();
        let buffers = || shards.clone().map(|shard| world.driver_buffers(shard)).sum::<usize>();
        let is_over = || world.sockets() == 0 && world.in_flight() == 0 && buffers() == 0;
        world.run_until_within(Some(5 * S), is_over);
        assert_eq!((world.sockets(), world.in_flight()), (0, 0), "sockets or operations leaked");
        assert_eq!(buffers(), 0, "a shard lives on, with its buffers");
    }

    /// The first contexts have one shard each, so the shards' numbers are those of the contexts.
    fn check_buffers(&self, count: usize) {
        let world = &self.0.world;
        let all = usize::from(BUFFERS);
        let are_back = || (0..count).all(|shard| world.driver_buffers(shard) == all);
        for _ in 0..50 {
            if are_back() {
                return;
            }
            // Give the shards work, so that they are turned.
            for context in self.0.contexts.borrow().iter() {
                let socket = context.socket(SocketType::Pull).expect("a socket");
                socket.bind("tcp://127.0.0.1:*").expect("bound");
                world.run_for(MS);
                socket.close();
            }
        }
        let there: Vec<usize> = (0..count).map(|shard| world.driver_buffers(shard)).collect();
        panic!("of {all} buffers each, the shards have {there:?} back");
    }
}
