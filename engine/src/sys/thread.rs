//! Where and how a thread runs.

use std::io;

/// How a thread competes for its core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheduling {
    /// As the thread that starts it.
    #[default]
    Inherited,
    /// With a nice value, −20 (most favoured) to 19; see `nice(2)`. A value below the inherited one needs a privilege.
    Nice(i8),
    /// `SCHED_FIFO` with a priority of 1 to 99; see `sched(7)`. The thread runs until it sleeps, before all ordinary
    /// threads of its core. Needs a privilege (`CAP_SYS_NICE` or `RLIMIT_RTPRIO`).
    RealTime(u8),
}

/// Binds the calling thread to one core, counted from 0.
///
/// # Errors
/// `InvalidInput` when there is no such core, or the process may not use it.
#[cfg(target_os = "linux")]
pub fn pin_this_thread(core: usize) -> io::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    if core >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Binds the calling thread to one core, counted from 0 within the thread's processor group of at most 64 cores.
///
/// # Errors
/// `InvalidInput` when there is no such core, or the process may not use it.
#[cfg(windows)]
pub fn pin_this_thread(core: usize) -> io::Result<()> {
    use windows_sys::Win32::System::Threading::{GetCurrentThread, SetThreadAffinityMask};
    let core = u32::try_from(core).map_err(|_| io::ErrorKind::InvalidInput)?;
    let cores = 1usize.checked_shl(core).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the pseudo-handle of the calling thread needs no closing; all other arguments are numbers.
    match unsafe { SetThreadAffinityMask(GetCurrentThread(), cores) } {
        0 => Err(io::ErrorKind::InvalidInput.into()),
        _ => Ok(()),
    }
}

/// Refuses: threads can be bound to cores on Linux and Windows only.
///
/// # Errors
/// `Unsupported`.
#[cfg(not(any(target_os = "linux", windows)))]
pub fn pin_this_thread(_core: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Sets how the calling thread is scheduled.
///
/// # Errors
/// `PermissionDenied` without the privilege, `InvalidInput` for a value out of its range.
#[cfg(target_os = "linux")]
pub fn schedule_this_thread(scheduling: Scheduling) -> io::Result<()> {
    match scheduling {
        Scheduling::Inherited => Ok(()),
        Scheduling::Nice(nice) => {
            // Linux keeps a nice value per thread; 0 means the calling thread.
            Ok(rustix::process::setpriority_process(None, nice.into())?)
        }
        Scheduling::RealTime(priority) => {
            let parameters = libc::sched_param { sched_priority: priority.into() };
            // SAFETY: 0 means the calling thread; the parameters live through the call, which only reads them.
            let code =
                unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
            if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        }
    }
}

/// Outside Linux only the inherited scheduling is supported.
///
/// # Errors
/// `Unsupported` for any other value.
#[cfg(not(target_os = "linux"))]
pub fn schedule_this_thread(scheduling: Scheduling) -> io::Result<()> {
    match scheduling {
        Scheduling::Inherited => Ok(()),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg(all(test, any(target_os = "linux", windows)))]
mod tests {
    use super::*;

    fn on_a_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(body).join().unwrap()
    }

    #[test]
    fn a_thread_runs_where_it_was_put() {
        let core = on_a_thread(|| {
            pin_this_thread(0).unwrap();
            std::thread::yield_now();
            #[cfg(target_os = "linux")]
            return rustix::thread::sched_getcpu();
            // SAFETY: a query without arguments.
            #[cfg(windows)]
            return unsafe { windows_sys::Win32::System::Threading::GetCurrentProcessorNumber() };
        });
        assert_eq!(core, 0);
        for nowhere in [1 << 9, 1 << 20] {
            let refused = on_a_thread(move || pin_this_thread(nowhere)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_nice_value_is_the_threads_own() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let lower = (before + 3).min(19);
        let seen = on_a_thread(move || {
            schedule_this_thread(Scheduling::Nice(lower as i8)).unwrap();
            rustix::process::getpriority_process(None).unwrap()
        });
        assert_eq!((seen, nice()), (lower, before));
    }

    #[test]
    fn a_priority_out_of_range_is_refused() {
        let refused = on_a_thread(|| schedule_this_thread(Scheduling::RealTime(100))).unwrap_err();
        let is_linux = cfg!(target_os = "linux");
        let kind = if is_linux { io::ErrorKind::InvalidInput } else { io::ErrorKind::Unsupported };
        assert_eq!(refused.kind(), kind);
        on_a_thread(|| schedule_this_thread(Scheduling::Inherited)).unwrap();
    }
}
