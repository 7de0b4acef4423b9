//! Error numbers of the two systems.

#[cfg(unix)]
pub(crate) use libc::{ECONNREFUSED, ECONNRESET, EOPNOTSUPP, EPIPE};

#[cfg(windows)]
mod winsock {
    pub(crate) const EOPNOTSUPP: i32 = 10045;
    pub(crate) const ECONNRESET: i32 = 10054;
    /// The error of a send after a reset was reported: the connection was aborted.
    pub(crate) const EPIPE: i32 = 10053;
    pub(crate) const ECONNREFUSED: i32 = 10061;
}

#[cfg(windows)]
pub(crate) use winsock::*;
