//! Peers that fail in the handshake: the connection ends, the failure is reported and counted, the other peers
//! continue.

mod common;

use std::time::Duration;

use common::events::{NO_FAULTS, Seen, await_end, await_event, await_fault, faults};
use common::raw::{COMMAND, Raw, command, frame, greeting, header, property, ready};
use common::{
    Context, PATIENCE, Socket, Way, bind_tcp, has_unix_sockets, in_ways, open, scratch, turning,
};
use tempfile::TempDir;
use zring::SocketType;

const LIMIT: Duration = Duration::from_secs(60);

/// A PULL bound to a port and to a path, with one honest peer.
struct Victim {
    ctx: Context,
    pull: Socket,
    honest: Socket,
    endpoints: Vec<String>,
    _dir: TempDir,
}

impl Victim {
    fn new(way: Way) -> Victim {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        pull.set_handshake_ivl(Some(Duration::from_millis(500)));
        pull.monitor(4096);
        let (tcp, dir) = (bind_tcp(&pull), scratch());
        let mut endpoints = vec![tcp.clone()];
        if has_unix_sockets() {
            let ipc = format!("ipc://{}/s", dir.path().display());
            pull.bind(&ipc).expect("bind");
            endpoints.push(ipc);
        }
        let honest = open(&ctx, SocketType::Push);
        honest.monitor(100);
        honest.connect(&tcp).expect("connect");
        let victim = Victim { ctx, pull, honest, endpoints, _dir: dir };
        for socket in [&victim.pull, &victim.honest] {
            await_event(&victim.ctx, socket, Seen::HandshakeDone);
        }
        victim.serves();
        victim
    }

    /// Messages of the honest peer still arrive, over its original connection.
    fn serves(&self) {
        self.honest.send("honest").expect("send");
        assert_eq!(self.pull.recv_bytes().expect("a message"), b"honest");
        while let Some(event) = self.honest.next_event() {
            assert_ne!(
                common::events::seen(&event),
                Seen::Disconnected,
                "the honest peer lost its connection"
            );
        }
    }
}

/// Runs `attack` over both transports in every way: the attacker must see its connection closed.
fn withstands(attack: fn(&mut Raw) -> bool) {
    in_ways(Way::every(), LIMIT, move |way| {
        let victim = Victim::new(way);
        for endpoint in &victim.endpoints {
            let before = faults(&victim.pull);
            let closed = turning(&victim.ctx, || attack(&mut Raw::connect(endpoint)));
            assert!(closed, "{endpoint}: the connection is still open");
            await_fault(&victim.ctx, &victim.pull, before);
            victim.serves();
        }
    });
}

#[test]
fn garbage_instead_of_a_greeting() {
    withstands(|raw| {
        raw.flood(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 1 << 20) || raw.is_closed()
    });
}

#[test]
fn a_greeting_of_an_unknown_mechanism() {
    withstands(|raw| {
        let mut greeting = greeting(1);
        greeting[12..17].copy_from_slice(b"MAGIC");
        raw.say(&greeting);
        raw.is_closed()
    });
}

#[test]
fn something_other_than_ready() {
    withstands(|raw| {
        raw.say(&greeting(1));
        raw.say(&command("HELLO", b"whatever"));
        raw.is_closed()
    });
}

#[test]
fn a_message_before_ready() {
    withstands(|raw| {
        raw.say(&greeting(1));
        raw.say(&frame(0, b"too early"));
        raw.is_closed()
    });
}

#[test]
fn a_socket_type_that_does_not_fit() {
    withstands(|raw| {
        raw.say(&greeting(1));
        raw.say(&ready("SUB"));
        raw.is_closed()
    });
}

#[test]
fn a_socket_type_that_does_not_exist() {
    withstands(|raw| {
        raw.say(&greeting(1));
        raw.say(&ready("PULLOVER"));
        raw.is_closed()
    });
}

#[test]
fn ready_without_a_socket_type() {
    withstands(|raw| {
        raw.say(&greeting(1));
        raw.say(&command("READY", b""));
        raw.is_closed()
    });
}

#[test]
fn properties_longer_than_their_command() {
    withstands(|raw| {
        raw.say(&greeting(1));
        raw.say(&command("READY", b"\x0BSocket-Type\xFF\xFF\xFF\xFFPUSH"));
        raw.is_closed()
    });
}

#[test]
fn endless_properties() {
    withstands(|raw| {
        raw.say(&greeting(1));
        raw.say(&header(COMMAND, 1 << 40));
        // The header alone may suffice.
        raw.flood(b"\x05READY", 1)
            || raw.flood(&property("X-Padding", &[b'x'; 1000]), 64 << 20)
            || raw.is_closed()
    });
}

#[test]
fn an_error_command_of_the_peer() {
    withstands(|raw| {
        raw.say(&greeting(1));
        raw.say(&command("ERROR", b"\x04nope"));
        raw.is_closed()
    });
}

#[test]
fn an_endless_handshake() {
    withstands(|raw| raw.dribble(&greeting(1), Duration::from_millis(100)) || raw.is_closed());
}

#[test]
fn a_handshake_that_stops_after_the_greeting() {
    withstands(|raw| {
        raw.say(&greeting(1));
        raw.is_closed()
    });
}

#[test]
fn a_peer_that_only_connects() {
    withstands(Raw::is_closed);
}

/// A peer that leaves after each possible number of bytes, over both transports.
#[test]
fn a_disconnect_at_every_byte_of_the_handshake() {
    in_ways(Way::all(), LIMIT, |way| {
        let victim = Victim::new(way);
        let handshake = [greeting(1), ready("PUSH")].concat();
        for endpoint in &victim.endpoints {
            for count in 0..=handshake.len() {
                turning(&victim.ctx, || Raw::connect(endpoint).say(&handshake[..count]));
                await_end(&victim.ctx, &victim.pull);
            }
        }
        victim.serves();
        let late = open(&victim.ctx, SocketType::Push);
        late.connect(&victim.endpoints[0]).expect("connect");
        late.wait_for_peers(1, Some(PATIENCE)).expect("the socket still accepts");
    });
}

/// The handshake arrives one byte at a time, or all in one piece: both are valid.
#[test]
fn fragmentation_is_no_fault() {
    in_ways(Way::all(), LIMIT, |way| {
        let victim = Victim::new(way);
        let all = [greeting(1), ready("PUSH"), frame(0, b"hello"), frame(0, &[5; 300])].concat();
        let pieces = [1, 2, 7, 64, all.len()];
        for (piece, endpoint) in
            pieces.into_iter().flat_map(|piece| victim.endpoints.iter().map(move |e| (piece, e)))
        {
            let _raw = turning(&victim.ctx, || {
                let mut raw = Raw::connect(endpoint);
                all.chunks(piece).for_each(|bytes| raw.say(bytes));
                raw
            });
            assert_eq!(victim.pull.recv_bytes().expect("a message"), b"hello");
            assert_eq!(victim.pull.recv_bytes().expect("a message"), [5; 300]);
        }
        assert_eq!(faults(&victim.pull), NO_FAULTS);
    });
}
