//! The caller's memory, registered with the kernel before anything is received into it.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use zring_engine::{PoolBacking, Registered};

use super::Context;
use crate::error::Error;

/// Memory to receive into, registered with the io_uring of its context ("registered", or "fixed", buffers).
///
/// The buffer is a `[u8]` of fixed length, zeroed at first. All or part of it can be given to any call that receives
/// into memory at a socket of its context: [`Socket::recv_into`](crate::Socket::recv_into),
/// [`Socket::recv_into_vectored`](crate::Socket::recv_into_vectored) and
/// [`IncomingFrame::read_into`](crate::IncomingFrame::read_into). The kernel then reads a body of more than 32 KiB into
/// pages that were found and pinned when the memory was made, so that no receive has to look up a page, fault it in or
/// swap it in. The copy out of the kernel still decides how fast bodies arrive. Shorter bodies are copied once, as into
/// any memory. For sockets of other contexts the buffer is ordinary memory.
///
/// On readiness, or on a kernel older than Linux 6.4, the buffer is ordinary memory ([`RegisteredBuffer::is_fixed`]),
/// and everything works as with ordinary memory.
///
/// The buffer keeps its context's engine alive, as a socket does, and belongs to the context's thread. Up to 1,024
/// buffers of a context are registered at a time.
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
    /// Makes `len` bytes of memory to receive into, and registers it with the kernel. Its pages are as
    /// [`Config::pool_memory`](crate::Config::pool_memory) says: ordinary ones, or locked, or huge.
    ///
    /// # Errors
    /// [`Error::Engine`] with [`EngineError::Config`](crate::EngineError::Config) for a length that is not 1 byte to 1
    /// GiB, [`EngineError::PoolMemory`](crate::EngineError::PoolMemory) if required pages are not available, or
    /// [`EngineError::Register`](crate::EngineError::Register) if the kernel refuses: registered memory counts towards
    /// `RLIMIT_MEMLOCK` of a user without privileges.
    pub fn register(&self, len: usize) -> Result<RegisteredBuffer, Error> {
        let memory = self.reactor.borrow_mut().shard.register(len)?;
        Ok(RegisteredBuffer { memory, context: self.clone() })
    }
}

impl RegisteredBuffer {
    /// Whether the memory is registered with the kernel; if not, it is ordinary memory.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.memory.is_fixed()
    }

    /// The pages of the memory.
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
