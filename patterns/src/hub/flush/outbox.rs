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

/// In a burst, this many bytes are sent by one call: beyond that the cost of the call is the cost of the bytes.
pub(crate) const LOAD_BYTES: usize = 32 << 10;

/// A sealed segment and the messages that end in it.
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
    /// The send is handshake bytes only, which are no frames.
    is_handshake: bool,
}

/// Encoded messages of one connection, from `append` to the completion of their send.
///
/// ```text
/// append ──▶ tail (open arena block) ──seal──▶ sealed ──take_batch──▶ in flight ──▶ done
///              referenced bodies ─────────────────┘                       │
///                                               retained ◀── batch ended inside a message
/// ```
/// Every segment is kept until the kernel has taken all of the message that it belongs to. So when the connection dies,
/// every message that was not handed over is known and can go elsewhere.
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
    /// Messages that end, and bytes that lie, before the tail: sealed or in flight. Those of the tail are added when it
    /// is sealed, so that appending counts nothing twice.
    settled_messages: u32,
    settled_bytes: usize,
    flight: Option<Flight>,
    retained: Vec<Gather>,
    /// Messages that end in the retained sends.
    retained_ends: u32,
}

/// Bounds of the outbox. A message that stays below all of them only has to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// At least 1.
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
    pub(crate) block_bytes: usize,
}

impl Bounds {
    /// The bounds of a batch scope or, on a shard that several threads use, of a burst.
    #[inline(always)]
    pub(crate) fn of(options: &Options, is_burst: bool) -> Self {
        Self {
            messages: if options.sndhwm == 0 { u32::MAX } else { options.sndhwm },
            bytes: options.pipe_bytes_max,
            block_bytes: if is_burst { LOAD_BYTES } else { usize::MAX },
        }
    }
}

/// How much may still join the open block, while nothing else happens to the outbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Before a message joins, fewer messages than this must end in the block.
    ends: u32,
    /// After a message has joined, fewer bytes than this must lie in the block.
    bytes: usize,
}

impl Room {
    pub(crate) const NONE: Self = Self { ends: 0, bytes: 0 };
}

/// What became of all appended messages when a connection ended.
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

    /// Whether enough bytes for a call of their own wait.
    #[inline]
    pub(crate) fn has_load(&self) -> bool {
        self.tail.len() >= LOAD_BYTES || !self.sealed.is_empty()
    }

    /// Copies in a message of one short frame, if it fits into the open block, no whole block waits, and everything
    /// stays below these bounds: messages and bytes as [`Outbox::messages`] and [`Outbox::bytes`] count them, and bytes
    /// of the block. Returns whether the message was copied in.
    #[inline(always)]
    pub(crate) fn join(&mut self, body: &[u8], below: &Bounds) -> bool {
        self.room(below).is_some_and(|room| self.join_within(body, &room))
    }

    /// How much may still join the open block; `None`: a whole block waits, or too much does.
    #[inline(always)]
    pub(crate) fn room(&self, below: &Bounds) -> Option<Room> {
        let ends = (below.messages - 1).checked_sub(self.settled_messages)?;
        let bytes = below.bytes.checked_sub(self.settled_bytes as u64)?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(below.block_bytes);
        self.sealed.is_empty().then_some(Room { ends, bytes })
    }

    /// As [`Outbox::join`], within a room that was found before; only joins may have happened since then.
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

    /// As [`Outbox::join_within`], for a body of `len` bytes that `fill` writes in place, over zeros. The body must be
    /// shorter than bodies that are sent by reference.
    ///
    /// # Errors
    /// Returns `fill` if the message does not fit; nothing was done then.
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

    /// Whether a message of one frame of this many bytes fits.
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
        // Only a frame larger than a block would grow it; callers send such a frame by reference.
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

    /// Appends the header in front of a referenced body: to the tail if there is one with room, else as a segment of
    /// its own.
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

    /// Whether nothing is queued or in flight.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.flight.is_none()
            && self.tail.is_empty()
            && self.sealed.is_empty()
            && self.retained.is_empty()
    }

    /// The queued bytes, if they are one open block and nothing before it is unfinished: a single call can send them in
    /// place.
    #[inline]
    pub(crate) fn only_block(&self) -> Option<&[u8]> {
        let is_only = self.sealed.is_empty() && self.flight.is_none() && self.retained.is_empty();
        (is_only && !self.tail.is_empty()).then_some(&self.tail)
    }

    /// The kernel took all of [`Outbox::only_block`]: the block goes back, so that an idle pipe holds none. Returns how
    /// many messages ended in the block. Messages are appended whole, so the end of the block is the end of a message.
    #[inline]
    pub(crate) fn complete_only_block(&mut self, arena: &mut ArenaPool) -> u32 {
        debug_assert!(self.tail_at_boundary && self.settled_bytes == 0);
        arena.give(std::mem::take(&mut self.tail));
        std::mem::take(&mut self.tail_ends)
    }

    /// Takes as much as one send may carry. Nothing else may be in flight.
    pub(crate) fn take_batch(&mut self, arena: &mut ArenaPool) -> Option<Gather> {
        if self.sealed.is_empty() {
            self.seal_tail();
        }
        self.take_sealed(arena, true)
    }

    /// As [`Outbox::take_batch`], but leaves the block that is being filled.
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

    /// The send completed: the kernel took all of `gather`. Returns how many messages ended in it.
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
        // The messages that end in retained sends were reported when those sends completed.
        walk.recovered.handed -= u64::from(self.retained_ends);
        *self = Self::default();
        walk.recovered
    }
}

/// Decodes the segments again, to find the messages that the kernel did not take whole.
#[derive(Default)]
struct Walk {
    taken_bytes: usize,
    at_bytes: usize,
    frames: Vec<Frame>,
    /// Set behind a header whose body is the next segment: whether more frames follow.
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
mod tests {
    use super::*;

    fn arena() -> ArenaPool {
        ArenaPool::new(4096, 8)
    }

    fn text(recovered: &Recovered) -> Vec<Vec<Vec<u8>>> {
        recovered.unsent.iter().map(Message::to_vecs).collect()
    }

    #[test]
    fn a_cut_send_tells_handed_from_unsent() {
        for taken in 0..=15 {
            let (mut arena, mut outbox) = (arena(), Outbox::default());
            for body in ["one", "two", "six"] {
                outbox.append(&mut arena, false, body.as_bytes());
            }
            assert_eq!(outbox.messages(), 3);
            let gather = outbox.take_batch(&mut arena).unwrap();
            outbox.append(&mut arena, false, b"ten");
            let recovered = outbox.recover(Some((gather, taken)));
            assert_eq!(recovered.handed, taken as u64 / 5, "{taken}");
            let expected = ["one", "two", "six", "ten"].map(|body| vec![body.as_bytes().to_vec()]);
            assert_eq!(text(&recovered), expected[taken / 5..], "{taken}");
            assert_eq!((outbox.messages(), outbox.bytes()), (0, 0));
        }
    }

    #[test]
    fn a_message_over_several_batches_is_kept_whole() {
        let (mut arena, mut outbox) = (arena(), Outbox::default());
        let frames: Vec<Vec<u8>> = (0..200).map(|at| vec![at as u8; 5000]).collect();
        let message = Message::from_frames(frames.clone()).unwrap();
        outbox.append_message(&mut arena, &message);
        let mut batches = 0;
        loop {
            let gather = outbox.take_batch(&mut arena).unwrap();
            batches += 1;
            if outbox.sealed.is_empty() && outbox.tail.is_empty() {
                let bytes = gather.bytes() - 1;
                let recovered = outbox.recover(Some((gather, bytes)));
                assert_eq!(recovered.handed, 0);
                assert_eq!(text(&recovered), [frames]);
                break;
            }
            assert_eq!(outbox.complete(&mut arena, gather), 0);
        }
        assert!(batches > 3);
    }

    #[test]
    fn files_are_recovered_as_files() {
        let file = std::sync::Arc::new(tempfile::tempfile().unwrap());
        file.set_len(100_000).unwrap();
        let frame = |offset, len| Frame::from_file(file.clone(), offset, len).unwrap();
        let frames = [frame(0, 300), Frame::from("x"), frame(7, 5000), Frame::new(), frame(1, 1)];
        let message = Message::from_frames(frames.clone()).unwrap();
        let (first, last) = (Message::from("first"), Message::from("last"));
        let first_bytes = 2 + 5;
        let message_bytes = (9 + 300) + (2 + 1) + (9 + 5000) + 2 + (2 + 1);
        // Cut in the header of a file, inside a file, between two frames, and behind everything.
        for taken in [0, 6, 7, 8, 16, 17, 200, 316, 320, 330, 5000, 5325, 5328, 5333, 5339, 5340] {
            let (mut arena, mut outbox) = (arena(), Outbox::default());
            for message in [&first, &message, &last] {
                outbox.append_message(&mut arena, message);
            }
            let total = outbox.bytes();
            assert_eq!(total, first_bytes + message_bytes + 6);
            let gather = outbox.take_batch(&mut arena).unwrap();
            assert_eq!((gather.bytes(), gather.has_files()), (total, true));
            let recovered = outbox.recover(Some((gather, taken)));
            let all = [&first, &message, &last];
            let ends = [first_bytes, first_bytes + message_bytes, total];
            let handed = ends.iter().filter(|&&end| end <= taken).count();
            assert_eq!(recovered.handed, handed as u64, "{taken}");
            assert!(recovered.unsent.iter().eq(all[handed..].iter().copied()), "{taken}");
        }
    }

    #[test]
    fn commands_are_not_recovered() {
        let (mut arena, mut outbox) = (arena(), Outbox::default());
        let mut ping = Vec::new();
        crate::wire::encode_ping(&mut ping, 10, b"ctx");
        outbox.append_command(&mut arena, &ping);
        outbox.append_message(&mut arena, &Message::from_frames(["a", "b"]).unwrap());
        outbox.append_command(&mut arena, &ping);
        outbox.append_message(&mut arena, &Message::from(vec![1; 9000]));
        let recovered = outbox.recover(None);
        assert_eq!(recovered.handed, 0);
        assert_eq!(text(&recovered), [vec![b"a".to_vec(), b"b".to_vec()], vec![vec![1; 9000]]]);
    }

    #[test]
    fn a_block_sent_from_its_place_is_used_again() {
        let (mut arena, mut outbox) = (arena(), Outbox::default());
        outbox.append(&mut arena, true, b"");
        outbox.append(&mut arena, false, b"abc");
        let block = outbox.only_block().unwrap();
        let (address, len) = (block.as_ptr(), block.len());
        assert_eq!(len, 7);
        assert_eq!(outbox.complete_only_block(&mut arena), 1);
        assert_eq!((outbox.messages(), outbox.bytes()), (0, 0));
        outbox.append(&mut arena, false, b"def");
        assert_eq!(outbox.only_block().unwrap().as_ptr(), address);
        outbox.append_message(&mut arena, &Message::from(vec![1; 9000]));
        assert!(outbox.only_block().is_none(), "a referenced body is more than one block");
    }

    #[test]
    fn counts_follow_a_completed_send() {
        let (mut arena, mut outbox) = (arena(), Outbox::default());
        for _ in 0..100 {
            outbox.append(&mut arena, false, &[0; 64]);
        }
        assert!(outbox.has_full_block());
        let gather = outbox.take_batch(&mut arena).unwrap();
        assert_eq!((outbox.messages(), outbox.bytes()), (100, 6600));
        assert_eq!(outbox.complete(&mut arena, gather), 100);
        assert_eq!((outbox.messages(), outbox.bytes()), (0, 0));
        assert!(outbox.take_batch(&mut arena).is_none());
    }

    #[test]
    fn a_message_joins_what_stays_below_all_bounds() {
        const FREE: Bounds =
            Bounds { messages: u32::MAX, bytes: u64::MAX, block_bytes: usize::MAX };
        let (mut arena, mut one, mut other) = (arena(), Outbox::default(), Outbox::default());
        assert!(!one.join(b"first", &FREE), "there is no block");
        for outbox in [&mut one, &mut other] {
            outbox.append(&mut arena, false, b"first");
        }
        for body in [&b""[..], b"x", &[7; 255]] {
            assert!(one.join(body, &FREE));
            other.append(&mut arena, false, body);
        }
        assert!(!one.join(&[7; 256], &FREE), "its header is another");
        assert_eq!(one.only_block(), other.only_block());
        assert_eq!((one.messages(), one.bytes()), (4, 7 + 2 + 3 + 257));

        let (messages, bytes) = (one.messages(), one.bytes() + 4);
        let at = |messages, bytes, block_bytes| Bounds { messages, bytes, block_bytes };
        assert!(!one.join(b"ab", &at(messages + 1, u64::MAX, usize::MAX)), "full with it");
        assert!(!one.join(b"ab", &at(u32::MAX, bytes as u64, usize::MAX)));
        assert!(!one.join(b"ab", &at(u32::MAX, u64::MAX, bytes)));
        assert_eq!(one.messages(), messages);
        assert!(one.join(b"ab", &at(messages + 2, bytes as u64 + 1, bytes + 1)));
        while one.join(&[1; 64], &FREE) {}
        assert!(one.tail.capacity() - one.tail.len() < 66 && !one.has_full_block());
        one.append(&mut arena, false, &[1; 64]);
        assert!(!one.join(b"", &FREE), "a whole block waits");
        let all = one.messages();
        let recovered = one.recover(None);
        assert_eq!(recovered.unsent.len(), all as usize);
        assert_eq!(recovered.unsent[4].body(), b"ab");
    }

    #[test]
    fn what_is_written_in_place_is_as_if_it_were_copied() {
        let room = Room { ends: u32::MAX, bytes: usize::MAX };
        let (mut arena, mut one, mut other) = (arena(), Outbox::default(), Outbox::default());
        assert!(one.join_within_with(0, &room, |_| {}).is_err(), "there is no block");
        for outbox in [&mut one, &mut other] {
            outbox.append(&mut arena, false, b"first");
        }
        for len in [0, 1, 63, 64, 65, 254, 255, 256, 1000] {
            let body: Vec<u8> = (0..len).map(|at| at as u8).collect();
            assert!(one.join_within_with(len, &room, |out| out.copy_from_slice(&body)).is_ok());
            other.append(&mut arena, false, &body);
        }
        assert_eq!(one.only_block(), other.only_block());
        assert_eq!((one.messages(), one.bytes()), (other.messages(), other.bytes()));

        for (room, len) in [
            (room, REFERENCE_BYTES_MIN),
            (Room { ends: one.tail_ends, ..room }, 1),
            (Room { bytes: one.tail.len() + FRAME_HEADER_BYTES_MAX + 1, ..room }, 1),
        ] {
            let refused = one.join_within_with(len, &room, |_| unreachable!("it is given back"));
            assert!(refused.is_err(), "{room:?}, {len} bytes");
        }
        assert_eq!(one.messages(), other.messages());
    }

    #[test]
    fn full_blocks_go_without_the_one_that_is_being_filled() {
        let (mut arena, mut outbox) = (arena(), Outbox::default());
        assert!(outbox.take_full_blocks(&mut arena).is_none());
        while !outbox.has_full_block() {
            outbox.append(&mut arena, false, &[7; 64]);
        }
        let messages = outbox.messages();
        let gather = outbox.take_full_blocks(&mut arena).unwrap();
        assert_eq!(gather.segments().len(), 1);
        assert_eq!(gather.bytes(), (messages as usize - 1) * 66, "whole messages");
        assert!(!outbox.has_full_block());
        assert_eq!(outbox.complete(&mut arena, gather), messages - 1);
        assert_eq!((outbox.messages(), outbox.bytes()), (1, 66));
        assert_eq!(outbox.only_block().map(<[u8]>::len), Some(66));

        // A message is taken back whole if its first frame fills the block and its second frame opens another block.
        let body = vec![1; outbox.tail.capacity() - outbox.tail.len() - 9];
        outbox.append(&mut arena, true, &body);
        outbox.append(&mut arena, false, &[2; 64]);
        let gather = outbox.take_full_blocks(&mut arena).unwrap();
        let bytes = gather.bytes();
        assert_eq!(outbox.complete(&mut arena, gather), 1);
        assert_eq!(outbox.messages(), 1);
        let recovered = outbox.recover(None);
        assert_eq!((recovered.handed, recovered.unsent.len()), (0, 1), "{bytes} bytes were taken");
        assert_eq!(recovered.unsent[0].to_vecs(), [body, vec![2; 64]]);
    }
}
