//! The events that a program can wait for at a socket.

/// Interest in, or readiness for, receiving.
pub const POLLIN: u8 = 1;
/// Interest in, or readiness for, sending.
pub const POLLOUT: u8 = 2;
