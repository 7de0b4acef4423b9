//! monocoque on a tokio runtime of the side's thread: its sockets work within the caller's calls and have one peer
//! each. Streams are sent with write coalescing, one flush per burst; a large body is sent by reference.

use std::cell::Cell;
use std::io;

use monocoque::rt::{TcpListener, TcpStream, UnixListener, UnixStream};
use monocoque::zmq::{
    PubSocket, PullSocket, PushSocket, RepSocket, ReqSocket, SocketOptions, SubSocket,
};

use crate::cli::Transport;
use crate::error::{Failure, Result};
use crate::sequence::{END, SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::peers::{BURST_MESSAGES, Bodies, LARGE_BYTES, Local, burst, serve};
use crate::subject::{
    Case, Pattern, Publisher, Receiver, Replier, Requester, Sender, Subject, Subscribers,
    queue_messages,
};

/// Bytes per read from the kernel, for streams. The library's default of 32 KiB is meant for many sockets.
const READ_BYTES: usize = 256 * 1024;

/// The subject monocoque. See the module.
#[derive(Debug)]
pub struct Monocoque;

impl Subject for Monocoque {
    fn name(&self) -> &'static str {
        "monocoque"
    }

    fn settings(&self, case: &Case) -> String {
        let sends = match case.pattern {
            Pattern::RoundTrip => "a write for each message",
            Pattern::FanOut => "PUB with a worker thread for each core, write coalescing",
            _ => "write coalescing, a flush for each burst, reads of 256 KiB",
        };
        format!("0.4.2, tokio on the side's thread, one peer a socket, {sends}")
    }

    fn plays(&self, pattern: Pattern) -> bool {
        matches!(pattern, Pattern::Stream | Pattern::RoundTrip | Pattern::FanOut)
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        if case.transport == Transport::Inproc {
            return Some("within the process its DEALER alone talks both ways");
        }
        if case.pattern == Pattern::FanOut && case.transport != Transport::Tcp {
            return Some("its PUB does TCP only");
        }
        (case.connections > 0).then_some("its sockets have one peer each")
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        let local = Local::new(case)?;
        let options = options(case);
        let bodies = Bodies::new(case.size_bytes);
        let burst = burst(case.size_bytes);
        Ok(match stream(case, &local, endpoint)? {
            Stream::Tcp(stream) => {
                let socket = ready(&local, PushSocket::from_tcp_with_options(stream, options))?;
                Box::new(Pusher { socket, local, bodies, burst })
            }
            Stream::Unix(stream) => {
                let made = PushSocket::from_unix_stream_with_options(stream, options);
                Box::new(Pusher { socket: ready(&local, made)?, local, bodies, burst })
            }
        })
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        let local = Local::new(case)?;
        let options = options(case);
        Ok(match accepted(case, &local, announce)? {
            Stream::Tcp(stream) => {
                let socket = ready(&local, PullSocket::from_tcp_with_options(stream, options))?;
                Box::new(Puller { socket, local, frames: Vec::new() })
            }
            Stream::Unix(stream) => {
                let made = PullSocket::from_unix_stream_with_options(stream, options);
                Box::new(Puller { socket: ready(&local, made)?, local, frames: Vec::new() })
            }
        })
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        let local = Local::new(case)?;
        let options = options(case);
        let bodies = Bodies::new(case.size_bytes);
        let frames = Vec::new();
        Ok(match stream(case, &local, endpoint)? {
            Stream::Tcp(stream) => {
                let socket = ready(&local, ReqSocket::from_tcp_with_options(stream, options))?;
                Box::new(Asker { socket, local, bodies, frames })
            }
            Stream::Unix(stream) => {
                let made = ReqSocket::from_unix_stream_with_options(stream, options);
                Box::new(Asker { socket: ready(&local, made)?, local, bodies, frames })
            }
        })
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        let local = Local::new(case)?;
        let options = options(case);
        Ok(match accepted(case, &local, announce)? {
            Stream::Tcp(stream) => {
                let socket = ready(&local, RepSocket::from_tcp_with_options(stream, options))?;
                Box::new(Answerer { socket, local })
            }
            Stream::Unix(stream) => {
                let made = RepSocket::from_unix_stream_with_options(stream, options);
                Box::new(Answerer { socket: ready(&local, made)?, local })
            }
        })
    }

    fn publisher(&self, case: &Case, announce: Announce) -> Result<Box<dyn Publisher>> {
        let local = Local::new(case)?;
        let socket = local.run(async {
            let bound = PubSocket::bind_with_options(address_of(&case.bind)?, options(case));
            let mut socket = bound.await?;
            announce.endpoint(format!("tcp://{}", socket.local_addr()?));
            for _ in 0..case.peers {
                socket.accept_subscriber().await?;
            }
            Ok(socket)
        })?;
        let (bodies, burst) = (Bodies::new(case.size_bytes), burst(case.size_bytes));
        Ok(Box::new(Publishing { socket, local, bodies, burst }))
    }

    fn subscribers(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Subscribers>> {
        let local = Local::new(case)?;
        let sockets = local.run(async {
            let mut sockets = Vec::new();
            for _ in 0..case.peers {
                let stream = TcpStream::connect(address_of(endpoint)?).await?;
                let mut socket = SubSocket::from_tcp_with_options(stream, options(case)).await?;
                socket.subscribe(b"").await?;
                sockets.push((socket, Vec::new()));
            }
            Ok(sockets)
        })?;
        Ok(Box::new(Listening { sockets, local }))
    }
}

fn options(case: &Case) -> SocketOptions {
    let hwm = queue_messages(case.size_bytes) as usize;
    let options = SocketOptions::new().with_send_hwm(hwm).with_recv_hwm(hwm);
    match case.pattern {
        Pattern::RoundTrip => options,
        _ => options
            .with_write_coalescing(true)
            .with_vectored_write_threshold(LARGE_BYTES)
            .with_read_buffer_size(READ_BYTES),
    }
}

/// A connection before its handshake.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

fn path_of(endpoint: &str) -> Result<&str> {
    let path = endpoint.strip_prefix("ipc://");
    path.ok_or_else(|| Failure::Setup(format!("`{endpoint}` is not an ipc endpoint")))
}

fn address_of(endpoint: &str) -> Result<&str> {
    let address = endpoint.strip_prefix("tcp://");
    address.ok_or_else(|| Failure::Setup(format!("`{endpoint}` is not a tcp endpoint")))
}

/// The connection of a connecting side.
fn stream(case: &Case, local: &Local, endpoint: &str) -> Result<Stream> {
    local.run(async {
        Ok(match case.transport {
            Transport::Ipc => Stream::Unix(UnixStream::connect(path_of(endpoint)?).await?),
            _ => Stream::Tcp(TcpStream::connect(address_of(endpoint)?).await?),
        })
    })
}

/// The connection of a binding side.
fn accepted(case: &Case, local: &Local, announce: Announce) -> Result<Stream> {
    local.run(async {
        if case.transport == Transport::Ipc {
            let listener = UnixListener::bind(path_of(&case.bind)?).await?;
            announce.endpoint(case.bind.clone());
            return Ok(Stream::Unix(listener.accept().await?.0));
        }
        let listener = TcpListener::bind(address_of(&case.bind)?).await?;
        announce.endpoint(format!("tcp://{}", listener.local_addr()?));
        Ok(Stream::Tcp(listener.accept().await?.0))
    })
}

/// A socket after its handshake.
fn ready<S>(local: &Local, made: impl Future<Output = io::Result<S>>) -> Result<S> {
    local.run(async { Ok(made.await?) })
}

fn closed() -> Failure {
    Failure::Library("the peer closed the connection".to_owned())
}

struct Pusher<S> {
    socket: S,
    local: Local,
    bodies: Bodies,
    burst: u64,
}

struct Puller<S> {
    socket: S,
    local: Local,
    frames: Vec<bytes::Bytes>,
}

struct Asker<S> {
    socket: S,
    local: Local,
    bodies: Bodies,
    frames: Vec<bytes::Bytes>,
}

struct Answerer<S> {
    socket: S,
    local: Local,
}

struct Publishing {
    socket: PubSocket,
    local: Local,
    bodies: Bodies,
    burst: u64,
}

impl Publishing {
    /// Sends `first..=last`.
    fn send(&mut self, first: u64, last: u64) -> Result<()> {
        let Self { socket, local, bodies, .. } = self;
        local.run(async {
            for sequence in first..=last {
                socket.send_frames(&[bodies.shared(sequence)]).await?;
            }
            Ok(())
        })
    }
}

impl Publisher for Publishing {
    fn publish(&mut self, sequence: u64) -> Result<()> {
        self.send(sequence, sequence)
    }

    fn publish_burst(&mut self, first: u64, count: u64) -> Result<u64> {
        let count = count.min(self.burst);
        self.send(first, first + count - 1)?;
        Ok(count)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct Listening {
    sockets: Vec<(SubSocket, Vec<bytes::Bytes>)>,
    local: Local,
}

impl Subscribers for Listening {
    fn receive_burst(&mut self, checks: &mut [SequenceCheck]) -> Result<()> {
        let has_some = Cell::new(false);
        let has_some = &has_some;
        let receiving =
            self.sockets.iter_mut().zip(checks).map(|((socket, frames), check)| async move {
                for _ in 0..BURST_MESSAGES {
                    if !socket.try_recv_into(frames)? && !socket.recv_into(frames).await? {
                        return Err(closed());
                    }
                    has_some.set(true);
                    check.accept(body(frames))?;
                }
                Ok(())
            });
        self.local.run(serve(receiving.collect(), has_some))
    }
}

/// The body of a single-part message.
fn body(frames: &[bytes::Bytes]) -> &[u8] {
    frames.last().map(|frame| &frame[..]).unwrap_or_default()
}

/// The library's sockets are generic over streams of a trait that it does not export, so the code is generated for each
/// of the two.
macro_rules! over {
    ($stream:ty) => {
        impl Pusher<PushSocket<$stream>> {
            /// Sends `first..=last`.
            fn send(&mut self, first: u64, last: u64) -> Result<()> {
                let Self { socket, local, bodies, .. } = self;
                local.run(async {
                    for sequence in first..=last {
                        socket.send_one(bodies.shared(sequence)).await?;
                    }
                    Ok(socket.flush().await?)
                })
            }
        }

        impl Sender for Pusher<PushSocket<$stream>> {
            fn send_burst(&mut self, first: u64) -> Result<u64> {
                self.send(first, first + self.burst - 1)?;
                Ok(self.burst)
            }

            fn send_due(&mut self, first: u64, count: u64) -> Result<()> {
                self.send(first, first + count - 1)
            }

            fn finish(mut self: Box<Self>) -> Result<()> {
                self.send(END, END)
            }
        }

        impl Receiver for Puller<PullSocket<$stream>> {
            fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
                let Self { socket, local, frames } = self;
                local.run(async {
                    for _ in 0..BURST_MESSAGES {
                        if !socket.try_recv_into(frames)? && !socket.recv_into(frames).await? {
                            return Err(closed());
                        }
                        if check.accept(body(frames))? == Verdict::End {
                            return Ok(Verdict::End);
                        }
                    }
                    Ok(Verdict::InOrder)
                })
            }
        }

        impl Requester for Asker<ReqSocket<$stream>> {
            fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
                let Self { socket, local, bodies, frames } = self;
                let request = bodies.shared(sequence);
                local.run(async {
                    socket.send_one(request).await?;
                    if !socket.recv_into(frames).await? {
                        return Err(closed());
                    }
                    check.accept(body(frames))
                })
            }
        }

        impl Replier for Answerer<RepSocket<$stream>> {
            fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
                let Self { socket, local } = self;
                local.run(async {
                    let request = socket.recv().await?.ok_or_else(closed)?;
                    let verdict = check.accept(body(&request))?;
                    socket.send(request).await?;
                    Ok(verdict)
                })
            }
        }
    };
}

over!(TcpStream);
over!(UnixStream);
