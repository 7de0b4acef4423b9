//! The pause of a receiver between two looks at a sender of the same process.

/// Looks that bring fewer messages than this, but more than one, are too frequent.
const MESSAGES_MIN: usize = 16;
/// Looks that bring more than this are too rare.
const MESSAGES_MAX: usize = 64;
/// The longest time between two looks, in pauses of the processor: about a microsecond.
const PAUSES_MAX: u32 = 64;

/// How long a receiver that is faster than its sender pauses before it looks again.
///
/// If the receiver follows closely, each look takes away cache lines that the sender is about to write, and each
/// message then costs both sides several transfers of a line. After a short pause the receiver finds more messages. It
/// reads their lines one after another, and leaves the lines of the next messages alone. Looks that bring a single
/// message shorten the pause until there is none.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    pauses: u32,
}

impl Lag {
    /// A look has brought this many messages: adjusts the pause.
    #[inline]
    pub(crate) fn note(&mut self, messages: usize) {
        self.pauses = match messages {
            0 | MESSAGES_MIN..=MESSAGES_MAX => self.pauses,
            1 => self.pauses.saturating_sub(1),
            2..MESSAGES_MIN => (2 * self.pauses + 1).min(PAUSES_MAX),
            _ => self.pauses / 2,
        };
    }

    /// How long to pause, in pauses of the processor.
    #[inline]
    pub(crate) fn pauses(&self) -> u32 {
        self.pauses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(looks: &[usize]) -> u32 {
        let mut lag = Lag::default();
        looks.iter().for_each(|&messages| lag.note(messages));
        lag.pauses()
    }

    #[test]
    fn only_a_stream_is_waited_for() {
        assert_eq!(after(&[1, 0, 1, 1]), 0);
        assert_eq!(after(&[20, 64, 128]), 0);
        assert_eq!(after(&[2, 3, 15]), 7);
        assert_eq!(after(&[5; 100]), PAUSES_MAX);
    }

    #[test]
    fn it_ends_with_the_stream() {
        let stream = [5; 10];
        assert_eq!(after(&[&stream[..], &[1; 64]].concat()), 0);
        assert_eq!(after(&[&stream[..], &[128; 7]].concat()), 0);
        assert_eq!(after(&[&stream[..], &[0; 9], &[30; 9]].concat()), PAUSES_MAX);
    }
}
