//! The bodies of command frames: a length-prefixed name, then data.

use super::Violation;

pub(super) const READY: &[u8] = b"READY";
pub(super) const ERROR: &[u8] = b"ERROR";
pub(super) const SUBSCRIBE: &[u8] = b"SUBSCRIBE";
pub(super) const CANCEL: &[u8] = b"CANCEL";
pub(super) const PING: &[u8] = b"PING";
pub(super) const PONG: &[u8] = b"PONG";

/// The longest context a PING may carry and a PONG echoes (RFC 37).
pub const PING_CONTEXT_BYTES_MAX: usize = 16;

/// A parsed command, borrowing from the frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command<'a> {
    /// The peer wants messages that begin with this prefix.
    Subscribe(&'a [u8]),
    /// The peer no longer wants messages that begin with this prefix.
    Cancel(&'a [u8]),
    /// The peer asks for a PONG. If the peer is then silent for longer than its TTL, it is to be considered dead.
    Ping {
        /// Tenths of a second; 0 for no limit.
        ttl_ds: u16,
        /// The bytes to echo; cut off after 16 bytes, as libzmq does.
        context: &'a [u8],
    },
    /// The answer to a PING.
    Pong {
        /// The context of that PING; cut off after 16 bytes.
        context: &'a [u8],
    },
    /// The NULL mechanism's metadata; only the handshake expects it.
    Ready {
        /// The properties, still encoded.
        metadata: &'a [u8],
    },
    /// The peer refuses to continue.
    Error {
        /// The reason; at most 255 bytes, not necessarily text.
        reason: &'a [u8],
    },
    /// A command that this version does not know. It is to be ignored, so that a later ZMTP may add commands.
    Unknown {
        /// The name, 1 to 255 bytes, not necessarily text.
        name: &'a [u8],
    },
}

impl<'a> Command<'a> {
    /// Parses the body of a command frame.
    ///
    /// # Errors
    /// [`Violation::CommandNameMissing`] when the name is missing or incomplete, [`Violation::CommandMalformed`] when a
    /// known command's data is too short.
    pub fn parse(body: &'a [u8]) -> Result<Self, Violation> {
        let (name, data) = split_short_string(body)
            .filter(|(name, _)| !name.is_empty())
            .ok_or(Violation::CommandNameMissing)?;
        Ok(match name {
            SUBSCRIBE => Self::Subscribe(data),
            CANCEL => Self::Cancel(data),
            PING => {
                let (ttl, context) = data
                    .split_first_chunk::<2>()
                    .ok_or(Violation::CommandMalformed { command: "PING" })?;
                Self::Ping { ttl_ds: u16::from_be_bytes(*ttl), context: bounded_context(context) }
            }
            PONG => Self::Pong { context: bounded_context(data) },
            READY => Self::Ready { metadata: data },
            ERROR => {
                // Bytes behind the reason are tolerated, as in libzmq.
                let (reason, _) = split_short_string(data)
                    .ok_or(Violation::CommandMalformed { command: "ERROR" })?;
                Self::Error { reason }
            }
            name => Self::Unknown { name },
        })
    }

    /// Parses a message body as a subscription of a ZMTP 3.0 peer: `01 prefix` or `00 prefix`.
    ///
    /// A publisher tries this on every single-frame message of a subscriber, whatever its minor version, because
    /// applications with an XSUB socket write such messages themselves. Returns `None` for any other body.
    #[must_use]
    pub fn from_subscription_message(body: &'a [u8]) -> Option<Self> {
        match body.split_first()? {
            (1, prefix) => Some(Self::Subscribe(prefix)),
            (0, prefix) => Some(Self::Cancel(prefix)),
            _ => None,
        }
    }
}

/// Splits off a string that follows one octet of length.
pub(super) fn split_short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&string_bytes, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(string_bytes))
}

fn bounded_context(context: &[u8]) -> &[u8] {
    &context[..context.len().min(PING_CONTEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::super::encoder::{
        encode_cancel, encode_error, encode_ping, encode_pong, encode_subscribe,
    };
    use super::*;
    use proptest::prelude::*;

    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut frame = Vec::new();
        encode(&mut frame);
        assert_eq!((frame[0], usize::from(frame[1])), (4, frame.len() - 2));
        frame.split_off(2)
    }

    #[test]
    fn what_is_encoded_parses() {
        let body = encoded(|out| encode_subscribe(out, b"abc", 1));
        assert_eq!(Command::parse(&body), Ok(Command::Subscribe(b"abc")));
        let body = encoded(|out| encode_cancel(out, b"", 1));
        assert_eq!(Command::parse(&body), Ok(Command::Cancel(b"")));
        let body = encoded(|out| encode_ping(out, 300, b"x"));
        let ping = Command::Ping { ttl_ds: 300, context: b"x" };
        assert_eq!(Command::parse(&body), Ok(ping));
        let body = encoded(|out| encode_pong(out, b""));
        assert_eq!(Command::parse(&body), Ok(Command::Pong { context: b"" }));
        let body = encoded(|out| encode_error(out, "why"));
        assert_eq!(Command::parse(&body), Ok(Command::Error { reason: b"why" }));
    }

    #[test]
    fn malformed_bodies_are_named() {
        for body in [&b""[..], b"\0", b"\0PING", b"\x05PING", b"\xff"] {
            assert_eq!(Command::parse(body), Err(Violation::CommandNameMissing));
        }
        for body in [&b"\x04PING"[..], b"\x04PING\0"] {
            let malformed = Violation::CommandMalformed { command: "PING" };
            assert_eq!(Command::parse(body), Err(malformed));
        }
        for body in [&b"\x05ERROR"[..], b"\x05ERROR\x02x"] {
            let malformed = Violation::CommandMalformed { command: "ERROR" };
            assert_eq!(Command::parse(body), Err(malformed));
        }
    }

    #[test]
    fn unknown_commands_are_tolerated_and_names_have_a_case() {
        let unknown = |name| Ok(Command::Unknown { name });
        assert_eq!(Command::parse(b"\x04JOINgroup"), unknown(b"JOIN"));
        assert_eq!(Command::parse(b"\x04ping"), unknown(b"ping"));
        assert_eq!(Command::parse(b"\x01\xff"), unknown(b"\xff"));
    }

    #[test]
    fn over_long_contexts_are_cut_off() {
        let mut body = b"\x04PING\0\x01".to_vec();
        body.extend([9; 100]);
        let ping = Command::Ping { ttl_ds: 1, context: &[9; PING_CONTEXT_BYTES_MAX] };
        assert_eq!(Command::parse(&body), Ok(ping));
    }

    #[test]
    fn subscription_messages() {
        let parse = Command::from_subscription_message;
        assert_eq!(parse(b"\x01a"), Some(Command::Subscribe(b"a")));
        assert_eq!(parse(b"\x00"), Some(Command::Cancel(b"")));
        assert_eq!(parse(b"\x02a"), None);
        assert_eq!(parse(b""), None);
    }

    proptest! {
        #[test]
        fn parse_never_panics(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Command::parse(&body);
        }
    }
}
