//! zring inside a foreign event loop: poll(2) waits for the context's descriptor and for others.
//!
//! `cargo run -p zring --example event_loop`: one thread sends messages, another writes lines to a pipe; the loop takes
//! both as they come and ends when both have ended. epoll, mio or an async runtime could take the place of poll(2).
//!
//! Only Linux has such a descriptor; elsewhere the futures of a socket work in any event loop.

#[cfg(target_os = "linux")]
fn main() -> Result<(), zring::Error> {
    linux::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("this system has no descriptors for foreign event loops");
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{self, Read, Write};
    use std::thread;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};
    use zring::{Error, SocketType, inline::Context};

    pub(crate) fn run() -> Result<(), Error> {
        let context = Context::new()?;
        let pull = context.socket(SocketType::Pull)?;
        pull.bind("tcp://127.0.0.1:*")?;
        let endpoint = pull.last_endpoint().expect("bound just now");
        let sender = thread::spawn(move || send(&endpoint));
        let (mut pipe, far_end) = io::pipe()?;
        let writer = thread::spawn(move || write(far_end));

        let event_fd = context.event_fd()?;
        let (mut messages_ended, mut pipe_ended) = (false, false);
        loop {
            // The order matters: turn, take all messages, and only then wait. A message left untaken would not make the
            // descriptor readable again.
            context.turn()?;
            loop {
                match pull.try_recv() {
                    Ok(message) if message.is_empty() => messages_ended = true,
                    Ok(message) => println!("message: {}", String::from_utf8_lossy(message.body())),
                    Err(Error::WouldBlock) => break,
                    Err(error) => return Err(error),
                }
            }
            if messages_ended && pipe_ended {
                break;
            }

            let mut fds =
                [PollFd::new(&event_fd, PollFlags::IN), PollFd::new(&pipe, PollFlags::IN)];
            // A pipe that has ended is readable for ever.
            let watched = if pipe_ended { 1 } else { 2 };
            poll(&mut fds[..watched], None).map_err(io::Error::from)?;
            if !fds[1].revents().is_empty() {
                let mut bytes = [0; 64];
                let count = pipe.read(&mut bytes)?;
                pipe_ended = count == 0;
                print!("{}", String::from_utf8_lossy(&bytes[..count]));
            }
        }
        writer.join().expect("the writer")?;
        sender.join().expect("the sender")
    }

    fn send(endpoint: &str) -> Result<(), Error> {
        let context = Context::new()?;
        let push = context.socket(SocketType::Push)?;
        push.connect(endpoint)?;
        // While this thread sleeps nothing turns its context: without a peer the messages would wait for `close`.
        push.wait_for_peers(1, None)?;
        for number in 1..=5 {
            push.send(format!("number {number}"))?;
            thread::sleep(Duration::from_millis(30));
        }
        push.send("")?;
        push.close();
        Ok(())
    }

    fn write(mut pipe: io::PipeWriter) -> Result<(), Error> {
        for number in 1..=3 {
            writeln!(pipe, "pipe: line {number}")?;
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}
