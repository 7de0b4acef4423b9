//! Sequence numbers: every body starts with one, every receiver checks it.
//!
//! ```text
//!  0        8                       size_bytes
//! +--------+---------------------------+
//! | u64 LE | filler                    |
//! +--------+---------------------------+
//! ```

use crate::error::{Failure, Result};

/// Bytes a sequence number takes, hence the smallest body.
pub const SEQUENCE_BYTES: usize = 8;

/// The sequence number of the message that ends a stream.
pub const END: u64 = u64::MAX;

/// Writes `sequence` to the front of `body`.
///
/// # Panics
/// If the body is shorter than [`SEQUENCE_BYTES`]; the command line refuses such sizes.
#[inline(always)]
pub fn stamp(body: &mut [u8], sequence: u64) {
    body[..SEQUENCE_BYTES].copy_from_slice(&sequence.to_le_bytes());
}

/// A body of `size_bytes` filled with a pattern that is neither zero nor repeating within a cache line.
pub fn filler(size_bytes: usize) -> Vec<u8> {
    (0..size_bytes).map(|i| (i % 251) as u8).collect()
}

/// What an accepted message means for the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The message that was due.
    InOrder,
    /// The end marker.
    End,
}

/// Checks that messages arrive once each, in order and whole. Sequence numbers start at zero.
#[derive(Debug)]
pub struct SequenceCheck {
    expected: u64,
    body_bytes: usize,
}

impl SequenceCheck {
    /// A check for a stream of bodies of `body_bytes` each.
    pub fn new(body_bytes: usize) -> Self {
        Self { expected: 0, body_bytes }
    }

    /// Messages accepted so far, which is also the sequence number that is due; the end marker does not count.
    #[inline(always)]
    pub fn accepted(&self) -> u64 {
        self.expected
    }

    /// Judges one received body.
    ///
    /// # Errors
    /// [`Failure::Gap`], [`Failure::Repeat`] or [`Failure::WrongLength`].
    // Forced inline: at 50 million messages a second a call and a spilled Result are a tenth of the budget.
    #[inline(always)]
    pub fn accept(&mut self, body: &[u8]) -> Result<Verdict> {
        if let Some(stamp) = body.first_chunk::<SEQUENCE_BYTES>()
            && u64::from_le_bytes(*stamp) == self.expected
            && body.len() == self.body_bytes
        {
            self.expected += 1;
            return Ok(Verdict::InOrder);
        }
        self.explain(body)
    }

    #[cold]
    #[inline(never)]
    fn explain(&self, body: &[u8]) -> Result<Verdict> {
        let expected = self.expected;
        let stamp = match body.first_chunk::<SEQUENCE_BYTES>() {
            Some(stamp) if body.len() == self.body_bytes => u64::from_le_bytes(*stamp),
            _ => {
                return Err(Failure::WrongLength {
                    expected,
                    expected_bytes: self.body_bytes,
                    received_bytes: body.len(),
                });
            }
        };
        match stamp {
            END => Ok(Verdict::End),
            received if received > expected => Err(Failure::Gap { expected, received }),
            received => Err(Failure::Repeat { expected, received }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(sequence: u64) -> Vec<u8> {
        let mut body = filler(16);
        stamp(&mut body, sequence);
        body
    }

    #[test]
    fn in_order_then_end() {
        let mut check = SequenceCheck::new(16);
        for sequence in 0..3 {
            assert_eq!(check.accept(&body(sequence)).unwrap(), Verdict::InOrder);
        }
        assert_eq!(check.accept(&body(END)).unwrap(), Verdict::End);
        assert_eq!(check.accepted(), 3);
    }

    #[test]
    fn a_gap_fails() {
        let mut check = SequenceCheck::new(16);
        check.accept(&body(0)).unwrap();
        assert!(matches!(check.accept(&body(2)), Err(Failure::Gap { expected: 1, received: 2 })));
    }

    #[test]
    fn a_lost_first_message_fails() {
        let mut check = SequenceCheck::new(16);
        assert!(matches!(check.accept(&body(1)), Err(Failure::Gap { expected: 0, received: 1 })));
    }

    #[test]
    fn a_repeat_fails() {
        let mut check = SequenceCheck::new(16);
        check.accept(&body(0)).unwrap();
        assert!(matches!(
            check.accept(&body(0)),
            Err(Failure::Repeat { expected: 1, received: 0 })
        ));
    }

    #[test]
    fn a_wrong_length_fails() {
        let mut check = SequenceCheck::new(16);
        let longer = [body(0), vec![0]].concat();
        for wrong in [&longer[..], &body(0)[..15], &body(0)[..4], &[]] {
            let received = wrong.len();
            match check.accept(wrong) {
                Err(Failure::WrongLength { expected: 0, expected_bytes: 16, received_bytes }) => {
                    assert_eq!(received_bytes, received);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
