//! Reads files into the page cache on a thread of the process, because a slow disk must not hold up a shard.
//!
//! The thread starts with the first request, is named `zring-files`, and stays for the life of the process. It serves
//! one request after the other. A driver that finds the queue full is told when there is room.
//!
//! ```text
//! driver: Desk::ask ──requests──▶ thread: read in ──answers──▶ Desk::take_answers :driver
//!                                            └── wake ──▶ driver
//! ```

use std::{
    fs::File,
    sync::{
        PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    task::Waker,
    thread,
};

use crate::{
    buf::{FileFault, FileRegion},
    driver::OpId,
    sync::{Arc, Mutex, OnceLock},
    sys::{file, signal},
};

/// How many requests of the whole process may wait at one time.
const REQUESTS_MAX: usize = 256;
/// How many bytes are read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// An answer: the requested bytes are in the page cache, or the error; `None` when there is room to ask again.
type Answer = (OpId, Option<Result<(), FileFault>>);

/// The answers for one driver.
#[derive(Debug)]
struct Tray {
    answers: Mutex<Vec<Answer>>,
    waker: Waker,
}

impl Tray {
    fn put(&self, answer: Answer) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        self.waker.wake_by_ref();
    }
}

struct Request {
    file: Arc<File>,
    offset: u64,
    len: usize,
    op: OpId,
    tray: Arc<Tray>,
}

/// A driver's side of the reader.
#[derive(Debug)]
pub(in crate::driver) struct Desk {
    waker: Waker,
    tray: Option<Arc<Tray>>,
    is_out_of_order: bool,
    /// Scratch memory for looks at the page cache that have to copy.
    pub(super) scratch: Vec<u8>,
}

impl Desk {
    /// `waker` is called when there are answers.
    pub(in crate::driver) fn new(waker: Waker) -> Self {
        Self { waker, tray: None, is_out_of_order: false, scratch: Vec::new() }
    }

    /// Has a part of a region read in; the answer names `op`. Returns `false` when the queue is full, in which case the
    /// answer `None` follows, or when there is no reader thread.
    pub(super) fn ask(&mut self, op: OpId, region: &FileRegion, from: usize, len: usize) -> bool {
        let Some(reader) = reader() else {
            self.is_out_of_order = true;
            return false;
        };
        let tray = self.tray.get_or_insert_with(|| {
            Arc::new(Tray { answers: Mutex::default(), waker: self.waker.clone() })
        });
        let offset = region.offset() + from as u64;
        let file = region.file().clone();
        reader.ask(Request { file, offset, len, op, tray: tray.clone() })
    }

    /// Whether there is no reader thread to ask.
    pub(super) fn is_out_of_order(&self) -> bool {
        self.is_out_of_order
    }

    /// Takes the answers that came in. Call it when the waker was called.
    pub(in crate::driver) fn take_answers(&mut self) -> Vec<Answer> {
        let Some(tray) = &self.tray else { return Vec::new() };
        std::mem::take(&mut *tray.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The operations that found the queue full.
type Refused = Mutex<Vec<(OpId, Arc<Tray>)>>;

struct Reader {
    requests: SyncSender<Request>,
    refused: Arc<Refused>,
    /// The process that started the thread: a forked child has no such thread.
    process: u32,
}

/// The process's reader, started on first use; `None` when its thread cannot be started.
fn reader() -> Option<&'static Reader> {
    static READER: OnceLock<Option<Reader>> = OnceLock::new();
    let start = || match Reader::start() {
        Ok(reader) => Some(reader),
        Err(error) => {
            tracing::warn!(%error, "no thread to read files ahead: cold ones hold up their shard");
            None
        }
    };
    READER.get_or_init(start).as_ref().filter(|reader| reader.process == std::process::id())
}

impl Reader {
    fn start() -> std::io::Result<Self> {
        let (requests, requested) = sync_channel(REQUESTS_MAX);
        let refused = Arc::<Refused>::default();
        let those = refused.clone();
        thread::Builder::new()
            .name("zring-files".to_owned())
            .spawn(move || run(&requested, &those))?;
        Ok(Self { requests, refused, process: std::process::id() })
    }

    fn ask(&self, request: Request) -> bool {
        let Err(TrySendError::Full(request)) = self.requests.try_send(request) else { return true };
        // Note the request before trying the queue again: the thread looks at the list after each request.
        let lock = || self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let (op, tray) = (request.op, request.tray.clone());
        lock().push((op, tray.clone()));
        if self.requests.try_send(request).is_err() {
            return false;
        }
        // If the thread has sent the answer `None` already, that does no harm.
        lock().retain(|(other, at)| *other != op || !Arc::ptr_eq(at, &tray));
        true
    }
}

fn run(requested: &Receiver<Request>, refused: &Refused) {
    if let Err(error) = signal::block_all_on_this_thread() {
        tracing::warn!(%error, "the thread that reads files takes signals");
    }
    let mut scratch = vec![0; PIECE_BYTES];
    while let Ok(request) = requested.recv() {
        let Request { file, offset, len, op, tray } = request;
        #[cfg(all(test, target_os = "linux"))]
        super::tests::pass_gate();
        let outcome = read_in(&file, offset, len, &mut scratch);
        // The last clone of a file is closed here rather than on the shard.
        drop(file);
        tray.put((op, Some(outcome)));
        let those = std::mem::take(&mut *refused.lock().unwrap_or_else(PoisonError::into_inner));
        those.into_iter().for_each(|(op, tray)| tray.put((op, None)));
    }
}

fn read_in(file: &File, offset: u64, len: usize, scratch: &mut [u8]) -> Result<(), FileFault> {
    file::expect_reads(file, offset, len);
    let mut done = 0;
    while done < len {
        let piece = scratch.len().min(len - done);
        file::read_exactly(file, offset + done as u64, &mut scratch[..piece])?;
        done += piece;
    }
    Ok(())
}
