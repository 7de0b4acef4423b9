//! Two builds of this program in turn: round by round, each in a process of its own, in the order old new, new old.
//!
//! A disturbance that lasts longer than a round affects both builds. Because each round is a process of its own,
//! anything that chance decides once per process (memory addresses, port numbers) becomes part of the noise and not of
//! the result.

use std::env::consts::EXE_SUFFIX;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use tempfile::TempDir;

use super::record::{Entry, Record};
use super::statistics::Sampling;
use super::{About, Figure, Row};
use crate::error::{Failure, Result};

/// How many lines of a failed child's output are shown.
const LINES_MAX: usize = 5;

/// Two builds, copied to paths of the same length, because the length of a program's path shifts its stack. The copies
/// also keep a build that runs meanwhile from changing the measured program.
#[derive(Debug)]
pub struct Builds {
    _directory: TempDir,
    old: PathBuf,
    new: PathBuf,
}

/// One of the two builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The reference build.
    Old,
    /// This build.
    New,
}

/// The results of each side, round by round.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    old: Vec<Entry>,
    new: Vec<Entry>,
}

impl Builds {
    /// Copies of `old` and of this program.
    ///
    /// # Errors
    /// [`Failure::Setup`] if a program cannot be read or copied.
    pub fn new(old: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("zring-bench-builds-").tempdir()?;
        let new = std::env::current_exe()?;
        let place = |name: &str| directory.path().join(format!("{name}{EXE_SUFFIX}"));
        let (old_copy, new_copy) = (place("a"), place("b"));
        for (from, to) in [(old, &old_copy), (&new, &new_copy)] {
            let copied = fs::copy(from, to).and_then(|_| make_runnable(to));
            copied.map_err(|error| {
                Failure::Setup(format!("{} cannot be copied: {error}", from.display()))
            })?;
        }
        Ok(Self { _directory: directory, old: old_copy, new: new_copy })
    }

    /// Runs one round of one side with these arguments.
    ///
    /// # Errors
    /// [`Failure::Setup`] if the program cannot be started, fails, or does not report exactly one row.
    pub fn run(&self, side: Side, arguments: &[String]) -> Result<Entry> {
        let (path, name) = match side {
            Side::Old => (&self.old, "the old build"),
            Side::New => (&self.new, "the new build"),
        };
        let failed = |why: String| Failure::Setup(format!("{name} failed: {why}"));
        let output = Command::new(path)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(format!("{error} (TMPDIR must allow programs)")))?;
        if !output.status.success() {
            let messages = String::from_utf8_lossy(&output.stderr);
            let first: Vec<&str> = messages.lines().take(LINES_MAX).collect();
            return Err(failed(format!("{}: {}", output.status, first.join("; "))));
        }
        let record = Record::parse(&String::from_utf8_lossy(&output.stdout))?;
        let mut results = record.results.into_iter();
        match (results.next(), results.next()) {
            (Some(entry), None) => Ok(entry),
            _ => Err(failed("it did not report one row".to_owned())),
        }
    }
}

impl Pairs {
    /// The order of the sides in a round. It alternates, so that no side always runs right after the other.
    pub fn order(round: usize) -> [Side; 2] {
        match round.is_multiple_of(2) {
            true => [Side::Old, Side::New],
            false => [Side::New, Side::Old],
        }
    }

    /// Adds a round of one side.
    pub fn push(&mut self, side: Side, entry: Entry) {
        match side {
            Side::Old => self.old.push(entry),
            Side::New => self.new.push(entry),
        }
    }

    /// The verdicts on each figure that both sides measured; empty before the first round.
    pub fn rows(&self, threshold: f64) -> Vec<Row> {
        let Some(first) = self.new.first() else {
            return Vec::new();
        };
        let decisive = first.decisive();
        let cell = first.cell();
        let row = |figure: Figure| {
            let values = |entries: &[Entry]| -> Option<Vec<f64>> {
                entries.iter().map(|entry| entry.figure(figure)).collect()
            };
            let about = About {
                cell: &cell,
                subject: &first.subject,
                figure,
                is_decisive: figure == decisive,
                sampling: Sampling::Alternating,
                threshold,
            };
            Some(Row::new(about, &values(&self.old)?, &values(&self.new)?))
        };
        Figure::ALL.into_iter().filter_map(row).collect()
    }
}

#[cfg(unix)]
fn make_runnable(program: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(program, fs::Permissions::from_mode(0o755))
}

/// On this system the file name makes a program runnable.
#[cfg(not(unix))]
fn make_runnable(_program: &Path) -> io::Result<()> {
    Ok(())
}

/// A percentage as a fraction.
///
/// # Errors
/// A sentence for the command line.
pub(crate) fn parse_percent(text: &str) -> std::result::Result<f64, String> {
    let percent: f64 = text
        .trim_end_matches('%')
        .trim_end()
        .parse()
        .map_err(|_| format!("`{text}` is not a percentage"))?;
    match (0.0..=1000.0).contains(&percent) {
        true => Ok(percent / 100.0),
        false => Err("a percentage from 0 to 1000 is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn entry(p50: u64) -> Entry {
        let text = serde_json::json!({
            "workload": "roundtrip", "subject": "zring", "transport": "tcp", "size_bytes": 64, "wait": "spin",
            "compares": "p50/raw", "latency_ns": {"p50": p50, "p99": p50 * 2}, "messages_per_second": 1e9 / p50 as f64,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn the_order_is_abba() {
        let order: Vec<Side> = (0..4).flat_map(Pairs::order).collect();
        assert_eq!(order[..4], [Side::Old, Side::New, Side::New, Side::Old]);
        assert_eq!(order[4..], order[..4]);
    }

    #[test]
    fn figures_that_were_measured_have_rows() {
        let mut pairs = Pairs::default();
        assert!(pairs.rows(0.0).is_empty());
        for round in 0..8 {
            pairs.push(Side::Old, entry(7_000 + round));
            pairs.push(Side::New, entry(8_000 + round));
        }
        let rows = pairs.rows(0.0);
        let told: Vec<_> =
            rows.iter().map(|row| (row.figure, row.is_decisive, row.verdict)).collect();
        let slower = Verdict::Slower;
        assert_eq!(
            told,
            [
                (Figure::P50, true, slower),
                (Figure::P99, false, slower),
                (Figure::Rate, false, slower)
            ]
        );
    }

    #[test]
    fn percentages() {
        assert_eq!(parse_percent("5"), Ok(0.05));
        assert_eq!(parse_percent("2.5 %"), Ok(0.025));
        for text in ["", "x", "-1", "NaN", "1001"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let failure = Builds::new(Path::new("/nowhere/zring-bench")).unwrap_err().to_string();
        assert!(failure.contains("/nowhere/zring-bench"), "{failure}");
    }
}
