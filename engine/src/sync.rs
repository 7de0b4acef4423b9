//! The one door to atomics, locks and one-time cells, so that a model checker (`--cfg loom`) can stand in for
//! them without touching the code that uses them.
//!
//! Atomics are always the checker's. `Arc`, `Mutex` and `OnceLock` at the top are std's even then: they serve
//! statics, which outlive a model's execution, and std's wakers. What a model is to follow takes them from [`model`].

#[cfg(loom)]
#[allow(unused_imports, reason = "the whole door, whoever walks through it")]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(not(loom))]
#[allow(unused_imports, reason = "the whole door, whoever walks through it")]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub(crate) use std::sync::{Arc, Mutex, OnceLock};

/// What lives inside one execution of a model.
#[allow(unused_imports, reason = "the whole door, whoever walks through it")]
pub(crate) mod model {
    #[cfg(loom)]
    pub(crate) use loom::{
        cell::UnsafeCell,
        hint,
        sync::{Arc, Condvar, Mutex, MutexGuard},
        thread, thread_local,
    };
    #[cfg(not(loom))]
    pub(crate) use std::{
        hint,
        sync::{Arc, Condvar, Mutex, MutexGuard},
        thread, thread_local,
    };

    #[cfg(not(loom))]
    pub(crate) use super::cell::UnsafeCell;
}

#[cfg(not(loom))]
mod cell {
    /// `std::cell::UnsafeCell` in the shape that loom needs to watch accesses.
    #[derive(Debug)]
    #[repr(transparent)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        #[inline(always)]
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        /// A pointer to read through; nobody may write meanwhile.
        #[inline(always)]
        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        /// A pointer to write through; nobody else may look meanwhile.
        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}
