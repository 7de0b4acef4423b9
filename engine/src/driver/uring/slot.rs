//! Op slots: everything that the kernel may touch, kept until the operation's last completion.

use libc::{iovec, msghdr};
use slab::Slab;
use socket2::SockAddr;

use crate::{
    buf::{Gather, SharedMut},
    driver::{
        Direct, OpId, SEGMENTS_PER_SEND_MAX, Token,
        files::FileSend,
        rest_of,
        uring::{connect::Pause, zero_copy::Progress},
    },
};

/// A message header and its vector, at an address that does not move.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) header: msghdr,
    iov: [iovec; SEGMENTS_PER_SEND_MAX],
}

const NO_IOVEC: iovec = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

impl Message {
    fn new() -> Box<Self> {
        // SAFETY: `msghdr` is plain integers and pointers, for which zero is valid.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Self { header, iov: [NO_IOVEC; SEGMENTS_PER_SEND_MAX] })
    }

    fn set_len(&mut self, segments: usize) {
        self.header.msg_iov = self.iov.as_mut_ptr();
        self.header.msg_iovlen = segments;
    }

    /// Points at the bytes of `gather` behind the first `skip`.
    pub(super) fn gather(&mut self, gather: &Gather, skip: usize) {
        let mut segments = 0;
        for rest in rest_of(gather, skip) {
            self.iov[segments] =
                iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
            segments += 1;
        }
        self.set_len(segments);
    }

    /// Points at the body's spare capacity and at the spill area. Returns how many bytes of the body it offers.
    pub(super) fn scatter(&mut self, direct: &mut Direct) -> usize {
        let mut segments = 0;
        let mut room = 0;
        if let Some(body) = direct.body.as_mut().filter(|_| direct.rest > 0) {
            let (at, len) = SharedMut::spare(body, direct.rest);
            self.iov[segments] = iovec { iov_base: at.as_ptr().cast(), iov_len: len };
            room = len;
            segments += 1;
        }
        // Bytes reach the spill area only if the whole body fits in front of it.
        if room == direct.rest {
            let spill = direct.spill.spare_capacity_mut();
            self.iov[segments] =
                iovec { iov_base: spill.as_mut_ptr().cast(), iov_len: spill.len() };
            segments += 1;
        }
        self.set_len(segments);
        room
    }
}

/// The kernel-visible part of an operation, by kind.
#[derive(Debug)]
pub(super) enum Kind {
    Accept,
    Connect {
        address: Box<SockAddr>,
        /// The pause before another attempt, while it lasts. Its timeout entry has the operation's user data.
        pause: Option<Box<Pause>>,
    },
    Receive {
        /// The receive ends with the first bytes.
        once: bool,
    },
    /// A receive that is polled, not armed: see `watch`.
    Watched,
    Readable,
    Direct {
        direct: Direct,
        room: usize,
        message: Box<Message>,
    },
    Send {
        gather: Gather,
        sent: usize,
        message: Option<Box<Message>>,
        zero_copy: Progress,
    },
    /// A send that is over, but whose memory the kernel still reads: see `zero_copy`.
    Held {
        gather: Gather,
        message: Option<Box<Message>>,
        zero_copy: Progress,
    },
    /// A send of a list with files. The kernel has at most a poll for writability of it.
    Files {
        send: Box<FileSend>,
        polls: bool,
    },
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) token: Token,
    pub(super) fd: i32,
    generation: u32,
    /// The operation was cancelled: nothing is submitted again on its behalf.
    pub(super) cancelled: bool,
    pub(super) kind: Kind,
}

/// All operations in flight. An [`OpId`] is `generation << 32 | index`.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slab: Slab<Slot>,
    generation: u32,
    #[expect(clippy::vec_box, reason = "the kernel holds their addresses")]
    messages: Vec<Box<Message>>,
}

impl Slots {
    pub(super) fn insert(&mut self, token: Token, fd: i32, kind: Kind) -> OpId {
        // Generations stay below u32::MAX, so no id equals the reserved user data of the driver.
        self.generation = (self.generation + 1) % u32::MAX;
        let generation = self.generation;
        let index = self.slab.insert(Slot { token, fd, generation, cancelled: false, kind });
        OpId(u64::from(generation) << 32 | index as u64)
    }

    /// The slot, unless the id is stale.
    pub(super) fn find(&mut self, op: OpId) -> Option<&mut Slot> {
        let slot = self.slab.get_mut((op.0 & u64::from(u32::MAX)) as usize)?;
        (u64::from(slot.generation) == op.0 >> 32).then_some(slot)
    }

    /// Ends the operation. The caller has seen its last completion, or has never submitted it.
    pub(super) fn remove(&mut self, op: OpId) -> Slot {
        self.slab.remove((op.0 & u64::from(u32::MAX)) as usize)
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn ids(&self) -> Vec<OpId> {
        let id =
            |(index, slot): (usize, &Slot)| OpId(u64::from(slot.generation) << 32 | index as u64);
        self.slab.iter().map(id).collect()
    }

    pub(super) fn take_message(&mut self) -> Box<Message> {
        self.messages.pop().unwrap_or_else(Message::new)
    }

    pub(super) fn give_message(&mut self, message: Box<Message>) {
        self.messages.push(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::Segment;

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut slots = Slots::default();
        let first = slots.insert(1, 0, Kind::Accept);
        assert_eq!(slots.find(first).unwrap().token, 1);
        slots.remove(first);
        let second = slots.insert(2, 0, Kind::Readable);
        assert!(slots.find(first).is_none());
        assert_eq!(slots.find(second).unwrap().token, 2);
    }

    #[test]
    fn a_gather_resumes_anywhere() {
        let mut gather = Gather::new();
        gather.push(Segment::Static(b"abc"));
        gather.push(Segment::Static(b"de"));
        gather.push(Segment::Static(b"f"));
        for (skip, lens) in [(0, &[3, 2, 1][..]), (2, &[1, 2, 1]), (3, &[2, 1]), (5, &[1])] {
            let mut message = Message::new();
            message.gather(&gather, skip);
            let got: Vec<_> =
                message.iov[..message.header.msg_iovlen].iter().map(|part| part.iov_len).collect();
            assert_eq!(got, lens, "skip {skip}");
        }
    }
}
