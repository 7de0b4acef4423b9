//! One large file from one process to another, which discards it.
//!
//! Unlike the other workloads this one runs the sender in a process of its own, so that its memory can be distinguished
//! from the receiver's. It counts runs instead of time, and has subjects of its own ([`crate::subject::file`]).

mod sender;
mod source;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::cli::{Transport, Wait};
use crate::error::{Failure, Result};
use crate::pin::{Pin, pin_this_thread};
use crate::report::{FileFigures, Outcome, Outputs, Report};
use crate::run::bar;
use crate::size;
use crate::stats::{mean, median, standard_deviation};
use crate::subject::file::{COURIERS, Courier, FLOOR};

use sender::Process;
pub use sender::SenderOptions;
pub(crate) use sender::run as run_sender;
use source::Source;

/// Bytes of a gigabyte, as in GB/s.
const GIGABYTE: f64 = 1e9;

/// Options of the workload.
#[derive(Clone, Debug, Args)]
pub struct FileOptions {
    /// What to measure; repeat for several [default: all]
    #[arg(long = "subject", value_name = "NAME", value_parser = courier_names())]
    pub subjects: Vec<String>,

    /// Length of the file; K, M and G are powers of 1024
    #[arg(long, value_name = "BYTES", default_value = "1G", value_parser = size::parse_file)]
    pub size: u64,

    /// Runs of each subject; they take turns run by run, in another order each time
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,

    /// What the file travels over: loopback TCP, or a unix socket
    #[arg(long, default_value = "tcp", value_parser = stream_transports())]
    pub transport: Transport,

    /// Where the file is made, which should be on a real file system; it has no name there, and nothing is left
    /// [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Cores for the sender and the receiver, as in 0,1 [default: left to the system]
    #[arg(long, value_name = "A,B")]
    pub pin: Option<Pin>,

    /// Where the report goes.
    #[command(flatten)]
    pub outputs: Outputs,
}

fn courier_names() -> PossibleValuesParser {
    PossibleValuesParser::new(COURIERS.iter().map(|courier| courier.name()))
}

fn stream_transports() -> impl TypedValueParser<Value = Transport> {
    PossibleValuesParser::new(["tcp", "ipc"])
        .map(|name| if name == "ipc" { Transport::Ipc } else { Transport::Tcp })
}

/// Measures and reports.
///
/// # Errors
/// The failure of a subject, of making the file, or of writing the report.
pub fn run(options: &FileOptions) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("note: this is a debug build, its figures mean nothing");
    }
    let outcomes = measure(options)?;
    Report::new(&outcomes).write(&options.outputs)
}

/// Makes the file, and sends it with every subject in every run.
///
/// # Errors
/// As [`run`], except for the report.
pub fn measure(options: &FileOptions) -> Result<Vec<Outcome>> {
    let couriers = chosen(&options.subjects);
    let source = make(options)?;
    let mut is_cached = true;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); couriers.len()];
    let sockets = tempfile::Builder::new().prefix("zring-bench-").tempdir()?;
    let total = u64::from(options.runs) * couriers.len() as u64;
    let progress = bar(total, "{bar:30} {pos}/{len} {msg} (about {eta} left)");
    for run in 0..options.runs {
        for index in order(run as usize, couriers.len()) {
            let courier = couriers[index];
            progress.set_message(format!("{} run {}/{}", courier.name(), run + 1, options.runs));
            is_cached &= source.keep_cached()?;
            let bind = match options.transport {
                Transport::Ipc => {
                    let path = sockets.path().join(format!("{}-{run}", courier.name()));
                    format!("ipc://{}", path.display())
                }
                _ => "tcp://127.0.0.1:0".to_owned(),
            };
            let done = transfer(courier, &bind, &source, options).map_err(|failure| {
                Failure::Sides(format!("{} failed in run {}: {failure}", courier.name(), run + 1))
            })?;
            runs[index].push(done);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    if !is_cached {
        eprintln!("note: the file does not stay in the page cache, so that runs read the device");
    }
    Ok(condense(options, &couriers, &runs))
}

/// The named subjects, in the order of [`COURIERS`] and once each; all of them if none is named.
fn chosen(names: &[String]) -> Vec<&'static dyn Courier> {
    let is_chosen = |courier: &&dyn Courier| {
        names.is_empty() || names.iter().any(|name| name == courier.name())
    };
    COURIERS.iter().copied().filter(is_chosen).collect()
}

fn make(options: &FileOptions) -> Result<Source> {
    let directory = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let template = "making the file {bar:30} {bytes}/{total_bytes} ({bytes_per_sec})";
    let progress = bar(options.size, template);
    let source = Source::new(&directory, options.size, |written| progress.set_position(written))?;
    progress.finish_and_clear();
    if source.is_in_memory() {
        eprintln!("note: {} is in memory; --dir chooses a real file system", directory.display());
    }
    Ok(source)
}

/// The order of subjects in a run: each is first equally often, so that none always runs after the same one.
fn order(run: usize, subjects: usize) -> impl Iterator<Item = usize> {
    (0..subjects).map(move |place| (run + place) % subjects)
}

/// The measurements of one run.
#[derive(Clone, Copy, Debug)]
struct Run {
    elapsed: Duration,
    grown_bytes: Option<u64>,
}

/// Sends the file once. The time runs from the GO until the last byte has arrived.
fn transfer(
    courier: &dyn Courier,
    bind: &str,
    source: &Source,
    options: &FileOptions,
) -> Result<Run> {
    let receive = || {
        options.pin.map_or(Ok(()), |pin| pin_this_thread(pin.b))?;
        let (endpoint, mut receiver) = courier.receiver(bind)?;
        let core = options.pin.map(|pin| pin.a);
        let mut sender = Process::start(courier, &endpoint, &source.file, options.size, core)?;
        // If something fails, the sender knows the cause better, provided it has ended.
        if let Err(failure) = receiver.await_sender() {
            sender.finish()?;
            return Err(failure);
        }
        sender.await_ready()?;
        let started = Instant::now();
        sender.go()?;
        let received = receiver.receive(options.size, &mut source::check);
        let elapsed = started.elapsed();
        if let Err(failure) = received {
            sender.finish()?;
            return Err(failure);
        }
        let told = sender.finish()?;
        receiver.finish()?;
        Ok(Run { elapsed, grown_bytes: told.grown_bytes })
    };
    // A separate thread, so that the pinning ends with it.
    thread::scope(|scope| {
        let receiver = thread::Builder::new().name("side-b".to_owned());
        let ended = receiver.spawn_scoped(scope, receive)?.join();
        ended.unwrap_or_else(|_| Err(Failure::Setup("the receiver panicked".to_owned())))
    })
}

fn condense(options: &FileOptions, couriers: &[&dyn Courier], runs: &[Vec<Run>]) -> Vec<Outcome> {
    let mut outcomes: Vec<_> =
        couriers.iter().zip(runs).map(|(courier, runs)| outcome(options, *courier, runs)).collect();
    let rate = |outcome: &Outcome| outcome.file.as_ref().map(|f| f.gigabytes_per_second_median);
    let floor = outcomes.iter().find(|outcome| outcome.subject == FLOOR).and_then(rate);
    for file in outcomes.iter_mut().filter_map(|outcome| outcome.file.as_mut()) {
        file.ratio_to_sendfile = floor.map(|floor| file.gigabytes_per_second_median / floor);
    }
    outcomes
}

fn outcome(options: &FileOptions, courier: &dyn Courier, runs: &[Run]) -> Outcome {
    let bytes = options.size as f64;
    let seconds: Vec<f64> = runs.iter().map(|run| run.elapsed.as_secs_f64()).collect();
    let rates: Vec<f64> = seconds.iter().map(|seconds| 1.0 / seconds).collect();
    let files_per_second = median(&rates).unwrap_or_default();
    Outcome {
        workload: "file",
        subject: courier.name(),
        settings: courier.settings().to_owned(),
        transport: options.transport,
        size_bytes: usize::try_from(options.size).ok(),
        wait: Wait::Park,
        pin: options.pin.map(|pin| [pin.a, pin.b]),
        messages: runs.len() as u64,
        seconds: seconds.iter().sum(),
        messages_per_second: files_per_second,
        bytes_per_second: files_per_second * bytes,
        file: Some(FileFigures {
            gigabytes_per_second_median: files_per_second * bytes / GIGABYTE,
            gigabytes_per_second_mean: mean(&rates).unwrap_or_default() * bytes / GIGABYTE,
            run_seconds_deviation: standard_deviation(&seconds),
            run_seconds: seconds,
            ratio_to_sendfile: None,
            sender_grown_bytes: runs.iter().filter_map(|run| run.grown_bytes).max(),
        }),
        rounds: rates,
        ..Outcome::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        options: FileOptions,
    }

    fn options(words: &[&str]) -> std::result::Result<FileOptions, clap::Error> {
        Alone::try_parse_from(["file"].iter().chain(words)).map(|alone| alone.options)
    }

    #[test]
    fn options_and_refusals() {
        let plain = options(&[]).unwrap();
        assert_eq!((plain.size, plain.runs, plain.transport), (1 << 30, 20, Transport::Tcp));
        assert_eq!(chosen(&plain.subjects).len(), COURIERS.len());
        let words = ["--size", "4G", "--subject", "raw-copy", "--transport", "ipc"];
        let some = options(&words).unwrap();
        assert_eq!((some.size, some.transport), (4 << 30, Transport::Ipc));
        assert_eq!(chosen(&some.subjects)[0].name(), "raw-copy");
        for wrong in [
            ["--size", "0"],
            ["--size", "2T"],
            ["--runs", "0"],
            ["--transport", "inproc"],
            ["--subject", "raw"],
        ] {
            assert!(options(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_subject_goes_first_in_turn() {
        let orders: Vec<Vec<usize>> = (0..4).map(|run| order(run, 3).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
    }

    #[test]
    fn figures() {
        let options = options(&["--size", "1000000000", "--runs", "3"]).unwrap();
        let runs = |times: [u64; 3]| {
            let run = |seconds| Run {
                elapsed: Duration::from_secs(seconds),
                grown_bytes: Some(seconds * 10),
            };
            times.map(run).to_vec()
        };
        let couriers = &chosen(&[])[..2];
        let outcomes = condense(&options, couriers, &[runs([1, 2, 4]), runs([4, 4, 4])]);
        let file = |index: usize| outcomes[index].file.clone().unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(file(0).gigabytes_per_second_median, 0.5));
        assert!(near(file(0).gigabytes_per_second_mean, (1.0 + 0.5 + 0.25) / 3.0));
        assert!(near(file(0).run_seconds_deviation.unwrap().powi(2), 7.0 / 3.0));
        assert_eq!(file(0).sender_grown_bytes, Some(40));
        assert!(near(file(0).ratio_to_sendfile.unwrap(), 1.0));
        assert!(near(file(1).ratio_to_sendfile.unwrap(), 0.5));
        assert!(near(file(1).run_seconds_deviation.unwrap(), 0.0));
    }
}
