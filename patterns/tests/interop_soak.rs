//! Messages of all sizes to libzmq and back, for `ZRING_SOAK_SECONDS` (3 by default).
// The peers run in a virtual environment of Python with the layout it has on Unix.
#![cfg(unix)]

mod common;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use common::content::{body, fill};
use common::peer::{Case, in_cases};
use common::{PATIENCE, open, setting};
use zring::{Error, Message, SocketType};

/// Most messages under way.
const WINDOW: usize = 256;

fn soak_seconds() -> u32 {
    setting("ZRING_SOAK_SECONDS").unwrap_or(3)
}

/// The size of a message: mostly small, some of a buffer's size, a few large.
fn size(number: u64) -> usize {
    let mut dice = [0; 8];
    fill(!number, &mut dice);
    let dice = u64::from_le_bytes(dice);
    let bound = match dice % 100 {
        0..80 => 300,
        80..97 => 9_000,
        97..99 => 100_000,
        _ => 1_500_000,
    };
    usize::try_from((dice >> 8) % bound).expect("small")
}

#[test]
fn everything_comes_back_in_order() {
    in_cases(Case::rotated(), |case| {
        let ctx = case.context();
        let (push, pull) = (open(&ctx, SocketType::Push), open(&ctx, SocketType::Pull));
        let back = case.bind(&pull, "back");
        let limit = (soak_seconds() + 60).to_string();
        let peer = case.join(&push, "out", "soak", &["--back", &back, "--limit-s", &limit]);
        let end = Instant::now() + Duration::from_secs(soak_seconds().into()) / 4;
        let (mut number, mut flying) = (0, VecDeque::new());
        while Instant::now() < end || !flying.is_empty() {
            if flying.len() < WINDOW && Instant::now() < end {
                // Never empty: an empty message ends the test.
                let payload = body(number, size(number) + 1);
                push.send(Message::from(payload.clone())).expect("send");
                flying.push_back(payload);
                number += 1;
            }
            let full = flying.len() == WINDOW || Instant::now() >= end;
            match if full { pull.recv() } else { pull.try_recv() } {
                Ok(message) => assert!(
                    flying.pop_front().is_some_and(|sent| sent == message.body()),
                    "lost or changed"
                ),
                Err(Error::WouldBlock) => assert!(!full, "nothing came back for {PATIENCE:?}"),
                Err(error) => panic!("{error}"),
            }
        }
        push.send("").expect("send");
        assert_eq!(peer.done(&ctx), number);
    });
}
