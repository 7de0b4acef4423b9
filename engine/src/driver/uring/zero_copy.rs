//! Sends that the kernel makes from our memory, without a copy of its own, where it can.
//!
//! A request for that (`IORING_OP_SENDMSG_ZC`) promises nothing: over loopback, and through devices that cannot gather,
//! the kernel copies all the same, and has then done more work than for an ordinary send. It reports afterwards whether
//! it copied. So each connection asks once and follows the answer ([`Path`]).
//!
//! ```text
//! submitted ──▶ taken (bytes, F_MORE) ──▶ Completion::Sent, with a twin of the list
//!                  └─ the list stays in its slot ([`Kind::Held`]) ──▶ notification (F_NOTIF, usage) ──▶ dropped
//! ```
//! `Sent` does not wait for the notification, which over TCP comes with the peer's acknowledgement: the connection's
//! next send would wait a round trip for it. The bodies in the twin are the same memory with one more reference, so a
//! caller that checks whether it is the only owner of a body learns when the kernel is done with it.

use std::{
    collections::HashMap,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use io_uring::{cqueue, opcode, squeue, types};
use libc::msghdr;

use super::{Kind, SEND_FLAGS, Uring, outcome, probe::ZeroCopySends, slot::Slot};
use crate::{
    buf::{Gather, Segment},
    driver::{Completion, OpId, Token},
    stats::ZeroCopyStats,
    sync::{Mutex, OnceLock},
};

/// `IORING_SEND_ZC_REPORT_USAGE` and `IORING_NOTIF_USAGE_ZC_COPIED` of `linux/io_uring.h` (6.2).
const REPORT_USAGE: u16 = 1 << 3;
const COPIED: u32 = 1 << 31;
/// After so many large sends, a connection for which the kernel copied asks again, because routes change.
const ASKED_AGAIN_AFTER: u32 = 1000;
/// How many empty lists are kept for twins.
const SPARE_LISTS_MAX: usize = 16;

/// How the kernel makes the large sends of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// One send has asked. Until it is answered, the others are ordinary.
    Asking,
    /// The kernel avoided the copy: all sends ask.
    Avoids,
    /// The kernel copied, or was short of memory: `left` ordinary sends follow until one asks again.
    Copies { left: u32 },
    /// The socket does not support such sends.
    Never,
}

/// The state of one send.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// The submitted entry asks to go without a copy.
    pub(super) asks: bool,
    /// The kernel refused the request, so its notifications report nothing.
    refused: bool,
    /// How many notifications are still to come.
    notifications: u32,
    /// The kernel's result for the send as a whole, once it is there.
    answer: Option<i32>,
}

/// The paths of a driver's connections, and the totals.
#[derive(Debug)]
pub(super) struct ZeroCopy {
    feature: Option<ZeroCopySends>,
    bytes_min: usize,
    /// The paths by descriptor, of connections that had a large send. The token recognises a reused descriptor.
    paths: HashMap<RawFd, (Token, Path)>,
    /// Sends that the kernel has answered, while their notifications are still to come.
    answered: Vec<OpId>,
    /// How many sends are over for all but the kernel.
    held: usize,
    /// Empty lists for twins.
    spare: Vec<Gather>,
    stats: ZeroCopyStats,
}

impl ZeroCopy {
    pub(super) fn new(feature: Option<ZeroCopySends>, bytes_min: usize) -> Self {
        Self {
            feature,
            bytes_min,
            paths: HashMap::new(),
            answered: Vec::new(),
            held: 0,
            spare: Vec::new(),
            stats: ZeroCopyStats::default(),
        }
    }

    pub(super) fn stats(&self) -> ZeroCopyStats {
        self.stats
    }

    /// Whether an answered send has not completed yet.
    pub(super) fn has_answered(&self) -> bool {
        !self.answered.is_empty()
    }

    /// How many slots wait only for notifications.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Whether a list is large enough to ask.
    pub(super) fn is_for(&self, gather: &Gather) -> bool {
        self.is_for_bytes(gather.bytes())
    }

    pub(super) fn is_for_bytes(&self, bytes: usize) -> bool {
        self.feature.is_some() && bytes >= self.bytes_min
    }

    /// Decides whether one send asks.
    pub(super) fn choose(&mut self, token: Token, fd: RawFd, gather: &Gather) -> Progress {
        if !self.is_for(gather) {
            return Progress::default();
        }
        let asks = referenced_bytes(gather) >= self.bytes_min && self.asks(token, fd);
        Progress { asks, ..Progress::default() }
    }

    /// Whether a large send of this connection asks.
    fn asks(&mut self, token: Token, fd: RawFd) -> bool {
        let (known, path) = self.paths.entry(fd).or_insert((token, Path::Copies { left: 0 }));
        if *known != token {
            (*known, *path) = (token, Path::Copies { left: 0 });
        }
        match path {
            Path::Avoids => true,
            Path::Asking | Path::Never => false,
            Path::Copies { left: 0 } => {
                *path = Path::Asking;
                true
            }
            Path::Copies { left } => {
                *left -= 1;
                false
            }
        }
    }

    fn path(&mut self, token: Token, fd: RawFd) -> Option<&mut Path> {
        let (known, path) = self.paths.get_mut(&fd)?;
        (*known == token).then_some(path)
    }

    /// Notes the kernel's report on a send that asked.
    fn learn(&mut self, token: Token, fd: RawFd, copied: bool) {
        self.stats.sends += 1;
        self.stats.copied += u64::from(copied);
        let Some(path) = self.path(token, fd) else { return };
        match (*path, copied) {
            (Path::Asking | Path::Avoids, true) => {
                *path = Path::Copies { left: ASKED_AGAIN_AFTER };
            }
            (Path::Asking, false) => *path = Path::Avoids,
            // Reports on sends from before the path changed.
            (Path::Avoids, false) | (Path::Copies { .. } | Path::Never, _) => {}
        }
    }

    /// Notes that the kernel refused a request.
    fn refuse(&mut self, token: Token, fd: RawFd, errno: i32) {
        self.stats.refused += 1;
        if errno == libc::EINVAL {
            // The kernel does not know such reports (before Linux 6.2), so the driver would learn nothing.
            self.feature = None;
        }
        if let Some(path) = self.path(token, fd) {
            // Pinned memory counts towards a limit (ENOMEM, ENOBUFS). Other sends may leave space under it later.
            let is_for_now = matches!(errno, libc::ENOMEM | libc::ENOBUFS);
            *path = if is_for_now { Path::Copies { left: ASKED_AGAIN_AFTER } } else { Path::Never };
        }
    }

    fn forget(&mut self, fd: RawFd) {
        self.paths.remove(&fd);
    }
}

/// How many bytes of a list are in memory that lives independently of the send.
fn referenced_bytes(gather: &Gather) -> usize {
    let bytes = |segment: &Segment| match segment {
        Segment::Shared(_) | Segment::Lease(_) | Segment::Static(_) => segment.bytes().len(),
        Segment::Arena(_) | Segment::Head { .. } | Segment::File(_) => 0,
    };
    gather.segments().map(bytes).sum()
}

/// An entry that sends a message, asks the kernel not to copy, and asks for a report.
pub(super) fn entry(fd: types::Fd, header: *const msghdr) -> squeue::Entry {
    opcode::SendMsgZc::new(fd, header).ioprio(REPORT_USAGE).flags(SEND_FLAGS as u32).build()
}

impl Uring {
    /// The kernel has answered a send that may have asked. If it refused the request, submits the send again as an
    /// ordinary one and returns `true`.
    pub(super) fn note_answer(&mut self, op: OpId, entry: &cqueue::Entry) -> bool {
        let slot = self.slots.find(op).expect("the caller holds the slot");
        let (token, fd, cancelled) = (slot.token, slot.fd, slot.cancelled);
        let Kind::Send { zero_copy, .. } = &mut slot.kind else {
            unreachable!("checked by the caller")
        };
        if !zero_copy.asks {
            return false;
        }
        zero_copy.notifications += u32::from(cqueue::more(entry.flags()));
        let errno = -entry.result();
        let is_refusal =
            matches!(errno, libc::EOPNOTSUPP | libc::EINVAL | libc::ENOMEM | libc::ENOBUFS);
        if !is_refusal || cancelled {
            return false;
        }
        zero_copy.asks = false;
        zero_copy.refused = true;
        self.zero_copy.refuse(token, fd, errno);
        self.push_send(op);
        true
    }

    /// The kernel has answered for a whole send. A send whose memory it still reads waits until all available
    /// completions have been looked at: over loopback the notification is mostly among them, and then nothing has to be
    /// held.
    pub(super) fn end_send(&mut self, op: OpId, result: i32) -> Option<Completion> {
        let slot = self.slots.find(op).expect("the caller holds the slot");
        let Kind::Send { zero_copy, .. } = &mut slot.kind else {
            unreachable!("checked by the caller")
        };
        if zero_copy.notifications > 0 {
            zero_copy.answer = Some(result);
            self.zero_copy.answered.push(op);
            return None;
        }
        let Slot { token, kind: Kind::Send { gather, sent, message, .. }, .. } =
            self.slots.remove(op)
        else {
            unreachable!("seen above")
        };
        if let Some(message) = message {
            self.slots.give_message(message);
        }
        let error = outcome(result).err();
        Some(Completion::Sent { token, gather, bytes: sent, error })
    }

    /// Nothing else has completed: the answered sends complete now, each with a twin of its list, and their slots are
    /// held.
    pub(super) fn end_answered(&mut self) {
        while let Some(op) = self.zero_copy.answered.pop() {
            let slot = self.slots.find(op).expect("it ends here");
            // A kind without memory takes the place for a moment.
            let kind = std::mem::replace(&mut slot.kind, Kind::Readable);
            let Kind::Send { mut gather, sent, message, zero_copy } = kind else {
                unreachable!("only sends are answered so")
            };
            let twin = gather.twin(self.zero_copy.spare.pop().unwrap_or_default());
            slot.kind = Kind::Held { gather, message, zero_copy };
            self.zero_copy.held += 1;
            let error = zero_copy.answer.and_then(|result| outcome(result).err());
            let token = slot.token;
            self.ended.push_back(Completion::Sent { token, gather: twin, bytes: sent, error });
        }
    }

    /// The kernel is done with the memory of a send that asked.
    pub(super) fn complete_notification(&mut self, op: OpId, result: i32) -> Option<Completion> {
        let slot = self.slots.find(op).expect("checked by the caller");
        let (token, fd) = (slot.token, slot.fd);
        let (Kind::Send { zero_copy, .. } | Kind::Held { zero_copy, .. }) = &mut slot.kind else {
            unreachable!("only sends ask")
        };
        debug_assert!(zero_copy.notifications > 0, "a notification that was not announced");
        zero_copy.notifications -= 1;
        let Progress { refused, notifications, answer, .. } = *zero_copy;
        let is_held = matches!(slot.kind, Kind::Held { .. });
        if !refused {
            self.zero_copy.learn(token, fd, result as u32 & COPIED != 0);
        }
        if notifications > 0 {
            return None;
        }
        if is_held {
            self.let_go(op);
            return None;
        }
        let result = answer?;
        self.zero_copy.answered.retain(|&other| other != op);
        self.end_send(op, result)
    }

    /// Frees a held send: the kernel does not read it any more.
    fn let_go(&mut self, op: OpId) {
        self.zero_copy.held -= 1;
        let Kind::Held { mut gather, message, .. } = self.slots.remove(op).kind else {
            unreachable!("checked by the caller")
        };
        if let Some(message) = message {
            self.slots.give_message(message);
        }
        while gather.pop().is_some() {}
        if self.zero_copy.spare.len() < SPARE_LISTS_MAX {
            self.zero_copy.spare.push(gather);
        }
    }

    /// The ring is about to be dropped, and its outstanding notifications with it: keeps the memory of those sends for
    /// ever.
    pub(super) fn keep_held(&mut self) {
        static KEPT: OnceLock<Mutex<Vec<Gather>>> = OnceLock::new();
        let mut kept = KEPT
            .get_or_init(|| Mutex::new(Vec::new()))
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for op in self.slots.ids() {
            if let Kind::Held { gather, .. } = self.slots.remove(op).kind {
                kept.push(gather);
            }
        }
    }

    /// A descriptor is closed: forgets the path of its connection.
    pub(super) fn forget_path(&mut self, fd: &OwnedFd) {
        self.zero_copy.forget(fd.as_raw_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::Shared;

    const LARGE: usize = 64 << 10;

    fn zero_copy() -> ZeroCopy {
        ZeroCopy::new(Some(ZeroCopySends::for_tests()), LARGE)
    }

    fn large() -> Gather {
        let mut gather = Gather::new();
        gather.push(Segment::Head { bytes: [0; 10], len: 9 });
        gather.push(Segment::Shared(Shared::zeroed(LARGE)));
        gather
    }

    /// Whether a large send of connection `token` on descriptor 7 asks.
    fn asks(zero_copy: &mut ZeroCopy, token: Token) -> bool {
        zero_copy.choose(token, 7, &large()).asks
    }

    #[test]
    fn a_connection_whose_kernel_copies_asks_rarely() {
        let mut zero_copy = zero_copy();
        assert!(asks(&mut zero_copy, 1));
        assert!(!asks(&mut zero_copy, 1), "one answer is enough");
        zero_copy.learn(1, 7, true);
        let asked = (0..3 * (ASKED_AGAIN_AFTER + 1)).filter(|_| {
            let asked = asks(&mut zero_copy, 1);
            if asked {
                zero_copy.learn(1, 7, true);
            }
            asked
        });
        assert_eq!(asked.count(), 3);
        assert_eq!(zero_copy.stats(), ZeroCopyStats { sends: 4, copied: 4, refused: 0 });
    }

    #[test]
    fn a_connection_whose_kernel_avoids_the_copy_always_asks_until_it_does_not() {
        let mut zero_copy = zero_copy();
        assert!(asks(&mut zero_copy, 1));
        zero_copy.learn(1, 7, false);
        for _ in 0..10 {
            assert!(asks(&mut zero_copy, 1));
            zero_copy.learn(1, 7, false);
        }
        assert!(asks(&mut zero_copy, 1));
        // The route changed. A report on an earlier send that comes late changes nothing.
        zero_copy.learn(1, 7, true);
        assert!(!asks(&mut zero_copy, 1));
        zero_copy.learn(1, 7, false);
        assert!(!asks(&mut zero_copy, 1));
        let copies = (0..ASKED_AGAIN_AFTER - 2).filter(|_| asks(&mut zero_copy, 1)).count();
        assert_eq!(copies, 0);
        assert!(asks(&mut zero_copy, 1));
        zero_copy.learn(1, 7, false);
        assert!(asks(&mut zero_copy, 1), "the way back");
        assert_eq!(zero_copy.stats().copied, 1);
    }

    #[test]
    fn a_refusal_is_for_ever_for_a_while_or_for_all() {
        let mut zero_copy = zero_copy();
        assert!(asks(&mut zero_copy, 1));
        zero_copy.refuse(1, 7, libc::EOPNOTSUPP);
        assert_eq!((0..5000).filter(|_| asks(&mut zero_copy, 1)).count(), 0);
        assert!(asks(&mut zero_copy, 2), "the descriptor is another connection's now");
        zero_copy.refuse(2, 7, libc::ENOMEM);
        let left = ASKED_AGAIN_AFTER as usize + 1;
        assert_eq!((0..left).filter(|_| asks(&mut zero_copy, 2)).count(), 1);
        assert!(asks(&mut zero_copy, 3));
        zero_copy.refuse(3, 7, libc::EINVAL);
        assert!(!asks(&mut zero_copy, 4), "nobody asks where nothing is reported");
        assert_eq!(zero_copy.stats(), ZeroCopyStats { sends: 0, copied: 0, refused: 3 });
    }

    #[test]
    fn a_late_report_is_not_about_the_next_connection() {
        let mut zero_copy = zero_copy();
        assert!(asks(&mut zero_copy, 1));
        zero_copy.forget(7);
        zero_copy.learn(1, 7, false);
        assert!(zero_copy.paths.is_empty());
        assert!(asks(&mut zero_copy, 2));
        zero_copy.learn(1, 7, false);
        assert!(!asks(&mut zero_copy, 2), "still waiting for its own answer");
    }

    #[test]
    fn only_large_bodies_by_reference_count() {
        let mut zero_copy = zero_copy();
        let mut gather = Gather::new();
        gather.push(Segment::Arena(vec![0; 2 * LARGE]));
        gather.push(Segment::Shared(Shared::zeroed(LARGE - 1)));
        assert!(!zero_copy.choose(1, 7, &gather).asks);
        assert!(zero_copy.paths.is_empty());
        gather.push(Segment::Static(b"x"));
        assert!(zero_copy.choose(1, 7, &gather).asks);
        let mut masked = ZeroCopy::new(None, LARGE);
        assert!(!masked.choose(1, 7, &gather).asks);
    }
}
