//! Socket calls that never wait, whatever the socket's mode.

use std::io;

use socket2::{MaybeUninitSlice, SockAddr, SockRef};

use super::{Connecting, Progress, take_error};
use crate::sys::{BorrowedSocket, OwnedSocket};

/// Apple's systems use a socket option instead (`SO_NOSIGPIPE`), which `socket2` sets.
#[cfg(not(any(target_vendor = "apple", target_os = "linux")))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: i32 = 0;

/// Sends as many bytes as the kernel takes without waiting, and returns their number: 0 when the send would block or
/// the kernel refuses. Never raises SIGPIPE.
#[cfg(target_os = "linux")]
#[inline]
pub fn try_send(socket: BorrowedSocket<'_>, bytes: &[u8]) -> usize {
    use rustix::net::{SendFlags, send};
    send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap_or(0)
}

/// Sends as many bytes as the kernel takes without waiting, and returns their number: 0 when the send would block or
/// the kernel refuses. Never raises SIGPIPE.
#[cfg(not(target_os = "linux"))]
pub fn try_send(socket: BorrowedSocket<'_>, bytes: &[u8]) -> usize {
    SockRef::from(&socket).send_with_flags(bytes, libc::MSG_DONTWAIT | NO_SIGNAL).unwrap_or(0)
}

/// Receives available bytes without waiting; `Ok(0)` is the peer's orderly end.
///
/// # Errors
/// `WouldBlock` when no byte is available, or the error of `recv(2)`.
#[inline]
pub fn try_recv(socket: BorrowedSocket<'_>, into: &mut [u8]) -> io::Result<usize> {
    use rustix::net::{RecvFlags, recv};
    let (bytes, _) = recv(socket, into, RecvFlags::DONTWAIT)?;
    Ok(bytes)
}

/// Starts the connect of a non-blocking socket.
///
/// # Errors
/// The error of `connect(2)`, if it is final.
pub fn try_connect(socket: BorrowedSocket<'_>, address: &SockAddr) -> io::Result<Connecting> {
    let Err(error) = SockRef::from(&socket).connect(address) else { return Ok(Connecting::Done) };
    match error.raw_os_error() {
        // An interrupted connect continues in the background.
        Some(libc::EINPROGRESS | libc::EINTR | libc::EALREADY) => Ok(Connecting::Started),
        Some(libc::EISCONN) => Ok(Connecting::Done),
        // For TCP the same number means that no local port is left.
        Some(libc::EAGAIN) if address.is_unix() => Ok(Connecting::BacklogFull),
        _ => Err(error),
    }
}

/// The result of a connect, once its socket has become writable.
///
/// # Errors
/// The error of the connect.
pub fn connected(socket: BorrowedSocket<'_>) -> io::Result<()> {
    take_error(socket)?.map_or(Ok(()), Err)
}

/// Accepts one connection without waiting: non-blocking, close-on-exec.
///
/// # Errors
/// `WouldBlock` when no connection waits, or the error of `accept4(2)`.
#[cfg(target_os = "linux")]
pub fn try_accept(listener: BorrowedSocket<'_>) -> io::Result<OwnedSocket> {
    use rustix::net::{SocketFlags, accept_with};
    Ok(accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
}

/// Accepts one connection on a non-blocking listener: non-blocking, close-on-exec.
///
/// # Errors
/// `WouldBlock` when no connection waits, or the error of `accept(2)`.
#[cfg(not(target_os = "linux"))]
pub fn try_accept(listener: BorrowedSocket<'_>) -> io::Result<OwnedSocket> {
    let (accepted, _) = SockRef::from(&listener).accept()?;
    accepted.set_nonblocking(true)?;
    Ok(accepted.into())
}

/// Sends as many bytes of the parts as the kernel takes, in order and without waiting, and returns their number. Never
/// raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` when the kernel takes none, or the error of `sendmsg(2)`.
#[cfg(target_os = "linux")]
pub fn try_send_vectored(
    socket: BorrowedSocket<'_>,
    parts: &[io::IoSlice<'_>],
) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), flags)?)
}

/// Sends as many bytes of the parts as the kernel takes, in order and without waiting, and returns their number. Never
/// raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` when the kernel takes none, or the error of `sendmsg(2)`.
#[cfg(not(target_os = "linux"))]
pub fn try_send_vectored(
    socket: BorrowedSocket<'_>,
    parts: &[io::IoSlice<'_>],
) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | NO_SIGNAL;
    SockRef::from(&socket).send_vectored_with_flags(parts, flags)
}

/// Receives available bytes into the parts, in order and without waiting; `Ok(0)` is the peer's orderly end. The
/// returned number of bytes is initialised.
///
/// # Errors
/// `WouldBlock` when no byte is available, or the error of `recvmsg(2)`.
pub fn try_recv_vectored(
    socket: BorrowedSocket<'_>,
    parts: &mut [MaybeUninitSlice<'_>],
) -> io::Result<usize> {
    let received = SockRef::from(&socket).recv_vectored_with_flags(parts, libc::MSG_DONTWAIT);
    received.map(|(bytes, _)| bytes)
}

/// The progress of a TCP peer's acknowledgements (`TCP_INFO`, tcp(7)); `None` where the system does not tell.
#[cfg(target_os = "linux")]
#[must_use]
pub fn acknowledged(socket: BorrowedSocket<'_>) -> Option<Progress> {
    use std::os::fd::AsRawFd;

    /// The kernel's `struct tcp_info` (uapi/linux/tcp.h) up to `tcpi_notsent_bytes`, which exists since Linux 4.6.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct TcpInfo {
        state_to_flags: [u8; 8],
        rto_to_rcv_mss: [u32; 4],
        unacked: u32,
        sacked_to_total_retrans: [u32; 19],
        pacing_rates: [u64; 2],
        bytes_acked: u64,
        bytes_received: u64,
        segs_out: u32,
        segs_in: u32,
        notsent_bytes: u32,
        end: u32,
    }

    let mut info = TcpInfo::default();
    let mut len = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the structure, and any bytes make valid integers.
    let told = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    let is_told = told == 0 && len as usize >= std::mem::offset_of!(TcpInfo, end);
    is_told.then_some(Progress {
        taken: info.bytes_acked,
        is_pending: info.unacked > 0 || info.notsent_bytes > 0,
    })
}

/// The progress of a TCP peer's acknowledgements; `None` where the system does not tell.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn acknowledged(_socket: BorrowedSocket<'_>) -> Option<Progress> {
    None
}
