//! The thread that turns a shared engine when no caller does.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::JoinHandle,
};

use crate::{
    lead::{Lead, Turn},
    sync::Arc,
    sys::{
        signal::block_all_on_this_thread,
        thread::{Scheduling, pin_this_thread, schedule_this_thread},
    },
};

/// Name, core and scheduling of a Runner's thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunnerConfig {
    /// The thread's name. Linux shows 15 bytes of it.
    pub name: String,
    /// The core that the thread is bound to; `None`: any.
    pub core: Option<usize>,
    /// How the thread competes for its core.
    pub scheduling: Scheduling,
}

/// A running thread. All signals are blocked on it.
#[derive(Debug)]
pub struct Runner {
    thread: JoinHandle<()>,
}

impl Runner {
    /// Starts a thread, opens the engine on it, and runs it until [`Lead::stop`]. If the operating system refuses to
    /// turn the engine any further, the thread calls `on_failure`.
    ///
    /// # Errors
    /// If the thread could not be started, bound or scheduled, or if `open` failed.
    pub fn start<T, E>(
        config: &RunnerConfig,
        open: impl FnOnce() -> Result<Arc<Lead<T>>, E> + Send + 'static,
        on_failure: impl FnOnce(&Lead<T>, io::Error) + Send + 'static,
    ) -> Result<(Self, Arc<Lead<T>>), E>
    where
        T: Turn + Send + 'static,
        E: From<io::Error> + Send + 'static,
    {
        let (answer, opened) = std::sync::mpsc::sync_channel(1);
        let RunnerConfig { name, core, scheduling } = config.clone();
        let body = move || {
            let placed = block_all_on_this_thread()
                .and_then(|()| core.map_or(Ok(()), pin_this_thread))
                .and_then(|()| schedule_this_thread(scheduling));
            let lead = match placed.map_err(E::from).and_then(|()| open()) {
                Ok(lead) => lead,
                Err(error) => {
                    // `Runner::start` waits for this answer.
                    let _ = answer.send(Err(error));
                    return;
                }
            };
            if answer.send(Ok(Arc::clone(&lead))).is_err() {
                return;
            }
            drop(answer);
            // The panic has been reported on stderr. The callers that wait have to learn of it, too.
            let ran = catch_unwind(AssertUnwindSafe(|| lead.run()));
            let panicked = |_| Err(io::Error::other("the thread that turned the shard panicked"));
            if let Err(error) = ran.unwrap_or_else(panicked) {
                on_failure(&lead, error);
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(body)?;
        let died = || io::Error::other("the thread ended before it had started");
        let lead = opened.recv().unwrap_or_else(|_| Err(died().into()))?;
        Ok((Self { thread }, lead))
    }

    /// Waits for the thread to end. The thread drops its engine if no other thread holds it.
    pub fn join(self) {
        // A panic of the thread has been reported on stderr, and the engine is closed all the same.
        let _ = self.thread.join();
    }
}
