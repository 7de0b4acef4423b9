"""Asks every request of a plan and wants it back unchanged: a REQ, or a DEALER that asks ahead."""

import zmq
from peerlib import arguments, check, flag, opened, plan, say

args = arguments(flag("--plan", default="sizes"), flag("--dealer", action="store_true"))
context = zmq.Context()
kind = zmq.DEALER if args.dealer else zmq.REQ
socket = opened(context, kind, args, sndhwm=0, rcvhwm=0)
say("ready")
count = 0
if args.dealer:
    # All at once: the REP must take them one after the other and keep their order.
    for request in plan(args.plan):
        socket.send_multipart([b"", *request])
    for want in plan(args.plan):
        got = socket.recv_multipart()
        assert got[0] == b"", "a reply lacks its empty delimiter"
        check(got[1:], want, f"reply {count}")
        count += 1
else:
    for request in plan(args.plan):
        socket.send_multipart(request, copy=False)
        check(socket.recv_multipart(), request, f"reply {count}")
        count += 1
socket.close()
context.term()
say("done", count)
