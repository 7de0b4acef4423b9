//! Durations of the public interface as points of the engine's clock.

use std::time::Duration;

use zring_engine::Clock;

/// The time at which a timeout that begins now is over; `None` if it never is.
pub(crate) fn deadline_ns(clock: Clock, timeout: Option<Duration>) -> Option<u64> {
    Some(clock.now_ns().saturating_add(duration_ns(timeout?)))
}

/// A duration in nanoseconds; a longer one than fits counts as `u64::MAX`, which is some centuries.
pub(crate) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
