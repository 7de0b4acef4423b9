//! Configuration of a context.

use std::time::Duration;

use crate::inproc::Inproc;
pub use zring_engine::{DriverChoice as Driver, sys::thread::Scheduling};
use zring_engine::{PoolMemory, RunnerConfig, WaitStrategy, lead::Idle};

/// How a call waits, and a Runner that has nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wait {
    /// Never sleeps: the lowest latency, at the price of a CPU core of its own at 100 %.
    Spin,
    /// Spins for this long, then sleeps.
    SpinThenPark(Duration),
    /// A call spins for up to 0.1 ms if the last waits were short, and yields its CPU core to other threads meanwhile;
    /// otherwise it sleeps in the kernel at once. The latency of a request-reply exchange is close to that of `Spin`,
    /// and an idle program uses no CPU time. Each spin in vain makes spinning rarer. A Runner sleeps at once.
    #[default]
    Adaptive,
    /// Sleeps in the kernel at once.
    Park,
}

/// How a context waits, which driver its shards use, and the sizes and bounds of its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How calls and Runners wait.
    pub wait: Wait,
    /// The driver of the shards. With `Auto`, the default, the environment variable `ZRING_DRIVER` decides (`uring` or
    /// `ready`). Without it, inline contexts use io_uring where it is available and readiness elsewhere; background
    /// contexts use readiness, so that a waiting call can do its own input and output.
    pub driver: Driver,
    /// How many shards a background context has, each with its Runner: 1 (the default) to [`Config::SHARDS_MAX`].
    pub shards: usize,
    /// The CPU cores that Runners are bound to, in turn. Empty, the default: any core. On Windows a core is counted
    /// within its processor group; systems other than Linux and Windows refuse (`Unsupported`).
    pub runner_cores: Vec<usize>,
    /// How Runners compete for their CPU cores. Outside of Linux only [`Scheduling::Inherited`] is supported.
    pub runner_scheduling: Scheduling,
    /// The name space of `inproc://` endpoints. Contexts whose configurations are clones of each other share it, and so
    /// their sockets can reach each other.
    pub inproc: Inproc,
    /// The kind of memory that each shard receives messages into; by default ordinary memory of the allocator. For an
    /// even latency, have it prefaulted, locked and put on huge pages before the first message:
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
    /// With [`Need::Required`](crate::Need::Required), opening the context fails if such memory is not available, and
    /// the error names the limit that forbids it.
    pub pool_memory: PoolMemory,
    /// io_uring features not to use, comma-separated (`inc`, `multishot`, `zc`, `fixed`, `ringfd`), so that every code
    /// path can be tested on one kernel. `None`: as the environment variable `ZRING_URING_MASK` says.
    pub uring_mask: Option<String>,
    /// How long dropping the context may take to send what closed sockets have queued (5 s).
    pub drain_on_drop: Duration,
    /// Sizes and bounds. Its `driver`, `shared`, `wait`, `pool_memory` and `uring_mask` are overwritten.
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
    /// The most shards that a background context can have.
    pub const SHARDS_MAX: usize = 256;

    /// The engine's configuration for a shard that one thread uses.
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

    /// The engine's configuration for a shard that threads share. The engine never spins by itself: the thread that
    /// leads decides about that.
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
