//! Sockets driven in the background: for any thread, blocking or asynchronous.

mod context;
mod event;
mod future;
mod poll;
#[cfg(feature = "sim")]
mod simulated;

pub use context::Context;
pub use future::{EventFuture, Messages, Outgoing, RecvFuture, RecvIntoFuture, SendFuture};
pub use poll::{PollItem, poll};
