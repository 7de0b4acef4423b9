//! Any command body parses or is a violation, and a known command survives being encoded again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use zring::wire::{
    Command, Decoder, Step, encode_cancel, encode_error, encode_ping, encode_pong, encode_subscribe,
};

/// The body of the only frame in `frame`, which must be a command.
fn body(frame: &[u8]) -> &[u8] {
    let mut at = 0;
    match Decoder::new(u64::MAX).next(frame, &mut at) {
        Ok(Step::Frame { flags, body }) if flags.command() && at == frame.len() => &frame[body],
        other => panic!("{other:?}"),
    }
}

fuzz_target!(|data: &[u8]| {
    let _ = Command::from_subscription_message(data);
    let Ok(command) = Command::parse(data) else {
        return;
    };
    let mut frame = Vec::new();
    match command {
        Command::Subscribe(prefix) => encode_subscribe(&mut frame, prefix, 1),
        Command::Cancel(prefix) => encode_cancel(&mut frame, prefix, 1),
        Command::Ping { ttl_ds, context } => encode_ping(&mut frame, ttl_ds, context),
        Command::Pong { context } => encode_pong(&mut frame, context),
        Command::Error { reason } => match std::str::from_utf8(reason) {
            Ok(reason) => encode_error(&mut frame, reason),
            Err(_) => return,
        },
        _ => return,
    }
    assert_eq!(Command::parse(body(&frame)), Ok(command));
});
