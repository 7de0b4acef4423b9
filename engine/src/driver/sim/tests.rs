use std::{net::Ipv4Addr, os::fd::IntoRawFd};

use socket2::SockAddr;

use super::*;
use crate::{
    buf::{FileFault, FileRegion, Gather, Segment},
    driver::Received,
    sim::World,
};

/// A driver with its pool, and a pair of connected sockets.
struct Pair {
    driver: Sim,
    pool: Pool,
    near: OwnedFd,
    far: OwnedFd,
}

/// A descriptor to take the place of one that is taken away.
fn spare() -> OwnedFd {
    EventFd::new().unwrap().as_fd().try_clone_to_owned().unwrap()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn next(world: &World, driver: &mut Sim, pool: &mut Pool) -> Completion {
    driver.flush().unwrap();
    loop {
        if let Some(completion) = driver.next(pool) {
            return completion;
        }
        world.step();
    }
}

fn connect(driver: &mut Sim, port: u16) -> OwnedFd {
    let fd = driver.connect_socket(Family::V4, &SocketOptions::default()).unwrap();
    let address = Box::new(SockAddr::from(local(port)));
    driver.submit(1, Submission::Connect { fd: fd.as_raw_fd(), address });
    fd
}

fn listen(driver: &mut Sim, port: u16) -> io::Result<(OwnedFd, SocketAddr)> {
    driver.listen_tcp(local(port), 16, &SocketOptions::default())
}

impl Pair {
    fn new(world: &World) -> Self {
        let (mut driver, mut pool) = Sim::open(&Config::default()).unwrap();
        let (listener, address) = listen(&mut driver, 0).unwrap();
        let accept = driver.submit(2, Submission::Accept { fd: listener.as_raw_fd() });
        let near = connect(&mut driver, address.port());
        let mut far = None;
        for _ in 0..2 {
            match next(world, &mut driver, &mut pool) {
                Completion::Accepted { token: 2, result, more: true } => far = result.ok(),
                Completion::Connected { token: 1, result } => result.unwrap(),
                other => panic!("{other:?}"),
            }
        }
        driver.cancel(accept);
        driver.cancel(accept);
        let ended = next(world, &mut driver, &mut pool);
        assert!(matches!(ended, Completion::Accepted { result: Err(_), more: false, .. }));
        driver.close(listener);
        assert_eq!((driver.in_flight(), world.sockets()), (0, 2));
        Self { driver, pool, near, far: far.expect("accepted") }
    }

    fn send(&mut self, bytes: &'static [u8]) {
        let mut gather = Gather::new();
        gather.push(Segment::Static(bytes));
        let fd = self.near.as_raw_fd();
        self.driver.submit(3, Submission::Send { fd, gather, sent: 0 });
    }

    fn receive(&mut self) -> OpId {
        self.driver.submit(4, Submission::Receive { fd: self.far.as_raw_fd(), once: false })
    }

    fn next(&mut self, world: &World) -> Completion {
        next(world, &mut self.driver, &mut self.pool)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.driver.shut_down(&mut self.pool);
    }
}

fn in_world(body: impl FnOnce(&World)) {
    World::run(1, &Faults::none(), body);
}

#[test]
fn a_file_is_sent_from_and_to_blame_when_it_is_cut_off() {
    in_world(|world| {
        let mut pair = Pair::new(world);
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"0123456789", 0).unwrap();
        let region = FileRegion::new(file, 2, 6).unwrap();
        let send = |pair: &mut Pair| {
            let mut gather = Gather::new();
            gather.push(Segment::Static(b"head"));
            gather.push(Segment::File(region.clone()));
            gather.push(Segment::Static(b"tail"));
            let fd = pair.near.as_raw_fd();
            pair.driver.submit(3, Submission::Send { fd, gather, sent: 1 });
        };
        pair.receive();
        send(&mut pair);
        let mut got = Vec::new();
        let mut is_sent = false;
        while !is_sent || got.len() < 13 {
            match pair.next(world) {
                Completion::Sent { bytes: 14, error: None, .. } => is_sent = true,
                Completion::Received { received: Received::Bytes(chunk), .. } => {
                    got.extend_from_slice(pair.pool.bytes(&chunk));
                    pair.pool.release(chunk);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, b"ead234567tail");
        region.file().set_len(4).unwrap();
        send(&mut pair);
        let (bytes, error) = loop {
            match pair.next(world) {
                Completion::Sent { bytes, error, .. } => break (bytes, error.unwrap()),
                Completion::Received { received: Received::Bytes(chunk), .. } => {
                    pair.pool.release(chunk);
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((bytes, FileFault::within(&error)), (4, Some(&FileFault::Truncated { at: 4 })));
    });
}

#[test]
fn a_stale_id_is_no_operation() {
    in_world(|world| {
        let mut pair = Pair::new(world);
        let op = pair.receive();
        pair.driver.cancel(op);
        let ended = pair.next(world);
        assert!(matches!(ended, Completion::Received { more: false, .. }), "{ended:?}");
        pair.receive();
        pair.driver.cancel(op);
        pair.send(b"x");
        for _ in 0..2 {
            match pair.next(world) {
                Completion::Sent { bytes: 1, error: None, .. } => {}
                Completion::Received { received: Received::Bytes(chunk), more: true, .. } => {
                    assert_eq!(pair.pool.bytes(&chunk), b"x");
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
#[should_panic(expected = "a second receive on socket")]
fn a_second_receive_is_noticed() {
    in_world(|world| {
        let mut pair = Pair::new(world);
        pair.receive();
        pair.receive();
    });
}

#[test]
#[should_panic(expected = "a second send on socket")]
fn a_second_send_is_noticed() {
    in_world(|world| {
        let mut pair = Pair::new(world);
        pair.send(b"a");
        pair.send(b"b");
    });
}

#[test]
#[should_panic(expected = "was closed under an operation")]
fn a_close_under_an_operation_is_noticed() {
    in_world(|world| {
        let mut pair = Pair::new(world);
        pair.receive();
        let far = std::mem::replace(&mut pair.far, spare());
        pair.driver.close(far);
    });
}

#[test]
#[should_panic(expected = "is no socket of the simulator's")]
fn a_strange_descriptor_is_noticed() {
    in_world(|_| {
        let (mut driver, _pool) = Sim::open(&Config::default()).unwrap();
        driver.submit(1, Submission::Accept { fd: 0 });
    });
}

#[test]
fn a_number_that_is_used_again_is_another_socket() {
    in_world(|world| {
        let mut pair = Pair::new(world);
        let number = pair.near.as_raw_fd();
        // Close it without the driver, as a dropped shard does.
        drop(std::mem::replace(&mut pair.near, spare()));
        let again = (0..100).find_map(|_| {
            let fd = pair.driver.connect_socket(Family::V4, &SocketOptions::default()).unwrap();
            // Threads of other tests take numbers, too.
            if fd.as_raw_fd() == number { Some(fd) } else { Some(fd.into_raw_fd()).and(None) }
        });
        pair.receive();
        let ended = pair.next(world);
        let is_end = matches!(ended, Completion::Received { received: Received::End, .. });
        assert!(is_end, "{ended:?}");
        drop(again);
    });
}

#[test]
fn ports_are_taken_and_given_back() {
    in_world(|world| {
        let (mut driver, mut pool) = Sim::open(&Config::default()).unwrap();
        let (listener, _) = listen(&mut driver, 80).unwrap();
        let taken = listen(&mut driver, 80).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        driver.close(listener);
        let refused = connect(&mut driver, 80);
        match next(world, &mut driver, &mut pool) {
            Completion::Connected { result: Err(error), .. } => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            }
            other => panic!("{other:?}"),
        }
        driver.close(refused);
        listen(&mut driver, 80).unwrap();
        let unix = driver.connect_socket(Family::Unix, &SocketOptions::default()).unwrap_err();
        assert_eq!(unix.kind(), io::ErrorKind::Unsupported);
    });
}

#[test]
fn a_close_over_unread_bytes_is_a_reset() {
    in_world(|world| {
        let mut pair = Pair::new(world);
        pair.send(b"never read");
        assert!(matches!(pair.next(world), Completion::Sent { error: None, .. }));
        world.run_for(1_000_000);
        let fd = pair.near.as_raw_fd();
        pair.driver.submit(5, Submission::Receive { fd, once: false });
        let far = std::mem::replace(&mut pair.far, spare());
        pair.driver.close(far);
        match pair.next(world) {
            Completion::Received { received: Received::Failed(error), more: false, .. } => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            other => panic!("{other:?}"),
        }
        let taken = pair.driver.try_send(pair.near.as_fd(), b"x");
        assert_eq!(taken, 0);
        pair.send(b"x");
        let ended = pair.next(world);
        let Completion::Sent { bytes: 0, error: Some(error), .. } = ended else {
            panic!("{ended:?}")
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_full_window_makes_the_sender_wait() {
    in_world(|world| {
        let mut pair = Pair::new(world);
        let window = lock(&pair.driver.net).faults.window_bytes_max as usize;
        let bytes = vec![7; window + 10];
        assert_eq!(pair.driver.try_send(pair.near.as_fd(), &bytes), window);
        assert_eq!(pair.driver.try_send(pair.near.as_fd(), &bytes[window..]), 0);
        pair.send(b"rest");
        pair.driver.flush().unwrap();
        assert!(world.count("send waits") == 1);
        pair.receive();
        let (mut received, mut is_sent) = (0, false);
        while received < window + 4 || !is_sent {
            match pair.next(world) {
                Completion::Received { received: Received::Bytes(chunk), .. } => {
                    received += chunk.len();
                    pair.pool.release(chunk);
                    pair.driver.provide(&mut pair.pool);
                }
                Completion::Sent { bytes: 4, error: None, .. } => is_sent = true,
                other => panic!("{other:?}"),
            }
        }
    });
}
