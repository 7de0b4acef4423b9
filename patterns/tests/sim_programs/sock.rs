//! A socket of either kind, used in every possible way.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use futures_core::Stream;
use futures_sink::Sink;
use zring::{
    CloseReport, Context, Error, Event, EventKind, Frame, FrameBuf, Message, Options, PeerStats,
    PollItem, Sendable, Socket, SocketStats, SocketType, inline,
    inline::{POLLIN, POLLOUT},
};
use zring_engine::sim::World;

use super::stage::{Leaky, MS, S, Stage};

/// How much longer than told a call may last, because other tasks run inside it.
const SLACK_NS: u64 = 5 * S;
/// Practically no limit.
const NEVER_NS: u64 = 1_000_000 * S;
const EVENTS: usize = 100_000;
/// Longest frame.
const FRAME_BYTES_MAX: usize = 128 << 10;

pub(crate) struct Sock {
    kind: Leaky<Kind>,
    /// A blocking call on an inline socket is under way.
    is_busy: Rc<Cell<bool>>,
    /// The socket's context is dropped with it.
    is_alone: bool,
    /// Only one task receives, so no other receive overtakes a message that is streamed.
    may_stream: Cell<bool>,
    /// A streamed message was dropped half-way.
    has_let_go: Cell<bool>,
}

enum Kind {
    Shared(Socket),
    Inline(inline::Socket),
}

macro_rules! each {
    ($sock:expr, $socket:ident => $what:expr) => {
        match &*$sock.kind {
            Kind::Shared($socket) => $what,
            Kind::Inline($socket) => $what,
        }
    };
}

/// The caller: a task, which may pause, or the body, whose call must not return before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Task,
    Body,
}

/// Runs a future that never pauses.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = TaskContext::from_waker(Waker::noop());
    match std::pin::pin!(future).as_mut().poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the body may not pause"),
    }
}

/// Polls until the result is ready, for at most `ns` and at most `polls` times.
async fn within<T>(
    world: &World,
    ns: u64,
    polls: u64,
    mut poll: impl FnMut(&mut TaskContext<'_>) -> Poll<T>,
) -> Option<T> {
    let mut sleep = world.sleep(ns);
    let mut left = polls;
    poll_fn(|context| {
        if let Poll::Ready(value) = poll(context) {
            return Poll::Ready(Some(value));
        }
        left -= 1;
        let is_over = left == 0 || Pin::new(&mut sleep).poll(context).is_ready();
        if is_over { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

impl Sock {
    fn new(kind: Kind) -> Self {
        let sock = Self {
            kind: Leaky::new(kind),
            is_busy: Rc::default(),
            is_alone: false,
            may_stream: Cell::default(),
            has_let_go: Cell::default(),
        };
        each!(sock, socket => socket.monitor(EVENTS));
        sock
    }

    pub(crate) fn shared(context: &Context, socket_type: SocketType, options: Options) -> Self {
        Self::new(Kind::Shared(context.socket_with(socket_type, options).expect("a socket")))
    }

    /// With a context of its own, which a task turns now and then while the stage exists.
    pub(crate) fn inline(stage: &Stage, socket_type: SocketType, options: Options) -> Self {
        let context = stage.open_inline();
        let socket = context.socket_with(socket_type, options).expect("a socket");
        let sock = Self::new(Kind::Inline(socket));
        let is_busy = Rc::downgrade(&sock.is_busy);
        let stage = stage.clone();
        drop(stage.world().clone().spawn(async move {
            let mut last_turns = 3000;
            // A dropped socket still sends while its context is turned.
            while last_turns > 0 {
                match is_busy.upgrade() {
                    Some(is_busy) if is_busy.get() => {}
                    Some(_) => drop(context.turn().expect("a turn")),
                    None => {
                        last_turns -= 1;
                        let is_done = context.turn().expect("a turn") == 0;
                        last_turns = if is_done { last_turns.min(200) } else { last_turns };
                    }
                }
                let ns = stage.below(MS);
                stage.world().sleep(ns).await;
            }
        }));
        sock
    }

    /// In a background context of its own.
    pub(crate) fn alone(stage: &Stage, socket_type: SocketType, options: Options) -> Self {
        Self { is_alone: true, ..Self::shared(&stage.open(), socket_type, options) }
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.is_alone
    }

    pub(crate) fn has_let_go(&self) -> bool {
        self.has_let_go.get()
    }

    pub(crate) fn let_stream(&self) {
        self.may_stream.set(true);
    }

    pub(crate) fn is_inline(&self) -> bool {
        matches!(*self.kind, Kind::Inline(_))
    }

    pub(crate) fn stats(&self) -> SocketStats {
        each!(self, socket => socket.stats())
    }

    pub(crate) fn peers(&self) -> Vec<PeerStats> {
        each!(self, socket => socket.peers())
    }

    /// How many messages are queued for the socket's peers.
    pub(crate) fn queued(&self) -> u64 {
        self.peers().iter().map(|peer| peer.messages_queued).sum()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        each!(self, socket => std::iter::from_fn(|| socket.next_event()).collect())
    }

    /// How many messages were handed to connections that have ended.
    pub(crate) fn handed_to_the_dead(&self) -> u64 {
        assert_eq!(self.stats().events_lost, 0);
        let handed = |event: &Event| match event.kind {
            EventKind::Disconnected { messages_out, .. } => messages_out,
            _ => 0,
        };
        self.events().iter().map(handed).sum()
    }

    pub(crate) fn subscribe(&self, topic: &[u8]) {
        each!(self, socket => socket.subscribe(topic)).expect("subscribed");
    }

    pub(crate) fn unsubscribe(&self, topic: &[u8]) {
        each!(self, socket => socket.unsubscribe(topic)).expect("unsubscribed");
    }

    pub(crate) fn connect(&self, endpoint: &str) {
        each!(self, socket => socket.connect(endpoint)).expect("connected");
    }

    pub(crate) fn disconnect(&self, endpoint: &str) {
        each!(self, socket => socket.disconnect(endpoint)).expect("disconnected");
    }

    pub(crate) fn unbind(&self, endpoint: &str) {
        each!(self, socket => socket.unbind(endpoint)).expect("unbound");
    }

    /// Binds, with retries while a socket that is about to close has the endpoint.
    pub(crate) async fn bind(&self, stage: &Stage, caller: Caller, endpoint: &str) {
        for _ in 0..10_000 {
            match each!(self, socket => socket.bind(endpoint)) {
                Ok(()) => return,
                Err(Error::AddressInUse(_)) if caller == Caller::Task => {
                    stage.world().sleep(MS).await;
                }
                Err(Error::AddressInUse(_)) => stage.world().run_for(MS),
                Err(error) => panic!("{endpoint}: {error}"),
            }
        }
        panic!("{endpoint} does not become free");
    }

    /// How many subscribers a topic has.
    pub(crate) fn subscribers(&self, stage: &Stage, topic: &[u8]) -> usize {
        let time = Some(Duration::from_nanos(stage.below(2) * stage.below(MS)));
        let waited = self.blocking(
            || each!(self, socket => socket.wait_for_subscribers(topic, usize::MAX, time)),
        );
        match waited {
            Err(Error::TooFew { there, .. }) => there,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn sndhwm(&self) -> u32 {
        each!(self, socket => socket.sndhwm())
    }

    pub(crate) fn set_linger(&self, linger: Option<Duration>) {
        each!(self, socket => socket.set_linger(linger));
    }

    pub(crate) fn close(self) -> CloseReport {
        self.is_busy.set(true);
        let report = match self.kind.into_inner() {
            Kind::Shared(socket) => socket.close(),
            Kind::Inline(socket) => socket.close(),
        };
        self.is_busy.set(false);
        report
    }

    fn blocking<T>(&self, call: impl FnOnce() -> T) -> T {
        self.is_busy.set(true);
        let outcome = call();
        self.is_busy.set(false);
        outcome
    }

    /// A blocking call, which must end when its time is over, and not earlier.
    fn timed<T>(
        &self,
        stage: &Stage,
        ns: u64,
        call: impl FnOnce(Option<Duration>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let start_ns = stage.world().now_ns();
        let outcome = self.blocking(|| call(Some(Duration::from_nanos(ns))));
        let passed_ns = stage.world().now_ns() - start_ns;
        assert!(passed_ns <= ns + SLACK_NS, "a wait of {ns} ns took {passed_ns}");
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(Error::WouldBlock) => {
                assert!(passed_ns >= ns, "a wait of {ns} ns ended after {passed_ns}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn try_recv(&self) -> Result<Option<Message>, Error> {
        none_yet(each!(self, socket => socket.try_recv()))
    }

    fn recv_blocking(&self, stage: &Stage, ns: u64) -> Result<Option<Message>, Error> {
        self.timed(stage, ns, |time| {
            each!(self, socket => {
                socket.set_rcvtimeo(time);
                socket.recv()
            })
        })
    }

    /// Receives into one buffer or several; the rest of the message follows.
    fn recv_into(&self, stage: &Stage, ns: u64) -> Result<Option<Message>, Error> {
        let mut memory = vec![vec![0; FRAME_BYTES_MAX]; 1 + stage.below(3) as usize];
        let mut buffers: Vec<_> = memory.iter_mut().map(|it| FrameBuf::new(it)).collect();
        let received = self.timed(stage, ns, |time| {
            each!(self, socket => {
                socket.set_rcvtimeo(time);
                socket.recv_into_vectored(&mut buffers)
            })
        })?;
        let Some(received) = received else { return Ok(None) };
        assert!(buffers.iter().all(|buffer| !buffer.is_truncated()));
        let frames = buffers[..received.frames].iter().map(|it| it.bytes().into()).collect();
        self.with_rest(frames, received.more)
    }

    /// Receives frame by frame, each in one of several ways, without a time limit. If no connection can be lost, the
    /// rest of a message is dropped now and then; the program then counts it as a whole message.
    async fn recv_streaming(&self, stage: &Stage, ns: u64) -> Result<Option<Message>, Error> {
        let brief = Some(Duration::from_nanos(ns));
        each!(self, socket => {
            socket.set_rcvtimeo(brief);
            let begun = none_yet(self.blocking(|| socket.recv_streaming()))?;
            let Some(mut message) = begun else { return Ok(None) };
            let mut frames: Vec<Frame> = Vec::new();
            loop {
                socket.set_rcvtimeo(brief);
                if !frames.is_empty() && stage.is_lossless() && stage.below(3) == 0 {
                    drop(message);
                    self.has_let_go.set(true);
                    return Ok(Message::from_frames(stage.shapes().complete(frames)));
                }
                let taken = self.blocking(|| {
                    let Some(mut frame) = message.next_frame()? else { return Ok(None) };
                    loop {
                        let taken = match stage.below(2) {
                            0 => frame.take(),
                            _ => {
                                let mut memory = vec![0; frame.len() as usize];
                                frame.read_into(&mut memory).map(|_| memory.into())
                            }
                        };
                        // A frame that was handed out has to be taken before the next one.
                        match taken {
                            Err(Error::WouldBlock) => stage.world().run_for(MS),
                            taken => return taken.map(Some),
                        }
                    }
                });
                match taken {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => return Ok(Message::from_frames(frames)),
                    Err(Error::WouldBlock) => stage.pause().await,
                    // The sender sends the message again, or has reported it as handed over.
                    Err(Error::PeerLost) => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        })
    }

    fn with_rest(&self, mut frames: Vec<Frame>, more: bool) -> Result<Option<Message>, Error> {
        if more {
            let rest = self.try_recv()?.expect("the rest is there");
            frames.extend(rest.into_frames());
        }
        Ok(Message::from_frames(frames))
    }

    fn recv_polling(&self, stage: &Stage, ns: u64) -> Result<Option<Message>, Error> {
        self.timed(stage, ns, |time| self.poll(POLLIN, time))?;
        // Another task may be faster if the socket is shared.
        self.try_recv()
    }

    /// Turns an empty poll into the error that other calls return.
    fn poll(&self, events: u8, time: Option<Duration>) -> Result<(), Error> {
        let ready = match &*self.kind {
            Kind::Shared(socket) => zring::poll(&mut [PollItem::new(socket, events)], time)?,
            Kind::Inline(socket) => {
                inline::poll(&mut [inline::PollItem::new(socket, events)], time)?
            }
        };
        if ready == 0 { Err(Error::WouldBlock) } else { Ok(()) }
    }

    /// Receives one message, if one comes soon.
    pub(crate) async fn recv(
        &self,
        stage: &Stage,
        caller: Caller,
    ) -> Result<Option<Message>, Error> {
        let ns = stage.moment_ns();
        let world = stage.world();
        match (&*self.kind, caller, stage.below(10)) {
            (_, Caller::Task, 9) if self.may_stream.get() => self.recv_streaming(stage, ns).await,
            (_, _, 0) => self.recv_blocking(stage, ns),
            (_, _, 6 | 7) => self.recv_into(stage, ns),
            (Kind::Shared(socket), Caller::Task, 8) => {
                let polls = if stage.below(2) == 0 { 1 + stage.below(4) } else { u64::MAX };
                let mut received = socket.recv_into_async(vec![0; FRAME_BYTES_MAX]);
                let poll = |context: &mut TaskContext<'_>| Pin::new(&mut received).poll(context);
                let Some((mut body, received)) = within(world, ns, polls, poll).await else {
                    return Ok(None);
                };
                let received = received?;
                body.truncate(received.len);
                self.with_rest(vec![body.into()], received.more)
            }
            (_, _, 1) => self.recv_polling(stage, ns),
            (_, Caller::Body, _) => self.recv_blocking(stage, 4 * ns),
            (Kind::Shared(socket), _, 2) => {
                let mut messages = socket.messages();
                let next =
                    |context: &mut TaskContext<'_>| Pin::new(&mut messages).poll_next(context);
                let next = within(world, ns, u64::MAX, next).await;
                next.map(|item| item.expect("it goes on")).transpose()
            }
            (Kind::Shared(socket), _, 3 | 4) => {
                let polls = if stage.below(2) == 0 { 1 + stage.below(4) } else { u64::MAX };
                // So long that a missing wake would be noticed.
                let ns = if stage.below(4) == 0 { 3 * S } else { ns };
                let mut received = socket.recv_async();
                let poll = |context: &mut TaskContext<'_>| Pin::new(&mut received).poll(context);
                within(world, ns, polls, poll).await.transpose()
            }
            _ => {
                let received = self.try_recv()?;
                if received.is_none() {
                    world.sleep(ns).await;
                }
                Ok(received)
            }
        }
    }

    pub(crate) fn try_send(&self, message: Message) -> Result<Option<Message>, Error> {
        returned(each!(self, socket => socket.try_send(message)))
    }

    /// Sends one message if there is room soon; otherwise returns it unchanged.
    pub(crate) async fn send(
        &self,
        stage: &Stage,
        caller: Caller,
        message: Message,
    ) -> Result<Option<Message>, Error> {
        let copy = message.clone();
        let back = self.send_somehow(stage, caller, message).await?;
        assert!(back.as_ref().is_none_or(|back| *back == copy), "a refused payload was touched");
        Ok(back)
    }

    async fn send_somehow(
        &self,
        stage: &Stage,
        caller: Caller,
        message: Message,
    ) -> Result<Option<Message>, Error> {
        let ns = stage.moment_ns();
        match (&*self.kind, caller, stage.below(8)) {
            (_, _, 0) => self.send_blocking(stage, ns, message),
            (_, _, 1) => {
                self.timed(stage, ns, |time| self.poll(POLLOUT, time))?;
                self.try_send(message)
            }
            (_, _, 2) if message.frame_count() > 1 => {
                self.send_in_parts(stage, caller, message).await
            }
            (_, Caller::Body, _) => self.send_blocking(stage, 4 * ns, message),
            (Kind::Shared(socket), _, 3) => {
                let mut sink = socket.outgoing();
                sink_in(stage, ns, Pin::new(&mut sink), message).await?;
                Ok(sink.into_item())
            }
            (Kind::Shared(socket), _, 4 | 5) => {
                let polls = if stage.below(2) == 0 { 1 + stage.below(4) } else { u64::MAX };
                let ns = if stage.below(2) == 0 { NEVER_NS } else { ns };
                let mut sent = socket.send_async(message);
                let poll = |context: &mut TaskContext<'_>| Pin::new(&mut sent).poll(context);
                match within(stage.world(), ns, polls, poll).await {
                    Some(done) => returned(done),
                    None => Ok(Some(sent.into_payload().expect("it has sent nothing"))),
                }
            }
            (_, _, 6) if message.frame_count() == 1 && !message.has_files() => {
                let sent = each!(self, socket => socket.try_send(message.body()));
                let back = none_yet(sent.map_err(Error::from))?.is_none();
                Ok(back.then_some(message))
            }
            _ => {
                let back = self.try_send(message)?;
                if back.is_some() {
                    stage.world().sleep(ns).await;
                }
                Ok(back)
            }
        }
    }

    fn send_blocking(
        &self,
        stage: &Stage,
        ns: u64,
        message: Message,
    ) -> Result<Option<Message>, Error> {
        fn send<P: Sendable>(sock: &Sock, payload: P, time: Option<Duration>) -> Result<(), Error> {
            each!(sock, socket => {
                socket.set_sndtimeo(time);
                socket.send(payload).map_err(Error::from)
            })
        }
        let is_single = message.frame_count() == 1 && !message.has_files();
        let sent = self.timed(stage, ns, |time| match stage.below(3) {
            0 if is_single => send(self, message.body(), time),
            1 if is_single => send(self, message.body().to_vec(), time),
            _ => send(self, message.clone(), time),
        })?;
        Ok(sent.is_none().then_some(message))
    }

    /// The first frame is refused or the message goes out, unless it is dropped on purpose half-way.
    async fn send_in_parts(
        &self,
        stage: &Stage,
        caller: Caller,
        message: Message,
    ) -> Result<Option<Message>, Error> {
        let mut frames = message.clone().into_frames();
        let last = Message::from_frames(frames.pop()).expect("one frame");
        let is_dropped = stage.below(8) == 0;
        let count = frames.len();
        for (number, frame) in frames.into_iter().enumerate() {
            let kept = each!(self, socket => socket.try_send_more(frame));
            if none_yet(kept)?.is_none() {
                assert_eq!(number, 0, "a message was refused after its first frame");
                return Ok(Some(message));
            }
            if stage.below(4) == 0 {
                match caller {
                    Caller::Task => stage.pause().await,
                    Caller::Body => stage.world().run_for(stage.moment_ns()),
                }
            }
        }
        if is_dropped {
            assert_eq!(each!(self, socket => socket.drop_partial()), count);
            return Ok(Some(message));
        }
        assert!(self.try_send(last)?.is_none(), "the last frame was refused");
        Ok(None)
    }
}

async fn sink_in<S: Sink<Message, Error = Error> + Unpin>(
    stage: &Stage,
    ns: u64,
    mut sink: Pin<&mut S>,
    message: Message,
) -> Result<(), Error> {
    let world = stage.world();
    let ready = within(world, 0, 1, |context| sink.as_mut().poll_ready(context)).await;
    ready.expect("an empty sink is ready")?;
    sink.as_mut().start_send(message)?;
    match within(world, ns, u64::MAX, |context| sink.as_mut().poll_flush(context)).await {
        Some(flushed) => flushed,
        None => Ok(()),
    }
}

fn none_yet<T>(outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Error::WouldBlock) => Ok(None),
        Err(error) => Err(error),
    }
}

fn returned(sent: Result<(), zring::SendError<Message>>) -> Result<Option<Message>, Error> {
    match sent {
        Ok(()) => Ok(None),
        Err(refused) if refused.error.is_would_block() => Ok(Some(refused.payload)),
        Err(refused) => Err(refused.error),
    }
}
