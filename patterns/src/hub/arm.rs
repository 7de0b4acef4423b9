//! How a connection receives next: into the pool, or straight to where a large body is to be.

use zring_engine::{Direct, SharedMut};

use super::{
    inbound::{Inbound, Sink},
    pieces::Piece,
};
use crate::monitor::DisconnectReason;

/// Bodies of which more than this is still to come are received straight into their own memory.
const DIRECT_BYTES_MIN: u64 = 32 << 10;
/// What a direct receive may bring beyond the body.
const SPILL_BYTES: usize = 4 << 10;
/// The same where one large body follows the other: hardly more than the next header, since what it brings of the body is
/// copied from there.
const LARGE_SPILL_BYTES: usize = 64;
/// After a large frame, this many small ones bring the connection back to the shared ring.
const DIRECT_FRAMES: u32 = 16;
/// What stands in front of the body of a request or a reply: its number and an empty frame.
const ENVELOPE_FRAMES: u32 = 2;
/// A body that nobody wants is received in pieces of this size, one after the other into the same memory.
const SKIP_BYTES: usize = 64 << 10;
/// Undecoded pieces a connection may hold before it stops receiving.
const UNDECODED_PIECES_MAX: usize = 4;

/// How the connection is to receive next.
#[derive(Debug)]
pub(crate) enum Arm {
    /// Not at all: too much waits to be taken.
    Stalled,
    /// Not before somebody has said where the large body that is under way is to go.
    Held,
    /// Into the pool.
    Ring,
    /// Into given memory.
    Direct(Direct),
}

/// Whether what there is of a body is so little, and so much to come, that it only waits until somebody has said where the
/// body is to go.
pub(super) fn is_beginning(have_bytes: usize, rest: u64) -> bool {
    have_bytes <= LARGE_SPILL_BYTES && rest > DIRECT_BYTES_MIN
}

impl Inbound {
    /// A body of so many bytes goes on behind the end of a piece. If it is large, the next ones are not to be copied
    /// together, even if the rest of this one still comes by way of the pool.
    pub(super) fn note_unfinished(&mut self, body_bytes: u64) {
        if body_bytes > DIRECT_BYTES_MIN {
            self.is_large_run = self.direct_frames >= DIRECT_FRAMES - ENVELOPE_FRAMES;
            self.direct_frames = DIRECT_FRAMES;
        }
    }

    /// A direct receive brought bytes: the body grows, then what spilled behind it is decoded.
    pub(crate) fn handle_direct(
        &mut self,
        direct: Direct,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        self.restore(&mut { direct.body }, direct.rest);
        self.finish_assembly(sink)?;
        self.handle_spill(direct.spill, sink)
    }

    /// What came behind a body.
    pub(super) fn handle_spill(
        &mut self,
        mut spill: Vec<u8>,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        if spill.capacity() == 0 {
            return Ok(());
        }
        let mut at = 0;
        self.decode_bytes(&spill, &mut at, sink)?;
        if at < spill.len() {
            self.at = at;
            self.pieces.push_back(Piece::Copied(spill));
        } else {
            spill.clear();
            self.spill = spill;
        }
        Ok(())
    }

    /// A direct receive ended without bytes.
    pub(crate) fn restore_direct(&mut self, direct: Direct) {
        self.restore(&mut { direct.body }, direct.rest);
        if direct.spill.capacity() > 0 {
            self.spill = direct.spill;
        }
    }

    fn restore(&mut self, body: &mut Option<SharedMut>, rest: usize) {
        let Some(assembly) = &mut self.assembly else { return };
        if let Some(body) = body.take() {
            assembly.rest -= std::mem::take(&mut assembly.asked) - rest as u64;
            if !assembly.is_skipped {
                assembly.body = body;
            }
        }
    }

    /// Sees that there is a spill area, of the size that what comes next calls for.
    pub(super) fn make_spill(&mut self) {
        let is_short = self.is_large_run && self.direct_frames == DIRECT_FRAMES;
        let bytes = if is_short { LARGE_SPILL_BYTES } else { SPILL_BYTES };
        if (self.spill.capacity() >= SPILL_BYTES) == is_short || self.spill.capacity() == 0 {
            debug_assert!(self.spill.is_empty(), "what came behind a body is decoded with it");
            self.spill = Vec::with_capacity(bytes);
        }
    }

    /// Whether a receive into the ring ought to end, because of a large body or because too much waits.
    pub(crate) fn wants_stop(&self) -> bool {
        self.direct_frames > 0 || self.pieces.len() >= UNDECODED_PIECES_MAX
    }

    pub(super) fn has_large_rest(&self) -> bool {
        self.assembly.as_ref().is_some_and(|assembly| assembly.rest > DIRECT_BYTES_MIN)
    }

    /// How to receive next. For a direct receive the unfinished body moves out. `holds`: a large one waits for
    /// somebody who says where it is to go.
    pub(crate) fn arm(&mut self, holds: bool) -> Arm {
        if self.is_claimed() || self.may_be_held(holds) {
            return Arm::Held;
        }
        let pieces_max = if self.direct_frames > 0 { 1 } else { UNDECODED_PIECES_MAX };
        if self.pieces.len() >= pieces_max {
            return Arm::Stalled;
        }
        if !self.has_large_rest() && self.direct_frames == 0 {
            return Arm::Ring;
        }
        self.make_spill();
        let spill = std::mem::take(&mut self.spill);
        // A body whose chunks were left undecoded is not to be bypassed; there are none here.
        debug_assert!(self.pieces.is_empty());
        let Some(assembly) = &mut self.assembly else {
            return Arm::Direct(Direct { body: None, rest: 0, spill });
        };
        assembly.asked = assembly.rest;
        if !assembly.is_skipped {
            let rest = usize::try_from(assembly.rest).unwrap_or(usize::MAX);
            let mut body = std::mem::replace(&mut assembly.body, SharedMut::with_expected(0));
            body.expect(body.len().saturating_add(rest));
            return Arm::Direct(Direct { body: Some(body), rest, spill });
        }
        assembly.asked = assembly.rest.min(SKIP_BYTES as u64);
        let rest = assembly.asked as usize;
        let body = Some(SharedMut::with_expected(rest));
        if assembly.asked == assembly.rest {
            return Arm::Direct(Direct { body, rest, spill });
        }
        // Behind this piece stands the next one.
        self.spill = spill;
        Arm::Direct(Direct { body, rest, spill: Vec::new() })
    }
}
