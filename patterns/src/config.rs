//! Configuration of a context.

use std::time::Duration;

use crate::inproc::Inproc;
pub use zring_engine::{DriverChoice as Driver, sys::thread::Scheduling};
use zring_engine::{PoolMemory, RunnerConfig, WaitStrategy, lead::Idle};

/// How a call waits, and a Runner that finds nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wait {
    /// The call never sleeps: the lowest latency, and a core of its own at 100 %.
    Spin,
    /// The call looks for so long, then sleeps.
    SpinThenPark(Duration),
    /// A call looks for up to 0.1 ms where the last waits were short, yielding its core to whoever needs it, and otherwise
    /// sleeps in the kernel at once: close to the latency of `Spin` in a conversation, and nothing where nothing happens.
    /// Each look in vain makes it look less often. A Runner sleeps at once.
    #[default]
    Adaptive,
    /// The call sleeps in the kernel at once.
    Park,
}

/// How a context waits, what its shards run on, and the sizes and bounds of its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How a call waits.
    pub wait: Wait,
    /// The driver of the shards. `Auto`, the default: the one that `ZRING_DRIVER` in the environment says (`uring` or `ready`);
    /// without it inline contexts take io_uring where it is to be had and readiness elsewhere, and background contexts
    /// take readiness, which lets a waiting call do its own input and output.
    pub driver: Driver,
    /// How many shards a background context has, each with its Runner: 1 (the default) to [`Config::SHARDS_MAX`].
    pub shards: usize,
    /// The cores that Runners are bound to, one after the other and around again. Empty, the default: any.
    /// On Windows a core counts within its processor group; systems that are neither refuse (`Unsupported`).
    pub runner_cores: Vec<usize>,
    /// How Runners compete for their cores. Outside of Linux only [`Scheduling::Inherited`] is there.
    pub runner_scheduling: Scheduling,
    /// Where its sockets meet others of the process by `inproc://` names: those of contexts whose configuration is a
    /// clone of this one.
    pub inproc: Inproc,
    /// The kind of memory that messages are received into, for each shard: by default whatever the
    /// allocator gives. For an even latency have it put in place, locked and on huge pages before the first message:
    ///
    /// ```
    /// use zring::{Config, Context, HugePages, Need, PoolMemory};
    ///
    /// # fn main() -> Result<(), zring::Error> {
    /// let context = Context::with_config(Config {
    ///     pool_memory: PoolMemory {
    ///         prefault: true,
    ///         lock: Some(Need::Preferred),
    ///         huge_pages: HugePages::Transparent(Need::Preferred),
    ///     },
    ///     ..Config::default()
    /// })?;
    /// let got = context.engine_stats()[0].pool_backing;
    /// println!("pages of {} bytes, {} bytes locked", got.page_bytes, got.locked_bytes);
    /// assert_eq!(got.prefaulted, cfg!(target_os = "linux"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With [`Need::Required`](crate::Need::Required) opening the context fails where it is not to be had, and the error
    /// says which limit is in the way.
    pub pool_memory: PoolMemory,
    /// io_uring features to do without, comma-separated (`inc`, `multishot`, `zc`, `fixed`, `ringfd`), so that every
    /// way of working can be tested on one kernel. `None`: what the environment's `ZRING_URING_MASK` says.
    pub uring_mask: Option<String>,
    /// How long dropping the context may take to send what closed sockets have queued (5 s).
    pub drain_on_drop: Duration,
    /// Sizes and bounds; its `driver`, `shared`, `wait`, `pool_memory` and `uring_mask` are overruled.
    pub engine: zring_engine::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            wait: Wait::default(),
            driver: Driver::Auto,
            shards: 1,
            runner_cores: Vec::new(),
            runner_scheduling: Scheduling::Inherited,
            inproc: Inproc::new(),
            pool_memory: PoolMemory::default(),
            uring_mask: None,
            drain_on_drop: Duration::from_secs(5),
            engine: zring_engine::Config::default(),
        }
    }
}

impl Config {
    /// The most shards a background context has.
    pub const SHARDS_MAX: usize = 256;

    /// For a shard of one thread.
    pub(crate) fn into_engine(self) -> zring_engine::Config {
        let wait = match self.wait {
            Wait::Spin => WaitStrategy::Spin,
            Wait::Park | Wait::SpinThenPark(_) | Wait::Adaptive => WaitStrategy::Park,
        };
        zring_engine::Config {
            driver: self.driver,
            shared: false,
            wait,
            pool_memory: self.pool_memory,
            uring_mask: self.uring_mask,
            ..self.engine
        }
    }

    /// For a shard that threads share: whether they spin is decided by who leads it.
    pub(crate) fn into_shared_engine(self) -> zring_engine::Config {
        let driver = match self.driver {
            Driver::Auto => Driver::PreferReady,
            chosen => chosen,
        };
        let wait = WaitStrategy::Park;
        zring_engine::Config {
            driver,
            shared: true,
            wait,
            pool_memory: self.pool_memory,
            uring_mask: self.uring_mask,
            ..self.engine
        }
    }

    pub(crate) fn idle(&self) -> Idle {
        match self.wait {
            Wait::Spin => Idle::Spin,
            Wait::SpinThenPark(time) => Idle::SpinThenPark(crate::deadline::duration_ns(time)),
            Wait::Adaptive => Idle::Adaptive,
            Wait::Park => Idle::Park,
        }
    }

    pub(crate) fn runner(&self, number: usize) -> RunnerConfig {
        let cores = &self.runner_cores;
        let core = (!cores.is_empty()).then(|| cores[number % cores.len()]);
        RunnerConfig { name: String::new(), core, scheduling: self.runner_scheduling }
    }
}
