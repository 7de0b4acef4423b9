//! The files of a report, written by the program itself.

use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zring-bench")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_matrix_in_every_form() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (html, hgrm) = (path("report.html"), path("hgrm"));
    let output = bench(&[
        "run",
        "--workload",
        "roundtrip,throughput",
        "--transport",
        "tcp,inproc",
        "--subject",
        "raw,zring",
        "--seconds",
        "0.05",
        "--rounds",
        "2",
        "--json",
        "-",
        "--html",
        &html,
        "--hgrm",
        &hgrm,
    ]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 8);
    assert!(results.iter().all(|result| result["ratio_to_raw"].is_number()), "{stdout}");
    assert!(report["command"].as_str().unwrap().contains("--transport tcp,inproc"));
    let findings = report["machine"]["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["measured"] == true), "{findings:?}");
    // The tables are on stderr now, without a code for colours since that is no terminal.
    assert!(stderr.contains("roundtrip over tcp, 64 B bodies") && !stderr.contains('\u{1b}'));
    assert!(stderr.contains("p99.9") && stderr.contains("machine: "), "{stderr}");

    assert!(std::fs::read_to_string(&html).unwrap().ends_with("</html>\n"));
    let mut files: Vec<_> = std::fs::read_dir(&hgrm)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    // Throughput has no latencies.
    assert_eq!(
        files,
        [
            "01-roundtrip-tcp-64B-raw.hgrm",
            "02-roundtrip-tcp-64B-zring.hgrm",
            "03-roundtrip-inproc-64B-raw.hgrm",
            "04-roundtrip-inproc-64B-zring.hgrm",
        ]
    );
    for (file, result) in files.iter().zip(results) {
        let percentiles = std::fs::read_to_string(format!("{hgrm}/{file}")).unwrap();
        let messages = result["messages"].as_u64().unwrap();
        let count = format!("Total count    = {messages:12}]");
        assert!(percentiles.contains(&count), "{count}: {percentiles}");
    }
}

#[test]
fn wrong_command_lines_end_with_2() {
    for arguments in [
        &["run", "--workload", "nothing"][..],
        &["run", "--size", "3"],
        &["run", "--threshold", "5"],
        &["compare", "only-one.json"],
        &["sing"],
    ] {
        let output = bench(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure() {
    let output = bench(&[
        "roundtrip",
        "--subject",
        "raw",
        "--seconds",
        "0.01",
        "--rounds",
        "1",
        "--html",
        "/nowhere/report.html",
    ]);
    assert_eq!(output.status.code(), Some(1));
}
