//! Files as a source of sends: which bytes the page cache has, and how they get into a socket.

use std::{fs::File, io};

use super::BorrowedSocket;
use crate::buf::FileFault;

#[cfg(unix)]
#[path = "file/posix.rs"]
mod calls;
#[cfg(windows)]
#[path = "file/windows.rs"]
mod calls;
#[cfg(target_os = "linux")]
mod linux;

pub(crate) use calls::{access, send_in_front};
pub use calls::{read_at, write_at};

/// How a file was opened, as far as sending needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Not for reading.
    None,
    /// For reading, around the page cache.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    Direct,
    /// For reading, through the page cache.
    Cached,
}

/// Fills `into` from `offset` on, waiting for the disk.
///
/// # Errors
/// When the file ends too early or cannot be read.
pub(crate) fn read_exactly(file: &File, offset: u64, into: &mut [u8]) -> Result<(), FileFault> {
    let mut done = 0;
    while done < into.len() {
        let at = offset + done as u64;
        match read_at(file, &mut into[done..], at) {
            Ok(0) => return Err(FileFault::Truncated { at }),
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FileFault::unreadable(at, &error)),
        }
    }
    Ok(())
}

/// Writes all of `bytes` from `offset` on. On Windows the file's cursor moves.
///
/// # Errors
/// The system's error; `WriteZero` when the file accepts no byte.
pub fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match write_at(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is known about a range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), expect(dead_code))]
pub(crate) enum Cached {
    /// Reading it does not wait for the disk.
    Whole,
    /// Some of the range has to be read from the disk.
    Partly,
    /// The kernel cannot tell.
    Unknown,
}

/// Why a part of a file was not sent.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// The socket refused; `WouldBlock` when it is full.
    Socket(io::Error),
    /// The file could not be read.
    File(io::Error),
}

/// Size of one copy where the kernel cannot send from the file.
const COPY_BYTES: usize = 64 << 10;

/// As [`send`], through memory of this process. A fault after some bytes were sent is reported when the rest is sent.
pub(crate) fn send_copy(
    socket: BorrowedSocket<'_>,
    file: &File,
    offset: u64,
    len: usize,
) -> Result<usize, Unsent> {
    let mut memory = vec![0; len.min(COPY_BYTES)];
    let mut sent = 0;
    while sent < len {
        let piece = &mut memory[..(len - sent).min(COPY_BYTES)];
        match send_piece(socket, file, offset + sent as u64, piece) {
            Ok(bytes) => {
                sent += bytes;
                if bytes < piece.len() {
                    break;
                }
            }
            Err(error) if sent == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(sent)
}

fn send_piece(
    socket: BorrowedSocket<'_>,
    file: &File,
    offset: u64,
    memory: &mut [u8],
) -> Result<usize, Unsent> {
    let read = read_at(file, memory, offset).map_err(Unsent::File)?;
    if read == 0 {
        return Ok(0);
    }
    send_in_front(socket, &[io::IoSlice::new(&memory[..read])], false).map_err(Unsent::Socket)
}

#[cfg(not(target_os = "linux"))]
pub(crate) use self::send_copy as send;

/// The system cannot tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_cached(_: &File, _offset: u64, _len: usize, _scratch: &mut Vec<u8>) -> Cached {
    Cached::Unknown
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn expect_reads(_file: &File, _offset: u64, _len: usize) {}

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{expect_reads, is_cached, send, set_nonblocking};

#[cfg(all(test, target_os = "linux"))]
thread_local! {
    /// Simulates kernels that tell less about the page cache: 1, no `cachestat`; 2, no RWF_NOWAIT either.
    pub(crate) static BLINDNESS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::sys::{borrow, net::tests::pair};

    #[test]
    fn both_ways_of_sending_do_the_same() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..100_000u32).map(|at| (at >> 3) as u8).collect();
        write_all_at(&file, &bytes, 0).unwrap();
        for way in [send, send_copy] {
            let (ours, mut theirs) = pair();
            ours.set_nonblocking(true).unwrap();
            let mut sent = 5;
            let mut got = Vec::new();
            while sent < bytes.len() {
                match way(borrow(&ours), &file, sent as u64, bytes.len()) {
                    Ok(taken) => sent += taken,
                    Err(Unsent::Socket(error)) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        let mut part = vec![0; 30_000];
                        let read = theirs.read(&mut part).unwrap();
                        got.extend_from_slice(&part[..read]);
                    }
                    Err(Unsent::File(error)) => panic!("{error}"),
                }
            }
            assert_eq!(way(borrow(&ours), &file, bytes.len() as u64, 1).unwrap(), 0, "its end");
            while got.len() < bytes.len() - 5 {
                let mut part = vec![0; 30_000];
                let read = theirs.read(&mut part).unwrap();
                got.extend_from_slice(&part[..read]);
            }
            assert!(got == bytes[5..]);
            drop(theirs);
            let refused = loop {
                match way(borrow(&ours), &file, 0, 10) {
                    // Over TCP the first bytes are sent before the other end reports that it is gone.
                    Ok(_) => std::thread::yield_now(),
                    Err(Unsent::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                    refused => break refused,
                }
            };
            let Err(Unsent::Socket(error)) = refused else { panic!("{refused:?}") };
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
            assert!([BrokenPipe, ConnectionAborted, ConnectionReset].contains(&error.kind()));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_written_just_now_is_in_the_page_cache() {
        let file = tempfile::tempfile_in("/tmp").unwrap();
        file.set_len(1 << 20).unwrap();
        let cached = |offset, len| is_cached(&file, offset, len, &mut Vec::new());
        if cached(0, 4096) == Cached::Unknown {
            println!("skipped: this kernel does not tell");
            return;
        }
        write_all_at(&file, &[1; 300_000], 4096).unwrap();
        for (offset, len) in [(4096, 300_000), (4096, 1), (5000, 1), (8191, 2), (100_000, 65_537)] {
            assert_eq!(cached(offset, len), Cached::Whole, "{offset} {len}");
        }
        for (offset, len) in [(4095, 2), (800_000, 1), (4096, 600_000), (2 << 20, 1)] {
            assert_eq!(cached(offset, len), Cached::Partly, "{offset} {len}");
        }
    }
}
