//! Heap memory for bodies that are too large to copy around: filled once, then shared.

use std::{cell::RefCell, fmt, ops::Deref, ptr::NonNull};

use crate::{
    copies::{Site, note},
    sync::{Arc, Mutex, OnceLock},
};

/// The smallest class a recycled block belongs to, as a power of two.
const CLASS_MIN: u32 = 8;
/// The largest class that is kept for reuse; larger blocks are freed.
const CLASS_MAX: u32 = 26;
/// Most bytes of blocks that the process keeps for reuse.
const CACHE_BYTES_MAX: usize = 64 << 20;
/// Most blocks of one class that are kept.
const CLASS_BLOCKS_MAX: usize = 256;
/// First reservation for a body whose announced length is not yet backed by arrived bytes.
const UNPROVEN_BYTES_MAX: usize = 4 << 20;

/// The memory behind a [`Shared`]: `bytes[..]` is initialised, its spare capacity is not.
struct Block {
    bytes: Vec<u8>,
}

/// Blocks waiting to be used again, by size class.
///
/// One per process: large messages cross threads, and one uncontended lock per large body is far
/// below the cost of faulting its pages in again.
struct Cache {
    classes: [Vec<Arc<Block>>; (CLASS_MAX - CLASS_MIN + 1) as usize],
    bytes: usize,
}

fn cache() -> &'static Mutex<Cache> {
    static CACHE: OnceLock<Mutex<Cache>> = OnceLock::new();
    CACHE.get_or_init(|| Mutex::new(Cache { classes: Default::default(), bytes: 0 }))
}

/// The class whose blocks hold at least `bytes`.
fn class_for(bytes: usize) -> u32 {
    bytes.max(1).next_power_of_two().trailing_zeros().max(CLASS_MIN)
}

impl Cache {
    fn take(&mut self, class: u32) -> Option<Arc<Block>> {
        let block = self.classes.get_mut((class - CLASS_MIN) as usize)?.pop()?;
        self.bytes -= block.bytes.capacity();
        Some(block)
    }

    /// Keeps the block, unless a bound is reached: then returns the block, to be freed outside the lock.
    fn keep(&mut self, block: Arc<Block>) -> Option<Arc<Block>> {
        let capacity = block.bytes.capacity();
        let fits = capacity.is_power_of_two()
            && (CLASS_MIN..=CLASS_MAX).contains(&capacity.trailing_zeros())
            && self.bytes + capacity <= CACHE_BYTES_MAX;
        if !fits {
            return Some(block);
        }
        let class = &mut self.classes[(capacity.trailing_zeros() - CLASS_MIN) as usize];
        if class.len() >= CLASS_BLOCKS_MAX {
            return Some(block);
        }
        self.bytes += capacity;
        class.push(block);
        None
    }
}

fn lock() -> std::sync::MutexGuard<'static, Cache> {
    cache().lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Most blocks of the smallest class that a thread keeps for itself, without a lock.
const LOCAL_BLOCKS_MAX: usize = 64;

thread_local! {
    static LOCAL: RefCell<Vec<Arc<Block>>> = const { RefCell::new(Vec::new()) };
}

fn take_local() -> Option<Arc<Block>> {
    // While the thread ends, its stock may already be destroyed.
    LOCAL.try_with(|blocks| blocks.borrow_mut().pop()).ok().flatten()
}

/// Keeps one of the smallest blocks on this thread, unless it has enough of them.
fn keep_local(block: Arc<Block>) -> Option<Arc<Block>> {
    let mut block = Some(block);
    let _ = LOCAL.try_with(|blocks| {
        let mut blocks = blocks.borrow_mut();
        if blocks.len() < LOCAL_BLOCKS_MAX {
            blocks.extend(block.take());
        }
    });
    block
}

fn take_block(bytes: usize) -> Arc<Block> {
    let class = class_for(bytes);
    if class == CLASS_MIN
        && let Some(block) = take_local()
    {
        return block;
    }
    if class <= CLASS_MAX {
        if let Some(block) = lock().take(class) {
            return block;
        }
        return Arc::new(Block { bytes: Vec::with_capacity(1 << class) });
    }
    Arc::new(Block { bytes: Vec::with_capacity(bytes) })
}

/// A cached block with room for `bytes`, if that is more than the first reservation.
fn take_cached(bytes: usize) -> Option<Arc<Block>> {
    let class = class_for(bytes.min(1 << CLASS_MAX));
    let is_large = bytes > UNPROVEN_BYTES_MAX && bytes <= 1 << CLASS_MAX;
    if is_large { lock().take(class) } else { None }
}

/// A block being filled: unique, growing, soon to be a [`Shared`].
///
/// Memory grows with the bytes that arrive: an announced length beyond 4 MiB is reserved step by step.
pub struct SharedMut {
    block: Option<Arc<Block>>,
}

impl SharedMut {
    /// An empty block that will hold `bytes_expected` in the end.
    #[must_use]
    pub fn with_expected(bytes_expected: usize) -> Self {
        // A cached block costs nothing, however much of the length is only announced.
        let cached = take_cached(bytes_expected);
        let mut block =
            cached.unwrap_or_else(|| take_block(bytes_expected.min(UNPROVEN_BYTES_MAX)));
        Arc::get_mut(&mut block).expect("a block from the cache is unique").bytes.clear();
        Self { block: Some(block) }
    }

    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        let block = self.block.as_mut().expect("present until frozen");
        &mut Arc::get_mut(block).expect("unique until frozen").bytes
    }

    /// The block will hold `bytes_expected` in the end. If its capacity is too small, moves the bytes so far to a block
    /// with the capacity that [`SharedMut::with_expected`] would have reserved.
    pub fn expect(&mut self, bytes_expected: usize) {
        let capacity = self.block.as_ref().map_or(0, |block| block.bytes.capacity());
        if capacity >= bytes_expected.min(UNPROVEN_BYTES_MAX) {
            return;
        }
        let mut other = Self::with_expected(bytes_expected);
        other.extend_at(Site::Growth, self.bytes());
        *self = other;
    }

    /// The number of bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.block.as_ref().map_or(0, |block| block.bytes.len())
    }

    /// Whether the block is still empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], |block| &block.bytes)
    }

    /// Appends a copy of `bytes`.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.extend_at(Site::Block, bytes);
    }

    /// As [`SharedMut::extend_from_slice`], and counts the copy at `site`.
    pub fn extend_at(&mut self, site: Site, bytes: &[u8]) {
        note(site, bytes.len());
        let vec = self.bytes_mut();
        if vec.capacity() - vec.len() < bytes.len() {
            note(Site::Growth, vec.len());
        }
        vec.extend_from_slice(bytes);
    }

    /// Room for up to `rest` more bytes; the block grows if its reservation is full. The pointer stays valid until the
    /// block grows, is frozen or dropped.
    pub(crate) fn spare(&mut self, rest: usize) -> (NonNull<u8>, usize) {
        let bytes = self.bytes_mut();
        if bytes.len() == bytes.capacity() {
            // Doubling keeps the reservation within twice the bytes that really arrived.
            let grow = rest.min(bytes.len().max(UNPROVEN_BYTES_MAX));
            let target = bytes.len() + grow;
            let target =
                if class_for(target) <= CLASS_MAX { 1usize << class_for(target) } else { target };
            note(Site::Growth, bytes.len());
            bytes.reserve_exact(target - bytes.len());
        }
        let spare = bytes.spare_capacity_mut();
        let len = spare.len().min(rest);
        (NonNull::from(spare).cast(), len)
    }

    /// The kernel has written `bytes` into the room from [`SharedMut::spare`].
    ///
    /// # Safety
    /// The first `bytes` of the spare capacity are initialised.
    pub(crate) unsafe fn advance(&mut self, bytes: usize) {
        let vec = self.bytes_mut();
        let len = vec.len() + bytes;
        assert!(len <= vec.capacity(), "filled beyond the block");
        // SAFETY: within capacity, and initialised by the caller's promise.
        unsafe { vec.set_len(len) };
    }

    /// Ends the filling: from here on the bytes are shared.
    #[must_use]
    pub fn freeze(mut self) -> Shared {
        let block = self.block.take();
        let len = block.as_ref().map_or(0, |block| block.bytes.len());
        Shared { block, start: 0, len }
    }
}

impl Drop for SharedMut {
    fn drop(&mut self) {
        give_back(self.block.take());
    }
}

impl fmt::Debug for SharedMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMut").field("len", &self.len()).finish_non_exhaustive()
    }
}

fn give_back(block: Option<Arc<Block>>) {
    let Some(mut block) = block else { return };
    // When two threads drop the last two handles at once, each may still see the other's handle. The block is then
    // freed instead of kept, which costs a later allocation and nothing else.
    if Arc::get_mut(&mut block).is_some() {
        if block.bytes.capacity() == 1 << CLASS_MIN {
            let Some(rest) = keep_local(block) else { return };
            block = rest;
        }
        let freed = lock().keep(block);
        drop(freed);
    }
}

/// Shared, immutable heap bytes; a clone is one atomic addition. The memory is kept for reuse when
/// the last handle goes.
#[derive(Clone)]
pub struct Shared {
    block: Option<Arc<Block>>,
    start: usize,
    len: usize,
}

impl Shared {
    /// A copy of `bytes` in a block of its own.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self::copy_at(Site::Block, bytes)
    }

    /// As [`Shared::copy_from`], and counts the copy at `site`.
    #[must_use]
    pub fn copy_at(site: Site, bytes: &[u8]) -> Self {
        let mut block = SharedMut { block: Some(take_block(bytes.len())) };
        block.bytes_mut().clear();
        block.extend_at(site, bytes);
        block.freeze()
    }

    /// `len` zero bytes in a block of its own.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut block = SharedMut { block: Some(take_block(len)) };
        block.bytes_mut().clear();
        block.bytes_mut().resize(len, 0);
        block.freeze()
    }

    /// Takes over the memory of `bytes`.
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { block: Some(Arc::new(Block { bytes })), start: 0, len }
    }

    /// The bytes for writing, if this is the only handle.
    #[must_use]
    pub fn try_mut(&mut self) -> Option<&mut [u8]> {
        let (start, len) = (self.start, self.len);
        let block = Arc::get_mut(self.block.as_mut()?)?;
        Some(&mut block.bytes[start..start + len])
    }

    /// A part of these bytes, sharing the same block.
    ///
    /// # Panics
    /// If `range` does not lie inside.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "slice out of bounds");
        Self { block: self.block.clone(), start: self.start + range.start, len: range.len() }
    }
}

impl Deref for Shared {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.block {
            Some(block) => &block.bytes[self.start..self.start + self.len],
            None => &[],
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        give_back(self.block.take());
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_to_the_next_of_its_class() {
        let size = 300 << 10;
        let first = Shared::copy_from(&vec![7; size]);
        let address = first.as_ptr();
        drop(first);
        let second = Shared::zeroed(size);
        // Another test may have taken the block in between; the contents are right in any case.
        let _ = address;
        assert!(second.iter().all(|&byte| byte == 0) && second.len() == size);
    }

    #[test]
    fn what_is_expected_may_grow_later() {
        let mut block = SharedMut::with_expected(0);
        block.extend_from_slice(b"begun");
        block.expect(300 << 10);
        assert_eq!(block.bytes(), b"begun");
        let (at, room) = block.spare(300 << 10);
        assert!(room >= (300 << 10) - 5, "{room}");
        block.expect(1000);
        block.expect(300 << 10);
        assert_eq!(block.spare(usize::MAX).0, at, "there is room for that already");
        // Beyond the first reservation nothing is reserved in advance.
        block.expect(1 << 40);
        let room = block.spare(usize::MAX).1;
        assert!((UNPROVEN_BYTES_MAX - 5..2 * UNPROVEN_BYTES_MAX).contains(&room), "{room}");
        assert_eq!(block.bytes(), b"begun");
    }

    #[test]
    fn only_a_sole_owner_may_write() {
        let mut one = Shared::zeroed(100);
        one.try_mut().unwrap()[3] = 9;
        let two = one.clone();
        assert!(one.try_mut().is_none());
        assert_eq!(two[3], 9);
        drop(two);
        assert!(one.try_mut().is_some());
        let mut part = one.slice(3..10);
        assert_eq!(part.len(), 7);
        assert!(part.try_mut().is_none());
    }

    #[test]
    fn memory_follows_the_bytes_that_arrived() {
        let announced = 1usize << 40;
        let mut block = SharedMut::with_expected(announced);
        let mut filled = 0;
        for _ in 0..3 {
            let (at, room) = block.spare(announced - filled);
            assert!(room <= UNPROVEN_BYTES_MAX.max(filled) && room > 0);
            // SAFETY: the test writes the spare capacity it was given.
            unsafe {
                at.as_ptr().write_bytes(5, room);
                block.advance(room);
            }
            filled += room;
        }
        let shared = block.freeze();
        assert_eq!(shared.len(), filled);
        assert!(shared.iter().all(|&byte| byte == 5));
    }
}
