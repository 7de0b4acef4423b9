//! One stream of messages, as fast as possible.

use std::time::{Duration, Instant};

use crate::cpu_time;
use crate::error::{Failure, Result};
use crate::sequence::SequenceCheck;
use crate::sides::run_pair;
use crate::subject::{Case, Pattern, Receiver, Sender, Subject};
use crate::workload::{Figure, Round, Workload, cpu_seconds_per_message};

/// Side A sends for the time of the round and then sends the end marker; side B counts. The rate is the receiver's: the
/// messages after its first burst, over the time from that burst to the end marker.
#[derive(Debug)]
pub struct Throughput;

impl Workload for Throughput {
    fn name(&self) -> &'static str {
        "throughput"
    }

    fn pattern(&self) -> Pattern {
        Pattern::Stream
    }

    fn figure(&self) -> Option<Figure> {
        Some(Figure::Rate)
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        let side_a = |endpoint: &str| send(subject.sender(case, endpoint)?, duration);
        let side_b = |announce| {
            let mut receiver = subject.receiver(case, announce)?;
            receive(&mut *receiver, SequenceCheck::new(case.size_bytes), 1)
        };
        let (sent, received) = run_pair(case.pin, side_a, side_b)?;
        received.into_round(sent)
    }
}
/// Side B's measurements.
pub(super) struct Received {
    messages: u64,
    /// Messages after the first burst: `elapsed` spans their arrival.
    timed_messages: u64,
    elapsed: Duration,
    /// CPU time of the process since side B began to wait for messages.
    cpu: Option<Duration>,
    driver: Option<&'static str>,
}

impl Received {
    /// The round, if all sent messages have arrived.
    pub(super) fn into_round(self, sent: u64) -> Result<Round> {
        let received = self.messages;
        if sent != received {
            return Err(Failure::Library(format!(
                "{sent} messages were sent, {received} received"
            )));
        }
        Ok(Round {
            messages: self.timed_messages,
            elapsed: self.elapsed,
            cpu_seconds_per_message: cpu_seconds_per_message(self.cpu, received),
            driver: self.driver,
            ..Round::default()
        })
    }
}

/// Sends for `duration`; returns the number of messages sent.
pub(super) fn send(mut sender: Box<dyn Sender>, duration: Duration) -> Result<u64> {
    let started = Instant::now();
    let mut messages = 0;
    while started.elapsed() < duration {
        messages += sender.send_burst(messages)?;
    }
    sender.finish()?;
    Ok(messages)
}

/// Receives until `ends` end markers have arrived.
pub(super) fn receive(
    receiver: &mut dyn Receiver,
    mut check: SequenceCheck,
    ends: u32,
) -> Result<Received> {
    let cpu_before = cpu_time::of_this_process();
    let clock = BurstClock::new();
    receiver.receive_burst(&mut check)?;
    let clock = clock.first_burst(check.accepted());
    while check.ends() < ends {
        receiver.receive_burst(&mut check)?;
    }
    let (timed_messages, elapsed) = clock.stop(check.accepted());
    Ok(Received {
        messages: check.accepted(),
        timed_messages,
        elapsed,
        cpu: cpu_time::since(cpu_before),
        driver: receiver.driver(),
    })
}

/// Times the messages after the first burst; when those of the first burst were sent is unknown.
pub(super) struct BurstClock {
    waited_from: Instant,
    started: Instant,
    untimed: u64,
}

impl BurstClock {
    /// The receiver begins to wait.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { waited_from: now, started: now, untimed: 0 }
    }

    /// The first burst has arrived.
    pub(super) fn first_burst(self, accepted: u64) -> Self {
        Self { started: Instant::now(), untimed: accepted, ..self }
    }

    /// The end has arrived. If all messages came in one burst, all count, from when the receiver began to wait: such a
    /// round may look slower than it was, but not faster.
    pub(super) fn stop(self, accepted: u64) -> (u64, Duration) {
        if accepted == self.untimed {
            return (accepted, self.waited_from.elapsed());
        }
        (accepted - self.untimed, self.started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_burst_counts_only_when_it_is_all() {
        let pause = Duration::from_millis(20);
        let clock = BurstClock::new();
        std::thread::sleep(pause);
        let (messages, elapsed) = clock.first_burst(100).stop(100);
        assert!(messages == 100 && elapsed >= pause, "{elapsed:?}");
        let clock = BurstClock::new().first_burst(100);
        std::thread::sleep(pause);
        let (messages, elapsed) = clock.stop(130);
        assert!(messages == 30 && elapsed >= pause, "{elapsed:?}");
    }
}
