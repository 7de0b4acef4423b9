//! Receiving into the caller's memory, and frame by frame.

use super::{Home, Socket, attempt_recv};
use crate::{
    error::{Error, Refusal},
    frame::{Frame, FrameBuf},
    hub::{
        SocketKey,
        inbound::claim::{Claim, Places},
    },
    reactor::Reactor,
    shares::{Share, Shares},
};

/// The result of [`Socket::recv_into`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// The full length of the frame's body in bytes, even if the buffer is shorter.
    pub len: usize,
    /// The body was longer than the buffer; the bytes beyond it are lost.
    pub is_truncated: bool,
    /// More frames of the same message follow ([`Socket::more`]).
    pub more: bool,
}

impl Received {
    pub(crate) fn new(frame: &FrameBuf<'_>, more: bool) -> Self {
        Self { len: frame.len(), is_truncated: frame.is_truncated(), more }
    }
}

/// The result of [`Socket::recv_into_vectored`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceivedFrames {
    /// How many frames were received: frame `k` into buffer `k`.
    pub frames: usize,
    /// More frames of the same message follow ([`Socket::more`]).
    pub more: bool,
}

/// A receiving caller's claim on a message under way, if it has one, and the share that the message is in.
#[derive(Debug, Default)]
pub(crate) struct Claimant {
    pub(crate) claim: Option<Claim>,
    share: usize,
}

impl<C: Home> Socket<C> {
    /// Receives one frame into the caller's memory, waiting up to `rcvtimeo`: the next frame of a message that was
    /// begun in this way, or else the first frame of the next message.
    ///
    /// The kernel receives a body of more than 32 KiB that fits straight into `buffer`; a smaller one is copied once.
    /// While the call waits, the beginning of `buffer` is overwritten; its content counts only once the call has
    /// returned `Ok`. A message is given out when all of its frames have arrived. The frames behind the first stay
    /// queued: [`Socket::recv_into`] and [`Socket::recv_frame`] take the next one, [`Socket::recv`] takes all of them,
    /// [`Socket::skip_rest`] drops them. If time runs out, the bytes that have arrived are kept for the next call.
    ///
    /// If something else waits for the same socket ([`Socket::recv`] in another thread, a poller, an event descriptor),
    /// large bodies are first received into memory of their own, and copied from there.
    ///
    /// ```
    /// # use zring::{SocketType, inline::Context};
    /// # let context = Context::new()?;
    /// let (push, pull) = (context.socket(SocketType::Push)?, context.socket(SocketType::Pull)?);
    /// pull.bind("tcp://127.0.0.1:*")?;
    /// push.connect(&pull.last_endpoint().unwrap())?;
    /// push.send_multipart(["head", "body"])?;
    /// let mut buffer = [0; 64];
    /// let head = pull.recv_into(&mut buffer)?;
    /// assert!(&buffer[..head.len] == b"head" && head.more && !head.is_truncated);
    /// let body = pull.recv_into(&mut buffer)?;
    /// assert!(&buffer[..body.len] == b"body" && !body.more);
    /// # Ok::<(), zring::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Socket::recv`].
    pub fn recv_into(&self, buffer: &mut [u8]) -> Result<Received, Error> {
        let frames = &mut [FrameBuf::new(buffer)];
        let more = self.recv_frames(frames, true)?.1;
        Ok(Received::new(&frames[0], more))
    }

    /// As [`Socket::recv_into`], if that is possible without waiting.
    ///
    /// The call takes only a message that has arrived whole, so a large body is copied from memory of its own.
    ///
    /// # Errors
    /// As [`Socket::recv_into`].
    pub fn try_recv_into(&self, buffer: &mut [u8]) -> Result<Received, Error> {
        let frames = &mut [FrameBuf::new(buffer)];
        let more = self.recv_frames(frames, false)?.1;
        Ok(Received::new(&frames[0], more))
    }

    /// Receives one message into the caller's memory, frame `k` into `buffers[k]`, waiting up to `rcvtimeo`. Otherwise
    /// as [`Socket::recv_into`]: frames beyond the last buffer stay queued, and a message that was begun goes on with
    /// its next frame. Buffers without a frame are left empty.
    ///
    /// ```
    /// # use zring::{FrameBuf, SocketType, inline::Context};
    /// # let context = Context::new()?;
    /// # let (publisher, subscriber) = (context.socket(SocketType::Pub)?, context.socket(SocketType::Sub)?);
    /// # publisher.bind("tcp://127.0.0.1:*")?;
    /// # subscriber.connect(&publisher.last_endpoint().unwrap())?;
    /// # subscriber.subscribe("ticks")?;
    /// # publisher.wait_for_subscribers("ticks", 1, None)?;
    /// # publisher.send_multipart([&b"ticks"[..], &[7; 100]])?;
    /// let (mut topic, mut body) = ([0; 16], vec![0; 1 << 20]);
    /// let buffers = &mut [FrameBuf::new(&mut topic), FrameBuf::new(&mut body)];
    /// let received = subscriber.recv_into_vectored(buffers)?;
    /// assert!(received.frames == 2 && !received.more);
    /// assert_eq!((buffers[0].bytes(), buffers[1].len()), (&b"ticks"[..], 100));
    /// # Ok::<(), zring::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Socket::recv`].
    pub fn recv_into_vectored(
        &self,
        buffers: &mut [FrameBuf<'_>],
    ) -> Result<ReceivedFrames, Error> {
        let (frames, more) = self.recv_frames(buffers, true)?;
        Ok(ReceivedFrames { frames, more })
    }

    /// Receives one frame, waiting up to `rcvtimeo`: the next frame of a message that was begun in this way or with
    /// [`Socket::recv_into`], or else the first frame of the next message. [`Socket::more`] says whether another one
    /// follows.
    ///
    /// # Errors
    /// As [`Socket::recv`].
    pub fn recv_frame(&self) -> Result<Frame, Error> {
        Ok(self.wait_for(self.rcvtimeo(), |reactor| match reactor {
            Some(reactor) => attempt_frame(reactor, self.key()),
            None => self.attempt_frame(),
        })?)
    }

    fn attempt_frame(&self) -> Result<Frame, Refusal> {
        match &self.shares {
            Some(shares) => {
                self.attempt_take(shares, |reactor, key, _| attempt_frame(reactor, key))
            }
            None => attempt_frame(&mut self.reactor(), self.key()),
        }
    }

    /// Whether frames are left of a message that was begun with [`Socket::recv_into`] or [`Socket::recv_frame`]
    /// (libzmq's `RCVMORE`). The next receive takes them.
    #[must_use]
    pub fn more(&self) -> bool {
        self.shares()
            .iter()
            .any(|Share { place, key }| self.context.reactor(place).hub.has_more(*key))
    }

    /// Drops the frames left of a message that was begun; returns how many there were.
    #[allow(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn skip_rest(&self) -> usize {
        let mut frames = 0;
        self.each(|reactor, key| {
            frames += reactor.hub.drop_rest(key);
        });
        frames
    }

    fn recv_frames(
        &self,
        frames: &mut [FrameBuf<'_>],
        may_wait: bool,
    ) -> Result<(usize, bool), Error> {
        if !may_wait {
            return match self.attempt_whole(frames) {
                Err(Refusal::WouldBlock) => {
                    self.look()?;
                    Ok(self.attempt_whole(frames)?)
                }
                done => Ok(done?),
            };
        }
        let mut claimant = Claimant::default();
        let received = self
            .wait_for(self.rcvtimeo(), |reactor| self.attempt_into(reactor, frames, &mut claimant));
        if received.is_err() && claimant.claim.is_some() {
            return Ok(self.give_up(frames, &mut claimant)?);
        }
        Ok(received?)
    }

    pub(crate) fn attempt_into(
        &self,
        reactor: Option<&mut Reactor>,
        frames: &mut [FrameBuf<'_>],
        claimant: &mut Claimant,
    ) -> Result<(usize, bool), Refusal> {
        match (reactor, &self.shares) {
            (Some(reactor), _) => attempt_into(reactor, self.key(), frames, &mut claimant.claim),
            (None, Some(shares)) => self.attempt_into_apart(shares, frames, claimant),
            (None, None) => {
                attempt_into(&mut self.reactor(), self.key(), frames, &mut claimant.claim)
            }
        }
    }

    /// Makes the last attempt of a caller that has a claim, and ends the claim.
    pub(crate) fn give_up(
        &self,
        frames: &mut [FrameBuf<'_>],
        claimant: &mut Claimant,
    ) -> Result<(usize, bool), Refusal> {
        let Share { place, key } = &self.shares()[claimant.share];
        let mut reactor = self.context.reactor(place);
        let last = give_up(&mut reactor, *key, frames, &mut claimant.claim);
        C::settle(&mut reactor)?;
        last
    }

    /// Ends the claim of a caller that stops receiving.
    pub(crate) fn let_go(&self, frames: &mut [FrameBuf<'_>], claimant: &mut Claimant) {
        if claimant.claim.is_some() {
            let mut reactor = self.context.reactor(&self.shares()[claimant.share].place);
            let Reactor { shard, hub, .. } = &mut *reactor;
            hub.unclaim(shard, &mut claimant.claim, frames);
            // If the kernel refuses, the next call returns the error.
            let _ = C::settle(&mut reactor);
        }
    }

    /// Takes a message that has arrived whole.
    fn attempt_whole(&self, frames: &mut [FrameBuf<'_>]) -> Result<(usize, bool), Refusal> {
        match &self.shares {
            Some(shares) => {
                self.attempt_take(shares, |reactor, key, _| attempt_whole(reactor, key, frames))
            }
            None => attempt_whole(&mut self.reactor(), self.key(), frames),
        }
    }

    /// Makes one attempt at a socket of several shares. The caller may have a claim at one of them.
    fn attempt_into_apart(
        &self,
        shares: &Shares<C::Place>,
        frames: &mut [FrameBuf<'_>],
        claimant: &mut Claimant,
    ) -> Result<(usize, bool), Refusal> {
        loop {
            let mut is_wanted = false;
            let received = self.attempt_take(shares, |reactor, key, share| {
                if claimant.claim.is_some() && claimant.share != share {
                    is_wanted = is_wanted || reactor.hub.has_whole(&mut reactor.shard, key);
                    return Err(Refusal::WouldBlock);
                }
                claimant.share = share;
                attempt_into(reactor, key, frames, &mut claimant.claim)
            });
            if received.is_ok() || !is_wanted {
                return received;
            }
            // A whole message comes first: give up the claim on the one under way.
            match self.give_up(frames, claimant) {
                Err(Refusal::WouldBlock) => {}
                done => return done,
            }
        }
    }
}

fn attempt_frame(reactor: &mut Reactor, key: SocketKey) -> Result<Frame, Refusal> {
    reactor.check_refusal()?;
    if let Some(frame) = reactor.hub.next_of_rest(key) {
        return Ok(frame);
    }
    let message = attempt_recv(reactor, key, false)?;
    if message.frame_count() == 1 {
        return Ok(message.first().clone());
    }
    let mut frames = message.into_frames().into_iter();
    let first = frames.next().unwrap_or_default();
    reactor.hub.keep_rest(key, frames);
    Ok(first)
}

fn attempt_whole(
    reactor: &mut Reactor,
    key: SocketKey,
    frames: &mut [FrameBuf<'_>],
) -> Result<(usize, bool), Refusal> {
    reactor.check_refusal()?;
    if reactor.hub.has_more(key) {
        return Ok(reactor.hub.scatter_rest(key, frames));
    }
    let message = attempt_recv(reactor, key, false)?;
    Ok(reactor.hub.scatter(key, message, frames, Places::default()))
}

fn attempt_into(
    reactor: &mut Reactor,
    key: SocketKey,
    frames: &mut [FrameBuf<'_>],
    claim: &mut Option<Claim>,
) -> Result<(usize, bool), Refusal> {
    reactor.check_refusal()?;
    let Reactor { shard, hub, .. } = reactor;
    let received = hub.try_recv_into(shard, key, frames, claim);
    if matches!(received, Err(Refusal::WouldBlock | Refusal::Failed(_))) {
        hub.note_blocked(key);
    }
    received
}

/// Makes the last attempt and ends the claim.
fn give_up(
    reactor: &mut Reactor,
    key: SocketKey,
    frames: &mut [FrameBuf<'_>],
    claim: &mut Option<Claim>,
) -> Result<(usize, bool), Refusal> {
    let received = attempt_into(reactor, key, frames, claim);
    let Reactor { shard, hub, .. } = reactor;
    hub.unclaim(shard, claim, frames);
    received
}
