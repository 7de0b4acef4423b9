//! An unbounded queue from one thread to one other.
//!
//! ```text
//!            Producer: tail ─────────────────────────┐
//!                                                    ▼
//! first ─▶ [ s s s s | next ] ─▶ [ s s s s | next ] ─▶ [ s s . . | null ]
//!                 ▲
//!                 └── Consumer: segment, position       s = { stamp, value }
//! ```
//! A full slot carries its segment's next stamp. Stamps count from a base that grows with each use of the segment, so
//! slots never have to be cleared: value and stamp lie together, one line travels to the consumer and none back. The
//! consumer returns emptied segments through `spare`, a list that only the consumer pushes to and that the producer
//! takes whole. Producers that share a [`Rotation`] let emptied segments rest there before they use them again.

mod rotation;

use std::{fmt, mem::MaybeUninit, ptr};

pub use rotation::Rotation;

use super::Line;
use crate::sync::{
    AtomicBool, AtomicPtr, AtomicUsize, Ordering,
    model::{Arc, UnsafeCell},
};

/// Slots of a segment, a power of two.
const SLOTS: usize = if cfg!(loom) { 2 } else { 64 };
/// Most emptied segments that wait for their next use: enough for a queue that swings between empty and the usual
/// high-water mark of 1,000.
const SPARES_MAX: usize = if cfg!(loom) { 2 } else { 16 };

/// With a value of 8, 24 or 56 bytes no slot straddles two cache lines.
#[repr(C)]
struct Slot<T> {
    stamp: AtomicUsize,
    value: UnsafeCell<MaybeUninit<T>>,
}

impl<T> Slot<T> {
    #[inline]
    fn fill(&self, stamp: usize, write: impl FnOnce(&mut MaybeUninit<T>) -> &mut T) {
        self.value.with_mut(|at| {
            // SAFETY: only the producer calls this, for a slot that is not stamped yet, so the consumer does not touch
            // it.
            let value = write(unsafe { &mut *at });
            assert!(ptr::eq(value, at.cast()), "another value than the one in the slot");
        });
        // Release: a consumer that sees the stamp sees the value.
        self.stamp.store(stamp, Ordering::Release);
    }
}

/// # Invariants
/// - Between linking a segment and getting it back through `spare`, the producer writes only values, their stamps, and
///   `next` last.
/// - A segment is linked with its first slot full: a segment without a value to take has no segment behind it.
/// - The slots are stamped `base + 1`, `base + 2` and so on. A base is greater than all stamps of earlier uses.
#[repr(C, align(64))]
struct Segment<T> {
    slots: [Slot<T>; SLOTS],
    /// Written before the segment is linked.
    base: AtomicUsize,
    /// The segment behind this one; among spares, the spare below.
    next: AtomicPtr<Segment<T>>,
}

impl<T> Segment<T> {
    fn allocate() -> *mut Self {
        let slot =
            |_| Slot { stamp: AtomicUsize::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) };
        Box::into_raw(Box::new(Self {
            slots: std::array::from_fn(slot),
            base: AtomicUsize::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
        }))
    }

    /// # Safety
    /// `segment` is null or heads a list of segments from [`Segment::allocate`] that hold no value and that no one else
    /// can reach.
    unsafe fn free(mut segment: *mut Self) {
        while !segment.is_null() {
            // SAFETY: the caller upholds the contract.
            let freed = unsafe { Box::from_raw(segment) };
            segment = freed.next.load(Ordering::Relaxed);
        }
    }
}

/// Written by the consumer. The producer reads it seldom, so the line mostly stays in the consumer's cache.
struct Taken<T> {
    /// How many values were taken. Orders nothing: segments come back through `spare`.
    position: AtomicUsize,
    /// The consumer's segment, for the drop of the queue.
    segment: AtomicPtr<Segment<T>>,
    spare: AtomicPtr<Segment<T>>,
    is_gone: AtomicBool,
}

/// Written by the producer, twice in a queue's life.
struct Given<T> {
    first: AtomicPtr<Segment<T>>,
    is_gone: AtomicBool,
}

struct Shared<T> {
    taken: Line<Taken<T>>,
    given: Line<Given<T>>,
}

/// The consumer's position; `segment` is null before the first value.
struct Cursor<T> {
    segment: *mut Segment<T>,
    position: usize,
}

impl<T> Cursor<T> {
    /// The segment of the next value; null if the segment is not linked yet.
    #[inline]
    fn next_segment(&self, shared: &Shared<T>) -> *mut Segment<T> {
        if !self.position.is_multiple_of(SLOTS) {
            self.segment
        } else if self.segment.is_null() {
            shared.given.first.load(Ordering::Acquire)
        } else {
            // SAFETY: the cursor's segment stays allocated until the cursor leaves it.
            unsafe { &*self.segment }.next.load(Ordering::Acquire)
        }
    }

    /// The next value's slot and segment, if the slot is full.
    #[inline]
    fn next_full(&self, shared: &Shared<T>) -> Option<(&Slot<T>, *mut Segment<T>)> {
        let segment = self.next_segment(shared);
        if segment.is_null() {
            return None;
        }
        let at = self.position % SLOTS;
        // SAFETY: a linked segment stays allocated until the cursor has left it.
        let (slot, base) = unsafe { (&(*segment).slots[at], &(*segment).base) };
        // Relaxed: a consumer that sees the link sees the base.
        let stamp = base.load(Ordering::Relaxed).wrapping_add(at + 1);
        (slot.stamp.load(Ordering::Acquire) == stamp).then_some((slot, segment))
    }

    /// Takes the next value out: `read` gets a pointer to it, once, to read or to drop the value. If the cursor moved
    /// to a new segment, `retire` gets the old one.
    #[inline]
    fn take<R>(
        &mut self,
        shared: &Shared<T>,
        read: impl FnOnce(*mut T) -> R,
        retire: impl FnOnce(*mut Segment<T>),
    ) -> Option<R> {
        let (slot, segment) = self.next_full(shared)?;
        let slot = ptr::from_ref(slot);
        // Before `read`: dropping a value may panic.
        self.position = self.position.wrapping_add(1);
        shared.taken.position.store(self.position, Ordering::Relaxed);
        let left = std::mem::replace(&mut self.segment, segment);
        if left != segment {
            shared.taken.segment.store(segment, Ordering::Relaxed);
        }
        // SAFETY: the slot's segment stays allocated until it is retired.
        let value = unsafe { &*slot }.value.with_mut(|value| read(value.cast()));
        if left != segment && !left.is_null() {
            retire(left);
        }
        Some(value)
    }
}

impl<T> Drop for Shared<T> {
    /// Both ends are gone: drops the remaining values and frees all segments.
    fn drop(&mut self) {
        let mut rest = Cursor {
            segment: self.taken.segment.load(Ordering::Relaxed),
            position: self.taken.position.load(Ordering::Relaxed),
        };
        let free = |segment: *mut Segment<T>| {
            // SAFETY: the cursor has left the segment and both ends are gone; unlinked, the segment is a list of one.
            unsafe {
                (*segment).next.store(ptr::null_mut(), Ordering::Relaxed);
                Segment::free(segment);
            }
        };
        // SAFETY: the value is there and is dropped once.
        while rest.take(self, |value| unsafe { value.drop_in_place() }, free).is_some() {}
        // SAFETY: the cursor's segment holds no value any more, hence has none behind it; the spares have no other
        // owner.
        unsafe {
            Segment::free(rest.segment);
            Segment::free(self.taken.spare.load(Ordering::Relaxed));
        }
    }
}

/// The pushing end. `Send`, for one thread at a time.
#[repr(align(64))]
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// The last segment; null before the first value.
    tail: *mut Segment<T>,
    /// How many values were pushed.
    position: usize,
    /// How many values were taken, as of the last look.
    taken: usize,
    /// The base of the last segment.
    base: usize,
    spare: *mut Segment<T>,
    rotation: Option<Rotation<T>>,
}

/// The popping end. `Send`, for one thread at a time.
#[repr(align(64))]
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    cursor: Cursor<T>,
    /// How many spares the producer has not taken yet.
    spares: usize,
}

// SAFETY: values move from one thread to another; the invariants of `Segment` cover the memory behind the pointers.
unsafe impl<T: Send> Send for Producer<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Consumer<T> {}

/// Makes a queue without memory for values: the first push allocates.
#[must_use]
pub fn channel<T>() -> (Producer<T>, Consumer<T>) {
    let null = ptr::null_mut;
    let shared = Arc::new(Shared {
        taken: Line(Taken {
            position: AtomicUsize::new(0),
            segment: AtomicPtr::new(null()),
            spare: AtomicPtr::new(null()),
            is_gone: AtomicBool::new(false),
        }),
        given: Line(Given { first: AtomicPtr::new(null()), is_gone: AtomicBool::new(false) }),
    });
    let consumer = Consumer {
        shared: Arc::clone(&shared),
        cursor: Cursor { segment: null(), position: 0 },
        spares: 0,
    };
    let (position, taken, base) = (0, 0, 0);
    let (tail, spare, rotation) = (null(), null(), None);
    (Producer { shared, tail, position, taken, base, spare, rotation }, consumer)
}

/// Distance in slots between the slot just written and the slot that is prefetched.
const AHEAD: usize = if cfg!(loom) { 1 } else { 8 };

/// Prefetches a slot for writing, because its line is in the consumer's core. Otherwise the producer's locked
/// instructions would wait for each slot to come over.
#[inline]
fn fetch_to_write<T>(slot: &Slot<T>) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    {
        let at = std::ptr::from_ref(slot).cast::<u8>();
        // By name: the intrinsic prefetches for reading, which does not help, unless the whole program is built for
        // processors that are sure to know this instruction. Processors without it execute a no-op.
        // SAFETY: a prefetch has no effect that a program can see, and the addresses lie in the slot.
        unsafe {
            std::arch::asm!(
                "prefetchw [{first}]",
                "prefetchw [{last}]",
                first = in(reg) at,
                last = in(reg) at.add(size_of::<Slot<T>>() - 1),
                options(nostack, preserves_flags, readonly)
            );
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    let _ = slot;
}

impl<T> Producer<T> {
    /// Makes the queue take its segments from `rotation` and rest them there. Call before the first value.
    ///
    /// # Panics
    /// If a value was pushed before.
    pub fn rotate_in(&mut self, rotation: &Rotation<T>) {
        assert!(self.tail.is_null(), "the queue is in use");
        self.rotation = Some(rotation.clone());
    }

    /// Pushes a value. If the consumer is gone, the value is dropped with the queue.
    #[inline]
    pub fn push(&mut self, value: T) {
        self.push_with(|slot| slot.write(value));
    }

    /// As [`Producer::push`], for a value that is made in its final place: `write` returns a reference to the value it
    /// wrote there.
    ///
    /// # Panics
    /// If `write` returns a reference to another place; the queue is then unchanged.
    #[inline]
    pub fn push_with(&mut self, write: impl FnOnce(&mut MaybeUninit<T>) -> &mut T) {
        let position = self.position;
        if position.is_multiple_of(SLOTS) {
            self.push_segment(position, write);
        } else {
            // SAFETY: the last segment stays allocated until another is linked behind it.
            let slots = unsafe { &(*self.tail).slots };
            let at = position % SLOTS;
            if let Some(slot) = slots.get(at + AHEAD) {
                fetch_to_write(slot);
            } else {
                self.fetch_next(at + AHEAD - SLOTS);
            }
            slots[at].fill(self.base.wrapping_add(at + 1), write);
        }
        self.position = position.wrapping_add(1);
    }

    /// Links another segment, with a value in its first slot.
    #[cold]
    fn push_segment(&mut self, position: usize, write: impl FnOnce(&mut MaybeUninit<T>) -> &mut T) {
        let new = self.take_spare().unwrap_or_else(Segment::allocate);
        // SAFETY: the segment is reachable from here alone.
        let segment = unsafe { &*new };
        segment.next.store(ptr::null_mut(), Ordering::Relaxed);
        let base = self.rotation.as_ref().map_or(position, Rotation::next_base);
        if usize::BITS < 64 {
            // 32-bit bases wrap around: a stamp from that long ago must not match, so overwrite all stamps.
            segment.slots.iter().for_each(|slot| slot.stamp.store(base, Ordering::Relaxed));
        }
        segment.base.store(base, Ordering::Relaxed);
        segment.slots[0].fill(base.wrapping_add(1), write);
        self.base = base;
        let last = std::mem::replace(&mut self.tail, new);
        let link = if last.is_null() {
            &self.shared.given.first
        } else {
            // SAFETY: the segment stays allocated until the store below and is not touched afterwards.
            unsafe { &(*last).next }
        };
        link.store(new, Ordering::Release);
    }

    /// Prefetches a slot of the next segment, if that is a used one.
    #[inline]
    fn fetch_next(&mut self, at: usize) {
        if at == 0 {
            self.look_for_spares();
        }
        // SAFETY: spares that were taken are reachable from here alone.
        if let Some(next) = unsafe { self.spare.as_ref() } {
            fetch_to_write(&next.slots[at]);
        }
    }

    #[cold]
    fn look_for_spares(&mut self) {
        if self.spare.is_null() {
            // Acquire: the consumer's reads, and its links between spares, come before.
            let spares = self.shared.taken.spare.swap(ptr::null_mut(), Ordering::Acquire);
            self.spare = match &self.rotation {
                Some(rotation) => rotation.exchange(spares),
                None => spares,
            };
        }
    }

    fn take_spare(&mut self) -> Option<*mut Segment<T>> {
        self.look_for_spares();
        let spare = self.spare;
        // SAFETY: a spare that was taken is reachable from here alone.
        self.spare = unsafe { spare.as_ref() }?.next.load(Ordering::Relaxed);
        Some(spare)
    }

    /// Whether fewer than `max` values are in the queue. Reads the consumer's line only when the queue seems full.
    #[inline]
    pub fn has_room(&mut self, max: u64) -> bool {
        if (self.position.wrapping_sub(self.taken) as u64) < max {
            return true;
        }
        self.taken = self.shared.taken.position.load(Ordering::Relaxed);
        (self.position.wrapping_sub(self.taken) as u64) < max
    }

    /// How many values were pushed so far (wraps around).
    #[must_use]
    #[inline]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Whether the consumer is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.taken.is_gone.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // SAFETY: spares that were taken are reachable from here alone.
        unsafe { Segment::free(self.spare) };
        // Release: a consumer that sees the flag sees all pushed values.
        self.shared.given.is_gone.store(true, Ordering::Release);
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest value out, or `None` when the queue is empty at the moment.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        // SAFETY: the value is there and is read once.
        self.take(|value| unsafe { value.read() })
    }

    /// Drops the oldest value, if there is one.
    #[inline]
    pub fn skip(&mut self) {
        // SAFETY: the value is there and is dropped once.
        self.take(|value| unsafe { value.drop_in_place() });
    }

    #[inline]
    fn take<R>(&mut self, read: impl FnOnce(*mut T) -> R) -> Option<R> {
        let Self { shared, cursor, spares } = self;
        cursor.take(shared, read, |left| give_back(&shared.taken.spare, spares, left))
    }

    /// How many values were taken out so far (wraps around).
    #[must_use]
    #[inline]
    pub fn position(&self) -> usize {
        self.cursor.position
    }

    /// The oldest value, in place.
    #[must_use]
    #[inline]
    pub fn peek(&self) -> Option<&T> {
        let (slot, _) = self.cursor.next_full(&self.shared)?;
        // SAFETY: the slot is full, and taking the value out needs `&mut self`.
        Some(slot.value.with(|value| unsafe { (*value).assume_init_ref() }))
    }

    /// Whether the queue is empty at the moment. One load of one line, so a spinning thread may call this.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.cursor.next_full(&self.shared).is_none()
    }

    /// Whether the producer is gone and all its values were taken.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        // In this order: once the flag is seen, all values pushed before it are visible.
        self.shared.given.is_gone.load(Ordering::Acquire) && self.is_empty()
    }
}

/// Puts an emptied segment on the list of spares, or frees it when there are enough.
#[cold]
fn give_back<T>(list: &AtomicPtr<Segment<T>>, spares: &mut usize, left: *mut Segment<T>) {
    let mut top = list.load(Ordering::Relaxed);
    loop {
        if top.is_null() {
            *spares = 0;
        }
        let below = if *spares < SPARES_MAX { top } else { ptr::null_mut() };
        // SAFETY: the producer linked a segment behind `left` and so is done with it.
        unsafe { (*left).next.store(below, Ordering::Relaxed) };
        if *spares == SPARES_MAX {
            // SAFETY: as above, and the consumer has left the segment too; it is a list of one.
            return unsafe { Segment::free(left) };
        }
        // Release: our reads come before the segment's next use. Fails only if the producer took the list meanwhile.
        match list.compare_exchange(top, left, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => top = now,
        }
    }
    *spares += 1;
}

impl<T> Drop for Consumer<T> {
    /// Drops the values in the queue at once, because they may pin memory. Later values are dropped with the queue.
    fn drop(&mut self) {
        self.shared.taken.is_gone.store(true, Ordering::Release);
        while self.pop().is_some() {}
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("position", &self.position).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("position", &self.cursor.position).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
