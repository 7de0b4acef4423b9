//! Unused connections of zring's sockets.

use std::time::{Duration, Instant};

use zring::{Error, Options, Socket, SocketType};

use crate::error::{Failure, Result};
use crate::sequence::{self, SequenceCheck, Verdict};
use crate::subject::zring::Kind;
use crate::subject::{Case, Crowd, STALL, Visitor};

/// How long one end waits before the other is turned; inline contexts on one thread need that.
const TURN: Duration = Duration::from_millis(1);

/// Opens `count` connections from another socket of `context` to a REP socket, and waits for their handshakes.
///
/// # Errors
/// The library's error.
pub(super) fn connect_beside<C: Kind>(
    context: &C,
    endpoint: &str,
    count: u32,
) -> Result<Socket<C>> {
    let socket = context.open_socket(SocketType::Req, Options::default())?;
    for _ in 0..count {
        socket.connect(endpoint).map_err(Failure::library)?;
    }
    socket.wait_for_peers(count as usize, Some(STALL)).map_err(Failure::library)?;
    Ok(socket)
}

/// How many connections may wait in a listener's backlog.
pub(super) fn backlog(case: &Case) -> u32 {
    case.connections.max(case.peers).max(Options::default().backlog)
}

/// A bound PULL socket, and a PUSH socket that connects to it many times.
pub(super) struct Silent<C: Kind> {
    push: Socket<C>,
    pull: Socket<C>,
    endpoint: String,
    driver: Option<&'static str>,
}

impl<C: Kind> Silent<C> {
    pub(super) fn new(case: &Case) -> Result<Self> {
        let mut options = Options::default();
        options.linger = Some(STALL);
        options.backlog = backlog(case);
        let pull_context = C::open(case, case.core_b())?;
        let pull = pull_context.open_socket(SocketType::Pull, options.clone())?;
        pull.bind(&case.bind).map_err(Failure::library)?;
        let endpoint = pull.last_endpoint();
        let push = C::open(case, case.core_a())?.open_socket(SocketType::Push, options)?;
        Ok(Self {
            push,
            pull,
            endpoint: endpoint.ok_or_else(|| Failure::Setup("no bound endpoint".to_owned()))?,
            driver: pull_context.driver_name(),
        })
    }
}

impl<C: Kind> Crowd for Silent<C> {
    fn connect(&mut self, count: u32) -> Result<()> {
        for _ in 0..count {
            self.push.connect(&self.endpoint).map_err(Failure::library)?;
        }
        let started = Instant::now();
        loop {
            let is_over = started.elapsed() >= STALL;
            let ends =
                [&self.push, &self.pull].map(|end| end.wait_for_peers(count as usize, Some(TURN)));
            let mut is_whole = true;
            for end in ends {
                match end {
                    Ok(()) => {}
                    Err(Error::TooFew { .. }) if !is_over => is_whole = false,
                    Err(error) => return Err(Failure::library(error)),
                }
            }
            if is_whole {
                return Ok(());
            }
        }
    }

    fn connected(&self) -> usize {
        self.push.peers().len().min(self.pull.peers().len())
    }

    fn driver(&self) -> Option<&'static str> {
        self.driver
    }
}

/// A context that opens a REQ socket for each request.
pub(super) struct Visits<C: Kind> {
    context: C,
    options: Options,
    endpoint: String,
    body: Vec<u8>,
}

impl<C: Kind> Visits<C> {
    pub(super) fn new(context: C, options: Options, endpoint: &str, size_bytes: usize) -> Self {
        let body = sequence::filler(size_bytes);
        Self { context, options, endpoint: endpoint.to_owned(), body }
    }
}

impl<C: Kind> Visitor for Visits<C> {
    fn visit(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        let socket = self.context.open_socket(SocketType::Req, self.options.clone())?;
        socket.connect(&self.endpoint).map_err(Failure::library)?;
        sequence::stamp(&mut self.body, sequence);
        socket.send(&self.body[..]).map_err(Failure::library)?;
        let reply = socket.recv().map_err(Failure::library)?;
        let verdict = check.accept(reply.body())?;
        match socket.close().unsent_messages {
            0 => Ok(verdict),
            unsent => Err(Failure::Library(format!("{unsent} requests were left unsent"))),
        }
    }
}
