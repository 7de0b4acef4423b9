//! One page that shows a whole report: plots, tables, the machine. It loads nothing from elsewhere.

use std::fmt::Write as _;

use crate::compare::{self, Row, Verdict};
use crate::doctor::{Finding, Level};
use crate::machine::Machine;
use crate::report::bars::Scale;
use crate::report::plots::{self, COLOURS, Plot};
use crate::report::table::amount;
use crate::report::{Outcome, Report, columns, is_same_cell};

const STYLE: &str = include_str!("page.css");

/// Steps of the small distributions beside the tables.
const STEPS: usize = 48;

/// Escapes text for an element or a quoted attribute.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The page.
pub fn render(report: &Report<'_>) -> String {
    let mut page = String::new();
    let title = "zring-bench";
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} {}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(&report.machine.date)
    );
    page += &head(report);
    page += &at_a_glance(report.outcomes);
    let plots = plots::of(report.outcomes);
    // The plot of a cell goes beside its table, plots across cells come first.
    let (of_cells, across): (Vec<Plot>, Vec<Plot>) =
        plots.into_iter().partition(|plot| plot.title.starts_with("Latency by percentile"));
    if !across.is_empty() {
        page += "<section>\n<h2>How it scales</h2>\n<div class=\"pairs\">\n";
        across.iter().for_each(|plot| page += &figure(plot));
        page += "</div>\n</section>\n";
    }
    page += &changes(&report.changes);
    for cell in columns::cells(report.outcomes) {
        page += &section(cell, &of_cells);
    }
    page += &settings(report.outcomes);
    page += &machine(&report.machine);
    page += &findings(&report.machine.findings);
    page += &how_to_read();
    page + "</main>\n</body>\n</html>\n"
}

fn head(report: &Report<'_>) -> String {
    let Machine { date, kernel, cpu_model, cores, .. } = &report.machine;
    let about = [
        Some(date.clone()),
        cpu_model.clone(),
        cores.map(|cores| format!("{cores} cores")),
        kernel.as_ref().map(|kernel| format!("Linux {kernel}")),
    ];
    let about: Vec<String> = about.into_iter().flatten().map(|part| escape(&part)).collect();
    let count =
        |level| report.machine.findings.iter().filter(|finding| finding.level == level).count();
    let (costly, minor) = (count(Level::Costly), count(Level::Minor));
    let mark = if costly > 0 { "costly" } else { "good" };
    format!(
        "<header>\n<h1>zring-bench</h1>\n<p class=\"about\">{}</p>\n<pre class=\"command\">{}</pre>\n\
         <p><a class=\"mark {mark}\" href=\"#machine\">{costly} costly, {minor} minor findings about this machine</a></p>\n\
         </header>\n",
        about.join(" &middot; "),
        escape(&report.command)
    )
}

/// The main figure of each cell in one line, the subjects side by side. Empty for a single cell, whose table shows all.
fn at_a_glance(outcomes: &[Outcome]) -> String {
    let is_same_line = |one: &Outcome, other: &Outcome| {
        is_same_cell(one, other) && one.scheduled_rate() == other.scheduled_rate()
    };
    let lines: Vec<&[Outcome]> = outcomes.chunk_by(is_same_line).collect();
    let mut subjects: Vec<&str> = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| columns::at_a_glance(outcome).is_some()) {
        if !subjects.contains(&outcome.subject) {
            subjects.push(outcome.subject);
        }
    }
    if lines.len() < 2 || subjects.is_empty() {
        return String::new();
    }
    let titles: String = subjects
        .iter()
        .map(|name| {
            format!("<th scope=\"col\">{}{}</th>", swatch(plots::colour_of(name)), escape(name))
        })
        .collect();
    let mut body = String::new();
    for line in lines {
        let cell = |subject: &&str| {
            let outcome = line.iter().find(|outcome| outcome.subject == *subject);
            outcome.and_then(columns::at_a_glance).unwrap_or("-".to_owned())
        };
        let cells: String =
            subjects.iter().map(|subject| format!("<td>{}</td>", escape(&cell(subject)))).collect();
        let rate = line[0].scheduled_rate();
        let rate = rate.map(|rate| format!(", {}/s offered", amount(rate).trim_end()));
        let headline = columns::headline(&line[0]) + &rate.unwrap_or_default();
        let _ = writeln!(body, "<tr><th scope=\"row\">{}</th>{cells}</tr>", escape(&headline));
    }
    format!(
        "<section>\n<h2>At a glance</h2>\n<p class=\"note\">p50 latency where latency was measured, the rate elsewhere; \
         x raw is the ratio to the floor in the same run.</p>\n<div class=\"wide\"><table class=\"figures glance\">\n\
         <thead><tr><th></th>{titles}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n</section>\n"
    )
}

fn section(cell: &[Outcome], plots: &[Plot]) -> String {
    let Some(first) = cell.first() else {
        return String::new();
    };
    let headline = columns::headline(first);
    let plot = plots.iter().find(|plot| plot.title.ends_with(&headline));
    format!(
        "<section>\n<h2>{}</h2>\n<p class=\"note\">Medians of {} rounds.</p>\n{}{}</section>\n",
        escape(&headline),
        first.rounds.len(),
        table(cell),
        plot.map_or(String::new(), figure)
    )
}

fn figure(plot: &Plot) -> String {
    let legend: String = plot
        .series
        .iter()
        .map(|(name, colour)| format!("<li>{}{}</li>", swatch(*colour), escape(name)))
        .collect();
    format!(
        "<figure>\n<figcaption>{}</figcaption>\n<ul class=\"legend\">{legend}</ul>\n{}<p class=\"note\">{}</p>\n</figure>\n",
        escape(&plot.title),
        plot.svg,
        escape(plot.note)
    )
}

fn hex(colour: usize) -> String {
    let plotters::style::RGBColor(r, g, b) = COLOURS[colour];
    format!("#{r:02X}{g:02X}{b:02X}")
}

fn swatch(colour: usize) -> String {
    let hex = hex(colour);
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 22 10\" aria-hidden=\"true\"><polyline fill=\"none\" stroke=\"{hex}\" stroke-width=\"3\" points=\"0,5 22,5\"/></svg>"
    )
}

fn table(cell: &[Outcome]) -> String {
    let columns = columns::of(cell);
    let scale = Scale::over(cell.iter().filter_map(|o| o.latencies.as_ref()), STEPS);
    let best = cell.iter().map(|outcome| outcome.messages_per_second).fold(0.0, f64::max);
    let chart_title = scale.as_ref().map_or(String::new(), |scale| {
        let (low, high) = scale.ends_ns();
        let shown = |ns: u64| crate::report::table::nanoseconds(ns as f64);
        format!(
            "<span class=\"from\">{}</span><span class=\"to\">{}</span>",
            shown(low),
            shown(high)
        )
    });
    let titles: String = columns
        .iter()
        .map(|column| format!("<th scope=\"col\">{}</th>", escape(column.title)))
        .collect();
    let mut text = format!(
        "<div class=\"wide\"><table class=\"figures\">\n<thead><tr>{titles}<th class=\"chart\">{chart_title}</th></tr></thead>\n<tbody>\n"
    );
    for outcome in cell {
        text += "<tr>";
        for (index, column) in columns.iter().enumerate() {
            let shown = escape(&column.cell(outcome).unwrap_or("-".to_owned()));
            let _ = match index {
                0 => write!(
                    text,
                    "<th scope=\"row\">{}{shown}</th>",
                    swatch(plots::colour_of(outcome.subject))
                ),
                _ => write!(text, "<td>{shown}</td>"),
            };
        }
        let chart = match (&scale, &outcome.latencies) {
            (Some(scale), Some(latencies)) => distribution(&scale.counts(latencies), outcome),
            _ => rate_bar(outcome, best),
        };
        let _ = writeln!(text, "<td class=\"chart\">{chart}</td></tr>");
    }
    text + "</tbody>\n</table></div>\n"
}

/// A small histogram; a step with any sample is visible.
fn distribution(counts: &[u64], outcome: &Outcome) -> String {
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let colour = hex(plots::colour_of(outcome.subject));
    let mut rects = String::new();
    for (step, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = (count as f64 / most * 28.0).max(0.8);
        let _ = write!(
            rects,
            "<rect x=\"{}\" y=\"{:.1}\" width=\"3\" height=\"{height:.1}\" fill=\"{colour}\"/>",
            step * 4,
            29.0 - height
        );
    }
    let name = escape(&format!("distribution of latencies of {}", outcome.subject));
    let width = counts.len() * 4;
    format!(
        "<svg class=\"spark\" role=\"img\" aria-label=\"{name}\" viewBox=\"0 0 {width} 30\" preserveAspectRatio=\"none\">\
         <title>{name}</title><rect class=\"base\" x=\"0\" y=\"29\" width=\"{width}\" height=\"1\" fill=\"#E2E2E2\"/>{rects}</svg>"
    )
}

/// The rate as a bar relative to the best one.
fn rate_bar(outcome: &Outcome, best: f64) -> String {
    if best <= 0.0 {
        return String::new();
    }
    let part = outcome.messages_per_second / best;
    let name =
        escape(&format!("{} reaches {:.0} % of the best rate", outcome.subject, part * 100.0));
    format!(
        "<svg class=\"spark\" role=\"img\" aria-label=\"{name}\" viewBox=\"0 0 192 30\" preserveAspectRatio=\"none\">\
         <title>{name}</title><rect x=\"0\" y=\"9\" width=\"{:.1}\" height=\"12\" fill=\"{}\"/></svg>",
        part * 192.0,
        hex(plots::colour_of(outcome.subject))
    )
}

/// The changes from one build to another, one table per cell.
fn changes(rows: &[Row]) -> String {
    let mut text = String::new();
    for cell in rows.chunk_by(|one, other| one.cell == other.cell) {
        let titles: String =
            compare::TITLES.iter().map(|title| format!("<th scope=\"col\">{title}</th>")).collect();
        let mut body = String::new();
        for row in cell {
            let mark = match (row.is_decisive, row.verdict) {
                (true, Verdict::Slower) => "costly",
                (true, Verdict::Faster) => "good",
                _ => "",
            };
            let [cells @ .., verdict] = row.cells();
            let cells: String =
                cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
            let _ = writeln!(
                body,
                "<tr><th scope=\"row\">{}</th><td>{}</td>{cells}<td><span class=\"mark {mark}\">{verdict}</span></td></tr>",
                escape(&row.subject),
                row.figure.name()
            );
        }
        text += &format!(
            "<section>\n<h2>Changes: {}</h2>\n<div class=\"wide\"><table class=\"figures\">\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n</section>\n",
            escape(&cell[0].cell)
        );
    }
    text
}

/// The settings of each subject, listed once per variant.
fn settings(outcomes: &[Outcome]) -> String {
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for outcome in outcomes {
        let row = (outcome.subject, outcome.settings.as_str());
        if !outcome.settings.is_empty() && !rows.contains(&row) {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let row = |(subject, settings): &(&str, &str)| {
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n",
            escape(subject),
            escape(settings)
        )
    };
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<section>\n<h2>Settings of the subjects</h2>\n<table class=\"words\">\n{rows}</table>\n</section>\n"
    )
}

fn machine(machine: &Machine) -> String {
    let none = || "not known".to_owned();
    let memory =
        machine.memory_bytes.map(|bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)));
    let rows = [
        ("system", format!("{} on {}", machine.os, machine.arch)),
        ("kernel", machine.kernel.clone().unwrap_or_else(none)),
        ("processor", machine.cpu_model.clone().unwrap_or_else(none)),
        ("cores", machine.cores.map_or_else(none, |cores| cores.to_string())),
        ("memory", memory.unwrap_or_else(none)),
        ("governor", machine.governor.clone().unwrap_or_else(none)),
        ("io_uring", machine.io_uring.map_or_else(none, str::to_owned)),
        ("zring", machine.zring_version.to_owned()),
        ("date", machine.date.clone()),
    ];
    let row = |(name, value): &(&str, String)| {
        format!("<tr><th scope=\"row\">{name}</th><td>{}</td></tr>\n", escape(value))
    };
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<section id=\"machine\">\n<h2>Machine</h2>\n<table class=\"words\">\n{rows}</table>\n</section>\n"
    )
}

fn findings(findings: &[Finding]) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let mut rows = String::new();
    for finding in sorted {
        let mark = match finding.level {
            Level::Good => "good",
            Level::Minor => "minor",
            Level::Costly => "costly",
        };
        let how = if finding.measured { " (measured here)" } else { "" };
        let remedy = finding.remedy.as_ref();
        let remedy = remedy.map_or(String::new(), |text| format!("<code>{}</code>", escape(text)));
        let _ = writeln!(
            rows,
            "<tr><td><span class=\"mark {mark}\">{mark}</span></td><th scope=\"row\">{}</th><td>{}</td><td>{}{how}</td><td>{remedy}</td></tr>",
            escape(finding.what),
            escape(&finding.value),
            escape(&finding.cost)
        );
    }
    format!(
        "<section>\n<h2>What spoils latency here</h2>\n<div class=\"wide\"><table class=\"words findings\">\n\
         <thead><tr><th></th><th>what</th><th>now</th><th>what it costs</th><th>how to change it</th></tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table></div>\n</section>\n"
    )
}

fn how_to_read() -> String {
    "<section class=\"reading\">\n<h2>How to read this</h2>\n<p>Absolute figures belong to the machine and to the minute; quote ratios. \
     <b>raw</b> is plain sockets with the same bytes on the wire and no library: the floor. <b>p50/raw</b> and <b>rate/raw</b> are the figure of a \
     subject over that of raw in the same run. <b>spread</b> is (largest &minus; smallest) / median over the rounds; where it is larger than a \
     difference, there is no result yet. The small histograms of a table share one logarithmic scale.</p>\n</section>\n"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    fn page(outcomes: &[Outcome]) -> String {
        render(&Report::new(outcomes))
    }

    #[test]
    fn everything_is_there() {
        let mut outcomes = [
            samples::outcome("roundtrip", "raw", 1000),
            samples::outcome("roundtrip", "zring", 900),
            samples::outcome("throughput", "zring", 900),
        ];
        outcomes[1].settings = "HWM <1000> & \"more\"".to_owned();
        let page = page(&outcomes);
        for text in [
            "<h2>roundtrip over tcp, 64 B bodies",
            "<h2>throughput over tcp, 64 B bodies",
            "Latency by percentile",
            "distribution of latencies of zring",
            "HWM &lt;1000&gt; &amp; &quot;more&quot;",
            "What spoils latency here",
            "prefers-color-scheme: dark",
            "@media print",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("HWM <1000>"));
    }

    #[test]
    fn nothing_is_fetched() {
        let page = page(&[samples::outcome("roundtrip", "raw", 1000)]);
        for word in ["<script", "<link", "<img", "<iframe", "src=", "url(", "@import"] {
            assert!(!page.contains(word), "{word}");
        }
        // Names of XML vocabularies are not links.
        let without = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!without.contains("http://") && !without.contains("https://"));
    }

    #[test]
    fn elements_are_closed() {
        let page = page(&[
            samples::outcome("idle", "zring", 10),
            samples::outcome("throughput", "raw", 9),
        ]);
        for name in
            ["section", "table", "tbody", "tr", "td", "svg", "title", "figure", "main", "div"]
        {
            let opened = page.matches(&format!("<{name}>")).count()
                + page.matches(&format!("<{name} ")).count();
            assert_eq!(opened, page.matches(&format!("</{name}>")).count(), "{name}");
        }
    }

    #[test]
    fn no_outcomes_make_a_page() {
        assert!(page(&[]).contains("</html>"));
    }
}
