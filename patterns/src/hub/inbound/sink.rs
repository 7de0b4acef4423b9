//! Where decoded frames go.

use crate::{frame::Frame, message::Message, monitor::DisconnectReason};

/// The receiver of decoded frames. An error that it returns closes the connection.
pub(crate) trait Sink {
    /// A command frame's body.
    fn command(&mut self, body: &[u8]) -> Result<(), DisconnectReason>;

    /// A whole message; the frames are to be drained. Returns what the user is to receive, if anything.
    fn message(&mut self, frames: &mut Vec<Frame>) -> Result<Option<Message>, DisconnectReason>;

    /// A whole message of one frame: whether the user is to receive it.
    fn single(&mut self, body: &[u8]) -> Result<bool, DisconnectReason>;

    /// All frames of a message that is taken as it arrives have come, so many bytes in all.
    fn streamed(&mut self, bytes: u64);

    /// So many bytes of a longer message lie where the user wants them: the message will have an empty frame instead.
    fn placed(&mut self, bytes: usize);
}
