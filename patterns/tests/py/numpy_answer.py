"""The classic, turned round: a REP compares the array it receives with its own."""

import numpy as np
import zmq
from peerlib import arguments, body, opened, say

args = arguments()
context = zmq.Context()
socket = opened(context, zmq.REP, args)
say("ready")
for seed in range(3):
    want = np.frombuffer(body(seed, 4 * 131072), dtype="<u4").astype(np.float64)
    got = np.frombuffer(socket.recv(copy=False), dtype=np.float64)
    socket.send(b"SUCCESS" if np.array_equal(got, want) else b"FAILURE")
socket.close()
context.term()
say("done", 3)
