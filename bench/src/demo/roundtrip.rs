//! Request and reply: a pair measures its round trip, parked and, on at least two cores, spinning.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use zring::{Config, SocketType, Wait, inline};

use crate::demo::show::{self, Counter};
use crate::demo::{bound, connected, join, pack, start, unpack};
use crate::error::{Failure, Result};
use crate::record::Recorder;
use crate::sequence::END;

/// How long each pair talks.
pub(super) const DURATION: Duration = Duration::from_secs(1);

/// The measurements of one pair.
pub(super) struct RoundTrip {
    pub(super) title: &'static str,
    pub(super) latencies: Recorder,
}

/// Runs this part and returns the measurements of each pair.
pub(super) fn run() -> Result<Vec<RoundTrip>> {
    show::open(
        "Request and reply",
        "A requester waits for each reply before it asks again, and times every round trip.",
    );
    let mut measured = vec![measure("round trip, sides sleep", Wait::Park)?];
    println!(
        "  And again with both sides looking for a moment before they sleep, as is the default."
    );
    measured.push(measure("round trip, sides look first", Wait::default())?);
    if thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2) {
        println!("  And again with both sides spinning instead of sleeping while they wait.");
        measured.push(measure("round trip, sides spin", Wait::Spin)?);
    }
    Ok(measured)
}

fn measure(title: &'static str, wait: Wait) -> Result<RoundTrip> {
    let (reports, counts) = mpsc::channel();
    thread::scope(|scope| {
        let (announce, announced) = mpsc::channel();
        let replier = start(scope, "replier".to_owned(), move || reply(&announce, wait))?;
        let requester = start(scope, "requester".to_owned(), move || {
            let endpoint = announced
                .recv()
                .map_err(|_| Failure::Setup("the replier is not bound".to_owned()))?;
            request(&endpoint, wait, Counter::new(reports))
        })?;
        show::watch(&counts, DURATION, "round trips");
        join(replier)?;
        Ok(RoundTrip { title, latencies: join(requester)? })
    })
}

fn context(wait: Wait) -> Result<inline::Context> {
    inline::Context::with_config(Config { wait, ..Default::default() }).map_err(Failure::library)
}

fn reply(announce: &mpsc::Sender<String>, wait: Wait) -> Result<()> {
    let context = context(wait)?;
    let (replier, endpoint) = bound(&context, SocketType::Rep)?;
    let _ = announce.send(endpoint);
    loop {
        let request = replier.recv().map_err(Failure::library)?;
        let (sequence, _) = unpack(request.body())?;
        replier.send(request).map_err(Failure::library)?;
        if sequence == END {
            replier.close();
            return Ok(());
        }
    }
}

fn request(endpoint: &str, wait: Wait, mut counter: Counter) -> Result<Recorder> {
    let context = context(wait)?;
    let requester = connected(&context, SocketType::Req, endpoint)?;
    let ask = |sequence: u64| {
        requester.send(&pack(sequence, 0)[..]).map_err(Failure::library)?;
        let reply = requester.recv().map_err(Failure::library)?;
        match unpack(reply.body())? {
            (echoed, _) if echoed == sequence => Ok(()),
            (received, _) => Err(Failure::Gap { expected: sequence, received }),
        }
    };
    // The first round trip waits for the connection and is not counted.
    ask(0)?;
    let mut latencies = Recorder::new();
    let started = Instant::now();
    let mut before = started;
    while before - started < DURATION {
        ask(latencies.count() + 1)?;
        let now = Instant::now();
        latencies.record(now - before);
        before = now;
        counter.count();
    }
    ask(END)?;
    Ok(latencies)
}
