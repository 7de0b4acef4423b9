//! Peers that misbehave after a correct handshake, and the cost for this process.

mod common;

use std::sync::Mutex;
use std::time::Duration;

use common::events::{NO_FAULTS, Seen, await_end, await_event, await_fault, faults, waiting};
use common::raw::{COMMAND, LONG, MORE, Raw, command, frame, header, subscribe};
use common::{
    Context, PATIENCE, Socket, Way, bind_tcp, in_ways, is_quiet, open, resident_bytes, turn_until,
    turning,
};
use zring::SocketType;

const LIMIT: Duration = Duration::from_secs(90);

/// Most memory that an attack may cost this process while it lasts.
const GROWTH_MAX: u64 = 96 << 20;

/// The limits here on a peer's subscriptions: their number and their bytes.
const SUBSCRIPTIONS_MAX: u32 = 10_000;
const SUBSCRIPTION_BYTES_MAX: u64 = 1 << 20;

/// The tests of this file measure the memory of the process, so they run one by one.
static ALONE: Mutex<()> = Mutex::new(());

/// A bound socket with one honest peer, and the traffic between the two.
struct Victim {
    ctx: Context,
    kind: SocketType,
    bound: Socket,
    honest: Socket,
    endpoint: String,
}

impl Victim {
    fn new(way: Way, kind: SocketType) -> Victim {
        let ctx = way.context();
        let bound = open(&ctx, kind);
        let mut limits = bound.options();
        limits.max_subscriptions_per_peer = SUBSCRIPTIONS_MAX;
        limits.max_subscription_bytes_per_peer = SUBSCRIPTION_BYTES_MAX;
        bound.set_options(limits).expect("limits within their bounds");
        bound.monitor(4096);
        let endpoint = bind_tcp(&bound);
        let honest =
            open(&ctx, if kind == SocketType::Pull { SocketType::Push } else { SocketType::Sub });
        honest.connect(&endpoint).expect("connect");
        if kind == SocketType::Pub {
            honest.subscribe(b"honest").expect("subscribe");
            bound.wait_for_subscribers(b"honest", 1, Some(PATIENCE)).expect("a subscriber");
        }
        await_event(&ctx, &bound, Seen::HandshakeDone);
        honest.monitor(100);
        let victim = Victim { ctx, kind, bound, honest, endpoint };
        victim.serves();
        victim
    }

    fn serves(&self) {
        let (from, to) = match self.kind {
            SocketType::Pub => (&self.bound, &self.honest),
            _ => (&self.honest, &self.bound),
        };
        from.send("honest").expect("send");
        assert_eq!(to.recv_bytes().expect("a message"), b"honest");
        assert!(
            !waiting(&self.honest).contains(&Seen::Disconnected),
            "the honest peer lost its connection"
        );
    }

    /// A raw peer of type `kind` after its handshake.
    fn intruder(&self, kind: &str) -> Raw {
        let endpoint = &self.endpoint;
        let raw = turning(&self.ctx, || {
            let mut raw = Raw::connect(endpoint);
            raw.handshake(1, kind);
            raw
        });
        await_event(&self.ctx, &self.bound, Seen::HandshakeDone);
        raw
    }
}

/// Runs `attack` against a socket of type `kind` in every way: the socket must close the connection, and memory must
/// stay within bounds.
fn withstands(kind: SocketType, attack: fn(&mut Raw) -> bool) {
    let _alone = ALONE.lock();
    let intruder = if kind == SocketType::Pull { "PUSH" } else { "SUB" };
    in_ways(Way::every(), LIMIT, move |way| {
        let victim = Victim::new(way, kind);
        let (before, resident) = (faults(&victim.bound), resident_bytes());
        let mut raw = victim.intruder(intruder);
        let mut peak = 0;
        let closed = std::thread::scope(|scope| {
            let attacking = scope.spawn(|| attack(&mut raw));
            turn_until(&victim.ctx, "the end of the attack", || {
                peak = peak.max(resident_bytes());
                // A PULL is read all the while, so that back-pressure does not hide the violation.
                while kind == SocketType::Pull && victim.bound.try_recv().is_ok() {}
                attacking.is_finished()
            });
            attacking.join().expect("the attack")
        });
        assert!(closed, "the connection is still open");
        await_fault(&victim.ctx, &victim.bound, before);
        let growth = peak.saturating_sub(resident);
        assert!(growth < GROWTH_MAX, "{growth} bytes more memory");
        victim.serves();
    });
}

#[test]
fn a_frame_of_two_to_the_sixty_three_bytes() {
    withstands(SocketType::Pull, |raw| {
        raw.say(&header(0, 1 << 63));
        raw.is_closed()
    });
}

#[test]
fn reserved_flag_bits() {
    withstands(SocketType::Pull, |raw| {
        raw.say(&frame(0x80, b"?"));
        raw.is_closed()
    });
}

#[test]
fn a_command_with_more_to_come() {
    withstands(SocketType::Pull, |raw| {
        raw.say(&frame(COMMAND | MORE, b"\x04PING\0\0"));
        raw.is_closed()
    });
}

#[test]
fn a_command_longer_than_any() {
    withstands(SocketType::Pull, |raw| {
        raw.say(&header(COMMAND | LONG, 1 << 40));
        raw.flood(&[b'x'; 4096], 64 << 20) || raw.is_closed()
    });
}

#[test]
fn a_ping_that_is_cut_short() {
    withstands(SocketType::Pull, |raw| {
        raw.say(&command("PING", b"\0"));
        raw.is_closed()
    });
}

#[test]
fn endless_frames_of_one_message() {
    withstands(SocketType::Pull, |raw| {
        raw.flood(&frame(MORE, b"x").repeat(1000), 64 << 20) || raw.is_closed()
    });
}

/// Subscribes to ever more prefixes of `bytes` bytes until the connection is closed.
fn flood_of_subscriptions(raw: &mut Raw, bytes: usize) -> bool {
    (0_u64..).step_by(1000).take(100).any(|base| {
        let prefix = |number: u64| [&number.to_be_bytes()[..], &vec![b'x'; bytes - 8]].concat();
        let some: Vec<u8> =
            (base..base + 1000).flat_map(|number| subscribe(&prefix(number))).collect();
        raw.flood(&some, 1)
    }) || raw.is_closed()
}

#[test]
fn a_flood_of_small_subscriptions() {
    withstands(SocketType::Pub, |raw| flood_of_subscriptions(raw, 8));
}

#[test]
fn a_flood_of_large_subscriptions() {
    withstands(SocketType::Pub, |raw| flood_of_subscriptions(raw, 500));
}

#[test]
fn a_message_over_the_limit_that_was_set() {
    let _alone = ALONE.lock();
    in_ways(Way::every(), LIMIT, move |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        pull.set_maxmsgsize(Some(1000));
        pull.monitor(100);
        let endpoint = bind_tcp(&pull);
        let mut raw = turning(&ctx, || {
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(1, "PUSH");
            raw.say(&frame(0, &[1; 1000]));
            raw
        });
        assert_eq!(pull.recv_bytes().expect("as long as it may be"), [1; 1000]);
        assert!(turning(&ctx, || {
            raw.say(&header(0, 1001));
            raw.is_closed()
        }));
        await_fault(&ctx, &pull, NO_FAULTS);
    });
}

/// Without `maxmsgsize` a large announcement is no violation, but it must not cost memory either.
#[test]
fn memory_grows_with_what_arrives_not_with_what_is_announced() {
    let _alone = ALONE.lock();
    in_ways(Way::every(), LIMIT, move |way| {
        let victim = Victim::new(way, SocketType::Pull);
        let before = resident_bytes();
        let mut intruders: Vec<Raw> = (0..8).map(|_| victim.intruder("PUSH")).collect();
        for raw in &mut intruders {
            turning(&victim.ctx, || {
                raw.say(&header(0, 1 << 62));
                raw.say(&[0; 1 << 20]);
            });
        }
        common::turn_for(&victim.ctx, Duration::from_millis(100));
        let growth = resident_bytes().saturating_sub(before);
        assert!(growth < GROWTH_MAX, "{growth} bytes for 8 MiB that arrived");
        victim.serves();
        drop(intruders);
        for _ in 0..8 {
            await_end(&victim.ctx, &victim.bound);
        }
        victim.serves();
    });
}

/// A peer that leaves in the middle of a message: none of it is delivered.
#[test]
fn a_disconnect_at_every_byte_of_a_message() {
    let _alone = ALONE.lock();
    in_ways(Way::every(), LIMIT, move |way| {
        let victim = Victim::new(way, SocketType::Pull);
        let message = [frame(MORE, b"one"), frame(MORE, b""), frame(0, &[3; 300])].concat();
        // Inside the long body all offsets are alike.
        for count in (0..30).chain([message.len() - 1]) {
            let mut raw = victim.intruder("PUSH");
            turning(&victim.ctx, || raw.say(&message[..count]));
            drop(raw);
            await_end(&victim.ctx, &victim.bound);
        }
        assert!(is_quiet(&victim.bound), "half a message was delivered");
        let mut raw = victim.intruder("PUSH");
        turning(&victim.ctx, || raw.say(&message));
        assert_eq!(
            victim.bound.recv_multipart().expect("the whole message"),
            [b"one".to_vec(), vec![], vec![3; 300]]
        );
        victim.serves();
    });
}

/// Commands that a later version may add are skipped.
#[test]
fn an_unknown_command_is_no_fault() {
    let _alone = ALONE.lock();
    in_ways(Way::all(), LIMIT, |way| {
        let victim = Victim::new(way, SocketType::Pull);
        let mut raw = victim.intruder("PUSH");
        turning(&victim.ctx, || {
            raw.say(&command("FUTURE", b"whatever"));
            raw.say(&frame(0, b"after it"));
        });
        assert_eq!(victim.bound.recv_bytes().expect("a message"), b"after it");
        turning(&victim.ctx, || {
            raw.say(&command("PING", b"\0\x0Acontext"));
            assert_eq!(raw.frame(), (COMMAND, b"\x04PONGcontext".to_vec()));
        });
    });
}
