//! PAIR: messages both ways between two sockets (RFC 31).

use super::{
    Ahead, Arrived, Begun, Facts, Fate, Head, Misuse, Pattern, Plan, Reserve, Sends, Spread,
    Subscription, Takes, Verdict,
};
use crate::{frame::Frame, options::Options, route::PipeId, socket_type::SocketType};

/// The room of PAIR, which has no state.
#[derive(Debug)]
pub(crate) struct Pair;

impl Pattern for Pair {
    const FACTS: Facts = Facts {
        socket_type: SocketType::Pair,
        sends: Sends::ByTurn,
        takes: Takes::Freely,
        spread: Spread::One,
        rotates: true,
        has_state: false,
        peers_max: 1,
    };

    fn new() -> Self {
        Self
    }
}

sends_by_turn!(Pair);
takes_freely!(Pair);
knows_no_peers!(Pair);
never_subscribes!(Pair);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::{
        Receiving, Sending,
        testing::{A, arrived, begun, frames},
    };

    /// RFC 31: one peer at most.
    #[test]
    fn has_one_peer() {
        assert_eq!(Pair::FACTS.peers_max, 1);
    }

    /// RFC 31: sends and receives in any order, neither filtered nor modified.
    #[test]
    fn sends_and_receives_freely() {
        let (mut pair, options) = (Pair::new(), Options::default());
        for _ in 0..2 {
            assert_eq!((pair.can_send(&options), pair.can_receive()), (Ok(()), Ok(())));
            let Plan::InTurn { head, supersedes } = pair.route(&options) else { panic!("by turn") };
            assert!(head.is_plain() && !head.is_delimited && !supersedes);
            let whole = Verdict::Deliver { hidden: 0, kept: 0 };
            assert_eq!(pair.arrive(A, arrived(&frames(&["", "x"])), &options), whole);
            assert_eq!(pair.ahead(A, begun(&[], ""), &options), Ahead::Known(0));
        }
    }

    /// RFC 31: without an available peer a send blocks, and nothing is discarded.
    #[test]
    fn waits_for_its_peer() {
        let (mut pair, options) = (Pair::new(), Options::default());
        const { assert!(Pair::FACTS.rotates) };
        assert_eq!(pair.begin(&options), Ok(Reserve::Turn));
        assert_eq!(pair.lost(A), Fate::Requeue);
    }
}
