//! One publisher, many subscribers.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::cli::Wait;
use crate::cpu_time;
use crate::error::{Failure, Result};
use crate::process;
use crate::sequence::{END, HELLO, SequenceCheck};
use crate::sides::run_pair_from_a;
use crate::subject::{Case, Pattern, Publisher, STALL, Subject, Subscribers};
use crate::workload::throughput::BurstClock;
use crate::workload::{Figure, Round, Workload, cpu_seconds_per_message};

/// Pause between two hellos, or between two end markers.
const CALL_AGAIN: Duration = Duration::from_millis(1);
/// Longest sleep of a publisher with a full window, so that a library that works only within calls is called often.
const NAP_MAX: Duration = Duration::from_micros(50);
/// A publisher that was held back this long sends one more message: a loss at the end of the window shows only when a
/// later message arrives.
const PROBE_AFTER: Duration = Duration::from_millis(100);

/// A window that is never full.
const FREE_WINDOW: u64 = 1 << 48;

/// Side A publishes to [`Case::peers`] subscribers, whose sockets side B serves on one thread. The rate counts
/// delivered messages, summed over all subscribers.
///
/// The publisher begins when every subscriber has received its hello. It then stays ahead of the slowest subscriber by
/// at most half of a queue of the library, so that a PUB socket, which drops messages that do not fit, has no reason
/// to. With [`Case::is_free_running`] it is not held back. Dropped messages are counted in both cases.
#[derive(Debug)]
pub struct FanOut;

impl Workload for FanOut {
    fn name(&self) -> &'static str {
        "fanout"
    }

    fn pattern(&self) -> Pattern {
        Pattern::FanOut
    }

    fn figure(&self) -> Option<Figure> {
        Some(Figure::Rate)
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        process::allow_connections(case.peers)?;
        let window = match case.is_free_running {
            true => FREE_WINDOW,
            false => u64::from(subject.queue_messages(case) / 2).max(1),
        };
        let shared = Arc::new(Shared { window, ..Shared::default() });
        let side_a = |announce| {
            let publisher = subject.publisher(case, announce)?;
            Publishing { publisher, shared: &shared, case, next: 0 }.run(duration)
        };
        let side_b = |endpoint: &str| {
            // Side A must not wait for a side B that has ended.
            let _over = Over(&shared);
            let mut subscribers = subject.subscribers(case, endpoint)?;
            receive(&mut *subscribers, case, &shared)
        };
        let (published, delivered) = run_pair_from_a(case.pin, side_a, side_b)?;
        let sent = published.messages * u64::from(case.peers);
        if delivered.messages + delivered.dropped > sent {
            let Delivered { messages, dropped, .. } = delivered;
            return Err(Failure::Library(format!(
                "{sent} messages were due at the subscribers, {messages} came and {dropped} were dropped"
            )));
        }
        Ok(Round {
            messages: delivered.timed_messages,
            elapsed: delivered.elapsed,
            cpu_seconds_per_message: cpu_seconds_per_message(delivered.cpu, delivered.messages),
            dropped: sent - delivered.messages,
            offered_rate: Some(published.messages as f64 / published.elapsed.as_secs_f64()),
            driver: published.driver,
            ..Round::default()
        })
    }
}

/// State shared by both sides.
#[derive(Default)]
struct Shared {
    /// How far the publisher may be ahead of the slowest subscriber.
    window: u64,
    /// Subscribers that have received a hello.
    heard: AtomicU32,
    /// The sequence number due at the slowest subscriber.
    due: AtomicU64,
    /// Subscribers that have received the end.
    ended: AtomicU32,
    /// Side B has ended.
    is_over: AtomicBool,
    /// The publisher sleeps until `due` reaches this value.
    awaited: AtomicU64,
    publisher: OnceLock<Thread>,
}

struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

impl Shared {
    /// Publishes side B's progress.
    fn show(&self, checks: &[SequenceCheck]) {
        let count =
            |is: fn(&SequenceCheck) -> bool| checks.iter().filter(|check| is(check)).count();
        self.heard.store(count(SequenceCheck::has_heard) as u32, Ordering::Release);
        self.ended.store(count(|check| check.ends() > 0) as u32, Ordering::Release);
        let due = checks.iter().map(SequenceCheck::due).min().unwrap_or(0);
        self.due.store(due, Ordering::SeqCst);
        // A missed wake costs only a nap.
        if due >= self.awaited.load(Ordering::SeqCst) {
            self.awaited.store(u64::MAX, Ordering::SeqCst);
            if let Some(publisher) = self.publisher.get() {
                publisher.unpark();
            }
        }
    }
}

/// Side A's measurements.
struct Published {
    messages: u64,
    elapsed: Duration,
    driver: Option<&'static str>,
}

/// Side A.
struct Publishing<'a> {
    publisher: Box<dyn Publisher>,
    shared: &'a Shared,
    case: &'a Case,
    next: u64,
}

impl Publishing<'_> {
    fn run(mut self, duration: Duration) -> Result<Published> {
        self.shared.publisher.get_or_init(thread::current);
        self.call(HELLO, |shared| &shared.heard)?;
        let started = Instant::now();
        while started.elapsed() < duration {
            let room = self.await_room()?;
            self.next += self.publisher.publish_burst(self.next, room)?;
        }
        let elapsed = started.elapsed();
        self.call(END, |shared| &shared.ended)?;
        let driver = self.publisher.driver();
        self.publisher.finish()?;
        Ok(Published { messages: self.next, elapsed, driver })
    }

    /// Publishes `sequence` until all subscribers have received it.
    fn call(&mut self, sequence: u64, heard: fn(&Shared) -> &AtomicU32) -> Result<()> {
        let started = Instant::now();
        while heard(self.shared).load(Ordering::Acquire) < self.case.peers {
            self.give_up_after(started)?;
            let published = self.publisher.publish(sequence);
            if heard(self.shared).load(Ordering::Acquire) == self.case.peers {
                // A subscriber that has received the end may close before the marker is repeated.
                return Ok(());
            }
            published?;
            let called = Instant::now();
            while called.elapsed() < CALL_AGAIN
                && heard(self.shared).load(Ordering::Acquire) < self.case.peers
            {
                self.publisher.progress()?;
                thread::park_timeout(NAP_MAX);
            }
        }
        Ok(())
    }

    /// Waits until a quarter of the window is free, and returns the free part.
    fn await_room(&mut self) -> Result<u64> {
        let Shared { window, .. } = *self.shared;
        let enough = (window / 4).max(1);
        let room = |due: u64| window.saturating_sub(self.next - due);
        let due = self.shared.due.load(Ordering::Acquire);
        if room(due) >= enough {
            return Ok(room(due));
        }
        let started = Instant::now();
        loop {
            self.publisher.progress()?;
            let room = room(self.shared.due.load(Ordering::SeqCst));
            if room >= enough {
                return Ok(room);
            }
            if started.elapsed() > PROBE_AFTER {
                return Ok(room.max(1));
            }
            self.give_up_after(started)?;
            match self.case.wait {
                Wait::Spin => std::hint::spin_loop(),
                Wait::Adaptive | Wait::Park => {
                    self.shared.awaited.store(self.next + enough - window, Ordering::SeqCst);
                    thread::park_timeout(NAP_MAX);
                }
            }
        }
    }

    fn give_up_after(&self, started: Instant) -> Result<()> {
        if self.shared.is_over.load(Ordering::Acquire) {
            return Err(Failure::Setup("the subscribers are gone".to_owned()));
        }
        if started.elapsed() > STALL {
            let seconds = STALL.as_secs();
            return Err(Failure::Library(format!(
                "not all subscribers heard the publisher within {seconds} s"
            )));
        }
        Ok(())
    }
}

/// Side B's measurements, summed over all subscribers.
struct Delivered {
    messages: u64,
    dropped: u64,
    /// Messages after the first burst: `elapsed` spans their arrival.
    timed_messages: u64,
    elapsed: Duration,
    cpu: Option<Duration>,
}

fn receive(subscribers: &mut dyn Subscribers, case: &Case, shared: &Shared) -> Result<Delivered> {
    let mut checks: Vec<_> =
        (0..case.peers).map(|_| SequenceCheck::lossy(case.size_bytes)).collect();
    let accepted = |checks: &[SequenceCheck]| checks.iter().map(SequenceCheck::accepted).sum();
    let mut untimed: u64 = 0;
    let cpu_before = cpu_time::of_this_process();
    let clock = BurstClock::new();
    while untimed == 0 && shared.ended.load(Ordering::Relaxed) < case.peers {
        subscribers.receive_burst(&mut checks)?;
        shared.show(&checks);
        untimed = accepted(&checks);
    }
    let clock = clock.first_burst(untimed);
    while shared.ended.load(Ordering::Relaxed) < case.peers {
        subscribers.receive_burst(&mut checks)?;
        shared.show(&checks);
    }
    let messages: u64 = accepted(&checks);
    let (timed_messages, elapsed) = clock.stop(messages);
    Ok(Delivered {
        messages,
        dropped: checks.iter().map(SequenceCheck::dropped).sum(),
        timed_messages,
        elapsed,
        cpu: cpu_time::since(cpu_before),
    })
}
