//! The contents of one send operation for the kernel: a list of segments, copied and referenced.

use std::collections::VecDeque;

use super::{block::Shared, file::FileRegion, lease::Lease};

/// Most bytes of a [`Segment::Head`].
pub const HEAD_BYTES_MAX: usize = 10;

/// A piece of an outgoing byte stream.
#[derive(Debug)]
pub enum Segment {
    /// Encoded bytes in a block of the send arena.
    Arena(Vec<u8>),
    /// A few bytes in place: the header in front of a referenced body.
    Head {
        /// The bytes; the first `len` are valid.
        bytes: [u8; HEAD_BYTES_MAX],
        /// How many are valid.
        len: u8,
    },
    /// A body in shared heap memory.
    Shared(Shared),
    /// A body that still lies in a receive pool.
    Lease(Lease),
    /// A static body.
    Static(&'static [u8]),
    /// A body in a file, sent from the page cache.
    File(FileRegion),
}

impl Segment {
    /// The segment's bytes, none for a file's. Their address is stable while the segment itself stays in place.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Arena(bytes) => bytes,
            Self::Head { bytes, len } => &bytes[..usize::from(*len)],
            Self::Shared(shared) => shared,
            Self::Lease(lease) => lease,
            Self::Static(bytes) => bytes,
            Self::File(_) => &[],
        }
    }

    /// The number of bytes that the segment adds to the stream, wherever they lie.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::File(region) => region.len(),
            _ => self.bytes().len(),
        }
    }

    /// Whether the segment has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Outgoing segments in order, and the sum of their bytes.
#[derive(Debug, Default)]
pub struct Gather {
    segments: VecDeque<Segment>,
    bytes: usize,
    /// How many of the segments are files.
    files: usize,
}

impl Gather {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a segment; an empty one is dropped.
    pub fn push(&mut self, segment: Segment) {
        let len = segment.len();
        if len > 0 {
            self.bytes += len;
            self.files += usize::from(matches!(segment, Segment::File(_)));
            self.segments.push_back(segment);
        }
    }

    /// A second list of the same bytes in the same memory: only the few bytes of heads are copied. Arena blocks become
    /// shared ones in both lists, so that neither list recycles a block that the other still uses. `spare` is an empty
    /// list whose capacity the result uses.
    #[must_use]
    pub fn twin(&mut self, mut spare: Self) -> Self {
        debug_assert!(spare.is_empty());
        let share = |segment: &mut Segment| match segment {
            Segment::Arena(block) => {
                let shared = Shared::from_vec(std::mem::take(block));
                *segment = Segment::Shared(shared.clone());
                Segment::Shared(shared)
            }
            Segment::Head { bytes, len } => Segment::Head { bytes: *bytes, len: *len },
            Segment::Shared(shared) => Segment::Shared(shared.clone()),
            Segment::Lease(lease) => Segment::Lease(lease.clone()),
            Segment::Static(bytes) => Segment::Static(bytes),
            Segment::File(region) => Segment::File(region.clone()),
        };
        spare.files = self.files;
        spare.segments.extend(self.segments.iter_mut().map(share));
        spare.bytes = self.bytes;
        spare
    }

    /// Takes the first segment away.
    pub fn pop(&mut self) -> Option<Segment> {
        let segment = self.segments.pop_front()?;
        self.bytes -= segment.len();
        self.files -= usize::from(matches!(segment, Segment::File(_)));
        Some(segment)
    }

    /// The segments in order.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &Segment> {
        self.segments.iter()
    }

    /// How many bytes all segments hold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether some of the bytes lie in files.
    #[must_use]
    #[inline]
    pub fn has_files(&self) -> bool {
        self.files > 0
    }

    /// The file region that byte `at` of the list lies in, if any, and the offset inside that region.
    #[must_use]
    pub fn file_at(&self, mut at: usize) -> Option<(&FileRegion, usize)> {
        for segment in &self.segments {
            match segment {
                Segment::File(region) if at < region.len() => return Some((region, at)),
                _ if at < segment.len() => return None,
                _ => at -= segment.len(),
            }
        }
        None
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}

/// Blocks of the send arena, recycled when the kernel is done with them.
#[derive(Debug)]
pub struct ArenaPool {
    free: Vec<Vec<u8>>,
    block_bytes: usize,
    blocks_max: usize,
    lists: Vec<Gather>,
}

impl ArenaPool {
    /// Blocks of `block_bytes`, of which up to `blocks_max` are kept for reuse.
    #[must_use]
    pub fn new(block_bytes: usize, blocks_max: usize) -> Self {
        Self { free: Vec::new(), block_bytes, blocks_max, lists: Vec::new() }
    }

    /// How many bytes fit into a block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// An empty block.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| Vec::with_capacity(self.block_bytes))
    }

    /// An empty list that keeps the capacity of an earlier one.
    #[must_use]
    pub fn take_list(&mut self) -> Gather {
        self.lists.pop().unwrap_or_default()
    }

    /// Gives a block back.
    pub fn give(&mut self, mut block: Vec<u8>) {
        if self.free.len() < self.blocks_max && block.capacity() == self.block_bytes {
            block.clear();
            self.free.push(block);
        }
    }

    /// Gives back all blocks of a finished send, and its list.
    pub fn recycle(&mut self, mut gather: Gather) {
        while let Some(segment) = gather.pop() {
            if let Segment::Arena(block) = segment {
                self.give(block);
            }
        }
        if self.lists.len() < self.blocks_max {
            self.lists.push(gather);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_counts_its_bytes_and_skips_empty_segments() {
        let mut list = Gather::new();
        list.push(Segment::Arena(vec![1, 2]));
        list.push(Segment::Static(b""));
        list.push(Segment::Head { bytes: [9; HEAD_BYTES_MAX], len: 3 });
        list.push(Segment::Shared(Shared::copy_from(b"body")));
        assert_eq!((list.bytes(), list.segments().len()), (9, 3));
        let all: Vec<u8> = list.segments().flat_map(|part| part.bytes().to_vec()).collect();
        assert_eq!(all, b"\x01\x02\x09\x09\x09body");
        assert!(list.pop().is_some());
        assert_eq!(list.bytes(), 7);
    }

    #[test]
    fn a_twin_is_the_same_memory() {
        let mut list = Gather::new();
        list.push(Segment::Arena(vec![1; 100]));
        list.push(Segment::Head { bytes: [9; HEAD_BYTES_MAX], len: 3 });
        list.push(Segment::Shared(Shared::copy_from(b"body")));
        list.push(Segment::Static(b"rest"));
        let parts = |list: &Gather| -> Vec<(*const u8, Vec<u8>)> {
            list.segments().map(|part| (part.bytes().as_ptr(), part.bytes().to_vec())).collect()
        };
        let before = parts(&list);
        let twin = list.twin(Gather::new());
        assert_eq!(parts(&list), before, "nothing moves that the kernel may be reading");
        assert_eq!(twin.bytes(), list.bytes());
        for (at, (one, other)) in before.iter().zip(parts(&twin)).enumerate() {
            assert_eq!(one.1, other.1);
            assert_eq!(one.0 == other.0, at != 1, "all but the head");
        }
        drop(list);
        assert_eq!(parts(&twin)[0].1, [1; 100]);
    }

    #[test]
    fn arena_blocks_are_used_again() {
        let mut arena = ArenaPool::new(1024, 1);
        let mut block = arena.take();
        block.extend_from_slice(b"abc");
        let address = block.as_ptr();
        let mut list = arena.take_list();
        list.push(Segment::Arena(block));
        list.push(Segment::Arena(vec![0; 10]));
        arena.recycle(list);
        let again = arena.take();
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
        assert_eq!(arena.take().len(), 0);
    }
}
