//! CPU time of the calling thread.

use std::time::Duration;

/// CPU time the calling thread has used so far; `None` where the system does not tell.
/// Source: `clock_gettime(2)`, `CLOCK_THREAD_CPUTIME_ID`.
#[cfg(unix)]
pub fn of_this_thread() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// CPU time the calling thread has used so far; `None` where the system does not tell.
#[cfg(not(unix))]
pub fn of_this_thread() -> Option<Duration> {
    None
}

/// CPU time the calling thread has used since `earlier`, an answer of [`of_this_thread`].
pub fn since(earlier: Option<Duration>) -> Option<Duration> {
    Some(of_this_thread()?.saturating_sub(earlier?))
}
