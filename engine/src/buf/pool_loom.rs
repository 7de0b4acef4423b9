//! Models of leases that come back on other threads than the pool's.

use std::task::Wake;

use loom::{sync::Arc, thread};

use super::{Chunk, Lease, Pool, PoolConfig};
use crate::{Parker, sync::model::UnsafeCell};

const CONFIG: PoolConfig =
    PoolConfig { buffers: 2, buffer_bytes: 4096, with_kernel: 2, reserve: 1 };

/// A pool without a ready buffer, and a chunk of a buffer that the kernel is done with.
fn drained_pool(owned: bool) -> (Pool, Chunk) {
    let mut pool = Pool::new(CONFIG, owned);
    pool.set_waker(Parker::current().waker());
    let buffer = pool.take_ready().unwrap();
    pool.take_ready().unwrap();
    let chunk = pool.filled(buffer, 8, false);
    (pool, chunk)
}

fn lease(pool: &Pool, chunk: &Chunk) -> Lease {
    pool.lease(chunk, 0..8).unwrap()
}

/// The steps of a shard without buffers before and after it sleeps: a lost wake is a deadlock.
fn wait_for_a_buffer(pool: &mut Pool) {
    if !pool.starve() {
        while pool.ready_len() == 0 {
            assert!(Parker::current().park(None));
            pool.collect();
        }
    }
    assert_eq!((pool.ready_len(), pool.lent_len()), (1, 0));
}

/// Stands for a buffer's bytes, so that the model checks reads against writes.
type Bytes = Arc<UnsafeCell<u32>>;

fn read(bytes: &Bytes) -> u32 {
    // SAFETY: the holder of a lease may read; the model checks it.
    bytes.with(|bytes| unsafe { *bytes })
}

fn overwrite(bytes: &Bytes) {
    // SAFETY: the buffer is ready, so it has no reader; the model checks it.
    bytes.with_mut(|bytes| unsafe { *bytes += 1 });
}

#[test]
fn a_starved_pool_is_woken_and_overwrites_no_lease() {
    for owned in [false, true] {
        loom::model(move || {
            let (mut pool, chunk) = drained_pool(owned);
            let bytes = Bytes::new(UnsafeCell::new(0));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (lease, bytes) = (lease(&pool, &chunk), Arc::clone(&bytes));
                    thread::spawn(move || {
                        assert_eq!(read(&bytes), 0);
                        drop(lease);
                    })
                })
                .collect();
            pool.release(chunk);
            wait_for_a_buffer(&mut pool);
            overwrite(&bytes);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}

/// The chunk is released after the pool was found starved, while its lease is on its way back.
#[test]
fn a_chunk_released_late_is_waited_for_too() {
    for owned in [false, true] {
        loom::model(move || {
            let (mut pool, chunk) = drained_pool(owned);
            let lease = lease(&pool, &chunk);
            assert!(!pool.starve());
            let other = thread::spawn(move || drop(lease));
            pool.release(chunk);
            while pool.ready_len() == 0 {
                assert!(Parker::current().park(None));
                pool.collect();
            }
            other.join().unwrap();
        });
    }
}

/// Clones and slices made on other threads count as well.
#[test]
fn a_collected_buffer_has_no_reader() {
    for owned in [false, true] {
        loom::model(move || {
            let (mut pool, chunk) = drained_pool(owned);
            let bytes = Bytes::new(UnsafeCell::new(0));
            let other = thread::spawn({
                let (lease, bytes) = (lease(&pool, &chunk), Arc::clone(&bytes));
                move || {
                    let clone = lease.slice(1..3);
                    drop(lease);
                    assert_eq!(read(&bytes), 0);
                    drop(clone);
                }
            });
            pool.release(chunk);
            pool.collect();
            if pool.ready_len() == 1 {
                overwrite(&bytes);
            }
            other.join().unwrap();
            pool.collect();
            assert_eq!((pool.ready_len(), pool.lent_len()), (1, 0));
        });
    }
}

/// Freeing the memory drops its waker; the model counts these drops.
#[test]
fn the_memory_is_freed_once_by_whoever_is_last() {
    struct Freed;
    impl Wake for Freed {
        fn wake(self: std::sync::Arc<Self>) {}
    }
    for (is_starved, owned) in [(false, false), (false, true), (true, false), (true, true)] {
        loom::model(move || {
            let freed = std::sync::Arc::new(Freed);
            let mut pool = Pool::new(CONFIG, owned);
            pool.set_waker(std::sync::Arc::clone(&freed).into());
            let buffer = pool.take_ready().unwrap();
            pool.take_ready().unwrap();
            let chunk = pool.filled(buffer, 8, false);
            let bytes = Bytes::new(UnsafeCell::new(0));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (lease, bytes) = (lease(&pool, &chunk), Arc::clone(&bytes));
                    thread::spawn(move || {
                        assert_eq!(read(&bytes), 0);
                        drop(lease);
                    })
                })
                .collect();
            pool.release(chunk);
            if is_starved {
                pool.starve();
            }
            drop(pool);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(std::sync::Arc::strong_count(&freed), 1, "freed");
        });
    }
}

/// The owner gives two leases back in plain memory while another thread gives one back through the count.
#[test]
fn leases_come_back_on_both_sides() {
    loom::model(|| {
        let (mut pool, chunk) = drained_pool(true);
        let bytes = Bytes::new(UnsafeCell::new(0));
        let (here, there) = (lease(&pool, &chunk), lease(&pool, &chunk));
        let other = thread::spawn({
            let bytes = Arc::clone(&bytes);
            move || {
                assert_eq!(read(&bytes), 0);
                drop(there);
            }
        });
        pool.release(chunk);
        drop(here.clone());
        drop(here);
        wait_for_a_buffer(&mut pool);
        overwrite(&bytes);
        other.join().unwrap();
    });
}
