//! Pipeline: a ventilator distributes tasks, workers process them, a sink collects the results.
//!
//! ```text
//!              +-- PUSH > PULL -- worker 1 --+
//! ventilator --+-- PUSH > PULL -- worker 2 --+-- PUSH > PULL -- sink
//!       |      +-- PUSH > PULL -- worker 3 --+                  ^  |
//!       |                           ^------ SUB < PUB: stop ----|--+
//!       +------------- PUSH > PULL: how many tasks -------------+
//! ```

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use zring::{SocketType, inline};

use crate::demo::show::{self, Counter};
use crate::demo::{PATIENCE, bind, bound, connected, context, join, pack, socket, start, unpack};
use crate::error::{Failure, Result};

/// How long the ventilator distributes tasks.
pub(super) const DURATION: Duration = Duration::from_secs(2);
const WORKERS: u64 = 3;
/// Most tasks that wait for one worker, so that a fast worker gets more of them.
const QUEUED_TASKS_MAX: u32 = 100;
/// Socket buffers of the task connections. Small: otherwise most tasks would be distributed evenly long before they are
/// processed, and the slowest worker would finish far behind the others.
const TASK_BUFFER_BYTES: usize = 8 << 10;
/// Numbers whose Collatz sequences one task walks: some tens of microseconds.
const NUMBERS_PER_TASK: u64 = 64;
const STOP: &[u8] = b"stop";
/// Sent in place of a worker's number when the ventilator tells the sink the number of tasks.
const TOTAL: u64 = u64::MAX;

/// The sink's counts.
pub(super) struct Pipeline {
    pub(super) tasks_per_worker: Vec<u64>,
}

/// The sink's endpoints.
#[derive(Clone)]
struct Sink {
    results: String,
    control: String,
}

/// Runs this part and returns the sink's counts.
pub(super) fn run() -> Result<Pipeline> {
    show::open(
        "Pipeline",
        "A ventilator hands out small computations, three workers share them, a sink collects every result.",
    );
    let (reports, counts) = mpsc::channel();
    thread::scope(|scope| {
        let (announce, announced) = mpsc::channel();
        let sink =
            start(scope, "sink".to_owned(), move || collect(&announce, Counter::new(reports)))?;
        let mut others = Vec::new();
        if let Ok(at) = announced.recv() {
            let (announce, announced) = mpsc::channel();
            let results = at.results.clone();
            others.push(start(scope, "ventilator".to_owned(), move || {
                ventilate(&announce, &results)
            })?);
            if let Ok(tasks) = announced.recv() {
                for number in 0..WORKERS {
                    let (tasks, at) = (tasks.clone(), at.clone());
                    others.push(start(scope, format!("worker {}", number + 1), move || {
                        work(number, &tasks, &at)
                    })?);
                }
            }
        }
        show::watch(&counts, DURATION, "results collected");
        for other in others {
            join(other)?;
        }
        join(sink)
    })
}

fn ventilate(announce: &mpsc::Sender<String>, results: &str) -> Result<()> {
    let context = context()?;
    let tasks = socket(&context, SocketType::Push)?;
    tasks.set_sndhwm(QUEUED_TASKS_MAX);
    tasks.set_sndbuf(Some(TASK_BUFFER_BYTES)).expect("within bounds");
    let endpoint = bind(&tasks)?;
    let sink = connected(&context, SocketType::Push, results)?;
    let _ = announce.send(endpoint);
    tasks.wait_for_peers(WORKERS as usize, Some(PATIENCE)).map_err(Failure::library)?;
    let started = Instant::now();
    let mut total = 0;
    while started.elapsed() < DURATION {
        tasks.send(&pack(total, 0)[..]).map_err(Failure::library)?;
        total += 1;
    }
    sink.send(&pack(TOTAL, total)[..]).map_err(Failure::library)?;
    tasks.close();
    sink.close();
    Ok(())
}

fn work(number: u64, tasks: &str, sink: &Sink) -> Result<()> {
    let context = context()?;
    let control = connected(&context, SocketType::Sub, &sink.control)?;
    control.subscribe(STOP).map_err(Failure::library)?;
    let results = connected(&context, SocketType::Push, &sink.results)?;
    let (at, tasks) = (tasks, socket(&context, SocketType::Pull)?);
    tasks.set_rcvhwm(QUEUED_TASKS_MAX);
    tasks.set_rcvbuf(Some(TASK_BUFFER_BYTES)).expect("within bounds");
    tasks.connect(at).map_err(Failure::library)?;
    loop {
        let mut items = [
            inline::PollItem::new(&tasks, inline::POLLIN),
            inline::PollItem::new(&control, inline::POLLIN),
        ];
        if inline::poll(&mut items, Some(PATIENCE)).map_err(Failure::library)? == 0 {
            return Err(Failure::Setup("no task and no stop in time".to_owned()));
        }
        let [has_task, is_stopped] = items.map(|item| item.is_readable());
        if has_task {
            let (task, _) = unpack(tasks.recv().map_err(Failure::library)?.body())?;
            results.send(&pack(number, collatz_steps(task))[..]).map_err(Failure::library)?;
        } else if is_stopped {
            return Ok(());
        }
    }
}

/// The work: steps until the Collatz sequences of a task's numbers reach one.
fn collatz_steps(task: u64) -> u64 {
    let steps = |mut number: u64| {
        let mut steps = 0;
        while number > 1 {
            number = if number.is_multiple_of(2) { number / 2 } else { 3 * number + 1 };
            steps += 1;
        }
        steps
    };
    let first = task * NUMBERS_PER_TASK + 1;
    (first..first + NUMBERS_PER_TASK).map(steps).sum()
}

fn collect(announce: &mpsc::Sender<Sink>, mut counter: Counter) -> Result<Pipeline> {
    let context = context()?;
    let (results, results_endpoint) = bound(&context, SocketType::Pull)?;
    let (control, control_endpoint) = bound(&context, SocketType::Pub)?;
    let _ = announce.send(Sink { results: results_endpoint, control: control_endpoint });
    let mut tasks_per_worker = vec![0; WORKERS as usize];
    let mut total = None;
    while total != Some(tasks_per_worker.iter().sum()) {
        let message = results.recv().map_err(Failure::library)?;
        match unpack(message.body())? {
            (TOTAL, count) => total = Some(count),
            (worker, _) => {
                let done = tasks_per_worker.get_mut(worker as usize);
                *done.ok_or_else(|| {
                    Failure::Setup(format!("a result of unknown worker {worker}"))
                })? += 1;
                counter.count();
            }
        }
    }
    control
        .wait_for_subscribers(STOP, WORKERS as usize, Some(PATIENCE))
        .map_err(Failure::library)?;
    control.send(STOP).map_err(Failure::library)?;
    control.close();
    Ok(Pipeline { tasks_per_worker })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_real() {
        // 1, 2 and 3 take 0, 1 and 7 steps; the 64 numbers of the first task take 2085 together.
        let by_hand: u64 = (1..=NUMBERS_PER_TASK)
            .map(|number| {
                std::iter::successors(Some(number), |&n| match n {
                    1 => None,
                    n if n % 2 == 0 => Some(n / 2),
                    n => Some(3 * n + 1),
                })
                .count() as u64
                    - 1
            })
            .sum();
        assert_eq!(collatz_steps(0), by_hand);
    }
}
