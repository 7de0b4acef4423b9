//! Bodies that go straight from the kernel into a caller's memory.

use zring_engine::{SharedMut, copies::Site};

use super::{
    Inbound,
    assembly::Assembly,
    claim::{Claim, Finished},
    sink::Sink,
};
use crate::{
    frame::{Frame, FrameBuf},
    message::Message,
    monitor::DisconnectReason,
};

impl Inbound {
    /// Whether a caller may still say where the body under way is to go. If so, the body is held from here on.
    pub(crate) fn may_be_held(&mut self, holds: bool) -> bool {
        let is_large = self.has_large_rest() && self.pieces.is_empty();
        let Some(assembly) = self.assembly.as_mut().filter(|_| is_large && holds) else {
            return false;
        };
        assembly.is_held = !assembly.is_owned && !assembly.is_skipped && !assembly.flags.command();
        assembly.is_held
    }

    /// Length of the held body; `None` if no body is held.
    pub(crate) fn held_bytes(&self) -> Option<u64> {
        let held = self.assembly.as_ref().filter(|assembly| assembly.is_held)?;
        Some(held.bytes)
    }

    /// The frame whose body is under way: the length of the body, and whether frames follow.
    pub(crate) fn under_way(&self) -> Option<(u64, bool)> {
        let assembly = self.assembly.as_ref().filter(|assembly| !assembly.flags.command())?;
        (!assembly.is_skipped).then_some((assembly.bytes, assembly.flags.more()))
    }

    /// Whether the body under way will be held as soon as the receive that brought its beginning has ended.
    pub(crate) fn is_about_to_be_held(&self) -> bool {
        let is_free = |assembly: &Assembly| assembly.asked == 0 && !assembly.is_owned;
        self.has_large_rest() && self.assembly.as_ref().is_some_and(is_free)
    }

    /// Has the body under way received into memory of its own, even if callers want large bodies elsewhere.
    pub(crate) fn own_body(&mut self) {
        if let Some(assembly) = &mut self.assembly {
            (assembly.is_owned, assembly.is_held) = (true, false);
        }
    }

    /// The bytes of the body under way that have arrived.
    pub(crate) fn held_beginning(&self) -> &[u8] {
        self.assembly.as_ref().map_or(&[], |assembly| assembly.body.bytes())
    }

    /// Whether a frame follows the frame under way.
    pub(crate) fn held_has_more(&self) -> bool {
        self.assembly.as_ref().is_some_and(|assembly| assembly.flags.more())
    }

    /// The frames in front of the frame under way.
    pub(crate) fn parts(&self) -> &[Frame] {
        &self.parts
    }

    pub(crate) fn is_claimed(&self) -> bool {
        self.assembly.as_ref().is_some_and(|assembly| assembly.is_claimed)
    }

    pub(crate) fn claim_number(&self) -> u64 {
        self.claim
    }

    /// Whether a whole message is set aside for one caller.
    pub(crate) fn is_set_aside(&self) -> bool {
        self.claimed.is_some() || self.stream.as_ref().is_some_and(|stream| stream.is_whole)
    }

    /// Takes the claimed message if it is whole, which ends the claim.
    pub(crate) fn take_claimed(&mut self) -> Option<Message> {
        let message = self.claimed.take()?;
        self.claim = 0;
        Some(message)
    }

    /// Claims the body under way for the claim of this number. The bytes that have arrived go into `frame`; the rest
    /// follows there.
    pub(crate) fn claim(&mut self, number: u64, frame: &mut FrameBuf<'_>) {
        let Some(assembly) = &mut self.assembly else { return };
        let body = std::mem::replace(&mut assembly.body, SharedMut::with_expected(0)).freeze();
        frame.begin(&body, body.len() + assembly.rest as usize);
        (assembly.is_claimed, assembly.is_held) = (true, false);
        self.claim = number;
    }

    /// How much of the claimed body is still to come, and the memory for the bytes behind the body.
    pub(crate) fn claimed_rest(&mut self) -> Option<(u64, &mut Vec<u8>)> {
        let rest = self.assembly.as_ref().filter(|assembly| assembly.is_claimed)?.rest;
        self.make_spill();
        Some((rest, &mut self.spill))
    }

    /// This many bytes of the claimed body have arrived.
    pub(crate) fn note_claimed(&mut self, bytes: u64) {
        if let Some(assembly) = &mut self.assembly {
            assembly.rest -= bytes;
        }
    }

    /// The claimed body lies in `frame` whole: finishes its frame, and decodes the bytes that came behind it.
    pub(crate) fn finish_claimed(
        &mut self,
        frame: &FrameBuf<'_>,
        sink: &mut impl Sink,
    ) -> (Finished, Result<(), DisconnectReason>) {
        let Some(Assembly { flags, .. }) = self.assembly.take() else {
            return (Finished::Placed, Ok(()));
        };
        let mut finished = Finished::Placed;
        let mut done = Ok(());
        if self.parts.is_empty() && !flags.more() {
            self.claim = 0;
            match sink.single(frame.bytes()) {
                Ok(is_ours) => {
                    finished = if is_ours { Finished::Message } else { Finished::Refused };
                }
                Err(reason) => done = Err(reason),
            }
        } else {
            sink.placed(frame.bytes().len());
            done = self.deliver(Frame::new(), flags.more(), sink);
        }
        let spilled = std::mem::take(&mut self.spill);
        (finished, done.and_then(|()| self.handle_spill(spilled, sink)))
    }

    /// The claimed body was taken whole, piece by piece: finishes its frame, and decodes the bytes that came behind it.
    pub(crate) fn finish_taken(&mut self, sink: &mut impl Sink) -> Result<(), DisconnectReason> {
        let Some(Assembly { flags, bytes, .. }) = self.assembly.take() else { return Ok(()) };
        self.claim = 0;
        self.stream_frame(None, bytes, flags.more(), sink)?;
        let spilled = std::mem::take(&mut self.spill);
        self.handle_spill(spilled, sink)
    }

    /// The claim is given up: the bytes of the message that have arrived are copied into memory of their own.
    pub(crate) fn unclaim(&mut self, claim: &Claim, frames: &[FrameBuf<'_>]) {
        self.claim = 0;
        if let Some(mut message) = self.claimed.take() {
            let envelope = message.take_envelope();
            let mut parts = message.into_frames();
            restore(&mut parts, claim, frames);
            if let Some(mut message) = Message::from_frames(parts) {
                message.add_envelope(envelope.into_iter());
                self.weigh(&message);
                self.ready.push_front(message);
            }
            return;
        }
        if let Some(parts) = self.parts.get_mut(claim.hidden..) {
            restore(parts, claim, frames);
        }
        if let (Some(assembly), Some((at, bytes))) = (&mut self.assembly, claim.body)
            && let Some(frame) = frames.get(at)
        {
            assembly.body = SharedMut::with_expected(bytes);
            assembly.body.extend_at(Site::Unclaim, frame.bytes());
            assembly.is_claimed = false;
            assembly.is_owned = true;
        }
    }
}

/// Copies the placed frames from the caller's memory to their positions in the message.
fn restore(parts: &mut [Frame], claim: &Claim, frames: &[FrameBuf<'_>]) {
    for (at, (part, frame)) in parts.iter_mut().zip(frames).enumerate() {
        if claim.placed.contains(at) {
            *part = Frame::copy_at(Site::Unclaim, frame.bytes());
        }
    }
}
