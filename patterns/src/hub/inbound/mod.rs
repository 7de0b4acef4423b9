//! The incoming half of a pipe: bytes to frames to messages, and how the connection receives.

use std::{collections::VecDeque, ops::Range};

use zring_engine::{
    Buffers, Chunk, Pool, SharedMut,
    copies::{Site, note},
    queue::parcel::Short,
};

pub(crate) mod arm;
pub(crate) mod assembly;
pub(crate) mod claim;
mod claiming;
mod pieces;
pub(crate) mod sink;
mod streamed;
mod streaming;

use self::{
    assembly::{Assembly, is_beginning},
    pieces::{Piece, Pieces},
    sink::Sink,
    streamed::Streamed,
};
use crate::{
    frame::{Body, Frame, INLINE_BYTES_MAX, inline_bytes},
    inproc::link::{Freight, Link},
    message::Message,
    monitor::{DisconnectReason, PeerStats},
    options::Options,
    pattern::SUBSCRIPTION_BYTES_MAX,
    wire::{Decoder, FrameFlags, Step, Violation},
};

/// Messages decoded ahead of the user at a time; the rest stays undecoded in its chunk.
const DECODED_MAX: usize = 128;

/// The longest command a peer may send: a subscription, with the command's name in front.
const COMMAND_BYTES_MAX: u64 = SUBSCRIPTION_BYTES_MAX as u64 + 16;
/// Messages shorter than this do not count towards the limit by bytes: the limit by number bounds them.
const WEIGHED_BYTES_MIN: usize = 1024;

/// Memory with encoded bytes, which makes frames of the bodies among them.
trait Source {
    fn bytes(&self) -> &[u8];
    /// Puts this body into a cleared frame.
    fn put(&self, body: Range<usize>, frame: &mut Frame);

    #[inline(always)]
    fn frame(&self, body: Range<usize>) -> Frame {
        let mut frame = Frame::new();
        self.put(body, &mut frame);
        frame
    }
}

struct Leased<'a> {
    pool: &'a Pool,
    chunk: &'a Chunk,
}

impl Source for Leased<'_> {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        self.pool.bytes(self.chunk)
    }

    #[inline(always)]
    fn put(&self, body: Range<usize>, frame: &mut Frame) {
        frame.receive_in_place(self.pool, self.chunk, body);
    }
}

struct Copied<'a>(&'a [u8]);

impl Source for Copied<'_> {
    fn bytes(&self) -> &[u8] {
        self.0
    }

    fn put(&self, body: Range<usize>, frame: &mut Frame) {
        frame.copy_in_place(Site::Spill, &self.0[body]);
    }
}

/// See the module.
///
/// # Invariants
/// - `pieces` is empty unless `ready` was full when the pieces arrived. Pieces are decoded in order, before anything
///   newer.
/// - `at` counts decoded bytes of the first piece only.
#[derive(Debug)]
pub(crate) struct Inbound {
    decoder: Decoder,
    pub(crate) ready: VecDeque<Message>,
    /// Bytes of the ready messages that count towards the limit by bytes.
    pub(crate) ready_bytes: u64,
    pub(crate) parts: Vec<Frame>,
    pub(crate) assembly: Option<Assembly>,
    pub(crate) pieces: Pieces,
    pub(crate) at: usize,
    /// The first piece is a chunk that is decoded up to the end of a message, and nothing before the next frame affects
    /// it.
    is_plain: bool,
    pub(crate) spill: Vec<u8>,
    /// Small frames left until the ring is used again.
    pub(crate) direct_frames: u32,
    /// No more than an envelope came between the last two large bodies.
    pub(crate) is_large_run: bool,
    messages_max: usize,
    bytes_max: u64,
    pub(crate) frames_max: u32,
    /// Receiving was stopped because the messages were not taken, or because no caller said where a body is to go.
    pub(crate) is_stalled: bool,
    /// Number of the claim on frames of the message under way; 0: none.
    pub(crate) claim: u64,
    /// The claimed message, once it is whole. No other caller gets it.
    pub(crate) claimed: Option<Message>,
    /// A message that is taken as it arrives.
    pub(crate) stream: Option<Box<Streamed>>,
}

impl Inbound {
    pub(crate) fn new(options: &Options) -> Self {
        let hwm = if options.rcvhwm == 0 { usize::MAX } else { options.rcvhwm as usize };
        Self {
            decoder: Decoder::new(options.body_bytes_max()),
            ready: VecDeque::new(),
            ready_bytes: 0,
            parts: Vec::new(),
            assembly: None,
            pieces: Pieces::default(),
            at: 0,
            is_plain: false,
            spill: Vec::new(),
            direct_frames: 0,
            is_large_run: false,
            messages_max: hwm.min(DECODED_MAX),
            bytes_max: options.pipe_bytes_max,
            frames_max: options.max_frames_per_message,
            is_stalled: false,
            claim: 0,
            claimed: None,
            stream: None,
        }
    }

    /// The next whole message.
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let message = self.ready.pop_front()?;
        if message.len() >= WEIGHED_BYTES_MIN {
            self.ready_bytes -= message.len() as u64;
        }
        Some(message)
    }

    /// Decodes the next message of the first piece for a caller who takes the message right away, if the message needs
    /// nothing special; `None` in every other case. Call it only while `ready` is empty, and only for a socket to which
    /// each single frame is a message. A message that `wants` refuses is dropped.
    ///
    /// Messages decoded ahead of the user are written, queued and read again a hundred messages later. A message
    /// decoded here stays in the cache, and its node is the one that was freed a moment ago. The end of the piece is
    /// left to [`Inbound::refill`], so that a piece that is kept always has bytes to decode.
    #[inline(always)]
    pub(crate) fn take_plain(
        &mut self,
        pool: &Pool,
        stats: &mut PeerStats,
        wants: impl Fn(&[u8]) -> bool,
    ) -> Option<Message> {
        let Some(Piece::Chunk(chunk)) = self.pieces.front().filter(|_| self.is_plain) else {
            return None;
        };
        debug_assert!(self.ready.is_empty() && self.is_between_plain_messages());
        loop {
            let bytes = pool.bytes(chunk);
            let body = self.decoder.next_plain(bytes, &mut self.at)?;
            stats.messages_in += 1;
            stats.bytes_in += body.len() as u64;
            if wants(&bytes[body.clone()]) {
                return Some(Message::received_in(pool, chunk, body));
            }
            stats.messages_dropped += 1;
        }
    }

    /// Whether the next frame can be decoded without regard to anything before it.
    fn is_between_plain_messages(&self) -> bool {
        !self.is_inside_message()
            && !self.is_streamed()
            && self.claim == 0
            && self.direct_frames == 0
            && self.decoder.is_between_frames()
    }

    #[inline]
    pub(crate) fn has_message(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many whole messages there are.
    pub(crate) fn messages(&self) -> usize {
        self.ready.len()
    }

    /// Whether bytes wait to be decoded.
    #[inline]
    pub(crate) fn has_undecoded(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Whether decoding has stopped inside a frame or between the frames of a message.
    pub(crate) fn is_inside_message(&self) -> bool {
        self.assembly.is_some() || !self.parts.is_empty()
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.ready.len() >= self.messages_max || self.ready_bytes >= self.bytes_max
    }

    /// A chunk arrived: decodes it, and keeps the rest if `ready` is full.
    #[inline]
    pub(crate) fn handle_chunk(
        &mut self,
        mut pool: Buffers<'_>,
        chunk: Chunk,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        if !self.pieces.is_empty() {
            self.pieces.push_back(Piece::Chunk(chunk));
            return Ok(());
        }
        let mut at = 0;
        let decoded = self.decode_chunk(&pool, &chunk, &mut at, sink);
        if decoded.is_err() || at == chunk.len() {
            pool.release(chunk);
            return decoded;
        }
        self.keep(Piece::Chunk(chunk), at);
        Ok(())
    }

    /// Keeps a piece whose bytes behind `at` are not decoded because `ready` is full.
    fn keep(&mut self, piece: Piece, at: usize) {
        self.at = at;
        self.is_plain = matches!(piece, Piece::Chunk(_)) && self.is_between_plain_messages();
        self.pieces.put_back(piece);
    }

    /// Decodes bytes that came with the end of the handshake.
    pub(crate) fn handle_bytes(
        &mut self,
        bytes: Vec<u8>,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        let mut at = 0;
        self.decode_bytes(&bytes, &mut at, sink)?;
        if at < bytes.len() {
            self.at = at;
            self.pieces.push_back(Piece::Copied(bytes));
        }
        Ok(())
    }

    /// Copies undecoded chunks, so that their buffers can go back to the pool.
    pub(crate) fn release_chunks(&mut self, mut pool: Buffers<'_>) {
        self.is_plain = false;
        for piece in self.pieces.iter_mut() {
            if let Piece::Chunk(chunk) = piece {
                note(Site::Undecoded, chunk.len());
                let copy = pool.bytes(chunk).to_vec();
                if let Piece::Chunk(chunk) = std::mem::replace(piece, Piece::Copied(copy)) {
                    pool.release(chunk);
                }
            }
        }
    }

    /// Drops everything undecoded.
    pub(crate) fn discard_undecoded(&mut self, mut pool: Buffers<'_>) {
        self.is_plain = false;
        while let Some(piece) = self.pieces.pop_front() {
            if let Piece::Chunk(chunk) = piece {
                pool.release(chunk);
            }
        }
        self.at = 0;
        self.parts.clear();
        self.assembly = None;
        if self.claimed.is_none() {
            self.claim = 0;
        }
        self.stream.take_if(|stream| !stream.is_whole);
    }

    /// Takes parcels out of a link, as far as there is room.
    pub(crate) fn handle_parcels(
        &mut self,
        link: &mut Link,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        while !self.is_full() {
            // A short body is copied from where it lies: moving the parcel out first would cost more than all the rest.
            let Some(parcel) = link.peek() else { break };
            let Some(Short { mark, len, words }) = parcel.short() else {
                self.handle_freight(link, sink)?;
                continue;
            };
            if mark {
                self.parts.push(Frame::new());
                self.parts.push(Frame::from_words(len, words));
                link.skip();
                self.finish_parts(sink)?;
                continue;
            }
            if sink.single(inline_bytes(words, len))? {
                self.push(Message::received_words(len, words));
            }
            link.skip();
        }
        Ok(())
    }

    #[inline(never)]
    fn handle_freight(
        &mut self,
        link: &mut Link,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        let message = match link.pop() {
            Some(Freight::Message(message)) => message,
            Some(Freight::Command(encoded)) => return self.decode_bytes(&encoded, &mut 0, sink),
            None => return Ok(()),
        };
        if !message.is_single() {
            self.parts.extend(message.into_frames());
            return self.finish_parts(sink);
        }
        if sink.single(message.body())? {
            self.push(message);
        }
        Ok(())
    }

    fn finish_parts(&mut self, sink: &mut impl Sink) -> Result<(), DisconnectReason> {
        let message = sink.message(&mut self.parts);
        self.parts.clear();
        let is_claimed = self.claim != 0 && self.claimed.is_none();
        match message? {
            Some(message) if is_claimed => self.claimed = Some(message),
            Some(message) => self.push(message),
            None if is_claimed => self.claim = 0,
            None => {}
        }
        Ok(())
    }

    /// Decodes the kept pieces, as far as there is room.
    pub(crate) fn refill(
        &mut self,
        mut pool: Buffers<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        while !self.is_full() {
            let Some(piece) = self.pieces.pop_front() else { break };
            let mut at = self.at;
            let (len, decoded) = match &piece {
                Piece::Chunk(chunk) => {
                    (chunk.len(), self.decode_chunk(&pool, chunk, &mut at, sink))
                }
                Piece::Copied(bytes) => (bytes.len(), self.decode_bytes(bytes, &mut at, sink)),
            };
            if decoded.is_ok() && at < len {
                self.keep(piece, at);
                break;
            }
            (self.at, self.is_plain) = (0, false);
            if let Piece::Chunk(chunk) = piece {
                pool.release(chunk);
            }
            decoded?;
        }
        Ok(())
    }

    #[inline]
    fn decode_chunk(
        &mut self,
        pool: &Pool,
        chunk: &Chunk,
        at: &mut usize,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        self.decode(&Leased { pool, chunk }, at, sink)
    }

    pub(crate) fn decode_bytes(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        self.decode(&Copied(bytes), at, sink)
    }

    /// Decodes from `*at` until the bytes end or there is no room for another message.
    #[inline]
    fn decode(
        &mut self,
        source: &impl Source,
        at: &mut usize,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        let bytes = source.bytes();
        if self.assembly.is_some() && !self.is_full() {
            self.assemble(bytes, at, sink)?;
        }
        while *at < bytes.len() && !self.is_full() {
            match self.decoder.next(bytes, at)? {
                Step::Frame { flags, body } => {
                    if self.direct_frames > 0 {
                        self.direct_frames -= 1;
                    }
                    if flags.command() {
                        sink.command(&bytes[body])?;
                    } else if self.parts.is_empty() && !flags.more() {
                        if sink.single(&bytes[body.clone()])? {
                            let put = |frame: &mut Frame| source.put(body.clone(), frame);
                            self.push(Message::received(body.len(), put));
                        }
                    } else {
                        self.deliver(source.frame(body), flags.more(), sink)?;
                    }
                }
                Step::Partial { flags, body_bytes, .. }
                    if flags.command() && body_bytes > COMMAND_BYTES_MAX =>
                {
                    let (announced, max) = (body_bytes, COMMAND_BYTES_MAX);
                    return Err(Violation::FrameTooLarge { announced, max }.into());
                }
                Step::Partial { flags, body_bytes, have } => {
                    self.begin_assembly(flags, body_bytes, &bytes[have]);
                }
                Step::Starved => break,
            }
        }
        Ok(())
    }

    #[cold]
    fn begin_assembly(&mut self, flags: FrameFlags, body_bytes: u64, have: &[u8]) {
        let is_skipped = self.is_abandoned() && !flags.command();
        let rest = body_bytes - have.len() as u64;
        let expected = if is_skipped || is_beginning(have.len(), rest) { 0 } else { body_bytes };
        let mut body = SharedMut::with_expected(usize::try_from(expected).unwrap_or(usize::MAX));
        if !is_skipped {
            body.extend_at(Site::Assembly, have);
        }
        self.note_unfinished(body_bytes);
        self.assembly = Some(Assembly {
            flags,
            body,
            rest,
            bytes: body_bytes,
            asked: 0,
            is_held: false,
            is_claimed: false,
            is_owned: false,
            is_skipped,
        });
    }

    /// Adds the bytes that belong to the unfinished body; delivers the frame when the body is complete.
    fn assemble(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        let Some(assembly) = &mut self.assembly else { return Ok(()) };
        let available = (bytes.len() - *at) as u64;
        let take = available.min(assembly.rest) as usize;
        if !assembly.is_skipped {
            assembly.body.extend_at(Site::Assembly, &bytes[*at..*at + take]);
        }
        assembly.rest -= take as u64;
        *at += take;
        self.finish_assembly(sink)
    }

    pub(crate) fn finish_assembly(&mut self, sink: &mut impl Sink) -> Result<(), DisconnectReason> {
        let is_whole = |assembly: &mut Assembly| assembly.rest == 0 && !assembly.is_claimed;
        let Some(assembly) = self.assembly.take_if(is_whole) else { return Ok(()) };
        if assembly.is_skipped {
            return self.stream_frame(None, assembly.bytes, assembly.flags.more(), sink);
        }
        let body = assembly.body.freeze();
        if assembly.flags.command() {
            return sink.command(&body);
        }
        let frame = if body.len() <= INLINE_BYTES_MAX {
            Frame::copy_at(Site::Assembly, &body)
        } else {
            Frame(Body::Shared(body))
        };
        self.deliver(frame, assembly.flags.more(), sink)
    }

    pub(crate) fn deliver(
        &mut self,
        frame: Frame,
        more: bool,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        if self.parts.is_empty() && !more {
            if sink.single(frame.bytes())? {
                self.push(Message::single(frame));
            }
            return Ok(());
        }
        if self.is_streaming() {
            let bytes = frame.len() as u64;
            return self.stream_frame(Some(frame), bytes, more, sink);
        }
        if self.parts.len() as u64 >= u64::from(self.frames_max) {
            return Err(DisconnectReason::TooManyFrames { max: self.frames_max });
        }
        self.parts.push(frame);
        if more { Ok(()) } else { self.finish_parts(sink) }
    }

    #[inline]
    fn push(&mut self, message: Message) {
        self.weigh(&message);
        self.ready.push_back(message);
    }

    #[inline]
    pub(crate) fn weigh(&mut self, message: &Message) {
        if message.len() >= WEIGHED_BYTES_MIN {
            self.ready_bytes += message.len() as u64;
        }
    }
}
