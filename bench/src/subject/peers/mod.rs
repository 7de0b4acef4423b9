//! The other libraries, for comparison, with the feature `peers`. One file each, with the best setting for the case
//! according to the library's own documents. All get the same queue limits, burst sizes and checks.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Runtime;

use crate::cli::Wait;
use crate::error::{Failure, Result};
use crate::sequence::{self, END};
use crate::subject::{Case, Publisher, STALL, Sender, queue_messages};

pub mod libzmq;
pub mod monocoque;
pub mod nng;
pub mod omq;
pub mod rzmq;

/// Messages sent or received between two checks for the end of the run.
const BURST_MESSAGES: usize = 1024;
/// Bytes of bodies sent in one burst.
const BURST_BYTES: usize = 1 << 20;
/// From this body size on, messages are shared instead of copied.
const LARGE_BYTES: usize = 64 * 1024;
/// Small bodies are cut from pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;

/// Turns of a runtime in which the messages given to a library reach its sockets.
const TURNS: usize = 8;

/// Messages of one burst.
fn burst(size_bytes: usize) -> u64 {
    (BURST_BYTES / size_bytes).clamp(1, BURST_MESSAGES) as u64
}

/// The failure of a wait that took [`STALL`].
fn stalled() -> Failure {
    Failure::Library("nothing happened for ten seconds".to_owned())
}

/// Limits a loop of non-blocking calls.
#[derive(Default)]
struct Spun {
    turns: u32,
    since: Option<Instant>,
}

impl Spun {
    /// Checks the clock every thousand turns.
    fn again(&mut self) -> Result<()> {
        std::hint::spin_loop();
        self.turns = self.turns.wrapping_add(1);
        if !self.turns.is_multiple_of(1024) {
            return Ok(());
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < STALL { Ok(()) } else { Err(stalled()) }
    }
}

/// Repeats the call until it gives a value, for at most [`STALL`].
fn until_some<T>(mut call: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let mut spun = Spun::default();
    loop {
        match call()? {
            Some(answer) => return Ok(answer),
            None => spun.again()?,
        }
    }
}

/// A side that sends copies of bodies, by calls that return when the library has accepted them.
trait Push {
    fn push(&self, body: &[u8]) -> Result<()>;

    /// Called after the end marker, before the side is dropped: waits for messages that would otherwise be lost.
    fn settle(&self) {}
}

/// Such a side with its own body.
struct Pusher<S> {
    side: S,
    body: Vec<u8>,
    burst: u64,
}

impl<S: Push> Pusher<S> {
    fn new(case: &Case, side: S) -> Self {
        Self { side, body: sequence::filler(case.size_bytes), burst: burst(case.size_bytes) }
    }

    fn send(&mut self, sequence: u64) -> Result<()> {
        sequence::stamp(&mut self.body, sequence);
        self.side.push(&self.body)
    }
}

/// Queued messages are sent when the side is dropped, or later: the library ensures that, or [`Push::settle`].
impl<S: Push> Sender for Pusher<S> {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        self.send_due(first, self.burst)?;
        Ok(self.burst)
    }

    fn send_due(&mut self, first: u64, count: u64) -> Result<()> {
        (first..first + count).try_for_each(|sequence| self.send(sequence))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.send(END)?;
        self.side.settle();
        Ok(())
    }
}

impl<S: Push> Publisher for Pusher<S> {
    fn publish(&mut self, sequence: u64) -> Result<()> {
        self.send(sequence)
    }

    fn publish_burst(&mut self, first: u64, count: u64) -> Result<u64> {
        let count = count.min(self.burst);
        self.send_due(first, count)?;
        Ok(count)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Bodies for libraries that send [`Bytes`], each stamped without an allocation of its own.
struct Bodies {
    template: Vec<u8>,
    /// The buffer that small bodies are cut from.
    piece: BytesMut,
    /// Large bodies, each rewritten once no reference to it is left. The first free one is sent, so that no more bodies
    /// are touched than are under way.
    rotation: Vec<Bytes>,
    rotation_max: usize,
}

impl Bodies {
    fn new(size_bytes: usize) -> Self {
        Self {
            template: sequence::filler(size_bytes),
            piece: BytesMut::new(),
            rotation: Vec::new(),
            rotation_max: 2 * queue_messages(size_bytes) as usize,
        }
    }

    fn size_bytes(&self) -> usize {
        self.template.len()
    }

    /// The body itself, for libraries that copy the bytes.
    fn borrowed(&mut self, sequence: u64) -> &[u8] {
        sequence::stamp(&mut self.template, sequence);
        &self.template
    }

    fn shared(&mut self, sequence: u64) -> Bytes {
        if self.template.len() >= LARGE_BYTES {
            return self.rotated(sequence);
        }
        sequence::stamp(&mut self.template, sequence);
        if self.piece.capacity() < self.template.len() {
            self.piece.reserve(PIECE_BYTES);
        }
        self.piece.extend_from_slice(&self.template);
        self.piece.split().freeze()
    }

    fn rotated(&mut self, sequence: u64) -> Bytes {
        for body in &mut self.rotation {
            match std::mem::take(body).try_into_mut() {
                Ok(mut own) => {
                    sequence::stamp(&mut own, sequence);
                    *body = own.freeze();
                    return body.clone();
                }
                Err(in_use) => *body = in_use,
            }
        }
        sequence::stamp(&mut self.template, sequence);
        let body = Bytes::copy_from_slice(&self.template);
        if self.rotation.len() < self.rotation_max {
            self.rotation.push(body.clone());
        }
        body
    }
}

/// Serves many sockets on one thread: each future receives from one of them, and sets `has_some` for each message.
/// Polls all futures until a message has come; the waiting futures are then dropped.
async fn serve<F: Future<Output = Result<()>>>(
    sockets: Vec<F>,
    has_some: &Cell<bool>,
) -> Result<()> {
    let mut sockets: Vec<_> = sockets.into_iter().map(|socket| Some(Box::pin(socket))).collect();
    std::future::poll_fn(|context| {
        for socket in &mut sockets {
            let Some(future) = socket else { continue };
            match future.as_mut().poll(context) {
                Poll::Ready(Ok(())) => *socket = None,
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Pending => {}
            }
        }
        if has_some.get() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// A tokio runtime on the thread of a side; none of its work runs elsewhere.
struct Local {
    runtime: Runtime,
    wait: Wait,
}

impl Local {
    fn new(case: &Case) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, wait: case.wait })
    }

    /// Runs `future`, for at most [`STALL`]. With [`Wait::Spin`] the thread polls the reactor instead of sleeping in
    /// it.
    fn run<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let bounded = async {
            match self.wait {
                Wait::Adaptive | Wait::Park => tokio::time::timeout(STALL, future).await,
                Wait::Spin => tokio::time::timeout(STALL, spinning(future)).await,
            }
        };
        self.runtime.block_on(bounded).unwrap_or_else(|_| Err(stalled()))
    }
}

fn unpark_this_thread() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Local {
    /// Lets the tasks that a library has on this runtime run: they make no progress while the side is outside the
    /// runtime.
    fn turn(&self) -> Result<()> {
        self.run(async {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    }
}

/// Polls `future` on every turn of its runtime, which then never sleeps.
async fn spinning<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
        match polled.await {
            Poll::Ready(output) => return output,
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::{SequenceCheck, Verdict};

    #[test]
    fn bodies_are_stamped_and_whole() {
        for size in [8, 55, 64, 4096, LARGE_BYTES, 3 * LARGE_BYTES] {
            let mut bodies = Bodies::new(size);
            let mut check = SequenceCheck::new(size);
            let mut in_flight = std::collections::VecDeque::new();
            for sequence in 0..300 {
                in_flight.push_back(bodies.shared(sequence));
                if in_flight.len() > 5 {
                    let body = in_flight.pop_front().unwrap();
                    assert_eq!(check.accept(&body).unwrap(), Verdict::InOrder);
                    assert_eq!(body[8..], sequence::filler(size)[8..]);
                }
            }
        }
    }

    #[test]
    fn large_bodies_take_turns() {
        let mut bodies = Bodies::new(LARGE_BYTES);
        for sequence in 0..100 {
            drop(bodies.shared(sequence));
        }
        assert_eq!(bodies.rotation.len(), 1);
    }
}
