//! A send that the kernel really does not copy, in a network namespace of its own.
//!
//! Every delivery to a socket of this machine copies, so there is no peer. The connection is made by hand
//! (`TCP_REPAIR`) and leads into a bridge without ports, which drops packets unread; a raw socket sends the
//! acknowledgements that a peer would send. Needs a network namespace and CAP_NET_ADMIN; without them the test prints
//! that it was skipped.
#![cfg(target_os = "linux")]

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{UnshareFlags, unshare_unsafe};
use socket2::{Domain, Protocol, Socket, Type};
use zring_engine::{
    Chunk, Config, ConnId, Direct, DriverChoice, Gather, Handler, ListenerId, ReceiveEnd,
    ResolveError, Segment, Shard, Shared, TurnWait,
};

const HERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 5001);
const THERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 2), 5002);
/// First sequence numbers of the two streams.
const OUR_FIRST: u32 = 1_000_000;
const THEIR_FIRST: u32 = 9_000_000;
const SEGMENT_BYTES: u32 = 1400;
const BODY_BYTES: usize = 256 << 10;

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Moves the calling thread into a network namespace with a bridge that leads nowhere.
fn enter_a_network() -> Result<(), String> {
    // SAFETY: the descriptor table is not unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|error| format!("unshare: {error}"))?;
    ip("link set lo up")?;
    ip("link add nowhere type bridge")?;
    ip("addr add 10.99.0.1/24 dev nowhere")?;
    ip("link set nowhere up")?;
    ip("neigh add 10.99.0.2 lladdr 02:00:00:00:00:02 nud permanent dev nowhere")
}

fn set<T>(socket: &Socket, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value is plain data that the kernel only reads, and its size is passed.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `TCP_REPAIR` and related options, from `linux/tcp.h`.
const REPAIR: i32 = 19;
const REPAIR_QUEUE: i32 = 20;
const QUEUE_SEQ: i32 = 21;
const REPAIR_OPTIONS: i32 = 22;
const REPAIR_WINDOW: i32 = 29;
const RECV_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;
const OFF_WITHOUT_PROBE: i32 = -1;
const OPTION_MSS: u32 = 2;
const OPTION_WINDOW: u32 = 3;

/// A connection whose peer does not exist.
fn connect_by_hand() -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    set(&socket, REPAIR, &1i32)?;
    for (queue, first) in [(SEND_QUEUE, OUR_FIRST), (RECV_QUEUE, THEIR_FIRST)] {
        set(&socket, REPAIR_QUEUE, &queue)?;
        set(&socket, QUEUE_SEQ, &first)?;
    }
    socket.bind(&HERE.into())?;
    socket.connect(&THERE.into())?;
    let scales = 7 | 7 << 16;
    set(&socket, REPAIR_OPTIONS, &[OPTION_MSS, SEGMENT_BYTES, OPTION_WINDOW, scales])?;
    let window = 4 << 20;
    // snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup.
    set(&socket, REPAIR_WINDOW, &[THEIR_FIRST, window, window, 65_535, THEIR_FIRST])?;
    set(&socket, REPAIR, &OFF_WITHOUT_PROBE)?;
    socket.set_nonblocking(true)?;
    socket.set_send_buffer_size(4 << 20)?;
    Ok(socket.into())
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for pair in parts.concat().chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    !(sum as u16)
}

/// The acknowledgement of everything before `next`, as an IPv4 packet.
fn acknowledgement(next: u32) -> Vec<u8> {
    let (from, to) = (THERE.ip().octets(), HERE.ip().octets());
    let mut tcp = Vec::new();
    tcp.extend(THERE.port().to_be_bytes());
    tcp.extend(HERE.port().to_be_bytes());
    tcp.extend(THEIR_FIRST.to_be_bytes());
    tcp.extend(next.to_be_bytes());
    // Five words of header, ACK, the largest window.
    tcp.extend([5 << 4, 0x10, 0xFF, 0xFF, 0, 0, 0, 0]);
    let pseudo = [0, 6, 0, tcp.len() as u8];
    let sum = checksum(&[&from, &to, &pseudo, &tcp]);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    // The kernel fills in length, identification and checksum.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from);
    packet.extend(to);
    packet.extend(tcp);
    packet
}

/// Acknowledges `bodies` bodies again and again; the kernel ignores acknowledgements of unsent bytes.
fn acknowledge(bodies: usize, stop: &AtomicBool) -> io::Result<()> {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let to = SocketAddrV4::new(*HERE.ip(), 0).into();
    while !stop.load(Ordering::Relaxed) {
        for body in 0..bodies {
            let start = OUR_FIRST + (body * BODY_BYTES) as u32;
            let end = start + BODY_BYTES as u32;
            for next in (start..end).step_by(SEGMENT_BYTES as usize).chain([end]) {
                raw.send_to(&acknowledgement(next), &to)?;
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Counts completed sends.
#[derive(Default)]
struct Sent(usize);

impl Handler for Sent {
    fn on_accepted(&mut self, _: &mut Shard, _: ListenerId, _: ConnId) {}
    fn on_accept_failed(&mut self, _: &mut Shard, _: ListenerId, _: io::Error, _: bool) {}
    fn on_connected(&mut self, _: &mut Shard, _: ConnId, _: io::Result<()>) {}
    fn on_received(&mut self, _: &mut Shard, _: ConnId, _: Chunk) {
        panic!("nobody says anything");
    }
    fn on_received_direct(&mut self, _: &mut Shard, _: ConnId, _: Direct) {}
    fn on_receive_end(&mut self, _: &mut Shard, _: ConnId, _: Option<Direct>, _: ReceiveEnd) {}
    fn on_starved(&mut self, _: &mut Shard) {}
    fn on_sent(
        &mut self,
        _: &mut Shard,
        _: ConnId,
        gather: Gather,
        bytes: usize,
        error: Option<io::Error>,
    ) {
        assert!(error.is_none() && bytes == gather.bytes(), "{bytes}: {error:?}");
        self.0 += 1;
    }
    fn on_closed(&mut self, _: &mut Shard, _: ConnId) {}
    fn on_timer(&mut self, _: &mut Shard, _: u64) {}
    fn on_resolved(&mut self, _: &mut Shard, _: u64, _: Result<Vec<SocketAddr>, ResolveError>) {}
}

struct World {
    shard: Shard,
    sent: Sent,
}

impl World {
    fn turn_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            let stats = self.shard.stats().zero_copy;
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "still waiting for {what}: {stats:?}"
            );
            let until_ns = self.shard.now_ns() + 5_000_000;
            self.shard.turn(&mut self.sent, TurnWait::Until(Some(until_ns))).expect("a turn");
        }
    }
}

fn large_sends_go_without_a_copy() {
    const SENDS: usize = 8;
    if let Err(why) = enter_a_network() {
        println!("skipped: no network of its own: {why}");
        return;
    }
    let fd = connect_by_hand().expect("a connection");
    let stop = Arc::new(AtomicBool::new(false));
    let peer = thread::spawn({
        let stop = stop.clone();
        move || acknowledge(SENDS, &stop)
    });
    let config =
        Config { driver: DriverChoice::Uring, zero_copy_bytes_min: 64 << 10, ..Config::default() };
    let mut world = World { shard: Shard::open(config).expect("a ring"), sent: Sent::default() };
    let conn = world.shard.adopt(fd);
    let send = |world: &mut World, body: Segment| {
        let mut gather = Gather::new();
        gather.push(body);
        let before = world.sent.0;
        world.shard.send(conn, gather).expect("an open connection");
        world.turn_until("a send", |world| world.sent.0 > before);
    };
    for round in 1..=SENDS {
        let mut body = Shared::zeroed(BODY_BYTES);
        send(&mut world, Segment::Shared(body.clone()));
        world.turn_until("a report", |world| world.shard.stats().zero_copy.sends == round as u64);
        assert_eq!(world.shard.stats().zero_copy.copied, 0, "round {round}");
        assert!(body.try_mut().is_some(), "reported, so the memory is back");
    }
    send(&mut world, Segment::Arena(vec![0; 1000]));
    assert_eq!(world.shard.stats().zero_copy.sends, SENDS as u64, "a small one does not ask");
    stop.store(true, Ordering::Relaxed);
    peer.join().expect("the peer").expect("packets");
}

#[test]
fn a_kernel_that_avoids_the_copy_is_asked_each_time() {
    // The network namespace belongs to the thread.
    thread::spawn(large_sends_go_without_a_copy).join().expect("the thread");
}
