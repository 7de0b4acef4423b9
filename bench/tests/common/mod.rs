//! What there is to measure on this system.

/// Transports with sockets.
pub(crate) fn transports() -> Vec<&'static str> {
    let mut transports = vec!["tcp"];
    match socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None) {
        Ok(_) => transports.push("ipc"),
        Err(_) => println!("skipped: no AF_UNIX here"),
    }
    transports
}
