//! Measures zring beside the raw socket floor. `zring-bench --help` explains.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use zring_bench::command::{self, Program};

fn main() -> ExitCode {
    // The library reports its fallbacks on stderr, for example that io_uring is missing.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    command::run(Program::parse())
}
