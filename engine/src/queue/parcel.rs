//! The item that travels between two threads: short bytes in place, or a value.

use std::{
    fmt,
    mem::{ManuallyDrop, MaybeUninit},
};

use crate::copies::{Site, note};

/// Length in words of the longest bytes that travel in place.
pub const SHORT_WORDS: usize = 10;
/// Words at the end, zeroed on their own when the bytes reach into them.
const TAIL_WORDS: usize = 3;
/// Bytes up to this length travel in place.
pub const SHORT_BYTES_MAX: usize = SHORT_WORDS * size_of::<u64>();

/// Either short bytes with a mark, or a value.
///
/// Made for the slots of a queue ([`spsc`](super::spsc)): bytes are written in their final place and copied from there
/// in steps of a fixed length. A value on the stack would be moved in other steps than it was written in, and each move
/// would wait until the earlier writes have left the store buffer. For the same reason bytes are written word by word:
/// the sender has often just written some of them.
///
/// # Invariants
/// `content` is `value` if the head says so; otherwise it is `words`, all of them initialised.
#[repr(C)]
pub struct Parcel<T> {
    head: Head,
    content: Content<T>,
}

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Head {
    is_value: bool,
    mark: bool,
    len: u8,
}

#[repr(C)]
union Content<T> {
    words: [u64; SHORT_WORDS],
    value: ManuallyDrop<T>,
}

/// Short bytes, borrowed in place.
#[derive(Debug, Clone, Copy)]
pub struct Short<'a> {
    /// The mark that came with the bytes.
    pub mark: bool,
    /// The number of bytes, at most [`SHORT_BYTES_MAX`].
    pub len: u8,
    /// The bytes, followed by zeros or other bytes.
    pub words: &'a [u64; SHORT_WORDS],
}

impl<T> Parcel<T> {
    /// Makes a parcel with a value.
    pub fn value(value: T) -> Self {
        let head = Head { is_value: true, mark: false, len: 0 };
        Self { head, content: Content { value: ManuallyDrop::new(value) } }
    }

    /// Writes short bytes into the parcel's final place.
    ///
    /// # Panics
    /// If there are more than [`SHORT_BYTES_MAX`] bytes.
    #[inline]
    pub fn write_short<'a>(
        at: &'a mut MaybeUninit<Self>,
        mark: bool,
        bytes: &[u8],
    ) -> &'a mut Self {
        assert!(bytes.len() <= SHORT_BYTES_MAX, "too long to travel in place");
        note(Site::Slot, bytes.len());
        let head = Head { is_value: false, mark, len: bytes.len() as u8 };
        let parcel = at.as_mut_ptr();
        // SAFETY: all places lie in the parcel, and there are at most as many words as it has.
        unsafe {
            (&raw mut (*parcel).head).write(head);
            let words = (&raw mut (*parcel).content.words).cast::<u64>();
            let (chunks, rest) = bytes.as_chunks::<8>();
            // Zero the words behind the bytes in steps of a fixed length: the last words for long bytes, all words for
            // short ones.
            if chunks.len() < SHORT_WORDS - TAIL_WORDS {
                words.write_bytes(0, SHORT_WORDS);
            } else {
                words.add(SHORT_WORDS - TAIL_WORDS).write_bytes(0, TAIL_WORDS);
            }
            // Volatile, so that the compiler keeps one store per word.
            for (at, chunk) in chunks.iter().enumerate() {
                words.add(at).write_volatile(u64::from_ne_bytes(*chunk));
            }
            if !rest.is_empty() {
                let mut last = [0; 8];
                last[..rest.len()].copy_from_slice(rest);
                words.add(chunks.len()).write(u64::from_ne_bytes(last));
            }
            &mut *parcel
        }
    }

    /// The short bytes, if the parcel holds bytes.
    #[inline]
    pub fn short(&self) -> Option<Short<'_>> {
        let Head { is_value, mark, len } = self.head;
        if is_value {
            return None;
        }
        // SAFETY: the head says that the content is words.
        Some(Short { mark, len, words: unsafe { &self.content.words } })
    }

    /// The value, if the parcel holds one.
    pub fn into_value(self) -> Option<T> {
        let mut parcel = ManuallyDrop::new(self);
        // SAFETY: the head says that the content is a value, and `ManuallyDrop` keeps the parcel from dropping it
        // again.
        parcel.head.is_value.then(|| unsafe { ManuallyDrop::take(&mut parcel.content.value) })
    }
}

impl<T> Drop for Parcel<T> {
    #[inline]
    fn drop(&mut self) {
        if self.head.is_value {
            // SAFETY: the head says so, and the value is dropped here alone.
            unsafe { ManuallyDrop::drop(&mut self.content.value) }
        }
    }
}

impl<T> fmt::Debug for Parcel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parcel").field("short", &self.short()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn bytes_of(words: &[u64; SHORT_WORDS]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn bytes_of_any_short_length_come_back_with_zeros_behind() {
        for len in 0..=SHORT_BYTES_MAX {
            let bytes: Vec<u8> = (1..=len as u8).collect();
            let mut at = MaybeUninit::<Parcel<String>>::uninit();
            let parcel = Parcel::write_short(&mut at, len % 2 == 1, &bytes);
            let short = parcel.short().unwrap();
            assert_eq!((usize::from(short.len), short.mark), (len, len % 2 == 1));
            let all = bytes_of(short.words);
            assert_eq!(all[..len], bytes);
            assert!(all[len..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    #[should_panic(expected = "too long")]
    fn long_bytes_are_refused() {
        let mut at = MaybeUninit::<Parcel<()>>::uninit();
        Parcel::write_short(&mut at, false, &[0; SHORT_BYTES_MAX + 1]);
    }

    #[test]
    fn a_value_is_dropped_once_or_taken() {
        let value = Arc::new(());
        let parcel = Parcel::value(Arc::clone(&value));
        assert!(parcel.short().is_none());
        drop(parcel);
        assert_eq!(Arc::strong_count(&value), 1);
        let taken = Parcel::value(Arc::clone(&value)).into_value();
        assert_eq!(Arc::strong_count(&value), 2);
        drop(taken);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
