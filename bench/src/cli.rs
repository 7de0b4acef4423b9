//! The command line of `zring-bench`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::pin::Pin;
use crate::size;
use crate::subject;
use crate::workload::Workload;
use crate::workload::roundtrip::Roundtrip;
use crate::workload::throughput::Throughput;

const AFTER_HELP: &str = "\
Exit codes:
  0  every round of every subject ran, and every message arrived once, whole and in order
  1  a subject failed: a message was lost, repeated or damaged, a socket or a side failed;
     or the report could not be written
  2  the command line is wrong

Examples:
  zring-bench throughput --size 64
  zring-bench roundtrip --wait spin --pin 0,1 --seconds 10
  zring-bench throughput --subject raw --transport ipc --size 64K --json -";

/// Measures zring beside the raw socket floor, in one run.
///
/// Two threads talk over a real socket on this machine: side A sends or asks, side B receives or replies. All
/// subjects run in turn, several rounds each, and the medians over the rounds are reported with their ratio to
/// `raw`: plain sockets with the same framing and no library. Take the ratios; absolute figures belong to the
/// machine and to the minute.
#[derive(Debug, Parser)]
#[command(name = "zring-bench", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub command: Command,
}

/// The workloads.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// How long a request and its reply take: one at a time, every round trip recorded
    Roundtrip(Options),
    /// How many messages a second get through: one stream, as fast as it goes
    Throughput(Options),
}

impl Command {
    /// The workload and its options.
    pub fn split(&self) -> (&'static dyn Workload, &Options) {
        match self {
            Self::Roundtrip(options) => (&Roundtrip, options),
            Self::Throughput(options) => (&Throughput, options),
        }
    }
}

/// Options every workload takes.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    /// What to measure; repeat for several [default: all]
    #[arg(long = "subject", value_name = "NAME", value_parser = subject_names())]
    pub subjects: Vec<String>,

    /// What the messages travel over: loopback TCP, or a unix socket
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub transport: Transport,

    /// Length of every body, at least 8 (its sequence number); K and M mean 1024 and 1024 squared
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = size::parse)]
    pub size: usize,

    /// Time per subject in seconds, split over the rounds
    #[arg(long, value_name = "S", default_value = "5", value_parser = parse_seconds)]
    pub seconds: Duration,

    /// Rounds per subject; the subjects take turns round by round
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Cores for side A and side B, as in 0,1; 0,0 puts both on one core [default: left to the system]
    #[arg(long, value_name = "A,B")]
    pub pin: Option<Pin>,

    /// What a side does while it waits: spin on its core (needs two cores), or sleep in the kernel
    #[arg(long, value_enum, default_value_t = Wait::Park)]
    pub wait: Wait,

    /// Write the results as JSON to FILE; with - to stdout, and the table to stderr
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What messages travel over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP over the loopback device.
    Tcp,
    /// A unix stream socket.
    Ipc,
}

/// What a side does while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Looks again and again.
    Spin,
    /// Sleeps in the kernel.
    Park,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Ipc => "ipc",
        })
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spin => "spin",
            Self::Park => "park",
        })
    }
}

fn subject_names() -> PossibleValuesParser {
    PossibleValuesParser::new(subject::ALL.iter().map(|subject| subject.name()))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.001..=86_400.0).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err("a run takes a thousandth of a second to a day".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_and_values() {
        let cli = Cli::try_parse_from([
            "zring-bench",
            "throughput",
            "--size",
            "64K",
            "--pin",
            "0,1",
            "--seconds",
            "0.2",
        ]);
        let Command::Throughput(options) = cli.unwrap().command else { panic!("another workload") };
        assert_eq!(options.size, 65_536);
        assert_eq!(options.pin, Some(Pin { a: 0, b: 1 }));
        assert_eq!(options.seconds, Duration::from_millis(200));
        assert_eq!(
            (options.rounds, options.wait, options.transport),
            (5, Wait::Park, Transport::Tcp)
        );
        assert!(options.subjects.is_empty());
    }

    #[test]
    fn refusals() {
        for wrong in [
            ["--size", "4"],
            ["--seconds", "0"],
            ["--seconds", "NaN"],
            ["--rounds", "0"],
            ["--subject", "nobody"],
            ["--pin", "0"],
            ["--wait", "sleep"],
        ] {
            let arguments = ["zring-bench", "roundtrip"].into_iter().chain(wrong);
            assert!(Cli::try_parse_from(arguments).is_err(), "{wrong:?}");
        }
    }
}
