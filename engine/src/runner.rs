//! The thread that turns a shared engine when nobody else does.

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

/// Name, place and scheduling of a Runner's thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunnerConfig {
    /// Its name, of which Linux shows 15 bytes.
    pub name: String,
    /// The core it is bound to; `None`: any.
    pub core: Option<usize>,
    /// How it competes for its core.
    pub scheduling: Scheduling,
}

/// A running thread. All signals are blocked on it.
#[derive(Debug)]
pub struct Runner {
    thread: JoinHandle<()>,
}

impl Runner {
    /// Starts a thread, opens the engine on it, and runs it until [`Lead::stop`]. When the operating system refuses to
    /// go on, `on_failure` is told.
    ///
    /// # Errors
    /// What the thread could not be started, bound or scheduled for, or what `open` answered.
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
                    // The starter waits for this answer.
                    let _ = answer.send(Err(error));
                    return;
                }
            };
            if answer.send(Ok(Arc::clone(&lead))).is_err() {
                return;
            }
            drop(answer);
            // A panic has said so on stderr; those who wait have to hear of it all the same.
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

    /// Waits for the thread to end. Its engine is dropped on it if nobody else holds it.
    pub fn join(self) {
        // A thread that panicked has said so on stderr, and the engine is closed all the same.
        let _ = self.thread.join();
    }
}
