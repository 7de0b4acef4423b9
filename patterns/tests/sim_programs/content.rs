//! Messages that show whether they arrived as sent.
//!
//! ```text
//! first frame: [topic u8][0 u8][sender u16][number u32] and bytes that follow from these; further frames: only such bytes
//! ```

use std::{cell::RefCell, collections::BTreeMap, fs::File, os::unix::fs::FileExt, sync::Arc};

use zring::{Frame, Message};
use zring_engine::sim::World;

pub(crate) const HEADER_BYTES: usize = 8;

/// The identity of a message, carried in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag {
    pub(crate) topic: u8,
    pub(crate) sender: u16,
    pub(crate) number: u32,
}

/// The frame lengths of every message made.
#[derive(Debug, Default)]
pub(crate) struct Shapes(RefCell<BTreeMap<Tag, Vec<usize>>>);

fn byte(tag: Tag, frame: usize, at: usize) -> u8 {
    let word = u64::from(tag.number) << 32 ^ u64::from(tag.sender) << 16 ^ (frame as u64) << 8;
    let word = (word ^ (at as u64 / 8) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()[at % 8]
}

fn body(tag: Tag, frame: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| byte(tag, frame, at)).collect()
}

/// The tag in the first frame of a message.
#[track_caller]
fn tag_of(body: &[u8]) -> Tag {
    assert!(body.len() >= HEADER_BYTES, "a message of {} bytes arrived", body.len());
    let sender = u16::from_be_bytes([body[2], body[3]]);
    let number = u32::from_be_bytes([body[4], body[5], body[6], body[7]]);
    Tag { topic: body[0], sender, number }
}

fn header(tag: Tag) -> [u8; HEADER_BYTES] {
    let mut header = [tag.topic, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&tag.sender.to_be_bytes());
    header[4..].copy_from_slice(&tag.number.to_be_bytes());
    header
}

/// Appends the bytes to a file and returns them as a file frame.
fn in_file(bytes: &[u8]) -> Frame {
    thread_local! {
        static END: RefCell<Option<(Arc<File>, u64)>> = const { RefCell::new(None) };
    }
    END.with_borrow_mut(|end| {
        let new = || (Arc::new(tempfile::tempfile().expect("a file")), 0);
        let (file, at) = end.get_or_insert_with(new);
        file.write_all_at(bytes, *at).expect("write");
        let frame = Frame::from_file(file.clone(), *at, bytes.len() as u64).expect("in it");
        *at += bytes.len() as u64;
        frame
    })
}

/// A random length: small, around the bounds of zring's ways of sending, or large.
fn draw_len(world: &World, bytes_max: usize) -> usize {
    let len = match world.below(9) {
        0 => 0,
        1 => 255 + world.below(4),
        2 => 76 + world.below(6),
        3 => 4094 + world.below(6),
        4 => world.below(bytes_max as u64 + 1),
        8 => bytes_max as u64 - world.below(bytes_max as u64 / 4 + 1),
        bits => world.below(1 << (2 * bits)),
    };
    (len as usize).min(bytes_max)
}

impl Shapes {
    /// A new message of at most `bytes_max` bytes, with one frame or several.
    pub(crate) fn make(&self, world: &World, tag: Tag, bytes_max: usize) -> Message {
        let count = if world.below(4) == 0 { 1 + world.below(5) } else { 1 };
        let mut lens: Vec<usize> = match count {
            // Two large frames in a row are a case of their own.
            2 => vec![bytes_max / 2; 2],
            _ => (0..count).map(|_| draw_len(world, bytes_max)).collect(),
        };
        lens[0] = lens[0].max(HEADER_BYTES);
        let in_files = world.below(6) == 0;
        let frames = lens.iter().enumerate().map(|(frame, &len)| {
            let mut bytes = body(tag, frame, len);
            if frame == 0 {
                bytes[..HEADER_BYTES].copy_from_slice(&header(tag));
            }
            if in_files && len > 0 && world.below(2) == 0 {
                in_file(&bytes)
            } else {
                Frame::from(bytes)
            }
        });
        let message = Message::from_frames(frames).expect("one frame at least");
        let is_new = self.0.borrow_mut().insert(tag, lens).is_none();
        assert!(is_new, "{tag:?} was made before");
        message
    }

    /// All frames of the message that begins with `frames`, including those not received.
    pub(crate) fn complete(&self, mut frames: Vec<Frame>) -> Vec<Frame> {
        if frames[0].is_empty() {
            return frames;
        }
        let tag = tag_of(frames[0].bytes());
        if let Some(lens) = self.0.borrow().get(&tag) {
            let left = lens.iter().enumerate().skip(frames.len());
            frames.extend(left.map(|(frame, &len)| body(tag, frame, len).into()));
        }
        frames
    }

    /// Checks an arrived message and returns its tag.
    ///
    /// # Panics
    /// When the message differs from the one that was made.
    #[track_caller]
    pub(crate) fn check(&self, message: &Message) -> Tag {
        let body = message.body();
        let tag = tag_of(body);
        let shapes = self.0.borrow();
        let lens = shapes.get(&tag).unwrap_or_else(|| panic!("{tag:?} arrived, never sent"));
        let arrived: Vec<usize> = message.frames().map(Frame::len).collect();
        assert_eq!(&arrived, lens, "{tag:?} has other frames");
        for (frame, bytes) in message.frames().enumerate() {
            let from = if frame == 0 { HEADER_BYTES } else { 0 };
            let wrong = (from..bytes.len()).find(|&at| bytes.bytes()[at] != byte(tag, frame, at));
            assert_eq!(wrong, None, "{tag:?} is corrupt in frame {frame}");
        }
        assert_eq!(&body[..HEADER_BYTES], &header(tag), "{tag:?} has a corrupt header");
        tag
    }
}
