"""The classic: a REQ sends a 1 MiB float64 array and wants b"SUCCESS" back."""

import numpy as np
import zmq
from peerlib import arguments, body, opened, say

args = arguments()
context = zmq.Context()
socket = opened(context, zmq.REQ, args)
say("ready")
for seed in range(3):
    # Only 32 bits of each number are random: every one is then an ordinary, exact float.
    array = np.frombuffer(body(seed, 4 * 131072), dtype="<u4").astype(np.float64)
    assert array.nbytes == 1 << 20
    socket.send(array, copy=False)
    assert socket.recv() == b"SUCCESS"
socket.close()
context.term()
say("done", 3)
