//! Calls on sockets that do not wait, because all sockets of the engine are non-blocking: Winsock has no flag for it.

use std::io::{self, Read};

use socket2::{MaybeUninitSlice, SockAddr, SockRef};
use windows_sys::Win32::Networking::WinSock;

use super::{Connecting, take_error};
use crate::sys::{BorrowedSocket, OwnedSocket};

/// Sends what the system takes without waiting. Returns how many bytes that was: 0 when it would block or refuses.
pub fn try_send(socket: BorrowedSocket<'_>, bytes: &[u8]) -> usize {
    SockRef::from(&socket).send(bytes).unwrap_or(0)
}

/// Receives what is there without waiting; `Ok(0)` is the peer's orderly end.
///
/// # Errors
/// `WouldBlock` when nothing is there, or what `recv` says.
pub fn try_recv(socket: BorrowedSocket<'_>, into: &mut [u8]) -> io::Result<usize> {
    (&*SockRef::from(&socket)).read(into)
}

/// Starts to connect a non-blocking socket.
///
/// # Errors
/// What `connect` says, if that is final.
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

/// How a connect ended whose socket has become ready. Whoever polls may report a refusal as an error, a hang-up, or
/// mere readiness, and may do so before the socket has its error; so having a peer is what counts.
///
/// # Errors
/// That of the connect.
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
/// `WouldBlock` when none is there, or what `accept` says.
pub fn try_accept(listener: BorrowedSocket<'_>) -> io::Result<OwnedSocket> {
    let (accepted, _) = SockRef::from(&listener).accept().map_err(|error| {
        // The peer was gone before its connection was accepted.
        match error.raw_os_error() {
            Some(WinSock::WSAECONNRESET) => io::ErrorKind::ConnectionAborted.into(),
            _ => error,
        }
    })?;
    accepted.set_nonblocking(true)?;
    Ok(accepted.into())
}

/// Sends what the system takes of the parts, in order and without waiting; returns how many bytes that was.
///
/// # Errors
/// `WouldBlock` when it takes none, or what `WSASend` says.
pub fn try_send_vectored(
    socket: BorrowedSocket<'_>,
    parts: &[io::IoSlice<'_>],
) -> io::Result<usize> {
    SockRef::from(&socket).send_vectored(parts)
}

/// Receives what is there into the parts, in order and without waiting; `Ok(0)` is the peer's orderly end. So many
/// bytes of the parts are initialised then.
///
/// # Errors
/// `WouldBlock` when nothing is there, or what `WSARecv` says.
pub fn try_recv_vectored(
    socket: BorrowedSocket<'_>,
    parts: &mut [MaybeUninitSlice<'_>],
) -> io::Result<usize> {
    SockRef::from(&socket).recv_vectored(parts).map(|(bytes, _)| bytes)
}
