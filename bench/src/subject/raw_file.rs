//! A file over a plain stream socket: once sent by the kernel alone, once copied by the program.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::cli::Wait;
use crate::error::{Failure, Result};
use crate::sides::announcement;
use crate::subject::file::{Courier, FileReceiver, FileSender};
use crate::subject::raw_link::{Link, Listener, Way};

/// Bytes that the receiver requests per call.
const RECEIVE_BYTES: usize = 256 << 10;
/// Bytes that the copying sender reads and sends per step.
const COPY_BYTES: usize = 64 << 10;
/// Most bytes that one `sendfile` transfers, whatever the request; a multiple of all page sizes.
const SENDFILE_BYTES_MAX: u64 = 1 << 30;

/// Plain sockets. See the module.
#[derive(Debug)]
pub struct RawFile {
    name: &'static str,
    settings: &'static str,
    send: fn(&Link, &File, u64) -> Result<()>,
}

/// The subject `raw-sendfile`: `sendfile(2)` in a loop, the floor.
pub const SENDFILE: RawFile = RawFile {
    name: "raw-sendfile",
    settings: "sendfile(2) in a loop, blocking; recv(2) into one buffer of 256 KiB",
    send: send_by_kernel,
};

/// The subject `raw-copy`: `pread(2)` and `send(2)` through a buffer.
pub const COPY: RawFile = RawFile {
    name: "raw-copy",
    settings: "pread(2) and send(2) of 64 KiB, blocking; recv(2) into one buffer of 256 KiB",
    send: send_by_copies,
};

impl Courier for RawFile {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self) -> &'static str {
        self.settings
    }

    fn receiver(&self, bind: &str) -> Result<(String, Box<dyn FileReceiver>)> {
        let (announce, announced) = announcement();
        let listener = Listener::bind(bind, 1, announce)?;
        let receiver = Discard { listener, link: None, buffer: vec![0; RECEIVE_BYTES] };
        Ok((announced.wait("B")?, Box::new(receiver)))
    }

    fn sender(&self, endpoint: &str) -> Result<Box<dyn FileSender>> {
        let link = Link::connect(endpoint, Wait::Park, Way::Plain)?;
        Ok(Box::new(RawSender { link, send: self.send }))
    }
}

struct RawSender {
    link: Link,
    send: fn(&Link, &File, u64) -> Result<()>,
}

impl FileSender for RawSender {
    fn send(&mut self, file: &File, bytes: u64) -> Result<()> {
        (self.send)(&self.link, file, bytes)
    }
}

fn send_by_kernel(link: &Link, file: &File, bytes: u64) -> Result<()> {
    let mut offset = 0;
    while offset < bytes {
        let count = (bytes - offset).min(SENDFILE_BYTES_MAX) as usize;
        match rustix::fs::sendfile(link.socket(), file, Some(&mut offset), count) {
            Ok(0) => return Err(too_short(offset, bytes)),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Ok(())
}

fn send_by_copies(link: &Link, file: &File, bytes: u64) -> Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let room = (bytes - offset).min(COPY_BYTES as u64) as usize;
        match file.read_at(&mut buffer[..room], offset) {
            Ok(0) => return Err(too_short(offset, bytes)),
            Ok(read) => {
                link.write_all(&buffer[..read])?;
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn too_short(bytes: u64, expected: u64) -> Failure {
    Failure::Setup(format!("the file has {bytes} bytes, {expected} were to be sent"))
}

/// Receives into the same buffer again and again.
struct Discard {
    listener: Listener,
    link: Option<Link>,
    buffer: Vec<u8>,
}

impl Discard {
    fn link(link: Option<&Link>) -> Result<&Link> {
        link.ok_or_else(|| Failure::Setup("no sender has connected".to_owned()))
    }
}

impl FileReceiver for Discard {
    fn await_sender(&mut self) -> Result<()> {
        self.link = Some(self.listener.accept(Wait::Park, Way::Plain)?);
        Ok(())
    }

    fn receive(
        &mut self,
        bytes: u64,
        check: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let link = Self::link(self.link.as_ref())?;
        let mut offset = 0;
        while offset < bytes {
            let room = (bytes - offset).min(RECEIVE_BYTES as u64) as usize;
            let received = link.read_some(&mut self.buffer[..room])?;
            check(offset, &self.buffer[..received])?;
            offset += received as u64;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let link = Self::link(self.link.as_ref())?;
        match link.socket().read(&mut self.buffer)? {
            0 => Ok(()),
            bytes => Err(Failure::AfterEnd { bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Sends `bytes` of a file of 300,000 through the courier, and returns the received bytes.
    fn sent(courier: &RawFile, bytes: u64) -> Result<Vec<u8>> {
        let content: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8).collect();
        let mut file = tempfile::tempfile()?;
        file.write_all(&content)?;
        let (endpoint, mut receiver) = courier.receiver("tcp://127.0.0.1:0")?;
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| courier.sender(&endpoint)?.send(&file, bytes));
            let mut arrived = Vec::new();
            let received = receiver.await_sender().and_then(|()| {
                receiver.receive(bytes, &mut |offset, piece| {
                    assert_eq!(offset, arrived.len() as u64);
                    arrived.extend_from_slice(piece);
                    Ok(())
                })
            });
            sender.join().unwrap()?;
            received?;
            receiver.finish()?;
            assert!(content.starts_with(&arrived));
            Ok(arrived)
        })
    }

    #[test]
    fn files_arrive_whole() {
        for courier in [&SENDFILE, &COPY] {
            for bytes in [1, 4095, 65_536, 65_537, 300_000] {
                assert_eq!(sent(courier, bytes).unwrap().len() as u64, bytes, "{}", courier.name);
            }
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_a_failure() {
        for courier in [&SENDFILE, &COPY] {
            let failure = sent(courier, 300_001).unwrap_err().to_string();
            assert!(failure.contains("300000 bytes"), "{failure}");
        }
    }

    #[test]
    fn what_follows_the_file_is_a_failure() {
        let (endpoint, mut receiver) = COPY.receiver("tcp://127.0.0.1:0").unwrap();
        let link = Link::connect(&endpoint, Wait::Park, Way::Plain).unwrap();
        receiver.await_sender().unwrap();
        link.write_all(b"four").unwrap();
        receiver.receive(3, &mut |_, _| Ok(())).unwrap();
        assert!(matches!(receiver.finish(), Err(Failure::AfterEnd { bytes: 1 })));
    }
}
