"""The weather server: publishes `zip temperature humidity` until told to stop."""

import select
import sys

import zmq
from peerlib import arguments, opened, say, told

args = arguments()
context = zmq.Context()
socket = opened(context, zmq.PUB, args)
say("ready")
tick = 0
while not select.select([sys.stdin], [], [], 0.0005)[0]:
    for code in range(10000, 10050):
        socket.send_string(f"{code} {tick % 215 - 80} {tick % 50 + 10}")
        tick += 1
told("stop")
socket.close(0)
context.term()
say("done", tick)
