//! Sequence numbers: every body starts with one, and every receiver checks it.
//!
//! ```text
//!  0        8                       size_bytes
//! +--------+---------------------------+
//! | u64 LE | filler                    |
//! +--------+---------------------------+
//! ```
//! With several senders to one receiver, the upper 16 bits are the number of the stream ([`first_of_stream`]).

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{Failure, Result};
use crate::record::Recorder;

/// Length of a sequence number, and hence of the smallest body.
pub const SEQUENCE_BYTES: usize = 8;

/// The sequence number of the message that ends a stream.
pub const END: u64 = u64::MAX;

/// The sequence number of the messages by which a publisher finds its subscribers before it begins.
pub const HELLO: u64 = u64::MAX - 1;

/// The number of low bits that count within a stream.
const STREAM_SHIFT: u32 = 48;

/// The sequence number of the first message of stream `stream` to a receiver.
pub fn first_of_stream(stream: u32) -> u64 {
    u64::from(stream) << STREAM_SHIFT
}

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

/// The meaning of an accepted message for the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The message that was due, or one of those in front of a stream.
    InOrder,
    /// The end marker.
    End,
}

/// When each message of a stream is due. Both sides know the schedule, so no time stamp has to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    started: Instant,
    messages_per_second: f64,
    untimed: u64,
}

impl Schedule {
    /// Starts now with message 0; the first `untimed` messages are not recorded.
    pub fn start_now(messages_per_second: f64, untimed: u64) -> Self {
        Self { started: Instant::now(), messages_per_second, untimed }
    }

    /// When message `sequence` is due.
    #[inline]
    pub fn due(&self, sequence: u64) -> Instant {
        self.started + Duration::from_secs_f64(sequence as f64 / self.messages_per_second)
    }

    /// How many messages are due at `now`, counted from the start.
    #[inline]
    pub fn due_by(&self, now: Instant) -> u64 {
        let seconds = now.saturating_duration_since(self.started).as_secs_f64();
        (seconds * self.messages_per_second) as u64 + 1
    }

    /// Whether the latency of message `sequence` counts.
    pub fn is_timed(&self, sequence: u64) -> bool {
        sequence >= self.untimed
    }
}

/// A schedule that the sender sets when it starts and the receiver then reads.
pub type SharedSchedule = Arc<OnceLock<Schedule>>;

/// Latencies relative to a schedule.
#[derive(Debug)]
struct Timing {
    schedule: SharedSchedule,
    recorder: Recorder,
}

/// Checks that messages arrive once each, in order and whole. Sequence numbers start at zero.
#[derive(Debug)]
pub struct SequenceCheck {
    expected: u64,
    /// The length that the fast path accepts: the bodies' length, or one that no body has.
    short_way_bytes: usize,
    body_bytes: usize,
    is_lossy: bool,
    dropped: u64,
    has_heard: bool,
    ends: u32,
    /// The number due in each stream; empty with a single stream. For the stream of the last message the current number
    /// is in `expected`.
    streams: Vec<u64>,
    timing: Option<Timing>,
}

impl SequenceCheck {
    /// A check for a stream of bodies of `body_bytes` each.
    pub fn new(body_bytes: usize) -> Self {
        Self {
            expected: 0,
            short_way_bytes: body_bytes,
            body_bytes,
            is_lossy: false,
            dropped: 0,
            has_heard: false,
            ends: 0,
            streams: Vec::new(),
            timing: None,
        }
    }

    /// A check for a subscriber: gaps are legal and counted, [`HELLO`]s may come first, and the end may be repeated.
    pub fn lossy(body_bytes: usize) -> Self {
        Self { is_lossy: true, ..Self::new(body_bytes) }
    }

    /// A check for `streams` interleaved streams; each must be in order, and each has its end.
    pub fn mingled(body_bytes: usize, streams: u32) -> Self {
        Self { streams: (0..streams).map(first_of_stream).collect(), ..Self::new(body_bytes) }
    }

    /// A check that records how late after its time in `schedule` each message arrived.
    pub fn timed(body_bytes: usize, schedule: SharedSchedule) -> Self {
        let timing = Timing { schedule, recorder: Recorder::new() };
        Self { short_way_bytes: usize::MAX, timing: Some(timing), ..Self::new(body_bytes) }
    }

    /// Messages accepted so far, without [`HELLO`]s and end markers. In a lossless stream this is also the sequence
    /// number that is due.
    #[inline(always)]
    pub fn accepted(&self) -> u64 {
        if self.streams.is_empty() { self.expected - self.dropped } else { self.of_all_streams() }
    }

    #[cold]
    fn of_all_streams(&self) -> u64 {
        let current = self.expected >> STREAM_SHIFT;
        let of = |stream: u64, due: u64| due - (stream << STREAM_SHIFT);
        let others = (0..).zip(&self.streams).filter(|(stream, _)| *stream != current);
        others.map(|(stream, due)| of(stream, *due)).sum::<u64>() + of(current, self.expected)
    }

    /// The sequence number that is due: one after the last, regardless of drops.
    pub fn due(&self) -> u64 {
        self.expected
    }

    /// Messages that a lossy stream skipped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether gaps are legal and ends may be repeated.
    pub fn is_lossy(&self) -> bool {
        self.is_lossy
    }

    /// Whether any message has arrived yet.
    pub fn has_heard(&self) -> bool {
        self.has_heard || self.expected > 0 || self.ends > 0
    }

    /// End markers accepted so far: one per stream, or any number in a lossy one.
    pub fn ends(&self) -> u32 {
        self.ends
    }

    /// Takes the latencies out of a timed check.
    pub fn into_recorder(self) -> Option<Recorder> {
        self.timing.map(|timing| timing.recorder)
    }

    /// Checks one received body.
    ///
    /// # Errors
    /// [`Failure::Gap`], [`Failure::Repeat`] or [`Failure::WrongLength`].
    // Forced inline: at 50 million messages a second a call and a spilled Result are a tenth of the budget.
    #[inline(always)]
    pub fn accept(&mut self, body: &[u8]) -> Result<Verdict> {
        if let Some(stamp) = body.first_chunk::<SEQUENCE_BYTES>()
            && u64::from_le_bytes(*stamp) == self.expected
            && body.len() == self.short_way_bytes
        {
            self.expected += 1;
            return Ok(Verdict::InOrder);
        }
        self.accept_otherwise(body)
    }

    /// The slow path: every message except the next one of the same stream.
    // Out of line, to keep it away from streams that are measured by their rate.
    #[cold]
    #[inline(never)]
    fn accept_otherwise(&mut self, body: &[u8]) -> Result<Verdict> {
        let received = match body.first_chunk::<SEQUENCE_BYTES>() {
            Some(stamp) if body.len() == self.body_bytes => u64::from_le_bytes(*stamp),
            _ => return Err(self.wrong_length(body)),
        };
        if received == END {
            self.ends += 1;
            if self.streams.is_empty() {
                // All messages after the end take the slow path.
                self.short_way_bytes = usize::MAX;
            }
            return Ok(Verdict::End);
        }
        if received == HELLO && self.is_lossy {
            return self.greet();
        }
        self.switch_to(received >> STREAM_SHIFT);
        let expected = self.expected;
        if received > expected && self.is_lossy {
            self.dropped += received - expected;
        } else if received > expected {
            return Err(Failure::Gap { expected, received });
        } else if received < expected || self.ends > 0 && self.streams.is_empty() {
            return Err(Failure::Repeat { expected, received });
        }
        self.expected = received + 1;
        self.time(received);
        Ok(Verdict::InOrder)
    }

    fn greet(&mut self) -> Result<Verdict> {
        self.has_heard = true;
        match self.expected {
            0 if self.ends == 0 => Ok(Verdict::InOrder),
            expected => Err(Failure::Repeat { expected, received: HELLO }),
        }
    }

    /// Switches to stream `stream`, whose next message is then expected.
    fn switch_to(&mut self, stream: u64) {
        let current = (self.expected >> STREAM_SHIFT) as usize;
        if let Some(&due) = self.streams.get(stream as usize) {
            self.streams[current] = self.expected;
            if stream as usize != current {
                self.expected = due;
            }
        }
    }

    fn time(&mut self, sequence: u64) {
        if let Some(timing) = &mut self.timing
            && let Some(schedule) = timing.schedule.get()
            && schedule.is_timed(sequence)
        {
            let due = schedule.due(sequence);
            timing.recorder.record(Instant::now().saturating_duration_since(due));
        }
    }

    #[cold]
    fn wrong_length(&self, body: &[u8]) -> Failure {
        Failure::WrongLength {
            expected: self.expected,
            expected_bytes: self.body_bytes,
            received_bytes: body.len(),
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

    #[test]
    fn a_lossy_stream_counts_what_it_skips() {
        let mut check = SequenceCheck::lossy(16);
        assert!(!check.has_heard());
        for _ in 0..2 {
            assert_eq!(check.accept(&body(HELLO)).unwrap(), Verdict::InOrder);
        }
        assert!(check.has_heard());
        for sequence in [2, 3, 7] {
            check.accept(&body(sequence)).unwrap();
        }
        assert_eq!((check.accepted(), check.dropped(), check.due()), (3, 5, 8));
        for wrong in [7, 3, HELLO] {
            assert!(matches!(check.accept(&body(wrong)), Err(Failure::Repeat { .. })), "{wrong}");
        }
        for ends in 1..=2 {
            assert_eq!(check.accept(&body(END)).unwrap(), Verdict::End);
            assert_eq!(check.ends(), ends);
        }
        assert!(check.accept(&body(8)).is_err(), "behind the end");
    }

    #[test]
    fn only_a_lossy_stream_begins_with_a_hello() {
        let mut check = SequenceCheck::new(16);
        assert!(matches!(check.accept(&body(HELLO)), Err(Failure::Gap { .. })));
    }

    #[test]
    fn mingled_streams_have_an_order_each() {
        let mut check = SequenceCheck::mingled(16, 3);
        let at = |stream, sequence| body(first_of_stream(stream) + sequence);
        for message in [at(0, 0), at(2, 0), at(2, 1), at(0, 1), at(1, 0), at(2, 2)] {
            assert_eq!(check.accept(&message).unwrap(), Verdict::InOrder);
        }
        assert_eq!(check.accepted(), 6);
        assert_eq!(check.accept(&body(END)).unwrap(), Verdict::End);
        assert_eq!(check.accept(&at(0, 2)).unwrap(), Verdict::InOrder);
        assert!(matches!(check.accept(&at(1, 2)), Err(Failure::Gap { .. })));
        assert!(matches!(check.accept(&at(0, 2)), Err(Failure::Repeat { .. })));
        // There is no fourth stream.
        assert!(check.accept(&at(3, 0)).is_err());
    }

    #[test]
    fn a_timed_check_counts_from_the_schedule() {
        let schedule = SharedSchedule::default();
        let mut check = SequenceCheck::timed(16, Arc::clone(&schedule));
        schedule.set(Schedule::start_now(1000.0, 1)).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        for sequence in 0..3 {
            check.accept(&body(sequence)).unwrap();
        }
        let recorder = check.into_recorder().unwrap();
        assert_eq!(recorder.count(), 2);
        // The message was due after 2 ms and came after 30.
        assert!(recorder.percentiles().p50.unwrap() >= 27_000_000);
    }

    #[test]
    fn schedules() {
        let schedule = Schedule::start_now(1000.0, 0);
        let at = |ms| schedule.due(0) + Duration::from_millis(ms);
        assert_eq!(schedule.due(5), at(5));
        assert_eq!((schedule.due_by(at(0)), schedule.due_by(at(10))), (1, 11));
    }
}
