//! Pauses of a connecting socket between attempts.

use std::time::Duration;

/// The pauses between attempts to connect, by libzmq's rule (`ZMQ_RECONNECT_IVL`, `ZMQ_RECONNECT_IVL_MAX`).
///
/// ```text
/// delay = base + jitter       jitter uniform in [0, ivl)
/// base  = ivl at first; doubled after each attempt up to ivl_max, if ivl_max > ivl; ivl again after a success
/// ```
///
/// The jitter keeps the peers of a restarted server from coming back all at once. It stays when `base` has reached
/// `ivl_max`: a delay is below `max(ivl, ivl_max) + ivl`. Randomness is an argument, time is only ever returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    ivl_ns: u64,
    base_ns: u64,
    base_ns_max: u64,
}

impl Backoff {
    /// Delays that begin around `ivl` and double up to `ivl_max`; no growth unless `ivl_max` is above `ivl`.
    /// A zero `ivl` retries at once, every time.
    pub(crate) fn new(ivl: Duration, ivl_max: Duration) -> Backoff {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Backoff { ivl_ns: ns(ivl), base_ns: ns(ivl), base_ns_max: ns(ivl_max).max(ns(ivl)) }
    }

    /// The pause before the next attempt, in nanoseconds. `random` is any number, ideally a new one each time.
    pub(crate) fn next_delay_ns(&mut self, random: u32) -> u64 {
        // Scaled, because a remainder of 32 bits covers only four seconds in nanoseconds.
        let jitter_ns = (u128::from(self.ivl_ns) * u128::from(random)) >> u32::BITS;
        let jitter_ns = u64::try_from(jitter_ns).unwrap_or(u64::MAX);
        let delay_ns = self.base_ns.saturating_add(jitter_ns);
        self.base_ns = self.base_ns.saturating_mul(2).min(self.base_ns_max);
        delay_ns
    }

    /// A connection succeeded, its handshake included: the next pause is a first one again.
    pub(crate) fn reset(&mut self) {
        self.base_ns = self.ivl_ns;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn backoff(ivl_ms: u64, ivl_max_ms: u64) -> Backoff {
        Backoff::new(Duration::from_millis(ivl_ms), Duration::from_millis(ivl_max_ms))
    }

    #[test]
    fn without_a_maximum_the_interval_stays() {
        for ivl_max_ms in [0, 50, 100] {
            let mut backoff = backoff(100, ivl_max_ms);
            for _ in 0..10 {
                assert_eq!(backoff.next_delay_ns(0), 100 * MS);
            }
        }
    }

    #[test]
    fn it_doubles_up_to_the_maximum_and_begins_again_after_a_success() {
        let mut backoff = backoff(100, 500);
        let delays: Vec<u64> = (0..5).map(|_| backoff.next_delay_ns(0) / MS).collect();
        assert_eq!(delays, [100, 200, 400, 500, 500]);
        backoff.reset();
        assert_eq!(backoff.next_delay_ns(0), 100 * MS);
        assert_eq!(backoff.next_delay_ns(0), 200 * MS);
    }

    #[test]
    fn jitter_covers_one_interval_at_every_stage() {
        let mut backoff = backoff(100, 400);
        assert_eq!(backoff.next_delay_ns(1 << 31), 150 * MS);
        let longest = backoff.next_delay_ns(u32::MAX);
        assert!((299 * MS..300 * MS).contains(&longest), "{longest}");
        backoff.next_delay_ns(0);
        assert_eq!(backoff.next_delay_ns(1 << 31), 450 * MS);
    }

    #[test]
    fn zero_retries_at_once() {
        let mut backoff = backoff(0, 500);
        for _ in 0..3 {
            assert_eq!(backoff.next_delay_ns(u32::MAX), 0);
        }
    }

    #[test]
    fn huge_intervals_saturate() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!(backoff.next_delay_ns(u32::MAX), u64::MAX);
        assert_eq!(backoff.next_delay_ns(0), u64::MAX);
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(
            ivl_ms in 1..10_000u64,
            ivl_max_ms in 0..100_000u64,
            randoms in prop::collection::vec(any::<u32>(), 1..40),
        ) {
            let mut backoff = backoff(ivl_ms, ivl_max_ms);
            for random in randoms {
                let delay_ns = backoff.next_delay_ns(random);
                prop_assert!(delay_ns >= ivl_ms * MS);
                prop_assert!(delay_ns < (ivl_ms.max(ivl_max_ms) + ivl_ms) * MS);
            }
        }
    }
}
