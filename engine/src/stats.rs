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
    /// What the receive pool did.
    pub pool: PoolStats,
}
