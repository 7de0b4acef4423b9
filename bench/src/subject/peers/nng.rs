//! NNG 1.4, through the `nng` crate: the library's own threads do the I/O, and a side makes blocking calls. It speaks
//! SP, not ZMTP, over the same kinds of sockets.
//!
//! NNG's PULL has no queue: its threads hand each message to the side individually. The cost of that, one or two wakes,
//! dominates its streams of small messages.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nng::options::protocol::pubsub::Subscribe;
use nng::options::{LocalAddr, Options, RecvBufferSize, RecvTimeout, SendBufferSize, SendTimeout};
use nng::{Error, Listener, Message, Protocol, Socket, SocketAddr};

use crate::cli::{Transport, Wait};
use crate::error::{Failure, Result};
use crate::sequence::{SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::peers::{BURST_MESSAGES, Push, Pusher, Spun, stalled, until_some};
use crate::subject::{
    Case, Common, Pattern, Publisher, Receiver, Replier, Requester, STALL, Sender, Subject,
    Subscribers, queue_messages,
};

/// Pause of a thread between two polls of the subscribers' sockets without messages.
const NAP: Duration = Duration::from_micros(50);
/// Messages received between two checks for the end of the run; a burst as long as the others' would take long.
const PULLED_MESSAGES: usize = 64;
/// Longest queue.
const QUEUE_MAX: u32 = 8192;
/// Shortest queue of a subscriber among many.
const QUEUE_MIN: u32 = 64;

/// The subject NNG. See the module.
#[derive(Debug)]
pub struct Nng;

/// Sockets of finished sides. NNG drops unsent messages when a socket closes, and does not report when all are sent, so
/// the sockets stay open until the round is over.
type Done = Mutex<Vec<Socket>>;

impl Subject for Nng {
    fn name(&self) -> &'static str {
        "nng"
    }

    fn settings(&self, case: &Case) -> String {
        let calls = match case.wait {
            Wait::Adaptive | Wait::Park => "blocking calls",
            Wait::Spin => "calls again and again, NNG's threads sleep",
        };
        let queues = match case.pattern {
            Pattern::RoundTrip => String::new(),
            Pattern::FanOut => format!(", queues of {} a subscriber", queue(case)),
            _ => format!(", send queue {}, no receive queue", queue(case)),
        };
        let naps = match case.pattern == Pattern::FanOut && has_naps(case) {
            true => ", subscribers look every 50 us",
            false => "",
        };
        format!(
            "NNG 1.4.0 by crate nng 1.0.1, SP protocol, its default threads, {calls}{queues}{naps}"
        )
    }

    fn plays(&self, pattern: Pattern) -> bool {
        matches!(pattern, Pattern::Stream | Pattern::RoundTrip | Pattern::FanOut)
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        (case.connections > 0).then_some("it cannot tell when idle connections are up")
    }

    fn queue_messages(&self, case: &Case) -> u32 {
        queue(case)
    }

    fn common(&self, _case: &Case) -> Result<Option<Common>> {
        // The first socket starts the threads. If a side started them, all would run on that side's core.
        Socket::new(Protocol::Pair0).map_err(failure)?;
        Ok(Some(Arc::new(Done::default())))
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        let side = Side::new(case, Protocol::Push0)?;
        side.socket.set_opt::<SendBufferSize>(queue(case) as i32).map_err(failure)?;
        side.socket.dial(endpoint).map_err(failure)?;
        Ok(Box::new(Pusher::new(case, side)))
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        let side = Side::new(case, Protocol::Pull0)?;
        side.bind(case, announce)?;
        Ok(Box::new(side))
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        let side = Side::new(case, Protocol::Req0)?;
        side.socket.dial(endpoint).map_err(failure)?;
        Ok(Box::new(Pusher::new(case, side)))
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        let side = Side::new(case, Protocol::Rep0)?;
        side.bind(case, announce)?;
        Ok(Box::new(side))
    }

    fn publisher(&self, case: &Case, announce: Announce) -> Result<Box<dyn Publisher>> {
        let side = Side::new(case, Protocol::Pub0)?;
        side.socket.set_opt::<SendBufferSize>(queue(case) as i32).map_err(failure)?;
        side.bind(case, announce)?;
        Ok(Box::new(Pusher::new(case, side)))
    }

    fn subscribers(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Subscribers>> {
        let open = |_| {
            let side = Side::new(case, Protocol::Sub0)?;
            side.socket.set_opt::<RecvBufferSize>(queue(case) as i32).map_err(failure)?;
            side.socket.set_opt::<Subscribe>(Vec::new()).map_err(failure)?;
            side.socket.dial(endpoint).map_err(failure)?;
            Ok(side)
        };
        let sides = (0..case.peers).map(open).collect::<Result<_>>()?;
        Ok(Box::new(Listening { sides, has_naps: has_naps(case) }))
    }
}

/// Length of a queue in messages. All subscribers together get at most twice the longest queue: at some ten thousand
/// messages a second, full queues would otherwise take many seconds to empty.
fn queue(case: &Case) -> u32 {
    let most = match case.pattern {
        Pattern::FanOut => (2 * QUEUE_MAX / case.peers.max(1)).clamp(QUEUE_MIN, QUEUE_MAX),
        _ => QUEUE_MAX,
    };
    queue_messages(case.size_bytes).min(most)
}

/// The crate cannot wait for several sockets without receiving from them.
fn has_naps(case: &Case) -> bool {
    case.wait != Wait::Spin && case.peers > 1
}

fn failure(error: Error) -> Failure {
    match error {
        Error::TimedOut => stalled(),
        error => Failure::library(error),
    }
}

/// One side.
struct Side {
    socket: Socket,
    wait: Wait,
    done: Arc<Done>,
}

impl Side {
    fn new(case: &Case, protocol: Protocol) -> Result<Self> {
        let socket = Socket::new(protocol).map_err(failure)?;
        let set = socket
            .set_opt::<RecvTimeout>(Some(STALL))
            .and_then(|()| socket.set_opt::<SendTimeout>(Some(STALL)));
        match set {
            // Sockets that only send or only receive support only one of the two.
            Ok(()) | Err(Error::NotSupported) => {}
            Err(error) => return Err(failure(error)),
        }
        let done = case.common().ok_or_else(|| Failure::Setup("nothing in common".to_owned()))?;
        Ok(Self { socket, wait: case.wait, done })
    }

    fn bind(&self, case: &Case, announce: Announce) -> Result<()> {
        let listener = Listener::new(&self.socket, &case.bind).map_err(failure)?;
        let bound = match case.transport {
            Transport::Tcp => match listener.get_opt::<LocalAddr>().map_err(failure)? {
                // The crate leaves the port in network byte order.
                SocketAddr::Inet(bound) => {
                    format!("tcp://{}:{}", bound.ip(), u16::from_be(bound.port()))
                }
                other => return Err(Failure::Setup(format!("bound to {other}"))),
            },
            Transport::Ipc | Transport::Inproc => case.bind.clone(),
        };
        announce.endpoint(bound);
        Ok(())
    }

    fn send(&self, message: Message) -> Result<()> {
        if self.wait != Wait::Spin {
            return self.socket.send(message).map_err(|(_, error)| failure(error));
        }
        let mut unsent = Some(message);
        until_some(|| match unsent.take().map(|message| self.socket.try_send(message)) {
            None | Some(Ok(())) => Ok(Some(())),
            Some(Err((again, Error::TryAgain))) => {
                unsent = Some(again);
                Ok(None)
            }
            Some(Err((_, error))) => Err(failure(error)),
        })
    }

    fn receive(&self) -> Result<Message> {
        if self.wait != Wait::Spin {
            return self.socket.recv().map_err(failure);
        }
        until_some(|| self.try_receive())
    }

    fn try_receive(&self) -> Result<Option<Message>> {
        match self.socket.try_recv() {
            Ok(message) => Ok(Some(message)),
            Err(Error::TryAgain) => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Ok(mut done) = self.done.lock() {
            done.push(self.socket.clone());
        }
    }
}

impl Push for Side {
    fn push(&self, body: &[u8]) -> Result<()> {
        self.send(Message::from(body))
    }
}

impl Requester for Pusher<Side> {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        self.send(sequence)?;
        check.accept(self.side.receive()?.as_slice())
    }
}

impl Receiver for Side {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        for _ in 0..PULLED_MESSAGES {
            if check.accept(self.receive()?.as_slice())? == Verdict::End {
                return Ok(Verdict::End);
            }
        }
        Ok(Verdict::InOrder)
    }
}

impl Replier for Side {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let request = self.receive()?;
        let verdict = check.accept(request.as_slice())?;
        // The request itself is sent back, without a copy. A failed try would end NNG's turn to reply.
        self.socket.send(request).map_err(|(_, error)| failure(error))?;
        Ok(verdict)
    }
}

struct Listening {
    sides: Vec<Side>,
    has_naps: bool,
}

impl Listening {
    /// Receives all available messages; returns whether there were any.
    fn drain(&self, checks: &mut [SequenceCheck]) -> Result<bool> {
        let mut has_some = false;
        for (side, check) in self.sides.iter().zip(checks) {
            for _ in 0..BURST_MESSAGES {
                let Some(message) = side.try_receive()? else { break };
                has_some = true;
                check.accept(message.as_slice())?;
            }
        }
        Ok(has_some)
    }
}

impl Subscribers for Listening {
    fn receive_burst(&mut self, checks: &mut [SequenceCheck]) -> Result<()> {
        if let ([side], [check]) = (&self.sides[..], &mut checks[..]) {
            check.accept(side.receive()?.as_slice())?;
            return self.drain(checks).map(drop);
        }
        let mut spun = Spun::default();
        while !self.drain(checks)? {
            if self.has_naps {
                thread::sleep(NAP);
            }
            spun.again()?;
        }
        Ok(())
    }
}
