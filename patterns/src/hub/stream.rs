//! Messages that are taken as they arrive, frame by frame.

use std::collections::VecDeque;

use zring_engine::{Shard, SharedMut};

use super::{
    Hub,
    claim::{Claim, Places},
    inbound::{Inbound, Sink},
    into::Pull,
    socket::{Pattern, SocketCore},
};
use crate::{
    error::{Error, Refusal},
    frame::{Frame, FrameBuf},
    message::Message,
    monitor::DisconnectReason,
};

/// The frames of a peer's message that have come and were not taken.
///
/// While the message is under way an empty frame stands in the peer's list of parts, for what looks there to see that
/// a message has begun.
#[derive(Debug, Default)]
pub(super) struct Streamed {
    /// Each with whether others follow; `None` for one that was skipped.
    frames: VecDeque<(Option<Frame>, bool)>,
    /// The last frame has come.
    pub(super) is_whole: bool,
    /// Nobody takes what is still to come.
    is_abandoned: bool,
    /// How many frames and bytes have come so far.
    count: u32,
    bytes: u64,
}

/// Which message a caller takes as it arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) peer: u32,
    connection: u64,
}

/// What begins.
pub(crate) enum Begun {
    /// A message that is there whole.
    Whole(Message),
    Stream(Stream),
}

/// The next frame.
pub(crate) enum Next {
    /// It is there, and whether others follow.
    Frame(Frame, bool),
    /// A large one that has begun: how long it is, and whether others follow.
    Header(u64, bool),
    /// There is none: the last one was skipped.
    End,
}

impl Inbound {
    /// Whether a caller takes a message as it arrives.
    pub(crate) fn is_streamed(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether the message that is under way is taken as it arrives.
    pub(super) fn is_streaming(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.is_whole)
    }

    /// Whether nobody takes what is still to come of the message that is under way.
    pub(super) fn is_abandoned(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.is_abandoned)
    }

    /// Sets the message under way aside for one caller. The first frames are not the user's: they come back.
    fn begin_stream(&mut self, hidden: usize) -> Vec<Frame> {
        let mut parts = std::mem::take(&mut self.parts);
        let frames: VecDeque<_> = parts.drain(hidden..).map(|part| (Some(part), true)).collect();
        let bytes = frames.iter().flat_map(|(frame, _)| frame).map(|it| it.len() as u64).sum();
        self.ready_bytes += bytes;
        let count = frames.len() as u32;
        let stream = Streamed { frames, count, bytes, ..Streamed::default() };
        self.stream = Some(Box::new(stream));
        self.parts.push(Frame::new());
        parts
    }

    /// One more frame of it has come.
    pub(super) fn stream_frame(
        &mut self,
        frame: Option<Frame>,
        bytes: u64,
        more: bool,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if stream.count >= self.frames_max {
            return Err(DisconnectReason::TooManyFrames { max: self.frames_max });
        }
        stream.count += 1;
        stream.bytes += bytes;
        if !stream.is_abandoned {
            self.ready_bytes += frame.as_ref().map_or(0, |frame| frame.len() as u64);
            stream.frames.push_back((frame, more));
        }
        if !more {
            stream.is_whole = true;
            sink.streamed(stream.bytes);
            self.parts.clear();
            self.stream.take_if(|stream| stream.is_abandoned);
        }
        Ok(())
    }

    /// Whether what is undecoded is to be looked at for the next frame.
    fn wants_refill(&self) -> bool {
        self.has_undecoded() && self.stream.as_ref().is_some_and(|it| it.frames.is_empty())
    }

    /// The next frame of it, if it is there.
    fn next_streamed(&mut self) -> Option<(Option<Frame>, bool)> {
        let stream = self.stream.as_mut()?;
        let (frame, more) = stream.frames.pop_front()?;
        self.ready_bytes -= frame.as_ref().map_or(0, |frame| frame.len() as u64);
        if stream.is_whole && stream.frames.is_empty() {
            self.stream = None;
        }
        Some((frame, more))
    }

    /// Whether the frame that was seen last, when it had only begun, has come whole since: what is under way is another.
    fn has_come(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.frames.is_empty())
    }

    /// The frame that was seen last is not wanted, whether it is under way or has come.
    fn skip_frame(&mut self) {
        match self.stream.as_mut().and_then(|stream| stream.frames.front_mut()) {
            Some((frame, _)) => {
                self.ready_bytes -= frame.take().map_or(0, |frame| frame.len() as u64);
            }
            None => self.skip_body(),
        }
    }

    /// What is left of it is dropped, now and as it comes.
    fn abandon_stream(&mut self) {
        while self.next_streamed().is_some() {}
        let Some(stream) = &mut self.stream else { return };
        stream.is_abandoned = true;
        self.skip_body();
    }

    /// What is under way of a body, and what is to come of it, is dropped.
    fn skip_body(&mut self) {
        if let Some(assembly) = self.assembly.as_mut().filter(|it| !it.flags.command()) {
            assembly.is_skipped = true;
            (assembly.is_claimed, assembly.is_held) = (false, false);
            self.claim = 0;
            assembly.body = SharedMut::with_expected(0);
        }
    }

    /// Claims the body under way for a caller who takes it piece by piece: what there is of it.
    fn claim_pieces(&mut self, number: u64) -> SharedMut {
        let Some(assembly) = &mut self.assembly else { return SharedMut::with_expected(0) };
        (assembly.is_claimed, assembly.is_held) = (true, false);
        self.claim = number;
        std::mem::replace(&mut assembly.body, SharedMut::with_expected(0))
    }
}

impl SocketCore {
    /// How many frames of a message under way are in front of the user's, if it is known to be for the user and one of
    /// his has begun.
    fn streamable(&self, peer: u32, inbound: &Inbound) -> Option<usize> {
        if inbound.is_streamed() || inbound.claim_number() != 0 || !inbound.is_inside_message() {
            return None;
        }
        let parts = inbound.parts();
        let hidden = match &self.pattern {
            Pattern::Sub(subscriptions) => {
                let topic = parts.first().map_or_else(|| inbound.held_beginning(), Frame::bytes);
                subscriptions.matches(topic).then_some(0)?
            }
            _ => self.hidden_frames(peer, inbound)?,
        };
        (parts.len() > hidden || inbound.held_bytes().is_some()).then_some(hidden)
    }
}

impl Hub {
    /// Begins to take a message as it arrives: one that is whole, or else one that has begun.
    pub(crate) fn begin_stream(
        &mut self,
        shard: &mut Shard,
        socket: u32,
    ) -> Result<Begun, Refusal> {
        if let Some(rest) = self.take_rest(socket) {
            return Ok(Begun::Whole(rest));
        }
        self.check_receive(socket)?;
        let core = &mut self.sockets[socket as usize];
        core.set_holds(core.shown.is_none());
        if let Some(key) = self.find_readable(shard, socket) {
            return Ok(Begun::Whole(self.take_message(socket, key)));
        }
        let Some((key, hidden)) = self.find_streamable(shard, socket) else {
            return Err(Refusal::WouldBlock);
        };
        let peer = &mut self.peers[key as usize];
        let mut envelope = peer.inbound.begin_stream(hidden);
        let connection = peer.stats.connection;
        self.sockets[socket as usize].held.retain(|&held| held != key);
        // The delimiter is not part of the way back.
        envelope.pop();
        let mut begun = Message::new();
        begun.add_envelope(envelope.into_iter());
        self.accept(socket, key, begun);
        Ok(Begun::Stream(Stream { peer: key, connection }))
    }

    /// A peer whose message has begun. What nobody may take yet goes on into memory of its own.
    fn find_streamable(&mut self, shard: &mut Shard, socket: u32) -> Option<(u32, usize)> {
        let core = &self.sockets[socket as usize];
        let of_ours = self.peers.iter().filter(|(_, peer)| peer.socket == socket);
        let mut found = of_ours.filter(|(_, peer)| peer.is_ready()).filter_map(|(key, peer)| {
            let hidden = core.streamable(key as u32, &peer.inbound)?;
            Some((key as u32, hidden))
        });
        if let Some(found) = found.next() {
            return Some(found);
        }
        for key in std::mem::take(&mut self.sockets[socket as usize].held) {
            self.release_one(shard, socket, key);
        }
        None
    }

    /// The next frame of a message that is taken as it arrives.
    pub(crate) fn next_streamed(
        &mut self,
        shard: &mut Shard,
        stream: Stream,
    ) -> Result<Next, Refusal> {
        if self.streamed(stream)?.wants_refill() {
            self.refill(shard, stream.peer);
        }
        let inbound = self.streamed(stream)?;
        while let Some((frame, more)) = inbound.next_streamed() {
            match frame {
                Some(frame) => return Ok(Next::Frame(frame, more)),
                None if more => {}
                None => return Ok(Next::End),
            }
        }
        let (bytes, more) = inbound.under_way().ok_or(Refusal::WouldBlock)?;
        Ok(Next::Header(bytes, more))
    }

    /// The large frame that has begun is to be received whole.
    pub(crate) fn own_streamed(&mut self, shard: &mut Shard, stream: Stream) {
        if let Ok(true) = self.is_streamed_held(stream) {
            self.peers[stream.peer as usize].inbound.own_body();
            self.arm_anew(shard, stream.peer);
        }
    }

    /// The large frame that has begun is not wanted.
    pub(crate) fn skip_streamed(&mut self, shard: &mut Shard, stream: Stream) {
        if let Ok(inbound) = self.streamed(stream) {
            inbound.skip_frame();
            self.arm_anew(shard, stream.peer);
        }
    }

    /// Nobody takes what is left of the message.
    pub(crate) fn abandon_stream(&mut self, shard: &mut Shard, stream: Stream) {
        if let Ok(inbound) = self.streamed(stream) {
            inbound.abandon_stream();
            self.arm_anew(shard, stream.peer);
            self.remove_if_done(shard, stream.peer);
        }
    }

    /// Claims the large frame that has begun, for `frame`.
    pub(crate) fn claim_streamed(
        &mut self,
        stream: Stream,
        frame: &mut FrameBuf<'_>,
    ) -> Result<Claim, Refusal> {
        self.claims += 1;
        let number = self.claims;
        self.streamed(stream)?.claim(number, frame);
        let Stream { peer, connection } = stream;
        let body = Some((0, frame.len()));
        Ok(Claim { peer, connection, number, hidden: 0, body, placed: Places::default() })
    }

    /// Claims the large frame that has begun, to be taken in pieces: the first one.
    pub(crate) fn claim_pieces(&mut self, stream: Stream) -> Result<SharedMut, Refusal> {
        self.claims += 1;
        let number = self.claims;
        Ok(self.streamed(stream)?.claim_pieces(number))
    }

    /// Receives more of a claimed frame. Returns how many bytes, and whether that was all of it.
    pub(crate) fn pull_streamed(
        &mut self,
        shard: &mut Shard,
        stream: Stream,
        memory: &mut [u8],
    ) -> Result<(usize, bool), Refusal> {
        self.streamed(stream)?;
        let (bytes, pulled) = self.pull(shard, stream.peer, memory);
        match pulled {
            Pull::Whole => {
                self.finish_streamed(shard, stream.peer);
                Ok((bytes, true))
            }
            Pull::Lost => Err(Error::PeerLost.into()),
            Pull::Waits if bytes == 0 => Err(Refusal::WouldBlock),
            Pull::Waits | Pull::Full => Ok((bytes, false)),
        }
    }

    /// There is more of a claimed frame, but others have a turn before.
    pub(crate) fn go_on<T>(&mut self, shard: &mut Shard, stream: Stream) -> Result<T, Refusal> {
        if let Some(conn) = self.peers[stream.peer as usize].conn {
            self.await_claimed(shard, conn);
        }
        Err(Refusal::WouldBlock)
    }

    /// Whether the frame that has begun waits for somebody who says where it is to go; otherwise it is on its way into
    /// memory of its own, or there already.
    pub(crate) fn is_streamed_held(&mut self, stream: Stream) -> Result<bool, Refusal> {
        let inbound = self.streamed(stream)?;
        if inbound.has_come() {
            return Ok(false);
        }
        if inbound.held_bytes().is_some() {
            return Ok(true);
        }
        if inbound.is_about_to_be_held() { Err(Refusal::WouldBlock) } else { Ok(false) }
    }

    /// A claimed frame is whole, and was taken.
    fn finish_streamed(&mut self, shard: &mut Shard, key: u32) {
        self.decode_direct(shard, key, |inbound, delivery| {
            let decoded = inbound.finish_taken(delivery);
            // What stands for it is not to be taken again.
            inbound.next_streamed();
            ((), decoded)
        });
    }

    /// A caller gives a claim on a frame up before it is whole: it goes on into memory of its own.
    pub(crate) fn unclaim_streamed(
        &mut self,
        shard: &mut Shard,
        claim: &Claim,
        frame: FrameBuf<'_>,
    ) {
        if self.is_valid(claim) {
            self.peers[claim.peer as usize].inbound.unclaim(claim, &[frame]);
            self.arm_anew(shard, claim.peer);
        }
    }

    /// The peer's side of it, unless the peer was lost.
    fn streamed(&mut self, stream: Stream) -> Result<&mut Inbound, Refusal> {
        let peer = self.peers.get_mut(stream.peer as usize);
        let peer = peer.filter(|peer| peer.stats.connection == stream.connection);
        let is_lost = |inbound: &Inbound| !inbound.is_streamed();
        match peer {
            Some(peer)
                if !is_lost(&peer.inbound) && (peer.is_ready() || peer.inbound.is_set_aside()) =>
            {
                Ok(&mut peer.inbound)
            }
            _ => Err(Error::PeerLost.into()),
        }
    }
}
