//! The floor of fan-out and fan-in: one socket per peer, and `poll` or epoll to find the readable ones. Unix only.

use std::io;

use socket2::Socket;

use crate::cli::Wait;
use crate::error::Result;
use crate::sequence::{SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::raw::{BATCH_BYTES, Frame, receiver_on};
#[cfg(target_os = "linux")]
use crate::subject::raw_link::epoll;
use crate::subject::raw_link::{Link, Listener, Way};
use crate::subject::{Case, Publisher, Receiver, STALL, Subscribers};

/// Side A of a fan-out, with all its subscribers connected.
pub(super) fn publisher(case: &Case, way: Way, announce: Announce) -> Result<Box<dyn Publisher>> {
    let links = accept_all(case, way, announce)?;
    let frame = Frame::new(case.size_bytes, &[]);
    let frames = (BATCH_BYTES / frame.bytes.len()).max(1);
    Ok(Box::new(Publishing { links, batch: frame.bytes.repeat(frames), frame }))
}

/// Side B of a fan-out.
pub(super) fn subscribers(case: &Case, way: Way, endpoint: &str) -> Result<Box<dyn Subscribers>> {
    let connect = |_| Link::connect(endpoint, case.wait, Way::Plain);
    let links = (0..case.peers).map(connect).collect::<Result<_>>()?;
    Ok(Box::new(Many::new(links, case, way)?))
}

/// Side B of a fan-in, with all its senders connected.
pub(super) fn receiver(case: &Case, way: Way, announce: Announce) -> Result<Box<dyn Receiver>> {
    Ok(Box::new(Many::new(accept_all(case, Way::Plain, announce)?, case, way)?))
}

fn accept_all(case: &Case, way: Way, announce: Announce) -> Result<Vec<Link>> {
    let listener = Listener::bind(&case.bind, case.peers, announce)?;
    (0..case.peers).map(|_| listener.accept(case.wait, way)).collect()
}

/// Encodes a batch once and writes it to every connection.
struct Publishing {
    links: Vec<Link>,
    frame: Frame,
    /// Consecutive frames.
    batch: Vec<u8>,
}

impl Publishing {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.links.iter().try_for_each(|link| link.write_all(bytes))
    }
}

impl Publisher for Publishing {
    fn publish(&mut self, sequence: u64) -> Result<()> {
        self.frame.stamp(sequence);
        self.write(&self.frame.bytes)
    }

    fn publish_burst(&mut self, first: u64, count: u64) -> Result<u64> {
        let frame_bytes = self.frame.bytes.len();
        let mut filled = 0;
        for (frame, sequence) in self.batch.chunks_exact_mut(frame_bytes).zip(first..first + count)
        {
            self.frame.stamp(sequence);
            frame.copy_from_slice(&self.frame.bytes);
            filled += 1;
        }
        self.write(&self.batch[..filled * frame_bytes])?;
        Ok(filled as u64)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Many connections to receive from.
struct Many {
    watch: Watch,
    receivers: Vec<Box<dyn Receiver>>,
}

impl Many {
    fn new(links: Vec<Link>, case: &Case, way: Way) -> Result<Self> {
        let watch = Watch::new(&links, case.wait, way)?;
        let receivers = links.into_iter().map(|link| receiver_on(link, case.size_bytes)).collect();
        Ok(Self { watch, receivers })
    }
}

impl Subscribers for Many {
    fn receive_burst(&mut self, checks: &mut [SequenceCheck]) -> Result<()> {
        let receivers = &mut self.receivers;
        self.watch.wait(|number| receivers[number].receive_burst(&mut checks[number]).map(drop))
    }
}

impl Receiver for Many {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let mut all = Verdict::InOrder;
        let (watch, receivers) = (&mut self.watch, &mut self.receivers);
        let mut ended = Vec::new();
        watch.wait(|number| {
            if receivers[number].receive_burst(check)? == Verdict::End {
                all = Verdict::End;
                ended.push(number);
            }
            Ok(())
        })?;
        // A connection whose peer has closed stays readable.
        ended.into_iter().try_for_each(|number| watch.forget(number))?;
        Ok(all)
    }
}

/// Finds the readable connections.
enum Watch {
    /// Polls all of them each time; ended ones are `None`.
    Poll(Vec<Option<Socket>>, Wait),
    #[cfg(target_os = "linux")]
    Epoll(Vec<Socket>, epoll::Levels, Wait),
}

impl Watch {
    fn new(links: &[Link], wait: Wait, way: Way) -> Result<Self> {
        let sockets = links.iter().map(|link| link.socket().try_clone());
        #[cfg(target_os = "linux")]
        if way == Way::Epoll {
            let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
            let levels = epoll::Levels::of(sockets.iter())?;
            return Ok(Self::Epoll(sockets, levels, wait));
        }
        let _ = way;
        Ok(Self::Poll(sockets.map(|socket| socket.map(Some)).collect::<io::Result<_>>()?, wait))
    }

    /// Waits until at least one is readable; passes their numbers to `each`.
    fn wait(&mut self, each: impl FnMut(usize) -> Result<()>) -> Result<()> {
        match self {
            Self::Poll(sockets, wait) => poll(sockets, *wait, each),
            #[cfg(target_os = "linux")]
            Self::Epoll(_, levels, wait) => levels.wait(*wait, each),
        }
    }

    /// Stops watching a connection.
    fn forget(&mut self, number: usize) -> Result<()> {
        match self {
            Self::Poll(sockets, _) => sockets[number] = None,
            #[cfg(target_os = "linux")]
            Self::Epoll(sockets, levels, _) => levels.forget(&sockets[number])?,
        }
        Ok(())
    }
}

/// Source: `poll(2)`.
fn poll(
    sockets: &[Option<Socket>],
    wait: Wait,
    mut each: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let there =
        sockets.iter().enumerate().filter_map(|(number, socket)| Some((number, socket.as_ref()?)));
    let (numbers, mut asked): (Vec<_>, Vec<_>) =
        there.map(|(number, socket)| (number, PollFd::new(socket, PollFlags::IN))).unzip();
    let seconds = if wait == Wait::Spin { 0 } else { STALL.as_secs() as i64 };
    let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
    loop {
        match rustix::event::poll(&mut asked, Some(&timeout)) {
            Ok(0) if wait != Wait::Spin => {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    let ready = numbers.iter().zip(&asked).filter(|(_, asked)| !asked.revents().is_empty());
    ready.into_iter().try_for_each(|(number, _)| each(*number))
}
