//! A subject slowed down on purpose by a known fraction, to check that a comparison detects it.

use std::time::{Duration, Instant};

use crate::cli::Receive;
use crate::error::Result;
use crate::sequence::{SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::{
    Case, Common, Crowd, Pattern, Publisher, Receiver, Replier, Requester, Sender, Subject,
    Subscribers, Visitor, Worker,
};

/// Wraps a subject; side A spins after each round trip or burst for the fraction `part` of its duration.
#[derive(Clone, Copy)]
pub struct Handicapped<'a> {
    inner: &'a dyn Subject,
    part: f64,
}

impl<'a> Handicapped<'a> {
    /// `part` is 0.1 for ten percent.
    pub fn new(inner: &'a dyn Subject, part: f64) -> Self {
        Self { inner, part }
    }
}

impl std::fmt::Debug for Handicapped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handicapped")
            .field("subject", &self.inner.name())
            .field("part", &self.part)
            .finish()
    }
}

/// Spins for `part` of the time since `started`.
fn lag(started: Instant, part: f64) {
    let end = Instant::now() + Duration::from_secs_f64(started.elapsed().as_secs_f64() * part);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

impl Subject for Handicapped<'_> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn is_default(&self) -> bool {
        self.inner.is_default()
    }

    fn can_receive(&self, receive: Receive) -> bool {
        self.inner.can_receive(receive)
    }

    fn settings(&self, case: &Case) -> String {
        self.inner.settings(case)
    }

    fn plays(&self, pattern: Pattern) -> bool {
        self.inner.plays(pattern)
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        self.inner.lacks(case)
    }

    fn common(&self, case: &Case) -> Result<Option<Common>> {
        self.inner.common(case)
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        Ok(Box::new(Slow { inner: self.inner.sender(case, endpoint)?, part: self.part }))
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        self.inner.receiver(case, announce)
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        Ok(Box::new(Slow { inner: self.inner.requester(case, endpoint)?, part: self.part }))
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        self.inner.replier(case, announce)
    }

    fn publisher(&self, case: &Case, announce: Announce) -> Result<Box<dyn Publisher>> {
        self.inner.publisher(case, announce)
    }

    fn subscribers(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Subscribers>> {
        self.inner.subscribers(case, endpoint)
    }

    fn worker(&self, case: &Case, downstream: &str, announce: Announce) -> Result<Box<dyn Worker>> {
        self.inner.worker(case, downstream, announce)
    }

    fn visitor(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Visitor>> {
        self.inner.visitor(case, endpoint)
    }

    fn crowd(&self, case: &Case) -> Result<Box<dyn Crowd>> {
        self.inner.crowd(case)
    }
}

/// A slowed-down side.
struct Slow<S: ?Sized> {
    part: f64,
    inner: Box<S>,
}

impl Requester for Slow<dyn Requester> {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        let started = Instant::now();
        let verdict = self.inner.round_trip(sequence, check)?;
        lag(started, self.part);
        Ok(verdict)
    }

    fn open_silent(&mut self, count: u32) -> Result<()> {
        self.inner.open_silent(count)
    }
}

impl Sender for Slow<dyn Sender> {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        let started = Instant::now();
        let sent = self.inner.send_burst(first)?;
        lag(started, self.part);
        Ok(sent)
    }

    fn send_due(&mut self, first: u64, count: u64) -> Result<()> {
        let started = Instant::now();
        self.inner.send_due(first, count)?;
        lag(started, self.part);
        Ok(())
    }

    fn progress(&mut self) -> Result<()> {
        self.inner.progress()
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.inner.finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::Parser;

    fn p50_ns(handicap: &str) -> u64 {
        let words = [
            "zring-bench",
            "roundtrip",
            "--subject",
            "raw",
            "--seconds",
            "0.1",
            "--rounds",
            "3",
            "--handicap",
            handicap,
        ];
        let cli = Cli::try_parse_from(words).unwrap();
        crate::run::measure(&cli.command.plan()).unwrap()[0].latency_ns.p50.unwrap()
    }

    #[test]
    fn a_handicap_of_nine_hundred_percent_shows() {
        let (without, with) = (p50_ns("0"), p50_ns("900"));
        assert!(with > 3 * without, "{without} ns, then {with} ns");
    }
}
