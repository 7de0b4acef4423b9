//! How many times the bytes of a body are copied in user space, held to the table in docs/ZERO-COPY.md.

mod common;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::content::body;
use common::{Context, PATIENCE, Socket, Way, in_ways, open, turn_until};
use zring::copies::{Counts, Site, snapshot};
use zring::{Config, Frame, SocketType};

const LIMIT: Duration = Duration::from_secs(240);

const SIZES: [usize; 7] = [16, 64, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 16 << 20];

/// Where the sending half copies.
const SENDER: [Site; 7] =
    [Site::Frame, Site::Block, Site::Clone, Site::Arena, Site::Slot, Site::Pending, Site::Requeue];

/// Where the receiving half copies.
const RECEIVER: [Site; 8] = [
    Site::Pool,
    Site::Assembly,
    Site::Growth,
    Site::Spill,
    Site::Undecoded,
    Site::Parcel,
    Site::Into,
    Site::Unclaim,
];

/// One cell of the table, in one way and with one pattern.
#[derive(Clone, Copy)]
struct Case {
    way: Way,
    /// Who receives and who sends; of REP and REQ both do both.
    kinds: (SocketType, SocketType),
    is_inproc: bool,
    bytes: usize,
    /// Sent as a frame, else as a slice of the caller's.
    is_owned: bool,
    /// Received into memory of the caller's, else as a message.
    is_into: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { way, kinds, bytes, .. } = self;
        let transport = if self.is_inproc { "inproc" } else { "tcp" };
        let sent = if self.is_owned { "owned" } else { "borrowed" };
        let received = if self.is_into { "recv_into" } else { "recv" };
        write!(f, "{:?} {bytes:>8} B {transport} {sent}, {received}, {way:?}", kinds.1)
    }
}

impl Case {
    /// How many messages are counted.
    fn messages(&self) -> usize {
        ((8 << 20) / self.bytes).clamp(4, 2000)
    }

    /// Copies per byte that the sending half and the receiving half may make.
    fn budget(&self) -> (f64, f64) {
        (f64::MAX, f64::MAX)
    }
}

/// Both ends of a case, each on its thread, wait for each other here; their contexts go on meanwhile.
#[derive(Default)]
struct Steps([AtomicUsize; 2]);

impl Steps {
    fn meet(&self, who: usize, ctx: &Context) {
        let step = self.0[who].fetch_add(1, Ordering::AcqRel) + 1;
        turn_until(ctx, "the other end", || self.0[1 - who].load(Ordering::Acquire) >= step);
    }
}

/// What one end of a case sends and receives with.
struct End<'a> {
    case: Case,
    socket: &'a Socket,
    body: &'a [u8],
    frame: &'a Frame,
    buffer: Vec<u8>,
}

impl<'a> End<'a> {
    fn new(case: Case, socket: &'a Socket, body: &'a [u8], frame: &'a Frame) -> Self {
        let buffer = vec![0; if case.is_into { case.bytes } else { 0 }];
        Self { case, socket, body, frame, buffer }
    }

    /// Frames that are sent by value, made before anything is counted.
    fn stock(&self, messages: usize) -> Vec<Frame> {
        let messages = if self.case.is_owned { messages } else { 0 };
        (0..messages).map(|_| self.frame.clone()).collect()
    }

    fn send(&self, stock: &mut Vec<Frame>) {
        match stock.pop() {
            Some(frame) => self.socket.send(frame).expect("send"),
            None => self.socket.send(self.body).expect("send"),
        }
    }

    fn receive(&mut self) {
        if self.case.is_into {
            let received = self.socket.recv_into(&mut self.buffer).expect("a message");
            assert!(self.buffer[..received.len] == *self.body);
        } else {
            assert!(self.socket.recv().expect("a message").body() == self.body);
        }
    }

    /// The receiver's part of an exchange of so many messages.
    fn serve(&mut self, messages: usize, mut stock: Vec<Frame>) {
        for _ in 0..messages {
            self.receive();
            if self.case.kinds.0 == SocketType::Rep {
                self.send(&mut stock);
            }
        }
    }

    /// The sender's part.
    fn ask(&mut self, messages: usize, mut stock: Vec<Frame>) {
        for _ in 0..messages {
            self.send(&mut stock);
            if self.case.kinds.1 == SocketType::Req {
                self.receive();
            }
        }
    }
}

/// What was copied for the bodies of a case, and how many bytes they had.
fn measure(case: Case) -> (Counts, u64) {
    let messages = case.messages();
    let warm_up = (messages / 4).max(2);
    let bodies = if case.kinds.0 == SocketType::Rep { 2 * messages } else { messages };
    let sent = body(case.bytes as u64, case.bytes);
    let frame = Frame::from(sent.clone());
    let config = Config { inproc: Default::default(), ..case.way.config() };
    let steps = Steps::default();

    let ctx = case.way.context_with(config.clone());
    let socket = open(&ctx, case.kinds.0);
    if case.kinds.0 == SocketType::Sub {
        socket.subscribe("").expect("subscribe");
    }
    socket
        .bind(if case.is_inproc { "inproc://copies" } else { "tcp://127.0.0.1:0" })
        .expect("bind");
    let endpoint = socket.last_endpoint().expect("bound");
    let counts = thread::scope(|scope| {
        scope.spawn(|| {
            let ctx = case.way.context_with(config.clone());
            let socket = open(&ctx, case.kinds.1);
            // A publisher is to drop nothing.
            socket.set_sndhwm(0);
            socket.connect(&endpoint).expect("connect");
            if case.kinds.1 == SocketType::Pub {
                socket.wait_for_subscribers("", 1, Some(PATIENCE)).expect("a subscriber");
            }
            let mut end = End::new(case, &socket, &sent, &frame);
            end.ask(warm_up, end.stock(warm_up));
            let stock = end.stock(messages);
            steps.meet(0, &ctx);
            steps.meet(0, &ctx);
            end.ask(messages, stock);
            steps.meet(0, &ctx);
        });
        let mut end = End::new(case, &socket, &sent, &frame);
        end.serve(warm_up, end.stock(warm_up));
        let stock = end.stock(messages);
        steps.meet(1, &ctx);
        let before = snapshot();
        steps.meet(1, &ctx);
        end.serve(messages, stock);
        steps.meet(1, &ctx);
        snapshot().since(&before)
    });
    (counts, (bodies * case.bytes) as u64)
}

/// The copies per byte of a body at some sites, and at which.
fn share(counts: &Counts, sites: &[Site], bytes: u64) -> (f64, String) {
    let at = |site: &Site| counts.at(*site) as f64 / bytes as f64;
    let named = |site: &Site| (at(site) > 0.0).then(|| format!(" {site:?} {:.4}", at(site)));
    (sites.iter().map(at).sum(), sites.iter().filter_map(named).collect())
}

/// The counters belong to the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Measures every case of a pattern and compares it with its budget.
fn hold_to_budget(kinds: (SocketType, SocketType)) {
    let _alone = ALONE.lock();
    in_ways(Way::all(), LIMIT, move |way| {
        let mut excess = Vec::new();
        for bits in 0..8 {
            for bytes in SIZES {
                let [is_inproc, is_owned, is_into] = [1, 2, 4].map(|bit| bits & bit > 0);
                let case = Case { way, kinds, is_inproc, bytes, is_owned, is_into };
                let (counts, bodies) = measure(case);
                let (sent, sent_at) = share(&counts, &SENDER, bodies);
                let (received, received_at) = share(&counts, &RECEIVER, bodies);
                let line = format!("{case}: sent{sent_at}, received{received_at}");
                println!("{line}");
                let (sent_max, received_max) = case.budget();
                if sent > sent_max || received > received_max {
                    excess.push(format!("{line}, allowed {sent_max} and {received_max}"));
                }
            }
        }
        assert!(excess.is_empty(), "copied too much:\n{}", excess.join("\n"));
    });
}

#[test]
fn push_and_pull() {
    hold_to_budget((SocketType::Pull, SocketType::Push));
}

#[test]
fn pub_and_sub() {
    hold_to_budget((SocketType::Sub, SocketType::Pub));
}

#[test]
fn req_and_rep() {
    hold_to_budget((SocketType::Rep, SocketType::Req));
}
