//! zring's sockets of either kind: one context per side, one public send and one public receive per message. The
//! subject `zring` uses inline sockets, on the thread that calls them; [`zring_bg`](super::zring_bg) uses background
//! sockets.

use std::any::Any;
use std::marker::PhantomData;
use std::ops::DerefMut;
use std::sync::Arc;

use zring::{DriverKind, Inproc, Message, Options, SocketType, inline};

use crate::cli::{Driver, Receive, Transport, Wait};
use crate::error::{Failure, Result};
use crate::sequence::{self, END, SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::zring_crowd::{self, Silent};
use crate::subject::{
    Case, Common, Crowd, Pattern, Publisher, Receiver, Replier, Requester, STALL, Sender, Subject,
    Subscribers, Visitor, Worker, queue_messages, zring_fan,
};

/// From this body size on, messages are shared instead of copied.
const LARGE_BYTES: usize = 64 * 1024;
/// Shorter bodies are written in place; from this size on zring sends frames by reference.
const IN_PLACE_BYTES_MAX: usize = 4096;
/// Messages sent under one batch guard, or received in one burst.
const BURST_MESSAGES: usize = 4096;
/// Bytes of bodies in such a burst, unless one body is larger.
const BURST_BYTES: usize = 1 << 20;

/// A kind of context, with the operations that the harness needs.
pub trait Kind: zring::Home + 'static {
    /// The name of its sockets on the command line and in reports.
    const NAME: &'static str;

    /// A scope within which sends only queue; `()` if the subject uses none.
    type Batch: Any;

    /// The object shared by the contexts of both sides of a round.
    ///
    /// # Errors
    /// The error of making the object.
    fn common(case: &Case) -> Result<Option<Common>>;

    /// Opens the context of a side, on its thread; `core` is that thread's core, if pinned.
    ///
    /// # Errors
    /// The library's error.
    fn open(case: &Case, core: Option<usize>) -> Result<Self>;

    /// Opens a socket.
    ///
    /// # Errors
    /// The library's error.
    fn open_socket(&self, socket_type: SocketType, options: Options)
    -> Result<zring::Socket<Self>>;

    /// Opens a batch scope.
    fn open_batch(&self) -> Self::Batch;

    /// Does the work that needs no waiting, unless another thread does it.
    ///
    /// # Errors
    /// The library's error.
    fn turn(&self) -> Result<()>;

    /// Waits for messages at `sockets`, for at most [`STALL`], and reports which sockets are readable.
    ///
    /// # Errors
    /// The library's error.
    fn readable(sockets: &[zring::Socket<Self>], is_readable: &mut Vec<bool>) -> Result<()>;

    /// The result of [`Kind::register`].
    type Buffer: DerefMut<Target = [u8]> + 'static;

    /// Whether this kind registers memory with the kernel.
    const REGISTERS: bool;

    /// Makes a receive buffer that is registered with the kernel beforehand.
    ///
    /// # Errors
    /// The library's error.
    fn register(&self, len: usize) -> Result<Self::Buffer>;

    /// Whether short bodies are written in their final place.
    const WRITES_IN_PLACE: bool;

    /// How this kind sends, in a few words; empty for the usual way.
    const SENDS: &'static str;

    /// The context's driver; `None` if the library does not tell.
    fn driver_name(&self) -> Option<&'static str>;
}

/// The subject `zring`: inline sockets.
pub const INLINE: Sockets<inline::Context> = Sockets::NEW;

impl Kind for inline::Context {
    const NAME: &'static str = "zring";

    const SENDS: &'static str = ", batch scopes";

    type Batch = inline::Batch;

    type Buffer = inline::RegisteredBuffer;

    const REGISTERS: bool = true;

    const WRITES_IN_PLACE: bool = true;

    fn register(&self, len: usize) -> Result<Self::Buffer> {
        inline::Context::register(self, len).map_err(Failure::library)
    }

    /// Over inproc the two contexts share a name space.
    fn common(case: &Case) -> Result<Option<Common>> {
        let is_inproc = case.transport == Transport::Inproc;
        Ok(is_inproc.then(|| Arc::new(Inproc::new()) as Common))
    }

    fn open(case: &Case, _core: Option<usize>) -> Result<Self> {
        let mut config = config(case);
        if let Some(names) = case.common::<Inproc>() {
            config.inproc = Inproc::clone(&names);
        }
        Self::with_config(config).map_err(Failure::library)
    }

    fn open_socket(
        &self,
        socket_type: SocketType,
        options: Options,
    ) -> Result<zring::Socket<Self>> {
        self.socket_with(socket_type, options).map_err(Failure::library)
    }

    fn open_batch(&self) -> Self::Batch {
        self.batch()
    }

    fn turn(&self) -> Result<()> {
        inline::Context::turn(self).map(drop).map_err(Failure::library)
    }

    fn readable(sockets: &[zring::Socket<Self>], is_readable: &mut Vec<bool>) -> Result<()> {
        let item = |socket| inline::PollItem::new(socket, inline::POLLIN);
        let mut items: Vec<_> = sockets.iter().map(item).collect();
        inline::poll(&mut items, Some(STALL)).map_err(Failure::library)?;
        is_readable.clear();
        is_readable.extend(items.iter().map(inline::PollItem::is_readable));
        Ok(())
    }

    fn driver_name(&self) -> Option<&'static str> {
        driver_name(self.driver())
    }
}

/// The name of a driver in reports.
pub(super) fn driver_name(kind: DriverKind) -> Option<&'static str> {
    match kind {
        DriverKind::Uring => Some("uring"),
        DriverKind::Ready => Some("ready"),
        _ => None,
    }
}

/// The configuration common to every kind of context.
pub(super) fn config(case: &Case) -> zring::Config {
    let wait = match case.wait {
        Wait::Spin => zring::Wait::Spin,
        Wait::Adaptive => zring::Wait::Adaptive,
        Wait::Park => zring::Wait::Park,
    };
    let driver = match case.driver {
        None => zring::Driver::Auto,
        Some(Driver::Uring) => zring::Driver::Uring,
        Some(Driver::Ready) => zring::Driver::Ready,
    };
    zring::Config { wait, driver, ..Default::default() }
}

/// zring, with contexts of this kind. See the module.
#[derive(Debug)]
pub struct Sockets<C>(PhantomData<fn() -> C>);

impl<C: Kind> Sockets<C> {
    /// The only value.
    pub const NEW: Self = Self(PhantomData);
}

impl<C: Kind> Subject for Sockets<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn plays(&self, _pattern: Pattern) -> bool {
        true
    }

    fn settings(&self, case: &Case) -> String {
        let receives = match case.receive {
            Receive::Lease => "",
            Receive::Into => ", receives into one buffer",
            Receive::Registered => ", receives into one registered buffer",
        };
        let is_stream =
            matches!(case.pattern, Pattern::Stream | Pattern::Pipeline | Pattern::FanIn);
        let in_place =
            if is_stream && writes_in_place::<C>(case) { ", bodies written in place" } else { "" };
        let hwm = queue_messages(case.size_bytes);
        format!("HWM {hwm}{}{in_place}{receives}", C::SENDS)
    }

    fn common(&self, case: &Case) -> Result<Option<Common>> {
        C::common(case)
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        let side = Side::<C>::connect(case, SocketType::Push, endpoint)?;
        side.socket.wait_for_peers(1, Some(STALL)).map_err(Failure::library)?;
        let body = sequence::filler(case.size_bytes);
        Ok(if case.size_bytes >= LARGE_BYTES {
            Box::new(LargeSender {
                side,
                body,
                rotation: Vec::new(),
                rotation_max: 2 * queue_messages(case.size_bytes) as usize,
            })
        } else {
            let is_in_place = writes_in_place::<C>(case);
            Box::new(BurstSender { burst: side.burst as u64, side, body, is_in_place })
        })
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        match case.receive {
            Receive::Lease => Ok(Box::new(Side::<C>::bind(case, SocketType::Pull, announce)?)),
            Receive::Into => {
                let side = Side::<C>::bind(case, SocketType::Pull, announce)?;
                Ok(Box::new(IntoReceiver { side, buffer: vec![0; case.size_bytes] }))
            }
            Receive::Registered => {
                let side = Side::<C>::bind(case, SocketType::Pull, announce)?;
                let buffer = side.context.register(case.size_bytes)?;
                Ok(Box::new(IntoReceiver { side, buffer }))
            }
        }
    }

    fn can_receive(&self, receive: Receive) -> bool {
        receive != Receive::Registered || C::REGISTERS
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        let side = Side::<C>::connect(case, SocketType::Req, endpoint)?;
        let body = sequence::filler(case.size_bytes);
        Ok(Box::new(Asker { side, endpoint: endpoint.to_owned(), silent: None, body }))
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        Ok(Box::new(Side::<C>::bind(case, SocketType::Rep, announce)?))
    }

    fn publisher(&self, case: &Case, announce: Announce) -> Result<Box<dyn Publisher>> {
        zring_fan::publisher::<C>(case, announce)
    }

    fn subscribers(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Subscribers>> {
        zring_fan::subscribers::<C>(case, endpoint)
    }

    fn worker(&self, case: &Case, downstream: &str, announce: Announce) -> Result<Box<dyn Worker>> {
        let upstream = Side::<C>::bind(case, SocketType::Pull, announce)?;
        let push = upstream.context.open_socket(SocketType::Push, options(case))?;
        push.connect(downstream).map_err(Failure::library)?;
        Ok(Box::new(Relay { upstream, push }))
    }

    fn visitor(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Visitor>> {
        let context = C::open(case, case.core_a())?;
        Ok(Box::new(zring_crowd::Visits::new(context, options(case), endpoint, case.size_bytes)))
    }

    fn crowd(&self, case: &Case) -> Result<Box<dyn Crowd>> {
        Ok(Box::new(Silent::<C>::new(case)?))
    }
}

/// Whether a stream's sender writes its bodies in their final place.
fn writes_in_place<C: Kind>(case: &Case) -> bool {
    C::WRITES_IN_PLACE
        && case.transport != Transport::Inproc
        && case.size_bytes < IN_PLACE_BYTES_MAX
}

/// The options of all sockets.
pub(super) fn options(case: &Case) -> Options {
    let mut options = Options::default();
    options.sndhwm = queue_messages(case.size_bytes);
    options.rcvhwm = queue_messages(case.size_bytes);
    options.sndtimeo = Some(STALL);
    options.rcvtimeo = Some(STALL);
    options.linger = Some(STALL);
    options.backlog = zring_crowd::backlog(case);
    options
}

/// One side: a context and its socket. The fields drop in this order.
pub(super) struct Side<C: Kind> {
    pub(super) socket: zring::Socket<C>,
    pub(super) context: C,
    pub(super) driver: Option<&'static str>,
    /// Messages sent, or received, per burst.
    pub(super) burst: usize,
}

impl<C: Kind> Side<C> {
    fn new(case: &Case, core: Option<usize>, socket_type: SocketType) -> Result<Self> {
        let context = C::open(case, core)?;
        let socket = context.open_socket(socket_type, options(case))?;
        let driver = context.driver_name();
        let burst = (BURST_BYTES / case.size_bytes).clamp(1, BURST_MESSAGES);
        Ok(Self { socket, context, driver, burst })
    }

    fn connect(case: &Case, socket_type: SocketType, endpoint: &str) -> Result<Self> {
        let side = Self::new(case, case.core_a(), socket_type)?;
        side.socket.connect(endpoint).map_err(Failure::library)?;
        Ok(side)
    }

    fn bind(case: &Case, socket_type: SocketType, announce: Announce) -> Result<Self> {
        Self::bind_at(case, case.core_b(), socket_type, announce)
    }

    pub(super) fn bind_at(
        case: &Case,
        core: Option<usize>,
        socket_type: SocketType,
        announce: Announce,
    ) -> Result<Self> {
        let side = Self::new(case, core, socket_type)?;
        side.socket.bind(&case.bind).map_err(Failure::library)?;
        let endpoint = side.socket.last_endpoint();
        announce.endpoint(endpoint.ok_or_else(|| Failure::Setup("no bound endpoint".to_owned()))?);
        Ok(side)
    }

    pub(super) fn close(self) -> Result<()> {
        match self.socket.close().unsent_messages {
            0 => Ok(()),
            unsent => Err(Failure::Library(format!("{unsent} messages were left unsent"))),
        }
    }
}

/// Sends small bodies in bursts, under a batch guard where the subject has one.
struct BurstSender<C: Kind> {
    side: Side<C>,
    body: Vec<u8>,
    burst: u64,
    /// Whether each body is written in its final place, as in `raw`; otherwise the library's `send` copies it.
    is_in_place: bool,
}

impl<C: Kind> BurstSender<C> {
    #[inline(always)]
    fn send(&mut self, sequence: u64) -> Result<()> {
        let Self { side, body, is_in_place, .. } = self;
        if *is_in_place {
            let sent = side.socket.send_with(body.len(), |sent| {
                sent.copy_from_slice(body);
                sequence::stamp(sent, sequence);
            });
            return sent.map_err(Failure::library);
        }
        sequence::stamp(body, sequence);
        side.socket.send(&body[..]).map_err(Failure::library)
    }
}

impl<C: Kind> Sender for BurstSender<C> {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        let _batch = self.side.context.open_batch();
        for sequence in first..first + self.burst {
            self.send(sequence)?;
        }
        Ok(self.burst)
    }

    fn send_due(&mut self, first: u64, count: u64) -> Result<()> {
        let _batch = (count > 1).then(|| self.side.context.open_batch());
        (first..first + count).try_for_each(|sequence| self.send(sequence))
    }

    fn progress(&mut self) -> Result<()> {
        self.side.context.turn()
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.send(END)?;
        self.side.close()
    }
}

/// Sends large bodies: shared messages, each rewritten once no reference to it is left. The first free one is sent, so
/// that no more messages are touched than are under way.
struct LargeSender<C: Kind> {
    side: Side<C>,
    body: Vec<u8>,
    rotation: Vec<Message>,
    rotation_max: usize,
}

impl<C: Kind> LargeSender<C> {
    /// A stamped message without other owners. The HWM bounds the messages in flight and so the rotation.
    fn stamped(&mut self, sequence: u64) -> Message {
        for message in &mut self.rotation {
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
            self.rotation.push(message);
        }
        shared
    }

    fn send(&mut self, sequence: u64) -> Result<()> {
        let message = self.stamped(sequence);
        self.side.socket.send(message).map_err(Failure::library)
    }
}

impl<C: Kind> Sender for LargeSender<C> {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        self.send(first)?;
        Ok(1)
    }

    fn send_due(&mut self, first: u64, count: u64) -> Result<()> {
        (first..first + count).try_for_each(|sequence| self.send(sequence))
    }

    fn progress(&mut self) -> Result<()> {
        self.side.context.turn()
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.send(END)?;
        self.side.close()
    }
}

impl<C: Kind> Receiver for Side<C> {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        for _ in 0..self.burst {
            let message = self.socket.recv().map_err(Failure::library)?;
            if check.accept(message.body())? == Verdict::End {
                return Ok(Verdict::End);
            }
        }
        Ok(Verdict::InOrder)
    }

    fn driver(&self) -> Option<&'static str> {
        self.driver
    }
}

/// Receives into the same buffer again and again.
struct IntoReceiver<C: Kind, B> {
    side: Side<C>,
    buffer: B,
}

impl<C: Kind, B: DerefMut<Target = [u8]>> Receiver for IntoReceiver<C, B> {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        for _ in 0..self.side.burst {
            let received =
                self.side.socket.recv_into(&mut self.buffer).map_err(Failure::library)?;
            let kept = received.len.min(self.buffer.len());
            if check.accept(&self.buffer[..kept])? == Verdict::End {
                return Ok(Verdict::End);
            }
        }
        Ok(Verdict::InOrder)
    }

    fn driver(&self) -> Option<&'static str> {
        self.side.driver
    }
}

/// Forwards received messages as they are, without a copy.
struct Relay<C: Kind> {
    upstream: Side<C>,
    push: zring::Socket<C>,
}

impl<C: Kind> Worker for Relay<C> {
    fn forward_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        // A receive that has to wait ends the batch by itself.
        let _batch = self.upstream.context.open_batch();
        for _ in 0..self.upstream.burst {
            let message = self.upstream.socket.recv().map_err(Failure::library)?;
            let verdict = check.accept(message.body())?;
            self.push.send(message).map_err(Failure::library)?;
            if verdict == Verdict::End {
                return Ok(Verdict::End);
            }
        }
        Ok(Verdict::InOrder)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        match self.push.close().unsent_messages {
            0 => Ok(()),
            unsent => Err(Failure::Library(format!("{unsent} messages were left unsent"))),
        }
    }
}

/// Sends requests.
struct Asker<C: Kind> {
    side: Side<C>,
    endpoint: String,
    /// Holds the silent connections.
    silent: Option<zring::Socket<C>>,
    body: Vec<u8>,
}

impl<C: Kind> Requester for Asker<C> {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        sequence::stamp(&mut self.body, sequence);
        self.side.socket.send(&self.body[..]).map_err(Failure::library)?;
        let reply = self.side.socket.recv().map_err(Failure::library)?;
        check.accept(reply.body())
    }

    fn open_silent(&mut self, count: u32) -> Result<()> {
        if count > 0 {
            let silent = zring_crowd::connect_beside(&self.side.context, &self.endpoint, count)?;
            self.silent = Some(silent);
        }
        Ok(())
    }
}

impl<C: Kind> Replier for Side<C> {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let request = self.socket.recv().map_err(Failure::library)?;
        let verdict = check.accept(request.body())?;
        // The request itself is sent back, without a copy.
        self.socket.send(request).map_err(Failure::library)?;
        Ok(verdict)
    }

    fn driver(&self) -> Option<&'static str> {
        self.driver
    }
}
