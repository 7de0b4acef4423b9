//! Totals of one shard.

use crate::buf::PoolStats;

/// What a shard did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Turns taken.
    pub turns: u64,
    /// Completions, timers and other events handled.
    pub completions: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// What became of large sends that asked to go without a copy.
    pub zero_copy: ZeroCopyStats,
    /// Receives that brought something straight into registered memory
    /// ([`Shard::register`](crate::Shard::register)) by way of its registration. io_uring only.
    pub registered_receives: u64,
    /// What the receive pool did.
    pub pool: PoolStats,
    /// What the memory of the receive pool is.
    pub pool_backing: PoolBacking,
}

/// What became of large sends that asked the kernel to send from their memory instead of a copy of it. io_uring only.
///
/// A connection's first large send asks; the others do so only once the kernel has said that it avoided the copy
/// (`sends` grows faster than `copied`). Over loopback it never does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZeroCopyStats {
    /// Sends that asked and that the kernel has reported on.
    pub sends: u64,
    /// How many of them it copied all the same.
    pub copied: u64,
    /// Sends that asked, were refused (Unix-domain sockets, too little lockable memory) and went the ordinary way.
    pub refused: u64,
}

/// The memory that a receive pool really got ([`PoolMemory`](crate::PoolMemory) says what it was to get).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolBacking {
    /// Bytes of memory: those of the buffers, rounded up to whole pages.
    pub bytes: usize,
    /// Bytes in each of the pages under them: 4,096, or 2 MiB, in which case all of them are huge.
    pub page_bytes: usize,
    /// How many of the bytes stay in memory, locked or because explicit huge pages do so anyway. Counted only where
    /// locking was asked for.
    pub locked_bytes: usize,
    /// Whether every page was put in place when the pool was made; else that was left to the allocator.
    pub prefaulted: bool,
}
