//! The command line of `zring-bench`.

use std::fmt;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::pin::Pin;
use crate::report::Outputs;
use crate::size;
use crate::subject;
use crate::workload::Workload;
use crate::workload::churn::Churn;
use crate::workload::connections::Connections;
use crate::workload::fanin::FanIn;
use crate::workload::fanout::FanOut;
use crate::workload::idle::Idle;
use crate::workload::latency::Latency;
use crate::workload::pipeline::{PacedPipeline, Pipeline};
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
  zring-bench throughput --size 1M --receive into
  zring-bench throughput --transport inproc --wait spin
  zring-bench latency --rate 50000
  zring-bench roundtrip --sweep --bound-p999 200us
  zring-bench fanout --subscribers 8
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
    Roundtrip(Scheduled),
    /// How long a message takes one way, from when it was due: sent on a schedule, whatever became of those before
    Latency(Scheduled),
    /// How many messages a second get through: one stream, as fast as it goes
    Throughput(Streamed),
    /// How many messages a second get through a worker that sends on what it receives
    Pipeline(Scheduled),
    /// How many messages a second one publisher gets to many subscribers
    Fanout(Subscribed),
    /// How many messages a second one receiver takes from many senders
    Fanin(Gathered),
    /// How long it takes to connect, get one request answered and disconnect
    Churn(Traffic),
    /// How long a request and its reply take beside many connections that are open and silent
    Connections(Beside),
    /// What connections cost that nobody uses: CPU time, wake-ups, memory
    Idle(Crowd),
}

/// The request of a command line. A program with its own subjects starts from [`Plan::new`].
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The traffic between the sides.
    pub workload: &'static dyn Workload,
    /// The options of every workload.
    pub options: &'a Options,
    /// Length of every body; `None` for a workload without messages.
    pub size_bytes: Option<usize>,
    /// Silent connections; `None` for a workload without any.
    pub connections: Option<u32>,
    /// Subscribers of a fan-out, senders of a fan-in; `None` for any other workload.
    pub peers: Option<u32>,
    /// Scheduled messages per second; `None`: no schedule, each message follows the one before or is sent as fast as
    /// possible.
    pub rate: Option<f64>,
    /// Searches for the highest rate whose p99.9 stays within this bound, instead of measuring one rate.
    pub bound_p999: Option<Duration>,
    /// A fan-out without a window.
    pub is_free_running: bool,
    /// Where the receiver of a stream gets its messages.
    pub receive: Receive,
}

impl<'a> Plan<'a> {
    /// A plan for messages of `size_bytes` between two sides, as fast as possible.
    pub fn new(workload: &'static dyn Workload, options: &'a Options, size_bytes: usize) -> Self {
        Self {
            workload,
            options,
            size_bytes: Some(size_bytes),
            connections: None,
            peers: None,
            rate: None,
            bound_p999: None,
            is_free_running: false,
            receive: Receive::Lease,
        }
    }
}

impl Command {
    /// The workload and its options.
    pub fn plan(&self) -> Plan<'_> {
        match self {
            Self::Roundtrip(scheduled) => scheduled.plan(&Roundtrip, None),
            Self::Latency(scheduled) => scheduled.plan(&Latency, Some(RATE)),
            Self::Throughput(streamed) => {
                Plan { receive: streamed.receive, ..streamed.traffic.plan(&Throughput) }
            }
            Self::Pipeline(scheduled) if scheduled.keeps_schedule() => {
                scheduled.plan(&PacedPipeline, None)
            }
            Self::Pipeline(scheduled) => scheduled.plan(&Pipeline, None),
            Self::Fanout(subscribed) => Plan {
                peers: Some(subscribed.subscribers),
                is_free_running: subscribed.free_running,
                ..subscribed.traffic.plan(&FanOut)
            },
            Self::Fanin(gathered) => {
                Plan { peers: Some(gathered.senders), ..gathered.traffic.plan(&FanIn) }
            }
            Self::Churn(traffic) => traffic.plan(&Churn),
            Self::Connections(beside) => {
                Plan { connections: Some(beside.idle), ..beside.traffic.plan(&Connections) }
            }
            Self::Idle(crowd) => Plan {
                size_bytes: None,
                connections: Some(crowd.connections),
                ..Plan::new(&Idle, &crowd.options, 0)
            },
        }
    }
}

/// Messages per second of a workload that needs a schedule.
const RATE: f64 = 10_000.0;

/// Options of workloads with messages.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Traffic {
    /// Options every workload takes.
    #[command(flatten)]
    pub options: Options,

    /// Length of every body, at least 8 (its sequence number); K, M and G are powers of 1024
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = size::parse)]
    pub size: usize,
}

impl Traffic {
    fn plan(&self, workload: &'static dyn Workload) -> Plan<'_> {
        Plan::new(workload, &self.options, self.size)
    }
}

/// Options of a stream.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Streamed {
    /// Options of workloads with messages.
    #[command(flatten)]
    pub traffic: Traffic,

    /// How side B receives: messages that the library owns, or bodies written into one buffer of the caller's
    #[arg(long, value_enum, default_value_t = Receive::Lease)]
    pub receive: Receive,
}

/// Options of workloads that can keep a schedule.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Scheduled {
    /// Options of workloads with messages.
    #[command(flatten)]
    pub traffic: Traffic,

    /// Messages a second; each is due on a schedule, and its time counts from when it was due
    /// [default: latency 10000, the others keep no schedule]
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub rate: Option<f64>,

    /// Look for the highest rate at which p99.9 stays within --bound-p999
    #[arg(long, requires = "bound_p999", conflicts_with = "rate")]
    pub sweep: bool,

    /// Highest p99.9 of a sweep, as in 200us or 1.5ms
    #[arg(long, value_name = "TIME", requires = "sweep", value_parser = parse_time)]
    pub bound_p999: Option<Duration>,
}

impl Scheduled {
    fn keeps_schedule(&self) -> bool {
        self.rate.is_some() || self.sweep
    }

    fn plan(&self, workload: &'static dyn Workload, rate: Option<f64>) -> Plan<'_> {
        Plan {
            rate: self.rate.or(rate),
            bound_p999: self.bound_p999,
            ..self.traffic.plan(workload)
        }
    }
}

/// Options of a fan-out.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Subscribed {
    /// Options of workloads with messages.
    #[command(flatten)]
    pub traffic: Traffic,

    /// Subscribers, each with a socket and a connection of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub subscribers: u32,

    /// Do not hold the publisher back; what is dropped is counted
    #[arg(long)]
    pub free_running: bool,
}

/// Options of a fan-in.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Gathered {
    /// Options of workloads with messages.
    #[command(flatten)]
    pub traffic: Traffic,

    /// Senders, each with a context, a socket and a connection of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub senders: u32,
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
    /// What to measure; repeat for several [default: all but raw-epoll and raw-uring]
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

    /// What a side does while it waits: spin on its core (needs two cores), look for a moment before it sleeps (where the
    /// library can), or sleep in the kernel
    #[arg(long, value_enum, default_value_t = Wait::Park)]
    pub wait: Wait,

    /// Side A waits for that part of each of its round trips or bursts in addition: a check of comparisons
    #[arg(long, value_name = "PERCENT", default_value = "0", hide = true, value_parser = crate::compare::builds::parse_percent)]
    pub handicap: f64,

    /// Where the report goes.
    #[command(flatten)]
    pub outputs: Outputs,
}

impl Default for Options {
    /// The options of an empty command line.
    fn default() -> Self {
        Self {
            subjects: Vec::new(),
            transport: Transport::Tcp,
            driver: None,
            seconds: Duration::from_secs(5),
            rounds: 5,
            pin: None,
            wait: Wait::Park,
            handicap: 0.0,
            outputs: Outputs::default(),
        }
    }
}

/// The transport of the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP over the loopback device.
    #[default]
    Tcp,
    /// A unix stream socket.
    Ipc,
    /// The memory of this process.
    Inproc,
}

/// Where the receiver of a stream gets its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Receive {
    /// Where the library likes to: of zring a message, which may be a lease of its receive buffer.
    #[default]
    Lease,
    /// Into one buffer that the caller brings, for one message after the other.
    Into,
    /// As `into`, the buffer being registered with the kernel (io_uring's fixed buffers).
    Registered,
}

impl Receive {
    /// The option's spelling on the command line.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Lease => "--receive lease",
            Self::Into => "--receive into",
            Self::Registered => "--receive registered",
        }
    }
}

/// The system interface of zring's contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// io_uring. Of a background context its Runner alone does.
    Uring,
    /// Readiness. Of a background context callers that wait do.
    #[value(alias = "mobile")]
    Ready,
}

/// How a side waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Looks again and again.
    Spin,
    /// Looks for a moment where the library can and sees that it pays, then sleeps in the kernel.
    Adaptive,
    /// Sleeps in the kernel.
    #[default]
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
            Self::Adaptive => "adaptive",
            Self::Park => "park",
        })
    }
}

fn subject_names() -> PossibleValuesParser {
    PossibleValuesParser::new(subject::ALL.iter().map(|subject| subject.name()))
}

pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.001..=86_400.0).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err("a run takes a thousandth of a second to a day".to_owned())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.1..=1e8).contains(&rate) {
        return Ok(rate);
    }
    Err("a schedule has a tenth of a message to 100 million a second".to_owned())
}

/// Parses `200us`, `1.5ms`, `800ns` or `1s`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err("a time has one of the units ns, us, ms and s".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is not a time"))?;
    match number * seconds {
        time if (1e-9..=60.0).contains(&time) => Ok(Duration::from_secs_f64(time)),
        _ => Err("a bound is a nanosecond to a minute".to_owned()),
    }
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
        let Plan { options, size_bytes, connections, workload, .. } = cli.command.plan();
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
    fn plans_of_many() {
        let plan = |arguments: &[&str]| {
            let cli = Cli::try_parse_from(["zring-bench"].iter().chain(arguments)).unwrap();
            let plan = cli.command.plan();
            (plan.workload.name(), plan.peers, plan.rate, plan.is_free_running)
        };
        assert_eq!(plan(&["fanout"]), ("fanout", Some(4), None, false));
        let free = ["fanout", "--subscribers", "9", "--free-running"];
        assert_eq!(plan(&free), ("fanout", Some(9), None, true));
        assert_eq!(plan(&["fanin", "--senders", "3"]), ("fanin", Some(3), None, false));
        assert_eq!(plan(&["latency"]), ("latency", None, Some(10_000.0), false));
        assert_eq!(plan(&["pipeline", "--rate", "2.5"]), ("pipeline", None, Some(2.5), false));
        assert_eq!(plan(&["roundtrip"]), ("roundtrip", None, None, false));
        assert_eq!(plan(&["churn"]), ("churn", None, None, false));
    }

    #[test]
    fn ways_to_receive() {
        let receive = |arguments: &[&str]| {
            let cli = Cli::try_parse_from(["zring-bench"].iter().chain(arguments)).unwrap();
            cli.command.plan().receive
        };
        assert_eq!(receive(&["throughput"]), Receive::Lease);
        assert_eq!(receive(&["throughput", "--receive", "lease"]), Receive::Lease);
        assert_eq!(receive(&["throughput", "--receive", "into"]), Receive::Into);
        let registered = receive(&["throughput", "--receive", "registered"]);
        assert_eq!(
            (registered, registered.option()),
            (Receive::Registered, "--receive registered")
        );
        assert_eq!(receive(&["roundtrip"]), Receive::Lease);
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("200us"), Ok(Duration::from_micros(200)));
        assert_eq!(parse_time("1.5ms"), Ok(Duration::from_micros(1500)));
        for wrong in ["", "200", "us", "-1us", "0ms", "2m", "61s", "NaNs"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
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
            ["--rate", "0"],
            ["--bound-p999", "1ms"],
            ["--receive", "into"],
        ] {
            let arguments = ["zring-bench", "roundtrip"].into_iter().chain(wrong);
            assert!(Cli::try_parse_from(arguments).is_err(), "{wrong:?}");
        }
        for wrong in [
            ["idle", "--connections", "0"],
            ["idle", "--size", "64"],
            ["connections", "--idle", "-1"],
            ["connections", "--idle", "100001"],
            ["fanout", "--subscribers", "0"],
            ["throughput", "--rate", "5"],
            ["throughput", "--receive", "copy"],
        ] {
            assert!(Cli::try_parse_from(["zring-bench"].into_iter().chain(wrong)).is_err());
        }
        assert!(Cli::try_parse_from(["zring-bench", "roundtrip", "--sweep"]).is_err());
    }
}
