//! An unbounded queue from one thread to one other.
//!
//! ```text
//!            Producer: tail ─────────────────────────┐
//!                                                    ▼
//! first ─▶ [ s s s s | next ] ─▶ [ s s s s | next ] ─▶ [ s s . . | null ]
//!                 ▲
//!                 └── Consumer: segment, position       s = { stamp, value }
//! ```
//! A slot that is full has the next stamp of its segment, counted from a base that grows with each use of the segment, so
//! that nobody ever has to clear it: value and stamp lie together, and one line travels to the consumer, none back. The
//! consumer gives emptied segments back through `spare`, a list that it alone pushes to and that the producer takes whole.
//! Producers that share a [`Rotation`] let emptied segments rest there before they use them again.

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
/// How many emptied segments wait for their next use at most: enough for a queue that swings between empty and
/// the usual high-water mark of 1,000.
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
            // SAFETY: only the producer calls this, for a slot that it has not stamped yet: the consumer stays away.
            let value = write(unsafe { &mut *at });
            assert!(ptr::eq(value, at.cast()), "another value than the one in the slot");
        });
        // Release: whoever sees the stamp sees the value.
        self.stamp.store(stamp, Ordering::Release);
    }
}

/// # Invariants
/// - From its link to its return through `spare` the producer writes only values, their stamps, and `next` last.
/// - A segment is linked with its first slot full: one that has nothing to take has none behind it.
/// - Its slots are stamped `base + 1`, `base + 2` and so on. A base is beyond all stamps of earlier uses.
#[repr(C, align(64))]
struct Segment<T> {
    slots: [Slot<T>; SLOTS],
    /// Written before it is linked.
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
    /// `segment` heads a list from [`Segment::allocate`] (or is null) that nobody else knows and that holds no value.
    unsafe fn free(mut segment: *mut Self) {
        while !segment.is_null() {
            // SAFETY: passed on from the caller.
            let freed = unsafe { Box::from_raw(segment) };
            segment = freed.next.load(Ordering::Relaxed);
        }
    }
}

/// What the consumer writes. The producer looks here seldom, so that the line mostly stays where it is.
struct Taken<T> {
    /// How many values were taken; a number and no more, segments come back through `spare`.
    position: AtomicUsize,
    /// The consumer's segment, for whoever drops the queue.
    segment: AtomicPtr<Segment<T>>,
    spare: AtomicPtr<Segment<T>>,
    is_gone: AtomicBool,
}

/// What the producer writes, twice in a queue's life.
struct Given<T> {
    first: AtomicPtr<Segment<T>>,
    is_gone: AtomicBool,
}

struct Shared<T> {
    taken: Line<Taken<T>>,
    given: Line<Given<T>>,
}

/// Where the consumer is: `segment` is null before the first value.
struct Cursor<T> {
    segment: *mut Segment<T>,
    position: usize,
}

impl<T> Cursor<T> {
    /// The segment of the next value; null when it is not linked yet.
    #[inline]
    fn next_segment(&self, shared: &Shared<T>) -> *mut Segment<T> {
        if !self.position.is_multiple_of(SLOTS) {
            self.segment
        } else if self.segment.is_null() {
            shared.given.first.load(Ordering::Acquire)
        } else {
            // SAFETY: the segment that the cursor is in stays until the cursor leaves it.
            unsafe { &*self.segment }.next.load(Ordering::Acquire)
        }
    }

    /// The next value's slot if it is full, and its segment.
    #[inline]
    fn next_full(&self, shared: &Shared<T>) -> Option<(&Slot<T>, *mut Segment<T>)> {
        let segment = self.next_segment(shared);
        if segment.is_null() {
            return None;
        }
        let at = self.position % SLOTS;
        // SAFETY: a linked segment stays until the cursor has left it.
        let (slot, base) = unsafe { (&(*segment).slots[at], &(*segment).base) };
        // Relaxed: whoever sees the link sees the base.
        let stamp = base.load(Ordering::Relaxed).wrapping_add(at + 1);
        (slot.stamp.load(Ordering::Acquire) == stamp).then_some((slot, segment))
    }

    /// Takes the next value out: `read` gets it, once, to read or to drop it. `retire` gets the segment that was left
    /// for it.
    #[inline]
    fn take<R>(
        &mut self,
        shared: &Shared<T>,
        read: impl FnOnce(*mut T) -> R,
        retire: impl FnOnce(*mut Segment<T>),
    ) -> Option<R> {
        let (slot, segment) = self.next_full(shared)?;
        let slot = ptr::from_ref(slot);
        // Before it is read: dropping a value may panic.
        self.position = self.position.wrapping_add(1);
        shared.taken.position.store(self.position, Ordering::Relaxed);
        let left = std::mem::replace(&mut self.segment, segment);
        if left != segment {
            shared.taken.segment.store(segment, Ordering::Relaxed);
        }
        // SAFETY: its segment stays until it is retired.
        let value = unsafe { &*slot }.value.with_mut(|value| read(value.cast()));
        if left != segment && !left.is_null() {
            retire(left);
        }
        Some(value)
    }
}

impl<T> Drop for Shared<T> {
    /// Both ends are gone: what is left is dropped here.
    fn drop(&mut self) {
        let mut rest = Cursor {
            segment: self.taken.segment.load(Ordering::Relaxed),
            position: self.taken.position.load(Ordering::Relaxed),
        };
        let free = |segment: *mut Segment<T>| {
            // SAFETY: the cursor has left it and the ends are gone; unlinked, it is a list of one.
            unsafe {
                (*segment).next.store(ptr::null_mut(), Ordering::Relaxed);
                Segment::free(segment);
            }
        };
        // SAFETY: the value is there and is dropped once.
        while rest.take(self, |value| unsafe { value.drop_in_place() }, free).is_some() {}
        // SAFETY: nothing is left in it, hence nothing behind it, and nobody knows the spares any more.
        unsafe {
            Segment::free(rest.segment);
            Segment::free(self.taken.spare.load(Ordering::Relaxed));
        }
    }
}

/// The end that puts values in. `Send`, for one thread at a time.
#[repr(align(64))]
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// The last segment, null before the first value.
    tail: *mut Segment<T>,
    /// How many values were put in.
    position: usize,
    /// How many were taken, when last asked.
    taken: usize,
    /// Of the last segment.
    base: usize,
    spare: *mut Segment<T>,
    rotation: Option<Rotation<T>>,
}

/// The end that takes values out. `Send`, for one thread at a time.
#[repr(align(64))]
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    cursor: Cursor<T>,
    /// How many spares the producer has not taken yet.
    spares: usize,
}

// SAFETY: values go from one thread to another; what the pointers lead to is shared as `Segment` says.
unsafe impl<T: Send> Send for Producer<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Consumer<T> {}

/// A queue without memory for values: the first one allocates.
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

/// How many slots ahead of the value just put in the next one's memory is asked for.
const AHEAD: usize = if cfg!(loom) { 1 } else { 8 };

/// Asks for memory that the consumer's core has, before it is written: the locked instructions of whoever pushes would
/// otherwise wait for each slot to come over.
#[inline]
fn fetch_to_write<T>(slot: &Slot<T>) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    {
        let at = std::ptr::from_ref(slot).cast::<u8>();
        // By name: the intrinsic for it asks for a line to read, which does not help, unless the whole program is built
        // for processors that are sure to know this instruction. Those that do not take it for one that does nothing.
        // SAFETY: a prefetch touches nothing that a program can see, and the addresses lie in the slot.
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
    /// Segments are taken from, and rest in, a rotation. Before the first value.
    ///
    /// # Panics
    /// If there was one.
    pub fn rotate_in(&mut self, rotation: &Rotation<T>) {
        assert!(self.tail.is_null(), "the queue is in use");
        self.rotation = Some(rotation.clone());
    }

    /// Puts a value in. It is dropped with the queue if the consumer is gone.
    #[inline]
    pub fn push(&mut self, value: T) {
        self.push_with(|slot| slot.write(value));
    }

    /// As [`Producer::push`], for a value that is made in its place: `write` returns what it has written there.
    ///
    /// # Panics
    /// When that is something else; the queue is as before.
    #[inline]
    pub fn push_with(&mut self, write: impl FnOnce(&mut MaybeUninit<T>) -> &mut T) {
        let position = self.position;
        if position.is_multiple_of(SLOTS) {
            self.push_segment(position, write);
        } else {
            // SAFETY: the last segment stays until one is linked behind it.
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

    /// Links one more segment, with a value in its first slot.
    #[cold]
    fn push_segment(&mut self, position: usize, write: impl FnOnce(&mut MaybeUninit<T>) -> &mut T) {
        let new = self.take_spare().unwrap_or_else(Segment::allocate);
        // SAFETY: nobody else knows it yet.
        let segment = unsafe { &*new };
        segment.next.store(ptr::null_mut(), Ordering::Relaxed);
        let base = self.rotation.as_ref().map_or(position, Rotation::next_base);
        if usize::BITS < 64 {
            // Bases come round: no stamp may be as old as that.
            segment.slots.iter().for_each(|slot| slot.stamp.store(base, Ordering::Relaxed));
        }
        segment.base.store(base, Ordering::Relaxed);
        segment.slots[0].fill(base.wrapping_add(1), write);
        self.base = base;
        let last = std::mem::replace(&mut self.tail, new);
        let link = if last.is_null() {
            &self.shared.given.first
        } else {
            // SAFETY: it stays until the store below, after which it is not touched.
            unsafe { &(*last).next }
        };
        link.store(new, Ordering::Release);
    }

    /// Asks for a slot of the segment that comes after this one, if it is one that was used before.
    #[inline]
    fn fetch_next(&mut self, at: usize) {
        if at == 0 {
            self.look_for_spares();
        }
        // SAFETY: spares that were taken are known here alone.
        if let Some(next) = unsafe { self.spare.as_ref() } {
            fetch_to_write(&next.slots[at]);
        }
    }

    #[cold]
    fn look_for_spares(&mut self) {
        if self.spare.is_null() {
            // Acquire: the consumer's reads and its links between spares come before.
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
        // SAFETY: a spare that was taken is known here alone.
        self.spare = unsafe { spare.as_ref() }?.next.load(Ordering::Relaxed);
        Some(spare)
    }

    /// Whether fewer than `max` values are in the queue. Looks at the consumer's line only when it seemed full.
    #[inline]
    pub fn has_room(&mut self, max: u64) -> bool {
        if (self.position.wrapping_sub(self.taken) as u64) < max {
            return true;
        }
        self.taken = self.shared.taken.position.load(Ordering::Relaxed);
        (self.position.wrapping_sub(self.taken) as u64) < max
    }

    /// How many values were put in so far (it wraps around).
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
        // SAFETY: spares that were taken are known here alone.
        unsafe { Segment::free(self.spare) };
        // Release: whoever sees this sees all that was pushed.
        self.shared.given.is_gone.store(true, Ordering::Release);
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest value out. `None` when there is none at the moment.
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

    /// How many values were taken out so far (it wraps around).
    #[must_use]
    #[inline]
    pub fn position(&self) -> usize {
        self.cursor.position
    }

    /// The oldest value, in its place.
    #[must_use]
    #[inline]
    pub fn peek(&self) -> Option<&T> {
        let (slot, _) = self.cursor.next_full(&self.shared)?;
        // SAFETY: it is full, and taking it out needs `&mut self`.
        Some(slot.value.with(|value| unsafe { (*value).assume_init_ref() }))
    }

    /// Whether there is no value at the moment. One load of one line, so that a spinning thread may ask.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.cursor.next_full(&self.shared).is_none()
    }

    /// Whether the producer is gone and all that it put in was taken.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        // In this order: what was pushed before the end is visible after it.
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
        // SAFETY: the producer linked a segment behind it and so is done with it.
        unsafe { (*left).next.store(below, Ordering::Relaxed) };
        if *spares == SPARES_MAX {
            // SAFETY: as above, and the consumer has left it too; it is a list of one.
            return unsafe { Segment::free(left) };
        }
        // Release: our reads come before its next use. It fails only if the producer took the list meanwhile.
        match list.compare_exchange(top, left, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => top = now,
        }
    }
    *spares += 1;
}

impl<T> Drop for Consumer<T> {
    /// What is there is dropped at once: it may pin memory. What comes after goes with the queue.
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
