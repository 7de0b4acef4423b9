//! zring's PUB and SUB sockets: one publisher, and the sockets of all subscribers in one context.

use zring::{Socket, SocketType};

use crate::error::{Failure, Result};
use crate::sequence::{self, SequenceCheck};
use crate::sides::Announce;
use crate::subject::zring::{Kind, Side, options};
use crate::subject::{Case, Publisher, Subscribers};

/// Messages received from one socket before the next one is served.
const TURN_MESSAGES: usize = 1024;

/// A bound PUB socket.
pub(super) fn publisher<C: Kind>(case: &Case, announce: Announce) -> Result<Box<dyn Publisher>> {
    let side = Side::<C>::bind_at(case, case.core_a(), SocketType::Pub, announce)?;
    Ok(Box::new(Publishing { side, body: sequence::filler(case.size_bytes) }))
}

/// SUB sockets, each connected to `endpoint`.
pub(super) fn subscribers<C: Kind>(case: &Case, endpoint: &str) -> Result<Box<dyn Subscribers>> {
    let context = C::open(case, case.core_b())?;
    let open = |_| {
        let socket = context.open_socket(SocketType::Sub, options(case))?;
        socket.subscribe("").map_err(Failure::library)?;
        socket.connect(endpoint).map_err(Failure::library)?;
        Ok(socket)
    };
    let sockets = (0..case.peers).map(open).collect::<Result<_>>()?;
    Ok(Box::new(Listening { sockets, is_readable: Vec::new() }))
}

struct Publishing<C: Kind> {
    side: Side<C>,
    body: Vec<u8>,
}

impl<C: Kind> Publisher for Publishing<C> {
    fn publish(&mut self, sequence: u64) -> Result<()> {
        sequence::stamp(&mut self.body, sequence);
        self.side.socket.send(&self.body[..]).map_err(Failure::library)
    }

    fn publish_burst(&mut self, first: u64, count: u64) -> Result<u64> {
        let count = count.min(self.side.burst as u64);
        let _batch = self.side.context.open_batch();
        for sequence in first..first + count {
            self.publish(sequence)?;
        }
        Ok(count)
    }

    fn progress(&mut self) -> Result<()> {
        self.side.context.turn()
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.side.close()
    }

    fn driver(&self) -> Option<&'static str> {
        self.side.driver
    }
}

struct Listening<C: Kind> {
    sockets: Vec<Socket<C>>,
    is_readable: Vec<bool>,
}

impl<C: Kind> Subscribers for Listening<C> {
    fn receive_burst(&mut self, checks: &mut [SequenceCheck]) -> Result<()> {
        C::readable(&self.sockets, &mut self.is_readable)?;
        if !self.is_readable.contains(&true) {
            return Err(Failure::Library("nothing was published for too long".to_owned()));
        }
        let sockets = self.sockets.iter().zip(checks).zip(&self.is_readable);
        for ((socket, check), _) in sockets.filter(|(_, is_readable)| **is_readable) {
            for _ in 0..TURN_MESSAGES {
                match socket.try_recv() {
                    Ok(message) => check.accept(message.body())?,
                    Err(error) if error.is_would_block() => break,
                    Err(error) => return Err(Failure::library(error)),
                };
            }
        }
        Ok(())
    }
}
