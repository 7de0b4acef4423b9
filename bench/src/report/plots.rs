//! The plots of a page, as inline SVG.

use std::collections::BTreeSet;

use hdrhistogram::Histogram;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

use crate::report::table::{amount, nanoseconds};
use crate::report::{Outcome, columns, html};
use crate::workload::Figure;
use crate::{size, subject};

/// As wide as a page.
const WIDE: (u32, u32) = (1080, 380);
/// Half as wide, for two plots side by side.
const HALF: (u32, u32) = (530, 320);

/// The colours of subjects on a light page, distinguishable with colour-blindness too; the page's style maps them to
/// lighter colours on a dark page. The first is for the floor.
pub const COLOURS: [RGBColor; 9] = [
    RGBColor(0x6B, 0x6B, 0x6B),
    RGBColor(0x00, 0x5F, 0xB8),
    RGBColor(0xC8, 0x4A, 0x00),
    RGBColor(0x00, 0x8A, 0x63),
    RGBColor(0xB0, 0x4A, 0x8A),
    RGBColor(0x9A, 0x6B, 0x00),
    RGBColor(0x2A, 0x95, 0xC9),
    RGBColor(0x7A, 0x3E, 0x1D),
    RGBColor(0x5B, 0x3F, 0xC4),
];

/// Colour of lines, axes and letters, which the page's style remaps.
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Colour of the grid.
const GRID: RGBColor = RGBColor(0xE2, 0xE2, 0xE2);

/// A plot with its title and the names of its lines.
#[derive(Clone, Debug)]
pub struct Plot {
    /// The plot's title.
    pub title: String,
    /// How to read the plot.
    pub note: &'static str,
    /// The lines, each with the index of its colour in [`COLOURS`].
    pub series: Vec<(String, usize)>,
    /// An `svg` element.
    pub svg: String,
}

/// An axis in plotted units: logarithms to the base 10.
#[derive(Clone)]
struct Axis {
    title: &'static str,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    label: fn(f64) -> String,
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.low) / (self.high - self.low);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => Vec::new(),
            false => self.ticks.clone(),
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        (self.label)(*value)
    }
}

#[derive(Debug)]
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// All plots for which these outcomes have enough points.
pub fn of(outcomes: &[Outcome]) -> Vec<Plot> {
    let mut plots: Vec<Plot> = columns::cells(outcomes).filter_map(spectrum).collect();
    plots.extend(against_load(outcomes));
    plots.extend(by_size(outcomes));
    plots.extend(by_peers(outcomes));
    plots
}

/// Latency at every percentile of one cell, one line per subject.
fn spectrum(cell: &[Outcome]) -> Option<Plot> {
    let has_loads = distinct(cell, |outcome| outcome.scheduled_rate().map(f64::to_bits)) > 1;
    let lines: Vec<Line> = cell
        .iter()
        .filter_map(|outcome| {
            let rate = outcome.scheduled_rate().filter(|_| has_loads);
            let at = rate.map(|rate| format!(" at {}/s", amount(rate).trim_end()));
            let points = percentiles(outcome.latencies.as_ref()?);
            let name = format!("{}{}", outcome.subject, at.unwrap_or_default());
            (!points.is_empty()).then_some(Line { name, points })
        })
        .collect();
    let x_high =
        lines.iter().flat_map(|line| &line.points).map(|point| point.0).fold(1.0, f64::max);
    let x = Axis {
        title: "percentile",
        low: 0.0,
        high: x_high,
        ticks: (0..=x_high.floor() as u32).map(f64::from).collect(),
        label: percentile_label,
    };
    let y = latency_axis(&lines);
    let note = "The further right, the rarer: each step of the axis is ten times as rare as the one before. Lower is better.";
    draw(
        format!("Latency by percentile: {}", columns::headline(cell.first()?)),
        note,
        &lines,
        &x,
        &y,
        WIDE,
    )
}

/// Positions on the percentile axis with their latencies, both as logarithms; up to the last sample but one, because a
/// line cannot reach 100 %.
fn percentiles(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    const PER_DECADE: u32 = 12;
    if histogram.is_empty() {
        return Vec::new();
    }
    let last = (histogram.len() as f64).log10().max(0.1);
    let steps = (last * f64::from(PER_DECADE)).ceil() as u32;
    let at = |step: u32| (f64::from(step) / f64::from(PER_DECADE)).min(last);
    (0..=steps)
        .map(|step| {
            let place = at(step);
            let ns = histogram.value_at_quantile(1.0 - 10_f64.powf(-place)).max(1);
            (place, (ns as f64).log10())
        })
        .collect()
}

fn percentile_label(place: f64) -> String {
    let nines = place.round() as i32;
    match nines {
        0 => "0%".to_owned(),
        1 => "90%".to_owned(),
        nines => format!("{:.*}%", (nines - 2).max(0) as usize, 100.0 - 10_f64.powi(2 - nines)),
    }
}

/// Latency as the offered load grows.
fn against_load(outcomes: &[Outcome]) -> Vec<Plot> {
    let note = "Latency counts from when a message was due, so waiting in line counts too. Lower is better.";
    let mut plots = Vec::new();
    for cell in columns::cells(outcomes) {
        if distinct(cell, |outcome| outcome.scheduled_rate().map(f64::to_bits)) < 2 {
            continue;
        }
        for (name, pick) in LATENCIES {
            let lines = lines(cell, Outcome::scheduled_rate, |o| pick(o).map(|ns| ns as f64));
            let x = ticked("offered messages a second", &lines, 0, |v| {
                round_figure(&amount(10_f64.powf(v)))
            });
            let title = format!("{name} latency against load: {}", columns::headline(&cell[0]));
            plots.extend(draw(title, note, &lines, &x, &latency_axis(&lines), HALF));
        }
    }
    plots
}

type Pick = fn(&Outcome) -> Option<u64>;

const LATENCIES: [(&str, Pick); 2] = [("p50", |o| o.latency_ns.p50), ("p99", |o| o.latency_ns.p99)];

/// Rate and latency as bodies grow, with all else equal.
fn by_size(outcomes: &[Outcome]) -> Vec<Plot> {
    let key = |o: &Outcome| {
        (o.workload, o.transport.to_string(), o.connections, o.peers, o.wait.to_string())
    };
    let x = |outcome: &Outcome| outcome.size_bytes.map(|bytes| bytes as f64);
    let axis = |lines: &[Line]| {
        let sizes: BTreeSet<u64> =
            lines.iter().flat_map(|l| &l.points).map(|p| p.0.to_bits()).collect();
        let label = |v: f64| size::display(10_f64.powf(v).round() as usize);
        Axis {
            ticks: sizes.into_iter().map(f64::from_bits).collect(),
            ..ticked("body", lines, 0, label)
        }
    };
    families(outcomes, key, x, &axis, ("by size", columns::peers))
}

/// Rate and latency as the number of peers grows, with all else equal.
fn by_peers(outcomes: &[Outcome]) -> Vec<Plot> {
    let key = |o: &Outcome| {
        (o.workload, o.transport.to_string(), o.connections, o.size_bytes, o.wait.to_string())
    };
    let x = |outcome: &Outcome| outcome.peers.map(f64::from);
    let axis = |lines: &[Line]| {
        let counts: BTreeSet<u64> =
            lines.iter().flat_map(|l| &l.points).map(|p| p.0.to_bits()).collect();
        let label = |v: f64| format!("{:.0}", 10_f64.powf(v));
        Axis {
            ticks: counts.into_iter().map(f64::from_bits).collect(),
            ..ticked("peers", lines, 0, label)
        }
    };
    let held = |outcome: &Outcome| {
        outcome.size_bytes.map(|bytes| format!("{} bodies", size::display(bytes)))
    };
    families(outcomes, key, x, &axis, ("by number of peers", held))
}

/// A plot for each group of outcomes with one key and at least two positions on the axis: latency where it is the
/// point, else the rate. `held` names the other properties that distinguish two groups.
fn families<K: PartialEq>(
    outcomes: &[Outcome],
    key: impl Fn(&Outcome) -> K,
    x: fn(&Outcome) -> Option<f64>,
    axis: &dyn Fn(&[Line]) -> Axis,
    (by, held): (&str, fn(&Outcome) -> Option<String>),
) -> Vec<Plot> {
    let mut groups: Vec<(K, Vec<Outcome>)> = Vec::new();
    // A schedule fixes the rate; scheduled outcomes have plots of their own.
    for outcome in outcomes.iter().filter(|outcome| outcome.scheduled_rate().is_none()) {
        let of_outcome = key(outcome);
        match groups.iter_mut().find(|(known, _)| *known == of_outcome) {
            Some((_, group)) => group.push(outcome.clone()),
            None => groups.push((of_outcome, vec![outcome.clone()])),
        }
    }
    let mut plots = Vec::new();
    for (_, group) in groups {
        if distinct(&group, |outcome| x(outcome).map(f64::to_bits)) < 2 {
            continue;
        }
        let first = &group[0];
        let held = held(first).map(|held| format!("{held}, ")).unwrap_or_default();
        let what = format!("{} over {}, {held}{}", first.workload, first.transport, first.wait);
        let rate = |outcome: &Outcome| {
            (outcome.compares == Some(Figure::Rate)).then_some(outcome.messages_per_second)
        };
        let rates = lines(&group, x, rate);
        let rate_axis =
            ticked("messages a second", &rates, 1, |v| round_figure(&amount(10_f64.powf(v))));
        plots.extend(draw(
            format!("Rate {by}: {what}"),
            "Higher is better.",
            &rates,
            &axis(&rates),
            &rate_axis,
            HALF,
        ));
        for (name, pick) in LATENCIES.iter().filter(|_| first.compares == Some(Figure::P50)) {
            let lines = lines(&group, x, |outcome| pick(outcome).map(|ns| ns as f64));
            let title = format!("{name} latency {by}: {what}");
            plots.extend(draw(
                title,
                "Lower is better.",
                &lines,
                &axis(&lines),
                &latency_axis(&lines),
                HALF,
            ));
        }
    }
    plots
}

fn distinct<K: Ord>(outcomes: &[Outcome], key: impl Fn(&Outcome) -> Option<K>) -> usize {
    outcomes.iter().filter_map(key).collect::<BTreeSet<K>>().len()
}

/// A line per subject, through its values at every position, in order.
fn lines(
    outcomes: &[Outcome],
    x: impl Fn(&Outcome) -> Option<f64>,
    y: impl Fn(&Outcome) -> Option<f64>,
) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for outcome in outcomes {
        let Some(point) = x(outcome).zip(y(outcome)).filter(|(x, y)| *x > 0.0 && *y > 0.0) else {
            continue;
        };
        let point = (point.0.log10(), point.1.log10());
        match lines.iter_mut().find(|line| line.name == outcome.subject) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name: outcome.subject.to_owned(), points: vec![point] }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    lines
}

/// Removes zeros without information.
fn round_figure(figure: &str) -> String {
    figure.replace(".00", "").replace(".0 ", " ").trim_end().to_owned()
}

fn latency_axis(lines: &[Line]) -> Axis {
    ticked("latency", lines, 1, |v| round_figure(&nanoseconds(10_f64.powf(v))))
}

/// An axis for the coordinate `which` (0 or 1) of all points, with ticks at 1, 2 and 5 of every decade.
fn ticked(title: &'static str, lines: &[Line], which: usize, label: fn(f64) -> String) -> Axis {
    let all = || {
        let points = lines.iter().flat_map(|line| &line.points);
        points.map(move |point| if which == 0 { point.0 } else { point.1 })
    };
    let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
    let margin = ((high - low) * 0.04).max(0.02);
    let (low, high) = (low - margin, high + margin);
    let decades = low.floor() as i32..=high.ceil() as i32;
    let steps: &[f64] = if high - low > 3.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let ticks =
        decades.flat_map(|decade| steps.iter().map(move |step| f64::from(decade) + step.log10()));
    let mut ticks: Vec<f64> = ticks.filter(|tick| (low..=high).contains(tick)).collect();
    if ticks.len() < 2 {
        // All points are close together: round figures would lie outside.
        ticks = (0..=4).map(|n| low + (high - low) * f64::from(n) / 4.0).collect();
    }
    Axis { title, low, high, ticks, label }
}

/// The index of a subject's colour, which is the same in every plot. A subject that the harness does not know gets the
/// last colour.
pub fn colour_of(name: &str) -> usize {
    const FIRST: [&str; 3] = [subject::FLOOR, "zring", "zring-bg"];
    let name = name.split(' ').next().unwrap_or(name);
    if let Some(place) = FIRST.iter().position(|known| *known == name) {
        return place;
    }
    let others = subject::ALL.iter().map(|subject| subject.name());
    let mut others = others.filter(|known| !FIRST.contains(known));
    let free = COLOURS.len() - FIRST.len();
    others
        .position(|known| known == name)
        .map_or(COLOURS.len() - 1, |place| FIRST.len() + place % free)
}

/// `None` if there is nothing to draw.
fn draw(
    title: String,
    note: &'static str,
    lines: &[Line],
    x: &Axis,
    y: &Axis,
    size: (u32, u32),
) -> Option<Plot> {
    if lines.iter().all(|line| line.points.is_empty()) {
        return None;
    }
    let mut svg = String::new();
    // The back end writes to a string, which cannot fail, and the ranges are finite and not empty.
    draw_into(&mut svg, lines, x, y, size).ok()?;
    let series: Vec<(String, usize)> =
        lines.iter().map(|line| (line.name.clone(), colour_of(&line.name))).collect();
    Some(Plot { svg: named(&svg, &title), title, note, series })
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_into(svg: &mut String, lines: &[Line], x: &Axis, y: &Axis, size: (u32, u32)) -> Drawn {
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(28)
        .x_label_area_size(46)
        .y_label_area_size(78)
        .build_cartesian_2d(x.clone(), y.clone())?;
    let letters = ("sans-serif", 15).into_font().color(&INK);
    chart
        .configure_mesh()
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(letters.clone())
        .axis_desc_style(letters)
        .x_labels(x.ticks.len())
        .y_labels(y.ticks.len())
        .x_desc(x.title)
        .y_desc(y.title)
        .draw()?;
    for line in lines {
        let colour = COLOURS[colour_of(&line.name)];
        chart.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
        // Few points are measurements and get dots; many are one curve.
        if line.points.len() <= 12 {
            let dots = line.points.iter().map(|&point| Circle::new(point, 3, colour.filled()));
            chart.draw_series(dots)?;
        }
    }
    root.present()?;
    Ok(())
}

/// Gives the picture a name for screen readers and tests.
fn named(svg: &str, title: &str) -> String {
    let title = html::escape(title);
    let head = format!("<svg role=\"img\" aria-label=\"{title}\" ");
    let svg = svg.replacen("<svg ", &head, 1);
    svg.replacen(">\n", &format!(">\n<title>{title}</title>\n"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    fn at_size(subject: &'static str, size_bytes: usize, rate: u64) -> Outcome {
        Outcome { size_bytes: Some(size_bytes), ..samples::outcome("throughput", subject, rate) }
    }

    #[test]
    fn a_spectrum_for_every_cell_with_latencies() {
        let outcomes = [
            samples::outcome("roundtrip", "raw", 1000),
            samples::outcome("roundtrip", "zring", 1000),
            samples::outcome("throughput", "raw", 1000),
        ];
        let plots = of(&outcomes);
        assert_eq!(plots.len(), 1);
        assert!(plots[0].title.starts_with("Latency by percentile: roundtrip over tcp"));
        let due = ["raw", "zring"].map(|name| (name.to_owned(), colour_of(name)));
        assert_eq!(plots[0].series, due);
        let svg = &plots[0].svg;
        assert!(svg.contains("<title>Latency by percentile") && svg.contains("99.9%"), "{svg}");
        for (_, colour) in due {
            let RGBColor(r, g, b) = COLOURS[colour];
            let stroke = format!("stroke=\"#{r:02X}{g:02X}{b:02X}\"");
            assert!(svg.lines().any(|line| line.contains("<polyline") && line.contains(&stroke)));
        }
    }

    #[test]
    fn sizes_make_a_plot_when_there_are_two() {
        let one = [at_size("raw", 64, 1000), at_size("zring", 64, 900)];
        assert!(of(&one).is_empty());
        let two = [at_size("raw", 64, 1000), at_size("zring", 64, 900), at_size("raw", 1024, 400)];
        let plots = of(&two);
        assert_eq!(plots.len(), 1);
        assert!(plots[0].title.starts_with("Rate by size") && plots[0].svg.contains("1 KiB"));
    }

    #[test]
    fn loads_and_peers() {
        let loaded = |rate: f64| Outcome {
            offered_rate: Some(rate),
            ..samples::outcome("roundtrip", "zring", 1000)
        };
        let titles: Vec<String> =
            of(&[loaded(1e4), loaded(1e5)]).into_iter().map(|plot| plot.title).collect();
        assert!(titles.iter().any(|title| title.starts_with("p99 latency against load")));
        let fan = |peers| Outcome { peers: Some(peers), ..at_size("zring", 64, 1000) };
        let plots = of(&[fan(1), fan(10), fan(100)]);
        assert!(plots[0].title.starts_with("Rate by number of peers"), "{}", plots[0].title);
    }

    #[test]
    fn percentile_places() {
        let labels: Vec<String> = [0.0, 1.0, 2.0, 3.0, 5.0].map(percentile_label).to_vec();
        assert_eq!(labels, ["0%", "90%", "99%", "99.9%", "99.999%"]);
        let outcome = samples::outcome("roundtrip", "raw", 10);
        let points = percentiles(outcome.latencies.as_ref().unwrap());
        // 3,000 samples reach to 99.97 %.
        assert!((points.last().unwrap().0 - 3000_f64.log10()).abs() < 1e-9);
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }

    #[test]
    fn names_are_escaped() {
        assert!(named("<svg width=\"1\">\n</svg>", "a<b").contains("<title>a&lt;b</title>"));
    }
}
