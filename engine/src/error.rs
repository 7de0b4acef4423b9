//! What can go wrong when a shard is opened or turned.

use std::io;

/// An environment fault of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A step of setting up or turning io_uring was refused by the kernel.
    #[error("io_uring is not usable: {step}: {cause}")]
    Uring {
        /// The refused step.
        step: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
    /// A step of setting up the readiness driver was refused.
    #[error("the readiness driver is not usable: {step}: {cause}")]
    Ready {
        /// The refused step.
        step: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The environment names a driver that does not exist.
    #[error("unknown driver in ZRING_DRIVER: {0:?} (known: uring, ready)")]
    UnknownDriver(String),
    /// The feature mask names something that no probe knows.
    #[error("unknown io_uring feature in the mask: {0:?} (known: inc, multishot, ringfd)")]
    UnknownFeature(String),
    /// The configuration is out of its bounds.
    #[error("configuration out of bounds: {0}")]
    Config(&'static str),
    /// This operating system does not have the driver that was chosen.
    #[error("this operating system has no such driver")]
    NoDriver,
}
