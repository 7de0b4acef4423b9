//! PUB: each message goes to the subscribers of its topic (RFC 29).

use super::{
    Ahead, Arrived, Begun, Dropped, Facts, Fate, Misuse, Pattern, Peers, Plan, Receiving, Reserve,
    SUBSCRIPTION_BYTES_MAX, Sending, Sends, Spread, Subscribing, Subscription, Takes, Verdict,
    cannot,
};
use crate::{
    frame::Frame,
    monitor::DisconnectReason,
    options::Options,
    route::{LocalSubscriptions, PipeId, SubscriptionTrie},
    socket_type::SocketType,
    wire::Command,
};

/// The subscriptions of all peers.
#[derive(Debug)]
pub(crate) struct Publisher {
    subscriptions: SubscriptionTrie,
}

impl Pattern for Publisher {
    const FACTS: Facts = Facts {
        socket_type: SocketType::Pub,
        sends: Sends::ToEach,
        takes: Takes::Never,
        spread: Spread::Everywhere,
        rotates: false,
        has_state: false,
        peers_max: usize::MAX,
    };

    fn new() -> Self {
        Self { subscriptions: SubscriptionTrie::new() }
    }
}

impl Sending for Publisher {
    fn can_send(&self, _: &Options) -> Result<(), &'static Misuse> {
        Ok(())
    }

    fn begin(&self, _: &Options) -> Result<Reserve, &'static Misuse> {
        Ok(Reserve::Nothing)
    }

    fn route(&mut self, _: &Options) -> Plan {
        Plan::Each
    }

    fn given(&mut self, _: PipeId) {}

    fn matches(&mut self, topic: &[u8], peers: &mut Vec<PipeId>) {
        self.subscriptions.matches(topic, &mut |peer| peers.push(peer));
    }

    fn spoiled(&mut self, _: Option<PipeId>) {}

    /// Drops them: other subscribers have had the same messages.
    fn lost(&mut self, _: PipeId) -> Fate {
        Fate::Drop
    }
}

impl Receiving for Publisher {
    fn can_receive(&self) -> Result<(), &'static Misuse> {
        Err(&Misuse::Unsupported("receive"))
    }

    fn wanted(&self) -> Option<&LocalSubscriptions> {
        None
    }

    fn ahead(&self, _: PipeId, _: Begun<'_>, _: &Options) -> Ahead {
        Ahead::Unknown
    }

    /// A subscriber of ZMTP 3.0 sends its subscriptions as messages of one frame.
    fn arrive(&mut self, from: PipeId, message: Arrived<'_>, options: &Options) -> Verdict {
        let command = match message {
            Arrived::Body(body) => Command::from_subscription_message(body),
            Arrived::Frames(_) => None,
        };
        match command {
            Some(Command::Subscribe(prefix)) => {
                self.command(from, Subscription::Subscribe(prefix), options)
            }
            Some(Command::Cancel(prefix)) => {
                self.command(from, Subscription::Cancel(prefix), options)
            }
            _ => Verdict::Drop(Dropped::Malformed),
        }
    }

    fn take(&mut self, _: Option<PipeId>, _: Vec<Frame>) {}
}

impl Peers for Publisher {
    fn attach(&mut self, _: PipeId, _: &mut dyn FnMut(Subscription<'_>)) {}

    fn detach(&mut self, peer: PipeId) {
        self.subscriptions.remove_pipe(peer);
    }

    /// Removes them again: commands that arrived before the end may be decoded after [`Peers::detach`].
    fn forget(&mut self, peer: PipeId) {
        self.subscriptions.remove_pipe(peer);
    }
}

impl Subscribing for Publisher {
    fn subscribe(&mut self, change: Subscription<'_>) -> Result<bool, &'static Misuse> {
        Err(cannot(change))
    }

    fn command(&mut self, from: PipeId, command: Subscription<'_>, options: &Options) -> Verdict {
        match command {
            Subscription::Subscribe(prefix) => {
                let usage = self.subscriptions.usage(from);
                let max = options.max_subscriptions_per_peer;
                if usage.count as u64 >= u64::from(max) {
                    return Verdict::End(DisconnectReason::TooManySubscriptions { max }.into());
                }
                let bytes_max = options.max_subscription_bytes_per_peer;
                let bytes = usage.bytes as u64 + prefix.len() as u64;
                if prefix.len() > SUBSCRIPTION_BYTES_MAX || bytes > bytes_max {
                    return Verdict::End(
                        DisconnectReason::TooManySubscriptionBytes { bytes_max }.into(),
                    );
                }
                self.subscriptions.subscribe(prefix, from);
            }
            Subscription::Cancel(prefix) => {
                self.subscriptions.cancel(prefix, from);
            }
        }
        Verdict::Done
    }

    fn subscribers(&mut self, topic: &[u8]) -> Result<usize, &'static Misuse> {
        Ok(self.subscriptions.count_for(topic))
    }

    fn subscriptions(&self, peer: PipeId) -> usize {
        self.subscriptions.usage(peer).count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::testing::{A, B, arrived, frames, options};

    fn subscribe(publisher: &mut Publisher, peer: PipeId, prefix: &[u8]) -> Verdict {
        publisher.command(peer, Subscription::Subscribe(prefix), &Options::default())
    }

    fn matched(publisher: &mut Publisher, topic: &[u8]) -> Vec<PipeId> {
        let mut peers = Vec::new();
        publisher.matches(topic, &mut peers);
        peers.sort();
        peers
    }

    /// RFC 29, "The PUB Socket Type": sends only, never blocks.
    #[test]
    fn only_sends_at_any_time() {
        let (mut publisher, options) = (Publisher::new(), Options::default());
        assert_eq!(publisher.can_receive(), Err(&Misuse::Unsupported("receive")));
        assert_eq!(publisher.can_send(&options), Ok(()));
        assert_eq!(publisher.begin(&options), Ok(Reserve::Nothing));
        assert!(matches!(publisher.route(&options), Plan::Each));
        const { assert!(!Publisher::FACTS.rotates) };
    }

    /// RFC 29: the subscription is compared with the start of the first frame; each subscriber gets a message once.
    #[test]
    fn matches_prefixes_and_names_each_subscriber_once() {
        let mut publisher = Publisher::new();
        assert_eq!(subscribe(&mut publisher, A, b""), Verdict::Done);
        assert_eq!(subscribe(&mut publisher, A, b"ab"), Verdict::Done);
        assert_eq!(subscribe(&mut publisher, B, b"ab"), Verdict::Done);
        assert_eq!(matched(&mut publisher, b"abc"), [A, B]);
        assert_eq!(matched(&mut publisher, b"a"), [A]);
        assert_eq!(publisher.subscribers(b"abc"), Ok(2));
        assert_eq!((publisher.subscriptions(A), publisher.subscriptions(B)), (2, 1));
    }

    /// RFC 29: subscription commands are the publisher's, not the user's; RFC 37: they may come as messages.
    #[test]
    fn takes_subscriptions_as_commands_and_as_messages() {
        let (mut publisher, options) = (Publisher::new(), Options::default());
        assert_eq!(publisher.arrive(A, Arrived::Body(b"\x01ab"), &options), Verdict::Done);
        assert_eq!(matched(&mut publisher, b"ab"), [A]);
        let cancel = Subscription::Cancel(b"ab");
        assert_eq!(publisher.command(A, cancel, &options), Verdict::Done);
        assert!(matched(&mut publisher, b"ab").is_empty());
        assert_eq!(publisher.command(A, cancel, &options), Verdict::Done, "one too many");
    }

    /// RFC 29: messages that subscribers send are discarded; here they are counted, too.
    #[test]
    fn drops_other_messages_of_subscribers() {
        let (mut publisher, options) = (Publisher::new(), Options::default());
        let malformed = Verdict::Drop(Dropped::Malformed);
        assert_eq!(publisher.arrive(A, Arrived::Body(b"\x02ab"), &options), malformed);
        assert_eq!(publisher.arrive(A, Arrived::Body(b""), &options), malformed);
        assert_eq!(publisher.arrive(A, arrived(&frames(&["\x01a", "b"])), &options), malformed);
    }

    /// RFC 29: when a subscriber disconnects, its queue is destroyed; its subscriptions go with it.
    #[test]
    fn forgets_a_subscriber_that_goes() {
        let mut publisher = Publisher::new();
        subscribe(&mut publisher, A, b"a");
        publisher.detach(A);
        assert!(matched(&mut publisher, b"a").is_empty());
        assert_eq!(publisher.lost(A), Fate::Drop);
        // A command that arrived before the end is decoded late.
        subscribe(&mut publisher, A, b"a");
        publisher.forget(A);
        assert!(matched(&mut publisher, b"a").is_empty(), "the slot's next peer has nothing");
    }

    #[test]
    fn bounds_what_a_peer_subscribes_to() {
        let mut publisher = Publisher::new();
        let options = options(|options| {
            options.max_subscriptions_per_peer = 2;
            options.max_subscription_bytes_per_peer = 5;
        });
        let mut subscribe =
            |prefix| publisher.command(A, Subscription::Subscribe(prefix), &options);
        assert_eq!(subscribe(b"abc"), Verdict::Done);
        let bytes_max = 5;
        let too_long =
            Verdict::End(DisconnectReason::TooManySubscriptionBytes { bytes_max }.into());
        assert_eq!(subscribe(b"def"), too_long);
        assert_eq!(subscribe(b"de"), Verdict::Done);
        let too_many = Verdict::End(DisconnectReason::TooManySubscriptions { max: 2 }.into());
        assert_eq!(subscribe(b""), too_many);
    }
}
