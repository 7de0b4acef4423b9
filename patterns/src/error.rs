//! The errors of calls.

use std::{fmt, io};

use crate::{endpoint::EndpointError, options::OptionError, socket_type::SocketType};

/// Why a call failed. Environment faults and misuse only: a peer's fault ends its connection and is reported as an
/// [`Event`](crate::Event).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No message to receive, or no room to send, within the time allowed (libzmq's `EAGAIN`).
    #[error("the operation would block")]
    WouldBlock,
    /// REQ and REP alternate between sending and receiving, and this call came out of turn (libzmq's `EFSM`).
    #[error("{socket_type:?}: {turn}")]
    State {
        /// The socket's type.
        socket_type: SocketType,
        /// Which call is next.
        turn: &'static str,
    },
    /// The socket's type does not support this operation (libzmq's `ENOTSUP`).
    #[error("{socket_type:?} sockets do not {operation}")]
    Unsupported {
        /// The socket's type.
        socket_type: SocketType,
        /// The refused operation.
        operation: &'static str,
    },
    /// The endpoint is malformed, or not usable by this call (libzmq's `EINVAL`, `EPROTONOSUPPORT`).
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Another socket is bound to the endpoint (libzmq's `EADDRINUSE`).
    #[error("{0} is in use")]
    AddressInUse(String),
    /// The socket is neither bound nor connected to this endpoint (libzmq's `ENOENT`).
    #[error("not bound or connected to {0}")]
    UnknownEndpoint(String),
    /// An option's value is out of its bounds.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Timeout: fewer peers or subscribers than awaited.
    #[error("{there} of {wanted} in time")]
    TooFew {
        /// The number present.
        there: usize,
        /// The number awaited.
        wanted: usize,
    },
    /// A message needs at least one frame.
    #[error("a message needs at least one frame")]
    NoFrames,
    /// A subscription is too long for one command here.
    #[error("subscription of {bytes} bytes: at most {max} are allowed")]
    SubscriptionTooLong {
        /// The length of the subscription.
        bytes: usize,
        /// The maximum length.
        max: usize,
    },
    /// Sockets of different contexts cannot be waited on together.
    #[error("the sockets belong to different contexts")]
    ForeignSocket,
    /// The peer was lost in the middle of a message that was received piece by piece: the rest will not arrive.
    #[error("the peer was lost inside of the message")]
    PeerLost,
    /// The socket records no events: [`Socket::monitor`](crate::Socket::monitor) comes first.
    #[error("the socket records no events")]
    NotMonitored,
    /// The context was terminated (libzmq's `ETERM`).
    #[error("the context was terminated")]
    Terminated,
    /// The engine could not be opened.
    #[error(transparent)]
    Engine(#[from] zring_engine::Error),
    /// A part of a file cannot be a body.
    #[error(transparent)]
    File(#[from] zring_engine::FileError),
    /// A body in a file was needed in memory (for a peer within the process, or as the topic of a PUB message) and
    /// could not be read.
    #[error("the body could not be read from its file: {0}")]
    FileRead(#[source] io::Error),
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// Whether this is [`Error::WouldBlock`].
    #[must_use]
    pub fn is_would_block(&self) -> bool {
        matches!(self, Self::WouldBlock)
    }
}

/// [`Error`] in one word, so that results of the hot path stay in registers.
#[derive(Debug)]
pub enum Refusal {
    WouldBlock,
    /// A receiver that is faster than its sender should look again after this many spin-loop hints.
    Rest(u32),
    Failed(Box<Error>),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::WouldBlock | Refusal::Rest(_) => Self::WouldBlock,
            Refusal::Failed(error) => *error,
        }
    }
}

impl From<Error> for Refusal {
    #[cold]
    fn from(error: Error) -> Self {
        match error {
            Error::WouldBlock => Self::WouldBlock,
            error => Self::Failed(Box::new(error)),
        }
    }
}

/// A refused send: the reason, and the payload.
pub struct SendError<P> {
    /// Why the send was refused.
    pub error: Error,
    /// The payload, unchanged.
    pub payload: P,
}

impl<P> fmt::Debug for SendError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<P> fmt::Display for SendError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not sent: {}", self.error)
    }
}

impl<P> std::error::Error for SendError<P> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<P> From<SendError<P>> for Error {
    fn from(refused: SendError<P>) -> Self {
        refused.error
    }
}
