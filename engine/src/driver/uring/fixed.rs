//! Receives into registered memory ("fixed buffers" of io_uring).
//!
//! The driver makes them as reads with `IORING_OP_READ_FIXED`, because `recv(2)` and its operation take no such memory.
//! Each read is told not to wait (`RWF_NOWAIT`). So it ends in any case inside the call that submits it, and the kernel
//! keeps the memory no longer. The reads have a ring of their own with room for one entry: on the shard's ring, the
//! next completion could belong to any operation.
//!
//! Source: `io_uring_enter(2)`, `io_uring_register(2)`, `preadv2(2)`.

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd},
};

use io_uring::{IoUring, opcode, types};

use super::{outcome, probe::Fixed};

/// How many pieces of memory one driver registers at most.
const PIECES_MAX: u16 = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct FixedReads {
    /// `None`: the feature is masked, or the kernel has refused it.
    feature: Option<Fixed>,
    table: Option<Table>,
    reads: u64,
}

/// The kernel's table of registered pieces, and their addresses.
#[derive(Debug)]
struct Table {
    ring: Ring,
    /// Sorted by address.
    pieces: Vec<Piece>,
    /// Indices of the kernel's table that were used and are free again.
    free: Vec<u16>,
    /// The first index that was never used.
    fresh: u16,
}

#[derive(Debug)]
struct Piece {
    addresses: Range<usize>,
    index: u16,
}

struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ring").field(&self.0.as_raw_fd()).finish()
    }
}

fn addresses(memory: &[u8]) -> Range<usize> {
    let start = memory.as_ptr().addr();
    start..start + memory.len()
}

impl FixedReads {
    pub(super) fn new(feature: Option<Fixed>) -> Self {
        Self { feature, table: None, reads: 0 }
    }

    /// How many receives brought bytes this way.
    pub(super) fn reads(&self) -> u64 {
        self.reads
    }

    /// Registers memory. Returns whether the kernel supports that.
    ///
    /// # Errors
    /// The kernel's error, `ENOMEM` beyond `RLIMIT_MEMLOCK`; `QuotaExceeded` beyond 1,024 pieces.
    pub(super) fn register(&mut self, memory: &mut [u8]) -> io::Result<bool> {
        if self.feature.is_none() {
            return Ok(false);
        }
        let table = match &mut self.table {
            Some(table) => table,
            None => match Table::open()? {
                Some(table) => self.table.insert(table),
                None => {
                    self.feature = None;
                    return Ok(false);
                }
            },
        };
        table.add(memory).map(|()| true)
    }

    /// Takes back the registration of memory that is about to be freed.
    pub(super) fn unregister(&mut self, memory: &[u8]) {
        let Some(table) = &mut self.table else { return };
        if let Err(error) = table.remove(memory) {
            tracing::warn!("registered memory cannot be given back: {error}; doing without");
            // Closing the ring ends all of its registrations.
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        (self.feature, self.table) = (None, None);
    }

    /// Receives what is available now into registered memory. `None`: the memory is not registered, or the kernel does
    /// not support it.
    #[inline]
    pub(super) fn try_receive(
        &mut self,
        fd: BorrowedFd<'_>,
        body: &mut [u8],
    ) -> Option<io::Result<usize>> {
        let table = self.table.as_mut()?;
        let index = table.find(body)?;
        match table.read(fd, body, index) {
            Ok(Err(error))
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
            {
                // Before Linux 6.4 a read from a socket does not support `RWF_NOWAIT`.
                self.give_up();
                None
            }
            Ok(read) => {
                self.reads += u64::from(read.as_ref().is_ok_and(|&bytes| bytes > 0));
                Some(read)
            }
            Err(error) => {
                tracing::warn!(
                    "a read into registered memory was not taken: {error}; doing without"
                );
                self.give_up();
                None
            }
        }
    }
}

impl Table {
    /// `None`: this kernel has no such tables.
    fn open() -> io::Result<Option<Self>> {
        let opened = IoUring::new(1).and_then(|ring| {
            ring.submitter().register_buffers_sparse(PIECES_MAX.into())?;
            Ok(ring)
        });
        match opened {
            Ok(ring) => {
                let (pieces, free) = (Vec::new(), Vec::new());
                Ok(Some(Self { ring: Ring(ring), pieces, free, fresh: 0 }))
            }
            // Before Linux 5.19.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn add(&mut self, memory: &mut [u8]) -> io::Result<()> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.fresh < PIECES_MAX => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => {
                let text = "1,024 pieces of registered memory are the most";
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
            }
        };
        let piece = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
        // SAFETY: the kernel pins the pages, so they stay, whatever becomes of the memory. It writes to them only in
        // reads that name an address inside (`read`).
        let added = unsafe {
            self.ring.0.submitter().register_buffers_update(index.into(), &[piece], None)
        };
        if let Err(error) = added {
            self.free.push(index);
            return Err(error);
        }
        let addresses = addresses(memory);
        let at = self.pieces.partition_point(|piece| piece.addresses.start < addresses.start);
        self.pieces.insert(at, Piece { addresses, index });
        Ok(())
    }

    fn remove(&mut self, memory: &[u8]) -> io::Result<()> {
        let addresses = addresses(memory);
        let Some(at) = self.pieces.iter().position(|piece| piece.addresses == addresses) else {
            return Ok(());
        };
        let Piece { index, .. } = self.pieces.remove(at);
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: an empty entry points nowhere.
        unsafe { self.ring.0.submitter().register_buffers_update(index.into(), &[nothing], None) }?;
        self.free.push(index);
        Ok(())
    }

    /// The piece that contains all of `body`.
    fn find(&self, body: &[u8]) -> Option<u16> {
        let body = addresses(body);
        let behind = self.pieces.partition_point(|piece| piece.addresses.start <= body.start);
        let piece = self.pieces.get(behind.checked_sub(1)?)?;
        (!body.is_empty() && body.end <= piece.addresses.end).then_some(piece.index)
    }

    /// The result of a read. The outer error: the kernel has not taken the entry, and the ring must not be used again.
    fn read(
        &mut self,
        fd: BorrowedFd<'_>,
        body: &mut [u8],
        index: u16,
    ) -> io::Result<io::Result<usize>> {
        let Ring(ring) = &mut self.ring;
        let len = body.len().min(i32::MAX as usize) as u32;
        let fd = types::Fd(fd.as_raw_fd());
        let entry = opcode::ReadFixed::new(fd, body.as_mut_ptr(), len, index)
            .rw_flags(libc::RWF_NOWAIT)
            .build();
        // SAFETY: `body` is borrowed until the read's completion is reaped below. If that never comes, because the
        // kernel did not take the entry, the caller drops the ring and the entry with it.
        unsafe { ring.submission().push(&entry) }
            .map_err(|_| io::Error::other("the entry before was not taken"))?;
        loop {
            match ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            if let Some(completion) = ring.completion().next() {
                return Ok(outcome(completion.result()).map(|bytes| bytes as usize));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd, os::unix::net::UnixStream};

    use super::*;

    fn fixed() -> FixedReads {
        FixedReads::new(Some(Fixed::for_tests()))
    }

    fn read(fixed: &mut FixedReads, from: &UnixStream, body: &mut [u8]) -> usize {
        fixed.try_receive(from.as_fd(), body).expect("registered").expect("received")
    }

    #[test]
    fn it_receives_into_what_is_registered_alone() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let (mut memory, mut other) = (vec![0; 10_000], vec![0; 10_000]);
        let mut fixed = fixed();
        assert!(fixed.try_receive(far.as_fd(), &mut memory).is_none(), "nothing is registered");
        assert!(fixed.register(&mut memory).unwrap());
        assert!(fixed.try_receive(far.as_fd(), &mut other).is_none());
        assert!(fixed.try_receive(far.as_fd(), &mut memory[..0]).is_none(), "nothing to fill");

        let nothing = fixed.try_receive(far.as_fd(), &mut memory).unwrap().unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        near.write_all(&[7; 6000]).unwrap();
        assert_eq!(read(&mut fixed, &far, &mut memory[1000..5000]), 4000);
        assert_eq!(read(&mut fixed, &far, &mut memory[5000..]), 2000);
        assert!(memory[..1000].iter().chain(&memory[7000..]).all(|&byte| byte == 0));
        assert!(memory[1000..7000].iter().all(|&byte| byte == 7));
        assert_eq!(fixed.reads(), 2);

        drop(near);
        assert_eq!(read(&mut fixed, &far, &mut memory), 0, "the end");
        fixed.unregister(&memory);
        assert!(fixed.try_receive(far.as_fd(), &mut memory).is_none());
        fixed.unregister(&other);
    }

    #[test]
    fn pieces_are_told_apart_and_their_places_used_again() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut fixed = fixed();
        // Neighbouring pieces, registered in any order.
        let mut memory = vec![0; 6 * 1000];
        let mut pieces: Vec<&mut [u8]> = memory.chunks_mut(1000).collect();
        for at in [3, 0, 5, 1, 4] {
            assert!(fixed.register(pieces[at]).unwrap());
        }
        for (at, piece) in pieces.iter_mut().enumerate() {
            near.write_all(&[at as u8 + 1; 1000]).unwrap();
            if at == 2 {
                assert!(fixed.try_receive(far.as_fd(), piece).is_none());
                std::io::Read::read_exact(&mut &far, piece).unwrap();
            } else {
                assert_eq!(read(&mut fixed, &far, piece), 1000);
            }
        }
        for (at, piece) in pieces.iter().enumerate() {
            assert!(piece.iter().all(|&byte| byte == at as u8 + 1), "{at}");
            fixed.unregister(piece);
        }
        assert!(fixed.try_receive(far.as_fd(), &mut memory).is_none(), "no piece has all of it");

        for round in 0..3 * usize::from(PIECES_MAX) {
            let mut memory = vec![0; 100];
            assert!(fixed.register(&mut memory).unwrap());
            near.write_all(&[round as u8; 100]).unwrap();
            assert_eq!(read(&mut fixed, &far, &mut memory), 100);
            assert!(memory.iter().all(|&byte| byte == round as u8));
            fixed.unregister(&memory);
        }
    }

    #[test]
    fn there_is_a_most_of_pieces() {
        let mut fixed = fixed();
        let mut memory = vec![0; usize::from(PIECES_MAX) + 1];
        let mut pieces = memory.chunks_mut(1);
        for piece in pieces.by_ref().take(PIECES_MAX.into()) {
            assert!(fixed.register(piece).unwrap());
        }
        let last = pieces.next().unwrap();
        let refused = fixed.register(last).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
        drop(pieces);
        fixed.unregister(&memory[7..8]);
        let (_, last) = memory.split_at_mut(PIECES_MAX.into());
        assert!(fixed.register(last).unwrap());
    }

    #[test]
    fn what_is_hidden_is_not_used() {
        let mut fixed = FixedReads::new(None);
        let mut memory = vec![0; 100];
        assert!(!fixed.register(&mut memory).unwrap());
        let (_near, far) = UnixStream::pair().unwrap();
        assert!(fixed.try_receive(far.as_fd(), &mut memory).is_none());
    }

    #[test]
    fn an_entry_that_is_not_taken_ends_it() {
        let mut fixed = fixed();
        let (mut memory, (mut near, far)) = (vec![0; 100], UnixStream::pair().unwrap());
        assert!(fixed.register(&mut memory).unwrap());
        // An entry is left in the queue, as when the kernel is short of memory.
        let ring = &mut fixed.table.as_mut().unwrap().ring.0;
        // SAFETY: an operation that touches nothing.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.unwrap();
        near.write_all(&[1; 100]).unwrap();
        assert!(fixed.try_receive(far.as_fd(), &mut memory).is_none());
        assert!(fixed.table.is_none() && memory == [0; 100]);
        assert!(!fixed.register(&mut memory).unwrap());
    }
}
