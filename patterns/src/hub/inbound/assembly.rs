//! A frame whose body arrives in pieces, and the sizes that decide how the rest of it is received.

use zring_engine::SharedMut;

use crate::wire::FrameFlags;

/// Bodies of which more than this is still to come are received straight into their own memory.
pub(crate) const DIRECT_BYTES_MIN: u64 = 32 << 10;
/// Bytes that a direct receive may bring beyond the body.
pub(crate) const SPILL_BYTES: usize = 4 << 10;
/// The same where one large body follows the other: hardly more than the next header, since what it brings of the body is
/// copied from there.
pub(crate) const LARGE_SPILL_BYTES: usize = 64;
/// After a large frame, this many small ones bring the connection back to the shared ring.
pub(crate) const DIRECT_FRAMES: u32 = 16;
/// Frames in front of the body of a request or a reply: its number and an empty frame.
pub(crate) const ENVELOPE_FRAMES: u32 = 2;
/// A skipped body is received in pieces of this size, one after the other into the same memory.
pub(crate) const SKIP_BYTES: usize = 64 << 10;
/// Undecoded pieces a connection may hold before it stops receiving.
pub(crate) const UNDECODED_PIECES_MAX: usize = 4;

/// Whether so few bytes of a body have arrived, and so many are to come, that the body had better wait until a caller has
/// said where it is to go.
pub(crate) fn is_beginning(have_bytes: usize, rest: u64) -> bool {
    have_bytes <= LARGE_SPILL_BYTES && rest > DIRECT_BYTES_MIN
}

/// A frame whose body did not arrive in one piece.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) flags: FrameFlags,
    pub(crate) body: SharedMut,
    pub(crate) rest: u64,
    /// Its length, as announced.
    pub(crate) bytes: u64,
    /// How much of the rest a direct receive under way may bring.
    pub(crate) asked: u64,
    /// Nothing receives the body: it waits for a caller that says where it is to go.
    pub(crate) is_held: bool,
    /// A caller receives the rest into memory of its own; `body` is empty then.
    pub(crate) is_claimed: bool,
    /// The body is received into memory of its own, even if a caller wants it elsewhere.
    pub(crate) is_owned: bool,
    /// The body is dropped as it arrives.
    pub(crate) is_skipped: bool,
}
