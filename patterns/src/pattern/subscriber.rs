//! SUB: the user receives the messages whose topics it subscribed to (RFC 29).

use super::{
    Ahead, Arrived, Begun, Dropped, Facts, Fate, Misuse, NO_SUBSCRIBERS, Pattern, Peers, Plan,
    Receiving, Reserve, Sends, Spread, Subscribing, Subscription, Takes, Verdict,
};
use crate::{
    frame::Frame,
    options::Options,
    route::{LocalSubscriptions, PipeId},
    socket_type::SocketType,
};

/// The user's subscriptions.
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
    fn can_receive(&self) -> Result<(), &'static Misuse> {
        Ok(())
    }

    /// Filters again: a publisher may not have seen a cancellation yet, or may not filter at all.
    #[inline]
    fn wanted(&self) -> Option<&LocalSubscriptions> {
        Some(&self.subscriptions)
    }

    fn ahead(&self, _: PipeId, begun: Begun<'_>, _: &Options) -> Ahead {
        match begun.frames.first() {
            Some(topic) if self.subscriptions.matches(topic.bytes()) => Ahead::Known(0),
            Some(_) => Ahead::Unknown,
            None if self.subscriptions.matches(begun.body) => Ahead::Known(0),
            None => Ahead::Likely(0),
        }
    }

    fn arrive(&mut self, _: PipeId, message: Arrived<'_>, _: &Options) -> Verdict {
        let topic = match message {
            Arrived::Body(body) => body,
            Arrived::Frames(frames) => frames.first().map_or(&[][..], Frame::bytes),
        };
        match self.subscriptions.matches(topic) {
            true => Verdict::Deliver { hidden: 0, kept: 0 },
            false => Verdict::Drop(Dropped::Unwanted),
        }
    }

    fn take(&mut self, _: Option<PipeId>, _: Vec<Frame>) {}
}

impl Peers for Subscriber {
    /// Tells a new publisher all subscriptions.
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
    fn subscribe(&mut self, change: Subscription<'_>) -> Result<bool, &'static Misuse> {
        match change {
            Subscription::Subscribe(prefix) => Ok(self.subscriptions.subscribe(prefix)),
            Subscription::Cancel(prefix) => {
                Ok(self.subscriptions.unsubscribe(prefix) == Some(true))
            }
        }
    }

    fn command(&mut self, _: PipeId, _: Subscription<'_>, _: &Options) -> Verdict {
        Verdict::Done
    }

    fn subscribers(&mut self, _: &[u8]) -> Result<usize, &'static Misuse> {
        Err(NO_SUBSCRIBERS)
    }

    fn subscriptions(&self, _: PipeId) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::{
        Sending,
        testing::{A, arrived, begun, frames},
    };

    fn subscriber(prefixes: &[&str]) -> Subscriber {
        let mut subscriber = Subscriber::new();
        for prefix in prefixes {
            let subscribed = subscriber.subscribe(Subscription::Subscribe(prefix.as_bytes()));
            assert_eq!(subscribed, Ok(true));
        }
        subscriber
    }

    /// RFC 29, "The SUB Socket Type": receives only.
    #[test]
    fn only_receives() {
        let (subscriber, options) = (Subscriber::new(), Options::default());
        assert_eq!(subscriber.can_send(&options), Err(&Misuse::Unsupported("send")));
        assert_eq!(subscriber.can_receive(), Ok(()));
    }

    /// RFC 29: messages are filtered by prefix match, and delivered unmodified.
    #[test]
    fn delivers_what_was_subscribed_to() {
        let (mut subscriber, options) = (subscriber(&["ab"]), Options::default());
        let whole = Verdict::Deliver { hidden: 0, kept: 0 };
        let unwanted = Verdict::Drop(Dropped::Unwanted);
        assert_eq!(subscriber.arrive(A, Arrived::Body(b"abc"), &options), whole);
        assert_eq!(subscriber.arrive(A, Arrived::Body(b"a"), &options), unwanted);
        assert_eq!(subscriber.arrive(A, arrived(&frames(&["ab", ""])), &options), whole);
        assert_eq!(subscriber.arrive(A, arrived(&frames(&["", "ab"])), &options), unwanted);
        let nothing = Subscriber::new();
        assert!(!nothing.subscriptions.matches(b""), "without a subscription nothing is received");
    }

    /// Publishers hear of the first subscription of a prefix and of the last cancellation.
    #[test]
    fn counts_its_subscriptions() {
        let mut subscriber = subscriber(&["a"]);
        assert_eq!(subscriber.subscribe(Subscription::Subscribe(b"a")), Ok(false));
        assert_eq!(subscriber.subscribe(Subscription::Cancel(b"a")), Ok(false));
        assert_eq!(subscriber.subscribe(Subscription::Cancel(b"a")), Ok(true));
        assert_eq!(subscriber.subscribe(Subscription::Cancel(b"a")), Ok(false));
    }

    #[test]
    fn tells_a_new_publisher_of_all_subscriptions() {
        let mut subscriber = subscriber(&["", "ab", "c"]);
        let mut told = Vec::new();
        subscriber.attach(A, &mut |command| match command {
            Subscription::Subscribe(prefix) => told.push(prefix.to_vec()),
            Subscription::Cancel(_) => panic!("nothing to cancel"),
        });
        told.sort();
        assert_eq!(told, [&b""[..], b"ab", b"c"]);
    }

    #[test]
    fn a_message_under_way_is_known_by_its_topic() {
        let (subscriber, options) = (subscriber(&["ab"]), Options::default());
        let topic = frames(&["abc"]);
        assert_eq!(subscriber.ahead(A, begun(&topic, ""), &options), Ahead::Known(0));
        assert_eq!(subscriber.ahead(A, begun(&[], "abcd"), &options), Ahead::Known(0));
        assert_eq!(subscriber.ahead(A, begun(&[], "a"), &options), Ahead::Likely(0));
        let other = frames(&["b"]);
        assert_eq!(subscriber.ahead(A, begun(&other, "ab"), &options), Ahead::Unknown);
    }
}
