"""A PUB or XPUB over several topics.

Ticks the topic `sync` until the test says `go`: by then the subscriber has seen a
tick, so all it subscribed to before `sync` is in place. Then sends each message of
the plan once under every topic, and `END` last.
"""

import select
import sys

import zmq
from peerlib import arguments, flag, opened, plan, say, told

args = arguments(
    flag("--plan", default="sizes"),
    flag("--topics", default="10001,10002,2"),
    flag("--xpub", action="store_true"),
    flag("--expect", default="", type=str),
)
context = zmq.Context()
socket = opened(context, zmq.XPUB if args.xpub else zmq.PUB, args, sndhwm=0)
say("ready")
if args.xpub:
    wanted = set(filter(None, args.expect.split(",")))
    seen = set()
    while seen != wanted:
        note = socket.recv()
        (seen.add if note[0] == 1 else seen.discard)(note[1:].decode())
    say("subscribed", ",".join(sorted(seen)))
else:
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        socket.send(b"sync")
told("go")
topics = [topic.encode() for topic in args.topics.split(",")]
count = 0
for want in plan(args.plan):
    for topic in topics:
        socket.send_multipart([topic, *want])
        count += 1
socket.send(b"END")
if args.xpub:
    # The subscriber gives everything back up when it leaves.
    told("leave")
    while seen:
        note = socket.recv()
        (seen.add if note[0] == 1 else seen.discard)(note[1:].decode())
say("done", count)
socket.close()
context.term()
