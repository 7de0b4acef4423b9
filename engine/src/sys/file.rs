//! Files that are sent from: what is in the page cache, and how it gets from there into a socket.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::OFlags;

use super::BorrowedSocket;
use crate::buf::FileFault;

/// How a file was opened, as far as sending it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Not for reading.
    None,
    /// For reading, around the page cache.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    Direct,
    /// For reading, through the page cache.
    Cached,
}

pub(crate) fn access(file: &File) -> io::Result<Access> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let mode = flags & OFlags::ACCMODE;
    if mode != OFlags::RDONLY && mode != OFlags::RDWR {
        return Ok(Access::None);
    }
    #[cfg(target_os = "linux")]
    {
        if flags.contains(OFlags::PATH) {
            return Ok(Access::None);
        }
        if flags.contains(OFlags::DIRECT) {
            return Ok(Access::Direct);
        }
    }
    Ok(Access::Cached)
}

/// Fills `into` from `offset` on, waiting for the disk.
///
/// # Errors
/// When the file ends before, or cannot be read.
pub(crate) fn read_exactly(file: &File, offset: u64, into: &mut [u8]) -> Result<(), FileFault> {
    let mut done = 0;
    while done < into.len() {
        let at = offset + done as u64;
        match file.read_at(&mut into[done..], at) {
            Ok(0) => return Err(FileFault::Truncated { at }),
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FileFault::unreadable(at, &error)),
        }
    }
    Ok(())
}

/// What is known of a range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), expect(dead_code))]
pub(crate) enum Cached {
    /// Reading it does not wait for the disk.
    Whole,
    /// Some of it has to be read in.
    Partly,
    /// The kernel does not tell.
    Unknown,
}

/// Why a part of a file did not get into a socket.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// The socket refused; `WouldBlock` when it is full.
    Socket(io::Error),
    /// The file could not be read.
    File(io::Error),
}

/// Makes a socket one whose sends do not wait. Receives and sends of io_uring ask for that by themselves each time and
/// are not touched by it.
pub(crate) fn set_nonblocking(socket: BorrowedSocket<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(socket)?;
    if !flags.contains(OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(socket, flags | OFlags::NONBLOCK)?;
    }
    Ok(())
}

/// Sends what the kernel takes of the parts without waiting, in front of more that follows at once.
///
/// # Errors
/// `WouldBlock` when it takes none, or what `sendmsg(2)` says.
pub(crate) fn send_in_front(
    socket: BorrowedSocket<'_>,
    parts: &[io::IoSlice<'_>],
    more: bool,
) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    const MORE: i32 = libc::MSG_MORE;
    #[cfg(not(target_os = "linux"))]
    const MORE: i32 = 0;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { MORE } else { 0 };
    socket2::SockRef::from(&socket).send_vectored_with_flags(parts, flags)
}

/// How much of a file is copied at a time where the kernel cannot send from it.
const COPY_BYTES: usize = 64 << 10;

/// As [`send`], through memory of this process.
pub(crate) fn send_copy(
    socket: BorrowedSocket<'_>,
    file: &File,
    offset: u64,
    len: usize,
) -> Result<usize, Unsent> {
    let mut piece = vec![0; len.min(COPY_BYTES)];
    let read = file.read_at(&mut piece, offset).map_err(Unsent::File)?;
    if read == 0 {
        return Ok(0);
    }
    send_in_front(socket, &[io::IoSlice::new(&piece[..read])], false).map_err(Unsent::Socket)
}

#[cfg(not(target_os = "linux"))]
pub(crate) use self::send_copy as send;

/// Nothing is known.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_cached(_: &File, _offset: u64, _len: usize, _scratch: &mut Vec<u8>) -> Cached {
    Cached::Unknown
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn expect_reads(_file: &File, _offset: u64, _len: usize) {}

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{expect_reads, is_cached, send};

#[cfg(all(test, target_os = "linux"))]
thread_local! {
    /// Tests kernels that tell less of the page cache: 1, no `cachestat`; 2, no RWF_NOWAIT either.
    pub(crate) static BLINDNESS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{fs::File, io, num::NonZero, os::fd::AsRawFd};

    use rustix::{
        fs::Advice,
        io::{Errno, ReadWriteFlags},
    };

    use super::{Cached, Unsent};
    use crate::{
        sync::OnceLock,
        sys::{BorrowedSocket, signal},
    };

    /// Errors that a file has and a stream socket has not.
    const FILE_ERRORS: [Errno; 12] = [
        Errno::IO,
        Errno::ISDIR,
        Errno::INVAL,
        Errno::STALE,
        Errno::BADF,
        Errno::NXIO,
        Errno::OVERFLOW,
        Errno::UCLEAN,
        Errno::BADMSG,
        Errno::NODATA,
        Errno::REMOTEIO,
        Errno::NOKEY,
    ];

    /// Sends from the page cache what a non-blocking socket takes of `len` bytes from `offset` on, without raising
    /// SIGPIPE. `Ok(0)`: the file ends there. What is not in the page cache is waited for.
    ///
    /// # Errors
    /// See [`Unsent`].
    pub(crate) fn send(
        socket: BorrowedSocket<'_>,
        file: &File,
        offset: u64,
        len: usize,
    ) -> Result<usize, Unsent> {
        let mut at = offset;
        // `sendfile` has no MSG_NOSIGNAL.
        let sent = signal::without_sigpipe(
            || rustix::fs::sendfile(socket, file, Some(&mut at), len),
            |sent| *sent == Err(Errno::PIPE),
        );
        match sent {
            Ok(bytes) => Ok(bytes),
            // A file system that cannot be spliced from.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                super::send_copy(socket, file, offset, len)
            }
            Err(error) if FILE_ERRORS.contains(&error) => Err(Unsent::File(error.into())),
            Err(error) => Err(Unsent::Socket(error.into())),
        }
    }

    /// The kernel is told what is read next, so that it begins at once.
    pub(crate) fn expect_reads(file: &File, offset: u64, len: usize) {
        let _ = rustix::fs::fadvise(file, offset, NonZero::new(len as u64), Advice::WillNeed);
    }

    /// `cachestat(2)` has this number wherever numbers are shared among architectures.
    const SYS_CACHESTAT: libc::c_long = 451;
    const HAS_CACHESTAT: bool = !cfg!(any(
        target_arch = "mips",
        target_arch = "mips64",
        target_arch = "mips32r6",
        target_arch = "mips64r6"
    ));
    /// Pages in the cache may still be under way from the disk. They arrive in order, in pieces of about this size.
    const LOOK_BYTES: u64 = 64 << 10;

    #[repr(C)]
    struct Range {
        offset: u64,
        len: u64,
    }

    #[repr(C)]
    #[derive(Default)]
    struct Counts {
        cached: u64,
        dirty: u64,
        under_writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }

    fn page_bytes() -> u64 {
        static PAGE_BYTES: OnceLock<u64> = OnceLock::new();
        *PAGE_BYTES.get_or_init(|| {
            // SAFETY: only asks; there is such a name.
            let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            u64::try_from(bytes).unwrap_or(4096)
        })
    }

    /// Pages of the range that the cache has; `None` when the kernel does not tell (before Linux 6.5, under a filter,
    /// or because the file is somebody else's).
    fn count_cached(file: &File, range: &Range) -> Option<u64> {
        static IS_MISSING: OnceLock<()> = OnceLock::new();
        if !HAS_CACHESTAT || IS_MISSING.get().is_some() {
            return None;
        }
        #[cfg(test)]
        if super::BLINDNESS.get() > 0 {
            return None;
        }
        let mut counts = Counts::default();
        // SAFETY: reads the range and writes the counts, both laid out as cachestat(2) says; they outlive the call.
        let outcome = unsafe {
            libc::syscall(
                SYS_CACHESTAT,
                file.as_raw_fd(),
                std::ptr::from_ref(range),
                &raw mut counts,
                0u32,
            )
        };
        if outcome == 0 {
            return Some(counts.cached);
        }
        if io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
            let _ = IS_MISSING.set(());
        }
        None
    }

    /// Whether a range, of one byte or more, can be read without waiting for the disk.
    pub(crate) fn is_cached(file: &File, offset: u64, len: usize, scratch: &mut Vec<u8>) -> Cached {
        let range = Range { offset, len: len as u64 };
        let Some(cached) = count_cached(file, &range) else {
            return can_be_read(file, offset, len, scratch);
        };
        let last = offset + range.len - 1;
        if cached < last / page_bytes() - offset / page_bytes() + 1 {
            return Cached::Partly;
        }
        let looks = (offset..last).step_by(LOOK_BYTES as usize).skip(1).chain([last]);
        for at in looks {
            if !is_up_to_date(file, at) {
                return Cached::Partly;
            }
        }
        Cached::Whole
    }

    /// Tries to read the range without waiting: the exact answer, at the price of a copy.
    fn can_be_read(file: &File, offset: u64, len: usize, scratch: &mut Vec<u8>) -> Cached {
        #[cfg(test)]
        if super::BLINDNESS.get() > 1 {
            return Cached::Unknown;
        }
        scratch.resize(len.max(scratch.len()), 0);
        let mut parts = [io::IoSliceMut::new(&mut scratch[..len])];
        match rustix::io::preadv2(file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
            Ok(bytes) if bytes == len => Cached::Whole,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Cached::Unknown,
            _ => Cached::Partly,
        }
    }

    fn is_up_to_date(file: &File, at: u64) -> bool {
        let mut byte = [0];
        let mut parts = [io::IoSliceMut::new(&mut byte)];
        match rustix::io::preadv2(file, &mut parts, at, ReadWriteFlags::NOWAIT) {
            Ok(bytes) => bytes == 1,
            // A file system that does not know the flag has nothing under way.
            Err(error) => error == Errno::OPNOTSUPP,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::AsFd, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn both_ways_of_sending_do_the_same() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..100_000u32).map(|at| (at >> 3) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        for way in [send, send_copy] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            set_nonblocking(ours.as_fd()).unwrap();
            let mut sent = 5;
            let mut got = Vec::new();
            while sent < bytes.len() {
                match way(ours.as_fd(), &file, sent as u64, bytes.len()) {
                    Ok(taken) => sent += taken,
                    Err(Unsent::Socket(error)) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        let mut part = vec![0; 30_000];
                        let read = theirs.read(&mut part).unwrap();
                        got.extend_from_slice(&part[..read]);
                    }
                    Err(Unsent::File(error)) => panic!("{error}"),
                }
            }
            assert_eq!(way(ours.as_fd(), &file, bytes.len() as u64, 1).unwrap(), 0, "its end");
            while got.len() < bytes.len() - 5 {
                let mut part = vec![0; 30_000];
                let read = theirs.read(&mut part).unwrap();
                got.extend_from_slice(&part[..read]);
            }
            assert!(got == bytes[5..]);
            drop(theirs);
            let refused = way(ours.as_fd(), &file, 0, 10);
            let Err(Unsent::Socket(error)) = refused else { panic!("{refused:?}") };
            assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_written_just_now_is_in_the_page_cache() {
        let file = tempfile::tempfile_in("/tmp").unwrap();
        file.set_len(1 << 20).unwrap();
        let cached = |offset, len| is_cached(&file, offset, len, &mut Vec::new());
        if cached(0, 4096) == Cached::Unknown {
            println!("skipped: this kernel does not tell");
            return;
        }
        file.write_all_at(&[1; 300_000], 4096).unwrap();
        for (offset, len) in [(4096, 300_000), (4096, 1), (5000, 1), (8191, 2), (100_000, 65_537)] {
            assert_eq!(cached(offset, len), Cached::Whole, "{offset} {len}");
        }
        for (offset, len) in [(4095, 2), (800_000, 1), (4096, 600_000), (2 << 20, 1)] {
            assert_eq!(cached(offset, len), Cached::Partly, "{offset} {len}");
        }
    }
}
