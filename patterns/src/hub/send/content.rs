//! The content of a send, and how it gets into a peer's queue.

use zring_engine::{Shard, copies::Site};

use crate::{
    frame::Frame,
    hub::peer::Peer,
    message::{Message, Sendable},
    pattern::Head,
};

/// Borrowed bodies up to this size are copied straight into the send arena.
pub(crate) const COPY_BYTES_MAX: usize = 32 << 10;

/// The content of a send; borrowed bytes if they are copied anyway.
pub(crate) enum Content<'a> {
    Bytes(&'a [u8]),
    Message(&'a Message),
    /// A message with files in it, and the content that had to be read from them.
    Files(&'a Message, &'a Loaded),
}

/// The content of a message with files that has to be in memory.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// The bytes that subscriptions are compared with, if the first frame is a file.
    pub(crate) topic: Option<Frame>,
    /// All of the message, if it goes to a peer within the process.
    pub(crate) message: Option<Message>,
}

impl Content<'_> {
    pub(crate) fn topic(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Message(message) => message.body(),
            Self::Files(message, loaded) => {
                loaded.topic.as_ref().unwrap_or(message.first()).bytes()
            }
        }
    }

    /// The body, if the content is one frame in memory.
    pub(crate) fn single_body(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Message(message) => message.single_body(),
            Self::Files(..) => None,
        }
    }

    /// An owned message, behind its head.
    pub(crate) fn to_message(&self, head: Option<Head>) -> Message {
        let message = match self {
            Self::Bytes(bytes) => Message::single(Frame::copy_at(Site::Pending, bytes)),
            Self::Message(message) | Self::Files(message, _) => (*message).clone(),
        };
        match head {
            None => message,
            Some(head) => message.behind(head.to_frames()),
        }
    }

    /// Queues the message for a peer.
    #[inline]
    pub(crate) fn append_to(&self, peer: &mut Peer, shard: &mut Shard, head: Option<&Head>) {
        if peer.link.is_some() {
            return self.hand_over(peer, head);
        }
        if let Some(head) = head {
            if !head.is_plain() {
                append_frames(peer, shard, head);
            }
            if head.is_delimited {
                peer.outbox.append(&mut shard.arena, true, &[]);
            }
        }
        match self {
            Self::Bytes(bytes) => {
                peer.stats.bytes_out += bytes.len() as u64;
                if bytes.len() <= COPY_BYTES_MAX {
                    peer.outbox.append(&mut shard.arena, false, bytes);
                } else {
                    peer.outbox.append_message(&mut shard.arena, &Message::from(*bytes));
                }
            }
            Self::Message(message) | Self::Files(message, _) => {
                peer.stats.bytes_out += message.len() as u64;
                peer.outbox.append_message(&mut shard.arena, message);
            }
        }
    }

    /// As [`Content::append_to`], for a peer in the same process.
    #[inline(never)]
    fn hand_over(&self, peer: &mut Peer, head: Option<&Head>) {
        let Some(link) = &mut peer.link else { return };
        let is_delimited = head.is_some_and(|head| head.is_delimited);
        let small = self.single_body().filter(|_| head.is_none_or(Head::is_plain));
        let bytes = match small.filter(|body| link.push_small(body, is_delimited)) {
            Some(body) => body.len(),
            None => {
                let copied;
                let message = match self {
                    Self::Bytes(bytes) => {
                        copied = Message::from(*bytes);
                        &copied
                    }
                    Self::Message(message) => *message,
                    Self::Files(_, loaded) => {
                        loaded.message.as_ref().expect("read before it was routed to a link")
                    }
                };
                link.push_message(head.map_or_else(Vec::new, Head::to_frames), message);
                message.len()
            }
        };
        peer.stats.bytes_out += bytes as u64;
        // A message that is handed over counts as sent: the other end takes it even if this end is gone.
        peer.stats.messages_out += 1;
    }
}

fn append_frames(peer: &mut Peer, shard: &mut Shard, head: &Head) {
    for frame in head.numbered().iter().chain(&head.frames) {
        peer.outbox.append_frame(&mut shard.arena, true, frame);
        peer.stats.bytes_out += frame.len() as u64;
    }
}
