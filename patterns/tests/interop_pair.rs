//! PAIR against libzmq's.
// The peers run in a virtual environment of Python with the layout it has on Unix.
#![cfg(unix)]

mod common;

use common::content::{check, plan, send};
use common::peer::{Case, in_cases};
use common::{is_quiet, open};
use zring::SocketType;

/// libzmq's socket takes each message and sends it back.
fn there_and_back(case: &Case, plan_name: &str, ahead: usize) {
    let ctx = case.context();
    let pair = open(&ctx, SocketType::Pair);
    let peer = case.join(&pair, "pair", "pair", &["--plan", plan_name]);
    let plan = plan(plan_name);
    for (number, sizes) in plan.iter().enumerate() {
        send(&pair, &[], number, sizes);
        if let Some(back) = number.checked_sub(ahead) {
            check(&pair.recv().expect("a message"), &[], back, &plan[back]);
        }
    }
    for (back, sizes) in plan.iter().enumerate().skip(plan.len().saturating_sub(ahead)) {
        check(&pair.recv().expect("a message"), &[], back, sizes);
    }
    assert!(is_quiet(&pair), "something came after the end");
    assert_eq!(peer.done(&ctx), plan.len() as u64);
}

#[test]
fn all_sizes_both_ways() {
    in_cases(Case::every(), |case| there_and_back(case, "sizes", 2));
}

#[test]
fn bursts_both_ways() {
    in_cases(Case::every(), |case| there_and_back(case, "burst", 100));
}
