//! Runs the binary end to end on zring's subjects.

use std::process::{Command, Output};

use serde_json::Value;

mod common;

use common::transports;

const DRIVERS: &[&str] = if cfg!(target_os = "linux") { &["uring", "ready"] } else { &["ready"] };

fn bench(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_zring-bench")).args(arguments).output();
    output.expect("the binary starts")
}

/// Runs `subject` for a fifth of a second and returns its JSON result.
fn measure(subject: &str, arguments: &[&str]) -> Value {
    let common = ["--subject", subject, "--seconds", "0.2", "--rounds", "2", "--json", "-"];
    let output = bench(&[arguments, &common].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{subject} {arguments:?}: {stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON alone");
    let results = report["results"].as_array().expect("results is a list");
    assert_eq!(results.len(), 1, "{subject} {arguments:?}: {stderr}");
    assert_eq!(results[0]["subject"], subject);
    results[0].clone()
}

fn is_positive(figure: &Value) -> bool {
    figure.as_f64().is_some_and(|figure| figure > 0.0)
}

/// Runs a workload with messages over tcp and ipc, on both drivers, as far as the system has them.
fn measure_everywhere(subject: &str, arguments: &[&str]) {
    for transport in transports() {
        for &driver in DRIVERS {
            let place = ["--transport", transport, "--driver", driver];
            let result = measure(subject, &[arguments, &place].concat());
            assert_eq!(result["driver"], driver, "{result}");
            assert_eq!(result["transport"], transport, "{result}");
            assert!(result["messages"].as_u64().unwrap() > 0, "{result}");
            // Asking Windows takes unsafe code.
            let cpu = &result["cpu_seconds_per_million"];
            assert!(if cfg!(unix) { is_positive(cpu) } else { cpu.is_null() }, "{result}");
            assert!(result["ratio_to_raw"].is_null(), "{result}");
        }
    }
}

#[test]
fn background_throughput() {
    for size in ["8", "4000", "64K"] {
        measure_everywhere("zring-bg", &["throughput", "--size", size]);
    }
}

#[test]
fn background_roundtrips() {
    for size in ["8", "64K"] {
        measure_everywhere("zring-bg", &["roundtrip", "--size", size]);
    }
}

#[test]
fn inline_on_both_drivers() {
    measure_everywhere("zring", &["throughput"]);
    measure_everywhere("zring", &["roundtrip"]);
}

#[test]
fn within_the_process() {
    for subject in ["zring", "zring-bg"] {
        for workload in ["throughput", "roundtrip"] {
            for &driver in DRIVERS {
                for wait in ["park", "spin"] {
                    let place = ["--transport", "inproc", "--driver", driver, "--wait", wait];
                    let result = measure(subject, &[&[workload][..], &place].concat());
                    assert_eq!(result["transport"], "inproc", "{result}");
                    assert!(result["messages"].as_u64().unwrap() > 0, "{result}");
                }
            }
        }
    }
}

#[test]
fn runners_are_pinned_with_their_sides() {
    let result = measure("zring-bg", &["roundtrip", "--pin", "0,0"]);
    assert_eq!(result["pin"], serde_json::json!([0, 0]));
    // The library's choice is named all the same.
    assert!(result["driver"].is_string(), "{result}");
    let refused = ["roundtrip", "--subject", "zring-bg", "--seconds", "0.1", "--pin", "0,999"];
    let output = bench(&refused);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn silent_connections_beside_a_busy_one() {
    for subject in ["zring", "zring-bg"] {
        measure_everywhere(subject, &["connections", "--idle", "20"]);
    }
    let result = measure("zring-bg", &["connections", "--idle", "7"]);
    assert_eq!(result["connections"], 7);
    assert!(is_positive(&result["latency_ns"]["p50"]), "{result}");
}

#[test]
fn raw_is_left_out_where_it_cannot_follow() {
    let arguments = ["--seconds", "0.1", "--rounds", "1", "--json", "-"];
    let output = bench(&[&["connections", "--idle", "3"][..], &arguments].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("note: raw is left out"), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let subjects = report["results"].as_array().unwrap().iter().map(|result| &result["subject"]);
    assert_eq!(subjects.collect::<Vec<_>>(), ["zring", "zring-bg"]);
    let alone = bench(&["idle", "--subject", "raw", "--seconds", "0.1"]);
    assert_eq!(alone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&alone.stderr).contains("no subject is left"));
    // With no silent connection there is nothing that raw could not do.
    measure("raw", &["connections", "--idle", "0"]);
}

#[cfg(target_os = "linux")]
#[test]
fn idle() {
    for driver in ["uring", "ready"] {
        for transport in ["tcp", "ipc"] {
            let arguments =
                ["idle", "--connections", "20", "--driver", driver, "--transport", transport];
            let result = measure("zring-bg", &arguments);
            assert_eq!(result["driver"], driver, "{result}");
            assert_eq!(result["connections"], 20, "{result}");
            assert!(is_positive(&result["bytes_per_connection"]), "{result}");
            // Runners that sleep take next to nothing, even of a slow machine.
            let percent = result["idle_cpu_percent"].as_f64().unwrap();
            assert!((0.0..20.0).contains(&percent), "{result}");
            assert!(result["idle_switches_per_second"].is_number(), "{result}");
            assert!(result["size_bytes"].is_null(), "{result}");
        }
    }
    // Inline contexts have no thread that could do anything.
    let inline = measure("zring", &["idle", "--connections", "20"]);
    assert!(inline["idle_cpu_percent"].as_f64().unwrap() < 0.1, "{inline}");
    assert_eq!(inline["idle_switches_per_second"], 0.0, "{inline}");
}

#[cfg(target_os = "linux")]
#[test]
fn spinning_runners_are_seen() {
    let arguments = ["idle", "--connections", "2", "--wait", "spin", "--driver", "uring"];
    let spinning = measure("zring-bg", &arguments);
    // Other tests may leave them little of the cores.
    assert!(spinning["idle_cpu_percent"].as_f64().unwrap() > 1.0, "{spinning}");
}

#[cfg(unix)]
#[test]
fn too_many_connections_are_refused() {
    let run = "ulimit -n 100; exec \"$0\" idle --connections 50 --subject zring-bg --seconds 0.1";
    let output = Command::new("sh").args(["-c", run, env!("CARGO_BIN_EXE_zring-bench")]).output();
    let output = output.expect("sh starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("50 connections take 164 descriptors"), "{stderr}");
}

#[test]
fn option_errors() {
    for wrong in [
        &["roundtrip", "--driver", "epoll"][..],
        &["idle", "--connections", "0"],
        &["idle", "--size", "64"],
        &["connections", "--idle", "many"],
        &["roundtrip", "--idle", "3"],
    ] {
        assert_eq!(bench(wrong).status.code(), Some(2), "{wrong:?}");
    }
    for (workload, option) in [("idle", "--connections"), ("connections", "--idle")] {
        let help = bench(&[workload, "--help"]);
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(text.contains(option) && text.contains("--driver"), "{text}");
    }
}
