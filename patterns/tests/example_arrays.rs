//! `examples/arrays.rs` with itself, with NumPy and libzmq at either end, and with input that is no array. Prints that
//! it is skipped where Unix-domain sockets are missing.

mod common;

use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use common::peer::{Peer, example};
use common::{PATIENCE, Way, has_unix_sockets, open, scratch, turn_until, within};
use zring::SocketType;

const LIMIT: Duration = Duration::from_secs(60);
const ROUNDS: [&str; 2] = ["--rounds", "5"];
const CAME_BACK: &str = "5 arrays of 131072 numbers went there and came back doubled";

fn path(dir: &tempfile::TempDir) -> String {
    format!("ipc://{}/arrays", dir.path().display())
}

fn server(endpoint: &str) -> Peer {
    let mut server = Peer::example("arrays", &["server", endpoint, "--rounds", "5"]);
    assert_eq!(server.says("answering at"), endpoint);
    server
}

/// Runs the example until it ends.
fn run(args: &[&str]) -> Output {
    Command::new(example("arrays")).args(args).args(ROUNDS).output().expect("the example runs")
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn succeeds(args: &[&str]) {
    let output = run(args);
    assert!(output.status.success() && said(&output).contains(CAME_BACK), "{}", said(&output));
}

/// Runs the example, which has to fail with a one-line reason, as a program does with bad input.
fn fails(args: &[&str], why: &str) {
    let output = run(args);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = said.lines().find(|line| line.starts_with("arrays: "));
    assert!(line.is_some_and(|line| line.contains(why)), "{said}");
}

#[test]
fn both_ends_in_one_process() {
    if has_unix_sockets() {
        succeeds(&[]);
    } else {
        let why = "this system has no Unix-domain sockets";
        fails(&[], why);
        fails(&["server", "ipc://arrays"], why);
        fails(&["client", "ipc://arrays"], why);
    }
}

#[test]
fn either_end_in_a_process_of_its_own() {
    if !has_unix_sockets() {
        return;
    }
    let dir = scratch();
    let mut server = server(&path(&dir));
    succeeds(&["client", &path(&dir)]);
    assert_eq!(server.says("answered"), "5 requests");
}

// Python's virtual environment has this layout on Unix only.
#[cfg(unix)]
#[test]
fn numpy_asks() {
    let dir = scratch();
    let mut server = server(&path(&dir));
    let endpoint = path(&dir);
    let args = [&["--connect", endpoint.as_str()], &ROUNDS[..]].concat();
    let mut client = Peer::spawn("array_client", &args);
    client.says("ready");
    assert_eq!(client.finished(), 5);
    assert_eq!(server.says("answered"), "5 requests");
}

// Python's virtual environment has this layout on Unix only.
#[cfg(unix)]
#[test]
fn numpy_answers() {
    let dir = scratch();
    let endpoint = path(&dir);
    let args = [&["--bind", endpoint.as_str()], &ROUNDS[..]].concat();
    let mut server = Peer::spawn("array_server", &args);
    server.says("endpoint");
    server.says("ready");
    succeeds(&["client", &path(&dir)]);
    assert_eq!(server.finished(), 5);
}

#[test]
fn what_is_no_array_is_answered_with_why() {
    if !has_unix_sockets() {
        return;
    }
    let header =
        |dtype: &str, length: u64| format!(r#"{{"dtype": "{dtype}", "shape": [{length}]}}"#);
    let requests = [
        (vec![header("float32", 2).into(), vec![0; 8]], "not float64"),
        (vec![header("float64", 2).into(), vec![0; 15]], "in 15 bytes"),
        (vec![header("float64", u64::MAX).into(), vec![0; 8]], "in 8 bytes"),
        (vec![header("float64", 1 << 18).into(), vec![0; 2 << 20]], "at most 1 MiB"),
        (vec![header("float64", 0).into()], "1 frames"),
    ];
    within(LIMIT, move || {
        let dir = scratch();
        let mut server = server(&path(&dir));
        let ctx = Way::Ready.context();
        let req = open(&ctx, SocketType::Req);
        req.connect(&path(&dir)).expect("connect");
        for (frames, why) in requests {
            req.send_multipart(frames).expect("send");
            let answer = req.recv().expect("an answer");
            let text = String::from_utf8_lossy(answer.body());
            assert!(text.contains("error") && text.contains(why), "{text}, not {why}");
        }
        assert_eq!(server.says("answered"), "5 requests");
    });
}

/// A server with a wrong answer, and a client that checks it.
#[test]
fn an_answer_that_is_not_doubled_is_an_error() {
    if !has_unix_sockets() {
        return;
    }
    within(LIMIT, || {
        let dir = scratch();
        let ctx = Way::Ready.context();
        let rep = open(&ctx, SocketType::Rep);
        rep.bind(&path(&dir)).expect("bind");
        let endpoint = path(&dir);
        let client = thread::spawn(move || fails(&["client", &endpoint], "number 1 is 1"));
        let request = rep.recv().expect("a request");
        rep.send(request).expect("reply");
        rep.set_linger(Some(PATIENCE));
        turn_until(&ctx, "the client", || client.is_finished());
        client.join().expect("the client fails as it should");
    });
}

#[test]
fn an_endpoint_that_cannot_be_used_ends_it_with_the_error() {
    fails(&["server", &format!("ipc://{}", "x".repeat(200))], "107");
    fails(&["client", "smoke-signals://hill"], "smoke-signals");
    fails(&["sing"], "usage");
    if has_unix_sockets() {
        let dir = scratch();
        std::fs::write(dir.path().join("arrays"), b"precious").expect("a file");
        fails(&["server", &path(&dir)], "arrays");
    }
}
