//! Security mechanisms: the commands between the greeting and traffic.
//!
//! NULL is the only one so far; PLAIN (RFC 24) and CURVE (RFC 25) will be further variants of `Mechanism`.

mod null;

use super::Violation;
use super::command::split_short_string;
use super::violation::printable;
use crate::socket_type::SocketType;

/// The longest routing id (RFC 37, "The Identity Property").
pub const ROUTING_ID_BYTES_MAX: usize = 255;
/// Most metadata properties that a peer may announce. Not part of ZMTP; it bounds the cost of a handshake.
pub const PROPERTIES_MAX: usize = 64;

const SOCKET_TYPE: &str = "Socket-Type";
const IDENTITY: &str = "Identity";

/// The information that this side announces about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPeer {
    /// The type of the local socket.
    pub socket_type: SocketType,
    /// At most 255 bytes; announced by REQ, DEALER and ROUTER only.
    pub routing_id: Vec<u8>,
}

/// The information that the peer announced about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The type of the peer's socket; compatible with ours.
    pub socket_type: SocketType,
    /// Empty if the peer announced none, or is of a type whose routing id is ignored. At most 255 bytes. It may begin
    /// with a zero octet, which RFC 37 reserves but libzmq lets applications set.
    pub routing_id: Vec<u8>,
    /// 0: the peer takes subscriptions as messages and knows no heartbeats. 1: ZMTP 3.1 or later.
    pub minor: u8,
    /// Every property as announced, Socket-Type and Identity included. Names are printable ASCII and have no case.
    pub properties: Vec<(String, Vec<u8>)>,
}

/// The state of this side's mechanism.
#[derive(Debug)]
pub(super) enum Mechanism {
    Null(null::Null),
}

/// The next step of the handshake after a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The peer's metadata, still to be checked. The mechanism is done once its last command is sent.
    Metadata(Properties),
}

/// Parsed metadata.
pub(super) type Properties = Vec<(String, Vec<u8>)>;

impl Mechanism {
    pub(super) fn null(local: &LocalPeer) -> Self {
        Self::Null(null::Null::new(local))
    }

    /// The name in the greeting.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Null(_) => null::NAME,
        }
    }

    /// Appends the next command to send, if it is our turn.
    pub(super) fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Null(null) => null.poll_transmit(out),
        }
    }

    /// Takes the body of a command frame.
    pub(super) fn handle_command(&mut self, body: &[u8]) -> Result<Outcome, Violation> {
        match self {
            Self::Null(null) => null.handle_command(body),
        }
    }
}

/// Checks a peer's metadata (RFC 37, "Connection Metadata").
pub(super) fn check_metadata(
    local: &LocalPeer,
    properties: Properties,
    minor: u8,
) -> Result<PeerInfo, Violation> {
    let name = property(&properties, SOCKET_TYPE).ok_or(Violation::SocketTypeMissing)?;
    let theirs = SocketType::from_name(name)
        .ok_or_else(|| Violation::SocketTypeUnknown { name: printable(name) })?;
    let ours = local.socket_type;
    if !ours.is_compatible_with(theirs) {
        return Err(Violation::SocketTypeIncompatible { ours, theirs });
    }
    let routing_id = if theirs.announces_routing_id() {
        property(&properties, IDENTITY).unwrap_or_default().to_vec()
    } else {
        Vec::new()
    };
    if routing_id.len() > ROUTING_ID_BYTES_MAX {
        let bytes = routing_id.len();
        return Err(Violation::RoutingIdTooLong { bytes });
    }
    Ok(PeerInfo { socket_type: theirs, routing_id, minor, properties })
}

/// The metadata this side announces.
fn encode_metadata(local: &LocalPeer) -> Vec<u8> {
    let mut out = Vec::new();
    encode_property(&mut out, SOCKET_TYPE, local.socket_type.name().as_bytes());
    if local.socket_type.announces_routing_id() {
        encode_property(&mut out, IDENTITY, &local.routing_id);
    }
    out
}

fn encode_property(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}

/// Parses metadata: a list of properties, each `short-size name`, then four octets of size and the value.
fn parse_metadata(mut metadata: &[u8]) -> Result<Properties, Violation> {
    let mut properties = Properties::new();
    while !metadata.is_empty() {
        if properties.len() == PROPERTIES_MAX {
            return Err(Violation::PropertiesTooMany);
        }
        let (name, value, rest) = split_property(metadata).ok_or(Violation::PropertyMalformed)?;
        // RFC 37 allows fewer characters, but libzmq lets applications choose names freely.
        if name.is_empty() || !name.iter().all(|octet| matches!(octet, b' '..=b'~')) {
            return Err(Violation::PropertyNameInvalid);
        }
        let name = String::from_utf8_lossy(name).into_owned();
        if property(&properties, &name).is_some() {
            let name = name.into_boxed_str();
            return Err(Violation::PropertyRepeated { name });
        }
        properties.push((name, value.to_vec()));
        metadata = rest;
    }
    Ok(properties)
}

/// Splits off the name and the value of the first property.
fn split_property(metadata: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = split_short_string(metadata)?;
    let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
    let value_bytes = usize::try_from(i32::from_be_bytes(*value_bytes)).ok()?;
    let (value, rest) = rest.split_at_checked(value_bytes)?;
    Some((name, value, rest))
}

fn property<'a>(properties: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    properties
        .iter()
        .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(socket_type: SocketType) -> LocalPeer {
        LocalPeer { socket_type, routing_id: b"id".to_vec() }
    }

    fn check(ours: SocketType, metadata: &[u8]) -> Result<PeerInfo, Violation> {
        check_metadata(&local(ours), parse_metadata(metadata)?, 1)
    }

    #[test]
    fn the_routing_id_is_announced_by_three_types_only() {
        for socket_type in SocketType::ALL {
            let announced = encode_metadata(&local(socket_type));
            let properties = parse_metadata(&announced).unwrap();
            let expected = [SocketType::Req, SocketType::Dealer, SocketType::Router];
            let identity = property(&properties, IDENTITY);
            assert_eq!(identity.is_some(), expected.contains(&socket_type));
        }
    }

    #[test]
    fn names_have_no_case_and_unknown_properties_are_kept() {
        let metadata = b"\x0bSOCKET-type\0\0\0\x03REQ\x08iDENTITY\0\0\0\x01x\x03X-a\0\0\0\0";
        let peer = check(SocketType::Rep, metadata).unwrap();
        assert_eq!(peer.socket_type, SocketType::Req);
        assert_eq!(peer.routing_id, b"x");
        assert_eq!(peer.properties.len(), 3);
        assert_eq!(peer.properties[2], ("X-a".to_owned(), vec![]));
    }

    #[test]
    fn the_routing_id_of_other_types_is_ignored() {
        let mut metadata = b"\x0bSocket-Type\0\0\0\x04PUSH\x08Identity\0\0\x01\x00".to_vec();
        metadata.extend([b'x'; 256]);
        assert_eq!(check(SocketType::Pull, &metadata).unwrap().routing_id, b"");
    }

    #[test]
    fn an_over_long_routing_id_is_refused() {
        let mut metadata = b"\x0bSocket-Type\0\0\0\x03REQ\x08Identity\0\0\x01\x00".to_vec();
        metadata.extend([b'x'; 256]);
        let too_long = Violation::RoutingIdTooLong { bytes: 256 };
        assert_eq!(check(SocketType::Rep, &metadata), Err(too_long));
    }

    #[test]
    fn socket_types_are_judged() {
        assert_eq!(check(SocketType::Rep, b""), Err(Violation::SocketTypeMissing));
        let unknown = Violation::SocketTypeUnknown { name: "req".into() };
        let metadata = b"\x0bSocket-Type\0\0\0\x03req";
        assert_eq!(check(SocketType::Rep, metadata), Err(unknown));
        let incompatible =
            Violation::SocketTypeIncompatible { ours: SocketType::Pull, theirs: SocketType::Req };
        let metadata = b"\x0bSocket-Type\0\0\0\x03REQ";
        assert_eq!(check(SocketType::Pull, metadata), Err(incompatible));
    }

    #[test]
    fn malformed_metadata_is_named() {
        let whole = b"\x0bSocket-Type\0\0\0\x03REQ";
        for cut in 1..whole.len() {
            let malformed = Err(Violation::PropertyMalformed);
            assert_eq!(parse_metadata(&whole[..cut]), malformed, "{cut}");
        }
        let huge = parse_metadata(b"\x01a\xff\xff\xff\xffxx");
        assert_eq!(huge, Err(Violation::PropertyMalformed));
        for metadata in [&b"\0\0\0\0\0"[..], b"\x01\n\0\0\0\0", b"\x01\xff\0\0\0\0"] {
            let invalid = Err(Violation::PropertyNameInvalid);
            assert_eq!(parse_metadata(metadata), invalid);
        }
        let repeated = Violation::PropertyRepeated { name: "A".into() };
        let metadata = b"\x01a\0\0\0\0\x01A\0\0\0\0";
        assert_eq!(parse_metadata(metadata), Err(repeated));
    }

    #[test]
    fn the_number_of_properties_is_bounded() {
        let mut metadata = Vec::new();
        for i in 0..PROPERTIES_MAX {
            encode_property(&mut metadata, &format!("X-{i}"), b"");
        }
        assert_eq!(parse_metadata(&metadata).unwrap().len(), PROPERTIES_MAX);
        encode_property(&mut metadata, "X-last", b"");
        assert_eq!(parse_metadata(&metadata), Err(Violation::PropertiesTooMany));
    }
}
