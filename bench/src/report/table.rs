//! Aligned tables for terminals, and figures formatted for readers.

use crate::report::bars::{Scale, bar};
use crate::report::style::Style;
use crate::report::{Outcome, columns};

/// Width of the charts beside a table.
const CHART_COLUMNS: usize = 24;
/// Blanks between a table and its charts.
const GAP: usize = 2;
/// Columns that are never left out.
const COLUMNS_MIN: usize = 4;

/// Rows of text under a header; the first column is left-aligned, the others right-aligned.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles and no rows.
    pub fn new<T: Into<String>>(titles: impl IntoIterator<Item = T>) -> Self {
        Self { rows: vec![titles.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row; cells beyond the last title are dropped.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let columns = self.rows[0].len();
        self.rows.push(cells.into_iter().map(Into::into).take(columns).collect());
    }

    /// The table as lines of text, indented by two spaces.
    pub fn render(&self) -> String {
        self.lines().iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// The lines of the table, all of the same width.
    fn lines(&self) -> Vec<String> {
        let columns = self.rows[0].len();
        let width = |column| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        self.rows.iter().map(|row| render_row(row, &widths)).collect()
    }
}

fn render_row(row: &[String], widths: &[usize]) -> String {
    let mut line = String::from(" ");
    for (column, (cell, &width)) in row.iter().zip(widths).enumerate() {
        let padded =
            if column == 0 { format!(" {cell:<width$}") } else { format!("  {cell:>width$}") };
        line.push_str(&padded);
    }
    line
}

/// The results: one table per cell with a headline and one row per subject. No wider than the style allows, as long as
/// the most important figures fit.
pub fn render(outcomes: &[Outcome], style: Style) -> String {
    let cells: Vec<String> =
        columns::cells(outcomes).map(|cell| render_cell(cell, style)).collect();
    cells.join("\n")
}

fn render_cell(outcomes: &[Outcome], style: Style) -> String {
    let Some(first) = outcomes.first() else {
        return String::new();
    };
    let (chart, legend) = chart(outcomes);
    let mut columns = columns::of(outcomes);
    loop {
        let mut table = Table::new(columns.iter().map(|column| column.title));
        for outcome in outcomes {
            table.row(columns.iter().map(|column| column.cell(outcome).unwrap_or("-".to_owned())));
        }
        let lines = table.lines();
        let width = lines.first().map_or(0, |line| line.chars().count());
        let least = (0..columns.len()).rev().min_by_key(|&index| columns[index].rank);
        if width + GAP + CHART_COLUMNS > style.columns && columns.len() > COLUMNS_MIN {
            columns.remove(least.unwrap_or_default());
            continue;
        }
        let rounds = format!("medians of {} rounds", first.rounds.len());
        let mut text = format!("{}, {rounds}\n\n", style.bold(&columns::headline(first)));
        let charts = std::iter::once(legend.clone()).chain(chart.iter().map(|row| style.bar(row)));
        for (line, chart) in lines.iter().zip(charts) {
            let whole = format!("{line}{}{chart}", " ".repeat(GAP));
            text += whole.trim_end();
            text.push('\n');
        }
        return text;
    }
}

/// A row of characters per outcome, with a legend: the distribution of its latencies on a common scale, or its rate
/// relative to the best one.
fn chart(outcomes: &[Outcome]) -> (Vec<String>, String) {
    let histograms = outcomes.iter().filter_map(|outcome| outcome.latencies.as_ref());
    if let Some(scale) = Scale::over(histograms, CHART_COLUMNS) {
        let line = |outcome: &Outcome| {
            let latencies = outcome.latencies.as_ref();
            latencies.map_or(String::new(), |histogram| scale.sparkline(histogram))
        };
        let (low, high) = scale.ends_ns();
        let (low, high) = (nanoseconds(low as f64), nanoseconds(high as f64));
        let room = CHART_COLUMNS.saturating_sub(low.chars().count());
        return (outcomes.iter().map(line).collect(), format!("{low}{high:>room$}"));
    }
    let best = outcomes.iter().map(|outcome| outcome.messages_per_second).fold(0.0, f64::max);
    let line = |outcome: &Outcome| bar(outcome.messages_per_second / best, CHART_COLUMNS);
    (outcomes.iter().map(line).collect(), String::new())
}

/// A latency in nanoseconds, or `-` if there is none.
pub fn latency_cell(latency_ns: Option<u64>) -> String {
    latency_ns.map_or("-".to_owned(), |ns| nanoseconds(ns as f64))
}

/// A time with three figures and a unit, such as `6.70 us`.
pub fn nanoseconds(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{} ns", three_figures(ns)),
        ns if ns < 1e6 => format!("{} us", three_figures(ns / 1e3)),
        ns if ns < 1e9 => format!("{} ms", three_figures(ns / 1e6)),
        ns => format!("{} s", three_figures(ns / 1e9)),
    }
}

/// A count with three figures and a decimal prefix, such as `52.3 M`; a unit may follow directly.
pub fn amount(count: f64) -> String {
    match count {
        n if n < 1e3 => format!("{} ", three_figures(n)),
        n if n < 1e6 => format!("{} k", three_figures(n / 1e3)),
        n if n < 1e9 => format!("{} M", three_figures(n / 1e6)),
        n => format!("{} G", three_figures(n / 1e9)),
    }
}

fn three_figures(value: f64) -> String {
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{compare_with_floor, samples};
    use crate::workload::throughput::Throughput;

    #[test]
    fn figures() {
        assert_eq!(nanoseconds(987.0), "987 ns");
        assert_eq!(nanoseconds(6_700.0), "6.70 us");
        assert_eq!(nanoseconds(42_125.0), "42.1 us");
        assert_eq!(nanoseconds(1_250_000.0), "1.25 ms");
        assert_eq!(amount(52_340_000.0), "52.3 M");
        assert_eq!(amount(3.35e9) + "B", "3.35 GB");
        assert_eq!(amount(12.0), "12.0 ");
    }

    #[test]
    fn columns_line_up() {
        let mut outcomes = [
            samples::outcome("throughput", "raw", 1000),
            samples::outcome("throughput", "zring", 80),
        ];
        compare_with_floor(&Throughput, &mut outcomes);
        let text = render(&outcomes, Style::plain(140));
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(rows.len(), 3);
        let end_of = |row: &str, cell: &str| row.find(cell).unwrap() + cell.len();
        assert_eq!(end_of(rows[0], "rate/raw"), end_of(rows[2], "0.080"), "{text}");
        assert!(rows[1].ends_with(&"█".repeat(CHART_COLUMNS)), "{text}");
        assert!(rows[2].ends_with("█▉"), "{text}");
    }

    #[test]
    fn roundtrips_show_percentiles() {
        let text = render(&[samples::outcome("roundtrip", "raw", 1000)], Style::plain(140));
        assert!(
            text.contains("6.70 us") && text.contains("1.25 ms") && text.contains("cores 0 and 1"),
            "{text}"
        );
        assert!(text.lines().last().unwrap().contains('█'), "{text}");
    }

    #[test]
    fn narrow_terminals_keep_what_matters() {
        let outcomes = [samples::outcome("roundtrip", "raw", 1000)];
        for columns in [140, 100, 80] {
            let text = render(&outcomes, Style::plain(columns));
            let widest = text.lines().skip(2).map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= columns, "{columns}: {text}");
            assert!(text.contains("subject") && text.contains(" p50") && text.contains(" p99"));
        }
        assert!(!render(&outcomes, Style::plain(80)).contains("bytes/s"));
    }

    #[test]
    fn silence_shows_what_it_costs() {
        let text = render(&[samples::outcome("idle", "zring-bg", 1000)], Style::plain(140));
        assert!(text.contains("100 silent connections") && !text.contains("bodies"), "{text}");
        let row = text.lines().last().unwrap();
        for shown in ["zring-bg", "ready", "0.100%", "1000.0", "32000"] {
            assert!(row.contains(shown), "{text}");
        }
    }

    #[test]
    fn every_cell_has_its_table() {
        let outcomes = [
            samples::outcome("roundtrip", "raw", 1000),
            samples::outcome("roundtrip", "zring", 1000),
            samples::outcome("throughput", "raw", 1000),
        ];
        let text = render(&outcomes, Style::plain(140));
        assert_eq!(text.matches(" over tcp").count(), 2, "{text}");
    }
}
