//! The faults of the simulated network, how often they happen, and the random numbers behind them.

/// A small generator of random numbers (SplitMix64): the same seed gives the same run.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator for `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x6a09_e667_f3bc_c909)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below((high.max(low) - low).saturating_add(1))
    }

    /// Whether an event with this probability, in parts per million, happens.
    pub fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(MILLION) < u64::from(ppm)
    }

    /// Small numbers more often than large ones: each number of bits, up to that of `high`, is equally likely.
    fn skewed(&mut self, high: u64) -> u64 {
        let bits = u64::from(u64::BITS - high.leading_zeros());
        let bits = self.between(0, bits);
        self.below(1 << bits.min(63)).min(high)
    }
}

const MILLION: u64 = 1_000_000;
const MS: u64 = 1_000_000;

/// Bounds for the faults of a world, in parts per million of the occasions there are. Each world draws its own ratios
/// from the seed, up to these bounds. Some ratios are drawn as zero, so that worlds also differ in the kinds of faults.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// A send is taken, or a receive delivers, in a piece of random size.
    pub short_ppm: u32,
    /// A sent piece breaks its connection at some later time; both ends see `ECONNRESET`.
    pub reset_ppm: u32,
    /// A connect is refused although a socket listens.
    pub refuse_ppm: u32,
    /// A connect fails otherwise (`ETIMEDOUT`, `EHOSTUNREACH`).
    pub connect_fail_ppm: u32,
    /// A connect takes up to [`Faults::slow_ns_max`].
    pub slow_ppm: u32,
    /// An accept fails with `EMFILE` and ends.
    pub accept_fail_ppm: u32,
    /// An accept ends with the connection it brings.
    pub accept_end_ppm: u32,
    /// A receive finds no buffer although there are some.
    pub no_buffer_ppm: u32,
    /// A receive ends with the bytes it brings.
    pub receive_end_ppm: u32,
    /// A buffer of the pool is given up before it is full.
    pub buffer_end_ppm: u32,
    /// A cancellation comes late, or the operation gets on before it takes effect.
    pub cancel_race_ppm: u32,
    /// A finished operation is reported late.
    pub late_ppm: u32,
    /// A wait ends, or a shard is turned, without a reason.
    pub spurious_ppm: u32,
    /// How long a piece is on its way at most.
    pub delay_ns_max: u64,
    /// How long a slow connect and a late completion take at most.
    pub slow_ns_max: u64,
    /// The smallest window: how many bytes a direction of a stream holds before its sender has to wait.
    pub window_bytes_min: u64,
    /// The largest window.
    pub window_bytes_max: u64,
}

impl Faults {
    /// A network without faults: whole pieces, no delays but a fixed one, wide windows.
    #[must_use]
    pub fn none() -> Self {
        Self {
            short_ppm: 0,
            reset_ppm: 0,
            refuse_ppm: 0,
            connect_fail_ppm: 0,
            slow_ppm: 0,
            accept_fail_ppm: 0,
            accept_end_ppm: 0,
            no_buffer_ppm: 0,
            receive_end_ppm: 0,
            buffer_end_ppm: 0,
            cancel_race_ppm: 0,
            late_ppm: 0,
            spurious_ppm: 0,
            delay_ns_max: 0,
            slow_ns_max: 0,
            window_bytes_min: 256 << 10,
            window_bytes_max: 256 << 10,
        }
    }

    /// All faults that a correct program does not notice: no connection is lost, refused or fails.
    #[must_use]
    pub fn lossless() -> Self {
        Self { reset_ppm: 0, refuse_ppm: 0, connect_fail_ppm: 0, accept_fail_ppm: 0, ..Self::all() }
    }

    /// All faults.
    #[must_use]
    pub fn all() -> Self {
        Self {
            short_ppm: 900_000,
            reset_ppm: 300_000,
            refuse_ppm: 300_000,
            connect_fail_ppm: 200_000,
            slow_ppm: 300_000,
            accept_fail_ppm: 200_000,
            accept_end_ppm: 300_000,
            no_buffer_ppm: 200_000,
            receive_end_ppm: 300_000,
            buffer_end_ppm: 300_000,
            cancel_race_ppm: 800_000,
            late_ppm: 300_000,
            spurious_ppm: 100_000,
            delay_ns_max: 2 * MS,
            slow_ns_max: 200 * MS,
            window_bytes_min: 64,
            window_bytes_max: 128 << 10,
        }
    }

    /// Draws the ratios of one world.
    pub(crate) fn draw(&self, random: &mut Random) -> Self {
        // Every fourth kind of fault is absent from a world, and another fourth is rare.
        let mut ratio = |max: u32| match random.below(4) {
            0 => 0,
            1 => random.skewed(u64::from(max)) as u32,
            _ => random.between(0, u64::from(max)) as u32,
        };
        let ratios = Self {
            short_ppm: ratio(self.short_ppm),
            reset_ppm: ratio(self.reset_ppm),
            refuse_ppm: ratio(self.refuse_ppm),
            connect_fail_ppm: ratio(self.connect_fail_ppm),
            slow_ppm: ratio(self.slow_ppm),
            accept_fail_ppm: ratio(self.accept_fail_ppm),
            accept_end_ppm: ratio(self.accept_end_ppm),
            no_buffer_ppm: ratio(self.no_buffer_ppm),
            receive_end_ppm: ratio(self.receive_end_ppm),
            buffer_end_ppm: ratio(self.buffer_end_ppm),
            cancel_race_ppm: ratio(self.cancel_race_ppm),
            late_ppm: ratio(self.late_ppm),
            spurious_ppm: ratio(self.spurious_ppm),
            ..self.clone()
        };
        let window_bytes = (self.window_bytes_min + random.skewed(self.window_bytes_max))
            .clamp(self.window_bytes_min.max(1), self.window_bytes_max.max(1));
        Self {
            delay_ns_max: random.skewed(self.delay_ns_max),
            slow_ns_max: random.skewed(self.slow_ns_max),
            window_bytes_min: window_bytes,
            window_bytes_max: window_bytes,
            ..ratios
        }
    }

    /// Ends all faults; delays and windows stay.
    pub(crate) fn heal(&mut self) {
        let Self { delay_ns_max, slow_ns_max, window_bytes_min, window_bytes_max, .. } = *self;
        *self =
            Self { delay_ns_max, slow_ns_max, window_bytes_min, window_bytes_max, ..Self::none() };
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_bounds_and_reach_them() {
        let mut random = Random::new(1);
        let (mut low, mut high) = (false, false);
        for _ in 0..1000 {
            let number = random.between(3, 7);
            assert!((3..=7).contains(&number));
            low |= number == 3;
            high |= number == 7;
            assert!(random.skewed(9) <= 9 && !random.chance(0) && random.chance(1_000_000));
        }
        assert!(low && high);
        assert_eq!((random.below(0), random.skewed(0), random.between(5, 5)), (0, 0, 5));
        random.between(0, u64::MAX);
    }

    #[test]
    fn ratios_are_drawn_below_their_bounds() {
        let all = Faults::all();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut drawn = all.draw(&mut Random::new(seed));
            assert!(drawn.short_ppm <= all.short_ppm && drawn.delay_ns_max <= all.delay_ns_max);
            assert!((1..=all.window_bytes_max).contains(&drawn.window_bytes_max));
            seen.insert(drawn.reset_ppm);
            drawn.heal();
            assert_eq!((drawn.short_ppm, drawn.reset_ppm, drawn.late_ppm), (0, 0, 0));
        }
        assert!(seen.len() > 50 && seen.contains(&0));
        assert_eq!(Faults::none().draw(&mut Random::new(9)), Faults::none());
    }
}
