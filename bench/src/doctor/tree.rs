//! Small files below a root directory.

use std::fs;
use std::path::{Path, PathBuf};

/// Reads files below a root; a missing or unreadable path gives `None`.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    root: &'a Path,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The whole text.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    /// The first bytes of a binary file.
    pub(super) fn bytes<const N: usize>(&self, path: &str) -> Option<[u8; N]> {
        let mut file = fs::File::open(self.path(path)).ok()?;
        let mut bytes = [0; N];
        std::io::Read::read_exact(&mut file, &mut bytes).ok()?;
        Some(bytes)
    }

    /// The first line, trimmed; `None` if it is empty.
    pub(super) fn line(&self, path: &str) -> Option<String> {
        let line = self.text(path)?.lines().next()?.trim().to_owned();
        (!line.is_empty()).then_some(line)
    }

    /// The first line as a number.
    pub(super) fn number(&self, path: &str) -> Option<i64> {
        self.line(path)?.parse().ok()
    }

    /// Names in a directory that start with `prefix`, in order.
    pub(super) fn names(&self, path: &str, prefix: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else {
            return Vec::new();
        };
        let name =
            |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
        let mut names: Vec<String> =
            entries.filter_map(name).filter(|name| name.starts_with(prefix)).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }

    /// Names of the directories of cores: `cpu0`, `cpu1` and so on.
    pub(super) fn cores(&self) -> Vec<String> {
        let mut names = self.names("/sys/devices/system/cpu", "cpu");
        names.retain(|name| name["cpu".len()..].parse::<usize>().is_ok());
        names
    }
}

/// How many numbers a list such as `0-3,8` contains.
pub(super) fn list_len(list: &str) -> usize {
    let one = |part: &str| match part.trim().split_once('-') {
        Some((first, last)) => match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last => last - first + 1,
            _ => 0,
        },
        None => usize::from(part.trim().parse::<usize>().is_ok()),
    };
    list.split(',').map(one).sum()
}

/// The word in brackets, as in `always [madvise] never`.
pub(super) fn chosen(line: &str) -> Option<&str> {
    line.split_once('[')?.1.split_once(']').map(|(word, _)| word)
}

/// The value of a word `name=value` of the kernel's command line.
pub(super) fn argument<'t>(command_line: &'t str, name: &str) -> Option<&'t str> {
    command_line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
pub(super) mod made_up {
    use super::*;

    /// A directory with these files.
    pub(in crate::doctor) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_words() {
        for (list, len) in [("", 0), ("0", 1), ("0-3,8", 5), ("3-1", 0), ("x", 0), ("0-1,4-5", 4)] {
            assert_eq!(list_len(list), len, "{list}");
        }
        assert_eq!(chosen("always [madvise] never"), Some("madvise"));
        assert_eq!(chosen("always"), None);
        assert_eq!(argument("ro rcu_nocbs=1-3 quiet", "rcu_nocbs"), Some("1-3"));
        assert_eq!(argument("ro quiet", "rcu_nocbs"), None);
    }

    #[test]
    fn reads_below_its_root() {
        let root = made_up::tree(&[
            ("/a/b", " 12 \nmore\n"),
            ("/a/empty", ""),
            ("/sys/devices/system/cpu/cpu10/x", ""),
            ("/sys/devices/system/cpu/cpu2/x", ""),
            ("/sys/devices/system/cpu/cpufreq/x", ""),
        ]);
        let tree = Tree::new(root.path());
        assert_eq!(tree.number("/a/b"), Some(12));
        assert_eq!(tree.bytes::<4>("/a/b"), Some(*b" 12 "));
        assert_eq!((tree.line("/a/empty"), tree.line("/none")), (None, None));
        assert_eq!(tree.cores(), ["cpu2", "cpu10"]);
    }
}
