//! The fixed 64 octets that open a connection.
//!
//! ```text
//!   0    1         9    10      11      12          32          33          64
//!   ┌────┬─────────┬────┬───────┬───────┬───────────┬───────────┬───────────┐
//!   │ FF │ padding │ 7F │ major │ minor │ mechanism │ as-server │ filler    │
//!   └────┴─────────┴────┴───────┴───────┴───────────┴───────────┴───────────┘
//!   mechanism: 20 octets of ASCII, padded with NUL
//! ```
//!
//! The padding has no meaning (libzmq puts a length there for peers of ZMTP 1). The NULL mechanism does not use the
//! last 32 octets.

use super::Violation;
use super::violation::printable;

/// The length of a greeting.
pub const GREETING_BYTES: usize = 64;

const SIGNATURE_END: usize = 9;
const MAJOR: usize = 10;
const MINOR: usize = 11;
const MECHANISM: std::ops::Range<usize> = 12..32;

/// This side's greeting, sent all at once: there is no downgrade below 3.0, so no need to wait for the peer's greeting.
pub(super) fn encode_greeting(mechanism: &'static str) -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    greeting[0] = 0xFF;
    greeting[SIGNATURE_END] = 0x7F;
    greeting[MAJOR] = 3;
    greeting[MINOR] = 1;
    greeting[MECHANISM][..mechanism.len()].copy_from_slice(mechanism.as_bytes());
    greeting
}

/// Collects the peer's greeting and checks each octet as it arrives.
#[derive(Clone, Debug)]
pub(super) struct GreetingReader {
    octets: [u8; GREETING_BYTES],
    have: usize,
}

impl GreetingReader {
    pub(super) fn new() -> Self {
        Self { octets: [0; GREETING_BYTES], have: 0 }
    }

    /// Takes the greeting's part from the front of `input`. Returns its length, and once the greeting is complete the
    /// minor version to speak (0 or 1).
    pub(super) fn handle_input(
        &mut self,
        input: &[u8],
        mechanism: &'static str,
    ) -> Result<(usize, Option<u8>), Violation> {
        let seen = self.have;
        let taken = (GREETING_BYTES - seen).min(input.len());
        self.octets[seen..][..taken].copy_from_slice(&input[..taken]);
        self.have += taken;
        self.check_from(seen, mechanism)?;
        let complete = self.have == GREETING_BYTES;
        Ok((taken, complete.then(|| self.minor())))
    }

    /// Checks the octets that arrived after `seen`, so that a foreign protocol is recognised by its first byte.
    fn check_from(&self, seen: usize, mechanism: &'static str) -> Result<(), Violation> {
        let arrived = |offset: usize| (seen..self.have).contains(&offset);
        for (offset, expected) in [(0, 0xFF), (SIGNATURE_END, 0x7F)] {
            let found = self.octets[offset];
            if arrived(offset) && found != expected {
                let offset = offset as u8;
                return Err(Violation::BadSignature { offset, found });
            }
        }
        let major = self.octets[MAJOR];
        if arrived(MAJOR) && major < 3 {
            return Err(Violation::UnsupportedVersion { major });
        }
        if arrived(MECHANISM.end - 1) {
            self.check_mechanism(mechanism)?;
        }
        Ok(())
    }

    fn check_mechanism(&self, ours: &'static str) -> Result<(), Violation> {
        let announced = &self.octets[MECHANISM];
        if announced == &encode_greeting(ours)[MECHANISM] {
            return Ok(());
        }
        let name_bytes = announced.iter().rposition(|&octet| octet != 0);
        let theirs = printable(&announced[..name_bytes.map_or(0, |last| last + 1)]);
        Err(Violation::MechanismMismatch { theirs })
    }

    /// A peer of a higher version must be accepted and spoken to in our version (RFC 37, "Version Negotiation").
    fn minor(&self) -> u8 {
        u8::from(self.octets[MAJOR] > 3 || self.octets[MINOR] >= 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(greeting: &[u8]) -> Result<(usize, Option<u8>), Violation> {
        GreetingReader::new().handle_input(greeting, "NULL")
    }

    #[test]
    fn our_own_greeting_has_the_layout_and_reads_back() {
        let greeting = encode_greeting("NULL");
        let mut expected = [0; GREETING_BYTES];
        expected[..16].copy_from_slice(b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01NULL");
        assert_eq!(greeting, expected);
        assert_eq!(read(&greeting), Ok((64, Some(1))));
    }

    #[test]
    fn only_the_greeting_is_consumed() {
        let mut input = encode_greeting("NULL").to_vec();
        input.extend(b"\x04\x00");
        assert_eq!(read(&input), Ok((64, Some(1))));
    }

    #[test]
    fn padding_as_server_and_filler_mean_nothing() {
        let mut greeting = encode_greeting("NULL");
        greeting[8] = 1;
        greeting[32..].fill(0xEE);
        assert_eq!(read(&greeting), Ok((64, Some(1))));
    }

    #[test]
    fn versions() {
        let minor = |major, minor| {
            let mut greeting = encode_greeting("NULL");
            (greeting[MAJOR], greeting[MINOR]) = (major, minor);
            read(&greeting).map(|(_, minor)| minor.unwrap())
        };
        assert_eq!(minor(3, 0), Ok(0));
        assert_eq!(minor(3, 1), Ok(1));
        assert_eq!(minor(3, 7), Ok(1));
        assert_eq!(minor(4, 0), Ok(1));
        for major in 0..3 {
            assert_eq!(minor(major, 1), Err(Violation::UnsupportedVersion { major }));
        }
    }

    #[test]
    fn strangers_are_recognised_early() {
        let bad = |offset, found| Err(Violation::BadSignature { offset, found });
        assert_eq!(read(b"G"), bad(0, b'G'));
        assert_eq!(read(b"\xff\0\0\0\0\0\0\0\x01\x00"), bad(9, 0));
        let too_old = Err(Violation::UnsupportedVersion { major: 1 });
        assert_eq!(read(b"\xff\0\0\0\0\0\0\0\x01\x7f\x01"), too_old);
        let other = encode_greeting("CURVE");
        let mismatch = Violation::MechanismMismatch { theirs: "CURVE".into() };
        assert_eq!(read(&other[..32]), Err(mismatch));
        assert!(read(&other[..31]).is_ok());
    }
}
