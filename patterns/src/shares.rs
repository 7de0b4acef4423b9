//! The shares of a socket whose connections are spread over several shards, and the share whose turn it is.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::{
    frame::Frame,
    hub::{SocketKey, spread::Common},
    lock::lock,
    message::{Message, Sendable},
    pattern,
};

/// One share: the reactor that it lives on, and its key there.
#[derive(Debug, Clone)]
pub(crate) struct Share<P> {
    pub(crate) place: P,
    pub(crate) key: SocketKey,
}

/// All shares of a socket that has several, and the state that its calls share.
pub(crate) struct Shares<P> {
    all: Box<[Share<P>]>,
    common: Arc<Common>,
    pub(crate) spread: pattern::Spread,
    /// The current [`Turn`], packed: the share in the upper 32 bits, the count in the lower.
    turn: AtomicU64,
    /// The share of the last bind or connect.
    last: AtomicUsize,
    /// REP: the share whose request is to be answered. Locked through an attempt, so that one request is taken at a
    /// time.
    pub(crate) serving: Mutex<Option<usize>>,
    /// The number, plus one, of the share that keeps the first frames of a message sent frame by frame; 0: none.
    sending: AtomicUsize,
    /// The number, plus one, of the share that keeps the rest of a message being received; 0: none.
    reading: AtomicUsize,
    /// The frames so far of a message that is sent frame by frame by all shares.
    pub(crate) partial: Mutex<Vec<Frame>>,
    pub(crate) has_partial: AtomicBool,
}

/// The share whose turn it is, and how many messages it has handled in this turn. Threads that update it at the same
/// time may overwrite each other: a turn is then longer or shorter than it should be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) share: usize,
    taken: u32,
}

impl Turn {
    /// Counts one message. A share's turn lasts one message for each of its ready peers, so that all peers are treated
    /// alike, whichever share they belong to.
    pub(crate) fn next(self, ready_peers: usize, shares: usize) -> Self {
        let taken = self.taken + 1;
        if taken as usize >= ready_peers {
            return Self { share: (self.share + 1) % shares, taken: 0 };
        }
        Self { share: self.share, taken }
    }
}

impl<P> Shares<P> {
    pub(crate) fn new(spread: pattern::Spread, all: Vec<Share<P>>, common: Arc<Common>) -> Self {
        Self {
            all: all.into(),
            common,
            spread,
            turn: AtomicU64::new(0),
            last: AtomicUsize::new(0),
            serving: Mutex::default(),
            sending: AtomicUsize::new(0),
            reading: AtomicUsize::new(0),
            partial: Mutex::default(),
            has_partial: AtomicBool::new(false),
        }
    }

    pub(crate) fn all(&self) -> &[Share<P>] {
        &self.all
    }

    /// The share that gets the next connection: the one with the fewest.
    pub(crate) fn least_loaded(&self) -> usize {
        self.common.least_loaded()
    }

    pub(crate) fn note_last(&self, share: usize) {
        self.last.store(share, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> &Share<P> {
        &self.all[self.last.load(Ordering::Relaxed)]
    }

    pub(crate) fn reading(&self) -> Option<usize> {
        self.reading.load(Ordering::Acquire).checked_sub(1)
    }

    pub(crate) fn note_reading(&self, share: Option<usize>) {
        let reading = share.map_or(0, |share| share + 1);
        if self.reading.load(Ordering::Relaxed) != reading {
            self.reading.store(reading, Ordering::Release);
        }
    }

    pub(crate) fn turn(&self) -> Turn {
        let packed = self.turn.load(Ordering::Relaxed);
        Turn { share: (packed >> 32) as usize, taken: packed as u32 }
    }

    pub(crate) fn set_turn(&self, Turn { share, taken }: Turn) {
        self.turn.store((share as u64) << 32 | u64::from(taken), Ordering::Relaxed);
    }

    pub(crate) fn sending(&self) -> Option<usize> {
        self.sending.load(Ordering::Acquire).checked_sub(1)
    }

    pub(crate) fn note_sending(&self, share: Option<usize>) {
        self.sending.store(share.map_or(0, |share| share + 1), Ordering::Release);
    }

    /// Keeps a frame of a message that all shares will send.
    pub(crate) fn keep_partial(&self, frame: Frame) {
        lock(&self.partial).push(frame);
        self.has_partial.store(true, Ordering::Release);
    }
}

impl<P> fmt::Debug for Shares<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("count", &self.all.len()).finish_non_exhaustive()
    }
}

impl<P> Shares<P> {
    /// Takes the frames that [`Shares::keep_partial`] has kept.
    pub(crate) fn take_partial(&self) -> Vec<Frame> {
        self.has_partial.store(false, Ordering::Release);
        std::mem::take(&mut *lock(&self.partial))
    }

    /// The payload as a message, with the kept frames in front of it.
    pub(crate) fn take_whole<S: Sendable>(&self, payload: &mut Option<S>) -> Message {
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
        let mut turn = Turn { share: 0, taken: 0 };
        let mut turns = Vec::new();
        for _ in 0..8 {
            turns.push(turn.share);
            turn = turn.next(peers[turn.share], peers.len());
        }
        assert_eq!(turns, [0, 0, 1, 2, 3, 3, 3, 0]);
    }
}
