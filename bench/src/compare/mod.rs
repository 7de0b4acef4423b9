//! The change from one build, or one report, to another.
//!
//! [`builds`] runs two builds in turn, so that both meet the same conditions; [`files`] compares reports from different
//! times, and therefore only their ratios to the floor. Both produce [`Row`]s, judged by [`statistics`].

use serde::Serialize;

use crate::report::style::Style;
use crate::report::table::{Table, amount, nanoseconds};

pub mod builds;
pub mod files;
pub mod record;
pub mod statistics;

use statistics::{Change, Sampling};

/// Noise above this could hide a relevant change, so it is reported.
const NOISY: f64 = 1.05;

/// The figures of a row that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Median latency.
    P50,
    /// 99th percentile of the latency.
    P99,
    /// Messages per second.
    Rate,
    /// CPU time per message.
    Cpu,
}

impl Figure {
    /// All figures, in the order of reports.
    pub const ALL: [Self; 4] = [Self::P50, Self::P99, Self::Rate, Self::Cpu];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Rate => "messages/s",
            Self::Cpu => "cpu/message",
        }
    }

    fn is_better_when_larger(self) -> bool {
        self == Self::Rate
    }

    fn shown(self, value: f64) -> String {
        match self {
            Self::P50 | Self::P99 => nanoseconds(value),
            Self::Rate => amount(value).trim_end().to_owned(),
            // Seconds per million messages are microseconds per message.
            Self::Cpu => nanoseconds(value * 1e3),
        }
    }
}

/// The verdict on a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No change beyond the noise.
    NoChange,
    /// Better, beyond the noise.
    Faster,
    /// Worse, beyond the noise.
    Slower,
    /// Too few rounds, or figures without a ratio.
    Unknown,
}

/// One figure of one subject in one cell, before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The measured cell: workload, transport, size and so on.
    pub cell: String,
    /// Name of the subject.
    pub subject: String,
    /// The compared figure.
    pub figure: Figure,
    /// Whether the exit status depends on this figure. Other figures are only shown.
    pub is_decisive: bool,
    /// Median of the old rounds. For files: of the ratios to the floor.
    pub old: f64,
    /// Median of the new rounds, likewise.
    pub new: f64,
    /// Rounds of each side.
    pub rounds: [usize; 2],
    /// New over old. This field, the interval and the noise are `null` without a verdict.
    pub ratio: Option<f64>,
    /// Ends of the interval that covers the true ratio with 99 % confidence.
    pub interval: Option<[f64; 2]>,
    /// How much rounds of the same side differ from each other, as a ratio of at least 1.
    pub noise: Option<f64>,
    /// The verdict.
    pub verdict: Verdict,
    /// Whether `old` and `new` are ratios to the floor.
    pub is_relative: bool,
}

/// Names a row and the way to compare its rounds.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// See [`Row::cell`].
    pub cell: &'a str,
    /// See [`Row::subject`].
    pub subject: &'a str,
    /// See [`Row::figure`].
    pub figure: Figure,
    /// See [`Row::is_decisive`].
    pub is_decisive: bool,
    /// How the rounds of both sides correspond. Rounds measured apart are ratios to the floor.
    pub sampling: Sampling,
    /// Smaller changes do not count: a fraction such as 0.05.
    pub threshold: f64,
}

impl Row {
    /// Judges the rounds of both sides.
    pub fn new(about: About<'_>, old: &[f64], new: &[f64]) -> Self {
        let change = statistics::compare(old, new, about.sampling);
        let middle = |values| crate::stats::median(values).unwrap_or(0.0);
        Self {
            cell: about.cell.to_owned(),
            subject: about.subject.to_owned(),
            figure: about.figure,
            is_decisive: about.is_decisive,
            old: middle(old),
            new: middle(new),
            rounds: [old.len(), new.len()],
            ratio: change.map(|change| change.ratio),
            interval: change.map(|change| [change.low, change.high]),
            noise: change.map(|change| change.noise),
            verdict: verdict(change, about.figure, about.threshold),
            is_relative: about.sampling == Sampling::Apart,
        }
    }

    /// Old and new figure, change, interval, noise and verdict, formatted for readers.
    pub fn cells(&self) -> [String; 6] {
        let figure = |value| match self.is_relative {
            true => format!("{value:.3} x raw"),
            false => self.figure.shown(value),
        };
        let interval = |[low, high]: [f64; 2]| format!("{} to {}", percent(low), percent(high));
        let none = || "-".to_owned();
        [
            figure(self.old),
            figure(self.new),
            self.ratio.map_or_else(none, percent),
            self.interval.map_or_else(none, interval),
            self.noise.map_or_else(none, |noise| format!("{:.1} %", (noise - 1.0) * 100.0)),
            self.verdict_shown().to_owned(),
        ]
    }

    fn verdict_shown(&self) -> &'static str {
        match (self.verdict, self.figure) {
            (Verdict::NoChange, _) => "no change",
            (Verdict::Faster, Figure::Cpu) => "less",
            (Verdict::Slower, Figure::Cpu) => "more",
            (Verdict::Faster, _) => "faster",
            (Verdict::Slower, _) => "SLOWER",
            (Verdict::Unknown, _) => "too few rounds",
        }
    }
}

fn verdict(change: Option<Change>, figure: Figure, threshold: f64) -> Verdict {
    match change {
        None => Verdict::Unknown,
        Some(change) if !change.is_real(threshold) => Verdict::NoChange,
        Some(change) if (change.ratio > 1.0) == figure.is_better_when_larger() => Verdict::Faster,
        Some(_) => Verdict::Slower,
    }
}

fn percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

/// Titles of a comparison: subject and figure, then those of [`Row::cells`] in order.
pub const TITLES: [&str; 8] =
    ["subject", "figure", "old", "new", "change", "99 % interval", "noise", "verdict"];

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// No decisive figure got worse.
    NotSlower,
    /// At least one decisive figure got worse.
    Slower,
}

/// Whether a decisive figure got worse.
pub fn finding(rows: &[Row]) -> Finding {
    let is_slower = |row: &Row| row.is_decisive && row.verdict == Verdict::Slower;
    if rows.iter().any(is_slower) { Finding::Slower } else { Finding::NotSlower }
}

/// The rows as text: one table per cell, and a concluding sentence.
pub fn render(rows: &[Row], style: Style) -> String {
    let mut text = String::new();
    for cell in rows.chunk_by(|one, other| one.cell == other.cell) {
        let mut table = Table::new(TITLES);
        for row in cell {
            let figure = match row.is_decisive {
                true => row.figure.name().to_owned(),
                false => format!("({})", row.figure.name()),
            };
            table.row([row.subject.clone(), figure].into_iter().chain(row.cells()));
        }
        text += &format!("{}\n\n{}\n", style.bold(&cell[0].cell), table.render());
    }
    text + &summary(rows, style)
}

fn summary(rows: &[Row], style: Style) -> String {
    let count =
        |verdict| rows.iter().filter(|row| row.is_decisive && row.verdict == verdict).count();
    let [same, faster, slower, unknown] =
        [Verdict::NoChange, Verdict::Faster, Verdict::Slower, Verdict::Unknown].map(count);
    let few = match unknown {
        0 => String::new(),
        count => format!(", {count} with too few rounds (at least {})", statistics::ROUNDS_MIN),
    };
    let noise = rows.iter().filter(|row| row.is_decisive).filter_map(|row| row.noise);
    let noise = match noise.fold(1.0, f64::max) {
        noise if noise < NOISY => String::new(),
        noise => format!(
            "; with noise of up to {:.0} % smaller changes cannot be seen: quieten the machine, or more --rounds",
            (noise - 1.0) * 100.0
        ),
    };
    let text = format!("{same} with no change, {faster} faster, {slower} slower{few}{noise}\n");
    if slower > 0 { style.bad(&text) } else { style.good(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(figure: Figure, factor: f64, is_decisive: bool) -> Row {
        let old: Vec<f64> = (0..12).map(|n| 1000.0 + f64::from(n % 4)).collect();
        let new: Vec<f64> = old.iter().map(|value| value * factor).collect();
        let about = About {
            cell: "roundtrip over tcp",
            subject: "zring",
            figure,
            is_decisive,
            sampling: Sampling::Alternating,
            threshold: 0.0,
        };
        Row::new(about, &old, &new)
    }

    #[test]
    fn larger_is_better_for_rates_alone() {
        for (figure, factor, verdict) in [
            (Figure::P50, 1.2, Verdict::Slower),
            (Figure::P50, 0.8, Verdict::Faster),
            (Figure::Rate, 1.2, Verdict::Faster),
            (Figure::Rate, 0.8, Verdict::Slower),
            (Figure::Cpu, 1.2, Verdict::Slower),
            (Figure::P99, 1.0, Verdict::NoChange),
        ] {
            assert_eq!(row(figure, factor, true).verdict, verdict, "{figure:?} {factor}");
        }
    }

    #[test]
    fn only_decisive_figures_decide() {
        let worse = |is_decisive| row(Figure::P50, 1.2, is_decisive);
        assert_eq!(finding(&[worse(true)]), Finding::Slower);
        assert_eq!(finding(&[worse(false), row(Figure::P50, 0.8, true)]), Finding::NotSlower);
        assert_eq!(finding(&[]), Finding::NotSlower);
    }

    #[test]
    fn text() {
        let rows = [row(Figure::P50, 1.1, true), row(Figure::Cpu, 1.0, false)];
        let text = render(&rows, Style::plain(120));
        for part in
            ["roundtrip over tcp", "1.00 us", "1.10 us", "+10.0 %", "SLOWER", "(cpu/message)"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.ends_with("0 with no change, 0 faster, 1 slower\n"), "{text}");
    }

    #[test]
    fn few_rounds_say_nothing() {
        let about = About {
            cell: "",
            subject: "zring",
            figure: Figure::P50,
            is_decisive: true,
            sampling: Sampling::Apart,
            threshold: 0.0,
        };
        let row = Row::new(about, &[1.0, 1.0], &[9.0, 9.0]);
        assert_eq!((row.verdict, row.ratio), (Verdict::Unknown, None));
        assert!(row.cells().contains(&"9.000 x raw".to_owned()));
    }
}
