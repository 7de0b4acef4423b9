//! The table of options: one row for each.

/// Hands the table to a macro, which makes something out of each row.
///
/// A row is `name setter builder: type = default, codec [number and name in libzmq], applies, of [types], check;`. An option without a
/// number is zring's alone; without types it is every socket's; without a check all values of its type are allowed.
macro_rules! option_table {
    ($then:path) => {
        $then! {
            values {
                /// Messages queued for one peer at most. 0: no limit by count; `pipe_bytes_max` still holds. Within the
                /// process it applies to connections made afterwards.
                sndhwm set_sndhwm with_sndhwm: u32 = 1000, Count [23 ZMQ_SNDHWM], Now, of [];
                /// Messages received from one peer and not yet taken at most. 0: no limit by count.
                rcvhwm set_rcvhwm with_rcvhwm: u32 = 1000, Count [24 ZMQ_RCVHWM], Afterwards, of [];
                /// Bytes of message bodies queued for one peer at most, and of bodies received from one peer and not yet
                /// taken. A queue that holds less takes one more message whatever its size, so that no message is too
                /// large to be sent at all. For receiving it applies to connections made afterwards.
                pipe_bytes_max set_pipe_bytes_max with_pipe_bytes_max: u64 = 1 << 30, NoCodec [], Now, of [], check at_least_1;
                /// How long unsent messages are kept after the socket was closed. `None`: until they are sent.
                linger set_linger with_linger: Option<Duration> = None, MillisOrNone [17 ZMQ_LINGER], Now, of [];
                /// How long `recv` waits. `None`: for ever.
                rcvtimeo set_rcvtimeo with_rcvtimeo: Option<Duration> = None, MillisOrNone [27 ZMQ_RCVTIMEO], Now, of [];
                /// How long `send` waits. `None`: for ever.
                sndtimeo set_sndtimeo with_sndtimeo: Option<Duration> = None, MillisOrNone [28 ZMQ_SNDTIMEO], Now, of [];
                /// Pause before a connection is tried again, plus up to as much of jitter. It applies to endpoints
                /// connected afterwards.
                reconnect_ivl set_reconnect_ivl with_reconnect_ivl: Duration = Duration::from_millis(100), Millis [18 ZMQ_RECONNECT_IVL], Afterwards, of [];
                /// The pause doubles up to this. Zero, or anything up to `reconnect_ivl`: it does not grow. It applies to
                /// endpoints connected afterwards.
                reconnect_ivl_max set_reconnect_ivl_max with_reconnect_ivl_max: Duration = Duration::ZERO, Millis [21 ZMQ_RECONNECT_IVL_MAX], Afterwards, of [];
                /// How often a PING is sent. `None` or zero: never.
                heartbeat_ivl set_heartbeat_ivl with_heartbeat_ivl: Option<Duration> = None, MillisOrOff [75 ZMQ_HEARTBEAT_IVL], Afterwards, of [];
                /// Silence after a PING before the peer counts as gone. `None`: as long as `heartbeat_ivl`. Zero: no limit.
                /// A PING waits behind what is being sent; as long as the peer takes that (on Linux, where TCP tells what
                /// it acknowledges), it is not silent, however long a large message takes.
                heartbeat_timeout set_heartbeat_timeout with_heartbeat_timeout: Option<Duration> = None, MillisOrNone [77 ZMQ_HEARTBEAT_TIMEOUT], Afterwards, of [];
                /// How long the peer is to wait for our next sign of life before it drops us, told with each PING and
                /// rounded up to tenths of a second; 6,553.5 s at most. `None` or zero: the peer decides.
                heartbeat_ttl set_heartbeat_ttl with_heartbeat_ttl: Option<Duration> = None, MillisOrOff [76 ZMQ_HEARTBEAT_TTL], Afterwards, of [], check fits_a_ping;
                /// How long a peer may take for greeting and handshake. `None` or zero: no limit.
                handshake_ivl set_handshake_ivl with_handshake_ivl: Option<Duration> = Some(Duration::from_secs(30)), MillisOrOff [66 ZMQ_HANDSHAKE_IVL], Afterwards, of [];
                /// Largest body of a single frame accepted, in bytes. `None`: any. A peer that announces more is
                /// disconnected.
                maxmsgsize set_maxmsgsize with_maxmsgsize: Option<u64> = None, Limit [22 ZMQ_MAXMSGSIZE], Afterwards, of [];
                /// Frames of one received message at most. A peer that sends more is disconnected.
                max_frames_per_message set_max_frames_per_message with_max_frames_per_message: u32 = 65_536, NoCodec [], Afterwards, of [], check at_least_1;
                /// Subscriptions one peer may hold at most. A peer that asks for more is disconnected.
                max_subscriptions_per_peer set_max_subscriptions_per_peer with_max_subscriptions_per_peer: u32 = 1_000_000, NoCodec [], Now, of [Pub XPub];
                /// Bytes of all prefixes one peer subscribes to at most. A peer that asks for more is disconnected.
                max_subscription_bytes_per_peer set_max_subscription_bytes_per_peer with_max_subscription_bytes_per_peer: u64 = 64 << 20, NoCodec [], Now, of [Pub XPub];
                /// Connections the system completes ahead of their acceptance; see `listen(2)`. It applies to endpoints
                /// bound afterwards.
                backlog set_backlog with_backlog: u32 = 100, Count [19 ZMQ_BACKLOG], Afterwards, of [];
                /// Bind wildcards to IPv6, and take the addresses of names in the system's order. Literal IPv6 addresses
                /// work either way.
                ipv6 set_ipv6 with_ipv6: bool = false, Switch [42 ZMQ_IPV6], Afterwards, of [];
                /// `SO_SNDBUF` in bytes. `None`: the system's over TCP; over `ipc://` 1 MiB, or what the system allows (on
                /// Linux `net.core.wmem_max`).
                sndbuf set_sndbuf with_sndbuf: Option<usize> = None, Size [11 ZMQ_SNDBUF], Afterwards, of [], check buffer_bytes;
                /// `SO_RCVBUF` in bytes. `None`: the system's.
                rcvbuf set_rcvbuf with_rcvbuf: Option<usize> = None, Size [12 ZMQ_RCVBUF], Afterwards, of [], check buffer_bytes;
                /// `SO_KEEPALIVE`. `None`: the system's.
                tcp_keepalive set_tcp_keepalive with_tcp_keepalive: Option<bool> = None, Choice [34 ZMQ_TCP_KEEPALIVE], Afterwards, of [];
                /// Silence before the first probe, 1 to 32,767 s. `None`: the system's.
                tcp_keepalive_idle set_tcp_keepalive_idle with_tcp_keepalive_idle: Option<Duration> = None, SecsOrSystems [36 ZMQ_TCP_KEEPALIVE_IDLE], Afterwards, of [], check keepalive_secs;
                /// Pause between probes, 1 to 32,767 s. `None`: the system's.
                tcp_keepalive_intvl set_tcp_keepalive_intvl with_tcp_keepalive_intvl: Option<Duration> = None, SecsOrSystems [37 ZMQ_TCP_KEEPALIVE_INTVL], Afterwards, of [], check keepalive_secs;
                /// Unanswered probes before the connection is given up, 1 to 127. `None`: the system's.
                tcp_keepalive_cnt set_tcp_keepalive_cnt with_tcp_keepalive_cnt: Option<u32> = None, CountOrSystems [35 ZMQ_TCP_KEEPALIVE_CNT], Afterwards, of [], check keepalive_probes;
                /// The socket may send again before the reply came; the older request is given up.
                req_relaxed set_req_relaxed with_req_relaxed: bool = false, Switch [53 ZMQ_REQ_RELAXED], Now, of [Req];
                /// The socket numbers its requests and drops replies to others. It applies to requests sent afterwards.
                req_correlate set_req_correlate with_req_correlate: bool = false, Switch [52 ZMQ_REQ_CORRELATE], Now, of [Req];
            }
            bytes {
                /// The id announced to peers: up to 255 bytes, not beginning with a zero byte. Empty: none.
                routing_id set_routing_id with_routing_id [5 ZMQ_ROUTING_ID], Afterwards, of [Req Dealer Router], check routing_id;
            }
        }
    };
}
