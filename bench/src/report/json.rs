//! The JSON report: `{"results": [Outcome, ...], "changes": [Row, ...], "machine": Machine, "command": "..."}`.

use std::io;

use serde::Serialize;

use crate::compare::Row;
use crate::error::Result;
use crate::machine::Machine;
use crate::report::{Outcome, Report};

#[derive(Serialize)]
struct Shape<'a> {
    results: &'a [Outcome],
    changes: &'a [Row],
    machine: &'a Machine,
    command: &'a str,
}

/// The report as indented JSON with a newline at its end.
///
/// # Errors
/// None in practice: every part of a report serialises to JSON.
pub fn render(report: &Report<'_>) -> Result<String> {
    let Report { outcomes: results, changes, machine, command } = report;
    let text = serde_json::to_string_pretty(&Shape { results, changes, machine, command })
        .map_err(io::Error::from)?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn shape() {
        let results = [
            samples::outcome("roundtrip", "raw", 100),
            samples::outcome("throughput", "zring", 100),
            samples::outcome("idle", "zring-bg", 100),
        ];
        let text = render(&Report::new(&results)).unwrap();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        for result in report["results"].as_array().unwrap() {
            for key in [
                "workload",
                "subject",
                "transport",
                "driver",
                "connections",
                "idle_cpu_percent",
                "idle_switches_per_second",
                "bytes_per_connection",
                "size_bytes",
                "messages",
                "seconds",
                "messages_per_second",
                "bytes_per_second",
                "cpu_seconds_per_million",
                "latency_ns",
                "wait",
                "pin",
                "rounds",
                "rounds_latency_ns",
                "compares",
                "ratio_to_raw",
                "settings",
                "peers",
                "offered_rate",
                "dropped",
                "file",
            ] {
                assert!(result.get(key).is_some(), "{key}");
            }
            for key in ["p50", "p90", "p99", "p999", "max"] {
                assert!(result["latency_ns"].get(key).is_some(), "{key}");
            }
        }
        assert_eq!(report["results"][0]["latency_ns"]["p50"], 6_700);
        assert_eq!(report["results"][0]["pin"], serde_json::json!([0, 1]));
        assert!(report["results"][1]["latency_ns"]["p50"].is_null());
        assert_eq!(report["results"][1]["transport"], "tcp");
        assert_eq!(report["results"][1]["driver"], "ready");
        assert!(report["results"][2]["size_bytes"].is_null());
        assert_eq!(report["results"][2]["bytes_per_connection"], 3200.0);
        for key in [
            "kernel",
            "cpu_model",
            "cores",
            "memory_bytes",
            "governor",
            "io_uring",
            "zring_version",
            "date",
            "findings",
        ] {
            assert!(report["machine"].get(key).is_some(), "{key}");
        }
        assert!(report["command"].is_string());
        assert_eq!(report["results"][0]["rounds_latency_ns"][2]["p50"], 6_700);
    }
}
