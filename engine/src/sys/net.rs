//! Sockets configured for the engine: non-blocking, close-on-exec, tuned.
//!
//! Creation, options, names, and calls that never wait. Unix-domain sockets are created in `sys::unix`.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

#[cfg(unix)]
#[path = "net/posix.rs"]
mod calls;
#[cfg(windows)]
#[path = "net/windows.rs"]
mod calls;

pub use calls::{
    acknowledged, connected, try_accept, try_connect, try_recv, try_recv_vectored, try_send,
    try_send_vectored,
};
use socket2::{Domain, MaybeUninitSlice, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::{BorrowedSocket, OwnedSocket, code, unix};

/// The address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// TCP over IPv4.
    V4,
    /// TCP over IPv6.
    V6,
    /// A Unix-domain stream, by path or by abstract name.
    Unix,
}

impl From<&SocketAddr> for Family {
    fn from(addr: &SocketAddr) -> Family {
        match addr {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        }
    }
}

impl Family {
    fn domain(self) -> Domain {
        match self {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
            Family::Unix => Domain::UNIX,
        }
    }

    fn is_tcp(self) -> bool {
        self != Family::Unix
    }
}

/// Default send buffer of a Unix-domain socket. A large body then continues while its receiver is not reading; Linux's
/// default of 208 KiB holds three messages of 64 KiB.
const UNIX_SNDBUF_BYTES: usize = 1 << 20;

/// TCP keep-alive probes; `None` keeps the operating system's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// `SO_KEEPALIVE` on or off. The three values below take effect only with `Some(true)`.
    pub enabled: Option<bool>,
    /// Silence before the first probe (`TCP_KEEPIDLE`), whole seconds, at least one.
    pub idle: Option<Duration>,
    /// Pause between probes (`TCP_KEEPINTVL`), whole seconds, at least one.
    pub interval: Option<Duration>,
    /// Unanswered probes before the connection is reset (`TCP_KEEPCNT`).
    pub retries: Option<u32>,
}

/// Options of the engine's sockets that a user may set; `Default` leaves all to the operating system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// `SO_SNDBUF` in bytes. Linux doubles the value and caps it at `net.core.wmem_max`. `None`: the system's default
    /// for TCP. Unix-domain sockets, whose buffers do not grow like TCP's, get 1 MiB or as much as the system allows.
    pub sndbuf_bytes: Option<usize>,
    /// `SO_RCVBUF` in bytes. Linux doubles the value and caps it at `net.core.rmem_max`.
    pub rcvbuf_bytes: Option<usize>,
    /// TCP keep-alive; ignored on Unix-domain sockets.
    pub keepalive: Keepalive,
    /// An IPv6 listener refuses IPv4 peers. Off: a listener on `[::]` serves both.
    pub v6only: bool,
}

/// The address of one end of a socket, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketName {
    /// A TCP address and port.
    Inet(SocketAddr),
    /// A Unix-domain socket bound to this path.
    Path(PathBuf),
    /// A Unix-domain socket bound to this abstract name (without its leading NUL).
    Abstract(Vec<u8>),
    /// A Unix-domain socket that is not bound, as usual for the connecting end.
    Unnamed,
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketName::Inet(addr) => addr.fmt(f),
            SocketName::Path(path) => path.display().fmt(f),
            SocketName::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
            SocketName::Unnamed => f.write_str("unnamed"),
        }
    }
}

/// Listens on `addr`; port 0 lets the kernel choose. Returns the socket and its actual address.
///
/// `backlog` is clamped to what the call can express; the kernel caps it again (`net.core.somaxconn`).
/// `[::]` on a host without IPv6 becomes `0.0.0.0`, unless `v6only` asks for IPv6 alone.
/// Accepted sockets inherit the buffer sizes, which must be in place before the handshake to widen its window.
///
/// # Errors
/// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` (a port below 1024), or the error of `socket(2)`, `bind(2)` or
/// `listen(2)`.
pub fn listen_tcp(
    addr: SocketAddr,
    backlog: u32,
    opts: &SocketOptions,
) -> io::Result<(OwnedSocket, SocketAddr)> {
    match listen_tcp_exactly(addr, backlog, opts) {
        Err(error) if addr.ip().is_unspecified() && lacks_v6(&addr, &error) && !opts.v6only => {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
            listen_tcp_exactly(v4, backlog, opts)
        }
        result => result,
    }
}

fn listen_tcp_exactly(
    addr: SocketAddr,
    backlog: u32,
    opts: &SocketOptions,
) -> io::Result<(OwnedSocket, SocketAddr)> {
    let family = Family::from(&addr);
    let socket = new_socket(family)?;
    // On Windows the option of this name would let any process take over the port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    if family == Family::V6 {
        socket.set_only_v6(opts.v6only)?;
    }
    tune(&SockRef::from(&socket), family, opts)?;
    socket.bind(&addr.into())?;
    socket.listen(backlog_arg(backlog))?;
    let bound = inet(&socket.local_addr()?)?;
    Ok((socket.into(), bound))
}

fn lacks_v6(addr: &SocketAddr, error: &io::Error) -> bool {
    // With net.ipv6.conf.all.disable_ipv6 the family exists but has no address.
    let has_none = code::is_no_family(error) || error.kind() == io::ErrorKind::AddrNotAvailable;
    addr.is_ipv6() && has_none
}

/// A socket of `family`, tuned and ready for the driver's connect operation.
///
/// TCP sockets have `TCP_NODELAY`: messages are batched above, never by Nagle's algorithm.
///
/// # Errors
/// Out of descriptors or memory, a family the host does not have, or an option out of the kernel's range.
pub fn connect_socket(family: Family, opts: &SocketOptions) -> io::Result<OwnedSocket> {
    let socket = new_socket(family)?;
    tune(&SockRef::from(&socket), family, opts)?;
    Ok(socket.into())
}

/// Tunes a socket that the driver has accepted. The accept operation sets the flags (non-blocking, close-on-exec).
///
/// # Errors
/// An option out of the kernel's range, or a peer that is gone already (macOS: `InvalidInput`).
pub fn accepted_options(
    socket: BorrowedSocket<'_>,
    family: Family,
    opts: &SocketOptions,
) -> io::Result<()> {
    tune(&SockRef::from(&socket), family, opts)
}

fn new_socket(family: Family) -> io::Result<Socket> {
    if !family.is_tcp() {
        return unix::new_stream();
    }
    let protocol = Some(Protocol::TCP);
    // `Socket::new` sets close-on-exec (or its Windows counterpart) in the same call where the system supports it.
    let socket = Socket::new(family.domain(), Type::STREAM, protocol)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn tune(socket: &SockRef<'_>, family: Family, opts: &SocketOptions) -> io::Result<()> {
    match opts.sndbuf_bytes {
        Some(bytes) => socket.set_send_buffer_size(bytes)?,
        // The user did not ask for this size, so a refusal is no error.
        None if family == Family::Unix => drop(socket.set_send_buffer_size(UNIX_SNDBUF_BYTES)),
        None => {}
    }
    if let Some(bytes) = opts.rcvbuf_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    if !family.is_tcp() {
        return Ok(());
    }
    socket.set_tcp_nodelay(true)?;
    set_keepalive(socket, &opts.keepalive)
}

fn set_keepalive(socket: &SockRef<'_>, keepalive: &Keepalive) -> io::Result<()> {
    match keepalive.enabled {
        None => Ok(()),
        Some(false) => socket.set_keepalive(false),
        Some(true) => {
            let mut params = TcpKeepalive::new();
            if let Some(idle) = keepalive.idle {
                params = params.with_time(idle);
            }
            if let Some(interval) = keepalive.interval {
                params = params.with_interval(interval);
            }
            if let Some(retries) = keepalive.retries {
                params = params.with_retries(retries);
            }
            socket.set_tcp_keepalive(&params)
        }
    }
}

pub(super) fn backlog_arg(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

fn inet(addr: &SockAddr) -> io::Result<SocketAddr> {
    addr.as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an internet address"))
}

/// The outcome of starting a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connecting {
    /// The socket is connected.
    Done,
    /// The connect is under way: the socket becomes writable when it has ended, and [`connected`] returns the result.
    Started,
    /// The backlog of a Unix-domain listener is full and no connect was started. The kernel will not report when to
    /// retry.
    #[cfg_attr(windows, allow(dead_code))]
    BacklogFull,
}

/// Receives available bytes without waiting, first into `body`, then into the spare capacity of `spill`. Returns the
/// total number of bytes.
///
/// # Errors
/// The error of `recvmsg(2)`; [`io::ErrorKind::WouldBlock`] when no byte is available.
pub fn try_recv_into(
    socket: BorrowedSocket<'_>,
    body: &mut [u8],
    spill: &mut Vec<u8>,
) -> io::Result<usize> {
    let (body_bytes, start) = (body.len(), spill.len());
    // SAFETY: the kernel only writes bytes, so initialised memory stays initialised; no other code writes through this.
    let body: &mut [MaybeUninit<u8>] = unsafe { &mut *(std::ptr::from_mut(body) as *mut _) };
    let parts =
        &mut [MaybeUninitSlice::new(body), MaybeUninitSlice::new(spill.spare_capacity_mut())];
    // Leave out an empty first part.
    let bytes = try_recv_vectored(socket, &mut parts[usize::from(body_bytes == 0)..])?;
    // SAFETY: the kernel filled the parts in order, so all bytes beyond the body lie in the spare capacity.
    unsafe { spill.set_len(start + bytes.saturating_sub(body_bytes)) };
    Ok(bytes)
}

/// Whether the descriptor is readable now.
///
/// # Errors
/// The error of `poll(2)`, an interrupting signal excepted.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn is_readable(fd: BorrowedSocket<'_>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The other end's address.
///
/// # Errors
/// `NotConnected`, also when the peer has meanwhile reset the connection.
pub fn peer_name(socket: BorrowedSocket<'_>) -> io::Result<SocketName> {
    SockRef::from(&socket).peer_addr().and_then(|addr| name_of(&addr))
}

/// This end's address.
///
/// # Errors
/// The error of `getsockname(2)`.
pub fn local_name(socket: BorrowedSocket<'_>) -> io::Result<SocketName> {
    SockRef::from(&socket).local_addr().and_then(|addr| name_of(&addr))
}

fn name_of(addr: &SockAddr) -> io::Result<SocketName> {
    if let Some(inet) = addr.as_socket() {
        return Ok(SocketName::Inet(inet));
    }
    if addr.is_unix() {
        return Ok(unix::name_of(addr));
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "an address of a family the engine does not use",
    ))
}

/// Shuts down one or both directions; pending operations of the driver complete. A socket that is not connected, or no
/// longer, counts as shut down: that is no error.
///
/// # Errors
/// The error of `shutdown(2)`, `ENOTCONN` excepted.
pub fn shutdown(socket: BorrowedSocket<'_>, how: Shutdown) -> io::Result<()> {
    match SockRef::from(&socket).shutdown(how) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

/// Takes the pending error off a socket (`SO_ERROR`), from which a readiness driver learns the outcome of a connect.
///
/// # Errors
/// Reading the option failed.
pub fn take_error(socket: BorrowedSocket<'_>) -> io::Result<Option<io::Error>> {
    SockRef::from(&socket).take_error()
}

/// How far a peer has taken the bytes sent to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Changes whenever the peer has taken more bytes.
    pub taken: u64,
    /// Some bytes are still on their way to the peer.
    pub is_pending: bool,
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{TcpListener, TcpStream};
    #[cfg(unix)]
    pub(crate) use std::os::unix::net::UnixStream as Stream;

    #[cfg(not(unix))]
    pub(crate) use std::net::TcpStream as Stream;

    use super::*;
    use crate::sys::borrow;

    /// Two connected stream sockets.
    pub(crate) fn pair() -> (Stream, Stream) {
        #[cfg(unix)]
        return Stream::pair().unwrap();
        #[cfg(not(unix))]
        {
            let listener = TcpListener::bind(loopback()).unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            near.set_nodelay(true).unwrap();
            (near, listener.accept().unwrap().0)
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_peer_took_is_told() {
        use std::io::{Read, Write};

        let listener = TcpListener::bind(loopback()).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let start = acknowledged(borrow(&stream)).unwrap();
        assert!(!start.is_pending);
        stream.write_all(&[1; 5000]).unwrap();
        peer.read_exact(&mut [0; 5000]).unwrap();
        // An acknowledgement may wait up to 200 ms for data to travel with.
        let patience = std::time::Instant::now() + Duration::from_secs(10);
        while acknowledged(borrow(&stream)).unwrap().is_pending {
            assert!(std::time::Instant::now() < patience, "nothing was acknowledged");
        }
        assert_eq!(acknowledged(borrow(&stream)).unwrap().taken, start.taken + 5000);
        // A peer that does not read leaves bytes pending for good.
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[1; 65_536]).is_ok() {}
        let stuck = acknowledged(borrow(&stream)).unwrap();
        assert!(stuck.is_pending && stuck.taken > start.taken);
        let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(acknowledged(borrow(&unix)), None);
    }

    fn loopback() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    #[test]
    fn a_listener_has_a_real_port_and_the_right_flags() {
        let (fd, addr) = listen_tcp(loopback(), 100, &SocketOptions::default()).unwrap();
        assert_ne!(addr.port(), 0);
        #[cfg(unix)]
        {
            assert!(SockRef::from(&fd).nonblocking().unwrap());
            assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
        assert_eq!(local_name(borrow(&fd)).unwrap(), SocketName::Inet(addr));
        TcpStream::connect(addr).unwrap();
    }

    #[test]
    fn a_taken_port_is_addr_in_use_and_a_freed_one_is_not() {
        let opts = SocketOptions::default();
        let (fd, addr) = listen_tcp(loopback(), 10, &opts).unwrap();
        let taken = listen_tcp(addr, 10, &opts).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);

        // A connection closed from our side first leaves the port in TIME_WAIT.
        let client = TcpStream::connect(addr).unwrap();
        let listener = TcpListener::from(fd);
        listener.set_nonblocking(false).unwrap();
        drop(listener.accept().unwrap());
        drop((listener, client));
        listen_tcp(addr, 10, &opts).unwrap();
    }

    #[test]
    fn the_v6_wildcard_serves_v4_peers_unless_told_otherwise() {
        let any: SocketAddr = "[::]:0".parse().unwrap();
        let (_fd, addr) = listen_tcp(any, 10, &SocketOptions::default()).unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, addr.port())).unwrap();

        let only = SocketOptions { v6only: true, ..SocketOptions::default() };
        match listen_tcp(any, 10, &only) {
            Ok((_fd, addr)) => {
                assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, addr.port())).is_err());
            }
            Err(error) => assert!(lacks_v6(&any, &error), "{error}"),
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn unix_sockets_have_room_for_large_bodies() {
        let system = Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let bytes_before = system.send_buffer_size().unwrap();
        system.set_send_buffer_size(UNIX_SNDBUF_BYTES).unwrap();
        let bytes_max = system.send_buffer_size().unwrap();
        let ours = connect_socket(Family::Unix, &SocketOptions::default()).unwrap();
        assert_eq!(SockRef::from(&ours).send_buffer_size().unwrap(), bytes_max);
        assert!(bytes_max >= bytes_before, "{bytes_max}");

        let asked = SocketOptions { sndbuf_bytes: Some(32 * 1024), ..SocketOptions::default() };
        let asked = connect_socket(Family::Unix, &asked).unwrap();
        assert_eq!(SockRef::from(&asked).send_buffer_size().unwrap(), 64 * 1024);
    }

    #[test]
    fn connecting_sockets_carry_their_options() {
        let mut opts = SocketOptions {
            sndbuf_bytes: Some(32 * 1024),
            rcvbuf_bytes: Some(48 * 1024),
            keepalive: Keepalive {
                enabled: Some(true),
                idle: Some(Duration::from_secs(7)),
                interval: Some(Duration::from_secs(3)),
                retries: Some(2),
            },
            v6only: false,
        };
        if cfg!(windows) && connect_socket(Family::V4, &opts).is_err() {
            println!("skipped: no TCP_KEEPCNT here (Wine 8 and Windows before 10, 1703)");
            opts.keepalive.retries = None;
        }
        let fd = connect_socket(Family::V4, &opts).unwrap();
        let socket = SockRef::from(&fd);
        #[cfg(unix)]
        assert!(socket.nonblocking().unwrap());
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.send_buffer_size().unwrap() >= 32 * 1024);
        assert!(socket.recv_buffer_size().unwrap() >= 48 * 1024);
        assert!(socket.keepalive().unwrap());
        #[cfg(unix)]
        {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(3));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 2);
        }
        match connect_socket(Family::Unix, &opts) {
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
            Ok(_) => crate::sys::unix::check().unwrap(),
        }
    }

    #[test]
    fn keepalive_stays_off_by_default() {
        let fd = connect_socket(Family::V4, &SocketOptions::default()).unwrap();
        assert!(!SockRef::from(&fd).keepalive().unwrap());
    }

    #[test]
    fn names_and_shutdown_of_an_accepted_socket() {
        let (fd, addr) = listen_tcp(loopback(), 10, &SocketOptions::default()).unwrap();
        let client = TcpStream::connect(addr).unwrap();
        let listener = TcpListener::from(fd);
        listener.set_nonblocking(false).unwrap();
        let accepted = OwnedSocket::from(listener.accept().unwrap().0);
        accepted_options(borrow(&accepted), Family::V4, &SocketOptions::default()).unwrap();
        assert!(SockRef::from(&accepted).tcp_nodelay().unwrap());
        let client_addr = client.local_addr().unwrap();
        assert_eq!(peer_name(borrow(&accepted)).unwrap(), SocketName::Inet(client_addr));
        assert_eq!(local_name(borrow(&accepted)).unwrap().to_string(), addr.to_string());
        shutdown(borrow(&accepted), Shutdown::Both).unwrap();
        drop(client);
        shutdown(borrow(&accepted), Shutdown::Both).unwrap();
    }

    #[test]
    fn a_refused_connect_leaves_its_error_on_the_socket() {
        let (listener, addr) = listen_tcp(loopback(), 1, &SocketOptions::default()).unwrap();
        drop(listener);
        let fd = connect_socket(Family::V4, &SocketOptions::default()).unwrap();
        let socket = Socket::from(fd);
        socket.set_nonblocking(false).unwrap();
        let refused = socket.connect(&addr.into()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let fd = OwnedSocket::from(socket);
        // Windows keeps the error.
        let left = take_error(borrow(&fd)).unwrap();
        let kinds = left.map(|error| error.kind());
        assert!(kinds.is_none() || cfg!(windows) && kinds == Some(refused.kind()), "{kinds:?}");
    }
}
