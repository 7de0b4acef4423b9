//! Taking a message while it arrives.

use std::{collections::VecDeque, fmt, fs::File, io};

use zring_engine::{
    copies::{Site, note},
    sys::file::write_all_at,
};

use super::{Home, Received, Socket};
use crate::{
    error::{Error, Refusal},
    frame::{Frame, FrameBuf},
    hub::{
        SocketKey,
        receive::stream::{Begun, Next, StreamId},
    },
    reactor::Reactor,
    shares::Share,
};

/// How many bytes are received at a time on their way into a file.
const PIECE_BYTES: usize = 256 << 10;

/// A message that is taken frame by frame while it arrives; see [`Socket::recv_streaming`]. Dropping this skips the
/// rest of the message.
pub struct Incoming<'a, C: Home> {
    socket: &'a Socket<C>,
    share: usize,
    source: Source,
    /// The frame that was given out last, until it is taken whole.
    frame: Option<Untaken>,
}

enum Source {
    /// The message had arrived whole: the frames that are left.
    Whole(VecDeque<Frame>),
    /// The message is arriving from a peer.
    Peer(StreamId),
    /// No frame is left.
    Ended,
}

/// A frame that was given out and not taken whole yet.
enum Untaken {
    Frame(Frame),
    /// A large body under way.
    Large {
        bytes: u64,
    },
    /// A body taken piece by piece: `taken` bytes so far; `piece` has been received and not taken.
    InPieces {
        taken: u64,
        piece: Vec<u8>,
        is_whole: bool,
    },
}

/// One frame of an [`Incoming`] message. Its length is known; its body may still be under way. Bytes not taken when the
/// next frame is asked for are skipped.
pub struct IncomingFrame<'i, 'a, C: Home> {
    incoming: &'i mut Incoming<'a, C>,
    len: u64,
    more: bool,
}

/// The result of [`Socket::recv_to_file`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceivedFile {
    /// The length of the frame's body in bytes; all of it is in the file.
    pub len: u64,
    /// More frames of the same message follow ([`Socket::more`]).
    pub more: bool,
}

impl<C: Home> Socket<C> {
    /// Begins to take a message while it arrives, waiting up to `rcvtimeo` for its beginning. A message that has
    /// arrived whole comes before one that has only begun. The frames are given out as their headers arrive. Each can
    /// be taken, received straight into memory or a file, or skipped, whatever its size.
    ///
    /// While the message is under way, other messages of the same peer wait behind it. If the peer is lost meanwhile,
    /// calls return [`Error::PeerLost`]; any other way to receive would not show such a message at all.
    ///
    /// ```
    /// # use zring::{SocketType, inline::Context};
    /// # let context = Context::new()?;
    /// # let (push, pull) = (context.socket(SocketType::Push)?, context.socket(SocketType::Pull)?);
    /// # pull.bind("tcp://127.0.0.1:*")?;
    /// # push.connect(&pull.last_endpoint().unwrap())?;
    /// # push.send_multipart([&b"name"[..], b"not wanted", &[7; 100_000]])?;
    /// let mut message = pull.recv_streaming()?;
    /// let name = message.next_frame()?.expect("a message has a frame").take()?;
    /// assert_eq!(name.bytes(), b"name");
    /// message.next_frame()?.expect("a second one").skip();
    /// let mut body = message.next_frame()?.expect("a third one");
    /// let mut memory = vec![0; body.len() as usize];
    /// body.read_into(&mut memory)?;
    /// assert!(message.next_frame()?.is_none());
    /// # Ok::<(), zring::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Socket::recv`].
    pub fn recv_streaming(&self) -> Result<Incoming<'_, C>, Error> {
        let mut share = 0;
        let begun = self.wait_for(self.rcvtimeo(), |reactor| match (reactor, &self.shares) {
            (Some(reactor), _) => begin(reactor, self.key()),
            (None, Some(shares)) => self.attempt_take(shares, |reactor, key, number| {
                share = number;
                begin(reactor, key)
            }),
            (None, None) => begin(&mut self.reactor(), self.key()),
        })?;
        let source = match begun {
            Begun::Whole(message) => Source::Whole(message.into_frames().into()),
            Begun::Stream(stream) => Source::Peer(stream),
        };
        Ok(Incoming { socket: self, share, source, frame: None })
    }

    /// Receives the first frame of the next message into a file, beginning at `offset`, waiting up to `rcvtimeo`
    /// whenever nothing comes. Frames behind it stay queued, as after [`Socket::recv_into`]. However long the body is,
    /// at most 256 KiB of it are in memory. On Windows the file's cursor moves.
    ///
    /// # Errors
    /// As [`Socket::recv`]; [`Error::PeerLost`]; [`Error::Io`] when the file cannot be written. The file may then hold
    /// a part of the body, and the rest of the message is skipped.
    pub fn recv_to_file(&self, file: &File, offset: u64) -> Result<ReceivedFile, Error> {
        let mut message = self.recv_streaming()?;
        let mut frame = message.next_frame()?.ok_or(Error::PeerLost)?;
        let (len, more) = (frame.len(), frame.more());
        frame.write_to(file, offset)?;
        if more {
            let mut rest = Vec::new();
            while let Some(mut frame) = message.next_frame()? {
                rest.push(frame.take()?);
            }
            self.keep_rest(message.share, rest);
        }
        Ok(ReceivedFile { len, more })
    }

    /// Keeps these frames for the next receive.
    fn keep_rest(&self, share: usize, rest: Vec<Frame>) {
        let Share { place, key } = &self.shares()[share];
        if !rest.is_empty() {
            self.context.reactor(place).hub.keep_rest(*key, rest);
            if let Some(shares) = &self.shares {
                shares.note_reading(Some(share));
            }
        }
    }
}

fn begin(reactor: &mut Reactor, key: SocketKey) -> Result<Begun, Refusal> {
    reactor.check_refusal()?;
    let Reactor { shard, hub, .. } = reactor;
    let begun = hub.begin_stream(shard, key);
    if matches!(begun, Err(Refusal::WouldBlock | Refusal::Failed(_))) {
        hub.note_blocked(key);
    }
    begun
}

impl<'a, C: Home> Incoming<'a, C> {
    /// The next frame, waiting up to `rcvtimeo` for its header; `None` behind the last one. Skips the rest of the frame
    /// before.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the time is up (the message stays as it is), [`Error::PeerLost`], and as
    /// [`Socket::recv`].
    pub fn next_frame(&mut self) -> Result<Option<IncomingFrame<'_, 'a, C>>, Error> {
        self.skip();
        let (frame, len, more) = match &mut self.source {
            Source::Ended => return Ok(None),
            Source::Whole(frames) => {
                let Some(frame) = frames.pop_front() else { return Ok(None) };
                let len = frame.len() as u64;
                (Untaken::Frame(frame), len, !frames.is_empty())
            }
            Source::Peer(stream) => {
                let stream = *stream;
                match self
                    .attempt(|reactor| reactor.hub.next_streamed(&mut reactor.shard, stream))?
                {
                    Next::Frame(frame, more) => {
                        self.end_unless(more);
                        let len = frame.len() as u64;
                        (Untaken::Frame(frame), len, more)
                    }
                    Next::Header(bytes, more) => (Untaken::Large { bytes }, bytes, more),
                    Next::End => {
                        self.end_unless(false);
                        return Ok(None);
                    }
                }
            }
        };
        self.frame = Some(frame);
        Ok(Some(IncomingFrame { incoming: self, len, more }))
    }

    /// Ends the message unless more frames follow.
    fn end_unless(&mut self, more: bool) {
        if !more {
            self.source = Source::Ended;
        }
    }

    /// Repeats an attempt at the message's share until it succeeds, fails, or `rcvtimeo` is over.
    fn attempt<T>(
        &self,
        mut attempt: impl FnMut(&mut Reactor) -> Result<T, Refusal>,
    ) -> Result<T, Error> {
        let Share { place, key } = &self.socket.shares()[self.share];
        let timeout = self.socket.rcvtimeo();
        let done = self.socket.context.wait_for(place, *key, timeout, |reactor| {
            reactor.check_refusal()?;
            attempt(reactor)
        });
        Ok(done?)
    }

    /// Runs `action` on the reactor of the message's share, without waiting.
    fn act(&self, action: impl FnOnce(&mut Reactor)) {
        let mut reactor = self.socket.context.reactor(&self.socket.shares()[self.share].place);
        action(&mut reactor);
        // If the kernel refuses, the next call returns the error.
        let _ = C::settle(&mut reactor);
    }

    fn stream(&self) -> Option<StreamId> {
        match self.source {
            Source::Peer(stream) => Some(stream),
            _ => None,
        }
    }

    /// Skips the rest of the frame that was given out last.
    fn skip(&mut self) {
        let is_under_way = match self.frame.take() {
            Some(Untaken::Large { .. }) => true,
            Some(Untaken::InPieces { is_whole, .. }) => !is_whole,
            Some(Untaken::Frame(_)) | None => false,
        };
        if let Some(stream) = self.stream().filter(|_| is_under_way) {
            self.act(|reactor| reactor.hub.skip_streamed(&mut reactor.shard, stream));
        }
    }

    /// Takes a large frame, once it is whole in memory of its own.
    fn take_large(&mut self, stream: StreamId) -> Result<Frame, Error> {
        let (frame, more) = self.attempt(|reactor| {
            reactor.hub.own_streamed(&mut reactor.shard, stream);
            match reactor.hub.next_streamed(&mut reactor.shard, stream)? {
                Next::Frame(frame, more) => Ok((frame, more)),
                Next::Header(..) | Next::End => Err(Refusal::WouldBlock),
            }
        })?;
        self.frame = None;
        self.end_unless(more);
        Ok(frame)
    }

    /// Receives a large frame straight into memory that has room for it.
    fn place_large(&mut self, stream: StreamId, buffer: &mut [u8]) -> Result<(), Error> {
        let mut frame = FrameBuf::new(buffer);
        let mut claim = None;
        let placed = self.attempt(|reactor| {
            if claim.is_none() {
                claim = Some(reactor.hub.claim_streamed(stream, &mut frame)?);
            }
            let room = frame.rest_mut();
            let (bytes, is_whole) = reactor.hub.pull_streamed(&mut reactor.shard, stream, room)?;
            frame.advance(bytes);
            if is_whole { Ok(()) } else { reactor.hub.go_on(&mut reactor.shard, stream) }
        });
        if placed.is_err()
            && let Some(claim) = claim
        {
            self.act(|reactor| reactor.hub.unclaim_streamed(&mut reactor.shard, &claim, frame));
        }
        placed
    }

    /// Receives more of a large frame. Returns how many bytes of `memory` were filled, and whether the frame is
    /// complete.
    fn pull(&self, stream: StreamId, memory: &mut [u8]) -> Result<(usize, bool), Error> {
        self.attempt(|reactor| reactor.hub.pull_streamed(&mut reactor.shard, stream, memory))
    }
}

impl<C: Home> Drop for Incoming<'_, C> {
    fn drop(&mut self) {
        if let Some(stream) = self.stream() {
            self.act(|reactor| reactor.hub.abandon_stream(&mut reactor.shard, stream));
        }
    }
}

impl<C: Home> IncomingFrame<'_, '_, C> {
    /// The length of the body in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the body is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether another frame follows.
    #[must_use]
    pub fn more(&self) -> bool {
        self.more
    }

    /// Takes the frame, waiting up to `rcvtimeo` for all of it.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the time is up (the bytes that have arrived are kept, and the frame may be taken
    /// later), [`Error::PeerLost`], and [`Error::Io`] with [`io::ErrorKind::InvalidInput`] when the frame was taken
    /// before.
    pub fn take(&mut self) -> Result<Frame, Error> {
        match (self.incoming.frame.take(), self.incoming.stream()) {
            (Some(Untaken::Frame(frame)), _) => Ok(frame),
            (large @ Some(Untaken::Large { .. }), Some(stream)) => {
                self.incoming.frame = large;
                self.incoming.take_large(stream)
            }
            (other, _) => {
                self.incoming.frame = other;
                Err(taken())
            }
        }
    }

    /// Receives the body into the caller's memory, waiting up to `rcvtimeo` for all of it. The kernel receives a large
    /// body that fits straight into `buffer`. Bytes that do not fit are lost.
    ///
    /// # Errors
    /// As [`IncomingFrame::take`].
    pub fn read_into(&mut self, buffer: &mut [u8]) -> Result<Received, Error> {
        if let (Some(Untaken::Large { bytes }), Some(stream)) =
            (&self.incoming.frame, self.incoming.stream())
            && *bytes <= buffer.len() as u64
            && self.is_held(stream)?
        {
            let len = self.len as usize;
            self.incoming.place_large(stream, &mut buffer[..len])?;
            self.incoming.frame = None;
            self.incoming.end_unless(self.more);
            return Ok(Received { len, is_truncated: false, more: self.more });
        }
        let frame = self.take()?;
        let mut buffer = FrameBuf::new(buffer);
        buffer.take(frame.bytes());
        Ok(Received::new(&buffer, self.more))
    }

    /// Receives the body into a file, byte `k` of it at `offset + k`, waiting up to `rcvtimeo` whenever nothing comes.
    /// At most 256 KiB of a large body are in memory.
    ///
    /// # Errors
    /// As [`IncomingFrame::take`], and [`Error::Io`] when the file cannot be written. Received bytes are kept, so
    /// another call with the same file and offset goes on where this one stopped.
    pub fn write_to(&mut self, file: &File, offset: u64) -> Result<(), Error> {
        let mut memory = Vec::new();
        loop {
            match &mut self.incoming.frame {
                None => return Err(taken()),
                Some(Untaken::Large { .. }) => self.take_in_pieces()?,
                Some(Untaken::Frame(frame)) => {
                    write_all_at(file, frame.bytes(), offset + self.len - frame.len() as u64)?;
                    self.incoming.frame = None;
                    return Ok(());
                }
                Some(Untaken::InPieces { taken, piece, is_whole }) => {
                    write_all_at(file, piece, offset + *taken)?;
                    *taken += piece.len() as u64;
                    piece.clear();
                    if *is_whole {
                        self.incoming.frame = None;
                        return Ok(());
                    }
                    let at = offset + *taken;
                    memory.resize(PIECE_BYTES, 0);
                    let bytes = self.pull(&mut memory)?;
                    let written = write_all_at(file, &memory[..bytes], at);
                    if let Some(Untaken::InPieces { taken, piece, .. }) = &mut self.incoming.frame {
                        match written {
                            Ok(()) => *taken += bytes as u64,
                            Err(_) => piece.extend_from_slice(&memory[..bytes]),
                        }
                    }
                    written?;
                }
            }
        }
    }

    /// Receives a part of the body: as much as has arrived and fits. Waits up to `rcvtimeo` if nothing has arrived.
    /// Returns 0 when all of the body was taken.
    ///
    /// # Errors
    /// As [`IncomingFrame::take`].
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if let Some(Untaken::Large { .. }) = self.incoming.frame {
            self.take_in_pieces()?;
        }
        match &mut self.incoming.frame {
            Some(Untaken::Frame(frame)) => {
                let bytes = frame.len().min(buffer.len());
                note(Site::Into, bytes);
                buffer[..bytes].copy_from_slice(&frame.bytes()[..bytes]);
                *frame = frame.slice(bytes..);
                Ok(bytes)
            }
            Some(Untaken::InPieces { taken, piece, is_whole })
                if *is_whole || !piece.is_empty() =>
            {
                let bytes = piece.len().min(buffer.len());
                note(Site::Into, bytes);
                buffer[..bytes].copy_from_slice(&piece[..bytes]);
                piece.drain(..bytes);
                *taken += bytes as u64;
                Ok(bytes)
            }
            Some(Untaken::InPieces { .. }) if buffer.is_empty() => Ok(0),
            Some(_) => {
                let bytes = self.pull(buffer)?;
                if let Some(Untaken::InPieces { taken, .. }) = &mut self.incoming.frame {
                    *taken += bytes as u64;
                }
                Ok(bytes)
            }
            None => Err(taken()),
        }
    }

    /// Switches to taking a large body piece by piece. If the body is already on its way into memory of its own, waits
    /// for all of it.
    fn take_in_pieces(&mut self) -> Result<(), Error> {
        let held = match self.incoming.stream() {
            Some(stream) => self.is_held(stream)?.then_some(stream),
            None => None,
        };
        self.incoming.frame = Some(match held {
            Some(stream) => {
                let first = self.incoming.attempt(|reactor| reactor.hub.claim_pieces(stream))?;
                note(Site::Assembly, first.len());
                Untaken::InPieces { taken: 0, piece: first.bytes().to_vec(), is_whole: false }
            }
            None => Untaken::Frame(self.take()?),
        });
        Ok(())
    }

    /// Receives more of a body that is taken piece by piece.
    fn pull(&mut self, memory: &mut [u8]) -> Result<usize, Error> {
        let Some(stream) = self.incoming.stream() else { return Err(taken()) };
        let (bytes, is_last) = self.incoming.pull(stream, memory)?;
        if let Some(Untaken::InPieces { is_whole, .. }) = &mut self.incoming.frame {
            *is_whole = is_last;
        }
        if is_last {
            self.incoming.end_unless(self.more);
        }
        Ok(bytes)
    }

    /// Whether the body is held until a caller says where to receive it. It is not held if an earlier call timed out,
    /// or if another call has begun to receive it.
    fn is_held(&self, stream: StreamId) -> Result<bool, Error> {
        self.incoming.attempt(|reactor| reactor.hub.is_streamed_held(stream))
    }

    /// Skips the frame. The bytes of a large frame are dropped as they come.
    pub fn skip(self) {
        self.incoming.skip();
    }
}

fn taken() -> Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the frame was taken before").into()
}

impl<C: Home> fmt::Debug for Incoming<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("share", &self.share).finish_non_exhaustive()
    }
}

impl<C: Home> fmt::Debug for IncomingFrame<'_, '_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingFrame")
            .field("len", &self.len)
            .field("more", &self.more)
            .finish_non_exhaustive()
    }
}
