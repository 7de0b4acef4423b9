//! Recording on many threads while another thread reads.
//!
//! ```text
//! value in ns   0 .. 2047        2048 .. 4095      4096 .. 8191      ...   up to LATENCY_NS_MAX
//! slots         2048, 1 ns each  1024, 2 ns each   1024, 4 ns each   ...
//! ```
//! These are the buckets of an HdrHistogram with three figures, so converting to one loses nothing. Each writer has
//! slots of its own and is their only writer: a load, an addition and a store, without a lock prefix. Counts only grow.
//! A reader adds up the slots of all writers, and an interval is the difference between two readings. So nothing is
//! ever swapped or reset, and no thread waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{LATENCY_NS_MAX, empty, whole_ns};

/// Slots of one nanosecond; after them, each step has half as many slots, of twice the width.
const FINE_SLOTS: u64 = 2048;
const COARSE_SLOTS: u64 = FINE_SLOTS / 2;
const SLOTS: usize = slot_of(LATENCY_NS_MAX) + 1;

/// The slot of a value.
#[inline]
const fn slot_of(value_ns: u64) -> usize {
    // How often a value must be halved to fall below `FINE_SLOTS`.
    let halvings = (value_ns | (FINE_SLOTS - 1)).ilog2() - (FINE_SLOTS - 1).ilog2();
    (halvings as u64 * COARSE_SLOTS + (value_ns >> halvings)) as usize
}

/// The lowest value of a slot.
const fn value_of(slot: usize) -> u64 {
    let slot = slot as u64;
    if slot < FINE_SLOTS {
        return slot;
    }
    let halvings = slot / COARSE_SLOTS - 1;
    (slot - halvings * COARSE_SLOTS) << halvings
}

/// Counts of one writer.
#[derive(Debug)]
struct Slots(Box<[AtomicU64]>);

impl Slots {
    fn new() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }

    fn add_to(&self, sums: &mut [u64]) {
        for (sum, count) in sums.iter_mut().zip(&self.0) {
            *sum += count.load(Ordering::Relaxed);
        }
    }
}

/// Collects the latencies of many threads. A clone is the same meter.
///
/// Each writer takes about 220 KiB until the first reading after its drop.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Writers>>);

#[derive(Debug, Default)]
struct Writers {
    live: Vec<Arc<Slots>>,
    /// Counts of dropped writers; empty until a writer is dropped.
    gone: Vec<u64>,
}

impl Meter {
    /// A meter without writers.
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer for one thread; its memory is allocated here.
    pub fn writer(&self) -> Writer {
        let slots = Arc::new(Slots::new());
        self.writers().live.push(Arc::clone(&slots));
        Writer { slots }
    }

    /// Everything recorded so far, in nanoseconds, including dropped writers. Writers continue meanwhile; their latest
    /// records may be missing.
    pub fn snapshot(&self) -> Histogram<u64> {
        histogram(self.sums().into_iter())
    }

    /// Starts a series of intervals; the first begins now. Several series do not disturb each other.
    pub fn intervals(&self) -> Intervals {
        Intervals { meter: self.clone(), taken: self.sums() }
    }

    fn writers(&self) -> MutexGuard<'_, Writers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sums(&self) -> Vec<u64> {
        let mut writers = self.writers();
        let Writers { live, gone } = &mut *writers;
        gone.resize(SLOTS, 0);
        live.retain(|slots| {
            // The other handle belonged to its writer.
            let is_gone = Arc::strong_count(slots) == 1;
            if is_gone {
                // The writer's last counts are visible, because dropping its handle released them.
                std::sync::atomic::fence(Ordering::Acquire);
                slots.add_to(gone);
            }
            !is_gone
        });
        let mut sums = gone.clone();
        live.iter().for_each(|slots| slots.add_to(&mut sums));
        sums
    }
}

fn histogram(counts: impl Iterator<Item = u64>) -> Histogram<u64> {
    let mut histogram = empty();
    for (slot, count) in counts.enumerate().filter(|(_, count)| *count > 0) {
        histogram.saturating_record_n(value_of(slot), count);
    }
    histogram
}

/// Records the latencies of one thread. It may move to another thread.
#[derive(Debug)]
pub struct Writer {
    slots: Arc<Slots>,
}

impl Writer {
    /// Counts one latency; a value above [`LATENCY_NS_MAX`] counts as that.
    #[inline]
    pub fn record(&mut self, latency: Duration) {
        self.record_ns(whole_ns(latency));
    }

    /// Counts one latency in nanoseconds; a value above [`LATENCY_NS_MAX`] counts as that.
    #[inline]
    pub fn record_ns(&mut self, latency_ns: u64) {
        let count = &self.slots.0[slot_of(latency_ns.min(LATENCY_NS_MAX))];
        // This thread is the only writer.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// The recordings of a meter from one reading to the next.
#[derive(Debug)]
pub struct Intervals {
    meter: Meter,
    taken: Vec<u64>,
}

impl Intervals {
    /// The recordings since the last call, in nanoseconds. Each sample is in exactly one interval.
    pub fn take(&mut self) -> Histogram<u64> {
        let taken = std::mem::replace(&mut self.taken, self.meter.sums());
        histogram(self.taken.iter().zip(taken).map(|(now, then)| now - then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn slots_are_the_buckets_of_the_histogram() {
        let histogram = empty();
        let mut value = 1;
        while value <= LATENCY_NS_MAX {
            for value in [value - 1, value, value + 1] {
                let slot = slot_of(value);
                assert_eq!(value_of(slot), histogram.lowest_equivalent(value), "{value}");
                assert!(slot <= slot_of(LATENCY_NS_MAX) + 1);
            }
            // Steps that match no pattern of powers of two.
            value = value * 21 / 20 + 1;
        }
        for slot in 0..SLOTS {
            assert_eq!(slot_of(value_of(slot)), slot);
        }
    }

    #[test]
    fn it_counts_as_a_histogram_does() {
        let meter = Meter::new();
        let mut writer = meter.writer();
        let mut recorder = super::super::Recorder::new();
        for step in 0..10_000_u64 {
            let latency = Duration::from_nanos(step * step * 37);
            writer.record(latency);
            recorder.record(latency);
        }
        writer.record_ns(u64::MAX);
        recorder.record(Duration::MAX);
        assert_eq!(&meter.snapshot(), recorder.histogram());
    }

    #[test]
    fn every_sample_is_in_one_interval() {
        const SAMPLES: u64 = 100_000;
        let meter = Meter::new();
        let mut intervals = meter.intervals();
        let writers: Vec<_> = (1..=3_u64)
            .map(|thread| {
                let mut writer = meter.writer();
                thread::spawn(move || {
                    for _ in 0..SAMPLES {
                        writer.record_ns(thread * 1000);
                    }
                })
            })
            .collect();
        let mut all = empty();
        while !writers.iter().all(thread::JoinHandle::is_finished) {
            all.add(intervals.take()).unwrap();
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        all.add(intervals.take()).unwrap();
        assert_eq!(all.len(), 3 * SAMPLES);
        assert_eq!(all, meter.snapshot());
        for thread in 1..=3 {
            assert_eq!(all.count_at(thread * 1000), SAMPLES);
        }
        assert!(intervals.take().is_empty());
    }

    #[test]
    fn writers_that_are_gone_still_count_and_take_no_memory() {
        let meter = Meter::new();
        for _ in 0..10 {
            meter.writer().record_ns(5);
            assert_eq!(meter.snapshot().count_at(5), meter.snapshot().len());
        }
        assert_eq!(meter.snapshot().len(), 10);
        assert!(meter.writers().live.is_empty());
    }
}
