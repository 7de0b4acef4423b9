//! The only module from which the crate imports atomics, locks and one-time cells. With `--cfg loom` it exports those
//! of the model checker, and the code that uses them stays the same.
//!
//! Under loom all atomics are loom's. `Arc`, `Mutex` and `OnceLock` at the top stay std's: statics use them, which
//! outlive a model's execution, and so do std's wakers. Code that a model has to follow takes them from [`model`].

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

/// Types whose values live inside one execution of a model.
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

        /// Gives a pointer to read through; no thread may write meanwhile.
        #[inline(always)]
        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        /// Gives a pointer to write through; no other thread may read or write meanwhile.
        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}
