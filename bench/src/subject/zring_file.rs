//! The subject `zring` of the workload `file`: PUSH sends one message from the file, PULL receives it as it arrives.

use std::fs::File;

use zring::inline::{Context, Socket};
use zring::{Error, Message, SocketType};

use crate::error::{Failure, Result};
use crate::subject::STALL;
use crate::subject::file::{Courier, FileReceiver, FileSender};

/// Bytes per receive, as in the raw subjects.
const RECEIVE_BYTES: usize = 256 * 1024;

/// The subject.
pub const ZRING: Zring = Zring;

/// See the module.
#[derive(Debug)]
pub struct Zring;

fn open(socket_type: SocketType) -> Result<Socket> {
    let socket = Context::new().and_then(|context| context.socket(socket_type));
    let socket = socket.map_err(Failure::library)?;
    socket.set_rcvtimeo(Some(STALL));
    socket.set_linger(Some(STALL));
    Ok(socket)
}

impl Courier for Zring {
    fn name(&self) -> &'static str {
        "zring"
    }

    fn settings(&self) -> &'static str {
        "inline sockets; one message from the file; taken as it arrives, into one buffer of 256 KiB"
    }

    fn receiver(&self, bind: &str) -> Result<(String, Box<dyn FileReceiver>)> {
        let pull = open(SocketType::Pull)?;
        pull.bind(bind).map_err(Failure::library)?;
        let endpoint = pull.last_endpoint();
        let endpoint = endpoint.ok_or_else(|| Failure::Setup("no bound endpoint".to_owned()))?;
        Ok((endpoint, Box::new(Discard { pull, buffer: vec![0; RECEIVE_BYTES] })))
    }

    fn sender(&self, endpoint: &str) -> Result<Box<dyn FileSender>> {
        let push = open(SocketType::Push)?;
        push.connect(endpoint).map_err(Failure::library)?;
        push.wait_for_peers(1, Some(STALL)).map_err(Failure::library)?;
        Ok(Box::new(FromFile { push: Some(push) }))
    }
}

/// Sends one message whose body is the file.
struct FromFile {
    push: Option<Socket>,
}

impl FileSender for FromFile {
    fn send(&mut self, file: &File, bytes: u64) -> Result<()> {
        let push = self.push.take();
        let push = push.ok_or_else(|| Failure::Setup("one file for each sender".to_owned()))?;
        let message = Message::from_file(file.try_clone()?, 0, bytes).map_err(Failure::library)?;
        push.send(message).map_err(Failure::library)?;
        match push.close().unsent_messages {
            0 => Ok(()),
            _ => Err(Failure::Library("the file was left unsent".to_owned())),
        }
    }
}

/// Receives into the same buffer again and again.
struct Discard {
    pull: Socket,
    buffer: Vec<u8>,
}

impl FileReceiver for Discard {
    fn await_sender(&mut self) -> Result<()> {
        self.pull.wait_for_peers(1, Some(STALL)).map_err(Failure::library)
    }

    fn receive(
        &mut self,
        bytes: u64,
        check: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut message = self.pull.recv_streaming().map_err(Failure::library)?;
        let frame = message.next_frame().map_err(Failure::library)?;
        let mut frame = frame.ok_or_else(|| Failure::Library("no frame".to_owned()))?;
        if frame.len() != bytes || frame.more() {
            return Err(Failure::Library(format!("a frame of {} bytes", frame.len())));
        }
        let mut offset = 0;
        loop {
            match frame.read(&mut self.buffer).map_err(Failure::library)? {
                0 if offset == bytes => return Ok(()),
                0 => return Err(Failure::Library(format!("an end after {offset} bytes"))),
                received => {
                    check(offset, &self.buffer[..received])?;
                    offset += received as u64;
                }
            }
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        match self.pull.try_recv() {
            Err(Error::WouldBlock) => Ok(()),
            Ok(message) => Err(Failure::AfterEnd { bytes: message.len() }),
            Err(error) => Err(Failure::library(error)),
        }
    }
}
