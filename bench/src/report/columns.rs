//! The columns of the tables, in the terminal and on the page.

use crate::report::table::{amount, nanoseconds};
use crate::report::{FileFigures, Outcome, is_same_cell};
use crate::size;
use crate::stats::spread;
use crate::workload::Figure;

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The column's title.
    pub title: &'static str,
    /// Where room is short, the columns of the lowest rank are left out first.
    pub rank: u8,
    cell: fn(&Outcome) -> Option<String>,
}

impl Column {
    /// The figure formatted for readers; `None` where it does not apply.
    pub fn cell(&self, outcome: &Outcome) -> Option<String> {
        (self.cell)(outcome)
    }
}

const fn column(title: &'static str, rank: u8, cell: fn(&Outcome) -> Option<String>) -> Column {
    Column { title, rank, cell }
}

const ALL: &[Column] = &[
    column("subject", 9, |o| Some(o.subject.to_owned())),
    column("driver", 3, |o| o.driver.map(str::to_owned)),
    column("offered/s", 7, offered),
    column("p50", 8, |o| latency(o.latency_ns.p50)),
    column("p90", 4, |o| latency(o.latency_ns.p90)),
    column("p99", 7, |o| latency(o.latency_ns.p99)),
    column("p99.9", 6, |o| latency(o.latency_ns.p999)),
    column("max", 5, |o| latency(o.latency_ns.max)),
    column("messages/s", 8, |o| has_messages(o).then(|| amount(o.messages_per_second))),
    column("bytes/s", 3, |o| has_messages(o).then(|| amount(o.bytes_per_second) + "B")),
    column("dropped", 7, |o| (o.dropped > 0).then(|| amount(o.dropped as f64))),
    column("spread", 4, |o| has_messages(o).then(|| spread(&o.rounds))?.map(percent)),
    column("cpu/message", 5, |o| o.cpu_seconds_per_million.map(|s| nanoseconds(s * 1e3))),
    column("median", 8, |o| file(o, |f| Some(gigabytes(f.gigabytes_per_second_median)))),
    column("mean", 7, |o| file(o, |f| Some(gigabytes(f.gigabytes_per_second_mean)))),
    column("deviation", 7, |o| file(o, |f| f.run_seconds_deviation.map(milliseconds))),
    column("sender memory", 7, |o| file(o, |f| f.sender_grown_bytes.map(grown))),
    column("x raw-sendfile", 8, |o| file(o, |f| f.ratio_to_sendfile.map(ratio_shown))),
    column("cpu", 8, |o| o.idle_cpu_percent.map(|percent| format!("{percent:.3}%"))),
    column("wake-ups/s", 8, |o| o.idle_switches_per_second.map(|count| format!("{count:.1}"))),
    column("bytes/connection", 8, |o| o.bytes_per_connection.map(|bytes| format!("{bytes:.0}"))),
    column(Figure::P50.ratio_title(), 8, |o| ratio(o, Figure::P50)),
    column(Figure::Rate.ratio_title(), 8, |o| ratio(o, Figure::Rate)),
];

/// The offered rate, if it differs from the arrived one.
fn offered(outcome: &Outcome) -> Option<String> {
    let is_told = outcome.scheduled_rate().is_some() || outcome.dropped > 0;
    outcome.offered_rate.filter(|_| is_told).map(amount)
}

fn has_messages(outcome: &Outcome) -> bool {
    outcome.size_bytes.is_some() && outcome.file.is_none()
}

fn file(outcome: &Outcome, cell: fn(&FileFigures) -> Option<String>) -> Option<String> {
    outcome.file.as_ref().and_then(cell)
}

fn gigabytes(per_second: f64) -> String {
    format!("{per_second:.2} GB/s")
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

fn grown(bytes: u64) -> String {
    format!("+{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn latency(ns: Option<u64>) -> Option<String> {
    ns.map(|ns| nanoseconds(ns as f64))
}

fn percent(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

fn ratio(outcome: &Outcome, figure: Figure) -> Option<String> {
    outcome.ratio_to_raw.filter(|_| outcome.compares == Some(figure)).map(ratio_shown)
}

/// A ratio with two decimals, or with three if it is small.
pub fn ratio_shown(ratio: f64) -> String {
    if ratio < 0.095 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

/// The main figure and its ratio to the floor, such as `6.70 us, 1.33 x raw`.
pub fn at_a_glance(outcome: &Outcome) -> Option<String> {
    if let Some(file) = &outcome.file {
        let ratio = file.ratio_to_sendfile.map(ratio_shown);
        let ratio = ratio.map(|ratio| format!(", {ratio} x raw-sendfile"));
        return Some(gigabytes(file.gigabytes_per_second_median) + &ratio.unwrap_or_default());
    }
    let figure = match outcome.compares? {
        Figure::P50 => latency(outcome.latency_ns.p50)?,
        Figure::Rate => format!("{}/s", amount(outcome.messages_per_second).trim_end()),
    };
    let ratio = outcome.ratio_to_raw.map(|ratio| format!(", {} x raw", ratio_shown(ratio)));
    Some(figure + &ratio.unwrap_or_default())
}

/// The columns that have a value for at least one of these outcomes.
pub fn of(outcomes: &[Outcome]) -> Vec<Column> {
    let has_any = |column: &&Column| outcomes.iter().any(|outcome| column.cell(outcome).is_some());
    ALL.iter().filter(has_any).copied().collect()
}

/// Splits a report into its cells: neighbours that differ only in subject and load.
pub fn cells(outcomes: &[Outcome]) -> impl Iterator<Item = &[Outcome]> {
    outcomes.chunk_by(is_same_cell)
}

/// The peers of an outcome, if it has any, such as `10 subscribers`.
pub fn peers(outcome: &Outcome) -> Option<String> {
    let name = match outcome.workload {
        "fanout" => "subscriber",
        "fanin" => "sender",
        _ => "peer",
    };
    outcome.peers.map(|count| format!("{count} {name}{}", if count == 1 { "" } else { "s" }))
}

/// The measured cell, such as `roundtrip over tcp, 64 B bodies, spin, cores 0 and 1`.
pub fn headline(outcome: &Outcome) -> String {
    let pinned = outcome.pin.map_or("not pinned".to_owned(), |[a, b]| format!("cores {a} and {b}"));
    let mut parts = vec![format!("{} over {}", outcome.workload, outcome.transport)];
    parts.extend(outcome.size_bytes.map(size::display).map(|size| match outcome.file {
        Some(_) => format!("a file of {size}"),
        None => format!("{size} bodies"),
    }));
    parts.extend(peers(outcome));
    parts.extend(outcome.connections.map(|count| format!("{count} silent connections")));
    parts.extend([outcome.wait.to_string(), pinned]);
    parts.join(", ")
}
