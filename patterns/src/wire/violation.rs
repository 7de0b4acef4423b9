//! Each way in which a peer can break the protocol, by name.

use crate::socket_type::SocketType;

/// A peer's violation of the protocol. Each ends the connection; none is ever caused by the network or by this side.
///
/// Text from the peer is cut off at 255 bytes and its control characters are replaced, so it can be logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The greeting does not begin with `FF`, eight octets and `7F`: the peer does not speak ZMTP 2 or later.
    #[error("greeting octet {offset} is {found:#04x}: not a ZMTP signature")]
    BadSignature {
        /// The index of the octet, 0 or 9.
        offset: u8,
        /// The octet received.
        found: u8,
    },
    /// The peer speaks a major version below 3.
    #[error("peer speaks ZMTP revision {major}, need 3 or later")]
    UnsupportedVersion {
        /// The major version octet of its greeting.
        major: u8,
    },
    /// The peer announced another security mechanism than ours.
    #[error("peer wants mechanism {theirs:?}, which is not ours")]
    MechanismMismatch {
        /// The mechanism the peer announced.
        theirs: Box<str>,
    },
    /// A frame has one of the reserved flag bits set.
    #[error("reserved bits set in frame flags {flags:#04x}")]
    ReservedFlags {
        /// The flags octet.
        flags: u8,
    },
    /// A command frame has the MORE bit set.
    #[error("command frame with MORE (flags {flags:#04x})")]
    CommandWithMore {
        /// The flags octet.
        flags: u8,
    },
    /// A long frame announces more than 2^63-1 bytes.
    #[error("frame announces {announced} bytes, beyond what ZMTP can carry")]
    LengthOverflow {
        /// The announced length of the body.
        announced: u64,
    },
    /// A frame announces more than this side accepts.
    #[error("frame announces {announced} bytes, at most {max} are accepted")]
    FrameTooLarge {
        /// The announced length of the body.
        announced: u64,
        /// The limit it exceeds.
        max: u64,
    },
    /// A message frame arrived before the handshake was over.
    #[error("message frame during the handshake")]
    MessageInHandshake,
    /// A command's body does not begin with a name.
    #[error("command without a name")]
    CommandNameMissing,
    /// A known command's data is too short or inconsistent.
    #[error("malformed {command} command")]
    CommandMalformed {
        /// The name of the command.
        command: &'static str,
    },
    /// The mechanism does not expect this command now.
    #[error("unexpected command {name:?} during the handshake")]
    CommandUnexpected {
        /// The name of the command.
        name: Box<str>,
    },
    /// The handshake's metadata ends in the middle of a property, or a value is longer than 2^31-1.
    #[error("malformed metadata property")]
    PropertyMalformed,
    /// A property name is empty or has characters that are not printable ASCII.
    #[error("invalid metadata property name")]
    PropertyNameInvalid,
    /// A property occurs twice.
    #[error("metadata property {name:?} repeated")]
    PropertyRepeated {
        /// The property's name.
        name: Box<str>,
    },
    /// The metadata has more properties than [`PROPERTIES_MAX`](super::PROPERTIES_MAX).
    #[error("too many metadata properties")]
    PropertiesTooMany,
    /// The metadata lacks the peer's socket type.
    #[error("metadata without Socket-Type")]
    SocketTypeMissing,
    /// RFC 37 does not name the peer's socket type.
    #[error("unknown socket type {name:?}")]
    SocketTypeUnknown {
        /// The announced name.
        name: Box<str>,
    },
    /// The two socket types cannot be connected.
    #[error("a {ours} socket cannot talk to a {theirs} socket")]
    SocketTypeIncompatible {
        /// The type of this socket.
        ours: SocketType,
        /// The type of the peer's socket.
        theirs: SocketType,
    },
    /// The peer's routing id is longer than 255 bytes.
    #[error("routing id of {bytes} bytes, at most 255 are allowed")]
    RoutingIdTooLong {
        /// The length of the routing id.
        bytes: usize,
    },
    /// The peer refused the handshake with an ERROR command.
    #[error("peer refused the handshake: {reason:?}")]
    PeerError {
        /// The peer's reason; may be empty.
        reason: Box<str>,
    },
}

/// Text of a peer for the log: at most 255 bytes, lossily decoded, control characters replaced.
pub(super) fn printable(bytes: &[u8]) -> Box<str> {
    let bytes = &bytes[..bytes.len().min(255)];
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_is_bounded_and_free_of_control_characters() {
        assert_eq!(&*printable(b"400"), "400");
        assert_eq!(&*printable(b"a\nb\x1b["), "a\u{fffd}b\u{fffd}[");
        assert_eq!(&*printable(&[0xff, b'x']), "\u{fffd}x");
        assert_eq!(printable(&[b'x'; 10_000]).len(), 255);
    }

    #[test]
    fn stays_small_because_the_decoder_returns_it_by_value() {
        assert!(size_of::<Violation>() <= 24);
    }
}
