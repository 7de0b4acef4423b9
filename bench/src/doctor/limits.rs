//! The limits of this process.
//!
//! Source: `getrlimit(2)`, `sched(7)`, `proc_pid_limits(5)`.

use super::Finding;
use super::tree::Tree;

/// Both ends of the thousand connections of a default run of `connections`, and some more.
const FILES: u64 = 4096;

/// Memory for rings and their buffers.
const LOCKED_BYTES: u64 = 8 << 20;

/// The bit of `CAP_SYS_NICE`.
const SYS_NICE: u64 = 1 << 23;

pub(super) fn findings(tree: &Tree<'_>) -> Vec<Finding> {
    let Some(limits) = tree.text("/proc/self/limits") else {
        return Vec::new();
    };
    let all = [files(&limits), locked_memory(&limits), realtime(&limits, tree)];
    all.into_iter().flatten().collect()
}

/// The soft and the hard limit; unlimited is the largest number.
fn limit(limits: &str, name: &str) -> Option<(u64, u64)> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let number = |field: Option<&str>| match field? {
        "unlimited" => Some(u64::MAX),
        field => field.parse().ok(),
    };
    let mut fields = rest.split_whitespace();
    Some((number(fields.next())?, number(fields.next())?))
}

fn shown(limit: u64, unit: &str) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { format!("{limit}{unit}") }
}

fn files(limits: &str) -> Option<Finding> {
    let what = "open files";
    let (soft, hard) = limit(limits, "Max open files")?;
    let value = format!("{} (at most {})", shown(soft, ""), shown(hard, ""));
    // A run raises the soft limit as far as it needs.
    if hard >= FILES {
        return Some(Finding::good(what, value, "enough for some thousand connections"));
    }
    let cost = "runs with more connections than half of that fail";
    Some(Finding::minor(what, value, cost, "raise nofile in /etc/security/limits.conf"))
}

fn locked_memory(limits: &str) -> Option<Finding> {
    let what = "locked memory";
    let (soft, _) = limit(limits, "Max locked memory")?;
    let value = shown(soft / if soft == u64::MAX { 1 } else { 1024 }, " KiB");
    if soft >= LOCKED_BYTES {
        return Some(Finding::good(what, value, "enough for rings and their buffers"));
    }
    Some(Finding::minor(
        what,
        value,
        "io_uring may refuse rings or registered buffers, and zring falls back to readiness",
        "raise memlock in /etc/security/limits.conf, or: ulimit -l unlimited",
    ))
}

fn realtime(limits: &str, tree: &Tree<'_>) -> Option<Finding> {
    let what = "real-time priority";
    let (soft, _) = limit(limits, "Max realtime priority")?;
    let status = tree.text("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if capabilities.is_some_and(|mask| mask & SYS_NICE != 0) {
        return Some(Finding::good(
            what,
            "allowed (CAP_SYS_NICE)",
            "chrt -f 50 zring-bench ... works",
        ));
    }
    if soft > 0 {
        return Some(Finding::good(what, format!("up to {soft}"), "chrt -f works up to that"));
    }
    Some(Finding::minor(
        what,
        "not allowed",
        "a woken thread may have to wait for another one's time slice, up to some ms where cores are shared",
        "sudo chrt -f 50 zring-bench ... (never with --wait spin on all cores), or raise rtprio in /etc/security/limits.conf",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tree::made_up;
    use super::super::{Level, examine};
    use super::*;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 2048                 files
Max locked memory         65536                65536                bytes
Max realtime priority     0                    0
";

    fn levels(limits: &str, status: &str) -> Vec<(&'static str, Level)> {
        let root = made_up::tree(&[("/proc/self/limits", limits), ("/proc/self/status", status)]);
        let ours = ["open files", "locked memory", "real-time priority"];
        let findings = examine(root.path()).into_iter();
        findings
            .filter(|finding| ours.contains(&finding.what))
            .map(|finding| (finding.what, finding.level))
            .collect()
    }

    #[test]
    fn tight() {
        let due = [("open files", Level::Minor), ("locked memory", Level::Minor)];
        let found = levels(LIMITS, "CapEff:\t0000000000000000\n");
        assert_eq!(found[..2], due);
        assert_eq!(found[2], ("real-time priority", Level::Minor));
    }

    #[test]
    fn generous() {
        let limits = LIMITS.replace("2048", "1048576").replace("65536  ", "unlimited");
        let found = levels(&limits, "CapEff:\t000001ffffffffff\n");
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|(_, level)| *level == Level::Good), "{found:?}");
        let with_priority = LIMITS.replace("priority     0 ", "priority     50");
        assert_eq!(levels(&with_priority, "")[2].1, Level::Good);
    }

    #[test]
    fn numbers() {
        assert_eq!(limit(LIMITS, "Max open files"), Some((1024, 2048)));
        assert_eq!(
            limit("Max open files unlimited 5 files", "Max open files"),
            Some((u64::MAX, 5))
        );
        assert_eq!(limit("Max open files some", "Max open files"), None);
        assert_eq!(limit(LIMITS, "Max nothing"), None);
    }
}
