//! Publish and subscribe: one publisher fans a tick stream out to several subscribers.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use zring::SocketType;

use crate::demo::show::{self, Counter};
use crate::demo::{PATIENCE, bound, connected, context, join, pack, start, unpack};
use crate::error::{Failure, Result};
use crate::record::Recorder;
use crate::sequence::END;

/// How long the publisher publishes.
pub(super) const DURATION: Duration = Duration::from_millis(2500);
const SUBSCRIBERS: usize = 4;
const TICK_EVERY: Duration = Duration::from_micros(200);
const TOPIC: &[u8] = b"tick.";

/// The measurements of one subscriber.
pub(super) struct Subscriber {
    pub(super) latencies: Recorder,
    pub(super) missed: u64,
}

/// Runs this part and returns the measurements of each subscriber.
pub(super) fn run() -> Result<Vec<Subscriber>> {
    show::open(
        "Publish and subscribe",
        "A publisher sends 5000 ticks a second; four subscribers receive each of them and note how old it is.",
    );
    // Each tick carries its send time relative to this.
    let epoch = Instant::now();
    let (reports, counts) = mpsc::channel();
    thread::scope(|scope| {
        let (announce, announced) = mpsc::channel();
        let publisher = start(scope, "publisher".to_owned(), move || publish(&announce, epoch))?;
        let mut subscribers = Vec::new();
        if let Ok(endpoint) = announced.recv() {
            for number in 1..=SUBSCRIBERS {
                let (endpoint, counter) = (endpoint.clone(), Counter::new(reports.clone()));
                let party = move || subscribe(&endpoint, epoch, counter);
                subscribers.push(start(scope, format!("subscriber {number}"), party)?);
            }
        }
        drop(reports);
        show::watch(&counts, DURATION, "ticks delivered");
        join(publisher)?;
        subscribers.into_iter().map(join).collect()
    })
}

fn publish(announce: &mpsc::Sender<String>, epoch: Instant) -> Result<()> {
    let context = context()?;
    let (publisher, endpoint) = bound(&context, SocketType::Pub)?;
    let _ = announce.send(endpoint);
    publisher.wait_for_subscribers(TOPIC, SUBSCRIBERS, Some(PATIENCE)).map_err(Failure::library)?;
    let started = Instant::now();
    let mut due = started;
    let mut sequence = 0;
    while due - started < DURATION {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let sent_ns = epoch.elapsed().as_nanos() as u64;
        publisher.send_multipart([TOPIC, &pack(sequence, sent_ns)]).map_err(Failure::library)?;
        sequence += 1;
        due += TICK_EVERY;
    }
    publisher.send_multipart([TOPIC, &pack(END, 0)]).map_err(Failure::library)?;
    publisher.close();
    Ok(())
}

fn subscribe(endpoint: &str, epoch: Instant, mut counter: Counter) -> Result<Subscriber> {
    let context = context()?;
    let subscriber = connected(&context, SocketType::Sub, endpoint)?;
    subscriber.subscribe(TOPIC).map_err(Failure::library)?;
    let mut seen = Subscriber { latencies: Recorder::new(), missed: 0 };
    let mut due = 0;
    loop {
        let tick = subscriber.recv().map_err(Failure::library)?;
        let received_ns = epoch.elapsed().as_nanos() as u64;
        let (sequence, sent_ns) = unpack(tick.frame(1).unwrap_or_default())?;
        if sequence == END {
            return Ok(seen);
        }
        seen.latencies.record(Duration::from_nanos(received_ns.saturating_sub(sent_ns)));
        seen.missed += sequence.saturating_sub(due);
        due = sequence + 1;
        counter.count();
    }
}
