//! PULL: every message is the user's, from the peers in turn (RFC 30).

use super::{
    Ahead, Arrived, Begun, Facts, Fate, Misuse, Pattern, Plan, Reserve, Sends, Spread,
    Subscription, Takes, Verdict,
};
use crate::{frame::Frame, options::Options, route::PipeId, socket_type::SocketType};

/// It has no state of its own.
#[derive(Debug)]
pub(crate) struct Pull;

impl Pattern for Pull {
    const FACTS: Facts = Facts {
        socket_type: SocketType::Pull,
        sends: Sends::Never,
        takes: Takes::Freely,
        spread: Spread::Balanced,
        rotates: false,
        has_state: false,
        peers_max: usize::MAX,
    };

    fn new() -> Self {
        Self
    }
}

never_sends!(Pull);
takes_freely!(Pull);
knows_no_peers!(Pull);
never_subscribes!(Pull);
