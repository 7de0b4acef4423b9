//! The page of a report in a browser: everything is there when it is drawn, and nothing is missing or broken.
//!
//! Needs Chromium: `scripts/test` installs it. `CHROMIUM` names another one.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// What it is called by distributions; `scripts/lib.sh` has the same list.
const NAMES: [&str; 6] = [
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "chrome",
];

fn chromium() -> PathBuf {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|directory| NAMES.map(|name| directory.join(name)))
        .find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!("this test needs Chromium: run scripts/test, or set CHROMIUM (looked for {NAMES:?})")
    })
}

/// What the browser makes of the page.
fn dom(page: &Path, profile: &Path) -> String {
    let output = Command::new(chromium())
        // A container's root has no sandbox, and the page is our own.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(["--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("Chromium can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("a DOM is text")
}

/// The `svg` element with this title, from its beginning to its end.
fn plot<'a>(dom: &'a str, title: &str) -> &'a str {
    let title = format!("<title>{title}");
    let at = dom.find(&title).unwrap_or_else(|| panic!("no plot `{title}`: {dom}"));
    let start = dom[..at].rfind("<svg").expect("a title stands in an svg");
    let end = at + dom[at..].find("</svg>").expect("it is closed");
    &dom[start..end]
}

/// The corner points of the lines of a plot, in pixels. Axes and ticks are lines of two points.
fn lines(plot: &str) -> Vec<Vec<(f64, f64)>> {
    let point = |text: &str| {
        let (x, y) = text.split_once(',').expect("two coordinates");
        (x.parse().expect("a number"), y.parse().expect("a number"))
    };
    plot.split("<polyline")
        .skip(1)
        .filter(|line| line.contains("stroke-width=\"2\""))
        .filter_map(|line| line.split("points=\"").nth(1)?.split('"').next())
        .map(|points| points.split_whitespace().map(point).collect())
        .collect()
}

#[test]
fn a_browser_draws_the_plots() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("report.html");
    let output = Command::new(env!("CARGO_BIN_EXE_zring-bench"))
        .args([
            "run",
            "--workload",
            "roundtrip,throughput",
            "--size",
            "64,4K",
            "--subject",
            "raw,zring",
        ])
        .args(["--seconds", "0.1", "--rounds", "2", "--html"])
        .arg(&page)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dom = dom(&page, &directory.path().join("profile"));

    let spectrum = plot(&dom, "Latency by percentile: roundtrip over tcp, 64 B bodies");
    let curves = lines(spectrum);
    assert_eq!(curves.len(), 2, "{spectrum}");
    for curve in &curves {
        assert!(curve.len() > 10, "{spectrum}");
        // Rarer is further right and never faster; the y axis points down.
        assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 >= pair[1].1));
    }
    assert!(spectrum.contains("99%") && spectrum.contains(" us"), "{spectrum}");

    let rates = plot(&dom, "Rate by size: throughput over tcp");
    assert!(rates.contains("64 B") && rates.contains("4 KiB"), "{rates}");
    let curves = lines(rates);
    assert_eq!(curves.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2], "{rates}");
    // Large bodies come at a lower rate.
    assert!(curves.iter().all(|curve| curve[0].1 < curve[1].1), "{rates}");

    assert_eq!(dom.matches("distribution of latencies of zring</title>").count(), 2);
    for text in ["<h2>Machine</h2>", "What spoils latency here", "--size 64,4K", "p50/raw"] {
        assert!(dom.contains(text), "{text}");
    }
    // What a broken page leaves behind.
    for text in ["NaN", "Infinity", "parsererror"] {
        assert!(!dom.contains(text), "{text}");
    }
}
