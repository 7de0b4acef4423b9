"""The sink: a PULL wants the whole plan; in order, or (numbered) in any order but each once."""

import zmq
from peerlib import PLANS, arguments, check, flag, message, opened, say

args = arguments(flag("--plan", default="sizes"), flag("--numbered", action="store_true"))
context = zmq.Context()
socket = opened(context, zmq.PULL, args)
say("ready")
sizes = PLANS[args.plan]
seen = set()
for number in range(len(sizes)):
    got = socket.recv_multipart()
    if args.numbered:
        number, got = int.from_bytes(got[0], "little"), got[1:]
    assert number not in seen, f"message {number} came twice"
    seen.add(number)
    check(got, message(number, sizes[number]), f"message {number}")
assert not socket.poll(50), "something came after the end"
socket.close()
context.term()
say("done", len(seen))
