//! Socket calls that do not wait. Winsock has no flag for that, so all sockets of the engine are non-blocking.

use std::io::{self, Read};

use socket2::{MaybeUninitSlice, SockAddr, SockRef};
use windows_sys::Win32::Networking::WinSock;

use super::{Connecting, Progress, take_error};
use crate::sys::{BorrowedSocket, OwnedSocket};

/// Sends as many bytes as the system takes without waiting, and returns their number: 0 when the send would block or
/// the system refuses.
pub fn try_send(socket: BorrowedSocket<'_>, bytes: &[u8]) -> usize {
    SockRef::from(&socket).send(bytes).unwrap_or(0)
}

/// Receives available bytes without waiting; `Ok(0)` is the peer's orderly end.
///
/// # Errors
/// `WouldBlock` when no byte is available, or the error of `recv`.
pub fn try_recv(socket: BorrowedSocket<'_>, into: &mut [u8]) -> io::Result<usize> {
    (&*SockRef::from(&socket)).read(into)
}

/// Starts the connect of a non-blocking socket.
///
/// # Errors
/// The error of `connect`, if it is final.
pub fn try_connect(socket: BorrowedSocket<'_>, address: &SockAddr) -> io::Result<Connecting> {
    let Err(error) = SockRef::from(&socket).connect(address) else { return Ok(Connecting::Done) };
    match error.raw_os_error() {
        Some(WinSock::WSAEWOULDBLOCK | WinSock::WSAEINPROGRESS | WinSock::WSAEALREADY) => {
            Ok(Connecting::Started)
        }
        Some(WinSock::WSAEISCONN) => Ok(Connecting::Done),
        _ => Err(error),
    }
}

/// The result of a connect, once its socket has become ready. A poller may report a refusal as an error, a hang-up, or
/// mere readiness, and may report it before the socket has its error. So a socket without a peer counts as failed.
///
/// # Errors
/// The error of the connect.
pub fn connected(socket: BorrowedSocket<'_>) -> io::Result<()> {
    if let Some(error) = take_error(socket)? {
        return Err(error);
    }
    match SockRef::from(&socket).peer_addr() {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}

/// Accepts one connection on a non-blocking listener: non-blocking, not inherited by child processes.
///
/// # Errors
/// `WouldBlock` when no connection waits, or the error of `accept`.
pub fn try_accept(listener: BorrowedSocket<'_>) -> io::Result<OwnedSocket> {
    let (accepted, _) = SockRef::from(&listener).accept().map_err(|error| {
        // The peer went away before its connection was accepted.
        match error.raw_os_error() {
            Some(WinSock::WSAECONNRESET) => io::ErrorKind::ConnectionAborted.into(),
            _ => error,
        }
    })?;
    accepted.set_nonblocking(true)?;
    Ok(accepted.into())
}

/// Sends as many bytes of the parts as the system takes, in order and without waiting, and returns their number.
///
/// # Errors
/// `WouldBlock` when the system takes none, or the error of `WSASend`.
pub fn try_send_vectored(
    socket: BorrowedSocket<'_>,
    parts: &[io::IoSlice<'_>],
) -> io::Result<usize> {
    SockRef::from(&socket).send_vectored(parts)
}

/// Receives available bytes into the parts, in order and without waiting; `Ok(0)` is the peer's orderly end. The
/// returned number of bytes is initialised.
///
/// # Errors
/// `WouldBlock` when no byte is available, or the error of `WSARecv`.
pub fn try_recv_vectored(
    socket: BorrowedSocket<'_>,
    parts: &mut [MaybeUninitSlice<'_>],
) -> io::Result<usize> {
    SockRef::from(&socket).recv_vectored(parts).map(|(bytes, _)| bytes)
}

/// The progress of a TCP peer's acknowledgements; `None` where the system does not tell.
#[must_use]
pub fn acknowledged(_socket: BorrowedSocket<'_>) -> Option<Progress> {
    None
}
