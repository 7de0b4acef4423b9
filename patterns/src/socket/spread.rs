//! Calls on a socket whose connections are spread over several shards.

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

/// The entries of one waker in the lists of a socket's shares. The owner has to remove them.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The number of the entry at each share, in order.
    numbers: Vec<u64>,
}

impl Listing {
    /// Has a waker called when one of the shares changes. Earlier changes do not count.
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
    /// Sends as the facts of the type say: through the share whose turn it is, through all shares, or through the share
    /// that answers.
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
                // Without a request the first share returns the error.
                self.attempt_send_by(shares, serving.unwrap_or(0), payload)?;
                *serving = None;
                Ok(())
            }
            Spread::One => self.attempt_send_by(shares, 0, payload),
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
            Spread::Answering => more_by(lock(&shares.serving).unwrap_or(0), frame),
            Spread::One => more_by(0, frame),
        }
    }

    /// Drops the frames of a message that was begun. Returns how many there were.
    pub(crate) fn drop_partial_apart(&self, shares: &Shares<C::Place>) -> usize {
        let mut frames = shares.take_partial().len();
        self.each(|reactor, key| frames += reactor.hub.drop_partial(key));
        shares.note_sending(None);
        frames
    }

    /// Attempts to send through the first share, in turn, that has room. If none has, the message may wait for the
    /// first share that gets room, if a peer is expected. Returns the number of the share.
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
                    // Check first, so that a refused payload is left as it came.
                    reactor.check_refusal()?;
                    message.insert(shares.take_whole(payload))
                }
                Some(message) => message,
            };
            if reactor.hub.sockets[share.key].peers.ready > 0 {
                // A share never refuses a message. If the context was terminated meanwhile, no subscriber is left. Only
                // a file may have become unreadable since the check.
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

    /// Checks that the parts of files that have to be read for a message to all shares can be read, so that a refused
    /// payload is left as it came.
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

    /// Attempts to receive from the share that has a request to be answered or a message to be taken to its end, or
    /// else from the shares in turn. An attempt also gets the share's number.
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
            return self.attempt_by(shares, number, &mut attempt);
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

    /// Repeats an attempt until it succeeds, fails, or the time is up. Meanwhile the Runners of the shards do the work.
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

    /// Whether a message can be received and sent at once, asking one share after the other: bits of `POLLIN` and
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

    /// Turns the shard of each share once without waiting, if no other thread is about to.
    pub(crate) fn look(&self) -> Result<(), Error> {
        let mut looked = Ok(());
        for share in self.shares() {
            let mut reactor = self.context().reactor(&share.place);
            looked = looked.and(C::look(&mut reactor));
        }
        looked
    }
}
