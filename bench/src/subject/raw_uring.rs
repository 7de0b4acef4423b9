//! The floor on io_uring: the bytes of [`raw`](super::raw) through zring-engine's driver, without wire and patterns.
//!
//! Each side has one shard, on the side's thread, with one connection. The handler only records events; the loop over
//! messages is that of `raw`. Bytes that the kernel takes at once are sent with `send(2)`, the rest through the ring.
//! Small bodies are received into the pool, large ones into blocks of their own, as in zring's sockets. So the distance
//! to `raw` is the cost of the driver, and the distance from here to `zring` is the cost of protocol and patterns.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use socket2::Socket;
use zring_engine::{
    Chunk, Config, ConnId, Direct, DriverChoice, Error, Gather, Handler, ListenerId, ReceiveEnd,
    ResolveError, Segment, Shard, Shared, SharedMut, TurnWait, WaitStrategy,
};

use crate::cli::{Transport, Wait};
use crate::error::{Failure, Result};
use crate::sequence::{SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::raw::{
    DELIMITER, Frame, Frames, LARGE_BYTES, LONG_HEADER_BYTES, Outlet, SHORT_HEADER_BYTES, sender_on,
};
use crate::subject::raw_link::{self, Listener};
use crate::subject::{Case, Receiver, Replier, Requester, STALL, Sender, Subject};

/// The driver's name in reports.
const DRIVER: &str = "uring";
/// Turns without a result between two checks of the clock.
const TURNS_PER_LOOK: u32 = 1024;

/// The subject `raw-uring`. See the module.
#[derive(Debug)]
pub struct RawUring;

impl Subject for RawUring {
    fn name(&self) -> &'static str {
        "raw-uring"
    }

    fn is_default(&self) -> bool {
        false
    }

    fn settings(&self, _case: &Case) -> String {
        "zring-engine's io_uring driver without wire and patterns, 64 KiB batches".to_owned()
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        if case.connections > 0 {
            return Some("it has one connection and no more");
        }
        (case.transport == Transport::Inproc).then_some("within the process there are no sockets")
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        Ok(sender_on(Ring::connect(case, endpoint)?, case.size_bytes))
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        let ring = Ring::accept(case, announce)?;
        Ok(match case.size_bytes {
            size if size >= LARGE_BYTES => {
                Box::new(LargeReceiver { ring, frame: Frame::new(size, &[]) })
            }
            size if size <= u8::MAX.into() => {
                Box::new(BatchReceiver::<SHORT_HEADER_BYTES>::new(ring, size))
            }
            size => Box::new(BatchReceiver::<LONG_HEADER_BYTES>::new(ring, size)),
        })
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        Ok(match Echo::new(Ring::connect(case, endpoint)?, case.size_bytes) {
            echo if case.size_bytes >= LARGE_BYTES => Box::new(LargeEcho(echo)),
            echo => Box::new(echo),
        })
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        Ok(match Echo::new(Ring::accept(case, announce)?, case.size_bytes) {
            echo if case.size_bytes >= LARGE_BYTES => Box::new(LargeEcho(echo)),
            echo => Box::new(echo),
        })
    }
}

/// A shard with one connection.
struct Ring {
    shard: Shard,
    conn: ConnId,
    events: Events,
    /// The chunk being read, and how many of its bytes have been read.
    reading: Option<(Chunk, usize)>,
    is_sending: bool,
    /// The buffer of the previous send, for reuse.
    spare: Vec<u8>,
}

impl Ring {
    fn connect(case: &Case, endpoint: &str) -> Result<Self> {
        Self::on(case, raw_link::connect(endpoint)?)
    }

    /// Binds, announces its endpoint, and accepts one connection.
    fn accept(case: &Case, announce: Announce) -> Result<Self> {
        Self::on(case, Listener::bind(&case.bind, 1, announce)?.accept_socket()?)
    }

    fn on(case: &Case, socket: Socket) -> Result<Self> {
        raw_link::send_at_once(&socket)?;
        let wait = match case.wait {
            Wait::Spin => WaitStrategy::Spin,
            Wait::Adaptive | Wait::Park => WaitStrategy::Park,
        };
        let config = Config { driver: DriverChoice::Uring, wait, ..Config::default() };
        let mut shard = Shard::open(config).map_err(refused)?;
        let conn = shard.adopt(socket.into());
        if case.size_bytes < LARGE_BYTES {
            shard.receive_ring(conn);
        }
        Ok(Self {
            shard,
            conn,
            events: Events::default(),
            reading: None,
            is_sending: false,
            spare: Vec::new(),
        })
    }

    /// Turns the shard until `take` returns a value.
    #[inline]
    fn until<T>(&mut self, mut take: impl FnMut(&mut Events) -> Option<T>) -> Result<T> {
        if let Some(found) = take(&mut self.events) {
            return Ok(found);
        }
        let deadline_ns = self.shard.now_ns() + STALL.as_nanos() as u64;
        let mut turns: u32 = 0;
        loop {
            self.shard.turn(&mut self.events, TurnWait::Until(Some(deadline_ns)))?;
            if let Some(found) = take(&mut self.events) {
                return Ok(found);
            }
            if let Some(error) = self.events.failed.take() {
                return Err(error.into());
            }
            turns = turns.wrapping_add(1);
            // A turn that slept may have slept until the deadline.
            let is_due = self.shard.config().wait == WaitStrategy::Park
                || turns.is_multiple_of(TURNS_PER_LOOK);
            if is_due && self.shard.now_ns() >= deadline_ns {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
        }
    }

    /// Starts to send a segment of which the kernel has already taken the first `sent` bytes.
    fn send_rest(&mut self, segment: Segment, sent: usize) -> Result<()> {
        let mut gather = self.shard.arena.take_list();
        gather.push(segment);
        if self.shard.send_rest(self.conn, gather, sent).is_err() {
            return Err(closed());
        }
        self.is_sending = true;
        Ok(self.shard.flush()?)
    }

    /// Fills `buffer` from the chunks that arrive.
    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let (chunk, mut read) = match self.reading.take() {
                Some(reading) => reading,
                None => (self.until(|events| events.chunks.pop_front())?, 0),
            };
            let bytes = &self.shard.pool().bytes(&chunk)[read..];
            let taken = bytes.len().min(buffer.len() - filled);
            buffer[filled..filled + taken].copy_from_slice(&bytes[..taken]);
            filled += taken;
            read += taken;
            if taken == bytes.len() {
                self.shard.release(chunk);
            } else {
                self.reading = Some((chunk, read));
            }
        }
        Ok(())
    }

    /// Receives `bytes` bytes into a block of their own.
    fn receive_block(&mut self, bytes: usize) -> Result<Shared> {
        let body = Some(SharedMut::with_expected(bytes));
        let direct = Direct { body, rest: bytes, spill: Vec::new() };
        self.shard.receive_direct(self.conn, direct);
        let filled = self.until(|events| events.direct.take())?;
        filled.body.map(SharedMut::freeze).ok_or_else(closed)
    }
}

impl Outlet for Ring {
    /// One write may be under way while the next is being prepared.
    #[inline]
    fn write(&mut self, buffer: &mut Vec<u8>, filled: usize) -> Result<()> {
        self.settle()?;
        let sent = self.shard.try_send(self.conn, &buffer[..filled]);
        if sent == filled {
            return Ok(());
        }
        let bytes = if filled < buffer.len() {
            buffer[..filled].to_vec()
        } else {
            if self.spare.len() != filled {
                self.spare.clone_from(buffer);
            }
            std::mem::replace(buffer, std::mem::take(&mut self.spare))
        };
        self.send_rest(Segment::Arena(bytes), sent)
    }

    #[inline]
    fn settle(&mut self) -> Result<()> {
        if !self.is_sending {
            return Ok(());
        }
        let mut gather = self.until(|events| events.sent.take())?;
        self.is_sending = false;
        if let Some(Segment::Arena(bytes)) = gather.pop() {
            self.spare = bytes;
        }
        self.shard.arena.recycle(gather);
        Ok(())
    }
}

/// The failure for a ring that cannot be created.
fn refused(error: Error) -> Failure {
    match error {
        Error::Uring { .. } | Error::NoDriver => Failure::NoUring(error),
        other => Failure::Setup(other.to_string()),
    }
}

fn closed() -> Failure {
    io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the end marker").into()
}

/// Events on the connection that have not been handled yet.
#[derive(Default)]
struct Events {
    chunks: VecDeque<Chunk>,
    /// A full block.
    direct: Option<Direct>,
    /// The gather of a finished send.
    sent: Option<Gather>,
    failed: Option<io::Error>,
}

impl Handler for Events {
    fn on_accepted(&mut self, shard: &mut Shard, _listener: ListenerId, conn: ConnId) {
        shard.close(conn);
    }

    fn on_accept_failed(
        &mut self,
        _shard: &mut Shard,
        _listener: ListenerId,
        error: io::Error,
        _ended: bool,
    ) {
        self.failed = Some(error);
    }

    fn on_connected(&mut self, _shard: &mut Shard, _conn: ConnId, result: io::Result<()>) {
        self.failed = result.err();
    }

    fn on_received(&mut self, _shard: &mut Shard, _conn: ConnId, chunk: Chunk) {
        self.chunks.push_back(chunk);
    }

    fn on_received_direct(&mut self, shard: &mut Shard, conn: ConnId, direct: Direct) {
        if direct.rest > 0 {
            shard.receive_direct(conn, direct);
        } else {
            self.direct = Some(direct);
        }
    }

    fn on_receive_end(
        &mut self,
        _shard: &mut Shard,
        _conn: ConnId,
        _direct: Option<Direct>,
        end: ReceiveEnd,
    ) {
        self.failed = Some(match end {
            ReceiveEnd::Failed(error) => error,
            ReceiveEnd::Stopped | ReceiveEnd::Closed => {
                io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the end marker")
            }
        });
    }

    /// The caller of the turn has already read all chunks.
    fn on_starved(&mut self, _shard: &mut Shard) {}

    fn on_sent(
        &mut self,
        _shard: &mut Shard,
        _conn: ConnId,
        gather: Gather,
        _bytes: usize,
        error: Option<io::Error>,
    ) {
        match error {
            None => self.sent = Some(gather),
            Some(error) => self.failed = Some(error),
        }
    }

    fn on_closed(&mut self, _shard: &mut Shard, _conn: ConnId) {}

    fn on_timer(&mut self, _shard: &mut Shard, _token: u64) {}

    fn on_resolved(
        &mut self,
        _shard: &mut Shard,
        _token: u64,
        _result: std::result::Result<Vec<SocketAddr>, ResolveError>,
    ) {
    }
}

/// Walks small frames in place in the pool; only a frame that straddles two chunks is copied.
struct BatchReceiver<const H: usize> {
    ring: Ring,
    frames: Frames<H>,
    /// The beginning of an incomplete frame.
    kept: Vec<u8>,
}

impl<const H: usize> BatchReceiver<H> {
    fn new(ring: Ring, size_bytes: usize) -> Self {
        let frames = Frames::new(size_bytes);
        Self { ring, kept: Vec::with_capacity(frames.frame_bytes), frames }
    }
}

/// Walks the incomplete frame, then the frames in `bytes`, and keeps the beginning of the last one if it is incomplete.
fn walk<const H: usize>(
    frames: &Frames<H>,
    kept: &mut Vec<u8>,
    mut bytes: &[u8],
    check: &mut SequenceCheck,
) -> Result<Verdict> {
    if !kept.is_empty() {
        let (rest, behind) = bytes.split_at((frames.frame_bytes - kept.len()).min(bytes.len()));
        kept.extend_from_slice(rest);
        if kept.len() < frames.frame_bytes {
            return Ok(Verdict::InOrder);
        }
        let verdict = frames.walk(kept, check)?;
        kept.clear();
        bytes = behind;
        if verdict == Verdict::End {
            return match bytes.len() {
                0 => Ok(Verdict::End),
                bytes => Err(Failure::AfterEnd { bytes }),
            };
        }
    }
    let verdict = frames.walk(bytes, check)?;
    kept.extend_from_slice(&bytes[bytes.len() - bytes.len() % frames.frame_bytes..]);
    Ok(verdict)
}

impl<const H: usize> Receiver for BatchReceiver<H> {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let Self { ring, frames, kept } = self;
        let mut next = Some(ring.until(|events| events.chunks.pop_front())?);
        let mut verdict = Verdict::InOrder;
        while let Some(chunk) = next {
            let walked = walk(frames, kept, ring.shard.pool().bytes(&chunk), check);
            ring.shard.release(chunk);
            next = ring.events.chunks.pop_front();
            verdict = walked?;
            if let (Verdict::End, Some(behind)) = (verdict, &next) {
                let bytes = ring.shard.pool().bytes(behind).len();
                return Err(Failure::AfterEnd { bytes });
            }
        }
        Ok(verdict)
    }

    fn driver(&self) -> Option<&'static str> {
        Some(DRIVER)
    }
}

/// Receives large messages one by one, each into a block of its own.
struct LargeReceiver {
    ring: Ring,
    frame: Frame,
}

impl Receiver for LargeReceiver {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let block = self.ring.receive_block(self.frame.bytes.len())?;
        self.frame.judge_other(&block, check)
    }

    fn driver(&self) -> Option<&'static str> {
        Some(DRIVER)
    }
}

/// Both sides of a round trip.
struct Echo {
    ring: Ring,
    frame: Frame,
}

impl Echo {
    fn new(ring: Ring, size_bytes: usize) -> Self {
        Self { ring, frame: Frame::new(size_bytes, &DELIMITER) }
    }

    #[inline]
    fn send(&mut self) -> Result<()> {
        let filled = self.frame.bytes.len();
        self.ring.write(&mut self.frame.bytes, filled)
    }
}

impl Requester for Echo {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        self.frame.stamp(sequence);
        self.send()?;
        self.ring.read_exact(&mut self.frame.bytes)?;
        self.frame.judge(check)
    }
}

impl Replier for Echo {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.ring.read_exact(&mut self.frame.bytes)?;
        let verdict = self.frame.judge(check)?;
        self.send()?;
        if verdict == Verdict::End {
            self.ring.settle()?;
        }
        Ok(verdict)
    }

    fn driver(&self) -> Option<&'static str> {
        Some(DRIVER)
    }
}

/// The same with large bodies, which are received into blocks of their own; the replier sends the same block back.
struct LargeEcho(Echo);

impl Requester for LargeEcho {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        let Self(echo) = self;
        echo.frame.stamp(sequence);
        echo.send()?;
        let block = echo.ring.receive_block(echo.frame.bytes.len())?;
        echo.frame.judge_other(&block, check)
    }
}

impl Replier for LargeEcho {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let Self(Echo { ring, frame }) = self;
        let block = ring.receive_block(frame.bytes.len())?;
        let verdict = frame.judge_other(&block, check)?;
        ring.settle()?;
        let sent = ring.shard.try_send(ring.conn, &block);
        if sent < block.len() {
            ring.send_rest(Segment::Shared(block), sent)?;
        }
        if verdict == Verdict::End {
            ring.settle()?;
        }
        Ok(verdict)
    }

    fn driver(&self) -> Option<&'static str> {
        Some(DRIVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::{self, END};

    #[test]
    fn a_kernel_without_io_uring_is_named() {
        let cause = io::Error::from(io::ErrorKind::PermissionDenied);
        let failure = refused(Error::Uring { step: "io_uring_setup", cause });
        assert!(matches!(failure, Failure::NoUring(_)), "{failure}");
        assert!(failure.to_string().starts_with("raw-uring needs io_uring"), "{failure}");
        assert!(matches!(refused(Error::NoDriver), Failure::NoUring(_)));
        assert!(matches!(refused(Error::Config("pool geometry")), Failure::Setup(_)));
    }

    /// Walks a stream of bodies of 16 bytes, cut into chunks of `chunk_bytes`.
    fn walk_all(sequences: &[u64], chunk_bytes: usize) -> Result<u64> {
        let mut frame = Frame::new(16, &[]);
        let mut stream = Vec::new();
        for &sequence in sequences {
            frame.stamp(sequence);
            stream.extend_from_slice(&frame.bytes);
        }
        let frames = Frames::<SHORT_HEADER_BYTES>::new(16);
        let (mut kept, mut check) = (Vec::new(), SequenceCheck::new(16));
        let mut has_ended = false;
        for chunk in stream.chunks(chunk_bytes) {
            assert!(!has_ended, "the end came early");
            has_ended = walk(&frames, &mut kept, chunk, &mut check)? == Verdict::End;
        }
        assert!(has_ended && kept.is_empty());
        Ok(check.accepted())
    }

    #[test]
    fn frames_may_straddle_chunks() {
        for chunk_bytes in [1, 2, 17, 18, 19, 35, 36, 37, 1000] {
            assert_eq!(walk_all(&[0, 1, 2, 3, END], chunk_bytes).unwrap(), 4, "{chunk_bytes}");
        }
    }

    #[test]
    fn damaged_streams_fail() {
        for chunk_bytes in [7, 18, 1000] {
            let lost = walk_all(&[0, 2, END], chunk_bytes);
            assert!(matches!(lost, Err(Failure::Gap { expected: 1, received: 2 })));
        }
        for chunk_bytes in [25, 1000] {
            let trailing = walk_all(&[END, 0], chunk_bytes);
            assert!(matches!(trailing, Err(Failure::AfterEnd { .. })), "{chunk_bytes}");
        }
        let mut frame = vec![0, 15];
        frame.extend(sequence::filler(16));
        let frames = Frames::<SHORT_HEADER_BYTES>::new(16);
        let wrong = walk(&frames, &mut Vec::new(), &frame, &mut SequenceCheck::new(16));
        assert!(matches!(wrong, Err(Failure::WrongHeader { .. })));
    }
}
