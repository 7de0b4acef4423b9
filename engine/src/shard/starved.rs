//! Receives that wait for a buffer of the pool take turns.
//!
//! Whoever finds no buffer waits in a queue, and so does who is to receive while others wait. Each turn starts about as
//! many of them again as there are buffers, for one piece each: with more to come it waits behind the others. They are
//! submitted before the kernel looks at the receives that are armed, so nobody who has just been served comes first.

use std::collections::VecDeque;

use super::Shard;
use crate::{
    conn::{ConnId, Receive},
    driver::{Driver, Submission},
    handler::Handler,
};

/// How many start again in one turn at most, unless there are more buffers.
const BATCH_MAX: usize = 1024;

/// The queue, and how the last turn went.
///
/// # Invariants
/// - A connection is in the queue while its `is_queued` says so, and once. It need not wait any more.
#[derive(Debug, Default)]
pub(super) struct Starved {
    queue: VecDeque<ConnId>,
    /// How many started again last time.
    restarted: usize,
    /// How many of these found no buffer, in the same turn. They are in front of the queue, in order.
    refused: usize,
}

impl Starved {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many are to start again where there are so many buffers. A buffer may serve several, or none where nothing is
    /// there to be received: as long as none is refused, they become more.
    fn next_batch(&mut self, buffers: usize) -> usize {
        let passed = self.restarted - self.refused;
        let more = if self.refused == 0 { passed / 4 } else { 0 };
        (self.restarted, self.refused) = (0, 0);
        (passed + more).min(BATCH_MAX).max(buffers)
    }
}

impl Shard {
    /// Whether a receive waits although there is a buffer for it: a turn is due.
    #[inline]
    pub(super) fn is_hungry(&self) -> bool {
        !self.starved.is_empty() && self.has_buffers()
    }

    fn has_buffers(&self) -> bool {
        self.pool.ready_len() > 0 || self.driver.buffers(&self.pool) > 0
    }

    /// Where there is no buffer at all, room is made; a buffer that comes back later wakes the shard.
    #[inline]
    pub(super) fn relieve(&mut self, handler: &mut impl Handler) {
        if !self.starved.is_empty() {
            self.relieve_starved(handler);
        }
    }

    #[cold]
    fn relieve_starved(&mut self, handler: &mut impl Handler) {
        if !self.has_buffers() {
            handler.on_starved(self);
            self.pool.starve();
        }
    }

    /// Starts receives again, in turn. The kernel is not entered between the last buffers that it gets and these.
    #[cold]
    pub(super) fn feed_starved(&mut self) {
        self.driver.provide(&mut self.pool);
        let buffers = self.driver.buffers(&self.pool);
        if buffers == 0 {
            return;
        }
        let batch = self.starved.next_batch(buffers);
        let mut restarted = 0;
        while restarted < batch {
            let Some(id) = self.starved.queue.pop_front() else { break };
            let Some(conn) = self.find(id) else { continue };
            conn.is_queued = false;
            if !conn.closing && conn.receive == (Receive::Starved { stopping: false }) {
                self.submit_receive(id, true);
                restarted += 1;
            }
        }
        self.starved.restarted = restarted;
    }

    /// Hands a receive to the driver; with `once`, of one that has waited.
    pub(super) fn submit_receive(&mut self, id: ConnId, once: bool) {
        let conn = &mut self.conns[id.index()];
        let fd = conn.raw();
        conn.restarted_in = once.then_some(self.stats.turns);
        let op = self.driver.submit(id.to_u64(), Submission::Receive { fd, once });
        conn.receive = Receive::Ring { op, stopping: false };
    }

    /// A receive found no buffer.
    #[cold]
    pub(super) fn note_starved(&mut self, id: ConnId) {
        self.pool.count_exhausted();
        let conn = &mut self.conns[id.index()];
        if conn.restarted_in != Some(self.stats.turns) {
            return self.queue_up(id);
        }
        // It was its turn, and it still is.
        conn.receive = Receive::Starved { stopping: false };
        conn.is_queued = true;
        let Starved { queue, refused, .. } = &mut self.starved;
        queue.insert((*refused).min(queue.len()), id);
        *refused += 1;
    }

    /// A receive waits for a buffer, behind all others. Who stopped meanwhile has kept its place.
    pub(super) fn queue_up(&mut self, id: ConnId) {
        let conn = &mut self.conns[id.index()];
        conn.receive = Receive::Starved { stopping: false };
        if std::mem::replace(&mut conn.is_queued, true) {
            return;
        }
        let Self { starved: Starved { queue, .. }, conns, .. } = self;
        if queue.len() >= 2 * conns.len() {
            // Half of them and more are gone.
            queue.retain(|id| {
                conns.get(id.index()).is_some_and(|conn| conn.generation == id.generation)
            });
        }
        queue.push_back(id);
    }
}
