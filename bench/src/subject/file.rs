//! The subjects of the workload `file`: each has a way to send one file, and a receiver that throws it away.
//!
//! A subject of this workload is one `impl` of [`Courier`] and one line in [`COURIERS`].

use std::fs::File;

use crate::error::Result;
#[cfg(target_os = "linux")]
use crate::subject::raw_file;
use crate::subject::zring_file;

/// Every subject of the workload, in the order in which they are reported.
pub const COURIERS: &[&dyn Courier] = &[
    #[cfg(target_os = "linux")]
    &raw_file::SENDFILE,
    #[cfg(target_os = "linux")]
    &raw_file::COPY,
    &zring_file::ZRING,
];

/// The subject that the others are compared with.
pub const FLOOR: &str = "raw-sendfile";

/// The subject called `name`.
pub fn by_name(name: &str) -> Option<&'static dyn Courier> {
    COURIERS.iter().copied().find(|courier| courier.name() == name)
}

/// A way to get a file from one process to another.
pub trait Courier: Sync {
    /// What the command line and the reports call it.
    fn name(&self) -> &'static str;

    /// How it works, in a few words.
    fn settings(&self) -> &'static str;

    /// Binds to `bind`, as in [`Case::bind`](crate::subject::Case::bind); returns the endpoint to connect to as well.
    ///
    /// # Errors
    /// Whatever kept it from binding.
    fn receiver(&self, bind: &str) -> Result<(String, Box<dyn FileReceiver>)>;

    /// The other side, in another process; connected, and ready to send, when this returns.
    ///
    /// # Errors
    /// Whatever kept it from connecting.
    fn sender(&self, endpoint: &str) -> Result<Box<dyn FileSender>>;
}

/// Receives one file and throws it away.
pub trait FileReceiver {
    /// Waits for the sender to connect.
    ///
    /// # Errors
    /// Whatever the transport reports, or that nobody came for [`STALL`](crate::subject::STALL).
    fn await_sender(&mut self) -> Result<()>;

    /// Receives `bytes` bytes and shows them to `check` in pieces, each with its offset in the file. The run is over
    /// when this returns.
    ///
    /// # Errors
    /// Whatever the transport or the check reports.
    fn receive(
        &mut self,
        bytes: u64,
        check: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()>;

    /// Sees that nothing follows; not a part of the time.
    ///
    /// # Errors
    /// That something did, or whatever the transport reports.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Sends one file.
pub trait FileSender {
    /// Sends the first `bytes` bytes of the file, and returns when all have left.
    ///
    /// # Errors
    /// Whatever the transport or the file reports.
    fn send(&mut self, file: &File, bytes: u64) -> Result<()>;
}
