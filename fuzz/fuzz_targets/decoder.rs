//! A stream gives the same frames, or the same violation, however it is split. Its frames, encoded again, decode to the
//! same frames.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use zring::wire::{Decoder, FrameFlags, Step, Violation, encode_frame};

const BODY_BYTES_MAX: u64 = 1 << 16;

#[derive(Arbitrary, Debug)]
struct Input {
    sizes: Vec<u8>,
    stream: Vec<u8>,
}

#[derive(Debug, PartialEq)]
struct Frame {
    more: bool,
    command: bool,
    body: Vec<u8>,
}

/// A body that the input ended in.
struct Pending {
    flags: FrameFlags,
    missing: usize,
    body: Vec<u8>,
}

#[derive(Default)]
struct Receiver {
    frames: Vec<Frame>,
    pending: Option<Pending>,
}

impl Receiver {
    fn push(&mut self, flags: FrameFlags, body: Vec<u8>) {
        self.frames.push(Frame { more: flags.more(), command: flags.command(), body });
    }

    /// Collects a pending body, as the owner of a decoder does. Returns the number of bytes taken from the chunk.
    fn collect(&mut self, chunk: &[u8]) -> usize {
        let Some(mut pending) = self.pending.take() else {
            return 0;
        };
        let taken = pending.missing.min(chunk.len());
        pending.body.extend_from_slice(&chunk[..taken]);
        pending.missing -= taken;
        if pending.missing == 0 {
            self.push(pending.flags, pending.body);
        } else {
            self.pending = Some(pending);
        }
        taken
    }

    fn receive(&mut self, decoder: &mut Decoder, chunk: &[u8]) -> Result<(), Violation> {
        let mut at = self.collect(chunk);
        if self.pending.is_some() {
            return Ok(());
        }
        loop {
            match decoder.next(chunk, &mut at)? {
                Step::Frame { flags, body } => self.push(flags, chunk[body].to_vec()),
                Step::Partial { flags, body_bytes, have } => {
                    assert_eq!(at, chunk.len());
                    assert!(body_bytes <= BODY_BYTES_MAX);
                    self.pending = Some(Pending {
                        flags,
                        missing: body_bytes as usize - have.len(),
                        body: chunk[have].to_vec(),
                    });
                    return Ok(());
                }
                Step::Starved => {
                    assert_eq!(at, chunk.len());
                    return Ok(());
                }
            }
        }
    }
}

fn decode(mut stream: &[u8], sizes: &[u8]) -> (Vec<Frame>, Result<(), Violation>) {
    let mut decoder = Decoder::new(BODY_BYTES_MAX);
    let mut receiver = Receiver::default();
    let mut sizes = sizes.iter().cycle();
    while !stream.is_empty() {
        let size = sizes.next().map_or(stream.len(), |&size| usize::from(size) + 1);
        let (chunk, rest) = stream.split_at(size.min(stream.len()));
        if let Err(violation) = receiver.receive(&mut decoder, chunk) {
            return (receiver.frames, Err(violation));
        }
        stream = rest;
    }
    (receiver.frames, Ok(()))
}

fuzz_target!(|input: Input| {
    let whole = decode(&input.stream, &[]);
    assert_eq!(decode(&input.stream, &input.sizes), whole);

    let mut encoded = Vec::new();
    for frame in &whole.0 {
        encode_frame(&mut encoded, frame.more, frame.command, &frame.body);
    }
    assert_eq!(decode(&encoded, &input.sizes), (whole.0, Ok(())));
});
