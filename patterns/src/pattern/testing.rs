//! Helpers for the tests of rooms.

use super::{Arrived, Begun};
use crate::{frame::Frame, options::Options, route::PipeId};

pub(crate) const A: PipeId = PipeId(0);
pub(crate) const B: PipeId = PipeId(1);

pub(crate) fn frames(bodies: &[&str]) -> Vec<Frame> {
    bodies.iter().map(|body| Frame::from(*body)).collect()
}

pub(crate) fn arrived(frames: &[Frame]) -> Arrived<'_> {
    Arrived::Frames(frames)
}

/// A message under way: its whole frames, and the beginning of the next body.
pub(crate) fn begun<'a>(frames: &'a [Frame], body: &'a str) -> Begun<'a> {
    Begun { frames, body: body.as_bytes() }
}

pub(crate) fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::default();
    change(&mut options);
    options
}
