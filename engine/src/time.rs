//! The one place where the engine reads a clock.
//!
//! The rest of the engine takes times as `u64` nanoseconds and is given the current time once per turn. In a simulated
//! world a [`Clock`] shows the world's time.

use std::time::{Duration, Instant};

use crate::sync::OnceLock;

/// The instant that counts as zero, the same for every clock of the process.
static EPOCH: OnceLock<Instant> = OnceLock::new();

/// The monotonic clock (`CLOCK_MONOTONIC` on Linux), in nanoseconds since the process first made one.
///
/// All clocks of a process agree, so a time may travel from one shard to another. Nanoseconds in a
/// `u64` last 584 years.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Instant,
    /// The clock was made in a simulated world: it shows the world's time, on the world's thread only.
    #[cfg(feature = "sim")]
    is_virtual: bool,
}

#[cfg(feature = "sim")]
thread_local! {
    /// The time of this thread's simulated world, or the last time of a world that has ended; and whether a world runs.
    static VIRTUAL_NS: std::cell::Cell<(u64, bool)> = const { std::cell::Cell::new((0, false)) };
}

/// Sets the time of this thread's simulated world; `None` ends the world.
#[cfg(feature = "sim")]
pub(crate) fn set_virtual_ns(now_ns: Option<u64>) {
    let (last_ns, _) = VIRTUAL_NS.get();
    VIRTUAL_NS.set((now_ns.unwrap_or(last_ns), now_ns.is_some()));
}

impl Clock {
    /// A clock; the first one sets the epoch.
    pub fn new() -> Clock {
        Clock {
            epoch: *EPOCH.get_or_init(Instant::now),
            #[cfg(feature = "sim")]
            is_virtual: VIRTUAL_NS.get().1,
        }
    }

    /// Nanoseconds since the epoch; never runs backwards.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        #[cfg(feature = "sim")]
        if self.is_virtual {
            return VIRTUAL_NS.get().0;
        }
        duration_ns(self.epoch.elapsed())
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

/// A duration in nanoseconds; more than 584 years become `u64::MAX`.
#[inline]
pub(crate) fn duration_ns(duration: Duration) -> u64 {
    // Spelled out because `as_nanos` computes in 128 bits.
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_agree_and_never_run_backwards() {
        let (a, b) = (Clock::new(), Clock::default());
        let mut last = 0;
        for _ in 0..1000 {
            let now = a.now_ns();
            assert!(now >= last);
            last = b.now_ns();
            assert!(last >= now);
        }
    }

    #[test]
    fn a_clock_measures_time() {
        let clock = Clock::new();
        let before = clock.now_ns();
        std::thread::sleep(Duration::from_millis(5));
        assert!(clock.now_ns() - before >= 5_000_000);
    }

    #[test]
    fn durations_convert_and_saturate() {
        assert_eq!(duration_ns(Duration::ZERO), 0);
        assert_eq!(duration_ns(Duration::new(3, 7)), 3_000_000_007);
        assert_eq!(duration_ns(Duration::MAX), u64::MAX);
    }
}
