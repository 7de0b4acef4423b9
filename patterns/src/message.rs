//! A message: one frame or a chain of them, delivered whole or not at all.

use std::cell::RefCell;

use crate::frame::Frame;

/// How many empty chains a thread keeps for reuse.
const CHAINS_MAX: usize = 64;
/// A chain that has grown beyond this many frames is freed instead of kept.
const CHAIN_FRAMES_MAX: usize = 64;

thread_local! {
    static CHAINS: RefCell<Vec<Box<Vec<Frame>>>> = const { RefCell::new(Vec::new()) };
}

/// Frames behind the first one. Comes from, and goes back to, a small stock of its thread, so that
/// multipart messages allocate nothing in the steady state. Without frames it holds nothing at all.
#[derive(Debug, Default)]
pub(crate) struct Chain(Option<Box<Vec<Frame>>>);

impl Chain {
    fn from_stock() -> Self {
        let stock = CHAINS.try_with(|chains| chains.borrow_mut().pop());
        Self(Some(stock.ok().flatten().unwrap_or_default()))
    }

    /// Takes the frames of `parts` and leaves it empty, with its capacity.
    pub(crate) fn take(parts: impl Iterator<Item = Frame>) -> Self {
        let mut chain = Self::from_stock();
        chain.frames_mut().extend(parts);
        chain
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn frames(&self) -> &[Frame] {
        self.0.as_ref().map_or(&[], |frames| frames)
    }

    fn frames_mut(&mut self) -> &mut Vec<Frame> {
        self.0.get_or_insert_default()
    }
}

impl Clone for Chain {
    fn clone(&self) -> Self {
        if self.is_empty() { Self::default() } else { Self::take(self.frames().iter().cloned()) }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let Some(mut frames) = self.0.take() else { return };
        frames.clear();
        if frames.capacity() <= CHAIN_FRAMES_MAX {
            // While the thread ends its stock may be gone already; then the chain is simply freed.
            let _ = CHAINS.try_with(|chains| {
                let mut chains = chains.borrow_mut();
                if chains.len() < CHAINS_MAX {
                    chains.push(frames);
                }
            });
        }
    }
}

/// One message: a first frame and, for multipart messages, the frames behind it.
///
/// At most 64 bytes itself; bodies are shared when it is cloned. `Send` and `Sync`.
///
/// ```
/// use zring::Message;
/// let message = Message::from_frames(["topic", "body"]).unwrap();
/// assert_eq!(message.body(), b"topic");
/// assert_eq!(message.frame(1), Some(&b"body"[..]));
/// assert_eq!(message.frame_count(), 2);
/// ```
#[derive(Debug, Clone)]
pub struct Message {
    first: Frame,
    rest: Chain,
    /// REP's way back: the routing frames in front of the delimiter.
    pub(crate) envelope: Chain,
}

const _: () = assert!(size_of::<Message>() <= 64);

impl Message {
    /// An empty single-frame message.
    #[must_use]
    pub fn new() -> Self {
        Self::single(Frame::new())
    }

    /// A single frame of `len` zero bytes, to be filled through [`Message::get_mut`].
    #[must_use]
    pub fn with_size(len: usize) -> Self {
        Self::single(Frame::with_size(len))
    }

    /// A multipart message, or `None` when there is no frame at all.
    pub fn from_frames<F: Into<Frame>>(frames: impl IntoIterator<Item = F>) -> Option<Self> {
        let mut frames = frames.into_iter().map(Into::into);
        let first = frames.next()?;
        Some(match frames.next() {
            None => Self::single(first),
            Some(second) => Self {
                first,
                rest: Chain::take(std::iter::once(second).chain(frames)),
                envelope: Chain::default(),
            },
        })
    }

    #[inline]
    pub(crate) fn single(first: Frame) -> Self {
        Self { first, rest: Chain::default(), envelope: Chain::default() }
    }

    /// The first frame's body: the whole message unless it is multipart.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &[u8] {
        self.first.bytes()
    }

    /// The first frame's body for writing; see [`Frame::get_mut`].
    #[must_use]
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        self.first.get_mut()
    }

    /// How many frames there are: at least one.
    #[must_use]
    #[inline]
    pub fn frame_count(&self) -> usize {
        1 + self.rest.frames().len()
    }

    /// The body of frame `index`, counted from 0.
    #[must_use]
    pub fn frame(&self, index: usize) -> Option<&[u8]> {
        self.frames().nth(index).map(Frame::bytes)
    }

    /// All frames in order.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        std::iter::once(&self.first).chain(self.rest.frames())
    }

    /// All frames in order, by value.
    #[must_use]
    pub fn into_frames(mut self) -> Vec<Frame> {
        let mut frames = vec![self.first];
        if !self.rest.is_empty() {
            frames.append(self.rest.frames_mut());
        }
        frames
    }

    /// Copies of all bodies in order.
    #[must_use]
    pub fn to_vecs(&self) -> Vec<Vec<u8>> {
        self.frames().map(|frame| frame.bytes().to_vec()).collect()
    }

    /// How many bytes all bodies have together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames().map(Frame::len).sum()
    }

    /// Whether all bodies are empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn is_single(&self) -> bool {
        self.rest.is_empty()
    }
}

impl Default for Message {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.frames().eq(other.frames())
    }
}

impl Eq for Message {}

impl<F: Into<Frame>> From<F> for Message {
    fn from(body: F) -> Self {
        Self::single(body.into())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What a socket sends as one message: borrowed bytes, which are copied once into the send arena, or
/// an owned [`Message`], [`Frame`], `Vec` or `String`, whose large bodies are sent by reference.
///
/// Sealed: build a [`Message`] for anything else.
pub trait Sendable: sealed::Sealed + Sized {
    /// Whether the bytes belong to the caller, so that a copy is needed in any case.
    #[doc(hidden)]
    const IS_BORROWED: bool;

    /// The body, when the payload is a single frame that may be copied from.
    #[doc(hidden)]
    fn single_body(&self) -> Option<&[u8]>;

    /// The payload as a message.
    #[doc(hidden)]
    fn into_message(self) -> Message;
}

macro_rules! sendable {
    ($borrowed:literal: $($kind:ty $([$($generics:tt)*])?),* $(,)?) => {$(
        impl $(<$($generics)*>)? sealed::Sealed for $kind {}
        impl $(<$($generics)*>)? Sendable for $kind {
            const IS_BORROWED: bool = $borrowed;
            #[inline]
            fn single_body(&self) -> Option<&[u8]> {
                Some(self.as_ref())
            }
            fn into_message(self) -> Message {
                Message::from(self)
            }
        }
    )*};
}

sendable!(true: &[u8], &[u8; N] [const N: usize], &str, &String, &Vec<u8>);
sendable!(false: String, Vec<u8>, Frame);

impl sealed::Sealed for Message {}

impl Sendable for Message {
    const IS_BORROWED: bool = false;
    #[inline]
    fn single_body(&self) -> Option<&[u8]> {
        self.is_single().then(|| self.body())
    }

    fn into_message(self) -> Message {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_used_again() {
        let message = Message::from_frames(["a", "b", "c"]).unwrap();
        let copy = message.clone();
        assert_eq!(message, copy);
        assert_eq!(copy.to_vecs(), [b"a", b"b", b"c"]);
        drop(message);
        assert_eq!(CHAINS.with(|chains| chains.borrow().len()), 1);
        let again = Message::from_frames(["x", "y"]).unwrap();
        assert_eq!(CHAINS.with(|chains| chains.borrow().len()), 0);
        assert_eq!(again.into_frames().len(), 2);
    }

    #[test]
    fn no_frames_are_no_message() {
        assert!(Message::from_frames(std::iter::empty::<Frame>()).is_none());
        assert!(Message::from_frames(["x"]).unwrap().is_single());
    }
}
