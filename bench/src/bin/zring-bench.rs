//! Measures zring beside the raw socket floor. `zring-bench --help` explains.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use zring_bench::cli::Cli;

fn main() -> ExitCode {
    // The library reports on stderr what it fell back to, for example that io_uring is missing.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match zring_bench::run::run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("zring-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
