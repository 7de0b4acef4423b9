//! When looking for a moment before a sleep pays.

/// Decides whether a wait begins with looking, from how the last waits went.
///
/// Looking pays while the answer is on its way: it saves the wake-up, which costs more than the answer takes. Waits
/// begin to look after some short sleeps in a row, and go on while it pays. After each look in vain it takes more short
/// sleeps.
///
/// A thread that looks has to yield the processor now and then ([`Spell::rest`]): the other side may need this very
/// core to answer.
///
/// ```
/// use zring_engine::lead::Adaptive;
///
/// let mut adaptive = Adaptive::default();
/// let mut now_ns = 0;
/// for _ in 0..2 {
///     let spell = adaptive.begin(now_ns);
///     assert_eq!(spell.look_until_ns(), 0, "it sleeps");
///     now_ns += 20_000;
///     adaptive.end(spell, Some(now_ns));
/// }
/// let spell = adaptive.begin(now_ns);
/// assert_eq!(spell.look_until_ns(), now_ns + Adaptive::LOOK_NS, "both sleeps were short");
/// adaptive.end(spell, None);
/// assert_eq!(adaptive.begin(now_ns).look_until_ns(), 0, "and yet it was in vain");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Adaptive {
    /// Short sleeps in a row.
    short: u32,
    /// How many short sleeps in a row it takes before a wait looks.
    needs: u32,
    /// Looks that paid, since the last look in vain or the last time that `needs` was halved.
    paid: u32,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { short: 0, needs: Self::NEEDS_MIN, paid: 0 }
    }
}

impl Adaptive {
    /// How long a wait looks at most, in nanoseconds: several times a wake-up across two cores.
    pub const LOOK_NS: u64 = 100_000;
    /// The longest sleep that counts as short. It includes two wake-ups, each of which can take longer than the answer.
    const SHORT_NS: u64 = 4 * Self::LOOK_NS;
    const NEEDS_MIN: u32 = 2;
    const NEEDS_MAX: u32 = 1024;
    /// How many looks in a row have to pay before `needs` is halved.
    const PAID: u32 = 16;

    /// A wait begins.
    #[inline]
    pub fn begin(&self, now_ns: u64) -> Spell {
        Spell { looks: self.short >= self.needs, since_ns: now_ns, rests: 0 }
    }

    /// The wait ends. It had its result by the given time; `None`: it has no result.
    #[inline]
    pub fn end(&mut self, spell: Spell, brought_at_ns: Option<u64>) {
        let bound_ns = if spell.looks { Self::LOOK_NS } else { Self::SHORT_NS };
        let over_ns = spell.since_ns.saturating_add(bound_ns);
        let is_short = brought_at_ns.is_some_and(|at_ns| at_ns <= over_ns);
        match (spell.looks, is_short) {
            (true, true) => {
                self.paid += 1;
                if self.paid == Self::PAID {
                    self.paid = 0;
                    self.needs = (self.needs / 2).max(Self::NEEDS_MIN);
                }
            }
            (true, false) => {
                (self.short, self.paid) = (0, 0);
                self.needs = (self.needs * 2).min(Self::NEEDS_MAX);
            }
            (false, true) => self.short = self.short.saturating_add(1),
            (false, false) => self.short = 0,
        }
    }
}

/// A wait that has begun.
#[derive(Debug, Clone, Copy)]
#[must_use = "how it ended decides about the next one"]
pub struct Spell {
    looks: bool,
    since_ns: u64,
    rests: u32,
}

impl Spell {
    /// Until when the wait looks; 0: it sleeps at once.
    #[inline]
    #[must_use]
    pub fn look_until_ns(&self) -> u64 {
        if self.looks { self.since_ns.saturating_add(Adaptive::LOOK_NS) } else { 0 }
    }

    /// A pause between two looks: yields the processor after the first look, and then after each `LOOKS_PER_YIELD`.
    #[inline]
    pub fn rest(&mut self) {
        /// A yield that finds no other thread costs about as much as a look at the readiness of a descriptor.
        const LOOKS_PER_YIELD: u32 = 8;
        if self.rests.is_multiple_of(LOOKS_PER_YIELD) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
        self.rests = self.rests.wrapping_add(1);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// How many of `count` waits begin with looking, if sleeps take `sleep_ns` and the looks of `is_vain` find nothing.
    fn looks(
        adaptive: &mut Adaptive,
        count: usize,
        sleep_ns: u64,
        is_vain: impl Fn(usize) -> bool,
    ) -> usize {
        let mut looked = 0;
        for _ in 0..count {
            let spell = adaptive.begin(0);
            looked += usize::from(spell.looks);
            let brought_at_ns = match spell.looks {
                true if is_vain(looked) => Adaptive::LOOK_NS + 1,
                true => 8_000,
                false => sleep_ns,
            };
            adaptive.end(spell, Some(brought_at_ns));
        }
        looked
    }

    #[test]
    fn a_conversation_is_looked_for_from_its_third_wait_on() {
        assert_eq!(looks(&mut Adaptive::default(), 1000, 60_000, |_| false), 998);
        let slow_ns = 3 * Adaptive::LOOK_NS;
        assert_eq!(looks(&mut Adaptive::default(), 1000, slow_ns, |_| false), 998);
        // An answer that is late now and then costs some sleeps.
        assert!(looks(&mut Adaptive::default(), 1000, 60_000, |at| at % 50 == 0) > 900);
    }

    #[test]
    fn looking_in_vain_becomes_rare() {
        let mut adaptive = Adaptive::default();
        assert!(looks(&mut adaptive, 20_000, 20_000, |_| true) < 40);
        let often = looks(&mut Adaptive::default(), 20_000, 20_000, |at| at % 4 == 0);
        assert!(often < 300, "{often}");
        // Looking comes back when it pays.
        assert!(looks(&mut adaptive, 20_000, 20_000, |_| false) > 18_000);
    }

    #[test]
    fn long_waits_and_vain_ones_are_slept_through() {
        let mut adaptive = Adaptive::default();
        assert_eq!(looks(&mut adaptive, 1000, Adaptive::SHORT_NS + 1, |_| false), 0);
        for _ in 0..1000 {
            let spell = adaptive.begin(0);
            assert_eq!(spell.look_until_ns(), 0);
            adaptive.end(spell, None);
        }
    }
}
