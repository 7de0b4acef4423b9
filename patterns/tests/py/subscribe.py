"""A SUB or XSUB: wants each message of the plan under every topic it chose, in order, and none besides."""

import zmq
from peerlib import arguments, check, flag, opened, plan, say

args = arguments(
    flag("--plan", default="sizes"),
    flag("--topics", default="10001,10002,2"),
    flag("--choose", default="10001,2"),
    flag("--publishers", type=int, default=1),
    flag("--xsub", action="store_true"),
)
context = zmq.Context()
socket = opened(context, zmq.XSUB if args.xsub else zmq.SUB, args, rcvhwm=0)
chosen = [topic.encode() for topic in args.choose.split(",")]
for prefix in [*chosen, b"END"]:
    if args.xsub:
        socket.send(b"\1" + prefix)
    else:
        socket.subscribe(prefix)
say("ready")
topics = [topic.encode() for topic in args.topics.split(",") if topic.encode().startswith(tuple(chosen))]
count = 0
for want in plan(args.plan):
    for topic in topics:
        got = socket.recv_multipart()
        assert got[0] == topic, f"topic {got[0][:20]!r}, wanted {topic!r}"
        check(got[1:], want, f"message {count}")
        count += 1
assert socket.recv_multipart() == [b"END"]
assert not socket.poll(50), "something came after the end"
socket.close()
context.term()
say("done", count)
