//! ZMTP 3.1 (RFC 37) without I/O: bytes and times go in, frames, bytes to send and deadlines come out.
//!
//! A connection is a greeting, a handshake and traffic:
//!
//! ```text
//!   Handshake::poll_transmit ──► bytes to send          (greeting, READY, or ERROR after a violation)
//!   Handshake::handle_input  ◄── received bytes          until Progress::Established
//!   Decoder::next            ◄── the bytes after that    ──► frames; command bodies go through Command::parse
//!   encode_header, encode_*  ──► frames to send
//!   Heartbeat                ◄── times                   ──► "send a PING", "the peer is gone"
//! ```
//!
//! A frame on the wire:
//!
//! ```text
//!            0          1                                   9
//!   short  ┌──────────┬──────────┬───────────────┐
//!          │ flags    │ length   │ body          │           0 to 255 bytes of body
//!          └──────────┴──────────┴───────────────┘
//!   long   ┌──────────┬─────────────────────────────────────┬───────────────┐
//!          │ flags    │ length, big-endian u64               │ body          │  0 to 2^63-1 bytes of body
//!          └──────────┴─────────────────────────────────────┴───────────────┘
//!   flags: bit 0 MORE, bit 1 LONG, bit 2 COMMAND, bits 3 to 7 zero; a command never has MORE
//! ```
//!
//! After the handshake nothing here allocates, except for the text inside a `Violation` and the buffers that a caller
//! passes for appending.

pub mod command;
pub mod decoder;
pub mod encoder;
pub mod greeting;
pub mod handshake;
pub mod heartbeat;
pub mod mechanism;
pub mod violation;

pub use command::{Command, PING_CONTEXT_BYTES_MAX};
pub use decoder::{Decoder, Step};
pub use encoder::{
    encode_cancel, encode_error, encode_frame, encode_header, encode_ping, encode_pong,
    encode_subscribe, short_header,
};
pub use greeting::GREETING_BYTES;
pub use handshake::{HANDSHAKE_COMMAND_BYTES_MAX, Handshake, Progress};
pub use heartbeat::{Heartbeat, HeartbeatAction};
pub use mechanism::{LocalPeer, PROPERTIES_MAX, PeerInfo, ROUTING_ID_BYTES_MAX};
pub use violation::Violation;

/// The length of the longest frame header: flags and an eight-byte length.
pub const FRAME_HEADER_BYTES_MAX: usize = 9;

/// The largest body a long frame may announce, 2^63-1 (RFC 37).
pub const BODY_BYTES_MAX: u64 = i64::MAX as u64;

/// The checked flags octet of a frame: no reserved bit is set, and a command has no MORE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameFlags(u8);

impl FrameFlags {
    /// More frames of this message follow.
    pub const MORE: u8 = 1;
    /// The length has eight bytes.
    pub const LONG: u8 = 2;
    /// A command, not part of a message.
    pub const COMMAND: u8 = 4;

    /// Whether more frames of this message follow.
    #[inline]
    #[must_use]
    pub const fn more(self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// Whether this frame is a command.
    #[inline]
    #[must_use]
    pub const fn command(self) -> bool {
        self.0 & Self::COMMAND != 0
    }

    /// The octet as received.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }
}
