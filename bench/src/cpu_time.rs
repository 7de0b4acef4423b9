//! CPU time of the process: of both sides, of a library's threads, and of the kernel's workers.

use std::time::Duration;

/// CPU time that all threads of the process have used so far; `None` where the system does not tell.
/// Source: `clock_gettime(2)`, `CLOCK_PROCESS_CPUTIME_ID`.
#[cfg(unix)]
pub fn of_this_process() -> Option<Duration> {
    read(rustix::time::ClockId::ProcessCPUTime)
}

/// CPU time that all threads except the calling one have used so far; `None` where the system does not tell.
#[cfg(unix)]
pub fn of_other_threads() -> Option<Duration> {
    let own = read(rustix::time::ClockId::ThreadCPUTime)?;
    Some(of_this_process()?.saturating_sub(own))
}

#[cfg(unix)]
fn read(clock: rustix::time::ClockId) -> Option<Duration> {
    let time = rustix::time::clock_gettime(clock);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// CPU time that all threads of the process have used so far; `None` where the system does not tell.
#[cfg(not(unix))]
pub fn of_this_process() -> Option<Duration> {
    None
}

/// CPU time that all threads except the calling one have used so far; `None` where the system does not tell.
#[cfg(not(unix))]
pub fn of_other_threads() -> Option<Duration> {
    None
}

/// CPU time that the process has used since `earlier`, a result of [`of_this_process`].
pub fn since(earlier: Option<Duration>) -> Option<Duration> {
    Some(of_this_process()?.saturating_sub(earlier?))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn other_threads_count() {
        let before = of_this_process();
        let others_before = of_other_threads().unwrap();
        let busy = std::thread::spawn(|| {
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(50) {
                std::hint::spin_loop();
            }
        });
        busy.join().unwrap();
        // The thread may have shared its core, and so have got less time than it wanted.
        assert!(since(before).unwrap() > Duration::from_millis(1));
        assert!(of_other_threads().unwrap() - others_before > Duration::from_millis(1));
    }
}
