//! Endpoints: where a socket binds or connects, parsed once from libzmq's notation.
//!
//! ```text
//! tcp://HOST:PORT     HOST: IPv4 address, [IPv6 address], name, or * (bind only)
//!                     PORT: 1 to 65535, or * or 0 (bind only: the system chooses)
//! ipc://PATH          absolute or relative, at most 107 bytes
//! ipc://@NAME         Linux abstract name, at most 106 bytes
//! ipc://*             bind only: a fresh path in the directory for temporary files
//! inproc://NAME       sockets of this process, at most 255 bytes
//! ```
//!
//! Windows has `ipc://` by path since version 10 (1809), in UTF-8; before, `bind` and `connect` answer
//! [`Error::Io`](crate::Error::Io) of the kind `Unsupported`.
//!
//! Every [`Endpoint`] value is well formed. An operation that cannot use it (a connect to a wildcard) fails when the
//! endpoint is converted to that operation's target: [`Endpoint::bind_target`], [`Endpoint::connect_target`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Longest Unix-domain path in bytes: `sun_path` holds 108 with the final NUL (`unix(7)`). An abstract name
/// has one byte less, because its leading NUL counts.
pub(crate) const IPC_PATH_BYTES_MAX: usize = 107;

/// Longest host name in bytes, a final dot included (RFC 1035, section 2.3.4).
pub(crate) const HOST_BYTES_MAX: usize = 254;

/// Longest `inproc://` name in bytes: libzmq keeps 256 for an endpoint with its final NUL.
pub(crate) const INPROC_NAME_BYTES_MAX: usize = 255;

/// libzmq's transports that this version lacks, to distinguish them from typing errors.
const TRANSPORTS_UNSUPPORTED: [&str; 10] =
    ["udp", "pgm", "epgm", "norm", "tipc", "vmci", "vsock", "hyperv", "ws", "wss"];

/// Why an endpoint is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// No `://` in the endpoint.
    #[error("endpoint {0:?} has no transport: expected tcp://… or ipc://…")]
    MissingScheme(String),
    /// An unknown transport; names are lower case.
    #[error("unknown transport {0:?}")]
    UnknownTransport(String),
    /// One of libzmq's transports that is not supported yet.
    #[error("transport {0:?} is not supported yet")]
    UnsupportedTransport(String),
    /// `tcp://` without a colon and a port.
    #[error("endpoint {0:?} has no port")]
    MissingPort(String),
    /// A port that is neither `*` nor a number from 0 to 65535.
    #[error("{0:?} is no port: expected 0 to 65535 or *")]
    BadPort(String),
    /// Nothing before the port.
    #[error("endpoint {0:?} has no host")]
    EmptyHost(String),
    /// Neither an address nor a valid host name.
    #[error("{0:?} is neither an address nor a host name")]
    BadHost(String),
    /// libzmq's `tcp://source:port;destination:port`.
    #[error("a source address ({0:?}) is not supported yet")]
    SourceAddress(String),
    /// `ipc://` or `ipc://@` with nothing behind it.
    #[error("ipc endpoint without a path")]
    EmptyPath,
    /// The path is too long for a socket address.
    #[error("ipc path of {bytes} bytes: at most {bytes_max} fit a socket address")]
    PathTooLong {
        /// The length of the path, the leading NUL of an abstract name included.
        bytes: usize,
        /// The maximum length.
        bytes_max: usize,
    },
    /// `inproc://` with nothing behind it.
    #[error("inproc endpoint without a name")]
    EmptyName,
    /// A name longer than libzmq accepts.
    #[error("inproc name of {bytes} bytes: at most {INPROC_NAME_BYTES_MAX} are allowed")]
    NameTooLong {
        /// The length of the name.
        bytes: usize,
    },
    /// A NUL byte inside the path.
    #[error("ipc path with a NUL byte")]
    NulInPath,
    /// A wildcard host, port or path, to which no socket can connect.
    #[error("cannot connect to the wildcard endpoint {0}")]
    WildcardInConnect(Endpoint),
}

/// The host part of a TCP endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// `*`: every local address (bind only).
    Wildcard,
    /// A numeric address.
    Ip(IpAddr),
    /// A name for the resolver, or an IPv6 address with a zone (`fe80::1%eth0`), which only the resolver can convert.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Wildcard => f.write_str("*"),
            Host::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Host::Name(name) if name.contains(':') => write!(f, "[{name}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// A well-formed endpoint. `Display` gives its canonical form, which parses to an equal value (for an IPC path in valid
/// UTF-8, such as every parsed one).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `tcp://host:port`.
    Tcp {
        /// The host.
        host: Host,
        /// The port, never 0; `None` lets the system choose (bind only).
        port: Option<u16>,
    },
    /// `ipc://path`: a Unix-domain socket at a path of 1 to 107 bytes without NUL.
    Ipc(PathBuf),
    /// `ipc://@name`: a Linux abstract name of at least one byte, without the leading NUL.
    IpcAbstract(Vec<u8>),
    /// `ipc://*`: a fresh path (bind only).
    IpcWildcard,
    /// `inproc://name`: a name within this process, 1 to 255 bytes.
    Inproc(Arc<str>),
}

/// The target of a bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindTarget {
    /// This TCP address; port 0 lets the system choose.
    Addr(SocketAddr),
    /// The address of this network interface or name; port 0 lets the system choose.
    Name {
        /// An interface or host name.
        host: String,
        /// The port, or 0.
        port: u16,
    },
    /// This Unix-domain path.
    Unix(PathBuf),
    /// This abstract name, without its leading NUL.
    UnixAbstract(Vec<u8>),
    /// A fresh Unix-domain path.
    UnixTemp,
    /// This name within the process.
    Inproc(Arc<str>),
}

/// The target of a connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectTarget {
    /// This TCP address: no resolver needed.
    Addr(SocketAddr),
    /// This name, which is resolved at every attempt.
    Name {
        /// A host name.
        host: String,
        /// The port, never 0.
        port: u16,
    },
    /// This Unix-domain path.
    Unix(PathBuf),
    /// This abstract name, without its leading NUL.
    UnixAbstract(Vec<u8>),
    /// This name within the process.
    Inproc(Arc<str>),
}

impl ConnectTarget {
    /// The inproc name, if the target is one.
    pub(crate) fn inproc_name(&self) -> Option<&str> {
        match self {
            Self::Inproc(name) => Some(name),
            _ => None,
        }
    }
}

impl Endpoint {
    /// Whether the text is an `inproc://` endpoint.
    pub(crate) fn is_inproc(endpoint: &str) -> bool {
        matches!(endpoint.parse(), Ok(Endpoint::Inproc(_)))
    }

    /// The target that a bind to this endpoint listens on. With `ipv6` the wildcard host is `[::]`, else `0.0.0.0`.
    pub fn bind_target(&self, ipv6: bool) -> BindTarget {
        let (host, port) = match self {
            Endpoint::Tcp { host, port } => (host, port.unwrap_or(0)),
            Endpoint::Ipc(path) => return BindTarget::Unix(path.clone()),
            Endpoint::IpcAbstract(name) => return BindTarget::UnixAbstract(name.clone()),
            Endpoint::IpcWildcard => return BindTarget::UnixTemp,
            Endpoint::Inproc(name) => return BindTarget::Inproc(name.clone()),
        };
        match host {
            Host::Wildcard if ipv6 => BindTarget::Addr((Ipv6Addr::UNSPECIFIED, port).into()),
            Host::Wildcard => BindTarget::Addr((Ipv4Addr::UNSPECIFIED, port).into()),
            Host::Ip(ip) => BindTarget::Addr((*ip, port).into()),
            Host::Name(name) => BindTarget::Name { host: name.clone(), port },
        }
    }

    /// The target that a connect to this endpoint connects to.
    ///
    /// # Errors
    /// [`EndpointError::WildcardInConnect`] when host, port or path is a wildcard.
    pub fn connect_target(&self) -> Result<ConnectTarget, EndpointError> {
        match self {
            Endpoint::Tcp { host: Host::Ip(ip), port: Some(port) } => {
                Ok(ConnectTarget::Addr((*ip, *port).into()))
            }
            Endpoint::Tcp { host: Host::Name(name), port: Some(port) } => {
                Ok(ConnectTarget::Name { host: name.clone(), port: *port })
            }
            Endpoint::Ipc(path) => Ok(ConnectTarget::Unix(path.clone())),
            Endpoint::IpcAbstract(name) => Ok(ConnectTarget::UnixAbstract(name.clone())),
            Endpoint::Inproc(name) => Ok(ConnectTarget::Inproc(name.clone())),
            Endpoint::Tcp { .. } | Endpoint::IpcWildcard => {
                Err(EndpointError::WildcardInConnect(self.clone()))
            }
        }
    }
}

/// The actual endpoint of a TCP listener.
impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Endpoint {
        let host = match addr {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => {
                Host::Name(format!("{}%{}", v6.ip(), v6.scope_id()))
            }
            _ => Host::Ip(addr.ip()),
        };
        let port = Some(addr.port()).filter(|&port| port != 0);
        Endpoint::Tcp { host, port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port: Some(port) } => write!(f, "tcp://{host}:{port}"),
            Endpoint::Tcp { host, port: None } => write!(f, "tcp://{host}:*"),
            Endpoint::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Endpoint::IpcAbstract(name) => write!(f, "ipc://@{}", String::from_utf8_lossy(name)),
            Endpoint::IpcWildcard => f.write_str("ipc://*"),
            Endpoint::Inproc(name) => write!(f, "inproc://{name}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        match text.split_once("://") {
            None => Err(EndpointError::MissingScheme(text.to_owned())),
            Some(("tcp", rest)) => parse_tcp(rest, text),
            Some(("ipc", rest)) => parse_ipc(rest),
            Some(("inproc", name)) => parse_inproc(name),
            Some(("", _)) => Err(EndpointError::MissingScheme(text.to_owned())),
            Some((known, _)) if TRANSPORTS_UNSUPPORTED.contains(&known) => {
                Err(EndpointError::UnsupportedTransport(known.to_owned()))
            }
            Some((unknown, _)) => Err(EndpointError::UnknownTransport(unknown.to_owned())),
        }
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: &str) -> Result<Endpoint, EndpointError> {
        text.parse()
    }
}

fn parse_tcp(rest: &str, whole: &str) -> Result<Endpoint, EndpointError> {
    if let Some((source, _)) = rest.split_once(';') {
        return Err(EndpointError::SourceAddress(source.to_owned()));
    }
    // The last colon separates the port, unless it is inside the brackets of an address.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => return Err(EndpointError::MissingPort(whole.to_owned())),
    };
    if port.is_empty() {
        return Err(EndpointError::MissingPort(whole.to_owned()));
    }
    if host.is_empty() {
        return Err(EndpointError::EmptyHost(whole.to_owned()));
    }
    Ok(Endpoint::Tcp { host: parse_host(host, whole)?, port: parse_port(port)? })
}

fn parse_port(port: &str) -> Result<Option<u16>, EndpointError> {
    if port == "*" {
        return Ok(None);
    }
    let bad = || EndpointError::BadPort(port.to_owned());
    // u16's own parser accepts a leading plus sign.
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let number: u16 = port.parse().map_err(|_| bad())?;
    Ok(Some(number).filter(|&number| number != 0))
}

fn parse_host(host: &str, whole: &str) -> Result<Host, EndpointError> {
    let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    match bracketed {
        None if host == "*" => return Ok(Host::Wildcard),
        Some("") => return Err(EndpointError::EmptyHost(whole.to_owned())),
        _ => {}
    }
    // libzmq accepts an IPv6 address without brackets too; the last colon separates the port.
    let bare = bracketed.unwrap_or(host);
    if bracketed.is_some() || bare.contains(':') {
        return parse_ipv6(bare).ok_or_else(|| EndpointError::BadHost(host.to_owned()));
    }
    if let Ok(ip) = bare.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    if bare.len() <= HOST_BYTES_MAX && bare.bytes().all(is_name_byte) {
        return Ok(Host::Name(bare.to_owned()));
    }
    Err(EndpointError::BadHost(host.to_owned()))
}

fn parse_ipv6(text: &str) -> Option<Host> {
    let Some((address, zone)) = text.split_once('%') else {
        return text.parse::<Ipv6Addr>().ok().map(|ip| Host::Ip(ip.into()));
    };
    let zone_is_sane = !zone.is_empty() && zone.len() <= 15 && zone.bytes().all(is_name_byte);
    let ip = address.parse::<Ipv6Addr>().ok().filter(|_| zone_is_sane)?;
    Some(Host::Name(format!("{ip}%{zone}")))
}

/// Letters, digits and the other bytes of host and interface names. Other scripts use their ASCII form (RFC 5891).
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

fn parse_inproc(name: &str) -> Result<Endpoint, EndpointError> {
    match name.len() {
        0 => Err(EndpointError::EmptyName),
        bytes if bytes > INPROC_NAME_BYTES_MAX => Err(EndpointError::NameTooLong { bytes }),
        _ => Ok(Endpoint::Inproc(name.into())),
    }
}

fn parse_ipc(path: &str) -> Result<Endpoint, EndpointError> {
    if path.is_empty() || path == "@" {
        return Err(EndpointError::EmptyPath);
    }
    if path == "*" {
        return Ok(Endpoint::IpcWildcard);
    }
    if path.contains('\0') {
        return Err(EndpointError::NulInPath);
    }
    // The @ stands for the leading NUL of an abstract name, so one limit fits both.
    if path.len() > IPC_PATH_BYTES_MAX {
        return Err(EndpointError::PathTooLong {
            bytes: path.len(),
            bytes_max: IPC_PATH_BYTES_MAX,
        });
    }
    Ok(match path.strip_prefix('@') {
        Some(name) => Endpoint::IpcAbstract(name.as_bytes().to_vec()),
        None => Endpoint::Ipc(PathBuf::from(path)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Endpoint {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn fault(text: &str) -> EndpointError {
        text.parse::<Endpoint>().expect_err(text)
    }

    fn tcp(host: Host, port: Option<u16>) -> Endpoint {
        Endpoint::Tcp { host, port }
    }

    #[test]
    fn tcp_forms() {
        let v4 = Host::Ip(Ipv4Addr::LOCALHOST.into());
        let v6 = Host::Ip(Ipv6Addr::LOCALHOST.into());
        let name = Host::Name("my-host_1.example.".into());
        assert_eq!(parse("tcp://127.0.0.1:5555"), tcp(v4.clone(), Some(5555)));
        assert_eq!(parse("tcp://127.0.0.1:0"), tcp(v4.clone(), None));
        assert_eq!(parse("tcp://127.0.0.1:*"), tcp(v4, None));
        assert_eq!(parse("tcp://*:80"), tcp(Host::Wildcard, Some(80)));
        assert_eq!(parse("tcp://*:*"), tcp(Host::Wildcard, None));
        assert_eq!(parse("tcp://[::1]:65535"), tcp(v6.clone(), Some(65535)));
        assert_eq!(parse("tcp://::1:5555"), tcp(v6, Some(5555)));
        assert_eq!(parse("tcp://my-host_1.example.:1"), tcp(name, Some(1)));
        let zoned = parse("tcp://[fe80::1%eth0]:1");
        assert_eq!(zoned, tcp(Host::Name("fe80::1%eth0".into()), Some(1)));
        assert_eq!(zoned.to_string(), "tcp://[fe80::1%eth0]:1");
    }

    #[test]
    fn ipc_forms() {
        assert_eq!(parse("ipc:///tmp/x.sock"), Endpoint::Ipc("/tmp/x.sock".into()));
        assert_eq!(parse("ipc://relative"), Endpoint::Ipc("relative".into()));
        assert_eq!(parse("ipc://@name"), Endpoint::IpcAbstract(b"name".to_vec()));
        assert_eq!(parse("ipc://*"), Endpoint::IpcWildcard);
        assert_eq!(parse("ipc://a://b"), Endpoint::Ipc("a://b".into()));
    }

    #[test]
    fn every_fault_is_named() {
        use EndpointError as E;
        for text in ["", "localhost:5555", "tcp:/x:1", "://x:1"] {
            assert!(matches!(fault(text), E::MissingScheme(_)), "{text}");
        }
        for text in ["TCP://x:1", "http://x:1", "tcp4://x:1"] {
            assert!(matches!(fault(text), E::UnknownTransport(_)), "{text}");
        }
        for name in TRANSPORTS_UNSUPPORTED {
            let expected = E::UnsupportedTransport(name.into());
            assert_eq!(fault(&format!("{name}://x")), expected);
        }
        for text in ["tcp://", "tcp://host", "tcp://host:", "tcp://[::1]", "tcp://*"] {
            assert!(matches!(fault(text), E::MissingPort(_)), "{text}");
        }
        for text in
            ["tcp://h:65536", "tcp://h:-1", "tcp://h:+1", "tcp://h:1/", "tcp://h: 1", "tcp://h:**"]
        {
            assert!(matches!(fault(text), E::BadPort(_)), "{text}");
        }
        for text in ["tcp://:1", "tcp://[]:1"] {
            assert!(matches!(fault(text), E::EmptyHost(_)), "{text}");
        }
        let long = "a".repeat(HOST_BYTES_MAX + 1);
        for host in
            ["a b", "a/b", "[host]", "[::1", "::1]", "[::1%]", "**", "bücher", "[1.2.3.4]", &long]
        {
            assert!(matches!(fault(&format!("tcp://{host}:1")), E::BadHost(_)), "{host}");
        }
        assert_eq!(fault("tcp://10.0.0.1:0;10.0.0.2:5"), E::SourceAddress("10.0.0.1:0".into()));
        assert_eq!(fault("ipc://"), E::EmptyPath);
        assert_eq!(fault("ipc://@"), E::EmptyPath);
        assert_eq!(fault("ipc://a\0b"), E::NulInPath);
        assert_eq!(fault("ipc://@a\0b"), E::NulInPath);
    }

    #[test]
    fn paths_are_measured_as_the_socket_address_holds_them() {
        let longest = "x".repeat(IPC_PATH_BYTES_MAX);
        parse(&format!("ipc://{longest}"));
        parse(&format!("ipc://@{}", &longest[1..]));
        let too_long = EndpointError::PathTooLong { bytes: 108, bytes_max: 107 };
        assert_eq!(fault(&format!("ipc://{longest}x")), too_long);
        assert_eq!(fault(&format!("ipc://@{longest}")), too_long);
    }

    #[test]
    fn bind_targets() {
        let any = |text: &str, ipv6| parse(text).bind_target(ipv6);
        let addr = |text: &str| BindTarget::Addr(text.parse().unwrap());
        assert_eq!(any("tcp://*:*", false), addr("0.0.0.0:0"));
        assert_eq!(any("tcp://*:7", true), addr("[::]:7"));
        assert_eq!(any("tcp://[::1]:7", false), addr("[::1]:7"));
        assert_eq!(any("tcp://eth0:*", false), BindTarget::Name { host: "eth0".into(), port: 0 });
        assert_eq!(any("ipc://x", false), BindTarget::Unix("x".into()));
        assert_eq!(any("ipc://@x", false), BindTarget::UnixAbstract(b"x".to_vec()));
        assert_eq!(any("ipc://*", false), BindTarget::UnixTemp);
    }

    #[test]
    fn connect_targets() {
        let target = |text: &str| parse(text).connect_target();
        let literal = ConnectTarget::Addr("127.0.0.1:7".parse().unwrap());
        assert_eq!(target("tcp://127.0.0.1:7"), Ok(literal));
        let name = ConnectTarget::Name { host: "localhost".into(), port: 7 };
        assert_eq!(target("tcp://localhost:7"), Ok(name));
        assert_eq!(target("ipc://x"), Ok(ConnectTarget::Unix("x".into())));
        assert_eq!(target("ipc://@x"), Ok(ConnectTarget::UnixAbstract(b"x".to_vec())));
        for text in ["tcp://*:7", "tcp://*:*", "tcp://localhost:*", "tcp://127.0.0.1:0", "ipc://*"]
        {
            let wildcard = EndpointError::WildcardInConnect(parse(text));
            assert_eq!(target(text), Err(wildcard), "{text}");
        }
    }

    #[test]
    fn a_bound_address_is_an_endpoint() {
        let shown = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap()).to_string();
        assert_eq!(shown("0.0.0.0:5555"), "tcp://0.0.0.0:5555");
        assert_eq!(shown("[::]:5555"), "tcp://[::]:5555");
        assert_eq!(shown("[fe80::1%3]:5555"), "tcp://[fe80::1%3]:5555");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".*", scheme in "(tcp|ipc)://") {
            let _ = text.parse::<Endpoint>();
            let _ = format!("{scheme}{text}").parse::<Endpoint>();
        }

        #[test]
        fn the_canonical_form_parses_to_the_same(
            text in "(tcp://([a-z0-9.*-]{1,9}|\\[[0-9a-f:]{2,9}\\]|[0-9:]{1,7}):([0-9]{1,5}|\\*)|ipc://[@*a-zé/:]{1,9})"
        ) {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
            }
        }
    }
}
