//! PUSH: messages go to the peers in turn (RFC 30).

use super::{
    Ahead, Arrived, Begun, Dropped, Facts, Fate, Head, Misuse, Pattern, Plan, Reserve, Sends,
    Spread, Subscription, Takes, Verdict,
};
use crate::{frame::Frame, options::Options, route::PipeId, socket_type::SocketType};

/// The room of PUSH, which has no state.
#[derive(Debug)]
pub(crate) struct Push;

impl Pattern for Push {
    const FACTS: Facts = Facts {
        socket_type: SocketType::Push,
        sends: Sends::ByTurn,
        takes: Takes::Never,
        spread: Spread::Balanced,
        rotates: true,
        has_state: false,
        peers_max: usize::MAX,
    };

    fn new() -> Self {
        Self
    }
}

sends_by_turn!(Push);
never_receives!(Push);
knows_no_peers!(Push);
never_subscribes!(Push);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::{
        Peers, Receiving, Sending, Subscribing,
        testing::{A, arrived, begun, frames},
    };

    /// RFC 30, "The PUSH Socket Type": sends only.
    #[test]
    fn only_sends() {
        let (mut push, options) = (Push::new(), Options::default());
        assert_eq!(push.can_receive(), Err(&Misuse::Unsupported("receive")));
        let body = Arrived::Body(b"x");
        assert_eq!(push.arrive(A, body, &options), Verdict::Drop(Dropped::Malformed));
        let long = frames(&["x", "y"]);
        assert_eq!(push.arrive(A, arrived(&long), &options), Verdict::Drop(Dropped::Malformed));
        assert_eq!(push.ahead(A, begun(&long, ""), &options), Ahead::Unknown);
        assert!(push.wanted().is_none());
    }

    /// RFC 30: available peers by round-robin; without one a send blocks, and nothing is discarded.
    #[test]
    fn sends_to_the_peer_whose_turn_it_is() {
        let (mut push, options) = (Push::new(), Options::default());
        let mut told = 0;
        push.attach(A, &mut |_| told += 1);
        assert_eq!((push.can_send(&options), told), (Ok(()), 0));
        assert_eq!(push.begin(&options), Ok(Reserve::Turn));
        let Plan::InTurn { head, supersedes } = push.route(&options) else { panic!("by turn") };
        assert!(head.is_plain() && !head.is_delimited && !supersedes, "not modified");
        push.given(A);
        push.detach(A);
        assert_eq!(push.lost(A), Fate::Requeue);
        push.forget(A);
        const { assert!(Push::FACTS.rotates && Push::FACTS.peers_max == usize::MAX) };
    }

    #[test]
    fn has_no_subscriptions() {
        let (mut push, options) = (Push::new(), Options::default());
        let prefix = Subscription::Subscribe(b"a");
        assert_eq!(push.subscribe(prefix), Err(&Misuse::Unsupported("subscribe")));
        assert_eq!(push.command(A, prefix, &options), Verdict::Done);
        let cancel = push.subscribe(Subscription::Cancel(b"a"));
        assert_eq!(cancel, Err(&Misuse::Unsupported("unsubscribe")));
        assert_eq!(push.subscribers(b"a"), Err(&Misuse::Unsupported("have subscribers")));
        assert_eq!(push.subscriptions(A), 0);
    }
}
