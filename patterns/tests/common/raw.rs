//! A peer that sends raw bytes, such as no correct ZMTP implementation would send.
//!
//! Its calls block, so a test runs it inside [`turning`](super::turning).

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::PATIENCE;

pub(crate) const MORE: u8 = 1;
pub(crate) const LONG: u8 = 2;
pub(crate) const COMMAND: u8 = 4;

/// A ZMTP 3 greeting with the NULL mechanism (RFC 37, "greeting").
pub(crate) fn greeting(minor: u8) -> Vec<u8> {
    let mut out = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3, minor];
    out.extend_from_slice(b"NULL");
    out.resize(64, 0);
    out
}

/// A frame with the shortest possible header.
pub(crate) fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = header(flags, body.len() as u64);
    out.extend_from_slice(body);
    out
}

/// Only the header of a frame that announces `bytes`.
pub(crate) fn header(flags: u8, bytes: u64) -> Vec<u8> {
    match u8::try_from(bytes) {
        Ok(short) => vec![flags, short],
        Err(_) => [&[flags | LONG][..], &bytes.to_be_bytes()].concat(),
    }
}

/// A command frame.
pub(crate) fn command(name: &str, data: &[u8]) -> Vec<u8> {
    let name_bytes = u8::try_from(name.len()).expect("a short name");
    frame(COMMAND, &[&[name_bytes][..], name.as_bytes(), data].concat())
}

/// One property of a READY command.
pub(crate) fn property(name: &str, value: &[u8]) -> Vec<u8> {
    let (name_bytes, value_bytes) = (name.len() as u8, value.len() as u32);
    [&[name_bytes][..], name.as_bytes(), &value_bytes.to_be_bytes(), value].concat()
}

/// The READY command of a socket of type `kind`.
pub(crate) fn ready(kind: &str) -> Vec<u8> {
    command("READY", &property("Socket-Type", kind.as_bytes()))
}

/// A subscription as a 3.1 peer sends it.
pub(crate) fn subscribe(prefix: &[u8]) -> Vec<u8> {
    command("SUBSCRIBE", prefix)
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection to the Unix-domain socket at `path`.
pub(crate) fn connect_unix(path: &str) -> Socket {
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    stream.connect(&SockAddr::unix(path).expect("a short path")).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// A connection that sends raw bytes.
pub(crate) struct Raw {
    stream: Box<dyn Stream>,
    reset: Option<TcpStream>,
}

impl Raw {
    /// Connects to `endpoint` (tcp or ipc).
    pub(crate) fn connect(endpoint: &str) -> Raw {
        match endpoint.strip_prefix("ipc://") {
            Some(path) => Raw { stream: Box::new(connect_unix(path)), reset: None },
            None => Raw::over(TcpStream::connect(address(endpoint)).expect("connect")),
        }
    }

    /// Connects with a receive buffer of a few kilobytes, so that the kernel holds little.
    pub(crate) fn connect_narrow(endpoint: &str) -> Raw {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let address: std::net::SocketAddr = address(endpoint).parse().expect("an address");
        socket.connect(&address.into()).expect("connect");
        Raw::over(socket.into())
    }

    /// Accepts one connection.
    pub(crate) fn accept(listener: &TcpListener) -> Raw {
        Raw::over(listener.accept().expect("accept").0)
    }

    fn over(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        let reset = stream.try_clone().expect("a second handle");
        Raw { stream: Box::new(stream), reset: Some(reset) }
    }

    /// Performs a handshake as version 3.`minor` and socket type `kind`. Returns the other end's greeting and the body
    /// of its READY.
    pub(crate) fn handshake(&mut self, minor: u8, kind: &str) -> (Vec<u8>, Vec<u8>) {
        self.say(&greeting(minor));
        let theirs = self.read(64);
        self.say(&ready(kind));
        let (flags, body) = self.frame();
        assert_eq!(flags & COMMAND, COMMAND, "READY is a command");
        assert_eq!(&body[..6], b"\x05READY");
        (theirs, body)
    }

    /// Writes all of `bytes`.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("write to the socket under test");
    }

    /// Writes until the other end closes; returns whether it closed before `limit_bytes` were written.
    pub(crate) fn flood(&mut self, bytes: &[u8], limit_bytes: usize) -> bool {
        let mut written = 0;
        while written < limit_bytes {
            match self.stream.write_all(bytes) {
                Ok(()) => written += bytes.len(),
                Err(error) => return is_closed(&error),
            }
        }
        false
    }

    /// Writes `bytes` one by one with a pause in between; returns whether the other end closed before the last.
    pub(crate) fn dribble(&mut self, bytes: &[u8], pause: Duration) -> bool {
        bytes.iter().any(|byte| {
            std::thread::sleep(pause);
            self.stream.write_all(&[*byte]).is_err()
        })
    }

    /// Reads exactly `count` bytes.
    pub(crate) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut out = vec![0; count];
        self.stream.read_exact(&mut out).expect("read from the socket under test");
        out
    }

    /// Reads a frame: its flags and its body.
    pub(crate) fn frame(&mut self) -> (u8, Vec<u8>) {
        let flags = self.read(1)[0];
        let bytes = if flags & LONG == 0 {
            u64::from(self.read(1)[0])
        } else {
            u64::from_be_bytes(self.read(8).try_into().expect("eight bytes"))
        };
        (flags, self.read(usize::try_from(bytes).expect("a frame that fits")))
    }

    /// Reads the next frame that is not a command.
    pub(crate) fn data(&mut self) -> (u8, Vec<u8>) {
        loop {
            let (flags, body) = self.frame();
            if flags & COMMAND == 0 {
                return (flags, body);
            }
        }
    }

    /// Reads data frames until the other end closes or is silent for `silence`; returns their number.
    pub(crate) fn count_until_silent(&mut self, silence: Duration) -> u64 {
        self.reset
            .as_ref()
            .expect("a TCP peer")
            .set_read_timeout(Some(silence))
            .expect("a time-out");
        let (mut buffered, mut chunk, mut count) = (Vec::new(), vec![0; 1 << 16], 0);
        while let Ok(bytes @ 1..) = self.stream.read(&mut chunk) {
            buffered.extend_from_slice(&chunk[..bytes]);
            let mut at = 0;
            while let Some(end) = frame_end(&buffered, at) {
                count += u64::from(buffered[at] & COMMAND == 0);
                at = end;
            }
            buffered.drain(..at);
        }
        count
    }

    /// Reads until the other end closes; returns the number of bytes.
    pub(crate) fn count_until_closed(&mut self) -> u64 {
        let (mut count, mut sink) = (0, vec![0; 64 << 10]);
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return count,
                Ok(bytes) => count += bytes as u64,
                Err(error) if is_closed(&error) => return count,
                Err(error) => panic!("neither bytes nor an end: {error}"),
            }
        }
    }

    /// Waits until the other end closes, and ignores all bytes before.
    pub(crate) fn is_closed(&mut self) -> bool {
        let (start, mut sink) = (Instant::now(), [0; 4096]);
        while start.elapsed() < PATIENCE {
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return is_closed(&error),
            }
        }
        false
    }

    /// Closes with a reset instead of an orderly end (TCP only).
    pub(crate) fn reset(self) {
        let stream = self.reset.as_ref().expect("a TCP peer");
        SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("linger");
    }
}

/// The end of the frame that begins at `at`, if the frame is complete.
fn frame_end(bytes: &[u8], at: usize) -> Option<usize> {
    let flags = *bytes.get(at)?;
    let (head, body) = if flags & LONG == 0 {
        (2, usize::from(*bytes.get(at + 1)?))
    } else {
        let size: [u8; 8] = bytes.get(at + 1..at + 9)?.try_into().ok()?;
        (9, usize::try_from(u64::from_be_bytes(size)).ok()?)
    };
    (at + head + body <= bytes.len()).then_some(at + head + body)
}

fn is_closed(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
    )
}

/// Listens on a loopback port; returns the listener and its endpoint.
pub(crate) fn listen() -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("tcp://{}", listener.local_addr()?);
    Ok((listener, endpoint))
}

fn address(endpoint: &str) -> &str {
    endpoint.strip_prefix("tcp://").expect("a tcp endpoint")
}
