//! Parts of the library, measured alone: frames in and out, the choice of a peer, the match of a topic.
//!
//! `cargo bench -p zring --bench parts -- --quick`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use zring::route::{ActiveRing, LocalSubscriptions, PipeId, Slot, SubscriptionTrie};
use zring::wire::{Decoder, Step, encode_frame};

/// Frames in a buffer, as one receive brings them.
const FRAMES: usize = 64;
const BODY_BYTES: [usize; 3] = [16, 64, 1024];

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for body_bytes in BODY_BYTES {
        let body = vec![7; body_bytes];
        let mut out = Vec::with_capacity(FRAMES * (body_bytes + 9));
        group.bench_function(BenchmarkId::from_parameter(body_bytes), |b| {
            b.iter(|| {
                out.clear();
                for _ in 0..FRAMES {
                    encode_frame(&mut out, false, false, black_box(&body));
                }
                out.len()
            });
        });
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for body_bytes in BODY_BYTES {
        let mut stream = Vec::new();
        (0..FRAMES).for_each(|_| encode_frame(&mut stream, false, false, &vec![7; body_bytes]));
        let mut decoder = Decoder::new(u64::MAX);
        group.bench_function(BenchmarkId::from_parameter(body_bytes), |b| {
            b.iter(|| {
                let mut at = 0;
                let mut frames = 0;
                while let Ok(Step::Frame { body, .. }) = decoder.next(black_box(&stream), &mut at) {
                    black_box(body);
                    frames += 1;
                }
                assert_eq!(frames, FRAMES);
            });
        });
    }
    group.finish();
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for pipes in [1, 8, 1000] {
        let mut ring = ActiveRing::new();
        for pipe in (0..pipes).map(Slot) {
            ring.attach(pipe, pipe.0);
            ring.activate(pipe);
        }
        group.bench_function(BenchmarkId::new("next of active pipes", pipes), |b| {
            b.iter(|| {
                let pipe = ring.current();
                ring.advance();
                black_box(pipe)
            });
        });
        group.bench_function(BenchmarkId::new("a pipe fills up and drains", pipes), |b| {
            b.iter(|| {
                let pipe = ring.current().expect("all are active");
                ring.deactivate(pipe);
                ring.activate(black_box(pipe));
            });
        });
    }
    group.finish();
}

/// Topics such as `market.0042.trades`, as a feed has.
fn topic(n: u32) -> Vec<u8> {
    format!("market.{n:04}.trades").into_bytes()
}

fn subscription_match(c: &mut Criterion) {
    let mut group = c.benchmark_group("subscription match");
    for count in [1, 100, 10_000] {
        let mut local = LocalSubscriptions::new();
        (0..count).for_each(|n| {
            local.subscribe(&topic(n));
        });
        let (known, unknown) = (topic(count / 2), b"weather.0042.rain".to_vec());
        group.bench_function(BenchmarkId::new("subscriber, a hit among", count), |b| {
            b.iter(|| assert!(local.matches(black_box(&known))));
        });
        group.bench_function(BenchmarkId::new("subscriber, a miss among", count), |b| {
            b.iter(|| assert!(!local.matches(black_box(&unknown))));
        });
    }
    for subscribers in [1, 10, 1000] {
        let mut trie = SubscriptionTrie::new();
        (0..subscribers).for_each(|pipe| {
            trie.subscribe(b"market.", PipeId(pipe));
        });
        let topic = topic(42);
        group.throughput(Throughput::Elements(u64::from(subscribers)));
        group.bench_function(BenchmarkId::new("publisher, delivered to", subscribers), |b| {
            b.iter(|| {
                let mut delivered = 0;
                trie.matches(black_box(&topic), &mut |pipe| {
                    black_box(pipe);
                    delivered += 1;
                });
                assert_eq!(delivered, subscribers);
            });
        });
    }
    group.finish();
}

criterion_group!(parts, encode, decode, route, subscription_match);
criterion_main!(parts);
