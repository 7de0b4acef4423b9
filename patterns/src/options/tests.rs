//! Tests of the table of options, and of the code made from it.

use super::*;

#[test]
fn the_defaults_are_libzmqs() {
    let options = Options::default();
    assert_eq!((options.sndhwm, options.rcvhwm, options.backlog), (1000, 1000, 100));
    assert_eq!((options.linger, options.rcvtimeo, options.sndtimeo), (None, None, None));
    assert_eq!(options.reconnect_ivl, Duration::from_millis(100));
    assert_eq!(options.reconnect_ivl_max, Duration::ZERO);
    assert_eq!(options.heartbeat_ivl_ns(), None);
    assert_eq!(options.heartbeat_timeout_ns(), None);
    assert_eq!(options.heartbeat_ttl_ds(), 0);
    assert_eq!(options.handshake_ivl_ns(), Some(30_000_000_000));
    assert_eq!(options.body_bytes_max(), BODY_BYTES_MAX);
    assert_eq!(options.routing_id(), b"");
    assert!(!(options.ipv6 || options.req_relaxed || options.req_correlate));
}

#[test]
fn routing_ids_are_checked() {
    let mut options = Options::default();
    options.set_routing_id([b'x'; 255]).unwrap();
    let too_long = options.set_routing_id([b'x'; 256]);
    assert_eq!(too_long, Err(OptionError::RoutingIdTooLong { bytes: 256 }));
    assert_eq!(options.set_routing_id(b"\0x"), Err(OptionError::RoutingIdLeadingZero));
    assert_eq!(options.routing_id(), &[b'x'; 255]);
    options.set_routing_id(b"").unwrap();
    assert_eq!(options.routing_id(), b"");
}

#[test]
fn the_ttl_is_kept_as_the_wire_has_it() {
    let mut options = Options::default();
    for (ttl_ms, ds) in [(0, 0), (1, 1), (100, 1), (101, 2), (6_553_500, u16::MAX)] {
        let ttl = Duration::from_millis(ttl_ms);
        options.set_heartbeat_ttl(Some(ttl)).unwrap();
        assert_eq!(options.heartbeat_ttl_ds(), ds, "{ttl_ms}");
    }
    let ttl = Duration::from_millis(6_553_501);
    let too_long = options.set_heartbeat_ttl(Some(ttl));
    assert_eq!(too_long, Err(OptionError::HeartbeatTtlTooLong(ttl)));
    options.set_heartbeat_ttl(None).unwrap();
    assert_eq!(options.heartbeat_ttl_ds(), 0);
}

#[test]
fn zero_switches_timers_off() {
    let zero = Some(Duration::ZERO);
    let options = Options::new()
        .with_heartbeat_ivl(zero)
        .with_heartbeat_timeout(zero)
        .with_handshake_ivl(zero);
    assert_eq!(options.heartbeat_ivl_ns(), None);
    assert_eq!(options.heartbeat_timeout_ns(), Some(0));
    assert_eq!(options.handshake_ivl_ns(), None);
}

#[test]
fn ranges_are_checked_by_name() {
    let options = Options::new;
    let fault = |changed: Result<Options, OptionError>| match changed {
        Err(OptionError::OutOfRange { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(options().with_pipe_bytes_max(0)), "pipe_bytes_max");
    assert_eq!(fault(options().with_max_frames_per_message(0)), "max_frames_per_message");
    assert_eq!(fault(options().with_tcp_keepalive_cnt(Some(128))), "tcp_keepalive_cnt");
    let short = Some(Duration::from_millis(999));
    assert_eq!(fault(options().with_tcp_keepalive_idle(short)), "tcp_keepalive_idle");
    let long = Some(Duration::from_secs(40_000));
    assert_eq!(fault(options().with_tcp_keepalive_intvl(long)), "tcp_keepalive_intvl");
    assert_eq!(fault(options().with_sndbuf(Some(0))), "sndbuf");
    assert_eq!(fault(options().with_rcvbuf(Some(usize::MAX))), "rcvbuf");
}

/// Fields may be assigned to without a check: the check comes before a socket gets them.
#[test]
fn fields_are_checked_before_use() {
    let mut options = Options { sndbuf: Some(0), ..Options::default() };
    assert!(matches!(options.validate(), Err(OptionError::OutOfRange { option: "sndbuf", .. })));
    options.sndbuf = None;
    options.heartbeat_ttl = Some(Duration::MAX);
    assert_eq!(options.validate(), Err(OptionError::HeartbeatTtlTooLong(Duration::MAX)));
    options.heartbeat_ttl = None;
    assert_eq!(options.validate(), Ok(()));
    let context = crate::inline::Context::new().unwrap();
    let socket = context.socket(SocketType::Push).unwrap();
    let wrong = Options { pipe_bytes_max: 0, ..Options::default() };
    let refused = context.socket_with(SocketType::Push, wrong.clone());
    assert!(matches!(refused, Err(crate::Error::Option(_))));
    assert!(matches!(socket.set_options(wrong), Err(crate::Error::Option(_))));
    assert_eq!(socket.options(), Options::default());
}

#[test]
fn a_refused_value_changes_nothing() {
    let mut options = Options::new().with_sndbuf(Some(4096)).unwrap();
    options.set_sndbuf(Some(0)).unwrap_err();
    options.set_raw(11, &0_i32.to_ne_bytes()).unwrap_err();
    assert_eq!(options.sndbuf(), Some(4096));
}

/// The value of an option that is an `int` in libzmq.
fn int(options: &Options, number: i32) -> i32 {
    let mut bytes = [0; 4];
    assert_eq!(options.get_raw(number, &mut bytes), Ok(4));
    i32::from_ne_bytes(bytes)
}

#[test]
fn raw_values_are_libzmqs() {
    let mut options = Options::new();
    // The defaults according to `zmq_setsockopt(3)`.
    let defaults = [
        (23, 1000),
        (24, 1000),
        (17, -1),
        (27, -1),
        (28, -1),
        (18, 100),
        (21, 0),
        (75, 0),
        (76, 0),
        (77, -1),
        (66, 30_000),
        (19, 100),
        (42, 0),
        (11, -1),
        (12, -1),
        (34, -1),
        (35, -1),
        (36, -1),
        (37, -1),
        (52, 0),
        (53, 0),
    ];
    for (number, value) in defaults {
        assert_eq!(int(&options, number), value, "{number}");
        options.set_raw(number, &i32::to_ne_bytes(value)).unwrap();
    }
    assert_eq!(options, Options::new(), "what is read can be set");
    for (number, value) in
        [(17, 0), (17, 250), (27, 0), (77, 0), (75, 20), (36, 30), (35, 127), (11, 4096), (34, 1)]
    {
        options.set_raw(number, &i32::to_ne_bytes(value)).unwrap();
        assert_eq!(int(&options, number), value, "{number}");
    }
    options.set_raw(22, &(1_i64 << 40).to_ne_bytes()).unwrap();
    let mut long = [0; 8];
    assert_eq!(options.get_raw(22, &mut long), Ok(8));
    assert_eq!((options.maxmsgsize(), i64::from_ne_bytes(long)), (Some(1 << 40), 1 << 40));
    options.set_raw(5, b"id").unwrap();
    let mut id = [0; 255];
    assert_eq!((options.get_raw(5, &mut id), &id[..2]), (Ok(2), &b"id"[..]));
}

#[test]
fn raw_faults_are_told_apart() {
    let mut options = Options::new();
    assert_eq!(options.set_raw(9999, &[]), Err(OptionError::UnknownNumber(9999)));
    assert_eq!(options.get_raw(9999, &mut []), Err(OptionError::UnknownNumber(9999)));
    let length = OptionError::RawLength { option: "sndhwm", bytes: 8, expected: 4 };
    assert_eq!(options.set_raw(23, &[0; 8]), Err(length));
    let room = OptionError::RawLength { option: "sndhwm", bytes: 3, expected: 4 };
    assert_eq!(options.get_raw(23, &mut [0; 3]), Err(room));
    for (number, option, value) in
        [(23, "sndhwm", -1), (42, "ipv6", 2), (17, "linger", -2), (34, "tcp_keepalive", 2)]
    {
        let fault = OptionError::RawValue { option, value: value.into() };
        assert_eq!(options.set_raw(number, &i32::to_ne_bytes(value)), Err(fault));
    }
    assert_eq!(options.set_raw(5, b"\0x"), Err(OptionError::RoutingIdLeadingZero));
    assert_eq!(options, Options::new());
}

#[test]
fn numbers_and_names_are_given_once() {
    let list = Options::list();
    for (at, option) in list.iter().enumerate() {
        for other in &list[..at] {
            assert_ne!(option.name, other.name);
            assert!(option.zmq.is_none() || option.zmq.map(|it| it.1) != other.zmq.map(|it| it.1));
        }
    }
}

/// The page of the documentation, made from the table.
fn page() -> String {
    let mut page = String::from(concat!(
        "# Options\n\n",
        "The options of a socket: methods of `Options` (`with_NAME`, `set_NAME`, `NAME`) and of `Socket` (`set_NAME`,\n",
        "`NAME`), and by libzmq's numbers `set_raw` and `get_raw`. A test holds this page to the table in\n",
        "`patterns/src/options/table.rs`, from which the methods are made, too.\n\n",
        "| option | in libzmq | type, default | a change applies | sockets | |\n",
        "|---|---|---|---|---|---|\n",
    ));
    for option in Options::list() {
        let zmq =
            option.zmq.map_or("–".to_owned(), |(name, number)| format!("`{name}` ({number})"));
        let applies = match option.applies {
            Applies::Now => "at once",
            Applies::Afterwards => "afterwards",
        };
        let of: Vec<_> = option.of.iter().map(|it| it.name()).collect();
        let of = if of.is_empty() { "all".to_owned() } else { of.join(", ") };
        let OptionInfo { name, kind, default, about, .. } = option;
        let about = about.trim();
        page +=
            &format!("| `{name}` | {zmq} | `{kind}`, `{default}` | {applies} | {of} | {about} |\n");
    }
    page
}

#[test]
fn the_page_lists_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/OPTIONS.md");
    let page = page();
    if std::env::var_os("ZRING_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/OPTIONS.md is out of date: run this test with ZRING_WRITE_DOCS=1"
    );
}
