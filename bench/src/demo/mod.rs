//! The built-in demo: publish and subscribe, a pipeline, and round trips, over real sockets on this machine.
//!
//! Each party runs on a thread and a context of its own, as separate programs would. The whole demo takes about seven
//! seconds.

use std::process::ExitCode;
use std::time::Duration;

use zring::{SocketType, inline};

use crate::error::{Failure, Result};
use crate::record::Recorder;
use crate::report::table::{Table, amount, latency_cell};

mod pipeline;
mod roundtrip;
mod show;
mod ticks;

/// Where parties bind: on a port chosen by the system.
const BIND: &str = "tcp://127.0.0.1:0";
/// How long a party waits for another before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the demo; the exit code is 1 if a part of it failed.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("zring-demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let on = if cfg!(target_os = "linux") { " on io_uring" } else { "" };
    println!(
        "zring: ZeroMQ's patterns{on}, live on this machine. Every party has its own thread and socket."
    );
    let subscribers = ticks::run()?;
    let pipeline = pipeline::run()?;
    let round_trips = roundtrip::run()?;

    let mut latencies = Table::new(["latency", "messages", "per second", "p50", "p99", "max"]);
    for (number, subscriber) in subscribers.iter().enumerate() {
        let name = match subscriber.missed {
            0 => format!("tick to subscriber {}", number + 1),
            missed => format!("tick to subscriber {} ({missed} missed)", number + 1),
        };
        latency_row(&mut latencies, name, &subscriber.latencies, ticks::DURATION);
    }
    for round_trip in &round_trips {
        latency_row(
            &mut latencies,
            round_trip.title.to_owned(),
            &round_trip.latencies,
            roundtrip::DURATION,
        );
    }
    println!("\n{}", latencies.render());

    let mut tasks = Table::new(["pipeline", "tasks", "per second"]);
    for (number, &done) in pipeline.tasks_per_worker.iter().enumerate() {
        let rate = done as f64 / pipeline::DURATION.as_secs_f64();
        tasks.row([format!("worker {}", number + 1), done.to_string(), amount(rate)]);
    }
    println!("{}", tasks.render());
    println!("Measure more: cargo run --release --bin zring-bench -- --help");
    Ok(())
}

fn latency_row(table: &mut Table, name: String, latencies: &Recorder, duration: Duration) {
    let at = latencies.percentiles();
    let rate = latencies.count() as f64 / duration.as_secs_f64();
    let figures = [at.p50, at.p99, at.max].map(latency_cell);
    table.row([name, latencies.count().to_string(), amount(rate)].into_iter().chain(figures));
}

/// A socket that gives up after [`PATIENCE`] instead of leaving the demo hanging.
fn socket(context: &inline::Context, socket_type: SocketType) -> Result<inline::Socket> {
    let socket = context.socket(socket_type).map_err(Failure::library)?;
    socket.set_sndtimeo(Some(PATIENCE));
    socket.set_rcvtimeo(Some(PATIENCE));
    socket.set_linger(Some(PATIENCE));
    Ok(socket)
}

fn connected(
    context: &inline::Context,
    socket_type: SocketType,
    endpoint: &str,
) -> Result<inline::Socket> {
    let socket = socket(context, socket_type)?;
    socket.connect(endpoint).map_err(Failure::library)?;
    Ok(socket)
}

/// A bound socket and its endpoint.
fn bound(context: &inline::Context, socket_type: SocketType) -> Result<(inline::Socket, String)> {
    let socket = socket(context, socket_type)?;
    let endpoint = bind(&socket)?;
    Ok((socket, endpoint))
}

/// Binds a socket to a port chosen by the system and returns the endpoint.
fn bind(socket: &inline::Socket) -> Result<String> {
    socket.bind(BIND).map_err(Failure::library)?;
    socket.last_endpoint().ok_or_else(|| Failure::Setup("no bound endpoint".to_owned()))
}

fn context() -> Result<inline::Context> {
    inline::Context::new().map_err(Failure::library)
}

/// Two numbers in one body, the only content that the demo sends.
///
/// ```text
///  0        8        16
/// +--------+--------+
/// | u64 LE | u64 LE |
/// +--------+--------+
/// ```
fn pack(first: u64, second: u64) -> [u8; 16] {
    let mut body = [0; 16];
    body[..8].copy_from_slice(&first.to_le_bytes());
    body[8..].copy_from_slice(&second.to_le_bytes());
    body
}

/// Reverses [`pack`].
///
/// # Errors
/// [`Failure::WrongLength`] for any other length.
fn unpack(body: &[u8]) -> Result<(u64, u64)> {
    let halves = body
        .split_first_chunk::<8>()
        .and_then(|(first, rest)| Some((first, rest.first_chunk::<8>()?)));
    match halves {
        Some((first, second)) if body.len() == 16 => {
            Ok((u64::from_le_bytes(*first), u64::from_le_bytes(*second)))
        }
        _ => Err(Failure::WrongLength {
            expected: 0,
            expected_bytes: 16,
            received_bytes: body.len(),
        }),
    }
}

/// Waits for a thread's result; a panic counts as a failure.
fn join<T>(party: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let name = party.thread().name().unwrap_or("a party").to_owned();
    let result = party.join().unwrap_or_else(|_| Err(Failure::Setup("panicked".to_owned())));
    result.map_err(|failure| Failure::Sides(format!("{name}: {failure}")))
}

/// Starts a party on a thread of its own.
fn start<'scope, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    name: String,
    party: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<std::thread::ScopedJoinHandle<'scope, Result<T>>> {
    Ok(std::thread::Builder::new().name(name).spawn_scoped(scope, party)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_read_back() {
        assert_eq!(unpack(&pack(7, u64::MAX)).unwrap(), (7, u64::MAX));
        assert!(unpack(&[0; 15]).is_err());
        assert!(unpack(&[0; 17]).is_err());
    }
}
