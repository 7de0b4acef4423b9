//! The receive pool: buffers that the kernel fills and leases share.

use std::{cell::Cell, fmt, ops::Range, ptr::NonNull, task::Waker};

use super::{
    backing::Region,
    lease::Lease,
    memory::{Header, Memory, OWNED, PAGE_BYTES, STARVED, thread_number},
};
use crate::{config::PoolMemory, error::Error, stats::PoolBacking, sync::Ordering};

/// Geometry of the receive pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// How many buffers there are: a power of two, 2 to 32,768.
    pub buffers: u16,
    /// Bytes in each: a multiple of 4,096, at most 16 MiB.
    pub buffer_bytes: u32,
    /// How many of them the kernel has at a time: what one turn receives at most, and so what has to fit
    /// into the cache while it is decoded. 1 to `buffers`.
    pub with_kernel: u16,
    /// This many buffers are never pinned by leases alone: beyond that frames are copied out instead.
    pub reserve: u16,
}

impl PoolConfig {
    /// Whether every bound above holds.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.buffers.is_power_of_two()
            && (2..=32_768).contains(&self.buffers)
            && self.buffer_bytes > 0
            && self.buffer_bytes.is_multiple_of(PAGE_BYTES as u32)
            && self.buffer_bytes <= 16 << 20
            && (1..=self.buffers).contains(&self.with_kernel)
            && (1..self.buffers).contains(&self.reserve)
    }

    fn bytes(&self) -> usize {
        usize::from(self.buffers) * self.buffer_bytes as usize
    }
}

/// What the pool did, in totals since it was made, and what is out at the moment.
///
/// Holding leases costs memory up to a bound: at most `buffers - reserve` buffers wait for leases alone
/// ([`PoolConfig`]). Beyond that bodies are copied (`copies_forced`). Where receives find no buffer all the same
/// (`exhausted`), the peers' TCP pushes back until one is back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Leases handed out.
    pub leases: u64,
    /// Leases refused because the reserve was reached: these frames were copied.
    pub copies_forced: u64,
    /// Buffers that went back to the kernel.
    pub recycled: u64,
    /// Receives that found no buffer at all and had to wait for one.
    pub exhausted: u64,
    /// At the moment: leases that are held, clones and slices among them, in messages that wait or were taken, or in
    /// sends under way.
    pub leases_out: u64,
    /// At the moment: buffers that leases keep from being filled again, wholly or in the part that is filled.
    pub buffers_pinned: u64,
    /// At the moment: the size of these buffers in bytes. One lease of a byte pins a whole buffer.
    pub bytes_pinned: u64,
}

/// The owner's part of one buffer.
#[derive(Debug, Default)]
struct Meta {
    /// Leases handed out since the buffer went to the kernel.
    out: Cell<usize>,
    /// Chunks not yet released.
    chunks: u32,
    /// How far the kernel has filled it.
    filled: u32,
    /// The kernel (or the driver itself) may still write behind `filled`.
    with_kernel: bool,
    /// It is the driver that fills it: not counted among those the kernel has.
    beyond: bool,
}

/// Bytes that one completion delivered: a range of one buffer, pinned until released.
///
/// Plain data, so that it can wait in queues. It is given to [`Buffers::release`] of its own shard exactly once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an unreleased chunk pins its buffer"]
pub struct Chunk {
    /// The pool it came from, whose memory the pointers lead to.
    pool: u32,
    buffer: u16,
    len: u32,
    bytes: NonNull<u8>,
    header: NonNull<Header>,
}

// SAFETY: it is looked at together with the pool of its number alone, by whoever has that.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// How many bytes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A fixed set of equal buffers that circulate between the kernel, the handler and leases.
///
/// A buffer goes back to the kernel when the kernel is done filling it, its chunks are released
/// and its leases have been given back. A pool is part of its shard and cannot be made, moved out or replaced
/// by others: the kernel writes into it.
pub struct Pool {
    memory: NonNull<Memory>,
    /// Different for each pool of the process; chunks carry it.
    tag: u32,
    /// The number of the thread it belongs to; 0: any.
    owner: usize,
    config: PoolConfig,
    meta: Box<[Meta]>,
    with_kernel: usize,
    /// Buffers that were leased from since they were taken, wherever they are now: what could be pinned by leases alone.
    leased: Cell<usize>,
    /// A receive waits for a buffer: whatever becomes ready is to be told.
    is_starving: bool,
    /// Filled and released, but leases are out.
    lent: Vec<u16>,
    /// Ready for the kernel.
    ready: Vec<u16>,
    stats: Cell<PoolStats>,
}

// SAFETY: whoever has the pool has all of its plain memory, and the headers, which leases share, are atomic. A pool
// with an owner counts right on that thread only, which is why its shard works nowhere else
// ([`Pool::is_at_home`]); dropped elsewhere, it may keep its memory for ever.
unsafe impl Send for Pool {}

/// The pool of a shard, for the layer above: it looks at chunks, leases from them and releases them.
#[derive(Debug)]
pub struct Buffers<'a>(&'a mut Pool);

impl Buffers<'_> {
    /// The handler is done with a chunk: its buffer may go back once nothing else pins it.
    ///
    /// # Panics
    /// If the chunk came from another shard.
    #[inline]
    pub fn release(&mut self, chunk: Chunk) {
        self.0.release(chunk);
    }

    /// The same for a shorter time.
    #[inline]
    pub fn reborrow(&mut self) -> Buffers<'_> {
        Buffers(self.0)
    }
}

impl std::ops::Deref for Buffers<'_> {
    type Target = Pool;

    #[inline]
    fn deref(&self) -> &Pool {
        self.0
    }
}

impl Pool {
    /// Allocates the buffers; all of them start out ready for the kernel. With `owned`, the calling thread
    /// counts the leases that it drops itself more cheaply.
    ///
    /// # Panics
    /// If `config` is not valid ([`PoolConfig::is_valid`]).
    #[cfg(test)]
    pub(crate) fn new(config: PoolConfig, owned: bool) -> Self {
        Self::over(Region::of_the_heap(config.bytes()), config, owned)
    }

    /// As [`Pool::new`], in memory as `wanted`.
    ///
    /// # Errors
    /// [`Error::PoolMemory`] when something that is required of the memory is not to be had.
    ///
    /// # Panics
    /// If `config` is not valid ([`PoolConfig::is_valid`]).
    pub(crate) fn open(
        config: PoolConfig,
        wanted: &PoolMemory,
        owned: bool,
    ) -> Result<Self, Error> {
        assert!(config.is_valid(), "pool geometry out of bounds: {config:?}");
        Ok(Self::over(Region::open(config.bytes(), wanted)?, config, owned))
    }

    fn over(region: Region, config: PoolConfig, owned: bool) -> Self {
        static TAGS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        assert!(config.is_valid() && config.bytes() <= region.backing().bytes);
        let buffers = config.buffers;
        let mut lent = Vec::new();
        lent.reserve_exact(usize::from(buffers));
        Self {
            memory: Memory::over(region, usize::from(buffers), owned),
            tag: TAGS.fetch_add(1, Ordering::Relaxed),
            owner: if owned { thread_number() } else { 0 },
            config,
            meta: (0..buffers).map(|_| Meta::default()).collect(),
            with_kernel: 0,
            leased: Cell::new(0),
            is_starving: false,
            lent,
            ready: (0..buffers).rev().collect(),
            stats: Cell::default(),
        }
    }

    fn memory(&self) -> &Memory {
        // SAFETY: the pool's own unit of `live` keeps it alive, and it is only ever shared.
        unsafe { self.memory.as_ref() }
    }

    /// The geometry it was made with.
    #[must_use]
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Totals so far, and a look at each buffer for what is out. Leases that other threads drop meanwhile are counted or
    /// not.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let mut stats = self.stats.get();
        for (header, meta) in self.memory().headers.iter().zip(&self.meta) {
            let count = header.count.load(Ordering::Relaxed) & !STARVED;
            let back = header.local.load(Ordering::Relaxed);
            let out = (count + meta.out.get()).saturating_sub(OWNED + back);
            stats.leases_out += out as u64;
            stats.buffers_pinned += u64::from(out > 0);
        }
        stats.bytes_pinned = stats.buffers_pinned * u64::from(self.config.buffer_bytes);
        stats
    }

    /// What its memory really is.
    #[must_use]
    pub fn backing(&self) -> PoolBacking {
        self.memory().region.backing()
    }

    fn count_stat(&self, count: impl FnOnce(&mut PoolStats)) {
        let mut stats = self.stats.get();
        count(&mut stats);
        self.stats.set(stats);
    }

    /// Who is woken when a lease comes back to a starved pool. Set once.
    pub(crate) fn set_waker(&mut self, waker: Waker) {
        let _ = self.memory().waker.set(waker);
    }

    /// Takes a buffer for the kernel to fill.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn take_ready(&mut self) -> Option<u16> {
        if self.with_kernel >= usize::from(self.config.with_kernel) {
            return None;
        }
        let buffer = self.take()?;
        self.with_kernel += 1;
        Some(buffer)
    }

    /// Takes a buffer for the driver to fill by itself, beyond those that the kernel has.
    pub(crate) fn take_beyond(&mut self) -> Option<u16> {
        let buffer = self.take()?;
        self.meta[usize::from(buffer)].beyond = true;
        Some(buffer)
    }

    fn take(&mut self) -> Option<u16> {
        let buffer = self.ready.pop()?;
        let meta = &mut self.meta[usize::from(buffer)];
        debug_assert!(!meta.with_kernel && meta.chunks == 0);
        meta.with_kernel = true;
        meta.beyond = false;
        meta.filled = 0;
        meta.out.set(0);
        let header = &self.memory().headers[usize::from(buffer)];
        header.count.store(OWNED, Ordering::Relaxed);
        header.local.store(0, Ordering::Relaxed);
        self.is_starving = false;
        Some(buffer)
    }

    /// Where a buffer lies, for the driver to hand to the kernel.
    pub(crate) fn address(&self, buffer: u16) -> NonNull<u8> {
        let offset = usize::from(buffer) * self.config.buffer_bytes as usize;
        // SAFETY: the buffer's index was bounds-checked by `meta` when it was taken; the offset lies
        // inside the allocation.
        unsafe { self.memory().region.base().add(offset) }
    }

    /// Where the unfilled part of a buffer begins, and how many bytes it has.
    pub(crate) fn room(&self, buffer: u16) -> (NonNull<u8>, u32) {
        let filled = self.meta[usize::from(buffer)].filled;
        // SAFETY: `filled` never exceeds the buffer's size.
        let at = unsafe { self.address(buffer).add(filled as usize) };
        (at, self.config.buffer_bytes - filled)
    }

    /// The kernel has put `bytes` behind what it had filled before; `more` says it keeps the buffer.
    pub(crate) fn filled(&mut self, buffer: u16, bytes: u32, more: bool) -> Chunk {
        let meta = &mut self.meta[usize::from(buffer)];
        assert!(meta.with_kernel, "completion for a buffer the kernel does not have");
        let start = meta.filled;
        let end = start + bytes;
        assert!(end <= self.config.buffer_bytes, "completion beyond the end of its buffer");
        meta.filled = end;
        meta.chunks += 1;
        if !more {
            meta.with_kernel = false;
            self.with_kernel -= usize::from(!meta.beyond);
        }
        let header = NonNull::from(&self.memory().headers[usize::from(buffer)]);
        // SAFETY: `start` lies inside the buffer.
        let at = unsafe { self.address(buffer).add(start as usize) };
        Chunk { pool: self.tag, buffer, len: bytes, bytes: at, header }
    }

    /// Whether the calling thread may use it.
    pub(crate) fn is_at_home(&self) -> bool {
        self.owner == 0 || self.owner == thread_number()
    }

    /// A chunk of another pool would reach memory that its own pool may be writing.
    #[inline(always)]
    fn check(&self, chunk: &Chunk) {
        if chunk.pool != self.tag {
            foreign_chunk();
        }
    }

    /// The chunk's bytes.
    ///
    /// # Panics
    /// If the chunk came from another shard.
    #[must_use]
    #[inline(always)]
    pub fn bytes(&self, chunk: &Chunk) -> &[u8] {
        self.check(chunk);
        // SAFETY: the bytes lie in this pool's memory, were filled by the kernel and are not written again before the
        // chunk is released; the memory started out zeroed, so it is initialised in any case.
        unsafe { std::slice::from_raw_parts(chunk.bytes.as_ptr(), chunk.len()) }
    }

    /// Whether so many buffers are leased from that no other may be.
    #[must_use]
    #[inline]
    pub fn is_low(&self) -> bool {
        self.leased.get() + usize::from(self.config.reserve) >= usize::from(self.config.buffers)
    }

    /// A lease on `range` of the chunk, or nothing when the reserve forbids to pin another buffer.
    ///
    /// # Panics
    /// If `range` does not lie inside the chunk, or the chunk came from another shard.
    // Always: the lease is then made in registers, where a return through memory would stall on each message.
    #[inline(always)]
    #[must_use]
    pub fn lease(&self, chunk: &Chunk, range: Range<usize>) -> Option<Lease> {
        let len = range.len();
        let bytes = NonNull::from(&self.bytes(chunk)[range]).cast();
        let meta = &self.meta[usize::from(chunk.buffer)];
        let out = meta.out.get();
        if out == 0 {
            if self.is_low() {
                self.count_refusal();
                return None;
            }
            self.leased.set(self.leased.get() + 1);
        }
        meta.out.set(out + 1);
        // SAFETY: counted in `out` just now; the range is filled and immutable until all leases are back.
        Some(unsafe { Lease::new(bytes, len, chunk.header) })
    }

    #[cold]
    fn count_refusal(&self) {
        self.count_stat(|stats| stats.copies_forced += 1);
    }

    /// The handler is done with a chunk: its buffer may go back once nothing else pins it.
    #[expect(clippy::needless_pass_by_value, reason = "a chunk is released once")]
    pub(crate) fn release(&mut self, chunk: Chunk) {
        self.check(&chunk);
        let buffer = chunk.buffer;
        let meta = &mut self.meta[usize::from(buffer)];
        meta.chunks -= 1;
        let out = meta.out.get();
        if meta_idle(&self.meta[usize::from(buffer)]) {
            if self.is_starving {
                self.release_starving(buffer, out);
            } else if self.is_back(buffer, out) {
                self.recycle(buffer);
            } else {
                self.lent.push(buffer);
            }
        }
    }

    /// The shard may be about to sleep until something becomes ready: this is told at once, or by the
    /// lease that is still out.
    #[cold]
    fn release_starving(&mut self, buffer: u16, out: usize) {
        self.flag_starved(buffer);
        if self.is_back(buffer, out) {
            self.recycle(buffer);
            self.memory().wake();
        } else {
            self.lent.push(buffer);
        }
    }

    fn flag_starved(&self, buffer: u16) {
        self.memory().headers[usize::from(buffer)].count.fetch_or(STARVED, Ordering::AcqRel);
    }

    fn is_back(&self, buffer: u16, out: usize) -> bool {
        let header = &self.memory().headers[usize::from(buffer)];
        let count = header.count.load(Ordering::Acquire) & !STARVED;
        count + out == OWNED + header.local.load(Ordering::Acquire)
    }

    fn recycle(&mut self, buffer: u16) {
        let out = self.meta[usize::from(buffer)].out.get() as u64;
        self.leased.set(self.leased.get() - usize::from(out > 0));
        self.count_stat(|stats| {
            stats.recycled += 1;
            stats.leases += out;
        });
        self.ready.push(buffer);
    }

    /// Access for the layer above.
    pub(crate) fn buffers(&mut self) -> Buffers<'_> {
        Buffers(self)
    }

    /// Looks which lent buffers are back. Call once a turn; costs nothing when none is lent.
    pub(crate) fn collect(&mut self) {
        let mut at = 0;
        while at < self.lent.len() {
            let buffer = self.lent[at];
            if self.is_back(buffer, self.meta[usize::from(buffer)].out.get()) {
                self.lent.swap_remove(at);
                self.recycle(buffer);
            } else {
                at += 1;
            }
        }
    }

    /// How many buffers the kernel has to fill.
    #[cfg(target_os = "linux")]
    pub(crate) fn with_kernel(&self) -> usize {
        self.with_kernel
    }

    /// How many buffers wait to be handed to the kernel.
    #[must_use]
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// How many buffers are filled and held by nothing but leases.
    #[must_use]
    pub fn lent_len(&self) -> usize {
        self.lent.len()
    }

    /// Gives the memory up for ever: the kernel may still write into it.
    pub(crate) fn leak(&self) {
        self.memory().live.fetch_add(1, Ordering::Relaxed);
    }

    /// A receive found no buffer.
    pub(crate) fn count_exhausted(&self) {
        self.count_stat(|stats| stats.exhausted += 1);
    }

    /// Receives wait for buffers. From now on a lease that comes back wakes the shard; returns
    /// whether one had come back in the meantime, so that the caller must not sleep.
    pub(crate) fn starve(&mut self) -> bool {
        self.lent.iter().for_each(|&buffer| self.flag_starved(buffer));
        self.collect();
        self.is_starving = self.ready.is_empty();
        !self.is_starving
    }
}

/// Out of the way of the paths that each message takes.
#[cold]
#[inline(never)]
fn foreign_chunk() -> ! {
    panic!("a chunk of another shard")
}

fn meta_idle(meta: &Meta) -> bool {
    !meta.with_kernel && meta.chunks == 0
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (header, meta) in self.memory().headers.iter().zip(&self.meta) {
            // From here on this thread gives back like any other.
            header.owner.store(0, Ordering::Relaxed);
            header.count.fetch_and(!STARVED, Ordering::AcqRel);
            let bias = OWNED + header.local.load(Ordering::Acquire) - meta.out.get();
            if header.count.fetch_sub(bias, Ordering::AcqRel) == bias {
                // SAFETY: no lease of this buffer is out, so its unit of `live` is ours to finish.
                // The pool's own unit keeps the memory alive through the loop.
                unsafe { Memory::finish_buffer(self.memory) };
            }
        }
        // SAFETY: the pool's own unit; it is not used again.
        unsafe { Memory::finish_buffer(self.memory) };
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("config", &self.config)
            .field("with_kernel", &self.with_kernel)
            .field("ready", &self.ready.len())
            .field("lent", &self.lent.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
