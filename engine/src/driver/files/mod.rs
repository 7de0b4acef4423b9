//! Sends with files in them: memory by `sendmsg(2)`, files by `sendfile(2)`, both without waiting.
//!
//! Neither driver has an operation for files (io_uring would splice through a pipe, on a worker thread), so both do the
//! same: send what the socket takes, wait until it is writable, go on. Of the files in one list at most [`CHUNK_BYTES`]
//! go out in a turn. A separate thread ([`reader`]) reads in the bytes that are not in the page cache, and then wakes
//! the driver.

mod reader;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::{
    io::{self, ErrorKind},
    ops::Range,
};

pub(super) use self::reader::Desk;
use super::{OpId, parts_of};
use crate::{
    buf::{FileFault, FileRegion, Gather},
    sys::{
        BorrowedSocket,
        file::{self, Cached, Unsent},
    },
};

/// How many bytes of files one connection sends in one go.
const CHUNK_BYTES: usize = 256 << 10;
/// How many bytes one request reads in. The next request follows when at most half of them are still to be sent.
const WINDOW_BYTES: usize = 2 << 20;

/// A send in flight. Positions are counted in bytes from the beginning of the list.
#[derive(Debug)]
pub(super) struct FileSend {
    pub(super) gather: Gather,
    pub(super) sent: usize,
    /// The reader has just read in the bytes up to here: no look at the page cache is needed.
    trusted: usize,
    /// The range that the reader was asked to read in and has not answered for.
    asked: Option<Range<usize>>,
    /// How far the reader was asked to read. Beyond `sent` only if the page cache lacked something before.
    ahead: usize,
    /// The send cannot go on before the reader has answered.
    waits: bool,
    /// The kernel can tell what is in the page cache.
    tells: bool,
    /// The error that the reader met.
    fault: Option<FileFault>,
}

/// The outcome of one attempt.
#[derive(Debug)]
pub(super) enum Step {
    /// The kernel has taken all of it.
    Done,
    /// The send goes on when the socket is writable.
    Blocked,
    /// The send goes on when the reader has answered.
    Cold,
    /// The send fails.
    Failed(io::Error),
}

/// The bytes of a file that `sendfile` is to send next.
struct Next<'a> {
    region: &'a FileRegion,
    /// Their position in the region.
    at: usize,
    /// Their number.
    bytes: usize,
}

impl FileSend {
    pub(super) fn new(gather: Gather, sent: usize) -> Self {
        Self {
            gather,
            sent,
            trusted: 0,
            asked: None,
            ahead: 0,
            waits: false,
            tells: true,
            fault: None,
        }
    }

    /// Sends as much as the socket takes, up to a bound.
    pub(super) fn proceed(
        &mut self,
        socket: BorrowedSocket<'_>,
        op: OpId,
        desk: &mut Desk,
    ) -> Step {
        let mut room = CHUNK_BYTES;
        while self.sent < self.gather.bytes() {
            let (sent, wanted) = match self.gather.file_at(self.sent) {
                None => self.send_memory(socket),
                Some(_) if room == 0 => return Step::Blocked,
                Some((region, at)) => {
                    let bytes = (region.len() - at).min(room);
                    let region = region.clone();
                    if !self.is_warm(&Next { region: &region, at, bytes }, op, desk) {
                        return self.fault.take().map_or(Step::Cold, |it| Step::Failed(it.into()));
                    }
                    room -= bytes;
                    (send_file(socket, &region, at, bytes), bytes)
                }
            };
            match sent {
                Ok(bytes) => {
                    self.sent += bytes;
                    if bytes < wanted {
                        return Step::Blocked;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Step::Blocked,
                Err(error) if error.kind() == ErrorKind::Interrupted => return Step::Blocked,
                Err(error) => return Step::Failed(error),
            }
        }
        Step::Done
    }

    /// Sends the memory in front of the next file. Returns how many bytes the socket took, and how many there were.
    fn send_memory(&self, socket: BorrowedSocket<'_>) -> (io::Result<usize>, usize) {
        let (parts, count) = parts_of(&self.gather, self.sent);
        let bytes = parts[..count].iter().map(|part| part.len()).sum();
        // Announce the bytes that follow, so that a header does not travel in a packet of its own.
        let more = self.sent + bytes < self.gather.bytes();
        (file::send_in_front(socket, &parts[..count], more), bytes)
    }

    /// Whether the bytes to send next are in the page cache. If not, asks the reader for them.
    fn is_warm(&mut self, next: &Next<'_>, op: OpId, desk: &mut Desk) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let Next { region, at, bytes } = *next;
        let is_warm = self.sent + bytes <= self.trusted || {
            let offset = region.offset() + at as u64;
            let cached = file::is_cached(region.file(), offset, bytes, &mut desk.scratch);
            self.tells = cached != Cached::Unknown;
            cached == Cached::Whole
        };
        if is_warm {
            self.read_ahead(next, op, desk);
            return true;
        }
        let is_asked = self.asked.is_some() || self.ask(region, at, op, desk);
        // Without a reader thread, send them although they are cold: better late than never.
        self.waits = is_asked || !desk.is_out_of_order();
        !self.waits
    }

    /// Asks the reader for the next window while the last one is sent, if the reader was needed before.
    fn read_ahead(&mut self, next: &Next<'_>, op: OpId, desk: &mut Desk) {
        let Next { region, at, .. } = *next;
        let end = self.sent - at + region.len();
        let is_due = self.ahead > self.sent && self.ahead - self.sent <= WINDOW_BYTES / 2;
        if is_due && self.ahead < end && self.asked.is_none() {
            self.ask(region, at + (self.ahead - self.sent), op, desk);
        }
    }

    /// Asks the reader for a window of the region that `sent` lies in, starting `from` bytes into the region.
    fn ask(&mut self, region: &FileRegion, from: usize, op: OpId, desk: &mut Desk) -> bool {
        let begin = self.region_start() + from;
        let len = (region.len() - from).min(WINDOW_BYTES);
        let is_asked = desk.ask(op, region, from, len);
        if is_asked {
            self.asked = Some(begin..begin + len);
            self.ahead = begin + len;
        }
        is_asked
    }

    /// The position at which the region that `sent` lies in begins.
    fn region_start(&self) -> usize {
        self.gather.file_at(self.sent).map_or(self.sent, |(_, at)| self.sent - at)
    }

    /// The reader has answered, or has room for a request again (`None`). Returns whether the send waited for that.
    pub(super) fn answer(&mut self, outcome: Option<Result<(), FileFault>>) -> bool {
        if let Some(outcome) = outcome {
            let range = self.asked.take().unwrap_or_default();
            match outcome {
                // If the send does not wait for these bytes now, it meets the error again when it gets there.
                Err(fault) => self.fault = Some(fault).filter(|_| self.waits),
                Ok(()) if range.start <= self.sent.max(self.trusted) => {
                    // The pages may be evicted again before they are sent. If the kernel can tell, look again, and
                    // trust the reader for the next step only: that much is sent in any case, so the send makes
                    // progress.
                    let step = if self.tells { CHUNK_BYTES } else { WINDOW_BYTES * 2 };
                    self.trusted = self.trusted.max(range.end.min(self.sent + step));
                }
                Ok(()) => {}
            }
        }
        std::mem::take(&mut self.waits)
    }
}

/// Sends as much of a region as the socket takes.
fn send_file(
    socket: BorrowedSocket<'_>,
    region: &FileRegion,
    at: usize,
    bytes: usize,
) -> io::Result<usize> {
    let offset = region.offset() + at as u64;
    match file::send(socket, region.file(), offset, bytes) {
        Ok(0) => Err(FileFault::Truncated { at: offset }.into()),
        Ok(bytes) => Ok(bytes),
        Err(Unsent::File(error)) => Err(FileFault::unreadable(offset, &error).into()),
        Err(Unsent::Socket(error)) => Err(error),
    }
}
