//! Comparisons from end to end. What a noisy machine makes of the verdict is not asserted, but that there is one; the
//! statistics have tests of their own.

use std::process::{Command, Output};

const SELF: &str = env!("CARGO_BIN_EXE_zring-bench");

fn bench(arguments: &[&str]) -> Output {
    Command::new(SELF).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn against_itself(more: &[&str]) -> (Option<i32>, serde_json::Value, String) {
    let arguments = [
        "run",
        "--against",
        SELF,
        "--workload",
        "roundtrip",
        "--subject",
        "zring",
        "--seconds",
        "0.3",
        "--rounds",
        "8",
        "--json",
        "-",
    ];
    let output = bench(&[&arguments[..], more].concat());
    let stderr = text(&output.stderr);
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    (output.status.code(), report, stderr)
}

#[test]
fn the_same_build_twice() {
    let (code, report, stderr) = against_itself(&[]);
    let p50 = &report["changes"][0];
    assert_eq!((&p50["figure"], &p50["subject"]), (&"p50".into(), &"zring".into()), "{report}");
    assert_eq!(p50["rounds"], serde_json::json!([8, 8]));
    assert!(p50["interval"][0].as_f64() <= p50["ratio"].as_f64(), "{p50}");
    assert_eq!(code, Some(if p50["verdict"] == "slower" { 3 } else { 0 }), "{stderr}");
    assert!(stderr.contains("99 % interval") && stderr.contains(" with no change"), "{stderr}");
}

#[test]
fn a_build_that_takes_eight_times_as_long() {
    let (code, report, stderr) = against_itself(&["--handicap", "700"]);
    let p50 = &report["changes"][0];
    assert!(p50["ratio"].as_f64().unwrap() > 2.0, "{stderr}");
    // On a machine where one round differs from the next by as much, nothing can be told.
    let is_drowned = p50["noise"].as_f64() >= p50["ratio"].as_f64();
    let due = if is_drowned { (Some(0), "no_change") } else { (Some(3), "slower") };
    assert_eq!((code, p50["verdict"].as_str().unwrap()), due, "{stderr}");
}

#[test]
fn what_is_no_build_is_an_error() {
    // The program of this test knows no such arguments.
    let other = std::env::current_exe().unwrap().display().to_string();
    let output =
        bench(&["run", "--against", &other, "--workload", "roundtrip", "--subject", "raw"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the old build failed"), "{}", text(&output.stderr));
}

#[test]
fn files_are_compared_by_their_ratios_to_raw() {
    let directory = tempfile::tempdir().unwrap();
    let measure = |name: &str, subjects: &[&str]| {
        let path = directory.path().join(name).display().to_string();
        let mut arguments = vec!["roundtrip", "--seconds", "0.1", "--rounds", "6", "--json", &path];
        for subject in subjects {
            arguments.extend(["--subject", subject]);
        }
        let output = bench(&arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        path
    };
    let with = measure("with.json", &["raw", "zring"]);
    let without = measure("without.json", &["zring"]);

    let same = bench(&["compare", &with, &with]);
    let stdout = text(&same.stdout);
    assert_eq!(same.status.code(), Some(0), "{stdout}{}", text(&same.stderr));
    assert!(stdout.contains("no change") && stdout.contains("x raw"), "{stdout}");

    for (old, new) in [(&with, &without), (&without, &with), (&with, &"/nowhere.json".to_owned())] {
        let output = bench(&["compare", old, new]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    }
    let refused = text(&bench(&["compare", &with, &without]).stderr);
    assert!(refused.contains("raw did not run beside it"), "{refused}");
}
