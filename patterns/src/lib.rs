//! ZeroMQ's socket patterns and its wire protocol (ZMTP 3.1), on io_uring or readiness.
//!
//! A [`Context`] is for ordinary programs: its sockets are driven in the background, for any thread, blocking or async.
//! An [`inline::Context`] is for one thread that needs the lowest latency: a message goes from `send` to the kernel and
//! from the kernel to `recv` without a thread in between and without an allocation in the steady state. Neither copies
//! large bodies, and both talk to any ZeroMQ program.
//!
//! ```
//! use zring::{SocketType, inline::Context};
//! # fn main() -> Result<(), zring::Error> {
//! let context = Context::new()?;
//! let rep = context.socket(SocketType::Rep)?;
//! rep.bind("tcp://127.0.0.1:*")?;
//! let req = context.socket(SocketType::Req)?;
//! req.connect(&rep.last_endpoint().unwrap())?;
//! req.send("ping")?;
//! assert_eq!(rep.recv()?.body(), b"ping");
//! rep.send("pong")?;
//! assert_eq!(req.recv()?.body(), b"pong");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod background;
mod config;
mod deadline;
mod endpoint;
mod error;
mod frame;
mod hub;
pub mod inline;
mod inproc;
mod interest;
mod lock;
mod message;
mod monitor;
#[macro_use]
mod options;
mod pattern;
mod reactor;
mod reconnect;
#[doc(hidden)]
pub mod route;
mod shares;
mod socket;
mod socket_type;
#[doc(hidden)]
pub mod wire;

pub use background::{
    Context, EventFuture, Messages, Outgoing, PollItem, RecvFuture, RecvIntoFuture, SendFuture,
    poll,
};
pub use config::{Config, Driver, Scheduling, Wait};
pub use endpoint::{Endpoint, EndpointError, Host};
pub use error::{Error, SendError};
pub use frame::{Frame, FrameBuf, INLINE_BYTES_MAX};
pub use inproc::Inproc;
pub use message::{Message, Sendable};
pub use monitor::{
    DisconnectReason, Event, EventKind, HandshakeFault, IoFault, PeerStats, SocketStats,
};
pub use options::{Applies, OptionError, OptionInfo, Options};
pub use socket::{
    CloseReport, Home, Incoming, IncomingFrame, Received, ReceivedFile, ReceivedFrames, Socket,
};
pub use socket_type::SocketType;
pub use wire::Violation;
#[cfg(feature = "count-copies")]
pub use zring_engine::copies;
pub use zring_engine::{
    Config as EngineConfig, Error as EngineError, FileError, FileFault, HugePages,
    Kind as DriverKind, Need, PoolBacking, PoolConfig, PoolMemory, PoolStats, ShardStats,
    ZeroCopyStats,
};

/// Compiles and runs the examples of the pages that a newcomer reads first.
#[cfg(doctest)]
mod pages {
    // The README uses `ipc://`, which Wine and some versions of Windows do not have.
    #[cfg(unix)]
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/FROM-RUST-ZMQ.md")]
    struct FromRustZmq;
    #[cfg(feature = "count-copies")]
    #[doc = include_str!("../../docs/ZERO-COPY.md")]
    struct ZeroCopy;
}
