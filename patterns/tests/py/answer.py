"""Answers every request of a plan with itself: a REP, or a ROUTER that keeps the envelope."""

import zmq
from peerlib import arguments, check, flag, opened, plan, say

args = arguments(flag("--plan", default="sizes"), flag("--router", action="store_true"), flag("--repeat", type=int, default=1))
context = zmq.Context()
socket = opened(context, zmq.ROUTER if args.router else zmq.REP, args, sndhwm=0, rcvhwm=0)
say("ready")
count = 0
for _ in range(args.repeat):
    for want in plan(args.plan):
        got = socket.recv_multipart()
        envelope = []
        if args.router:
            assert got[1] == b"", "a request lacks its empty delimiter"
            envelope, got = got[:2], got[2:]
        check(got, want, f"request {count}")
        socket.send_multipart(envelope + got, copy=False)
        count += 1
socket.close()
context.term()
say("done", count)
