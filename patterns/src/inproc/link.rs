//! A link: the pipe between two sockets of one process. Messages themselves travel, without a wire between.

use std::{fmt, sync::Arc};

use zring_engine::queue::{
    notice::Notice,
    parcel::{Parcel, SHORT_BYTES_MAX},
    spsc::{Consumer, Producer, Rotation, channel},
};

use crate::{frame::Frame, message::Message};

/// A message or a command on its way. A message of one frame with a short body lies in the queue itself: its
/// memory then stays with the thread that it came from. It is marked when an empty frame stands in front (REQ, REP).
pub(crate) enum Freight {
    Message(Message),
    /// An encoded command.
    Command(Box<[u8]>),
}

/// Where the memory of a hub's outgoing queues rests between two uses.
pub(crate) type Resting = Rotation<Parcel<Freight>>;

/// The two directions, as one end has them.
pub(crate) struct Queues {
    out: Producer<Parcel<Freight>>,
    into: Consumer<Parcel<Freight>>,
}

impl Queues {
    /// Both ends.
    pub(crate) fn pair() -> (Self, Self) {
        let ((there, from_here), (here, from_there)) = (channel(), channel());
        (Self { out: there, into: from_there }, Self { out: here, into: from_here })
    }
}

/// One end of a link. Dropping it tells the other end.
pub(crate) struct Link {
    // Dropped in this order: the other end is rung when the queues have been let go of.
    queues: Queues,
    there: Bell,
    here: Arc<Notice>,
    /// How many messages may be on their way.
    room: u64,
    /// Both ends belong to one hub.
    pub(crate) is_local: bool,
    /// This end's bell was left unanswered: its hub looks by itself.
    pub(crate) is_polled: bool,
    /// Messages put in since the other end was rung.
    unrung: u32,
}

/// Inside a batch scope the bell rings once for so many messages.
const UNRUNG_MAX: u32 = 64;

/// Rings when it goes.
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

    /// Puts something in. The other end is to be told ([`Link::ring`]).
    #[inline]
    pub(crate) fn push(&mut self, freight: Freight) {
        self.queues.out.push(Parcel::value(freight));
    }

    /// Puts a message of one frame in, if its body is short. As [`Link::push`].
    #[inline(always)]
    pub(crate) fn push_small(&mut self, body: &[u8], is_delimited: bool) -> bool {
        let is_short = body.len() <= SHORT_BYTES_MAX;
        if is_short {
            self.queues.out.push_with(|slot| Parcel::write_short(slot, is_delimited, body));
        }
        is_short
    }

    /// Puts a message of one short frame in if there is room for another one behind it, and rings; inside a batch scope
    /// only if the bell may wait, which somebody is to ring when the scope ends: `scope` says whether somebody is. Returns
    /// whether that was so; else nothing was done.
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

    /// Puts a message in, behind the frames that are to stand in front of it.
    #[inline(never)]
    pub(crate) fn push_message(&mut self, head: Vec<Frame>, message: &Message) {
        let whole = message.clone();
        self.push(Freight::Message(if head.is_empty() { whole } else { whole.behind(head) }));
    }

    /// Tells the other end that there is something.
    #[inline]
    pub(crate) fn ring(&self) {
        self.there.0.ring();
    }

    /// Counts a message that the other end was not told of. Returns whether it is time to ring.
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

    /// This end was rung and is about to look.
    pub(crate) fn answer(&self) {
        self.here.answer();
    }

    /// Whether one more message would be too many, beside so many for which room is reserved. If so, this end is rung
    /// when there is room.
    #[inline]
    pub(crate) fn is_full(&mut self, reserved: u64) -> bool {
        let room = self.room.saturating_sub(reserved);
        if self.queues.out.has_room(room) {
            return false;
        }
        // At half its capacity: to be woken for each message taken would cost more than to wait a little longer.
        let half = usize::try_from(self.room / 2).unwrap_or(usize::MAX / 4);
        self.here.ask_for_room(self.queues.out.position().wrapping_sub(half));
        !self.queues.out.has_room(room)
    }

    /// The oldest parcel, in its place.
    #[inline]
    pub(crate) fn peek(&self) -> Option<&Parcel<Freight>> {
        self.queues.into.peek()
    }

    /// Takes the oldest parcel, unless it is a short message, which is left out.
    pub(crate) fn pop(&mut self) -> Option<Freight> {
        self.queues.into.pop()?.into_value()
    }

    /// Drops the oldest parcel.
    #[inline]
    pub(crate) fn skip(&mut self) {
        self.queues.into.skip();
    }

    /// Something was taken out.
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
