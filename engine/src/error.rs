//! Errors of opening and turning a shard.

use std::{fmt, io};

/// A fault of the engine's environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A step of setting up or turning io_uring was refused by the kernel.
    #[error("io_uring is not usable: {step}: {cause}")]
    Uring {
        /// The refused step.
        step: &'static str,
        /// The kernel's error.
        cause: io::Error,
    },
    /// A step of setting up the readiness driver was refused.
    #[error("the readiness driver is not usable: {step}: {cause}")]
    Ready {
        /// The refused step.
        step: &'static str,
        /// The system's error.
        cause: io::Error,
    },
    /// The environment names a driver that does not exist.
    #[error("unknown driver in ZRING_DRIVER: {0:?} (known: uring, ready)")]
    UnknownDriver(String),
    /// The feature mask names an unknown io_uring feature.
    #[error(
        "unknown io_uring feature in the mask: {0:?} (known: inc, multishot, zc, fixed, ringfd)"
    )]
    UnknownFeature(String),
    /// Memory to receive into is not available with the required properties.
    #[error("memory to receive into cannot be had as required: {0}")]
    PoolMemory(#[from] PoolMemoryError),
    /// Memory cannot be registered with io_uring.
    #[error(
        "{bytes} bytes cannot be registered with io_uring: {cause}; the limit RLIMIT_MEMLOCK (`ulimit -l`) is {}",
        Limit(limit_bytes)
    )]
    Register {
        /// The bytes to be registered. Memory that the process has already locked or registered counts towards the
        /// limit, too.
        bytes: usize,
        /// How many bytes the process may lock; `None`: any number.
        limit_bytes: Option<u64>,
        /// The kernel's error.
        cause: io::Error,
    },
    /// The configuration is out of its bounds.
    #[error("configuration out of bounds: {0}")]
    Config(&'static str),
    /// This operating system does not have the driver that was chosen.
    #[error("this operating system has no such driver")]
    NoDriver,
}

/// A required property of receive memory ([`PoolMemory`](crate::PoolMemory)) that is not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolMemoryError {
    /// The memory cannot be locked.
    #[error(
        "{needed_bytes} bytes cannot be locked: {cause}; the limit RLIMIT_MEMLOCK (`ulimit -l`) is {}",
        Limit(limit_bytes)
    )]
    Lock {
        /// The bytes that one pool needs. Memory that the process has already locked counts towards the limit, too.
        needed_bytes: u64,
        /// How many bytes the process may lock; `None`: any number.
        limit_bytes: Option<u64>,
        /// The system's error.
        cause: io::Error,
    },
    /// Explicit huge pages are not available.
    #[error(
        "{needed_pages} explicit huge pages of 2 MiB are not to be had: {cause}; {} free \
         (/proc/sys/vm/nr_hugepages sets how many there are)",
        Free(free_pages)
    )]
    ExplicitHugePages {
        /// How many pages of 2 MiB one pool needs.
        needed_pages: u64,
        /// How many such pages are free; `None`: the kernel does not have such pages.
        free_pages: Option<u64>,
        /// The system's error.
        cause: io::Error,
    },
    /// The kernel did not put the memory on transparent huge pages.
    #[error(
        "{huge_bytes} of {needed_bytes} bytes lie on transparent huge pages{}; \
         /sys/kernel/mm/transparent_hugepage/enabled says {setting}",
        Because(cause)
    )]
    TransparentHugePages {
        /// How many bytes one pool needs.
        needed_bytes: u64,
        /// How many of these bytes lie on huge pages.
        huge_bytes: u64,
        /// The kernel's setting: `always`, `madvise` or `never`.
        setting: String,
        /// The system's error, if it refused.
        cause: Option<io::Error>,
    },
    /// There is no memory to map.
    #[error("no memory: {0}")]
    Map(io::Error),
    /// Only Linux can prefault, lock or enlarge the pages.
    #[error("this system does not prefault, lock or enlarge its pages")]
    Unsupported,
}

/// Optional fields as the error texts show them.
struct Limit<'a>(&'a Option<u64>);
struct Free<'a>(&'a Option<u64>);
struct Because<'a>(&'a Option<io::Error>);

impl fmt::Display for Limit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{bytes} bytes"),
            None => f.write_str("unlimited"),
        }
    }
}

impl fmt::Display for Free<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pages) => write!(f, "{pages} are"),
            None => f.write_str("none are"),
        }
    }
}

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |cause| write!(f, " ({cause})"))
    }
}
