//! The frames of a message that is taken as it arrives.

use std::collections::VecDeque;

use crate::frame::Frame;

/// The frames of a peer's message that have arrived and were not taken.
///
/// While the message is under way, an empty frame stands in the `parts` of the peer's inbound half, which shows that a
/// message has begun.
#[derive(Debug, Default)]
pub(crate) struct Streamed {
    /// Each frame, and whether others follow; `None` for a skipped frame.
    pub(super) frames: VecDeque<(Option<Frame>, bool)>,
    /// The last frame has arrived.
    pub(crate) is_whole: bool,
    /// The caller does not want the rest, which is dropped as it arrives.
    pub(super) is_abandoned: bool,
    /// How many frames and bytes have arrived so far.
    pub(super) count: u32,
    pub(super) bytes: u64,
}
