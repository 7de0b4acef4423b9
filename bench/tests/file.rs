//! Sends small files with the binary.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const SUBJECTS: [&str; 3] = ["raw-sendfile", "raw-copy", "zring"];

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zring-bench")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs the workload in `directory` and returns its results.
fn measure(directory: &Path, arguments: &[&str]) -> Vec<Value> {
    let common = ["file", "--dir", directory.to_str().unwrap(), "--json", "-"];
    let output = bench(&[&common, arguments].concat());
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    assert!(stderr.contains("a file of") && stderr.contains("raw-"), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON alone");
    report["results"].as_array().unwrap().clone()
}

#[test]
fn files_get_through() {
    let directory = tempfile::tempdir().unwrap();
    for transport in ["tcp", "ipc"] {
        // Neither a whole number of words, nor of buffers.
        for (size, bytes) in [("1M", 1 << 20), ("300001", 300_001)] {
            let arguments = ["--transport", transport, "--size", size, "--runs", "3"];
            let results = measure(directory.path(), &arguments);
            let names: Vec<_> = results.iter().map(|result| &result["subject"]).collect();
            assert_eq!(names, SUBJECTS);
            for result in &results {
                assert_eq!(
                    (&result["workload"], &result["transport"]),
                    (&"file".into(), &transport.into())
                );
                assert_eq!(
                    (&result["size_bytes"], &result["messages"]),
                    (&bytes.into(), &3.into())
                );
                assert!(!result["settings"].as_str().unwrap().is_empty());
                check(&result["file"]);
            }
            assert_eq!(results[0]["file"]["ratio_to_sendfile"], 1.0);
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
}

fn check(figures: &Value) {
    let runs = figures["run_seconds"].as_array().unwrap();
    assert!(runs.len() == 3 && runs.iter().all(|run| run.as_f64().unwrap() > 0.0), "{figures}");
    let is_above_zero = |key: &str| figures[key].as_f64().is_some_and(|figure| figure > 0.0);
    for key in [
        "gigabytes_per_second_median",
        "gigabytes_per_second_mean",
        "run_seconds_deviation",
        "ratio_to_sendfile",
    ] {
        assert!(is_above_zero(key), "{key}: {figures}");
    }
    // Neither way holds more than a buffer, whatever the file has.
    assert!(figures["sender_grown_bytes"].as_u64().unwrap() < 16 << 20, "{figures}");
}

#[test]
fn one_subject_alone_has_no_ratio() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("file.html");
    let results = measure(
        directory.path(),
        &[
            "--subject",
            "raw-copy",
            "--size",
            "1M",
            "--runs",
            "1",
            "--pin",
            "0,0",
            "--html",
            page.to_str().unwrap(),
        ],
    );
    assert_eq!(results.len(), 1);
    assert!(results[0]["file"]["ratio_to_sendfile"].is_null());
    assert!(results[0]["file"]["run_seconds_deviation"].is_null());
    assert_eq!(results[0]["pin"], serde_json::json!([0, 0]));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("a file of 1 MiB") && page.contains("GB/s"), "{page}");
}

#[test]
fn exit_codes() {
    let output = bench(&["file", "--dir", "/nowhere", "--size", "1M"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nowhere"), "{}", text(&output.stderr));
    // The core is the sender's, and so is the complaint.
    let output = bench(&["file", "--size", "1M", "--runs", "1", "--pin", "999,0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("core 999"), "{}", text(&output.stderr));
    for wrong in [["--size", "0"], ["--transport", "inproc"], ["--subject", "raw"]] {
        assert_eq!(bench(&[&["file"], &wrong[..]].concat()).status.code(), Some(2), "{wrong:?}");
    }
    let output = bench(&["file-sender", "raw-copy", "tcp://127.0.0.1:1", "5"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("zring-bench file"));
}
