//! Two sides, two threads.

use std::sync::mpsc;
use std::thread;

use crate::error::{Failure, Result};
use crate::pin::{Pin, pin_this_thread};

/// Tells side A where side B is bound.
#[derive(Debug)]
pub struct Announce(mpsc::Sender<String>);

impl Announce {
    /// Hands the bound endpoint over, for example `tcp://127.0.0.1:49152`.
    pub fn endpoint(self, endpoint: String) {
        // Side A may have failed already; it reports that itself.
        let _ = self.0.send(endpoint);
    }
}

/// Runs both sides, each on a thread of its own and, if asked, on its core. Side A starts when B has announced
/// its endpoint. Everything a side uses is made on its thread, so that sides need not be `Send`.
///
/// # Errors
/// Whatever a side failed with, named by side; a panic counts as a failure.
pub fn run_pair<A: Send, B: Send>(
    pin: Option<Pin>,
    side_a: impl FnOnce(&str) -> Result<A> + Send,
    side_b: impl FnOnce(Announce) -> Result<B> + Send,
) -> Result<(A, B)> {
    let (announce, announced) = mpsc::channel();
    thread::scope(|scope| {
        let side_b =
            thread::Builder::new().name("side-b".to_owned()).spawn_scoped(scope, move || {
                pin.map_or(Ok(()), |pin| pin_this_thread(pin.b))?;
                side_b(Announce(announce))
            })?;
        let side_a =
            thread::Builder::new().name("side-a".to_owned()).spawn_scoped(scope, move || {
                pin.map_or(Ok(()), |pin| pin_this_thread(pin.a))?;
                let endpoint = announced
                    .recv()
                    .map_err(|_| Failure::Setup("side B is not bound".to_owned()))?;
                side_a(&endpoint)
            })?;
        join(side_a.join(), side_b.join())
    })
}

fn join<A, B>(a: thread::Result<Result<A>>, b: thread::Result<Result<B>>) -> Result<(A, B)> {
    let panicked = || Failure::Setup("panicked".to_owned());
    match (a.unwrap_or_else(|_| Err(panicked())), b.unwrap_or_else(|_| Err(panicked()))) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(a), Ok(_)) => Err(Failure::Sides(format!("side A: {a}"))),
        (Ok(_), Err(b)) => Err(Failure::Sides(format!("side B: {b}"))),
        (Err(a), Err(b)) => Err(Failure::Sides(format!("side A: {a}; side B: {b}"))),
    }
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
    fn a_panic_is_a_failure() {
        let side_a = |_: &str| -> Result<()> { panic!("expected by this test") };
        let side_b = |announce: Announce| {
            announce.endpoint(String::new());
            Ok(())
        };
        assert_eq!(run_pair(None, side_a, side_b).unwrap_err().to_string(), "side A: panicked");
    }
}
