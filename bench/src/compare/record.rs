//! The parts of a JSON report that a comparison reads. Unknown fields are ignored, so that reports of other versions
//! can be read.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::Figure;
use crate::error::{Failure, Result};
use crate::record::LATENCY_NS_MAX;

/// A JSON report.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// The report's rows.
    pub results: Vec<Entry>,
    /// The machine of the measurement.
    #[serde(default)]
    pub machine: Place,
}

/// The machine of a report, with the properties that are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Place {
    /// Processor model.
    #[serde(default)]
    pub cpu_model: Option<String>,
    /// Kernel release.
    #[serde(default)]
    pub kernel: Option<String>,
}

/// A row of a report.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// Name of the workload.
    pub workload: String,
    /// Name of the subject.
    pub subject: String,
    /// The transport of the messages.
    pub transport: String,
    /// Length of every body.
    pub size_bytes: Option<u64>,
    /// Silent connections.
    #[serde(default)]
    pub connections: Option<u64>,
    /// Subscribers, or senders.
    #[serde(default)]
    pub peers: Option<u64>,
    /// How a side waited.
    pub wait: String,
    /// Cores of the sides.
    #[serde(default)]
    pub pin: Option<[u64; 2]>,
    /// Offered messages per second.
    #[serde(default)]
    pub offered_rate: Option<f64>,
    /// The figure behind the ratio to the floor.
    #[serde(default)]
    pub compares: Option<String>,
    /// CPU time per million messages.
    #[serde(default)]
    pub cpu_seconds_per_million: Option<f64>,
    /// Percentiles over all rounds.
    #[serde(default)]
    pub latency_ns: Latencies,
    /// Median rate.
    #[serde(default)]
    pub messages_per_second: f64,
    /// The rate of each round.
    #[serde(default)]
    pub rounds: Vec<f64>,
    /// The latencies of each round.
    #[serde(default)]
    pub rounds_latency_ns: Vec<Latencies>,
}

/// The percentiles that are compared.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Latencies {
    /// Median.
    #[serde(default)]
    pub p50: Option<u64>,
    /// 99th percentile.
    #[serde(default)]
    pub p99: Option<u64>,
}

impl Record {
    /// Reads a report from text.
    ///
    /// # Errors
    /// [`Failure::Setup`] if the text is no report.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Failure::Setup(format!("this is no report of zring-bench: {error}")))
    }

    /// Reads a report from a file.
    ///
    /// # Errors
    /// [`Failure::Setup`], with the name of the file, if the file cannot be read or is no report.
    pub fn read(path: &Path) -> Result<Self> {
        let named =
            |error: &dyn std::fmt::Display| Failure::Setup(format!("{}: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| named(&error))?;
        Self::parse(&text).map_err(|error| named(&error))
    }
}

impl Entry {
    /// A figure over all rounds; `None` if it was not measured.
    pub fn figure(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::P50 => latency(self.latency_ns.p50),
            Figure::P99 => latency(self.latency_ns.p99),
            Figure::Rate => Some(self.messages_per_second).filter(|_| self.size_bytes.is_some()),
            Figure::Cpu => self.cpu_seconds_per_million,
        }
    }

    /// A figure of each round; empty if it was not measured or not recorded per round.
    pub fn figure_by_round(&self, figure: Figure) -> Vec<f64> {
        let latencies = |pick: fn(&Latencies) -> Option<u64>| -> Option<Vec<f64>> {
            self.rounds_latency_ns.iter().map(|round| latency(pick(round))).collect()
        };
        match figure {
            Figure::P50 => latencies(|round| round.p50),
            Figure::P99 => latencies(|round| round.p99),
            Figure::Rate => Some(self.rounds.clone()).filter(|_| self.size_bytes.is_some()),
            Figure::Cpu => None,
        }
        .unwrap_or_default()
    }

    /// The figure that decides whether a row got slower: latency where it is measured and is the point of the workload.
    pub fn decisive(&self) -> Figure {
        match (self.compares.as_deref(), self.latency_ns.p50) {
            (Some("rate/raw"), _) | (_, None) => Figure::Rate,
            _ => Figure::P50,
        }
    }

    /// The measured cell, without the subject.
    pub fn cell(&self) -> String {
        let mut parts = vec![format!("{} over {}", self.workload, self.transport)];
        parts.extend(self.size_bytes.map(|bytes| format!("{bytes} B bodies")));
        parts.extend(self.peers.map(|count| format!("{count} peers")));
        parts.extend(self.connections.map(|count| format!("{count} silent connections")));
        // For a sweep the offered rate is the result; for a schedule it belongs to the request.
        let schedule = self.offered_rate.filter(|_| self.decisive() == Figure::P50);
        parts.extend(schedule.map(|rate| format!("{rate:.0} offered a second")));
        parts.push(self.wait.clone());
        parts.push(self.pin.map_or("not pinned".to_owned(), |[a, b]| format!("cores {a} and {b}")));
        parts.join(", ")
    }
}

fn latency(ns: Option<u64>) -> Option<f64> {
    ns.map(|ns| ns.min(LATENCY_NS_MAX) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Report, json, samples};

    #[test]
    fn our_own_reports_are_read() {
        let outcomes = [
            samples::outcome("roundtrip", "zring", 1000),
            samples::outcome("throughput", "raw", 1000),
            samples::outcome("idle", "zring", 1000),
        ];
        let text = json::render(&Report::new(&outcomes)).unwrap();
        let record = Record::parse(&text).unwrap();
        let [trips, stream, idle] = &record.results[..] else { panic!("{record:?}") };
        assert_eq!(trips.decisive(), Figure::P50);
        assert_eq!(trips.figure(Figure::P50), Some(6_700.0));
        assert_eq!(trips.figure_by_round(Figure::P50), [6_700.0; 3]);
        assert!(trips.cell().starts_with("roundtrip over tcp, 64 B bodies, park, cores 0 and 1"));
        assert_eq!(stream.decisive(), Figure::Rate);
        assert_eq!(stream.figure_by_round(Figure::Rate), [500.0, 1000.0, 250.0]);
        assert!(stream.figure_by_round(Figure::P50).iter().all(|ns| *ns > 0.0));
        assert_eq!(idle.figure(Figure::Rate), None);
    }

    #[test]
    fn refusals_name_the_file() {
        let failure = Record::read(Path::new("/nowhere/old.json")).unwrap_err().to_string();
        assert!(failure.starts_with("/nowhere/old.json"), "{failure}");
        for text in ["", "{}", "[]", r#"{"results": 7}"#, r#"{"results": [{}]}"#] {
            assert!(Record::parse(text).is_err(), "{text}");
        }
    }
}
