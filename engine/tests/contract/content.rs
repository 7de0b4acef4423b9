//! Byte streams that show when a piece is missing, repeated or out of place, and random numbers.

use std::io::{ErrorKind, Read, Write};

/// A small generator of random numbers; the seed is part of the test, so a failure repeats.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// `len` bytes of stream `seed`, from `offset` on.
pub(crate) fn content(seed: u64, offset: usize, len: usize) -> Vec<u8> {
    let first = offset / 8;
    let words = (offset + len).div_ceil(8) - first;
    let mut bytes = Vec::with_capacity(words * 8);
    for word in first..first + words {
        bytes.extend_from_slice(&mix((seed << 40) ^ word as u64).to_le_bytes());
    }
    let skip = offset % 8;
    bytes.truncate(skip + len);
    bytes.drain(..skip);
    bytes
}

/// Fails unless `bytes` are stream `seed` from `offset` on; reports the first difference.
#[track_caller]
pub(crate) fn check(seed: u64, offset: usize, bytes: &[u8]) {
    let expected = content(seed, offset, bytes.len());
    if let Some(at) = (0..bytes.len()).find(|&at| bytes[at] != expected[at]) {
        panic!("stream {seed} differs at {} of {}", offset + at, offset + bytes.len());
    }
}

/// Writes `len` bytes of stream `seed` in pieces of random sizes up to `piece_max`. Returns the socket, so that the
/// caller decides when to close it.
pub(crate) fn write_stream<W: Write>(mut to: W, seed: u64, len: usize, piece_max: usize) -> W {
    let mut random = Random(seed);
    let mut at = 0;
    while at < len {
        let piece = (1 + random.below(piece_max)).min(len - at);
        to.write_all(&content(seed, at, piece)).expect("write");
        at += piece;
    }
    to
}

/// Reads until `len` bytes have arrived or the other end has stopped or failed.
pub(crate) fn read_up_to(mut from: impl Read, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    let mut part = vec![0; 64 << 10];
    while bytes.len() < len {
        let room = part.len().min(len - bytes.len());
        match from.read(&mut part[..room]) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing to read"),
            Err(_) => break,
        }
    }
    bytes
}

#[test]
fn a_stream_is_the_same_however_it_is_cut() {
    let whole = content(3, 0, 1000);
    for at in 0..100 {
        assert_eq!(content(3, at, 1000 - at), whole[at..]);
        check(3, at, &whole[at..at + 17]);
    }
    assert_ne!(content(4, 0, 1000), whole);
}
