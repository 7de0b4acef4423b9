//! omq on tokio: blocking sockets, a context with one I/O thread per side. Round trips over TCP use omq's "exclusive"
//! sockets instead, which use only the caller's thread and are its documented choice for latency.
//!
//! The side's thread starts the I/O thread, which inherits its core.

use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use omq_tokio::blocking::Socket;
use omq_tokio::message::MAX_INLINE_MESSAGE;
use omq_tokio::{
    Context, ContextConfig, Endpoint, Message, Options, SocketType, TrySendError, exclusive,
};

use crate::cli::{Transport, Wait};
use crate::error::{Failure, Result};
use crate::sequence::{END, SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::peers::{
    BURST_MESSAGES, Bodies, Local, Spun, burst, stalled, unpark_this_thread,
};
use crate::subject::{
    Case, Common, Pattern, Publisher, Receiver, Replier, Requester, STALL, Sender, Subject,
    Subscribers, queue_messages,
};

/// The subject omq. See the module.
#[derive(Debug)]
pub struct Omq;

/// Whether a case uses exclusive sockets: these support TCP, and one connection.
fn is_exclusive(case: &Case) -> bool {
    case.transport == Transport::Tcp && case.connections == 0
}

impl Subject for Omq {
    fn name(&self) -> &'static str {
        "omq"
    }

    fn settings(&self, case: &Case) -> String {
        let hwm = queue_messages(case.size_bytes);
        let spin = match case.wait {
            Wait::Adaptive | Wait::Park => "no receive spin",
            Wait::Spin => "receive spin without end",
        };
        if case.pattern == Pattern::RoundTrip && is_exclusive(case) {
            return "0.33, exclusive sockets on a tokio runtime of the side's thread".to_owned();
        }
        format!("0.33, blocking sockets, 1 I/O thread, HWM {hwm}, {spin}")
    }

    fn plays(&self, pattern: Pattern) -> bool {
        matches!(pattern, Pattern::Stream | Pattern::RoundTrip | Pattern::FanOut)
    }

    fn common(&self, case: &Case) -> Result<Option<Common>> {
        let is_inproc = case.transport == Transport::Inproc;
        Ok(is_inproc.then(|| Arc::new(context()) as Common))
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        let side = Side::connect(case, SocketType::Push, endpoint)?;
        Ok(Box::new(Pusher { side, burst: burst(case.size_bytes) }))
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        Ok(Box::new(Side::bind(case, SocketType::Pull, announce)?))
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        if is_exclusive(case) {
            return Ok(Box::new(Exclusive::connect(case, endpoint)?));
        }
        let side = Side::connect(case, SocketType::Req, endpoint)?;
        Ok(Box::new(Asker { side, endpoint: endpoint.to_owned(), silent: Vec::new() }))
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        if is_exclusive(case) {
            return Ok(Box::new(Exclusive::bind(case, announce)?));
        }
        Ok(Box::new(Side::bind(case, SocketType::Rep, announce)?))
    }

    fn publisher(&self, case: &Case, announce: Announce) -> Result<Box<dyn Publisher>> {
        let side = Side::bind(case, SocketType::Pub, announce)?;
        Ok(Box::new(Pusher { side, burst: burst(case.size_bytes) }))
    }

    fn subscribers(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Subscribers>> {
        // All sockets share one context, and so one I/O thread.
        let context = shared_context(case);
        let open = |_| {
            let socket = context.blocking_socket(SocketType::Sub, options(case));
            socket.subscribe("").map_err(Failure::library)?;
            socket.connect(endpoint).map_err(Failure::library)?;
            Ok(socket)
        };
        let sockets = (0..case.peers).map(open).collect::<Result<_>>()?;
        let waker = unpark_this_thread();
        Ok(Box::new(Listening { sockets, waker, wait: case.wait, context }))
    }
}

fn shared_context(case: &Case) -> Arc<Context> {
    case.common::<Context>().unwrap_or_else(|| Arc::new(context()))
}

fn options(case: &Case) -> Options {
    let hwm = queue_messages(case.size_bytes);
    let spin = match case.wait {
        // A spin of 50 µs, as its manual advises, keeps the I/O thread from the core that it shares with the side.
        Wait::Adaptive | Wait::Park => Duration::ZERO,
        Wait::Spin => Duration::MAX,
    };
    let pending = case.connections.max(case.peers) as usize;
    let options = Options::default().send_hwm(hwm).recv_hwm(hwm).linger(STALL).recv_spin(spin);
    options.max_pending_handshakes(pending.max(128))
}

fn context() -> Context {
    Context::with_config(ContextConfig { io_threads: 1 })
}

/// The body of a single-part message.
fn body(message: &Message) -> &[u8] {
    message.part_slice(0).unwrap_or_default()
}

/// One side with blocking calls. The fields drop in this order.
struct Side {
    socket: Socket,
    bodies: Bodies,
    received: Vec<Message>,
    /// The context's I/O thread works for the socket.
    context: Arc<Context>,
}

impl Side {
    fn new(case: &Case, socket_type: SocketType) -> Self {
        let context = shared_context(case);
        let socket = context.blocking_socket(socket_type, options(case));
        let bodies = Bodies::new(case.size_bytes);
        Self { socket, bodies, received: Vec::with_capacity(BURST_MESSAGES), context }
    }

    fn connect(case: &Case, socket_type: SocketType, endpoint: &str) -> Result<Self> {
        let side = Self::new(case, socket_type);
        side.socket.connect(endpoint).map_err(Failure::library)?;
        side.socket.wait_connected(1, STALL).map_err(Failure::library)?;
        Ok(side)
    }

    fn bind(case: &Case, socket_type: SocketType, announce: Announce) -> Result<Self> {
        let side = Self::new(case, socket_type);
        let bound = side.socket.bind(case.bind.as_str()).map_err(Failure::library)?;
        announce.endpoint(bound.to_string());
        Ok(side)
    }

    fn message(&mut self, sequence: u64) -> Message {
        stamped(&mut self.bodies, sequence)
    }

    fn send(&mut self, sequence: u64) -> Result<()> {
        let message = self.message(sequence);
        // As omq's own benchmarks do: the blocking call costs more and is needed only when the queue is full.
        match self.socket.try_send(message) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(message)) => {
                self.socket.send_timeout(message, STALL).map_err(Failure::library)
            }
            Err(error) => Err(Failure::library(error)),
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Ensures that the last message is sent. If it is not, the waiting side reports the failure.
        let _ = self.socket.clone_shared().close();
    }
}

/// Small messages are stored inline, others refer to their body.
fn stamped(bodies: &mut Bodies, sequence: u64) -> Message {
    if bodies.size_bytes() <= MAX_INLINE_MESSAGE {
        Message::from_slice(bodies.borrowed(sequence))
    } else {
        Message::single(bodies.shared(sequence))
    }
}

struct Pusher {
    side: Side,
    burst: u64,
}

impl Sender for Pusher {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        for sequence in first..first + self.burst {
            self.side.send(sequence)?;
        }
        Ok(self.burst)
    }

    fn send_due(&mut self, first: u64, count: u64) -> Result<()> {
        (first..first + count).try_for_each(|sequence| self.side.send(sequence))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.side.send(END)?;
        self.side.socket.clone_shared().close().map_err(Failure::library)
    }
}

impl Receiver for Side {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.socket
            .recv_many_timeout_into(BURST_MESSAGES, STALL, &mut self.received)
            .map_err(Failure::library)?;
        for message in self.received.drain(..) {
            if check.accept(body(&message))? == Verdict::End {
                return Ok(Verdict::End);
            }
        }
        Ok(Verdict::InOrder)
    }
}

impl Publisher for Pusher {
    fn publish(&mut self, sequence: u64) -> Result<()> {
        self.side.send(sequence)
    }

    fn publish_burst(&mut self, first: u64, count: u64) -> Result<u64> {
        let count = count.min(self.burst);
        self.send_due(first, count)?;
        Ok(count)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.side.socket.clone_shared().close().map_err(Failure::library)
    }
}

/// Sockets of subscribers. The fields drop in this order.
struct Listening {
    sockets: Vec<Socket>,
    waker: Waker,
    wait: Wait,
    #[expect(dead_code, reason = "its I/O thread works for the sockets")]
    context: Arc<Context>,
}

impl Listening {
    /// Receives all available messages; returns whether there were any.
    fn drain(&self, checks: &mut [SequenceCheck]) -> Result<bool> {
        let mut has_some = false;
        for (socket, check) in self.sockets.iter().zip(checks) {
            for _ in 0..BURST_MESSAGES {
                match socket.try_recv() {
                    Ok(message) => check.accept(body(&message))?,
                    Err(omq_tokio::Error::WouldBlock) => break,
                    Err(error) => return Err(Failure::library(error)),
                };
                has_some = true;
            }
        }
        Ok(has_some)
    }
}

impl Subscribers for Listening {
    fn receive_burst(&mut self, checks: &mut [SequenceCheck]) -> Result<()> {
        let mut spun = Spun::default();
        loop {
            if self.drain(checks)? {
                return Ok(());
            }
            if self.wait == Wait::Spin {
                spun.again()?;
                continue;
            }
            // From here on any arriving message unparks this thread.
            let wakes =
                self.sockets.iter().map(|socket| socket.register_recv_waker(self.waker.clone()));
            let wakes: Vec<_> = wakes.collect();
            if self.drain(checks)? {
                return Ok(());
            }
            let since = Instant::now();
            thread::park_timeout(STALL);
            drop(wakes);
            if since.elapsed() >= STALL {
                return Err(stalled());
            }
        }
    }
}

struct Asker {
    side: Side,
    endpoint: String,
    /// Hold the silent connections.
    silent: Vec<Socket>,
}

impl Requester for Asker {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        self.side.send(sequence)?;
        let reply = self.side.socket.recv_timeout(STALL).map_err(Failure::library)?;
        check.accept(body(&reply))
    }

    fn open_silent(&mut self, count: u32) -> Result<()> {
        // One socket each, as with the other libraries.
        let open = |_| {
            let socket = self.side.context.blocking_socket(SocketType::Req, Options::default());
            socket.connect(self.endpoint.as_str()).map_err(Failure::library)?;
            Ok(socket)
        };
        self.silent = (0..count).map(open).collect::<Result<_>>()?;
        for socket in &self.silent {
            socket.wait_connected(1, STALL).map_err(Failure::library)?;
        }
        Ok(())
    }
}

impl Replier for Side {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let request = self.socket.recv_timeout(STALL).map_err(Failure::library)?;
        let verdict = check.accept(body(&request))?;
        self.socket.send_timeout(request, STALL).map_err(Failure::library)?;
        Ok(verdict)
    }
}

/// One side that does its own I/O. The fields drop in this order.
struct Exclusive {
    socket: exclusive::Socket,
    local: Local,
    bodies: Bodies,
}

impl Exclusive {
    fn connect(case: &Case, endpoint: &str) -> Result<Self> {
        let local = Local::new(case)?;
        let socket = local.run(async {
            let options = exclusive::Options::default();
            let connected = exclusive::Socket::connect(SocketType::Req, endpoint, options);
            connected.await.map_err(Failure::library)
        })?;
        Ok(Self { socket, local, bodies: Bodies::new(case.size_bytes) })
    }

    /// The first call accepts the peer.
    fn bind(case: &Case, announce: Announce) -> Result<Self> {
        let local = Local::new(case)?;
        let (socket, bound): (_, Endpoint) = local.run(async {
            let options = exclusive::Options::default();
            let bound = exclusive::Socket::bind(SocketType::Rep, case.bind.as_str(), options);
            bound.await.map_err(Failure::library)
        })?;
        announce.endpoint(bound.to_string());
        Ok(Self { socket, local, bodies: Bodies::new(case.size_bytes) })
    }
}

impl Requester for Exclusive {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        let request = stamped(&mut self.bodies, sequence);
        let reply = self.local.run(async {
            self.socket.send(&request).await.map_err(Failure::library)?;
            self.socket.recv().await.map_err(Failure::library)
        })?;
        check.accept(body(&reply))
    }
}

impl Replier for Exclusive {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.local.run(async {
            let request = self.socket.recv().await.map_err(Failure::library)?;
            let verdict = check.accept(body(&request))?;
            self.socket.send(&request).await.map_err(Failure::library)?;
            Ok(verdict)
        })
    }
}
