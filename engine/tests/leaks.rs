//! A shard leaves nothing behind. A test program of its own, because it counts the open files and the memory maps of
//! the whole process.
#![cfg(target_os = "linux")]

use std::{
    io,
    net::{SocketAddr, TcpStream},
};

use zring_engine::{
    Chunk, Config, ConnId, Direct, Gather, Handler, ListenerId, ReceiveEnd, ResolveError, Shard,
    TurnWait, sys::net::SocketOptions, sys::net::listen_tcp,
};

/// Arms every accepted connection and ignores everything else.
#[derive(Default)]
struct Armer {
    accepted: Vec<ConnId>,
    closed: usize,
}

impl Handler for Armer {
    fn on_accepted(&mut self, shard: &mut Shard, _listener: ListenerId, conn: ConnId) {
        shard.receive_ring(conn);
        self.accepted.push(conn);
    }
    fn on_accept_failed(&mut self, _: &mut Shard, _: ListenerId, error: io::Error, _: bool) {
        panic!("accept: {error}");
    }
    fn on_connected(&mut self, _: &mut Shard, _: ConnId, _: io::Result<()>) {}
    fn on_received(&mut self, shard: &mut Shard, _: ConnId, chunk: Chunk) {
        shard.release(chunk);
    }
    fn on_received_direct(&mut self, _: &mut Shard, _: ConnId, _: Direct) {}
    fn on_receive_end(
        &mut self,
        shard: &mut Shard,
        conn: ConnId,
        _: Option<Direct>,
        _: ReceiveEnd,
    ) {
        shard.close(conn);
    }
    fn on_starved(&mut self, _: &mut Shard) {}
    fn on_sent(&mut self, _: &mut Shard, _: ConnId, _: Gather, _: usize, _: Option<io::Error>) {}
    fn on_closed(&mut self, _: &mut Shard, _: ConnId) {
        self.closed += 1;
    }
    fn on_timer(&mut self, _: &mut Shard, _: u64) {}
    fn on_resolved(&mut self, _: &mut Shard, _: u64, _: Result<Vec<SocketAddr>, ResolveError>) {}
}

fn listen(shard: &mut Shard) -> SocketAddr {
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let (fd, address) = listen_tcp(any_port, 128, &SocketOptions::default()).expect("listen");
    shard.listen(fd);
    address
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// Number of mappings of rings: the kernel keeps a ring alive while one of its mappings exists.
fn ring_maps() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    maps.lines().filter(|line| line.contains("io_uring")).count()
}

fn shards_come_and_go(mask: &str, rounds: usize) {
    for round in 0..rounds {
        let config = Config { uring_mask: Some(mask.to_owned()), ..Config::default() };
        let mut shard = Shard::open(config).expect("a shard");
        let mut armer = Armer::default();
        let address = listen(&mut shard);
        let _peers: Vec<_> =
            (0..3).map(|_| TcpStream::connect(address).expect("connect")).collect();
        if round % 2 == 0 {
            shard.event_fd().expect("an event descriptor");
        }
        while armer.accepted.len() < 3 {
            shard.turn(&mut armer, TurnWait::Until(None)).expect("a turn");
        }
        assert!(ring_maps() > 0, "this is how rings show");
    }
}

fn connections_come_and_go(rounds: usize) {
    let mut shard = Shard::open(Config::default()).expect("a shard");
    let mut armer = Armer::default();
    let address = listen(&mut shard);
    let turn = |shard: &mut Shard, armer: &mut Armer| {
        shard.turn(armer, TurnWait::Until(None)).expect("a turn");
    };
    let before = open_files();
    for round in 1..=rounds {
        let peers: Vec<_> =
            (0..20).map(|_| TcpStream::connect(address).expect("connect")).collect();
        while armer.accepted.len() < 20 {
            turn(&mut shard, &mut armer);
        }
        let accepted = std::mem::take(&mut armer.accepted);
        if round % 2 == 0 {
            accepted.into_iter().for_each(|conn| shard.close(conn));
        }
        drop(peers);
        while armer.closed < 20 * round {
            turn(&mut shard, &mut armer);
        }
        assert_eq!(open_files(), before, "after round {round}");
    }
    assert_eq!(shard.in_flight(), 1);
}

#[test]
fn nothing_stays_open() {
    // If this hangs, the build's time limit fails it; nothing here waits for more than loopback traffic.
    let (tell, told) = std::sync::mpsc::channel();
    let before = (open_files(), ring_maps());
    let worker = std::thread::spawn(move || {
        for mask in ["", "inc", "inc,multishot", "ringfd"] {
            shards_come_and_go(mask, 25);
        }
        connections_come_and_go(200);
        let _ = tell.send(());
    });
    let limit = std::time::Duration::from_secs(60);
    if told.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        panic!("not finished after {limit:?}");
    }
    worker.join().expect("it succeeded");
    assert_eq!((open_files(), ring_maps()), before);
}
