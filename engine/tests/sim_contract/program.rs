//! A program for simulated worlds: nodes that exchange checked streams of bytes, whatever happens to the network.
//!
//! A *job* is one stream to a node and one back, over one connection:
//!
//! ```text
//! client: [job u64][request bytes u32][reply bytes u32] request…     server: reply…
//! ```
//!
//! When its connection is lost, the job starts again on another one. The client closes once the reply is complete.
//!
//! Longer than 600 lines: both ends of the protocol and its checks belong together.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::{fd::AsRawFd, unix::fs::FileExt},
    sync::Arc,
};

use zring_engine::{
    Chunk, Config, ConnId, Direct, FileRegion, Gather, Handler, Lease, ListenerId, PoolConfig,
    ReceiveEnd, ResolveError, Segment, Shard, Shared, SharedMut, TurnWait, WaitStrategy,
    lead::Wait,
    sim::{Faults, Random, World},
    sys::net::{Family, SocketOptions},
};

const HEADER_BYTES: usize = 16;
const BUFFERS: u16 = 8;
const US: u64 = 1_000;

/// A handler's mistake that the simulation has to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// The rest of a cut send begins a byte too late.
    ResumesCutSendWrong,
    /// A job continues on a connection that was closed.
    ActsOnStaleId,
    /// A chunk is never released.
    LosesChunk,
    /// A receive that was stopped is not armed again.
    ForgetsReceive,
    /// Bytes of a direct receive are taken in the wrong order.
    SpillsFirst,
    /// Another file takes the number of the connection's descriptor.
    ReplacesDescriptor,
}

/// Byte `at` of stream `stream`.
fn byte(stream: u64, at: usize) -> u8 {
    let word = ((stream << 32) ^ (at as u64 / 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()[at % 8]
}

fn content(stream: u64, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| byte(stream, at)).collect()
}

#[track_caller]
fn check(stream: u64, from: usize, bytes: &[u8]) {
    let wrong = (0..bytes.len()).find(|&at| bytes[at] != byte(stream, from + at));
    assert_eq!(wrong, None, "stream {stream} of {} bytes from {from} is corrupt", bytes.len());
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    id: u64,
    port: u16,
    request_bytes: usize,
    reply_bytes: usize,
}

impl Job {
    fn header(&self) -> Vec<u8> {
        let mut header = self.id.to_be_bytes().to_vec();
        header.extend((self.request_bytes as u32).to_be_bytes());
        header.extend((self.reply_bytes as u32).to_be_bytes());
        header
    }

    fn parse(header: &[u8]) -> Self {
        let number = |range: std::ops::Range<usize>| {
            header[range].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
        };
        Self {
            id: number(0..8),
            port: 0,
            request_bytes: number(8..12) as usize,
            reply_bytes: number(12..16) as usize,
        }
    }

    fn request(&self) -> u64 {
        2 * self.id
    }

    fn reply(&self) -> u64 {
        2 * self.id + 1
    }
}

/// One end of a connection.
#[derive(Debug)]
struct Side {
    job: Option<Job>,
    is_client: bool,
    is_connected: bool,
    is_closing: bool,
    header: Vec<u8>,
    received: usize,
    sent: usize,
    /// Bytes of the send in flight.
    in_send: Option<usize>,
    /// When the current receive has stopped, the next one is to be direct.
    wants_direct: bool,
    /// Receives pause until a timer fires.
    is_paused: bool,
    /// The peer's side has ended.
    is_ended: bool,
}

impl Side {
    fn new(job: Option<Job>) -> Self {
        Self {
            is_client: job.is_some(),
            job,
            is_connected: job.is_none(),
            is_closing: false,
            header: Vec::new(),
            received: 0,
            sent: 0,
            in_send: None,
            wants_direct: false,
            is_paused: false,
            is_ended: false,
        }
    }

    fn expected(&self) -> Option<(u64, usize)> {
        let job = self.job?;
        Some(if self.is_client {
            (job.reply(), job.reply_bytes)
        } else {
            (job.request(), job.request_bytes)
        })
    }

    /// The outgoing stream from byte `from` on, at most `len` bytes.
    fn outgoing(&self, from: usize, len: usize) -> Vec<u8> {
        let Some(job) = self.job else { return Vec::new() };
        if !self.is_client {
            let len = len.min(job.reply_bytes - from);
            return content(job.reply(), from, len);
        }
        let mut bytes =
            if from < HEADER_BYTES { job.header()[from..].to_vec() } else { Vec::new() };
        let at = from.max(HEADER_BYTES) - HEADER_BYTES;
        bytes.extend(content(job.request(), at, len.min(job.request_bytes - at)));
        bytes.truncate(len);
        bytes
    }

    fn total(&self) -> usize {
        match (self.job, self.is_client) {
            (None, _) => 0,
            (Some(job), true) => HEADER_BYTES + job.request_bytes,
            (Some(job), false) => job.reply_bytes,
        }
    }

    fn has_all(&self) -> bool {
        self.expected().is_some_and(|(_, bytes)| self.received == bytes)
    }

    fn is_done(&self) -> bool {
        self.has_all() && self.sent == self.total()
    }
}

#[derive(Debug, Clone, Copy)]
enum Alarm {
    /// A lost connection's job.
    Retry(Job, ConnId),
    Resume(ConnId),
    /// Requests the end of a receive that may be waiting for a buffer.
    Stop(ConnId),
    Release,
    Accept(ListenerId),
}

/// The state of a node: the handler of its shard.
#[derive(Debug)]
pub(crate) struct Memory {
    random: Random,
    sides: BTreeMap<ConnId, Side>,
    ever: BTreeSet<ConnId>,
    alarms: Vec<Option<Alarm>>,
    chunks: VecDeque<(u64, usize, Chunk)>,
    leases: Vec<(u64, usize, Lease)>,
    pub(crate) open_jobs: BTreeSet<u64>,
    mistake: Option<Mistake>,
    /// Connections are lost by closing only.
    is_lossless: bool,
    is_stopping: bool,
    pub(crate) starved: u32,
    pub(crate) retries: u32,
    sends: u64,
    answered: u64,
}

/// One shard with its handler.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) shard: Shard,
    pub(crate) memory: Memory,
    listener: Option<ListenerId>,
    pub(crate) port: u16,
}

impl Memory {
    fn side(&mut self, conn: ConnId) -> &mut Side {
        self.sides.get_mut(&conn).expect("only known connections are spoken of")
    }

    fn is_open(&self, conn: ConnId) -> bool {
        self.sides.get(&conn).is_some_and(|side| !side.is_closing)
    }

    fn adopt(&mut self, conn: ConnId, side: Side) {
        assert!(self.ever.insert(conn), "{conn:?} was given out before");
        self.sides.insert(conn, side);
    }

    fn arm(&mut self, shard: &mut Shard, alarm: Alarm) {
        let token = self.alarms.len() as u64;
        self.alarms.push(Some(alarm));
        let ns = self.random.below(3_000 * US);
        shard.arm_timer(shard.now_ns() + ns, token);
    }

    fn begin(&mut self, shard: &mut Shard, job: Job) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, job.port));
        let options = SocketOptions::default();
        let conn = shard.connect_to(Family::V4, address.into(), &options).expect("a socket");
        self.adopt(conn, Side::new(Some(job)));
    }

    fn close(&mut self, shard: &mut Shard, conn: ConnId) {
        let side = self.side(conn);
        if std::mem::replace(&mut side.is_closing, true) {
            return;
        }
        let (is_done, job, is_client) = (side.is_done(), side.job, side.is_client);
        if let Some(job) = job.filter(|_| is_client) {
            if is_done {
                assert!(self.open_jobs.remove(&job.id), "a job ends once");
            } else if !self.is_stopping {
                self.retries += 1;
                self.arm(shard, Alarm::Retry(job, conn));
            }
        }
        shard.close(conn);
    }

    /// Sends the next piece, unless there is none or a send is in flight.
    fn pump(&mut self, shard: &mut Shard, conn: ConnId) {
        let piece = self.random.below(4096) as usize + 1;
        let uses_try_send = self.random.below(2) == 0;
        let head_bytes = self.random.below(12) as usize;
        let (cuts, mistake) = (self.random.below(5), self.mistake);
        let side = self.side(conn);
        if side.in_send.is_some() || side.is_closing || !side.is_connected {
            return;
        }
        let piece = piece.min(side.total() - side.sent);
        if piece == 0 {
            if side.is_client && side.is_done() {
                self.close(shard, conn);
            }
            return;
        }
        let mut bytes = side.outgoing(side.sent, piece);
        assert_eq!(bytes.len(), piece);
        let (head, body) = bytes.split_at(head_bytes.min(piece));
        let taken = match (uses_try_send, head) {
            (false, _) => 0,
            (true, []) => shard.try_send(conn, body),
            (true, _) => shard.try_send_behind(conn, head, body),
        };
        if taken == piece {
            side.sent += piece;
            return self.pump(shard, conn);
        }
        if mistake == Some(Mistake::ResumesCutSendWrong) && taken > 0 {
            bytes[taken..].rotate_left(1);
        }
        side.in_send = Some(piece);
        let gather = gather(&bytes, cuts as usize);
        shard.send_rest(conn, gather, taken).expect("an open connection");
        self.sends += 1;
    }

    fn take(&mut self, shard: &mut Shard, conn: ConnId, bytes: &[u8]) {
        let side = self.side(conn);
        let mut rest = bytes;
        if !side.is_client && side.job.is_none() {
            let missing = HEADER_BYTES - side.header.len();
            let (header, behind) = rest.split_at(missing.min(rest.len()));
            side.header.extend_from_slice(header);
            rest = behind;
            if side.header.len() < HEADER_BYTES {
                return;
            }
            side.job = Some(Job::parse(&side.header));
        }
        let (stream, total) = side.expected().expect("the job is known");
        check(stream, side.received, rest);
        side.received += rest.len();
        assert!(side.received <= total, "{} bytes of {total}", side.received);
        self.pump(shard, conn);
    }

    /// Arms the next receive.
    fn receive(&mut self, shard: &mut Shard, conn: ConnId) {
        let spill_bytes = 1 + self.random.below(64) as usize;
        let side = self.side(conn);
        if side.is_closing || side.is_paused || side.is_ended || !side.is_connected {
            return;
        }
        let rest = side.expected().map_or(0, |(_, bytes)| bytes - side.received);
        let wants_direct = std::mem::take(&mut side.wants_direct) && rest > 1;
        if wants_direct && spill_bytes.is_multiple_of(2) {
            self.receive_now(shard, conn);
        } else if wants_direct {
            let body = Some(SharedMut::with_expected(rest - 1));
            let direct = Direct { body, rest: rest - 1, spill: Vec::with_capacity(spill_bytes) };
            shard.receive_direct(conn, direct);
        } else {
            shard.receive_ring(conn);
        }
    }

    /// For a few rounds, receives available bytes into memory of its own; waits for more when none are available.
    fn receive_now(&mut self, shard: &mut Shard, conn: ConnId) {
        for _ in 0..1 + self.random.below(4) {
            let side = self.side(conn);
            let rest = side.expected().map_or(1, |(_, bytes)| bytes - side.received);
            let mut body = vec![0; 1 + self.random.below(rest.max(1) as u64) as usize];
            let mut spill = Vec::with_capacity(self.random.below(16) as usize);
            let end = match shard.try_receive(conn, &mut body, &mut spill) {
                Ok(None) => return shard.await_readable(conn),
                Ok(Some(0)) => ReceiveEnd::Closed,
                Err(error) => ReceiveEnd::Failed(error),
                Ok(Some(bytes)) => {
                    let of_body = bytes.min(body.len());
                    assert_eq!(spill.len(), bytes - of_body);
                    for part in [&body[..of_body], &spill] {
                        if !part.is_empty() {
                            self.take(shard, conn, part);
                        }
                    }
                    if !self.is_open(conn) {
                        return;
                    }
                    continue;
                }
            };
            return self.on_receive_end(shard, conn, None, end);
        }
        self.receive(shard, conn);
    }

    fn release_all(&mut self, shard: &mut Shard) {
        while let Some((stream, at, chunk)) = self.chunks.pop_front() {
            check(stream, at, shard.pool().bytes(&chunk));
            shard.release(chunk);
        }
        for (stream, at, lease) in self.leases.drain(..) {
            check(stream, at, &lease);
        }
    }

    /// Releases a chunk now or later, and sometimes keeps a lease on it.
    fn put_away(&mut self, shard: &mut Shard, known: Option<(u64, usize)>, chunk: Chunk) {
        let Some((stream, at)) = known else { return shard.release(chunk) };
        if self.mistake == Some(Mistake::LosesChunk) && self.random.below(8) == 0 {
            return;
        }
        match self.random.below(6) {
            0 => self.chunks.push_back((stream, at, chunk)),
            1 => {
                let len = chunk.len();
                let lease = shard.pool().lease(&chunk, len / 2..len);
                self.leases.extend(lease.map(|lease| (stream, at + len / 2, lease)));
                shard.release(chunk);
            }
            _ => return shard.release(chunk),
        }
        self.arm(shard, Alarm::Release);
    }
}

/// Appends the bytes to a file and returns them as a file segment.
fn in_file(bytes: &[u8]) -> Segment {
    thread_local! {
        static END: RefCell<Option<(Arc<File>, u64)>> = const { RefCell::new(None) };
    }
    END.with_borrow_mut(|end| {
        let new = || (Arc::new(tempfile::tempfile().expect("a file")), 0);
        let (file, at) = end.get_or_insert_with(new);
        file.write_all_at(bytes, *at).expect("write");
        let region = FileRegion::new(file.clone(), *at, bytes.len() as u64).expect("in it");
        *at += bytes.len() as u64;
        Segment::File(region)
    })
}

/// The bytes as segments of all kinds.
fn gather(bytes: &[u8], cuts: usize) -> Gather {
    let mut gather = Gather::new();
    let part = (bytes.len() / (cuts + 1)).max(1);
    for (at, part) in bytes.chunks(part).enumerate() {
        gather.push(match at % 4 {
            0 => Segment::Arena(part.to_vec()),
            3 => in_file(part),
            1 => Segment::Shared(Shared::copy_from(part)),
            _ => Segment::Shared(Shared::from_vec(part.to_vec())),
        });
    }
    gather
}

impl Handler for Memory {
    fn on_accepted(&mut self, shard: &mut Shard, _listener: ListenerId, conn: ConnId) {
        self.adopt(conn, Side::new(None));
        if self.is_stopping {
            return self.close(shard, conn);
        }
        if self.random.below(3) == 0 {
            self.side(conn).is_paused = true;
            return self.arm(shard, Alarm::Resume(conn));
        }
        self.receive(shard, conn);
    }

    fn on_accept_failed(
        &mut self,
        shard: &mut Shard,
        listener: ListenerId,
        error: io::Error,
        ended: bool,
    ) {
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        if ended && !self.is_stopping {
            self.arm(shard, Alarm::Accept(listener));
        }
    }

    fn on_connected(&mut self, shard: &mut Shard, conn: ConnId, result: io::Result<()>) {
        let side = self.side(conn);
        assert!(!side.is_connected, "a connect ends once");
        if result.is_err() {
            return self.close(shard, conn);
        }
        side.is_connected = true;
        if self.mistake == Some(Mistake::ReplacesDescriptor) {
            let fd = shard.fd(conn).expect("open").as_raw_fd();
            // SAFETY: both descriptors are open; `fd` stays a descriptor of the connection.
            assert_eq!(unsafe { libc::dup2(0, fd) }, fd);
        }
        self.pump(shard, conn);
        self.receive(shard, conn);
    }

    fn on_received(&mut self, shard: &mut Shard, conn: ConnId, chunk: Chunk) {
        assert!(!chunk.is_empty() && shard.is_receiving(conn));
        let side = self.side(conn);
        let known = side.expected().map(|(stream, _)| (stream, side.received));
        let bytes = shard.pool().bytes(&chunk).to_vec();
        self.take(shard, conn, &bytes);
        self.put_away(shard, known, chunk);
        let choice = self.random.below(8);
        if choice == 3 {
            self.arm(shard, Alarm::Stop(conn));
        }
        if choice < 3 && self.is_open(conn) && shard.is_receiving(conn) {
            let side = self.side(conn);
            side.wants_direct = choice == 0;
            if choice == 1 && !side.is_paused {
                side.is_paused = true;
                self.arm(shard, Alarm::Resume(conn));
            }
            shard.receive_stop(conn);
        }
    }

    fn on_received_direct(&mut self, shard: &mut Shard, conn: ConnId, direct: Direct) {
        let body = direct.body.map(SharedMut::freeze);
        let body = body.as_deref().unwrap_or_default();
        assert!(body.len() + direct.spill.len() > 0, "a direct receive without bytes");
        assert!(direct.spill.is_empty() || direct.rest == 0, "spilled before the body was full");
        let mut parts = [body, &direct.spill[..]];
        if self.mistake == Some(Mistake::SpillsFirst) {
            parts.reverse();
        }
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            self.take(shard, conn, part);
        }
        if self.is_open(conn) {
            self.side(conn).wants_direct = self.random.below(2) == 0;
            self.receive(shard, conn);
        }
    }

    fn on_readable(&mut self, shard: &mut Shard, conn: ConnId) {
        assert!(!shard.is_receiving(conn), "something to receive, and still awaited");
        if !self.side(conn).is_paused {
            self.receive_now(shard, conn);
        }
    }

    fn on_receive_end(
        &mut self,
        shard: &mut Shard,
        conn: ConnId,
        _direct: Option<Direct>,
        end: ReceiveEnd,
    ) {
        assert!(!shard.is_receiving(conn), "the end of a receive that goes on");
        match end {
            ReceiveEnd::Stopped if self.mistake == Some(Mistake::ForgetsReceive) => {}
            ReceiveEnd::Stopped => self.receive(shard, conn),
            ReceiveEnd::Closed | ReceiveEnd::Failed(_) => {
                let is_lossless = self.is_lossless;
                let side = self.side(conn);
                assert!(!side.is_ended, "a stream ends once");
                side.is_ended = true;
                let is_early = side.is_client || !side.has_all();
                assert!(!is_lossless || !is_early, "bytes are missing: {side:?}, {end:?}");
                self.close(shard, conn);
            }
        }
    }

    fn on_starved(&mut self, shard: &mut Shard) {
        self.starved += 1;
        if self.random.below(2) == 0 {
            self.release_all(shard);
        }
    }

    fn on_sent(
        &mut self,
        shard: &mut Shard,
        conn: ConnId,
        gather: Gather,
        bytes: usize,
        error: Option<io::Error>,
    ) {
        self.answered += 1;
        let side = self.side(conn);
        let piece = side.in_send.take().expect("a send ends once");
        assert_eq!(gather.bytes(), piece, "another list came back");
        assert!(bytes <= piece && (bytes < piece || error.is_none()));
        assert!(bytes == piece || error.is_some() || side.is_closing, "cut without a reason");
        side.sent += bytes;
        shard.arena.recycle(gather);
        if error.is_some() {
            // Bytes from before the error are still to be read.
            if side.is_client || side.is_ended {
                self.close(shard, conn);
            }
            return;
        }
        self.pump(shard, conn);
    }

    fn on_closed(&mut self, shard: &mut Shard, conn: ConnId) {
        let side = self.sides.remove(&conn).expect("a connection is closed once");
        assert!(side.is_closing && side.in_send.is_none(), "closed under a send");
        assert!(shard.fd(conn).is_none());
    }

    fn on_timer(&mut self, shard: &mut Shard, token: u64) {
        let alarm = self.alarms[token as usize].take().expect("a timer fires once");
        match alarm {
            Alarm::Release => self.release_all(shard),
            Alarm::Accept(listener) => shard.accept(listener),
            Alarm::Retry(..) if self.is_stopping => {}
            Alarm::Retry(job, conn) if self.mistake == Some(Mistake::ActsOnStaleId) => {
                let _ = shard.send(conn, gather(&job.header(), 0));
            }
            Alarm::Retry(job, _) => self.begin(shard, job),
            Alarm::Resume(conn) if self.is_open(conn) => {
                self.side(conn).is_paused = false;
                if !shard.is_receiving(conn) {
                    self.receive(shard, conn);
                }
            }
            Alarm::Stop(conn) if self.is_open(conn) => shard.receive_stop(conn),
            Alarm::Resume(_) | Alarm::Stop(_) => {}
        }
    }

    fn on_resolved(
        &mut self,
        _shard: &mut Shard,
        _token: u64,
        _result: Result<Vec<SocketAddr>, ResolveError>,
    ) {
        panic!("nothing was asked for");
    }
}

impl Node {
    /// The world's next shard.
    pub(crate) fn new(world: &World, faults: &Faults, mistake: Option<Mistake>) -> Self {
        let with_kernel = if world.below(2) == 0 { 3 } else { BUFFERS };
        let pool = PoolConfig { buffers: BUFFERS, buffer_bytes: 4096, with_kernel, reserve: 3 };
        let wait = if world.below(4) == 0 { WaitStrategy::Spin } else { WaitStrategy::Park };
        let completions_per_turn = 1 + world.below(20) as usize;
        let shared = world.below(2) == 0;
        let config = Config { shared, wait, completions_per_turn, ..Config::default() };
        let config = Config { pool, pool_whole: pool, ..config };
        let mut shard = Shard::open(config).expect("a shard");
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let backlog = 1 + world.below(4) as u32;
        let (listener, address) =
            shard.listen_tcp(any_port, backlog, &SocketOptions::default()).expect("a listener");
        let is_lossless = faults.reset_ppm == 0 && faults.refuse_ppm == 0;
        let memory = Memory {
            random: Random::new(world.below(u64::MAX)),
            sides: BTreeMap::new(),
            ever: BTreeSet::new(),
            alarms: Vec::new(),
            chunks: VecDeque::new(),
            leases: Vec::new(),
            open_jobs: BTreeSet::new(),
            mistake,
            is_lossless,
            is_stopping: false,
            starved: 0,
            retries: 0,
            sends: 0,
            answered: 0,
        };
        Self { shard, memory, listener: Some(listener), port: address.port() }
    }

    pub(crate) fn add_job(&mut self, id: u64, port: u16, request_bytes: usize, reply_bytes: usize) {
        self.memory.open_jobs.insert(id);
        self.memory.begin(&mut self.shard, Job { id, port, request_bytes, reply_bytes });
    }

    pub(crate) fn turn(&mut self, wait: TurnWait) -> usize {
        self.shard.turn(&mut self.memory, wait).expect("a turn")
    }

    /// As [`Node::turn`], but waits outside the shard.
    pub(crate) fn turn_parked(&mut self, until_ns: u64) {
        if let Some(mut parking) =
            self.shard.park(&mut self.memory, Some(until_ns)).expect("a park")
        {
            assert!(self.shard.is_parked());
            parking.wait().expect("a wait");
            self.shard.unpark(parking);
        }
        self.turn(TurnWait::No);
    }

    /// Closes all connections; further turns finish the closes.
    pub(crate) fn stop(&mut self) {
        self.memory.is_stopping = true;
        if let Some(listener) = self.listener.take() {
            self.shard.close_listener(listener);
        }
        let conns: Vec<ConnId> = self.memory.sides.keys().copied().collect();
        conns.into_iter().for_each(|conn| self.memory.close(&mut self.shard, conn));
        // The thread that turns this node does not know yet.
        self.shard.waker().wake();
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.memory.sides.is_empty() && self.shard.in_flight() == 0
    }

    /// Checks the end state of `shard`, which is the shard's number in its world.
    pub(crate) fn check_end(&mut self, world: &World, shard: usize) {
        self.memory.release_all(&mut self.shard);
        self.turn(TurnWait::No);
        assert_eq!(self.memory.sends, self.memory.answered, "every send is answered");
        let pool = self.shard.pool();
        let back = pool.ready_len() + world.driver_buffers(shard);
        assert_eq!((back, pool.lent_len()), (usize::from(BUFFERS), 0), "all buffers are back");
    }
}
