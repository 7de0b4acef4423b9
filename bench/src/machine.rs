//! The machine that the figures come from.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::doctor::{self, Finding};

/// The machine a report comes from. A field is `None` where the system does not tell.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Operating system, as Rust names it.
    pub os: &'static str,
    /// Processor architecture, as Rust names it.
    pub arch: &'static str,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Processor model.
    pub cpu_model: Option<String>,
    /// Cores this process may use.
    pub cores: Option<usize>,
    /// Main memory.
    pub memory_bytes: Option<u64>,
    /// Frequency governor of the first core.
    pub governor: Option<String>,
    /// `enabled`, `restricted` or `disabled`, as the kernel's switch says; a seccomp filter may still refuse it.
    pub io_uring: Option<&'static str>,
    /// Version of zring measured.
    pub zring_version: &'static str,
    /// Properties that spoil latency here; see [`crate::doctor`].
    pub findings: Vec<Finding>,
    /// When the report was made, RFC 3339 in UTC.
    pub date: String,
}

impl Machine {
    /// Queries the system; cheap, because it only reads a few small files.
    pub fn probe() -> Self {
        Self {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            kernel: line("/proc/sys/kernel/osrelease"),
            cpu_model: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().ok().map(std::num::NonZero::get),
            memory_bytes: field("/proc/meminfo", "MemTotal").as_deref().and_then(kibibytes),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            io_uring: line("/proc/sys/kernel/io_uring_disabled")
                .as_deref()
                .and_then(io_uring_switch),
            zring_version: env!("CARGO_PKG_VERSION"),
            findings: doctor::examine_this_machine(),
            date: now_rfc3339(),
        }
    }
}

/// The text of a file in which Linux describes itself; `None` if it cannot be read, and on other systems.
pub(crate) fn told_by_linux(path: &str) -> Option<String> {
    if cfg!(target_os = "linux") { fs::read_to_string(path).ok() } else { None }
}

fn line(path: &str) -> Option<String> {
    let text = told_by_linux(path)?;
    Some(text.lines().next()?.trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = told_by_linux(path)?;
    let (_, value) =
        text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Source: Linux `Documentation/admin-guide/sysctl/kernel.rst`, `io_uring_disabled`.
fn io_uring_switch(text: &str) -> Option<&'static str> {
    match text {
        "0" => Some("enabled"),
        "1" => Some("restricted"),
        "2" => Some("disabled"),
        _ => None,
    }
}

fn now_rfc3339() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(since_epoch.as_secs())
}

fn rfc3339(unix_seconds: u64) -> String {
    let (year, month, day) = civil_date(unix_seconds / 86_400);
    let second = unix_seconds % 86_400;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day counted from 1970-01-01. Iterates over the years, because it is called once per report.
fn civil_date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for month_days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < month_days {
            break;
        }
        days -= month_days;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(rfc3339(1_735_689_600), "2025-01-01T00:00:00Z");
    }

    #[test]
    fn memory_and_switch() {
        assert_eq!(kibibytes("16 kB"), Some(16_384));
        assert_eq!(kibibytes("16"), None);
        assert_eq!(io_uring_switch("2"), Some("disabled"));
        assert_eq!(io_uring_switch("x"), None);
    }
}
