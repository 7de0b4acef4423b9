//! A kernel that refuses io_uring: a seccomp filter over all threads of this process.

// No safe crate wraps the system call that installs the filter.
#![allow(unsafe_code)]

use std::sync::Once;

/// Environment variable: run the tests as if there were no io_uring.
pub(crate) const NO_URING: &str = "ZRING_NO_URING";

/// Whether the tests of this process are to run without io_uring.
pub(crate) fn hides_io_uring() -> bool {
    std::env::var_os(NO_URING).is_some_and(|value| value == "1")
}

/// Makes `io_uring_setup(2)` fail with EPERM from now on, in every thread of this process and in its children, as the
/// filter of a container runtime does. This cannot be undone.
pub(crate) fn refuse_io_uring() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| install().expect("a seccomp filter"));
}

/// This system has no io_uring to refuse.
#[cfg(not(target_os = "linux"))]
fn install() -> std::io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn install() -> std::io::Result<()> {
    use std::io;

    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let setup = u32::try_from(libc::SYS_io_uring_setup).expect("a small number");
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        // The first word of `struct seccomp_data` is the number of the system call.
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_IF_EQUAL, setup, 0, 1),
        step(ANSWER, refused, 0, 0),
        step(ANSWER, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: steps.len() as _, filter: steps.as_mut_ptr() };
    // SAFETY: all arguments are plain numbers.
    let no_new_privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if no_new_privileges != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the program and its steps outlive the call, which copies them.
    let installed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    match installed {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}
