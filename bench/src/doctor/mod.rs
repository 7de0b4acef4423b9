//! Properties of this machine that spoil latency, their cost, and how to change them.
//!
//! [`examine`] reads small files below a root directory and changes nothing; every report carries its findings.
//! [`measured::measure`] takes measurements for some seconds. Neither needs more than a normal user's rights.
//! Properties that the system does not show are left out.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use crate::error::Result;
use crate::report::style::{self, Style};

mod cpu;
mod kernel;
mod limits;
pub mod measured;
mod tree;

use tree::Tree;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Matters in some cases, or costs little.
    Minor,
    /// Spoils any latency measured here.
    Costly,
}

/// One property of the machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The name of the property.
    pub what: &'static str,
    /// The current state.
    pub value: String,
    /// How much it matters.
    pub level: Level,
    /// The cost; measured here if `measured` is true.
    pub cost: String,
    /// Whether `cost` was measured here and now.
    pub measured: bool,
    /// The command or other action that changes it; `None` if no change is needed.
    pub remedy: Option<String>,
}

impl Finding {
    fn good(what: &'static str, value: impl Into<String>, cost: impl Into<String>) -> Self {
        let (value, cost) = (value.into(), cost.into());
        Self { what, value, level: Level::Good, cost, measured: false, remedy: None }
    }

    fn minor(
        what: &'static str,
        value: impl Into<String>,
        cost: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { level: Level::Minor, remedy, ..Self::good(what, value, cost) }
    }

    fn costly(
        what: &'static str,
        value: impl Into<String>,
        cost: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::Costly, ..Self::minor(what, value, cost, remedy) }
    }
}

/// Options of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct Doctor {
    /// Read the settings only, without the measurements (some seconds)
    #[arg(long)]
    pub quick: bool,

    /// Show the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// Examines the files below `root`, those of a Linux system; `/` is this machine.
pub fn examine(root: &Path) -> Vec<Finding> {
    let tree = Tree::new(root);
    let mut findings = cpu::findings(&tree);
    findings.extend(kernel::findings(&tree));
    findings.extend(limits::findings(&tree));
    findings
}

/// The findings on the settings of this machine.
pub fn examine_this_machine() -> Vec<Finding> {
    if cfg!(target_os = "linux") {
        return examine(Path::new("/"));
    }
    vec![Finding::minor(
        "settings",
        format!(
            "not examined: this is {}, and the doctor knows those of Linux",
            std::env::consts::OS
        ),
        "the clock, sleeping cores and other programs spoil latencies here as well; told is only what was measured, and \
         settings that a remedy names may have other names",
        "look by hand: power plan, other programs, virtualisation",
    )]
}

/// Examines this machine and prints the findings.
///
/// # Errors
/// The system's error when standard output cannot be written.
pub fn run(options: &Doctor) -> Result<()> {
    let mut findings = examine_this_machine();
    if !options.quick {
        findings.extend(measured::measure(measured::PER_CORE));
    }
    let text = if options.json {
        serde_json::to_string_pretty(&findings).map_err(std::io::Error::from)? + "\n"
    } else {
        render(&findings, Style::of_stdout())
    };
    Ok(std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?)
}

/// The findings for a terminal, the worst first, each with its cost and remedy below it.
pub fn render(findings: &[Finding], style: Style) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let mut text = String::new();
    for finding in sorted.iter().filter(|finding| finding.level > Level::Good || finding.measured) {
        let mark = match finding.level {
            Level::Good => style.good("  good"),
            Level::Minor => style.minor(" minor"),
            Level::Costly => style.bad("costly"),
        };
        text += &format!("{mark}  {}: {}\n", style.bold(finding.what), finding.value);
        text += &style::indented(&finding.cost, 8, style.columns);
        if let Some(remedy) = &finding.remedy {
            // A command is never wrapped, so that it can be copied.
            text += &format!("        -> {remedy}\n");
        }
    }
    let fine: Vec<String> = sorted
        .iter()
        .filter(|finding| finding.level == Level::Good && !finding.measured)
        .map(|finding| format!("{}: {}", finding.what, finding.value))
        .collect();
    if !fine.is_empty() {
        text += "as it should be:\n";
        text += &style::indented(&fine.join("; "), 8, style.columns);
    }
    text + &summary(findings) + "\n"
}

/// One line for the foot of a report.
pub fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let costly = findings.iter().filter(|finding| finding.level == Level::Costly);
    let mut worst: Vec<&str> = costly.map(|finding| finding.what).collect();
    // The same finding may occur once per core.
    worst.dedup();
    let named = if worst.is_empty() { String::new() } else { format!(" ({})", worst.join(", ")) };
    format!("machine: {} costly{named}, {} minor", count(Level::Costly), count(Level::Minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_commands_stay_whole() {
        let command = format!("echo {} | sudo tee /sys/somewhere", "x".repeat(100));
        let findings = [
            Finding::good("thing one", "fine", "nothing"),
            Finding::minor("thing two", "so so", "a little ".repeat(30), "do this"),
            Finding::costly("thing three", "bad", "much", command.clone()),
        ];
        let text = render(&findings, Style::plain(80));
        let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(
            place("thing three") < place("thing two") && place("thing two") < place("thing one")
        );
        assert!(text.contains(&command));
        let long = text.lines().filter(|line| line.chars().count() > 80);
        assert_eq!(long.count(), 1, "{text}");
        assert!(text.ends_with("machine: 1 costly (thing three), 1 minor\n"), "{text}");
    }
}
