//! When queued messages are sent, and what follows a completed send.

use std::io;

use zring_engine::{Gather, Shard, TimerId};

#[cfg(test)]
mod forward;
pub(crate) mod lane;
pub(crate) mod outbox;

use self::{
    lane::Lane,
    outbox::{LOAD_BYTES, Outbox},
};
use super::{Hub, PeerKey, Timer, peer::Phase, send::regain_credit};

/// While a send is in flight, a burst turns the shard once per this many messages.
const TURN_MESSAGES: u32 = 64;

/// A message is part of a burst if it follows the one before it on the same shard within this time, or within a quarter
/// of the time that sending took, which is long with many peers.
const BURST_GAP_NS: u64 = 5_000;
/// How long a message of a burst waits for others at most, if sending itself does not take long.
const BURST_SLICE_NS: u64 = 50_000;
/// The same limit if sending to many peers takes long.
const BURST_SLICE_MAX_NS: u64 = 1_000_000;

/// Sends at once when idle and in batches under backlog, on a shard whose users open no batch scopes.
///
/// The first message goes out at once. A message that follows closely begins a burst: from there on messages queue
/// until 32 KiB are there, a caller waits, or the slice is over. A slice without messages ends the burst. If sending to
/// many peers takes long, the next slice is as long, so that sending takes half of the time at most.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    /// When the send of the last message that went out at once began.
    began_ns: u64,
    /// A message before this time follows that one closely.
    close_ns: u64,
    timer: Option<TimerId>,
}

/// Queued messages, and when they are sent.
#[derive(Debug, Default)]
pub(crate) struct Flushing {
    /// Peers with queued bytes, while a batch scope or a burst is open.
    pub(crate) dirty: Vec<PeerKey>,
    /// Open batch scopes.
    pub(crate) batches: u32,
    /// A send is in flight and more is queued: the next turn may find it completed.
    pub(crate) wants_turn: bool,
    /// Operations were submitted that the kernel does not have yet.
    pub(crate) wants_flush: bool,
    /// How sends of several threads are gathered; `None` on a shard of one thread, whose user opens batch scopes.
    pub(crate) burst: Option<Burst>,
    pub(crate) lane: Lane,
}

impl Burst {
    fn begins(&mut self, shard: &mut Shard) -> bool {
        let now_ns = shard.now_ns();
        if now_ns >= self.close_ns {
            self.began_ns = now_ns;
            self.close_ns = now_ns + BURST_GAP_NS;
            return false;
        }
        self.timer = Some(shard.arm_timer(now_ns + BURST_SLICE_NS, Timer::Burst.token()));
        true
    }
}

impl Hub {
    /// A message was queued for the peer: sends it at once, or with the batch.
    #[inline]
    pub(crate) fn queued(&mut self, shard: &mut Shard, key: PeerKey) {
        if self.peers[key].link.is_some() {
            return self.ring_or_wait(shard, key);
        }
        let batching = self.is_batching(shard);
        let peer = &self.peers[key];
        if batching && peer.is_dirty && !self.has_enough(&peer.outbox) {
            return;
        }
        self.queue_or_flush(shard, key, batching);
        self.note_sent(shard, batching);
    }

    /// A message that did not wait for others has been sent, or is on its way: notes until when another message follows
    /// it closely.
    #[inline]
    pub(crate) fn note_sent(&mut self, shard: &Shard, batching: bool) {
        if let Some(burst) = self.flushing.burst.as_mut().filter(|_| !batching) {
            let now_ns = shard.now_ns();
            let took_ns = now_ns - burst.began_ns;
            burst.close_ns = burst.close_ns.max(now_ns + took_ns / 4);
        }
    }

    /// A message was put into a link. A receiver that polls the link sees it at once; the bell is for a receiver that
    /// sleeps. Inside a batch scope the bell rings for the first message and then once in a while.
    #[inline(always)]
    pub(crate) fn ring_or_wait(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        let Some(link) = &mut peer.link else { return };
        if self.flushing.batches > 0 && peer.is_dirty && !link.is_overdue() {
            return;
        }
        if self.flushing.batches > 0 || link.is_local {
            return self.ring_in_scope(shard, key);
        }
        link.ring();
    }

    #[inline(never)]
    fn ring_in_scope(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        if self.flushing.batches > 0 && !std::mem::replace(&mut peer.is_dirty, true) {
            self.flushing.dirty.push(key);
        }
        self.ring(shard, key);
    }

    #[inline(never)]
    pub(crate) fn queue_or_flush(&mut self, shard: &mut Shard, key: PeerKey, batching: bool) {
        let peer = &self.peers[key];
        if peer.link.is_some() {
            return self.ring(shard, key);
        }
        let in_scope = batching && self.flushing.burst.is_none();
        let is_enough = self.has_enough(&peer.outbox);
        let peer = &mut self.peers[key];
        if batching && (in_scope || !is_enough) && !peer.is_dirty {
            peer.is_dirty = true;
            self.flushing.dirty.push(key);
        }
        if batching && !is_enough {
            return;
        }
        if peer.outbox.is_in_flight() {
            // In a burst, looking at the completion queue once in a while is enough.
            self.flushing.wants_turn |=
                !batching || peer.outbox.messages().is_multiple_of(TURN_MESSAGES);
        } else {
            if in_scope {
                peer.flush_full_blocks_now(shard);
            } else {
                peer.flush_now(shard);
            }
            self.flushing.wants_flush |= peer.outbox.is_in_flight();
            let socket = peer.socket;
            let state = &mut self.sockets[socket];
            if regain_credit(state, peer) {
                self.waiting.touch(state);
            }
            if state.closing.is_lingering {
                // A message that went out just now has no completion that would end the linger.
                self.finish_linger(shard, socket);
            }
        }
    }

    /// Whether the bytes queued inside a batch scope or a burst are worth a call of their own. A scope waits for a
    /// whole block: the kernel may take the block while the next one fills.
    #[inline]
    fn has_enough(&self, outbox: &Outbox) -> bool {
        match self.flushing.burst {
            None => outbox.has_full_block(),
            Some(_) => outbox.has_load(),
        }
    }

    /// Whether this many bytes are worth a call of their own in a burst, however many others may follow.
    pub(crate) fn is_load(&self, bytes: usize) -> bool {
        self.flushing.burst.is_some() && bytes >= LOAD_BYTES
    }

    /// Whether a message that is queued now waits for others: inside a batch scope, or in a burst on a shard that
    /// several threads use.
    #[inline]
    pub(crate) fn is_batching(&mut self, shard: &mut Shard) -> bool {
        match &mut self.flushing.burst {
            None => self.flushing.batches > 0,
            Some(burst) => burst.timer.is_some() || burst.begins(shard),
        }
    }

    /// The shard is used by several threads: sends are gathered in bursts.
    pub(crate) fn share(&mut self) {
        self.flushing.burst = Some(Burst::default());
    }

    /// A slice of a burst is over: sends the queued messages, and begins another slice if there were any.
    pub(crate) fn slice_burst(&mut self, shard: &mut Shard) {
        if self.flushing.dirty.is_empty() {
            self.flushing.burst.as_mut().into_iter().for_each(|burst| burst.timer = None);
            return;
        }
        let started_ns = shard.now_ns();
        self.flush_dirty(shard);
        let now_ns = shard.now_ns();
        if let Some(burst) = &mut self.flushing.burst {
            let slice_ns = (now_ns - started_ns).clamp(BURST_SLICE_NS, BURST_SLICE_MAX_NS);
            burst.timer = Some(shard.arm_timer(now_ns + slice_ns, Timer::Burst.token()));
        }
    }

    /// Whether queued messages wait for others.
    pub(crate) fn has_dirty(&self) -> bool {
        !self.flushing.dirty.is_empty()
    }

    pub(crate) fn open_batch(&mut self) {
        self.flushing.batches += 1;
    }

    /// Ends a batch scope; the outermost submits everything.
    pub(crate) fn close_batch(&mut self, shard: &mut Shard) {
        self.flushing.batches -= 1;
        if self.flushing.batches == 0 {
            self.flush_dirty(shard);
        }
    }

    /// Submits the messages that batch scopes and bursts have queued so far.
    pub(crate) fn flush_dirty(&mut self, shard: &mut Shard) {
        // A single connection is served soonest by a call of its own, several by one submission for all.
        let is_single = self.flushing.dirty.len() == 1;
        while let Some(key) = self.flushing.dirty.pop() {
            let peer = &mut self.peers[key];
            peer.is_dirty = false;
            if is_single {
                let socket = peer.socket;
                self.queue_or_flush(shard, key, false);
                // Messages that went out at once have no completion that would give their room to waiting messages.
                self.drain_pending(shard, socket);
            } else {
                if peer.link.is_some() {
                    self.ring(shard, key);
                    continue;
                }
                peer.flush(shard);
                self.flushing.wants_flush = true;
            }
        }
    }

    /// A send ended.
    pub(crate) fn sent(
        &mut self,
        shard: &mut Shard,
        key: PeerKey,
        gather: Gather,
        bytes: usize,
        error: Option<io::Error>,
    ) {
        let peer = &mut self.peers[key];
        let socket = peer.socket;
        if bytes < gather.bytes() {
            peer.cut = Some((gather, bytes));
            if let Some(error) = error.filter(|_| !matches!(peer.phase, Phase::Closing(_))) {
                self.fail(shard, key, &error);
            }
            return;
        }
        let messages = peer.outbox.complete(&mut shard.arena, gather);
        peer.stats.messages_out += u64::from(messages);
        match peer.phase {
            Phase::Handshaking(_) => return peer.flush(shard),
            Phase::Ready => {}
            // The ERROR command of a refused handshake is out.
            Phase::Closing(_) if peer.hello.is_empty() => return self.close_conn(shard, key),
            Phase::Closing(_) => return peer.flush(shard),
            Phase::Gone => return,
        }
        // Messages that queued up behind a send of large bodies go out by a call of their own again, as soon as there
        // is room.
        if peer.outbox.has_full_block() {
            peer.flush_now(shard);
        }
        let state = &mut self.sockets[socket];
        regain_credit(state, peer);
        self.waiting.touch(state);
        if !state.pending.is_empty() {
            self.drain_pending(shard, socket);
        }
        let peer = &mut self.peers[key];
        peer.flush(shard);
        if self.sockets[socket].closing.is_lingering {
            self.finish_linger(shard, socket);
        }
    }
}
