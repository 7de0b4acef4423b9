//! The frames of a message that is taken as it arrives.

use std::collections::VecDeque;

use crate::frame::Frame;

/// The frames of a peer's message that have come and were not taken.
///
/// While the message is under way an empty frame stands in the peer's list of parts, for what looks there to see that
/// a message has begun.
#[derive(Debug, Default)]
pub(crate) struct Streamed {
    /// Each with whether others follow; `None` for one that was skipped.
    pub(super) frames: VecDeque<(Option<Frame>, bool)>,
    /// The last frame has come.
    pub(crate) is_whole: bool,
    /// The caller gave the message up: frames that still arrive are dropped.
    pub(super) is_abandoned: bool,
    /// How many frames and bytes have come so far.
    pub(super) count: u32,
    pub(super) bytes: u64,
}
