//! Polls the poller of the crate `polling`.

use std::{io, time::Duration};

use polling::{Event, Poller};

use super::BorrowedSocket;

/// Most descriptors that one poll reports; the others follow with the next one.
const EVENTS_MAX: usize = 256;

/// Whether a change from another thread may have to wait until the current poll ends. The crate queues changes while no
/// thread polls, and on Windows a change that coincides with the start of a poll stays in that queue. The thread that
/// makes the change must then end the poll.
pub(crate) const IS_DEAF_WHILE_LOOKING: bool = cfg!(windows);

/// The events of one poll.
pub(crate) struct Found {
    events: Vec<Event>,
    #[cfg(not(target_os = "linux"))]
    raw: polling::Events,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Found").field(&self.events).finish()
    }
}

impl Default for Found {
    fn default() -> Self {
        Self {
            events: Vec::with_capacity(EVENTS_MAX),
            #[cfg(not(target_os = "linux"))]
            raw: polling::Events::with_capacity(
                std::num::NonZeroUsize::new(EVENTS_MAX).expect("not zero"),
            ),
        }
    }
}

impl Found {
    pub(crate) fn clear(&mut self) {
        self.events.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }
}

/// `epoll_wait` on the poller's own descriptor: the crate's wait costs four more system calls, to arm its timer and its
/// notifier. Only an event of the notifier goes through the crate.
#[cfg(target_os = "linux")]
pub(crate) fn look(
    poller: &Poller,
    found: &mut Found,
    timeout: Option<Duration>,
) -> io::Result<()> {
    use std::{mem::MaybeUninit, os::fd::AsFd};

    use rustix::event::{
        Timespec,
        epoll::{self, EventFlags},
    };

    /// The key that the crate reserves for its notifier.
    const NOTIFIER: u64 = u64::MAX;
    // A timeout too long for a timespec counts as none.
    let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
    let mut raw = [const { MaybeUninit::uninit() }; EVENTS_MAX];
    let raw = match epoll::wait(poller.as_fd(), &mut raw, timeout.as_ref()) {
        Ok((raw, _)) => raw,
        Err(rustix::io::Errno::INTR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let broken = EventFlags::ERR | EventFlags::HUP;
    for event in raw {
        if event.data.u64() == NOTIFIER {
            let mut rest = polling::Events::new();
            poller.wait(&mut rest, Some(Duration::ZERO))?;
            found.events.extend(rest.iter());
            continue;
        }
        let flags = event.flags;
        found.events.push(Event::new(
            event.data.u64() as usize,
            flags.intersects(EventFlags::IN | EventFlags::PRI | broken),
            flags.intersects(EventFlags::OUT | broken),
        ));
    }
    Ok(())
}

/// Windows waits in whole milliseconds; the crate rounds up.
#[cfg(not(target_os = "linux"))]
pub(crate) fn look(
    poller: &Poller,
    found: &mut Found,
    timeout: Option<Duration>,
) -> io::Result<()> {
    found.raw.clear();
    poller.wait(&mut found.raw, timeout)?;
    found.events.extend(found.raw.iter());
    Ok(())
}

/// The poller's own descriptor, which is readable while the poller has events.
///
/// # Errors
/// None.
#[cfg(target_os = "linux")]
pub(crate) fn descriptor(poller: &Poller) -> io::Result<BorrowedSocket<'_>> {
    Ok(super::borrow(poller))
}

/// Not available: a completion port cannot be polled, and kqueue's descriptor would need a timer in it.
///
/// # Errors
/// `Unsupported`.
#[cfg(not(target_os = "linux"))]
pub(crate) fn descriptor(_poller: &Poller) -> io::Result<BorrowedSocket<'_>> {
    let why = "this system has no descriptors for foreign event loops";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}
