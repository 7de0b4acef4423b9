//! Points in time at which the poller's own descriptor becomes readable.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    time::{Duration, Instant},
};

use polling::{Event, PollMode, Poller};

use crate::sys::{borrow, raw, timerfd::TimerFd};

/// Key of the timer's events; no source has it.
pub(super) const ALARM: usize = usize::MAX - 1;

/// One timer for any number of alarms.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    mode: PollMode,
    pending: BinaryHeap<Reverse<Instant>>,
}

impl Alarm {
    pub(super) fn open(poller: &Poller, mode: PollMode) -> io::Result<Self> {
        let timer = TimerFd::new()?;
        // SAFETY: `close` removes the timer from the poller before the timer is closed.
        unsafe { poller.add_with_mode(raw(&timer), Event::readable(ALARM), mode)? };
        Ok(Self { timer, mode, pending: BinaryHeap::new() })
    }

    pub(super) fn close(&self, poller: &Poller) {
        let _ = poller.delete(borrow(&self.timer));
    }

    pub(super) fn set(&mut self, at: Instant) {
        let is_first = self.pending.peek().is_none_or(|&Reverse(first)| at < first);
        self.pending.push(Reverse(at));
        if is_first {
            self.arm(Instant::now());
        }
    }

    fn arm(&self, now: Instant) {
        let Some(&Reverse(at)) = self.pending.peek() else { return };
        // A timer set to zero would never ring.
        let after = at.saturating_duration_since(now).max(Duration::from_nanos(1));
        if let Err(error) = self.timer.set(after) {
            tracing::error!(%error, "an alarm was refused");
        }
    }

    /// The timer has rung.
    pub(super) fn on_rung(&mut self, poller: &Poller) -> io::Result<()> {
        self.timer.drain()?;
        let now = Instant::now();
        while self.pending.peek().is_some_and(|&Reverse(at)| at <= now) {
            self.pending.pop();
        }
        self.arm(now);
        if self.mode == PollMode::Oneshot {
            poller.modify(borrow(&self.timer), Event::readable(ALARM))?;
        }
        Ok(())
    }
}
