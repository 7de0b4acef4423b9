//! The one door to atomics, locks and one-time cells, so that a model checker can stand in for
//! them without touching the code that uses them.

pub(crate) use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicUsize, Ordering},
};
