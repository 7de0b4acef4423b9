//! One stream of messages, as fast as it goes.

use std::time::{Duration, Instant};

use crate::cpu_time;
use crate::error::{Failure, Result};
use crate::record::Percentiles;
use crate::sequence::{SequenceCheck, Verdict};
use crate::sides::run_pair;
use crate::subject::{Case, Receiver, Sender, Subject};
use crate::workload::{Idle, Round, Workload, cpu_seconds_per_message};

/// Side A sends for the time of the round and then the end marker; side B counts. The rate is the receiver's: the
/// messages behind its first burst, over the time from that burst to the end marker.
#[derive(Debug)]
pub struct Throughput;

impl Workload for Throughput {
    fn name(&self) -> &'static str {
        "throughput"
    }

    fn compares(&self) -> &'static str {
        "rate/raw"
    }

    fn figure(&self, messages_per_second: f64, _latency_ns: &Percentiles) -> Option<f64> {
        Some(messages_per_second)
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        let side_a = |endpoint: &str| send(subject.sender(case, endpoint)?, duration);
        let side_b = |announce| {
            let mut receiver = subject.receiver(case, announce)?;
            receive(&mut *receiver, case.size_bytes)
        };
        let (sent, received) = run_pair(case.pin, side_a, side_b)?;
        if sent != received.messages {
            let received = received.messages;
            return Err(Failure::Library(format!(
                "{sent} messages were sent, {received} received"
            )));
        }
        Ok(Round {
            messages: received.timed_messages,
            elapsed: received.elapsed,
            cpu_seconds_per_message: cpu_seconds_per_message(received.cpu, received.messages),
            latency_ns: Percentiles::default(),
            driver: received.driver,
            idle: Idle::default(),
        })
    }
}

/// What side B saw.
struct Received {
    messages: u64,
    /// Those behind the first burst: their arrival is what `elapsed` spans.
    timed_messages: u64,
    elapsed: Duration,
    /// Of the process, from when side B began to wait for messages.
    cpu: Option<Duration>,
    driver: Option<&'static str>,
}

/// Returns how many messages went out.
fn send(mut sender: Box<dyn Sender>, duration: Duration) -> Result<u64> {
    let started = Instant::now();
    let mut messages = 0;
    while started.elapsed() < duration {
        messages += sender.send_burst(messages)?;
    }
    sender.finish()?;
    Ok(messages)
}

fn receive(receiver: &mut dyn Receiver, size_bytes: usize) -> Result<Received> {
    let cpu_before = cpu_time::of_this_process();
    let mut check = SequenceCheck::new(size_bytes);
    let mut verdict = receiver.receive_burst(&mut check)?;
    let started = Instant::now();
    let untimed = check.accepted();
    while verdict != Verdict::End {
        verdict = receiver.receive_burst(&mut check)?;
    }
    Ok(Received {
        messages: check.accepted(),
        timed_messages: check.accepted() - untimed,
        elapsed: started.elapsed(),
        cpu: cpu_time::since(cpu_before),
        driver: receiver.driver(),
    })
}
