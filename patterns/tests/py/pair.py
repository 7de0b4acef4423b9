"""A PAIR: takes the whole plan in order, and sends each message back."""

import zmq
from peerlib import PLANS, arguments, check, flag, message, opened, say

args = arguments(flag("--plan", default="sizes"))
context = zmq.Context()
socket = opened(context, zmq.PAIR, args)
say("ready")
sizes = PLANS[args.plan]
for number in range(len(sizes)):
    got = socket.recv_multipart()
    check(got, message(number, sizes[number]), f"message {number}")
    socket.send_multipart(got)
assert not socket.poll(50), "something came after the end"
socket.close()
context.term()
say("done", len(sizes))
