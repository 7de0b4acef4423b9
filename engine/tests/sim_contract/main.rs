//! The simulated driver under programs that check every byte, and mistakes that the simulation has to find.

mod program;

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    task::Poll,
};

use program::{Mistake, Node};
use zring_engine::{
    Clock, Config, DriverChoice, Kind, Parker, Shard, TurnWait,
    sim::{self, Faults, Plan, Turned, World, batch, register},
};

const MS: u64 = 1_000_000;
const REPLAY: &str = "cargo test -p zring-engine --features sim --test sim_contract";

const fn may_move<T: Send>() {}
const _: () = may_move::<Shard>();

type Shared = Rc<RefCell<Node>>;

fn turner(node: &Shared) {
    let node = node.clone();
    register(Box::new(move || {
        let mut node = node.borrow_mut();
        if node.turn(TurnWait::No) > 0 {
            return Turned::Worked;
        }
        Turned::Idle { next_deadline_ns: node.shard.next_deadline_ns() }
    }));
}

/// Nodes with jobs for one another. The body turns the first node, a task the last one, and turners the others.
fn exchange(world: &World, faults: &Faults, mistake: Option<Mistake>) -> Vec<Shared> {
    let count = 2 + world.below(3) as usize;
    let nodes: Vec<Shared> =
        (0..count).map(|_| Rc::new(RefCell::new(Node::new(world, faults, mistake)))).collect();
    for id in 0..1 + world.below(5) {
        let client = world.below(count as u64) as usize;
        let server = world.below(count as u64) as usize;
        let port = nodes[server].borrow().port;
        let bytes_max = 1 << world.below(15);
        let (request, reply) = (world.below(bytes_max), 1 + world.below(bytes_max));
        nodes[client].borrow_mut().add_job(id, port, request as usize, reply as usize);
    }
    nodes[1..count - 1].iter().for_each(turner);
    let last = nodes[count - 1].clone();
    let ours = world.clone();
    drop(world.spawn(async move {
        loop {
            // While it waits, a task must not borrow a node that others need: this node belongs to the task alone.
            let until_ns = ours.now_ns() + ours.below(10 * MS);
            last.borrow_mut().turn(TurnWait::Until(Some(until_ns)));
            ours.sleep(ours.below(MS)).await;
        }
    }));
    nodes
}

/// Turns the body's node until `is_done` holds for all nodes.
fn turn_until(world: &World, nodes: &[Shared], is_done: impl Fn(&Node) -> bool) {
    let all_done = || nodes.iter().all(|node| node.try_borrow().is_ok_and(|node| is_done(&node)));
    while !all_done() {
        let until_ns = world.now_ns() + 10 * MS;
        match world.below(3) {
            0 => nodes[0].borrow_mut().turn_parked(until_ns),
            _ => drop(nodes[0].borrow_mut().turn(TurnWait::Until(Some(until_ns)))),
        }
        world.step();
    }
}

/// A whole run: first with faults for some time, then without until every job is done, then the end.
fn run(world: &World, faults: &Faults, mistake: Option<Mistake>) {
    let nodes = exchange(world, faults, mistake);
    let is_done = |node: &Node| node.memory.open_jobs.is_empty();
    let faulty_until_ns = world.now_ns() + world.below(40 * MS);
    turn_until(world, &nodes, |node| is_done(node) || world.now_ns() > faulty_until_ns);
    world.heal();
    let torn = world.count("torn");
    turn_until(world, &nodes, is_done);
    assert_eq!(world.count("torn"), torn, "a fault after the faults had stopped");
    for node in &nodes {
        node.borrow_mut().stop();
    }
    turn_until(world, &nodes, Node::is_quiet);
    assert_eq!((world.in_flight(), world.sockets()), (0, 0));
    for (at, node) in nodes.iter().enumerate() {
        node.borrow_mut().check_end(world, at);
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

/// The message of a run that has to fail.
fn failure(seed: u64, steps_max: u64, body: impl FnOnce(&World)) -> Option<String> {
    let plan = Plan { steps_max, ..Plan::new(seed, &Faults::all()) };
    let outcome = catch_unwind(AssertUnwindSafe(|| plan.run(body)));
    outcome.err().map(|panic| text(&*panic))
}

#[test]
fn streams_survive_everything() {
    let faults = Faults::all();
    batch("everything", &format!("{REPLAY} everything"), 0..10_000, &faults, |world| {
        run(world, &faults, None);
    });
}

#[test]
fn nothing_is_lost_where_no_connection_is() {
    let faults = Faults::lossless();
    batch("lossless", &format!("{REPLAY} nothing_is_lost"), 0..1000, &faults, |world| {
        run(world, &faults, None);
    });
}

#[test]
fn a_network_without_faults() {
    let faults = Faults::none();
    batch("none", &format!("{REPLAY} without_faults"), 0..300, &faults, |world| {
        run(world, &faults, None);
        // Buffers still run out, because the program holds on to them.
        for event in FAULTS.into_iter().filter(|&event| event != "no buffer") {
            assert_eq!(world.count(event), 0, "{event}");
        }
    });
}

/// The events by which the world reports its injected faults.
const FAULTS: [&str; 9] = [
    "torn",
    "refused",
    "accept failed",
    "no buffer",
    "ended with bytes",
    "late",
    "cancel late",
    "send cut",
    "woken early",
];

#[test]
fn every_fault_is_met() {
    let met = RefCell::new([0; FAULTS.len()]);
    for seed in 0..80 {
        World::run(seed, &Faults::all(), |world| {
            run(world, &Faults::all(), None);
            let mut met = met.borrow_mut();
            FAULTS.iter().zip(met.iter_mut()).for_each(|(fault, met)| *met += world.count(fault));
        });
    }
    let met: Vec<_> = FAULTS.iter().zip(met.take()).collect();
    assert!(met.iter().all(|(_, met)| *met > 0), "{met:?}");
    println!("{met:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let once = |seed| {
        World::run(seed, &Faults::all(), |world| {
            run(world, &Faults::all(), None);
            (world.digest(), world.steps(), world.now_ns(), world.trace_lines())
        })
    };
    let mut digests = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let elsewhere = std::thread::spawn(move || once(seed)).join().expect("it runs");
        let here = once(seed);
        assert_eq!(here, elsewhere);
        digests.insert(here.0);
    }
    assert_eq!(digests.len(), 40);
}

/// Finds a seed that exposes a mistake, and checks the failure's message.
fn find(mistake: Mistake, says: &str) {
    let found = (0..100)
        .find_map(|seed| failure(seed, 200_000, |world| run(world, &Faults::all(), Some(mistake))));
    let found = found.unwrap_or_else(|| panic!("{mistake:?} was not found"));
    assert!(found.contains(says), "{mistake:?}: {found}");
}

#[test]
fn planted_mistakes_are_found() {
    find(Mistake::ResumesCutSendWrong, "is corrupt");
    find(Mistake::SpillsFirst, "is corrupt");
    find(Mistake::ActsOnStaleId, "no progress");
    find(Mistake::ForgetsReceive, "no progress");
    find(Mistake::LosesChunk, "all buffers are back");
    find(Mistake::ReplacesDescriptor, "whose descriptor");
}

#[test]
fn a_deadlock_is_reported() {
    let shard = |seed| {
        failure(seed, 100_000, |world| {
            let mut node = Node::new(world, &Faults::all(), None);
            loop {
                node.turn(TurnWait::Until(None));
            }
        })
    };
    let said = shard(3).expect("it fails");
    assert!(said.starts_with("seed 3: deadlock"), "{said}");
    assert!(said.contains("a shard that is turned"), "{said}");

    let said = failure(4, 1000, |world| {
        drop(world.spawn(std::future::pending::<()>()));
        register(Box::new(|| Turned::Idle { next_deadline_ns: None }));
        while !Parker::current().park(None) {}
    });
    let said = said.expect("it fails");
    for part in
        ["deadlock", "task 0 of engine/tests", "turner 0 of engine/tests", "a parked thread"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn want_of_progress_is_reported() {
    let said = failure(5, 1000, |world| {
        drop(world.spawn(std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        })));
        world.run_until(|| false);
    });
    assert!(said.expect("it fails").starts_with("seed 5: no progress within 1000 steps"));
}

#[test]
fn looking_in_a_loop_ends_too() {
    let said = failure(5, 1000, |world| {
        let mut node = Node::new(world, &Faults::none(), None);
        loop {
            node.turn(TurnWait::No);
        }
    });
    assert!(said.expect("it fails").starts_with("seed 5: no progress within 1000 steps"));
}

#[test]
fn waits_are_nested_up_to_a_bound() {
    let nest = |count: u64| {
        failure(6, 100_000, move |world| {
            let tasks: Vec<_> = (0..count)
                .map(|_| world.spawn(async { Parker::current().park(Some(MS)) }))
                .collect();
            world.run_until(|| tasks.iter().all(sim::Task::is_done));
        })
    };
    assert_eq!(nest(8), None);
    assert!(nest(40).expect("it fails").contains("inside one another"));
}

#[test]
fn parking_runs_the_world_and_takes_its_time() {
    World::run(7, &Faults::none(), |world| {
        let clock = Clock::new();
        let start_ns = clock.now_ns();
        assert!(!Parker::current().park(Some(5 * MS)));
        let passed_ns = clock.now_ns() - start_ns;
        assert!((5 * MS..6 * MS).contains(&passed_ns), "{passed_ns}");

        let waker = Parker::current().waker();
        let sleeper = world.clone();
        let task = world.spawn(async move {
            sleeper.sleep(1000 * MS).await;
            waker.wake();
            7
        });
        assert!(Parker::current().park(None) && task.is_done());
        assert!(clock.now_ns() - start_ns >= 1005 * MS);
        assert_eq!(world.block_on(task), 7);
    });
    assert!(Clock::new().now_ns() < 1000 * MS * 3600, "the clock is real again");
}

#[test]
fn a_turner_is_called_at_its_time_and_when_its_shard_is_woken() {
    World::run(8, &Faults::none(), |world| {
        let node = Rc::new(RefCell::new(Node::new(world, &Faults::none(), None)));
        let waker = node.borrow().shard.waker();
        let calls = Rc::new(Cell::new(0));
        let (counted, world_too) = (calls.clone(), world.clone());
        register(Box::new(move || {
            counted.set(counted.get() + 1);
            if counted.get() == 4 {
                return Turned::Gone;
            }
            node.borrow_mut().turn(TurnWait::No);
            let is_first = counted.get() == 1;
            let next_deadline_ns = is_first.then(|| world_too.now_ns() + 50 * MS);
            Turned::Idle { next_deadline_ns }
        }));
        world.run_for(40 * MS);
        assert_eq!(calls.get(), 1);
        world.run_for(20 * MS);
        assert_eq!(calls.get(), 2);
        world.run_for(1000 * MS);
        assert_eq!(calls.get(), 2);
        for called in [3, 4, 4] {
            waker.wake_by_ref();
            world.run_for(MS);
            assert_eq!(calls.get(), called);
        }
    });
}

#[test]
fn a_world_is_asked_for_or_there_is_none() {
    let config = Config { driver: DriverChoice::Sim, ..Config::default() };
    assert!(Shard::open(config.clone()).is_err());
    World::run(9, &Faults::none(), |world| {
        assert_eq!(Shard::open(config).expect("a shard").driver(), Kind::Sim);
        let shard = Shard::open(Config { shared: true, ..Config::default() }).expect("a shard");
        assert_eq!((shard.driver(), shard.is_mobile()), (Kind::Sim, true));
        assert_eq!(world.below(1), 0);
        let inside = catch_unwind(AssertUnwindSafe(|| World::run(1, &Faults::none(), |_| ())));
        assert!(text(&*inside.expect_err("one at a time")).contains("inside a world"));
        assert!(sim::current().is_some());
    });
    assert!(sim::current().is_none());
}
