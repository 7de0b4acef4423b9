//! A handshake has the same result however a stranger's bytes are split, and keeps its guarantees on the way.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use zring::SocketType;
use zring::wire::{Handshake, LocalPeer, PeerInfo, Progress, Violation};

#[derive(Arbitrary, Debug)]
struct Input {
    socket_type: u8,
    opening: Opening,
    sizes: Vec<u8>,
    stream: Vec<u8>,
}

/// How well the stranger begins, so that the fuzzer need not guess the first hundred bytes.
#[derive(Arbitrary, Debug)]
enum Opening {
    None,
    Greeting,
    /// Greeting and READY, with one octet changed unless `xor` is 0.
    Ready {
        socket_type: u8,
        at: u8,
        xor: u8,
    },
}

impl Opening {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match *self {
            Opening::None => {}
            Opening::Greeting => {
                local(0).poll_transmit(&mut bytes);
            }
            Opening::Ready { socket_type, at, xor } => {
                let mut peer = local(socket_type);
                peer.poll_transmit(&mut bytes);
                peer.handle_input(&bytes).expect("our own greeting");
                peer.poll_transmit(&mut bytes);
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= xor;
            }
        }
        bytes
    }
}

#[derive(Debug, PartialEq)]
enum End {
    Waiting,
    Established(Box<PeerInfo>, usize),
    Failed(Violation),
}

fn local(socket_type: u8) -> Handshake {
    let types = SocketType::ALL;
    Handshake::new(LocalPeer {
        socket_type: types[usize::from(socket_type) % types.len()],
        routing_id: b"id".to_vec(),
    })
}

fn run(mut handshake: Handshake, stream: &[u8], sizes: &[u8]) -> (End, Vec<u8>) {
    let mut sent = Vec::new();
    let mut at = 0;
    let mut sizes = sizes.iter().cycle();
    let end = loop {
        if at == stream.len() {
            break End::Waiting;
        }
        let size = sizes.next().map_or(stream.len(), |&size| usize::from(size) + 1);
        let chunk = &stream[at..][..size.min(stream.len() - at)];
        match handshake.handle_input(chunk) {
            Ok((consumed, Progress::NeedMore)) => {
                assert_eq!(consumed, chunk.len());
                at += consumed;
            }
            Ok((consumed, Progress::Established(peer))) => {
                break End::Established(peer, at + consumed);
            }
            Err(violation) => {
                assert_eq!(handshake.handle_input(chunk), Err(violation.clone()));
                break End::Failed(violation);
            }
        }
    };
    handshake.poll_transmit(&mut sent);
    assert!(!handshake.poll_transmit(&mut Vec::new()));
    (end, sent)
}

fuzz_target!(|input: Input| {
    let mut stream = input.opening.bytes();
    stream.extend_from_slice(&input.stream);

    let (end, sent) = run(local(input.socket_type), &stream, &[]);
    assert_eq!(run(local(input.socket_type), &stream, &input.sizes), (end, sent.clone()));
    assert!(sent.len() >= 64 && sent.len() < 1024);
});
