//! Op slots: the state of an operation until it ends.

use std::time::Duration;

use slab::Slab;
use socket2::SockAddr;

use crate::{
    buf::Gather,
    driver::{Direct, OpId, Token, files::FileSend},
    sys::RawSocket,
};

#[derive(Debug)]
pub(super) enum Kind {
    Accept,
    Connect {
        address: Box<SockAddr>,
        /// How long the next pause before another attempt is.
        pause: Duration,
    },
    Receive {
        /// The receive ends with the first bytes.
        once: bool,
    },
    Direct(Direct),
    Readable,
    Send {
        gather: Gather,
        sent: usize,
    },
    /// A send of a list with files.
    Files(Box<FileSend>),
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) token: Token,
    pub(super) fd: RawSocket,
    generation: u32,
    /// The source where the operation waits for readiness, if it does.
    pub(super) source: Option<usize>,
    pub(super) kind: Kind,
}

/// All operations under way. An [`OpId`] is `generation << 32 | index`.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slab: Slab<Slot>,
    generation: u32,
}

fn index(op: OpId) -> usize {
    (op.0 & u64::from(u32::MAX)) as usize
}

impl Slots {
    pub(super) fn insert(&mut self, token: Token, fd: RawSocket, kind: Kind) -> OpId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let index = self.slab.insert(Slot { token, fd, generation, source: None, kind });
        OpId(u64::from(generation) << 32 | index as u64)
    }

    /// The slot, unless the id is stale.
    pub(super) fn find(&mut self, op: OpId) -> Option<&mut Slot> {
        self.slab.get_mut(index(op)).filter(|slot| u64::from(slot.generation) == op.0 >> 32)
    }

    /// Ends the operation. Does nothing if the id is stale.
    pub(super) fn remove(&mut self, op: OpId) -> Option<Slot> {
        self.find(op)?;
        Some(self.slab.remove(index(op)))
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn clear(&mut self) {
        self.slab.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_and_ends_nothing() {
        let mut slots = Slots::default();
        let first = slots.insert(1, 0, Kind::Accept);
        assert_eq!(slots.remove(first).unwrap().token, 1);
        let second = slots.insert(2, 0, Kind::Readable);
        assert!(slots.find(first).is_none() && slots.remove(first).is_none());
        assert_eq!(slots.find(second).unwrap().token, 2);
        assert_eq!(slots.len(), 1);
    }
}
