//! The outgoing half of a pipe: encoded messages on their way to one connection.

use std::collections::VecDeque;

use zring_engine::{
    ArenaPool, Gather, HEAD_BYTES_MAX, SEGMENTS_PER_SEND_MAX, Segment, append_short, append_with,
    copies::{Site, note},
};

use crate::{
    frame::{Body, Frame},
    message::Message,
    options::Options,
    wire::{Decoder, FRAME_HEADER_BYTES_MAX, Step, encode_header, short_header},
};

/// Owned bodies from this size on are sent by reference; shorter ones are cheaper to copy.
pub(crate) const REFERENCE_BYTES_MIN: usize = 4096;

/// In a burst, so many bytes are sent by one call: beyond that its cost is that of the bytes.
pub(crate) const LOAD_BYTES: usize = 32 << 10;

/// A sealed segment and what ends in it.
#[derive(Debug)]
struct Sealed {
    segment: Segment,
    /// Messages whose last byte lies in this segment.
    ends: u32,
    /// Whether its last byte is the end of a message.
    at_boundary: bool,
}

/// The send that the kernel has at the moment.
#[derive(Debug, Clone, Copy)]
struct Flight {
    messages: u32,
    at_boundary: bool,
    /// Handshake bytes only, which are no frames.
    is_handshake: bool,
}

/// Encoded messages of one connection, from `append` to the completion of their send.
///
/// ```text
/// append ──▶ tail (open arena block) ──seal──▶ sealed ──take_batch──▶ in flight ──▶ done
///              referenced bodies ─────────────────┘                       │
///                                               retained ◀── batch ended inside a message
/// ```
/// Nothing is forgotten before the message it belongs to was wholly taken by the kernel, so when the
/// connection dies every other message can be told from what was handed over and goes elsewhere.
///
/// # Invariants
/// - A header never straddles segments. A body is either whole in the same arena block as its header, or it
///   is the next segment.
/// - `tail` and `sealed` begin at a message boundary, or inside a message whose beginning is in flight
///   or retained.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    tail: Vec<u8>,
    tail_ends: u32,
    tail_at_boundary: bool,
    sealed: VecDeque<Sealed>,
    /// Messages that end, and bytes that lie, before the tail: sealed or in flight. What the tail holds is
    /// added when it is sealed, so that appending counts nothing twice.
    settled_messages: u32,
    settled_bytes: usize,
    flight: Option<Flight>,
    retained: Vec<Gather>,
    /// Messages that end in what is retained.
    retained_ends: u32,
}

/// Bounds of a batch: messages below them only have to wait for its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// At least 1.
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
    pub(crate) block_bytes: usize,
}

impl Bounds {
    /// Of a batch scope or, on a shard that several threads use, of a burst.
    #[inline(always)]
    pub(crate) fn of(options: &Options, is_burst: bool) -> Self {
        Self {
            messages: if options.sndhwm == 0 { u32::MAX } else { options.sndhwm },
            bytes: options.pipe_bytes_max,
            block_bytes: if is_burst { LOAD_BYTES } else { usize::MAX },
        }
    }
}

/// Until where messages may join the block that is open, while nothing else happens to the outbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Fewer messages than this may end there before.
    ends: u32,
    /// Fewer bytes than this may lie there after.
    bytes: usize,
}

impl Room {
    pub(crate) const NONE: Self = Self { ends: 0, bytes: 0 };
}

/// All messages of an outbox whose connection ended: handed over, or not sent.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Messages that the kernel had taken whole, beyond those reported before.
    pub(crate) handed: u64,
    /// The others, in order.
    pub(crate) unsent: Vec<Message>,
}

impl Outbox {
    /// Messages whose send has not completed.
    #[inline]
    pub(crate) fn messages(&self) -> u32 {
        self.settled_messages + self.tail_ends
    }

    /// Bytes whose send has not completed.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.settled_bytes + self.tail.len()
    }

    #[inline]
    pub(crate) fn is_in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// Whether a whole arena block waits.
    #[inline]
    pub(crate) fn has_full_block(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// Whether a single call's worth of bytes waits, or more.
    #[inline]
    pub(crate) fn has_load(&self) -> bool {
        self.tail.len() >= LOAD_BYTES || !self.sealed.is_empty()
    }

    /// Copies in a message of one short frame, if it goes into the block that is open and leaves everything below these
    /// bounds: messages and bytes as [`Outbox::messages`] and [`Outbox::bytes`] count them, bytes of the block, and no
    /// whole block. Returns whether it did.
    #[inline(always)]
    pub(crate) fn join(&mut self, body: &[u8], below: &Bounds) -> bool {
        self.room(below).is_some_and(|room| self.join_within(body, &room))
    }

    /// How much may still join the open block; `None`: a whole block waits, or a bound is reached.
    #[inline(always)]
    pub(crate) fn room(&self, below: &Bounds) -> Option<Room> {
        let ends = (below.messages - 1).checked_sub(self.settled_messages)?;
        let bytes = below.bytes.checked_sub(self.settled_bytes as u64)?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(below.block_bytes);
        self.sealed.is_empty().then_some(Room { ends, bytes })
    }

    /// As [`Outbox::join`], within the room there was when nothing else had happened yet.
    #[inline(always)]
    pub(crate) fn join_within(&mut self, body: &[u8], room: &Room) -> bool {
        let Ok(body_bytes) = u8::try_from(body.len()) else { return false };
        let header = short_header(false, body_bytes);
        let fits = self.fits(header.len() + body.len(), room);
        if !fits || !append_short(&mut self.tail, header, body) {
            return false;
        }
        note(Site::Arena, body.len());
        self.tail_at_boundary = true;
        self.tail_ends += 1;
        true
    }

    /// As [`Outbox::join_within`], for a body of `len` bytes, fewer than are sent by reference, that `fill` writes over
    /// zeros where it lies.
    ///
    /// # Errors
    /// `fill`, where nothing was done.
    #[inline(always)]
    pub(crate) fn join_within_with<F: FnOnce(&mut [u8])>(
        &mut self,
        len: usize,
        room: &Room,
        fill: F,
    ) -> Result<(), F> {
        if len >= REFERENCE_BYTES_MIN || !self.fits(FRAME_HEADER_BYTES_MAX + len, room) {
            return Err(fill);
        }
        if let Ok(body_bytes) = u8::try_from(len) {
            append_with(&mut self.tail, short_header(false, body_bytes), len, fill)?;
        } else {
            let mut header = [0; FRAME_HEADER_BYTES_MAX];
            encode_header(&mut header, false, false, len as u64);
            append_with(&mut self.tail, header, len, fill)?;
        }
        self.tail_at_boundary = true;
        self.tail_ends += 1;
        Ok(())
    }

    /// Whether a message of one frame of so many bytes fits.
    #[inline(always)]
    fn fits(&self, frame_bytes: usize, room: &Room) -> bool {
        self.tail_ends < room.ends && self.tail.len() + frame_bytes < room.bytes
    }

    /// Copies one frame in. The message ends with it unless `more`.
    #[inline]
    pub(crate) fn append(&mut self, arena: &mut ArenaPool, more: bool, body: &[u8]) {
        match u8::try_from(body.len()) {
            Ok(body_bytes) => {
                let header = short_header(more, body_bytes);
                if !append_short(&mut self.tail, header, body) {
                    self.next_block(arena, header.len() + body.len());
                    append_short(&mut self.tail, header, body);
                }
            }
            Err(_) => self.append_long(arena, more, body),
        }
        note(Site::Arena, body.len());
        self.tail_at_boundary = !more;
        self.tail_ends += u32::from(!more);
    }

    #[inline(never)]
    fn append_long(&mut self, arena: &mut ArenaPool, more: bool, body: &[u8]) {
        let mut header = [0; FRAME_HEADER_BYTES_MAX];
        let header_bytes = encode_header(&mut header, more, false, body.len() as u64);
        self.make_room(arena, header_bytes + body.len());
        self.tail.extend_from_slice(&header[..header_bytes]);
        self.tail.extend_from_slice(body);
    }

    #[inline]
    fn make_room(&mut self, arena: &mut ArenaPool, bytes: usize) {
        if self.tail.capacity() - self.tail.len() < bytes {
            self.next_block(arena, bytes);
        }
    }

    #[cold]
    #[inline(never)]
    fn next_block(&mut self, arena: &mut ArenaPool, bytes: usize) {
        self.seal_tail();
        self.tail = arena.take();
        // Only a frame larger than a block, which callers reference instead, would grow it.
        self.tail.reserve(bytes);
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            let segment = Segment::Arena(std::mem::take(&mut self.tail));
            let ends = std::mem::take(&mut self.tail_ends);
            self.seal(segment, ends, self.tail_at_boundary);
        }
    }

    fn seal(&mut self, segment: Segment, ends: u32, at_boundary: bool) {
        self.settled_messages += ends;
        self.settled_bytes += segment.len();
        self.sealed.push_back(Sealed { segment, ends, at_boundary });
    }

    /// Appends one frame, large bodies and those in files by reference.
    pub(crate) fn append_frame(&mut self, arena: &mut ArenaPool, more: bool, frame: &Frame) {
        let segment = match &frame.0 {
            Body::File(region) => Segment::File(region.clone()),
            _ if frame.len() < REFERENCE_BYTES_MIN => {
                return self.append(arena, more, frame.bytes());
            }
            Body::Inline { .. } => return self.append(arena, more, frame.bytes()),
            Body::Lease(lease) => Segment::Lease(lease.clone()),
            Body::Shared(shared) => Segment::Shared(shared.clone()),
            Body::Static(bytes) => Segment::Static(bytes),
        };
        self.append_head(more, frame.len());
        self.seal(segment, u32::from(!more), !more);
    }

    /// The header in front of a referenced body: behind the tail if there is one, else in place.
    fn append_head(&mut self, more: bool, body_bytes: usize) {
        let mut header = [0; FRAME_HEADER_BYTES_MAX];
        let header_bytes = encode_header(&mut header, more, false, body_bytes as u64);
        self.tail_at_boundary = false;
        if !self.tail.is_empty() && self.tail.capacity() - self.tail.len() >= header_bytes {
            self.tail.extend_from_slice(&header[..header_bytes]);
            self.seal_tail();
            return;
        }
        self.seal_tail();
        let mut bytes = [0; HEAD_BYTES_MAX];
        bytes[..header_bytes].copy_from_slice(&header[..header_bytes]);
        let segment = Segment::Head { bytes, len: header_bytes as u8 };
        self.seal(segment, 0, false);
    }

    /// Appends all frames of a message.
    pub(crate) fn append_message(&mut self, arena: &mut ArenaPool, message: &Message) {
        let last = message.frame_count() - 1;
        for (at, frame) in message.frames().enumerate() {
            self.append_frame(arena, at < last, frame);
        }
    }

    /// Appends an encoded command, which is no message. Only between messages.
    pub(crate) fn append_command(&mut self, arena: &mut ArenaPool, encoded: &[u8]) {
        self.make_room(arena, encoded.len());
        self.tail.extend_from_slice(encoded);
        self.tail_at_boundary = true;
    }

    /// Marks handshake bytes as in flight; they are sent outside of the message stream.
    pub(crate) fn start_handshake(&mut self) {
        debug_assert!(self.flight.is_none());
        self.flight = Some(Flight { messages: 0, at_boundary: true, is_handshake: true });
    }

    /// Whether nothing waits, or is on its way.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.flight.is_none()
            && self.tail.is_empty()
            && self.sealed.is_empty()
            && self.retained.is_empty()
    }

    /// The queued bytes, when they are one open block and nothing before it is unfinished: what a single call can
    /// send from its place.
    #[inline]
    pub(crate) fn only_block(&self) -> Option<&[u8]> {
        let is_only = self.sealed.is_empty() && self.flight.is_none() && self.retained.is_empty();
        (is_only && !self.tail.is_empty()).then_some(&self.tail)
    }

    /// All of [`Outbox::only_block`] was taken by the kernel: the block goes back, so that an idle pipe holds none.
    /// Returns how many messages that ended. Messages are appended whole, so it ended with one.
    #[inline]
    pub(crate) fn complete_only_block(&mut self, arena: &mut ArenaPool) -> u32 {
        debug_assert!(self.tail_at_boundary && self.settled_bytes == 0);
        arena.give(std::mem::take(&mut self.tail));
        std::mem::take(&mut self.tail_ends)
    }

    /// Takes what one send may carry. Nothing else may be in flight.
    pub(crate) fn take_batch(&mut self, arena: &mut ArenaPool) -> Option<Gather> {
        if self.sealed.is_empty() {
            self.seal_tail();
        }
        self.take_sealed(arena, true)
    }

    /// As [`Outbox::take_batch`], and leaves the block that is being filled.
    pub(crate) fn take_full_blocks(&mut self, arena: &mut ArenaPool) -> Option<Gather> {
        self.take_sealed(arena, false)
    }

    fn take_sealed(&mut self, arena: &mut ArenaPool, with_tail: bool) -> Option<Gather> {
        debug_assert!(self.flight.is_none());
        if self.sealed.is_empty() {
            return None;
        }
        let mut gather = arena.take_list();
        let mut flight = Flight { messages: 0, at_boundary: true, is_handshake: false };
        while gather.segments().len() < SEGMENTS_PER_SEND_MAX {
            if self.sealed.is_empty() && with_tail {
                self.seal_tail();
            }
            let Some(sealed) = self.sealed.pop_front() else { break };
            flight.messages += sealed.ends;
            flight.at_boundary = sealed.at_boundary;
            gather.push(sealed.segment);
        }
        self.flight = Some(flight);
        Some(gather)
    }

    /// The send completed: all of `gather` was taken by the kernel. Returns how many messages that ended.
    pub(crate) fn complete(&mut self, arena: &mut ArenaPool, gather: Gather) -> u32 {
        let flight = self.flight.take().expect("a completion follows a send");
        if !flight.is_handshake {
            self.settled_messages -= flight.messages;
            self.settled_bytes -= gather.bytes();
        }
        if !flight.at_boundary {
            self.retained.push(gather);
            self.retained_ends += flight.messages;
            return flight.messages;
        }
        self.retained_ends = 0;
        arena.recycle(gather);
        for gather in self.retained.drain(..) {
            arena.recycle(gather);
        }
        flight.messages
    }

    /// The connection is gone. `flight` is the unfinished send, if any, with how many bytes of it the
    /// kernel took. Leaves the outbox empty.
    pub(crate) fn recover(&mut self, flight: Option<(Gather, usize)>) -> Recovered {
        let mut walk = Walk::default();
        let was_handshake = self.flight.is_some_and(|flight| flight.is_handshake);
        for mut gather in self.retained.drain(..) {
            walk.taken_bytes += gather.bytes();
            std::iter::from_fn(|| gather.pop()).for_each(|segment| walk.segment(segment));
        }
        if let Some((mut gather, bytes)) = flight.filter(|_| !was_handshake) {
            walk.taken_bytes += bytes;
            std::iter::from_fn(|| gather.pop()).for_each(|segment| walk.segment(segment));
        }
        self.seal_tail();
        self.sealed.drain(..).for_each(|sealed| walk.segment(sealed.segment));
        // Those messages were reported when their sends completed.
        walk.recovered.handed -= u64::from(self.retained_ends);
        *self = Self::default();
        walk.recovered
    }
}

/// Reads back what was encoded, to find the messages that were not wholly taken.
#[derive(Default)]
struct Walk {
    taken_bytes: usize,
    at_bytes: usize,
    frames: Vec<Frame>,
    /// A header whose body is the next segment: whether more frames follow.
    open: Option<bool>,
    recovered: Recovered,
}

impl Walk {
    fn segment(&mut self, segment: Segment) {
        let bytes = segment.len();
        if let Some(more) = self.open.take() {
            self.at_bytes += bytes;
            let body = match segment {
                Segment::Shared(shared) => Body::Shared(shared),
                Segment::Lease(lease) => Body::Lease(lease),
                Segment::Static(bytes) => Body::Static(bytes),
                Segment::File(region) => Body::File(region),
                Segment::Arena(_) | Segment::Head { .. } => {
                    unreachable!("a referenced body follows its header")
                }
            };
            return self.frame(Frame(body), more);
        }
        let start = self.at_bytes;
        let mut decoder = Decoder::new(u64::MAX);
        let mut at = 0;
        loop {
            match decoder.next(segment.bytes(), &mut at).expect("our own encoding") {
                Step::Frame { flags, body } => {
                    self.at_bytes = start + at;
                    if !flags.command() {
                        let body = &segment.bytes()[body];
                        self.frame(Frame::copy_at(Site::Requeue, body), flags.more());
                    }
                }
                Step::Partial { flags, .. } => {
                    self.open = Some(flags.more());
                    break;
                }
                Step::Starved => break,
            }
        }
        self.at_bytes = start + bytes;
    }

    fn frame(&mut self, frame: Frame, more: bool) {
        self.frames.push(frame);
        if more {
            return;
        }
        let message = Message::from_frames(self.frames.drain(..)).expect("pushed just now");
        if self.at_bytes <= self.taken_bytes {
            self.recovered.handed += 1;
        } else {
            self.recovered.unsent.push(message);
        }
    }
}

#[cfg(test)]
mod tests;
