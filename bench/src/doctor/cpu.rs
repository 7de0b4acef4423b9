//! Cores: their clocks, their idle states, and what else runs on them.
//!
//! Source: Linux `Documentation/admin-guide/pm/`, `ABI/testing/sysfs-devices-system-cpu` and `kernel-parameters.txt`.

use super::Finding;
use super::tree::{Tree, argument, list_len};

const CPU: &str = "/sys/devices/system/cpu";

/// A longer wake time of a core shows in a parked round trip over loopback.
const EXIT_US_MAX: i64 = 10;

pub(super) fn findings(tree: &Tree<'_>) -> Vec<Finding> {
    let all = [governor, turbo, idle_states, isolation, interrupts, smt, numa, quota];
    all.iter().filter_map(|finding| finding(tree)).collect()
}

fn governor(tree: &Tree<'_>) -> Option<Finding> {
    let what = "frequency governor";
    let read = |core: String| tree.line(&format!("{CPU}/{core}/cpufreq/scaling_governor"));
    let mut governors: Vec<String> = tree.cores().into_iter().filter_map(read).collect();
    governors.sort();
    governors.dedup();
    if governors.is_empty() {
        let cost = "firmware or hypervisor choose the clock; it may differ from run to run";
        return Some(Finding::good(what, "none", cost));
    }
    let value = governors.join(", ");
    if value == "performance" {
        return Some(Finding::good(what, value, "the clock stays high"));
    }
    Some(Finding::costly(
        what,
        value,
        "a core that was idle starts slowly: parked latencies grow and vary, often by a half and more",
        "sudo cpupower frequency-set -g performance",
    ))
}

fn turbo(tree: &Tree<'_>) -> Option<Finding> {
    let what = "turbo";
    let intel = "intel_pstate/no_turbo";
    let (is_on, remedy) = match tree.number(&format!("{CPU}/{intel}")) {
        Some(off) => (off == 0, format!("echo 1 | sudo tee {CPU}/{intel}")),
        None => {
            let boost = tree.number(&format!("{CPU}/cpufreq/boost"))?;
            (boost != 0, format!("echo 0 | sudo tee {CPU}/cpufreq/boost"))
        }
    };
    if !is_on {
        return Some(Finding::good(what, "off", "the clock does not depend on the other cores"));
    }
    Some(Finding::minor(
        what,
        "on",
        "the clock depends on heat and on how many cores are busy: runs are less repeatable, though faster",
        remedy,
    ))
}

fn idle_states(tree: &Tree<'_>) -> Option<Finding> {
    let what = "idle states";
    let directory = format!("{CPU}/cpu0/cpuidle");
    let states = tree.names(&directory, "state");
    let deepest = states.iter().filter_map(|state| {
        let read = |file: &str| tree.line(&format!("{directory}/{state}/{file}"));
        let is_enabled = read("disable").is_none_or(|disabled| disabled == "0");
        let exit_us: i64 = read("latency")?.parse().ok()?;
        is_enabled.then(|| (exit_us, read("name").unwrap_or_else(|| state.clone())))
    });
    let Some((exit_us, name)) = deepest.max_by_key(|(exit_us, _)| *exit_us) else {
        let cost = "not visible here; a hypervisor may put the core to sleep all the same";
        return Some(Finding::good(what, "none", cost));
    };
    // Another program may already hold a bound: four bytes in microseconds.
    let bound_us = tree.bytes("/dev/cpu_dma_latency").map(i32::from_ne_bytes).map(i64::from);
    let exit_us = bound_us.map_or(exit_us, |bound| exit_us.min(bound.max(0)));
    let value = format!("{name} and shallower, {exit_us} us to wake");
    if exit_us <= EXIT_US_MAX {
        return Some(Finding::good(what, value, "a core that sleeps wakes soon"));
    }
    Some(Finding::costly(
        what,
        value,
        format!(
            "up to {exit_us} us on every wake-up of a core that was idle; a spinning run does not pay it"
        ),
        format!("sudo cpupower idle-set -D {EXIT_US_MAX}"),
    ))
}

fn isolation(tree: &Tree<'_>) -> Option<Finding> {
    let what = "isolated cores";
    let cores = tree.cores().len();
    let isolated = tree.line(&format!("{CPU}/isolated"));
    let command_line = tree.line("/proc/cmdline").unwrap_or_default();
    let tickless = tree
        .line(&format!("{CPU}/nohz_full"))
        .filter(|list| list_len(list) > 0)
        .or_else(|| argument(&command_line, "nohz_full").map(str::to_owned));
    let callbacks = argument(&command_line, "rcu_nocbs");
    let part = |name: &str, value: Option<&str>| format!("{name} {}", value.unwrap_or("none"));
    let value = [
        part("isolcpus", isolated.as_deref()),
        part("nohz_full", tickless.as_deref()),
        part("rcu_nocbs", callbacks),
    ]
    .join(", ");
    if isolated.is_some() && tickless.is_some() && callbacks.is_some() {
        return Some(Finding::good(what, value, "pin the sides there with --pin"));
    }
    if cores == 0 {
        return None;
    }
    // Two cores for the sides, and at least one for everything else.
    let remedy = if cores < 4 {
        format!("{cores} cores are too few to set two aside; use a machine with four or more")
    } else {
        let list = format!("{}-{}", cores - 2, cores - 1);
        format!(
            "boot with isolcpus={list} nohz_full={list} rcu_nocbs={list}, then use --pin {},{}",
            cores - 2,
            cores - 1
        )
    };
    Some(Finding::minor(
        what,
        value,
        "the scheduler's tick and other programs interrupt a spinning thread: 1 to 10 us each, a time slice of \
         milliseconds if the core is shared; shows from p99.9 on (see `hiccups`)",
        remedy,
    ))
}

fn interrupts(tree: &Tree<'_>) -> Option<Finding> {
    let what = "interrupt affinity";
    let cores = tree.cores().len();
    let lines: Vec<String> = tree
        .names("/proc/irq", "")
        .into_iter()
        .filter(|name| name.parse::<u32>().is_ok())
        .filter_map(|irq| tree.line(&format!("/proc/irq/{irq}/smp_affinity_list")))
        .collect();
    if lines.is_empty() || cores < 2 {
        return None;
    }
    let anywhere = lines.iter().filter(|list| list_len(list) >= cores).count();
    let value = format!("{anywhere} of {} interrupts may go to any core", lines.len());
    if anywhere == 0 {
        return Some(Finding::good(what, value, "each has its cores"));
    }
    Some(Finding::minor(
        what,
        value,
        "an interrupt on a measured core takes 2 to 20 us from it",
        "sudo systemctl stop irqbalance; for i in /proc/irq/[0-9]*; do echo 0 | sudo tee $i/smp_affinity_list; done",
    ))
}

fn smt(tree: &Tree<'_>) -> Option<Finding> {
    let what = "SMT siblings";
    let siblings =
        |core: &String| tree.line(&format!("{CPU}/{core}/topology/thread_siblings_list"));
    let mut pairs: Vec<String> =
        tree.cores().iter().filter_map(siblings).filter(|list| list_len(list) > 1).collect();
    pairs.sort();
    pairs.dedup();
    if pairs.is_empty() {
        return Some(Finding::good(what, "none", "no two cores share units"));
    }
    Some(Finding::minor(
        what,
        pairs.join(" and "),
        "two busy siblings get about 60 % of a core each; pinned to one pair, two sides share caches, which \
         shortens the way between them and flatters the figures",
        "pin the sides to cores of different pairs, or: echo off | sudo tee /sys/devices/system/cpu/smt/control",
    ))
}

fn numa(tree: &Tree<'_>) -> Option<Finding> {
    let what = "NUMA nodes";
    let nodes = list_len(&tree.line("/sys/devices/system/node/online")?);
    if nodes < 2 {
        return Some(Finding::good(
            what,
            nodes.to_string(),
            "memory is equally far from all cores",
        ));
    }
    Some(Finding::minor(
        what,
        nodes.to_string(),
        "memory and cache lines of another node take about twice as long",
        "numactl --cpunodebind=0 --membind=0 zring-bench ...",
    ))
}

fn quota(tree: &Tree<'_>) -> Option<Finding> {
    let what = "CPU quota";
    let line = tree.line("/sys/fs/cgroup/cpu.max")?;
    let (quota, period) = line.split_once(' ')?;
    if quota == "max" {
        return Some(Finding::good(what, "none", "the group is never throttled"));
    }
    let (quota_us, period_us): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    Some(Finding::costly(
        what,
        format!("{:.2} cores", quota_us / period_us),
        format!(
            "when it is used up, all threads stand still for up to {:.0} ms",
            period_us / 1000.0
        ),
        "echo max | sudo tee /sys/fs/cgroup/cpu.max",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tree::made_up;
    use super::super::{Level, examine};
    use super::*;

    fn found(files: &[(&str, &str)], what: &str) -> Option<Finding> {
        let root = made_up::tree(files);
        examine(root.path()).into_iter().find(|finding| finding.what == what)
    }

    fn level(files: &[(&str, &str)], what: &str) -> (Level, String) {
        let finding = found(files, what).unwrap_or_else(|| panic!("no finding on {what}"));
        assert_eq!(finding.remedy.is_none(), finding.level == Level::Good, "{finding:?}");
        (finding.level, finding.value)
    }

    const CORE0: &str = "/sys/devices/system/cpu/cpu0";

    #[test]
    fn governors() {
        let path = format!("{CORE0}/cpufreq/scaling_governor");
        let other = "/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor";
        let what = "frequency governor";
        let files = [(&*path, "performance\n"), (other, "powersave\n")];
        assert_eq!(level(&files, what), (Level::Costly, "performance, powersave".to_owned()));
        assert_eq!(level(&files[..1], what), (Level::Good, "performance".to_owned()));
        assert_eq!(level(&[], what).0, Level::Good);
    }

    #[test]
    fn turbos() {
        let intel = "/sys/devices/system/cpu/intel_pstate/no_turbo";
        let other = "/sys/devices/system/cpu/cpufreq/boost";
        for (path, text, due) in [
            (intel, "0", Level::Minor),
            (intel, "1", Level::Good),
            (other, "1", Level::Minor),
            (other, "0", Level::Good),
        ] {
            assert_eq!(level(&[(path, text)], "turbo").0, due, "{path} {text}");
        }
        assert_eq!(found(&[(intel, "what?")], "turbo"), None);
    }

    #[test]
    fn sleep() {
        let state = |n: u32, file: &str| format!("{CORE0}/cpuidle/state{n}/{file}");
        let (name, latency, disable) = (state(3, "name"), state(3, "latency"), state(3, "disable"));
        let shallow = state(1, "latency");
        let files = [(&*name, "C6"), (&*latency, "133"), (&*disable, "0"), (&*shallow, "2")];
        let (deep, value) = level(&files, "idle states");
        assert!(deep == Level::Costly && value.contains("C6") && value.contains("133 us"));
        let mut off = files;
        off[2].1 = "1";
        assert_eq!(level(&off, "idle states").0, Level::Good);
        // A program holds the wake time at zero.
        let bound = [files[0], files[1], files[2], ("/dev/cpu_dma_latency", "\0\0\0\0")];
        assert_eq!(level(&bound, "idle states").0, Level::Good);
    }

    #[test]
    fn isolations() {
        let cores: Vec<String> =
            (0..8).map(|n| format!("/sys/devices/system/cpu/cpu{n}/online")).collect();
        let mut files: Vec<(&str, &str)> = cores.iter().map(|path| (&**path, "1")).collect();
        let what = "isolated cores";
        let bare = found(&files, what).unwrap();
        assert!(bare.level == Level::Minor && bare.remedy.unwrap().contains("isolcpus=6-7"));
        files.push(("/sys/devices/system/cpu/isolated", "6-7\n"));
        files.push(("/proc/cmdline", "quiet nohz_full=6-7 rcu_nocbs=6-7\n"));
        assert_eq!(level(&files, what).0, Level::Good);
        files.truncate(2);
        assert!(found(&files, what).unwrap().remedy.unwrap().contains("too few"));
    }

    #[test]
    fn who_interrupts() {
        let files = [
            ("/sys/devices/system/cpu/cpu0/online", "1"),
            ("/sys/devices/system/cpu/cpu1/online", "1"),
            ("/proc/irq/24/smp_affinity_list", "0-1"),
            ("/proc/irq/25/smp_affinity_list", "0"),
            ("/proc/irq/default_smp_affinity", "3"),
        ];
        let (some, value) = level(&files, "interrupt affinity");
        assert_eq!((some, &*value), (Level::Minor, "1 of 2 interrupts may go to any core"));
    }

    #[test]
    fn neighbours() {
        let siblings = format!("{CORE0}/topology/thread_siblings_list");
        assert_eq!(level(&[(&siblings, "0,4")], "SMT siblings").0, Level::Minor);
        assert_eq!(level(&[(&siblings, "0")], "SMT siblings").0, Level::Good);
        let nodes = "/sys/devices/system/node/online";
        assert_eq!(level(&[(nodes, "0-1")], "NUMA nodes").0, Level::Minor);
        assert_eq!(level(&[(nodes, "0")], "NUMA nodes").0, Level::Good);
    }

    #[test]
    fn quotas() {
        let path = "/sys/fs/cgroup/cpu.max";
        let limited = level(&[(path, "150000 100000")], "CPU quota");
        assert_eq!(limited, (Level::Costly, "1.50 cores".to_owned()));
        assert_eq!(level(&[(path, "max 100000")], "CPU quota").0, Level::Good);
        assert_eq!(found(&[(path, "nonsense")], "CPU quota"), None);
    }
}
