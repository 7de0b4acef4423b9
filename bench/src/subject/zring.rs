//! zring's inline sockets: one context per side, on the thread that uses it; one public send and one public
//! receive per message.

use zring::{Message, SocketType, inline};

use crate::cli::Wait;
use crate::error::{Failure, Result};
use crate::sequence::{self, END, SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::{Case, Receiver, Replier, Requester, STALL, Sender, Subject};

/// From this body size on, messages are shared instead of copied.
const LARGE_BYTES: usize = 64 * 1024;
/// Messages sent under one batch guard, and received between two looks at the end of the run.
const BURST_MESSAGES: usize = 1024;
/// Bytes of bodies that may wait in a pipe; bounds the HWM for large bodies.
const QUEUED_BYTES: usize = 4 << 20;
const HWM_MAX: usize = 10_000;

/// zring, inline. See the module.
#[derive(Debug)]
pub struct Zring;

impl Subject for Zring {
    fn name(&self) -> &'static str {
        "zring"
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        let side = Side::connect(case, SocketType::Push, endpoint)?;
        side.socket.wait_for_peers(1, Some(STALL)).map_err(Failure::library)?;
        let body = sequence::filler(case.size_bytes);
        Ok(if case.size_bytes >= LARGE_BYTES {
            Box::new(LargeSender {
                side,
                body,
                rotation: Vec::new(),
                next: 0,
                rotation_max: 2 * hwm(case.size_bytes) as usize,
            })
        } else {
            let burst = (QUEUED_BYTES / 4 / case.size_bytes).clamp(1, BURST_MESSAGES);
            Box::new(BurstSender { side, body, burst: burst as u64 })
        })
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        Ok(Box::new(Side::bind(case, SocketType::Pull, announce)?))
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        let side = Side::connect(case, SocketType::Req, endpoint)?;
        Ok(Box::new(Asker { side, body: sequence::filler(case.size_bytes) }))
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        Ok(Box::new(Side::bind(case, SocketType::Rep, announce)?))
    }
}

/// Messages that may wait in a pipe.
fn hwm(size_bytes: usize) -> u32 {
    (QUEUED_BYTES / size_bytes).clamp(2, HWM_MAX) as u32
}

/// One side: a context and its only socket. Fields drop in this order.
struct Side {
    socket: inline::Socket,
    context: inline::Context,
}

impl Side {
    fn new(case: &Case, socket_type: SocketType) -> Result<Self> {
        let wait = match case.wait {
            Wait::Spin => zring::Wait::Spin,
            Wait::Park => zring::Wait::Park,
        };
        let config = zring::Config { wait, ..Default::default() };
        let context = inline::Context::with_config(config).map_err(Failure::library)?;
        let socket = context.socket(socket_type).map_err(Failure::library)?;
        socket.set_sndhwm(hwm(case.size_bytes));
        socket.set_rcvhwm(hwm(case.size_bytes));
        socket.set_sndtimeo(Some(STALL));
        socket.set_rcvtimeo(Some(STALL));
        socket.set_linger(Some(STALL));
        Ok(Self { socket, context })
    }

    fn connect(case: &Case, socket_type: SocketType, endpoint: &str) -> Result<Self> {
        let side = Self::new(case, socket_type)?;
        side.socket.connect(endpoint).map_err(Failure::library)?;
        Ok(side)
    }

    fn bind(case: &Case, socket_type: SocketType, announce: Announce) -> Result<Self> {
        let side = Self::new(case, socket_type)?;
        side.socket.bind(&case.bind).map_err(Failure::library)?;
        let endpoint = side.socket.last_endpoint();
        announce.endpoint(endpoint.ok_or_else(|| Failure::Setup("no bound endpoint".to_owned()))?);
        Ok(side)
    }

    fn close(self) -> Result<()> {
        match self.socket.close().unsent_messages {
            0 => Ok(()),
            unsent => Err(Failure::Library(format!("{unsent} messages were left unsent"))),
        }
    }
}

/// Sends small bodies: bursts under a batch guard, each body copied by its `send`.
struct BurstSender {
    side: Side,
    body: Vec<u8>,
    burst: u64,
}

impl Sender for BurstSender {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        let _batch = self.side.context.batch();
        for sequence in first..first + self.burst {
            sequence::stamp(&mut self.body, sequence);
            self.side.socket.send(&self.body[..]).map_err(Failure::library)?;
        }
        Ok(self.burst)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        sequence::stamp(&mut self.body, END);
        self.side.socket.send(&self.body[..]).map_err(Failure::library)?;
        self.side.close()
    }
}

/// Sends large bodies: a rotation of shared messages, each written again once nothing refers to it any more.
struct LargeSender {
    side: Side,
    body: Vec<u8>,
    rotation: Vec<Message>,
    next: usize,
    rotation_max: usize,
}

impl LargeSender {
    /// A message nobody else holds, stamped. The HWM bounds what is in flight and so the rotation.
    fn stamped(&mut self, sequence: u64) -> Message {
        for _ in 0..self.rotation.len() {
            self.next = (self.next + 1) % self.rotation.len();
            let message = &mut self.rotation[self.next];
            if let Some(bytes) = message.get_mut() {
                sequence::stamp(bytes, sequence);
                return message.clone();
            }
        }
        let mut message = Message::with_size(self.body.len());
        if let Some(bytes) = message.get_mut() {
            bytes.copy_from_slice(&self.body);
            sequence::stamp(bytes, sequence);
        }
        let shared = message.clone();
        if self.rotation.len() < self.rotation_max {
            self.next = self.rotation.len();
            self.rotation.push(message);
        }
        shared
    }

    fn send(&mut self, sequence: u64) -> Result<()> {
        let message = self.stamped(sequence);
        self.side.socket.send(message).map_err(Failure::library)
    }
}

impl Sender for LargeSender {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        self.send(first)?;
        Ok(1)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.send(END)?;
        self.side.close()
    }
}

impl Receiver for Side {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        for _ in 0..BURST_MESSAGES {
            let message = self.socket.recv().map_err(Failure::library)?;
            if check.accept(message.body())? == Verdict::End {
                return Ok(Verdict::End);
            }
        }
        Ok(Verdict::InOrder)
    }
}

/// Sends requests.
struct Asker {
    side: Side,
    body: Vec<u8>,
}

impl Requester for Asker {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        sequence::stamp(&mut self.body, sequence);
        self.side.socket.send(&self.body[..]).map_err(Failure::library)?;
        let reply = self.side.socket.recv().map_err(Failure::library)?;
        check.accept(reply.body())
    }
}

impl Replier for Side {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let request = self.socket.recv().map_err(Failure::library)?;
        let verdict = check.accept(request.body())?;
        // The request itself goes back: what was received is sent without a copy.
        self.socket.send(request).map_err(Failure::library)?;
        Ok(verdict)
    }
}
