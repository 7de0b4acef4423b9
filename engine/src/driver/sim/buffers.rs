//! The pool buffers that the simulated kernel has.

use std::collections::VecDeque;

use super::fault::{Faults, Random};
use crate::buf::{Chunk, Pool};

/// The content of a buffer before it is filled, so that a reader of an old chunk in it fails.
const POISON: u8 = 0xdb;

/// # Invariants
/// - A buffer is in here at most once, and the pool has given it out.
#[derive(Debug)]
pub(crate) struct Buffers {
    provided: VecDeque<u16>,
    /// The buffer that the driver fills by itself, beyond those provided.
    beyond: Option<u16>,
    /// Each receive takes a whole buffer.
    is_whole: bool,
    uses_beyond: bool,
}

impl Buffers {
    pub(crate) fn new(is_whole: bool, uses_beyond: bool) -> Self {
        Self { provided: VecDeque::new(), beyond: None, is_whole, uses_beyond }
    }

    pub(crate) fn len(&self) -> usize {
        self.provided.len() + usize::from(self.beyond.is_some())
    }

    pub(crate) fn has_some(&self) -> bool {
        self.len() > 0
    }

    /// Takes the buffers that the pool gives to the kernel.
    pub(crate) fn provide(&mut self, pool: &mut Pool) -> usize {
        let mut taken = 0;
        while let Some(buffer) = pool.take_ready() {
            self.check_in(buffer, pool);
            self.provided.push_back(buffer);
            taken += 1;
        }
        taken
    }

    fn check_in(&self, buffer: u16, pool: &Pool) {
        let is_here = self.beyond == Some(buffer) || self.provided.contains(&buffer);
        assert!(!is_here, "buffer {buffer} is free and with the kernel at once");
        let (at, room) = pool.room(buffer);
        // SAFETY: the pool has just given the buffer out, so all of it is the driver's to write.
        unsafe { at.write_bytes(POISON, room as usize) };
    }

    /// The buffer to fill next, and its room.
    pub(crate) fn pick(&mut self, pool: &mut Pool, random: &mut Random) -> Option<(u16, usize)> {
        let goes_beyond = self.uses_beyond && (random.below(4) == 0 || self.provided.is_empty());
        if goes_beyond && self.beyond.is_none() {
            let taken = pool.take_beyond();
            taken.iter().for_each(|&buffer| self.check_in(buffer, pool));
            self.beyond = taken;
        }
        let beyond = self.beyond.filter(|_| goes_beyond);
        let buffer = beyond.or_else(|| self.provided.front().copied())?;
        Some((buffer, pool.room(buffer).1 as usize))
    }

    /// Puts bytes into the picked buffer, and sometimes keeps it for more.
    pub(crate) fn fill(
        &mut self,
        buffer: u16,
        bytes: &[u8],
        pool: &mut Pool,
        random: &mut Random,
        faults: &Faults,
    ) -> Chunk {
        let (at, room) = pool.room(buffer);
        assert!(bytes.len() <= room as usize, "more bytes than room");
        // SAFETY: the room lies inside the buffer, which is the driver's to write (it is in here); no chunk or lease
        // reaches beyond the bytes filled before, and `bytes` is the network's memory.
        unsafe { at.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        let is_full = bytes.len() == room as usize;
        let keeps = !self.is_whole && !is_full && !random.chance(faults.buffer_end_ppm);
        if !keeps {
            if self.beyond == Some(buffer) {
                self.beyond = None;
            } else {
                self.provided.pop_front();
            }
        }
        pool.filled(buffer, bytes.len() as u32, keeps)
    }
}
