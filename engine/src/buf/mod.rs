//! Memory that the kernel and the user share: the receive pool and its leases, heap blocks for
//! large bodies, and the lists of segments that one send gathers.

mod append;
mod backing;
mod block;
mod file;
mod gather;
mod lease;
#[cfg(target_os = "linux")]
mod mapping;
mod memory;
mod pool;
#[cfg(all(test, loom))]
mod pool_loom;
mod registered;

pub use append::{append_short, append_with};
pub use block::{Shared, SharedMut};
pub use file::{FileError, FileFault, FileRegion};
pub use gather::{ArenaPool, Gather, HEAD_BYTES_MAX, Segment};
pub use lease::Lease;
pub use pool::{Buffers, Chunk, Pool, PoolConfig, PoolStats};
pub use registered::Registered;
