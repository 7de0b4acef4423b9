//! Signal masks of the engine's own threads.

use std::io;
#[cfg(unix)]
use std::mem::MaybeUninit;

/// Blocks every signal on the calling thread, so that the program's handlers run on its own threads.
///
/// Called first on each thread that the engine starts, never on a thread of the user's. Faults of the thread itself
/// (`SIGSEGV`, `SIGBUS`, …) still end the process.
///
/// # Errors
/// None is known; the result of `pthread_sigmask(3)` is passed on.
#[cfg(unix)]
pub fn block_all_on_this_thread() -> io::Result<()> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` writes the whole set it is given and cannot fail on a valid pointer.
    let all = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        all.assume_init()
    };
    // SAFETY: `all` is an initialised set; a null old set means that nothing is written back.
    let code =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut()) };
    if code == 0 {
        Ok(())
    } else {
        // pthread calls return the error instead of setting errno.
        Err(io::Error::from_raw_os_error(code))
    }
}

/// Does nothing: Windows has no signals, and its control events arrive on a thread of their own.
///
/// # Errors
/// None.
#[cfg(windows)]
pub fn block_all_on_this_thread() -> io::Result<()> {
    Ok(())
}

/// Makes a call that may raise SIGPIPE on the calling thread, and removes the signal if `has_raised` returns true. A
/// SIGPIPE that was pending before stays. Costs two system calls.
#[cfg(target_os = "linux")]
pub(crate) fn without_sigpipe<T>(
    call: impl FnOnce() -> T,
    has_raised: impl FnOnce(&T) -> bool,
) -> T {
    let pipe = just_sigpipe();
    let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `pipe` is an initialised set; the call writes the whole old mask, and cannot fail on valid arguments.
    let mask = unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, mask.as_mut_ptr());
        mask.assume_init()
    };
    // SAFETY: `mask` is an initialised set.
    let was_blocked = unsafe { libc::sigismember(&raw const mask, libc::SIGPIPE) } == 1;
    // Only a blocked signal can be pending.
    let was_pending = was_blocked && is_sigpipe_pending();
    let outcome = call();
    if has_raised(&outcome) && !was_pending {
        let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: reads the set and the time, both initialised; a null pointer means that nothing is written.
        unsafe { libc::sigtimedwait(&raw const pipe, std::ptr::null_mut(), &raw const no_time) };
    }
    if !was_blocked {
        // SAFETY: `mask` is the thread's own mask from above; nothing is written back.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        }
    }
    outcome
}

#[cfg(target_os = "linux")]
fn just_sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` writes the whole set; the signal's number is a valid one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

#[cfg(target_os = "linux")]
fn is_sigpipe_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the call writes into `pending`, which is a valid set in any case.
    unsafe {
        libc::sigpending(pending.as_mut_ptr());
        libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Writes into a pipe without a reader, which raises SIGPIPE.
    #[cfg(target_os = "linux")]
    fn write_to_nobody() -> isize {
        let mut ends = [0; 2];
        // SAFETY: both descriptors are this function's own; the written byte outlives the call.
        unsafe {
            assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
            libc::close(ends[0]);
            let written = libc::write(ends[1], [0u8].as_ptr().cast(), 1);
            libc::close(ends[1]);
            written
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn sigpipe_is_taken_away_and_one_that_waited_is_not() {
        std::thread::spawn(|| {
            let pipe = just_sigpipe();
            for waits in [false, true, false] {
                // SAFETY: an initialised set; nothing is written back. The signal goes to this thread alone.
                unsafe {
                    libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, std::ptr::null_mut());
                    if waits {
                        libc::pthread_kill(libc::pthread_self(), libc::SIGPIPE);
                    }
                }
                assert_eq!(without_sigpipe(write_to_nobody, |written| *written < 0), -1);
                assert_eq!(is_sigpipe_pending(), waits);
                let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                // SAFETY: as in `without_sigpipe`.
                unsafe {
                    libc::sigtimedwait(&raw const pipe, std::ptr::null_mut(), &raw const no_time);
                }
            }
            // A blocked signal stays pending even if the process ignores it. So look at this thread's mask, not at the
            // handler.
            // SAFETY: as above.
            unsafe {
                libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const pipe, std::ptr::null_mut());
            }
            assert_eq!(without_sigpipe(write_to_nobody, |written| *written < 0), -1);
            let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
            // SAFETY: as in the test below.
            let blocked = unsafe {
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr());
                libc::sigismember(mask.as_ptr(), libc::SIGPIPE)
            };
            assert_eq!(blocked, 0, "the mask is as it was");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_mask_holds_every_ordinary_signal() {
        std::thread::spawn(|| {
            block_all_on_this_thread().unwrap();
            let mut now = MaybeUninit::<libc::sigset_t>::zeroed();
            // SAFETY: with a null new set the call only writes the current mask into `now`.
            let member = unsafe {
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), now.as_mut_ptr());
                libc::sigismember(now.as_ptr(), libc::SIGTERM)
            };
            assert_eq!(member, 1);
        })
        .join()
        .unwrap();
    }
}
