//! Durations of the public interface as points of the engine's clock.

use std::time::Duration;

use zring_engine::Clock;

/// The time at which a duration from now is over; `None` has no end.
pub(crate) fn deadline_ns(clock: Clock, timeout: Option<Duration>) -> Option<u64> {
    Some(clock.now_ns().saturating_add(duration_ns(timeout?)))
}

/// A duration in nanoseconds, at most some centuries.
pub(crate) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
