//! From the first byte of a connection to the first frame of traffic.

use super::encoder::encode_error;
use super::greeting::{GreetingReader, encode_greeting};
use super::mechanism::{
    LocalPeer, Mechanism, Outcome, PeerInfo, ROUTING_ID_BYTES_MAX, check_metadata,
};
use super::{Decoder, FrameFlags, Step, Violation};

/// The longest body of a command during the handshake. Not part of ZMTP; it bounds the memory that an unknown peer can
/// claim.
pub const HANDSHAKE_COMMAND_BYTES_MAX: usize = 8192;

/// The progress of [`Handshake::handle_input`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All input is consumed and more is needed.
    NeedMore,
    /// Both sides agreed. The input that the call did not consume belongs to the [`Decoder`].
    Established(Box<PeerInfo>),
}

/// Greeting, mechanism and metadata of one connection, both directions.
///
/// ```text
///   Greeting ──64 octets──► Mechanism ──READY──► Established
///       └────────────────────────┴──violation──► Failed
/// ```
///
/// Call [`poll_transmit`](Self::poll_transmit) first and after every [`handle_input`](Self::handle_input), even after
/// one that failed or established: send its output before anything else on the connection. Memory is bounded by the
/// greeting and [`HANDSHAKE_COMMAND_BYTES_MAX`], and grows only with bytes that arrived.
#[derive(Debug)]
pub struct Handshake {
    local: LocalPeer,
    mechanism: Mechanism,
    greeting_sent: bool,
    /// The answer to refused metadata, until it is sent.
    refusal: Option<String>,
    state: State,
}

#[derive(Debug)]
enum State {
    Greeting(GreetingReader),
    Mechanism {
        minor: u8,
        decoder: Decoder,
        /// A command whose body arrived in pieces.
        partial: Option<PartialBody>,
    },
    Established,
    Failed(Violation),
}

#[derive(Debug)]
struct PartialBody {
    body_bytes: usize,
    body: Vec<u8>,
}

impl Handshake {
    /// The handshake of a fresh connection with the NULL mechanism.
    ///
    /// # Panics
    /// When the local routing id is longer than 255 bytes; the socket option must refuse such an id.
    #[must_use]
    pub fn new(local: LocalPeer) -> Self {
        assert!(local.routing_id.len() <= ROUTING_ID_BYTES_MAX);
        Self {
            mechanism: Mechanism::null(&local),
            local,
            greeting_sent: false,
            refusal: None,
            state: State::Greeting(GreetingReader::new()),
        }
    }

    /// Appends the bytes to send now to `out`; returns whether there were any.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        if !self.greeting_sent {
            self.greeting_sent = true;
            out.extend_from_slice(&encode_greeting(self.mechanism.name()));
        }
        match &self.state {
            State::Greeting(_) => {}
            State::Mechanism { .. } | State::Established => {
                while self.mechanism.poll_transmit(out) {}
            }
            State::Failed(_) => {
                if let Some(reason) = self.refusal.take() {
                    encode_error(out, &reason);
                }
            }
        }
        out.len() > before
    }

    /// Takes received bytes in pieces of any size. Returns how many were consumed: all of them, unless the handshake is
    /// now established.
    ///
    /// # Errors
    /// The peer's violation, and the same again from every later call. If the peer's metadata was refused,
    /// [`poll_transmit`](Self::poll_transmit) then yields an ERROR command with the reason; send it before closing the
    /// connection.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(usize, Progress), Violation> {
        self.advance(input).inspect_err(|violation| {
            self.state = State::Failed(violation.clone());
        })
    }

    fn advance(&mut self, input: &[u8]) -> Result<(usize, Progress), Violation> {
        let mut at = 0;
        if let State::Greeting(reader) = &mut self.state {
            let (consumed, complete) = reader.handle_input(input, self.mechanism.name())?;
            at = consumed;
            let Some(minor) = complete else {
                return Ok((at, Progress::NeedMore));
            };
            self.state = State::Mechanism {
                minor,
                decoder: Decoder::new(HANDSHAKE_COMMAND_BYTES_MAX as u64),
                partial: None,
            };
        }
        match &mut self.state {
            State::Mechanism { minor, decoder, partial } => {
                let minor = *minor;
                match handle_mechanism(&mut self.mechanism, decoder, partial, input, &mut at)? {
                    Some(outcome) => self.conclude(outcome, minor, at),
                    None => Ok((at, Progress::NeedMore)),
                }
            }
            State::Failed(violation) => Err(violation.clone()),
            State::Established | State::Greeting(_) => {
                debug_assert!(false, "the handshake is over");
                Ok((0, Progress::NeedMore))
            }
        }
    }

    fn conclude(
        &mut self,
        outcome: Outcome,
        minor: u8,
        consumed: usize,
    ) -> Result<(usize, Progress), Violation> {
        let Outcome::Metadata(properties) = outcome;
        let peer = check_metadata(&self.local, properties, minor)
            .inspect_err(|violation| self.refusal = Some(violation.to_string()))?;
        self.state = State::Established;
        Ok((consumed, Progress::Established(Box::new(peer))))
    }
}

/// Feeds one command to the mechanism; `None` when the input ends inside the command.
fn handle_mechanism(
    mechanism: &mut Mechanism,
    decoder: &mut Decoder,
    partial: &mut Option<PartialBody>,
    input: &[u8],
    at: &mut usize,
) -> Result<Option<Outcome>, Violation> {
    if let Some(mut command) = partial.take() {
        let missing = command.body_bytes - command.body.len();
        let taken = missing.min(input.len() - *at);
        command.body.extend_from_slice(&input[*at..][..taken]);
        *at += taken;
        if taken < missing {
            *partial = Some(command);
            return Ok(None);
        }
        return mechanism.handle_command(&command.body).map(Some);
    }
    match decoder.next(input, at)? {
        Step::Frame { flags, body } => {
            expect_command(flags)?;
            mechanism.handle_command(&input[body]).map(Some)
        }
        Step::Partial { flags, body_bytes, have } => {
            expect_command(flags)?;
            *partial =
                Some(PartialBody { body_bytes: body_bytes as usize, body: input[have].to_vec() });
            Ok(None)
        }
        Step::Starved => Ok(None),
    }
}

fn expect_command(flags: FrameFlags) -> Result<(), Violation> {
    if flags.command() { Ok(()) } else { Err(Violation::MessageInHandshake) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket_type::SocketType;
    use crate::wire::{Command, GREETING_BYTES};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn peer(socket_type: SocketType, routing_id: &[u8]) -> Handshake {
        Handshake::new(LocalPeer { socket_type, routing_id: routing_id.to_vec() })
    }

    fn transmitted(handshake: &mut Handshake) -> Vec<u8> {
        let mut out = Vec::new();
        handshake.poll_transmit(&mut out);
        out
    }

    /// All bytes that a peer of this type sends before traffic: greeting and READY.
    fn script(socket_type: SocketType, routing_id: &[u8], minor: u8) -> Vec<u8> {
        let mut sender = peer(socket_type, routing_id);
        let mut bytes = transmitted(&mut sender);
        sender.handle_input(&bytes.clone()).unwrap();
        bytes.extend(transmitted(&mut sender));
        bytes[11] = minor;
        bytes
    }

    #[test]
    fn the_whole_greeting_goes_out_first_and_ready_follows_the_peers() {
        let mut req = peer(SocketType::Req, b"me");
        let greeting = transmitted(&mut req);
        assert_eq!(greeting.len(), GREETING_BYTES);
        assert_eq!(transmitted(&mut req), b"");
        assert_eq!(req.handle_input(&greeting[..63]), Ok((63, Progress::NeedMore)));
        assert_eq!(transmitted(&mut req), b"");
        assert_eq!(req.handle_input(&greeting[63..]), Ok((1, Progress::NeedMore)));
        let ready = b"\x04\x28\x05READY\x0bSocket-Type\0\0\0\x03REQ\x08Identity\0\0\0\x02me";
        assert_eq!(transmitted(&mut req), ready);
        assert_eq!(transmitted(&mut req), b"");
    }

    #[test]
    fn traffic_behind_ready_is_left_to_the_decoder() {
        let mut input = script(SocketType::Push, b"", 0);
        let handshake_bytes = input.len();
        input.extend(b"\x00\x01a");
        let mut pull = peer(SocketType::Pull, b"");
        let (consumed, progress) = pull.handle_input(&input).unwrap();
        assert_eq!(consumed, handshake_bytes);
        let Progress::Established(info) = progress else {
            panic!("not established");
        };
        assert_eq!((info.socket_type, info.minor), (SocketType::Push, 0));
        // Greeting and READY are still sent, in this order.
        let sent = transmitted(&mut pull);
        assert_eq!(sent[0], 0xFF);
        assert_eq!(&sent[GREETING_BYTES..][2..8], b"\x05READY");
    }

    #[test]
    fn refused_metadata_is_answered_with_an_error_once() {
        let mut pull = peer(SocketType::Pull, b"");
        let refused = pull.handle_input(&script(SocketType::Req, b"", 1));
        let incompatible =
            Violation::SocketTypeIncompatible { ours: SocketType::Pull, theirs: SocketType::Req };
        assert_eq!(refused, Err(incompatible.clone()));
        let sent = transmitted(&mut pull);
        let body = &sent[GREETING_BYTES + 2..];
        let reason = b"a PULL socket cannot talk to a REQ socket";
        assert_eq!(Command::parse(body), Ok(Command::Error { reason }));
        assert_eq!(transmitted(&mut pull), b"");
        assert_eq!(pull.handle_input(b"more"), Err(incompatible));
    }

    #[test]
    fn garbage_is_not_answered() {
        let mut pull = peer(SocketType::Pull, b"");
        transmitted(&mut pull);
        let bad = Violation::BadSignature { offset: 0, found: b'G' };
        assert_eq!(pull.handle_input(b"GET / HTTP/1.1\r\n"), Err(bad));
        assert_eq!(transmitted(&mut pull), b"");
    }

    fn after_greeting(bytes: &[u8]) -> Result<(usize, Progress), Violation> {
        let mut rep = peer(SocketType::Rep, b"");
        let greeting = transmitted(&mut rep);
        rep.handle_input(&greeting).unwrap();
        rep.handle_input(bytes)
    }

    #[test]
    fn what_may_not_stand_in_a_handshake() {
        assert_eq!(after_greeting(b"\x00\x01a"), Err(Violation::MessageInHandshake));
        assert_eq!(after_greeting(b"\x00\x01"), Err(Violation::MessageInHandshake));
        let unexpected = |name: &str| Err(Violation::CommandUnexpected { name: name.into() });
        assert_eq!(after_greeting(b"\x04\x07\x04PING\0\0"), unexpected("PING"));
        assert_eq!(after_greeting(b"\x04\x06\x05HELLO"), unexpected("HELLO"));
        assert_eq!(after_greeting(b"\x04\x00"), Err(Violation::CommandNameMissing));
        let too_large = Violation::FrameTooLarge { announced: 8193, max: 8192 };
        assert_eq!(after_greeting(b"\x06\0\0\0\0\0\0\x20\x01"), Err(too_large));
    }

    #[test]
    fn the_peers_error_is_carried() {
        let refused = |reason: &str| {
            let reason = reason.into();
            Err(Violation::PeerError { reason })
        };
        assert_eq!(after_greeting(b"\x04\x0a\x05ERROR\x03400"), refused("400"));
        assert_eq!(after_greeting(b"\x04\x07\x05ERROR\x00"), refused(""));
    }

    #[test]
    fn a_ready_in_the_long_form_is_accepted() {
        let ready = b"\x06\0\0\0\0\0\0\0\x19\x05READY\x0bSocket-Type\0\0\0\x03REQ";
        assert!(matches!(after_greeting(ready), Ok((34, Progress::Established(_)))));
    }

    #[test]
    fn any_truncation_waits() {
        let bytes = script(SocketType::Dealer, &[b'i'; 255], 1);
        for cut in 0..bytes.len() {
            let mut router = peer(SocketType::Router, b"");
            let waiting = Ok((cut, Progress::NeedMore));
            assert_eq!(router.handle_input(&bytes[..cut]), waiting, "{cut}");
        }
    }

    /// Runs two peers against each other; each step moves at most the given number of bytes.
    fn run(a: &mut Handshake, b: &mut Handshake, sizes: &[usize]) -> (PeerInfo, PeerInfo) {
        let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
        let (mut a_done, mut b_done) = (None, None);
        for &size in sizes.iter().cycle().take(10_000) {
            a.poll_transmit(&mut to_b);
            b.poll_transmit(&mut to_a);
            for (side, inbox, done) in
                [(&mut *a, &mut to_a, &mut a_done), (&mut *b, &mut to_b, &mut b_done)]
            {
                let chunk = size.min(inbox.len());
                if done.is_none() && chunk > 0 {
                    let (consumed, progress) = side.handle_input(&inbox[..chunk]).unwrap();
                    inbox.drain(..consumed);
                    if let Progress::Established(info) = progress {
                        *done = Some(*info);
                    }
                }
            }
            if a_done.is_some() && b_done.is_some() {
                break;
            }
        }
        assert!(to_a.is_empty() && to_b.is_empty());
        (a_done.unwrap(), b_done.unwrap())
    }

    proptest! {
        #[test]
        fn both_sides_agree_under_any_fragmentation(
            sizes in vec(1usize..200, 1..8),
            routing_id in vec(any::<u8>(), 0..=255),
        ) {
            let mut dealer = peer(SocketType::Dealer, &routing_id);
            let mut router = peer(SocketType::Router, b"");
            let (router_info, dealer_info) = run(&mut dealer, &mut router, &sizes);
            prop_assert_eq!(router_info.socket_type, SocketType::Router);
            prop_assert_eq!(dealer_info.routing_id, routing_id);
            prop_assert_eq!(dealer_info.minor, 1);
        }

        #[test]
        fn garbage_never_panics(
            commands in vec(any::<u8>(), 0..200),
            genuine_bytes in 0usize..120,
            sizes in vec(1usize..64, 1..4),
        ) {
            let mut bytes = script(SocketType::Req, b"id", 1);
            bytes.truncate(genuine_bytes);
            bytes.extend(commands);
            let mut rep = peer(SocketType::Rep, b"");
            let mut at = 0;
            for &size in sizes.iter().cycle() {
                let chunk = &bytes[at..(at + size).min(bytes.len())];
                match rep.handle_input(chunk) {
                    Ok((consumed, Progress::NeedMore)) => {
                        prop_assert_eq!(consumed, chunk.len());
                        at += consumed;
                    }
                    Ok((_, Progress::Established(_))) | Err(_) => break,
                }
                transmitted(&mut rep);
                if at == bytes.len() {
                    break;
                }
            }
        }
    }
}
