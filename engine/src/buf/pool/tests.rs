//! A pool without a kernel.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const CONFIG: PoolConfig =
    PoolConfig { buffers: 4, buffer_bytes: 4096, with_kernel: 4, reserve: 1 };

fn fill(pool: &mut Pool, buffer: u16, bytes: &[u8], more: bool) -> Chunk {
    let at = pool.meta[usize::from(buffer)].filled as usize;
    let address = pool.address(buffer);
    // SAFETY: the test plays the kernel, which has the buffer, and there is room behind `filled`.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), address.add(at).as_ptr(), bytes.len());
    };
    pool.filled(buffer, bytes.len() as u32, more)
}

#[test]
fn a_buffer_returns_when_kernel_chunk_and_leases_are_done() {
    let mut pool = Pool::new(CONFIG, true);
    let buffer = pool.take_ready().unwrap();
    pool.take_ready().unwrap();
    let first = fill(&mut pool, buffer, b"hello", true);
    let lease = pool.lease(&first, 1..4).unwrap();
    pool.release(first);
    assert_eq!(pool.ready_len(), 2, "the kernel still has it");
    let second = fill(&mut pool, buffer, b"world", false);
    assert_eq!(pool.bytes(&second), b"world");
    pool.release(second);
    pool.collect();
    assert_eq!((pool.ready_len(), pool.lent_len()), (2, 1), "a lease is out");
    assert_eq!(&*lease, b"ell");
    let (clone, slice) = (lease.clone(), lease.slice(1..3));
    drop(lease);
    pool.collect();
    assert_eq!(pool.lent_len(), 1, "its clone and slice are out");
    assert_eq!((&*clone, &*slice), (&b"ell"[..], &b"ll"[..]));
    drop(clone);
    drop(slice);
    pool.collect();
    assert_eq!((pool.ready_len(), pool.lent_len()), (3, 0));
    assert_eq!(pool.stats().recycled, 1);
}

#[test]
fn a_released_lease_is_back_once_and_is_nothing() {
    let mut pool = Pool::new(CONFIG, true);
    let buffer = pool.take_ready().unwrap();
    let chunk = fill(&mut pool, buffer, b"hello", false);
    let mut lease = pool.lease(&chunk, 0..5).unwrap();
    let other = pool.lease(&chunk, 1..2).unwrap();
    pool.release(chunk);
    assert_eq!(pool.stats().leases_out, 2);
    lease.release();
    lease.release();
    let (clone, slice) = (lease.clone(), lease.slice(0..0));
    assert!(lease.is_empty() && clone.is_empty() && slice.is_empty());
    drop((lease, clone, slice));
    pool.collect();
    assert_eq!((pool.stats().leases_out, pool.lent_len()), (1, 1), "the other one is out");
    assert_eq!(&*other, b"e");
    drop(other);
    pool.collect();
    assert_eq!((pool.stats().leases_out, pool.lent_len()), (0, 0));
}

#[test]
fn leases_outlive_the_pool_on_other_threads() {
    let mut pool = Pool::new(CONFIG, true);
    let mut leases = Vec::new();
    for _ in 0..3 {
        let buffer = pool.take_ready().unwrap();
        let chunk = fill(&mut pool, buffer, &[buffer as u8; 4096], false);
        leases.push((buffer as u8, pool.lease(&chunk, 0..4096).unwrap()));
        pool.release(chunk);
    }
    drop(pool);
    let threads: Vec<_> = leases
        .into_iter()
        .map(|(byte, lease)| {
            std::thread::spawn(move || assert!(lease.iter().all(|&at| at == byte)))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_reserve_is_never_leased() {
    let mut pool = Pool::new(PoolConfig { reserve: 2, ..CONFIG }, true);
    let mut kept = Vec::new();
    for at in 0..4 {
        let buffer = pool.take_ready().unwrap();
        let chunk = fill(&mut pool, buffer, b"abc", false);
        kept.extend(pool.lease(&chunk, 0..3));
        pool.release(chunk);
        assert_eq!(kept.len(), (at + 1).min(2), "two buffers may be pinned");
    }
    assert_eq!(pool.stats().copies_forced, 2);
    assert_eq!((pool.lent_len(), pool.ready_len()), (2, 2));
}

#[test]
fn the_kernel_has_only_so_many_at_a_time() {
    let mut pool = Pool::new(PoolConfig { with_kernel: 2, ..CONFIG }, true);
    let first = pool.take_ready().unwrap();
    pool.take_ready().unwrap();
    assert!(pool.take_ready().is_none());
    let chunk = fill(&mut pool, first, b"abc", false);
    assert!(pool.take_ready().is_some());
    pool.release(chunk);
    assert!(pool.take_ready().is_none());
}

#[test]
#[should_panic(expected = "a chunk of another shard")]
fn a_chunk_of_another_pool_is_refused() {
    let (mut mine, mut other) = (Pool::new(CONFIG, true), Pool::new(CONFIG, true));
    let buffer = other.take_ready().unwrap();
    mine.take_ready().unwrap();
    let chunk = fill(&mut other, buffer, b"abc", false);
    mine.buffers().release(chunk);
}

#[test]
fn a_pool_without_an_owner_is_used_by_one_thread_after_the_other() {
    let mut pool = Pool::new(CONFIG, false);
    let buffer = pool.take_ready().unwrap();
    let chunk = fill(&mut pool, buffer, b"abcdef", false);
    let here = pool.lease(&chunk, 0..3).unwrap();
    let (mut pool, lease) = std::thread::spawn(move || {
        let lease = pool.lease(&chunk, 3..6).unwrap();
        pool.release(chunk);
        (pool, lease)
    })
    .join()
    .unwrap();
    assert_eq!((&*here, &*lease), (&b"abc"[..], &b"def"[..]));
    drop((here, lease));
    pool.collect();
    assert_eq!((pool.lent_len(), pool.ready_len()), (0, 4));
}

#[test]
fn leases_given_back_on_both_sides_add_up() {
    let mut pool = Pool::new(CONFIG, true);
    let buffer = pool.take_ready().unwrap();
    let chunk = fill(&mut pool, buffer, b"abcdef", false);
    let mut leases: Vec<_> = (0..6).map(|at| pool.lease(&chunk, at..at + 1).unwrap()).collect();
    leases.push(leases[0].clone());
    pool.release(chunk);
    let elsewhere = leases.split_off(3);
    drop(leases);
    pool.collect();
    assert_eq!(pool.lent_len(), 1);
    std::thread::spawn(move || drop(elsewhere)).join().unwrap();
    pool.collect();
    assert_eq!((pool.lent_len(), pool.ready_len()), (0, 4));
}

#[test]
fn the_reserve_holds_whoever_has_the_buffers() {
    let mut pool = Pool::new(CONFIG, true);
    let buffers: Vec<_> = std::iter::from_fn(|| pool.take_ready()).collect();
    let chunks: Vec<_> =
        buffers.into_iter().map(|buffer| fill(&mut pool, buffer, b"abc", true)).collect();
    // No buffer is lent yet, but all of these would be once the kernel and the handler are done with them.
    let mut leases: Vec<_> = chunks.iter().filter_map(|chunk| pool.lease(chunk, 0..3)).collect();
    assert_eq!(leases.len(), usize::from(CONFIG.buffers - CONFIG.reserve));
    assert!(pool.is_low());
    leases.extend(pool.lease(&chunks[0], 1..2));
    assert_eq!(pool.stats().leases_out, leases.len() as u64, "the buffer is pinned anyway");
    assert_eq!(pool.stats().copies_forced, u64::from(CONFIG.reserve));
    for chunk in chunks {
        let end = pool.filled(chunk.buffer, 0, false);
        pool.release(chunk);
        pool.release(end);
    }
    assert_eq!(pool.ready_len(), usize::from(CONFIG.reserve), "never pinned by leases");
    drop(leases);
    pool.collect();
    assert!(!pool.is_low() && pool.ready_len() == usize::from(CONFIG.buffers));
}

#[test]
fn leases_that_are_out_are_counted() {
    for owned in [true, false] {
        let mut pool = Pool::new(CONFIG, owned);
        let out = |pool: &Pool| {
            let stats = pool.stats();
            assert_eq!(stats.bytes_pinned, stats.buffers_pinned * 4096);
            (stats.leases_out, stats.buffers_pinned)
        };
        assert_eq!(out(&pool), (0, 0));
        let (first, second) = (pool.take_ready().unwrap(), pool.take_ready().unwrap());
        let one = fill(&mut pool, first, b"abcdef", false);
        let other = fill(&mut pool, second, b"ghi", true);
        let lease = pool.lease(&one, 0..6).unwrap();
        let (clone, slice) = (lease.clone(), lease.slice(2..4));
        let far = pool.lease(&other, 0..3).unwrap();
        assert_eq!(out(&pool), (4, 2));
        pool.release(one);
        pool.release(other);
        assert_eq!(out(&pool), (4, 2), "chunks are no leases");
        drop(lease);
        assert_eq!(out(&pool), (3, 2));
        std::thread::spawn(move || drop((clone, far))).join().unwrap();
        assert_eq!((out(&pool), &slice[..]), ((1, 1), &b"cd"[..]));
        // Marking lent buffers as starved changes no count.
        pool.starve();
        assert_eq!(out(&pool), (1, 1));
        drop(slice);
        pool.collect();
        assert_eq!(out(&pool), (0, 0));
    }
}

#[test]
fn a_starved_pool_is_woken_by_the_lease_that_returns() {
    struct Count(AtomicU32);
    impl std::task::Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let count = std::sync::Arc::new(Count(AtomicU32::new(0)));
    let mut pool = Pool::new(CONFIG, true);
    pool.set_waker(count.clone().into());
    let buffer = pool.take_ready().unwrap();
    while pool.take_ready().is_some() {}
    let chunk = fill(&mut pool, buffer, b"abc", false);
    let lease = pool.lease(&chunk, 0..3).unwrap();
    let kept = lease.clone();
    pool.release(chunk);
    assert!(!pool.starve());
    std::thread::spawn(move || drop(lease)).join().unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    pool.collect();
    assert_eq!(pool.ready_len(), 0, "one is still out");
    std::thread::spawn(move || drop(kept)).join().unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 2);
    assert_eq!(pool.ready_len(), 0, "not looked at yet");
    pool.collect();
    assert_eq!(pool.ready_len(), 1);
}
