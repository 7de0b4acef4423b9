"""A PULL that says each number (the first 8 bytes, little endian) it received, until killed or told N."""

import zmq
from peerlib import arguments, flag, opened, say

args = arguments(flag("--until", type=int, default=-1), flag("--stop-reading-after", type=int, default=-1))
context = zmq.Context()
socket = opened(context, zmq.PULL, args, rcvhwm=1)
say("ready")
count = 0
while True:
    number = int.from_bytes(socket.recv()[:8], "little")
    say("got", number)
    count += 1
    if number == args.until:
        break
    if count == args.stop_reading_after:
        say("full")
        import time

        time.sleep(600)
socket.close(0)
context.term()
say("done", count)
