//! Where emptied segments rest.

use std::{collections::VecDeque, fmt, ptr, sync::PoisonError};

use super::{SLOTS, Segment};
use crate::sync::{
    AtomicUsize, Ordering,
    model::{Arc, Mutex, MutexGuard},
};

/// How many segments of a rotation rest before the one that has rested longest is used again.
pub(super) const RESTING_MIN: usize = if cfg!(loom) { 1 } else { 256 };
/// How many may; what comes beyond is freed.
pub(super) const RESTING_MAX: usize = 2 * RESTING_MIN;

/// Emptied segments of queues with one sender, the one that has rested longest in front. A handle; clones share them.
///
/// A line that the receiver has just read lies in the cache of its core, and the sender has to get it back from there
/// before it can write. Once both cores have dropped it for something newer it comes from the cache behind them, for a
/// third of that. So many segments take turns that together they are larger than what is near to a core.
pub struct Rotation<T>(Arc<Resting<T>>);

struct Resting<T> {
    /// Nobody knows them, and they hold no values.
    segments: Mutex<VecDeque<*mut Segment<T>>>,
    /// Beyond all stamps so far.
    base: AtomicUsize,
}

// SAFETY: the segments hold no values, and each goes in and out under the lock.
unsafe impl<T> Send for Resting<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Resting<T> {}

fn lock<T>(segments: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held, but for want of memory.
    segments.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Rotation<T> {
    /// One without segments.
    #[must_use]
    pub fn new() -> Self {
        let segments = Mutex::new(VecDeque::new());
        Self(Arc::new(Resting { segments, base: AtomicUsize::new(0) }))
    }

    pub(super) fn segments(&self) -> MutexGuard<'_, VecDeque<*mut Segment<T>>> {
        lock(&self.0.segments)
    }

    /// Takes in a list of segments that nobody else knows, and gives one out: a list of one.
    pub(super) fn exchange(&self, mut list: *mut Segment<T>) -> *mut Segment<T> {
        let mut segments = self.segments();
        while !list.is_null() {
            // SAFETY: passed on from the caller. Once it is here its link does not count.
            let below = unsafe { (*list).next.swap(ptr::null_mut(), Ordering::Relaxed) };
            if segments.len() < RESTING_MAX {
                segments.push_back(list);
            } else {
                // SAFETY: a list of one.
                unsafe { Segment::free(list) };
            }
            list = below;
        }
        let rested = if segments.len() < RESTING_MIN { None } else { segments.pop_front() };
        rested.unwrap_or_else(Segment::allocate)
    }

    /// What the stamps of a segment's next use are counted from.
    pub(super) fn next_base(&self) -> usize {
        self.0.base.fetch_add(SLOTS, Ordering::Relaxed)
    }
}

impl<T> Default for Rotation<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Rotation<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Rotation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation").field("segments", &self.segments().len()).finish()
    }
}

impl<T> Drop for Resting<T> {
    fn drop(&mut self) {
        for segment in lock(&self.segments).drain(..) {
            // SAFETY: nobody else knows it; unlinked, it is a list of one.
            unsafe { Segment::free(segment) };
        }
    }
}
