"""A peer with heartbeats that is idle for a while, and reports what its monitor saw.

Says `up` at the end of its handshake and `down` whenever it loses a connection. At
`check` on standard input it sends (PUSH) or wants (PULL) one message and ends.
"""

import sys

import zmq
from peerlib import arguments, flag, opened, say, told
from zmq.utils.monitor import recv_monitor_message

args = arguments(
    flag("--kind", choices=["PUSH", "PULL"], default="PUSH"),
    flag("--ivl-ms", type=int, default=0),
    flag("--timeout-ms", type=int, default=0),
    flag("--ttl-ms", type=int, default=0),
)
context = zmq.Context()
socket = context.socket(getattr(zmq, args.kind))
monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
socket.linger = 1000
if args.ivl_ms:
    socket.heartbeat_ivl = args.ivl_ms
    socket.heartbeat_timeout = args.timeout_ms
    socket.heartbeat_ttl = args.ttl_ms
if args.bind:
    socket.bind(args.bind)
    say("endpoint", socket.last_endpoint.rstrip(b"\0").decode())
for endpoint in args.connect:
    socket.connect(endpoint)
say("ready")
poller = zmq.Poller()
poller.register(monitor, zmq.POLLIN)
poller.register(sys.stdin.fileno(), zmq.POLLIN)
while True:
    events = dict(poller.poll())
    if monitor in events:
        seen = recv_monitor_message(monitor)["event"]
        say("up" if seen == zmq.EVENT_HANDSHAKE_SUCCEEDED else "down")
    if sys.stdin.fileno() in events:
        break
told("check")
if args.kind == "PUSH":
    socket.send(b"still here")
else:
    assert socket.recv() == b"still here"
socket.disable_monitor()
monitor.close()
socket.close()
context.term()
say("done")
