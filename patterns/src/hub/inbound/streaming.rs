//! A message that is taken as it arrives, frame by frame.

use std::collections::VecDeque;

use zring_engine::SharedMut;

use super::{Inbound, sink::Sink, streamed::Streamed};
use crate::{frame::Frame, monitor::DisconnectReason};

impl Inbound {
    /// Whether a caller takes a message as it arrives.
    pub(crate) fn is_streamed(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether the message that is under way is taken as it arrives.
    pub(crate) fn is_streaming(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.is_whole)
    }

    /// Whether the rest of the message under way is dropped as it arrives.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.is_abandoned)
    }

    /// Sets the message under way aside for one caller. Returns the first `hidden` frames, which are not the user's.
    pub(crate) fn begin_stream(&mut self, hidden: usize) -> Vec<Frame> {
        let mut parts = std::mem::take(&mut self.parts);
        let frames: VecDeque<_> = parts.drain(hidden..).map(|part| (Some(part), true)).collect();
        let bytes = frames.iter().flat_map(|(frame, _)| frame).map(|it| it.len() as u64).sum();
        self.ready_bytes += bytes;
        let count = frames.len() as u32;
        let stream = Streamed { frames, count, bytes, ..Streamed::default() };
        self.stream = Some(Box::new(stream));
        self.parts.push(Frame::new());
        parts
    }

    /// One more frame of the message has arrived.
    pub(crate) fn stream_frame(
        &mut self,
        frame: Option<Frame>,
        bytes: u64,
        more: bool,
        sink: &mut impl Sink,
    ) -> Result<(), DisconnectReason> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if stream.count >= self.frames_max {
            return Err(DisconnectReason::TooManyFrames { max: self.frames_max });
        }
        stream.count += 1;
        stream.bytes += bytes;
        if !stream.is_abandoned {
            self.ready_bytes += frame.as_ref().map_or(0, |frame| frame.len() as u64);
            stream.frames.push_back((frame, more));
        }
        if !more {
            stream.is_whole = true;
            sink.streamed(stream.bytes);
            self.parts.clear();
            self.stream.take_if(|stream| stream.is_abandoned);
        }
        Ok(())
    }

    /// Whether undecoded bytes have to be decoded for the next frame.
    pub(crate) fn wants_refill(&self) -> bool {
        self.has_undecoded() && self.stream.as_ref().is_some_and(|it| it.frames.is_empty())
    }

    /// Takes the next frame of the message, if it has arrived.
    pub(crate) fn next_streamed(&mut self) -> Option<(Option<Frame>, bool)> {
        let stream = self.stream.as_mut()?;
        let (frame, more) = stream.frames.pop_front()?;
        self.ready_bytes -= frame.as_ref().map_or(0, |frame| frame.len() as u64);
        if stream.is_whole && stream.frames.is_empty() {
            self.stream = None;
        }
        Some((frame, more))
    }

    /// Whether the frame that the caller saw last, as one that had begun, has arrived whole since then. If so, the body
    /// under way is of another frame.
    pub(crate) fn has_come(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.frames.is_empty())
    }

    /// Skips the frame that the caller saw last, whether it is under way or has arrived.
    pub(crate) fn skip_frame(&mut self) {
        match self.stream.as_mut().and_then(|stream| stream.frames.front_mut()) {
            Some((frame, _)) => {
                self.ready_bytes -= frame.take().map_or(0, |frame| frame.len() as u64);
            }
            None => self.skip_body(),
        }
    }

    /// Drops the rest of the message: now the frames that have arrived, later the others as they arrive.
    pub(crate) fn abandon_stream(&mut self) {
        while self.next_streamed().is_some() {}
        let Some(stream) = &mut self.stream else { return };
        stream.is_abandoned = true;
        self.skip_body();
    }

    /// Drops the body under way: the bytes that have arrived, and those still to come.
    pub(crate) fn skip_body(&mut self) {
        if let Some(assembly) = self.assembly.as_mut().filter(|it| !it.flags.command()) {
            assembly.is_skipped = true;
            (assembly.is_claimed, assembly.is_held) = (false, false);
            self.claim = 0;
            assembly.body = SharedMut::with_expected(0);
        }
    }

    /// Claims the body under way for a caller who takes it piece by piece. Returns the bytes that have arrived.
    pub(crate) fn claim_pieces(&mut self, number: u64) -> SharedMut {
        let Some(assembly) = &mut self.assembly else { return SharedMut::with_expected(0) };
        (assembly.is_claimed, assembly.is_held) = (true, false);
        self.claim = number;
        std::mem::replace(&mut assembly.body, SharedMut::with_expected(0))
    }
}
