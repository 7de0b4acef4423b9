//! Counters of the copies that message bodies go through in user space.
//!
//! With the feature `count-copies`, every place that copies bytes of a body calls [`note`], and `snapshot` returns the
//! totals. Without the feature [`note`] is empty. Headers, commands, handshakes, copies by the kernel and moves are not
//! counted: a frame with a short body moves it along like any value of 88 bytes.

/// A place where bytes of bodies are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Site {
    /// From the caller's memory into a frame or a block of its own: frames made of borrowed bytes, large borrowed
    /// bodies that are sent.
    Frame,
    /// Into a block, where the caller names no other site.
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
    /// The part of a body that has arrived in the pool, into a block of its own, while the rest is still to come.
    Assembly,
    /// The contents of such a block when it grows. The allocator may have avoided the copy.
    Growth,
    /// Out of memory other than the pool: bytes that spilled behind a large body, or that [`Site::Undecoded`] kept.
    Spill,
    /// Bytes that were not decoded yet, with their headers: a starved pool needs their buffer back, or they arrived
    /// with the end of a handshake.
    Undecoded,
    /// A short body out of a slot of a queue into its frame.
    Parcel,
    /// Into the memory of a caller that receives into memory of its own.
    Into,
    /// Back out of that memory because the caller gave up.
    Unclaim,
    /// Into a vector that the caller asked for.
    Taken,
}

impl Site {
    /// All sites.
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

/// Counts copied bytes of a body. This build counts nothing.
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

    /// Counts `bytes` of a body that were copied at `site`.
    #[inline]
    pub fn note(site: Site, bytes: usize) {
        BYTES[site as usize].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes copied at each [`Site`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Counts([u64; Site::ALL.len()]);

    impl Counts {
        /// Bytes copied at one site.
        #[must_use]
        pub fn at(&self, site: Site) -> u64 {
            self.0[site as usize]
        }

        /// The bytes added since `earlier` was taken.
        #[must_use]
        pub fn since(&self, earlier: &Self) -> Self {
            Self(std::array::from_fn(|at| self.0[at] - earlier.0[at]))
        }
    }

    /// The totals of the process since it began. Each total is exact. A copy that another thread makes meanwhile may be
    /// in some totals and not yet in others.
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
            // No code of the engine uses these two sites.
            assert_eq!(snapshot().since(&before).at(Site::Taken), 7);
            assert_eq!(snapshot().since(&before).at(Site::Unclaim), 0);
        }
    }
}
