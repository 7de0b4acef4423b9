//! One end of an exchange as a process of its own: for the tests in `tests/interop_processes.rs`, or by hand between
//! two machines.
//!
//! ```text
//! cargo run -p zring --example peer -- answer --bind 'tcp://*:5555'
//! cargo run -p zring --example peer -- ask --connect tcp://server:5555
//! ```
//!
//! The other pairs are `push` with `pull` and `publish` with `subscribe`; either end may bind. `--plan sizes`, `burst`
//! or `huge` says which messages. Every byte is checked. `tests/py` has programs for libzmq with the same names, output
//! lines and messages, so that any of them may replace its counterpart here.

use std::error::Error;
use std::time::{Duration, Instant};
use std::{env, thread};

use content::{check, plan, send};
use zring::{Context, Socket, SocketType};

#[path = "../tests/common/content.rs"]
mod content;

/// How long an end waits for the other.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long to check that no message comes after the end.
const QUIET: Duration = Duration::from_millis(60);
const TOPICS: [&str; 3] = ["10001", "10002", "2"];
const CHOSEN: [&str; 2] = ["10001", "2"];
const USAGE: &str = "usage: peer ask|answer|push|pull|publish|subscribe \
                     --bind ENDPOINT | --connect ENDPOINT [--plan NAME]";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The messages of a plan, as the sizes of their frames.
type Plan = Vec<Vec<usize>>;

fn main() -> Outcome<()> {
    let mut arguments = env::args().skip(1);
    let role = arguments.next().ok_or(USAGE)?;
    let (kind, run): (_, fn(&Socket, &Plan) -> Outcome<usize>) = match role.as_str() {
        "ask" => (SocketType::Req, ask),
        "answer" => (SocketType::Rep, answer),
        "push" => (SocketType::Push, push),
        "pull" => (SocketType::Pull, pull),
        "publish" => (SocketType::Pub, publish),
        "subscribe" => (SocketType::Sub, subscribe),
        _ => return Err(USAGE.into()),
    };
    let context = Context::new()?;
    let socket = context.socket(kind)?;
    socket.set_sndtimeo(Some(PATIENCE));
    socket.set_rcvtimeo(Some(PATIENCE));
    socket.set_linger(Some(PATIENCE));
    // High enough that PUB drops nothing and SUB does not make the sender wait: this program tests neither.
    socket.set_sndhwm(100_000);
    socket.set_rcvhwm(100_000);
    if kind == SocketType::Sub {
        // Subscribe to `sync` last: a subscriber that gets a `sync` message has subscribed to everything else.
        CHOSEN.iter().chain(&["END", "sync"]).try_for_each(|topic| socket.subscribe(topic))?;
    }

    let mut messages = "sizes".to_owned();
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match option.as_str() {
            "--plan" => messages = value,
            "--connect" => socket.connect(&value)?,
            "--bind" => {
                socket.bind(&value)?;
                println!("endpoint {}", socket.last_endpoint().ok_or("bound to nothing")?);
            }
            _ => return Err(USAGE.into()),
        }
    }
    println!("ready");
    let count = run(&socket, &plan(&messages))?;
    let report = socket.close();
    if report.unsent_messages != 0 {
        return Err(format!("{} messages could not be sent", report.unsent_messages).into());
    }
    println!("done {count}");
    Ok(())
}

fn ask(req: &Socket, plan: &Plan) -> Outcome<usize> {
    for (number, sizes) in plan.iter().enumerate() {
        send(req, &[], number, sizes);
        check(&req.recv()?, &[], number, sizes);
    }
    Ok(plan.len())
}

fn answer(rep: &Socket, plan: &Plan) -> Outcome<usize> {
    for (number, sizes) in plan.iter().enumerate() {
        let request = rep.recv()?;
        check(&request, &[], number, sizes);
        rep.send(request)?;
    }
    Ok(plan.len())
}

fn push(push: &Socket, plan: &Plan) -> Outcome<usize> {
    for (number, sizes) in plan.iter().enumerate() {
        send(push, &[], number, sizes);
    }
    println!("sent {}", plan.len());
    Ok(plan.len())
}

fn pull(pull: &Socket, plan: &Plan) -> Outcome<usize> {
    for (number, sizes) in plan.iter().enumerate() {
        check(&pull.recv()?, &[], number, sizes);
    }
    nothing_more(pull)?;
    Ok(plan.len())
}

fn publish(publisher: &Socket, plan: &Plan) -> Outcome<usize> {
    for topic in CHOSEN.iter().chain(&["END"]) {
        publisher.wait_for_subscribers(topic, 1, Some(PATIENCE))?;
    }
    for (number, sizes) in plan.iter().enumerate() {
        for topic in TOPICS {
            send(publisher, &[topic.as_bytes()], number, sizes);
        }
    }
    publisher.send("END")?;
    // Wait until the subscriber has gone: libzmq's would linger for a publisher that went first, in case it came back.
    let end = Instant::now() + PATIENCE;
    while !publisher.peers().is_empty() {
        if Instant::now() > end {
            return Err("the subscriber does not leave".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(plan.len() * TOPICS.len())
}

/// Prints `synced` at the first `sync` message: the publisher that sends them may begin. A publisher that can wait for
/// subscribers sends none.
fn subscribe(sub: &Socket, plan: &Plan) -> Outcome<usize> {
    let mut next = sub.recv()?;
    if next.body() == b"sync" {
        println!("synced");
    }
    while next.body() == b"sync" {
        next = sub.recv()?;
    }
    for (number, sizes) in plan.iter().enumerate() {
        for topic in CHOSEN {
            check(&next, &[topic.as_bytes()], number, sizes);
            next = sub.recv()?;
        }
    }
    if next.body() != b"END" {
        return Err("a message too many".into());
    }
    nothing_more(sub)?;
    Ok(plan.len() * CHOSEN.len())
}

fn nothing_more(socket: &Socket) -> Outcome<()> {
    thread::sleep(QUIET);
    match socket.try_recv() {
        Err(zring::Error::WouldBlock) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err("something came after the end".into()),
    }
}
