//! The subjects of the workload `file`: each has a way to send one file, and a receiver that discards it.
//!
//! A subject of this workload is one `impl` of [`Courier`] and one line in [`COURIERS`].

use std::fs::File;

use crate::error::Result;
#[cfg(target_os = "linux")]
use crate::subject::raw_file;
use crate::subject::zring_file;

/// Every subject of the workload, in reporting order.
pub const COURIERS: &[&dyn Courier] = &[
    #[cfg(target_os = "linux")]
    &raw_file::SENDFILE,
    #[cfg(target_os = "linux")]
    &raw_file::COPY,
    &zring_file::ZRING,
];

/// The reference subject, with which the others are compared.
pub const FLOOR: &str = "raw-sendfile";

/// The subject called `name`.
pub fn by_name(name: &str) -> Option<&'static dyn Courier> {
    COURIERS.iter().copied().find(|courier| courier.name() == name)
}

/// A way to transfer a file from one process to another.
pub trait Courier: Sync {
    /// The name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// How the courier works, in a few words.
    fn settings(&self) -> &'static str;

    /// Binds to `bind`, as in [`Case::bind`](crate::subject::Case::bind); also returns the endpoint to connect to.
    ///
    /// # Errors
    /// The error of the bind.
    fn receiver(&self, bind: &str) -> Result<(String, Box<dyn FileReceiver>)>;

    /// Makes the sending side, in another process; connected and ready to send when this returns.
    ///
    /// # Errors
    /// The error of the connect.
    fn sender(&self, endpoint: &str) -> Result<Box<dyn FileSender>>;
}

/// Receives one file and discards it.
pub trait FileReceiver {
    /// Waits for the sender to connect.
    ///
    /// # Errors
    /// The transport's error, or a timeout after [`STALL`](crate::subject::STALL).
    fn await_sender(&mut self) -> Result<()>;

    /// Receives `bytes` bytes and passes them to `check` in pieces, each with its offset in the file. The run is over
    /// when this returns.
    ///
    /// # Errors
    /// The error of the transport or the check.
    fn receive(
        &mut self,
        bytes: u64,
        check: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()>;

    /// Checks that nothing follows. Not part of the measured time.
    ///
    /// # Errors
    /// Bytes that followed, or the transport's error.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Sends one file.
pub trait FileSender {
    /// Sends the first `bytes` bytes of the file, and returns when all have been sent.
    ///
    /// # Errors
    /// The error of the transport or the file.
    fn send(&mut self, file: &File, bytes: u64) -> Result<()>;
}
