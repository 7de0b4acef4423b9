"""Sends 1 MiB arrays of float64 with a header that says dtype and shape, and wants every number back doubled."""

import numpy as np
import zmq
from peerlib import arguments, body, flag, opened, say

args = arguments(flag("--rounds", type=int, default=10))
context = zmq.Context()
socket = opened(context, zmq.REQ, args)
say("ready")
for seed in range(args.rounds):
    array = np.frombuffer(body(seed, 4 * 131072), dtype="<u4").astype(np.float64).reshape(256, 512)
    socket.send_json({"dtype": str(array.dtype), "shape": array.shape}, zmq.SNDMORE)
    socket.send(array, copy=False)
    header, got = socket.recv_json(), socket.recv(copy=False)
    got = np.frombuffer(got, dtype=header["dtype"]).reshape(header["shape"])
    assert np.array_equal(got.ravel(), 2 * array.ravel()), f"reply {seed} is not twice what was sent"
    assert not socket.get(zmq.RCVMORE), f"reply {seed} has more than two frames"
socket.close()
context.term()
say("done", args.rounds)
