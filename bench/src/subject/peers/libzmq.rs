//! libzmq 4.3, through the `zmq` crate: a context with one I/O thread per side, blocking calls. Over inproc both sides
//! share one context, as libzmq requires.
//!
//! The side's thread starts the I/O thread, which inherits its core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use zmq::{Context, Message, Socket, SocketType};

use crate::cli::{Transport, Wait};
use crate::error::{Failure, Result};
use crate::sequence::{self, SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::peers::{BURST_MESSAGES, Push, Pusher, Spun, stalled, until_some};
use crate::subject::{
    Case, Common, Pattern, Publisher, Receiver, Replier, Requester, STALL, Sender, Subject,
    Subscribers, queue_messages,
};

/// Sockets opened in one context: libzmq's limit is 1023, and the crate cannot change it.
const CONTEXT_SOCKETS: usize = 1000;

/// The subject libzmq. See the module.
#[derive(Debug)]
pub struct Libzmq;

impl Subject for Libzmq {
    fn name(&self) -> &'static str {
        "libzmq"
    }

    fn settings(&self, case: &Case) -> String {
        let (major, minor, patch) = zmq::version();
        let calls = match case.wait {
            Wait::Adaptive | Wait::Park => "blocking calls",
            Wait::Spin => "calls again and again with DONTWAIT, the I/O thread sleeps",
        };
        let place = match (case.pin, case.transport) {
            (Some(_), Transport::Tcp | Transport::Ipc) => " on the side's core",
            _ => "",
        };
        let hwm = queue_messages(case.size_bytes);
        format!("{major}.{minor}.{patch}, 1 I/O thread{place}, HWM {hwm}, {calls}")
    }

    fn plays(&self, pattern: Pattern) -> bool {
        matches!(pattern, Pattern::Stream | Pattern::RoundTrip | Pattern::FanOut)
    }

    fn common(&self, case: &Case) -> Result<Option<Common>> {
        let is_inproc = case.transport == Transport::Inproc;
        let context = is_inproc.then(Context::new);
        Ok(Some(Arc::new(Round { context, is_over: AtomicBool::new(false) }) as Common))
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        let side = Side::connect(case, zmq::PUSH, endpoint)?;
        Ok(Box::new(Pusher::new(case, side)))
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        Ok(Box::new(Side::bind(case, zmq::PULL, announce)?))
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        let side = Side::connect(case, zmq::REQ, endpoint)?;
        let body = sequence::filler(case.size_bytes);
        Ok(Box::new(Asker { side, endpoint: endpoint.to_owned(), silent: Vec::new(), body }))
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        Ok(Box::new(Side::bind(case, zmq::REP, announce)?))
    }

    fn publisher(&self, case: &Case, announce: Announce) -> Result<Box<dyn Publisher>> {
        let side = Side::bind(case, zmq::PUB, announce)?;
        Ok(Box::new(Pusher::new(case, side)))
    }

    fn subscribers(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Subscribers>> {
        // Up to a limit all sockets share one context, and so one I/O thread.
        let mut contexts = Contexts::new(context(case));
        let open = |_| {
            let side = Side::new(case, contexts.for_next_socket(), zmq::SUB)?;
            side.socket.set_subscribe(b"").map_err(failure)?;
            side.socket.connect(endpoint).map_err(failure)?;
            Ok(side)
        };
        let sides = (0..case.peers).map(open).collect::<Result<_>>()?;
        Ok(Box::new(Listening { sides, wait: case.wait }))
    }
}

fn failure(error: zmq::Error) -> Failure {
    match error {
        zmq::Error::EAGAIN => stalled(),
        error => Failure::library(error),
    }
}

/// State shared by both sides of a round.
struct Round {
    /// Set over inproc.
    context: Option<Context>,
    /// The end marker has been received.
    is_over: AtomicBool,
}

fn context(case: &Case) -> Context {
    case.common::<Round>().and_then(|round| round.context.clone()).unwrap_or_default()
}

/// Hands out contexts for many sockets of one side: the same context, until it is full.
struct Contexts {
    context: Context,
    sockets: usize,
}

impl Contexts {
    /// `context` has only a few sockets yet.
    fn new(context: Context) -> Self {
        Self { context, sockets: 0 }
    }

    fn for_next_socket(&mut self) -> &Context {
        if self.sockets == CONTEXT_SOCKETS {
            *self = Self::new(Context::new());
        }
        self.sockets += 1;
        &self.context
    }
}

/// How many connections may wait in a listener's backlog.
fn backlog(case: &Case) -> i32 {
    case.connections.max(case.peers).max(100) as i32
}

/// One side: a socket, which keeps its context alive, and its receive message.
struct Side {
    socket: Socket,
    context: Context,
    message: Message,
    wait: Wait,
    round: Option<Arc<Round>>,
}

impl Side {
    fn new(case: &Case, context: &Context, socket_type: SocketType) -> Result<Self> {
        let socket = context.socket(socket_type).map_err(failure)?;
        let hwm = queue_messages(case.size_bytes) as i32;
        let stall_ms = STALL.as_millis() as i32;
        socket
            .set_sndhwm(hwm)
            .and_then(|()| socket.set_rcvhwm(hwm))
            .and_then(|()| socket.set_sndtimeo(stall_ms))
            .and_then(|()| socket.set_rcvtimeo(stall_ms))
            .and_then(|()| socket.set_linger(stall_ms))
            .and_then(|()| socket.set_backlog(backlog(case)))
            .map_err(failure)?;
        let context = context.clone();
        let (message, round) = (Message::new(), case.common());
        Ok(Self { socket, context, message, wait: case.wait, round })
    }

    fn connect(case: &Case, socket_type: SocketType, endpoint: &str) -> Result<Self> {
        let side = Self::new(case, &context(case), socket_type)?;
        side.socket.connect(endpoint).map_err(failure)?;
        Ok(side)
    }

    fn bind(case: &Case, socket_type: SocketType, announce: Announce) -> Result<Self> {
        let side = Self::new(case, &context(case), socket_type)?;
        side.socket.bind(&case.bind).map_err(failure)?;
        let endpoint = side.socket.get_last_endpoint().map_err(failure)?;
        announce.endpoint(
            endpoint.map_err(|_| Failure::Setup("the bound endpoint is no text".to_owned()))?,
        );
        Ok(side)
    }

    fn send(&self, body: &[u8]) -> Result<()> {
        until_done(self.wait, |flags| self.socket.send(body, flags))
    }

    fn receive(&mut self) -> Result<()> {
        until_done(self.wait, |flags| self.socket.recv(&mut self.message, flags))
    }
}

/// Blocks in one call, or repeats a non-blocking call until it succeeds.
fn until_done(wait: Wait, mut call: impl FnMut(i32) -> zmq::Result<()>) -> Result<()> {
    let flags = match wait {
        Wait::Adaptive | Wait::Park => 0,
        Wait::Spin => zmq::DONTWAIT,
    };
    until_some(|| match call(flags) {
        Err(zmq::Error::EINTR) => Ok(None),
        Err(zmq::Error::EAGAIN) if wait == Wait::Spin => Ok(None),
        done => done.map(Some).map_err(failure),
    })
}

impl Push for Side {
    fn push(&self, body: &[u8]) -> Result<()> {
        self.send(body)
    }

    /// Over ipc, messages left in a full queue may be lost when the socket is closed, whatever its linger period:
    /// <https://github.com/zeromq/libzmq/issues/4660>.
    fn settle(&self) {
        let Some(round) = &self.round else { return };
        let since = Instant::now();
        while !round.is_over.load(Ordering::Acquire) && since.elapsed() < STALL {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Receiver for Side {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        for _ in 0..BURST_MESSAGES {
            self.receive()?;
            if check.accept(&self.message)? == Verdict::End {
                if let Some(round) = &self.round {
                    round.is_over.store(true, Ordering::Release);
                }
                return Ok(Verdict::End);
            }
        }
        Ok(Verdict::InOrder)
    }
}

struct Listening {
    sides: Vec<Side>,
    wait: Wait,
}

impl Subscribers for Listening {
    fn receive_burst(&mut self, checks: &mut [SequenceCheck]) -> Result<()> {
        let items = self.sides.iter().map(|side| side.socket.as_poll_item(zmq::POLLIN));
        let mut items: Vec<_> = items.collect();
        let mut spun = Spun::default();
        let timeout_ms = match self.wait {
            Wait::Adaptive | Wait::Park => STALL.as_millis() as i64,
            Wait::Spin => 0,
        };
        while zmq::poll(&mut items, timeout_ms).map_err(failure)? == 0 {
            match self.wait {
                Wait::Adaptive | Wait::Park => return Err(stalled()),
                Wait::Spin => spun.again()?,
            }
        }
        let is_readable: Vec<_> = items.iter().map(zmq::PollItem::is_readable).collect();
        for ((side, check), _) in
            self.sides.iter_mut().zip(checks).zip(is_readable).filter(|(_, is)| *is)
        {
            for _ in 0..BURST_MESSAGES {
                match side.socket.recv(&mut side.message, zmq::DONTWAIT) {
                    Ok(()) => check.accept(&side.message)?,
                    Err(zmq::Error::EAGAIN) => break,
                    Err(error) => return Err(failure(error)),
                };
            }
        }
        Ok(())
    }
}

struct Asker {
    side: Side,
    endpoint: String,
    /// Hold the silent connections.
    silent: Vec<Socket>,
    body: Vec<u8>,
}

impl Requester for Asker {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        sequence::stamp(&mut self.body, sequence);
        self.side.send(&self.body)?;
        self.side.receive()?;
        check.accept(&self.side.message)
    }

    fn open_silent(&mut self, count: u32) -> Result<()> {
        // One socket each, because a REQ makes a single connection to an endpoint, however often it connects.
        let mut contexts = Contexts::new(self.side.context.clone());
        let open = |_| {
            let socket = contexts.for_next_socket().socket(zmq::REQ).map_err(failure)?;
            // The socket can send only once the handshake is done.
            socket.set_immediate(true).map_err(failure)?;
            socket.set_linger(0).map_err(failure)?;
            socket.connect(&self.endpoint).map_err(failure)?;
            Ok(socket)
        };
        self.silent = (0..count).map(open).collect::<Result<_>>()?;
        for socket in &self.silent {
            if socket.poll(zmq::POLLOUT, STALL.as_millis() as i64).map_err(failure)? == 0 {
                return Err(stalled());
            }
        }
        Ok(())
    }
}

impl Replier for Side {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.receive()?;
        let verdict = check.accept(&self.message)?;
        // The request itself is sent back, without a copy.
        let request = std::mem::replace(&mut self.message, Message::new());
        self.socket.send(request, 0).map_err(failure)?;
        Ok(verdict)
    }
}
