//! Sizes and bounds of a shard, and how it waits.

use crate::buf::PoolConfig;

/// How a call waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitStrategy {
    /// Polls shared memory without a pause: the lowest latency, one core at 100 %.
    Spin,
    /// Sleeps in the kernel until something happens.
    #[default]
    Park,
}

/// The driver of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverChoice {
    /// The driver that the environment variable `ZRING_DRIVER` names (`uring` or `ready`). If it is unset: io_uring
    /// where the kernel has it and allows it, else readiness.
    #[default]
    Auto,
    /// As `Auto`, but readiness if the variable is unset.
    PreferReady,
    /// io_uring or an error: [`Error::NoDriver`](crate::Error::NoDriver) on systems other than Linux.
    Uring,
    /// Readiness (epoll, kqueue, on Windows AFD): works everywhere, costs more system calls, and any thread may turn the
    /// shard.
    Ready,
    /// The simulated driver of the world that runs on this thread. Inside a world, `Auto` and `PreferReady` choose it,
    /// too.
    #[cfg(feature = "sim")]
    Sim,
}

/// Whether a property of the memory is required or only preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// If the property is not available, one line in the log says why, and the pool gets the next best.
    Preferred,
    /// If the property is not available, opening fails and names the limit that forbids it.
    Required,
}

/// The pages under a receive pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HugePages {
    /// The system's ordinary pages.
    #[default]
    No,
    /// Pages of 2 MiB that the kernel puts together at once (`madvise(MADV_HUGEPAGE)`); next best: ordinary pages.
    Transparent(Need),
    /// Pages of 2 MiB that the administrator has set aside (`vm.nr_hugepages`, `MAP_HUGETLB`); next best: transparent
    /// huge pages.
    Explicit(Need),
}

/// The memory that the receive pool asks for. By default the pool takes what the allocator gives.
///
/// A message is late if its arrival faults in a page: one that was never touched before, or one that was swapped out.
/// The pool of one shard has 4 MiB unless configured otherwise. Huge pages, and the pages of a locked pool, are faulted
/// in when the pool is made, whatever `prefault` says. Huge pages round the pool's size up to a multiple of 2 MiB.
/// Linux only.
///
/// [`ShardStats::pool_backing`](crate::ShardStats::pool_backing) tells what the pool really got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolMemory {
    /// Fault in all pages when the pool is made. Otherwise the allocator decides when that happens.
    pub prefault: bool,
    /// Never swap the pool out: `mlock(2)`, within `RLIMIT_MEMLOCK`. Explicit huge pages are never swapped out anyway.
    pub lock: Option<Need>,
    /// The pages under the pool.
    pub huge_pages: HugePages,
}

impl PoolMemory {
    /// Whether opening fails if a property is not available.
    #[must_use]
    pub fn is_required(&self) -> bool {
        let huge = match self.huge_pages {
            HugePages::No => None,
            HugePages::Transparent(need) | HugePages::Explicit(need) => Some(need),
        };
        [self.lock, huge].contains(&Some(Need::Required))
    }
}

/// Configuration of one shard. Every queue and pool of the engine has its bound here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The driver of the shard.
    pub driver: DriverChoice,
    /// Several threads use the shard, one at a time. The receive pool then has no owner thread, and counts all returned
    /// leases atomically.
    pub shared: bool,
    /// How a call waits.
    pub wait: WaitStrategy,
    /// Entries of io_uring's submission queue; the kernel rounds up to a power of two.
    pub submissions: u32,
    /// Entries of io_uring's completion queue; the kernel rounds up to a power of two.
    pub completions: u32,
    /// Completions handled in one turn at most.
    pub completions_per_turn: usize,
    /// The receive pool if buffers are consumed piece by piece: io_uring since Linux 6.12, and the readiness driver.
    pub pool: PoolConfig,
    /// The receive pool if each receive takes a whole buffer: io_uring before Linux 6.12.
    pub pool_whole: PoolConfig,
    /// The memory that the receive pool asks for.
    pub pool_memory: PoolMemory,
    /// Bytes in one block of the send arena. A batch scope sends one block at a time. The default, 65,472, fits one
    /// segment of Linux's loopback interface (65,483).
    pub arena_block_bytes: usize,
    /// Blocks of the send arena kept for reuse.
    pub arena_blocks_max: usize,
    /// A send with at least this many bytes by reference may ask the kernel not to copy them (io_uring; 64 KiB is a
    /// good bound). [`usize::MAX`], the default, turns that off.
    pub zero_copy_bytes_min: usize,
    /// io_uring features to hide from the probe (comma-separated). `None`: the environment variable `ZRING_URING_MASK`
    /// names them.
    pub uring_mask: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            driver: DriverChoice::Auto,
            shared: false,
            wait: WaitStrategy::Park,
            submissions: 256,
            completions: 4096,
            completions_per_turn: 1024,
            pool: PoolConfig { buffers: 64, buffer_bytes: 64 << 10, with_kernel: 4, reserve: 8 },
            pool_whole: PoolConfig {
                buffers: 256,
                buffer_bytes: 16 << 10,
                with_kernel: 16,
                reserve: 32,
            },
            pool_memory: PoolMemory::default(),
            arena_block_bytes: (64 << 10) - 64,
            arena_blocks_max: 64,
            zero_copy_bytes_min: usize::MAX,
            uring_mask: None,
        }
    }
}
