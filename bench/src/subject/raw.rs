//! The floor: plain stream sockets, ZMTP's framing, no library.
//!
//! No transport over stream sockets can cost less than this: the same bytes on the wire, encoded and checked one by
//! one, in as few system calls as make sense.
//!
//! ```text
//! body up to 255 bytes     flags = 0x00 | length u8     | body
//! longer                   flags = 0x02 | length u64 BE | body
//! a request or a reply     0x01 0x00 (empty frame, MORE) in front of that
//! ```
//! Over inproc there are neither sockets nor frames; the floor there is [`raw_rings`].
//!
//! Source: <https://rfc.zeromq.org/spec/37/>, framing; <https://rfc.zeromq.org/spec/28/> for the empty frame.

use crate::cli::{Receive, Transport};
use crate::error::{Failure, Result};
use crate::sequence::{self, END, SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::raw_link::{Link, Way};
use crate::subject::{
    Case, Common, Pattern, Receiver, Replier, Requester, Sender, Subject, Visitor, Worker,
    raw_rings, raw_visits,
};
#[cfg(unix)]
use crate::subject::{Publisher, Subscribers, raw_many};

/// Bytes encoded before they are written.
pub(super) const BATCH_BYTES: usize = 64 * 1024;
/// Bytes requested per receive.
const RECEIVE_BYTES: usize = 256 * 1024;
/// From this body size on, a message has its own buffer and is not copied into a batch.
pub(super) const LARGE_BYTES: usize = 64 * 1024;

pub(super) const SHORT_HEADER_BYTES: usize = 2;
pub(super) const LONG_HEADER_BYTES: usize = 9;
const FLAG_LONG: u8 = 0x02;
/// The empty frame that REQ and REP put in front of a body.
pub(super) const DELIMITER: [u8; 2] = [0x01, 0x00];

/// Plain sockets, in one of several ways of calling. See the module.
#[derive(Debug)]
pub struct Raw {
    name: &'static str,
    way: Way,
}

/// The subject `raw`: blocking calls if sides park, repeated non-blocking calls if they spin.
pub const RAW: Raw = Raw { name: "raw", way: Way::Plain };

/// The subject `raw-epoll`: non-blocking calls, and epoll when there is no work, as in event loops.
pub const EPOLL: Raw = Raw { name: "raw-epoll", way: Way::Epoll };

impl Subject for Raw {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_default(&self) -> bool {
        self.way == Way::Plain
    }

    fn plays(&self, pattern: Pattern) -> bool {
        match pattern {
            Pattern::Stream | Pattern::RoundTrip | Pattern::Pipeline => true,
            // Other systems lack `poll`, and there a bounded accept takes longer than a visit.
            Pattern::FanOut | Pattern::FanIn | Pattern::Churn => cfg!(unix),
            Pattern::Idle => false,
        }
    }

    fn settings(&self, case: &Case) -> String {
        match case.transport {
            Transport::Inproc => raw_rings::settings(case),
            Transport::Tcp => "64 KiB batches, TCP_NODELAY".to_owned(),
            Transport::Ipc => "64 KiB batches".to_owned(),
        }
    }

    /// This subject has one buffer anyway, and is the floor for every way of receiving.
    fn can_receive(&self, _receive: Receive) -> bool {
        true
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        if case.connections > 0 {
            return Some("it has one connection and no more");
        }
        if self.way == Way::Epoll && !cfg!(target_os = "linux") {
            return Some("only Linux has epoll");
        }
        if case.transport != Transport::Inproc {
            return None;
        }
        match (self.way, case.pattern) {
            (Way::Plain, Pattern::Stream | Pattern::RoundTrip) => None,
            (Way::Plain, _) => Some("its rings have one sender and one receiver"),
            _ => Some("within the process there are no sockets"),
        }
    }

    fn common(&self, case: &Case) -> Result<Option<Common>> {
        Ok((case.transport == Transport::Inproc).then(|| raw_rings::common(case)))
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        if case.transport == Transport::Inproc {
            return raw_rings::sender(case);
        }
        Ok(sender_on(Link::connect(endpoint, case.wait, self.way)?, case.size_bytes))
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        if case.transport == Transport::Inproc {
            return raw_rings::receiver(case, announce);
        }
        #[cfg(unix)]
        if case.pattern == Pattern::FanIn {
            return raw_many::receiver(case, self.way, announce);
        }
        let link = Link::accept(&case.bind, case.wait, self.way, announce)?;
        Ok(receiver_on(link, case.size_bytes))
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        if case.transport == Transport::Inproc {
            return raw_rings::requester(case);
        }
        let link = Link::connect(endpoint, case.wait, self.way)?;
        Ok(Box::new(Echo { link, frame: Frame::new(case.size_bytes, &DELIMITER) }))
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        if case.transport == Transport::Inproc {
            return raw_rings::replier(case, announce);
        }
        if case.pattern == Pattern::Churn {
            return Ok(Box::new(raw_visits::Host::new(case, self.way, announce)?));
        }
        let link = Link::accept(&case.bind, case.wait, self.way, announce)?;
        Ok(Box::new(Echo { link, frame: Frame::new(case.size_bytes, &DELIMITER) }))
    }

    #[cfg(unix)]
    fn publisher(&self, case: &Case, announce: Announce) -> Result<Box<dyn Publisher>> {
        raw_many::publisher(case, self.way, announce)
    }

    #[cfg(unix)]
    fn subscribers(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Subscribers>> {
        raw_many::subscribers(case, self.way, endpoint)
    }

    fn worker(&self, case: &Case, downstream: &str, announce: Announce) -> Result<Box<dyn Worker>> {
        let downstream = Link::connect(downstream, case.wait, self.way)?;
        let upstream = Link::accept(&case.bind, case.wait, self.way, announce)?;
        Ok(match case.size_bytes {
            size if size >= LARGE_BYTES => Box::new(LargeRelay {
                upstream: LargeReceiver { link: upstream, frame: Frame::new(size, &[]) },
                downstream,
            }),
            size if size <= u8::MAX.into() => Box::new(BatchRelay {
                upstream: BatchReceiver::<SHORT_HEADER_BYTES>::new(upstream, size),
                downstream,
            }),
            size => Box::new(BatchRelay {
                upstream: BatchReceiver::<LONG_HEADER_BYTES>::new(upstream, size),
                downstream,
            }),
        })
    }

    fn visitor(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Visitor>> {
        Ok(Box::new(raw_visits::Guest::new(case, self.way, endpoint)))
    }
}

/// Accepts bytes for sending.
pub(super) trait Outlet {
    /// Sends the first `filled` bytes of the buffer, all of them. Afterwards `buffer` may be another buffer, as long as
    /// this one and with previously written contents.
    fn write(&mut self, buffer: &mut Vec<u8>, filled: usize) -> Result<()>;

    /// Waits until everything is sent.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Outlet for Link {
    #[inline(always)]
    fn write(&mut self, buffer: &mut Vec<u8>, filled: usize) -> Result<()> {
        self.write_all(&buffer[..filled])
    }
}

/// The sender of bodies of `size_bytes` on a connection.
pub(super) fn sender_on(outlet: impl Outlet + 'static, size_bytes: usize) -> Box<dyn Sender> {
    match size_bytes {
        size if size >= LARGE_BYTES => {
            Box::new(LargeSender { outlet, frame: Frame::new(size, &[]) })
        }
        size if size <= u8::MAX.into() => {
            Box::new(BatchSender::<SHORT_HEADER_BYTES, _>::new(outlet, size))
        }
        size => Box::new(BatchSender::<LONG_HEADER_BYTES, _>::new(outlet, size)),
    }
}

/// The receiver for bodies of `size_bytes` on a connection.
pub(super) fn receiver_on(link: Link, size_bytes: usize) -> Box<dyn Receiver> {
    match size_bytes {
        size if size >= LARGE_BYTES => {
            Box::new(LargeReceiver { link, frame: Frame::new(size, &[]) })
        }
        size if size <= u8::MAX.into() => {
            Box::new(BatchReceiver::<SHORT_HEADER_BYTES>::new(link, size))
        }
        size => Box::new(BatchReceiver::<LONG_HEADER_BYTES>::new(link, size)),
    }
}

/// The header of a frame with a body of `size_bytes`; `H` must be the length that ZMTP prescribes for that size.
fn header<const H: usize>(size_bytes: usize) -> [u8; H] {
    let mut header = [0; H];
    if size_bytes <= u8::MAX.into() {
        header.copy_from_slice(&[0, size_bytes as u8]);
    } else {
        header[0] = FLAG_LONG;
        header[1..].copy_from_slice(&(size_bytes as u64).to_be_bytes());
    }
    header
}

/// Sends whole batches of small frames.
struct BatchSender<const H: usize, O> {
    outlet: O,
    header: [u8; H],
    body: Vec<u8>,
    batch: Vec<u8>,
}

impl<const H: usize, O: Outlet> BatchSender<H, O> {
    fn new(outlet: O, size_bytes: usize) -> Self {
        let frame_bytes = H + size_bytes;
        let frames = (BATCH_BYTES / frame_bytes).max(1);
        Self {
            outlet,
            header: header(size_bytes),
            body: sequence::filler(size_bytes),
            batch: vec![0; frames * frame_bytes],
        }
    }

    #[inline(always)]
    fn encode(&self, frame: &mut [u8], sequence: u64) {
        let (head, body) = frame.split_at_mut(H);
        head.copy_from_slice(&self.header);
        body.copy_from_slice(&self.body);
        sequence::stamp(body, sequence);
    }
}

impl<const H: usize, O: Outlet> Sender for BatchSender<H, O> {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        let frame_bytes = H + self.body.len();
        let mut batch = std::mem::take(&mut self.batch);
        for (frame, sequence) in batch.chunks_exact_mut(frame_bytes).zip(first..) {
            self.encode(frame, sequence);
        }
        let filled = batch.len();
        self.outlet.write(&mut batch, filled)?;
        self.batch = batch;
        Ok((self.batch.len() / frame_bytes) as u64)
    }

    fn send_due(&mut self, mut first: u64, count: u64) -> Result<()> {
        let frame_bytes = H + self.body.len();
        let end = first + count;
        let mut batch = std::mem::take(&mut self.batch);
        while first < end {
            let mut filled = 0;
            for (frame, sequence) in batch.chunks_exact_mut(frame_bytes).zip(first..end) {
                self.encode(frame, sequence);
                filled += 1;
            }
            self.outlet.write(&mut batch, filled * frame_bytes)?;
            first += filled as u64;
        }
        self.batch = batch;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let mut frame = vec![0; H + self.body.len()];
        self.encode(&mut frame, END);
        let filled = frame.len();
        self.outlet.write(&mut frame, filled)?;
        self.outlet.settle()
    }
}

/// Consecutive frames with bodies of one length.
pub(super) struct Frames<const H: usize> {
    header: [u8; H],
    pub(super) frame_bytes: usize,
}

impl<const H: usize> Frames<H> {
    pub(super) fn new(size_bytes: usize) -> Self {
        Self { header: header(size_bytes), frame_bytes: H + size_bytes }
    }

    /// Walks whole frames. All frames of a run have one length, so the stride is known. A header with another length is
    /// an error, and so is a byte after the end marker.
    pub(super) fn walk(&self, received: &[u8], check: &mut SequenceCheck) -> Result<Verdict> {
        let mut frames = received.chunks_exact(self.frame_bytes);
        while let Some(frame) = frames.next() {
            let (head, body) = frame.split_at(H);
            if head != self.header {
                return Err(wrong_header(&self.header, head, check));
            }
            if check.accept(body)? == Verdict::End && !check.is_lossy() {
                let left_bytes = frames.len() * self.frame_bytes + frames.remainder().len();
                return if left_bytes == 0 {
                    Ok(Verdict::End)
                } else {
                    Err(Failure::AfterEnd { bytes: left_bytes })
                };
            }
        }
        Ok(Verdict::InOrder)
    }
}

/// Receives many small frames at a time.
struct BatchReceiver<const H: usize> {
    link: Link,
    frames: Frames<H>,
    /// Starts with the first `kept` bytes of an incomplete frame.
    buffer: Vec<u8>,
    kept: usize,
}

impl<const H: usize> BatchReceiver<H> {
    fn new(link: Link, size_bytes: usize) -> Self {
        let frames = Frames::new(size_bytes);
        Self { link, buffer: vec![0; frames.frame_bytes + RECEIVE_BYTES], frames, kept: 0 }
    }

    /// Receives once, walks the frames, and passes the bytes of all whole frames to `each`.
    #[inline]
    fn receive(
        &mut self,
        check: &mut SequenceCheck,
        each: impl FnOnce(&[u8]) -> Result<()>,
    ) -> Result<Verdict> {
        let room = self.kept..self.kept + RECEIVE_BYTES;
        let filled = self.kept + self.link.read_some(&mut self.buffer[room])?;
        let verdict = self.frames.walk(&self.buffer[..filled], check)?;
        self.kept = filled % self.frames.frame_bytes;
        each(&self.buffer[..filled - self.kept])?;
        self.buffer.copy_within(filled - self.kept..filled, 0);
        Ok(verdict)
    }
}

impl<const H: usize> Receiver for BatchReceiver<H> {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.receive(check, |_| Ok(()))
    }
}

/// Forwards whole frames, as many as one receive brought.
struct BatchRelay<const H: usize> {
    upstream: BatchReceiver<H>,
    downstream: Link,
}

impl<const H: usize> Worker for BatchRelay<H> {
    fn forward_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.upstream.receive(check, |frames| self.downstream.write_all(frames))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Forwards large frames one by one.
struct LargeRelay {
    upstream: LargeReceiver,
    downstream: Link,
}

impl Worker for LargeRelay {
    fn forward_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let verdict = self.upstream.receive_burst(check)?;
        self.downstream.write_all(&self.upstream.frame.bytes)?;
        Ok(verdict)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[cold]
fn wrong_header(due: &[u8], received: &[u8], check: &SequenceCheck) -> Failure {
    Failure::WrongHeader {
        expected: check.accepted(),
        header: due.to_vec(),
        received: received.to_vec(),
    }
}

/// One message in a buffer of its own: prefix, header, body.
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    /// The required prefix and header.
    head: Vec<u8>,
}

impl Frame {
    pub(super) fn new(size_bytes: usize, prefix: &[u8]) -> Self {
        let head = if size_bytes <= u8::MAX.into() {
            [prefix, &header::<SHORT_HEADER_BYTES>(size_bytes)].concat()
        } else {
            [prefix, &header::<LONG_HEADER_BYTES>(size_bytes)].concat()
        };
        Self { bytes: [head.clone(), sequence::filler(size_bytes)].concat(), head }
    }

    pub(super) fn stamp(&mut self, sequence: u64) {
        sequence::stamp(&mut self.bytes[self.head.len()..], sequence);
    }

    pub(super) fn judge(&self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.judge_other(&self.bytes, check)
    }

    /// Checks another buffer that must contain such a message.
    pub(super) fn judge_other(&self, bytes: &[u8], check: &mut SequenceCheck) -> Result<Verdict> {
        let (head, body) = bytes.split_at(self.head.len());
        if head != self.head {
            return Err(wrong_header(&self.head, head, check));
        }
        check.accept(body)
    }
}

/// Sends large messages one by one out of one buffer.
struct LargeSender<O> {
    outlet: O,
    frame: Frame,
}

impl<O: Outlet> Sender for LargeSender<O> {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        self.frame.stamp(first);
        let filled = self.frame.bytes.len();
        self.outlet.write(&mut self.frame.bytes, filled)?;
        Ok(1)
    }

    fn send_due(&mut self, first: u64, count: u64) -> Result<()> {
        (first..first + count).try_for_each(|sequence| self.send_burst(sequence).map(drop))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.send_burst(END)?;
        self.outlet.settle()
    }
}

/// Receives large messages one by one into one buffer.
struct LargeReceiver {
    link: Link,
    frame: Frame,
}

impl Receiver for LargeReceiver {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.link.read_exact(&mut self.frame.bytes)?;
        self.frame.judge(check)
    }
}

/// Both sides of a round trip.
pub(super) struct Echo {
    pub(super) link: Link,
    pub(super) frame: Frame,
}

impl Requester for Echo {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        self.frame.stamp(sequence);
        self.link.write_all(&self.frame.bytes)?;
        self.link.read_exact(&mut self.frame.bytes)?;
        self.frame.judge(check)
    }
}

impl Replier for Echo {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        self.link.read_exact(&mut self.frame.bytes)?;
        let verdict = self.frame.judge(check)?;
        self.link.write_all(&self.frame.bytes)?;
        Ok(verdict)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::cli::Wait;
    use socket2::{Domain, Socket, Type};

    fn pair() -> (Link, Link) {
        let (a, b) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        let link = |socket| Link::on(socket, Wait::Park, Way::Plain).unwrap();
        (link(a), link(b))
    }

    /// A frame with a body of 16 bytes.
    fn frame(sequence: u64) -> Vec<u8> {
        let mut body = sequence::filler(16);
        sequence::stamp(&mut body, sequence);
        [&header::<SHORT_HEADER_BYTES>(16)[..], &body].concat()
    }

    /// Passes `bytes` to a receiver of bodies of 16 bytes, until the stream ends or fails.
    fn receive(bytes: &[u8]) -> Result<u64> {
        let (sender, receiver) = pair();
        sender.write_all(bytes)?;
        drop(sender);
        let mut receiver = BatchReceiver::<SHORT_HEADER_BYTES>::new(receiver, 16);
        let mut check = SequenceCheck::new(16);
        while receiver.receive_burst(&mut check)? != Verdict::End {}
        Ok(check.accepted())
    }

    #[test]
    fn headers_are_those_of_the_protocol() {
        assert_eq!(header::<2>(255), [0, 255]);
        assert_eq!(header::<9>(256), [2, 0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_whole_stream_is_accepted() {
        assert_eq!(receive(&[frame(0), frame(1), frame(END)].concat()).unwrap(), 2);
    }

    #[test]
    fn damaged_streams_fail() {
        let lost = receive(&[frame(0), frame(2), frame(END)].concat());
        assert!(matches!(lost, Err(Failure::Gap { expected: 1, received: 2 })));
        let repeated = receive(&[frame(0), frame(0), frame(END)].concat());
        assert!(matches!(repeated, Err(Failure::Repeat { expected: 1, received: 0 })));
        let mut other_length = frame(1);
        other_length[1] = 15;
        let shorter = receive(&[frame(0), other_length, frame(END)].concat());
        assert!(matches!(shorter, Err(Failure::WrongHeader { expected: 1, .. })));
        let trailing = receive(&[frame(END), vec![0]].concat());
        assert!(matches!(trailing, Err(Failure::AfterEnd { bytes: 1 })));
        let unfinished = receive(&frame(0));
        assert!(matches!(unfinished, Err(Failure::Io(_))));
    }

    #[test]
    fn frames_may_arrive_in_pieces() {
        let (sender, receiver) = pair();
        let mut receiver = BatchReceiver::<SHORT_HEADER_BYTES>::new(receiver, 16);
        let mut check = SequenceCheck::new(16);
        for byte in [frame(0), frame(1), frame(END)].concat() {
            sender.write_all(&[byte]).unwrap();
            receiver.receive_burst(&mut check).unwrap();
        }
        assert_eq!(check.accepted(), 2);
    }
}
