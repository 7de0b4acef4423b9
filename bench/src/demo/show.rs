//! Live progress: a bar on a terminal, otherwise a line per second.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::report::table::amount;

const REDRAW_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Messages between two reports of a party, so that reporting costs almost nothing.
pub(super) const REPORT_MESSAGES: u64 = 500;

/// Announces a part of the demo.
pub(super) fn open(title: &str, explanation: &str) {
    println!("\n{title}\n  {explanation}");
}

/// Follows the counts that parties send until the last party drops its sender. Looks at them only ten times a second: a
/// wake for each count would take time from the parties, above all from spinning ones.
pub(super) fn watch(counts: &mpsc::Receiver<u64>, planned: Duration, unit: &str) {
    let started = Instant::now();
    let bar = bar(planned);
    let mut next_line = LINE_EVERY;
    let mut total = 0;
    let mut is_over = false;
    while !is_over {
        thread::sleep(REDRAW_EVERY);
        is_over = add_up(counts, &mut total);
        let elapsed = started.elapsed();
        match &bar {
            Some(bar) => {
                bar.set_position(elapsed.min(planned).as_millis() as u64);
                bar.set_message(format!("{total} {unit}"));
            }
            None if elapsed >= next_line && !is_over => {
                println!("  after {} s: {total} {unit}", elapsed.as_secs());
                next_line += LINE_EVERY;
            }
            None => {}
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let rate = amount(total as f64 / planned.as_secs_f64());
    println!("  {total} {unit}, {} a second", rate.trim_end());
}

/// Adds the reported counts to `total`; returns true once every party is done.
fn add_up(counts: &mpsc::Receiver<u64>, total: &mut u64) -> bool {
    loop {
        match counts.try_recv() {
            Ok(count) => *total += count,
            Err(error) => return error == TryRecvError::Disconnected,
        }
    }
}

fn bar(planned: Duration) -> Option<ProgressBar> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let style =
        ProgressStyle::with_template("  {bar:40.cyan} {msg}").expect("the template is valid");
    Some(ProgressBar::new(planned.as_millis() as u64).with_style(style))
}

/// Counts messages and reports them in batches.
pub(super) struct Counter {
    reports: mpsc::Sender<u64>,
    unreported: u64,
}

impl Counter {
    pub(super) fn new(reports: mpsc::Sender<u64>) -> Self {
        Self { reports, unreported: 0 }
    }

    pub(super) fn count(&mut self) {
        self.unreported += 1;
        if self.unreported == REPORT_MESSAGES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        // The receiver is gone only when the demo is being aborted.
        let _ = self.reports.send(std::mem::take(&mut self.unreported));
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.flush();
    }
}
