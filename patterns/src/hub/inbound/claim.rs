//! The claim of a caller whose bodies go straight from the kernel into its memory.

use crate::hub::PeerKey;

/// A caller's hold on the message that a peer has under way: frames of it lie in, or are on their way into, the caller's
/// memory. Only attempts of that caller touch the memory.
///
/// # Invariants
/// - While `body` is set, the peer's unfinished body is claimed and nothing receives it but the caller.
/// - Where a placed frame belongs, the peer's message has an empty one.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The peer, and its connection, which tells it from a later one with the same key.
    pub(crate) peer: PeerKey,
    pub(crate) connection: u64,
    pub(crate) number: u64,
    /// How many frames of the message are in front of the user's.
    pub(crate) hidden: usize,
    /// The body under way: the frame it is the body of, and how much of it there is.
    pub(crate) body: Option<(usize, usize)>,
    /// Frames whose bodies lie in the caller's memory.
    pub(crate) placed: Places,
}

/// Numbers of frames, up to [`Places::MAX`].
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

/// The state of a message once a claimed body is whole.
pub(crate) enum Finished {
    /// The body was all of the message, and the message is the user's.
    Message,
    /// The body was all of the message, and the socket did not ask for it.
    Refused,
    /// The message goes on, or waits to be taken.
    Placed,
}
