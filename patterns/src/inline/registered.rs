//! Memory of the caller's that the kernel knows before anything is received into it.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use zring_engine::{PoolBacking, Registered};

use super::Context;
use crate::error::Error;

/// Memory to receive into, registered with the io_uring of its context ("registered", or "fixed", buffers).
///
/// It is a `[u8]` of fixed length, zeroed at first, to be given to whatever of the sockets of its context receives into
/// memory, all or in part: [`Socket::recv_into`](crate::Socket::recv_into),
/// [`Socket::recv_into_vectored`](crate::Socket::recv_into_vectored) and
/// [`IncomingFrame::read_into`](crate::IncomingFrame::read_into). A body of more than 32 KiB is then read by the kernel
/// into pages that were found and pinned when the memory was made, so that no receive has to look for one, put it in
/// place or bring it back. How fast bodies come is decided by the copy out of the kernel all the same. Shorter bodies
/// are copied once, as into any memory, and so are those that arrive at sockets of other contexts.
///
/// Where the driver is readiness, or the kernel older than Linux 6.4, it is memory like any other
/// ([`RegisteredBuffer::is_fixed`]), and everything works as it does with that.
///
/// It keeps its context's engine alive, as a socket does, and belongs to its thread. Up to 1,024 of a context are
/// registered at a time.
///
/// ```
/// # use zring::{SocketType, inline::Context};
/// # let context = Context::new()?;
/// let (push, pull) = (context.socket(SocketType::Push)?, context.socket(SocketType::Pull)?);
/// pull.bind("tcp://127.0.0.1:*")?;
/// push.connect(&pull.last_endpoint().unwrap())?;
/// let mut memory = context.register(1 << 20)?;
/// push.send(vec![7; 100_000])?;
/// let received = pull.recv_into(&mut memory)?;
/// assert!(received.len == 100_000 && memory[..received.len].iter().all(|&byte| byte == 7));
/// # Ok::<(), zring::Error>(())
/// ```
pub struct RegisteredBuffer {
    memory: Registered,
    context: Context,
}

impl Context {
    /// Makes memory to receive into, of so many bytes, and registers it with the kernel. Its pages are as
    /// [`Config::pool_memory`](crate::Config::pool_memory) says: ordinary ones, or locked, or huge.
    ///
    /// # Errors
    /// [`Error::Engine`] with [`EngineError::Config`](crate::EngineError::Config) for a length that is not 1 byte to
    /// 1 GiB, [`EngineError::PoolMemory`](crate::EngineError::PoolMemory) for pages that are required and not to be had,
    /// or [`EngineError::Register`](crate::EngineError::Register) where the kernel refuses: registered memory counts
    /// towards `RLIMIT_MEMLOCK` of a user without privileges.
    pub fn register(&self, len: usize) -> Result<RegisteredBuffer, Error> {
        let memory = self.reactor.borrow_mut().shard.register(len)?;
        Ok(RegisteredBuffer { memory, context: self.clone() })
    }
}

impl RegisteredBuffer {
    /// Whether it is registered; else it is memory like any other.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.memory.is_fixed()
    }

    /// What the memory is.
    #[must_use]
    pub fn backing(&self) -> PoolBacking {
        self.memory.backing()
    }
}

impl Deref for RegisteredBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl DerefMut for RegisteredBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for RegisteredBuffer {
    fn drop(&mut self) {
        self.context.reactor.borrow_mut().shard.unregister(&self.memory);
    }
}

impl fmt::Debug for RegisteredBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredBuffer")
            .field("len", &self.len())
            .field("is_fixed", &self.is_fixed())
            .finish_non_exhaustive()
    }
}
