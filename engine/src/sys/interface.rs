//! Addresses of network interfaces, for listeners that name one (`tcp://eth0:5555`).

use std::io;
use std::net::SocketAddr;

use crate::resolver::{self, ResolveError};

#[cfg(unix)]
#[path = "interface/posix.rs"]
mod list;

/// The first address of the interface called `name`, with `port`: IPv4, or with `ipv6` the first IPv6 address if there
/// is one. `None`: there is no such interface, or it has no IP address.
///
/// # Errors
/// The error of `getifaddrs(3)`.
#[cfg(unix)]
pub fn interface_addr(name: &str, port: u16, ipv6: bool) -> io::Result<Option<SocketAddr>> {
    let interfaces = list::Interfaces::read()?;
    let mut found = interfaces
        .addresses()
        .filter(|(candidate, _)| candidate.to_bytes() == name.as_bytes())
        .map(|(_, addr)| addr)
        .collect::<Vec<_>>();
    // A stable sort keeps the system's order within a family. Without `ipv6` an IPv6-only interface still serves.
    found.sort_by_key(|addr| addr.is_ipv6() != ipv6);
    Ok(found.first().map(|addr| {
        let mut addr = *addr;
        addr.set_port(port);
        addr
    }))
}

/// On Windows listeners name an address or a host, because interface names there are free text with spaces.
///
/// # Errors
/// None.
#[cfg(windows)]
pub fn interface_addr(_name: &str, _port: u16, _ipv6: bool) -> io::Result<Option<SocketAddr>> {
    Ok(None)
}

/// The address to listen on for `host`, which is the name of a network interface or else a host name. Blocks the
/// calling thread, for seconds if a name server is asked: call it for `bind`, never inside a turn.
///
/// # Errors
/// [`ResolveError::Lookup`] or [`ResolveError::NoAddress`], when `host` is neither.
pub fn lookup_local(host: &str, port: u16, ipv6: bool) -> Result<SocketAddr, ResolveError> {
    // An interface list that cannot be read leaves the name to the resolver.
    if let Ok(Some(addr)) = interface_addr(host, port, ipv6) {
        return Ok(addr);
    }
    // Never empty: `lookup` would have returned an error.
    resolver::lookup(host, port, ipv6).map(|addresses| addresses[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_loopback_interface_has_a_loopback_address() {
        let interfaces = list::Interfaces::read().unwrap();
        let is_v4_loopback = |addr: &SocketAddr| addr.is_ipv4() && addr.ip().is_loopback();
        let (name, _) = interfaces
            .addresses()
            .find(|(_, addr)| is_v4_loopback(addr))
            .expect("a loopback interface");
        let name = name.to_str().unwrap();
        let addr = interface_addr(name, 7, false).unwrap().unwrap();
        assert!(is_v4_loopback(&addr));
        assert_eq!(addr.port(), 7);
        assert!(interface_addr(name, 7, true).unwrap().is_some());
    }

    #[test]
    fn an_unknown_interface_has_none() {
        assert_eq!(interface_addr("no-such-nic", 1, false).unwrap(), None);
    }

    #[test]
    fn listeners_may_name_an_interface_or_a_host() {
        let localhost = lookup_local("localhost", 7, false).unwrap();
        assert!(localhost.ip().is_loopback() && localhost.port() == 7);
        #[cfg(target_os = "linux")]
        assert!(lookup_local("lo", 7, false).unwrap().ip().is_loopback());
        // A label of more than 63 bytes is refused before any name server is asked.
        assert!(lookup_local(&"x".repeat(64), 7, false).is_err());
    }
}
