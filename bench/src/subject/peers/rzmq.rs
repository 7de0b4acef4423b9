//! rzmq, over tokio and over its io_uring backend: a context per side, on a tokio runtime of the side's thread. Its
//! adaptive throttle is off, as in its own figures. Over inproc both sides share one context.

use std::cell::Cell;
use std::sync::Arc;

use rzmq::socket::AdaptiveThrottleSocketConfig;
use rzmq::socket::options::{
    IO_URING_RCVMULTISHOT, IO_URING_SESSION_ENABLED, LAST_ENDPOINT, LINGER, RCVHWM, SNDHWM,
    SUBSCRIBE, TCP_CORK,
};
use rzmq::uring::{UringConfig, UringPollingStrategy, initialize_uring_backend};
use rzmq::{Context, Msg, Socket, SocketType, ZmqError};

use crate::cli::{Transport, Wait};
use crate::error::{Failure, Result};
use crate::sequence::{END, SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::peers::{BURST_MESSAGES, Bodies, Local, burst, serve};
use crate::subject::{
    Case, Common, Pattern, Publisher, Receiver, Replier, Requester, STALL, Sender, Subject,
    Subscribers, queue_messages,
};

/// From this body size on, streams are received by multishot.
const MULTISHOT_BYTES: usize = 1024;

/// The subject rzmq. See the module.
#[derive(Debug)]
pub struct Rzmq {
    name: &'static str,
    has_uring: bool,
}

/// The subject `rzmq`: over tokio.
pub const TOKIO: Rzmq = Rzmq { name: "rzmq", has_uring: false };
/// The subject `rzmq-uring`: an io_uring worker thread of the process drives its connections.
pub const URING: Rzmq = Rzmq { name: "rzmq-uring", has_uring: true };

impl Subject for Rzmq {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self, case: &Case) -> String {
        let hwm = queue_messages(case.size_bytes);
        let cork = if has_cork(case) { ", TCP_CORK" } else { "" };
        let uring = match (self.has_uring, is_multishot(case)) {
            (false, _) => "",
            (true, false) => ", 1 io_uring worker of the process, no multishot",
            (true, true) => ", 1 io_uring worker of the process, multishot receive",
        };
        format!("0.5.28, tokio on the side's thread, throttle off, HWM {hwm}{cork}{uring}")
    }

    fn plays(&self, pattern: Pattern) -> bool {
        matches!(pattern, Pattern::Stream | Pattern::RoundTrip | Pattern::FanOut)
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        if case.connections > 0 {
            return Some("silent connections are not written for it");
        }
        let is_tcp = case.transport == Transport::Tcp;
        (self.has_uring && !is_tcp).then_some("its io_uring backend does TCP only")
    }

    fn common(&self, case: &Case) -> Result<Option<Common>> {
        if self.has_uring {
            start_uring(case)?;
        }
        if case.transport != Transport::Inproc {
            return Ok(None);
        }
        Ok(Some(Arc::new(Context::new().map_err(failure)?)))
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        let side = self.connect(case, SocketType::Push, endpoint)?;
        Ok(Box::new(Pusher { side, burst: burst(case.size_bytes) }))
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        Ok(Box::new(self.bind(case, SocketType::Pull, announce)?))
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        Ok(Box::new(self.connect(case, SocketType::Req, endpoint)?))
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        Ok(Box::new(self.bind(case, SocketType::Rep, announce)?))
    }

    fn publisher(&self, case: &Case, announce: Announce) -> Result<Box<dyn Publisher>> {
        let side = self.bind(case, SocketType::Pub, announce)?;
        Ok(Box::new(Pusher { side, burst: burst(case.size_bytes) }))
    }

    fn subscribers(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Subscribers>> {
        let first = self.side(case, SocketType::Sub)?;
        let more = first.local.run(async {
            let mut more = Vec::new();
            for _ in 1..case.peers {
                let socket = first.context.socket(SocketType::Sub).map_err(failure)?;
                self.configure(case, &socket).await.map_err(failure)?;
                more.push(socket);
            }
            for socket in more.iter().chain([&first.socket]) {
                socket.set_option(SUBSCRIBE, "").await.map_err(failure)?;
                socket.connect(endpoint).await.map_err(failure)?;
            }
            Ok(more)
        })?;
        Ok(Box::new(Listening { first, more }))
    }
}

/// Whether frames are batched into packets, at the cost of latency.
fn has_cork(case: &Case) -> bool {
    case.transport == Transport::Tcp && case.pattern != Pattern::RoundTrip
}

/// Whether the io_uring backend receives by multishot: that is faster for streams of bodies that are not small, and
/// slower otherwise.
fn is_multishot(case: &Case) -> bool {
    case.size_bytes >= MULTISHOT_BYTES && case.pattern != Pattern::RoundTrip
}

/// Starts the process's backend, once.
fn start_uring(case: &Case) -> Result<()> {
    let polling_strategy = match case.wait {
        Wait::Adaptive | Wait::Park => UringPollingStrategy::balanced(),
        Wait::Spin => UringPollingStrategy::ultra_low_latency(),
    };
    let config = UringConfig { num_workers: 1, polling_strategy, ..Default::default() };
    initialize_uring_backend(config).map_err(failure)
}

impl Rzmq {
    fn side(&self, case: &Case, socket_type: SocketType) -> Result<Side> {
        let local = Local::new(case)?;
        let (context, socket) = local.run(async {
            let context = match case.common::<Context>() {
                Some(common) => Context::clone(&common),
                None => Context::new().map_err(failure)?,
            };
            let socket = context.socket(socket_type).map_err(failure)?;
            self.configure(case, &socket).await.map_err(failure)?;
            Ok((context, socket))
        })?;
        let is_shared = case.common.is_some();
        Ok(Side { socket, context, is_shared, local, bodies: Bodies::new(case.size_bytes) })
    }

    async fn configure(&self, case: &Case, socket: &Socket) -> std::result::Result<(), ZmqError> {
        let hwm = queue_messages(case.size_bytes) as i32;
        socket.set_option(SNDHWM, hwm).await?;
        socket.set_option(RCVHWM, hwm).await?;
        socket.set_option(LINGER, STALL.as_millis() as i32).await?;
        let throttle = AdaptiveThrottleSocketConfig { enabled: false, ..Default::default() };
        socket.set_option(rzmq::socket::options::ADAPTIVE_THROTTLE, throttle).await?;
        if has_cork(case) {
            socket.set_option(TCP_CORK, true).await?;
        }
        if self.has_uring {
            socket.set_option(IO_URING_SESSION_ENABLED, true).await?;
            socket.set_option(IO_URING_RCVMULTISHOT, is_multishot(case)).await?;
        }
        Ok(())
    }

    fn connect(&self, case: &Case, socket_type: SocketType, endpoint: &str) -> Result<Side> {
        let side = self.side(case, socket_type)?;
        side.local.run(async { side.socket.connect(endpoint).await.map_err(failure) })?;
        Ok(side)
    }

    fn bind(&self, case: &Case, socket_type: SocketType, announce: Announce) -> Result<Side> {
        let side = self.side(case, socket_type)?;
        let endpoint = side.local.run(async {
            side.socket.bind(&case.bind).await.map_err(failure)?;
            side.socket.get_option(LAST_ENDPOINT).await.map_err(failure)
        })?;
        let endpoint = String::from_utf8(endpoint).map_err(Failure::library)?;
        announce.endpoint(endpoint.trim_end_matches('\0').to_owned());
        Ok(side)
    }
}

fn failure(error: ZmqError) -> Failure {
    Failure::library(error)
}

/// The body of a single-part message.
fn body(message: &Msg) -> &[u8] {
    message.data().unwrap_or_default()
}

/// One side. The fields drop in this order.
struct Side {
    socket: Socket,
    context: Context,
    /// Whether the other side uses the same context.
    is_shared: bool,
    local: Local,
    bodies: Bodies,
}

impl Side {
    /// Ensures that everything is sent: the library's tasks do not run while the side's thread works elsewhere.
    fn close(&self) -> Result<()> {
        self.local.run(async {
            self.socket.close().await.map_err(failure)?;
            match self.is_shared {
                true => Ok(()),
                false => self.context.term().await.map_err(failure),
            }
        })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // The last reply has still to be sent. If it is not, the waiting side reports the failure.
        let _ = self.close();
    }
}

struct Pusher {
    side: Side,
    burst: u64,
}

impl Pusher {
    /// Sends `first..=last`.
    fn send(&mut self, first: u64, last: u64) -> Result<()> {
        let Side { socket, local, bodies, .. } = &mut self.side;
        local.run(async {
            for sequence in first..=last {
                socket.send(Msg::from_bytes(bodies.shared(sequence))).await.map_err(failure)?;
            }
            Ok(())
        })
    }
}

impl Sender for Pusher {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        self.send(first, first + self.burst - 1)?;
        Ok(self.burst)
    }

    fn send_due(&mut self, first: u64, count: u64) -> Result<()> {
        self.send(first, first + count - 1)?;
        self.side.local.turn()
    }

    fn progress(&mut self) -> Result<()> {
        self.side.local.turn()
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.send(END, END)?;
        self.side.close()
    }
}

impl Publisher for Pusher {
    fn publish(&mut self, sequence: u64) -> Result<()> {
        self.send(sequence, sequence)?;
        self.side.local.turn()
    }

    fn publish_burst(&mut self, first: u64, count: u64) -> Result<u64> {
        let count = count.min(self.burst);
        self.send_due(first, count)?;
        Ok(count)
    }

    fn progress(&mut self) -> Result<()> {
        self.side.local.turn()
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.side.close()
    }
}

/// Sockets of subscribers, in one context and on one runtime.
struct Listening {
    first: Side,
    more: Vec<Socket>,
}

impl Subscribers for Listening {
    fn receive_burst(&mut self, checks: &mut [SequenceCheck]) -> Result<()> {
        let has_some = Cell::new(false);
        let receive = async |(socket, check): (&Socket, &mut SequenceCheck)| {
            for _ in 0..BURST_MESSAGES {
                let message = socket.recv().await.map_err(failure)?;
                has_some.set(true);
                check.accept(body(&message))?;
            }
            Ok(())
        };
        let sockets = std::iter::once(&self.first.socket).chain(&self.more);
        let receiving = sockets.zip(checks).map(&receive).collect();
        self.first.local.run(serve(receiving, &has_some))
    }
}

impl Receiver for Side {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.local.run(async {
            for _ in 0..BURST_MESSAGES {
                let message = self.socket.recv().await.map_err(failure)?;
                if check.accept(body(&message))? == Verdict::End {
                    return Ok(Verdict::End);
                }
            }
            Ok(Verdict::InOrder)
        })
    }
}

impl Requester for Side {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        let request = Msg::from_bytes(self.bodies.shared(sequence));
        self.local.run(async {
            self.socket.send(request).await.map_err(failure)?;
            let reply = self.socket.recv().await.map_err(failure)?;
            check.accept(body(&reply))
        })
    }
}

impl Replier for Side {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.local.run(async {
            let request = self.socket.recv().await.map_err(failure)?;
            let verdict = check.accept(body(&request))?;
            // The request itself goes back, without a copy.
            self.socket.send(request).await.map_err(failure)?;
            Ok(verdict)
        })
    }
}
