//! The doctor on this machine, whatever it is.

use std::process::Command;

fn doctor(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_zring-bench"))
        .arg("doctor")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn settings_and_measurements() {
    let findings: serde_json::Value = serde_json::from_str(&doctor(&["--json"])).unwrap();
    let findings = findings.as_array().unwrap();
    for finding in findings {
        let has_remedy = finding["remedy"].is_string();
        assert_eq!(has_remedy, finding["level"] != "good", "{finding}");
        for key in ["what", "value", "cost"] {
            assert!(!finding[key].as_str().unwrap().is_empty(), "{finding}");
        }
    }
    let measured: Vec<&str> = findings
        .iter()
        .filter(|finding| finding["measured"] == true)
        .map(|finding| finding["what"].as_str().unwrap())
        .collect();
    for what in ["clock reading", "hiccups", "wake-up", "sleep", "io_uring"] {
        assert!(measured.contains(&what), "{measured:?}");
    }
}

#[test]
fn a_quick_look_measures_nothing() {
    let text = doctor(&["--quick"]);
    assert!(text.contains("machine: ") && !text.contains("hiccups:"), "{text}");
}
