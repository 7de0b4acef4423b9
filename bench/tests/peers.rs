//! Runs the binary end to end on the other libraries.
#![cfg(feature = "peers")]

use std::process::{Command, Output};

use serde_json::Value;

const PEERS: [&str; 6] = ["libzmq", "omq", "rzmq", "rzmq-uring", "monocoque", "nng"];

fn bench(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_zring-bench")).args(arguments).output();
    output.expect("the binary starts")
}

/// Runs every peer for a fraction of a second and returns the results of those that can do what is asked for.
fn measure(arguments: &[&str]) -> Vec<Value> {
    let mut common = vec!["--seconds", "0.2", "--rounds", "1", "--json", "-"];
    for peer in PEERS {
        common.extend(["--subject", peer]);
    }
    let output = bench(&[arguments, &common].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON alone");
    let results = report["results"].as_array().expect("results is a list").clone();
    for result in &results {
        assert!(result["messages_per_second"].as_f64().is_some(), "{arguments:?}: {result}");
        assert!(result["settings"].as_str().is_some_and(|text| !text.is_empty()), "{result}");
    }
    results
}

fn names(results: &[Value]) -> Vec<&str> {
    results.iter().filter_map(|result| result["subject"].as_str()).collect()
}

const WITHOUT_URING: [&str; 5] = ["libzmq", "omq", "rzmq", "monocoque", "nng"];

#[test]
fn throughput() {
    for size in ["8", "300", "64K"] {
        assert_eq!(names(&measure(&["throughput", "--size", size])), PEERS);
        let over_ipc = measure(&["throughput", "--size", size, "--transport", "ipc"]);
        assert_eq!(names(&over_ipc), WITHOUT_URING);
    }
}

#[test]
fn roundtrips() {
    for size in ["8", "64K"] {
        for (transport, peers) in [("tcp", &PEERS[..]), ("ipc", &WITHOUT_URING)] {
            let results = measure(&["roundtrip", "--size", size, "--transport", transport]);
            assert_eq!(names(&results), peers);
            for result in results {
                assert!(result["messages"].as_u64().unwrap() > 0, "{result}");
                assert!(result["latency_ns"]["p50"].as_u64().unwrap() > 0, "{result}");
            }
        }
    }
}

#[test]
fn within_the_process() {
    for workload in ["throughput", "roundtrip"] {
        let results = measure(&[workload, "--transport", "inproc"]);
        assert_eq!(names(&results), ["libzmq", "omq", "rzmq", "nng"]);
    }
}

#[test]
fn spinning() {
    for workload in ["throughput", "roundtrip"] {
        assert_eq!(names(&measure(&[workload, "--wait", "spin"])), PEERS);
    }
}

#[test]
fn fan_out() {
    for subscribers in ["1", "5"] {
        let results = measure(&["fanout", "--subscribers", subscribers]);
        assert_eq!(names(&results), PEERS);
        for result in &results {
            assert!(result["messages"].as_u64().unwrap() > 0, "{result}");
        }
        let over_ipc = measure(&["fanout", "--subscribers", subscribers, "--transport", "ipc"]);
        assert_eq!(names(&over_ipc), ["libzmq", "omq", "rzmq", "nng"]);
    }
}

#[test]
fn silent_connections() {
    let results = measure(&["connections", "--idle", "20"]);
    assert_eq!(names(&results), ["libzmq", "omq"]);
}
