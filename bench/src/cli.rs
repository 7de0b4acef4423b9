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
use crate::workload::connections::Connections;
use crate::workload::idle::Idle;
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
  zring-bench throughput --subject raw --transport ipc --size 64K --json -
  zring-bench roundtrip --subject raw --subject zring-bg --driver uring --pin 0,1
  zring-bench throughput --transport inproc --wait spin
  zring-bench connections --idle 1000 --subject zring --driver ready
  zring-bench idle --connections 100 --subject zring-bg";

/// Measures zring beside the raw socket floor, in one run.
///
/// Two threads of this process talk to each other: side A sends or asks, side B receives or replies. All subjects
/// run in turn, several rounds each, and the medians over the rounds are reported with their ratio to `raw`: plain
/// sockets with the same framing (or plain memory) and no library. `zring` is its inline sockets, `zring-bg` its
/// background sockets. A subject that cannot do what is asked for is left out, with a note. Take the ratios;
/// absolute figures belong to the machine and to the minute.
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
    Roundtrip(Traffic),
    /// How many messages a second get through: one stream, as fast as it goes
    Throughput(Traffic),
    /// How long a request and its reply take beside many connections that are open and silent
    Connections(Beside),
    /// What connections cost that nobody uses: CPU time, wake-ups, memory
    Idle(Crowd),
}

/// What a command line asks for.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// What happens between the sides.
    pub workload: &'static dyn Workload,
    /// What every workload is told.
    pub options: &'a Options,
    /// Length of every body; `None` for a workload without messages.
    pub size_bytes: Option<usize>,
    /// Silent connections; `None` for a workload that has none.
    pub connections: Option<u32>,
}

impl Command {
    /// The workload and its options.
    pub fn plan(&self) -> Plan<'_> {
        match self {
            Self::Roundtrip(traffic) => traffic.plan(&Roundtrip),
            Self::Throughput(traffic) => traffic.plan(&Throughput),
            Self::Connections(beside) => {
                Plan { connections: Some(beside.idle), ..beside.traffic.plan(&Connections) }
            }
            Self::Idle(crowd) => Plan {
                workload: &Idle,
                options: &crowd.options,
                size_bytes: None,
                connections: Some(crowd.connections),
            },
        }
    }
}

/// Options of workloads with messages.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Traffic {
    /// Options every workload takes.
    #[command(flatten)]
    pub options: Options,

    /// Length of every body, at least 8 (its sequence number); K and M mean 1024 and 1024 squared
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = size::parse)]
    pub size: usize,
}

impl Traffic {
    fn plan(&self, workload: &'static dyn Workload) -> Plan<'_> {
        Plan { workload, options: &self.options, size_bytes: Some(self.size), connections: None }
    }
}

/// Options of traffic beside silent connections.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Beside {
    /// Options of workloads with messages.
    #[command(flatten)]
    pub traffic: Traffic,

    /// Silent connections beside the busy one
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub idle: u32,
}

/// Options of silent connections alone.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Crowd {
    /// Options every workload takes.
    #[command(flatten)]
    pub options: Options,

    /// Connections between the two contexts
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
}

/// Options every workload takes.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// What to measure; repeat for several [default: all]
    #[arg(long = "subject", value_name = "NAME", value_parser = subject_names())]
    pub subjects: Vec<String>,

    /// What the messages travel over: loopback TCP, a unix socket, or the memory of this process
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub transport: Transport,

    /// What zring and zring-bg ask the system through: io_uring (zring-bg: its Runner does), or readiness
    /// (zring-bg: callers that wait do; `mobile` says the same) [default: the library chooses]
    #[arg(long, value_enum)]
    pub driver: Option<Driver>,

    /// Time per subject in seconds, split over the rounds
    #[arg(long, value_name = "S", default_value = "5", value_parser = parse_seconds)]
    pub seconds: Duration,

    /// Rounds per subject; the subjects take turns round by round
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Cores for side A and side B and the threads their contexts run, as in 0,1; 0,0 puts all on one core
    /// [default: left to the system]
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
    /// The memory of this process.
    Inproc,
}

/// What zring's contexts ask the operating system through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// io_uring. Of a background context its Runner alone does.
    Uring,
    /// Readiness. Of a background context callers that wait do.
    #[value(alias = "mobile")]
    Ready,
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
            Self::Inproc => "inproc",
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
        let cli = cli.unwrap();
        let Plan { options, size_bytes, connections, workload } = cli.command.plan();
        assert_eq!((workload.name(), size_bytes, connections), ("throughput", Some(65_536), None));
        assert_eq!(options.pin, Some(Pin { a: 0, b: 1 }));
        assert_eq!(options.seconds, Duration::from_millis(200));
        assert_eq!(
            (options.rounds, options.wait, options.transport),
            (5, Wait::Park, Transport::Tcp)
        );
        assert!(options.subjects.is_empty());
        assert_eq!(options.driver, None);
    }

    #[test]
    fn every_command_has_its_plan() {
        for (arguments, name, size_bytes, connections) in [
            (&["roundtrip"][..], "roundtrip", Some(64), None),
            (&["connections"], "connections", Some(64), Some(1000)),
            (&["connections", "--idle", "0", "--size", "8"], "connections", Some(8), Some(0)),
            (&["idle", "--connections", "7"], "idle", None, Some(7)),
        ] {
            let cli = Cli::try_parse_from(["zring-bench"].iter().chain(arguments)).unwrap();
            let plan = cli.command.plan();
            assert_eq!(plan.workload.name(), name);
            assert_eq!((plan.size_bytes, plan.connections), (size_bytes, connections));
        }
    }

    #[test]
    fn drivers() {
        for (name, driver) in
            [("uring", Driver::Uring), ("ready", Driver::Ready), ("mobile", Driver::Ready)]
        {
            let cli = Cli::try_parse_from(["zring-bench", "idle", "--driver", name]).unwrap();
            assert_eq!(cli.command.plan().options.driver, Some(driver));
        }
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
            ["--driver", "epoll"],
            ["--transport", "udp"],
            ["--idle", "10"],
            ["--connections", "10"],
        ] {
            let arguments = ["zring-bench", "roundtrip"].into_iter().chain(wrong);
            assert!(Cli::try_parse_from(arguments).is_err(), "{wrong:?}");
        }
        for wrong in [
            ["idle", "--connections", "0"],
            ["idle", "--size", "64"],
            ["connections", "--idle", "-1"],
            ["connections", "--idle", "100001"],
        ] {
            assert!(Cli::try_parse_from(["zring-bench"].into_iter().chain(wrong)).is_err());
        }
    }
}
