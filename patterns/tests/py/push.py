"""The ventilator: a PUSH sends the plan, each message with its number in front."""

import zmq
from peerlib import arguments, flag, opened, plan, say, told

args = arguments(flag("--plan", default="sizes"), flag("--numbered", action="store_true"), flag("--wait", action="store_true"))
context = zmq.Context()
socket = opened(context, zmq.PUSH, args)
say("ready")
if args.wait:
    told("go")
count = 0
for number, frames in enumerate(plan(args.plan)):
    head = [number.to_bytes(4, "little")] if args.numbered else []
    socket.send_multipart([*head, *frames])
    count += 1
say("sent", count)
socket.close()
context.term()
say("done", count)
