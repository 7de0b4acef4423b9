//! PUSH/PULL: a ventilator hands out tasks, three workers share them, a sink collects the results.
//!
//! ```text
//!              ┌─▶ PULL worker PUSH ─┐
//! ventilator PUSH ─▶ PULL worker PUSH ─▶ PULL sink PUB ─▶ (SUB of every worker: stop)
//!              └─▶ PULL worker PUSH ─┘
//! ```
//!
//! `cargo run -p zring --example pipeline`: every party has a thread and a context of its own, as separate
//! programs would.

use std::thread;
use std::time::Duration;

use zring::inline::{Context, POLLIN, PollItem, poll};
use zring::{Error, SocketType};

const WORKERS: usize = 3;
const TASKS: u64 = 3_000;
const PATIENCE: Option<Duration> = Some(Duration::from_secs(5));

fn main() -> Result<(), Error> {
    let context = Context::new()?;
    let results = context.socket(SocketType::Pull)?;
    results.bind("tcp://127.0.0.1:*")?;
    let stop = context.socket(SocketType::Pub)?;
    stop.bind("tcp://127.0.0.1:*")?;
    let sink = results.last_endpoint().expect("bound just now");
    let end = stop.last_endpoint().expect("bound just now");

    let tasks = "ipc://@zring-example-pipeline";
    let ventilator = thread::spawn(move || hand_out(tasks));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (sink, end) = (sink.clone(), end.clone());
            thread::spawn(move || work(tasks, &sink, &end))
        })
        .collect();

    let mut sum = 0;
    for _ in 0..TASKS {
        sum += number(results.recv()?.body());
    }
    stop.wait_for_subscribers("", WORKERS, PATIENCE)?;
    stop.send("stop")?;
    stop.close();

    ventilator.join().expect("the ventilator")?;
    for (name, worker) in (1..).zip(workers) {
        println!("worker {name} did {} tasks", worker.join().expect("a worker")?);
    }
    assert_eq!(sum, (0..TASKS).map(|task| task * task).sum());
    println!("sum of squares: {sum}");
    Ok(())
}

fn hand_out(tasks: &str) -> Result<(), Error> {
    let context = Context::new()?;
    let push = context.socket(SocketType::Push)?;
    push.bind(tasks)?;
    // Otherwise the first worker to connect would get all tasks.
    push.wait_for_peers(WORKERS, PATIENCE)?;
    for task in 0..TASKS {
        push.send(&task.to_le_bytes())?;
    }
    // Waits until all tasks are on their way: linger is unlimited by default.
    push.close();
    Ok(())
}

fn work(tasks: &str, sink: &str, end: &str) -> Result<u64, Error> {
    let context = Context::new()?;
    let pull = context.socket(SocketType::Pull)?;
    pull.connect(tasks)?;
    let push = context.socket(SocketType::Push)?;
    push.connect(sink)?;
    let stop = context.socket(SocketType::Sub)?;
    stop.subscribe("")?;
    stop.connect(end)?;

    let mut done = 0;
    loop {
        let mut items = [PollItem::new(&pull, POLLIN), PollItem::new(&stop, POLLIN)];
        poll(&mut items, None)?;
        let [has_task, is_over] = items.map(|item| item.is_readable());
        if has_task {
            let task = number(pull.recv()?.body());
            push.send(&(task * task).to_le_bytes())?;
            done += 1;
        } else if is_over {
            push.close();
            return Ok(done);
        }
    }
}

fn number(body: &[u8]) -> u64 {
    u64::from_le_bytes(body.try_into().expect("eight bytes"))
}
