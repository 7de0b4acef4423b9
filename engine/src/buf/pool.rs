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
    /// The number of buffers: a power of two, 2 to 32,768.
    pub buffers: u16,
    /// Bytes of each buffer: a multiple of 4,096, at most 16 MiB.
    pub buffer_bytes: u32,
    /// How many buffers the kernel has at a time, 1 to `buffers`. This is the most that one turn receives, and so the
    /// data that has to fit into the cache while it is decoded.
    pub with_kernel: u16,
    /// Leases alone never pin this many buffers: once the rest is pinned, frames are copied out instead.
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

/// Totals since the pool was made, and what is in use at the moment.
///
/// Held leases cost memory up to a bound: leases alone pin at most `buffers - reserve` buffers ([`PoolConfig`]). Beyond
/// that bodies are copied (`copies_forced`). Receives that still find no buffer (`exhausted`) wait, and TCP pushes back
/// on the peers until a buffer is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Leases handed out.
    pub leases: u64,
    /// Leases refused because the reserve was reached; these frames were copied.
    pub copies_forced: u64,
    /// Buffers that went back to the kernel.
    pub recycled: u64,
    /// Receives that found no buffer at all and had to wait for one.
    pub exhausted: u64,
    /// At the moment: leases that are held, clones and slices included, in waiting messages, in received messages or in
    /// sends under way.
    pub leases_out: u64,
    /// At the moment: buffers that leases keep from being refilled, wholly or in their filled part.
    pub buffers_pinned: u64,
    /// At the moment: the size of these buffers in bytes. A lease of one byte pins a whole buffer.
    pub bytes_pinned: u64,
}

/// The state of one buffer that only the pool's owner touches.
#[derive(Debug, Default)]
struct Meta {
    /// Leases issued since the buffer went to the kernel.
    out: Cell<usize>,
    /// Chunks not yet released.
    chunks: u32,
    /// How many bytes the kernel has filled.
    filled: u32,
    /// The kernel (or the driver itself) may still write behind `filled`.
    with_kernel: bool,
    /// The driver itself fills the buffer, which is not counted among the kernel's.
    beyond: bool,
}

/// Bytes that one completion delivered: a range of one buffer, pinned until released.
///
/// Plain data, so that chunks can wait in queues. Each chunk is given to [`Buffers::release`] of its own shard exactly
/// once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an unreleased chunk pins its buffer"]
pub struct Chunk {
    /// The pool that owns the memory under the pointers.
    pool: u32,
    buffer: u16,
    len: u32,
    bytes: NonNull<u8>,
    header: NonNull<Header>,
}

// SAFETY: the pointers are followed only together with the pool of this number, by the thread that has that pool.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the chunk is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A fixed set of equal buffers that circulate between the kernel, the handler and leases.
///
/// A buffer goes back to the kernel when the kernel has finished filling it, its chunks are released and its leases
/// have been given back. A pool is part of its shard. Other code cannot make, move out or replace it, because the
/// kernel writes into its memory.
pub struct Pool {
    memory: NonNull<Memory>,
    /// Different for each pool of the process; chunks carry it.
    tag: u32,
    /// The number of the thread that the pool belongs to; 0: any.
    owner: usize,
    config: PoolConfig,
    meta: Box<[Meta]>,
    with_kernel: usize,
    /// Buffers that were leased from since they were taken, in any state: the number that leases alone could pin.
    leased: Cell<usize>,
    /// A receive waits for a buffer: the next buffer that becomes ready must wake the shard.
    is_starving: bool,
    /// Filled and released, but leases are out.
    lent: Vec<u16>,
    /// Ready for the kernel.
    ready: Vec<u16>,
    stats: Cell<PoolStats>,
}

// SAFETY: the holder of the pool has all of its plain memory, and the headers, which leases share, are atomic. A pool
// with an owner counts correctly on that thread only, so its shard refuses to work elsewhere ([`Pool::is_at_home`]). A
// pool that is dropped elsewhere may keep its memory for ever.
unsafe impl Send for Pool {}

/// The pool of a shard for the layer above, which reads chunks, leases from them and releases them.
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

    /// The same pool for a shorter lifetime.
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
    /// Allocates the buffers; all of them start out ready for the kernel. With `owned`, counting is cheaper for leases
    /// that the calling thread drops itself.
    ///
    /// # Panics
    /// If `config` is not valid ([`PoolConfig::is_valid`]).
    #[cfg(test)]
    pub(crate) fn new(config: PoolConfig, owned: bool) -> Self {
        Self::over(Region::of_the_heap(config.bytes()), config, owned)
    }

    /// As [`Pool::new`], in memory as `wanted` describes it.
    ///
    /// # Errors
    /// [`Error::PoolMemory`] when a required property of the memory is not to be had.
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
        // SAFETY: the pool's own unit of `live` keeps the memory alive, and it is only ever shared.
        unsafe { self.memory.as_ref() }
    }

    /// The geometry of the pool.
    #[must_use]
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Totals so far, and what each buffer shows as leased now. A lease that another thread drops meanwhile may or may
    /// not be counted.
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

    /// The properties that the pool's memory really has.
    #[must_use]
    pub fn backing(&self) -> PoolBacking {
        self.memory().region.backing()
    }

    fn count_stat(&self, count: impl FnOnce(&mut PoolStats)) {
        let mut stats = self.stats.get();
        count(&mut stats);
        self.stats.set(stats);
    }

    /// Sets the waker for a lease that comes back to a starved pool. Effective once.
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

    /// Takes a buffer that the driver fills itself, in addition to those that the kernel has.
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

    /// The address of a buffer, which the driver hands to the kernel.
    pub(crate) fn address(&self, buffer: u16) -> NonNull<u8> {
        let offset = usize::from(buffer) * self.config.buffer_bytes as usize;
        // SAFETY: the buffer's index was bounds-checked by `meta` when it was taken; the offset lies
        // inside the allocation.
        unsafe { self.memory().region.base().add(offset) }
    }

    /// The address of the unfilled part of a buffer, and its length in bytes.
    pub(crate) fn room(&self, buffer: u16) -> (NonNull<u8>, u32) {
        let filled = self.meta[usize::from(buffer)].filled;
        // SAFETY: `filled` never exceeds the buffer's size.
        let at = unsafe { self.address(buffer).add(filled as usize) };
        (at, self.config.buffer_bytes - filled)
    }

    /// The kernel has appended `bytes` to the filled part of the buffer. `more`: the kernel keeps the buffer.
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

    /// Whether the calling thread may use the pool.
    pub(crate) fn is_at_home(&self) -> bool {
        self.owner == 0 || self.owner == thread_number()
    }

    /// Refuses a chunk of another pool, whose memory that pool may be writing.
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

    /// Whether no further buffer may be leased from.
    #[must_use]
    #[inline]
    pub fn is_low(&self) -> bool {
        self.leased.get() + usize::from(self.config.reserve) >= usize::from(self.config.buffers)
    }

    /// A lease on `range` of the chunk, or `None` when the reserve forbids pinning another buffer.
    ///
    /// # Panics
    /// If `range` does not lie inside the chunk, or the chunk came from another shard.
    // Always inline: the lease is then made in registers, where a return through memory would stall on each message.
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
        // SAFETY: counted in `out` just now; the range is filled, and immutable until all leases are back.
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

    /// The shard may be about to sleep until a buffer becomes ready. If this buffer is ready, wakes the shard at once;
    /// otherwise the last lease of the buffer does.
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

    /// Collects the lent buffers whose leases are back. Call once a turn; costs nothing when no buffer is lent.
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

    /// How many buffers the kernel has at the moment.
    #[cfg(target_os = "linux")]
    pub(crate) fn with_kernel(&self) -> usize {
        self.with_kernel
    }

    /// How many buffers are ready for the kernel.
    #[must_use]
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// How many filled buffers are held by leases alone.
    #[must_use]
    pub fn lent_len(&self) -> usize {
        self.lent.len()
    }

    /// Leaks the memory: the kernel may still write into it.
    pub(crate) fn leak(&self) {
        self.memory().live.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a receive that found no buffer.
    pub(crate) fn count_exhausted(&self) {
        self.count_stat(|stats| stats.exhausted += 1);
    }

    /// Receives wait for buffers. From now on a lease that comes back wakes the shard. Returns whether a buffer became
    /// ready in the meantime: then the caller must not sleep.
    pub(crate) fn starve(&mut self) -> bool {
        self.lent.iter().for_each(|&buffer| self.flag_starved(buffer));
        self.collect();
        self.is_starving = self.ready.is_empty();
        !self.is_starving
    }
}

/// Kept out of the code that each message runs through.
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
            // From here on this thread gives leases back like any other.
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
