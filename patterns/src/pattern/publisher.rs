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
    route::{PipeId, SubscriptionTrie},
    socket_type::SocketType,
    wire::Command,
};

/// Who subscribes to what.
#[derive(Debug)]
pub(crate) struct Publisher {
    subscriptions: SubscriptionTrie,
}

impl Pattern for Publisher {
    const FACTS: Facts = Facts {
        socket_type: SocketType::Pub,
        sends: Sends::Decides,
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
    fn can_send(&self, _: &Options) -> Result<(), Misuse> {
        Ok(())
    }

    fn begin(&self, _: &Options) -> Result<Reserve, Misuse> {
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

    /// Other subscribers have had the message.
    fn lost(&mut self, _: PipeId) -> Fate {
        Fate::Drop
    }
}

impl Receiving for Publisher {
    fn can_receive(&self) -> Result<(), Misuse> {
        Err(Misuse::Unsupported("receive"))
    }

    fn filter(&self, _: &[u8]) -> bool {
        false
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

    /// Commands that were received before the end may have been decoded after it.
    fn forget(&mut self, peer: PipeId) {
        self.subscriptions.remove_pipe(peer);
    }
}

impl Subscribing for Publisher {
    fn subscribe(&mut self, change: Subscription<'_>) -> Result<bool, Misuse> {
        Err(cannot(change))
    }

    fn command(&mut self, from: PipeId, command: Subscription<'_>, options: &Options) -> Verdict {
        match command {
            Subscription::Subscribe(prefix) => {
                let usage = self.subscriptions.usage(from);
                let max = options.max_subscriptions_per_peer;
                if usage.count as u64 >= u64::from(max) {
                    return Verdict::End(DisconnectReason::TooManySubscriptions { max });
                }
                let bytes_max = options.max_subscription_bytes_per_peer;
                let bytes = usage.bytes as u64 + prefix.len() as u64;
                if prefix.len() > SUBSCRIPTION_BYTES_MAX || bytes > bytes_max {
                    return Verdict::End(DisconnectReason::TooManySubscriptionBytes { bytes_max });
                }
                self.subscriptions.subscribe(prefix, from);
            }
            Subscription::Cancel(prefix) => {
                self.subscriptions.cancel(prefix, from);
            }
        }
        Verdict::Done
    }

    fn subscribers(&mut self, topic: &[u8]) -> Result<usize, Misuse> {
        Ok(self.subscriptions.count_for(topic))
    }

    fn subscriptions(&self, peer: PipeId) -> usize {
        self.subscriptions.usage(peer).count
    }
}
