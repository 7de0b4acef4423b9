//! The cost of unused connections.

use std::thread;
use std::time::{Duration, Instant};

use crate::cpu_time;
use crate::error::{Failure, Result};
use crate::process::{self, VoluntarySwitches};
use crate::subject::{Case, Crowd, Pattern, Subject};
use crate::workload::{Figure, Idle as Figures, Round, Workload};

/// Longest pause between the last handshake and the measured stretch; a short round pauses for a tenth of its time.
const SETTLE_MAX: Duration = Duration::from_millis(200);

/// [`Case::connections`] connections between two contexts, silent after their handshakes, while no thread makes a call.
/// All threads of the process are measured, except the one that waits for the end: the library's threads.
#[derive(Debug)]
pub struct Idle;

impl Workload for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn pattern(&self) -> Pattern {
        Pattern::Idle
    }

    fn figure(&self) -> Option<Figure> {
        None
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        process::allow_connections(case.connections)?;
        let mut crowd = subject.crowd(case)?;
        let before = process::resident_bytes();
        crowd.connect(case.connections)?;
        thread::sleep(SETTLE_MAX.min(duration / 10));
        let after = process::resident_bytes();
        let (elapsed, mut figures) = watch(duration);
        figures.bytes_per_connection = before.zip(after).map(|(before, after)| {
            after.saturating_sub(before) as f64 / f64::from(case.connections.max(1))
        });
        check(&*crowd, case.connections)?;
        Ok(Round { elapsed, driver: crowd.driver(), idle: figures, ..Round::default() })
    }
}

/// Sleeps, and reports the activity of the other threads meanwhile.
fn watch(duration: Duration) -> (Duration, Figures) {
    let switches_before = VoluntarySwitches::of_other_threads();
    let cpu_before = cpu_time::of_other_threads();
    let started = Instant::now();
    thread::sleep(duration);
    let cpu = cpu_time::of_other_threads().zip(cpu_before);
    let elapsed = started.elapsed();
    let switches = VoluntarySwitches::of_other_threads().zip(switches_before);
    let seconds = elapsed.as_secs_f64();
    let figures = Figures {
        cpu_per_time: cpu.map(|(now, then)| now.saturating_sub(then).as_secs_f64() / seconds),
        switches_per_second: switches.map(|(now, then)| now.since(&then) as f64 / seconds),
        bytes_per_connection: None,
    };
    (elapsed, figures)
}

/// A connection that broke meanwhile would cost nothing and measure nothing.
fn check(crowd: &dyn Crowd, connections: u32) -> Result<()> {
    match crowd.connected() {
        there if there == connections as usize => Ok(()),
        there => {
            Err(Failure::Library(format!("{connections} connections were made, {there} are left")))
        }
    }
}
