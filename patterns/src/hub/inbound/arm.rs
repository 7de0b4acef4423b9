//! How a connection receives next: into the pool, or straight into the memory of a large body.

use zring_engine::{Direct, SharedMut};

use super::{
    Inbound,
    assembly::{
        DIRECT_BYTES_MIN, DIRECT_FRAMES, ENVELOPE_FRAMES, LARGE_SPILL_BYTES, SKIP_BYTES,
        SPILL_BYTES, UNDECODED_PIECES_MAX,
    },
    pieces::Piece,
    sink::Sink,
};
use crate::monitor::DisconnectReason;

/// How the connection is to receive next.
#[derive(Debug)]
pub(crate) enum Arm {
    /// Not at all: too much waits to be taken.
    Stalled,
    /// Not before a caller has said where the large body under way is to go.
    Held,
    /// Into the pool.
    Ring,
    /// Into given memory.
    Direct(Direct),
}

impl Inbound {
    /// A body of this length goes on behind the end of a piece. If the body is large, the bodies after it are received
    /// directly and need not be copied together, even if the rest of this body still comes through the pool.
    pub(crate) fn note_unfinished(&mut self, body_bytes: u64) {
        if body_bytes > DIRECT_BYTES_MIN {
            self.is_large_run = self.direct_frames >= DIRECT_FRAMES - ENVELOPE_FRAMES;
            self.direct_frames = DIRECT_FRAMES;
        }
    }

    /// A direct receive brought bytes: adds them to the body, then decodes the bytes that spilled behind the body.
    pub(crate) fn handle_direct(
        &mut self,
        direct: Direct,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        self.restore(&mut { direct.body }, direct.rest);
        self.finish_assembly(sink)?;
        self.handle_spill(direct.spill, sink)
    }

    /// Decodes the bytes that came behind a body.
    pub(crate) fn handle_spill(
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

    /// Makes sure that there is a spill area of the right size for the bytes that come next.
    pub(crate) fn make_spill(&mut self) {
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

    pub(crate) fn has_large_rest(&self) -> bool {
        self.assembly.as_ref().is_some_and(|assembly| assembly.rest > DIRECT_BYTES_MIN)
    }

    /// How to receive next. For a direct receive the unfinished body moves into the result. `holds`: a large body waits
    /// until a caller says where it is to go.
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
        // A direct receive must not bypass undecoded chunks; there are none here.
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
        // The next piece of the body follows, so there is nothing to spill.
        self.spill = spill;
        Arm::Direct(Direct { body, rest, spill: Vec::new() })
    }
}
