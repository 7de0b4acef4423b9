//! Frames and commands as bytes.

use super::command::{CANCEL, ERROR, PING, PONG, SUBSCRIBE};
use super::{FRAME_HEADER_BYTES_MAX, FrameFlags, PING_CONTEXT_BYTES_MAX};

/// The header of a frame with a body of at most 255 bytes, as a value that never goes through memory.
#[inline]
#[must_use]
pub const fn short_header(more: bool, body_bytes: u8) -> [u8; 2] {
    [more as u8 * FrameFlags::MORE, body_bytes]
}

/// Writes a frame's header to the front of `out`; returns its length, 2 or 9.
///
/// The short form is used for every body of at most 255 bytes, as RFC 37 recommends.
#[inline]
pub fn encode_header(
    out: &mut [u8; FRAME_HEADER_BYTES_MAX],
    more: bool,
    command: bool,
    body_bytes: u64,
) -> usize {
    debug_assert!(!(more && command), "a command is a single frame");
    debug_assert!(body_bytes <= super::BODY_BYTES_MAX);
    let flags =
        if more { FrameFlags::MORE } else { 0 } | if command { FrameFlags::COMMAND } else { 0 };
    if let Ok(short) = u8::try_from(body_bytes) {
        out[0] = flags;
        out[1] = short;
        2
    } else {
        out[0] = flags | FrameFlags::LONG;
        out[1..].copy_from_slice(&body_bytes.to_be_bytes());
        FRAME_HEADER_BYTES_MAX
    }
}

/// Appends a whole frame.
pub fn encode_frame(out: &mut Vec<u8>, more: bool, command: bool, body: &[u8]) {
    append_header(out, more, command, body.len());
    out.extend_from_slice(body);
}

/// Appends a subscription for `prefix`: a SUBSCRIBE command, or for a peer of minor version 0 a message `01 prefix`.
pub fn encode_subscribe(out: &mut Vec<u8>, prefix: &[u8], minor: u8) {
    encode_subscription(out, SUBSCRIBE, 1, prefix, minor);
}

/// Appends the end of a subscription: a CANCEL command, or for a peer of minor version 0 a message `00 prefix`.
pub fn encode_cancel(out: &mut Vec<u8>, prefix: &[u8], minor: u8) {
    encode_subscription(out, CANCEL, 0, prefix, minor);
}

/// Appends a PING. `ttl_ds` is in tenths of a second, 0 for none; at most 16 bytes of `context` are sent.
pub fn encode_ping(out: &mut Vec<u8>, ttl_ds: u16, context: &[u8]) {
    let context = bounded_context(context);
    encode_command(out, PING, &[&ttl_ds.to_be_bytes(), context]);
}

/// Appends the PONG to a PING with `context`, of which at most 16 bytes are echoed.
pub fn encode_pong(out: &mut Vec<u8>, context: &[u8]) {
    encode_command(out, PONG, &[bounded_context(context)]);
}

/// Appends an ERROR; at most 255 bytes of `reason` are sent.
pub fn encode_error(out: &mut Vec<u8>, reason: &str) {
    let reason = &reason.as_bytes()[..reason.len().min(usize::from(u8::MAX))];
    encode_command(out, ERROR, &[&[reason.len() as u8], reason]);
}

/// Appends a command frame: the name's length, the name, then the parts one after another.
pub(super) fn encode_command(out: &mut Vec<u8>, name: &[u8], parts: &[&[u8]]) {
    debug_assert!((1..=255).contains(&name.len()));
    let data_bytes: usize = parts.iter().map(|part| part.len()).sum();
    append_header(out, false, true, 1 + name.len() + data_bytes);
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn encode_subscription(out: &mut Vec<u8>, name: &[u8], octet: u8, prefix: &[u8], minor: u8) {
    if minor == 0 {
        append_header(out, false, false, 1 + prefix.len());
        out.push(octet);
        out.extend_from_slice(prefix);
    } else {
        encode_command(out, name, &[prefix]);
    }
}

fn append_header(out: &mut Vec<u8>, more: bool, command: bool, body_bytes: usize) {
    let mut header = [0; FRAME_HEADER_BYTES_MAX];
    let header_bytes = encode_header(&mut header, more, command, body_bytes as u64);
    out.reserve(header_bytes + body_bytes);
    out.extend_from_slice(&header[..header_bytes]);
}

fn bounded_context(context: &[u8]) -> &[u8] {
    &context[..context.len().min(PING_CONTEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(more: bool, command: bool, body_bytes: u64) -> Vec<u8> {
        let mut out = [0xAA; FRAME_HEADER_BYTES_MAX];
        let header_bytes = encode_header(&mut out, more, command, body_bytes);
        out[..header_bytes].to_vec()
    }

    #[test]
    fn headers_switch_to_the_long_form_at_256() {
        assert_eq!(header(false, false, 0), [0, 0]);
        assert_eq!(header(true, false, 255), [1, 255]);
        assert_eq!(header(false, true, 7), [4, 7]);
        assert_eq!(header(true, false, 256), [3, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(header(false, true, 1 << 40), [6, 0, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn subscriptions_follow_the_minor_version() {
        let mut out = Vec::new();
        encode_subscribe(&mut out, b"ab", 1);
        assert_eq!(out, b"\x04\x0c\x09SUBSCRIBEab");
        out.clear();
        encode_cancel(&mut out, b"", 1);
        assert_eq!(out, b"\x04\x07\x06CANCEL");
        out.clear();
        encode_subscribe(&mut out, b"ab", 0);
        encode_cancel(&mut out, b"ab", 0);
        assert_eq!(out, b"\x00\x03\x01ab\x00\x03\x00ab");
    }

    #[test]
    fn heartbeats_and_errors() {
        let mut out = Vec::new();
        encode_ping(&mut out, 0x0102, b"ctx");
        assert_eq!(out, b"\x04\x0a\x04PING\x01\x02ctx");
        out.clear();
        encode_pong(&mut out, &[7; 40]);
        assert_eq!(out.len(), 2 + 5 + PING_CONTEXT_BYTES_MAX);
        out.clear();
        encode_error(&mut out, "no");
        assert_eq!(out, b"\x04\x09\x05ERROR\x02no");
        out.clear();
        encode_error(&mut out, &"x".repeat(1000));
        assert_eq!(out.len(), 9 + 7 + 255);
    }
}
