//! One driver in one geometry over one kind of socket, and the watchdog around a test of it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    panic::resume_unwind,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use zring_engine::{
    Config, DriverChoice, PoolConfig, SockAddr, WaitStrategy,
    sys::{
        OwnedSocket,
        net::{Family, SocketOptions, connect_socket, listen_tcp},
        unix::{self, listen_unix, path_addr},
    },
};

/// Limit of a single wait. The watchdog allows three of them.
const PATIENCE: Duration = Duration::from_secs(20);

/// The limit of a single wait on this machine.
pub(crate) fn patience() -> Duration {
    let factor = std::env::var("ZRING_PATIENCE_FACTOR").ok().and_then(|value| value.parse().ok());
    PATIENCE.mul_f32(factor.unwrap_or(1.0))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Net {
    Tcp,
    Unix,
}

/// A driver, and the io_uring features it has to do without, as a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    #[cfg_attr(windows, allow(dead_code))]
    Uring(&'static str),
    Ready,
}

#[derive(Debug)]
pub(crate) struct Case {
    on: On,
    wait: WaitStrategy,
    pub(crate) net: Net,
    dir: TempDir,
    paths: AtomicU32,
}

/// Runs `body` over a shard that parks.
pub(crate) fn run(on: On, net: Net, body: fn(&Case)) {
    run_within_limits(on, WaitStrategy::Park, net, body);
}

/// Runs `body` over a shard that spins.
pub(crate) fn run_spinning(on: On, net: Net, body: fn(&Case)) {
    run_within_limits(on, WaitStrategy::Spin, net, body);
}

/// Runs `body` on a thread of its own; fails when `body` fails or takes too long.
fn run_within_limits(on: On, wait: WaitStrategy, net: Net, body: fn(&Case)) {
    if net == Net::Unix && unix::check().is_err() {
        println!("skipped: no AF_UNIX here");
        return;
    }
    let (done, outcome) = channel();
    let worker = thread::spawn(move || {
        let dir = tempfile::Builder::new().prefix("zr").tempdir().expect("a directory");
        body(&Case { on, wait, net, dir, paths: AtomicU32::new(0) });
        let _ = done.send(());
    });
    match outcome.recv_timeout(patience() * 3) {
        Ok(()) => worker.join().expect("it has ended"),
        Err(RecvTimeoutError::Timeout) => panic!("not finished after {:?}", patience() * 3),
        Err(RecvTimeoutError::Disconnected) => {
            resume_unwind(worker.join().expect_err("it sends when it succeeds"))
        }
    }
}

impl Case {
    /// The default configuration with this case's driver and geometry.
    pub(crate) fn config(&self) -> Config {
        let (driver, mask) = match self.on {
            On::Uring(mask) => (DriverChoice::Uring, mask),
            On::Ready => (DriverChoice::Ready, ""),
        };
        let uring_mask = Some(mask.to_owned());
        Config {
            driver,
            wait: self.wait,
            uring_mask,
            zero_copy_bytes_min: 64 << 10,
            ..Config::default()
        }
    }

    /// A configuration with one pool geometry for both ways of consuming buffers.
    pub(crate) fn with_pool(&self, pool: PoolConfig) -> Config {
        Config { pool, pool_whole: pool, ..self.config() }
    }

    /// Whether the driver requests zero-copy for large sends.
    #[cfg(target_os = "linux")]
    pub(crate) fn asks_for_zero_copy(&self) -> bool {
        matches!(self.on, On::Uring(mask) if !mask.split(',').any(|name| name == "zc"))
    }

    /// Whether a waiting turn sleeps.
    pub(crate) fn parks(&self) -> bool {
        self.wait == WaitStrategy::Park
    }

    pub(crate) fn family(&self) -> Family {
        match self.net {
            Net::Tcp => Family::V4,
            Net::Unix => Family::Unix,
        }
    }

    /// A listening socket and its address.
    pub(crate) fn listen(&self, backlog: u32, options: &SocketOptions) -> (OwnedSocket, SockAddr) {
        match self.net {
            Net::Tcp => {
                let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let (fd, address) = listen_tcp(any_port, backlog, options).expect("listen");
                (fd, address.into())
            }
            Net::Unix => {
                let number = self.paths.fetch_add(1, Ordering::Relaxed);
                let path = self.dir.path().join(number.to_string());
                let (fd, _) = listen_unix(&path, backlog).expect("listen");
                (fd, path_addr(&path).expect("a short path"))
            }
        }
    }

    /// A bound socket that does not listen, and its address.
    #[cfg(target_os = "linux")]
    pub(crate) fn bind(&self) -> (OwnedSocket, SockAddr) {
        let fd = Socket::from(self.socket());
        match self.net {
            Net::Tcp => fd.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bind"),
            Net::Unix => {
                let path = path_addr(&self.dir.path().join("bound")).expect("a short path");
                fd.bind(&path).expect("bind");
            }
        }
        let address = fd.local_addr().expect("a name");
        (fd.into(), address)
    }

    /// An address without a listener.
    pub(crate) fn dead_address(&self) -> SockAddr {
        self.listen(1, &SocketOptions::default()).1
    }

    /// A socket for the shard to connect.
    pub(crate) fn socket(&self) -> OwnedSocket {
        connect_socket(self.family(), &SocketOptions::default()).expect("a socket")
    }

    /// A blocking socket of the test's own, connected to `address`.
    pub(crate) fn peer(&self, address: &SockAddr) -> Socket {
        let domain = if self.net == Net::Tcp { Domain::IPV4 } else { Domain::UNIX };
        let peer = Socket::new(domain, Type::STREAM, None).expect("a socket");
        peer.connect(address).expect("connect");
        peer.set_read_timeout(Some(patience())).expect("SO_RCVTIMEO");
        peer.set_write_timeout(Some(patience())).expect("SO_SNDTIMEO");
        peer
    }
}
