//! Round trips beside many connections that are open and silent.

use std::time::Duration;

use crate::error::Result;
use crate::process;
use crate::subject::{Case, Pattern, Subject};
use crate::workload::roundtrip::Roundtrip;
use crate::workload::{Figure, Round, Workload};

/// The roundtrip workload while side A holds [`Case::connections`] more connections to the socket of side B, on which
/// nothing happens. What they cost shows beside a run with none.
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
