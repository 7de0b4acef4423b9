//! A service that records its own latencies: two workers record, one thread logs what they did, interval by interval.
//!
//! ```sh
//! cargo run --release -p zring-bench --example service            # the log goes to stdout
//! cargo run --release -p zring-bench --example service -- 10 log.hlog
//! ```

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use zring_bench::record::{Clock, IntervalLog, Meter, Writer};

const INTERVAL: Duration = Duration::from_millis(250);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let intervals: u32 = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let out: Box<dyn Write> = match arguments.next() {
        Some(path) => Box::new(File::create(path)?),
        None => Box::new(io::stdout()),
    };

    let clock = Clock::new();
    eprintln!("a reading of the clock takes {:?}", clock.read_cost());

    let meter = Meter::new();
    let is_over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (writer, clock, is_over) = (meter.writer(), clock.clone(), Arc::clone(&is_over));
            thread::spawn(move || serve(writer, &clock, &is_over))
        })
        .collect();

    let mut log = IntervalLog::new(out)?;
    let mut taken = meter.intervals();
    for _ in 0..intervals {
        thread::sleep(INTERVAL);
        let interval = taken.take();
        log.write(&interval, Some("requests"))?;
        eprintln!("{:>9} requests, p99 {} ns", interval.len(), interval.value_at_quantile(0.99));
    }
    is_over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked")?;
    }
    log.finish()?;
    eprintln!("{:>9} requests in all", meter.snapshot().len());
    Ok(())
}

/// What a worker does all day.
fn serve(mut writer: Writer, clock: &Clock, is_over: &AtomicBool) {
    let mut request = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        let started = clock.read();
        request = (0..500).fold(request, |sum, step| black_box(sum.wrapping_mul(31) + step));
        writer.record_ns(clock.since_ns(started));
    }
}
