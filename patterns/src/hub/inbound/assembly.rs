//! A frame whose body arrives in pieces, and the sizes that decide how the rest of it is received.

use zring_engine::SharedMut;

use crate::wire::FrameFlags;

/// Bodies of which more than this is still to come are received straight into their own memory.
pub(crate) const DIRECT_BYTES_MIN: u64 = 32 << 10;
/// How many bytes a direct receive may bring beyond the body.
pub(crate) const SPILL_BYTES: usize = 4 << 10;
/// The same where one large body follows another: little more than the next header, since bytes of the next body have
/// to be copied from the spill area.
pub(crate) const LARGE_SPILL_BYTES: usize = 64;
/// After a large frame, this many small frames bring the connection back to the shared ring.
pub(crate) const DIRECT_FRAMES: u32 = 16;
/// The frames in front of the body of a request or a reply: its number and an empty frame.
pub(crate) const ENVELOPE_FRAMES: u32 = 2;
/// An unwanted body is received in pieces of this size, one after the other into the same memory.
pub(crate) const SKIP_BYTES: usize = 64 << 10;
/// Undecoded pieces a connection may hold before it stops receiving.
pub(crate) const UNDECODED_PIECES_MAX: usize = 4;

/// Whether little of a body has arrived and much is still to come. The beginning then only waits until a caller has
/// said where the body is to go.
pub(crate) fn is_beginning(have_bytes: usize, rest: u64) -> bool {
    have_bytes <= LARGE_SPILL_BYTES && rest > DIRECT_BYTES_MIN
}

/// A frame whose body did not arrive in one piece.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) flags: FrameFlags,
    pub(crate) body: SharedMut,
    pub(crate) rest: u64,
    /// Length of the body, as announced.
    pub(crate) bytes: u64,
    /// How much of the rest a direct receive under way may bring.
    pub(crate) asked: u64,
    /// The body is not received before a caller says where it is to go.
    pub(crate) is_held: bool,
    /// A caller receives the rest into the caller's memory; `body` is empty then.
    pub(crate) is_claimed: bool,
    /// The body is received into memory of its own, even if callers want large bodies elsewhere.
    pub(crate) is_owned: bool,
    /// The body is unwanted: it is received and dropped.
    pub(crate) is_skipped: bool,
}
