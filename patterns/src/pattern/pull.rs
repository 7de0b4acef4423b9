//! PULL: every message is the user's, from the peers in turn (RFC 30).

use super::{
    Ahead, Arrived, Begun, Facts, Fate, Misuse, Pattern, Plan, Reserve, Sends, Spread,
    Subscription, Takes, Verdict,
};
use crate::{frame::Frame, options::Options, route::PipeId, socket_type::SocketType};

/// The room of PULL, which has no state.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::{
        Receiving, Sending,
        testing::{A, arrived, begun, frames},
    };

    /// RFC 30, "The PULL Socket Type": receives only.
    #[test]
    fn only_receives() {
        let (mut pull, options) = (Pull::new(), Options::default());
        assert_eq!(pull.can_send(&options), Err(&Misuse::Unsupported("send")));
        assert_eq!(pull.begin(&options), Err(&Misuse::Unsupported("send")));
        assert!(matches!(pull.route(&options), Plan::Lost));
        assert_eq!(pull.lost(A), Fate::Drop);
        const { assert!(!Pull::FACTS.rotates) };
    }

    /// RFC 30: delivers what arrives, neither filtered nor modified.
    #[test]
    fn delivers_every_message_as_it_stands() {
        let (mut pull, options) = (Pull::new(), Options::default());
        assert_eq!(pull.can_receive(), Ok(()));
        let whole = Verdict::Deliver { hidden: 0, kept: 0 };
        assert_eq!(pull.arrive(A, Arrived::Body(b""), &options), whole);
        assert_eq!(pull.arrive(A, arrived(&frames(&["", "x"])), &options), whole);
        assert_eq!(pull.ahead(A, begun(&[], "x"), &options), Ahead::Known(0));
        pull.take(Some(A), Vec::new());
        assert_eq!(pull.can_receive(), Ok(()));
    }
}
