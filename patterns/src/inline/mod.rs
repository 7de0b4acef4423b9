//! Sockets driven inline, on the thread that made them: no I/O thread, no hop, no lock.
//!
//! A [`Context`] owns one engine (an io_uring, where it is available). Its sockets make progress (handshakes,
//! heartbeats, reconnects, sending queued messages) while a call on any of them, or [`Context::turn`], turns the
//! engine; a thread that does something else for long keeps its peers waiting. Neither a context nor its sockets are
//! `Send`: a program uses one context per thread and lets the contexts talk over endpoints.

mod cell;
mod context;
mod poll;
mod registered;

pub use crate::interest::{POLLIN, POLLOUT};
pub use context::{Batch, Context};
pub use poll::{PollItem, poll};
pub use registered::RegisteredBuffer;

/// A socket for the thread that made it; see [`Socket`](crate::Socket).
pub type Socket = crate::Socket<Context>;

pub use crate::socket::CloseReport;
