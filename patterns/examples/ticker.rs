//! PUB/SUB: a publisher of prices, and a subscriber that wants those of one symbol.
//!
//! ```text
//! cargo run -p zring --example ticker            both, on two threads
//! cargo run -p zring --example ticker -- AMBER   the same for another symbol (AMBER, BASIL or CEDAR)
//! ```

use std::env;
use std::thread;
use std::time::Duration;

use zring::{Error, SocketType, inline::Context};

const SYMBOLS: [&str; 3] = ["AMBER", "BASIL", "CEDAR"];
const TICKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

fn main() -> Result<(), Error> {
    let symbol = env::args().nth(1).unwrap_or_else(|| "BASIL".to_owned());
    let context = Context::new()?;
    let publisher = context.socket(SocketType::Pub)?;
    publisher.bind("tcp://127.0.0.1:*")?;
    let endpoint = publisher.last_endpoint().expect("bound just now");

    let topic = symbol.clone();
    let subscriber = thread::spawn(move || follow(&endpoint, &topic));

    // A subscriber that has not connected yet misses messages: wait for it.
    publisher.wait_for_subscribers(&symbol, 1, Some(Duration::from_secs(5)))?;
    for tick in 0..TICKS {
        {
            // One submission for all symbols of a tick.
            let _batch = publisher.batch();
            for (number, name) in (0..).zip(SYMBOLS) {
                let price = 100 + 10 * number + tick;
                publisher.send_multipart([name, &price.to_string()])?;
            }
        }
        thread::sleep(PAUSE);
    }
    // An empty price ends the stream. Filtering looks at the first frame alone.
    publisher.send_multipart([symbol.as_str(), ""])?;
    publisher.close();
    subscriber.join().expect("the subscriber")
}

fn follow(endpoint: &str, topic: &str) -> Result<(), Error> {
    let context = Context::new()?;
    let sub = context.socket(SocketType::Sub)?;
    sub.subscribe(topic)?;
    sub.connect(endpoint)?;
    loop {
        let tick = sub.recv()?;
        let price = tick.frame(1).unwrap_or_default();
        if price.is_empty() {
            return Ok(());
        }
        println!("{topic} {}", String::from_utf8_lossy(price));
    }
}
