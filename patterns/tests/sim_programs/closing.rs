//! The end of sockets and contexts: dropped messages are counted, and every wait ends.

use std::{cell::Cell, rc::Rc, time::Duration};

use zring::{Context, Error, Message, PollItem, Socket, SocketType, inline::POLLIN};
use zring_engine::sim::{Task, World};

use super::stage::{Leaky, MS, S, Stage};

type Shared = Rc<Leaky<Socket>>;

/// A PUSH without a peer drops its messages in time and reports their number.
pub(crate) fn close_unsent(stage: &Stage) {
    let world = stage.world();
    let linger_ns = stage.below(2) * stage.below(10 * MS);
    let mut options = stage.options();
    options.linger = Some(Duration::from_nanos(linger_ns));
    let push = stage.shared(SocketType::Push, options);
    push.connect("tcp://127.0.0.1:1");
    let mut waiting = 0;
    while waiting < 20 && push.try_send(Message::from("in vain")).expect("sent").is_none() {
        waiting += 1;
    }
    let start_ns = world.now_ns();
    let report = push.close();
    assert_eq!(report.unsent_messages, waiting);
    let passed_ns = world.now_ns() - start_ns;
    assert!((linger_ns..linger_ns + 5 * S).contains(&passed_ns), "{passed_ns} for {linger_ns}");
}

/// Waits for ever, in one of many ways, for an event that never comes; returns the error that ended the wait.
async fn wait(stage: Stage, pull: Shared, push: Shared, req: Shared) -> Error {
    let message = || Message::from("never sent");
    match stage.below(3) {
        0 => pull.recv_async().await.expect_err("nobody sends"),
        1 => loop {
            if let Err(refused) = push.send_async(message()).await {
                break refused.error;
            }
        },
        _ => req.recv_async().await.expect_err("nobody replies"),
    }
}

/// As [`wait`], with a blocking call.
fn wait_blocking(stage: &Stage, pull: &Socket, push: &Socket, req: &Socket) -> Error {
    match stage.below(6) {
        0 => pull.recv().expect_err("nobody sends"),
        1 => loop {
            if let Err(refused) = push.send("never sent") {
                break refused.error;
            }
        },
        2 => req.recv().expect_err("nobody replies"),
        3 => pull.wait_for_peers(7, None).expect_err("there are none"),
        4 => zring::poll(&mut [PollItem::new(pull, POLLIN)], None).expect_err("nobody sends"),
        _ => {
            let mut items = [PollItem::new(pull, POLLIN), PollItem::new(req, POLLIN)];
            zring::poll(&mut items, None).expect_err("nobody sends")
        }
    }
}

/// When a context is terminated, every call on it ends, waiting calls and later ones.
pub(crate) fn terminate(world: &World) {
    let stage = Stage::new(world, false);
    let context = Leaky::new(stage.open());
    let open = |socket_type| {
        let socket = context.socket_with(socket_type, stage.options()).expect("a socket");
        socket.set_linger(Some(Duration::from_nanos(stage.below(2) * stage.below(20 * MS))));
        Rc::new(Leaky::new(socket))
    };
    let (pull, push, req) = (open(SocketType::Pull), open(SocketType::Push), open(SocketType::Req));
    pull.bind("tcp://127.0.0.1:4000").expect("bound");
    if stage.below(2) == 0 {
        push.set_sndhwm(2);
        push.connect("tcp://127.0.0.1:4001").expect("connected");
    } else {
        push.bind("inproc://nobody").expect("bound");
    }
    req.connect("tcp://127.0.0.1:4002").expect("connected");
    req.try_send("a request").expect("it waits for a peer");
    let tasks: Vec<Task<Error>> = (0..stage.below(6))
        .map(|_| world.spawn(wait(stage.clone(), pull.clone(), push.clone(), req.clone())))
        .collect();
    let ended_ns = Rc::new(Cell::new(u64::MAX));
    let terminator = {
        let (world, context, ended_ns) =
            (world.clone(), Context::clone(&context), ended_ns.clone());
        let after_ns = stage.below(50 * MS);
        world.clone().spawn(async move {
            world.sleep(after_ns).await;
            ended_ns.set(world.now_ns());
            context.terminate();
        })
    };
    let error = wait_blocking(&stage, &pull, &push, &req);
    assert!(matches!(error, Error::Terminated), "{error}");
    assert!(terminator.is_done());
    assert!(world.now_ns() <= ended_ns.get() + S, "too late");
    let all_done = || tasks.iter().all(Task::is_done);
    assert!(world.run_until_within(Some(S), all_done), "a task waits on");
    for task in &tasks {
        let error = task.take().expect("it is done");
        assert!(matches!(error, Error::Terminated), "{error}");
    }
    assert!(matches!(pull.try_recv(), Err(Error::Terminated)));
    assert!(push.try_send("more").is_err_and(|it| matches!(it.error, Error::Terminated)));
    assert!(matches!(req.bind("tcp://127.0.0.1:*"), Err(Error::Terminated)));
    assert!(matches!(context.socket(SocketType::Pub), Err(Error::Terminated)));
    drop((tasks, terminator));
    for socket in [pull, push, req] {
        let socket = Rc::into_inner(socket).expect("nobody else has it").into_inner();
        match stage.below(2) {
            0 => drop(socket.close()),
            _ => drop(socket),
        }
    }
    drop(context);
    stage.end();
}
