//! The kernel's switches, its clock, and the machine below it.
//!
//! Source: Linux `Documentation/admin-guide/sysctl/`, `mm/transhuge.rst`, `hw-vuln/`, `proc(5)`.

use super::Finding;
use super::tree::{Tree, chosen};

/// Socket buffer size that large bodies need.
const SOCKET_BYTES: i64 = 4 << 20;

pub(super) fn findings(tree: &Tree<'_>) -> Vec<Finding> {
    let all = [
        virtualisation,
        stolen,
        load,
        clock_source,
        huge_pages,
        io_uring,
        socket_buffers,
        congestion,
        busy_poll,
        timer_slack,
        mitigations,
    ];
    all.iter().filter_map(|finding| finding(tree)).collect()
}

fn virtualisation(tree: &Tree<'_>) -> Option<Finding> {
    let what = "virtualisation";
    let cpuinfo = tree.text("/proc/cpuinfo")?;
    let flags =
        cpuinfo.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"))?;
    if !flags.split_whitespace().any(|flag| flag == "hypervisor") {
        return Some(Finding::good(what, "none", "nothing runs below this system"));
    }
    let name = ["/sys/hypervisor/type", "/sys/class/dmi/id/product_name"];
    let name = name.iter().find_map(|path| tree.line(path));
    Some(Finding::costly(
        what,
        name.map_or("a hypervisor".to_owned(), |name| format!("a hypervisor ({name})")),
        "waking another core leaves the machine: 5 to 50 us more for a parked round trip, and it varies; the host's \
         other guests take time unseen (see `steal`)",
        "measure on bare metal, or use --wait spin and quote ratios only",
    ))
}

/// The fraction of the time since boot that the host took; the current fraction is measured elsewhere.
fn stolen(tree: &Tree<'_>) -> Option<Finding> {
    let what = "steal since boot";
    let percent = Ticks::parse(&tree.line("/proc/stat")?)?.stolen_percent();
    let value = format!("{percent:.2} %");
    if percent < 0.05 {
        return Some(Finding::good(what, value, "the host gave all the time that was asked for"));
    }
    let cost = "the host ran something else while this machine wanted to run; shows in the tail";
    Some(Finding::minor(what, value, cost, "a machine with cores of its own"))
}

/// The times of all cores, summed, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticks {
    /// Time of every kind.
    pub(super) all: u64,
    /// Time in which the host ran something else.
    pub(super) stolen: u64,
}

impl Ticks {
    /// Reads the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal. Later fields are
    /// contained in the first two.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let fields = line.strip_prefix("cpu ")?.split_whitespace();
        let fields: Vec<u64> = fields.map_while(|field| field.parse().ok()).take(8).collect();
        let stolen = *fields.get(7)?;
        Some(Self { all: fields.iter().sum(), stolen })
    }

    pub(super) fn stolen_percent(self) -> f64 {
        self.stolen as f64 * 100.0 / self.all.max(1) as f64
    }
}

fn load(tree: &Tree<'_>) -> Option<Finding> {
    let what = "other programs";
    let line = tree.line("/proc/loadavg")?;
    let minute: f64 = line.split(' ').next()?.parse().ok()?;
    let value = format!("load {minute:.2} over the last minute");
    if minute < 0.3 {
        return Some(Finding::good(what, value, "nothing else runs"));
    }
    // An earlier run of this program counts as well.
    Some(Finding::minor(
        what,
        value,
        "each program that runs takes time slices of milliseconds, caches and memory bandwidth",
        "end them, wait a minute, and look again: uptime",
    ))
}

fn clock_source(tree: &Tree<'_>) -> Option<Finding> {
    let what = "clock source";
    let directory = "/sys/devices/system/clocksource/clocksource0";
    let value = tree.line(&format!("{directory}/current_clocksource"))?;
    let available = tree.line(&format!("{directory}/available_clocksource")).unwrap_or_default();
    match value.as_str() {
        "tsc" | "arch_sys_counter" | "kvm-clock" | "hyperv_clocksource_tsc_page" => {
            Some(Finding::good(what, value, "read without entering the kernel"))
        }
        _ => Some(Finding::costly(
            what,
            format!("{value} (there are {available})"),
            "each reading enters the kernel or a device: 0.2 to 1 us, and there is one for each message of a round trip",
            format!("echo tsc | sudo tee {directory}/current_clocksource"),
        )),
    }
}

fn huge_pages(tree: &Tree<'_>) -> Option<Finding> {
    let what = "transparent huge pages";
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let line = tree.line(path)?;
    let value = chosen(&line)?;
    if value != "always" {
        return Some(Finding::good(
            what,
            value,
            "no program is stopped for pages it did not ask for",
        ));
    }
    Some(Finding::minor(
        what,
        value,
        "the kernel merges pages of running programs now and then: pauses of 10 us to some ms",
        format!("echo madvise | sudo tee {path}"),
    ))
}

fn io_uring(tree: &Tree<'_>) -> Option<Finding> {
    let what = "io_uring switch";
    let cost = "zring falls back to readiness";
    let remedy = "sudo sysctl kernel.io_uring_disabled=0";
    Some(match tree.number("/proc/sys/kernel/io_uring_disabled") {
        Some(0) => {
            Finding::good(what, "enabled", "every process may use it, unless a filter forbids it")
        }
        Some(1) => {
            let group = tree.line("/proc/sys/kernel/io_uring_group").unwrap_or("-1".to_owned());
            let value = format!("restricted to group {group}");
            Finding::minor(what, value, format!("{cost} outside of that group"), remedy)
        }
        Some(_) => Finding::costly(what, "disabled", cost, remedy),
        // The switch exists since 6.6; older kernels have no such file.
        None => return None,
    })
}

fn socket_buffers(tree: &Tree<'_>) -> Option<Finding> {
    let what = "socket buffer limits";
    let largest = |path: &str| -> Option<i64> {
        tree.line(path)?.split_whitespace().next_back()?.parse().ok()
    };
    let tcp_receive = largest("/proc/sys/net/ipv4/tcp_rmem")?;
    let tcp_send = largest("/proc/sys/net/ipv4/tcp_wmem")?;
    let asked = |name: &str| tree.number(&format!("/proc/sys/net/core/{name}"));
    let (receive, send) = (asked("rmem_max")?, asked("wmem_max")?);
    let mib = |bytes: i64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let value = format!(
        "TCP grows to {}/{} MiB, rcvbuf/sndbuf go to {}/{} MiB",
        mib(tcp_receive),
        mib(tcp_send),
        mib(receive),
        mib(send)
    );
    if tcp_receive.min(tcp_send) >= SOCKET_BYTES {
        return Some(Finding::good(what, value, "large enough for large bodies"));
    }
    Some(Finding::minor(
        what,
        value,
        "a sender of large bodies stops and waits more often; no effect on small ones",
        format!(
            "sudo sysctl net.ipv4.tcp_rmem='4096 131072 {SOCKET_BYTES}' net.ipv4.tcp_wmem='4096 65536 {SOCKET_BYTES}'"
        ),
    ))
}

/// Source: <https://datatracker.ietf.org/doc/draft-ietf-ccwg-bbr/>: BBR paces at its estimated rate.
fn congestion(tree: &Tree<'_>) -> Option<Finding> {
    let what = "tcp congestion control";
    let value = tree.line("/proc/sys/net/ipv4/tcp_congestion_control")?;
    if !value.starts_with("bbr") {
        return Some(Finding::good(
            what,
            value,
            "it does not pace, so loopback is as fast as its copies",
        ));
    }
    Some(Finding::minor(
        what,
        value,
        "it paces over loopback as well: a stream of 16 MiB bodies reached 0.6 of what it does with cubic, one of 64 B \
         bodies as much",
        "sudo sysctl net.ipv4.tcp_congestion_control=cubic",
    ))
}

fn busy_poll(tree: &Tree<'_>) -> Option<Finding> {
    let what = "busy polling of network cards";
    let us = tree.number("/proc/sys/net/core/busy_poll")?;
    let value = if us == 0 { "off".to_owned() } else { format!("{us} us") };
    // Irrelevant for loopback and unix sockets, which are measured here.
    Some(Finding::good(what, value, "no matter for loopback; over a wire it saves an interrupt"))
}

fn timer_slack(tree: &Tree<'_>) -> Option<Finding> {
    let what = "timer slack";
    let ns = tree.number("/proc/self/timerslack_ns")?;
    let value = format!("{} us", ns as f64 / 1000.0);
    // A paced sender spins before each message is due, so this value only limits how late its sleeps may end.
    Some(Finding::good(what, value, "a sleep that ends by the clock ends up to this much later"))
}

fn mitigations(tree: &Tree<'_>) -> Option<Finding> {
    let what = "CPU mitigations";
    let directory = "/sys/devices/system/cpu/vulnerabilities";
    let names = tree.names(directory, "");
    if names.is_empty() {
        return None;
    }
    let on: Vec<String> = names
        .into_iter()
        .filter(|name| {
            let state = tree.line(&format!("{directory}/{name}"));
            state.is_some_and(|state| state.starts_with("Mitigation"))
        })
        .collect();
    if on.is_empty() {
        return Some(Finding::good(what, "none", "system calls cost what they must"));
    }
    Some(Finding::minor(
        what,
        on.join(", "),
        "every system call and switch between threads gets longer, by up to a microsecond (see `system call`)",
        "only where nobody else's code runs: boot with mitigations=off",
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

    #[test]
    fn switches() {
        let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let pages = "/sys/kernel/mm/transparent_hugepage/enabled";
        let uring = "/proc/sys/kernel/io_uring_disabled";
        let congestion = "/proc/sys/net/ipv4/tcp_congestion_control";
        let flaw = "/sys/devices/system/cpu/vulnerabilities/meltdown";
        let cpuinfo = "/proc/cpuinfo";
        for (what, path, text, level) in [
            ("clock source", clock, "tsc", Level::Good),
            ("clock source", clock, "hpet", Level::Costly),
            ("transparent huge pages", pages, "[always] madvise never", Level::Minor),
            ("transparent huge pages", pages, "always [madvise] never", Level::Good),
            ("io_uring switch", uring, "0", Level::Good),
            ("io_uring switch", uring, "1", Level::Minor),
            ("io_uring switch", uring, "2", Level::Costly),
            ("tcp congestion control", congestion, "bbr", Level::Minor),
            ("tcp congestion control", congestion, "cubic", Level::Good),
            ("CPU mitigations", flaw, "Mitigation: PTI", Level::Minor),
            ("CPU mitigations", flaw, "Not affected", Level::Good),
            (
                "virtualisation",
                cpuinfo,
                "processor : 0\nflags : fpu hypervisor lm\n",
                Level::Costly,
            ),
            ("virtualisation", cpuinfo, "processor : 0\nflags : fpu lm\n", Level::Good),
            ("steal since boot", "/proc/stat", "cpu  50 0 0 40 0 0 0 10 0 0\n", Level::Minor),
            ("steal since boot", "/proc/stat", "cpu  50 0 0 50 0 0 0 0 9 9\n", Level::Good),
            ("other programs", "/proc/loadavg", "2.50 1.0 0.5 1/200 99", Level::Minor),
            ("other programs", "/proc/loadavg", "0.01 0.0 0.0 1/200 99", Level::Good),
        ] {
            let finding = found(&[(path, text)], what).unwrap_or_else(|| panic!("{what}: {text}"));
            assert_eq!(finding.level, level, "{finding:?}");
            assert_eq!(finding.remedy.is_none(), level == Level::Good, "{finding:?}");
        }
    }

    #[test]
    fn ticks() {
        assert_eq!(Ticks::parse("cpu  1 2 3 4 5 6 7 8 9 10"), Some(Ticks { all: 36, stolen: 8 }));
        assert_eq!(Ticks::parse("cpu0 1 2 3 4 5 6 7 8"), None);
        assert_eq!(Ticks::parse("cpu  1 2 3 4"), None);
    }

    #[test]
    fn buffers() {
        let files = |tcp: &'static str| {
            [
                ("/proc/sys/net/ipv4/tcp_rmem", tcp),
                ("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 4194304"),
                ("/proc/sys/net/core/rmem_max", "212992"),
                ("/proc/sys/net/core/wmem_max", "212992"),
            ]
        };
        let what = "socket buffer limits";
        assert_eq!(found(&files("4096 131072 6291456"), what).unwrap().level, Level::Good);
        assert_eq!(found(&files("4096 65536 131072"), what).unwrap().level, Level::Minor);
        assert_eq!(found(&files("")[..1], what), None);
    }

    #[test]
    fn an_empty_tree_is_no_fault() {
        let findings = examine(made_up::tree(&[]).path());
        assert!(findings.iter().all(|finding| finding.level == Level::Good), "{findings:?}");
    }
}
