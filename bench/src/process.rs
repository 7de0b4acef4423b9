//! The system's data about this process: how often its threads sleep, its memory, its limit on open files.
//!
//! Source: `proc(5)`, `/proc/PID/task/TID/status` and `/proc/PID/smaps_rollup`; `getrlimit(2)`.

use std::collections::HashMap;
use std::fs;

#[cfg(unix)]
use crate::error::Failure;
use crate::error::Result;
use crate::machine::told_by_linux;

/// Descriptors other than those of connections: standard streams, rings, pollers, eventfds, listeners, the report.
#[cfg(unix)]
const SPARE_DESCRIPTORS: u64 = 64;

/// How often each thread except the calling one gave up its core to wait.
#[derive(Clone, Debug)]
pub struct VoluntarySwitches {
    by_thread: HashMap<String, u64>,
}

impl VoluntarySwitches {
    /// Queries the system; `None` where it does not tell.
    pub fn of_other_threads() -> Option<Self> {
        let own = fs::read_link("/proc/thread-self").ok()?;
        let mut by_thread = HashMap::new();
        for task in fs::read_dir("/proc/self/task").ok()? {
            let id = task.ok()?.file_name();
            if Some(id.as_os_str()) == own.file_name() {
                continue;
            }
            let id = id.into_string().ok()?;
            // A thread that has ended meanwhile has no data.
            if let Some(switches) = switches(&id) {
                by_thread.insert(id, switches);
            }
        }
        Some(Self { by_thread })
    }

    /// The number of switches since `earlier`, summed over all threads.
    pub fn since(&self, earlier: &Self) -> u64 {
        let then = |id| earlier.by_thread.get(id).copied().unwrap_or_default();
        self.by_thread.iter().map(|(id, now)| now.saturating_sub(then(id))).sum()
    }
}

fn switches(id: &str) -> Option<u64> {
    let status = told_by_linux(&format!("/proc/self/task/{id}/status"))?;
    field(&status, "voluntary_ctxt_switches")?.parse().ok()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
}

/// Exact resident memory of the process; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    let text = told_by_linux("/proc/self/smaps_rollup")?;
    let kibibytes: u64 = field(&text, "Rss")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Peak of the resident memory, over the whole life of the process or since [`reset_peak`]; `None` where the system
/// does not tell. The kernel counts in batches, so the peak may be off by some 100 KiB.
pub fn peak_bytes() -> Option<u64> {
    let text = told_by_linux("/proc/self/status")?;
    let kibibytes: u64 = field(&text, "VmHWM")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Restarts [`peak_bytes`] from the current resident memory; does nothing where the system does not support that.
pub fn reset_peak() {
    // Source: proc_pid_clear_refs(5).
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Ensures that `connections` connections with both ends in this process can be open: raises the soft limit of
/// descriptors as far as needed.
///
/// # Errors
/// [`Failure::Setup`] if the hard limit is below that.
#[cfg(unix)]
pub fn allow_connections(connections: u32) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = 2 * u64::from(connections) + SPARE_DESCRIPTORS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` means unlimited.
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(maximum) = maximum.filter(|&maximum| maximum < needed) {
        return Err(Failure::Setup(format!(
            "{connections} connections take {needed} descriptors, this process may have {maximum} \
             (ulimit -Hn)"
        )));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).map_err(|error| {
        Failure::Setup(format!("the limit of descriptors cannot be raised to {needed}: {error}"))
    })
}

/// Does nothing: this system has no such limit.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn allow_connections(_connections: u32) -> Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError, mpsc};
    use std::time::Duration;

    #[test]
    fn a_thread_that_waits_is_seen_to() {
        let (question, questions) = mpsc::channel::<()>();
        let (answer, answers) = mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            while questions.recv().is_ok() {
                answer.send(()).unwrap();
            }
        });
        let before = VoluntarySwitches::of_other_threads().unwrap();
        for _ in 0..100 {
            question.send(()).unwrap();
            answers.recv().unwrap();
            std::thread::sleep(Duration::from_micros(100));
        }
        let switches = VoluntarySwitches::of_other_threads().unwrap().since(&before);
        assert!(switches >= 50, "{switches}");
        drop(question);
        other.join().unwrap();
    }

    /// Tests that take and free much memory would see each other's.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn memory_in_use_is_resident() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = resident_bytes().unwrap();
        let block = vec![1_u8; 32 << 20];
        let after = resident_bytes().unwrap();
        // Other tests may free memory meanwhile.
        assert!(after >= before + (16 << 20), "{before} bytes, then {after} ({})", block[1]);
    }

    #[test]
    fn a_peak_stays() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let block = vec![1_u8; 48 << 20];
        let with = resident_bytes().unwrap();
        drop(std::hint::black_box(block));
        // The kernel counts in batches.
        assert!(peak_bytes().unwrap() + (2 << 20) >= with);
    }

    #[test]
    fn limits() {
        assert!(allow_connections(10).is_ok());
        let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        if hard.is_some_and(|hard| hard < u32::MAX.into()) {
            let failure = allow_connections(u32::MAX).unwrap_err().to_string();
            assert!(failure.contains("ulimit"), "{failure}");
        }
    }
}
