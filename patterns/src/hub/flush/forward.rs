//! Forwarding: a received body is sent from the receive buffer that it lies in.

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpStream},
};

use zring_engine::{
    ArenaPool, Chunk, Config, ConnId, Direct, DriverChoice, Gather, Handler, ListenerId,
    ReceiveEnd, ResolveError, Segment, Shard, TurnWait, sys::net::SocketOptions,
};

use super::outbox::{Outbox, REFERENCE_BYTES_MIN};
use crate::{frame::Frame, message::Message};

/// Makes frames of one received chunk, of the lengths in `sizes`.
struct Receiver {
    sizes: Vec<usize>,
    frames: Vec<Frame>,
    /// The address of each chunk.
    addresses: Vec<usize>,
}

impl Handler for Receiver {
    fn on_accepted(&mut self, shard: &mut Shard, _: ListenerId, conn: ConnId) {
        shard.receive_ring(conn);
    }
    fn on_accept_failed(&mut self, _: &mut Shard, _: ListenerId, _: io::Error, _: bool) {}
    fn on_connected(&mut self, _: &mut Shard, _: ConnId, _: io::Result<()>) {}
    fn on_received(&mut self, shard: &mut Shard, _: ConnId, chunk: Chunk) {
        let mut at = 0;
        self.addresses.push(shard.pool().bytes(&chunk).as_ptr().addr());
        for size in &self.sizes {
            let mut frame = Frame::new();
            frame.receive_in_place(shard.pool(), &chunk, at..at + size);
            self.frames.push(frame);
            at += size;
        }
        assert_eq!(at, chunk.len(), "one chunk");
        shard.release(chunk);
    }
    fn on_received_direct(&mut self, _: &mut Shard, _: ConnId, _: Direct) {}
    fn on_receive_end(&mut self, _: &mut Shard, _: ConnId, _: Option<Direct>, _: ReceiveEnd) {}
    fn on_starved(&mut self, _: &mut Shard) {}
    fn on_sent(&mut self, _: &mut Shard, _: ConnId, _: Gather, _: usize, _: Option<io::Error>) {}
    fn on_closed(&mut self, _: &mut Shard, _: ConnId) {}
    fn on_timer(&mut self, _: &mut Shard, _: u64) {}
    fn on_resolved(&mut self, _: &mut Shard, _: u64, _: Result<Vec<SocketAddr>, ResolveError>) {}
}

/// A shard that has received frames of these sizes in one chunk, the frames, and the address of the chunk in the pool.
fn received(driver: DriverChoice, sizes: &[usize]) -> (Shard, Vec<Frame>, usize) {
    let mut shard = Shard::open(Config { driver, ..Config::default() }).expect("a shard");
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let (_, address) =
        shard.listen_tcp(any_port, 1, &SocketOptions::default()).expect("a listener");
    let mut peer = TcpStream::connect(address).expect("connect");
    peer.write_all(&vec![7; sizes.iter().sum()]).expect("write");
    let mut receiver =
        Receiver { sizes: sizes.to_vec(), frames: Vec::new(), addresses: Vec::new() };
    while receiver.frames.is_empty() {
        shard.turn(&mut receiver, TurnWait::Until(None)).expect("a turn");
    }
    (shard, receiver.frames, receiver.addresses[0])
}

/// The segments of a send that refer to leased memory: addresses and lengths.
fn leased(gather: &Gather) -> Vec<(usize, usize)> {
    let segments = gather.segments().filter(|segment| matches!(segment, Segment::Lease(_)));
    segments.map(|segment| (segment.bytes().as_ptr().addr(), segment.bytes().len())).collect()
}

#[test]
fn what_was_received_is_sent_from_the_receive_pool() {
    const LEAST: usize = REFERENCE_BYTES_MIN;
    for driver in [DriverChoice::Auto, DriverChoice::Ready] {
        for sizes in [&[LEAST][..], &[5000], &[LEAST, 50, LEAST - 1, 6000]] {
            let (mut shard, frames, start) = received(driver, sizes);
            let frame_count = frames.len();
            let message = Message::from_frames(frames).expect("frames");
            let (mut arena, mut outbox) = (ArenaPool::new(64 << 10, 4), Outbox::default());
            outbox.append_message(&mut arena, &message);
            drop(message);
            let gather = outbox.take_batch(&mut arena).expect("something to send");
            let mut expected = Vec::new();
            let mut at = start;
            for &size in sizes {
                if size >= LEAST {
                    expected.push((at, size));
                }
                at += size;
            }
            assert_eq!(leased(&gather), expected, "{sizes:?}");
            let stats = shard.stats().pool;
            assert_eq!(stats.leases_out, expected.len() as u64, "of {frame_count} frames");
            assert_eq!(stats.buffers_pinned, 1);
            assert_eq!(outbox.complete(&mut arena, gather), 1);
            assert_eq!(shard.stats().pool.leases_out, 0, "sent, so they are back");
            shard
                .turn(
                    &mut Receiver { sizes: vec![], frames: vec![], addresses: vec![] },
                    TurnWait::No,
                )
                .expect("a turn");
            assert_eq!(shard.pool().lent_len(), 0);
        }
    }
}
