//! REQ and REP among themselves.

mod common;

use std::thread;
use std::time::Duration;

use common::events::{Seen, await_event};
use common::{PATIENCE, Way, bind_tcp, in_ways, is_quiet, open, pair};
use zring::{Error, SocketType};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_lockstep_is_enforced_at_both_ends() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (rep, req) = pair(&ctx, SocketType::Rep, SocketType::Req);
        assert!(matches!(req.recv(), Err(Error::State { .. })), "REQ receives before it asks");
        assert!(
            matches!(rep.send("?").map_err(|refused| refused.error), Err(Error::State { .. })),
            "REP replies to nobody"
        );
        req.send("one").expect("send");
        let refused = req.send("two").expect_err("REQ asks twice");
        assert!(matches!(refused.error, Error::State { .. }));
        assert_eq!(rep.recv_bytes().expect("a request"), b"one");
        assert!(
            matches!(rep.recv(), Err(Error::State { .. })),
            "REP takes a second request before it replied"
        );
        rep.send("reply").expect("reply");
        assert!(
            rep.send("again").is_err_and(|refused| matches!(refused.error, Error::State { .. })),
            "REP replies twice"
        );
        assert_eq!(req.recv_bytes().expect("the reply"), b"reply");
        assert!(matches!(req.recv(), Err(Error::State { .. })), "REQ receives twice");
    });
}

#[test]
fn a_refused_request_comes_back() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (_rep, req) = pair(&ctx, SocketType::Rep, SocketType::Req);
        req.set_linger(Some(Duration::ZERO));
        req.send("one").expect("send");
        let refused = req.try_send("two").expect_err("REQ asks twice");
        assert!(matches!(refused.error, Error::State { .. }));
        assert_eq!(refused.payload, "two");
    });
}

#[test]
fn requests_and_replies_keep_their_frames() {
    in_ways(Way::every(), LIMIT, move |way| {
        let ctx = way.context();
        let (rep, req) = pair(&ctx, SocketType::Rep, SocketType::Req);
        let question = ["a".as_bytes(), b"", b"ccc"];
        req.send_multipart(question).expect("send");
        let request = rep.recv().expect("a request");
        assert_eq!(request.to_vecs(), question);
        rep.send_more("x").expect("first frame");
        rep.send("").expect("last frame");
        assert_eq!(req.recv_multipart().expect("a reply"), [b"x".to_vec(), vec![]]);
    });
}

#[test]
fn each_reply_goes_to_the_peer_that_asked() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let rep = open(&ctx, SocketType::Rep);
        let endpoint = bind_tcp(&rep);
        let asking: Vec<_> = (0..5).map(|_| open(&ctx, SocketType::Req)).collect();
        for req in &asking {
            req.connect(&endpoint).expect("connect");
        }
        for round in 0..50 {
            for (who, req) in asking.iter().enumerate() {
                req.send(format!("{who} {round}")).expect("send");
            }
            for _ in &asking {
                let request = rep.recv().expect("a request");
                rep.send(request).expect("reply");
            }
            for (who, req) in asking.iter().enumerate() {
                assert_eq!(req.recv_string().expect("a reply"), Ok(format!("{who} {round}")));
            }
        }
    });
}

#[test]
fn every_asking_thread_gets_its_turn() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let rep = open(&ctx, SocketType::Rep);
        let endpoint = bind_tcp(&rep);
        let asking: Vec<_> = (0..3_u32)
            .map(|who| {
                let endpoint = endpoint.clone();
                thread::spawn(move || {
                    let ctx = way.context();
                    let req = open(&ctx, SocketType::Req);
                    req.connect(&endpoint).expect("connect");
                    for round in 0..200 {
                        req.send(format!("{who} {round}")).expect("send");
                        assert_eq!(
                            req.recv_string().expect("a reply"),
                            Ok(format!("{who} {round}"))
                        );
                    }
                })
            })
            .collect();
        for _ in 0..600 {
            let request = rep.recv().expect("a request");
            rep.send(request).expect("reply");
        }
        common::turn_until(&ctx, "the last replies", || {
            asking.iter().all(thread::JoinHandle::is_finished)
        });
        for thread in asking {
            thread.join().expect("an asking thread");
        }
    });
}

#[test]
fn a_req_asks_its_peers_in_turn() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (first, second) = (open(&ctx, SocketType::Rep), open(&ctx, SocketType::Rep));
        let req = open(&ctx, SocketType::Req);
        for rep in [&first, &second] {
            req.connect(&bind_tcp(rep)).expect("connect");
        }
        req.wait_for_peers(2, Some(PATIENCE)).expect("two peers");
        let mut asked = [0, 0];
        for _ in 0..10 {
            req.send("?").expect("send");
            while req.try_recv().is_err() {
                for (rep, asked) in [&first, &second].into_iter().zip(&mut asked) {
                    if rep.try_recv().is_ok() {
                        rep.send("!").expect("reply");
                        *asked += 1;
                    }
                }
            }
        }
        assert_eq!(asked, [5, 5]);
    });
}

#[test]
fn a_reply_to_a_peer_that_left_is_no_error() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let rep = open(&ctx, SocketType::Rep);
        rep.monitor(100);
        let endpoint = bind_tcp(&rep);
        let leaving = open(&ctx, SocketType::Req);
        leaving.connect(&endpoint).expect("connect");
        leaving.send("and gone").expect("send");
        assert_eq!(rep.recv_bytes().expect("a request"), b"and gone");
        leaving.close();
        await_event(&ctx, &rep, Seen::Disconnected);
        rep.send("too late").expect("a reply to nobody");

        let staying = open(&ctx, SocketType::Req);
        staying.connect(&endpoint).expect("connect");
        staying.send("hello").expect("send");
        assert_eq!(rep.recv_bytes().expect("a request"), b"hello");
        rep.send("world").expect("reply");
        assert_eq!(staying.recv_bytes().expect("a reply"), b"world");
        assert!(is_quiet(&rep));
    });
}

#[test]
fn a_req_without_peers_waits_no_longer_than_its_time() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let req = open(&ctx, SocketType::Req);
        req.set_sndtimeo(Some(Duration::from_millis(50)));
        let refused = req.send("anybody?").expect_err("nobody is there");
        assert!(matches!(refused.error, Error::WouldBlock));
        assert_eq!(refused.payload, "anybody?");
    });
}
