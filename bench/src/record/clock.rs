//! A clock that is cheap to read.

use std::time::{Duration, Instant};

/// Reads in one batch of a cost measurement, and number of batches.
const READS: u32 = 10_000;
const BATCHES: u32 = 20;

/// Nanoseconds from the processor's time stamp counter, if that runs at a constant rate on every core and in every
/// power state; otherwise from the system's monotonic clock. The first clock of a process compares the two for up to
/// 200 ms; later ones reuse the result. Cheap to clone; a clone reads the same time.
#[derive(Clone, Debug)]
pub struct Clock(quanta::Clock);

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A calibrated clock.
    pub fn new() -> Self {
        Self(quanta::Clock::new())
    }

    /// A reading, whose number only [`Clock::since_ns`] can interpret.
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.raw()
    }

    /// Nanoseconds from an earlier reading to now; 0 if the reading is not earlier.
    #[inline]
    pub fn since_ns(&self, earlier: u64) -> u64 {
        self.0.delta_as_nanos(earlier, self.0.raw())
    }

    /// The cost of one [`Clock::read`] on this machine: the best of several batches, because a disturbance can only
    /// slow a batch down. Takes some milliseconds.
    pub fn read_cost(&self) -> Duration {
        cheapest(|| self.read())
    }

    /// The same for [`Instant::now`], for comparison.
    pub fn instant_cost() -> Duration {
        cheapest(Instant::now)
    }
}

fn cheapest<T>(read: impl Fn() -> T) -> Duration {
    let batch = |_| {
        let started = Instant::now();
        for _ in 0..READS {
            std::hint::black_box(read());
        }
        started.elapsed() / READS
    };
    (0..BATCHES).map(batch).min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_system() {
        let clock = Clock::new();
        let (started, instant) = (clock.read(), Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        let (ours, theirs) = (clock.since_ns(started), instant.elapsed().as_nanos() as u64);
        // The two clocks were not read at the same time.
        assert!(ours.abs_diff(theirs) < 10_000_000, "{ours} and {theirs}");
        assert!(ours >= 49_000_000, "{ours}");
        assert_eq!(clock.since_ns(u64::MAX), 0);
    }

    #[test]
    fn its_cost_is_known() {
        let (ours, theirs) = (Clock::new().read_cost(), Clock::instant_cost());
        println!("a reading takes {ours:?}, Instant::now {theirs:?}");
        assert!(ours < Duration::from_micros(10) && theirs < Duration::from_micros(10));
    }
}
