//! The resting place of emptied segments.

use std::{collections::VecDeque, fmt, ptr, sync::PoisonError};

use super::{SLOTS, Segment};
use crate::sync::{
    AtomicUsize, Ordering,
    model::{Arc, Mutex, MutexGuard},
};

/// How many segments rest in a rotation before the longest-rested one is used again.
pub(super) const RESTING_MIN: usize = if cfg!(loom) { 1 } else { 256 };
/// Most segments that rest; more are freed.
pub(super) const RESTING_MAX: usize = 2 * RESTING_MIN;

/// Emptied segments of queues with one sender, longest-rested first. This is a handle; clones share the segments.
///
/// A line that the receiver has just read lies in the cache of its core, and the sender has to fetch it from there
/// before writing. Once both cores have evicted the line, it comes from the cache behind them, at a third of that cost.
/// So enough segments take turns to be together larger than a core's own caches.
pub struct Rotation<T>(Arc<Resting<T>>);

struct Resting<T> {
    /// Unreachable from elsewhere, and without values.
    segments: Mutex<VecDeque<*mut Segment<T>>>,
    /// Greater than all stamps so far.
    base: AtomicUsize,
}

// SAFETY: the segments hold no values, and each enters and leaves under the lock.
unsafe impl<T> Send for Resting<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Resting<T> {}

fn lock<T>(segments: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while holding the lock, except when memory runs out.
    segments.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Rotation<T> {
    /// A rotation without segments.
    #[must_use]
    pub fn new() -> Self {
        let segments = Mutex::new(VecDeque::new());
        Self(Arc::new(Resting { segments, base: AtomicUsize::new(0) }))
    }

    pub(super) fn segments(&self) -> MutexGuard<'_, VecDeque<*mut Segment<T>>> {
        lock(&self.0.segments)
    }

    /// Takes in a list of segments that no one else can reach, and returns one segment: a list of one.
    pub(super) fn exchange(&self, mut list: *mut Segment<T>) -> *mut Segment<T> {
        let mut segments = self.segments();
        while !list.is_null() {
            // SAFETY: the caller upholds the contract. In the rotation a segment's link has no meaning.
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

    /// The base of the stamps in a segment's next use.
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
            // SAFETY: the segment has no other owner; unlinked, it is a list of one.
            unsafe { Segment::free(segment) };
        }
    }
}
