//! Callbacks from a shard to the layer above.

use std::{io, net::SocketAddr};

use crate::{
    buf::{Chunk, Gather},
    conn::{ConnId, ListenerId},
    driver::Direct,
    resolver::ResolveError,
    shard::Shard,
};

/// Why receiving stopped.
#[derive(Debug)]
pub enum ReceiveEnd {
    /// [`Shard::receive_stop`] asked for it. Receiving can start again.
    Stopped,
    /// The peer ended its side in order.
    Closed,
    /// The connection failed.
    Failed(io::Error),
}

/// The layer above a shard. Callbacks run inside [`Shard::turn`], on its thread, and may call back
/// into the shard; user code never runs here.
pub trait Handler {
    /// Called once per turn, after its completions. Returns how much was done.
    fn on_turn(&mut self, _shard: &mut Shard) -> usize {
        0
    }

    /// The shard is about to sleep. Returns `false` if the handler has work to do: the shard then does not sleep, and
    /// [`Handler::on_turn`] does the work. Work that comes up later has to wake the shard ([`Shard::waker`]).
    fn on_sleep(&mut self) -> bool {
        true
    }

    /// A listener has a new connection. Nothing is received until asked for.
    fn on_accepted(&mut self, shard: &mut Shard, listener: ListenerId, conn: ConnId);

    /// A listener could not accept. If `ended`, it accepts nothing more until [`Shard::accept`] is called.
    fn on_accept_failed(
        &mut self,
        shard: &mut Shard,
        listener: ListenerId,
        error: io::Error,
        ended: bool,
    );

    /// A connect ended. After an error the handler has to close the connection.
    fn on_connected(&mut self, shard: &mut Shard, conn: ConnId, result: io::Result<()>);

    /// Bytes arrived in the pool. The handler has to give the chunk to [`Shard::release`] in the end.
    fn on_received(&mut self, shard: &mut Shard, conn: ConnId, chunk: Chunk);

    /// A direct receive brought bytes.
    fn on_received_direct(&mut self, shard: &mut Shard, conn: ConnId, direct: Direct);

    /// [`Shard::await_readable`] ended: there is something to receive. No receive is armed any more.
    fn on_readable(&mut self, _shard: &mut Shard, _conn: ConnId) {}

    /// Receiving stopped. `direct` gives back the memory of an unfinished direct receive.
    fn on_receive_end(
        &mut self,
        shard: &mut Shard,
        conn: ConnId,
        direct: Option<Direct>,
        end: ReceiveEnd,
    );

    /// Receives wait for buffers of the pool. A handler that holds undecoded chunks may copy and release them.
    fn on_starved(&mut self, shard: &mut Shard);

    /// A send ended. The kernel took the first `bytes` bytes of `gather`: all of them, unless there is an `error` or
    /// the connection is being closed.
    fn on_sent(
        &mut self,
        shard: &mut Shard,
        conn: ConnId,
        gather: Gather,
        bytes: usize,
        error: Option<io::Error>,
    );

    /// A connection given to [`Shard::close`] has seen its last completion; the id is stale now.
    fn on_closed(&mut self, shard: &mut Shard, conn: ConnId);

    /// A timer is due.
    fn on_timer(&mut self, shard: &mut Shard, token: u64);

    /// The answer for a name given to [`Shard::resolve`].
    fn on_resolved(
        &mut self,
        shard: &mut Shard,
        token: u64,
        result: Result<Vec<SocketAddr>, ResolveError>,
    );
}
