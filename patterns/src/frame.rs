//! One frame: a body in any kind of memory.

use std::{
    fmt,
    fs::File,
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use zring_engine::{
    Chunk, FileFault, FileRegion, Lease, Pool, Shared,
    copies::{Site, note},
    queue::parcel::SHORT_BYTES_MAX,
};

use crate::error::Error;

/// Longest body that is stored inside the frame, unless it is leased.
pub const INLINE_BYTES_MAX: usize = SHORT_BYTES_MAX;
/// Longest received body that is copied out of the pool: copying is cheaper than counting a lease.
const COPIED_BYTES_MAX: usize = 40;

/// One part of a [`Message`](crate::Message): an immutable body in memory of its own kind.
///
/// A frame takes at most 88 bytes. A body lies in the frame (up to [`INLINE_BYTES_MAX`] bytes), in the receive ring
/// (leased), in shared heap memory, in static memory, or in a file ([`Frame::from_file`]). A clone copies inline bodies
/// and shares the others. `Send` and `Sync`: a leased body may be dropped on any thread, also after its socket and
/// context are gone.
///
/// Two frames are equal when their bodies are. A frame in a file equals only the same part of the same open file,
/// because comparing never reads files.
#[derive(Clone)]
pub struct Frame(pub(crate) Body);

pub(crate) enum Body {
    /// Stored as words: a moved frame is copied in aligned steps, so its next reader can take the bytes straight from
    /// the store buffer.
    Inline {
        len: u8,
        words: Words,
    },
    Lease(Lease),
    Shared(Shared),
    Static(&'static [u8]),
    File(FileRegion),
}

impl Clone for Body {
    #[inline]
    fn clone(&self) -> Self {
        match self {
            Self::Inline { len, words } => {
                note(Site::Clone, usize::from(*len));
                Self::Inline { len: *len, words: *words }
            }
            Self::Lease(lease) => Self::Lease(lease.clone()),
            Self::Shared(shared) => Self::Shared(shared.clone()),
            Self::Static(bytes) => Self::Static(bytes),
            Self::File(region) => Self::File(region.clone()),
        }
    }
}

pub(crate) type Words = [u64; INLINE_BYTES_MAX / 8];

#[inline]
pub(crate) fn inline_bytes(words: &Words, len: u8) -> &[u8] {
    &bytemuck::bytes_of(words)[..usize::from(len)]
}

#[inline]
fn inline_bytes_mut(words: &mut Words, len: u8) -> &mut [u8] {
    &mut bytemuck::bytes_of_mut(words)[..usize::from(len)]
}

const _: () = assert!(size_of::<Frame>() <= 88);

impl Frame {
    /// An empty frame.
    #[must_use]
    pub fn new() -> Self {
        Self(Body::Static(&[]))
    }

    /// A static body: never copied, never counted.
    #[must_use]
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self(Body::Static(bytes))
    }

    /// A body in a file: `len` bytes from `offset` on. Over TCP and Unix-domain sockets the kernel sends them from the
    /// page cache; nothing is read into this process, so a body may be larger than its memory. Bytes that are not in
    /// the page cache are read on a separate thread, while the socket continues with its other connections. For a peer
    /// within the process, `send` reads the body into memory.
    ///
    /// The file stays open until the last clone of the frame is gone, sent ones included. It must not be changed before
    /// the peer has received the message; otherwise the bytes that the peer gets are undefined. If the file gets
    /// shorter, or cannot be read any more, the message is dropped and counted, and its connection ends with
    /// [`DisconnectReason::File`](crate::DisconnectReason::File), because half of the frame may have been sent.
    ///
    /// Outside of Linux the file is read in pieces of 64 KiB. On Windows the file's cursor moves, so another reader
    /// needs a handle of its own.
    ///
    /// The body is not in memory: [`Frame::bytes`] is empty, [`Frame::len`] is its length, [`Frame::read`] reads it. A
    /// region of no bytes is an ordinary empty frame.
    ///
    /// ```
    /// use std::{fs::File, io::Write};
    /// use zring::{Frame, SocketType, inline::Context};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// File::create(&path)?.write_all(b"header 12345")?;
    /// let context = Context::new()?;
    /// let push = context.socket(SocketType::Push)?;
    /// push.bind("tcp://127.0.0.1:0")?;
    /// let pull = context.socket(SocketType::Pull)?;
    /// pull.connect(&push.last_endpoint().unwrap())?;
    ///
    /// let part = Frame::from_file(File::open(&path)?, 7, 5)?;
    /// assert_eq!((part.len(), part.bytes()), (5, &b""[..]));
    /// push.send_multipart([Frame::from("table"), part])?;
    /// assert_eq!(pull.recv()?.to_vecs(), [b"table", b"12345"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::File`] when the file is not a regular one, not open for reading, open for direct I/O, or ends before
    /// `offset + len`.
    pub fn from_file(file: impl Into<Arc<File>>, offset: u64, len: u64) -> Result<Self, Error> {
        let region = FileRegion::new(file, offset, len)?;
        Ok(if region.is_empty() { Self::new() } else { Self(Body::File(region)) })
    }

    /// A body of `len` zero bytes, for filling through [`Frame::get_mut`].
    #[must_use]
    pub fn with_size(len: usize) -> Self {
        if len <= INLINE_BYTES_MAX {
            Self(Body::Inline { words: Words::default(), len: len as u8 })
        } else {
            Self(Body::Shared(Shared::zeroed(len)))
        }
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self::copy_at(Site::Frame, bytes)
    }

    /// As [`Frame::copy_from`], and counts the copy at `site`.
    #[inline]
    pub(crate) fn copy_at(site: Site, bytes: &[u8]) -> Self {
        match Self::inline(site, bytes) {
            Some(frame) => frame,
            None => Self(Body::Shared(Shared::copy_at(site, bytes))),
        }
    }

    #[inline]
    fn inline(site: Site, bytes: &[u8]) -> Option<Self> {
        if bytes.len() > INLINE_BYTES_MAX {
            return None;
        }
        note(site, bytes.len());
        let (mut words, len) = (Words::default(), bytes.len() as u8);
        inline_bytes_mut(&mut words, len).copy_from_slice(bytes);
        Some(Self(Body::Inline { len, words }))
    }

    /// Makes this [cleared](Frame::clear) frame a received body: copied if tiny or if the pool is low, leased
    /// otherwise. The body is written in place. A frame built elsewhere would be moved in words of another size than it
    /// was written in, and that stall costs more than all the rest of receiving a message.
    #[inline(always)]
    pub(crate) fn receive_in_place(
        &mut self,
        pool: &Pool,
        chunk: &Chunk,
        range: std::ops::Range<usize>,
    ) {
        if range.len() > COPIED_BYTES_MAX
            && let Some(lease) = pool.lease(chunk, range.clone())
        {
            return self.become_lease(lease);
        }
        let bytes = pool.bytes(chunk);
        match (&mut self.0, bytes[range.start..].first_chunk()) {
            (Body::Inline { len, words }, Some(tiny)) if range.len() <= COPIED_BYTES_MAX => {
                // Copy a fixed number of bytes: bytes behind the body do not matter, and no call is needed.
                let tiny: &[u8; COPIED_BYTES_MAX] = tiny;
                note(Site::Pool, range.len());
                *len = range.len() as u8;
                bytemuck::bytes_of_mut(words)[..COPIED_BYTES_MAX].copy_from_slice(tiny);
            }
            _ => self.copy_in_place(Site::Pool, &bytes[range]),
        }
    }

    #[inline(always)]
    fn become_lease(&mut self, lease: Lease) {
        // A cleared frame has nothing to drop.
        debug_assert!(self.is_empty(), "not cleared");
        match &mut self.0 {
            Body::Lease(released) => std::mem::forget(std::mem::replace(released, lease)),
            body => std::mem::forget(std::mem::replace(body, Body::Lease(lease))),
        }
    }

    #[inline(never)]
    pub(crate) fn copy_in_place(&mut self, site: Site, bytes: &[u8]) {
        match &mut self.0 {
            Body::Inline { len, words } if bytes.len() <= INLINE_BYTES_MAX => {
                note(site, bytes.len());
                *len = bytes.len() as u8;
                inline_bytes_mut(words, *len).copy_from_slice(bytes);
            }
            _ => *self = Self::copy_at(site, bytes),
        }
    }

    /// A frame of a body that is already in words.
    #[inline]
    pub(crate) fn from_words(len: u8, words: &Words) -> Self {
        note(Site::Parcel, usize::from(len));
        Self(Body::Inline { len, words: *words })
    }

    /// Sets this inline frame to the result of [`Frame::from_words`], without a move.
    #[inline(always)]
    pub(crate) fn set_words(&mut self, len: u8, words: &Words) {
        match &mut self.0 {
            Body::Inline { len: old_len, words: old_words } => {
                note(Site::Parcel, usize::from(len));
                *old_len = len;
                *old_words = *words;
            }
            _ => *self = Self::from_words(len, words),
        }
    }

    /// Drops the body and leaves an empty one. An inline or leased body stays of its kind, so that the next body of
    /// that kind is written in place; any other becomes the kind that takes the fewest words to write.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        match &mut self.0 {
            Body::Inline { len, .. } => *len = 0,
            Body::Lease(lease) => lease.release(),
            _ => self.clear_outer(),
        }
    }

    #[inline(never)]
    fn clear_outer(&mut self) {
        self.0 = Body::Static(&[]);
    }

    /// An empty inline frame.
    pub(crate) fn vacant() -> Self {
        Self(Body::Inline { len: 0, words: Words::default() })
    }

    /// The body; empty when it is in a file ([`Frame::is_file`]).
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Body::Lease(lease) => lease,
            Body::Inline { len, words } => inline_bytes(words, *len),
            Body::Shared(_) | Body::Static(_) | Body::File(_) => self.outer_bytes(),
        }
    }

    /// The kinds that are rare among many small messages, kept out of line.
    #[inline(never)]
    fn outer_bytes(&self) -> &[u8] {
        match &self.0 {
            Body::Shared(shared) => shared,
            Body::Static(bytes) => bytes,
            Body::File(_) => &[],
            Body::Lease(_) | Body::Inline { .. } => unreachable!("told apart by the caller"),
        }
    }

    /// The body for writing, if it is heap or inline memory without another owner. A frame made by [`Frame::with_size`]
    /// or from a `Vec` qualifies until it is cloned, and again once the clones, sent ones included, are gone.
    #[must_use]
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.0 {
            Body::Inline { len, words } => Some(inline_bytes_mut(words, *len)),
            Body::Shared(shared) => shared.try_mut(),
            Body::Lease(_) | Body::Static(_) | Body::File(_) => None,
        }
    }

    /// A part of the body as a frame of its own. Leased, shared and static memory and files are shared; an inline body
    /// is copied.
    ///
    /// However short, a part of a leased body keeps the whole receive buffer from being reused.
    ///
    /// ```
    /// let frame = zring::Frame::from("topic/body");
    /// assert_eq!(frame.slice(6..).bytes(), b"body");
    /// ```
    ///
    /// # Panics
    /// If `range` does not lie inside the body.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len(),
        };
        let range = start..end;
        Self(match &self.0 {
            Body::Inline { .. } => return Self::copy_from(&self.bytes()[range]),
            Body::File(region) => Body::File(region.slice(range)),
            Body::Lease(lease) => Body::Lease(lease.slice(range)),
            Body::Shared(shared) => Body::Shared(shared.slice(range)),
            Body::Static(bytes) => Body::Static(&bytes[range]),
        })
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        note(Site::Taken, self.len());
        self.bytes().to_vec()
    }

    /// Length of the body in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Body::File(region) => region.len(),
            _ => self.bytes().len(),
        }
    }

    /// Whether the body is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the body still lies in the receive ring.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        matches!(self.0, Body::Lease(_))
    }

    /// Whether the body is in a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self.0, Body::File(_))
    }

    /// The frame with its body in memory. A body in a file is read, which waits for the disk and takes as much memory
    /// as the body has bytes; any other frame is cloned.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file has become shorter, or the error of the read.
    pub fn read(&self) -> io::Result<Self> {
        self.load(usize::MAX)
    }

    /// As [`Frame::read`], but reads at most the first `bytes_max` of a file.
    pub(crate) fn load(&self, bytes_max: usize) -> io::Result<Self> {
        let Body::File(region) = &self.0 else { return Ok(self.clone()) };
        let len = region.len().min(bytes_max);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        bytes.resize(len, 0);
        region.read_at(0, &mut bytes).map_err(|fault| match fault {
            FileFault::Unreadable { errno, .. } => io::Error::from_raw_os_error(errno),
            fault => io::Error::new(io::ErrorKind::UnexpectedEof, fault),
        })?;
        Ok(Self::from(bytes))
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

impl AsRef<[u8]> for Frame {
    /// As [`Frame::bytes`].
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Body::File(one), Body::File(other)) => one.is_same(other),
            (Body::File(_), _) | (_, Body::File(_)) => false,
            _ => self.bytes() == other.bytes(),
        }
    }
}

impl Eq for Frame {}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Body::Inline { .. } => "inline",
            Body::Lease(_) => "lease",
            Body::Shared(_) => "shared",
            Body::Static(_) => "static",
            Body::File(_) => "file",
        };
        f.debug_struct("Frame").field("kind", &kind).field("len", &self.len()).finish()
    }
}

impl From<&[u8]> for Frame {
    fn from(bytes: &[u8]) -> Self {
        Self::copy_from(bytes)
    }
}

impl<const N: usize> From<&[u8; N]> for Frame {
    fn from(bytes: &[u8; N]) -> Self {
        Self::copy_from(bytes)
    }
}

impl From<&str> for Frame {
    fn from(text: &str) -> Self {
        Self::copy_from(text.as_bytes())
    }
}

impl From<&String> for Frame {
    fn from(text: &String) -> Self {
        Self::copy_from(text.as_bytes())
    }
}

impl From<&Vec<u8>> for Frame {
    fn from(bytes: &Vec<u8>) -> Self {
        Self::copy_from(bytes)
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Self::from(text.into_bytes())
    }
}

impl From<Vec<u8>> for Frame {
    /// Takes over the memory; short bodies are copied into the frame instead.
    fn from(bytes: Vec<u8>) -> Self {
        match Self::inline(Site::Frame, &bytes) {
            Some(frame) => frame,
            None => Self(Body::Shared(Shared::from_vec(bytes))),
        }
    }
}

/// The caller's memory for one received frame; see [`Socket::recv_into_vectored`].
///
/// [`Socket::recv_into_vectored`]: crate::Socket::recv_into_vectored
#[derive(Debug)]
pub struct FrameBuf<'a> {
    buffer: &'a mut [u8],
    filled: usize,
    len: usize,
}

impl<'a> FrameBuf<'a> {
    /// Memory for a frame of up to `buffer.len()` bytes.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, filled: 0, len: 0 }
    }

    /// The received bytes: the frame's body, or its beginning if the buffer is too short.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// The full length of the frame's body in bytes; 0 before a frame was received.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the frame's body is empty, or no frame was received.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the body was longer than the buffer. The rest is lost.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.filled < self.len
    }

    pub(crate) fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Takes a whole body, or as much of it as fits.
    pub(crate) fn take(&mut self, body: &[u8]) {
        self.filled = body.len().min(self.buffer.len());
        self.len = body.len();
        note(Site::Into, self.filled);
        self.buffer[..self.filled].copy_from_slice(&body[..self.filled]);
    }

    /// Begins with a part of a body of `len` bytes, all of which fit.
    pub(crate) fn begin(&mut self, part: &[u8], len: usize) {
        self.take(part);
        self.len = len;
    }

    /// The memory for the next bytes of the body.
    pub(crate) fn rest_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..self.len]
    }

    /// `bytes` more bytes have arrived.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.filled += bytes;
    }

    /// The state of a frame that is being received, for [`FrameBuf::resume`].
    pub(crate) fn progress(&self) -> (usize, usize) {
        (self.filled, self.len)
    }

    pub(crate) fn resume(buffer: &'a mut [u8], (filled, len): (usize, usize)) -> Self {
        Self { buffer, filled, len }
    }

    pub(crate) fn clear(&mut self) {
        (self.filled, self.len) = (0, 0);
    }
}

#[cfg(test)]
mod tests;
