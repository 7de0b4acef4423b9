//! Two sides, two threads.

use std::sync::mpsc;
use std::thread::{self, Scope, ScopedJoinHandle};

use crate::error::{Failure, Result};
use crate::pin::{Pin, pin_this_thread};

/// Tells side A the endpoint of side B.
#[derive(Debug)]
pub struct Announce(mpsc::Sender<String>);

impl Announce {
    /// Hands over the bound endpoint, for example `tcp://127.0.0.1:49152`.
    pub fn endpoint(self, endpoint: String) {
        // Side A may have failed already; it reports that itself.
        let _ = self.0.send(endpoint);
    }
}

/// Runs both sides, each on a thread of its own and, if requested, on its core. Side A starts when B has announced its
/// endpoint. Each side makes its resources on its own thread, so sides need not be `Send`.
///
/// # Errors
/// The failure of a side, with its name; a panic counts as a failure.
pub fn run_pair<A: Send, B: Send>(
    pin: Option<Pin>,
    side_a: impl FnOnce(&str) -> Result<A> + Send,
    side_b: impl FnOnce(Announce) -> Result<B> + Send,
) -> Result<(A, B)> {
    let (announce, announced) = announcement();
    thread::scope(|scope| {
        let core = |pick: fn(Pin) -> usize| pin.map(pick);
        let b = spawn(scope, "side-b", core(|pin| pin.b), move || side_b(announce))?;
        let a = spawn(scope, "side-a", core(|pin| pin.a), move || side_a(&announced.wait("B")?))?;
        both(a.join(), b.join())
    })
}

/// The same, but side A binds, and side B starts when A has announced its endpoint.
///
/// # Errors
/// As [`run_pair`].
pub fn run_pair_from_a<A: Send, B: Send>(
    pin: Option<Pin>,
    side_a: impl FnOnce(Announce) -> Result<A> + Send,
    side_b: impl FnOnce(&str) -> Result<B> + Send,
) -> Result<(A, B)> {
    let (announce, announced) = announcement();
    thread::scope(|scope| {
        let core = |pick: fn(Pin) -> usize| pin.map(pick);
        let a = spawn(scope, "side-a", core(|pin| pin.a), move || side_a(announce))?;
        let b = spawn(scope, "side-b", core(|pin| pin.b), move || side_b(&announced.wait("A")?))?;
        both(a.join(), b.join())
    })
}

/// Runs a source, a worker and a sink. The sink binds first, then the worker, which gets the sink's endpoint; source
/// and sink share the core of side A.
///
/// # Errors
/// As [`run_pair`].
pub fn run_chain<A: Send, W: Send, S: Send>(
    pin: Option<Pin>,
    source: impl FnOnce(&str) -> Result<A> + Send,
    worker: impl FnOnce(&str, Announce) -> Result<W> + Send,
    sink: impl FnOnce(Announce) -> Result<S> + Send,
) -> Result<(A, W, S)> {
    let (announce_sink, announced_sink) = announcement();
    let (announce, announced) = announcement();
    thread::scope(|scope| {
        let core = |pick: fn(Pin) -> usize| pin.map(pick);
        let sink = spawn(scope, "sink", core(|pin| pin.a), move || sink(announce_sink))?;
        let worker = spawn(scope, "side-b", core(|pin| pin.b), move || {
            worker(&announced_sink.wait("sink")?, announce)
        })?;
        let source =
            spawn(scope, "side-a", core(|pin| pin.a), move || source(&announced.wait("B")?))?;
        let mut complaints = Vec::new();
        let source = settle("side A", source.join(), &mut complaints);
        let worker = settle("side B", worker.join(), &mut complaints);
        let sink = settle("sink", sink.join(), &mut complaints);
        match (source, worker, sink) {
            (Some(source), Some(worker), Some(sink)) => Ok((source, worker, sink)),
            _ => Err(Failure::Sides(complaints.join("; "))),
        }
    })
}

/// The receiving end of an [`Announce`].
pub(crate) struct Announced(mpsc::Receiver<String>);

impl Announced {
    pub(crate) fn wait(&self, side: &str) -> Result<String> {
        self.0.recv().map_err(|_| Failure::Setup(format!("side {side} is not bound")))
    }
}

/// Both ends.
pub(crate) fn announcement() -> (Announce, Announced) {
    let (announce, announced) = mpsc::channel();
    (Announce(announce), Announced(announced))
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    core: Option<usize>,
    side: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T>>> {
    let pinned = move || {
        core.map_or(Ok(()), pin_this_thread)?;
        side()
    };
    Ok(thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, pinned)?)
}

fn both<A, B>(a: thread::Result<Result<A>>, b: thread::Result<Result<B>>) -> Result<(A, B)> {
    let mut complaints = Vec::new();
    let a = settle("side A", a, &mut complaints);
    let b = settle("side B", b, &mut complaints);
    a.zip(b).ok_or_else(|| Failure::Sides(complaints.join("; ")))
}

/// A side's result; a failure is added to the complaints with the side's name.
fn settle<T>(
    name: &str,
    ended: thread::Result<Result<T>>,
    complaints: &mut Vec<String>,
) -> Option<T> {
    let result = ended.unwrap_or_else(|_| Err(Failure::Setup("panicked".to_owned())));
    result.map_err(|failure| complaints.push(format!("{name}: {failure}"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_reaches_side_a() {
        let side_b = |announce: Announce| {
            announce.endpoint("tcp://here".to_owned());
            Ok(1)
        };
        let got = run_pair(None, |endpoint| Ok(endpoint.to_owned()), side_b).unwrap();
        assert_eq!(got, ("tcp://here".to_owned(), 1));
    }

    #[test]
    fn failures_name_their_side() {
        let failing = |_: Announce| Err::<(), _>(Failure::Setup("no luck".to_owned()));
        let failure = run_pair(None, |_| Ok(()), failing).unwrap_err().to_string();
        assert_eq!(failure, "side A: side B is not bound; side B: no luck");
    }

    #[test]
    fn side_a_may_bind() {
        let side_a = |announce: Announce| {
            announce.endpoint("tcp://there".to_owned());
            Ok(1)
        };
        let got = run_pair_from_a(None, side_a, |endpoint| Ok(endpoint.to_owned())).unwrap();
        assert_eq!(got, (1, "tcp://there".to_owned()));
    }

    #[test]
    fn a_chain_binds_from_its_end() {
        let worker = |downstream: &str, announce: Announce| {
            announce.endpoint(format!("worker before {downstream}"));
            Ok(2)
        };
        let sink = |announce: Announce| {
            announce.endpoint("sink".to_owned());
            Ok(3)
        };
        let got = run_chain(None, |endpoint| Ok(endpoint.to_owned()), worker, sink).unwrap();
        assert_eq!(got, ("worker before sink".to_owned(), 2, 3));
        let broken = |_: Announce| Err::<(), _>(Failure::Setup("no luck".to_owned()));
        let failure = run_chain(None, |_| Ok(()), worker, broken).unwrap_err().to_string();
        assert_eq!(
            failure,
            "side A: side B is not bound; side B: side sink is not bound; sink: no luck"
        );
    }

    #[test]
    fn a_panic_is_a_failure() {
        let side_a = |_: &str| -> Result<()> { panic!("expected by this test") };
        let side_b = |announce: Announce| {
            announce.endpoint(String::new());
            Ok(())
        };
        assert_eq!(run_pair(None, side_a, side_b).unwrap_err().to_string(), "side A: panicked");
    }
}
