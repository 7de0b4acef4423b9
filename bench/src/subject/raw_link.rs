//! A connected stream socket, and the ways to wait for it.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::cli::Wait;
use crate::error::{Failure, Result};
use crate::sides::Announce;
use crate::subject::STALL;

/// The way of calling a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Blocking calls when parked, repeated non-blocking ones when spinning.
    Plain,
    /// Non-blocking calls, and epoll between them.
    Epoll,
}

/// A connected stream socket that waits in the requested way.
pub(super) struct Link {
    socket: Socket,
    wait: Wait,
    #[cfg(target_os = "linux")]
    epoll: Option<epoll::Edges>,
}

impl Link {
    pub(super) fn connect(endpoint: &str, wait: Wait, way: Way) -> Result<Self> {
        Self::on(connect(endpoint)?, wait, way)
    }

    /// Binds, announces its endpoint, and accepts one connection.
    pub(super) fn accept(bind: &str, wait: Wait, way: Way, announce: Announce) -> Result<Self> {
        Listener::bind(bind, 1, announce)?.accept(wait, way)
    }

    /// Sets up a connected socket.
    pub(super) fn on(socket: Socket, wait: Wait, way: Way) -> Result<Self> {
        send_at_once(&socket)?;
        if wait == Wait::Spin || way == Way::Epoll {
            socket.set_nonblocking(true)?;
        } else {
            socket.set_read_timeout(Some(STALL))?;
            socket.set_write_timeout(Some(STALL))?;
        }
        Ok(Self {
            #[cfg(target_os = "linux")]
            epoll: (way == Way::Epoll).then(|| epoll::Edges::of(&socket)).transpose()?,
            socket,
            wait,
        })
    }

    #[cfg(unix)]
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Repeats an operation that would block or was interrupted.
    #[inline(always)]
    fn persist(&self, mut operation: impl FnMut(&Socket) -> io::Result<usize>) -> Result<usize> {
        loop {
            match operation(&self.socket) {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(error)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Handles an operation that would block; a blocking operation reports that when its timeout expires.
    #[inline(always)]
    fn wait(&self, would_block: io::Error) -> Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(epoll) = &self.epoll {
            return epoll.wait(self.wait);
        }
        match self.wait {
            Wait::Spin => std::hint::spin_loop(),
            Wait::Adaptive | Wait::Park => return Err(would_block.into()),
        }
        Ok(())
    }

    pub(super) fn read_some(&self, buffer: &mut [u8]) -> Result<usize> {
        let received = self.persist(|mut socket| socket.read(buffer))?;
        Self::unless_closed(received)
    }

    fn unless_closed(received: usize) -> Result<usize> {
        match received {
            0 => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the end marker")
                    .into())
            }
            bytes => Ok(bytes),
        }
    }

    pub(super) fn read_exact(&self, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let received = self.persist(|socket| receive_whole(socket, &mut buffer[filled..]))?;
            filled += Self::unless_closed(received)?;
        }
        Ok(())
    }

    pub(super) fn write_all(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let written = self.persist(|mut socket| socket.write(bytes))?;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

/// A connected socket without any options set.
pub(super) fn connect(endpoint: &str) -> Result<Socket> {
    let (domain, address) = resolve(endpoint)?;
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.connect(&address)?;
    Ok(socket)
}

/// Disables Nagle's algorithm, so that no small write waits for another.
pub(super) fn send_at_once(socket: &Socket) -> Result<()> {
    if socket.local_addr()?.domain() != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(())
}

/// A bound socket.
pub(super) struct Listener(Socket);

impl Listener {
    /// Binds and announces the endpoint; up to `backlog` connections may wait to be accepted.
    pub(super) fn bind(bind: &str, backlog: u32, announce: Announce) -> Result<Self> {
        let (domain, address) = resolve(bind)?;
        let listener = Socket::new(domain, Type::STREAM, None)?;
        listener.bind(&address)?;
        listener.listen(backlog.try_into().unwrap_or(i32::MAX))?;
        bound_accept(&listener)?;
        announce.endpoint(match listener.local_addr()?.as_socket() {
            Some(address) => format!("tcp://{address}"),
            None => bind.to_owned(),
        });
        Ok(Self(listener))
    }

    /// Accepts a connection; sleeps until one comes, whatever the waiting mode of its links.
    pub(super) fn accept(&self, wait: Wait, way: Way) -> Result<Link> {
        Link::on(self.accept_socket()?, wait, way)
    }

    /// The same, without setting any options.
    pub(super) fn accept_socket(&self) -> Result<Socket> {
        accept(&self.0)
    }
}

/// Bounds the time of [`accept`]: if a side fails, this one must not wait for ever.
#[cfg(unix)]
fn bound_accept(listener: &Socket) -> io::Result<()> {
    listener.set_read_timeout(Some(STALL))
}

#[cfg(unix)]
fn accept(listener: &Socket) -> Result<Socket> {
    Ok(listener.accept()?.0)
}

/// On Windows the receive timeout does not bound an accept.
#[cfg(not(unix))]
fn bound_accept(listener: &Socket) -> io::Result<()> {
    listener.set_nonblocking(true)
}

#[cfg(not(unix))]
fn accept(listener: &Socket) -> Result<Socket> {
    use std::time::{Duration, Instant};
    let started = Instant::now();
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                // The socket inherits the listener's mode.
                socket.set_nonblocking(false)?;
                return Ok(socket);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) if started.elapsed() >= STALL => {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Receives until `buffer` is full, as far as the socket may block: one wake per large message instead of many.
#[cfg(unix)]
fn receive_whole(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    let (received, _) = rustix::net::recv(socket, buffer, rustix::net::RecvFlags::WAITALL)?;
    Ok(received)
}

#[cfg(not(unix))]
fn receive_whole(mut socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    socket.read(buffer)
}

fn resolve(endpoint: &str) -> Result<(Domain, SockAddr)> {
    if let Some(path) = endpoint.strip_prefix("ipc://") {
        return Ok((Domain::UNIX, SockAddr::unix(path)?));
    }
    let address: SocketAddr = endpoint
        .strip_prefix("tcp://")
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| Failure::Setup(format!("raw cannot use the endpoint {endpoint}")))?;
    Ok((Domain::for_address(address), address.into()))
}

/// Waiting with epoll.
#[cfg(target_os = "linux")]
pub(super) mod epoll {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::event::Timespec;
    use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
    use rustix::io::Errno;

    use crate::cli::Wait;
    use crate::error::Result;
    use crate::subject::STALL;

    const NO_EVENT: Event = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };

    /// One socket, both directions. Edge-triggered, so that one registration lasts: after an operation that would have
    /// blocked, the next readiness is an edge.
    pub(in crate::subject) struct Edges(OwnedFd);

    impl Edges {
        pub(in crate::subject) fn of(socket: &impl AsFd) -> Result<Self> {
            let edges = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            let epoll = create()?;
            epoll::add(&epoll, socket, EventData::new_u64(0), edges).map_err(io::Error::from)?;
            Ok(Self(epoll))
        }

        /// Waits for an edge; when spinning, only polls.
        pub(in crate::subject) fn wait(&self, wait: Wait) -> Result<()> {
            look(&self.0, &mut [NO_EVENT], wait).map(drop)
        }
    }

    /// Several sockets to receive from.
    pub(in crate::subject) struct Levels {
        epoll: OwnedFd,
        events: Vec<Event>,
    }

    impl Levels {
        pub(in crate::subject) fn of<'a>(
            sockets: impl Iterator<Item = &'a socket2::Socket>,
        ) -> Result<Self> {
            let epoll = create()?;
            let mut events = Vec::new();
            for (number, socket) in sockets.enumerate() {
                let data = EventData::new_u64(number as u64);
                epoll::add(&epoll, socket, data, EventFlags::IN).map_err(io::Error::from)?;
                events.push(NO_EVENT);
            }
            Ok(Self { epoll, events })
        }

        /// Waits until at least one socket is readable; passes the numbers of the readable sockets to `each`.
        pub(in crate::subject) fn wait(
            &mut self,
            wait: Wait,
            mut each: impl FnMut(usize) -> Result<()>,
        ) -> Result<()> {
            loop {
                let ready = look(&self.epoll, &mut self.events, wait)?;
                for event in &self.events[..ready] {
                    each(event.data.u64() as usize)?;
                }
                if ready > 0 {
                    return Ok(());
                }
            }
        }

        /// Stops watching a socket.
        pub(in crate::subject) fn forget(&self, socket: &socket2::Socket) -> Result<()> {
            Ok(epoll::delete(&self.epoll, socket).map_err(io::Error::from)?)
        }
    }

    fn create() -> Result<OwnedFd> {
        Ok(epoll::create(CreateFlags::CLOEXEC).map_err(io::Error::from)?)
    }

    fn look(epoll: &OwnedFd, events: &mut [Event], wait: Wait) -> Result<usize> {
        let seconds = if wait == Wait::Spin { 0 } else { STALL.as_secs() as i64 };
        let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
        match epoll::wait(epoll, events, Some(&timeout)) {
            Ok(0) if wait != Wait::Spin => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            Ok(ready) => Ok(ready),
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}
