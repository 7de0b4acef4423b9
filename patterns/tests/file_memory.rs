//! Sending a file takes none of this process's memory. A test program of its own, because it measures the memory of the
//! whole process.

mod common;

use std::{fs::File, io::Read, net::TcpStream, time::Duration};

use common::{PATIENCE, Way, in_ways, open, raw, resident_bytes, scratch, turning, wires};
use zring::{Frame, SocketType};

const FILE_BYTES: u64 = 512 << 20;
const GROWTH_BYTES_MAX: u64 = 4 << 20;

fn connect(endpoint: &str) -> Box<dyn Read + Send> {
    use std::io::Write;
    let hello = [raw::greeting(1), raw::ready("PULL")].concat();
    if let Some(path) = endpoint.strip_prefix("ipc://") {
        let mut stream = raw::connect_unix(path);
        stream.write_all(&hello).expect("write");
        return Box::new(stream);
    }
    let address = endpoint.strip_prefix("tcp://").expect("tcp or ipc");
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.write_all(&hello).expect("write");
    Box::new(stream)
}

#[test]
fn half_a_gibibyte_takes_no_memory() {
    let dir = scratch();
    let path = dir.path().join("large");
    File::create(&path).expect("create").set_len(FILE_BYTES).expect("grow");
    in_ways(Way::all(), Duration::from_secs(300), {
        let path: &'static std::path::Path = Box::leak(path.into_boxed_path());
        move |way| {
            let ctx = way.context();
            let (push, sockets) = (open(&ctx, SocketType::Push), scratch());
            for endpoint in wires(&sockets) {
                push.bind(&endpoint).expect("bind");
                let endpoint = push.last_endpoint().expect("an endpoint");
                let mut buffer = vec![1; 256 << 10];
                let mut stream = connect(&endpoint);
                push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
                let file = File::open(path).expect("open");
                let before = resident_bytes();
                let frame = Frame::from_file(file, 0, FILE_BYTES).expect("in it");
                push.send(frame).expect("send");
                let most = turning(&ctx, move || {
                    let (mut read, mut most) = (0, 0);
                    while read < FILE_BYTES {
                        let bytes = stream.read(&mut buffer).expect("read") as u64;
                        assert!(bytes > 0, "ended after {read}");
                        if (read + bytes) >> 24 != read >> 24 {
                            most = most.max(resident_bytes());
                        }
                        read += bytes;
                    }
                    most
                });
                let growth = most.saturating_sub(before);
                println!("{endpoint}: {growth} bytes");
                assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes more");
                // The rest of the file fits into the socket's buffers; then the peer closes.
                common::turn_until(&ctx, "the peer's end", || push.stats().peers == 0);
            }
        }
    });
}
