//! Round trips beside many open but silent connections.

use std::time::Duration;

use crate::error::Result;
use crate::process;
use crate::subject::{Case, Pattern, Subject};
use crate::workload::roundtrip::Roundtrip;
use crate::workload::{Figure, Round, Workload};

/// The roundtrip workload while side A holds [`Case::connections`] more connections to side B's socket, without any
/// traffic. Compare with a run without them to see their cost.
#[derive(Debug)]
pub struct Connections;

impl Workload for Connections {
    fn name(&self) -> &'static str {
        "connections"
    }

    fn pattern(&self) -> Pattern {
        Pattern::RoundTrip
    }

    fn figure(&self) -> Option<Figure> {
        Roundtrip.figure()
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        process::allow_connections(case.connections)?;
        Roundtrip.run_round(subject, case, duration)
    }
}
