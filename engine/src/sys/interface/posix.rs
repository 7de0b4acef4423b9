//! The list of interfaces on Unix.

use std::ffi::CStr;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr::{self, NonNull};

/// The list that `getifaddrs(3)` allocates; freed on drop.
pub(super) struct Interfaces {
    first: *mut libc::ifaddrs,
}

impl Interfaces {
    pub(super) fn read() -> io::Result<Interfaces> {
        let mut first = ptr::null_mut();
        // SAFETY: the call writes the head of a list to the valid pointer it is given, or fails.
        if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Interfaces { first })
    }

    /// Name and address of each entry that has an IP address.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&CStr, SocketAddr)> {
        let mut next = self.first;
        std::iter::from_fn(move || {
            // SAFETY: the pointer is null or an entry of the list, which lives as long as `self`.
            let entry = unsafe { next.as_ref() }?;
            next = entry.ifa_next;
            // SAFETY: every entry has a NUL-terminated name that lives as long as the list.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            // SAFETY: `ifa_addr` is null or a socket address with the length of its family.
            let addr = NonNull::new(entry.ifa_addr).and_then(|addr| unsafe { ip_of(addr) });
            Some((name, addr))
        })
        .filter_map(|(name, addr)| addr.map(|addr| (name, addr)))
    }
}

impl Drop for Interfaces {
    fn drop(&mut self) {
        // SAFETY: the list came from `getifaddrs` and is freed once.
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
            // SAFETY: the family says that this is a `sockaddr_in`; its alignment is not known.
            let v4 = unsafe { addr.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::from((ip, 0)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a `sockaddr_in6`; its alignment is not known.
            let v6 = unsafe { addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, 0, 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}
