//! Sending and receiving without blocking a thread, under any async runtime.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context as Task, Poll, ready},
};

use futures_core::{FusedStream, Stream};
use futures_sink::Sink;

use super::Context;
use crate::{
    error::{Error, Refusal, SendError},
    frame::FrameBuf,
    message::{Message, Sendable},
    monitor::Event,
    reactor::Reactor,
    socket::{Claimant, Listing, Received, Socket, attempt_recv, attempt_send},
};

/// A task's entry in a socket's list of waiting tasks; removed when this is dropped.
struct Wait<'a> {
    socket: &'a Socket,
    number: Option<u64>,
    /// The entries, if the socket has several shares.
    listing: Listing,
}

impl<'a> Wait<'a> {
    fn new(socket: &'a Socket) -> Self {
        Self { socket, number: None, listing: Listing::default() }
    }

    /// Makes one attempt. If it would block, has the task woken when the socket changes.
    fn poll<T>(
        &mut self,
        task: &Task<'_>,
        mut attempt: impl FnMut(Option<&mut Reactor>) -> Result<T, Refusal>,
    ) -> Poll<Result<T, Refusal>> {
        if self.socket.apart().is_some() {
            return self.poll_apart(task, || attempt(None));
        }
        let key = self.socket.key();
        let mut reactor = self.socket.reactor();
        if let Some(number) = self.number.take() {
            reactor.hub.delist(key, number);
        }
        loop {
            match attempt(Some(&mut reactor)) {
                Err(Refusal::WouldBlock) if reactor.flush() => {}
                Err(Refusal::WouldBlock) => {
                    self.number = Some(reactor.hub.enlist(key, task.waker().clone()));
                    return Poll::Pending;
                }
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_apart<T>(
        &mut self,
        task: &Task<'_>,
        mut attempt: impl FnMut() -> Result<T, Refusal>,
    ) -> Poll<Result<T, Refusal>> {
        let mut done = attempt();
        if matches!(done, Err(Refusal::WouldBlock)) {
            self.listing.enlist(self.socket, task.waker());
            // Check again: a message may have arrived before we enlisted.
            done = attempt();
            if matches!(done, Err(Refusal::WouldBlock)) {
                return Poll::Pending;
            }
        }
        self.listing.delist(self.socket);
        Poll::Ready(done)
    }

    fn poll_recv(&mut self, task: &Task<'_>) -> Poll<Result<Message, Refusal>> {
        let socket = self.socket;
        self.poll(task, |reactor| match reactor {
            Some(reactor) => attempt_recv(reactor, socket.key(), false),
            None => socket.attempt_recv(false),
        })
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.socket.reactor().hub.delist(self.socket.key(), number);
        }
        self.listing.delist(self.socket);
    }
}

/// Resolves to the next message; see [`Socket::recv_async`].
#[must_use = "a future does nothing until it is awaited"]
pub struct RecvFuture<'a> {
    wait: Wait<'a>,
}

impl Future for RecvFuture<'_> {
    type Output = Result<Message, Error>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        self.wait.poll_recv(task).map_err(Error::from)
    }
}

/// Resolves to the next event; see [`Socket::recv_event_async`].
#[must_use = "a future does nothing until it is awaited"]
pub struct EventFuture<'a> {
    wait: Wait<'a>,
}

impl Future for EventFuture<'_> {
    type Output = Result<Event, Error>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let socket = self.wait.socket;
        self.wait.poll(task, |reactor| socket.attempt_event(reactor)).map_err(Error::from)
    }
}

/// Resolves to a buffer with the next frame in it; see [`Socket::recv_into_async`].
#[must_use = "a future does nothing until it is awaited"]
pub struct RecvIntoFuture<'a> {
    wait: Wait<'a>,
    buffer: Vec<u8>,
    progress: (usize, usize),
    claimant: Claimant,
}

impl RecvIntoFuture<'_> {
    /// Gives up receiving and returns the buffer. What has arrived of a message can still be received.
    #[must_use]
    pub fn into_buffer(mut self) -> Vec<u8> {
        self.let_go();
        std::mem::take(&mut self.buffer)
    }

    fn let_go(&mut self) {
        let frames = &mut [FrameBuf::resume(&mut self.buffer, self.progress)];
        self.wait.socket.let_go(frames, &mut self.claimant);
    }
}

impl Future for RecvIntoFuture<'_> {
    type Output = (Vec<u8>, Result<Received, Error>);

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let Self { wait, buffer, progress, claimant } = &mut *self;
        let socket = wait.socket;
        let frames = &mut [FrameBuf::resume(buffer, *progress)];
        let polled = wait.poll(task, |reactor| socket.attempt_into(reactor, frames, claimant));
        *progress = frames[0].progress();
        let received = ready!(polled);
        let received = match received {
            Err(_) if claimant.claim.is_some() => socket.give_up(frames, claimant),
            received => received,
        };
        let received = received.map(|(_, more)| Received::new(&frames[0], more));
        *progress = (0, 0);
        Poll::Ready((std::mem::take(buffer), received.map_err(Error::from)))
    }
}

impl Drop for RecvIntoFuture<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Resolves when its message is queued; see [`Socket::send_async`].
#[must_use = "a future does nothing until it is awaited"]
pub struct SendFuture<'a, P> {
    wait: Wait<'a>,
    payload: Option<P>,
}

// The payload is moved in and out whole; nothing is pinned.
impl<P> Unpin for SendFuture<'_, P> {}

impl<P> SendFuture<'_, P> {
    /// Gives up sending and returns the payload, unless it was sent.
    pub fn into_payload(self) -> Option<P> {
        self.payload
    }
}

fn poll_send<P: Sendable>(
    wait: &mut Wait<'_>,
    payload: &mut Option<P>,
    task: &Task<'_>,
) -> Poll<Result<(), Refusal>> {
    let socket = wait.socket;
    wait.poll(task, |reactor| match reactor {
        Some(reactor) => attempt_send::<Context, P>(reactor, socket.key(), payload),
        None => socket.attempt_send(payload),
    })
}

impl<P: Sendable> Future for SendFuture<'_, P> {
    type Output = Result<(), SendError<P>>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let sent = ready!(poll_send(&mut this.wait, &mut this.payload, task));
        Poll::Ready(match (sent, this.payload.take()) {
            (Err(refusal), Some(payload)) => Err(SendError { error: refusal.into(), payload }),
            _ => Ok(()),
        })
    }
}

/// The messages of a socket as a stream; see [`Socket::messages`].
#[must_use = "a stream does nothing until it is polled"]
pub struct Messages<'a> {
    wait: Wait<'a>,
    has_ended: bool,
}

impl Stream for Messages<'_> {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let received = ready!(self.wait.poll_recv(task)).map_err(Error::from);
        self.has_ended = received.is_err();
        Poll::Ready(Some(received))
    }
}

impl FusedStream for Messages<'_> {
    fn is_terminated(&self) -> bool {
        self.has_ended
    }
}

/// A socket as a sink; see [`Socket::outgoing`].
#[must_use = "a sink does nothing until it is used"]
pub struct Outgoing<'a, P> {
    wait: Wait<'a>,
    /// An item that was accepted and not yet sent for want of room.
    item: Option<P>,
}

impl<P> Unpin for Outgoing<'_, P> {}

impl<P> Outgoing<'_, P> {
    /// Gives the sink up and returns the item that it has accepted and not sent.
    pub fn into_item(self) -> Option<P> {
        self.item
    }
}

impl<P: Sendable> Outgoing<'_, P> {
    fn poll_item(&mut self, task: &Task<'_>) -> Poll<Result<(), Error>> {
        if self.item.is_none() {
            return Poll::Ready(Ok(()));
        }
        let sent = ready!(poll_send(&mut self.wait, &mut self.item, task));
        if sent.is_ok() {
            // A payload that was copied is still there.
            self.item = None;
        }
        Poll::Ready(sent.map_err(Error::from))
    }
}

impl<P: Sendable> Sink<P> for Outgoing<'_, P> {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Result<(), Error>> {
        self.poll_item(task)
    }

    /// # Panics
    /// Without [`Sink::poll_ready`] before.
    fn start_send(mut self: Pin<&mut Self>, item: P) -> Result<(), Error> {
        assert!(self.item.is_none(), "poll_ready comes first");
        self.item = Some(item);
        let this = &mut *self;
        let (socket, item) = (this.wait.socket, &mut this.item);
        match socket.attempt_send(item) {
            Ok(()) => {
                this.item = None;
                Ok(())
            }
            Err(Refusal::WouldBlock) => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Result<(), Error>> {
        self.poll_item(task)
    }

    fn poll_close(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Result<(), Error>> {
        self.poll_item(task)
    }
}

impl Socket {
    /// Receives one message, as a future for any async runtime. The future waits without limit (`rcvtimeo` is for
    /// blocking calls). Dropping it before it is done loses nothing.
    ///
    /// # Errors
    /// As [`Socket::recv`].
    pub fn recv_async(&self) -> RecvFuture<'_> {
        RecvFuture { wait: Wait::new(self) }
    }

    /// Receives one frame into `buffer`, up to its length, as a future for any async runtime: as [`Socket::recv_into`],
    /// with a buffer that the future keeps until it is done ([`RecvIntoFuture::into_buffer`] returns it earlier). The
    /// future waits without limit. Dropping it loses nothing of a message that is being received.
    ///
    /// # Errors
    /// As [`Socket::recv`], beside the buffer.
    pub fn recv_into_async(&self, buffer: Vec<u8>) -> RecvIntoFuture<'_> {
        let (wait, claimant) = (Wait::new(self), Claimant::default());
        RecvIntoFuture { wait, buffer, progress: (0, 0), claimant }
    }

    /// Takes the next event, as a future for any async runtime: as [`Socket::recv_event`], without limit. Dropping the
    /// future before it is done loses nothing.
    ///
    /// # Errors
    /// As [`Socket::recv_event`].
    pub fn recv_event_async(&self) -> EventFuture<'_> {
        EventFuture { wait: Wait::new(self) }
    }

    /// Sends one message, as a future for any async runtime. The future waits without limit (`sndtimeo` is for blocking
    /// calls). If it is dropped before it is done, nothing was sent; [`SendFuture::into_payload`] returns the payload.
    ///
    /// # Errors
    /// As [`Socket::send`].
    pub fn send_async<P: Sendable>(&self, payload: P) -> SendFuture<'_, P> {
        SendFuture { wait: Wait::new(self), payload: Some(payload) }
    }

    /// The messages of the socket, as a stream that ends after its first error. Dropping the stream loses nothing.
    pub fn messages(&self) -> Messages<'_> {
        Messages { wait: Wait::new(self), has_ended: false }
    }

    /// The socket as a sink. The sink keeps one item for which there was no room ([`Outgoing::into_item`]).
    pub fn outgoing<P: Sendable>(&self) -> Outgoing<'_, P> {
        Outgoing { wait: Wait::new(self), item: None }
    }
}

macro_rules! opaque {
    ($($name:ident $([$generic:ident])?),*) => {$(
        impl$(<$generic>)? fmt::Debug for $name<'_ $(, $generic)?> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque!(RecvFuture, EventFuture, RecvIntoFuture, SendFuture[P], Messages, Outgoing[P]);
