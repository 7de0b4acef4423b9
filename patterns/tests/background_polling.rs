//! Event descriptors of background sockets, and `zring::poll` over sockets, contexts and files.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Way, foreign_pair, in_ways};
use zring::inline::{POLLIN, POLLOUT};
use zring::{Config, Context, Error, PollItem, Socket, SocketType, Wait, poll};

const LIMIT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

fn open(ctx: &Context, kind: SocketType) -> Socket {
    let socket = ctx.socket(kind).expect("a socket");
    socket.set_rcvtimeo(Some(PATIENCE));
    socket.set_sndtimeo(Some(PATIENCE));
    socket
}

fn bind(socket: &Socket) -> String {
    socket.bind("tcp://127.0.0.1:0").expect("bind");
    socket.last_endpoint().expect("a bound endpoint")
}

fn pair(
    (bound, kind): (&Context, SocketType),
    (connected, other): (&Context, SocketType),
) -> (Socket, Socket) {
    let (first, second) = (open(bound, kind), open(connected, other));
    second.connect(&bind(&first)).expect("connect");
    second.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
    first.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
    (first, second)
}

fn push_and_pull(way: Way) -> (Socket, Socket) {
    let (first, second) = (way.background_context(), way.background_context());
    let (pull, push) = pair((&first, SocketType::Pull), (&second, SocketType::Push));
    (push, pull)
}

/// Only Linux has event descriptors.
#[cfg(target_os = "linux")]
mod descriptor {
    use std::os::fd::OwnedFd;

    use rustix::event::{PollFd, PollFlags, Timespec};

    use super::*;

    /// Whether the descriptor polls readable within `timeout`.
    fn is_signalled(fd: &OwnedFd, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).expect("a short time");
        rustix::event::poll(&mut fds, Some(&timeout)).expect("poll") == 1
    }

    /// Takes all waiting messages; returns their number.
    fn take_all(pull: &Socket) -> usize {
        let mut count = 0;
        loop {
            match pull.try_recv() {
                Ok(_) => count += 1,
                Err(Error::WouldBlock) => return count,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn the_descriptor_is_readable_on_data_and_quiet_when_all_is_taken() {
        in_ways(Way::background(), LIMIT, |way| {
            let (push, pull) = push_and_pull(way);
            let fd = pull.event_fd().expect("a descriptor");
            for round in 0..20 {
                // A spurious readable is allowed, but not for ever.
                let start = Instant::now();
                while is_signalled(&fd, Duration::ZERO) {
                    assert_eq!(take_all(&pull), 0);
                    assert!(start.elapsed() < PATIENCE, "round {round}: never quiet");
                }
                assert!(!is_signalled(&fd, Duration::from_millis(5)), "round {round}: quiet");
                push.send("x").expect("send");
                push.send("y").expect("send");
                let mut taken = 0;
                while taken < 2 {
                    assert!(is_signalled(&fd, PATIENCE), "round {round}: {taken} so far");
                    taken += take_all(&pull);
                }
                assert_eq!(taken, 2);
            }
        });
    }

    /// Only the descriptor drives the receiver: a missed wake would stall it.
    #[test]
    fn a_foreign_loop_misses_nothing() {
        const MESSAGES: u32 = 3000;
        in_ways(Way::background(), LIMIT, |way| {
            let (push, pull) = push_and_pull(way);
            let sender = thread::spawn(move || {
                for number in 0..MESSAGES {
                    push.send(&number.to_le_bytes()[..]).expect("send");
                    if number % 7 == 0 {
                        thread::sleep(Duration::from_micros(u64::from(number % 300)));
                    }
                }
                push
            });
            let fd = pull.event_fd().expect("a descriptor");
            let mut next = 0_u32;
            while next < MESSAGES {
                match pull.try_recv() {
                    Ok(message) => {
                        assert_eq!(message.body(), next.to_le_bytes());
                        next += 1;
                    }
                    Err(Error::WouldBlock) => {
                        assert!(is_signalled(&fd, PATIENCE), "no signal for message {next}");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            sender.join().expect("the sender");
        });
    }

    #[test]
    fn the_descriptor_tells_of_room_to_send() {
        in_ways(Way::background(), LIMIT, |way| {
            let (push, pull) = push_and_pull(way);
            let fd = push.event_fd().expect("a descriptor");
            // A pause longer than this means that the connection is full for good.
            let mut sent = 0;
            while is_signalled(&fd, Duration::from_millis(300)) {
                while push.try_send(vec![1; 64 << 10]).is_ok() {
                    sent += 1;
                    assert!(sent < 100_000, "there is no limit");
                }
            }
            assert!(sent >= 1000, "the mark itself: {sent}");
            let receiver = thread::spawn(move || {
                (0..sent)
                    .for_each(|_| assert_eq!(pull.recv().expect("a message").body().len(), 65_536));
                pull
            });
            assert!(is_signalled(&fd, PATIENCE), "room again");
            let start = Instant::now();
            while push.try_send("room again").is_err() {
                assert!(start.elapsed() < PATIENCE && is_signalled(&fd, PATIENCE));
            }
            let pull = receiver.join().expect("the receiver");
            assert_eq!(pull.recv_bytes().expect("a message"), b"room again");
        });
    }

    #[test]
    fn the_descriptor_tells_of_a_peer_and_of_termination() {
        in_ways(Way::background(), LIMIT, |way| {
            let ctx = way.background_context();
            let (push, pull) = (open(&ctx, SocketType::Push), open(&ctx, SocketType::Pull));
            let endpoint = bind(&push);
            let (push_fd, pull_fd) = (push.event_fd().expect("one"), pull.event_fd().expect("two"));
            assert!(push.try_send("nobody is there").is_err());
            assert!(pull.try_recv().is_err());
            assert!(!is_signalled(&push_fd, SHORT) && !is_signalled(&pull_fd, SHORT));
            pull.connect(&endpoint).expect("connect");
            let start = Instant::now();
            while push.try_send("there").is_err() {
                assert!(start.elapsed() < PATIENCE && is_signalled(&push_fd, PATIENCE));
            }
            while take_all(&pull) == 0 {
                assert!(is_signalled(&pull_fd, PATIENCE));
            }
            assert!(!is_signalled(&pull_fd, SHORT));
            ctx.terminate();
            assert!(is_signalled(&pull_fd, PATIENCE), "termination is something to look at");
            assert!(matches!(pull.try_recv(), Err(Error::Terminated)));
        });
    }
}

#[cfg(not(target_os = "linux"))]
#[test]
fn there_is_no_descriptor() {
    in_ways(Way::background(), LIMIT, |way| {
        let (push, _pull) = push_and_pull(way);
        let refused = push.event_fd().expect_err("none here");
        let Error::Io(refused) = refused else { panic!("{refused}") };
        assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported);
    });
}

#[test]
fn poll_waits_for_sockets_of_two_contexts_and_for_files() {
    in_ways(Way::background(), LIMIT, |way| {
        let (first, second) = (way.background_context(), way.background_context());
        let (one, to_one) = pair((&first, SocketType::Pull), (&second, SocketType::Push));
        let (two, to_two) = pair((&second, SocketType::Pull), (&first, SocketType::Push));
        let (mut here, mut there) = foreign_pair();
        // Which of the three items is readable.
        let look = |file: &TcpStream, timeout: Duration| {
            let mut items = [
                PollItem::new(&one, POLLIN),
                PollItem::from_fd(file, POLLIN),
                PollItem::new(&two, POLLIN),
            ];
            let count = poll(&mut items, Some(timeout)).expect("poll");
            let ready = items.each_ref().map(PollItem::is_readable);
            assert_eq!(count, ready.iter().filter(|ready| **ready).count());
            assert!(items.iter().all(|item| !item.is_writable()), "nobody asked for that");
            ready
        };
        let start = Instant::now();
        assert_eq!(look(&here, SHORT), [false; 3]);
        assert!(start.elapsed() >= SHORT - Duration::from_millis(1), "{:?}", start.elapsed());
        assert_eq!(look(&here, Duration::ZERO), [false; 3]);

        let wakes = |wanted: [bool; 3], act: &mut (dyn FnMut() + Send)| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(30));
                    act();
                });
                assert_eq!(look(&here, PATIENCE), wanted);
            });
            assert_eq!(look(&here, PATIENCE), wanted, "until it is taken");
        };
        wakes([true, false, false], &mut || to_one.send("x").expect("send"));
        assert_eq!(one.recv_bytes().expect("a message"), b"x");
        wakes([false, false, true], &mut || to_two.send("y").expect("send"));
        assert_eq!(two.recv_bytes().expect("a message"), b"y");
        wakes([false, true, false], &mut || there.write_all(b"z").expect("write"));
        here.read_exact(&mut [0]).expect("read");
        assert_eq!(look(&here, Duration::ZERO), [false; 3]);
        drop(there);
        assert_eq!(look(&here, PATIENCE), [false, true, false], "a hang-up");
    });
}

#[test]
fn poll_tells_of_room_to_send_and_to_write() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let push = open(&ctx, SocketType::Push);
        let endpoint = bind(&push);
        let (file, _other) = foreign_pair();
        let mut items = [PollItem::new(&push, POLLIN | POLLOUT)];
        assert_eq!(poll(&mut items, Some(SHORT)).expect("poll"), 0, "no peer, no room");
        let mut items = [PollItem::new(&push, POLLOUT), PollItem::from_fd(&file, POLLIN | POLLOUT)];
        assert_eq!(poll(&mut items, None).expect("poll"), 1);
        assert!(!items[0].is_writable() && items[1].is_writable() && !items[1].is_readable());

        let pull = open(&ctx, SocketType::Pull);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(30));
                pull.connect(&endpoint).expect("connect");
            });
            let mut items = [PollItem::new(&push, POLLOUT), PollItem::from_fd(&file, POLLIN)];
            assert_eq!(poll(&mut items, Some(PATIENCE)).expect("poll"), 1);
            assert!(items[0].is_writable() && !items[1].is_readable());
        });
        push.try_send("as was said").expect("room");
        assert_eq!(pull.recv_bytes().expect("a message"), b"as was said");
    });
}

/// Each thread polls the sockets of all shards, and every socket gets all it waits for.
#[test]
fn poll_over_shards_however_they_wait() {
    const ROUNDS: usize = 200;
    in_ways(Way::background(), LIMIT, |way| {
        for wait in
            [Wait::Park, Wait::Adaptive, Wait::SpinThenPark(Duration::from_micros(100)), Wait::Spin]
        {
            let ctx = way.background_with(Config { wait, shards: 2, ..way.config() });
            let pairs: Vec<_> =
                (0..2).map(|_| pair((&ctx, SocketType::Pull), (&ctx, SocketType::Push))).collect();
            let (pulls, pushes): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let sender = thread::spawn(move || {
                for round in 0..ROUNDS {
                    pushes[round * 7 % 3 % 2].send(round.to_le_bytes().to_vec()).expect("send");
                    if round % 20 == 0 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                pushes
            });
            let mut seen = Vec::new();
            while seen.len() < ROUNDS {
                let mut items: Vec<_> =
                    pulls.iter().map(|pull| PollItem::new(pull, POLLIN)).collect();
                let count = poll(&mut items, Some(PATIENCE)).expect("poll");
                assert!(count > 0, "{wait:?}: nothing after {} messages", seen.len());
                let ready: Vec<bool> = items.iter().map(PollItem::is_readable).collect();
                for (pull, _) in pulls.iter().zip(ready).filter(|(_, ready)| *ready) {
                    let message = pull.try_recv().expect("what poll promised");
                    let number = message.body().try_into().expect("eight bytes");
                    seen.push(usize::from_le_bytes(number));
                }
            }
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..ROUNDS));
            sender.join().expect("the sender");
        }
    });
}
