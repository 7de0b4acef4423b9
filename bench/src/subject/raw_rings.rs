//! The floor over inproc: two rings in memory, one per direction, with one sender and one receiver each.
//!
//! ```text
//!             published ──▶
//! block 0 | block 1 | ... | block n-1 | and around again
//!             ◀── taken
//! ```
//! A block holds one or more consecutive bodies, without framing. The sender fills blocks while fewer than `n` are
//! published and not taken; the receiver reads bodies in place. Both counters only grow, each has one writer, and
//! together they determine which side owns a block. The block's mutex, never contended, costs a few nanoseconds and
//! keeps this safe code.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Instant;

use crate::cli::Wait;
use crate::error::{Failure, Result};
use crate::sequence::{self, END, SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::size;
use crate::subject::{Case, Common, Receiver, Replier, Requester, STALL, Sender};

/// Largest block that small bodies share.
const BLOCK_BYTES: usize = 64 * 1024;
/// Blocks of a ring; large bodies get fewer.
const BLOCKS_MAX: usize = 16;
/// Size of a ring's blocks together, unless two bodies need more.
const RING_BYTES: usize = 4 << 20;
/// How many times a spinning side checks its counter per check of the clock.
const LOOKS_PER_CLOCK: u32 = 1 << 16;

/// The rings of both sides, one per direction.
#[derive(Debug)]
struct Rings {
    a_to_b: Arc<Ring>,
    b_to_a: Arc<Ring>,
}

/// Both rings of a round.
pub(super) fn common(case: &Case) -> Common {
    let ring = || Arc::new(Ring::new(case.size_bytes, case.wait));
    Arc::new(Rings { a_to_b: ring(), b_to_a: ring() })
}

/// The size of the rings.
pub(super) fn settings(case: &Case) -> String {
    let (blocks, block_bytes) = geometry(case.size_bytes);
    format!("{blocks} blocks of {}", size::display(block_bytes))
}

fn geometry(size_bytes: usize) -> (usize, usize) {
    let block_bytes = (BLOCK_BYTES / size_bytes).max(1) * size_bytes;
    ((RING_BYTES / block_bytes).clamp(2, BLOCKS_MAX), block_bytes)
}

fn rings(case: &Case) -> Result<Arc<Rings>> {
    case.common().ok_or_else(|| Failure::Setup("the rings are missing".to_owned()))
}

/// Side A of the throughput workload.
pub(super) fn sender(case: &Case) -> Result<Box<dyn Sender>> {
    Ok(Box::new(Filling::new(&rings(case)?.a_to_b, case.size_bytes)))
}

/// Side B of the throughput workload.
pub(super) fn receiver(case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
    announce.endpoint(case.bind.clone());
    Ok(Box::new(Emptying::new(&rings(case)?.a_to_b)))
}

/// Side A of the roundtrip workload.
pub(super) fn requester(case: &Case) -> Result<Box<dyn Requester>> {
    let rings = rings(case)?;
    Ok(Box::new(Echo {
        filling: Filling::new(&rings.a_to_b, case.size_bytes),
        emptying: Emptying::new(&rings.b_to_a),
    }))
}

/// Side B of the roundtrip workload.
pub(super) fn replier(case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
    announce.endpoint(case.bind.clone());
    let rings = rings(case)?;
    Ok(Box::new(Echo {
        filling: Filling::new(&rings.b_to_a, case.size_bytes),
        emptying: Emptying::new(&rings.a_to_b),
    }))
}

/// Consecutive bodies of one length.
#[derive(Debug)]
struct Block {
    bytes: Box<[u8]>,
    filled_bytes: usize,
}

/// One direction. See the module.
#[derive(Debug)]
struct Ring {
    blocks: Box<[Mutex<Block>]>,
    size_bytes: usize,
    wait: Wait,
    published: Counter,
    taken: Counter,
}

impl Ring {
    fn new(size_bytes: usize, wait: Wait) -> Self {
        let (blocks, block_bytes) = geometry(size_bytes);
        let block = || Block { bytes: vec![0; block_bytes].into(), filled_bytes: 0 };
        Self {
            blocks: (0..blocks).map(|_| Mutex::new(block())).collect(),
            size_bytes,
            wait,
            published: Counter::default(),
            taken: Counter::default(),
        }
    }

    fn block(&self, number: u64) -> MutexGuard<'_, Block> {
        let at = (number % self.blocks.len() as u64) as usize;
        self.blocks[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counter that one side writes and the other awaits; in cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counter {
    value: AtomicU64,
    /// The other side sleeps, or is about to, until the value reaches `awaited`.
    is_awaited: AtomicBool,
    awaited: AtomicU64,
    waiter: OnceLock<Thread>,
}

impl Counter {
    /// Publishes a new value and wakes the other side.
    #[inline]
    fn set(&self, value: u64, wait: Wait) {
        if wait == Wait::Spin {
            return self.value.store(value, Ordering::Release);
        }
        // Sequentially consistent, here and in `park`: either the sleeper sees the value, or this side sees the
        // sleeper.
        self.value.store(value, Ordering::SeqCst);
        // The flag is stored after `awaited` and so makes it visible.
        if self.is_awaited.load(Ordering::SeqCst) && value >= self.awaited.load(Ordering::Relaxed) {
            self.is_awaited.store(false, Ordering::SeqCst);
            if let Some(waiter) = self.waiter.get() {
                waiter.unpark();
            }
        }
    }

    /// Waits until the value exceeds `passed`, and returns the value.
    #[inline]
    fn await_beyond(&self, passed: u64, wait: Wait) -> Result<u64> {
        let value = self.value.load(Ordering::Acquire);
        if value > passed {
            return Ok(value);
        }
        match wait {
            Wait::Spin => self.spin(passed),
            Wait::Adaptive | Wait::Park => self.park(passed),
        }
    }

    fn spin(&self, passed: u64) -> Result<u64> {
        let started = Instant::now();
        while started.elapsed() < STALL {
            for _ in 0..LOOKS_PER_CLOCK {
                let value = self.value.load(Ordering::Acquire);
                if value > passed {
                    return Ok(value);
                }
                std::hint::spin_loop();
            }
        }
        Err(stalled())
    }

    fn park(&self, passed: u64) -> Result<u64> {
        self.waiter.get_or_init(thread::current);
        self.awaited.store(passed + 1, Ordering::Relaxed);
        let started = Instant::now();
        while started.elapsed() < STALL {
            self.is_awaited.store(true, Ordering::SeqCst);
            let value = self.value.load(Ordering::SeqCst);
            if value > passed {
                self.is_awaited.store(false, Ordering::SeqCst);
                return Ok(value);
            }
            thread::park_timeout(STALL);
        }
        Err(stalled())
    }
}

fn stalled() -> Failure {
    Failure::Setup(format!("the other side did nothing for {} s", STALL.as_secs()))
}

/// The sending end of a ring.
struct Filling {
    ring: Arc<Ring>,
    body: Vec<u8>,
    published: u64,
    /// Number of blocks taken when the sender last looked.
    taken_seen: u64,
}

impl Filling {
    fn new(ring: &Arc<Ring>, size_bytes: usize) -> Self {
        Self {
            ring: Arc::clone(ring),
            body: sequence::filler(size_bytes),
            published: 0,
            taken_seen: 0,
        }
    }

    /// Waits for a free block of a ring of `blocks`. A sleeping sender waits until half of the ring is free, so that
    /// not every block costs a wake.
    fn await_room(&mut self, blocks: u64) -> Result<()> {
        let ring = &*self.ring;
        self.taken_seen = ring.taken.value.load(Ordering::Acquire);
        if self.published - self.taken_seen < blocks {
            return Ok(());
        }
        let more = if ring.wait != Wait::Spin { blocks / 2 } else { 1 };
        self.taken_seen = ring.taken.await_beyond(self.published - blocks + more - 1, ring.wait)?;
        Ok(())
    }

    /// Sends one block with messages from `first` on, at most `count` of them; returns their number.
    fn send(&mut self, first: u64, count: usize) -> Result<u64> {
        let blocks = self.ring.blocks.len() as u64;
        if self.published - self.taken_seen >= blocks {
            self.await_room(blocks)?;
        }
        let ring = &*self.ring;
        let mut block = ring.block(self.published);
        let Block { bytes, filled_bytes } = &mut *block;
        let mut sent = 0;
        for body in bytes.chunks_exact_mut(ring.size_bytes).take(count) {
            body.copy_from_slice(&self.body);
            sequence::stamp(body, first.wrapping_add(sent));
            sent += 1;
        }
        *filled_bytes = sent as usize * ring.size_bytes;
        drop(block);
        self.published += 1;
        ring.published.set(self.published, ring.wait);
        Ok(sent)
    }
}

impl Sender for Filling {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        self.send(first, usize::MAX)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.send(END, 1).map(drop)
    }
}

/// The receiving end of a ring.
struct Emptying {
    ring: Arc<Ring>,
    taken: u64,
}

impl Emptying {
    fn new(ring: &Arc<Ring>) -> Self {
        Self { ring: Arc::clone(ring), taken: 0 }
    }

    /// Waits for a block, and passes each of its bodies to `check` and `each`.
    fn receive(
        &mut self,
        check: &mut SequenceCheck,
        mut each: impl FnMut(&[u8]),
    ) -> Result<Verdict> {
        let ring = &*self.ring;
        ring.published.await_beyond(self.taken, ring.wait)?;
        let block = ring.block(self.taken);
        let mut verdict = Verdict::InOrder;
        for body in block.bytes[..block.filled_bytes].chunks_exact(ring.size_bytes) {
            if verdict == Verdict::End {
                return Err(Failure::AfterEnd { bytes: body.len() });
            }
            verdict = check.accept(body)?;
            each(body);
        }
        drop(block);
        self.taken += 1;
        ring.taken.set(self.taken, ring.wait);
        Ok(verdict)
    }
}

impl Receiver for Emptying {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.receive(check, |_| ())
    }
}

/// Both sides of a round trip: a block with one body there, and one back.
struct Echo {
    filling: Filling,
    emptying: Emptying,
}

impl Requester for Echo {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        self.filling.send(sequence, 1)?;
        self.emptying.receive(check, |_| ())
    }
}

impl Replier for Echo {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        // Copies the received body into the body from which the other ring's block is filled.
        let body = &mut self.filling.body;
        let verdict = self.emptying.receive(check, |request| body.copy_from_slice(request))?;
        let sequence = match verdict {
            Verdict::End => END,
            Verdict::InOrder => check.accepted() - 1,
        };
        self.filling.send(sequence, 1)?;
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `bursts` blocks and the end through a ring, each side on its thread; returns the numbers sent and
    /// received.
    fn through(size_bytes: usize, wait: Wait, bursts: usize) -> (u64, u64) {
        let ring = Arc::new(Ring::new(size_bytes, wait));
        let mut emptying = Emptying::new(&ring);
        let mut filling = Box::new(Filling::new(&ring, size_bytes));
        let sending = thread::spawn(move || {
            let mut sent = 0;
            for _ in 0..bursts {
                sent += filling.send_burst(sent).unwrap();
            }
            filling.finish().unwrap();
            sent
        });
        let mut check = SequenceCheck::new(size_bytes);
        while emptying.receive_burst(&mut check).unwrap() != Verdict::End {}
        (sending.join().unwrap(), check.accepted())
    }

    #[test]
    fn everything_arrives_in_order() {
        for wait in [Wait::Park, Wait::Spin] {
            for size_bytes in [8, 100, BLOCK_BYTES, 3 * BLOCK_BYTES] {
                let (sent, received) = through(size_bytes, wait, 200);
                assert_eq!(sent, 200 * (BLOCK_BYTES / size_bytes).max(1) as u64);
                assert_eq!(received, sent);
            }
        }
    }

    #[test]
    fn a_full_ring_holds_the_sender_back() {
        let ring = Arc::new(Ring::new(BLOCK_BYTES, Wait::Park));
        let mut filling = Filling::new(&ring, BLOCK_BYTES);
        for sequence in 0..BLOCKS_MAX as u64 {
            filling.send(sequence, 1).unwrap();
        }
        let sending = thread::spawn(move || filling.send(BLOCKS_MAX as u64, 1));
        let mut check = SequenceCheck::new(BLOCK_BYTES);
        let mut emptying = Emptying::new(&ring);
        // A sleeping sender waits until half of the ring is free.
        for _ in 0..BLOCKS_MAX / 2 {
            thread::sleep(std::time::Duration::from_millis(5));
            assert!(!sending.is_finished());
            emptying.receive_burst(&mut check).unwrap();
        }
        assert_eq!(sending.join().unwrap().unwrap(), 1);
    }

    #[test]
    fn damage_is_noticed() {
        let ring = Arc::new(Ring::new(16, Wait::Park));
        let mut filling = Filling::new(&ring, 16);
        let mut emptying = Emptying::new(&ring);
        let mut check = SequenceCheck::new(16);
        filling.send(0, 1).unwrap();
        filling.send(2, 1).unwrap();
        assert_eq!(emptying.receive_burst(&mut check).unwrap(), Verdict::InOrder);
        let lost = emptying.receive_burst(&mut check);
        assert!(matches!(lost, Err(Failure::Gap { expected: 1, received: 2 })));
    }
}
