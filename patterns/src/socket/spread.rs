//! How a call goes about the shares of a socket whose connections are spread over several shards.

use std::{sync::atomic::Ordering, task::Waker, time::Duration};

use zring_engine::{Clock, Parker};

use super::{Home, Socket, attempt_recv, attempt_send};
use crate::{
    deadline::deadline_ns,
    error::{Error, Refusal},
    frame::Frame,
    hub::{SocketKey, load_topic},
    lock::lock,
    message::{Message, Sendable},
    pattern::Spread,
    reactor::Reactor,
    shares::{Share, Shares},
};

/// The places of a waiter in the lists of all shares of a socket. Its maker has to delist it.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The waiter's number at each share, in order.
    numbers: Vec<u64>,
}

impl Listing {
    /// Has a waker called when one of the shares changes. What has changed before is not told.
    pub(crate) fn enlist<C: Home>(&mut self, socket: &Socket<C>, waker: &Waker) {
        self.delist(socket);
        socket.each(|reactor, key| {
            reactor.flush();
            self.numbers.push(reactor.hub.enlist(key, waker.clone()));
        });
    }

    pub(crate) fn delist<C: Home>(&mut self, socket: &Socket<C>) {
        let mut numbers = self.numbers.drain(..);
        if numbers.len() > 0 {
            socket.each(|reactor, key| {
                numbers.by_ref().take(1).for_each(|it| reactor.hub.delist(key, it));
            });
        }
    }
}

impl<C: Home> Socket<C> {
    /// Sends as the facts of the type say: by the share whose turn it is, by all shares, or by the one that answers.
    pub(crate) fn attempt_send_apart<P: Sendable>(
        &self,
        shares: &Shares<C::Place>,
        payload: &mut Option<P>,
    ) -> Result<(), Refusal> {
        match shares.spread {
            Spread::Balanced => match shares.sending() {
                Some(number) => {
                    self.attempt_send_by(shares, number, payload)?;
                    shares.note_sending(None);
                    Ok(())
                }
                None => self
                    .attempt_balanced(shares, |reactor, key| {
                        attempt_send::<C, P>(reactor, key, payload)
                    })
                    .map(drop),
            },
            Spread::Everywhere => self.attempt_publish(shares, payload),
            Spread::Answering => {
                let mut serving = lock(&shares.serving);
                // Without a request the first share says what is wrong.
                let sent = self.attempt_send_by(shares, serving.unwrap_or(0), payload);
                match sent {
                    Ok(()) => *serving = None,
                    Err(_) => self.note_blocked_apart(shares),
                }
                sent
            }
            Spread::One => self.attempt_send_by(shares, 0, payload),
        }
    }

    /// A call would have blocked, or came out of turn, though only one share was asked: the descriptors of all shares
    /// show the next change.
    fn note_blocked_apart(&self, shares: &Shares<C::Place>) {
        for share in shares.all() {
            self.context().reactor(&share.place).hub.note_blocked(share.key);
        }
    }

    fn attempt_send_by<P: Sendable>(
        &self,
        shares: &Shares<C::Place>,
        number: usize,
        payload: &mut Option<P>,
    ) -> Result<(), Refusal> {
        let Share { place, key } = &shares.all()[number];
        attempt_send::<C, P>(&mut self.context().reactor(place), *key, payload)
    }

    /// Keeps a frame of a message that is sent frame by frame, at the share that will send it.
    pub(crate) fn attempt_send_more_apart(
        &self,
        shares: &Shares<C::Place>,
        frame: &mut Option<Frame>,
    ) -> Result<(), Refusal> {
        let more_by = |number: usize, frame: &mut Option<Frame>| {
            let Share { place, key } = &shares.all()[number];
            super::send::attempt_send_more(&mut self.context().reactor(place), *key, frame)
        };
        match shares.spread {
            Spread::Balanced => match shares.sending() {
                Some(number) => more_by(number, frame),
                None => {
                    let number = self.attempt_balanced(shares, |reactor, key| {
                        super::send::attempt_send_more(reactor, key, frame)
                    })?;
                    shares.note_sending(Some(number));
                    Ok(())
                }
            },
            Spread::Everywhere => {
                let reactor = self.reactor();
                reactor.check_refusal()?;
                reactor.hub.check_begin(self.key())?;
                drop(reactor);
                frame.take().into_iter().for_each(|frame| shares.keep_partial(frame));
                Ok(())
            }
            Spread::Answering => {
                let kept = more_by(lock(&shares.serving).unwrap_or(0), frame);
                if kept.is_err() {
                    self.note_blocked_apart(shares);
                }
                kept
            }
            Spread::One => more_by(0, frame),
        }
    }

    /// Drops the frames of a message that was begun. Returns how many there were.
    pub(crate) fn drop_partial_apart(&self, shares: &Shares<C::Place>) -> usize {
        let mut frames = shares.take_partial().len();
        self.each(|Reactor { shard, hub, .. }, key| frames += hub.drop_partial(shard, key));
        shares.note_sending(None);
        frames
    }

    /// Attempts to send by the share whose turn it is and that has room. If none has, the message may wait for the
    /// first that does, if any is expected. Returns the number of the share.
    fn attempt_balanced(
        &self,
        shares: &Shares<C::Place>,
        mut attempt: impl FnMut(&mut Reactor, SocketKey) -> Result<(), Refusal>,
    ) -> Result<usize, Refusal> {
        let mut turn = shares.turn();
        for _ in 0..shares.all().len() {
            let share = &shares.all()[turn.share];
            let mut reactor = self.context().reactor(&share.place);
            reactor.check_refusal()?;
            if reactor.hub.sockets[share.key].turn().is_some() {
                attempt(&mut reactor, share.key)?;
                let ready_peers = reactor.hub.sockets[share.key].peers.ready;
                shares.set_turn(turn.next(ready_peers, shares.all().len()));
                return Ok(turn.share);
            }
            reactor.hub.note_blocked(share.key);
            turn = turn.next(0, shares.all().len());
        }
        let share = &shares.all()[0];
        let mut reactor = self.context().reactor(&share.place);
        attempt(&mut reactor, share.key).map(|()| 0)
    }

    fn attempt_publish<P: Sendable>(
        &self,
        shares: &Shares<C::Place>,
        payload: &mut Option<P>,
    ) -> Result<(), Refusal> {
        let mut message = None;
        self.check_files(shares, payload.as_ref())?;
        for share in shares.all() {
            let mut reactor = self.context().reactor(&share.place);
            let message = match &mut message {
                None => {
                    // Whether it can go is asked before the payload is taken.
                    reactor.check_refusal()?;
                    message.insert(shares.take_whole(payload))
                }
                Some(message) => message,
            };
            if reactor.hub.sockets[share.key].peers.ready > 0 {
                // A share never refuses; if it was terminated meanwhile, no peer is left to publish to. Only a file may
                // have become unreadable since it was checked.
                let sent =
                    attempt_send::<C, _>(&mut reactor, share.key, &mut Some(message.clone()));
                if matches!(sent, Err(Refusal::Failed(error)) if matches!(*error, Error::FileRead(_)))
                {
                    reactor.hub.sockets[share.key].drop_unreadable();
                }
            }
        }
        Ok(())
    }

    /// Whether what has to be read of files for a message that goes to all shares can be, so that a refused one is left
    /// as it came.
    fn check_files<P: Sendable>(
        &self,
        shares: &Shares<C::Place>,
        payload: Option<&P>,
    ) -> Result<(), Refusal> {
        let has_partial = shares.has_partial.load(Ordering::Acquire);
        let Some(payload) = payload.filter(|it| has_partial || it.has_files()) else {
            return Ok(());
        };
        let mut frames = lock(&shares.partial).clone();
        frames.extend(payload.to_frames());
        if !frames.iter().any(Frame::is_file) {
            return Ok(());
        }
        frames.first().map(load_topic).transpose()?;
        let has_links = shares
            .all()
            .iter()
            .any(|share| self.context().reactor(&share.place).hub.sockets[share.key].has_links);
        if has_links {
            let read = |frame: &Frame| frame.read().map(drop).map_err(Error::FileRead);
            frames.iter().try_for_each(read)?;
        }
        Ok(())
    }

    /// Receives from the share whose turn it is.
    pub(crate) fn attempt_recv_apart(&self, shares: &Shares<C::Place>) -> Result<Message, Refusal> {
        self.attempt_take(shares, |reactor, key, _| attempt_recv(reactor, key, false))
    }

    /// Attempts to receive, by the share that has a message to be answered or taken to its end, or else by those whose
    /// turn it is. An attempt is given the share's number, too.
    pub(crate) fn attempt_take<T>(
        &self,
        shares: &Shares<C::Place>,
        mut attempt: impl FnMut(&mut Reactor, SocketKey, usize) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        if shares.spread != Spread::Answering {
            return match shares.reading() {
                Some(number) => self.attempt_by(shares, number, &mut attempt),
                None => self.attempt_in_turn(shares, attempt).map(|(taken, _)| taken),
            };
        }
        let mut serving = lock(&shares.serving);
        if let Some(number) = *serving {
            let taken = self.attempt_by(shares, number, &mut attempt);
            if taken.is_err() {
                self.note_blocked_apart(shares);
            }
            return taken;
        }
        let (taken, number) = self.attempt_in_turn(shares, attempt)?;
        *serving = Some(number);
        Ok(taken)
    }

    fn attempt_by<T>(
        &self,
        shares: &Shares<C::Place>,
        number: usize,
        attempt: &mut impl FnMut(&mut Reactor, SocketKey, usize) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let Share { place, key } = &shares.all()[number];
        let mut reactor = self.context().reactor(place);
        let taken = attempt(&mut reactor, *key, number);
        shares.note_reading(reactor.hub.has_more(*key).then_some(number));
        taken
    }

    fn attempt_in_turn<T>(
        &self,
        shares: &Shares<C::Place>,
        mut attempt: impl FnMut(&mut Reactor, SocketKey, usize) -> Result<T, Refusal>,
    ) -> Result<(T, usize), Refusal> {
        let mut turn = shares.turn();
        for _ in 0..shares.all().len() {
            let share = &shares.all()[turn.share];
            let mut reactor = self.context().reactor(&share.place);
            match attempt(&mut reactor, share.key, turn.share) {
                Ok(taken) => {
                    let ready_peers = reactor.hub.sockets[share.key].peers.ready;
                    shares.set_turn(turn.next(ready_peers, shares.all().len()));
                    shares.note_reading(reactor.hub.has_more(share.key).then_some(turn.share));
                    return Ok((taken, turn.share));
                }
                Err(Refusal::WouldBlock) => turn = turn.next(0, shares.all().len()),
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::WouldBlock)
    }

    /// Repeats an attempt until it succeeds, fails, or the time is up. The Runners of the shares see to what is waited
    /// for.
    pub(crate) fn wait_apart<T>(
        &self,
        timeout: Option<Duration>,
        mut attempt: impl FnMut() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let clock = Clock::new();
        let until_ns = deadline_ns(clock, timeout);
        let spin_until_ns = self.context().spin_until_ns(clock);
        let parker = Parker::current();
        let mut listing = Listing::default();
        loop {
            match attempt() {
                Err(Refusal::WouldBlock) => {}
                done => return done,
            }
            let now_ns = clock.now_ns();
            if until_ns.is_some_and(|until_ns| now_ns >= until_ns) {
                return Err(Refusal::WouldBlock);
            }
            if now_ns < spin_until_ns {
                self.look()?;
                continue;
            }
            listing.enlist(self, &parker.waker());
            // Check again: a message may have arrived before we enlisted.
            let done = attempt();
            if matches!(done, Err(Refusal::WouldBlock)) {
                parker.park(until_ns.map(|until_ns| until_ns.saturating_sub(now_ns)));
            }
            listing.delist(self);
            match done {
                Err(Refusal::WouldBlock) => {}
                done => return done,
            }
        }
    }

    /// Whether a message can be received and sent at once, as of one share after the other: bits of `POLLIN` and
    /// `POLLOUT`.
    pub(crate) fn readiness(&self, events: u8) -> Result<u8, Error> {
        let serving = self.apart().and_then(|shares| *lock(&shares.serving));
        let mut ready = 0;
        for (number, share) in self.shares().iter().enumerate() {
            if serving.is_none_or(|serving| serving == number) {
                let mut reactor = self.context().reactor(&share.place);
                reactor.check()?;
                ready |= reactor.readiness(share.key, events);
            }
        }
        Ok(ready)
    }

    /// Looks once for what the operating system has, at every share.
    pub(crate) fn look(&self) -> Result<(), Error> {
        let mut looked = Ok(());
        for share in self.shares() {
            let mut reactor = self.context().reactor(&share.place);
            looked = looked.and(C::look(&mut reactor));
        }
        looked
    }
}
