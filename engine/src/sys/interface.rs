//! Addresses of network interfaces, for listeners that name one (`tcp://eth0:5555`).

use std::ffi::CStr;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr::{self, NonNull};

use crate::resolver::{self, ResolveError};

/// The list `getifaddrs(3)` allocates, given back on drop.
struct Interfaces {
    first: *mut libc::ifaddrs,
}

impl Interfaces {
    fn read() -> io::Result<Interfaces> {
        let mut first = ptr::null_mut();
        // SAFETY: the call writes the head of a list to the valid pointer it is given, or fails.
        if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Interfaces { first })
    }

    /// Name and address of each entry that has an IP address.
    fn addresses(&self) -> impl Iterator<Item = (&CStr, SocketAddr)> {
        let mut next = self.first;
        std::iter::from_fn(move || {
            // SAFETY: the pointer is null or an entry of the list, which lives as long as `self`.
            let entry = unsafe { next.as_ref() }?;
            next = entry.ifa_next;
            // SAFETY: every entry has a NUL-terminated name that lives as long as the list.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            // SAFETY: `ifa_addr` is null or a socket address of the length its family has.
            let addr = NonNull::new(entry.ifa_addr).and_then(|addr| unsafe { ip_of(addr) });
            Some((name, addr))
        })
        .filter_map(|(name, addr)| addr.map(|addr| (name, addr)))
    }
}

impl Drop for Interfaces {
    fn drop(&mut self) {
        // SAFETY: the list came from `getifaddrs` and is given back once.
        unsafe { libc::freeifaddrs(self.first) };
    }
}

/// # Safety
/// `addr` points to a socket address that is as long as its family says.
unsafe fn ip_of(addr: NonNull<libc::sockaddr>) -> Option<SocketAddr> {
    // SAFETY: every socket address begins with its family; the caller vouches for the pointer.
    let family = i32::from(unsafe { (*addr.as_ptr()).sa_family });
    match family {
        libc::AF_INET => {
            // SAFETY: the family says that a `sockaddr_in` stands here; nothing says that it is aligned.
            let v4 = unsafe { addr.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::from((ip, 0)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that a `sockaddr_in6` stands here; nothing says that it is aligned.
            let v6 = unsafe { addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, 0, 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// The first address of the interface called `name`, with `port`: IPv4, or with `ipv6` the first IPv6
/// address if it has one. `None`: there is no such interface, or it has no IP address.
///
/// # Errors
/// What `getifaddrs(3)` says.
pub fn interface_addr(name: &str, port: u16, ipv6: bool) -> io::Result<Option<SocketAddr>> {
    let interfaces = Interfaces::read()?;
    let mut found = interfaces
        .addresses()
        .filter(|(candidate, _)| candidate.to_bytes() == name.as_bytes())
        .map(|(_, addr)| addr)
        .collect::<Vec<_>>();
    // Stable: within a family the system's order stays. Without `ipv6` an IPv6-only interface still serves.
    found.sort_by_key(|addr| addr.is_ipv6() != ipv6);
    Ok(found.first().map(|addr| {
        let mut addr = *addr;
        addr.set_port(port);
        addr
    }))
}

/// The address to listen on for `host`, which is the name of a network interface or else a host name.
/// Blocks the calling thread, for seconds where a name server is asked: for `bind`, never inside a turn.
///
/// # Errors
/// [`ResolveError::Lookup`] or [`ResolveError::NoAddress`], when `host` is neither.
pub fn lookup_local(host: &str, port: u16, ipv6: bool) -> Result<SocketAddr, ResolveError> {
    // An interface list that cannot be read leaves the name to the resolver.
    if let Ok(Some(addr)) = interface_addr(host, port, ipv6) {
        return Ok(addr);
    }
    // Never empty: that would have been an error.
    resolver::lookup(host, port, ipv6).map(|addresses| addresses[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_a_loopback_address() {
        let interfaces = Interfaces::read().unwrap();
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
