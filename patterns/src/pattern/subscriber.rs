//! SUB: the user receives the messages whose topics it subscribed to (RFC 29).

use super::{
    Ahead, Arrived, Begun, Dropped, Facts, Fate, Misuse, NO_SUBSCRIBERS, Pattern, Peers, Plan,
    Receiving, Reserve, SUBSCRIPTION_BYTES_MAX, Sends, Spread, Subscribing, Subscription, Takes,
    Verdict,
};
use crate::{
    frame::Frame,
    options::Options,
    route::{LocalSubscriptions, PipeId},
    socket_type::SocketType,
};

/// What the user subscribed to.
#[derive(Debug)]
pub(crate) struct Subscriber {
    subscriptions: LocalSubscriptions,
}

impl Pattern for Subscriber {
    const FACTS: Facts = Facts {
        socket_type: SocketType::Sub,
        sends: Sends::Never,
        takes: Takes::Matching,
        spread: Spread::Balanced,
        rotates: false,
        has_state: false,
        peers_max: usize::MAX,
    };

    fn new() -> Self {
        Self { subscriptions: LocalSubscriptions::new() }
    }
}

never_sends!(Subscriber);

impl Receiving for Subscriber {
    fn can_receive(&self) -> Result<(), Misuse> {
        Ok(())
    }

    /// A publisher may not have seen a cancellation yet, or filter nothing.
    #[inline]
    fn filter(&self, topic: &[u8]) -> bool {
        self.subscriptions.matches(topic)
    }

    fn ahead(&self, _: PipeId, begun: Begun<'_>, _: &Options) -> Ahead {
        match begun.frames.first() {
            Some(topic) if self.filter(topic.bytes()) => Ahead::Known(0),
            Some(_) => Ahead::Unknown,
            None if self.filter(begun.body) => Ahead::Known(0),
            None => Ahead::Likely(0),
        }
    }

    fn arrive(&mut self, _: PipeId, message: Arrived<'_>, _: &Options) -> Verdict {
        let topic = match message {
            Arrived::Body(body) => body,
            Arrived::Frames(frames) => frames.first().map_or(&[][..], Frame::bytes),
        };
        match self.filter(topic) {
            true => Verdict::Deliver { hidden: 0, kept: 0 },
            false => Verdict::Drop(Dropped::Unwanted),
        }
    }

    fn take(&mut self, _: Option<PipeId>, _: Vec<Frame>) {}
}

impl Peers for Subscriber {
    /// "SHALL send its subscriptions" to a publisher that it meets.
    fn attach(&mut self, _: PipeId, tell: &mut dyn FnMut(Subscription<'_>)) {
        for prefix in self.subscriptions.iter() {
            tell(Subscription::Subscribe(&prefix));
        }
    }

    fn detach(&mut self, _: PipeId) {}

    fn forget(&mut self, _: PipeId) {}
}

impl Subscribing for Subscriber {
    /// Publishers hear of the first subscription of a prefix and of the last cancellation.
    fn subscribe(&mut self, change: Subscription<'_>) -> Result<bool, Misuse> {
        match change {
            Subscription::Subscribe(prefix) if prefix.len() > SUBSCRIPTION_BYTES_MAX => {
                Err(Misuse::SubscriptionTooLong(prefix.len()))
            }
            Subscription::Subscribe(prefix) => Ok(self.subscriptions.subscribe(prefix)),
            Subscription::Cancel(prefix) => {
                Ok(self.subscriptions.unsubscribe(prefix) == Some(true))
            }
        }
    }

    fn command(&mut self, _: PipeId, _: Subscription<'_>, _: &Options) -> Verdict {
        Verdict::Done
    }

    fn subscribers(&mut self, _: &[u8]) -> Result<usize, Misuse> {
        Err(NO_SUBSCRIBERS)
    }

    fn subscriptions(&self, _: PipeId) -> usize {
        0
    }
}
