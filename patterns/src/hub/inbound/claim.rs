//! A caller's claim, while bodies go straight from the kernel into the caller's memory.

use crate::hub::PeerKey;

/// A caller's claim on the message that a peer has under way: frames of the message lie in the caller's memory, or are
/// on their way there. Only attempts of that caller touch the memory.
///
/// # Invariants
/// - While `body` is set, the peer's unfinished body is claimed and only the caller receives it.
/// - For each placed frame, the peer's message has an empty frame in its position.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The peer, and its connection, which distinguishes it from a later peer with the same key.
    pub(crate) peer: PeerKey,
    pub(crate) connection: u64,
    pub(crate) number: u64,
    /// How many frames of the message are in front of the user's.
    pub(crate) hidden: usize,
    /// The body under way: the index of its frame, and its length.
    pub(crate) body: Option<(usize, usize)>,
    /// Frames whose bodies lie in the caller's memory.
    pub(crate) placed: Places,
}

/// A set of frame indices below [`Places::MAX`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Places(u128);

impl Places {
    /// How many frames of one message may be placed; the others are copied.
    pub(crate) const MAX: usize = u128::BITS as usize;

    pub(crate) fn add(&mut self, at: usize) {
        self.0 |= 1 << at;
    }

    pub(crate) fn contains(self, at: usize) -> bool {
        at < Self::MAX && self.0 & 1 << at != 0
    }
}

/// The state of a message after a claimed body was received whole.
pub(crate) enum Finished {
    /// The body was the whole message, and the message is the user's.
    Message,
    /// The body was the whole message, and the message is not the user's.
    Refused,
    /// The message goes on, or is whole and waits to be taken.
    Placed,
}
