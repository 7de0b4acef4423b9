//! Many threads tell one thread where to look, and wake it when it sleeps.
//!
//! ```text
//! Postbox ──┐  tail ─▶ [ m m m . . . . . ] ◀─ head  Mailbox     ring; each slot { stamp, mail }
//! Postbox ──┤              │ full?
//! Postbox ──┘              └─▶ overflow: Mutex<Vec>
//! ```
//! A slot's stamp is `p` when the slot is free for position `p`, and `p + 1` once that position's mail is in it. So the
//! reader polls the very line in which its mail arrives. The alternative was measured too, a vector under a lock with a
//! flag beside it, swapped out by the reader: a round trip between two spinning threads took twice as long, and so did
//! a post without contention. Besides, a poster descheduled with the lock held would stop the reader.

use std::{fmt, mem::MaybeUninit, sync::PoisonError, task::Waker};

use super::Line;
use crate::sync::{
    AtomicBool, AtomicUsize, Ordering, fence,
    model::{Arc, Mutex, MutexGuard, UnsafeCell},
};

/// Slots of the ring, a power of two.
const SLOTS: usize = if cfg!(loom) { 2 } else { 64 };

/// # Invariants
/// - `mail` is written by the poster that moved `tail` past this slot's position, before its stamp.
/// - `mail` is read by the reader alone, between that stamp and its own.
struct Slot<M> {
    stamp: AtomicUsize,
    mail: UnsafeCell<MaybeUninit<M>>,
}

/// Mail that found the ring full.
struct Overflow<M> {
    mail: Vec<M>,
    reader_is_gone: bool,
}

struct Shared<M> {
    ring: Line<[Slot<M>; SLOTS]>,
    /// The next position that a poster claims.
    tail: Line<AtomicUsize>,
    overflow: Line<Mutex<Overflow<M>>>,
    /// Flags that both sides mostly only read.
    flags: Line<Flags>,
    waker: Waker,
}

struct Flags {
    has_overflow: AtomicBool,
    /// The reader sleeps or is about to. The thread that clears the flag wakes the reader.
    is_armed: AtomicBool,
}

// SAFETY: mail moves from one thread to another by value; the invariants of `Slot` cover the sharing.
unsafe impl<M: Send> Sync for Shared<M> {}
// SAFETY: as above.
unsafe impl<M: Send> Send for Shared<M> {}

/// The reader's end. `Send`, for one thread at a time.
pub struct Mailbox<M> {
    shared: Arc<Shared<M>>,
    head: usize,
}

/// A posting end, for any thread; clones lead to the same mailbox.
pub struct Postbox<M> {
    shared: Arc<Shared<M>>,
}

/// A mailbox whose reader is woken with `waker`.
#[must_use]
pub fn mailbox<M: Copy + Send>(waker: Waker) -> (Postbox<M>, Mailbox<M>) {
    let slot = |position| Slot {
        stamp: AtomicUsize::new(position),
        mail: UnsafeCell::new(MaybeUninit::uninit()),
    };
    let shared = Arc::new(Shared {
        ring: Line(std::array::from_fn(slot)),
        tail: Line(AtomicUsize::new(0)),
        overflow: Line(Mutex::new(Overflow { mail: Vec::new(), reader_is_gone: false })),
        flags: Line(Flags {
            has_overflow: AtomicBool::new(false),
            is_armed: AtomicBool::new(false),
        }),
        waker,
    });
    (Postbox { shared: Arc::clone(&shared) }, Mailbox { shared, head: 0 })
}

impl<M> Shared<M> {
    /// Clears the flag; returns whether it was set. All changes of the flag are exchanges, so each is ordered after all
    /// that the other threads did before their change.
    fn take_arm(&self) -> bool {
        self.flags.is_armed.swap(false, Ordering::AcqRel)
    }
}

impl<M: Copy + Send> Shared<M> {
    /// Posts into the ring; returns whether it had room.
    #[inline]
    fn try_post(&self, mail: M) -> bool {
        let mut position = self.tail.load(Ordering::Relaxed);
        loop {
            let slot = &self.ring[position % SLOTS];
            // Acquire: the reader is done with the slot's earlier mail.
            let stamp = slot.stamp.load(Ordering::Acquire);
            if stamp != position {
                let now = self.tail.load(Ordering::Relaxed);
                if now == position {
                    return false;
                }
                position = now;
                continue;
            }
            let next = position.wrapping_add(1);
            match self.tail.compare_exchange_weak(
                position,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    // SAFETY: the position is this thread's, and its slot free.
                    slot.mail.with_mut(|at| unsafe { (*at).write(mail) });
                    // Release: a reader that sees the stamp sees the mail.
                    slot.stamp.store(next, Ordering::Release);
                    return true;
                }
                Err(now) => position = now,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Overflow<M>> {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cold]
    fn post_overflow(&self, mail: M) {
        let mut overflow = self.lock();
        if !overflow.reader_is_gone {
            overflow.mail.push(mail);
            self.flags.has_overflow.store(true, Ordering::Release);
        }
    }
}

impl<M: Copy + Send> Postbox<M> {
    /// Posts `mail` and wakes the reader if it sleeps. Mail may overtake other mail when much of it waits. Once the
    /// reader is gone, mail is dropped.
    #[inline]
    pub fn post(&self, mail: M) {
        if !self.shared.try_post(mail) {
            self.shared.post_overflow(mail);
        }
        // Pairs with the fence in `arm`: either the reader sees the mail, or this thread sees that the reader is armed.
        fence(Ordering::SeqCst);
        if self.shared.flags.is_armed.load(Ordering::Relaxed) && self.shared.take_arm() {
            self.shared.waker.wake_by_ref();
        }
    }
}

impl<M> Postbox<M> {
    /// Whether this is an end of `mailbox`.
    #[must_use]
    pub fn leads_to(&self, mailbox: &Mailbox<M>) -> bool {
        Arc::ptr_eq(&self.shared, &mailbox.shared)
    }
}

impl<M> Clone for Postbox<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M: Copy + Send> Mailbox<M> {
    /// Makes another posting end.
    #[must_use]
    pub fn postbox(&self) -> Postbox<M> {
        Postbox { shared: Arc::clone(&self.shared) }
    }

    /// Whether there is no mail at the moment: two loads of lines that change only when mail comes.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        let slot = &self.shared.ring[self.head % SLOTS];
        slot.stamp.load(Ordering::Acquire) != self.head.wrapping_add(1)
            && !self.shared.flags.has_overflow.load(Ordering::Acquire)
    }

    /// Appends the waiting mail to `into`. Takes at most one ring and the overflow, so it ends however fast other
    /// threads post.
    pub fn drain(&mut self, into: &mut Vec<M>) {
        for _ in 0..SLOTS {
            let Some(mail) = self.take() else { break };
            into.push(mail);
        }
        if self.shared.flags.has_overflow.load(Ordering::Acquire) {
            self.drain_overflow(into);
        }
    }

    #[inline]
    fn take(&mut self) -> Option<M> {
        let slot = &self.shared.ring[self.head % SLOTS];
        // Acquire: the mail was written before its stamp.
        if slot.stamp.load(Ordering::Acquire) != self.head.wrapping_add(1) {
            return None;
        }
        // SAFETY: stamped as full, and read once, since `head` moves on. `M` is `Copy`.
        let mail = slot.mail.with(|mail| unsafe { (*mail).assume_init() });
        // Release: our read comes before the slot's next use.
        slot.stamp.store(self.head.wrapping_add(SLOTS), Ordering::Release);
        self.head = self.head.wrapping_add(1);
        Some(mail)
    }

    #[cold]
    fn drain_overflow(&self, into: &mut Vec<M>) {
        let mut overflow = self.shared.lock();
        self.shared.flags.has_overflow.store(false, Ordering::Relaxed);
        into.append(&mut overflow.mail);
    }

    /// Call before sleeping. `true`: the next post wakes the reader; `false`: there is mail, do not sleep.
    #[must_use = "a reader that sleeps although there is mail may sleep for ever"]
    pub fn arm(&self) -> bool {
        self.shared.flags.is_armed.swap(true, Ordering::AcqRel);
        // Pairs with the fence in `post`.
        fence(Ordering::SeqCst);
        let is_empty = self.is_empty();
        if !is_empty {
            self.disarm();
        }
        is_empty
    }

    /// Call when awake again, for whatever reason: posts need not wake the reader any more.
    pub fn disarm(&self) {
        self.shared.take_arm();
    }
}

impl<M> Drop for Mailbox<M> {
    fn drop(&mut self) {
        // From here on no mail accumulates.
        let mut overflow = self.shared.overflow.lock().unwrap_or_else(PoisonError::into_inner);
        overflow.reader_is_gone = true;
        overflow.mail = Vec::new();
    }
}

impl<M> fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("head", &self.head).finish_non_exhaustive()
    }
}

impl<M> fmt::Debug for Postbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postbox").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
        thread,
    };

    use super::*;
    use crate::Parker;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn drained<M: Copy + Send>(mailbox: &mut Mailbox<M>) -> Vec<M> {
        let mut mail = Vec::new();
        mailbox.drain(&mut mail);
        mail
    }

    #[test]
    fn only_an_armed_reader_is_woken_and_only_once() {
        let count = Arc::new(Count::default());
        let wakes = || count.0.load(Ordering::Relaxed);
        let (postbox, mut mailbox) = mailbox(Arc::clone(&count).into());
        postbox.post(1);
        assert_eq!(wakes(), 0);
        assert!(!mailbox.is_empty() && !mailbox.arm(), "there is mail");
        postbox.post(2);
        assert_eq!(wakes(), 0, "a refused arm is none");
        assert_eq!(drained(&mut mailbox), [1, 2]);
        assert!(mailbox.is_empty() && mailbox.arm());
        postbox.clone().post(3);
        mailbox.postbox().post(4);
        assert_eq!(wakes(), 1, "the second finds it woken");
        assert_eq!(drained(&mut mailbox), [3, 4]);
        assert!(mailbox.arm());
        mailbox.disarm();
        postbox.post(5);
        assert_eq!(wakes(), 1);
    }

    #[test]
    fn more_than_the_ring_holds_is_kept() {
        let (postbox, mut mailbox) = mailbox(std::task::Waker::noop().clone());
        for round in 0..3 {
            (0..1_000).for_each(|mail| postbox.post(round * 1_000 + mail));
            assert!(!mailbox.is_empty() && !mailbox.arm());
            let mut mail = drained(&mut mailbox);
            mail.sort_unstable();
            assert!(mail.iter().copied().eq(round * 1_000..(round + 1) * 1_000));
            assert!(mailbox.is_empty());
        }
    }

    #[test]
    fn nothing_piles_up_without_a_reader() {
        let (postbox, mailbox) = mailbox(std::task::Waker::noop().clone());
        (0..100).for_each(|mail| postbox.post(mail));
        drop(mailbox);
        (0..1_000).for_each(|mail| postbox.post(mail));
        assert_eq!(postbox.shared.lock().mail.capacity(), 0);
    }

    #[test]
    fn mail_of_many_threads_reaches_a_sleeping_reader() {
        const MAIL: u64 = if cfg!(debug_assertions) { 30_000 } else { 300_000 };
        const POSTERS: u64 = 3;
        let parker = Parker::current();
        let (postbox, mut mailbox) = mailbox(parker.waker());
        let posters: Vec<_> = (0..POSTERS)
            .map(|poster| {
                let postbox = postbox.clone();
                thread::spawn(move || {
                    for mail in 0..MAIL {
                        postbox.post(poster * MAIL + mail);
                        if mail % 7 == poster {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut mail = Vec::new();
        while mail.len() < (POSTERS * MAIL) as usize {
            mailbox.drain(&mut mail);
            if mailbox.arm() && mail.len() < (POSTERS * MAIL) as usize {
                assert!(parker.park(Some(60_000_000_000)), "a wake was lost");
            }
            mailbox.disarm();
        }
        posters.into_iter().for_each(|poster| poster.join().unwrap());
        mail.sort_unstable();
        assert!(mail.iter().copied().eq(0..POSTERS * MAIL));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::Parker;

    /// Reads until `wanted` pieces are there and sleeps in between: a lost wake or lost mail is a deadlock.
    fn read(mailbox: &mut Mailbox<usize>, wanted: usize) -> Vec<usize> {
        let mut mail = Vec::new();
        loop {
            mailbox.drain(&mut mail);
            if mail.len() >= wanted {
                mail.sort_unstable();
                return mail;
            }
            if mailbox.arm() {
                assert!(Parker::current().park(None));
                mailbox.disarm();
            }
        }
    }

    #[test]
    fn a_sleeping_reader_is_woken() {
        loom::model(|| {
            let (postbox, mut mailbox) = mailbox(Parker::current().waker());
            let other = thread::spawn(move || (0..2).for_each(|mail| postbox.post(mail)));
            assert_eq!(read(&mut mailbox, 2), [0, 1]);
            other.join().unwrap();
        });
    }

    /// With room in the ring for both posts, and for one.
    #[test]
    fn posters_do_not_disturb_each_other() {
        for before in 0..2 {
            loom::model(move || {
                let (postbox, mut mailbox) = mailbox(Parker::current().waker());
                (0..before).for_each(|mail| postbox.post(mail));
                let others: Vec<_> = (before..before + 2)
                    .map(|mail| {
                        let postbox = postbox.clone();
                        thread::spawn(move || postbox.post(mail))
                    })
                    .collect();
                assert!(read(&mut mailbox, before + 2).into_iter().eq(0..before + 2));
                others.into_iter().for_each(|other| other.join().unwrap());
            });
        }
    }

    /// The ring (two slots here) is full or just being emptied.
    #[test]
    fn overflow_is_neither_lost_nor_slept_through() {
        loom::model(|| {
            let (postbox, mut mailbox) = mailbox(Parker::current().waker());
            (0..2).for_each(|mail| postbox.post(mail));
            let other = thread::spawn(move || (2..4).for_each(|mail| postbox.post(mail)));
            assert_eq!(read(&mut mailbox, 4), [0, 1, 2, 3]);
            other.join().unwrap();
        });
    }
}
