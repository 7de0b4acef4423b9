//! A bell between the two ends of a pipe: many reasons to look become one piece of mail.

use super::mailbox::{Mailbox, Postbox};
use crate::sync::{AtomicBool, AtomicUsize, Ordering, fence};

/// One end's bell. The other end rings it after putting values into this end's queues, after taking values out of a
/// full one, or when going away.
///
/// Ringing and answering are exchanges on one flag. A ring that posts nothing precedes the answer in the order of these
/// exchanges, so the answering end sees all that was done before the ring.
pub struct Notice {
    is_rung: AtomicBool,
    /// Set when this end found its queue full: it is rung once this many values have been taken out in all. 0: the
    /// queue was not full.
    wants_position: AtomicUsize,
    postbox: Postbox<u64>,
    token: u64,
}

impl Notice {
    /// A bell that posts `token`.
    #[must_use]
    pub fn new(postbox: Postbox<u64>, token: u64) -> Self {
        let (is_rung, wants_position) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { is_rung, wants_position, postbox, token }
    }

    /// The token that the bell posts.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether the bell posts to `mailbox`.
    #[must_use]
    pub fn posts_to(&self, mailbox: &Mailbox<u64>) -> bool {
        self.postbox.leads_to(mailbox)
    }

    /// Tells the end to look, unless an earlier ring has not been answered yet.
    #[inline]
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            self.postbox.post(self.token);
        }
    }

    /// The end is about to look.
    #[inline]
    pub fn answer(&self) {
        self.is_rung.swap(false, Ordering::AcqRel);
    }

    /// The end has found its queue full. After this call the end checks once more; it is rung when `position` values
    /// have been taken out in all.
    pub fn ask_for_room(&self, position: usize) {
        self.wants_position.store(position.max(1), Ordering::Relaxed);
        // Pairs with the fence in `ring_for_room`: either this end sees the room, or the other end sees the request.
        fence(Ordering::SeqCst);
    }

    /// The other end has taken values out of this end's queue: `position` in all.
    #[inline]
    pub fn ring_for_room(&self, position: usize) {
        fence(Ordering::SeqCst);
        let wanted = self.wants_position.load(Ordering::Relaxed);
        let is_reached = wanted != 0 && position.wrapping_sub(wanted) <= usize::MAX / 2;
        if is_reached && self.wants_position.swap(0, Ordering::AcqRel) != 0 {
            self.ring();
        }
    }
}

impl std::fmt::Debug for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notice").field("token", &self.token).finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::task::Waker;

    use super::*;
    use crate::{
        queue::{mailbox::mailbox, spsc::channel},
        sync::model::{Arc, thread},
    };

    /// A ring while the other end is looking is either seen by it or leaves mail.
    #[test]
    fn nothing_is_left_without_a_ring() {
        loom::model(|| {
            let (postbox, mut mailbox) = mailbox(Waker::noop().clone());
            let notice = Arc::new(Notice::new(postbox, 7));
            let (mut producer, mut consumer) = channel::<u32>();
            producer.push(1);
            notice.ring();
            let bell = Arc::clone(&notice);
            let sender = thread::spawn(move || {
                producer.push(2);
                bell.ring();
            });
            let mut mail = Vec::new();
            mailbox.drain(&mut mail);
            assert!(mail.contains(&7));
            notice.answer();
            let taken = std::iter::from_fn(|| consumer.pop()).count();
            sender.join().unwrap();
            let left = std::iter::from_fn(|| consumer.pop()).count();
            assert_eq!(taken + left, 2);
            assert!(left == 0 || !mailbox.is_empty(), "the end sleeps, and something waits for it");
        });
    }

    /// An end that finds the queue full, asks for room and checks again either sees the room or is rung.
    #[test]
    fn room_is_told_of() {
        loom::model(|| {
            let (postbox, mailbox) = mailbox(Waker::noop().clone());
            let notice = Arc::new(Notice::new(postbox, 7));
            let (mut producer, mut consumer) = channel::<u32>();
            producer.push(1);
            producer.push(2);
            let bell = Arc::clone(&notice);
            let receiver = thread::spawn(move || {
                for _ in 0..2 {
                    consumer.pop().unwrap();
                    bell.ring_for_room(consumer.position());
                }
                consumer
            });
            let mut is_full = !producer.has_room(2);
            if is_full {
                notice.ask_for_room(producer.position() - 1);
                is_full = !producer.has_room(2);
            }
            let _consumer = receiver.join().unwrap();
            assert!(!is_full || !mailbox.is_empty(), "the end waits for room that is there");
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::queue::mailbox::mailbox;

    fn mail(mailbox: &mut Mailbox<u64>) -> Vec<u64> {
        let mut mail = Vec::new();
        mailbox.drain(&mut mail);
        mail
    }

    #[test]
    fn it_rings_once_until_it_is_answered() {
        let (postbox, mut mailbox) = mailbox(Waker::noop().clone());
        let notice = Notice::new(postbox, 7);
        assert!(notice.posts_to(&mailbox));
        (0..3).for_each(|_| notice.ring());
        assert_eq!(mail(&mut mailbox), [7]);
        notice.ring();
        assert_eq!(mail(&mut mailbox), []);
        notice.answer();
        notice.ring();
        assert_eq!(mail(&mut mailbox), [7]);
    }

    #[test]
    fn room_is_told_of_when_so_much_was_taken() {
        let (postbox, mut mailbox) = mailbox(Waker::noop().clone());
        let notice = Notice::new(postbox, 7);
        notice.ring_for_room(5);
        assert_eq!(mail(&mut mailbox), [], "nobody asked");
        notice.ask_for_room(7);
        notice.ring_for_room(6);
        assert_eq!(mail(&mut mailbox), []);
        notice.ring_for_room(8);
        assert_eq!(mail(&mut mailbox), [7]);
        notice.answer();
        notice.ring_for_room(9);
        assert_eq!(mail(&mut mailbox), [], "told once");
    }
}
