//! The NULL mechanism: one READY command each way, or ERROR (RFC 37, "The NULL Security Mechanism").

use super::{LocalPeer, Outcome, encode_metadata, parse_metadata};
use crate::wire::Violation;
use crate::wire::command::{Command, READY};
use crate::wire::encoder::encode_command;
use crate::wire::violation::printable;

pub(super) const NAME: &str = "NULL";

/// Sends its READY at once, without waiting for the peer's, as both sides do in libzmq.
#[derive(Debug)]
pub(in crate::wire) struct Null {
    /// Our metadata until it is sent.
    unsent: Option<Vec<u8>>,
}

impl Null {
    pub(super) fn new(local: &LocalPeer) -> Self {
        Self { unsent: Some(encode_metadata(local)) }
    }

    pub(super) fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(metadata) = self.unsent.take() else {
            return false;
        };
        encode_command(out, READY, &[&metadata]);
        true
    }

    pub(super) fn handle_command(&mut self, body: &[u8]) -> Result<Outcome, Violation> {
        let unexpected = |name| {
            let name = printable(name);
            Err(Violation::CommandUnexpected { name })
        };
        match Command::parse(body)? {
            Command::Ready { metadata } => Ok(Outcome::Metadata(parse_metadata(metadata)?)),
            Command::Error { reason } => {
                let reason = printable(reason);
                Err(Violation::PeerError { reason })
            }
            Command::Unknown { name } => unexpected(name),
            Command::Subscribe(_) => unexpected(b"SUBSCRIBE"),
            Command::Cancel(_) => unexpected(b"CANCEL"),
            Command::Ping { .. } => unexpected(b"PING"),
            Command::Pong { .. } => unexpected(b"PONG"),
        }
    }
}
