//! Memory that the kernel and the user share: the receive pool and its leases, heap blocks for
//! large bodies, and the lists of segments that one send gathers.

mod block;
mod gather;
mod lease;
mod pool;

pub use block::{Shared, SharedMut};
pub use gather::{ArenaPool, Gather, HEAD_BYTES_MAX, Segment};
pub use lease::Lease;
pub use pool::{Chunk, Pool, PoolConfig, PoolStats};
