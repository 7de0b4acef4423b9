//! PUSH and PULL against libzmq's, and the classic pipeline with our workers in the middle.
// The peers run in a virtual environment of Python with the layout it has on Unix.
#![cfg(unix)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::content::{check, plan, send};
use common::peer::{Case, Peer, in_cases};
use common::{Way, is_quiet, open, scratch};
use zring::{Error, SocketType};

fn we_push(case: &Case, plan_name: &str) {
    let ctx = case.context();
    let push = open(&ctx, SocketType::Push);
    let peer = case.join(&push, "push", "pull", &["--plan", plan_name]);
    let plan = plan(plan_name);
    for (number, sizes) in plan.iter().enumerate() {
        send(&push, &[], number, sizes);
    }
    assert_eq!(peer.done(&ctx), plan.len() as u64);
}

fn we_pull(case: &Case, plan_name: &str) {
    let ctx = case.context();
    let pull = open(&ctx, SocketType::Pull);
    let peer = case.join(&pull, "pull", "push", &["--plan", plan_name]);
    for (number, sizes) in plan(plan_name).iter().enumerate() {
        check(&pull.recv().expect("a message"), &[], number, sizes);
    }
    assert!(is_quiet(&pull), "something came after the end");
    let mut peer = peer;
    peer.says_while(&ctx, "sent");
    peer.done(&ctx);
}

#[test]
fn our_push_to_a_libzmq_pull() {
    in_cases(Case::every(), |case| we_push(case, "sizes"));
}

#[test]
fn our_pull_from_a_libzmq_push() {
    in_cases(Case::every(), |case| we_pull(case, "sizes"));
}

#[test]
fn bursts_both_ways() {
    in_cases(Case::every(), |case| {
        we_push(case, "burst");
        we_pull(case, "burst");
    });
}

#[test]
fn sixty_four_mebibytes_both_ways() {
    in_cases(Case::per_transport(), |case| {
        we_push(case, "huge");
        we_pull(case, "huge");
    });
}

/// Passes messages from the ventilator to the sink until told to stop; returns their number.
fn work(way: Way, from: &str, to: &str, stop: &AtomicBool) -> u64 {
    let ctx = way.context();
    let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
    pull.connect(from).expect("connect");
    push.connect(to).expect("connect");
    pull.set_rcvtimeo(Some(Duration::from_millis(50)));
    let mut passed = 0;
    loop {
        match pull.recv() {
            Ok(task) => push.send(task).expect("pass it on"),
            Err(Error::WouldBlock) if stop.load(Ordering::Relaxed) => return passed,
            Err(Error::WouldBlock) => continue,
            Err(error) => panic!("{error}"),
        }
        passed += 1;
    }
}

#[test]
fn our_workers_between_a_libzmq_ventilator_and_sink() {
    in_cases(Case::rotated(), |case| {
        let dir = scratch();
        let endpoint = |name: &str| format!("ipc://{}/{name}", dir.path().display());
        let mut sink =
            Peer::spawn("pull", &["--plan", "burst", "--numbered", "--bind", &endpoint("sink")]);
        let mut source = Peer::spawn(
            "push",
            &["--plan", "burst", "--numbered", "--wait", "--bind", &endpoint("source")],
        );
        let (to, from) = (sink.says("endpoint"), source.says("endpoint"));
        sink.says("ready");
        source.says("ready");
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (from, to, stop, way) = (from.clone(), to.clone(), Arc::clone(&stop), case.way);
                thread::spawn(move || work(way, &from, &to, &stop))
            })
            .collect();
        source.tell("go");
        let messages = plan("burst").len();
        assert_eq!(sink.says("done"), messages.to_string());
        stop.store(true, Ordering::Relaxed);
        let passed: u64 = workers.into_iter().map(|worker| worker.join().expect("a worker")).sum();
        assert_eq!(passed, messages as u64);
    });
}
