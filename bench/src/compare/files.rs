//! Two reports from different times. Absolute figures of different hours do not show a change. So only the ratios to
//! the floor are compared, round by round, and rows without the floor are refused.

use std::path::PathBuf;

use clap::Args;

use super::record::{Entry, Record};
use super::statistics::Sampling;
use super::{About, Figure, Row};
use crate::error::{Failure, Result};
use crate::subject::FLOOR;

/// Options of `compare`.
#[derive(Clone, Debug, Args)]
pub struct Compare {
    /// JSON report to compare with
    #[arg(value_name = "OLD.json")]
    pub old: PathBuf,

    /// JSON report to judge
    #[arg(value_name = "NEW.json")]
    pub new: PathBuf,

    /// Changes below this are none
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = super::builds::parse_percent)]
    pub threshold: f64,
}

/// The rows that can be compared, and the reasons why others cannot.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The rows of both reports, in the order of the new one.
    pub rows: Vec<Row>,
    /// Reasons for missing rows and doubts about the comparison.
    pub notes: Vec<String>,
}

/// Compares two files.
///
/// # Errors
/// [`Failure::Setup`] if a file is no report, or if no row can be compared.
pub fn compare(options: &Compare) -> Result<Compared> {
    let (old, new) = (Record::read(&options.old)?, Record::read(&options.new)?);
    let compared = compare_records(&old, &new, options.threshold);
    if compared.rows.is_empty() {
        let why = compared.notes.join("; ");
        return Err(Failure::Setup(format!("there is nothing to compare: {why}")));
    }
    Ok(compared)
}

/// Compares two reports.
pub fn compare_records(old: &Record, new: &Record, threshold: f64) -> Compared {
    let mut notes = Vec::new();
    if old.machine != new.machine {
        notes.push("the reports come from different machines or kernels".to_owned());
    }
    let mut rows = Vec::new();
    for entry in new.results.iter().filter(|entry| entry.subject != FLOOR) {
        match compare_entry(old, new, entry, threshold) {
            Ok(row) => rows.push(row),
            Err(why) => {
                notes.push(format!("{}: {} is not compared: {why}", entry.cell(), entry.subject));
            }
        }
    }
    Compared { rows, notes }
}

fn compare_entry(
    old: &Record,
    new: &Record,
    entry: &Entry,
    threshold: f64,
) -> std::result::Result<Row, String> {
    let cell = entry.cell();
    let before = find(old, &cell, &entry.subject).ok_or("the old report has no such row")?;
    let figure = entry.decisive();
    let new = relative(new, entry, figure).ok_or("raw did not run beside it in the new report")?;
    let old = relative(old, before, figure).ok_or("raw did not run beside it in the old report")?;
    let about = About {
        cell: &cell,
        subject: &entry.subject,
        figure,
        is_decisive: true,
        sampling: Sampling::Apart,
        threshold,
    };
    Ok(Row::new(about, &old, &new))
}

fn find<'a>(record: &'a Record, cell: &str, subject: &str) -> Option<&'a Entry> {
    record.results.iter().find(|entry| entry.subject == subject && entry.cell() == cell)
}

/// Each round's figure divided by the floor's in the same round; `None` if the floor has another number of rounds.
fn relative(record: &Record, entry: &Entry, figure: Figure) -> Option<Vec<f64>> {
    let floor = find(record, &entry.cell(), FLOOR)?.figure_by_round(figure);
    let own = entry.figure_by_round(figure);
    let is_whole = !own.is_empty() && own.len() == floor.len();
    is_whole.then(|| own.iter().zip(floor).map(|(own, floor)| own / floor).collect())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    /// A report of rounds around these latencies, as JSON.
    fn report(subjects: &[(&str, f64)]) -> Record {
        let result = |(subject, p50): &(&str, f64)| {
            let rounds: Vec<_> = (0..10)
                .map(
                    |n| serde_json::json!({"p50": (p50 * (1.0 + 0.002 * f64::from(n % 3))) as u64}),
                )
                .collect();
            serde_json::json!({
                "workload": "roundtrip", "subject": subject, "transport": "tcp", "size_bytes": 64,
                "wait": "spin", "compares": "p50/raw", "latency_ns": {"p50": *p50 as u64},
                "rounds": [], "rounds_latency_ns": rounds,
            })
        };
        let results: Vec<_> = subjects.iter().map(result).collect();
        Record::parse(&serde_json::json!({ "results": results }).to_string()).unwrap()
    }

    #[test]
    fn a_slower_machine_is_no_change() {
        let old = report(&[("raw", 5_000.0), ("zring", 7_000.0)]);
        let new = report(&[("raw", 10_000.0), ("zring", 14_000.0)]);
        let Compared { rows, notes } = compare_records(&old, &new, 0.0);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].verdict, Verdict::NoChange, "{rows:?}");
        assert!((rows[0].new - 1.4).abs() < 0.01 && notes.is_empty(), "{rows:?} {notes:?}");
    }

    #[test]
    fn a_slower_subject_is_one() {
        let old = report(&[("raw", 5_000.0), ("zring", 7_000.0)]);
        let new = report(&[("raw", 5_000.0), ("zring", 7_700.0)]);
        let slower = |threshold| compare_records(&old, &new, threshold).rows[0].verdict;
        assert_eq!(slower(0.0), Verdict::Slower);
        assert_eq!(slower(0.2), Verdict::NoChange);
    }

    #[test]
    fn rows_without_the_floor_are_refused() {
        let with = report(&[("raw", 5_000.0), ("zring", 7_000.0)]);
        let without = report(&[("zring", 7_000.0)]);
        for (old, new, which) in [(&without, &with, "old"), (&with, &without, "new")] {
            let Compared { rows, notes } = compare_records(old, new, 0.0);
            assert!(
                rows.is_empty()
                    && notes[0].contains(&format!("raw did not run beside it in the {which}")),
                "{notes:?}"
            );
        }
        let other = report(&[("raw", 5_000.0), ("omq", 7_000.0)]);
        assert!(compare_records(&with, &other, 0.0).notes[0].contains("no such row"));
    }
}
