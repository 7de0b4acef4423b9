//! Finds the frames in a stream of bytes, without copying them.

use std::ops::Range;

use super::{BODY_BYTES_MAX, FRAME_HEADER_BYTES_MAX, FrameFlags, Violation};

/// The result of [`Decoder::next`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A frame whose whole body lies inside the input; `at` is behind it.
    Frame {
        /// The frame's flags.
        flags: FrameFlags,
        /// The range of the body in the input.
        body: Range<usize>,
    },
    /// A frame whose header is complete but whose body is not; `at` is at the end of the input.
    ///
    /// The caller collects the remaining `body_bytes - have.len()` bytes itself. The decoder continues with the input
    /// behind them.
    Partial {
        /// The frame's flags.
        flags: FrameFlags,
        /// The length of the whole body.
        body_bytes: u64,
        /// The range of the first part of the body in the input; may be empty.
        have: Range<usize>,
    },
    /// The input ended between frames, or inside a header whose first bytes the decoder keeps.
    Starved,
}

/// Splits traffic into frames. See [`wire`](super) for their layout.
///
/// Invariant: `held_bytes` < the length of the header whose beginning `held` is, so at most 8 bytes are kept.
#[derive(Clone, Debug)]
pub struct Decoder {
    body_bytes_max: u64,
    held_bytes: usize,
    held: [u8; FRAME_HEADER_BYTES_MAX],
}

impl Decoder {
    /// A decoder at the start of a frame; it refuses bodies longer than `max_body_bytes`.
    ///
    /// `u64::MAX` means no limit but the protocol's own 2^63-1.
    #[must_use]
    pub fn new(max_body_bytes: u64) -> Self {
        Self { body_bytes_max: max_body_bytes, held_bytes: 0, held: [0; FRAME_HEADER_BYTES_MAX] }
    }

    /// The next frame of `input` from `*at` on; `*at` moves behind the consumed bytes.
    ///
    /// Call repeatedly until the result is [`Step::Starved`] or [`Step::Partial`]; all of `input` is then consumed.
    ///
    /// # Errors
    /// [`Violation::ReservedFlags`], [`Violation::CommandWithMore`], [`Violation::LengthOverflow`] and
    /// [`Violation::FrameTooLarge`], as soon as the header shows it. The connection is then over: do not call the
    /// decoder again.
    #[inline]
    pub fn next(&mut self, input: &[u8], at: &mut usize) -> Result<Step, Violation> {
        // The common case, a short message frame, is decided here; all other frames and all errors out of line.
        if self.held_bytes == 0
            && let Some(&[flags @ ..=FrameFlags::MORE, body_bytes, ..]) = input.get(*at..)
        {
            let start = *at + 2;
            let end = start + usize::from(body_bytes);
            if end <= input.len() && u64::from(body_bytes) <= self.body_bytes_max {
                *at = end;
                return Ok(Step::Frame { flags: FrameFlags(flags), body: start..end });
            }
        }
        if *at >= input.len() {
            return Ok(Step::Starved);
        }
        self.next_uncommon(input, at)
    }

    /// Whether the decoder holds no part of a header.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.held_bytes == 0
    }

    /// The body of the frame at `*at`, if that frame is a whole message, short, and not the last thing in the input;
    /// `*at` moves behind it. `None` changes nothing and says nothing about the frame: call [`Decoder::next`].
    ///
    /// Call only [between frames](Decoder::is_between_frames).
    #[inline(always)]
    pub fn next_plain(&self, input: &[u8], at: &mut usize) -> Option<Range<usize>> {
        debug_assert!(self.is_between_frames());
        let Some(&[0, body_bytes, ..]) = input.get(*at..) else { return None };
        let start = *at + 2;
        let end = start + usize::from(body_bytes);
        let is_plain = end < input.len() && u64::from(body_bytes) <= self.body_bytes_max;
        is_plain.then(|| {
            *at = end;
            start..end
        })
    }

    #[inline(never)]
    fn next_uncommon(&mut self, input: &[u8], at: &mut usize) -> Result<Step, Violation> {
        let rest = &input[*at..];
        let (flags, body_bytes, consumed) = if self.held_bytes == 0 && rest.len() >= 9 {
            let flags = check_flags(rest[0])?;
            let header_bytes = header_bytes(flags);
            (flags, announced(&rest[..header_bytes]), header_bytes)
        } else {
            match self.collect_header(rest)? {
                Some(header) => header,
                None => {
                    *at = input.len();
                    return Ok(Step::Starved);
                }
            }
        };
        self.check_length(body_bytes)?;
        let start = *at + consumed;
        let available = input.len() - start;
        if body_bytes <= available as u64 {
            let end = start + body_bytes as usize;
            *at = end;
            let body = start..end;
            Ok(Step::Frame { flags, body })
        } else {
            *at = input.len();
            Ok(Step::Partial { flags, body_bytes, have: start..input.len() })
        }
    }

    /// Joins the held part of a header with `rest`. Returns the flags, the length of the body and the number of header
    /// bytes in `rest`; `None` when the header is still incomplete and `rest` is used up.
    #[cold]
    fn collect_header(
        &mut self,
        rest: &[u8],
    ) -> Result<Option<(FrameFlags, u64, usize)>, Violation> {
        let Some(&first) = self.held[..self.held_bytes].first().or(rest.first()) else {
            return Ok(None);
        };
        let flags = check_flags(first)?;
        let header_bytes = header_bytes(flags);
        let taken = (header_bytes - self.held_bytes).min(rest.len());
        self.held[self.held_bytes..][..taken].copy_from_slice(&rest[..taken]);
        self.held_bytes += taken;
        if self.held_bytes < header_bytes {
            return Ok(None);
        }
        self.held_bytes = 0;
        Ok(Some((flags, announced(&self.held[..header_bytes]), taken)))
    }

    fn check_length(&self, announced: u64) -> Result<(), Violation> {
        if announced > BODY_BYTES_MAX {
            return Err(Violation::LengthOverflow { announced });
        }
        if announced > self.body_bytes_max {
            let max = self.body_bytes_max;
            return Err(Violation::FrameTooLarge { announced, max });
        }
        Ok(())
    }
}

fn check_flags(flags: u8) -> Result<FrameFlags, Violation> {
    const KNOWN: u8 = FrameFlags::MORE | FrameFlags::LONG | FrameFlags::COMMAND;
    const COMMAND_WITH_MORE: u8 = FrameFlags::MORE | FrameFlags::COMMAND;
    if flags & !KNOWN != 0 {
        return Err(Violation::ReservedFlags { flags });
    }
    if flags & COMMAND_WITH_MORE == COMMAND_WITH_MORE {
        return Err(Violation::CommandWithMore { flags });
    }
    Ok(FrameFlags(flags))
}

fn header_bytes(flags: FrameFlags) -> usize {
    if flags.bits() & FrameFlags::LONG == 0 { 2 } else { FRAME_HEADER_BYTES_MAX }
}

/// The length of the body according to a whole header, short or long.
fn announced(header: &[u8]) -> u64 {
    match *header {
        [_, a, b, c, d, e, f, g, h] => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        _ => u64::from(header[1]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::encoder::encode_frame;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const UNLIMITED: u64 = u64::MAX;

    /// A frame as a receiver sees it: flags without LONG, body.
    type Seen = (u8, Vec<u8>);

    /// Drives a decoder as a connection does: feeds the chunks and collects partial bodies itself.
    fn decode(chunks: &[&[u8]], max: u64) -> Result<Vec<Seen>, Violation> {
        let mut decoder = Decoder::new(max);
        let mut frames = Vec::new();
        let mut pending: Option<(u8, usize, Vec<u8>)> = None;
        for &chunk in chunks {
            let mut at = 0;
            loop {
                if let Some((flags, body_bytes, mut body)) = pending.take() {
                    let taken = (body_bytes - body.len()).min(chunk.len() - at);
                    body.extend_from_slice(&chunk[at..at + taken]);
                    at += taken;
                    if body.len() < body_bytes {
                        pending = Some((flags, body_bytes, body));
                        break;
                    }
                    frames.push((flags, body));
                }
                match decoder.next(chunk, &mut at)? {
                    Step::Frame { flags, body } => {
                        assert_eq!(body.end, at);
                        frames.push((flags.bits() & !FrameFlags::LONG, chunk[body].to_vec()));
                    }
                    Step::Partial { flags, body_bytes, have } => {
                        assert_eq!((at, have.end), (chunk.len(), chunk.len()));
                        assert!((have.len() as u64) < body_bytes);
                        let flags = flags.bits() & !FrameFlags::LONG;
                        pending = Some((flags, body_bytes as usize, chunk[have].to_vec()));
                        break;
                    }
                    Step::Starved => {
                        assert_eq!(at, chunk.len());
                        break;
                    }
                }
            }
        }
        Ok(frames)
    }

    fn chunks<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut chunks = Vec::new();
        for &size in sizes.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let (chunk, rest) = bytes.split_at(size.clamp(1, bytes.len()));
            chunks.push(chunk);
            bytes = rest;
        }
        chunks
    }

    #[test]
    fn a_batch_of_frames() {
        let input = b"\x01\x02ab\x00\x00\x04\x01c\x02\0\0\0\0\0\0\0\x01d";
        let frames = decode(&[input], UNLIMITED).unwrap();
        let expected: [Seen; 4] =
            [(1, b"ab".to_vec()), (0, vec![]), (4, b"c".to_vec()), (0, b"d".to_vec())];
        assert_eq!(frames, expected);
    }

    #[test]
    fn an_incomplete_body_is_reported_with_what_is_there() {
        let mut decoder = Decoder::new(UNLIMITED);
        let mut at = 0;
        let step = decoder.next(b"\x00\x05ab", &mut at);
        let partial = Step::Partial { flags: FrameFlags(0), body_bytes: 5, have: 2..4 };
        assert_eq!((step, at), (Ok(partial), 4));
        at = 0;
        assert_eq!(decoder.next(b"\x00", &mut at), Ok(Step::Starved));
        at = 0;
        let step = decoder.next(b"\x05", &mut at);
        let partial = Step::Partial { flags: FrameFlags(0), body_bytes: 5, have: 1..1 };
        assert_eq!((step, at), (Ok(partial), 1));
    }

    #[test]
    fn violations_show_at_the_earliest_octet() {
        let first = |input: &[u8], max| Decoder::new(max).next(input, &mut 0);
        for flags in 8..=255 {
            let reserved = Err(Violation::ReservedFlags { flags });
            assert_eq!(first(&[flags], UNLIMITED), reserved);
            assert_eq!(first(&[flags; 20], UNLIMITED), reserved);
        }
        for flags in [5, 7] {
            let with_more = Err(Violation::CommandWithMore { flags });
            assert_eq!(first(&[flags], UNLIMITED), with_more);
            assert_eq!(first(&[flags, 0], UNLIMITED), with_more);
        }
        let overflow = Violation::LengthOverflow { announced: 1 << 63 };
        let input = b"\x02\x80\0\0\0\0\0\0\0";
        assert_eq!(first(input, UNLIMITED), Err(overflow));
        let max = BODY_BYTES_MAX;
        let input = b"\x02\x7f\xff\xff\xff\xff\xff\xff\xff";
        assert!(
            matches!(first(input, max), Ok(Step::Partial { body_bytes, .. }) if body_bytes == max)
        );
    }

    #[test]
    fn the_limit_holds_for_both_forms() {
        let first = |input: &[u8], max| Decoder::new(max).next(input, &mut 0);
        let too_large = |announced, max| Err(Violation::FrameTooLarge { announced, max });
        assert_eq!(first(b"\x00\x03abc", 2), too_large(3, 2));
        assert_eq!(first(b"\x00\x03", 2), too_large(3, 2));
        assert!(first(b"\x00\x02ab", 2).is_ok());
        assert_eq!(first(b"\x02\0\0\0\0\0\0\x01\0", 255), too_large(256, 255));
        assert!(first(b"\x02\0\0\0\0\0\0\x01\0", 256).is_ok());
        assert!(first(b"\x00\x00", 0).is_ok());
    }

    fn frame() -> impl Strategy<Value = Seen> {
        let flags = prop_oneof![4 => Just(0u8), 2 => Just(1), 1 => Just(4)];
        let body = prop_oneof![4 => vec(any::<u8>(), 0..8), 1 => vec(any::<u8>(), 250..300)];
        (flags, body)
    }

    proptest! {
        #[test]
        fn any_fragmentation_gives_the_same_frames(
            frames in vec(frame(), 0..12),
            sizes in vec(1usize..40, 1..8),
        ) {
            let mut bytes = Vec::new();
            for (flags, body) in &frames {
                encode_frame(&mut bytes, flags & 1 != 0, flags & 4 != 0, body);
            }
            prop_assert_eq!(&decode(&chunks(&bytes, &sizes), UNLIMITED).unwrap(), &frames);
            prop_assert_eq!(&decode(&chunks(&bytes, &[1]), UNLIMITED).unwrap(), &frames);
        }

        #[test]
        fn garbage_is_seen_alike_under_any_fragmentation(
            bytes in vec(prop_oneof![3 => 0u8..8, 1 => any::<u8>()], 0..200),
            sizes in vec(1usize..40, 1..8),
        ) {
            let whole = decode(&[&bytes], 1000);
            prop_assert_eq!(decode(&chunks(&bytes, &sizes), 1000), whole);
        }
    }
}
