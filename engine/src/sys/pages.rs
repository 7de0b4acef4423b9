//! The system's information on pages: limits, huge pages, and the pages that a mapping really got.

use std::{fs, io};

/// The size of huge pages that pools use.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// How many bytes this process may lock (`RLIMIT_MEMLOCK`); `None`: no limit.
#[must_use]
pub fn lock_limit_bytes() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

/// How many explicit huge pages of 2 MiB are free; `None` where the kernel does not support them.
#[must_use]
pub fn free_huge_pages() -> Option<u64> {
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The kernel's setting for transparent huge pages: `always`, `madvise` or `never`; `unknown` where it is not
/// available.
#[must_use]
pub fn transparent_setting() -> String {
    let settings = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    chosen(&settings.unwrap_or_default()).unwrap_or("unknown").to_owned()
}

/// The word in brackets.
fn chosen(settings: &str) -> Option<&str> {
    settings.split_once('[')?.1.split_once(']').map(|(chosen, _)| chosen)
}

/// How much of the mapping around `address` lies on transparent huge pages.
///
/// # Errors
/// When `/proc/self/smaps` cannot be read or does not list the mapping.
pub fn transparent_huge_bytes(address: usize) -> io::Result<u64> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    field_kib(&smaps, address, "AnonHugePages").map(|kib| kib << 10).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "/proc/self/smaps does not know the mapping")
    })
}

/// A field of the mapping around `address`, in KiB.
fn field_kib(smaps: &str, address: usize, name: &str) -> Option<u64> {
    let mut lines = smaps.lines();
    lines.find(|line| range(line).is_some_and(|(from, to)| (from..to).contains(&address)))?;
    let mut fields = lines.take_while(|line| range(line).is_none());
    let value = fields.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The addresses in the first line of an entry: `7f0000000000-7f0000200000 rw-p …`.
fn range(line: &str) -> Option<(usize, usize)> {
    let (from, to) = line.split_whitespace().next()?.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 rw-p 00000000 00:00 0 [heap]
Size:                  8 kB
AnonHugePages:         0 kB
VmFlags: rd wr
7f00-9f00 rw-p 00000000 00:00 0
Size:                  8 kB
AnonHugePages:      4096 kB
VmFlags: rd wr
";

    #[test]
    fn the_mapping_around_an_address_is_found() {
        assert_eq!(field_kib(SMAPS, 0x1000, "AnonHugePages"), Some(0));
        assert_eq!(field_kib(SMAPS, 0x9eff, "AnonHugePages"), Some(4096));
        assert_eq!(field_kib(SMAPS, 0x9f00, "AnonHugePages"), None);
        assert_eq!(field_kib(SMAPS, 0x1000, "Locked"), None, "not that of the next entry either");
        let here = std::ptr::from_ref(SMAPS).addr();
        assert_eq!(transparent_huge_bytes(here).unwrap(), 0, "text lies in no huge page");
        transparent_huge_bytes(0).unwrap_err();
    }

    #[test]
    fn the_setting_is_the_word_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen(""), None);
    }
}
