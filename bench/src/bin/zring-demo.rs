//! The built-in demo: zring's patterns at work on this machine.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    zring_bench::demo::main()
}
