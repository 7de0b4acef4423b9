//! The zring latency harness as a library: the parts of a run, and how to add to them.
//!
//! A *workload* ([`workload`]) defines the traffic between two sides, side A (sender, requester) and side B (receiver,
//! replier), each on its own thread. A *subject* ([`subject`]) is a transport that can play both sides. [`run`]
//! interleaves the subjects round by round, so that a disturbance of the machine affects all of them. [`report`] takes
//! medians over the rounds and puts them beside the raw socket floor.
//!
//! Adding a subject is one file in `src/subject` and one line in [`subject::ALL`]; adding a workload is one file in
//! `src/workload` and one subcommand in [`cli`].
//!
//! Every body carries a sequence number that the receiving side checks ([`sequence`]): a subject that loses,
//! repeats or truncates a message fails the run.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod cli;
pub mod command;
pub mod compare;
pub mod cpu_time;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod handicap;
pub mod machine;
pub mod pin;
pub mod process;
pub mod record;
pub mod report;
pub mod run;
pub mod sequence;
pub mod sides;
pub mod size;
pub mod stats;
pub mod subject;
pub mod suite;
pub mod workload;

pub use error::{Failure, Result};
