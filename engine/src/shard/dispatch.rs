//! Translates the driver's completions into calls of the handler.

use std::io;

use super::Shard;
use crate::{
    conn::{ConnId, ListenerId, Receive},
    driver::{Completion, Direct, Driver, Received, Token},
    handler::{Handler, ReceiveEnd},
    sys::{OwnedSocket, code::is_canceled},
};

impl Shard {
    pub(super) fn dispatch(&mut self, handler: &mut impl Handler, completion: Completion) {
        match completion {
            Completion::Received { token, received, more } => {
                self.dispatch_received(handler, token, received, more);
            }
            Completion::Sent { token, gather, bytes, error } => {
                let (id, conn) = self.by_token(token);
                conn.send = None;
                self.note_quiet(id);
                handler.on_sent(self, id, gather, bytes, error);
            }
            Completion::ReceivedDirect { token, direct, result } => {
                self.dispatch_direct(handler, token, direct, result);
            }
            Completion::Readable { token, result } => {
                self.dispatch_readable(handler, token, result);
            }
            Completion::Accepted { token, result, more } => {
                self.dispatch_accepted(handler, token, result, more);
            }
            Completion::Connected { token, result } => {
                let (id, conn) = self.by_token(token);
                conn.setup = None;
                let closing = conn.closing;
                self.note_quiet(id);
                if !closing {
                    handler.on_connected(self, id, result);
                }
            }
            Completion::Woken => {}
        }
    }

    pub(super) fn dispatch_received(
        &mut self,
        handler: &mut impl Handler,
        token: Token,
        received: Received,
        more: bool,
    ) {
        let (id, conn) = self.by_token(token);
        let closing = conn.closing;
        let stopping = matches!(conn.receive, Receive::Ring { stopping: true, .. });
        let end = match received {
            Received::Bytes(chunk) => {
                if closing {
                    self.pool.release(chunk);
                } else {
                    self.stats.bytes_in += chunk.len() as u64;
                    handler.on_received(self, id, chunk);
                }
                if !more {
                    self.end_received(handler, id);
                }
                return;
            }
            Received::NoBuffer if !stopping && !closing => {
                self.note_starved(id);
                return;
            }
            Received::NoBuffer => ReceiveEnd::Stopped,
            Received::Failed(error) if is_canceled(&error) => ReceiveEnd::Stopped,
            Received::Failed(error) => ReceiveEnd::Failed(error),
            Received::End => ReceiveEnd::Closed,
        };
        debug_assert!(!more, "a receive ends once");
        conn.receive = Receive::Idle;
        self.note_quiet(id);
        if !closing {
            handler.on_receive_end(self, id, None, end);
        }
    }

    /// A receive ended with the bytes just handled. The handler regards it as armed until now, so the receive starts
    /// again, unless the handler asked for its end meanwhile.
    #[cold]
    pub(super) fn end_received(&mut self, handler: &mut impl Handler, id: ConnId) {
        let conn = &mut self.conns[id.index()];
        let stopping = matches!(conn.receive, Receive::Ring { stopping: true, .. });
        conn.receive = Receive::Idle;
        if conn.closing {
            self.note_quiet(id);
        } else if stopping {
            handler.on_receive_end(self, id, None, ReceiveEnd::Stopped);
        } else {
            self.receive_ring(id);
        }
    }

    pub(super) fn dispatch_direct(
        &mut self,
        handler: &mut impl Handler,
        token: Token,
        direct: Direct,
        result: io::Result<usize>,
    ) {
        let (id, conn) = self.by_token(token);
        let closing = conn.closing;
        let stopping = matches!(conn.receive, Receive::Direct { stopping: true, .. });
        conn.receive = Receive::Idle;
        self.note_quiet(id);
        if closing {
            return;
        }
        let end = match result {
            Ok(0) => ReceiveEnd::Closed,
            Ok(bytes) => {
                self.stats.bytes_in += bytes as u64;
                handler.on_received_direct(self, id, direct);
                if stopping && !self.is_receiving(id) && self.is_open(id) {
                    handler.on_receive_end(self, id, None, ReceiveEnd::Stopped);
                }
                return;
            }
            Err(error) if is_canceled(&error) => ReceiveEnd::Stopped,
            Err(error) => ReceiveEnd::Failed(error),
        };
        handler.on_receive_end(self, id, Some(direct), end);
    }

    fn dispatch_readable(
        &mut self,
        handler: &mut impl Handler,
        token: Token,
        result: io::Result<()>,
    ) {
        let (id, conn) = self.by_token(token);
        let closing = conn.closing;
        let stopping = matches!(conn.receive, Receive::Awaiting { stopping: true, .. });
        conn.receive = Receive::Idle;
        self.note_quiet(id);
        if closing {
            return;
        }
        let end = match result {
            Ok(()) if !stopping => return handler.on_readable(self, id),
            Ok(()) => ReceiveEnd::Stopped,
            Err(error) if is_canceled(&error) => ReceiveEnd::Stopped,
            Err(error) => ReceiveEnd::Failed(error),
        };
        handler.on_receive_end(self, id, None, end);
    }

    pub(super) fn dispatch_accepted(
        &mut self,
        handler: &mut impl Handler,
        token: Token,
        result: io::Result<OwnedSocket>,
        more: bool,
    ) {
        let (id, conn) = self.by_token(token);
        let closing = conn.closing;
        if !more {
            conn.setup = None;
            self.note_quiet(id);
        }
        if closing {
            return;
        }
        match result {
            Ok(fd) => {
                let conn = self.insert(fd, false);
                handler.on_accepted(self, ListenerId(id), conn);
                if !more {
                    self.accept(ListenerId(id));
                }
            }
            Err(error) => handler.on_accept_failed(self, ListenerId(id), error, !more),
        }
    }

    pub(super) fn is_open(&mut self, id: ConnId) -> bool {
        self.find(id).is_some_and(|conn| !conn.closing)
    }

    /// A close, or the stop of a starved receive, needs no completion. The handler learns of it at the end of the turn.
    pub(super) fn note_ended(&mut self, id: ConnId) {
        self.quiet.push(id);
        if !self.is_turning && self.alarms_ns.is_some() {
            self.driver.waker().wake_by_ref();
        }
    }

    pub(super) fn note_quiet(&mut self, id: ConnId) {
        let conn = &self.conns[id.index()];
        if conn.closing && conn.is_quiet() {
            self.quiet.push(id);
        }
    }

    pub(super) fn finish_quiet(&mut self, handler: &mut impl Handler) -> usize {
        let mut finished = 0;
        while let Some(id) = self.quiet.pop() {
            let Some(conn) = self.find(id) else { continue };
            if !conn.closing {
                if conn.receive == (Receive::Starved { stopping: true }) {
                    conn.receive = Receive::Idle;
                    finished += 1;
                    handler.on_receive_end(self, id, None, ReceiveEnd::Stopped);
                }
                continue;
            }
            let conn = self.conns.remove(id.index());
            finished += 1;
            self.driver.close(conn.fd);
            if !conn.listener {
                handler.on_closed(self, id);
            }
        }
        finished
    }
}
