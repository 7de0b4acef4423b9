"""An echo for the soak test: PULLs numbered messages and PUSHes each back, until told nothing more comes (an empty one)."""

import zmq
from peerlib import arguments, flag, opened, say

args = arguments(flag("--back", required=True))
context = zmq.Context()
source = opened(context, zmq.PULL, args)
back = context.socket(zmq.PUSH)
back.linger = 10_000
back.connect(args.back)
say("ready")
count = 0
while True:
    frames = source.recv_multipart(copy=False)
    if len(frames) == 1 and not len(frames[0]):
        break
    back.send_multipart(frames, copy=False)
    count += 1
source.close()
back.close()
context.term()
say("done", count)
