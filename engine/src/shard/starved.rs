//! Receives that wait for a buffer of the pool take turns.
//!
//! A receive that finds no buffer waits in a queue, and so does a receive that is started while others wait. Each turn
//! restarts about as many of them as there are buffers, for one piece each: a connection with more to receive goes to
//! the back of the queue. The restarted receives are submitted before the kernel looks at the armed ones, so a
//! connection that has just been served never comes first.

use std::collections::VecDeque;

use super::Shard;
use crate::{
    conn::{ConnId, Receive},
    driver::{Driver, Submission},
    handler::Handler,
};

/// How many receives one turn restarts at most, unless there are more buffers.
const BATCH_MAX: usize = 1024;

/// The queue, and the outcome of the last turn.
///
/// # Invariants
/// - A connection is in the queue, once, while its `is_queued` says so. It may have stopped waiting meanwhile.
#[derive(Debug, Default)]
pub(super) struct Starved {
    queue: VecDeque<ConnId>,
    /// How many receives the last turn restarted.
    restarted: usize,
    /// How many of these found no buffer, in the same turn. They are at the front of the queue, in order.
    refused: usize,
}

impl Starved {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many receives to restart with so many buffers. A buffer may serve several receives, or none if they find
    /// nothing to receive: while no receive is refused a buffer, the batch grows.
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

    /// If there is no buffer at all, asks the handler to free some. A buffer that comes back later wakes the shard.
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

    /// Restarts receives, in turn. The kernel is not entered between the last buffers that it gets and these receives.
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

    /// Submits a receive. `once`: the receive waited in the queue, and ends with its first bytes.
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
        // The receive keeps its turn.
        conn.receive = Receive::Starved { stopping: false };
        conn.is_queued = true;
        let Starved { queue, refused, .. } = &mut self.starved;
        queue.insert((*refused).min(queue.len()), id);
        *refused += 1;
    }

    /// Puts a receive at the back of the queue. A receive that was stopped in the queue has kept its place.
    pub(super) fn queue_up(&mut self, id: ConnId) {
        let conn = &mut self.conns[id.index()];
        conn.receive = Receive::Starved { stopping: false };
        if std::mem::replace(&mut conn.is_queued, true) {
            return;
        }
        let Self { starved: Starved { queue, .. }, conns, .. } = self;
        if queue.len() >= 2 * conns.len() {
            // At least half of the entries belong to closed connections.
            queue.retain(|id| {
                conns.get(id.index()).is_some_and(|conn| conn.generation == id.generation)
            });
        }
        queue.push_back(id);
    }
}
