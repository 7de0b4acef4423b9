//! Signal masks of the engine's own threads.

use std::io;
use std::mem::MaybeUninit;

/// Blocks every signal on the calling thread, so that the program's handlers run on its own threads.
///
/// Called first thing on each thread the engine starts, never on a thread of the user's. Faults the thread
/// itself raises (`SIGSEGV`, `SIGBUS`, …) still end the process.
///
/// # Errors
/// None is known; the result of `pthread_sigmask(3)` is passed on.
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

#[cfg(test)]
mod tests {
    use super::*;

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
