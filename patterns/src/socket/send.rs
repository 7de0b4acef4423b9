//! Sending: whole messages, messages written in place, and frame by frame.

use super::{Home, Socket};
use crate::{
    error::{Error, Refusal, SendError},
    frame::Frame,
    hub::SocketKey,
    message::{Message, Sendable},
    reactor::Reactor,
};

impl<C: Home> Socket<C> {
    /// Sends one message, waiting up to `sndtimeo` for a peer with room. Outside of a batch scope the message goes out
    /// at once. PUB never waits: messages that a slow subscriber has no room for are dropped and counted.
    ///
    /// The caller may use borrowed memory again as soon as this returns. From 4 KiB on, only the bytes that the kernel
    /// does not take at once are copied.
    ///
    /// # Errors
    /// The payload comes back with [`Error::WouldBlock`] when the time is up, [`Error::State`] out of
    /// lockstep (REQ, REP), [`Error::Unsupported`], [`Error::Io`].
    #[inline]
    pub fn send<P: Sendable>(&self, payload: P) -> Result<(), SendError<P>> {
        let mut payload = Some(payload);
        match self.attempt_send(&mut payload) {
            Ok(()) => Ok(()),
            Err(refusal) => self.send_waiting(refusal, payload),
        }
    }

    /// Sends a message of one frame of `len` bytes, which are zero until `fill` writes them; otherwise as
    /// [`Socket::send`].
    ///
    /// On a PUSH of an inline context, `fill` writes a short body (less than 4 KiB) straight into the memory that it is
    /// sent from, behind other messages of a [batch scope](crate::inline::Context::batch). No copy is made, so this is
    /// the fastest way to send messages made of a few values. Otherwise `fill` writes into a [`Message`], which is then
    /// sent.
    ///
    /// ```
    /// # use zring::{SocketType, inline::Context};
    /// # let context = Context::new()?;
    /// let (push, pull) = (context.socket(SocketType::Push)?, context.socket(SocketType::Pull)?);
    /// pull.bind("tcp://127.0.0.1:*")?;
    /// push.connect(&pull.last_endpoint().unwrap())?;
    /// let batch = context.batch();
    /// for (number, price) in [(1_u64, 99.5_f64), (2, 99.25)] {
    ///     push.send_with(16, |body| {
    ///         body[..8].copy_from_slice(&number.to_le_bytes());
    ///         body[8..].copy_from_slice(&price.to_le_bytes());
    ///     })?;
    /// }
    /// drop(batch);
    /// assert_eq!(pull.recv()?.body()[..8], 1_u64.to_le_bytes());
    /// assert_eq!(pull.recv()?.body()[8..], 99.25_f64.to_le_bytes());
    /// # Ok::<(), zring::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Socket::send`]; the payload that comes back is a message with the written body.
    ///
    /// # Panics
    /// If `fill` panics; nothing is sent then. `fill` must not use the inline context of this socket, nor one of its
    /// sockets: that panics if the body is written in place.
    // Always inline: `fill` is most often a few stores, and becomes part of the calling code.
    #[inline(always)]
    pub fn send_with<F: FnOnce(&mut [u8])>(
        &self,
        len: usize,
        fill: F,
    ) -> Result<(), SendError<Message>> {
        match self.attempt_send_in_place(len, fill) {
            Ok(()) => Ok(()),
            Err(fill) => self.send_made(len, fill),
        }
    }

    #[cold]
    #[inline(never)]
    fn send_made<F: FnOnce(&mut [u8])>(
        &self,
        len: usize,
        fill: F,
    ) -> Result<(), SendError<Message>> {
        let mut message = Message::with_size(len);
        if let Some(body) = message.get_mut() {
            fill(body);
        }
        self.send(message)
    }

    /// Returns `fill` if it was not called.
    #[inline(always)]
    fn attempt_send_in_place<F: FnOnce(&mut [u8])>(&self, len: usize, fill: F) -> Result<(), F> {
        match self.context.reactor_for_lane(&self.share.place) {
            Some(mut reactor) => reactor.hub.send_in_lane_with(self.key(), len, fill),
            // Other threads share the reactor, and should not have to wait for the caller's code.
            None => Err(fill),
        }
    }

    #[cold]
    fn send_waiting<P: Sendable>(
        &self,
        refusal: Refusal,
        mut payload: Option<P>,
    ) -> Result<(), SendError<P>> {
        let sent = match refusal {
            Refusal::WouldBlock => self.wait_for(self.sndtimeo(), |reactor| match reactor {
                Some(reactor) => attempt_send::<C, P>(reactor, self.key(), &mut payload),
                None => self.attempt_send(&mut payload),
            }),
            refusal => Err(refusal),
        };
        give_back(sent, payload)
    }

    /// Makes one attempt; releases the reactor afterwards.
    #[inline(always)]
    pub(crate) fn attempt_send<P: Sendable>(&self, payload: &mut Option<P>) -> Result<(), Refusal> {
        match &self.shares {
            Some(shares) if C::HAS_SHARES => self.attempt_send_apart(shares, payload),
            _ => match self.context.reactor_for_lane(&self.share.place) {
                Some(mut reactor) => {
                    attempt_send_in_lane::<C, P>(&mut reactor, self.key(), payload)
                }
                None => attempt_send::<C, P>(&mut self.reactor(), self.key(), payload),
            },
        }
    }

    /// Sends one message if that is possible without waiting.
    ///
    /// # Errors
    /// As [`Socket::send`].
    #[inline]
    pub fn try_send<P: Sendable>(&self, payload: P) -> Result<(), SendError<P>> {
        let mut payload = Some(payload);
        let sent = match self.attempt_send(&mut payload) {
            Ok(()) => return Ok(()),
            Err(Refusal::WouldBlock) => {
                self.look().map_err(Refusal::from).and_then(|()| self.attempt_send(&mut payload))
            }
            refused => refused,
        };
        give_back(sent, payload)
    }

    /// Adds a frame to the message that the next [`Socket::send`] completes (libzmq's `SNDMORE`). The first frame waits
    /// up to `sndtimeo` for room. Nothing goes out before the last frame.
    ///
    /// The first frame reserves room for the message: only this frame can be refused for want of room, and the frames
    /// that follow never wait. If the peer with that room is lost meanwhile, another one gets the message, or the
    /// message waits for one.
    ///
    /// ```
    /// # use zring::{Error, SocketType, inline::Context};
    /// # let context = Context::new()?;
    /// let (req, rep) = (context.socket(SocketType::Req)?, context.socket(SocketType::Rep)?);
    /// rep.bind("tcp://127.0.0.1:*")?;
    /// req.connect(&rep.last_endpoint().unwrap())?;
    /// req.send_more("head")?;
    /// req.send("body")?;
    /// assert!(matches!(req.send_more("next"), Err(Error::State { .. })));
    /// assert_eq!(rep.recv()?.to_vecs(), [b"head", b"body"]);
    /// # Ok::<(), zring::Error>(())
    /// ```
    ///
    /// # Errors
    /// For the first frame as [`Socket::send`]: [`Error::WouldBlock`] when the time is up, [`Error::State`] out of
    /// lockstep (REQ, REP), [`Error::Unsupported`] on a socket that only receives. For any frame [`Error::Terminated`].
    pub fn send_more(&self, frame: impl Into<Frame>) -> Result<(), Error> {
        let mut frame = Some(frame.into());
        match self.attempt_send_more(&mut frame) {
            Err(Refusal::WouldBlock) => {
                Ok(self.wait_for(self.sndtimeo(), |reactor| match reactor {
                    Some(reactor) => attempt_send_more(reactor, self.key(), &mut frame),
                    None => self.attempt_send_more(&mut frame),
                })?)
            }
            done => Ok(done?),
        }
    }

    /// Adds a frame as [`Socket::send_more`] does, if that is possible without waiting.
    ///
    /// # Errors
    /// As [`Socket::send_more`].
    pub fn try_send_more(&self, frame: impl Into<Frame>) -> Result<(), Error> {
        let mut frame = Some(frame.into());
        match self.attempt_send_more(&mut frame) {
            Err(Refusal::WouldBlock) => {
                self.look()?;
                Ok(self.attempt_send_more(&mut frame)?)
            }
            done => Ok(done?),
        }
    }

    fn attempt_send_more(&self, frame: &mut Option<Frame>) -> Result<(), Refusal> {
        match &self.shares {
            Some(shares) if C::HAS_SHARES => self.attempt_send_more_apart(shares, frame),
            _ => attempt_send_more(&mut self.reactor(), self.key(), frame),
        }
    }

    /// Drops the frames of a message that was begun with [`Socket::send_more`]; returns how many there were. The next
    /// frame begins a new message.
    #[allow(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn drop_partial(&self) -> usize {
        match &self.shares {
            Some(shares) => self.drop_partial_apart(shares),
            None => {
                let Reactor { shard, hub, .. } = &mut *self.reactor();
                hub.drop_partial(shard, self.key())
            }
        }
    }

    /// Sends a multipart message, whole or not at all.
    ///
    /// # Errors
    /// As [`Socket::send`], and [`Error::NoFrames`].
    pub fn send_multipart<F: Into<Frame>>(
        &self,
        frames: impl IntoIterator<Item = F>,
    ) -> Result<(), Error> {
        let message = Message::from_frames(frames).ok_or(Error::NoFrames)?;
        self.send(message).map_err(Error::from)
    }
}

#[inline(always)]
pub(crate) fn attempt_send<C: Home, P: Sendable>(
    reactor: &mut Reactor,
    key: SocketKey,
    payload: &mut Option<P>,
) -> Result<(), Refusal> {
    if !reactor.is_terminated
        && let Some(body) = payload.as_ref().and_then(Sendable::single_body)
        && reactor.hub.send_plain(key, body)
    {
        return Ok(());
    }
    attempt_send_otherwise::<C, P>(reactor, key, payload)
}

/// Sends the general way, if `Hub::send_plain` could not send the message.
#[inline(never)]
fn attempt_send_otherwise<C: Home, P: Sendable>(
    reactor: &mut Reactor,
    key: SocketKey,
    payload: &mut Option<P>,
) -> Result<(), Refusal> {
    reactor.check_refusal()?;
    let Reactor { shard, hub, .. } = reactor;
    if let Err(refusal) = hub.try_send(shard, key, payload) {
        hub.note_blocked(key);
        return Err(refusal);
    }
    // The message is queued. If the kernel refuses now, the next call that waits returns the error.
    let _ = C::settle(reactor);
    reactor.hub.open_lane(key);
    Ok(())
}

/// Keeps a frame of a message that is sent frame by frame.
pub(crate) fn attempt_send_more(
    reactor: &mut Reactor,
    key: SocketKey,
    frame: &mut Option<Frame>,
) -> Result<(), Refusal> {
    reactor.check_refusal()?;
    let kept = reactor.hub.send_more(key, frame);
    if kept.is_err() {
        reactor.hub.note_blocked(key);
    }
    kept
}

/// Returns a refused payload to the caller. A payload that was taken before the kernel refused is queued: the next call
/// returns the error.
fn give_back<P>(sent: Result<(), Refusal>, payload: Option<P>) -> Result<(), SendError<P>> {
    match (sent, payload) {
        (Err(refusal), Some(payload)) => Err(SendError { error: refusal.into(), payload }),
        _ => Ok(()),
    }
}

#[inline(always)]
fn attempt_send_in_lane<C: Home, P: Sendable>(
    reactor: &mut Reactor,
    key: SocketKey,
    payload: &mut Option<P>,
) -> Result<(), Refusal> {
    if let Some(body) = payload.as_ref().and_then(Sendable::single_body)
        && reactor.hub.send_in_lane(key, body)
    {
        return Ok(());
    }
    // The lane cannot take this message. Sending the message may open a new lane.
    reactor.hub.close_lane();
    attempt_send::<C, P>(reactor, key, payload)
}
