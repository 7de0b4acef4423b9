//! Sockets that are closed while an operation waits for them, and others that get their numbers.

use std::{
    io::{ErrorKind, Read, Write},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket};

use super::{
    On,
    rig::{NETS, Net, Rig, listen, pair, stream},
};
use crate::driver::Wait;

/// The operation that waits for the old socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Accept,
    Receive,
    Readable,
    Send,
}

/// The operation that waits for its successor. An event of the old socket would end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    IsReadable,
    Receives,
    Connects,
}

/// How far the events of the old socket have come when it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The poller has not reported them yet.
    No,
    /// A look has reported them, and the driver has done nothing with them yet.
    Looked,
    /// As before, but the look was a wait without the driver, which learns of them only when the new operation waits.
    Apart,
}

/// Moves a socket to a number that new sockets do not get by themselves: the given one, or the next that is free.
/// Systems other than Unix give numbers by chance, which also decides how much the test proves.
fn at_number(socket: Socket, number: Option<i32>) -> Socket {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        let from = number.unwrap_or(700);
        let moved = rustix::io::fcntl_dupfd_cloexec(socket.as_fd(), from).expect("dup");
        drop(socket);
        Socket::from(moved)
    }
    #[cfg(not(unix))]
    {
        let _ = number;
        socket
    }
}

fn number_of(socket: &Socket) -> Option<i32> {
    #[cfg(unix)]
    return Some(std::os::fd::AsRawFd::as_raw_fd(socket));
    #[cfg(not(unix))]
    return socket.local_addr().ok().map(|_| 0);
}

/// A TCP address that does not answer: its backlog is full.
struct Mute {
    _listener: Socket,
    _fillers: Vec<Socket>,
    address: SockAddr,
}

impl Mute {
    fn new() -> Self {
        let (listener, address) = listen(0);
        let fillers = (0..6).map(|_| stream(Domain::IPV4)).collect::<Vec<_>>();
        for filler in &fillers {
            let _ = filler.connect(&address);
        }
        Self { _listener: listener, _fillers: fillers, address }
    }
}

/// A socket with an operation that waits, and the event that the operation waits for.
struct Old {
    near: Socket,
    op: usize,
    event: Box<dyn FnOnce() -> Socket>,
}

fn begin(rig: &mut Rig, waits: Waits, net: Net) -> Old {
    if waits == Waits::Accept {
        let (listener, address) = listen(8);
        let near = at_number(listener, None);
        let op = rig.accept(&near);
        let event = move || {
            let far = Socket::new(Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            far.connect(&address).expect("connect");
            far
        };
        return Old { near, op, event: Box::new(event) };
    }
    let (near, mut far) = pair(net);
    let near = at_number(near, None);
    let op = match waits {
        Waits::Receive => rig.receive(&near),
        Waits::Readable => rig.await_readable(&near),
        Waits::Send => rig.send(&near, vec![7; 8 << 20]),
        Waits::Accept => unreachable!("above"),
    };
    let event = move || {
        if waits == Waits::Send {
            far.read_exact(&mut vec![0; 100_000]).expect("read");
        } else {
            far.write_all(b"for the old one").expect("write");
        }
        far
    };
    Old { near, op, event: Box::new(event) }
}

/// Closes one socket and gives its number to another. Returns whether the number really was the same.
fn pass_on(rig: &mut Rig, waits: Waits, then: Then, net: Net, seen: Seen, mute: &Mute) -> bool {
    let Old { near, op, event } = begin(rig, waits, net);
    rig.turn_for(Duration::from_millis(1));
    assert!(!rig.is_over(op), "{:?}", rig.ops[op]);
    // The poller would go on reporting the socket: only a close of its last descriptor removes it from the poller.
    let twin = near.try_clone().expect("dup");
    let _far = event();
    let parking = match seen {
        Seen::No => None,
        Seen::Looked => {
            rig.look(Wait::Park(Some(1_000_000)));
            None
        }
        Seen::Apart => rig.wait_apart(1_000_000),
    };
    let number = number_of(&near);
    rig.cancel_and_reap(op);
    rig.close(near);
    let (fresh, mut fresh_far) = match then {
        Then::Connects => (stream(Domain::IPV4), None),
        _ => {
            let (near, far) = pair(net);
            (near, Some(far))
        }
    };
    let fresh = at_number(fresh, number);
    let is_same = number_of(&fresh) == number;
    let told = match then {
        Then::IsReadable => rig.await_readable(&fresh),
        Then::Receives => rig.receive(&fresh),
        Then::Connects => rig.connect(&fresh, &mute.address),
    };
    if let Some(parking) = parking {
        rig.unpark(parking);
    }
    while rig.step() {}
    rig.flush();
    rig.turn_for(Duration::from_millis(2));
    assert!(!rig.is_over(told) && rig.ops[told].bytes.is_empty(), "{:?}", rig.ops[told]);
    // The old socket's leftovers do not keep the driver awake, either.
    rig.assert_silent();
    if let Some(far) = &mut fresh_far {
        far.write_all(b"for the new one").expect("write");
        if then == Then::IsReadable {
            rig.turn_until("something", |rig| rig.is_over(told));
            assert!(rig.ops[told].is_done());
        }
    }
    let last = match then {
        Then::IsReadable => rig.receive(&fresh),
        Then::Receives | Then::Connects => told,
    };
    if then != Then::Connects {
        assert_eq!(rig.take(last, 15), b"for the new one");
    }
    rig.cancel_and_reap(last);
    rig.close(fresh);
    drop(twin);
    is_same
}

pub(super) fn a_number_used_again_hears_nothing_of_its_past(on: On) {
    let mut rig = Rig::open(on);
    let mute = Mute::new();
    let (mut tries, mut same) = (0, 0);
    for waits in [Waits::Accept, Waits::Receive, Waits::Readable, Waits::Send] {
        for then in [Then::IsReadable, Then::Receives, Then::Connects] {
            if then == Then::Connects && !cfg!(target_os = "linux") {
                // Other systems refuse when the backlog is full.
                continue;
            }
            for seen in [Seen::No, Seen::Looked, Seen::Apart] {
                let net = NETS[tries % NETS.len()];
                same += usize::from(pass_on(&mut rig, waits, then, net, seen, &mute));
                tries += 1;
            }
        }
    }
    // Other tests may take the number in between, now and then.
    assert!(!cfg!(unix) || same * 2 > tries, "{same} of {tries} had the same number");
    rig.assert_idle();
}

pub(super) fn peers_vanish_while_polled(on: On) {
    let mut rig = Rig::open(on);
    let broken = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::ConnectionAborted];
    for (net, in_disorder) in NETS.iter().flat_map(|&net| [(net, false), (net, true)]) {
        let vanish = |far: Socket| {
            if in_disorder && net == Net::Tcp {
                far.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
            }
            drop(far);
        };
        // An operation waits in each direction. The peer leaves bytes unread, which is a reset by itself.
        let (near, far) = pair(net);
        let (receive, send) = (rig.receive(&near), rig.send(&near, vec![7; 8 << 20]));
        rig.turn_for(Duration::from_millis(2));
        assert!(!rig.is_over(receive) && !rig.is_over(send));
        vanish(far);
        rig.turn_until("both ends", |rig| rig.are_over(&[receive, send]));
        let sent = &rig.ops[send];
        assert!(sent.error_kind().is_some_and(|kind| broken.contains(&kind)), "{sent:?}");
        assert!(sent.sent < 8 << 20);
        let kind = rig.ops[receive].error_kind();
        assert!(kind.is_none_or(|kind| broken.contains(&kind)), "{:?}", rig.ops[receive]);
        rig.assert_idle();
        rig.close(near);
        // An operation waits only for readability.
        let (near, far) = pair(net);
        let readable = rig.await_readable(&near);
        rig.assert_silent();
        vanish(far);
        rig.turn_until("something", |rig| rig.is_over(readable));
        assert!(rig.ops[readable].is_done());
        rig.assert_idle();
        // No operation waits until later.
        let (other, far) = pair(net);
        vanish(far);
        rig.assert_silent();
        for socket in [near, other] {
            let receive = rig.receive(&socket);
            rig.turn_until("the end", |rig| rig.is_over(receive));
            let op = &rig.ops[receive];
            assert!(op.is_done() || op.error_kind() == Some(ErrorKind::ConnectionReset), "{op:?}");
            // Wine's poll takes the error, and the rest looks like an end.
            let is_told = net == Net::Tcp && !cfg!(windows);
            assert!(!is_told || op.is_done() != in_disorder, "{op:?}");
            rig.close(socket);
        }
        rig.assert_idle();
    }
}
