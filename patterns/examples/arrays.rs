//! REQ/REP over `ipc://`: a client sends arrays of float64, a server sends them back with every number doubled.
//!
//! ```text
//! cargo run -p zring --example arrays                                    both, on two threads
//! cargo run -p zring --example arrays -- server ipc:///tmp/arrays.sock   one end, to be asked ten times
//! cargo run -p zring --example arrays -- client ipc:///tmp/arrays.sock   the other
//! ```
//!
//! `--rounds N` in place of ten. Either end may be Python: an array is a message of two frames, as NumPy's users send
//! it with pyzmq. `tests/py/array_client.py` and `array_server.py` are these two programs, in short:
//!
//! ```python
//! import numpy, zmq
//! socket = zmq.Context().socket(zmq.REQ)
//! socket.connect("ipc:///tmp/arrays.sock")
//! array = numpy.arange(131072, dtype=numpy.float64)
//! socket.send_json({"dtype": str(array.dtype), "shape": array.shape}, zmq.SNDMORE)
//! socket.send(array, copy=False)
//! header, body = socket.recv_json(), socket.recv()
//! print(numpy.frombuffer(body, dtype=header["dtype"]).reshape(header["shape"]))
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, thread};

use serde_json::{Value, json};
use zring::inline::{Context, Socket};
use zring::{Frame, FrameBuf, SocketType};

/// One MiB of numbers.
const NUMBERS: usize = 131_072;
/// Neither end waits longer than this for the other.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));
const USAGE: &str = "usage: arrays [server ENDPOINT | client ENDPOINT] [--rounds N]";

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    match run(&mut arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("arrays: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &mut Vec<String>) -> Outcome {
    let mut rounds = 10;
    if let Some(at) = arguments.iter().position(|argument| argument == "--rounds") {
        rounds = arguments.get(at + 1).ok_or(USAGE)?.parse()?;
        arguments.drain(at..at + 2);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", endpoint] => serve(&bound(&Context::new()?, endpoint)?, rounds),
        ["client", endpoint] => ask(endpoint, rounds),
        [] => {
            let context = Context::new()?;
            let rep = bound(&context, "ipc://*")?;
            let endpoint = rep.last_endpoint().ok_or("bound to nothing")?;
            let client = thread::spawn(move || ask(&endpoint, rounds));
            let served = serve(&rep, rounds);
            rep.close();
            client.join().expect("the client does not panic").and(served)
        }
        _ => Err(USAGE.into()),
    }
}

fn bound(context: &Context, endpoint: &str) -> Result<Socket, zring::Error> {
    let rep = context.socket(SocketType::Rep)?;
    rep.set_rcvtimeo(PATIENCE);
    rep.bind(endpoint)?;
    println!("answering at {}", rep.last_endpoint().unwrap_or_default());
    Ok(rep)
}

fn serve(rep: &Socket, rounds: u32) -> Outcome {
    // Memory of numbers rather than bytes: it is aligned for arithmetic, so no body is copied to get there.
    let mut numbers = vec![0.0; NUMBERS];
    for _ in 0..rounds {
        match receive(rep, &mut numbers)? {
            Ok(count) => {
                numbers[..count].iter_mut().for_each(|number| *number *= 2.0);
                send(rep, &numbers[..count])?;
            }
            // The client waits for a reply, so an error is one, too.
            Err(why) => rep.send(json!({ "error": why }).to_string())?,
        }
    }
    println!("answered {rounds} requests");
    Ok(())
}

fn ask(endpoint: &str, rounds: u32) -> Outcome {
    let context = Context::new()?;
    let req = context.socket(SocketType::Req)?;
    req.set_rcvtimeo(PATIENCE);
    req.connect(endpoint)?;
    req.wait_for_peers(1, PATIENCE)?;
    let (mut sent, mut received) = (vec![0.0; NUMBERS], vec![0.0; NUMBERS]);
    let mut times = Vec::new();
    for round in 0..rounds {
        let first = f64::from(round) * NUMBERS as f64;
        sent.iter_mut().enumerate().for_each(|(at, number)| *number = first + at as f64);
        let start = Instant::now();
        send(&req, &sent)?;
        let count = receive(&req, &mut received)??;
        times.push(start.elapsed());
        if count != NUMBERS {
            return Err(format!("round {round}: {count} numbers for {NUMBERS}").into());
        }
        let mut pairs = sent.iter().zip(&received);
        if let Some(at) = pairs.position(|(sent, received)| *received != 2.0 * sent) {
            return Err(format!("round {round}: number {at} is {}", received[at]).into());
        }
    }
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    println!("{rounds} arrays of {NUMBERS} numbers went there and came back doubled");
    println!(
        "median {median:?} for 1 MiB each way; {} bytes went straight in",
        req.stats().bytes_into
    );
    Ok(())
}

/// Makes one copy, into the memory that is sent from: `numbers` is written again while that memory may still be on its
/// way.
fn send(socket: &Socket, numbers: &[f64]) -> Result<(), zring::Error> {
    let header = json!({ "dtype": "float64", "shape": [numbers.len()] }).to_string();
    socket.send_multipart([Frame::from(header), Frame::copy_from(bytemuck::cast_slice(numbers))])
}

/// Receives an array into `numbers`. Returns how many numbers there are, or else why the message is no usable array.
fn receive(socket: &Socket, numbers: &mut [f64]) -> Result<Result<usize, String>, zring::Error> {
    let mut header = [0; 256];
    let body = bytemuck::cast_slice_mut(numbers);
    let frames = &mut [FrameBuf::new(&mut header), FrameBuf::new(body)];
    let received = socket.recv_into_vectored(frames)?;
    let extra = socket.skip_rest();
    let [header, body] = frames;
    if (received.frames, extra) != (2, 0) {
        let text = String::from_utf8_lossy(header.bytes());
        return Ok(Err(format!("{} frames: {text}", received.frames + extra)));
    }
    Ok(checked(header, body))
}

fn checked(header: &FrameBuf<'_>, body: &FrameBuf<'_>) -> Result<usize, String> {
    let json: Value =
        serde_json::from_slice(header.bytes()).map_err(|error| format!("the header: {error}"))?;
    if json["dtype"] != "float64" {
        return Err(format!("the numbers are {}, not float64", json["dtype"]));
    }
    let shape = json["shape"].as_array().ok_or("the header has no shape")?;
    let count = shape.iter().try_fold(1, |product: usize, length| {
        product.checked_mul(usize::try_from(length.as_u64()?).ok()?)
    });
    match count {
        _ if body.is_truncated() => Err(format!("{} bytes: at most 1 MiB", body.len())),
        Some(count) if count.checked_mul(8) == Some(body.len()) => Ok(count),
        _ => Err(format!("a shape of {} in {} bytes", json["shape"], body.len())),
    }
}
