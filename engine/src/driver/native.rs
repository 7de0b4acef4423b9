//! The driver of this machine, chosen at run time.

use std::{ffi::OsStr, io, net::SocketAddr, task::Waker};

#[cfg(feature = "sim")]
use super::sim;
#[cfg(target_os = "linux")]
use super::uring;
use super::{Completion, Driver, Kind, OpId, Parking, Submission, Token, Wait, ready};
use crate::{
    buf::{Gather, Pool},
    config::{Config, DriverChoice},
    error::Error,
    stats::ZeroCopyStats,
    sys::{
        BorrowedSocket, OwnedSocket,
        net::{Family, Progress, SocketOptions},
    },
};

/// The environment variable that chooses the driver if the configuration does not: `uring` or `ready`.
pub const DRIVER_VARIABLE: &str = "ZRING_DRIVER";

/// The driver of this machine, picked at run time.
#[derive(Debug)]
pub enum Native {
    /// io_uring.
    #[cfg(target_os = "linux")]
    Uring(Box<uring::Uring>),
    /// Readiness.
    Ready(Box<ready::Ready>),
    /// Simulated.
    #[cfg(feature = "sim")]
    Sim(Box<sim::Sim>),
}

macro_rules! each_driver {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            #[cfg(target_os = "linux")]
            Native::Uring($driver) => $call,
            Native::Ready($driver) => $call,
            #[cfg(feature = "sim")]
            Native::Sim($driver) => $call,
        }
    };
}

/// Which drivers may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Uring,
    Ready,
    /// io_uring, or else readiness.
    Best,
}

impl Wanted {
    fn resolve(choice: DriverChoice, variable: Option<&OsStr>) -> Result<Self, Error> {
        match choice {
            DriverChoice::Uring => return Ok(Self::Uring),
            DriverChoice::Ready => return Ok(Self::Ready),
            DriverChoice::Auto | DriverChoice::PreferReady => {}
            #[cfg(feature = "sim")]
            DriverChoice::Sim => return Err(Error::NoDriver),
        }
        match variable.map(OsStr::to_string_lossy).as_deref() {
            None | Some("") if choice == DriverChoice::PreferReady => Ok(Self::Ready),
            None | Some("") => Ok(Self::Best),
            Some("uring") => Ok(Self::Uring),
            Some("ready") => Ok(Self::Ready),
            Some(other) => Err(Error::UnknownDriver(other.to_owned())),
        }
    }
}

impl Native {
    /// Opens the driver that the configuration chooses, for the calling thread, with a receive pool in the geometry
    /// that suits it.
    ///
    /// # Errors
    /// When the kernel refuses or lacks what is needed, or the environment names a driver that does not exist.
    pub fn open(config: &Config) -> Result<(Self, Pool), Error> {
        #[cfg(feature = "sim")]
        if sim::is_wanted(config.driver) {
            let (driver, pool) = sim::Sim::open(config)?;
            return Ok((Self::Sim(Box::new(driver)), pool));
        }
        let variable = std::env::var_os(DRIVER_VARIABLE);
        match Wanted::resolve(config.driver, variable.as_deref())? {
            Wanted::Uring => Self::open_uring(config),
            Wanted::Ready => Self::open_ready(config),
            Wanted::Best => Self::open_best(config),
        }
    }

    fn open_ready(config: &Config) -> Result<(Self, Pool), Error> {
        let (driver, pool) = ready::Ready::open(config)?;
        Ok((Self::Ready(Box::new(driver)), pool))
    }

    #[cfg(target_os = "linux")]
    fn open_best(config: &Config) -> Result<(Self, Pool), Error> {
        match Self::open_uring(config) {
            Err(error) if is_refusal(&error) => {
                warn_once(&error);
                Self::open_ready(config)
            }
            outcome => outcome,
        }
    }

    /// This system never has io_uring, so its absence is no reason for a warning.
    #[cfg(not(target_os = "linux"))]
    fn open_best(config: &Config) -> Result<(Self, Pool), Error> {
        Self::open_ready(config)
    }

    #[cfg(target_os = "linux")]
    fn open_uring(config: &Config) -> Result<(Self, Pool), Error> {
        let opened = match uring::Uring::open(config) {
            Err(Error::Uring { cause, .. }) if cause.raw_os_error() == Some(libc::ENOMEM) => {
                uring::Uring::open(&with_less(config))
            }
            opened => opened,
        };
        opened.map(|(driver, pool)| (Self::Uring(Box::new(driver)), pool))
    }

    #[cfg(not(target_os = "linux"))]
    fn open_uring(_config: &Config) -> Result<(Self, Pool), Error> {
        Err(Error::NoDriver)
    }
}

/// The smallest queues that a ring works well with. Locked memory (`ulimit -l`) does not matter here: since Linux 5.12,
/// which is below our floor, rings are charged to the memory cgroup alone, and the buffers of the pool are not
/// registered, so the ring pins nothing. The cgroup's memory can be short, or a run of free pages for the queues.
#[cfg(target_os = "linux")]
fn with_less(config: &Config) -> Config {
    Config {
        submissions: config.submissions.min(32),
        completions: config.completions.min(256),
        ..config.clone()
    }
}

/// Whether this machine refuses io_uring, as opposed to a fault that readiness would meet, too, such as having no
/// descriptor left.
#[cfg(target_os = "linux")]
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::Uring { cause, .. } => matches!(
            cause.raw_os_error(),
            // In this order: a filter or `kernel.io_uring_disabled`; no such call; a flag or an operation that is too
            // new; no memory for the smallest ring.
            Some(
                libc::EPERM
                    | libc::EACCES
                    | libc::ENOSYS
                    | libc::EINVAL
                    | libc::EOPNOTSUPP
                    | libc::ENOMEM
            )
        ),
        _ => false,
    }
}

/// Logs one line per process, however many shards it opens.
#[cfg(target_os = "linux")]
fn warn_once(error: &Error) {
    static WARNED: crate::sync::OnceLock<()> = crate::sync::OnceLock::new();
    if WARNED.set(()).is_ok() {
        tracing::warn!("{error}; using readiness instead");
    }
}

impl Native {
    /// The kind of this driver.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            #[cfg(target_os = "linux")]
            Self::Uring(_) => Kind::Uring,
            Self::Ready(_) => Kind::Ready,
            #[cfg(feature = "sim")]
            Self::Sim(_) => Kind::Sim,
        }
    }
}

impl Driver for Native {
    fn listen_tcp(
        &mut self,
        address: SocketAddr,
        backlog: u32,
        options: &SocketOptions,
    ) -> io::Result<(OwnedSocket, SocketAddr)> {
        each_driver!(self, driver => driver.listen_tcp(address, backlog, options))
    }

    fn connect_socket(
        &mut self,
        family: Family,
        options: &SocketOptions,
    ) -> io::Result<OwnedSocket> {
        each_driver!(self, driver => driver.connect_socket(family, options))
    }

    fn park(&mut self, timeout_ns: Option<u64>) -> io::Result<Option<Parking>> {
        each_driver!(self, driver => driver.park(timeout_ns))
    }

    fn unpark(&mut self, parking: Parking) {
        each_driver!(self, driver => driver.unpark(parking));
    }

    #[inline]
    fn has_queued(&self) -> bool {
        each_driver!(self, driver => driver.has_queued())
    }

    fn zero_copy_stats(&self) -> ZeroCopyStats {
        each_driver!(self, driver => driver.zero_copy_stats())
    }

    fn adopt(&mut self, fd: &OwnedSocket) {
        each_driver!(self, driver => driver.adopt(fd));
    }

    fn close(&mut self, fd: OwnedSocket) {
        each_driver!(self, driver => driver.close(fd));
    }

    #[inline]
    fn submit(&mut self, token: Token, submission: Submission) -> OpId {
        each_driver!(self, driver => driver.submit(token, submission))
    }

    #[inline]
    fn try_send(&mut self, fd: BorrowedSocket<'_>, bytes: &[u8]) -> usize {
        each_driver!(self, driver => driver.try_send(fd, bytes))
    }

    #[inline]
    fn try_send_list(&mut self, fd: BorrowedSocket<'_>, gather: &Gather) -> usize {
        each_driver!(self, driver => driver.try_send_list(fd, gather))
    }

    #[inline]
    fn try_send_behind(&mut self, fd: BorrowedSocket<'_>, head: &[u8], body: &[u8]) -> usize {
        each_driver!(self, driver => driver.try_send_behind(fd, head, body))
    }

    #[inline]
    fn try_receive(
        &mut self,
        fd: BorrowedSocket<'_>,
        body: &mut [u8],
        spill: &mut Vec<u8>,
    ) -> io::Result<Option<usize>> {
        each_driver!(self, driver => driver.try_receive(fd, body, spill))
    }

    fn register(&mut self, memory: &mut [u8]) -> Result<bool, Error> {
        each_driver!(self, driver => driver.register(memory))
    }

    fn unregister(&mut self, memory: &[u8]) {
        each_driver!(self, driver => driver.unregister(memory));
    }

    fn registered_receives(&self) -> u64 {
        each_driver!(self, driver => driver.registered_receives())
    }

    fn progress(&mut self, fd: BorrowedSocket<'_>, send: Option<OpId>) -> Progress {
        each_driver!(self, driver => driver.progress(fd, send))
    }

    fn cancel(&mut self, op: OpId) {
        each_driver!(self, driver => driver.cancel(op));
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        each_driver!(self, driver => driver.flush())
    }

    #[inline]
    fn poll(&mut self, wait: Wait) -> io::Result<()> {
        each_driver!(self, driver => driver.poll(wait))
    }

    #[inline]
    fn next(&mut self, pool: &mut Pool) -> Option<Completion> {
        each_driver!(self, driver => driver.next(pool))
    }

    fn buffers(&self, pool: &Pool) -> usize {
        each_driver!(self, driver => driver.buffers(pool))
    }

    #[inline]
    fn provide(&mut self, pool: &mut Pool) -> usize {
        each_driver!(self, driver => driver.provide(pool))
    }

    fn in_flight(&self) -> usize {
        each_driver!(self, driver => driver.in_flight())
    }

    fn shut_down(&mut self, pool: &mut Pool) -> bool {
        each_driver!(self, driver => driver.shut_down(pool))
    }

    fn waker(&self) -> Waker {
        each_driver!(self, driver => driver.waker())
    }

    fn alarm(&mut self, after_ns: u64) {
        each_driver!(self, driver => driver.alarm(after_ns));
    }

    fn event_fd(&mut self) -> io::Result<BorrowedSocket<'_>> {
        each_driver!(self, driver => driver.event_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_chooses_where_nobody_else_does() {
        let resolve =
            |choice, variable: Option<&str>| Wanted::resolve(choice, variable.map(OsStr::new));
        for (variable, wanted) in [
            (None, Wanted::Best),
            (Some(""), Wanted::Best),
            (Some("uring"), Wanted::Uring),
            (Some("ready"), Wanted::Ready),
        ] {
            assert_eq!(resolve(DriverChoice::Auto, variable).unwrap(), wanted);
            assert_eq!(resolve(DriverChoice::Uring, variable).unwrap(), Wanted::Uring);
            assert_eq!(resolve(DriverChoice::Ready, variable).unwrap(), Wanted::Ready);
        }
        let unknown = resolve(DriverChoice::Auto, Some("Epoll")).unwrap_err();
        assert!(matches!(unknown, Error::UnknownDriver(name) if name == "Epoll"));
        resolve(DriverChoice::Ready, Some("Epoll")).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn faults_that_readiness_would_meet_are_no_refusal() {
        let error = |errno| Error::Uring {
            step: "io_uring_setup",
            cause: io::Error::from_raw_os_error(errno),
        };
        assert!(is_refusal(&error(libc::EPERM)) && is_refusal(&error(libc::ENOSYS)));
        assert!(!is_refusal(&error(libc::EMFILE)) && !is_refusal(&error(libc::EINTR)));
        assert!(!is_refusal(&Error::UnknownFeature("x".to_owned())));
    }
}
