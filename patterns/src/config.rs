//! Configuration of a context.

use std::time::Duration;

pub use zring_engine::WaitStrategy as Wait;

/// How a context waits, and the sizes and bounds of its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What a call that has to wait does meanwhile: sleep in the kernel (the default), or spin on a core of its own.
    pub wait: Wait,
    /// io_uring features to do without, comma-separated (`inc`, `multishot`, `ringfd`), so that every
    /// way of working can be tested on one kernel. `None`: what the environment's `ZRING_URING_MASK` says.
    pub uring_mask: Option<String>,
    /// How long dropping the context may take to send what closed sockets have queued (5 s).
    pub drain_on_drop: Duration,
    /// Sizes and bounds; its `wait` and `uring_mask` are overruled by those above.
    pub engine: zring_engine::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            wait: Wait::Park,
            uring_mask: None,
            drain_on_drop: Duration::from_secs(5),
            engine: zring_engine::Config::default(),
        }
    }
}

impl Config {
    pub(crate) fn into_engine(self) -> zring_engine::Config {
        zring_engine::Config { wait: self.wait, uring_mask: self.uring_mask, ..self.engine }
    }
}
