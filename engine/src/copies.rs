//! Counters of the copies that message bodies go through in user space.
//!
//! With the feature `count-copies` every place that copies bytes of a body says so ([`note`]) and anybody may read the
//! totals (`snapshot`); without it [`note`] is empty and nothing is kept. Not counted are headers, commands and
//! handshakes, what the kernel copies, and moves: a frame with a short body takes it along when it moves, as any value
//! of 88 bytes does.

/// A place where bytes of bodies are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Site {
    /// From the caller's memory into a frame or a block of its own: frames made of borrowed bytes, large borrowed
    /// bodies that are sent.
    Frame,
    /// Into a block, by whoever gives no other place.
    Block,
    /// A short body that is cloned with its frame.
    Clone,
    /// Into the send arena: short bodies, and borrowed ones that are not large.
    Arena,
    /// A short body into a slot of a queue within the process.
    Slot,
    /// A body that waits at its socket because no peer has room.
    Pending,
    /// Back out of the arena of a connection that was lost, to be sent again.
    Requeue,
    /// Out of the receive pool into the frame: a body that is not worth a lease, or any while leases are refused.
    Pool,
    /// What came of a body in the pool while the rest of it was still to come, into a block of its own.
    Assembly,
    /// What such a block held when it had to grow. The allocator may have spared it.
    Growth,
    /// Out of bytes that do not lie in the pool: what spilled behind a large body, or what [`Site::Undecoded`] kept.
    Spill,
    /// Bytes that were not decoded yet, with their headers: a starved pool needs the buffer, or they came with the end
    /// of a handshake.
    Undecoded,
    /// A short body out of a slot of a queue into its frame.
    Parcel,
    /// Into the memory of a caller that receives into it.
    Into,
    /// Back out of that memory, because the caller gave up.
    Unclaim,
    /// Into a vector that the caller asked for.
    Taken,
}

impl Site {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Frame,
        Self::Block,
        Self::Clone,
        Self::Arena,
        Self::Slot,
        Self::Pending,
        Self::Requeue,
        Self::Pool,
        Self::Assembly,
        Self::Growth,
        Self::Spill,
        Self::Undecoded,
        Self::Parcel,
        Self::Into,
        Self::Unclaim,
        Self::Taken,
    ];
}

/// So many bytes of a body were copied there.
#[cfg(not(all(feature = "count-copies", not(loom))))]
#[inline(always)]
pub fn note(_site: Site, _bytes: usize) {}

#[cfg(all(feature = "count-copies", not(loom)))]
pub use counting::{Counts, note, snapshot};

#[cfg(all(feature = "count-copies", not(loom)))]
mod counting {
    use super::Site;
    use crate::sync::{AtomicU64, Ordering};

    static BYTES: [AtomicU64; Site::ALL.len()] = [const { AtomicU64::new(0) }; Site::ALL.len()];

    /// So many bytes of a body were copied there.
    #[inline]
    pub fn note(site: Site, bytes: usize) {
        BYTES[site as usize].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes copied at each [`Site`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Counts([u64; Site::ALL.len()]);

    impl Counts {
        /// Bytes copied at that place.
        #[must_use]
        pub fn at(&self, site: Site) -> u64 {
            self.0[site as usize]
        }

        /// What was added since `earlier` was taken.
        #[must_use]
        pub fn since(&self, earlier: &Self) -> Self {
            Self(std::array::from_fn(|at| self.0[at] - earlier.0[at]))
        }
    }

    /// The totals of the process since it began. Each is exact; copies that other threads make meanwhile may be in some
    /// of them and not yet in others.
    #[must_use]
    pub fn snapshot() -> Counts {
        Counts(std::array::from_fn(|at| BYTES[at].load(Ordering::Relaxed)))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn each_site_has_a_count_of_its_own() {
            for (at, site) in Site::ALL.into_iter().enumerate() {
                assert_eq!(site as usize, at);
            }
            let before = snapshot();
            note(Site::Taken, 3);
            note(Site::Taken, 4);
            // Nothing in the engine takes or gives up a body.
            assert_eq!(snapshot().since(&before).at(Site::Taken), 7);
            assert_eq!(snapshot().since(&before).at(Site::Unclaim), 0);
        }
    }
}
