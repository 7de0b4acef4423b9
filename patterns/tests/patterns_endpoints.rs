//! Endpoints: binds and connects that succeed, and the errors of those that fail.

mod common;

use std::net::TcpListener;
use std::time::Duration;

use common::{
    PATIENCE, Socket, Way, bind_tcp, has_unix_sockets, in_ways, open, scratch, turn_until,
};
use socket2::{Domain, SockAddr, Socket as OsSocket, Type};
use zring::{Error, SocketType};

const LIMIT: Duration = Duration::from_secs(30);

fn passes_a_message(from: &Socket, to: &Socket) {
    from.send("through").expect("send");
    assert_eq!(to.recv_bytes().expect("a message"), b"through");
}

#[test]
fn port_zero_becomes_a_real_port() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        for wild in ["tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "tcp://*:*", "tcp://0.0.0.0:0"] {
            let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
            assert_eq!(pull.last_endpoint(), None);
            pull.bind(wild).expect("bind");
            let endpoint = pull.last_endpoint().expect("a bound endpoint");
            let port: u16 =
                endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
            assert_ne!(port, 0, "{endpoint}");
            push.connect(&format!("tcp://127.0.0.1:{port}")).expect("connect");
            passes_a_message(&push, &pull);
        }
    });
}

#[test]
fn names_are_resolved() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
        push.connect(&bind_tcp(&pull).replace("127.0.0.1", "localhost")).expect("connect");
        passes_a_message(&push, &pull);
    });
}

#[test]
fn ipv6_loopback_works_where_it_exists() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6 loopback address");
        return;
    }
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
        pull.bind("tcp://[::1]:0").expect("bind");
        push.connect(&pull.last_endpoint().expect("a bound endpoint")).expect("connect");
        passes_a_message(&push, &pull);
    });
}

#[test]
fn unix_sockets_by_path_and_by_abstract_name() {
    in_ways(Way::all(), LIMIT, |way| {
        let (ctx, dir) = (way.context(), scratch());
        let path = format!("ipc://{}/s", dir.path().display());
        let name = format!("ipc://@zring-test-{}", std::process::id());
        if !has_unix_sockets() {
            // Both bind and connect report that at once.
            let pull = open(&ctx, SocketType::Pull);
            for refused in [pull.bind(&path), pull.connect(&path), pull.bind("ipc://*")] {
                let Err(Error::Io(error)) = refused else { panic!("{refused:?}") };
                assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
            }
            return;
        }
        if !cfg!(target_os = "linux") {
            let pull = open(&ctx, SocketType::Pull);
            for refused in [pull.bind(&name), pull.connect(&name)] {
                let Err(Error::Io(error)) = refused else { panic!("{refused:?}") };
                assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
            }
        }
        let names = cfg!(target_os = "linux").then_some(name);
        for endpoint in std::iter::once(path).chain(names) {
            let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
            pull.bind(&endpoint).expect("bind");
            assert_eq!(pull.last_endpoint().as_deref(), Some(endpoint.as_str()));
            push.connect(&endpoint).expect("connect");
            passes_a_message(&push, &pull);
        }
    });
}

#[test]
fn a_path_left_behind_is_bound_again() {
    if !has_unix_sockets() {
        return;
    }
    in_ways(Way::all(), LIMIT, |way| {
        let (ctx, dir) = (way.context(), scratch());
        let path = dir.path().join("stale");
        let stale = OsSocket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        stale.bind(&SockAddr::unix(&path).expect("a short path")).expect("a stale socket");
        drop(stale);
        let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
        let endpoint = format!("ipc://{}", path.display());
        pull.bind(&endpoint).expect("bind over a path that nobody listens at");
        push.connect(&endpoint).expect("connect");
        passes_a_message(&push, &pull);
    });
}

#[test]
fn a_wrong_endpoint_is_refused_at_once() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let wrong = [
            "",
            "tcp",
            "tcp:/",
            "tcp://",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:",
            "tcp://127.0.0.1:port",
            "tcp://127.0.0.1:65536",
            "tcp://127.0.0.1:-1",
            "tcp://[::1:5",
            "ipc://",
            "udp://127.0.0.1:5",
            "127.0.0.1:5",
            "tcp://:5:5",
        ];
        for endpoint in wrong {
            for outcome in [pull.bind(endpoint), pull.connect(endpoint)] {
                assert!(
                    matches!(outcome, Err(Error::Endpoint(_))),
                    "{endpoint:?} gives {outcome:?}"
                );
            }
        }
        // A connect needs an actual port.
        for endpoint in ["tcp://127.0.0.1:*", "tcp://127.0.0.1:0"] {
            let outcome = pull.connect(endpoint);
            assert!(matches!(outcome, Err(Error::Endpoint(_))), "{endpoint:?} gives {outcome:?}");
        }
    });
}

#[test]
fn a_path_too_long_for_a_unix_socket_is_refused() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = format!("ipc:///tmp/{}", "x".repeat(120));
        assert!(matches!(pull.bind(&endpoint), Err(Error::Endpoint(_))));
        assert!(matches!(pull.connect(&endpoint), Err(Error::Endpoint(_))));
    });
}

#[test]
fn an_address_in_use_is_named() {
    in_ways(Way::all(), LIMIT, |way| {
        let (ctx, dir) = (way.context(), scratch());
        let (first, second) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Pull));
        let tcp = bind_tcp(&first);
        let mut endpoints = vec![tcp];
        if has_unix_sockets() {
            let ipc = format!("ipc://{}/s", dir.path().display());
            first.bind(&ipc).expect("bind");
            endpoints.push(ipc);
        }
        for endpoint in endpoints {
            match second.bind(&endpoint) {
                Err(Error::AddressInUse(named)) => {
                    assert!(named.contains(&endpoint) || endpoint.contains(&named), "{named}");
                }
                other => panic!("{endpoint} gives {other:?}"),
            }
        }
    });
}

#[test]
fn an_address_that_is_not_ours_or_a_missing_folder_is_an_error() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        pull.bind("tcp://192.0.2.1:5").expect_err("TEST-NET is nobody's");
        pull.bind("ipc:///nonexistent/folder/s").expect_err("no such folder");
    });
}

#[test]
fn unknown_endpoints_cannot_be_taken_back() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
        let endpoint = bind_tcp(&pull);
        assert!(matches!(push.disconnect(&endpoint), Err(Error::UnknownEndpoint(_))));
        push.connect(&endpoint).expect("connect");
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        push.disconnect(&endpoint).expect("disconnect");
        assert!(matches!(push.disconnect(&endpoint), Err(Error::UnknownEndpoint(_))));
        pull.unbind(&endpoint).expect("unbind");
        assert!(matches!(pull.unbind(&endpoint), Err(Error::UnknownEndpoint(_))));
        let heir = open(&ctx, SocketType::Pull);
        // With a ring on another thread the port becomes free a moment later.
        turn_until(&ctx, "the port to be free", || heir.bind(&endpoint).is_ok());
    });
}

#[test]
fn operations_of_other_types_are_refused() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        for kind in [SocketType::Pull, SocketType::Sub] {
            let refused = open(&ctx, kind).send("x").expect_err("it only receives");
            assert!(
                matches!(refused.error, Error::Unsupported { .. }),
                "{kind:?}: {:?}",
                refused.error
            );
            assert_eq!(refused.payload, "x");
        }
        for kind in [SocketType::Push, SocketType::Pub] {
            let outcome = open(&ctx, kind).recv();
            assert!(matches!(outcome, Err(Error::Unsupported { .. })), "{kind:?}: {outcome:?}");
        }
        for kind in
            [SocketType::Push, SocketType::Pull, SocketType::Req, SocketType::Rep, SocketType::Pub]
        {
            let socket = open(&ctx, kind);
            assert!(matches!(socket.subscribe(b"x"), Err(Error::Unsupported { .. })), "{kind:?}");
            assert!(matches!(socket.unsubscribe(b"x"), Err(Error::Unsupported { .. })), "{kind:?}");
        }
        for kind in
            [SocketType::Push, SocketType::Pull, SocketType::Req, SocketType::Rep, SocketType::Sub]
        {
            let outcome = open(&ctx, kind).wait_for_subscribers(b"x", 1, Some(Duration::ZERO));
            assert!(matches!(outcome, Err(Error::Unsupported { .. })), "{kind:?}: {outcome:?}");
        }
    });
}
