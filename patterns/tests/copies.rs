//! How often the bytes of a body are copied in user space, compared with the table in docs/ZERO-COPY.md.

mod common;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::content::body;
use common::raw::{Raw, header};
use common::{Context, PATIENCE, Socket, Way, bind_tcp, in_ways, open, pair, turn_until, turning};
use zring::copies::{Counts, Site, snapshot};
use zring::{Config, Error, Frame, INLINE_BYTES_MAX, Inproc, Message, SocketType};

const LIMIT: Duration = Duration::from_secs(240);

/// Owned bodies of at least this size are sent by reference.
const REFERENCE_BYTES_MIN: usize = 4 << 10;

/// Most bytes beyond the body in a receive into given memory, when large bodies follow each other.
const SPILL_BYTES: usize = 64;

const SIZES: [usize; 7] = [16, 64, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 16 << 20];

/// The copy sites of the sending half.
const SENDER: [Site; 7] =
    [Site::Frame, Site::Block, Site::Clone, Site::Arena, Site::Slot, Site::Pending, Site::Requeue];

/// The copy sites of the receiving half.
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

/// One cell of the table, for one way and one pattern.
#[derive(Clone, Copy)]
struct Case {
    way: Way,
    /// The receiver's and the sender's type; REP and REQ do both.
    kinds: (SocketType, SocketType),
    is_inproc: bool,
    bytes: usize,
    /// Sent as a frame; otherwise as a slice of the caller's.
    is_owned: bool,
    /// Received into memory of the caller's; otherwise as a message.
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
        // A round trip takes longer.
        let most = if self.kinds.1 == SocketType::Req { 300 } else { 1000 };
        ((8 << 20) / self.bytes).clamp(4, most)
    }

    /// Copies per byte in the sending half: minimum and maximum.
    fn sent(&self) -> (f64, f64) {
        let is_short = self.bytes <= INLINE_BYTES_MAX;
        let is_referenced = !is_short && (self.is_inproc || self.bytes >= REFERENCE_BYTES_MIN);
        let owned = if is_referenced { 0.0 } else { 1.0 };
        // Each share of a publisher gets a clone of one message.
        if self.way == Way::Spread && self.kinds.1 == SocketType::Pub {
            let (made, cloned) = (u8::from(!self.is_owned), u8::from(is_short));
            let all = owned + f64::from(made + cloned);
            return (all, all);
        }
        let all = if self.is_owned { owned } else { 1.0 };
        let may_go_alone = self.kinds.1 != SocketType::Pub && !self.is_inproc;
        let is_alone = may_go_alone && !self.is_owned && self.bytes >= REFERENCE_BYTES_MIN;
        match (self.kinds.1, self.bytes) {
            // There is nothing in front of a request or a reply, and room for it.
            (SocketType::Req, 0x1_0000) if is_alone => (0.0, 0.0),
            _ if is_alone => (0.0, all),
            _ => (all, all),
        }
    }

    /// Copies per byte in the receiving half: minimum and maximum.
    fn received(&self) -> (f64, f64) {
        // One copy out of the spill area, one to the body's final place.
        let spill = 2.0 * SPILL_BYTES as f64 / self.bytes as f64;
        let (least, most) = match (self.bytes, self.is_inproc) {
            (..=INLINE_BYTES_MAX, true) => (1.0, 1.0),
            (_, true) => (0.0, 0.0),
            (16, _) => (1.0, 1.05),
            (64, _) => (0.0, 0.05),
            (0x400, _) => (0.0, 0.125),
            (0x1000, _) => (0.0, 0.5),
            (0x100_0000, _) if !self.is_into => (0.0, spill + 0.75),
            _ => (0.0, spill),
        };
        match self.is_into {
            false => (least, most),
            // Bodies that are smaller or from this process are first in other memory.
            true if self.is_inproc || self.bytes < 0x1_0000 => (least + 1.0, most + 1.0),
            true => (least, most),
        }
    }
}

/// A barrier for the two ends of a case, each on its thread; their contexts are turned meanwhile.
#[derive(Default)]
struct Steps([AtomicUsize; 2]);

impl Steps {
    fn meet(&self, who: usize, ctx: &Context) {
        let step = self.0[who].fetch_add(1, Ordering::AcqRel) + 1;
        turn_until(ctx, "the other end", || self.0[1 - who].load(Ordering::Acquire) >= step);
    }
}

/// One end of a case, with all it needs to send and receive.
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

    /// Frames for sending by value, made before counting starts.
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

    /// The receiver's part of an exchange of `messages` messages.
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

/// The copies counted for a case, and the total number of bytes of its bodies.
fn measure(case: Case) -> (Counts, u64) {
    let messages = case.messages();
    let warm_up = (messages / 4).max(2);
    let bodies = if case.kinds.0 == SocketType::Rep { 2 * messages } else { messages };
    let sent = body(case.bytes as u64, case.bytes);
    let frame = Frame::from(sent.clone());
    let config = Config { inproc: Inproc::new(), ..case.way.config() };
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
            // A publisher must drop nothing.
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

/// The copies per byte of a body at some sites, and a text of the sites involved.
fn share(counts: &Counts, sites: &[Site], bytes: u64) -> (f64, String) {
    let at = |site: &Site| counts.at(*site) as f64 / bytes as f64;
    let named = |site: &Site| (at(site) > 0.0).then(|| format!(" {site:?} {:.4}", at(site)));
    (sites.iter().map(at).sum(), sites.iter().filter_map(named).collect())
}

/// Tolerance for sums of shares.
const ROUNDING: f64 = 1e-9;

/// The counters belong to the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Measures every case of a pattern and compares it with its budget.
fn hold_to_budget(ways: Vec<Way>, kinds: (SocketType, SocketType)) {
    let _alone = ALONE.lock();
    in_ways(ways, LIMIT, move |way| {
        let mut deviations = Vec::new();
        for bits in 0..8 {
            for bytes in SIZES {
                let [is_inproc, is_owned, is_into] = [1, 2, 4].map(|bit| bits & bit > 0);
                let case = Case { way, kinds, is_inproc, bytes, is_owned, is_into };
                let (counts, bodies) = measure(case);
                let (sent, sent_at) = share(&counts, &SENDER, bodies);
                let (received, received_at) = share(&counts, &RECEIVER, bodies);
                let line = format!("{case}: sent{sent_at}, received{received_at}");
                println!("{line}");
                let (least, most) = case.sent();
                if sent < least - ROUNDING || sent > most + ROUNDING {
                    deviations.push(format!("{line}; sends with {least} to {most}"));
                }
                let (least, most) = case.received();
                if received < least - ROUNDING || received > most + ROUNDING {
                    deviations.push(format!("{line}; receives with {least} to {most}"));
                }
            }
        }
        assert!(deviations.is_empty(), "not as budgeted:\n{}", deviations.join("\n"));
    });
}

#[test]
fn push_and_pull() {
    hold_to_budget(Way::every(), (SocketType::Pull, SocketType::Push));
}

#[test]
fn pub_and_sub() {
    hold_to_budget(Way::all(), (SocketType::Sub, SocketType::Pub));
}

#[test]
fn req_and_rep() {
    hold_to_budget(Way::all(), (SocketType::Rep, SocketType::Req));
}

/// In a batch, the first two messages and those at the end of a block are copied; the others are not.
#[test]
fn what_is_written_in_place() {
    // Fewer than a pipe holds.
    const MESSAGES: usize = 500;
    let _alone = ALONE.lock();
    in_ways(Way::every_inline(), LIMIT, |way| {
        for bytes in [16, 64, 1 << 10] {
            let ctx = way.context();
            let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
            push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
            let before = snapshot();
            let batch = ctx.batch();
            (0..MESSAGES).for_each(|_| push.send_with(bytes, |out| out.fill(7)).expect("send"));
            drop(batch);
            let (sent, sent_at) =
                share(&snapshot().since(&before), &SENDER, (bytes * MESSAGES) as u64);
            println!("{bytes} B written in place: sent{sent_at}");
            assert!(sent <= 0.1, "{bytes} B: {sent}{sent_at}");
            (0..MESSAGES).for_each(|_| assert_eq!(pull.recv().expect("a message").len(), bytes));
        }
    });
}

/// Bytes copied at a site while `act` runs.
fn copied(site: Site, act: impl FnOnce()) -> u64 {
    let before = snapshot();
    act();
    snapshot().since(&before).at(site)
}

#[test]
fn copies_that_were_asked_for() {
    let _alone = ALONE.lock();
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        for _ in 0..2 {
            push.send_multipart([body(1, 50), body(2, 5000)]).expect("send");
        }
        let taken = |act: &dyn Fn()| copied(Site::Taken, act);
        assert_eq!(taken(&|| drop(pull.recv_bytes().expect("a message"))), 50);
        assert_eq!(taken(&|| drop(pull.recv_multipart().expect("a message"))), 5050);
        let message = Message::from_frames([body(1, 50), body(2, 5000)]).expect("frames");
        assert_eq!(copied(Site::Clone, || drop(message.clone())), 50);
    });
}

#[test]
fn what_waits_for_a_peer() {
    let _alone = ALONE.lock();
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        pull.unbind(&endpoint).expect("unbind");
        let push = open(&ctx, SocketType::Push);
        push.connect(&endpoint).expect("connect");
        let sent = body(3, 1000);
        let frame = Frame::from(body(4, 5000));
        assert_eq!(copied(Site::Pending, || push.send(&sent[..]).expect("send")), 1000);
        assert_eq!(copied(Site::Pending, || push.send(frame.clone()).expect("send")), 0);
        push.set_linger(Some(Duration::ZERO));
    });
}

#[test]
fn what_a_receiver_gives_up() {
    let _alone = ALONE.lock();
    in_ways(Way::all(), LIMIT, |way| {
        const LARGE: usize = 300_000;
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        let mut raw = turning(&ctx, || {
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(1, "PUSH");
            raw
        });
        let sent = body(5, LARGE);
        let (first, rest) = sent.split_at(LARGE / 2);
        let mut buffer = vec![0; LARGE];
        pull.set_rcvtimeo(Some(Duration::from_millis(50)));
        let mut blocks = || assert!(matches!(pull.recv_into(&mut buffer), Err(Error::WouldBlock)));
        // From here on the socket does not read a large body before a receive names its memory.
        blocks();
        turning(&ctx, || raw.say(&header(0, LARGE as u64)));
        turning(&ctx, || raw.say(first));
        let given_up = copied(Site::Unclaim, || {
            blocks();
            // After the first receive gave up, the rest goes into memory of the socket's own.
            blocks();
        });
        assert!((1..=first.len() as u64).contains(&given_up), "{given_up}");
        turning(&ctx, || raw.say(rest));
        pull.set_rcvtimeo(Some(PATIENCE));
        let again = copied(Site::Into, || {
            assert_eq!(pull.recv_into(&mut buffer).expect("all of it").len, LARGE);
        });
        assert_eq!(again, LARGE as u64);
        assert!(buffer == sent);
    });
}

#[test]
fn what_a_lost_connection_leaves() {
    let _alone = ALONE.lock();
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        let endpoint = bind_tcp(&push);
        let raw = turning(&ctx, || {
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(1, "PULL");
            raw
        });
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        push.set_linger(Some(Duration::ZERO));
        let sent = body(6, 1 << 10);
        // Until the socket and the kernel are full.
        push.set_sndtimeo(Some(Duration::from_millis(100)));
        while push.send(&sent[..]).is_ok() {}
        let copied = copied(Site::Requeue, || {
            drop(raw);
            turn_until(&ctx, "the end of the peer", || push.stats().messages_requeued > 0);
        });
        assert!(copied >= push.stats().messages_requeued << 10, "{copied}");
    });
}
