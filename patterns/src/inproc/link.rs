//! A link: the pair of queues between two sockets of one process. Messages travel as they are, without encoding.

use std::{fmt, sync::Arc};

use zring_engine::queue::{
    notice::Notice,
    parcel::{Parcel, SHORT_BYTES_MAX},
    spsc::{Consumer, Producer, Rotation, channel},
};

use crate::{frame::Frame, message::Message};

/// What a queue carries, except for a message of one frame with a short body. The bytes of such a message lie in the
/// queue itself, so that its memory stays with the sending thread. A mark on them says that an empty frame goes in
/// front (REQ, REP).
pub(crate) enum Freight {
    Message(Message),
    /// An encoded command.
    Command(Box<[u8]>),
}

/// Memory of a hub's outgoing queues between two uses.
pub(crate) type Resting = Rotation<Parcel<Freight>>;

/// The two queues, as one end has them.
pub(crate) struct Queues {
    out: Producer<Parcel<Freight>>,
    into: Consumer<Parcel<Freight>>,
}

impl Queues {
    /// The queues of both ends.
    pub(crate) fn pair() -> (Self, Self) {
        let ((there, from_here), (here, from_there)) = (channel(), channel());
        (Self { out: there, into: from_there }, Self { out: here, into: from_here })
    }
}

/// One end of a link. Dropping it tells the other end.
pub(crate) struct Link {
    // Dropped in this order: the bell rings the other end after the queues were released.
    queues: Queues,
    there: Bell,
    here: Arc<Notice>,
    /// How many messages may be in the outgoing queue.
    room: u64,
    /// Both ends belong to one hub.
    pub(crate) is_local: bool,
    /// This end's bell was left unanswered: its hub polls the queue instead.
    pub(crate) is_polled: bool,
    /// Messages queued in batch scopes since the bell was last due. A ring at the end of a scope does not reset this.
    unrung: u32,
}

/// Inside a batch scope the bell rings once for this many messages.
const UNRUNG_MAX: u32 = 64;

/// The other end's bell. Rings when it is dropped.
struct Bell(Arc<Notice>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.ring();
    }
}

impl Link {
    pub(crate) fn new(
        mut queues: Queues,
        resting: &Resting,
        here: Arc<Notice>,
        there: Arc<Notice>,
        room: u64,
        is_local: bool,
    ) -> Self {
        queues.out.rotate_in(resting);
        Self { queues, there: Bell(there), here, room, is_local, is_polled: false, unrung: 0 }
    }

    /// Queues something. The caller then has to ring the other end ([`Link::ring`]).
    #[inline]
    pub(crate) fn push(&mut self, freight: Freight) {
        self.queues.out.push(Parcel::value(freight));
    }

    /// Queues a message of one frame if its body is short, and returns whether it did. The caller then has to ring, as
    /// after [`Link::push`].
    #[inline(always)]
    pub(crate) fn push_small(&mut self, body: &[u8], is_delimited: bool) -> bool {
        let is_short = body.len() <= SHORT_BYTES_MAX;
        if is_short {
            self.queues.out.push_with(|slot| Parcel::write_short(slot, is_delimited, body));
        }
        is_short
    }

    /// Queues a message of one short frame, for another hub, if there is room for another one behind it, and rings.
    /// Inside a batch scope `scope` says whether the bell will be rung when the scope ends; the message is then queued
    /// only if so, without a ring, and only if the bell is not due before. Returns whether the message was queued; if
    /// not, nothing was done.
    #[inline(always)]
    pub(crate) fn send_plain(&mut self, body: &[u8], scope: Option<bool>) -> bool {
        let may_wait = match scope {
            None => true,
            Some(is_dirty) => is_dirty && self.unrung + 1 < UNRUNG_MAX,
        };
        let is_plain = may_wait && !self.is_local && body.len() <= SHORT_BYTES_MAX;
        if !is_plain || !self.queues.out.has_room(self.room.saturating_sub(1)) {
            return false;
        }
        self.queues.out.push_with(|slot| Parcel::write_short(slot, false, body));
        match scope {
            None => self.ring(),
            Some(_) => self.unrung += 1,
        }
        true
    }

    /// Queues a message, with the frames of `head` in front of it.
    #[inline(never)]
    pub(crate) fn push_message(&mut self, head: Vec<Frame>, message: &Message) {
        let whole = message.clone();
        self.push(Freight::Message(if head.is_empty() { whole } else { whole.behind(head) }));
    }

    /// Rings the other end's bell: there is something in its queue.
    #[inline]
    pub(crate) fn ring(&self) {
        self.there.0.ring();
    }

    /// Counts one more message that was queued without a ring. Returns whether it is time to ring.
    #[inline]
    pub(crate) fn is_overdue(&mut self) -> bool {
        self.unrung += 1;
        let is_overdue = self.unrung >= UNRUNG_MAX || self.is_local;
        if is_overdue {
            self.unrung = 0;
        }
        is_overdue
    }

    /// The token that the other end's bell posts.
    pub(crate) fn their_token(&self) -> u64 {
        self.there.0.token()
    }

    /// The token that this end's bell posts.
    pub(crate) fn token(&self) -> u64 {
        self.here.token()
    }

    /// Answers this end's bell; a look at the queue follows.
    pub(crate) fn answer(&self) {
        self.here.answer();
    }

    /// Whether there is no room for one more message, beside `reserved` others. If so, this end is rung when there is
    /// room.
    #[inline]
    pub(crate) fn is_full(&mut self, reserved: u64) -> bool {
        let room = self.room.saturating_sub(reserved);
        if self.queues.out.has_room(room) {
            return false;
        }
        // Ask to be rung when the queue is half empty: a wake-up for each message taken would cost more than a little
        // longer wait.
        let half = usize::try_from(self.room / 2).unwrap_or(usize::MAX / 4);
        self.here.ask_for_room(self.queues.out.position().wrapping_sub(half));
        !self.queues.out.has_room(room)
    }

    /// The oldest parcel, which stays in the queue.
    #[inline]
    pub(crate) fn peek(&self) -> Option<&Parcel<Freight>> {
        self.queues.into.peek()
    }

    /// Takes the oldest parcel. A short message is dropped and gives `None`, as an empty queue does.
    pub(crate) fn pop(&mut self) -> Option<Freight> {
        self.queues.into.pop()?.into_value()
    }

    /// Drops the oldest parcel.
    #[inline]
    pub(crate) fn skip(&mut self) {
        self.queues.into.skip();
    }

    /// Rings the other end if it waits for the room that was made by taking something.
    #[inline]
    pub(crate) fn popped(&self) {
        self.there.0.ring_for_room(self.queues.into.position());
    }

    #[inline]
    pub(crate) fn has_parcel(&self) -> bool {
        !self.queues.into.is_empty()
    }

    /// Whether the other end is gone and everything that it sent was taken.
    pub(crate) fn is_closed(&self) -> bool {
        self.queues.into.is_closed()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("is_local", &self.is_local).finish_non_exhaustive()
    }
}
