//! Sockets whose connections are spread over several shards: how a call goes about the parts.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use zring_engine::{Clock, Parker};

use crate::{
    core::{Core, deadline_ns},
    error::{Error, Refusal},
    frame::Frame,
    hub::{load_topic, spread::Spread},
    lock::lock,
    message::{Message, Sendable},
    socket::{Home, Socket, attempt_recv, attempt_send},
    socket_type::SocketType,
};

/// One part: where it lives, and its key there.
#[derive(Debug, Clone)]
pub(crate) struct Part<P> {
    pub(crate) place: P,
    pub(crate) key: u32,
}

/// Those of a socket that has several.
pub(crate) struct Parts<P> {
    all: Box<[Part<P>]>,
    shared: Arc<Spread>,
    socket_type: SocketType,
    /// Whose turn it is and how often it has had it, as [`Turn`] packs them.
    turn: AtomicU64,
    /// The part of the last bind or connect.
    last: AtomicUsize,
    /// REP: the part whose request is to be answered. Held through an attempt: one request at a time.
    serving: Mutex<Option<usize>>,
    /// One more than the number of the part that has the rest of a message that is being received; 0: none.
    reading: AtomicUsize,
    /// Frames of a message that is being sent part by part. It is not known yet where it goes.
    partial: Mutex<Vec<Frame>>,
    has_partial: AtomicBool,
}

/// The part whose turn it is, and how many messages it has had in this one. Several threads may get in each other's
/// way: then somebody's turn is longer or shorter than it should be.
#[derive(Debug, Clone, Copy)]
struct Turn {
    part: usize,
    taken: u32,
}

impl Turn {
    /// A part has its turn once for each of its peers, so that peers are treated alike wherever they are.
    fn next(self, ready_peers: usize, parts: usize) -> Self {
        let taken = self.taken + 1;
        if taken as usize >= ready_peers {
            return Self { part: (self.part + 1) % parts, taken: 0 };
        }
        Self { part: self.part, taken }
    }
}

impl<P> Parts<P> {
    pub(crate) fn new(socket_type: SocketType, all: Vec<Part<P>>, shared: Arc<Spread>) -> Self {
        Self {
            all: all.into(),
            shared,
            socket_type,
            turn: AtomicU64::new(0),
            last: AtomicUsize::new(0),
            serving: Mutex::default(),
            reading: AtomicUsize::new(0),
            partial: Mutex::default(),
            has_partial: AtomicBool::new(false),
        }
    }

    pub(crate) fn all(&self) -> &[Part<P>] {
        &self.all
    }

    /// The part that the next connection is for.
    pub(crate) fn least_loaded(&self) -> usize {
        self.shared.least_loaded()
    }

    pub(crate) fn note_last(&self, part: usize) {
        self.last.store(part, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> &Part<P> {
        &self.all[self.last.load(Ordering::Relaxed)]
    }

    fn reading(&self) -> Option<usize> {
        self.reading.load(Ordering::Acquire).checked_sub(1)
    }

    pub(crate) fn note_reading(&self, part: Option<usize>) {
        let reading = part.map_or(0, |part| part + 1);
        if self.reading.load(Ordering::Relaxed) != reading {
            self.reading.store(reading, Ordering::Release);
        }
    }

    fn turn(&self) -> Turn {
        let packed = self.turn.load(Ordering::Relaxed);
        Turn { part: (packed >> 32) as usize, taken: packed as u32 }
    }

    fn set_turn(&self, Turn { part, taken }: Turn) {
        self.turn.store((part as u64) << 32 | u64::from(taken), Ordering::Relaxed);
    }

    /// Keeps a frame until it is known which part it goes out by.
    pub(crate) fn keep_partial(&self, frame: Frame) {
        lock(&self.partial).push(frame);
        self.has_partial.store(true, Ordering::Release);
    }

    /// Gives a part that can send what its message begins with.
    fn give_partial(&self, core: &mut Core, key: u32) -> Result<(), Refusal> {
        if self.has_partial.load(Ordering::Acquire) {
            core.hub.check_send(key)?;
            self.has_partial.store(false, Ordering::Release);
            core.hub.sockets[key as usize].partial = std::mem::take(&mut *lock(&self.partial));
        }
        Ok(())
    }

    /// Sends by one part. What a refused message begins with stays here, for whichever part is next.
    fn attempt_send<C: Home, S: Sendable>(
        &self,
        core: &mut Core,
        key: u32,
        payload: &mut Option<S>,
    ) -> Result<(), Refusal> {
        self.give_partial(core, key)?;
        let sent = attempt_send::<C, S>(core, key, payload);
        let left = &mut core.hub.sockets[key as usize].partial;
        if sent.is_err() && !left.is_empty() {
            let mut kept = lock(&self.partial);
            let newer = std::mem::replace(&mut *kept, std::mem::take(left));
            kept.extend(newer);
            self.has_partial.store(true, Ordering::Release);
        }
        sent
    }
}

impl<P> fmt::Debug for Parts<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("count", &self.all.len()).finish_non_exhaustive()
    }
}

/// Who is told when any of a socket's parts changes. Delisting is up to who made it.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// One for each part, in order.
    numbers: Vec<u64>,
}

impl Listing {
    /// Has a waker called when one of the parts changes. What has changed before is not told.
    pub(crate) fn enlist<C: Home>(&mut self, socket: &Socket<C>, waker: &Waker) {
        self.delist(socket);
        socket.each(|core, key| {
            core.flush();
            self.numbers.push(core.hub.enlist(key, waker.clone()));
        });
    }

    pub(crate) fn delist<C: Home>(&mut self, socket: &Socket<C>) {
        let mut numbers = self.numbers.drain(..);
        if numbers.len() > 0 {
            socket
                .each(|core, key| numbers.by_ref().take(1).for_each(|it| core.hub.delist(key, it)));
        }
    }
}

impl<C: Home> Socket<C> {
    /// Sends by the part whose turn it is, or by all (PUB).
    pub(crate) fn attempt_send_apart<P: Sendable>(
        &self,
        parts: &Parts<C::Place>,
        payload: &mut Option<P>,
    ) -> Result<(), Refusal> {
        match parts.socket_type {
            SocketType::Push => self.attempt_push(parts, payload),
            SocketType::Pub => self.attempt_publish(parts, payload),
            SocketType::Rep => {
                let mut serving = lock(&parts.serving);
                // Without a request the first part says what is wrong.
                let part = &parts.all[serving.unwrap_or(0)];
                let mut core = self.context().core(&part.place);
                parts.attempt_send::<C, P>(&mut core, part.key, payload)?;
                *serving = None;
                Ok(())
            }
            _ => {
                let part = &parts.all[0];
                attempt_send::<C, P>(&mut self.context().core(&part.place), part.key, payload)
            }
        }
    }

    fn attempt_push<P: Sendable>(
        &self,
        parts: &Parts<C::Place>,
        payload: &mut Option<P>,
    ) -> Result<(), Refusal> {
        let mut turn = parts.turn();
        for _ in 0..parts.all.len() {
            let part = &parts.all[turn.part];
            let mut core = self.context().core(&part.place);
            core.check_refusal()?;
            if core.hub.sockets[part.key as usize].has_room() {
                parts.attempt_send::<C, P>(&mut core, part.key, payload)?;
                let ready_peers = core.hub.sockets[part.key as usize].ready_peers;
                parts.set_turn(turn.next(ready_peers, parts.all.len()));
                return Ok(());
            }
            core.hub.note_blocked(part.key);
            turn = turn.next(0, parts.all.len());
        }
        // Nobody has room: it waits for whoever has it first, if anybody is expected.
        let part = &parts.all[0];
        let mut core = self.context().core(&part.place);
        parts.attempt_send::<C, P>(&mut core, part.key, payload)
    }

    fn attempt_publish<P: Sendable>(
        &self,
        parts: &Parts<C::Place>,
        payload: &mut Option<P>,
    ) -> Result<(), Refusal> {
        let mut message = None;
        self.check_files(parts, payload.as_ref())?;
        for part in &parts.all {
            let mut core = self.context().core(&part.place);
            let message = match &mut message {
                None => {
                    // Whether it can go is asked before the payload is taken.
                    core.check_refusal()?;
                    message.insert(parts.take_whole(payload))
                }
                Some(message) => message,
            };
            if core.hub.sockets[part.key as usize].ready_peers > 0 {
                // A part never refuses; if it was terminated meanwhile, nobody is left to publish to. Only a file may
                // have become unreadable since it was checked.
                let sent = attempt_send::<C, _>(&mut core, part.key, &mut Some(message.clone()));
                if matches!(sent, Err(Refusal::Failed(error)) if matches!(*error, Error::FileRead(_)))
                {
                    core.hub.sockets[part.key as usize].drop_unreadable();
                }
            }
        }
        Ok(())
    }

    /// Whether what has to be read of files for a message that goes to all parts can be, so that a refused one is left
    /// as it came.
    fn check_files<P: Sendable>(
        &self,
        parts: &Parts<C::Place>,
        payload: Option<&P>,
    ) -> Result<(), Refusal> {
        let has_partial = parts.has_partial.load(Ordering::Acquire);
        let Some(payload) = payload.filter(|it| has_partial || it.has_files()) else {
            return Ok(());
        };
        let mut frames = lock(&parts.partial).clone();
        frames.extend(payload.to_frames());
        if !frames.iter().any(Frame::is_file) {
            return Ok(());
        }
        frames.first().map(load_topic).transpose()?;
        let has_pipes = parts
            .all
            .iter()
            .any(|part| self.context().core(&part.place).hub.sockets[part.key as usize].has_pipes);
        if has_pipes {
            let read = |frame: &Frame| frame.read().map(drop).map_err(Error::FileRead);
            frames.iter().try_for_each(read)?;
        }
        Ok(())
    }

    /// Receives from the part whose turn it is.
    pub(crate) fn attempt_recv_apart(&self, parts: &Parts<C::Place>) -> Result<Message, Refusal> {
        self.attempt_take(parts, |core, key, _| attempt_recv(core, key, false))
    }

    /// Attempts to receive, by the part that has a message to be answered or taken to its end, or else by those whose
    /// turn it is. An attempt is given the part's number, too.
    pub(crate) fn attempt_take<T>(
        &self,
        parts: &Parts<C::Place>,
        mut attempt: impl FnMut(&mut Core, u32, usize) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        if parts.socket_type != SocketType::Rep {
            return match parts.reading() {
                Some(number) => self.attempt_by(parts, number, &mut attempt),
                None => self.attempt_in_turn(parts, attempt).map(|(taken, _)| taken),
            };
        }
        let mut serving = lock(&parts.serving);
        if let Some(number) = *serving {
            return self.attempt_by(parts, number, &mut attempt);
        }
        let (taken, number) = self.attempt_in_turn(parts, attempt)?;
        *serving = Some(number);
        Ok(taken)
    }

    fn attempt_by<T>(
        &self,
        parts: &Parts<C::Place>,
        number: usize,
        attempt: &mut impl FnMut(&mut Core, u32, usize) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let Part { place, key } = &parts.all[number];
        let mut core = self.context().core(place);
        let taken = attempt(&mut core, *key, number);
        parts.note_reading(core.hub.has_more(*key).then_some(number));
        taken
    }

    fn attempt_in_turn<T>(
        &self,
        parts: &Parts<C::Place>,
        mut attempt: impl FnMut(&mut Core, u32, usize) -> Result<T, Refusal>,
    ) -> Result<(T, usize), Refusal> {
        let mut turn = parts.turn();
        for _ in 0..parts.all.len() {
            let part = &parts.all[turn.part];
            let mut core = self.context().core(&part.place);
            match attempt(&mut core, part.key, turn.part) {
                Ok(taken) => {
                    let ready_peers = core.hub.sockets[part.key as usize].ready_peers;
                    parts.set_turn(turn.next(ready_peers, parts.all.len()));
                    parts.note_reading(core.hub.has_more(part.key).then_some(turn.part));
                    return Ok((taken, turn.part));
                }
                Err(Refusal::WouldBlock) => turn = turn.next(0, parts.all.len()),
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::WouldBlock)
    }

    /// Repeats an attempt until it succeeds, fails, or the time is up. The Runners of the parts see to what is waited
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
            // What came before anybody was to be told shows now.
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

    /// Whether a message can be received and sent at once, as of one part after the other: bits of `POLLIN` and
    /// `POLLOUT`.
    pub(crate) fn readiness(&self, events: u8) -> Result<u8, Error> {
        let serving = self.apart().and_then(|parts| *lock(&parts.serving));
        let mut ready = 0;
        for (number, part) in self.parts().iter().enumerate() {
            if serving.is_none_or(|serving| serving == number) {
                let mut core = self.context().core(&part.place);
                core.check()?;
                ready |= core.readiness(part.key, events);
            }
        }
        Ok(ready)
    }

    /// Looks once for what the operating system has, at every part.
    pub(crate) fn look(&self) -> Result<(), Error> {
        let mut looked = Ok(());
        for part in self.parts() {
            let mut core = self.context().core(&part.place);
            looked = looked.and(C::look(&mut core));
        }
        looked
    }
}

impl<P> Parts<P> {
    /// A payload with what was kept in front of it.
    fn take_whole<S: Sendable>(&self, payload: &mut Option<S>) -> Message {
        let message = payload.take().map_or_else(Message::new, Sendable::into_message);
        if !self.has_partial.swap(false, Ordering::AcqRel) {
            return message;
        }
        message.behind(std::mem::take(&mut *lock(&self.partial)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_a_turn_for_each_of_its_peers() {
        let peers = [2, 1, 0, 3];
        let mut turn = Turn { part: 0, taken: 0 };
        let mut turns = Vec::new();
        for _ in 0..8 {
            turns.push(turn.part);
            turn = turn.next(peers[turn.part], peers.len());
        }
        assert_eq!(turns, [0, 0, 1, 2, 3, 3, 3, 0]);
    }
}
