//! The engine under [zring](https://docs.rs/zring): bytes in and out, no protocol.
//!
//! A [`Shard`] is a driver (io_uring, or readiness), a pool of receive buffers and a set of connections, turned by the
//! thread that opened it: [`Shard::turn`] is the only loop body. The layer above implements [`Handler`], which the
//! shard calls on every event, and which starts further operations.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod buf;
mod config;
mod conn;
pub mod copies;
#[allow(unsafe_code)]
pub mod driver;
mod error;
mod handler;
pub mod lead;
#[cfg(all(test, loom))]
mod lead_loom;
pub mod parker;
#[allow(unsafe_code)]
pub mod queue;
mod resolver;
mod runner;
mod shard;
#[cfg(feature = "sim")]
pub mod sim;
mod stats;
mod sync;
#[allow(unsafe_code)]
pub mod sys;
mod time;
mod timer;

pub use buf::{
    ArenaPool, Buffers, Chunk, FileError, FileFault, FileRegion, Gather, HEAD_BYTES_MAX, Lease,
    Pool, PoolConfig, PoolStats, Registered, Segment, Shared, SharedMut, append_short, append_with,
};
pub use config::{Config, DriverChoice, HugePages, Need, PoolMemory, WaitStrategy};
pub use conn::{ConnId, ListenerId};
pub use driver::{Direct, Kind, Parking, SEGMENTS_PER_SEND_MAX};
pub use error::{Error, PoolMemoryError};
pub use handler::{Handler, ReceiveEnd};
pub use parker::Parker;
pub use resolver::ResolveError;
pub use runner::{Runner, RunnerConfig};
pub use shard::{Shard, TurnWait};
pub use socket2::SockAddr;
pub use stats::{PoolBacking, ShardStats, ZeroCopyStats};
pub use time::Clock;
pub use timer::TimerId;
