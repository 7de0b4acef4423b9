//! The threads of background contexts: where they run, which limits they have, and that they end.

mod common;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{PATIENCE, Way, in_ways, setting};
use zring::{Config, Context, Error, Scheduling, Socket, SocketType};

const LIMIT: Duration = Duration::from_secs(60);

/// These tests set the number of shards themselves.
fn ways() -> Vec<Way> {
    Way::background().into_iter().filter(|&way| way != Way::Spread).collect()
}

/// These tests look at the threads of the whole process, so they run one by one.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread of this process, as shown by the kernel.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Task {
    name: String,
    cores: String,
    nice: i32,
}

/// Only Linux shows the threads of a process and their names.
#[cfg(not(target_os = "linux"))]
fn runners() -> Vec<Task> {
    Vec::new()
}

/// The threads whose names are `zring-` and a number.
#[cfg(target_os = "linux")]
fn runners() -> Vec<Task> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc/self/task");
    let mut runners: Vec<Task> = tasks
        .filter_map(|task| {
            // A thread may end while it is inspected.
            let path = task.ok()?.path();
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let stat = std::fs::read_to_string(path.join("stat")).ok()?;
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name))?;
                Some(line[name.len()..].trim().to_owned())
            };
            // proc_pid_stat(5): the 17th field after the name in parentheses.
            let nice = stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()?;
            Some(Task { name: field("Name:")?, cores: field("Cpus_allowed_list:")?, nice })
        })
        .filter(|task| {
            task.name.strip_prefix("zring-").is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .collect();
    runners.sort();
    runners
}

/// Waits until no Runner is left in the kernel's list.
fn are_gone() {
    let start = Instant::now();
    while !runners().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(5), "still there: {:?}", runners());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(not(target_os = "linux"))]
fn cores() -> Vec<usize> {
    vec![0]
}

/// The cores that this process may use.
#[cfg(target_os = "linux")]
fn cores() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let spans = list.expect("a list of cores").trim().split(',');
    let number = |text: &str| text.parse::<usize>().expect("a core");
    let span = |span: &str| match span.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => number(span)..=number(span),
    };
    spans.flat_map(span).collect()
}

fn open(ctx: &Context, kind: SocketType) -> Socket {
    let socket = ctx.socket(kind).expect("a socket");
    socket.set_rcvtimeo(Some(PATIENCE));
    socket
}

fn bind(socket: &Socket) -> String {
    socket.bind("tcp://127.0.0.1:0").expect("bind");
    socket.last_endpoint().expect("a bound endpoint")
}

/// A PUSH with five messages for an endpoint without a listener.
fn with_five_unsent(ctx: &Context, linger: Option<Duration>) -> Socket {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("tcp://{}", listener.local_addr().expect("its address"));
    drop(listener);
    let push = open(ctx, SocketType::Push);
    push.set_linger(linger);
    push.connect(&endpoint).expect("connect");
    for number in 0..5_u8 {
        push.send(&[number][..]).expect("queued");
    }
    push
}

/// The time that dropping the last handles takes.
fn time_to_drop(ctx: Context, socket: Socket) -> Duration {
    let start = Instant::now();
    drop((socket, ctx));
    start.elapsed()
}

#[cfg(target_os = "linux")]
#[test]
fn runners_are_named_and_end_with_their_context() {
    let _alone = alone();
    in_ways(ways(), LIMIT, |way| {
        are_gone();
        let ctx = way.background_with(Config { shards: 3, ..way.config() });
        let names: Vec<String> = runners().into_iter().map(|task| task.name).collect();
        assert_eq!(names, ["zring-0", "zring-1", "zring-2"]);
        let (clone, socket) = (ctx.clone(), open(&ctx, SocketType::Pull));
        drop(ctx);
        drop(clone);
        assert_eq!(runners().len(), 3, "a socket keeps its context");
        drop(socket);
        assert_eq!(runners(), [], "joined before the last drop returns");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn many_contexts_leave_nothing_behind() {
    let _alone = alone();
    in_ways(ways(), LIMIT, |way| {
        let fds = || std::fs::read_dir("/proc/self/fd").expect("/proc/self/fd").count();
        let before = fds();
        for _ in 0..20 {
            let (first, second) = (way.background_context(), way.background_context());
            let (pull, push) = (open(&first, SocketType::Pull), open(&second, SocketType::Push));
            push.connect(&bind(&pull)).expect("connect");
            push.send("x").expect("send");
            assert_eq!(pull.recv_bytes().expect("a message"), b"x");
        }
        assert_eq!(runners(), []);
        assert_eq!(fds(), before, "descriptors");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn runners_are_bound_to_their_cores() {
    let _alone = alone();
    in_ways(ways(), LIMIT, |way| {
        let cores = cores();
        let (first, last) = (cores[0], *cores.last().expect("one core at least"));
        let config = Config { shards: 3, runner_cores: vec![last, first], ..way.config() };
        let _ctx = way.background_with(config);
        let bound: Vec<String> = runners().into_iter().map(|task| task.cores).collect();
        assert_eq!(bound, [last, first, last].map(|core| core.to_string()));
    });
}

#[cfg(target_os = "linux")]
#[test]
fn runners_are_as_nice_as_they_are_told() {
    let _alone = alone();
    in_ways(ways(), LIMIT, |way| {
        let config = Config { runner_scheduling: Scheduling::Nice(19), ..way.config() };
        let _ctx = way.background_with(config);
        assert_eq!(runners().iter().map(|task| task.nice).collect::<Vec<_>>(), [19]);
    });
}

#[test]
fn a_configuration_out_of_bounds_is_refused_and_starts_nothing() {
    let _alone = alone();
    in_ways(ways(), LIMIT, |way| {
        for shards in [0, Config::SHARDS_MAX + 1, usize::MAX] {
            let refused = Context::with_config(Config { shards, ..way.config() });
            assert!(
                matches!(refused, Err(Error::Engine(zring_engine::Error::Config("shards")))),
                "{shards} shards give {refused:?}"
            );
        }
        for core in [511, 1 << 20, usize::MAX] {
            // The first Runner finds its core, the second does not; then the first has to end as well.
            let runner_cores = vec![cores()[0], core];
            let refused = Context::with_config(Config { shards: 2, runner_cores, ..way.config() });
            match refused {
                Err(Error::Io(error)) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
                }
                other => panic!("core {core} gives {other:?}"),
            }
        }
        let runner_scheduling = Scheduling::RealTime(100);
        let refused = Context::with_config(Config { runner_scheduling, ..way.config() });
        assert!(matches!(refused, Err(Error::Io(_))), "{refused:?}");
        are_gone();
    });
}

#[test]
fn a_dropped_context_sends_what_its_closed_sockets_have() {
    let _alone = alone();
    in_ways(ways(), LIMIT, |way| {
        let receiving = way.background_context();
        let pull = open(&receiving, SocketType::Pull);
        let endpoint = bind(&pull);
        let sending = way.background_with(Config { shards: 2, ..way.config() });
        for who in 0..4_u8 {
            let push = open(&sending, SocketType::Push);
            push.set_sndhwm(10_000);
            push.connect(&endpoint).expect("connect");
            for _ in 0..2000 {
                push.send(&[who; 500][..]).expect("send");
            }
        }
        let dropping = std::thread::spawn(move || drop(sending));
        let mut counts = [0; 4];
        for _ in 0..8000 {
            counts[usize::from(pull.recv().expect("a message").body()[0])] += 1;
        }
        assert_eq!(counts, [2000; 4]);
        dropping.join().expect("the dropping thread");
        let left = usize::from(cfg!(target_os = "linux"));
        assert_eq!(runners().len(), left, "only the receiver's is left");
    });
}

#[test]
fn a_dropped_context_drains_no_longer_than_it_may() {
    let _alone = alone();
    in_ways(ways(), LIMIT, |way| {
        let drain_on_drop = Duration::from_millis(300);
        let ctx = way.background_with(Config { drain_on_drop, ..way.config() });
        let push = with_five_unsent(&ctx, None);
        let took = time_to_drop(ctx, push);
        assert!(took >= drain_on_drop && took < drain_on_drop + slack(), "{took:?}");
        assert_eq!(runners(), []);
    });
}

#[test]
fn a_dropped_context_waits_no_longer_than_its_sockets_linger() {
    let _alone = alone();
    in_ways(ways(), LIMIT, |way| {
        for linger in [Duration::ZERO, Duration::from_millis(300)] {
            let ctx = way.background_with(Config { drain_on_drop: PATIENCE, ..way.config() });
            let push = with_five_unsent(&ctx, Some(linger));
            let took = time_to_drop(ctx, push);
            assert!(took >= linger && took < linger + slack(), "{took:?}");
            are_gone();
        }
    });
}

#[test]
fn a_message_in_flight_survives_the_end_of_its_context() {
    let _alone = alone();
    in_ways(ways(), LIMIT, |way| {
        let ctx = way.background_context();
        let pull = open(&ctx, SocketType::Pull);
        let push = open(&ctx, SocketType::Push);
        push.connect(&bind(&pull)).expect("connect");
        let bodies: BTreeSet<Vec<u8>> = (0..100_u8).map(|number| vec![number; 1000]).collect();
        bodies.iter().for_each(|body| push.send(body.as_slice()).expect("send"));
        let kept: Vec<_> = (0..100).map(|_| pull.recv().expect("a message")).collect();
        drop((pull, push, ctx));
        are_gone();
        let seen: BTreeSet<Vec<u8>> = kept.iter().map(|message| message.body().to_vec()).collect();
        assert_eq!(seen, bodies);
        std::thread::spawn(move || drop(kept)).join().expect("the other thread");
    });
}

/// How late a wait may end when other programs run beside the test.
fn slack() -> Duration {
    Duration::from_secs(4) * setting("ZRING_PATIENCE_FACTOR").unwrap_or(1)
}
