//! Connections between two threads: [`spsc`] carries values from one thread to another, short ones as [`parcel`]s; a
//! [`mailbox`] tells one thread where to look. Neither ever blocks, and both are unbounded: the code that fills them
//! has to keep count.

pub mod mailbox;
pub mod notice;
pub mod parcel;
pub mod spsc;
#[cfg(all(test, loom))]
mod spsc_loom;

/// Two lines: the adjacent-line prefetcher fetches them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Line<T>(T);

impl<T> std::ops::Deref for Line<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}
