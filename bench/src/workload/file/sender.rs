//! The sending process. Its standard input is the file, its standard output a socket to the process that started it. So
//! no file needs a name, and the process ends when its starter does.
//!
//! ```text
//! sender                       runner
//! connects
//! READY                 ──▶
//!                       ◀──    GO, and the clock starts
//! sends the file        ══▶    receives it, and the clock stops
//! Told, as a line of JSON ──▶
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Result};
use crate::pin::pin_this_thread;
use crate::process::{peak_bytes, reset_peak};
use crate::subject::STALL;
use crate::subject::file::{Courier, by_name};

/// The command that starts this process.
const COMMAND: &str = "file-sender";
const READY: u8 = b'R';
const GO: u8 = b'G';

/// What the sender is told.
#[derive(Clone, Debug, Args)]
pub struct SenderOptions {
    /// A subject of the workload `file`
    subject: String,
    /// Where its receiver is
    endpoint: String,
    /// Length of the file
    bytes: u64,
    /// Core to run on
    core: Option<usize>,
}

/// The sender's final report.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    /// Peak of the memory added while the file was sent; `None` where the system does not tell.
    pub(super) grown_bytes: Option<u64>,
    error: Option<String>,
}

/// Runs the sending process.
///
/// # Errors
/// Standard output is not connected to a process. Other errors are reported over that connection.
pub(crate) fn run(options: &SenderOptions) -> Result<()> {
    let mut control = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    if control.peer_addr().is_err() {
        return Err(Failure::Setup("this command is started by `zring-bench file`".to_owned()));
    }
    let told = send(options, &mut control, &file)
        .unwrap_or_else(|failure| Told { error: Some(failure.to_string()), ..Told::default() });
    let line = serde_json::to_string(&told).map_err(io::Error::from)? + "\n";
    Ok(control.write_all(line.as_bytes())?)
}

fn send(options: &SenderOptions, control: &mut UnixStream, file: &File) -> Result<Told> {
    options.core.map_or(Ok(()), pin_this_thread)?;
    let courier = by_name(&options.subject)
        .ok_or_else(|| Failure::Setup(format!("there is no subject {}", options.subject)))?;
    let mut sender = courier.sender(&options.endpoint)?;
    reset_peak();
    let before = peak_bytes();
    control.write_all(&[READY])?;
    control.read_exact(&mut [0])?;
    sender.send(file, options.bytes)?;
    let grown = peak_bytes().zip(before).map(|(after, before)| after.saturating_sub(before));
    Ok(Told { grown_bytes: grown, error: None })
}

/// A running sender; dropping this ends it.
pub(super) struct Process {
    child: Child,
    control: BufReader<UnixStream>,
}

impl Process {
    /// Starts a sender of the first `bytes` of `file`.
    pub(super) fn start(
        courier: &dyn Courier,
        endpoint: &str,
        file: &File,
        bytes: u64,
        core: Option<usize>,
    ) -> Result<Self> {
        let (control, other) = UnixStream::pair()?;
        control.set_read_timeout(Some(STALL))?;
        let child = Command::new(std::env::current_exe()?)
            .arg(COMMAND)
            .args([courier.name(), endpoint, &bytes.to_string()])
            .args(core.map(|core| core.to_string()))
            .stdin(Stdio::from(file.try_clone()?))
            .stdout(Stdio::from(OwnedFd::from(other)))
            .spawn()
            .map_err(|error| Failure::Setup(format!("the sender cannot be started: {error}")))?;
        Ok(Self { child, control: BufReader::new(control) })
    }

    /// Waits until the sender is ready to start, for [`Process::go`].
    pub(super) fn await_ready(&mut self) -> Result<()> {
        let is_ready = self.control.fill_buf()?.first() == Some(&READY);
        if is_ready {
            self.control.consume(1);
            return Ok(());
        }
        self.finish()?;
        Err(Failure::Setup("the sender was not ready".to_owned()))
    }

    pub(super) fn go(&mut self) -> Result<()> {
        Ok(self.control.get_mut().write_all(&[GO])?)
    }

    /// The sender's final report.
    pub(super) fn finish(&mut self) -> Result<Told> {
        let mut line = String::new();
        self.control.read_line(&mut line)?;
        if line.is_empty() {
            let status = self.child.wait()?;
            return Err(Failure::Setup(format!("the sender ended early ({status})")));
        }
        let told: Told = serde_json::from_str(&line).map_err(io::Error::from)?;
        match told.error {
            None => Ok(told),
            Some(error) => Err(Failure::Setup(format!("the sender failed: {error}"))),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A sender that has already ended is only reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
