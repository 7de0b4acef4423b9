//! A message: one frame or a chain of them, delivered whole or not at all.

use std::{
    cell::Cell,
    fs::File,
    io,
    mem::{ManuallyDrop, forget, replace},
    ops::Range,
    sync::Arc,
};

use zring_engine::{Chunk, Pool};

use crate::error::Error;
use crate::frame::{Frame, Words};

/// Most empty nodes that a thread keeps for reuse.
const NODES_MAX: usize = 1024;
/// Capacity in frames that a chain keeps for reuse; a larger one is shrunk.
const CHAIN_FRAMES_MAX: usize = 64;

thread_local! {
    /// Has no destructor, so an access need not check whether it ran. [`Closing`] has one.
    static NODES: ManuallyDrop<Stock> = const { ManuallyDrop::new(Stock::closed()) };
    static CLOSING: Closing = const { Closing };
}

/// A stock of empty nodes, linked so that taking or returning a node touches no memory but the node.
///
/// ```text
/// closed ──a node comes back──▶ open ──the thread ends──▶ closed for good
/// ```
/// A closed stock has no nodes, and no room for any.
struct Stock {
    first: Cell<Option<Box<Node>>>,
    /// How many more nodes the stock accepts.
    room: Cell<usize>,
    is_open: Cell<bool>,
}

impl Stock {
    const fn closed() -> Self {
        Self { first: Cell::new(None), room: Cell::new(0), is_open: Cell::new(false) }
    }

    #[inline(always)]
    fn take(&self) -> Option<Box<Node>> {
        let mut node = self.first.take()?;
        self.link(node.next.take());
        self.room.set(self.room.get() + 1);
        Some(node)
    }

    #[inline(always)]
    fn give(&self, mut node: Box<Node>) {
        if self.room.get() == 0 && !self.open() {
            return free(node);
        }
        debug_assert!(node.next.is_none(), "only nodes of the stock have a next one");
        forget(replace(&mut node.next, self.first.take()));
        self.link(Some(node));
        self.room.set(self.room.get() - 1);
    }

    /// The caller has already taken the old first node, so there is nothing to drop.
    #[inline(always)]
    fn link(&self, first: Option<Box<Node>>) {
        forget(self.first.replace(first));
    }

    /// Returns whether there is room now. A full stock has none, nor has that of an ending thread.
    #[cold]
    #[inline(never)]
    fn open(&self) -> bool {
        let opens = !self.is_open.get() && CLOSING.try_with(|_| ()).is_ok();
        if opens {
            self.is_open.set(true);
            self.room.set(NODES_MAX);
        }
        opens
    }

    fn close(&self) {
        // One by one, because each node owns the next.
        while self.take().is_some() {}
        self.room.set(0);
    }
}

/// Closes the thread's stock when the thread ends.
struct Closing;

impl Drop for Closing {
    fn drop(&mut self) {
        NODES.with(|stock| stock.close());
    }
}

/// The content of a message. Nodes come from a small stock of the thread and go back to one, so that messages allocate
/// nothing in the steady state.
#[derive(Debug)]
struct Node {
    /// In the stock, a [cleared](Frame::clear) frame.
    first: Frame,
    /// Sum over all bodies; the envelope does not count.
    bytes: usize,
    /// The parts that most messages lack. Once allocated, they stay with the node.
    more: Option<Box<More>>,
    /// The next node in the stock.
    next: Option<Box<Node>>,
}

impl Default for Node {
    fn default() -> Self {
        Self { first: Frame::vacant(), bytes: 0, more: None, next: None }
    }
}

#[derive(Debug, Default)]
struct More {
    rest: Vec<Frame>,
    envelope: Vec<Frame>,
}

impl More {
    fn clear(&mut self) {
        for frames in [&mut self.rest, &mut self.envelope] {
            if !frames.is_empty() {
                frames.clear();
                frames.shrink_to(CHAIN_FRAMES_MAX);
            }
        }
    }
}

impl Node {
    /// The frames behind the first.
    #[inline]
    fn rest(&self) -> &[Frame] {
        self.more.as_ref().map_or(&[], |more| &more.rest)
    }

    fn envelope(&self) -> &[Frame] {
        self.more.as_ref().map_or(&[], |more| &more.envelope)
    }

    fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    #[inline(always)]
    fn from_stock() -> Box<Self> {
        NODES.with(|stock| stock.take()).unwrap_or_else(Self::fresh)
    }

    #[cold]
    #[inline(never)]
    fn fresh() -> Box<Self> {
        Box::default()
    }

    #[inline(always)]
    fn into_stock(mut self: Box<Self>) {
        self.first.clear();
        if let Some(more) = &mut self.more {
            more.clear();
        }
        NODES.with(|stock| stock.give(self));
    }
}

#[cold]
#[inline(never)]
fn free(node: Box<Node>) {
    drop(node);
}

/// One message: a first frame and, for multipart messages, the frames behind it.
///
/// A handle of one word; a clone shares the bodies. `Send` and `Sync`.
///
/// ```
/// use zring::Message;
/// let message = Message::from_frames(["topic", "body"]).unwrap();
/// assert_eq!(message.body(), b"topic");
/// assert_eq!(message.frame(1), Some(&b"body"[..]));
/// assert_eq!(message.frame_count(), 2);
/// ```
#[derive(Debug)]
pub struct Message(Option<Box<Node>>);

impl Message {
    /// An empty single-frame message.
    #[must_use]
    pub fn new() -> Self {
        Self::single(Frame::new())
    }

    /// A single frame of `len` zero bytes, for filling through [`Message::get_mut`].
    #[must_use]
    pub fn with_size(len: usize) -> Self {
        Self::single(Frame::with_size(len))
    }

    /// A single frame whose body is in a file; see [`Frame::from_file`].
    ///
    /// # Errors
    /// As [`Frame::from_file`].
    pub fn from_file(file: impl Into<Arc<File>>, offset: u64, len: u64) -> Result<Self, Error> {
        Frame::from_file(file, offset, len).map(Self::single)
    }

    /// A multipart message, or `None` without any frame.
    pub fn from_frames<F: Into<Frame>>(frames: impl IntoIterator<Item = F>) -> Option<Self> {
        let mut frames = frames.into_iter().map(Into::into);
        let mut node = Node::from_stock();
        node.first = frames.next()?;
        node.bytes = node.first.len();
        if let Some(second) = frames.next() {
            let rest = &mut node.more_mut().rest;
            rest.push(second);
            rest.extend(frames);
            node.bytes += node.rest().iter().map(Frame::len).sum::<usize>();
        }
        Some(Self(Some(node)))
    }

    #[inline]
    pub(crate) fn single(first: Frame) -> Self {
        let mut node = Node::from_stock();
        node.bytes = first.len();
        node.first = first;
        Self(Some(node))
    }

    /// A received single-frame message; the body is a part of a chunk.
    #[inline(always)]
    pub(crate) fn received_in(pool: &Pool, chunk: &Chunk, body: Range<usize>) -> Self {
        let mut node = Node::from_stock();
        node.bytes = body.len();
        node.first.receive_in_place(pool, chunk, body);
        Self(Some(node))
    }

    /// A received single-frame message of `bytes`; `put` turns the empty frame into the body in place.
    #[inline(always)]
    pub(crate) fn received(bytes: usize, put: impl FnOnce(&mut Frame)) -> Self {
        let mut node = Node::from_stock();
        node.bytes = bytes;
        put(&mut node.first);
        Self(Some(node))
    }

    /// As [`Message::received`], for a body whose words have the layout of an inline frame.
    #[inline(always)]
    pub(crate) fn received_words(len: u8, words: &Words) -> Self {
        let mut node = Node::from_stock();
        node.bytes = len.into();
        node.first.set_words(len, words);
        Self(Some(node))
    }

    #[inline]
    fn node(&self) -> &Node {
        self.0.as_ref().expect("only a drop takes the node away")
    }

    fn node_mut(&mut self) -> &mut Node {
        self.0.as_mut().expect("only a drop takes the node away")
    }

    /// Whether the body of any frame is in a file. No received body is.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.frames().any(Frame::is_file)
    }

    /// The message with all bodies in memory; see [`Frame::read`].
    ///
    /// # Errors
    /// As [`Frame::read`].
    pub fn read(&self) -> io::Result<Self> {
        let mut message = self.clone();
        let node = message.node_mut();
        let rest = node.more.iter_mut().flat_map(|more| &mut more.rest);
        for frame in std::iter::once(&mut node.first).chain(rest) {
            if frame.is_file() {
                *frame = frame.read()?;
            }
        }
        Ok(message)
    }

    #[inline]
    pub(crate) fn first(&self) -> &Frame {
        &self.node().first
    }

    /// The first frame's body: the whole message unless it is multipart. Empty when it is in a file.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &[u8] {
        self.node().first.bytes()
    }

    /// The first frame's body for writing; see [`Frame::get_mut`].
    #[must_use]
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        self.node_mut().first.get_mut()
    }

    /// The number of frames: at least one.
    #[must_use]
    #[inline]
    pub fn frame_count(&self) -> usize {
        1 + self.node().rest().len()
    }

    /// The body of frame `index`, counted from 0; empty when it is in a file.
    #[must_use]
    pub fn frame(&self, index: usize) -> Option<&[u8]> {
        self.frames().nth(index).map(Frame::bytes)
    }

    /// All frames in order.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        let node = self.node();
        std::iter::once(&node.first).chain(node.rest())
    }

    /// The message with the frames of `head` in front.
    pub(crate) fn behind(self, head: Vec<Frame>) -> Self {
        Self::from_frames(head.into_iter().chain(self.into_frames())).expect("a message has frames")
    }

    /// All frames in order, by value.
    #[must_use]
    pub fn into_frames(mut self) -> Vec<Frame> {
        let node = self.node_mut();
        let mut frames = Vec::with_capacity(1 + node.rest().len());
        frames.push(std::mem::take(&mut node.first));
        if let Some(more) = &mut node.more {
            frames.append(&mut more.rest);
        }
        node.bytes = 0;
        frames
    }

    /// Copies of all bodies in order. Bodies in files give empty ones; [`Message::read`] reads them first.
    #[must_use]
    pub fn to_vecs(&self) -> Vec<Vec<u8>> {
        self.frames().map(Frame::to_vec).collect()
    }

    /// A copy of the first body.
    pub(crate) fn body_to_vec(&self) -> Vec<u8> {
        self.node().first.to_vec()
    }

    /// The total length of all bodies in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.node().bytes
    }

    /// Whether all bodies are empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(crate) fn is_single(&self) -> bool {
        self.node().rest().is_empty()
    }

    /// Stores REP's return path: the routing frames in front of the delimiter.
    pub(crate) fn add_envelope(&mut self, mut frames: impl Iterator<Item = Frame>) {
        if let Some(first) = frames.next() {
            let envelope = &mut self.node_mut().more_mut().envelope;
            envelope.push(first);
            envelope.extend(frames);
        }
    }

    /// Takes the frames that [`Message::add_envelope`] has stored.
    pub(crate) fn take_envelope(&mut self) -> Vec<Frame> {
        let more = &mut self.node_mut().more;
        more.as_mut().map_or(Vec::new(), |more| std::mem::take(&mut more.envelope))
    }
}

impl Clone for Message {
    fn clone(&self) -> Self {
        let mut node = Node::from_stock();
        let (rest, envelope) = (self.node().rest(), self.node().envelope());
        node.first = self.node().first.clone();
        if !rest.is_empty() || !envelope.is_empty() {
            node.more_mut().rest.extend_from_slice(rest);
            node.more_mut().envelope.extend_from_slice(envelope);
        }
        node.bytes = self.node().bytes;
        Self(Some(node))
    }
}

impl Drop for Message {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(node) = self.0.take() {
            node.into_stock();
        }
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

/// A payload that a socket sends as one message: borrowed bytes, which are copied at most once, or an owned
/// [`Message`], [`Frame`], `Vec` or `String`, whose large bodies are sent by reference.
///
/// Sealed: build a [`Message`] from any other type.
pub trait Sendable: sealed::Sealed + Sized {
    /// Whether the bytes belong to the caller: bytes that cannot be sent at once are then copied.
    #[doc(hidden)]
    const IS_BORROWED: bool;

    /// The body, when the payload is a single frame that may be copied from.
    #[doc(hidden)]
    fn single_body(&self) -> Option<&[u8]>;

    /// Whether a part of the payload is in a file.
    #[doc(hidden)]
    fn has_files(&self) -> bool {
        false
    }

    /// The payload's frames; those in files stay there.
    #[doc(hidden)]
    fn to_frames(&self) -> Vec<Frame> {
        self.single_body().map(Frame::copy_from).into_iter().collect()
    }

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
sendable!(false: String, Vec<u8>);

impl sealed::Sealed for Frame {}

impl Sendable for Frame {
    const IS_BORROWED: bool = false;
    #[inline]
    fn single_body(&self) -> Option<&[u8]> {
        (!self.is_file()).then(|| self.bytes())
    }

    fn has_files(&self) -> bool {
        self.is_file()
    }

    fn to_frames(&self) -> Vec<Frame> {
        vec![self.clone()]
    }

    fn into_message(self) -> Message {
        Message::single(self)
    }
}

impl sealed::Sealed for Message {}

impl Sendable for Message {
    const IS_BORROWED: bool = false;
    #[inline]
    fn single_body(&self) -> Option<&[u8]> {
        (self.is_single() && !self.first().is_file()).then(|| self.body())
    }

    fn has_files(&self) -> bool {
        Message::has_files(self)
    }

    fn to_frames(&self) -> Vec<Frame> {
        self.frames().cloned().collect()
    }

    fn into_message(self) -> Message {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_used_again() {
        let message = Message::from_frames(["a", "b", "c"]).unwrap();
        let copy = message.clone();
        assert_eq!(message, copy);
        assert_eq!(copy.to_vecs(), [b"a", b"b", b"c"]);
        drop(message);
        let stock = || NODES.with(|stock| NODES_MAX - stock.room.get());
        assert_eq!(stock(), 1);
        let again = Message::from("x");
        assert_eq!((stock(), again.frame_count()), (0, 1));
        assert_eq!(copy.into_frames().len(), 3);
    }

    #[test]
    fn a_stock_is_bounded_and_ends_with_its_thread() {
        thread_local! {
            static LAST: Cell<Vec<Message>> = const { Cell::new(Vec::new()) };
        }
        let stock = || NODES.with(|stock| (NODES_MAX - stock.room.get(), stock.is_open.get()));
        // The thread's other locals are dropped before its stock, or after it.
        for is_kept_first in [true, false] {
            let messages: Vec<_> = (0..2 * NODES_MAX).map(|_| Message::from("x")).collect();
            let other = std::thread::spawn(move || {
                assert_eq!(stock(), (NODES_MAX, false), "closed");
                let keep = || LAST.set(vec![Message::from("y"), Message::from(vec![0; 200])]);
                if is_kept_first {
                    keep();
                }
                drop(messages);
                assert_eq!(stock(), (NODES_MAX, true));
                keep();
                assert_eq!(stock().0, NODES_MAX - if is_kept_first { 0 } else { 2 });
                NODES.with(|stock| stock.close());
                assert!(NODES.with(|stock| stock.first.take().is_none()));
            });
            other.join().unwrap();
        }
    }

    #[test]
    fn no_frames_are_no_message() {
        assert!(Message::from_frames(std::iter::empty::<Frame>()).is_none());
        assert!(Message::from_frames(["x"]).unwrap().is_single());
    }
}
