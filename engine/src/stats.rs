//! Totals of one shard.

use crate::buf::PoolStats;

/// Totals of a shard since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Turns taken.
    pub turns: u64,
    /// Completions, timers and other events handled.
    pub completions: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Outcomes of large sends that asked the kernel not to copy.
    pub zero_copy: ZeroCopyStats,
    /// Receives that brought bytes straight into registered memory ([`Shard::register`](crate::Shard::register)) by way
    /// of its registration. io_uring only.
    pub registered_receives: u64,
    /// Totals of the receive pool.
    pub pool: PoolStats,
    /// The memory of the receive pool.
    pub pool_backing: PoolBacking,
}

/// Outcomes of large sends that asked the kernel to send from their memory instead of a copy of it. io_uring only.
///
/// A connection's first large send asks. The later ones ask only once the kernel has said that it avoided the copy
/// (`sends` grows faster than `copied`). Over loopback the kernel always copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZeroCopyStats {
    /// Sends that asked and that the kernel has reported on.
    pub sends: u64,
    /// Those of `sends` that the kernel copied all the same.
    pub copied: u64,
    /// Sends that asked, were refused (Unix-domain sockets, too little lockable memory) and went the ordinary way.
    pub refused: u64,
}

/// The memory that a receive pool really got; [`PoolMemory`](crate::PoolMemory) is what it asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolBacking {
    /// Bytes of memory: those of the buffers, rounded up to whole pages.
    pub bytes: usize,
    /// Bytes in each page under the buffers: 4,096, or 2 MiB if all pages are huge.
    pub page_bytes: usize,
    /// Bytes that are never swapped out, because they are locked or lie on explicit huge pages. Counted only if locking
    /// was asked for.
    pub locked_bytes: usize,
    /// Whether every page was faulted in when the pool was made. If not, the allocator decided when that happened.
    pub prefaulted: bool,
}
