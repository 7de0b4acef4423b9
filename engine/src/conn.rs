//! The engine's side of a connection: its descriptor and the operations in flight on it.

use crate::{
    driver::OpId,
    sys::{self, OwnedSocket, RawSocket},
};

/// Names a connection of a shard; stale after it was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl ConnId {
    /// A small number, unique among the open connections of the shard, for tables beside it.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// The whole id as one number, never used twice in a shard's life (up to 2^31 connections).
    #[must_use]
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// Names a listener of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub(crate) ConnId);

impl ListenerId {
    /// Its place in a table of all listeners and connections. Never two of them have the same at a time.
    #[must_use]
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// How a connection receives at the moment.
///
/// ```text
///          receive_ring          no buffer
///   Idle ───────────────▶ Ring ───────────▶ Starved ◀── receive_ring while others wait
///    ▲ │ receive_direct    │  ▲───────────────┘ its turn
///    │ ├───────▶ Direct ───┤
///    │ │ await_readable    │
///    │ └───────▶ Awaiting ─┤
///    └─────────────────────┘ last completion
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    Idle,
    Ring { op: OpId, stopping: bool },
    Starved { stopping: bool },
    Direct { op: OpId, stopping: bool },
    Awaiting { op: OpId, stopping: bool },
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) fd: OwnedSocket,
    pub(crate) generation: u32,
    pub(crate) receive: Receive,
    pub(crate) send: Option<OpId>,
    /// A connect on a connection, the accept on a listener.
    pub(crate) setup: Option<OpId>,
    pub(crate) closing: bool,
    pub(crate) listener: bool,
    /// The connection is in the shard's queue of starved receives.
    pub(crate) is_queued: bool,
    /// The turn in which its receive was started again after it had waited for a buffer.
    pub(crate) restarted_in: Option<u64>,
}

impl Conn {
    pub(crate) fn new(fd: OwnedSocket, generation: u32, listener: bool) -> Self {
        Self {
            fd,
            generation,
            receive: Receive::Idle,
            send: None,
            setup: None,
            closing: false,
            listener,
            is_queued: false,
            restarted_in: None,
        }
    }

    pub(crate) fn raw(&self) -> RawSocket {
        sys::raw(&self.fd)
    }

    /// Whether a send may start. Panics if another one is in flight.
    pub(crate) fn accepts_sends(&self, id: ConnId) -> bool {
        let is_open = self.generation == id.generation && !self.closing;
        assert!(!is_open || self.send.is_none(), "one send at a time");
        is_open
    }

    /// Whether no completion can come any more.
    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self.receive, Receive::Idle | Receive::Starved { .. })
            && self.send.is_none()
            && self.setup.is_none()
    }
}
