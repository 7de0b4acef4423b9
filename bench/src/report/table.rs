//! Aligned tables for terminals, and figures as people read them.

use crate::report::Outcome;
use crate::size;
use crate::stats::spread;

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
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// The results of one run: what was measured, and a row per subject.
pub fn render(outcomes: &[Outcome]) -> String {
    let Some(first) = outcomes.first() else {
        return String::new();
    };
    let mut table = Table::new(titles(first));
    for outcome in outcomes {
        table.row(cells(outcome));
    }
    format!("{}\n\n{}", headline(first), table.render())
}

fn headline(outcome: &Outcome) -> String {
    let pinned = outcome.pin.map_or("not pinned".to_owned(), |[a, b]| format!("cores {a} and {b}"));
    let bodies = outcome.size_bytes.map(|bytes| format!("{} bodies, ", size::display(bytes)));
    let silent = outcome.connections.map(|count| format!("{count} silent connections, "));
    format!(
        "{} over {}, {}{}{}, {pinned}, medians of {} rounds",
        outcome.workload,
        outcome.transport,
        bodies.unwrap_or_default(),
        silent.unwrap_or_default(),
        outcome.wait,
        outcome.rounds.len(),
    )
}

fn titles(outcome: &Outcome) -> Vec<&'static str> {
    if outcome.size_bytes.is_none() {
        return vec!["subject", "driver", "cpu", "wake-ups/s", "bytes/connection"];
    }
    if outcome.latency_ns.p50.is_some() {
        return vec![
            "subject", "driver", "p50", "p90", "p99", "p99.9", "max", "trips/s", "spread",
            "cpu/trip", "p50/raw",
        ];
    }
    vec!["subject", "driver", "messages/s", "bytes/s", "spread", "cpu/message", "rate/raw"]
}

fn cells(outcome: &Outcome) -> Vec<String> {
    let mut cells = vec![outcome.subject.to_owned(), outcome.driver.unwrap_or("-").to_owned()];
    if outcome.size_bytes.is_none() {
        cells.extend(idle_cells(outcome));
        return cells;
    }
    let latency = &outcome.latency_ns;
    if latency.p50.is_some() {
        let percentiles = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max];
        cells.extend(percentiles.map(latency_cell));
        cells.push(amount(outcome.messages_per_second));
    } else {
        cells.push(amount(outcome.messages_per_second));
        cells.push(amount(outcome.bytes_per_second) + "B");
    }
    cells.push(cell(spread(&outcome.rounds), |part| format!("{:.0}%", part * 100.0)));
    cells.push(cell(outcome.cpu_seconds_per_million, |seconds| nanoseconds(seconds * 1000.0)));
    cells.push(cell(outcome.ratio_to_raw, |ratio| format!("{ratio:.2}")));
    cells
}

fn idle_cells(outcome: &Outcome) -> [String; 3] {
    [
        cell(outcome.idle_cpu_percent, |percent| format!("{percent:.3}%")),
        cell(outcome.idle_switches_per_second, |count| format!("{count:.1}")),
        cell(outcome.bytes_per_connection, |bytes| format!("{bytes:.0}")),
    ]
}

/// A figure as `show` writes it, or `-` for none.
fn cell(figure: Option<f64>, show: impl Fn(f64) -> String) -> String {
    figure.map_or("-".to_owned(), show)
}

/// A latency in nanoseconds, or `-` for none.
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
    use crate::report::{compare, samples};
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
        compare(&Throughput, &mut outcomes);
        let text = render(&outcomes);
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
        assert!(rows[2].ends_with("0.08"), "{text}");
    }

    #[test]
    fn roundtrips_show_percentiles() {
        let text = render(&[samples::outcome("roundtrip", "raw", 1000)]);
        assert!(
            text.contains("6.70 us") && text.contains("1.25 ms") && text.contains("cores 0 and 1"),
            "{text}"
        );
    }
    #[test]
    fn silence_shows_what_it_costs() {
        let text = render(&[samples::outcome("idle", "zring-bg", 1000)]);
        assert!(text.contains("100 silent connections") && !text.contains("bodies"), "{text}");
        let row = text.lines().last().unwrap();
        for shown in ["zring-bg", "ready", "0.100%", "1000.0", "32000"] {
            assert!(row.contains(shown), "{text}");
        }
    }
}
