//! Sends with calls that do not wait, one after the other while the kernel takes something.
//!
//! Bytes that the peer acknowledges during a call free space in the send buffer only as the call ends, and for TCP a
//! poll reports that space once a third of the buffer is free (`sk_stream_is_writeable`, Linux). A sender that sleeps
//! until then lets its peer run dry in the meantime. A blocking `send(2)` goes on instead, and so does this code.

use std::io::{self, IoSlice};

use super::parts_of;
use crate::{
    buf::Gather,
    config::Config,
    sys::{BorrowedSocket, net},
};

/// A rest of at least so many bytes is offered to the kernel once more. For a smaller rest, a poll reports space soon
/// enough.
pub(super) const AGAIN_BYTES_MIN: usize = 64 << 10;
/// One attempt ends after so many bytes, because the other connections of the shard wait meanwhile.
const BYTES_MAX: usize = 32 << 20;
/// As [`BYTES_MAX`], for a shard that other threads use as well.
const SHARED_BYTES_MAX: usize = 4 << 20;

/// The bound of one attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calls {
    bytes_max: usize,
}

impl Calls {
    pub(super) fn new(config: &Config) -> Self {
        Self { bytes_max: if config.shared { SHARED_BYTES_MAX } else { BYTES_MAX } }
    }

    /// Sends as many bytes of `gather` behind the first `skip` as the kernel takes at once, up to the next file.
    ///
    /// # Errors
    /// The error of the first call. An error of a later call ends the attempt, and shows again when the rest is sent.
    pub(super) fn send_list(
        self,
        fd: BorrowedSocket<'_>,
        gather: &Gather,
        skip: usize,
    ) -> io::Result<usize> {
        self.repeat(gather.bytes() - skip, |sent| {
            let (parts, count) = parts_of(gather, skip + sent);
            net::try_send_vectored(fd, &parts[..count])
        })
    }

    /// Sends as many bytes of a body and of those in front of it as the kernel takes at once; returns 0 also on an
    /// error.
    pub(super) fn send_behind(self, fd: BorrowedSocket<'_>, head: &[u8], body: &[u8]) -> usize {
        let sent = self.repeat(head.len() + body.len(), |sent| {
            let of_head = sent.min(head.len());
            let (head, body) = (&head[of_head..], &body[sent - of_head..]);
            net::try_send_vectored(fd, &[IoSlice::new(head), IoSlice::new(body)])
        });
        sent.unwrap_or(0)
    }

    /// Repeats `call`, which is given the number of bytes taken so far and returns how many more the kernel takes.
    fn repeat(
        self,
        bytes: usize,
        mut call: impl FnMut(usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut sent = call(0)?;
        let mut taken = sent;
        while taken > 0 && sent < self.bytes_max && bytes - sent >= AGAIN_BYTES_MIN {
            taken = call(sent).unwrap_or(0);
            sent += taken;
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts to send `bytes` with calls that take so much each. Returns the bytes sent and the number of calls.
    fn attempt(bytes: usize, takes: &[Option<usize>]) -> (Option<usize>, usize) {
        let mut takes = takes.iter();
        let (mut expected, mut calls) = (0, 0);
        let sent = Calls { bytes_max: 1 << 20 }.repeat(bytes, |sent| {
            assert_eq!(sent, expected, "each call begins where the last one ended");
            calls += 1;
            let taken = takes.next().expect("not more calls than foreseen");
            let taken = taken.ok_or(io::ErrorKind::WouldBlock)?;
            expected += taken;
            Ok(taken)
        });
        (sent.ok(), calls)
    }

    #[test]
    fn it_goes_on_while_the_kernel_takes_something() {
        const K: usize = 1 << 10;
        assert_eq!(attempt(500 * K, &[Some(500 * K)]), (Some(500 * K), 1), "all at once");
        let parts = [Some(100 * K), Some(K), Some(300 * K), Some(99 * K)];
        assert_eq!(attempt(500 * K, &parts), (Some(500 * K), 4));
        assert_eq!(attempt(500 * K, &[Some(100 * K), Some(0)]), (Some(100 * K), 2));
        assert_eq!(
            attempt(500 * K, &[Some(100 * K), None]),
            (Some(100 * K), 2),
            "full, or a fault"
        );
        assert_eq!(attempt(500 * K, &[None]), (None, 1), "a fault of the first call is told");
    }

    #[test]
    fn little_is_not_offered_again_and_an_attempt_has_its_bound() {
        let bytes = AGAIN_BYTES_MIN + 1000;
        assert_eq!(attempt(bytes, &[Some(1001)]), (Some(1001), 1));
        assert_eq!(attempt(bytes, &[Some(1000), Some(7)]), (Some(1007), 2));
        let (sent, calls) = attempt(1 << 30, &[Some(400 << 10); 3]);
        assert_eq!(
            (sent, calls),
            (Some(1200 << 10), 3),
            "the call that reaches the bound is the last"
        );
    }
}
