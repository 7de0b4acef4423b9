//! Sizes and bounds of a shard, and how it waits.

use crate::buf::PoolConfig;

/// What a call that has to wait does meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitStrategy {
    /// Looks at shared memory without a pause: the lowest latency, one core at 100 %.
    Spin,
    /// Sleeps in the kernel until something happens.
    #[default]
    Park,
}

/// Which driver a shard is to run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverChoice {
    /// What `ZRING_DRIVER` in the environment says (`uring` or `ready`); else io_uring where the kernel has it and
    /// allows it, and readiness where not.
    #[default]
    Auto,
    /// As `Auto`, but readiness where the environment says nothing.
    PreferReady,
    /// io_uring or an error: [`Error::NoDriver`](crate::Error::NoDriver) where it is not Linux.
    Uring,
    /// Readiness (epoll, kqueue, on Windows AFD): works everywhere, costs more system calls, and any thread may turn the
    /// shard.
    Ready,
    /// The simulated driver of the world that runs on this thread; `Auto` and `PreferReady` choose it there as well.
    #[cfg(feature = "sim")]
    Sim,
}

/// Whether something has to be, or only should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Where it is not to be had, one line in the log says why, and the next best is taken.
    Preferred,
    /// Where it is not to be had, opening fails and names the limit that forbids it.
    Required,
}

/// The pages that a receive pool is to lie on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HugePages {
    /// The system's ordinary pages.
    #[default]
    No,
    /// Pages of 2 MiB that the kernel puts together at once (`madvise(MADV_HUGEPAGE)`); next best: ordinary ones.
    Transparent(Need),
    /// Pages of 2 MiB that the administrator has set aside (`vm.nr_hugepages`, `MAP_HUGETLB`); next best: transparent
    /// ones.
    Explicit(Need),
}

/// What the memory of the receive pool is to be like. By default it is whatever the allocator gives.
///
/// A page that is first touched, or was swapped out, when a message arrives makes that message late. One shard's pool
/// has 4 MiB unless configured otherwise. Huge pages, and a locked pool, are put in place when the pool is made,
/// whatever `prefault` says; they round its size up to a multiple of 2 MiB. Linux only.
///
/// What came of it: [`ShardStats::pool_backing`](crate::ShardStats::pool_backing).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolMemory {
    /// All pages are put in place when the pool is made, rather than left to the allocator, which may do so or not.
    pub prefault: bool,
    /// The pool is never swapped out: `mlock(2)`, within `RLIMIT_MEMLOCK`. Explicit huge pages never are.
    pub lock: Option<Need>,
    /// The pages it lies on.
    pub huge_pages: HugePages,
}

impl PoolMemory {
    /// Whether there is anything that opening fails without.
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
    /// Which driver to run on.
    pub driver: DriverChoice,
    /// Several threads use the shard, one at a time: leases are counted for that.
    pub shared: bool,
    /// What a waiting call does.
    pub wait: WaitStrategy,
    /// Entries of io_uring's submission queue; the kernel rounds up to a power of two.
    pub submissions: u32,
    /// Entries of io_uring's completion queue; the kernel rounds up to a power of two.
    pub completions: u32,
    /// Completions handled in one turn at most.
    pub completions_per_turn: usize,
    /// The receive pool where buffers are consumed piece by piece; the readiness driver's, too.
    pub pool: PoolConfig,
    /// The receive pool where each receive takes a whole buffer: io_uring before Linux 6.12.
    pub pool_whole: PoolConfig,
    /// What the memory of the receive pool is to be like.
    pub pool_memory: PoolMemory,
    /// Bytes in one block of the send arena, which is what a batch scope sends at a time. The default, 65,472, fits one
    /// segment of Linux's loopback interface (65,483).
    pub arena_block_bytes: usize,
    /// Blocks of the send arena kept for reuse.
    pub arena_blocks_max: usize,
    /// Sends with so many bytes by reference may ask to go without a copy in the kernel (io_uring; 64 KiB is a good bound).
    /// [`usize::MAX`], the default: none.
    pub zero_copy_bytes_min: usize,
    /// io_uring features to hide from the probe (comma-separated); `None` asks the environment's
    /// `ZRING_URING_MASK`.
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
