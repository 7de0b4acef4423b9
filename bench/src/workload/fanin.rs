//! Many senders, one receiver.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::process;
use crate::sequence::{SequenceCheck, first_of_stream};
use crate::sides::run_pair;
use crate::subject::{Case, Pattern, Sender, Subject};
use crate::workload::throughput;
use crate::workload::{Figure, Round, Workload};

/// [`Case::peers`] senders, each with a connection of its own, take turns on the thread of side A, burst by burst; side
/// B receives from all of them with one socket. Each stream has its own order and its own end.
#[derive(Debug)]
pub struct FanIn;

impl Workload for FanIn {
    fn name(&self) -> &'static str {
        "fanin"
    }

    fn pattern(&self) -> Pattern {
        Pattern::FanIn
    }

    fn figure(&self) -> Option<Figure> {
        Some(Figure::Rate)
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        process::allow_connections(case.peers)?;
        let side_a = |endpoint: &str| {
            let senders = (0..case.peers).map(|_| subject.sender(case, endpoint));
            send(senders.collect::<Result<_>>()?, duration)
        };
        let side_b = |announce| {
            let mut receiver = subject.receiver(case, announce)?;
            let check = SequenceCheck::mingled(case.size_bytes, case.peers);
            throughput::receive(&mut *receiver, check, case.peers)
        };
        let (sent, received) = run_pair(case.pin, side_a, side_b)?;
        received.into_round(sent)
    }
}

/// Returns the number of messages sent, summed over all streams.
fn send(senders: Vec<Box<dyn Sender>>, duration: Duration) -> Result<u64> {
    let mut streams: Vec<_> = (0..).map(first_of_stream).zip(senders).collect();
    let started = Instant::now();
    let mut messages = 0;
    while started.elapsed() < duration {
        for (next, sender) in &mut streams {
            let sent = sender.send_burst(*next)?;
            *next += sent;
            messages += sent;
        }
    }
    for (_, sender) in streams {
        sender.finish()?;
    }
    Ok(messages)
}
