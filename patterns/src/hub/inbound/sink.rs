//! The sink of decoded frames.

use crate::{frame::Frame, message::Message, monitor::DisconnectReason};

/// The receiver of decoded frames. An error that it returns closes the connection.
pub(crate) trait Sink {
    /// Handles the body of a command frame.
    fn command(&mut self, body: &[u8]) -> Result<(), DisconnectReason>;

    /// Handles a whole message, whose frames are to be drained. Returns the message that the user is to receive, if
    /// there is one.
    fn message(&mut self, frames: &mut Vec<Frame>) -> Result<Option<Message>, DisconnectReason>;

    /// Handles a whole message of one frame. Returns whether the user is to receive it.
    fn single(&mut self, body: &[u8]) -> Result<bool, DisconnectReason>;

    /// All frames of a message that is taken as it arrives are here; `bytes` is their total length.
    fn streamed(&mut self, bytes: u64);

    /// A frame of `bytes` of a longer message lies in the caller's memory: the message will have an empty frame
    /// instead.
    fn placed(&mut self, bytes: usize);
}
