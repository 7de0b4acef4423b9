//! Descriptors that operations wait on, and the events that the poller is to report for them.

use std::{
    collections::{HashMap, VecDeque},
    io,
};

use polling::{Event, PollMode, Poller};
use slab::Slab;

use crate::{
    driver::OpId,
    sys::{RawSocket, borrow_raw},
};

/// One half of a key is an index into the table. The other half is the generation of the source that has the place.
const INDEX_BITS: u32 = usize::BITS / 2;
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;

/// The events that the poller is to report for one descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Interest {
    read: bool,
    write: bool,
}

impl Interest {
    fn is_none(self) -> bool {
        !self.read && !self.write
    }

    fn covers(self, other: Self) -> bool {
        self.read >= other.read && self.write >= other.write
    }
}

/// One descriptor.
///
/// # Invariants
/// - If `is_added`, the poller has the descriptor and reports `armed`.
/// - If `armed` differs from what the operations want, the source is listed in `Sources::changed`. It may ask for too
///   much until the next flush, but never for too little while [`PollMode::Level`].
/// - The source is in `Sources::ready` or `Sources::postponed`, once at most (`is_queued`).
#[derive(Debug)]
pub(super) struct Source {
    fd: RawSocket,
    generation: usize,
    /// An accept or a receive.
    pub(super) read: Option<OpId>,
    /// A connect or a send.
    pub(super) write: Option<OpId>,
    armed: Interest,
    is_added: bool,
    is_changed: bool,
    is_queued: bool,
    ready: Interest,
    /// The last read filled its buffer: more bytes are likely to be there.
    pub(super) is_hot: bool,
    /// Reads in `turn` so far.
    reads: u32,
    turn: u64,
}

impl Source {
    fn wanted(&self) -> Interest {
        Interest { read: self.read.is_some(), write: self.write.is_some() }
    }

    /// Counts a read. Returns whether the source may be read once more in this turn.
    pub(super) fn may_read(&mut self, turn: u64, reads_max: u32) -> bool {
        if self.turn != turn {
            (self.turn, self.reads) = (turn, 0);
        }
        self.reads += 1;
        self.reads < reads_max
    }
}

/// The operation that a ready source carries on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Read { index: usize, op: OpId },
    Write { op: OpId },
}

#[derive(Debug)]
pub(super) struct Sources {
    mode: PollMode,
    table: Slab<Source>,
    by_fd: HashMap<RawSocket, usize>,
    generation: usize,
    /// Keys of sources whose interest has to be adjusted. A key may be stale: its place may have another source by now.
    changed: Vec<usize>,
    /// Keys of sources that are ready, in turn.
    ready: VecDeque<usize>,
    /// Keys of sources that have to wait for the next turn, to come first then.
    postponed: Vec<usize>,
    /// The poller was given something to wait for since this flag was last cleared.
    pub(super) has_told: bool,
}

fn key(index: usize, generation: usize) -> usize {
    generation << INDEX_BITS | index
}

impl Sources {
    pub(super) fn new(mode: PollMode) -> Self {
        Self {
            mode,
            table: Slab::new(),
            by_fd: HashMap::new(),
            generation: 0,
            changed: Vec::new(),
            ready: VecDeque::new(),
            postponed: Vec::new(),
            has_told: false,
        }
    }

    fn event(&self, index: usize, interest: Interest) -> Event {
        let key = key(index, self.table[index].generation);
        Event::new(key, interest.read, interest.write)
    }

    fn find(&mut self, key: usize) -> Option<(usize, &mut Source)> {
        let index = key & INDEX_MASK;
        let source = self.table.get_mut(index)?;
        (source.generation == key >> INDEX_BITS).then_some((index, source))
    }

    /// The index of a descriptor's source in the table. Adds a source if there is none.
    pub(super) fn enter(&mut self, fd: RawSocket) -> usize {
        if let Some(&index) = self.by_fd.get(&fd) {
            return index;
        }
        // The generation stays below the mask, so no key equals one that is reserved.
        self.generation = (self.generation + 1) % INDEX_MASK;
        let index = self.table.insert(Source {
            fd,
            generation: self.generation,
            read: None,
            write: None,
            armed: Interest::default(),
            is_added: false,
            is_changed: false,
            is_queued: false,
            ready: Interest::default(),
            is_hot: false,
            reads: 0,
            turn: 0,
        });
        assert!(index < INDEX_MASK, "more descriptors than keys");
        self.by_fd.insert(fd, index);
        index
    }

    pub(super) fn get(&mut self, index: usize) -> &mut Source {
        &mut self.table[index]
    }

    /// Makes the poller report at least what the operations of the source want. [`Sources::flush`] takes back what it
    /// reports beyond that: an operation that waits again before the flush costs no system call.
    pub(super) fn arm(&mut self, poller: &Poller, index: usize) -> io::Result<()> {
        let source = &self.table[index];
        let wanted = source.wanted();
        if source.is_added && source.armed.covers(wanted) {
            return Ok(());
        }
        self.tell(poller, index, wanted)
    }

    fn tell(&mut self, poller: &Poller, index: usize, wanted: Interest) -> io::Result<()> {
        let event = self.event(index, wanted);
        let source = &mut self.table[index];
        // SAFETY: operations wait on it, so its owner keeps it open, and calls `Driver::close` before closing it.
        let fd = unsafe { borrow_raw(source.fd) };
        if source.is_added {
            poller.modify_with_mode(fd, event, self.mode)?;
        } else {
            // SAFETY: as above; `close` and `clear` remove it from the poller before it is closed.
            unsafe { poller.add_with_mode(&fd, event, self.mode)? };
            source.is_added = true;
        }
        source.armed = wanted;
        self.has_told = true;
        Ok(())
    }

    fn note_changed(&mut self, index: usize) {
        let source = &mut self.table[index];
        if !std::mem::replace(&mut source.is_changed, true) {
            self.changed.push(key(index, source.generation));
        }
    }

    /// An operation of the source has ended.
    pub(super) fn detach(&mut self, index: usize, op: OpId) {
        let source = &mut self.table[index];
        if source.read == Some(op) {
            source.read = None;
            source.ready.read = false;
        } else {
            debug_assert_eq!(source.write, Some(op), "an operation waits where its slot says");
            source.write = None;
            source.ready.write = false;
        }
        self.note_changed(index);
    }

    /// Takes back from the poller what is wanted no longer, and re-arms what it reports only once. A descriptor without
    /// operations leaves the poller: epoll reports errors and hang-ups even if it was asked for nothing.
    pub(super) fn flush(&mut self, poller: &Poller) -> io::Result<()> {
        while let Some(key) = self.changed.pop() {
            let Some((index, source)) = self.find(key) else { continue };
            source.is_changed = false;
            let wanted = source.wanted();
            if wanted.is_none() {
                self.remove(poller, index);
            } else if source.armed != wanted {
                self.tell(poller, index, wanted)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, poller: &Poller, index: usize) {
        let source = self.table.remove(index);
        self.by_fd.remove(&source.fd);
        if source.is_added {
            // SAFETY: the descriptor is open until `Driver::close` or the shard's end, and both come here first.
            let fd = unsafe { borrow_raw(source.fd) };
            if let Err(error) = poller.delete(fd) {
                tracing::error!(fd = source.fd, %error, "a descriptor was closed under its driver");
            }
        }
    }

    /// Removes a descriptor that is about to be closed.
    pub(super) fn close(&mut self, poller: &Poller, fd: RawSocket) {
        let Some(&index) = self.by_fd.get(&fd) else { return };
        debug_assert!(self.table[index].wanted().is_none(), "closed with operations under way");
        self.remove(poller, index);
    }

    /// Removes all descriptors from the poller.
    pub(super) fn clear(&mut self, poller: &Poller) {
        let all: Vec<usize> = self.table.iter().map(|(index, _)| index).collect();
        all.into_iter().for_each(|index| self.remove(poller, index));
        self.changed.clear();
        self.ready.clear();
        self.postponed.clear();
    }

    /// Notes an event of the poller. An event for a descriptor that is no longer in the table is ignored.
    pub(super) fn note(&mut self, event: &Event) {
        let is_oneshot = self.mode == PollMode::Oneshot;
        let Some((index, source)) = self.find(event.key) else { return };
        if is_oneshot {
            source.armed = Interest::default();
        }
        source.ready.read |= event.readable && source.read.is_some();
        source.ready.write |= event.writable && source.write.is_some();
        if is_oneshot {
            self.note_changed(index);
        }
        self.queue(index);
    }

    /// Marks the source as readable, which may prove wrong.
    pub(super) fn note_readable(&mut self, index: usize) {
        self.table[index].ready.read = true;
        self.queue(index);
    }

    fn queue(&mut self, index: usize) {
        let source = &mut self.table[index];
        if !source.ready.is_none() && !std::mem::replace(&mut source.is_queued, true) {
            self.ready.push_back(key(index, source.generation));
        }
    }

    /// Leaves a ready source to the next turn. The poller would report it again, but in an order of its own, in which
    /// the same sources may come first each time.
    pub(super) fn postpone(&mut self, index: usize) {
        let source = &mut self.table[index];
        source.ready.read = true;
        if !std::mem::replace(&mut source.is_queued, true) {
            self.postponed.push(key(index, source.generation));
        }
    }

    /// Begins a turn: postponed sources are ready again.
    pub(super) fn resume(&mut self) {
        self.ready.extend(self.postponed.drain(..));
    }

    /// Whether a source is ready in this turn.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether there is work that the poller need not report.
    pub(super) fn has_leftover(&self) -> bool {
        self.has_ready() || !self.postponed.is_empty()
    }

    /// The next operation that can go on. The sources take turns.
    pub(super) fn next_ready(&mut self) -> Option<Work> {
        while let Some(key) = self.ready.pop_front() {
            let Some((index, source)) = self.find(key) else { continue };
            source.is_queued = false;
            let write = source.write.filter(|_| std::mem::take(&mut source.ready.write));
            if let Some(op) = write {
                self.queue(index);
                return Some(Work::Write { op });
            }
            if let Some(op) = source.read.filter(|_| std::mem::take(&mut source.ready.read)) {
                return Some(Work::Read { index, op });
            }
        }
        None
    }
}
