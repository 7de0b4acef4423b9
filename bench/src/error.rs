//! The ways a run can fail.

use std::io;

/// Why a run was given up. Every variant ends the program with a non-zero exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Messages between the last good one and this one never arrived.
    #[error("gap in the stream: message {expected} was due, message {received} arrived")]
    Gap {
        /// Sequence number that was due.
        expected: u64,
        /// Sequence number that arrived.
        received: u64,
    },
    /// A message arrived again, or after a later one.
    #[error("repeat in the stream: message {expected} was due, message {received} arrived again")]
    Repeat {
        /// Sequence number that was due.
        expected: u64,
        /// Sequence number that arrived.
        received: u64,
    },
    /// The length of a body differs from that of all messages of the run.
    #[error("body of {received_bytes} bytes at message {expected}, the run sends {expected_bytes}")]
    WrongLength {
        /// Sequence number that was due.
        expected: u64,
        /// Length of every body of the run.
        expected_bytes: usize,
        /// Length of the received body.
        received_bytes: usize,
    },
    /// A frame header differs from that of all frames of the run.
    #[error("frame header {received:02x?} at message {expected}, the run sends {header:02x?}")]
    WrongHeader {
        /// Sequence number that was due.
        expected: u64,
        /// Header of every frame of the run.
        header: Vec<u8>,
        /// Bytes found in its place.
        received: Vec<u8>,
    },
    /// The stream continued after its end marker.
    #[error("{bytes} bytes followed the end marker")]
    AfterEnd {
        /// Bytes left over.
        bytes: usize,
    },
    /// The operating system refused a call.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The measured library reported an error.
    #[error("{0}")]
    Library(String),
    /// The run could not be set up as requested.
    #[error("{0}")]
    Setup(String),
    /// A subject's library does not offer the requested operation.
    #[error("{what} is not supported by {subject}")]
    NotSupported {
        /// The subject's name on the command line.
        subject: &'static str,
        /// The requested operation.
        what: &'static str,
    },
    /// The kernel has no io_uring, or does not allow it.
    #[error("raw-uring needs io_uring: {0}")]
    NoUring(#[source] zring_engine::Error),
    /// The command line of a part of the run is wrong.
    #[error(transparent)]
    Usage(#[from] Box<clap::Error>),
    /// One or both sides of a pair failed.
    #[error("{0}")]
    Sides(String),
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::Usage(Box::new(error))
    }
}

impl Failure {
    /// Wraps a library's error of any type.
    pub fn library(error: impl std::fmt::Display) -> Self {
        Self::Library(error.to_string())
    }
}

/// The result type of the harness.
pub type Result<T> = std::result::Result<T, Failure>;
