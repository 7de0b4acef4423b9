//! REQ and REP against libzmq's REQ, REP, DEALER and ROUTER.
// The peers run in a virtual environment of Python with the layout it has on Unix.
#![cfg(unix)]

mod common;

use common::content::{body, check, plan, send};
use common::open;
use common::peer::{Case, in_cases};
use zring::{Message, SocketType};

/// Our REP returns every request of a plan to `script`.
fn we_answer(case: &Case, plan_name: &str, script: &str, extra: &[&str]) {
    let ctx = case.context();
    let rep = open(&ctx, SocketType::Rep);
    let peer = case.join(&rep, "rep", script, &[&["--plan", plan_name], extra].concat());
    let plan = plan(plan_name);
    for (number, sizes) in plan.iter().enumerate() {
        let request = rep.recv().expect("a request");
        check(&request, &[], number, sizes);
        rep.send(request).expect("reply");
    }
    assert_eq!(peer.done(&ctx), plan.len() as u64);
}

/// Our REQ sends every request of a plan to `answer.py` and expects it back.
fn we_ask(case: &Case, plan_name: &str, extra: &[&str]) {
    let ctx = case.context();
    let req = open(&ctx, SocketType::Req);
    let peer = case.join(&req, "req", "answer", &[&["--plan", plan_name], extra].concat());
    let plan = plan(plan_name);
    for (number, sizes) in plan.iter().enumerate() {
        send(&req, &[], number, sizes);
        check(&req.recv().expect("a reply"), &[], number, sizes);
    }
    assert_eq!(peer.done(&ctx), plan.len() as u64);
}

#[test]
fn our_rep_answers_a_libzmq_req() {
    in_cases(Case::every(), |case| we_answer(case, "sizes", "ask", &[]));
}

#[test]
fn our_req_asks_a_libzmq_rep() {
    in_cases(Case::every(), |case| we_ask(case, "sizes", &[]));
}

#[test]
fn our_rep_answers_a_libzmq_dealer_that_asks_ahead() {
    in_cases(Case::rotated(), |case| we_answer(case, "sizes", "ask", &["--dealer"]));
}

#[test]
fn our_req_asks_a_libzmq_router() {
    in_cases(Case::rotated(), |case| we_ask(case, "sizes", &["--router"]));
}

#[test]
fn many_small_requests_both_ways() {
    in_cases(Case::rotated(), |case| {
        we_ask(case, "burst", &[]);
        we_answer(case, "burst", "ask", &[]);
    });
}

#[test]
fn sixty_four_mebibytes_both_ways() {
    in_cases(Case::per_transport(), |case| {
        we_ask(case, "huge", &[]);
        we_answer(case, "huge", "ask", &[]);
    });
}

#[test]
fn our_rep_gives_a_deep_envelope_back() {
    in_cases(Case::rotated(), |case| {
        let ctx = case.context();
        let rep = open(&ctx, SocketType::Rep);
        let peer = case.join(&rep, "rep", "envelope", &[]);
        for number in 0..20 {
            let request = rep.recv_multipart().expect("a request");
            assert_eq!(
                request,
                [format!("question {number}").into_bytes(), b"tail".to_vec()],
                "only what is behind the envelope"
            );
            rep.send_multipart(request.iter().map(Vec::as_slice)).expect("reply");
        }
        assert_eq!(peer.done(&ctx), 20);
    });
}

/// The 1 MiB array of the classic scripts: 131,072 doubles made of 32-bit numbers.
fn array(seed: u64) -> Vec<u8> {
    let words = body(seed, 4 * 131_072);
    let number = |word: &[u8]| f64::from(u32::from_le_bytes(word.try_into().expect("four bytes")));
    words.chunks_exact(4).flat_map(|word| number(word).to_le_bytes()).collect()
}

#[test]
fn our_rep_receives_a_numpy_array() {
    in_cases(Case::every(), |case| {
        let ctx = case.context();
        let rep = open(&ctx, SocketType::Rep);
        let peer = case.join(&rep, "rep", "numpy_ask", &[]);
        for seed in 0..3 {
            let request = rep.recv().expect("an array");
            let same = request.body() == array(seed);
            rep.send(if same { "SUCCESS" } else { "FAILURE" }).expect("reply");
        }
        assert_eq!(peer.done(&ctx), 3);
    });
}

#[test]
fn our_req_sends_a_numpy_array() {
    in_cases(Case::every(), |case| {
        let ctx = case.context();
        let req = open(&ctx, SocketType::Req);
        let peer = case.join(&req, "req", "numpy_answer", &[]);
        for seed in 0..3 {
            req.send(Message::from(array(seed))).expect("send");
            assert_eq!(req.recv_string().expect("a reply"), Ok("SUCCESS".to_owned()));
        }
        assert_eq!(peer.done(&ctx), 3);
    });
}
