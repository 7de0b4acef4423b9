//! Runs the binary end to end on the workloads with more than one peer or connection.
#![cfg(unix)]

use std::process::{Command, Output};

use serde_json::Value;

const SUBJECTS: [&str; 4] = ["raw", "raw-epoll", "zring", "zring-bg"];

fn bench(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_zring-bench")).args(arguments).output();
    output.expect("the binary starts")
}

/// Runs one short round for each subject, and returns the results by subject.
fn measure(subjects: &[&str], arguments: &[&str]) -> Vec<Value> {
    let mut all = arguments.to_vec();
    subjects.iter().for_each(|subject| all.extend(["--subject", *subject]));
    // Large bodies come in few bursts, and the first is not timed.
    let seconds =
        if arguments.contains(&"100K") && !arguments.contains(&"--rate") { "0.5" } else { "0.1" };
    all.extend(["--seconds", seconds, "--rounds", "1", "--json", "-"]);
    let output = bench(&all);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON alone");
    let results = report["results"].as_array().expect("results is a list").clone();
    let names: Vec<_> = results.iter().map(|result| result["subject"].as_str().unwrap()).collect();
    assert_eq!(names, subjects, "{stderr}");
    for result in &results {
        assert!(result["messages"].as_u64().unwrap() > 0, "{result}");
        assert!(is_positive(&result["messages_per_second"]), "{result}");
    }
    results
}

fn is_positive(figure: &Value) -> bool {
    figure.as_f64().is_some_and(|figure| figure > 0.0)
}

#[test]
fn fan_out_loses_nothing_within_its_window() {
    for transport in ["tcp", "ipc"] {
        for (size, subscribers) in [("16", "1"), ("64", "7"), ("1000", "3"), ("100K", "2")] {
            let arguments =
                ["fanout", "--transport", transport, "--size", size, "--subscribers", subscribers];
            for result in measure(&SUBJECTS, &arguments) {
                assert_eq!(result["dropped"], 0, "{result}");
                assert_eq!(result["peers"].to_string(), subscribers, "{result}");
                assert!(is_positive(&result["offered_rate"]), "{result}");
            }
        }
    }
}

#[test]
fn a_publisher_may_run_free() {
    let results = measure(&SUBJECTS, &["fanout", "--subscribers", "3", "--free-running"]);
    // A stream socket holds its sender back, and so drops nothing.
    assert_eq!(results[0]["dropped"], 0);
    assert!(results.iter().all(|result| result["dropped"].is_u64()));
}

#[test]
fn fan_in() {
    for (size, senders) in [("16", "1"), ("64", "7"), ("1000", "3"), ("100K", "2")] {
        for result in measure(&SUBJECTS, &["fanin", "--size", size, "--senders", senders]) {
            assert_eq!(result["peers"].to_string(), senders, "{result}");
        }
    }
    measure(&SUBJECTS, &["fanin", "--transport", "ipc"]);
}

#[test]
fn pipelines() {
    for size in ["16", "1000", "100K"] {
        for result in measure(&SUBJECTS, &["pipeline", "--size", size]) {
            assert!(result["latency_ns"]["p50"].is_null(), "{result}");
        }
    }
    for result in measure(&SUBJECTS, &["pipeline", "--rate", "2000", "--transport", "ipc"]) {
        assert_eq!(result["offered_rate"], 2000.0, "{result}");
        assert_eq!(result["messages"], 200, "{result}");
        assert!(is_positive(&result["latency_ns"]["p50"]), "{result}");
    }
}

#[test]
fn schedules() {
    for size in ["16", "1000", "100K"] {
        for workload in ["latency", "roundtrip"] {
            for result in measure(&SUBJECTS, &[workload, "--rate", "1000", "--size", size]) {
                assert_eq!(result["messages"], 100, "{result}");
                assert!(is_positive(&result["latency_ns"]["p50"]), "{result}");
            }
        }
    }
}

#[test]
fn churn() {
    for transport in ["tcp", "ipc"] {
        for result in measure(&SUBJECTS, &["churn", "--transport", transport]) {
            assert!(is_positive(&result["latency_ns"]["p50"]), "{result}");
        }
    }
}

#[test]
fn everything_spins_too() {
    for workload in ["fanout", "fanin", "pipeline", "latency", "churn"] {
        measure(&["raw", "raw-epoll", "zring"], &[workload, "--wait", "spin"]);
    }
}

#[test]
fn within_the_process() {
    for workload in ["fanout", "fanin", "pipeline", "churn", "latency"] {
        measure(&["zring", "zring-bg"], &[workload, "--transport", "inproc"]);
    }
}

#[test]
fn silent_connections_have_a_size() {
    for result in measure(&["zring", "zring-bg"], &["connections", "--idle", "50"]) {
        assert!(result["bytes_per_connection"].is_number(), "{result}");
    }
}

#[test]
fn a_sweep_finds_a_rate() {
    let arguments = ["roundtrip", "--sweep", "--bound-p999", "500ms"];
    let results = measure(&["raw"], &arguments);
    // Whatever the machine does, a bound of half a second leaves room for some ten a second.
    assert!(results[0]["offered_rate"].as_f64().unwrap() >= 10.0, "{}", results[0]);
    assert!(results[0]["latency_ns"]["p999"].as_u64().unwrap() <= 500_000_000);
    assert_eq!(results[0]["ratio_to_raw"], 1.0);
    let hopeless = ["latency", "--sweep", "--bound-p999", "1ns", "--subject", "raw"];
    let output = bench(&[&hopeless[..], &["--seconds", "0.02", "--rounds", "1"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("late") && stderr.contains("at no rate"), "{stderr}");
}

#[test]
fn raw_says_what_it_does_not_play() {
    let output = bench(&["fanout", "--subject", "raw", "--transport", "inproc"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("one sender and one receiver"), "{stderr}");
}
