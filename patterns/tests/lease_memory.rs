//! The memory of a receive pool is freed with its last user, whichever that is. A test program of its own with a single
//! test, because it counts the locked memory of the process, in which only its pools are locked.
#![cfg(target_os = "linux")]

mod common;

use std::{sync::mpsc::channel, thread, time::Duration};

use common::content::body;
use common::{PATIENCE, Way, bind_tcp, in_ways, open};
use zring::{Config, EngineConfig, Message, Need, PoolConfig, PoolMemory, SocketType};

const MESSAGES: usize = 60;
/// Within an ordinary user's limit on locked memory.
const POOL: PoolConfig = PoolConfig { buffers: 16, buffer_bytes: 4096, with_kernel: 4, reserve: 4 };
const POOL_KIB: usize = 64;

fn locked_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmLck:")).expect("VmLck");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

/// Messages received over a locked pool of a context that no longer exists.
fn kept_messages(way: Way) -> Vec<Message> {
    let engine = EngineConfig { pool: POOL, pool_whole: POOL, ..EngineConfig::default() };
    let pool_memory = PoolMemory { lock: Some(Need::Required), ..PoolMemory::default() };
    let config = Config { engine, pool_memory, ..way.config() };
    let shards = config.shards;
    let ctx = way.context_with(config);
    assert_eq!(locked_kib(), shards * POOL_KIB);
    let pull = open(&ctx, SocketType::Pull);
    let endpoint = bind_tcp(&pull);
    let sender = thread::spawn(move || {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        push.connect(&endpoint).expect("connect");
        for number in 0..MESSAGES {
            push.send(body(number as u64, 300)).expect("send");
        }
        assert_eq!(push.close().unsent_messages, 0);
    });
    let kept: Vec<Message> = (0..MESSAGES).map(|_| pull.recv().expect("a message")).collect();
    sender.join().expect("the sender");
    assert!(kept.iter().flat_map(Message::frames).any(zring::Frame::is_leased));
    drop(pull);
    drop(ctx);
    kept
}

#[test]
fn the_last_lease_frees_the_pool() {
    in_ways(Way::every(), Duration::from_secs(60), |way| {
        assert_eq!(locked_kib(), 0, "nothing is left of the way before");
        let kept = kept_messages(way);
        // With several shards, the pools without leases are already gone.
        assert_eq!(locked_kib(), POOL_KIB, "leases are out, shards are gone");
        for (number, message) in kept.iter().enumerate() {
            assert!(message.body() == body(number as u64, 300), "message {number} changed");
        }
        let (send, elsewhere) = channel::<Message>();
        let dropper = thread::spawn(move || elsewhere.into_iter().for_each(drop));
        for (number, message) in kept.into_iter().enumerate() {
            if number % 2 == 0 {
                send.send(message).expect("the other thread");
            }
        }
        drop(send);
        dropper.join().expect("the other thread");
        // The threads of a background context may end shortly after its drop.
        let start = std::time::Instant::now();
        while locked_kib() > 0 {
            assert!(start.elapsed() < PATIENCE, "{} KiB are still there", locked_kib());
            thread::sleep(Duration::from_millis(1));
        }
    });
}
