//! A kernel that refuses io_uring, as container runtimes do: everything works without it.
//!
//! A filter cannot be removed, so each test runs its body in a child of this process. The other test programs run
//! without io_uring when `ZRING_NO_URING=1` is in their environment.
// Filters on system calls exist on Linux only.
#![cfg(target_os = "linux")]

mod common;

use std::process::Command;
use std::time::Duration;

use common::content::{check, plan, send};
use common::peer::{Case, in_cases};
use common::{PATIENCE, Way, in_ways, open, pair, seccomp};
use zring::inline;
use zring::{Config, Context, Driver, DriverKind, Error, SocketType};

const LIMIT: Duration = Duration::from_secs(60);

/// Runs `body`, the body of test `test`, in a child without io_uring.
fn without_uring(test: &str, body: fn()) {
    if seccomp::hides_io_uring() {
        seccomp::refuse_io_uring();
        return body();
    }
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env(seccomp::NO_URING, "1")
        .env_remove("ZRING_DRIVER")
        .output()
        .expect("a child");
    let (said, failed) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}{failed}");
}

fn is_refused<T>(opened: Result<T, Error>) -> bool {
    use zring_engine::Error::Uring;
    matches!(
        opened,
        Err(Error::Engine(Uring { step: "io_uring_setup", cause }))
            if cause.kind() == std::io::ErrorKind::PermissionDenied
    )
}

#[test]
fn it_is_found_out_and_told_to_those_who_insist() {
    without_uring("it_is_found_out_and_told_to_those_who_insist", || {
        for wanted in [Driver::Auto, Driver::Ready] {
            let config = Config { driver: wanted, ..Config::default() };
            let ctx = Context::with_config(config.clone()).expect("a context");
            assert_eq!(ctx.driver(), DriverKind::Ready);
            inline::Context::with_config(config).expect("a context");
        }
        let insisting = Config { driver: Driver::Uring, ..Config::default() };
        assert!(is_refused(Context::with_config(insisting.clone())));
        assert!(is_refused(inline::Context::with_config(insisting)));
    });
}

#[test]
fn all_patterns_work() {
    without_uring("all_patterns_work", || {
        assert_eq!(
            Way::all(),
            [Way::Ready, Way::BackgroundReady, Way::Spread],
            "only what can be had"
        );
        in_ways(Way::all(), LIMIT, |way| {
            let (ctx, sizes) = (way.context(), plan("sizes"));
            let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
            let (rep, req) = pair(&ctx, SocketType::Rep, SocketType::Req);
            let (publisher, sub) = pair(&ctx, SocketType::Pub, SocketType::Sub);
            sub.subscribe("news").expect("subscribe");
            publisher.wait_for_subscribers("news", 1, Some(PATIENCE)).expect("a subscriber");
            for (number, sizes) in sizes.iter().enumerate() {
                send(&push, &[], number, sizes);
                check(&pull.recv().expect("a message"), &[], number, sizes);
                send(&req, &[], number, sizes);
                let request = rep.recv().expect("a request");
                rep.send(request).expect("reply");
                check(&req.recv().expect("a reply"), &[], number, sizes);
                send(&publisher, &[b"other"], number, sizes);
                send(&publisher, &[b"news"], number, sizes);
                check(&sub.recv().expect("news"), &[b"news"], number, sizes);
            }
        });
    });
}

#[test]
fn foreign_peers_notice_nothing() {
    without_uring("foreign_peers_notice_nothing", || {
        in_cases(Case::rotated(), |case| {
            let ctx = case.context();
            let req = open(&ctx, SocketType::Req);
            let peer = case.join(&req, "req", "answer", &["--plan", "sizes"]);
            let plan = plan("sizes");
            for (number, sizes) in plan.iter().enumerate() {
                send(&req, &[], number, sizes);
                check(&req.recv().expect("a reply"), &[], number, sizes);
            }
            assert_eq!(peer.done(&ctx), plan.len() as u64);
        });
    });
}
