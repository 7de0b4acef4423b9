//! The socket types of ZMTP, and which of them may be connected (RFC 37, "The Socket-Type Property").

use std::fmt;

/// The pattern of a socket, announced to the peer in the handshake.
///
/// Contains every type that RFC 37 names, so that a peer's announcement always parses. Which types can be opened as a
/// local socket is decided where sockets are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SocketType {
    /// Sends a request, then receives its reply (RFC 28).
    Req,
    /// Receives a request, then sends its reply (RFC 28).
    Rep,
    /// Load-balances outgoing messages and fair-queues incoming ones (RFC 28).
    Dealer,
    /// Addresses each peer by its routing id (RFC 28).
    Router,
    /// Publishes to every subscriber whose subscription matches (RFC 29).
    Pub,
    /// As `Pub`, and hands subscriptions to the application (RFC 29).
    XPub,
    /// Receives messages that match its subscriptions (RFC 29).
    Sub,
    /// As `Sub`, with subscriptions sent as messages (RFC 29).
    XSub,
    /// Load-balances over its `Pull` peers (RFC 30).
    Push,
    /// Fair-queues from its `Push` peers (RFC 30).
    Pull,
    /// Talks to exactly one peer (RFC 31).
    Pair,
    /// Thread-safe, single-frame `Dealer` (RFC 41).
    Client,
    /// Thread-safe, single-frame `Router` (RFC 41).
    Server,
    /// Sends to named groups (RFC 48).
    Radio,
    /// Joins named groups (RFC 48).
    Dish,
    /// Thread-safe, single-frame `Push` (RFC 49).
    Scatter,
    /// Thread-safe, single-frame `Pull` (RFC 49).
    Gather,
    /// Addresses peers symmetrically (RFC 51).
    Peer,
    /// Thread-safe, single-frame `Pair` (RFC 52).
    Channel,
}

impl SocketType {
    /// Every socket type, in declaration order.
    pub const ALL: [SocketType; 19] = [
        Self::Req,
        Self::Rep,
        Self::Dealer,
        Self::Router,
        Self::Pub,
        Self::XPub,
        Self::Sub,
        Self::XSub,
        Self::Push,
        Self::Pull,
        Self::Pair,
        Self::Client,
        Self::Server,
        Self::Radio,
        Self::Dish,
        Self::Scatter,
        Self::Gather,
        Self::Peer,
        Self::Channel,
    ];

    /// The name on the wire, e.g. `"DEALER"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Req => "REQ",
            Self::Rep => "REP",
            Self::Dealer => "DEALER",
            Self::Router => "ROUTER",
            Self::Pub => "PUB",
            Self::XPub => "XPUB",
            Self::Sub => "SUB",
            Self::XSub => "XSUB",
            Self::Push => "PUSH",
            Self::Pull => "PULL",
            Self::Pair => "PAIR",
            Self::Client => "CLIENT",
            Self::Server => "SERVER",
            Self::Radio => "RADIO",
            Self::Dish => "DISH",
            Self::Scatter => "SCATTER",
            Self::Gather => "GATHER",
            Self::Peer => "PEER",
            Self::Channel => "CHANNEL",
        }
    }

    /// The socket type with a wire name. The match is exact: unlike property names, values are case-sensitive.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|socket_type| socket_type.name().as_bytes() == name)
    }

    /// Whether RFC 37 allows a connection between this type and `peer`. The relation is symmetric.
    #[must_use]
    pub const fn is_compatible_with(self, peer: Self) -> bool {
        match self {
            Self::Req => matches!(peer, Self::Rep | Self::Router),
            Self::Rep => matches!(peer, Self::Req | Self::Dealer),
            Self::Dealer => matches!(peer, Self::Rep | Self::Dealer | Self::Router),
            Self::Router => matches!(peer, Self::Req | Self::Dealer | Self::Router),
            Self::Pub | Self::XPub => matches!(peer, Self::Sub | Self::XSub),
            Self::Sub | Self::XSub => matches!(peer, Self::Pub | Self::XPub),
            Self::Push => matches!(peer, Self::Pull),
            Self::Pull => matches!(peer, Self::Push),
            Self::Pair => matches!(peer, Self::Pair),
            Self::Client => matches!(peer, Self::Server),
            Self::Server => matches!(peer, Self::Client),
            Self::Radio => matches!(peer, Self::Dish),
            Self::Dish => matches!(peer, Self::Radio),
            Self::Scatter => matches!(peer, Self::Gather),
            Self::Gather => matches!(peer, Self::Scatter),
            Self::Peer => matches!(peer, Self::Peer),
            Self::Channel => matches!(peer, Self::Channel),
        }
    }

    /// Whether a socket of this type announces its routing id: REQ, DEALER and ROUTER do. From other types the property
    /// is ignored (RFC 37, "The Identity Property").
    #[must_use]
    pub const fn announces_routing_id(self) -> bool {
        matches!(self, Self::Req | Self::Dealer | Self::Router)
    }
}

impl fmt::Display for SocketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_have_a_case() {
        for socket_type in SocketType::ALL {
            assert_eq!(SocketType::from_name(socket_type.name().as_bytes()), Some(socket_type));
        }
        assert_eq!(SocketType::from_name(b"req"), None);
        assert_eq!(SocketType::from_name(b"REQ\0"), None);
        assert_eq!(SocketType::from_name(b""), None);
    }

    #[test]
    fn compatibility_is_symmetric_and_every_type_has_a_partner() {
        for ours in SocketType::ALL {
            let partners = SocketType::ALL
                .into_iter()
                .filter(|&theirs| ours.is_compatible_with(theirs))
                .inspect(|&theirs| assert!(theirs.is_compatible_with(ours), "{ours} {theirs}"))
                .count();
            assert!(partners > 0, "{ours}");
        }
    }

    #[test]
    fn compatibility_follows_the_rfc_table() {
        let allowed: usize = SocketType::ALL
            .into_iter()
            .map(|ours| {
                SocketType::ALL
                    .into_iter()
                    .filter(|&theirs| ours.is_compatible_with(theirs))
                    .count()
            })
            .sum();
        // The number of marks in RFC 37's table.
        assert_eq!(allowed, 29);
        assert!(SocketType::Req.is_compatible_with(SocketType::Router));
        assert!(!SocketType::Req.is_compatible_with(SocketType::Dealer));
        assert!(!SocketType::Push.is_compatible_with(SocketType::Push));
    }
}
