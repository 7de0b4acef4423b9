//! PUSH: messages go to the peers in turn (RFC 30).

use super::{
    Ahead, Arrived, Begun, Dropped, Facts, Fate, Head, Misuse, Pattern, Plan, Reserve, Sends,
    Spread, Subscription, Takes, Verdict,
};
use crate::{frame::Frame, options::Options, route::PipeId, socket_type::SocketType};

/// It has no state of its own.
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
