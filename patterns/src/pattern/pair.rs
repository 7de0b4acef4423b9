//! PAIR: messages both ways between two sockets (RFC 31).

use super::{
    Ahead, Arrived, Begun, Facts, Fate, Head, Misuse, Pattern, Plan, Reserve, Sends, Spread,
    Subscription, Takes, Verdict,
};
use crate::{frame::Frame, options::Options, route::PipeId, socket_type::SocketType};

/// It has no state of its own.
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
