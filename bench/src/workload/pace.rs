//! Sending on a schedule.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::sequence::Schedule;
use crate::subject::Case;

/// The last stretch before a message is due, which is spent looking at the clock: sleeps end late by about that.
const LOOK: Duration = Duration::from_micros(150);
/// Longest sleep in one go, so that a library that works only within calls gets its turns.
const NAP_MAX: Duration = Duration::from_millis(1);

/// Waits for the times of a schedule.
#[derive(Debug)]
pub(super) struct Pace {
    schedule: Schedule,
    /// Both sides share a core, so that one that looks at the clock keeps the other from working.
    only_sleeps: bool,
}

impl Pace {
    pub(super) fn new(case: &Case, schedule: Schedule) -> Self {
        Self { schedule, only_sleeps: case.pin.is_some_and(crate::pin::Pin::is_shared) }
    }

    /// Waits until message `sequence` is due, calls `progress` meanwhile, and returns what time it is. Comes back at
    /// once for a message that is late.
    pub(super) fn await_due(
        &self,
        sequence: u64,
        mut progress: impl FnMut() -> Result<()>,
    ) -> Result<Instant> {
        let due = self.schedule.due(sequence);
        loop {
            let now = Instant::now();
            let left = due.saturating_duration_since(now);
            if left.is_zero() {
                return Ok(now);
            }
            progress()?;
            if self.only_sleeps {
                thread::sleep(left.min(NAP_MAX));
            } else if left > 2 * LOOK {
                thread::sleep((left - LOOK).min(NAP_MAX));
            } else {
                std::hint::spin_loop();
            }
        }
    }
}
