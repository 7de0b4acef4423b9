//! A REP socket that receives a NumPy array of float64 and answers `SUCCESS`.
//!
//! ```text
//! cargo run -p zring --example numpy_rep                                   asks itself once and ends
//! cargo run -p zring --example numpy_rep -- ipc:///tmp/numpy.sock [COUNT]  answers COUNT requests (1)
//! ```
//!
//! The other end of the second line, in Python:
//!
//! ```python
//! import numpy, zmq
//! socket = zmq.Context().socket(zmq.REQ)
//! socket.connect("ipc:///tmp/numpy.sock")
//! socket.send(numpy.arange(131072, dtype=numpy.float64))
//! print(socket.recv())
//! ```

use std::env;
use std::thread;

use zring::{Error, Message, SocketType, inline::Context};

/// One MiB of numbers.
const NUMBERS: usize = 131_072;

fn main() -> Result<(), Error> {
    let mut arguments = env::args().skip(1);
    let endpoint = arguments.next();
    let count = arguments.next().map_or(1, |count| count.parse().expect("a number of requests"));

    let context = Context::new()?;
    let rep = context.socket(SocketType::Rep)?;
    rep.bind(endpoint.as_deref().unwrap_or("ipc://*"))?;
    let bound = rep.last_endpoint().expect("bound just now");
    println!("answering {count} at {bound}");

    let client = endpoint.is_none().then(|| thread::spawn(move || ask(&bound)));
    for _ in 0..count {
        let request = rep.recv()?;
        rep.send(judge(request.body()))?;
    }
    rep.close();
    client.map_or(Ok(()), |client| client.join().expect("the client"))
}

/// Reads the body as little-endian float64. A received body lies where the kernel put it, so it may begin at
/// any address: numbers are read out of it one by one rather than in place.
fn judge(body: &[u8]) -> &'static str {
    let (numbers, rest) = body.as_chunks::<8>();
    if !rest.is_empty() {
        return "FAILURE: not a whole number of float64";
    }
    let sum: f64 = numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).sum();
    println!("{} numbers, sum {sum}", numbers.len());
    "SUCCESS"
}

/// What the Python program above does. A context stays on its thread, so this one has its own.
fn ask(endpoint: &str) -> Result<(), Error> {
    let context = Context::new()?;
    let req = context.socket(SocketType::Req)?;
    req.connect(endpoint)?;
    let mut array = Message::with_size(NUMBERS * 8);
    let bytes = array.get_mut().expect("nobody else has it");
    for (number, bytes) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *bytes = (number as f64).to_le_bytes();
    }
    req.send(array)?;
    println!("answer: {}", String::from_utf8_lossy(req.recv()?.body()));
    Ok(())
}
