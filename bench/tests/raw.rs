//! Runs the binary end to end on the raw subject.

use std::process::{Command, Output};

use serde_json::Value;

mod common;

use common::transports;

fn bench(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_zring-bench")).args(arguments).output();
    output.expect("the binary starts")
}

/// Runs `raw` for a fifth of a second and returns its JSON result.
fn measure(arguments: &[&str]) -> Value {
    measure_subject("raw", arguments)
}

fn measure_subject(subject: &str, arguments: &[&str]) -> Value {
    let common = ["--subject", subject, "--seconds", "0.2", "--rounds", "2", "--json", "-"];
    let output = bench(&[arguments, &common].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    assert!(stderr.contains("subject"), "the table goes to stderr: {stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON alone");
    let results = report["results"].as_array().expect("results is a list");
    assert_eq!(results.len(), 1);
    assert!(report["machine"]["date"].as_str().is_some_and(|date| date.ends_with('Z')));
    results[0].clone()
}

fn check_common(result: &Value, workload: &str, transport: &str) {
    check_any(result, workload, transport);
    assert_eq!(result["subject"], "raw");
    assert_eq!(result["ratio_to_raw"], 1.0);
}

fn check_any(result: &Value, workload: &str, transport: &str) {
    assert_eq!(result["workload"], workload);
    assert_eq!(result["transport"], transport);
    assert!(result["messages"].as_u64().unwrap() > 0, "{result}");
    assert!(result["messages_per_second"].as_f64().unwrap() > 0.0, "{result}");
    assert_eq!(result["rounds"].as_array().unwrap().len(), 2);
}

#[test]
fn throughput() {
    for transport in transports() {
        // Short and long headers, a body as large as a batch, and one beyond the socket buffers.
        for size in ["8", "255", "256", "40000", "64K", "1M"] {
            let result = measure(&["throughput", "--transport", transport, "--size", size]);
            check_common(&result, "throughput", transport);
            assert!(result["latency_ns"]["p50"].is_null());
        }
    }
}

#[test]
fn throughput_spinning() {
    let result = measure(&["throughput", "--wait", "spin", "--size", "1000"]);
    check_common(&result, "throughput", "tcp");
    assert_eq!(result["wait"], "spin");
}

#[test]
fn roundtrip() {
    for transport in transports() {
        for size in ["8", "300", "1M"] {
            let result = measure(&["roundtrip", "--transport", transport, "--size", size]);
            check_common(&result, "roundtrip", transport);
            let latency = |key: &str| result["latency_ns"][key].as_u64().unwrap();
            assert!(
                latency("p50") > 0
                    && latency("p50") <= latency("p99")
                    && latency("p99") <= latency("max")
            );
        }
    }
}

/// What `raw` does, the other ways to ask plain sockets do as well.
#[cfg(target_os = "linux")]
#[test]
fn other_ways() {
    for (subject, driver) in [("raw-epoll", Value::Null), ("raw-uring", "uring".into())] {
        for transport in ["tcp", "ipc"] {
            for (workload, sizes) in [
                ("throughput", &["8", "255", "256", "40000", "64K", "1M"][..]),
                ("roundtrip", &["8", "300", "64K", "1M"]),
                ("latency", &["64", "100K"]),
            ] {
                for size in sizes {
                    let arguments = [workload, "--transport", transport, "--size", size];
                    let result = measure_subject(subject, &arguments);
                    check_any(&result, workload, transport);
                    assert_eq!((&result["subject"], &result["driver"]), (&subject.into(), &driver));
                }
            }
        }
        for workload in ["throughput", "roundtrip", "latency"] {
            for size in ["1000", "100K"] {
                let result =
                    measure_subject(subject, &[workload, "--wait", "spin", "--size", size]);
                check_any(&result, workload, "tcp");
                assert_eq!(result["wait"], "spin");
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_raw_uring_cannot_do() {
    for arguments in [&["fanout"][..], &["roundtrip", "--transport", "inproc"], &["connections"]] {
        let output = bench(&[arguments, &["--subject", "raw-uring"]].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("raw-uring is left out"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn bodies_may_go_into_one_buffer() {
    let result = measure(&["throughput", "--receive", "into"]);
    check_common(&result, "throughput", "tcp");
    for subject in ["zring", "zring-bg"] {
        let arguments = ["throughput", "--receive", "into", "--size", "64K"];
        let result = measure_subject(subject, &arguments);
        assert_eq!(result["subject"], subject);
        assert!(result["settings"].as_str().unwrap().contains("receives into one buffer"));
    }
    let arguments = ["throughput", "--receive", "registered", "--size", "64K"];
    check_common(&measure(&arguments), "throughput", "tcp");
    let result = measure_subject("zring", &arguments);
    assert!(result["settings"].as_str().unwrap().contains("receives into one registered buffer"));
    let output = bench(&[&arguments[..], &["--subject", "zring-bg"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("--receive registered is not supported by zring-bg"), "{stderr}");
    assert_eq!(bench(&["roundtrip", "--receive", "into"]).status.code(), Some(2));
    let output = bench(&["throughput", "--receive", "into", "--subject", "raw-uring"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let due = if cfg!(target_os = "linux") {
        (Some(1), "--receive into is not supported by raw-uring")
    } else {
        (Some(2), "[possible values: raw, zring, zring-bg")
    };
    assert_eq!(output.status.code(), due.0);
    assert!(stderr.contains(due.1), "{stderr}");
}

#[test]
fn within_the_process() {
    for wait in ["park", "spin"] {
        for size in ["8", "300", "64K", "1M"] {
            for workload in ["throughput", "roundtrip"] {
                let arguments = [workload, "--transport", "inproc", "--size", size, "--wait", wait];
                let result = measure(&arguments);
                check_common(&result, workload, "inproc");
                assert!(result["driver"].is_null());
            }
        }
    }
}

#[test]
fn roundtrip_pinned_to_one_core() {
    let result = measure(&["roundtrip", "--pin", "0,0"]);
    check_common(&result, "roundtrip", "tcp");
    assert_eq!(result["pin"], serde_json::json!([0, 0]));
}

#[test]
fn the_report_goes_to_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.json");
    let output = bench(&[
        "throughput",
        "--subject",
        "raw",
        "--seconds",
        "0.1",
        "--rounds",
        "1",
        "--json",
        path.to_str().unwrap(),
    ]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("rate/raw"));
    let report: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(report["results"][0]["workload"], "throughput");
}

#[test]
fn exit_codes() {
    let unknown_core = ["throughput", "--subject", "raw", "--seconds", "0.1", "--pin", "0,999"];
    let output = bench(&unknown_core);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("core 999"));
    assert_eq!(bench(&["throughput", "--size", "3"]).status.code(), Some(2));
    let help = bench(&["throughput", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes"));
}
