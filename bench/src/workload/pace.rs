//! Sending on a schedule.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::sequence::Schedule;
use crate::subject::Case;

/// The last stretch before a message is due, spent spinning on the clock: sleeps end late by about that much.
const LOOK: Duration = Duration::from_micros(150);
/// Longest single sleep, so that a library that works only within calls is called often.
const NAP_MAX: Duration = Duration::from_millis(1);

/// Waits for the times of a schedule.
#[derive(Debug)]
pub(super) struct Pace {
    schedule: Schedule,
    /// Both sides share a core, so a side that spins on the clock would keep the other from working.
    only_sleeps: bool,
}

impl Pace {
    pub(super) fn new(case: &Case, schedule: Schedule) -> Self {
        Self { schedule, only_sleeps: case.pin.is_some_and(crate::pin::Pin::is_shared) }
    }

    /// Waits until message `sequence` is due, calls `progress` meanwhile, and returns the current time. Returns at once
    /// for a late message.
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
