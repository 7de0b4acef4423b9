//! Sends and receives short messages in two functions, for `scripts/instructions` to count what either takes.
//!
//! ```sh
//! cargo run --release -p zring --example instructions -- push-pull 10000
//! ```
//!
//! One thread drives two inline contexts, so that nothing depends on how threads meet. A round sends 1,000 messages in a
//! batch scope of the first context, and then receives them in the second. REQ and REP have rounds of one message. A
//! sender with two peers chooses between them for each message; with a single peer it remembers the way.

use std::{env, error::Error, hint::black_box};

use zring::{
    Driver, SocketType,
    inline::{Context, Socket},
};

/// Messages of a round.
const ROUND: usize = 1000;
const BODY: [u8; 64] = [7; 64];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [pair, messages] = &arguments[..] else { return Err("usage: PAIR MESSAGES".into()) };
    let (from, to, round, peers) = match pair.as_str() {
        "push-pull" => (SocketType::Push, SocketType::Pull, ROUND, 1),
        "push-pulls" => (SocketType::Push, SocketType::Pull, ROUND, 2),
        "pair-pair" => (SocketType::Pair, SocketType::Pair, ROUND, 1),
        "pub-sub" => (SocketType::Pub, SocketType::Sub, ROUND, 1),
        "req-rep" => (SocketType::Req, SocketType::Rep, 1, 1),
        _ => return Err(format!("no pair {pair}").into()),
    };
    let config = || zring::Config { driver: Driver::Ready, ..zring::Config::default() };
    let (here, there) = (Context::with_config(config())?, Context::with_config(config())?);
    let sender = here.socket(from)?;
    sender.set_sndhwm(2 * ROUND as u32);
    let receivers: Vec<Socket> = (0..peers).map(|_| there.socket(to)).collect::<Result<_, _>>()?;
    for receiver in &receivers {
        receiver.bind("ipc://*")?;
        if to == SocketType::Sub {
            receiver.subscribe("")?;
        }
        sender.connect(&receiver.last_endpoint().ok_or("bound")?)?;
    }
    // All belong to this thread: none may wait for another.
    let is_ready = || {
        let here = sender.peers();
        let subscribed = from != SocketType::Pub || here.iter().all(|peer| peer.subscriptions > 0);
        here.len() == peers && subscribed && receivers.iter().all(|it| it.peers().len() == 1)
    };
    while !is_ready() {
        here.turn()?;
        there.turn()?;
    }
    for _ in 0..messages.parse::<usize>()? / round {
        send_round(&here, &sender, round)?;
        // Sends to several peers complete in a turn.
        here.turn()?;
        for receiver in &receivers {
            receive_round(receiver, round / peers)?;
        }
        if to == SocketType::Rep {
            send_round(&there, &receivers[0], round)?;
            receive_round(&sender, round)?;
        }
    }
    Ok(())
}

#[inline(never)]
fn send_round(context: &Context, socket: &Socket, messages: usize) -> Result<(), zring::Error> {
    let _batch = context.batch();
    for _ in 0..messages {
        socket.send(black_box(&BODY[..]))?;
    }
    Ok(())
}

#[inline(never)]
fn receive_round(socket: &Socket, messages: usize) -> Result<(), zring::Error> {
    for _ in 0..messages {
        black_box(socket.recv()?);
    }
    Ok(())
}
